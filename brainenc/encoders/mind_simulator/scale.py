"""Standardised latents, as MindSimulator's prior draws them, and their Gaussian before training."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brainenc.nets.diffusion import gaussian_gain


@dataclass(frozen=True)
class LatentScale:
    """Map between latents of the autoencoder and standardised latents of the prior.

    Attributes
    ----------
    mean : array, shape (n_latents, latent_width)
    sd : float
        One value for all directions, which keeps their relative variance.
    rotation : array or None, shape (size, size)
        Principal axes of the residuals of the linear path, size = n_latents · latent_width.
    variance : array, shape (size,)
        Variance along these axes: the untrained prior is Gaussian with it. None: a point.
    """

    mean: np.ndarray
    sd: float
    rotation: np.ndarray | None = None
    variance: np.ndarray | None = None

    def standardise(self, z: Tensor) -> Tensor:
        """Mean 0 and mean variance 1."""
        return (z - torch.from_numpy(self.mean).to(z.device)) / self.sd

    def denoised(self, noisy: Tensor, kept: Any) -> Tensor:
        """Expected latent given a noisy one, for Gaussian latents; kept : float or (batch, 1)."""
        if self.rotation is None or self.variance is None:
            return torch.zeros_like(noisy)
        axes, variance = (
            torch.from_numpy(part).to(noisy.device) for part in (self.rotation, self.variance)
        )
        # Back to latent coordinates, since axes of equal variance are arbitrary.
        found = gaussian_gain(kept, variance) * (noisy.flatten(-2) @ axes) @ axes.T
        return found.reshape(noisy.shape)

    def restore(self, x: Tensor, expected: Tensor | None) -> Tensor:
        """Latents of the autoencoder from standardised ones."""
        z = x if expected is None else x + expected
        return z * self.sd + torch.from_numpy(self.mean).to(z.device)


def latent_moments(latents: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean over trials, and one s.d. for all elements, of latents (n_trials, …)."""
    mean = latents.mean(axis=0)
    return mean, float(np.sqrt(np.mean(np.square(latents - mean, dtype=np.float64)))) or 1.0


def fit_scale(
    latents: np.ndarray, expected: np.ndarray | None = None, floor: float = 1e-4
) -> LatentScale:
    """Scale of latents, and the Gaussian around their expectation.

    Parameters
    ----------
    latents : array, shape (n_trials, n_latents, latent_width)
    expected : array of that shape, or None
        Standardised latents predicted from the image; None starts from a point.
    floor : float
        Smallest variance relative to the largest.
    """
    mean, sd = latent_moments(latents)
    if expected is None:
        return LatentScale(mean, sd)
    left = ((latents - mean) / sd - expected).reshape(len(latents), -1)
    variance, rotation = np.linalg.eigh(left.T @ left / len(left))
    rotation = rotation.astype(np.float32)
    variance = np.maximum(variance, max(floor * variance[-1], 1e-12))
    return LatentScale(mean, sd, rotation, variance.astype(np.float32))
