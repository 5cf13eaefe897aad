"""Single trials around a prediction: what they show of factors, and how noisy they are."""

import numpy as np
import pytest
from scipy import stats

from brainenc.encoders.latent.variances import VarianceCalibration, log_variances, noise_coordinates
from brainenc.noise.estimates import fit_residual_noise
from brainenc.noise.gaussian import ResidualNoise, ScaledNoise


def trials_of(noise, n_images=300, n_repeats=3, seed=0):
    """Trials of images that are predicted as their number."""
    rng = np.random.default_rng(seed)
    held_out = np.repeat(np.arange(n_images, dtype=np.float32)[:, None], noise.factors.shape[1], 1)
    return held_out[:, None] + noise.sample((n_images, n_repeats), rng), held_out


def make_noise(n_factors=3, n_voxels=40, seed=1):
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((n_factors, n_voxels)).astype(np.float32)
    return ResidualNoise(factors, rng.uniform(0.5, 2, n_voxels).astype(np.float32))


def test_coordinates_are_weighted_least_squares():
    noise = make_noise()
    betas, held_out = trials_of(noise)
    betas[4, 1] = np.nan
    betas[7, 0, 5:9] = np.nan
    betas[..., 11] = np.nan
    noise.private_sd[11], noise.factors[:, 11] = np.nan, 0
    found = noise_coordinates(betas, held_out, noise)
    assert found.shape == (300, 3, 4)
    assert np.isnan(found[4, 1]).all()
    by_hand = []
    for image, repeat in ((0, 0), (9, 2), (250, 1)):
        residual = betas[image, repeat] - held_out[image]
        known = np.isfinite(residual)
        root = 1 / noise.private_sd[known]
        shared, left, *_ = np.linalg.lstsq(
            (noise.factors[:, known] * root).T, residual[known] * root, rcond=None
        )
        by_hand.append([*shared, np.sqrt(left[0])])
    ours = found[[0, 9, 250], [0, 2, 1]]
    # Up to a factor per coordinate, which makes their mean square 1.
    np.testing.assert_allclose(ours / ours[0], np.array(by_hand) / by_hand[0], rtol=2e-3)
    np.testing.assert_allclose(np.nanmean(np.square(found), axis=(0, 1)), 1, rtol=1e-4)


def test_trials_that_lack_voxels_are_as_noisy_as_others():
    noise = make_noise()
    betas, held_out = trials_of(noise)
    betas[:150, :, :28] = np.nan  # 12 of 40 voxels are left
    betas[150, :, 3:] = np.nan  # three: no more than there are factors
    mean_square = np.square(noise_coordinates(betas, held_out, noise))
    assert np.isnan(mean_square[150]).all()
    # 450 trials each: s.e. of a mean square of normal numbers .07, of the last far less. Voxels
    # taken as 0 where they are missing leave .3 of a factor's variance.
    np.testing.assert_allclose(np.nanmean(mean_square[:150], axis=(0, 1)), 1, atol=0.2)
    np.testing.assert_allclose(np.nanmean(mean_square[150:], axis=(0, 1)), 1, atol=0.2)


def test_predicted_variances_are_believed_as_far_as_they_are_true():
    rng = np.random.default_rng(0)
    said = rng.standard_normal((2000, 3)).astype(np.float32)
    truth = said * [1, 0.5, 0] + 0.2  # believed wholly, half, not at all
    coordinates = np.exp(truth / 2)[:, None] * rng.standard_normal((2000, 3, 3))
    coordinates[::5, 1:] = np.nan
    said[::7] = np.nan
    calibration = VarianceCalibration.fit(coordinates, said)
    # 5000 squared normal numbers: the s.e. of a gain is sqrt(2 / 5000) = .02; steps of .1.
    np.testing.assert_allclose(calibration.gain, [1, 0.5, 0], atol=0.11)
    # The average trial is the measure: images of which nothing is said among the others.
    n = np.isfinite(coordinates[..., 0]).sum(1)[np.isfinite(said[:, 0])]
    scale = calibration.scale(said[np.isfinite(said[:, 0])])
    np.testing.assert_allclose(np.average(scale**2, axis=0, weights=n), 1, rtol=1e-4)


def test_voxels_that_never_vary_have_nothing_to_scale():
    still = ResidualNoise(np.zeros((0, 4), np.float32), np.zeros(4, np.float32))
    coordinates = noise_coordinates(np.ones((9, 2, 4)), np.ones((9, 4), np.float32), still)
    said = log_variances(coordinates)
    np.testing.assert_array_equal(VarianceCalibration.fit(coordinates, said).scale(said), 1)


def test_draws_have_the_density_and_the_sd_that_are_said():
    noise = make_noise(2, 3)
    scale = np.array([[0.5, 2, 1.5], [2, 1, 0.3]], dtype=np.float32)
    scaled = ScaledNoise(noise, scale)
    draws, sd = scaled.sample(40_000, 0), scaled.sd()
    for i, own in enumerate(scale):
        factors = own[:-1, None] * noise.factors
        covariance = factors.T @ factors + np.diag((own[-1] * noise.private_sd) ** 2)
        # s.e. of a covariance of 40 000 draws below .007 times the s.d. of both.
        np.testing.assert_allclose(
            np.cov(draws[:, i].T), covariance, atol=0.03 * np.square(sd[i]).max()
        )
        np.testing.assert_allclose(sd[i], np.sqrt(np.diag(covariance)), rtol=1e-5)
        trials = draws[None, :5, i].astype(np.float64)
        expected = stats.multivariate_normal(np.zeros(3), covariance).logpdf(trials[0])
        ours = ScaledNoise(noise, own[None]).logpdf(trials)
        assert ours[0] == pytest.approx(expected, rel=1e-4)
    latent = scaled.sample(40_000, 0, private=False)
    assert np.linalg.matrix_rank(latent[:, 0], tol=1e-2) == 2


def test_private_noise_is_told_alike_from_one_repeat_and_from_many():
    # It is a mean over voxels; taken for one normal number, few repeats would seem noisier.
    betas = np.random.default_rng(0).standard_normal((400, 3, 40)).astype(np.float32)
    betas[::2, 1:] = np.nan
    none = np.zeros((400, 40), np.float32)
    coordinates = noise_coordinates(betas, none, fit_residual_noise(betas, none))
    said = log_variances(coordinates, 40)[:, -1]
    # s.d. of the log of a mean of 40 squares .22, over 200 images: .02.
    assert said[::2].mean() == pytest.approx(said[1::2].mean(), abs=0.1)
