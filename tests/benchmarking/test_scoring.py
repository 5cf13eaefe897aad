"""Scores of held-out predictions against slow loops over folds, voxels and resamples."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, LeaveOneOut, RepeatedKFold

import brainenc
from brainenc import metrics
from brainenc.benchmarking import ceilings, permutation, scoring, split
from brainenc.benchmarking import targets as scored_against
from brainenc.benchmarking.permutation import correlation_p_values
from brainenc.benchmarking.split import make_split, trial_sd
from brainenc.benchmarking.targets import make_targets
from brainenc.metrics import NoiseCeiling
from brainenc.model_selection import bootstrap_weights, image_folds, permutation_p_values
from brainenc.repeats import average_repeats

N_IMAGES, N_VOXELS = 40, 6


def targets_of(betas, folds, n_bootstraps, ceiling=1.0, random_state=0):
    n_trials = betas.shape[1]
    return make_targets(
        betas,
        make_split(betas, folds),
        NoiseCeiling(np.full(betas.shape[2], ceiling), "r", n_trials, "given"),
        n_trials=n_trials,
        min_ceiling=0.2,
        n_bootstraps=n_bootstraps,
        random_state=random_state,
    )


@pytest.fixture(scope="module")
def case():
    """Predictions with fold-dependent offsets, voxel 0 lacking an image, some repeats missing."""
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((N_IMAGES, N_VOXELS))
    betas = 3 + signal[:, None] + rng.standard_normal((N_IMAGES, 3, N_VOXELS))
    betas[:, 1:][rng.random((N_IMAGES, 2)) < 0.1] = np.nan
    betas[7, :, 0] = np.nan
    folds = image_folds(4, N_IMAGES)
    predictions = np.empty_like(signal)
    for k, (_, test) in enumerate(folds):
        predictions[test] = signal[test] + 0.5 * rng.standard_normal((10, N_VOXELS)) + 2 * k
    rows = np.concatenate([test for _, test in folds])
    targets = targets_of(betas, folds, 50, ceiling=0.8, random_state=1)
    return predictions[rows], betas, folds, targets


def centred(values, folds):
    return np.concatenate([values[test] - np.nanmean(values[test], axis=0) for _, test in folds])


def mean_of_trials(betas):
    return np.ma.masked_invalid(betas).mean(axis=1).filled(np.nan)


def test_r_is_of_values_centred_within_folds(case):
    predictions, betas, folds, targets = case
    found = scoring.score_encoder(predictions, targets, n_permutations=10, random_state=0)
    averages = mean_of_trials(betas)
    by_image = np.empty_like(predictions)
    by_image[np.concatenate([test for _, test in folds])] = predictions
    for v in range(1, N_VOXELS):
        r = np.corrcoef(centred(by_image, folds)[:, v], centred(averages, folds)[:, v])[0, 1]
        assert found.voxels["r"][v] == pytest.approx(r, abs=1e-9)
        assert found.voxels["r_normalized"][v] == pytest.approx(r / 0.8, abs=1e-9)
    # Offsets between folds (0, 2, 4, 6) say nothing about images: uncentred r would be far lower.
    raw = np.corrcoef(by_image[:, 1], averages[:, 1])[0, 1]
    assert found.voxels["r"][1] > raw + 0.2


def test_r2_and_errors_keep_offsets(case):
    predictions, betas, folds, targets = case
    found = scoring.score_encoder(predictions, targets, n_permutations=10, random_state=0)
    rows = np.concatenate([test for _, test in folds])
    averages, trials = mean_of_trials(betas[rows]), betas[rows]
    sd = np.concatenate(
        [np.tile(np.nanstd(betas[train], axis=(0, 1)), (len(test), 1)) for train, test in folds]
    )
    squared = np.square(predictions - averages)
    to_trials = np.square(predictions[:, None] - trials)
    r2 = [
        r2_score(averages[has, v], predictions[has, v])
        for v, has in enumerate(np.isfinite(averages).T)
    ]
    expected = {
        "r2": r2,
        "mse": np.nanmean(squared, 0),
        "mse_z": np.nanmean(squared / sd**2, 0),
        "mse_trials": np.nanmean(to_trials, (0, 1)),
        "mse_z_trials": np.nanmean(to_trials / sd[:, None] ** 2, (0, 1)),
    }
    for metric, values in expected.items():
        # The z scale is kept in float32: relative 1e-6.
        np.testing.assert_allclose(found.voxels[metric], values, rtol=1e-5, err_msg=metric)


def test_scores_within_a_fold_use_that_fold_alone(case):
    predictions, betas, folds, targets = case
    found = scoring.score_encoder(predictions, targets, n_permutations=10, random_state=0)
    averages = mean_of_trials(betas)
    for k, (_, test) in enumerate(folds):
        r = np.corrcoef(predictions[10 * k : 10 * k + 10, 3], averages[test, 3])[0, 1]
        assert found.folds[k]["r"][3] == pytest.approx(r, abs=1e-9)


def test_bootstrap_samples_are_scores_of_resampled_images(case):
    predictions, betas, folds, targets = case
    found = scoring.score_encoder(predictions, targets, n_permutations=10, random_state=0)
    rows = np.concatenate([test for _, test in folds])
    by_image = np.empty_like(predictions)
    by_image[rows] = predictions
    averages = mean_of_trials(betas)
    x, y = centred(by_image, folds), centred(averages, folds)
    for b in (0, 17):
        drawn = np.repeat(np.arange(N_IMAGES), targets.weights[b].astype(int))
        for v in (2, 5):
            r = np.corrcoef(x[drawn, v], y[drawn, v])[0, 1]
            assert found.voxel_samples["r"][b, v] == pytest.approx(r, abs=1e-5)
            mse = np.mean(np.square(predictions - averages[rows])[drawn, v])
            assert found.voxel_samples["mse"][b, v] == pytest.approx(mse, rel=1e-5)
        x_b, y_b = predictions[drawn][:, 1:], averages[rows][drawn][:, 1:]  # voxel 0 is incomplete
        pattern = np.mean([np.corrcoef(p, m)[0, 1] for p, m in zip(x_b, y_b, strict=True)])
        assert found.image_samples["pattern_r"][b] == pytest.approx(pattern, abs=1e-6)


def test_an_image_tested_twice_is_drawn_as_one(case):
    _, betas, _, _ = case
    folds = [(np.arange(20, 40), np.arange(0, 15)), (np.arange(20, 40), np.arange(5, 20))]
    targets = targets_of(betas, folds, 30)
    images = np.concatenate([np.arange(15), np.arange(5, 20)])
    for image in range(5, 15):
        first, second = np.flatnonzero(images == image)
        np.testing.assert_array_equal(targets.weights[:, first], targets.weights[:, second])


def test_p_agrees_with_the_permutation_test_of_scipy(case):
    predictions, betas, folds, targets = case
    weak = predictions + 4 * np.random.default_rng(3).standard_normal(predictions.shape)
    p = correlation_p_values(weak, targets, n_permutations=999, random_state=0)
    rows = np.concatenate([test for _, test in folds])
    averages = average_repeats(betas)[rows]
    shift = np.repeat(np.arange(4), 10)
    for v in (1, 4):
        x = weak[:, v] - np.array([weak[shift == k, v].mean() for k in range(4)])[shift]
        y = averages[:, v] - np.array([averages[shift == k, v].mean() for k in range(4)])[shift]
        expected = stats.pearsonr(x, y, alternative="greater").pvalue
        # s.e. of a p from 999 shuffles is at most .016; the t-test itself is off by a little more
        # because centring within folds takes three more degrees of freedom.
        assert p[v] == pytest.approx(expected, abs=0.06)


def test_r2_of_the_mean_is_near_zero_with_small_folds():
    """About the means of folds of two images it would be −1: SS_tot has half the freedom."""
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((20, 3, 500))
    folds = image_folds(10, 20)
    means = np.concatenate([np.tile(betas[train].mean(axis=(0, 1)), (2, 1)) for train, _ in folds])
    targets = targets_of(betas, folds, 200)
    found = scoring.score_encoder(means, targets, n_permutations=1, random_state=0)
    # The mean of the 18 others has an error of 1 + 1/18 against a variance of 19/20: −.11.
    # s.e. over 500 voxels below .01.
    assert found.voxels["r2"].mean() == pytest.approx(-0.11, abs=0.02)
    # Resamples scatter around that, not below: their variance is smaller by 19/20.
    assert np.median(found.voxel_samples["r2"]) == pytest.approx(-0.11, abs=0.03)


def test_bootstrap_r2_is_corrected_by_the_number_of_images_not_rows():
    betas, folds, predictions = repeated_case()
    rows = np.concatenate([test for _, test in folds])
    targets = targets_of(betas, folds, 3)
    samples = scoring.voxel_metrics(predictions, targets, targets.weights)["r2"]
    drawn = np.repeat(np.arange(len(rows)), targets.weights[1].astype(int))
    y, error = betas.mean(axis=1)[rows][drawn], (betas.mean(axis=1)[rows] - predictions)[drawn]
    ratio = np.square(error).mean(axis=0) / y.var(axis=0)
    np.testing.assert_allclose(samples[1], 1 - ratio * 29 / 30, rtol=1e-5)  # float32


def repeated_case(seed=0, n_images=30, n_voxels=1500):
    """Noise, with predictions of an image that are alike in all folds that test it."""
    rng = np.random.default_rng(seed)
    betas = rng.standard_normal((n_images, 2, n_voxels))
    folds = image_folds(RepeatedKFold(n_splits=5, n_repeats=4, random_state=0), n_images)
    fixed = rng.standard_normal((n_images, n_voxels))
    predictions = np.concatenate(
        [fixed[test] + 0.3 * rng.standard_normal((len(test), n_voxels)) for _, test in folds]
    )
    return betas, folds, predictions


def test_p_of_noise_is_uniform_where_images_are_tested_repeatedly():
    betas, folds, predictions = repeated_case()
    targets = targets_of(betas, folds, 2)
    p = correlation_p_values(predictions, targets, n_permutations=199, random_state=0)
    # Shuffling each row by itself would call 20 % of voxels significant at .05.
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 1500))
    assert stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("cv", "highest"),
    [
        # s.e. .005. Images predicted from each other make r scatter up to √2 times more than
        # shuffles of finished predictions show, which makes .05 up to .12 (documented).
        ([(np.arange(40), np.arange(40, 60))], 0.065),
        (KFold(5, shuffle=True, random_state=0), 0.13),
        (RepeatedKFold(n_splits=5, n_repeats=4, random_state=0), 0.13),
    ],
)
def test_p_of_ridge_on_noise(cv, highest):
    rng = np.random.default_rng(0)
    betas, X = rng.standard_normal((60, 1, 2000)), rng.standard_normal((60, 20))
    folds = image_folds(cv, 60)
    predictions = [
        Ridge(10).fit(X[train], betas[train, 0]).predict(X[test]) for train, test in folds
    ]
    targets = targets_of(betas, folds, 2)
    p = correlation_p_values(
        np.concatenate(predictions), targets, n_permutations=199, random_state=0
    )
    assert 0.035 < np.mean(p <= 0.05) < highest


def test_p_finds_signal_where_images_are_tested_repeatedly():
    betas, folds, predictions = repeated_case()
    rows = np.concatenate([test for _, test in folds])
    targets = targets_of(betas, folds, 2)
    p = correlation_p_values(
        predictions + betas.mean(axis=1)[rows], targets, n_permutations=199, random_state=0
    )
    assert np.mean(p <= 0.05) > 0.8  # r is about .55 over 30 images: power .9


def test_images_change_places_only_where_folds_connect_them():
    betas = np.zeros((12, 1, 1))
    folds = [(np.arange(8, 12), np.array(test)) for test in ([0, 1, 2], [2, 3], [4, 5], [6, 7])]
    targets = targets_of(betas, folds, 2)
    strata = permutation._strata(targets)
    assert [stratum.tolist() for stratum in strata] == [[0, 1, 2, 3], [4, 5], [6, 7]]


def test_p_does_not_depend_on_blocks_of_voxels(case, monkeypatch):
    predictions, _, _, targets = case
    p = correlation_p_values(predictions, targets, n_permutations=50, random_state=0)
    monkeypatch.setattr(permutation, "_SHUFFLE_ENTRIES", 2 * N_IMAGES)
    blocked = correlation_p_values(predictions, targets, n_permutations=50, random_state=0)
    np.testing.assert_array_equal(p, blocked)


@pytest.mark.parametrize("large", [1, 2**60], ids=["compiled", "NumPy"])
@pytest.mark.parametrize("orders", [7 * 50, 2**23], ids=["seven orders at a time", "all"])
def test_shuffles_of_all_voxels_at_once_count_as_those_of_the_definition(
    monkeypatch, large, orders
):
    rng = np.random.default_rng(0)
    predicted = rng.standard_normal((50, 37)).astype(np.float32)
    measured = (0.2 * predicted + rng.standard_normal((50, 37))).astype(np.float32)
    measured[:, 5] = 0  # every shuffle is as good as the observed order
    strata = [np.arange(0, 50, 2), np.arange(1, 50, 2)]
    monkeypatch.setattr(permutation, "_LARGE", large)
    monkeypatch.setattr(permutation, "_ORDER_ENTRIES", orders)
    monkeypatch.setattr(permutation, "_SHUFFLE_ENTRIES", 50 * 8)
    options = {"n_permutations": 60, "random_state": 3}
    p = permutation.shuffled_p_values(predicted, measured, strata, **options)
    # Double precision: none of these sums is within round-off of another.
    products = predicted.astype(float), measured.astype(float)
    expected = permutation_p_values(
        lambda rows: (products[0] * products[1][rows]).sum(0), strata, **options
    )
    np.testing.assert_array_equal(p, expected)
    assert p[5] == 1


@pytest.mark.parametrize("fold_images", [1, 64], ids=["fold by fold", "small folds together"])
def test_errors_and_r2_of_a_resample_are_those_of_its_images(monkeypatch, fold_images):
    monkeypatch.setattr(scoring, "_FOLD_IMAGES", fold_images)
    rng = np.random.default_rng(1)
    betas = rng.standard_normal((23, 3, 6)) * [1, 2, 3, 4, 5, 6] + 2
    betas[rng.random((23, 3)) < 0.2] = np.nan
    betas[:, :, 4] = np.nan
    predictions = rng.standard_normal((23, 6))
    predictions[8, 5] = np.nan
    folds = [(np.arange(9, 23), np.arange(9)), (np.arange(9), np.arange(9, 23))]
    targets = targets_of(betas, folds, 300)  # few voxels at a time, with so many samples
    found = scoring.resampled_errors(predictions, targets, targets.weights)
    unit = targets.scale[targets.fold_of_row].astype(float)
    for sample in (0, 17, 299):
        rows = np.repeat(np.arange(23), targets.weights[sample].astype(int))
        x, y, trials = predictions[rows], targets.averages[rows], targets.betas[rows]
        for voxel in range(6):
            some = ~np.isnan(y[:, voxel])
            error = (x[some, voxel] - y[some, voxel]) ** 2
            to_trials = (x[:, None, voxel] - trials[:, :, voxel]) ** 2
            expected = {
                "mse": error.mean() if some.any() else np.nan,
                "mse_z": (error / unit[rows][some, voxel] ** 2).mean() if some.any() else np.nan,
                "r2": 1 - error.mean() / y[some, voxel].var() if some.any() else np.nan,
            }
            present = ~np.isnan(trials[:, :, voxel])
            if voxel == 5 and 8 in rows:
                expected |= {"mse_trials": np.nan, "mse_z_trials": np.nan}
            elif present.any():
                in_z = to_trials / unit[rows][:, None, voxel] ** 2
                expected["mse_trials"] = to_trials[present].mean()
                expected["mse_z_trials"] = in_z[present].mean()
            for name, value in expected.items():
                np.testing.assert_allclose(found[name][sample, voxel], value, rtol=1e-9)


def score_folds(folds, betas, predictions):
    targets = targets_of(betas, folds, 20)
    return scoring.score_encoder(predictions, targets, n_permutations=19, random_state=0)


def test_folds_with_one_image_or_none_are_left_out_of_what_compares_images():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((21, 30))
    betas = signal[:, None] + rng.standard_normal((21, 2, 30))
    train = np.arange(15, 21)
    large = [(train, np.arange(0, 7)), (train, np.arange(7, 14))]
    few = [(train, np.array([14])), (train, np.array([], dtype=int))]
    expected = score_folds(large, betas, signal[:14])
    found = score_folds(large + few, betas, signal[:15])
    np.testing.assert_allclose(found.voxels["r"], expected.voxels["r"], rtol=1e-12)
    assert np.isfinite(found.p).all()
    for name in ("identification", "rdm_correlation", "cka"):
        assert found.images[name] == pytest.approx(expected.images[name])
    assert found.images["pattern_r"] != pytest.approx(expected.images["pattern_r"])
    assert np.isfinite(found.image_samples["identification"]).all()
    weights = bootstrap_weights(15, 20, random_state=0)
    drawn = np.repeat(np.arange(14), weights[0, :14].astype(int))
    x, y = centred(signal, large)[drawn, 0], centred(betas.mean(axis=1), large)[drawn, 0]
    r = np.corrcoef(x, y)[0, 1]  # of the images drawn, without the one that is alone
    assert found.voxel_samples["r"][0, 0] == pytest.approx(r, abs=1e-6)
    one, none = found.folds[2], found.folds[3]
    assert np.isnan(one["r"]).all()
    assert np.isfinite(one["mse"]).all()
    assert all(np.isnan(values).all() for values in none.values())


def test_leaving_one_out_has_errors_but_no_r():
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((8, 2, 5))
    found = score_folds(image_folds(LeaveOneOut(), 8), betas, rng.standard_normal((8, 5)))
    for name in ("identification", "rdm_correlation", "cka"):
        assert np.isnan(found.images[name])
        assert np.isnan(found.image_samples[name]).all()
    assert np.isnan(found.voxels["r"]).all()
    assert np.isnan(found.voxel_samples["r"]).all()
    assert np.isnan(found.p).all()
    assert np.isfinite(found.voxels["r2"]).all()
    assert np.isfinite(found.images["pattern_r"])


def test_nothing_to_test_gives_nan():
    nothing = np.array([], dtype=int)
    found = score_folds([(np.arange(4), nothing)], np.ones((4, 2, 3)), np.empty((0, 3)))
    assert all(np.isnan(values).all() for values in found.voxels.values())
    assert np.isnan(list(found.images.values())).all()
    assert np.isnan(found.p).all()


def test_r_uses_only_images_with_a_response_and_another_in_their_fold():
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((12, 2, 2))
    betas[[1, 2, 3, 4, 5], :, 0] = (
        np.nan
    )  # voxel 0 has one image in the first fold, two in the next
    predictions = rng.standard_normal((12, 2)) + np.repeat([9, 0, 0], 4)[:, None]
    folds = [(np.setdiff1d(np.arange(12), test), test) for test in np.arange(12).reshape(3, 4)]
    found = score_folds(folds, betas, predictions)
    kept = [np.array([6, 7]), np.array([8, 9, 10, 11])]
    x, y = (
        np.concatenate([values[rows] - values[rows].mean() for rows in kept])
        for values in (predictions[:, 0], betas[:, :, 0].mean(axis=1))
    )
    assert found.voxels["r"][0] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)


def test_p_of_noise_is_uniform_also_where_images_are_missing():
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((30, 2, 300))
    betas = np.where((rng.random((30, 300)) < 0.05)[:, None], np.nan, betas)
    folds = image_folds(3, 30)
    targets = targets_of(betas, folds, 2)
    p = correlation_p_values(
        rng.standard_normal((30, 300)), targets, n_permutations=199, random_state=0
    )
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_constant_prediction_has_no_r_but_an_error(case):
    _, _, _, targets = case
    constant = np.tile(np.linspace(3, 4, N_VOXELS, dtype=np.float32), (N_IMAGES, 1))
    found = scoring.score_encoder(constant, targets, n_permutations=5, random_state=0)
    assert np.isnan(found.voxels["r"]).all()
    assert np.isnan(found.p).all()
    assert np.isfinite(found.voxels["mse_z"]).all()
    assert found.images["identification"] == pytest.approx(0.5)


def test_trial_sd_ignores_missing_trials_and_refuses_constants():
    rng = np.random.default_rng(0)
    betas = 100 + rng.standard_normal((50, 3, 4)).astype(np.float32)
    betas[3, 1] = np.nan
    betas[:, :, 2] = np.float32(0.1)
    betas[:, :, 3] = np.nan
    sd = trial_sd(betas)
    np.testing.assert_allclose(sd[:2], np.nanstd(betas[:, :, :2], axis=(0, 1)), rtol=1e-4)
    assert np.isnan(sd[2:]).all()


def test_betas_on_disk_are_scored_in_less_memory_than_they_take(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    shape = (240, 3, 2000)
    np.save(tmp_path / "betas.npy", rng.standard_normal(shape, dtype=np.float32))
    np.save(tmp_path / "predictions.npy", rng.standard_normal((240, 2000), dtype=np.float32))
    betas, predictions = (
        np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("betas", "predictions")
    )
    folds = image_folds(4, 240)
    monkeypatch.setattr(scored_against, "_TRIAL_VALUES", 2**16)
    monkeypatch.setattr(scored_against, "_KEPT_VALUES", 2**14)
    for module in (scored_against, split):
        monkeypatch.setattr(module, "_BLOCK_VALUES", 2**16)
    tracemalloc.start()
    targets = targets_of(betas, folds, 300)
    parts = [predictions[60 * k : 60 * k + 60] for k in range(4)]
    found = scoring.score_encoder(parts, targets, n_permutations=2, random_state=0, folder=tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Betas are 5.8 MB and the samples of seven metrics 17 MB; 6 MB are products of a fold's images.
    assert peak < 8e6
    assert found.voxel_samples["r"].shape == (300, 2000)
    in_memory = scoring.score_encoder(
        np.array(predictions), targets, n_permutations=2, random_state=0
    )
    for metric, samples in in_memory.voxel_samples.items():
        np.testing.assert_array_equal(found.voxel_samples[metric], samples)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda ceiling: ceiling.to("r2"), "score is in space 'r' and the ceiling in 'r2'"),
        (lambda ceiling: ceiling.to("percent"), "the ceiling in 'percent'"),
        (
            lambda ceiling: ceiling.with_n_trials(1),
            "for averages of 3.0 trials and the ceiling for 1.0",
        ),
    ],
)
def test_a_ceiling_of_another_space_or_trial_count_is_refused(case, other, message):
    predictions, _, _, targets = case
    wrong = replace(targets, ceiling=other(targets.ceiling))
    with pytest.raises(ValueError, match=message):
        scoring.score_encoder(predictions, wrong, n_permutations=1, random_state=0)
    of_draws = metrics.ceiling_of_draws(wrong.ceiling, 5)
    if (
        of_draws.n_trials != targets.n_trials[0]
    ):  # that of draws is in space "r" whatever it is given
        with pytest.raises(ValueError, match=message):
            targets.normalized(np.full(N_VOXELS, 0.5), of_draws)


def test_trials_are_counted_voxel_by_voxel_where_the_trial_table_is_not_enough():
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((6, 3, 4)) + rng.standard_normal((6, 1, 4))
    betas[0, 0, 1] = np.nan  # a trial that voxel 1 lacks
    betas[1, :, 2] = np.nan
    betas[:, :, 3] = np.nan
    images = rng.integers(0, 255, (6, 4, 4), dtype=np.uint8)
    data = brainenc.EncodingData(images, betas)
    split = make_split(betas, [(np.arange(3, 6), np.arange(3)), (np.arange(3), np.arange(3, 6))])
    found = ceilings.trials_averaged(data, split, ceilings.ceiling_of_tested(data, split))
    np.testing.assert_allclose(found, [3, 1 / np.mean([1 / 2, *[1 / 3] * 5]), 3, np.nan])
    whole = brainenc.EncodingData(images, np.delete(betas, [1, 2, 3], axis=2))
    # Sums of thirds: round-off of float64.
    of_whole = ceilings.ceiling_of_tested(whole, split)
    np.testing.assert_allclose(ceilings.trials_averaged(whole, split, of_whole), 3, rtol=1e-14)


def test_trials_are_those_of_the_images_tested():
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((6, 4, 3)) + rng.standard_normal((6, 1, 3))
    betas[:3, 1:] = np.nan
    images = rng.integers(0, 255, (6, 4, 4), dtype=np.uint8)
    data = brainenc.EncodingData(images, betas)
    split = make_split(betas, [(np.arange(3), np.arange(3, 6))])
    of_all = data.noise_ceiling().to("r")
    assert of_all.n_trials == pytest.approx(1 / np.mean([1, 1 / 4]))
    np.testing.assert_array_equal(ceilings.trials_averaged(data, split, of_all), [4, 4, 4])
    assert ceilings.ceiling_of_tested(data, split).n_trials == 4
    targets = make_targets(
        betas, split, of_all, n_trials=ceilings.trials_averaged(data, split, of_all),
        min_ceiling=0, n_bootstraps=1, random_state=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"for averages of .* trials and the ceiling for 1.6"):
        targets.normalized(np.ones(3))


def test_scores_are_the_same_whether_sums_of_the_responses_are_kept_or_not(monkeypatch):
    rng = np.random.default_rng(0)
    betas = (3 + rng.standard_normal((90, 3, 6))).astype(np.float32)
    betas[rng.random((90, 3)) < 0.2] = np.nan
    betas[:, :, 2] = np.nan
    betas[:, :, 3] = 1  # constant
    predictions = np.nan_to_num(betas[:, 0]) + rng.standard_normal((90, 6)).astype(np.float32)
    several = [predictions, np.ones_like(predictions), np.where(np.eye(90, 6) > 0, 7, predictions)]
    found = []
    for limit in (2**23, 0):
        monkeypatch.setattr(scored_against, "_KEPT_VALUES", limit)
        targets = targets_of(betas, image_folds(3, 90), 50)
        assert targets.are_kept == bool(limit)
        options = {"n_permutations": 20, "random_state": 0}
        found.append([scoring.score_encoder(some, targets, **options) for some in several])
    for kept, anew in zip(*found, strict=True):
        for name in ("voxels", "voxel_samples", "images", "image_samples"):
            for metric, values in getattr(kept, name).items():
                np.testing.assert_array_equal(values, getattr(anew, name)[metric], metric)
        np.testing.assert_array_equal(kept.p, anew.p)
