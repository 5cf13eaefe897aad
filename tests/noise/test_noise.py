"""The residual noise model against simulations with known covariance."""

from functools import partial

import numpy as np
import pytest

from brainenc.arrays import row_slices
from brainenc.noise.estimates import _repeat_contrasts, fit_residual_noise, fit_trial_noise
from brainenc.noise.gaussian import ResidualNoise
from brainenc.repeats import within_image_residuals

N_VOXELS = 80


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    return ResidualNoise(
        factors=rng.standard_normal((3, N_VOXELS)).astype(np.float32),
        private_sd=rng.uniform(1, 2, N_VOXELS).astype(np.float32),
    )


def simulate(truth, misfit_sd, n_images=600, seed=1):
    """Trials of a signal that the model predicts with an error of known s.d."""
    rng = np.random.default_rng(seed)
    signal = 5 * rng.standard_normal((n_images, N_VOXELS))
    betas = signal[:, None] + truth.sample((n_images, 3), rng)
    return betas, signal + misfit_sd * rng.standard_normal(signal.shape)


def off_diagonal(covariance):
    return covariance[np.triu_indices(N_VOXELS, 1)]


def test_variance_holds_trial_noise_and_model_error(truth):
    betas, held_out = simulate(truth, misfit_sd=2.0)
    noise = fit_residual_noise(betas, held_out)
    # 1800 trials: relative s.e. of a variance is about sqrt(2/1800 ... 2/600) = .03 to .06.
    np.testing.assert_allclose(noise.variance, truth.variance + 4, rtol=0.2)
    assert np.mean(noise.variance / (truth.variance + 4)) == pytest.approx(1, abs=0.02)


def model_error(n_images, seed=5):
    """Errors of a model that gets voxels wrong together, and their covariance."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((2, N_VOXELS)) + 1  # most voxels err to the same side
    return rng.standard_normal((n_images, 2)) @ factors, factors.T @ factors


def slope_and_r(found, true):
    return found @ true / (true @ true), np.corrcoef(found, true)[0, 1]


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_covariance_holds_shared_noise_and_shared_model_error(truth, missing):
    betas, held_out = simulate(truth, misfit_sd=0.0, n_images=1500)
    error, error_covariance = model_error(len(betas))
    rng = np.random.default_rng(3)
    betas[rng.random(betas.shape[:2]) < missing] = np.nan
    found = off_diagonal(fit_residual_noise(betas, held_out + error).covariance())
    slope, r = slope_and_r(found, off_diagonal(truth.covariance() + error_covariance))
    # 1500 images: the relative s.e. of a factor's variance is sqrt(2/1500) = .04. Counting the
    # noise in averages twice gives a slope of 1.15, leaving out the error one of .6.
    assert slope == pytest.approx(1, abs=0.08)
    assert r > 0.98


def test_mean_of_voxels_varies_as_held_out(truth):
    betas, held_out = simulate(truth, misfit_sd=1.0, n_images=1500)
    error, _ = model_error(len(betas))
    noise = fit_residual_noise(betas, held_out + error)
    means = (betas - (held_out + error)[:, None]).mean(axis=2)
    drawn = noise.sample((20_000,), random_state=0).mean(axis=1)
    # s.e. sqrt(2/1500) = .04 of the held-out variance, shared with the fit, and .01 of the drawn.
    assert np.mean(drawn**2) == pytest.approx(np.mean(means**2), rel=0.05)


def test_without_model_error_repeats_give_the_noise_covariance(truth):
    betas, held_out = simulate(truth, misfit_sd=0.0)
    slope, r = slope_and_r(
        off_diagonal(fit_residual_noise(betas, held_out).covariance()),
        off_diagonal(truth.covariance()),
    )
    assert slope == pytest.approx(1, abs=0.08)  # shrinkage pulls a little below 1
    assert r > 0.98


def test_few_repeats_of_an_image_are_no_factor():
    # With many more voxels than images, every image whose average is noisier than the others
    # would stand out as a factor of its own.
    rng = np.random.default_rng(4)
    betas = rng.standard_normal((100, 3, 2000)).astype(np.float32)
    betas[:30, 1:] = np.nan
    noise = fit_residual_noise(betas, 0.3 * rng.standard_normal((100, 2000)).astype(np.float32))
    assert np.mean((noise.factors**2).sum(axis=0) / noise.variance) < 0.02


@pytest.mark.parametrize("n_voxels", [80, 2000])
def test_noisy_images_are_no_factors(n_voxels):
    rng = np.random.default_rng(0)
    gain = np.exp(0.4 * rng.standard_normal((200, 1, 1)))
    betas = (gain * rng.standard_normal((200, 3, n_voxels))).astype(np.float32)
    noise = fit_residual_noise(betas, np.zeros((200, n_voxels), dtype=np.float32))
    # Rows of one size (Marchenko–Pastur alone) would give 7 to 50 factors here.
    assert len(noise.factors) <= 3
    assert np.mean((noise.factors**2).sum(axis=0) / noise.variance) < 0.03


def test_contrasts_of_repeats_are_independent_noise():
    rng = np.random.default_rng(0)
    betas = 50 + rng.standard_normal((2000, 4, 3)) * [1, 2, 3]
    betas[rng.random(betas.shape) < 0.3] = np.nan
    contrasts, degrees = _repeat_contrasts(betas)
    deviations, expected = within_image_residuals(betas)
    np.testing.assert_array_equal(degrees, expected)
    # float32 contrasts against float64 deviations: the same sum of squares, 1e-7 per entry.
    squares = np.nansum(np.square(deviations), axis=(0, 1))
    np.testing.assert_allclose(np.square(contrasts).sum(axis=0), squares, rtol=1e-5)
    by_repeat = contrasts.reshape(2000, 3, 3)[:, :, 0]
    moments = by_repeat.T @ by_repeat / 2000
    assert np.abs(moments[np.triu_indices(3, 1)]).max() < 4 / np.sqrt(2000)


def test_blocks_with_and_without_missing_trials_add_up(truth, monkeypatch):
    betas, held_out = simulate(truth, misfit_sd=1.0)
    betas[200:250, 1] = betas[:300, :, 4] = np.nan
    residuals = betas - held_out[:, None]
    deviations, degrees = within_image_residuals(betas)
    # 50 images a block: some have all trials, some lack some or a voxel.
    fifty = partial(row_slices, n_values=50 * 3 * N_VOXELS)
    monkeypatch.setattr("brainenc.noise.estimates.row_slices", fifty)
    # The variance is float32 and a sum over 100 factors and a rest.
    expected = np.nanmean(np.square(residuals), axis=(0, 1))
    np.testing.assert_allclose(fit_residual_noise(betas, held_out).variance, expected, rtol=1e-5)
    expected = np.nansum(np.square(deviations), axis=(0, 1)) / degrees
    np.testing.assert_allclose(fit_trial_noise(betas).variance, expected, rtol=1e-5)


def test_many_trials_are_sampled_for_factors_and_counted_for_variance(truth, monkeypatch):
    betas, held_out = simulate(truth, misfit_sd=0.0)
    full = fit_residual_noise(betas, held_out)
    monkeypatch.setattr("brainenc.noise.estimates._MAX_TRIALS", 900)  # 300 of 600 images
    some = fit_residual_noise(betas, held_out)
    np.testing.assert_allclose(some.variance, full.variance, rtol=1e-5)
    slope, r = slope_and_r(off_diagonal(some.covariance()), off_diagonal(truth.covariance()))
    assert not np.array_equal(some.factors, full.factors)
    assert slope == pytest.approx(1, abs=0.12)  # s.e. sqrt(2/900) = .05
    assert r > 0.97


def test_independent_noise_gets_no_factors():
    rng = np.random.default_rng(2)
    betas = rng.standard_normal((500, 3, N_VOXELS))
    noise = fit_residual_noise(betas, np.zeros((500, N_VOXELS)))
    shared = (noise.factors**2).sum(axis=0) / noise.variance
    # Chance may lift an eigenvalue over the edge; together they must stay negligible.
    assert shared.mean() < 0.02


def test_without_repeats_factors_come_from_held_out_residuals(truth):
    betas, held_out = simulate(truth, misfit_sd=0.0, n_images=1500)
    noise = fit_residual_noise(betas[:, :1], held_out)
    found, true = off_diagonal(noise.covariance()), off_diagonal(truth.covariance())
    assert np.corrcoef(found, true)[0, 1] > 0.98


def test_missing_repeats_and_voxels(truth):
    betas, held_out = simulate(truth, misfit_sd=0.0)
    rng = np.random.default_rng(3)
    betas[rng.random(betas.shape[:2]) < 0.2] = np.nan
    betas[:, :, 7] = np.nan
    held_out[:50] = np.nan  # images the model learnt from
    noise = fit_residual_noise(betas, held_out)
    assert np.isnan(noise.private_sd[7])
    others = np.arange(N_VOXELS) != 7
    assert np.mean((noise.variance / truth.variance)[others]) == pytest.approx(1, abs=0.03)


def test_draws_have_the_covariance_of_the_model(truth):
    draws = truth.sample((20_000,), random_state=0)
    empirical = np.cov(draws.T)
    # s.e. of a covariance of 20 000 draws is at most about 11 / sqrt(20000) = .08; allow five.
    np.testing.assert_allclose(empirical, truth.covariance(), atol=0.4)
    np.testing.assert_array_equal(truth.sample((2, 3), 4), truth.sample((2, 3), 4))


def test_factors_are_looked_for_in_images_with_held_out_predictions():
    """Encoders with networks hold out a tenth of the images; residuals are known of these."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((3, 40))
    betas = rng.standard_normal((3000, 1, 3)) @ factors + rng.standard_normal((3000, 1, 40))
    held_out = np.full((3000, 40), np.nan)
    held_out[::10] = 0
    found = fit_residual_noise(betas, held_out).covariance()
    few = fit_residual_noise(betas[::10], held_out[::10]).covariance()
    # 2000 trials are looked at: drawn from all images, 200 of them would have had a prediction.
    np.testing.assert_allclose(found, few, atol=1e-5)


def test_a_voxel_that_factors_explain_wholly_keeps_a_density():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((300, 8)) @ rng.standard_normal((8, 200))
    betas = (shared[:, None] + 0.1 * rng.standard_normal((300, 2, 200))).astype(np.float32)
    noise = fit_residual_noise(betas, np.zeros((300, 200), np.float32))
    # A tenth of the s.d., or what the voxel has, whichever is more.
    assert (noise.private_sd > 0.09 * np.sqrt(noise.variance)).all()
    assert np.isfinite(noise.logpdf(betas[:, 0])).all()
