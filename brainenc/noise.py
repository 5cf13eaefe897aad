"""The noise that single trials carry around a prediction, and drawing from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from brainenc.repeats import within_image_residuals


@dataclass(frozen=True)
class ResidualNoise:
    """Gaussian residuals of single trials: independent per voxel plus shared factors.

    Attributes
    ----------
    factors : array, shape (n_factors, n_voxels)
        What varies together over voxels: the shared covariance is factorsᵀ factors.
    private_sd : array, shape (n_voxels,)
        Standard deviation of what each voxel has for itself. NaN for a voxel without data.

    In the units of the betas.
    """

    factors: np.ndarray
    private_sd: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Residual variance per voxel, shape (n_voxels,)."""
        return self.private_sd**2 + (self.factors**2).sum(axis=0)

    def covariance(self) -> np.ndarray:
        """Residual covariance, shape (n_voxels, n_voxels); for few voxels."""
        return self.factors.T @ self.factors + np.diag(self.private_sd**2)

    def sample(self, shape: tuple[int, ...], random_state: Any = None) -> NDArray[np.float32]:
        """Draw residuals.

        Parameters
        ----------
        shape : tuple of int
            Leading shape, (n, n_images) say.
        random_state : int, Generator or None

        Returns
        -------
        array, shape (*shape, n_voxels), float32
        """
        rng = np.random.default_rng(random_state)
        draws = rng.standard_normal((*shape, self.private_sd.size), dtype=np.float32)
        draws *= self.private_sd.astype(np.float32)
        if len(self.factors):
            shared = rng.standard_normal((*shape, len(self.factors)), dtype=np.float32)
            draws += shared @ self.factors.astype(np.float32)
        return draws


def fit_residual_noise(
    betas: np.ndarray, held_out: np.ndarray, *, max_factors: int = 50, random_state: Any = 0
) -> ResidualNoise:
    """Residual distribution of single trials around held-out predictions.

    The variance of each voxel is the mean squared difference between its single trials and the
    prediction made without their image, so it holds the trial noise and the error of the model.
    What is shared between voxels is estimated from the differences between repeats of one image,
    which hold noise alone; without repeats, from the held-out residuals.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels); NaN where a repeat is missing
    held_out : array, shape (n_images, n_voxels)
        Predictions of images that the model was not fitted on; NaN where there is none.
    max_factors : int
        Largest number of shared factors; fewer are kept where fewer stand out from chance.
    random_state : int, Generator or None
        Of the randomised SVD.

    Returns
    -------
    ResidualNoise
    """
    residuals = betas - held_out[:, None]
    present = np.isfinite(residuals)
    n_trials = present.sum(axis=(0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.square(np.where(present, residuals, 0)).sum(axis=(0, 1)) / n_trials
    between, degrees = within_image_residuals(betas)
    if not degrees.any():
        between, degrees = residuals, n_trials
    factors = _shared_factors(between, degrees, max_factors, random_state)
    # Factors explain at most the variance there is: a voxel they overshoot gets them scaled down.
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(np.minimum(1, variance / (factors**2).sum(axis=0)))
    factors = factors * np.where(np.isfinite(scale), scale, 0)
    private = np.sqrt(np.maximum(variance - (factors**2).sum(axis=0), 0))
    return ResidualNoise(factors.astype(np.float32), private.astype(np.float32))


def _shared_factors(
    residuals: np.ndarray, degrees: np.ndarray, max_factors: int, random_state: Any
) -> np.ndarray:
    """Factors of the covariance of residuals (..., n_voxels) that stand out from chance.

    Eigenvalues of the correlation matrix are compared with the Marchenko–Pastur law of
    independent voxels, and those above its edge are shrunk to their expected true size
    (Donoho, Gavish & Johnstone 2018, Annals of Statistics 46).
    """
    flat = residuals.reshape(-1, residuals.shape[-1])
    flat = np.where(np.isfinite(flat), flat, 0)
    flat = flat[flat.any(axis=1)]
    with np.errstate(invalid="ignore", divide="ignore"):
        sd = np.sqrt((flat**2).sum(axis=0) / degrees)
        flat = np.where(sd > 0, flat / sd, 0)
    sd = np.where(np.isfinite(sd), sd, 0)
    n_voxels = int((sd > 0).sum())
    n_free = int(degrees.max(initial=0))
    n_factors = min(max_factors, n_free - 1, n_voxels - 1)
    if n_factors < 1:
        return np.zeros((0, len(sd)))
    seed = np.random.RandomState(np.random.default_rng(random_state).integers(2**31))
    _, singular, directions = randomized_svd(flat, n_factors, random_state=seed)
    eigenvalues = singular**2 / n_free
    strength = _spiked_shrinkage(eigenvalues, n_voxels, n_free)
    keep = strength > 0
    return np.sqrt(strength[keep])[:, None] * directions[keep] * sd


def _spiked_shrinkage(eigenvalues: np.ndarray, n_voxels: int, n_free: int) -> np.ndarray:
    """Variance of each shared factor, 0 for those that chance explains; total variance n_voxels."""
    ratio = n_voxels / n_free
    bulk = 1.0
    spikes = np.zeros(len(eigenvalues), dtype=bool)
    for _ in range(20):  # the bulk level and the set of spikes depend on each other
        above = eigenvalues > bulk * (1 + np.sqrt(ratio)) ** 2
        bulk = max((n_voxels - eigenvalues[above].sum()) / max(n_voxels - above.sum(), 1), 1e-12)
        if (above == spikes).all():
            break
        spikes = above
    scaled = eigenvalues / bulk + 1 - ratio
    true = (scaled + np.sqrt(np.maximum(scaled**2 - 4 * eigenvalues / bulk, 0))) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        alignment = (1 - ratio / (true - 1) ** 2) / (1 + ratio / (true - 1))
    strength = bulk * (true - 1) * np.clip(alignment, 0, 1)
    return np.where(spikes & np.isfinite(strength), strength, 0)
