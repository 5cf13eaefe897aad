"""Coordinates of images in what fitted images span, and across it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Basis:
    """New images in the eigenvectors of XᵀX of the training images, and across these.

    Attributes
    ----------
    along : array, shape (n_new, rank)
        Coordinates along eigenvectors of non-zero eigenvalue.
    across : array, shape (n_new, n_features), or None
        What is left of the features, about which the data say nothing; None if nothing is.
    eigenvalues : array, shape (rank,)
    span : array, shape (n_fitted, rank)
        Coordinates of the fitted images along the same eigenvectors, of length 1 over images: a
        fit takes what noise of the images has along these into its weights.
    """

    along: np.ndarray
    across: np.ndarray | None
    eigenvalues: np.ndarray
    span: np.ndarray

    @property
    def n_fitted(self) -> int:
        """Number of fitted images."""
        return len(self.span)

    @classmethod
    def of(cls, new: np.ndarray, fitted: np.ndarray) -> "Basis":
        """Basis of the fitted images, in double precision where it is not large."""
        small = min(fitted.shape) <= 4096
        dtype = np.float64 if small else np.result_type(fitted, np.float32)
        centre = fitted.mean(axis=0, dtype=np.float64)
        centred = (fitted - centre).astype(dtype, copy=False)
        new = (new - centre).astype(dtype, copy=False)
        n, p = centred.shape
        if p <= n:
            eigenvalues, U = np.linalg.eigh(centred.T @ centred)
            kept = _kept(eigenvalues, n)
            along, across = new @ U[:, kept], None
            span = centred @ (U[:, kept] / np.sqrt(eigenvalues[kept]))
            if not kept.all():
                across = new - along @ U[:, kept].T
        else:
            eigenvalues, U = np.linalg.eigh(centred @ centred.T)
            kept = _kept(eigenvalues, p)
            span = U[:, kept]
            turn = span / np.sqrt(eigenvalues[kept])
            along = (new @ centred.T) @ turn
            across = new - (along @ turn.T) @ centred
        narrow = None if across is None else across.astype(np.float32)
        return cls(
            along.astype(np.float32),
            narrow,
            eigenvalues[kept].astype(np.float32),
            span.astype(np.float32),
        )

    @classmethod
    def of_kernel(
        cls,
        cross: np.ndarray,
        short: np.ndarray,
        kernel: np.ndarray,
        fitted_short: np.ndarray,
        rows: np.ndarray,
        *,
        own: np.ndarray | None = None,
    ) -> "Basis":
        """Basis of features that are not held, from kernels.

        Parameters
        ----------
        cross : array, shape (n_new, n_images)
            Kernel of the new images with all fitted ones.
        short : array, shape (n_new, n_columns)
            Sketch of the new images.
        kernel, fitted_short : arrays, shape (n_images, n_images), (n_images, n_columns)
            Kernel and sketch of all fitted images.
        rows : array of bool, shape (n_images,)
            The fitted images that the voxels have data for.
        own : array, shape (n_new,), optional
            Kernel of the new images with themselves. What is left of an image has the length that
            this says; by default that of its sketch.
        """
        kernel, cross = kernel[np.ix_(rows, rows)], cross[:, rows]
        n = len(kernel)
        # Everything is centred at the mean of the rows.
        mean = kernel.mean(axis=0, dtype=np.float64)
        centred = kernel.astype(np.float64 if n <= 4096 else kernel.dtype)
        centred -= (mean - mean.mean() / 2)[:, None].astype(centred.dtype)
        centred -= (mean - mean.mean() / 2).astype(centred.dtype)
        level = cross.mean(axis=1, keepdims=True, dtype=np.float64)
        if own is not None:
            own = own - 2 * level[:, 0] + mean.mean()
        cross = (cross - level - mean + mean.mean()).astype(centred.dtype)
        eigenvalues, U = np.linalg.eigh(centred)
        # Products are those of the kernel's own precision, whatever that of the eigenvalues.
        kept = eigenvalues > 16 * np.finfo(kernel.dtype).eps * max(float(eigenvalues[-1]), 0)
        turn = U[:, kept] / np.sqrt(eigenvalues[kept])
        along = (cross @ turn).astype(np.float32)
        seen = fitted_short[rows]
        centre = seen.mean(axis=0, dtype=np.float64).astype(seen.dtype)
        across = short - centre - along @ (turn.T.astype(np.float32) @ (seen - centre))
        if own is not None:
            left = own - np.square(along, dtype=np.float64).sum(axis=1)
            length = np.square(across, dtype=np.float64).sum(axis=1)
            across *= np.sqrt(np.maximum(left, 0) / np.where(length > 0, length, 1))[:, None]
        return cls(
            along,
            across.astype(np.float32),
            eigenvalues[kept].astype(np.float32),
            U[:, kept].astype(np.float32),
        )

    @property
    def n_random(self) -> int:
        """Random numbers of a draw: of the intercept, of the weights along, and of those across."""
        across = 0 if self.across is None else self.across.shape[1]
        return 1 + len(self.eigenvalues) + across

    def deviations(self, z: np.ndarray, alpha: float) -> np.ndarray:
        """Deviations (n, n_new) in units of σ, for random numbers (n, n_random).

        Without the numbers of what is across, (n, 1 + rank), deviations are those along.
        """
        rank = len(self.eigenvalues)
        weights = z[:, 1 : 1 + rank] / np.sqrt(self.eigenvalues + alpha)
        found = weights @ self.along.T + z[:, :1] / np.sqrt(self.n_fitted)
        if self.across is not None and z.shape[1] > 1 + rank:
            found += (z[:, 1 + rank :] / np.sqrt(alpha)) @ self.across.T
        return found

    def numbers_of_noise(self, noise: np.ndarray) -> np.ndarray:
        """Random numbers of the intercept and along (..., 1 + rank), of noise (..., n_fitted).

        They are independent and of variance 1 if the noise of images is. Bases of some of the
        images, or of scaled features, take from the same noise what they have in common.
        """
        constant = np.full((self.n_fitted, 1), 1 / np.sqrt(self.n_fitted), np.float32)
        return noise @ np.concatenate([constant, self.span], axis=1)

    def covariance(self, alpha: float) -> np.ndarray:
        """Covariance (n_new, n_new) in units of σ²."""
        found = (self.along / (self.eigenvalues + alpha)) @ self.along.T + 1 / self.n_fitted
        return found if self.across is None else found + self.across @ self.across.T / alpha


def _kept(eigenvalues: np.ndarray, n: int) -> np.ndarray:
    """Eigenvalues that are not round-off."""
    smallest = n * np.finfo(eigenvalues.dtype).eps * max(float(eigenvalues[-1]), 0)
    return eigenvalues > max(smallest, np.finfo(np.float32).tiny)
