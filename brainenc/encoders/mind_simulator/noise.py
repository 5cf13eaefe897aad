"""What single trials do beyond the draws of a latent."""

import numpy as np

from brainenc.encoders.tokens import principal_components
from brainenc.noise.gaussian import ResidualNoise


def draw_spread(draws: np.ndarray, max_factors: int = 64) -> ResidualNoise:
    """How draws of an image scatter around their mean, over images on average.

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
    """Noise to add to a draw of a latent so that it scatters as held-out single trials do.

    Trials scatter around the expected response with the covariance of `noise`, less what the mean
    of `n_draws` draws that it was measured from scatters itself. What draws scatter already is
    taken off; of directions and voxels in which they scatter more than trials, nothing is left to
    add.

    Parameters
    ----------
    noise : ResidualNoise
        Of held-out trials around means of `n_draws` draws.
    spread : ResidualNoise
        Of single draws around their mean.
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
    # Shared or not, a voxel does not vary more than it should.
    factors *= np.sqrt(np.minimum(1, variance / np.where(shared > 0, shared, 1)))
    private = np.sqrt(np.maximum(variance - np.square(factors).sum(axis=0), 0))
    return ResidualNoise(factors.astype(np.float32), private.astype(np.float32))
