"""Calibrated encoders: variance and coverage on new images, whatever the encoder got wrong."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import brainenc
from brainenc.noise import ResidualNoise

N_VOXELS = 8


def make_images(n, rng):
    """Features and skewed single trials; every third repeat is missing."""
    X = rng.standard_normal((n, 4)).astype(np.float32)
    betas = (X @ np.ones((4, N_VOXELS)))[:, None] + rng.standard_exponential((n, 3, N_VOXELS)) - 1
    betas[rng.random((n, 3)) < 0.3] = np.nan
    return X, betas.astype(np.float32)


@pytest.fixture(scope="module")
def wrong():
    """Ridge whose noise is twice too large in half of the voxels and too small in the others."""
    encoder = brainenc.RidgeEncoder(None).fit(*make_images(200, np.random.default_rng(0)))
    factor = np.repeat([2.0, 0.5], N_VOXELS // 2).astype(np.float32)
    noise = encoder.noise_
    encoder.noise_ = ResidualNoise(noise.factors * factor, noise.private_sd * factor)
    return encoder, factor


def coverage_of(interval, betas):
    lower, upper = interval
    inside = (betas >= lower[:, None]) & (betas <= upper[:, None])
    return np.where(np.isfinite(betas), inside, np.nan)


@pytest.mark.parametrize("grouped", [False, True])
def test_draws_and_intervals_are_mended(wrong, grouped):
    encoder, factor = wrong
    rng = np.random.default_rng(1)
    groups = factor.astype(str) if grouped else None
    calibrated = brainenc.calibrate(encoder, *make_images(500, rng), groups=groups)
    # 1000 trials of kurtosis 9 here, 420 in the fit: relative s.e. of the ratio of s.d.
    # .5 sqrt(8/1000 + 8/420) = .08; allow four. Unmended, or squared, it is off by a half or more.
    np.testing.assert_allclose(calibrated.scale_, 1 / factor, rtol=0.32)
    X, betas = make_images(3000, rng)
    for level in (0.5, 0.9):
        coverage = np.nanmean(coverage_of(calibrated.predict_interval(X, level), betas))
        assert coverage == pytest.approx(level, abs=0.02)
    assert np.nanmean(coverage_of(encoder.predict_interval(X), betas)) != pytest.approx(
        0.9, abs=0.05
    )
    np.testing.assert_array_equal(calibrated.predict(X), encoder.predict(X))
    draws = calibrated.sample(X[:50], 400, 0)
    spread = np.square(draws - encoder.predict(X[:50])).mean(axis=(0, 1))
    measured = np.nanmean(np.square(betas - encoder.predict(X)[:, None]), axis=(0, 1))
    np.testing.assert_allclose(spread, measured, rtol=0.4)  # s.e. .09 of a variance; allow four
    assert calibrated.sample_kind_ == "calibrated residual"


def test_guarantee_holds_for_few_images_and_skewed_trials(wrong):
    encoder, _ = wrong
    covered = []
    for seed in range(60):
        rng = np.random.default_rng(100 + seed)
        calibrated = brainenc.calibrate(encoder, *make_images(19, rng))
        X, betas = make_images(40, rng)
        covered.append(np.nanmean(coverage_of(calibrated.predict_interval(X), betas)))
    # .9 to .9 + 2/20; calibration sets differ by about .03 (8 voxels of 19 images): s.e. .005.
    assert 0.9 - 0.015 < np.mean(covered) < 1.0
    assert np.mean(covered) < 0.99


def test_too_few_images_are_refused_and_voxels_without_data_are_nan(wrong):
    encoder, _ = wrong
    rng = np.random.default_rng(2)
    few = brainenc.calibrate(encoder, *make_images(5, rng))
    with pytest.raises(ValueError, match=r"coverage=0.9 takes at least 9 calibration images.* 5"):
        few.predict_interval(np.zeros((1, 4)))
    X, betas = make_images(50, rng)
    betas[:, :, 3] = np.nan
    calibrated = brainenc.calibrate(encoder, X, betas)
    lower, upper = calibrated.predict_interval(X)
    for values in (calibrated.sample(X, 2, 0)[0], lower, upper):
        np.testing.assert_array_equal(np.isnan(values).any(axis=0), np.arange(N_VOXELS) == 3)


def test_voxels_must_be_those_of_the_encoder(wrong):
    X, betas = make_images(20, np.random.default_rng(3))
    with pytest.raises(ValueError, match=r"have 5 voxels, but the encoder was fitted to 8"):
        brainenc.calibrate(wrong[0], X, betas[:, :, :5])
    with pytest.raises(NotFittedError):
        brainenc.calibrate(brainenc.RidgeEncoder(None), X, betas)


def test_save_and_load_keep_the_calibration(wrong, tmp_path):
    X, betas = make_images(60, np.random.default_rng(4))
    calibrated = brainenc.calibrate(wrong[0], X, betas)
    calibrated.save(tmp_path / "model")
    loaded = brainenc.load(tmp_path / "model")
    for ours, theirs in zip(
        calibrated.predict_interval(X), loaded.predict_interval(X), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        calibrated.sample(X, 2, 0), loaded.sample(X, 2, 0, out=tmp_path / "draws.npy")
    )
    assert loaded.score(X, betas) == calibrated.score(X, betas)
