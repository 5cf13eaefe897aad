"""Standard normal numbers that are correlated between voxels, from a few shared ones."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class SharedNumbers:
    """Correlation of the random numbers of voxels: loadings on shared numbers, and a private part.

    The number of voxel v is ``private[v]`` times its own plus ``loadings[:, v]`` times the shared
    ones. It has variance 1, since the squares of these factors sum to 1.

    Attributes
    ----------
    loadings : array, shape (n_factors, n_voxels), float32
    private : array, shape (n_voxels,), float32
    seed : SeedSequence
        Of the shared numbers.

    Examples
    --------
    >>> import numpy as np
    >>> half = np.full((1, 3), np.sqrt(0.5))  # a correlation of .5
    >>> shared = SharedNumbers(half, np.sqrt(1 - half[0] ** 2), np.random.SeedSequence(0))
    >>> shared.rng(0).standard_normal(4).shape
    (4,)
    """

    loadings: np.ndarray
    private: np.ndarray
    seed: np.random.SeedSequence

    @classmethod
    def of(
        cls, factors: np.ndarray, private_sd: np.ndarray, seed: np.random.SeedSequence, most: int
    ) -> "SharedNumbers":
        """Numbers with the correlation of noise that has shared factors.

        Parameters
        ----------
        factors : array, shape (n_factors, n_voxels)
        private_sd : array, shape (n_voxels,)
            A voxel without variance, or with NaN, is independent of the others.
        seed : SeedSequence
        most : int
            Largest number of shared numbers. If there are more factors, the directions of the
            largest correlation are kept, and the rest counts as private.
        """
        factors = factors.astype(np.float64)
        sd = np.sqrt(np.square(private_sd, dtype=np.float64) + np.square(factors).sum(axis=0))
        known = np.isfinite(sd) & (sd > 0)
        loadings = np.where(known, factors, 0) / np.where(known, sd, 1)
        if len(loadings) > most:
            _, turn = np.linalg.eigh(loadings @ loadings.T)
            loadings = turn[:, -most:].T @ loadings
        private = np.sqrt(np.maximum(1 - np.square(loadings).sum(axis=0), 0))
        return cls(loadings.astype(np.float32), private.astype(np.float32), seed)

    def rng(self, purpose: int) -> np.random.Generator:
        """Generator of the shared numbers of one purpose, the same at each call."""
        key = (*self.seed.spawn_key, purpose)
        return np.random.default_rng(np.random.SeedSequence(self.seed.entropy, spawn_key=key))
