"""Noise of single trials beyond that of decoded latents."""

import numpy as np

from brainenc.encoders.tokens import principal_components
from brainenc.noise.gaussian import ResidualNoise


def draw_spread(draws: np.ndarray, max_factors: int = 64) -> ResidualNoise:
    """Distribution of draws around their mean per image, averaged over images.

    Parameters
    ----------
    draws : array, shape (n, n_images, n_voxels)
        n >= 2 independent draws per image, without NaN.
    """
    n = len(draws)
    left = (draws - draws.mean(axis=0)).reshape(-1, draws.shape[2]) * np.sqrt(n / (n - 1))
    variance = np.square(left, dtype=np.float64).mean(axis=0)
    sd, directions = principal_components(left, max_factors)
    factors = sd[:, None] * directions
    private = np.sqrt(np.maximum(variance - np.square(factors).sum(axis=0), 0))
    return ResidualNoise(factors, private.astype(np.float32))


def remaining_noise(noise: ResidualNoise, spread: ResidualNoise, n_draws: int) -> ResidualNoise:
    """Noise that, added to a decoded draw, gives it the covariance of held-out single trials.

    `noise` includes the variance of the mean of `n_draws` draws, which is subtracted to get the
    covariance of trials around the expected response. The covariance of draws is subtracted from
    that; the remainder is 0 in directions and voxels where draws vary more than trials.

    Parameters
    ----------
    noise : ResidualNoise
        Noise of held-out trials around means of `n_draws` draws.
    spread : ResidualNoise
        Noise of single draws around their mean.
    n_draws : int

    Returns
    -------
    ResidualNoise
    """
    there = 1 + 1 / n_draws
    variance = np.maximum(noise.variance - there * spread.variance, 0)
    sd = np.sqrt(np.where(noise.variance > 0, noise.variance, np.inf))
    stacked = np.concatenate([noise.factors, np.sqrt(there) * spread.factors]) / sd
    stacked = np.nan_to_num(stacked)
    signs = np.repeat([1.0, -1.0], [len(noise.factors), len(spread.factors)])
    basis, triangle = np.linalg.qr(stacked.T)
    strength, directions = np.linalg.eigh(triangle * signs @ triangle.T)
    kept = strength > 1e-6
    factors = np.sqrt(strength[kept])[:, None] * (basis @ directions[:, kept]).T
    factors *= np.where(np.isfinite(sd), sd, 0)
    shared = np.square(factors).sum(axis=0)
    # The total variance of a voxel must not exceed that of trials.
    factors *= np.sqrt(np.minimum(1, variance / np.where(shared > 0, shared, 1)))
    private = np.sqrt(np.maximum(variance - np.square(factors).sum(axis=0), 0))
    return ResidualNoise(factors.astype(np.float32), private.astype(np.float32))
