"""Gaussian noise of single trials: a private part per voxel, and shared factors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainenc.metrics import gaussian_log_density

#: Largest share of a voxel's variance that factors explain.
_MOST_SHARED = 0.99


@dataclass(frozen=True)
class ResidualNoise:
    """Gaussian residuals of single trials: independent per voxel plus shared factors.

    Attributes
    ----------
    factors : array, shape (n_factors, n_voxels)
        Shared part, in the units of the betas: its covariance is factorsᵀ factors.
    private_sd : array, shape (n_voxels,)
        s.d. of the private part of each voxel. NaN for a voxel without data. In the units of the
        betas.
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

    def shared(self) -> "ResidualNoise":
        """The shared part alone."""
        return ResidualNoise(self.factors, 0 * self.private_sd)

    def logpdf(self, residuals: np.ndarray) -> np.ndarray:
        """Natural log of the density of residuals, without forming the covariance.

        Parameters
        ----------
        residuals : array, shape (..., n_voxels)
            Voxels without data (NaN in `private_sd`) are left out; other NaN give NaN.

        Returns
        -------
        array, shape (...), float64
        """
        known = np.isfinite(self.private_sd)
        return gaussian_log_density(
            residuals[..., known], self.factors[:, known], self.private_sd[known]
        )

    def of_voxels(self, voxels: Any) -> "ResidualNoise":
        """The noise of some voxels."""
        return ResidualNoise(self.factors[:, voxels], self.private_sd[voxels])

    def times(self, factor: Any) -> "ResidualNoise":
        """Noise whose s.d. is multiplied by a factor, one number or one per voxel."""
        return ResidualNoise(self.factors * factor, self.private_sd * factor)

    def sample(self, shape: tuple[int, ...], random_state: Any = None) -> NDArray[np.float32]:
        """Draw residuals.

        Parameters
        ----------
        shape : tuple of int
            Leading shape, such as (n, n_images).
        random_state : int, Generator or None

        Returns
        -------
        array, shape ``(*shape, n_voxels)``, float32
        """
        rng = np.random.default_rng(random_state)
        draws = rng.standard_normal((*shape, self.private_sd.size), dtype=np.float32)
        draws *= self.private_sd.astype(np.float32)
        if len(self.factors):
            shared = rng.standard_normal((*shape, len(self.factors)), dtype=np.float32)
            draws += shared @ self.factors.astype(np.float32)
        return draws


class Whitening:
    """Map to coordinates in which noise has the same variance in all directions, and back."""

    def __init__(self, noise: ResidualNoise):
        # A voxel that the factors explain fully must not outweigh all others.
        sd = np.maximum(noise.private_sd, 0.1 * np.sqrt(noise.variance))
        self.sd = np.where(np.isfinite(sd), sd, 0).astype(np.float32)
        self.inverse_sd = np.divide(1, self.sd, out=np.zeros_like(self.sd), where=self.sd > 0)
        _, strength, self.directions = np.linalg.svd(
            noise.factors * self.inverse_sd, full_matrices=False
        )
        self.gain = np.sqrt(1 + np.square(strength))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, n_voxels) of betas in these coordinates; 0 for voxels without noise."""
        return self._along(rows * self.inverse_sd, 1 / self.gain - 1)

    def undo(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, n_voxels) in these coordinates as betas."""
        return self._along(rows, self.gain - 1) * self.sd

    def _along(self, rows: np.ndarray, change: np.ndarray) -> np.ndarray:
        return rows + ((rows @ self.directions.T) * change) @ self.directions


def assemble(variance: np.ndarray, factors: np.ndarray) -> ResidualNoise:
    """Distribution with these variances per voxel and shared factors.

    Factors are scaled down for voxels where they explain more than 99 % of the variance: without a
    private part a voxel has no density.
    """
    shared = np.square(factors, dtype=np.float64).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(np.minimum(1, _MOST_SHARED * variance / shared))
    factors = factors * np.where(np.isfinite(scale), scale, 0)
    private = np.sqrt(np.maximum(variance - np.square(factors).sum(axis=0), 0))
    return ResidualNoise(factors.astype(np.float32), private.astype(np.float32))


@dataclass(frozen=True)
class ScaledNoise:
    """Noise of single trials whose strength differs between images.

    Attributes
    ----------
    noise : ResidualNoise
        Average noise over images, with k factors.
    scale : array, shape (n_images, k + 1)
        s.d. of each factor, and last of the private part, for each image relative to that average.
    """

    noise: ResidualNoise
    scale: np.ndarray

    def sd(self) -> np.ndarray:
        """s.d. of single trials around the expected response, shape (n_images, n_voxels)."""
        shared = np.square(self.scale[:, :-1]) @ np.square(self.noise.factors)
        return np.sqrt(shared + np.square(self.scale[:, -1:] * self.noise.private_sd))

    def sample(self, n: int, random_state: Any = None, *, private: bool = True) -> np.ndarray:
        """Draw deviations of single trials from the expected response.

        Parameters
        ----------
        n : int
            Draws per image.
        random_state : int, Generator or None
        private : bool
            Add the private part of each voxel to the shared part.

        Returns
        -------
        array, shape (n, n_images, n_voxels), float32; NaN for voxels without data
        """
        rng = np.random.default_rng(random_state)
        noise, scale = self.noise, self.scale
        shared = rng.standard_normal((n, len(scale), len(noise.factors)), dtype=np.float32)
        draws = (shared * scale[:, :-1]) @ noise.factors
        draws[..., np.isnan(noise.private_sd)] = np.nan
        if private:
            for draw in draws:
                own = rng.standard_normal(draw.shape, dtype=np.float32)
                draw += own * scale[:, -1:] * noise.private_sd
        return draws

    def logpdf(self, residuals: np.ndarray) -> np.ndarray:
        """Natural log of the density of residuals, private part included.

        Parameters
        ----------
        residuals : array, shape (n_images, n_repeats, n_voxels)

        Returns
        -------
        array, shape (n_images, n_repeats); NaN as from `ResidualNoise.logpdf`
        """
        of_image = [
            ResidualNoise(
                own[:-1, None] * self.noise.factors, own[-1] * self.noise.private_sd
            ).logpdf(trials)
            for own, trials in zip(self.scale, residuals, strict=True)
        ]
        return np.stack(of_image)
