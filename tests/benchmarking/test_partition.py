"""variance_partitioning: closed forms, planted shares, nulls, other code as oracle, refusals."""

from itertools import combinations
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin

import brainenc
from brainenc import BandedRidgeEncoder, EncodingData, VariancePartition, variance_partitioning
from brainenc.benchmarking.partition_fits import models_of
from brainenc.benchmarking.partition_parts import null_terms, terms_of
from brainenc.metrics import r_squared
from brainenc.model_selection import image_folds
from brainenc.solvers.proposals import random_weights

QUICK = {"n_iter": 3, "n_bootstraps": 40, "verbose": False}


def make_data(signal, *, noise=0.5, n_repeats=2, seed=0):
    """Data whose expected responses are given, with noise images: features are passed in."""
    rng = np.random.default_rng([seed, 7])
    n_images, n_voxels = signal.shape
    betas = signal[:, None] + noise * rng.standard_normal((n_images, n_repeats, n_voxels))
    images = rng.integers(0, 256, (n_images, 8, 8, 3), dtype=np.uint8)
    voxels = pd.DataFrame({"roi": ["AB"[i % 2] for i in range(n_voxels)]})
    return EncodingData(images, betas.astype(np.float32), voxels)


@pytest.fixture(scope="module")
def problem():
    """Two independent bands; voxels of A follow the first, of B both equally."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 9))
    signal = X[:, :4] @ rng.standard_normal((4, 6)) / 2
    signal[:, 1::2] = signal[:, 1::2] / np.sqrt(2) + X[:, 4:] @ rng.standard_normal((5, 3)) / 3
    return make_data(signal), X


@pytest.fixture(scope="module")
def found(problem):
    data, X = problem
    return variance_partitioning(data, {"one": 4, "two": 5}, features=X, **QUICK)


# ------------------------------------------------------------------ the algebra of parts


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_parts_are_the_regions_of_a_venn_diagram(n):
    names = list("abcde")[:n]
    rng = np.random.default_rng(n)
    groups = [g for k in range(1, n + 1) for g in combinations(names, k)]
    area = dict(zip(groups, rng.standard_normal(len(groups)), strict=True))

    def r2(model):  # of a model: all regions that any of its bands covers
        covered = {member.band for member in model}
        return sum(size for group, size in area.items() if covered & set(group))

    found = {part: sum(k * r2(m) for m, k in t.items()) for part, t in terms_of(names).items()}
    for group, size in area.items():
        if len(group) == 1:
            assert found[f"unique_{group[0]}"] == pytest.approx(size)
        elif 2 < n < 5:
            assert found["shared_" + "+".join(group)] == pytest.approx(size)
    assert found["shared"] == pytest.approx(sum(s for g, s in area.items() if len(g) > 1))
    assert found["total"] == pytest.approx(sum(area.values()))
    # Each part and null is made of models that are fitted; no more than needed are.
    needed = {m for part in terms_of(names) for m in terms_of(names)[part]}
    needed |= {m for part in terms_of(names) for m in null_terms(names, part)}
    assert needed == set(models_of(names))


# ------------------------------------------------------------------ closed forms


def test_orthogonal_bands_have_unique_parts_only():
    """Columns are exactly orthogonal: the variance of a sum is the sum of the variances."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((500, 9))
    X = np.linalg.qr(X - X.mean(axis=0))[0] * np.sqrt(500)
    weights = rng.standard_normal((9, 6)) / 3
    weights[4:, ::2] = 0  # voxels of A follow the first band only
    data = make_data(X @ weights, noise=1.0)
    found = variance_partitioning(data, {"one": 4, "two": 5}, features=X, **QUICK)
    averages = data.betas.mean(axis=1)
    variance = averages.var(axis=0)
    one, two = (np.square(weights[part]).sum(axis=0) / variance for part in (slice(4), slice(4, 9)))
    voxels = found.voxels
    # The noise correlates with each column by chance, ± sqrt(noise variance / 500) = .03, and a
    # regressor held out costs 2 / 500 of the rest.
    np.testing.assert_allclose(voxels["unique_one"], one, atol=0.06)
    np.testing.assert_allclose(voxels["unique_two"], two, atol=0.06)
    np.testing.assert_allclose(voxels["total"], one + two, atol=0.08)
    # What is uncorrelated over all images is correlated in opposite ways in training and test
    # images: a band alone predicts a little of the other one, with the wrong sign.
    np.testing.assert_allclose(voxels["shared"], 0, atol=0.04)
    assert two[1::2].min() > 0.1  # so that the tolerance means something


def test_identical_bands_share_everything(problem):
    data, X = problem
    same = variance_partitioning(data, features={"a": X, "b": X}, **QUICK).voxels
    np.testing.assert_allclose(same[["unique_a", "unique_b"]], 0, atol=1e-5)
    np.testing.assert_allclose(same["shared"], same["total"], atol=1e-5)
    np.testing.assert_allclose(same["alone_a"], same["total"], atol=1e-5)


def test_correlated_bands_share_what_the_covariance_says():
    """Each band is the signal with noise of its own; population R² from the covariance matrix."""
    rng = np.random.default_rng(3)
    n = 1500
    signal = rng.standard_normal((n, 1))
    one, two = signal + 0.7 * rng.standard_normal((n, 1)), signal + rng.standard_normal((n, 1))
    y = make_data(np.tile(signal, 8), noise=1.0, n_repeats=1)
    covariance = np.array([[1.49, 1.0], [1.0, 2.0]])
    variance = 2.0  # of a response: signal 1, noise 1
    both = np.ones(2) @ np.linalg.solve(covariance, np.ones(2)) / variance
    alone = 1 / np.diag(covariance) / variance
    found = variance_partitioning(y, features={"one": one, "two": two}, **QUICK)
    row = found.rois.iloc[0]
    # s.e. of R² with 1500 images is about 2 r (1 - R²) / sqrt(n) = .02; voxels share the signal.
    assert row["total"] == pytest.approx(both, abs=0.03)
    assert row["unique_one"] == pytest.approx(both - alone[1], abs=0.02)
    assert row["unique_two"] == pytest.approx(both - alone[0], abs=0.02)
    assert row["shared"] == pytest.approx(alone.sum() - both, abs=0.03)


def test_planted_shares_of_the_simulated_subject():
    """Bands are alternate principal components of the true responses, which are orthogonal."""
    data = brainenc.datasets.simulate_subject(360, 40, random_state=3)
    signal = data.truth.signal.astype(float)
    centred = signal - signal.mean(axis=0)
    U, s, Vt = np.linalg.svd(centred, full_matrices=False)
    n = 12
    components = {"even": slice(0, n, 2), "odd": slice(1, n, 2)}
    averages = np.nanmean(data.betas, axis=1)
    total = np.square(averages - averages.mean(axis=0)).sum(axis=0)
    planted = {
        name: (np.square(s[part, None] * Vt[part]).sum(axis=0) / total).mean()
        for name, part in components.items()
    }
    features = {name: U[:, part] * s[part] for name, part in components.items()}
    features["nothing"] = np.random.default_rng(0).standard_normal((360, 6))
    found = variance_partitioning(data, features=features, **QUICK)
    row = found.rois.iloc[0]
    for name, share in planted.items():
        # Held out, 6 of 288 regressors and the choice among candidates cost .01 to .02.
        assert row[f"unique_{name}"] == pytest.approx(share, abs=0.03)
        assert share > 0.04  # so that the tolerance means something
    assert abs(row["unique_nothing"]) < 0.01
    assert abs(row["shared"]) < 0.02


# ------------------------------------------------------------------ nulls, sums, intervals


def test_parts_add_up_and_nulls_are_near_zero(found):
    for table in (found.voxels, found.rois):
        np.testing.assert_allclose(
            table[["unique_one", "unique_two", "shared"]].sum(axis=1), table["total"], atol=1e-9
        )
    row = found.rois.iloc[0]
    for part in ("unique_one", "unique_two", "shared", "total", "alone_one", "alone_two"):
        assert -0.1 < row[f"{part}_null"] < 0.02
        assert row[f"{part}_low"] <= row[part] <= row[f"{part}_high"]
    parts = found.parts.set_index(["roi", "part"])
    np.testing.assert_allclose(parts["above_null"], parts["r2"] - parts["null"], atol=1e-9)
    assert parts.loc[("all", "unique_one"), "p"] < 0.06
    assert parts.loc[("A", "unique_two"), "above_null_low"] < 0.02
    assert list(found.rois["roi"]) == ["all", "A", "B"]
    names = list(found.encoders["encoder"])
    assert names[:3] == ["one", "two", "one + two"]
    assert {"one, permuted + two", "one + two, permuted"} <= set(names)
    by_name = found.encoders.set_index("encoder")["r2"]
    assert by_name["one + two"] - by_name["two"] == pytest.approx(row["unique_one"])
    null = by_name["one, permuted + two"] - by_name["two"]
    assert null == pytest.approx(row["unique_one_null"])


def test_normalised_parts_are_divided_by_the_ceiling_of_r2(problem, found):
    data, _ = problem
    ceiling = data.noise_ceiling().to("r2").values
    np.testing.assert_allclose(found.voxels["noise_ceiling"], ceiling, rtol=1e-6)
    np.testing.assert_allclose(
        found.voxels["unique_one_normalized"], found.voxels["unique_one"] / ceiling, rtol=1e-6
    )
    assert found.rois["total_normalized"][0] == pytest.approx(
        found.voxels["total_normalized"].mean()
    )
    # The features are the truth, so that nearly all that can be explained is.
    assert 0.85 < found.rois["total_normalized"][0] < 1.02


def test_a_voxel_without_variance_is_undefined_and_not_zero(problem):
    data, X = problem
    betas = data.betas.copy()
    betas[:, :, 2] = 1
    constant = EncodingData(data.images, betas, data.voxels)
    found = variance_partitioning(constant, {"one": 4, "two": 5}, features=X, **QUICK)
    assert np.isnan(found.voxels.loc[2, ["unique_one", "shared", "total"]].astype(float)).all()
    others = found.voxels.drop(index=2)
    assert found.rois["total"][0] == pytest.approx(others["total"].mean())
    assert found.parts["n_voxels"][0] == 5


# ------------------------------------------------------------------ the encoder as oracle


@pytest.mark.parametrize("wide", [False, True])
def test_the_total_is_that_of_the_encoder_on_the_same_folds(problem, wide):
    data, X = problem
    sizes = {"one": 4, "two": 5}
    if wide:  # more features than images: kernels
        X = np.concatenate([X, np.random.default_rng(1).standard_normal((150, 150))], axis=1)
        sizes = {"one": 4, "two": 155}
    candidates = np.concatenate([np.eye(2), random_weights(3, 2, np.random.RandomState(0))])
    averages = data.betas.mean(axis=1)
    predicted = np.empty_like(averages)
    for train, test in image_folds(5, 150, random_state=0):
        encoder = BandedRidgeEncoder(None, bands=sizes, candidates=candidates)
        predicted[test] = encoder.fit(X[train], averages[train]).predict(X[test])
    found = variance_partitioning(data, sizes, features=X, **QUICK)
    np.testing.assert_allclose(found.voxels["total"], r_squared(predicted, averages), atol=1e-5)


class Recorder(TransformerMixin, BaseEstimator):
    """Learns nothing of use; keeps which features it was fitted to."""

    seen: ClassVar[list[int]] = []

    def fit(self, X, y=None):
        Recorder.seen.append(len(X))
        self.mean_ = np.asarray(X, dtype=float).reshape(len(X), -1).mean(axis=0)
        return self

    def transform(self, X):
        flat = np.asarray(X, dtype=float).reshape(len(X), -1)
        return (flat - self.mean_)[:, :6]


def test_transformers_that_learn_see_training_images_only(problem):
    data, X = problem
    Recorder.seen.clear()
    features = {"learned": Recorder(), "given": X}
    variance_partitioning(data, features=features, **QUICK)
    assert set(Recorder.seen) == {120}  # of 150 images; as they are, and permuted
    assert len(Recorder.seen) == 10


def test_transformers_as_bands(problem):
    data, _ = problem
    pixels = brainenc.PixelFeatures(size=4, verbose=False)
    gabor = brainenc.GaborPyramid(n_scales=1, pool=2, size=16, verbose=False)
    spaces = {"pixels": pixels, "gabor": gabor}
    found = variance_partitioning(data, features=spaces, cv=2, **QUICK)
    arrays = {name: space.transform(data.images) for name, space in spaces.items()}
    same = variance_partitioning(data, features=arrays, cv=2, **QUICK)
    np.testing.assert_allclose(found.voxels["total"], same.voxels["total"], atol=1e-6)


def test_five_bands_are_left_out_one_by_one(problem):
    data, X = problem
    sizes = dict(zip("abcde", [1, 1, 2, 2, 3], strict=True))
    found = variance_partitioning(data, sizes, features=X, **(QUICK | {"n_iter": 1, "cv": 2}))
    assert not [name for name in found.voxels if "+" in name]
    uniques = found.voxels[[f"unique_{name}" for name in sizes]].sum(axis=1)
    np.testing.assert_allclose(uniques + found.voxels["shared"], found.voxels["total"], atol=1e-9)


# ------------------------------------------------------------------ files and refusals


def test_results_are_saved_and_shown(found, tmp_path):
    loaded = VariancePartition.load(found.save(tmp_path / "partition"))
    for table in ("voxels", "rois", "parts", "encoders"):
        np.testing.assert_array_equal(
            getattr(loaded, table).select_dtypes("number"),
            getattr(found, table).select_dtypes("number"),
        )
    assert loaded.bands == ["one", "two"]
    page = loaded.to_html(tmp_path / "page.html").read_text("utf-8")
    assert "What one and two explain" in page
    assert "<svg" in page
    assert "src=" not in page
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    with pytest.raises(FileExistsError, match="holds a run of one subject"):
        found.save(tmp_path / "run")


@pytest.mark.parametrize(
    ("bands", "error", "message"),
    [
        (None, ValueError, "bands is missing"),
        ({"one": 4, "two": 4}, ValueError, "add up to the 9 features"),
        ({"one": 9}, ValueError, "at least two"),
        ({"one": 9, "two": 0}, ValueError, "must be positive"),
        ({"one": slice(0, 5), "two": slice(4, 9)}, ValueError, "overlap: both hold column 4"),
        ({"one": slice(0, 4), "two": slice(5, 9)}, ValueError, "leave out column 4"),
        ({"one": slice(0, 4), "two": slice(4, 8)}, ValueError, "add up to the 9 features"),
        ({"one": slice(0, 4), "two": slice(4, None)}, ValueError, "slices with a stop"),
        ({"one": 4, "two": slice(4, 9)}, TypeError, "every band"),
        ({"one": [0, 1, 2], "two": [3, 4]}, TypeError, "every band"),
        ({"one": 4.0, "two": 5.0}, TypeError, "every band"),
        ([4, 5], TypeError, "dict of name"),
        ({"one": 4, " ": 5}, ValueError, "empty"),
        ({"one": 4, "one_null": 5}, ValueError, "is a column of band"),
        ({"a": 3, "b": 3, "a+b": 3}, ValueError, "rename"),
    ],
)
def test_bands_with_no_or_two_meanings_are_refused(problem, bands, error, message):
    data, X = problem
    with pytest.raises(error, match=message):
        variance_partitioning(data, bands, features=X, **QUICK)


def test_other_wrong_arguments_are_refused(problem):
    data, X = problem
    bands = {"one": 4, "two": 5}
    with pytest.raises(ValueError, match="149 rows"):
        variance_partitioning(data, bands, features=X[1:], **QUICK)
    broken = X.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        variance_partitioning(data, bands, features=broken, **QUICK)
    with pytest.raises(TypeError, match="EncodingData"):
        variance_partitioning(data.betas, bands, features=X, **QUICK)
    with pytest.raises(ValueError, match="n_iter=0"):
        variance_partitioning(data, bands, features=X, **(QUICK | {"n_iter": 0}))
    with pytest.raises(ValueError, match="n_bootstraps=0"):
        variance_partitioning(data, bands, features=X, **(QUICK | {"n_bootstraps": 0}))
    with pytest.raises(ValueError, match="has 4 features, and"):
        variance_partitioning(data, bands, features={"one": X, "two": X}, **QUICK)
    with pytest.raises(ValueError, match="the same names"):
        variance_partitioning(data, bands, features={"two": X, "one": X}, **QUICK)


def test_columns_may_be_given_as_slices_in_any_order(problem, found):
    data, X = problem
    bands = {"one": slice(5, 9), "two": slice(0, 5)}
    turned = np.concatenate([X[:, 4:], X[:, :4]], axis=1)
    same = variance_partitioning(data, bands, features=turned, **QUICK)
    np.testing.assert_allclose(same.voxels["unique_one"], found.voxels["unique_one"], atol=1e-5)


# ------------------------------------------------------------------ permutations and kept fits


def test_nulls_are_means_over_permutations_and_the_first_is_that_of_one(problem, found, tmp_path):
    data, X = problem
    several = variance_partitioning(
        data, {"one": 4, "two": 5}, features=X, n_permutations=3, **QUICK
    )
    names = several.encoders.set_index("encoder")["r2"]
    of_null = [
        names[f"one{k} + two"] - names["two"]
        for k in (", permuted", ", permuted (2)", ", permuted (3)")
    ]
    row = several.parts.query("roi == 'all' and part == 'unique_one'").iloc[0]
    assert row["null"] == pytest.approx(np.mean(of_null), abs=1e-9)
    assert row["null_sd"] == pytest.approx(np.std(of_null, ddof=1), abs=1e-9)
    assert row["null_sd"] > 0
    assert row["p_permuted"] == 1 / 4  # above all three
    # What is measured, and the first permutation, are those of a single one.
    one = found.encoders.set_index("encoder")["r2"]
    np.testing.assert_allclose(names[one.index], one, atol=1e-12)
    assert found.parts["null_sd"].isna().all()
    page = several.to_html(tmp_path / "page.html").read_text("utf-8")
    assert "the mean of 3 permutations" in page
    assert (
        "permutations"
        not in found.to_html(tmp_path / "page.html")
        .read_text("utf-8")
        .split("How this was made")[0]
    )


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_no_permutation_is_refused(problem, wrong, error):
    data, X = problem
    with pytest.raises(error, match="n_permutations"):
        variance_partitioning(data, {"a": 4, "b": 5}, features=X, n_permutations=wrong, **QUICK)


def test_a_stopped_run_goes_on_and_others_do_not_take_its_fits(
    problem, found, tmp_path, monkeypatch
):
    from brainenc.benchmarking import partition_fits

    data, X = problem
    fits = []
    real = partition_fits._predicted

    def counted(fold, model, *rest):
        if len(fits) == stop:
            raise KeyboardInterrupt
        fits.append(model)
        return real(fold, model, *rest)

    monkeypatch.setattr(partition_fits, "_predicted", counted)
    bands, total = {"one": 4, "two": 5}, 8 * 5
    stop = 11
    with pytest.raises(KeyboardInterrupt):
        variance_partitioning(data, bands, features=X, out=tmp_path / "p", **QUICK)
    stop = -1
    again = variance_partitioning(data, bands, features=X, out=tmp_path / "p", **QUICK)
    assert len(fits) == total
    pd.testing.assert_frame_equal(again.parts, found.parts)
    loaded = VariancePartition.load(tmp_path / "p")
    np.testing.assert_allclose(loaded.parts["r2"], found.parts["r2"])
    assert "What one and two explain" in (tmp_path / "p" / "partition.html").read_text("utf-8")
    # A further permutation fits its own models only; other bootstraps fit nothing.
    more = QUICK | {"n_bootstraps": 30}
    variance_partitioning(data, bands, features=X, out=tmp_path / "p", n_permutations=2, **more)
    assert len(fits) == total + 5 * 5
    # Other features, other bands, other settings and other betas do.
    changed = X.copy()
    changed[0, 0] += 1
    other = EncodingData(data.images, np.asarray(data.betas) + 1, data.voxels)
    for of_data, names, features, how in (
        (data, bands, changed, QUICK),
        (data, {"one": 5, "two": 4}, X, QUICK),
        (data, bands, X, QUICK | {"n_iter": 2}),
        (other, bands, X, QUICK),
    ):
        before = len(fits)
        variance_partitioning(of_data, names, features=features, out=tmp_path / "p", **how)
        assert len(fits) == before + total, names
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    with pytest.raises(FileExistsError, match="holds a run of one subject"):
        variance_partitioning(data, bands, features=X, out=tmp_path / "run", **QUICK)


def test_columns_with_the_name_of_a_part_are_kept():
    rng = np.random.default_rng(0)
    data = make_data(rng.standard_normal((60, 3)), noise=1.0)
    data = EncodingData(data.images, data.betas, pd.DataFrame({"total": ["a", "b", "a"]}))
    X = {"one": rng.standard_normal((60, 2)), "two": rng.standard_normal((60, 2))}
    found = variance_partitioning(data, features=X, **QUICK).voxels
    assert found["total_of_voxel"].tolist() == ["a", "b", "a"]
    assert found["total"].dtype == float
