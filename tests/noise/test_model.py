"""Signal and noise from repeats, against simulated truth and the naive estimator."""

import tracemalloc

import numpy as np
import pytest

import brainenc
from brainenc.noise.estimates import fit_trial_noise
from brainenc.noise.factors import shared_factors
from brainenc.repeats import within_image_residuals


def correlations(covariance):
    sd = np.sqrt(np.diag(covariance))
    return (covariance / np.outer(sd, sd))[np.triu_indices(len(sd), 1)]


def agreement(covariance, truth):
    return np.corrcoef(correlations(covariance), correlations(truth))[0, 1]


@pytest.fixture(scope="module")
def gaussian():
    """Betas with low-rank signal and noise, and their true covariances."""
    rng = np.random.default_rng(0)
    n_voxels = 40
    of_signal, of_noise = rng.standard_normal((2, 3, n_voxels)) + 0.5
    alone = rng.uniform(1, 2, n_voxels)
    signal = rng.standard_normal((800, 3)) @ of_signal + 7
    noise = rng.standard_normal((800, 3, 3)) @ of_noise
    noise += alone * rng.standard_normal(noise.shape)
    return (
        signal[:, None] + noise,
        of_signal.T @ of_signal,
        of_noise.T @ of_noise + np.diag(alone**2),
    )


def naive(betas):
    """Noise from deviations from the average, signal from averages less its third."""
    residuals, degrees = within_image_residuals(betas)
    flat = residuals.reshape(-1, betas.shape[2])
    noise = flat.T @ flat / degrees[0]
    return np.cov(betas.mean(axis=1).T) - noise / 3, noise


def error(found, true):
    return np.linalg.norm(found - true) / np.linalg.norm(true)


def test_with_many_images_it_is_the_naive_estimator(gaussian):
    betas, signal, noise = gaussian
    model = brainenc.noise_model(betas)
    naive_signal, naive_noise = naive(betas)
    # 1600 degrees of freedom, 3 factors. What they differ by is the chance part of the naive one,
    # sqrt(40 / 1600) = .16 of the private part.
    assert error(model.noise.covariance(), naive_noise) < 0.1
    assert error(model.signal.covariance(), naive_signal) < 0.1
    assert error(model.signal.covariance(), signal) < 0.12  # 800 images: sqrt(2 · 3 / 800) = .09
    np.testing.assert_allclose(model.noise.variance, np.diag(naive_noise), rtol=1e-4)
    np.testing.assert_allclose(model.mean, betas.mean(axis=(0, 1)), rtol=1e-5)
    true_ncsnr = np.sqrt(np.diag(signal) / np.diag(noise))
    np.testing.assert_allclose(model.ncsnr, true_ncsnr, rtol=0.25)


def test_with_few_images_it_is_nearer_to_the_truth_than_the_naive_estimator():
    rng = np.random.default_rng(3)
    of_signal, of_noise = 0.5 * rng.standard_normal((2, 3, 200))
    betas = (rng.standard_normal((60, 3)) @ of_signal)[:, None]
    betas = betas + rng.standard_normal((60, 3, 3)) @ of_noise
    betas += rng.standard_normal(betas.shape)
    model, (naive_signal, naive_noise) = brainenc.noise_model(betas), naive(betas)
    signal, noise = of_signal.T @ of_signal, of_noise.T @ of_noise + np.eye(200)
    # Chance makes 200 private variances of 120 differences a matrix of norm 200 / sqrt(120) = 18,
    # and the factors one of 3 · 50: shrinkage has much to gain.
    assert error(model.noise.covariance(), noise) < 0.8 * error(naive_noise, noise)
    # The signal's own 3 factors in 60 images, sqrt(2 · 3 / 60) = .3, are all there is to either.
    assert error(model.signal.covariance(), signal) < 1.15 * error(naive_signal, signal)


def test_noise_is_not_taken_for_signal(gaussian):
    _, _, noise = gaussian
    rng = np.random.default_rng(1)
    pure = rng.multivariate_normal(np.zeros(40), noise, size=(800, 3))
    model = brainenc.noise_model(pure)
    # Averages have a third of the noise's factors; leaving it in would make shares of .2 or so.
    shared = np.square(model.signal.factors).sum(axis=0) / np.diag(noise)
    assert shared.mean() < 0.02


@pytest.mark.slow
def test_noise_correlations_agree_with_those_of_the_simulated_subject():
    data = brainenc.datasets.simulate_subject(600, 800, 3, random_state=3)
    model = brainenc.noise_model(data.betas)
    # The raw covariance of 1200 differences gives .89: sampling error .029 on a spread of .06.
    assert agreement(model.noise.covariance(), data.truth.noise_covariance()) > 0.9
    ratio = model.noise.variance / data.truth.noise_sd**2
    assert np.median(ratio) == pytest.approx(1, abs=0.08)  # drift of sessions adds some
    assert np.corrcoef(model.ncsnr, data.truth.ncsnr)[0, 1] > 0.95


def test_missing_repeats_and_voxels(gaussian):
    betas, _, noise = gaussian
    rng = np.random.default_rng(2)
    holed = betas.copy()
    holed[rng.random(holed.shape[:2]) < 0.3] = np.nan
    holed[:, :, 7] = np.nan
    holed[:, 1:, 9] = np.nan  # data, but no repeats
    model = brainenc.noise_model(holed)
    for values in (model.noise.variance, model.signal.variance, model.ncsnr):
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(values)), [7, 9])
    others = np.delete(np.arange(40), [7, 9])
    found = model.noise.covariance()[np.ix_(others, others)]
    assert agreement(found, noise[np.ix_(others, others)]) > 0.98
    ratio = (model.noise.variance / np.diag(noise))[others]
    assert ratio.mean() == pytest.approx(1, abs=0.03)  # 850 degrees of freedom, 38 voxels


def test_one_repeat_is_not_enough(gaussian):
    with pytest.raises(ValueError, match=r"\(800, 1, 40\) have no image with two trials"):
        brainenc.noise_model(gaussian[0][:, :1])


def test_few_images_give_variances_without_factors():
    betas = np.random.default_rng(0).standard_normal((2, 3, 5))
    model = fit_trial_noise(betas, random_state=0)
    expected = betas.var(axis=1, ddof=1).mean(axis=0)
    np.testing.assert_allclose(model.variance, expected, rtol=1e-5)


def test_factors_have_the_variance_that_other_images_show():
    # 60 rows in 300 dimensions: sample eigenvalues are far too large, held-out ones are not.
    rng = np.random.default_rng(0)
    factor = rng.standard_normal(300) / np.sqrt(300)
    strength = 100.0
    rows = (
        rng.standard_normal((60, 300)) + np.sqrt(strength) * rng.standard_normal((60, 1)) * factor
    )
    found = shared_factors(rows, np.arange(60))
    first = np.square(found[0]).sum()
    # The direction is found with an overlap of about sqrt(1 − 300/60/100) = .97, and the variance
    # along it is known to sqrt(2/60) = .18.
    assert first == pytest.approx(strength * 0.95, rel=0.5)
    assert np.square(found[1:]).sum() < 0.1 * first


def test_seed_repeats_and_memory_stays_below_a_matrix_of_all_voxels():
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((60, 2, 6000)).astype(np.float32)
    tracemalloc.start()
    first = brainenc.noise_model(betas)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 6000**2 / 4  # float32 of 6000² would be 144 MB
    second = brainenc.noise_model(betas)
    np.testing.assert_array_equal(first.noise.factors, second.noise.factors)
