"""Scores of held-out predictions against slow loops over folds, voxels and resamples."""

import numpy as np
import pytest
from scipy import stats

from brainenc.benchmarking import scoring
from brainenc.model_selection import image_folds
from brainenc.repeats import average_repeats

N_IMAGES, N_VOXELS = 40, 6


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
    ceiling = np.full(N_VOXELS, 0.8)
    targets = scoring.make_targets(betas, folds, ceiling, 50, random_state=1)
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
    total = np.square(centred(mean_of_trials(betas), folds))
    expected = {
        "r2": 1 - np.nansum(squared, 0) / np.nansum(total, 0),
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
    targets = scoring.make_targets(betas, folds, np.ones(N_VOXELS), 30, random_state=0)
    images = np.concatenate([np.arange(15), np.arange(5, 20)])
    for image in range(5, 15):
        first, second = np.flatnonzero(images == image)
        np.testing.assert_array_equal(targets.weights[:, first], targets.weights[:, second])


def test_p_agrees_with_the_permutation_test_of_scipy(case):
    predictions, betas, folds, targets = case
    weak = predictions + 4 * np.random.default_rng(3).standard_normal(predictions.shape)
    p = scoring.correlation_p_values(weak, targets, n_permutations=999, random_state=0)
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


def test_p_of_noise_is_uniform_also_where_images_are_missing():
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((30, 2, 300))
    betas = np.where((rng.random((30, 300)) < 0.05)[:, None], np.nan, betas)
    folds = image_folds(3, 30)
    targets = scoring.make_targets(betas, folds, np.ones(300), 2, random_state=0)
    p = scoring.correlation_p_values(
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
    sd = scoring.trial_sd(betas)
    np.testing.assert_allclose(sd[:2], np.nanstd(betas[:, :, :2], axis=(0, 1)), rtol=1e-4)
    assert np.isnan(sd[2:]).all()
