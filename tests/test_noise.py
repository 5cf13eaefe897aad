"""The residual noise model against simulations with known covariance."""

import numpy as np
import pytest

from brainenc.noise import ResidualNoise, fit_residual_noise

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


def test_shared_noise_is_found_and_model_error_is_not_taken_for_it(truth):
    betas, held_out = simulate(truth, misfit_sd=0.0)
    # A model error common to all voxels must not enter: factors come from repeats alone.
    held_out = held_out + 3 * np.random.default_rng(5).standard_normal((len(held_out), 1))
    found = off_diagonal(fit_residual_noise(betas, held_out).covariance())
    true = off_diagonal(truth.covariance())
    assert np.corrcoef(found, true)[0, 1] > 0.98
    slope = found @ true / (true @ true)
    assert slope == pytest.approx(1, abs=0.08)  # shrinkage pulls a little below 1


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
