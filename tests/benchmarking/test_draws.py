"""Draws in the benchmark: against the metrics by hand, known distributions and closed forms."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.pipeline import make_pipeline

import brainenc
from brainenc import metrics
from brainenc.benchmarking import (
    BenchmarkResult,
    draw_blocks,
    draw_plan,
    draw_sources,
    targets,
)
from brainenc.benchmarking.draw_kept import LARGE, read_kept
from brainenc.benchmarking.draw_sources import DrawSource, TrialResiduals, truth_source
from brainenc.benchmarking.pairs import Pair, run_pair
from brainenc.benchmarking.result import DRAW_TABLES, TABLES
from brainenc.benchmarking.split import make_split, trial_sd
from brainenc.encoders import BaseEncoder
from brainenc.metrics.noise_correlations import correlation_of
from brainenc.noise.gaussian import ResidualNoise

FEW = {"n_bootstraps": 100, "n_permutations": 9, "verbose": False, "check": False}
INDEPENDENT, RESAMPLED = "independent Gaussian residuals", "resampled residuals"


class Told(BaseEncoder):
    """Predicts its features; draws them plus Gaussian noise of the s.d. given."""

    sample_kind = "told"

    def __init__(self, features=None, *, noise_sd=1.0):
        self.features = features
        self.noise_sd = noise_sd

    def _fit(self, features, betas):
        return features

    def _predict(self, features):
        return features

    def sample(self, X, n=5, random_state=None):
        if self.noise_sd is None:
            raise RuntimeError("no more luck")
        rng = np.random.default_rng(random_state)
        return X + self.noise_sd * rng.standard_normal((n, *X.shape))


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(150, 40, session_drift=0, random_state=0)


@pytest.fixture(scope="module")
def result(data):
    encoders = {
        "mean": brainenc.MeanEncoder(),
        "ridge": brainenc.RidgeEncoder(),
        "narrow": Told(noise_sd=0.02),
    }
    features = {"ridge": data.truth.tokens, "narrow": data.truth.signal}
    return brainenc.benchmark(
        data, encoders, features=features, references=False, cv=3, n_draws=100, **FEW
    )


def rois_of_draws(result, encoder):
    rows = result.draws.query("encoder == @encoder and roi != 'all'")
    return rows.set_index("roi")


def whole(result):
    return result.draws[result.draws["roi"] == "all"].set_index("encoder")


# ---------------------------------------------------------------- one fold, by hand


@pytest.fixture
def fold():
    rng = np.random.default_rng(1)
    draws = (3 + rng.standard_normal((30, 11, 6))).astype(np.float32)
    betas = (3 + rng.standard_normal((11, 3, 6))).astype(np.float32)
    betas[2, 1] = np.nan
    betas[:, :, 5] = np.nan
    scale = np.array([1, 2, 3, 4, 5, np.nan], dtype=np.float32)
    return draws, betas, scale


@pytest.mark.parametrize("images_at_once", [1, 4, 100])
def test_kept_arrays_are_those_of_the_metrics(fold, monkeypatch, images_at_once):
    draws, betas, scale = fold
    monkeypatch.setattr(draw_blocks, "_BLOCK_VALUES", images_at_once * 30 * 6)
    plan = draw_plan.DrawPlan(30, 0, np.arange(5), np.array([0, 3, 4]), np.array([1]))
    noise = ResidualNoise(np.ones((1, 6)), np.full(6, 2.0))
    density = draw_sources._density_around(np.zeros((11, 6)), noise)
    source = DrawSource("", "given", lambda images, n, seed: draws[:, images], density)
    before = draws.copy()
    kept = draw_blocks.score_draws(source, betas, scale, plan, 0)
    np.testing.assert_array_equal(draws, before)
    close = {"rtol": 2e-4, "atol": 1e-5}  # float32
    np.testing.assert_allclose(kept["crps"], metrics.crps(draws, betas), **close)
    np.testing.assert_array_equal(kept["ranks"], metrics.trial_ranks(draws, betas))
    x, y = draws[..., :5] / scale[:5], betas[..., :5] / scale[:5]
    np.testing.assert_allclose(kept["energy"], metrics.energy_score(x, y), **close)
    pairs = metrics.random_pairs(np.array([0, 3, 4]))
    np.testing.assert_allclose(kept["variogram"], metrics.variogram_score(x, y, pairs), **close)
    variance, _ = metrics.variances(draws, betas)
    np.testing.assert_allclose(kept["draw_variance"] / 11, variance, **close)
    correlation = metrics.noise_correlation(np.moveaxis(draws, 0, 1))
    np.testing.assert_allclose(
        correlation_of(kept["cross_products"]),
        correlation[np.ix_([0, 3, 4], [0, 3, 4])],
        **close,
    )
    np.testing.assert_array_equal(kept["one_draw"], draws[0])
    np.testing.assert_allclose(kept["mean_draw"], draws.mean(0), **close)
    np.testing.assert_allclose(
        kept["quantiles"][:, 0, 2], np.quantile(draws[..., 1], 0.5, axis=0, method="nearest"),
        **close,
    )  # fmt: skip
    v = [0, 3, 4]
    wanted = metrics.log_score(noise.of_voxels(v).logpdf(betas[..., v]))
    np.testing.assert_allclose(kept["log_score"], wanted, **close)


def test_arrays_in_a_folder_are_those_in_memory(fold, tmp_path, monkeypatch):
    draws, betas, scale = fold
    monkeypatch.setattr(draw_blocks, "_BLOCK_VALUES", 4 * 30 * 6)
    plan = draw_plan.DrawPlan(30, 0, np.arange(5), np.array([0, 3, 4]), np.array([1]))
    source = DrawSource("", "given", lambda images, n, seed: draws[:, images])
    in_memory = draw_blocks.score_draws(source, betas, scale, plan, 0)
    draw_blocks.score_draws(source, betas, scale, plan, 0, tmp_path / "draws")
    kept = read_kept(tmp_path / "draws")
    assert kept.keys() == in_memory.keys()
    for name, array in in_memory.items():
        np.testing.assert_array_equal(kept[name], array, err_msg=name)
    assert all(isinstance(kept[name], np.memmap) for name in LARGE)


def test_draws_of_a_wrong_shape_are_refused(fold):
    draws, betas, scale = fold
    plan = draw_plan.DrawPlan(30, 0, np.arange(5), np.arange(3), np.arange(1))
    source = DrawSource("", "given", lambda images, n, seed: draws[:, images, :4])
    with pytest.raises(ValueError, match=r"sample gave shape \(30, 11, 4\), not \(30, 11, 6\)"):
        draw_blocks.score_draws(source, betas, scale, plan, 0)


def test_resampled_residuals_are_whole_trials_that_lack_nothing(fold):
    _, betas, _ = fold
    betas[4, 0, 2] = np.nan
    held_out = np.zeros((11, 6), dtype=np.float32)
    held_out[7] = np.nan
    draws = TrialResiduals(betas, held_out).sample((50, 3), 0)
    assert draws.shape == (50, 3, 6)
    assert np.isnan(draws[..., 5]).all()
    allowed = [betas[i, r, :5] for i in range(11) for r in range(3)]
    allowed = {a.tobytes() for i, a in enumerate(allowed) if i // 3 != 7 and np.isfinite(a).all()}
    found = {draw[:5].tobytes() for draw in draws.reshape(-1, 6)}
    assert found <= allowed
    assert len(found) == len(allowed)  # 150 draws from 28 trials: a miss has p < .15
    with pytest.raises(ValueError, match="fewer than two held-out trials"):
        TrialResiduals(betas, held_out * np.nan).sample((2, 2), 0)


def test_the_plan_takes_voxels_from_rois_in_proportion(data, monkeypatch):
    monkeypatch.setattr(draw_plan, "N_SUBSET", 20)
    betas = data.betas.copy()
    betas[3, 0, 7] = np.nan
    betas[:, :, 8] = 0 * betas[:, :, 8] + 1
    holed = brainenc.EncodingData(data.images, betas, data.voxels)
    folds = [(np.arange(100), np.arange(100, 150))]
    split = make_split(holed.betas, folds)
    plan = draw_plan.make_plan(holed, split, 10, 0)
    assert set(np.arange(40)) - set(plan.complete) == {7, 8}
    roi = data.voxels["roi"].to_numpy()
    assert len(set(plan.subset)) == 20
    taken = pd.Series(roi[plan.subset]).value_counts()
    there = pd.Series(roi[plan.complete]).value_counts()
    assert (abs(taken.reindex(there.index, fill_value=0) - there * 20 / 38) <= 1).all()
    changes = (roi[plan.subset][1:] != roi[plan.subset][:-1]).sum()
    assert changes == len(taken) - 1  # ROI after ROI
    assert plan.key() == draw_plan.make_plan(holed, split, 10, 0).key()
    assert plan.key() != draw_plan.make_plan(holed, split, 10, 1).key()


@pytest.mark.parametrize("missing", ["", None, np.nan])
@pytest.mark.parametrize("dtype", ["str", "object", "category"])
def test_voxels_outside_every_roi_have_a_place_in_the_plan(data, missing, dtype):
    roi = data.voxels["roi"].astype(object)
    roi[::4] = missing
    outside = dataclasses.replace(data, voxels=pd.DataFrame({"roi": roi.astype(dtype)}))
    split = make_split(outside.betas, [(np.arange(100), np.arange(100, 150))])
    plan = draw_plan.make_plan(outside, split, 10, 0)
    assert set(plan.subset) == set(range(40))
    assert set(plan.subset[:10]) == set(range(0, 40, 4))  # as if they were a ROI of their own
    assert len(plan.shown) == roi.replace("", None).nunique() + 1


# ---------------------------------------------------------------- whole runs


def test_the_true_distribution_is_calibrated_and_nothing_beats_it(data, result):
    table = whole(result)
    names = ["mean", "ridge", f"ridge + {INDEPENDENT}", f"ridge + {RESAMPLED}", "narrow"]
    assert list(table.index) == [*names, "true distribution"]
    assert list(table["reference"]) == [False, False, True, True, False, True]
    truth = table.loc["true distribution"]
    # 443 trials; voxels share noise, so allow four s.e. of as many independent trials.
    assert truth["coverage_90"] == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 443))
    assert truth["coverage_50"] == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 443))
    assert truth["noise_correlation_truth_r"] > 0.99
    assert truth["variance_slope_low"] < 1 < truth["variance_slope_high"]
    assert truth["variance_slope_high"] - truth["variance_slope_low"] < 0.25
    assert truth["variance_r_high"] > 1  # as high as it can be; not clipped
    others = table.drop(index="true distribution")
    for score in ("crps", "crps_z", "energy", "variogram", "log_score"):
        assert (others[score].dropna() > truth[score]).all(), score
    sd = data.truth.noise_sd
    # CRPS of a Gaussian against itself is sd / √π; s.e. of the mean |error| below 2 %.
    assert truth["crps"] == pytest.approx(np.mean(sd) / np.sqrt(np.pi), rel=0.06)


def test_narrow_draws_are_called_out(result):
    narrow = whole(result).loc["narrow"]
    assert narrow["coverage_90"] < 0.2
    assert narrow["variance_ratio"] < 0.1
    assert any("narrow: 90 % intervals" in w and "vary too little" in w for w in result.warnings)
    assert not any("ridge: 90 %" in w for w in result.warnings)
    pit = result.calibration.query("encoder == 'narrow' and roi == 'all' and quantity == 'pit'")
    assert pit["value"].to_numpy()[[0, -1]].min() > 5  # ∪
    assert pit["value"].mean() == pytest.approx(1)
    ridge = result.calibration.query("encoder == 'ridge' and roi == 'all'")
    coverage = ridge[ridge["quantity"] == "coverage"]
    np.testing.assert_allclose(coverage["value"], coverage["position"], atol=0.06)
    nine = coverage.set_index("position").loc[0.9, "value"]
    assert nine == pytest.approx(whole(result).loc["ridge", "coverage_90"], abs=1e-3)


def test_tables_hold_the_scores_of_encoders_where_they_look_for_them(data, result):
    table, encoders = whole(result), result.encoders.set_index("encoder")
    assert list(encoders.index) == ["mean", "ridge", "narrow"]
    for column in ("crps", "crps_z_low", "energy", "coverage_90", "noise_correlation_r"):
        np.testing.assert_array_equal(encoders[column], table.loc[encoders.index, column])
    maps = result.maps[result.maps["encoder"] == "ridge"]
    assert maps["crps"].mean() == pytest.approx(table.loc["ridge", "crps"])
    ratio = (maps["draw_variance"] / maps["trial_variance"]).mean()
    assert table.loc["ridge", "variance_ratio"] == pytest.approx(ratio, rel=1e-5)
    slopes = rois_of_draws(result, "ridge")
    assert slopes["variance_slope_low"].notna().any()
    assert not set(result.rois) & {"noise_correlation_r", "noise_correlation_r_low"}
    rois = result.rois[result.rois["encoder"] == "ridge"].set_index("roi")
    for roi, voxels in data.rois().items():
        wanted = maps.set_index("voxel").loc[voxels, "coverage_90"].mean()
        assert rois.loc[roi, "coverage_90"] == pytest.approx(wanted)
    pair = result.draw_pairs.query("encoder_a == 'ridge' and encoder_b == 'true distribution'")
    pair = pair.set_index(["metric", "roi"])
    for metric in ("crps_z", "energy"):
        wanted = table.loc["ridge", metric] - table.loc["true distribution", metric]
        row = pair.loc[(metric, "all")]
        assert row["difference"] == pytest.approx(wanted, abs=1e-6)
        assert 0 < row["low"] < row["difference"] < row["high"]
    shown = result.shown_draws.query("encoder == 'ridge'")
    assert (shown["q05"] <= shown["q50"]).all()
    row = shown.iloc[7]
    np.testing.assert_array_equal(
        row[["trial_1", "trial_2"]].astype(float), data.betas[row["image"], :2, row["voxel"]]
    )
    noise = result.noise_correlations.query("encoder == 'ridge'")
    covariance = data.truth.noise_covariance()
    sd = np.sqrt(np.diag(covariance))
    a, b = noise["voxel_a"].to_numpy(), noise["voxel_b"].to_numpy()
    np.testing.assert_allclose(noise["truth"], covariance[a, b] / sd[a] / sd[b], rtol=1e-5)


def test_variances_and_noise_correlations_are_compared_fold_by_fold():
    rng = np.random.default_rng(6)
    sd = np.exp(0.5 * rng.standard_normal(20))
    X = rng.standard_normal((24, 20)).astype(np.float32)
    noise = rng.standard_normal((24, 3, 20)) + rng.standard_normal((24, 3, 1))
    betas = (X[:, None] + sd * noise).astype(np.float32)
    betas[5, 1:] = betas[7, :, 3] = np.nan
    data = brainenc.EncodingData(np.zeros((24, 8, 8), np.uint8), betas)
    folds = [
        (np.arange(8, 24), np.arange(8)), (np.arange(14), np.arange(14, 24)),
        (np.arange(8, 24), np.arange(5, 8)),  # images 5 … 7 are tested twice
    ]  # fmt: skip
    result = brainenc.benchmark(
        data, {"told": Told(noise_sd=1.5 * sd)}, features=X, references=False, cv=folds,
        n_draws=50, **FEW,
    )  # fmt: skip
    row = whole(result).loc["told"]

    plan = draw_plan.make_plan(data, make_split(betas, folds), 50, 0)
    source = DrawSource(
        "", "", lambda images, n, seed: Told(noise_sd=1.5 * sd).sample(test[images], n, seed)
    )
    drawn, measured, cross = [], [], 0
    for k, (train, rows) in enumerate(folds):
        test = X[rows]
        kept = draw_blocks.score_draws(source, betas[rows], trial_sd(betas, train), plan, k)
        drawn.append(kept["draw_variance"] / len(rows))
        around = np.square(betas[rows] - kept["mean_draw"][:, None])
        n_trials = np.isfinite(around).sum(axis=1)
        with np.errstate(invalid="ignore"):
            measured.append(np.nansum(around, axis=1) / n_trials - drawn[-1] / 50)
        cross = cross + kept["cross_products"]
    rows = np.concatenate([test for _, test in folds])
    wanted = metrics.variance_agreement(
        np.stack(drawn),
        np.concatenate(measured),
        folds=np.repeat([0, 1, 2], [8, 10, 3]),
        images=rows,
    )
    for name, estimate in {"variance_slope": wanted.slope, "variance_r": wanted.r}.items():
        found = row[[name, f"{name}_low", f"{name}_high"]].astype(float)
        np.testing.assert_allclose(found, np.array(estimate)[[0, 2, 3]], rtol=1e-4)
    assert row["variance_reliability"] == pytest.approx(wanted.reliability, rel=1e-4)
    assert wanted.slope.low < 1.5**2 / 2 < wanted.slope.high  # trials: own and shared noise
    agreement = metrics.agreement_with_repeats(
        correlation_of(cross), betas[rows][..., plan.subset], images=rows
    )
    found = row[[f"noise_correlation_r{end}" for end in ("", "_low", "_high")]].astype(float)
    np.testing.assert_allclose(found, np.array(agreement)[[0, 2, 3]], rtol=1e-6)


def test_k_fairness_of_known_signal_and_noise():
    rng = np.random.default_rng(3)
    n_images, n_voxels, noise_sd = 400, 30, 1.5
    signal = rng.standard_normal((n_images, n_voxels)).astype(np.float32)
    noise = noise_sd * rng.standard_normal((n_images, 3, n_voxels))
    data = brainenc.EncodingData(
        np.zeros((n_images, 8, 8), np.uint8), (signal[:, None] + noise).astype(np.float32)
    )
    result = brainenc.benchmark(
        data, {"true": Told(noise_sd=noise_sd)}, features=signal, references=False, cv=4,
        n_draws=20, **FEW,
    )  # fmt: skip
    table = result.k_fairness.set_index("average")
    assert list(table.index) == ["one draw", "mean of 20 draws", "prediction"]

    def reliability(n):
        return 1 / (1 + noise_sd**2 / n)

    for average, n in {"one draw": 1, "mean of 20 draws": 20, "prediction": np.inf}.items():
        row = table.loc[average]
        r = np.sqrt(reliability(3) * reliability(n))
        # 12 000 pairs in all: s.e. of the mean r is about .01.
        assert row["r"] == pytest.approx(r, abs=0.03), average
        assert row["noise_ceiling"] == pytest.approx(r, abs=0.03), average
        assert row["r_normalized"] == pytest.approx(1, abs=0.06), average
        assert row["mse_z"] == pytest.approx(row["mse_z_floor"], rel=0.05), average
        floor = noise_sd**2 * (1 / 3 + 1 / n) / (1 + noise_sd**2)
        assert row["mse_z_floor"] == pytest.approx(floor, rel=0.05), average


def test_shared_noise_is_seen_in_patterns_and_not_in_voxels():
    rng = np.random.default_rng(4)
    X = rng.standard_normal((300, 5)).astype(np.float32)
    noise = rng.standard_normal((300, 2, 25)) + 2 * rng.standard_normal((300, 2, 1))
    betas = (X @ rng.standard_normal((5, 25)))[:, None] + noise
    data = brainenc.EncodingData(np.zeros((300, 8, 8), np.uint8), betas.astype(np.float32))
    result = brainenc.benchmark(
        data, {"ridge": brainenc.RidgeEncoder()}, features=X, cv=3, n_draws=100, **FEW
    )
    table = whole(result)
    low_rank, independent = table.loc["ridge"], table.loc[f"ridge + {INDEPENDENT}"]
    assert independent["crps"] == pytest.approx(low_rank["crps"], rel=0.01)
    assert independent["coverage_90"] == pytest.approx(low_rank["coverage_90"], abs=0.01)
    pairs = result.draw_pairs.query(
        f"encoder_a == 'ridge' and encoder_b == 'ridge + {INDEPENDENT}'"
    )
    pairs = pairs.set_index("metric")
    for score in ("energy", "variogram", "log_score"):
        assert pairs.loc[score, "high"] < 0, score
    resampled = table.loc[f"ridge + {RESAMPLED}"]
    assert resampled["energy"] == pytest.approx(low_rank["energy"], rel=0.02)
    assert np.isnan(resampled["log_score"])
    assert "true distribution" not in table.index


def test_tables_do_not_depend_on_blocks_of_voxels(data, monkeypatch):
    betas = data.betas.copy()
    betas[5, :, 9] = np.nan
    betas[:, :, 11] = np.nan
    holed = brainenc.EncodingData(data.images, betas, data.voxels)
    run = {"features": data.truth.tokens, "cv": 3, "n_draws": 20} | FEW
    at_once = brainenc.benchmark(holed, {"ridge": brainenc.RidgeEncoder()}, **run)
    monkeypatch.setattr(targets, "_TRIAL_VALUES", 150 * 3 * 7)
    blocked = brainenc.benchmark(holed, {"ridge": brainenc.RidgeEncoder()}, **run)
    for table in (*TABLES, *DRAW_TABLES):
        found, expected = getattr(blocked, table), getattr(at_once, table)
        timed = ["fit_seconds", "predict_images_per_second", "peak_memory_mb"]
        # Sums of float64 in products of matrices of other shapes: some units in the last place.
        pd.testing.assert_frame_equal(
            found.drop(columns=timed, errors="ignore"),
            expected.drop(columns=timed, errors="ignore"),
            rtol=1e-9,
            atol=1e-12,
        )
    assert blocked.warnings == at_once.warnings


def test_an_encoder_that_cannot_draw_is_scored_all_the_same(data):
    result = brainenc.benchmark(
        data, {"unlucky": Told(noise_sd=None)}, features=data.truth.signal, cv=3, n_draws=5, **FEW
    )
    row = result.encoders.set_index("encoder").loc["unlucky"]
    assert row["error"] == ""
    assert row["r"] > 0.3
    assert np.isnan(row[["crps", "energy", "coverage_90"]].astype(float)).all()
    assert "unlucky: its draws are not scored: RuntimeError: no more luck" in result.warnings
    maps = result.maps.set_index("encoder")
    assert maps.loc["unlucky", "crps"].isna().all()
    assert maps.loc["ridge", "crps"].notna().all()


def test_finished_draws_are_taken_up_and_other_numbers_of_draws_are_not(data, tmp_path):
    run = {"features": data.truth.signal, "references": False, "cv": 3, "out": tmp_path} | FEW
    brainenc.benchmark(data, {"told": Told()}, n_draws=5, **run)
    files = sorted(tmp_path.glob("pairs/*/*/info.json"))
    times = [file.stat().st_mtime_ns for file in files]
    again = brainenc.benchmark(data, {"told": Told()}, n_draws=5, **run)
    assert [file.stat().st_mtime_ns for file in files] == times
    other = brainenc.benchmark(data, {"told": Told()}, n_draws=6, **run)
    assert len(sorted(tmp_path.glob("pairs/*/*/info.json"))) == 2 * len(files)
    fresh = brainenc.benchmark(data, {"told": Told()}, n_draws=5, **(run | {"out": None}))
    pd.testing.assert_frame_equal(fresh.draws, again.draws)
    assert not other.draws["crps"].equals(again.draws["crps"])


def test_tables_of_draws_come_back_and_older_runs_have_none(result, tmp_path):
    loaded = BenchmarkResult.load(result.save(tmp_path))
    for table in ("encoders", "rois", "maps", "draws", "draw_pairs", "calibration", "k_fairness",
                  "noise_correlations", "shown_draws"):  # fmt: skip
        pd.testing.assert_frame_equal(
            getattr(loaded, table), getattr(result, table), check_dtype=False
        )
    (tmp_path / "draws.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"draws\.csv"):
        BenchmarkResult.load(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["n_rows"]["draws"], manifest["files"], manifest["checksum"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert BenchmarkResult.load(tmp_path).draws.empty


def test_no_draws_no_columns(data, tmp_path):
    run = {"features": data.truth.tokens, "cv": 3, "out": tmp_path} | FEW
    result = brainenc.benchmark(data, {"ridge": brainenc.RidgeEncoder()}, n_draws=0, **run)
    assert "crps" not in result.encoders
    assert "crps" not in result.maps
    assert result.draws.empty
    assert BenchmarkResult.load(tmp_path).k_fairness.empty
    with pytest.raises(ValueError, match="n_draws=1"):
        brainenc.benchmark(data, {"ridge": brainenc.RidgeEncoder()}, n_draws=1, **run)


def test_reference_rows_stand_beside_one_ridge_of_each_shared_set_of_features(data):
    from brainenc.benchmarking.inputs import collect, ridges_with_reference_rows

    ridges = {name: brainenc.RidgeEncoder() for name in ("a", "b")}
    features = {"a": data.truth.tokens, "b": data.truth.signal}
    entries, _ = collect(data, ridges, features, False, False)
    assert ridges_with_reference_rows(entries) == {"a"}
    entries, _ = collect(
        data, ridges | {"told": Told()}, features | {"told": data.truth.signal}, False, False
    )
    assert ridges_with_reference_rows(entries) == {"b"}
    entries, _ = collect(data, {"told": Told()}, data.truth.signal, False, False)
    assert ridges_with_reference_rows(entries) == set()


def test_the_true_density_of_betas_that_drift_is_that_of_their_draws():
    data = brainenc.datasets.simulate_subject(20, 10, 2, session_drift=0.8, missing=0.2)
    source = truth_source(data.truth, np.arange(20))
    voxel, image = np.array([3]), slice(4, 5)
    draws = source.sample(image, 4000, 0)[:, 0, 3].astype(np.float64)
    # One voxel's density over a grid of eight s.d.: it adds up to 1, and moments are the draws'.
    grid = draws.mean() + draws.std() * np.linspace(-8, 8, 2001)
    trials = np.broadcast_to(grid[None, :, None], (1, 2001, 10))
    density = np.exp(source.log_density(image, trials, voxel)[0]) * (grid[1] - grid[0])
    assert density.sum() == pytest.approx(1, abs=1e-3)
    # s.e. of the mean of 4000 draws: .016 s.d.
    assert density @ grid == pytest.approx(draws.mean(), abs=0.06 * draws.std())
    assert density @ grid**2 == pytest.approx((draws**2).mean(), rel=0.1)
    missing = source.log_density(slice(0, 20), data.betas, np.arange(10))
    np.testing.assert_array_equal(np.isnan(missing), np.isnan(data.betas).all(axis=2))


class StandardNormalTruth:
    """Trials of mean 0 and s.d. 1 that voxels do not share, and no other knowledge."""

    def __init__(self, n_images, n_voxels):
        self.n_images, self.n_voxels = n_images, n_voxels

    def select(self, images=None, voxels=None):
        return StandardNormalTruth(len(images), self.n_voxels)

    def sample(self, n=1, random_state=None):
        rng = np.random.default_rng(random_state)
        return rng.standard_normal((n, self.n_images, self.n_voxels), dtype=np.float32)

    def log_density(self, betas, voxels=None):
        return stats.norm.logpdf(betas[..., voxels]).sum(axis=-1)

    def noise_covariance(self, voxels=None):
        return np.eye(len(voxels))


def test_any_truth_that_draws_and_has_a_density_gives_a_reference_row():
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((60, 3, 12))
    images = rng.integers(0, 255, (60, 4, 4), dtype=np.uint8)
    data = brainenc.EncodingData(images, betas, truth=StandardNormalTruth(60, 12))
    result = brainenc.benchmark(
        data, {"mean": brainenc.MeanEncoder()}, references=False, cv=3, n_draws=50, **FEW
    )
    truth = whole(result).loc["true distribution"]
    # Entropy of 12 standard normals; s.e. over 180 trials √(12 / 2) / √180 = .18.
    assert truth["log_score"] == pytest.approx(12 * 1.4189, abs=0.75)
    assert truth["crps"] == pytest.approx(1 / np.sqrt(np.pi), rel=0.06)
    truths = result.noise_correlations.query("encoder == 'true distribution'")["truth"]
    assert (truths == 0).all()


def test_a_truth_without_a_distribution_gives_no_reference_row(data):
    class Categories:
        def select(self, images=None, voxels=None):
            return self

    known = dataclasses.replace(data, truth=Categories())
    result = brainenc.benchmark(
        known, {"mean": brainenc.MeanEncoder()}, references=False, cv=3, n_draws=10, **FEW
    )
    assert list(whole(result).index) == ["mean"]


def test_a_pair_scores_draws_in_the_unit_that_the_split_has_found(data, tmp_path):
    split = make_split(data.betas, [(np.arange(100), np.arange(100, 150))])
    ((train, test),) = split.folds
    plan = draw_plan.make_plan(data, split, 20, 0)
    energies = []
    for k, scale in enumerate((split.scale[0], 2 * split.scale[0])):
        pair = Pair(Told(noise_sd=1.0), "told", 0, train, test, tmp_path / f"{k}", "", plan, scale)
        energies.append(run_pair(pair, data.truth.signal, data.betas).draws()["energy"])
    np.testing.assert_allclose(energies[0], 2 * energies[1], rtol=1e-5)


def test_a_run_whose_only_encoder_cannot_draw_is_scored_without_draws(data, tmp_path):
    plain = dataclasses.replace(data, truth=None)
    pipeline = make_pipeline(brainenc.PixelFeatures(size=4), brainenc.RidgeEncoder(features=None))
    result = brainenc.benchmark(
        plain, {"pipeline": pipeline}, references=False, cv=3, n_draws=10, **FEW
    )
    assert result.encoders["r"].notna().all()
    assert result.draws.empty
    assert any("pipeline: its draws are not scored" in warning for warning in result.warnings)
    assert "CRPS" not in result.to_html(tmp_path / "report.html").read_text().split("<footer>")[0]


def test_where_every_voxel_lacks_a_trial_only_scores_of_whole_patterns_are_undefined(
    data, tmp_path
):
    betas = data.betas.copy()
    betas[0, 0, ::2] = np.nan
    betas[1, 0, 1::2] = np.nan
    holed = brainenc.EncodingData(data.images, betas, data.voxels)
    result = brainenc.benchmark(
        holed, {"mean": brainenc.MeanEncoder()}, references=False, cv=3, n_draws=50, **FEW
    )
    mean = whole(result).loc["mean"]
    # Trials share noise: allow four s.e. of as many independent trials.
    assert mean["coverage_90"] == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 443))
    assert np.isfinite(mean[["crps_z", "variance_slope"]].astype(float)).all()
    assert mean[["energy", "variogram", "log_score", "noise_correlation_r"]].isna().all()
    assert result.calibration.query("quantity == 'pattern_rank'")["value"].isna().all()
    assert "<html" in result.to_html(tmp_path / "report.html").read_text()
