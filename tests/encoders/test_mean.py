"""MeanEncoder against loops over images."""

import numpy as np

from brainenc import MeanEncoder


def test_noise_is_around_the_mean_of_the_other_images():
    rng = np.random.default_rng(0)
    betas = 10 + rng.standard_normal((12, 2, 3))
    betas[4, 1] = np.nan
    betas[5, :, 1] = np.nan
    encoder = MeanEncoder().fit(np.zeros((12, 1)), betas)
    averages = np.stack([np.ma.masked_invalid(b).mean(axis=0).filled(np.nan) for b in betas])
    np.testing.assert_allclose(encoder.mean_, np.nanmean(averages, axis=0))
    residuals = np.stack(
        [betas[i] - np.nanmean(np.delete(averages, i, axis=0), axis=0) for i in range(12)]
    )
    # noise_ is kept in float32: relative 1e-6. Dividing by all 12 images instead of the other 11
    # would move the mean by .8 and double the variance.
    expected = np.nanmean(residuals**2, axis=(0, 1))
    np.testing.assert_allclose(encoder.noise_.variance, expected, rtol=1e-5)
