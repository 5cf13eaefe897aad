"""Draws of LatentEncoder against trials of new images, whose distribution is known."""

import numpy as np
import pytest

from brainenc.encoders import LatentEncoder

N_VOXELS = 20


def make_images(n, rng, gain=0.0, skewed=False):
    """Responses that are no linear function of features, and log-variances that are one."""
    X = rng.standard_normal((n, 6)).astype(np.float32)
    weights = np.random.default_rng(0).standard_normal((6, N_VOXELS))
    signal = np.abs(X[:, :3]) @ weights[:3] + X[:, 3:] @ weights[3:]
    shape = (n, 3, N_VOXELS)
    noise = rng.standard_exponential(shape) - 1 if skewed else rng.standard_normal(shape)
    log_variance = gain * X[:, 3]
    betas = signal[:, None] + 2 * np.exp(log_variance / 2)[:, None, None] * noise
    return X, betas.astype(np.float32), log_variance


@pytest.mark.parametrize("n_members", [0, 2])
def test_the_spread_of_draws_is_that_of_new_images(n_members):
    """Not of images that a kernel, a mapper or a weight had learnt: they err by far less there."""
    rng = np.random.default_rng(1)
    X, betas, _ = make_images(200, rng)
    encoder = LatentEncoder(None, n_members=n_members, n_epochs=3, hidden=16).fit(X, betas)
    X, betas, _ = make_images(1000, rng)
    error = np.square(betas - encoder.predict(X)[:, None]).mean(axis=(0, 1))
    # Of 200 images the error is known to 10 % where it is as large as the noise, and it is shared
    # by voxels; the choice of weights and latents makes it seem 2 or 3 % smaller.
    assert np.mean(error / encoder.noise_.variance) == pytest.approx(1, abs=0.1)
    assert error.mean() > 4.2  # there is an error beside the noise, whose variance is 4


def test_draws_have_the_skew_of_trials():
    rng = np.random.default_rng(2)
    X, betas, _ = make_images(400, rng, skewed=True)
    encoder = LatentEncoder(None, n_members=0).fit(X, betas)
    X, betas, _ = make_images(1000, rng, skewed=True)
    lower, upper = encoder.predict_interval(X)
    # 60 000 trials of voxels that are shaped by 1200 trials each; an interval that is symmetric
    # around the prediction has hardly any trial below.
    assert (betas < lower[:, None]).mean() == pytest.approx(0.05, abs=0.015)
    assert (betas > upper[:, None]).mean() == pytest.approx(0.05, abs=0.015)


def test_variance_that_grows_with_image_and_prediction_is_counted_once():
    """Both the tokens and the prediction tell of it."""
    rng = np.random.default_rng(3)
    X, betas, _ = make_images(500, rng, gain=0.8, skewed=True)
    encoder = LatentEncoder(None, n_members=0).fit(X, betas)
    assert encoder.residual_shape_ is not None
    X, _, log_variance = make_images(200, rng, gain=0.8)
    found = 2 * np.log(encoder.sample(X, 300, 0).std(axis=0)).mean(axis=1)
    # The error of the prediction, alike for all images, takes from the slope of 1.
    assert 0.6 < np.polyfit(log_variance, found, 1)[0] < 1.15
