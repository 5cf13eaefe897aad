"""learning_curve: nested subsets, one test set, paired intervals, resuming, refusals."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from typer.testing import CliRunner

import brainenc
from brainenc import Transfer, learning_curve
from brainenc.benchmarking import curve_data
from brainenc.benchmarking.curve_data import subset, subset_betas, zscored
from brainenc.benchmarking.curve_tables import sampled_r, size_at
from brainenc.benchmarking.group_mean import GroupMean
from brainenc.cli import app
from brainenc.datasets import simulate_subjects

QUICK = {"n_bootstraps": 60, "n_draws": 2, "verbose": False}


@pytest.fixture(scope="module")
def subjects():
    return simulate_subjects(3, 160, 40, shared_images=40)


@pytest.fixture(scope="module")
def tokens(subjects):
    return {d.name: d.truth.tokens for d in subjects}


@pytest.fixture(scope="module")
def curve(subjects, tokens, tmp_path_factory):
    methods = {"adapted": Transfer(brainenc.RidgeEncoder(), "adapt")}
    out = tmp_path_factory.mktemp("curve") / "out"
    return learning_curve(subjects, methods, sizes=[20, 40, 80], features=tokens, out=out, **QUICK)


# ------------------------------------------------------------------ subsets


def test_larger_subsets_hold_the_smaller_ones_and_no_test_image(subjects):
    data = subjects[0]
    held_out = data.stimuli["shared"].to_numpy()
    small, large = (subset(data, held_out, n, "images", [0, 1]) for n in (20, 50))
    assert set(small.rows) < set(large.rows)
    assert not held_out[large.rows].any()
    other = subset(data, held_out, 20, "images", [0, 2])
    assert set(other.rows) != set(small.rows)


def test_betas_are_zscored_inside_the_subset(subjects):
    data = subjects[0]
    held_out = data.stimuli["shared"].to_numpy()
    part = subset(data, held_out, 30, "images", [0, 0])
    betas = subset_betas(data.betas, part)
    np.testing.assert_allclose(np.nanmean(betas, (0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(np.nanstd(betas, (0, 1)), 1, atol=1e-5)
    # Trials outside the subset change nothing, whatever they are.
    changed = data.betas.copy()
    changed[np.setdiff1d(np.arange(160), part.rows)] *= 100
    other = brainenc.EncodingData(data.images, changed, data.voxels, data.trials)
    again = subset(other, held_out, 30, "images", [0, 0])
    np.testing.assert_array_equal(subset_betas(changed, again), betas)


def test_a_constant_voxel_and_one_without_data_stay_so():
    betas = np.ones((5, 2, 2), np.float32)
    betas[..., 1] = np.nan
    found = zscored(betas)
    assert (found[..., 0] == 0).all()
    assert np.isnan(found[..., 1]).all()


def test_sessions_are_the_trials_of_whole_sessions(subjects):
    data = subjects[0]
    held_out = data.stimuli["shared"].to_numpy()
    one, two = (subset(data, held_out, n, "sessions", [0, 0]) for n in (1, 2))
    trials = data.trials[~held_out[data.trials["image"]]]
    counts = trials["session"].value_counts()
    n_trials = [np.isfinite(subset_betas(data.betas, p)[..., 0]).sum() for p in (one, two)]
    assert n_trials[0] in counts.tolist()
    assert set(one.rows) <= set(two.rows)
    assert n_trials[1] > n_trials[0]


# ------------------------------------------------------------------ numbers


def test_r_of_bootstrap_samples_is_that_of_repeated_images():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 25, 3)) + 100  # far from 0: squares must not cancel
    y[3, 1] = np.nan
    x[:, 2] = 7
    counts = rng.multinomial(25, np.full(25, 1 / 25), size=4)
    found = sampled_r(x, y, counts)
    for b, of_sample in enumerate(counts):
        rows = np.repeat(np.arange(25), of_sample)
        assert found[b, 0] == pytest.approx(stats.pearsonr(x[rows, 0], y[rows, 0])[0], abs=1e-9)
        kept = rows[rows != 3]
        assert found[b, 1] == pytest.approx(stats.pearsonr(x[kept, 1], y[kept, 1])[0], abs=1e-9)
    assert np.isnan(found[:, 2]).all()


def test_what_a_value_is_worth():
    sizes, curve = np.array([10.0, 100.0, 1000.0]), np.array([0.1, 0.3, 0.2])
    assert size_at(sizes, curve, 0.1) == pytest.approx(10)
    assert size_at(sizes, curve, 0.2) == pytest.approx(np.sqrt(1000))
    assert np.isnan(size_at(sizes, curve, 0.31))
    assert np.isnan(size_at(sizes, curve, 0.09))


def test_one_point_is_a_fit_by_hand(curve, subjects, tokens):
    data = subjects[1]
    held_out = data.stimuli["shared"].to_numpy()
    part = subset(data, held_out, 40, "images", [0, 1])
    X = tokens[data.name]
    fitted = brainenc.RidgeEncoder().fit(X[part.rows], subset_betas(data.betas, part))
    prediction, targets = fitted.predict(X[held_out]), np.nanmean(data.betas[held_out], 1)
    r = [stats.pearsonr(p, t)[0] for p, t in zip(prediction.T, targets.T, strict=True)]
    row = curve.scores.query("encoder == 'ridge' and size == 40 and draw == 1 and roi == 'all'")
    row = row[row["subject"] == data.name].iloc[0]
    assert row["r"] == pytest.approx(np.mean(r), abs=1e-6)
    assert row["n_images"] == 40


def test_differences_are_paired_and_over_subjects(curve, subjects):
    whole = curve.scores[curve.scores["roi"] == "all"]
    table = whole.pivot_table(index=["subject", "draw"], columns=["encoder", "size"], values="r")
    expected = (table["adapted"][40] - table["ridge"][40]).groupby("subject").mean()
    row = curve.pairs.query("encoder_a == 'adapted' and size == 40").iloc[0]
    assert row["difference"] == pytest.approx(expected.mean())
    interval = stats.t.interval(0.95, 2, expected.mean(), stats.sem(expected))
    assert (row["low_subjects"], row["high_subjects"]) == pytest.approx(interval)
    assert row["n_positive"] == (expected > 0).sum()
    assert row["low"] < row["difference"] < row["high"]
    # Paired: narrower than the two intervals put together.
    own = curve.summary.query("size == 40").set_index("encoder")
    apart = np.hypot(*(own.loc[n, "high"] - own.loc[n, "low"] for n in ("adapted", "ridge")))
    assert row["high"] - row["low"] < apart


def test_sources_leave_out_the_tested_images(curve, subjects):
    assert set(curve.summary["encoder"]) == {"mean", "ridge", "ridge, prior", "adapted"}
    assert len(curve.warnings) == 6  # two sources of each of three subjects
    assert "40 images of simulated 2, alikeness 1 are tested in" in curve.warnings[0]
    assert set(curve.manifest["alikeness"].values()) == {1.0}
    assert (curve.scores["error"] == "").all()
    assert curve.summary["noise_ceiling"].between(0.3, 1).all()


def test_the_prior_is_worth_images(curve):
    gain = curve.pairs.query("encoder_a == 'ridge, prior'").set_index("size")["difference"]
    assert gain[20] > 0.02
    worth = curve.worth.query("encoder == 'ridge, prior' and size == 20").iloc[0]
    assert worth["worth"] > 25


# ------------------------------------------------------------------ files


def test_saved_resumed_and_shown(curve, subjects, tokens, tmp_path, monkeypatch):
    loaded = brainenc.LearningCurve.load(curve.save(tmp_path / "copy"))
    for name in ("scores", "summary", "pairs", "worth"):
        pd.testing.assert_frame_equal(
            getattr(loaded, name), getattr(curve, name), check_dtype=False
        )
    page = curve.to_html(tmp_path / "page.html").read_text("utf-8")
    for text in ("ridge, prior", "alikeness 1.0", "noise ceiling", "worth", "<svg"):
        assert text in page
    one, two = subjects[0], subjects[1].select(images=np.arange(40, 160))
    given = {"features": {one.name: tokens[one.name], two.name: two.truth.tokens}} | QUICK
    out, methods = tmp_path / "out", {"ridge": brainenc.RidgeEncoder()}
    first = learning_curve(one, methods, sizes=[20], sources=[two], out=out, **given)
    fits = []
    former = brainenc.RidgeEncoder.fit
    monkeypatch.setattr(
        brainenc.RidgeEncoder, "fit", lambda self, X, y: fits.append(len(X)) or former(self, X, y)
    )
    again = learning_curve(one, methods, sizes=[20, 30], sources=[two], out=out, **given)
    assert set(fits) == {30}  # what was fitted before is read
    kept = again.scores[again.scores["size"] == 20].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, first.scores)
    with pytest.raises(FileExistsError, match="a data set"):
        learning_curve(one, methods, sizes=[20], out=one.save(tmp_path / "s.brain"), **QUICK)


def test_the_command(subjects, tmp_path):
    one, two = subjects[0], subjects[1].select(images=np.arange(40, 160))
    paths = [str(d.save(tmp_path / f"{i}.brain")) for i, d in enumerate((one, two))]
    arguments = ["curve", paths[0], "--sources", paths[1], "--encoders", "ridge,adapt:ridge"]
    arguments += ["--features", "pixels", "--sizes", "20,40", "--n-draws", "1", "--quiet"]
    arguments += ["--n-bootstraps", "20", "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert "ridge, adapt" in found.output
    assert (tmp_path / "out" / "curve.html").exists()
    assert (tmp_path / "out" / "summary.csv").exists()


# ------------------------------------------------------------------ bad input


def test_a_fit_that_fails_is_named_and_the_others_finish(subjects, tokens):
    class Fails(brainenc.RidgeEncoder):
        def _fit(self, features, betas):
            if len(betas) > 30:
                raise ValueError("too many")
            return super()._fit(features, betas)

    with pytest.warns(RuntimeWarning, match="fails, 40 images of simulated 1.*: too many"):
        found = learning_curve(
            subjects[0], {"fails": Fails()}, sizes=[20, 40], features=tokens[subjects[0].name],
            **(QUICK | {"n_draws": 1}),
        )  # fmt: skip
    table = found.table()
    assert np.isfinite(table.loc["fails", 20])
    assert np.isnan(table.loc["fails", 40])
    assert np.isfinite(table.loc["ridge"]).all()


def test_what_cannot_be_is_refused(subjects, tokens):
    one, two, _ = subjects
    ridge = {"ridge": brainenc.RidgeEncoder()}
    given = {"features": tokens, "sizes": [20], **QUICK}
    with pytest.raises(ValueError, match=r"sizes has 121 images, and .* has 120 beside the test"):
        learning_curve(one, ridge, **(given | {"sizes": [20, 121]}))
    with pytest.raises(ValueError, match=r"sizes has 5 sessions, and .* has 4"):
        learning_curve(one, ridge, unit="sessions", **(given | {"sizes": [5]}))
    with pytest.raises(ValueError, match="holds 40 of the test images of simulated 1"):
        learning_curve(one, ridge, sources=[two], **given)
    with pytest.raises(ValueError, match="starts from other subjects, and there are none"):
        learning_curve(one, {"a": Transfer(brainenc.RidgeEncoder())}, **given)
    with pytest.raises(ValueError, match="its own source"):
        learning_curve(one, ridge, sources=[one], **given)
    with pytest.raises(ValueError, match="no array for simulated 2"):
        learning_curve(subjects, ridge, **(given | {"features": {one.name: tokens[one.name]}}))
    with pytest.raises(ValueError, match="must have 160 rows"):
        learning_curve(one, ridge, **(given | {"features": tokens[one.name][:9]}))
    with pytest.raises(ValueError, match="unit='runs'"):
        learning_curve(one, ridge, unit="runs", **given)
    with pytest.raises(TypeError, match="no parameter prior"):
        Transfer(brainenc.MindReaderEncoder(), "prior")
    with pytest.raises(TypeError, match="data must be EncodingData, got int"):
        learning_curve([3], ridge, **given)


def test_a_fitted_encoder_that_has_seen_test_images_is_refused(subjects, tokens):
    one, two, _ = subjects  # their first 40 images are the same, and tested
    given = {"features": tokens[one.name], "sizes": [20], **(QUICK | {"n_draws": 1})}
    X, held_out = tokens[two.name], two.stimuli["shared"].to_numpy()
    kept = ~held_out | (np.arange(160) < 7)
    seen = brainenc.RidgeEncoder().fit(X[kept], two.betas[kept])
    with pytest.raises(ValueError, match="'theirs' was fitted to 7 of the 40 test images of"):
        learning_curve(one, {"theirs": seen}, **given)
    fair = brainenc.RidgeEncoder().fit(X[~held_out], two.betas[~held_out])
    found = learning_curve(one, {"theirs": fair}, **given)
    assert np.isfinite(found.table().loc["theirs", 20])
    pixels = brainenc.RidgeEncoder(brainenc.PixelFeatures(size=4, verbose=False))
    seen = pixels.fit(two.images, two.betas)
    with pytest.raises(ValueError, match="'theirs' was fitted to 40 of the 40 test images"):
        learning_curve(one, {"theirs": seen}, **(given | {"features": None}))


def test_sizes_by_default_are_those_that_there_are(subjects):
    held_out = subjects[0].stimuli["shared"].to_numpy()
    assert curve_data.check_sizes(subjects[0], held_out, None, "images") == [25, 50, 100]
    assert curve_data.check_sizes(subjects[0], held_out, None, "sessions") == [1, 2, 3, 4]


def test_several_processes_give_the_same_curve(curve, subjects, tokens, tmp_path):
    """And an error in one of them is of that fit alone, in a run that goes on later."""
    names = [d.name for d in subjects[:2]]
    given = {"features": {name: tokens[name] for name in names}, "sizes": [20, 40]} | QUICK
    methods = {"adapted": brainenc.Transfer(brainenc.RidgeEncoder(), "adapt")}
    one = learning_curve(subjects[:2], methods, **given)
    two = learning_curve(subjects[:2], methods, n_jobs=2, out=tmp_path / "curve", **given)
    for name in ("scores", "summary", "pairs", "worth"):
        tables = (
            getattr(found, name).drop(columns="seconds", errors="ignore") for found in (one, two)
        )
        pd.testing.assert_frame_equal(*tables)
    files = sorted((tmp_path / "curve" / "fits").glob("*.npy"))
    assert len(files) == len(two.scores[two.scores["roi"] == "all"])


def test_features_of_images_are_computed_once_for_all_methods(subjects, monkeypatch):
    asked = []
    former = brainenc.PixelFeatures.transform
    monkeypatch.setattr(
        brainenc.PixelFeatures,
        "transform",
        lambda self, images: asked.append(len(images)) or former(self, images),
    )
    pixels = brainenc.PixelFeatures(size=4, verbose=False)
    ridge = brainenc.RidgeEncoder(pixels)
    methods = {"ridge": ridge, "adapted": brainenc.Transfer(ridge, "adapt")}
    learning_curve(subjects[:2], methods, sizes=[20], **QUICK)
    assert asked == [subjects[0].n_images, subjects[1].n_images]


def test_the_group_mean_is_the_mean_voxel_of_the_roi(subjects, tokens):
    methods = {"group": Transfer(brainenc.RidgeEncoder(), "group-mean")}
    given = {"features": tokens, **QUICK}
    found = learning_curve(subjects, methods, sizes=[20], **given)
    new, *others = subjects
    shared = new.stimuli["shared"].to_numpy()
    expected = np.zeros((shared.sum(), new.n_voxels))
    for other in others:
        rest = ~other.stimuli["shared"].to_numpy()
        for roi in set(new.voxels["roi"]):
            own = np.nanmean(other.betas[rest], 1)[:, other.voxels["roi"] == roi].mean(1)
            fit = brainenc.RidgeEncoder().fit(tokens[other.name][rest], own)
            of_roi = (new.voxels["roi"] == roi).to_numpy()
            expected[:, of_roi] += fit.predict(tokens[new.name][shared])[:, None]
    targets = np.nanmean(new.betas[shared], 1)
    r = stats.pearsonr(expected, targets, axis=0).statistic.mean()
    row = found.scores.query("encoder == 'group' and roi == 'all' and subject == @new.name")
    # Alphas of one column are chosen alone here, and beside other ROIs there.
    np.testing.assert_allclose(row["r"], r, atol=0.01)


def test_the_group_mean_is_over_the_voxels_that_have_data(subjects):
    """Half the voxels of an ROI lack an image, and all of them another."""
    source, X = subjects[0], subjects[0].truth.tokens
    roi = source.voxels["roi"].to_numpy(dtype=object)
    own = np.flatnonzero(roi == roi[0])
    betas = source.betas.copy()
    betas[3][:, own[: len(own) // 2]] = np.nan
    betas[5][:, own] = np.nan
    expected = np.nanmean(source.betas[:, :, own], axis=1).mean(axis=1)
    expected[3] = np.nanmean(source.betas[3][:, own[len(own) // 2 :]], axis=0).mean()
    expected[5] = np.nan
    learnt = []

    class Keeps(brainenc.RidgeEncoder):
        def _fit(self, features, betas):
            learnt.append(betas[:, 0].copy())
            return super()._fit(features, betas)

    data = brainenc.EncodingData(source.images, betas, source.voxels, source.trials)
    group = GroupMean.of(Keeps(), {"source": (data, X)})
    np.testing.assert_allclose(learnt[0][:, group.names.index(roi[0])], expected, rtol=1e-5)
    others = np.delete(np.arange(source.n_voxels), own)
    rest = np.nanmean(source.betas[5][:, others], axis=0).mean()
    assert learnt[0][5, 0] == pytest.approx(rest, rel=1e-5)  # the mean of all voxels


@pytest.mark.parametrize("as_parameter", [True, False])
def test_learned_features_are_kept_by_adapting(subjects, as_parameter):
    """The PCA of the source's images is that of the new subject, as with images by hand."""
    source, new = subjects[0].select(images=np.arange(40, 160)), subjects[1]
    pipeline = make_pipeline(brainenc.PixelFeatures(size=8, verbose=False), PCA(5, random_state=0))
    encoder = brainenc.RidgeEncoder(pipeline if as_parameter else None)
    given = {"sizes": [40], "features": None if as_parameter else pipeline}
    found = learning_curve(
        new, {"adapted": Transfer(encoder, "adapt")}, sources=[source], references=False,
        **(QUICK | {"n_draws": 1}), **given,
    )  # fmt: skip
    held_out = new.stimuli["shared"].to_numpy()
    part = subset(new, held_out, 40, "images", [0, 0])
    theirs = brainenc.RidgeEncoder(pipeline).fit(source.images, source.betas)
    own = theirs.adapt(new.images[part.rows], subset_betas(new.betas, part))
    prediction, targets = own.predict(new.images[held_out]), np.nanmean(new.betas[held_out], 1)
    r = stats.pearsonr(prediction, targets, axis=0).statistic.mean()
    row = found.scores.query("roi == 'all'").iloc[0]
    assert row["error"] == ""
    assert row["r"] == pytest.approx(r, abs=1e-5)
