"""Posterior of kernel ridge, a Gaussian process, and draws of whole functions from it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from brainenc.solvers._basis import Basis
from brainenc.solvers.posterior import DrawnFunctions, WeightPosterior


@dataclass(frozen=True)
class KernelPoints:
    """New and fitted images as a kernel sees them.

    Attributes
    ----------
    cross : array, shape (n_new, n_images)
        Kernel of new images with all fitted ones.
    own : array, shape (n_new,)
        Kernel of new images with themselves.
    short, fitted_short : arrays, shape (n_new, n_columns), (n_images, n_columns)
        Vectors with about the kernel for scalar products.
    kernel : array, shape (n_images, n_images)
        Of fitted images.
    """

    cross: np.ndarray
    own: np.ndarray
    short: np.ndarray
    kernel: np.ndarray
    fitted_short: np.ndarray

    def mixed(self, values: np.ndarray, fitted: np.ndarray, share: float) -> "KernelPoints":
        """With the kernel (1 − share) times this one, and share times that of linear features.

        `values` (n_new, rank) and `fitted` (n_images, rank) are these features.
        """
        rest = 1 - share

        def beside(short: np.ndarray, linear: np.ndarray) -> np.ndarray:
            both = [np.sqrt(rest) * short, np.sqrt(share) * linear]
            return np.concatenate(both, axis=1).astype(np.float32)

        return KernelPoints(
            rest * self.cross + share * (values @ fitted.T),
            rest * self.own + share * np.square(values).sum(axis=1),
            beside(self.short, values),
            rest * self.kernel + share * (fitted @ fitted.T),
            beside(self.fitted_short, fitted),
        )


class KernelFunctions(DrawnFunctions):
    """Values at some images of functions drawn from the posterior of kernel ridge.

    That is the posterior of a Gaussian process with the kernel σ²/α · K. Covariances are exact
    along what fitted images span; variances are exact everywhere. What fitted images do not span
    varies together between images as the short vectors do, about as the kernel says.

    Parameters
    ----------
    posterior : WeightPosterior
        Whose `band_weights` are 1 for the kernel of the group, and 0 for others.
    X : array, shape (n_images, n_features)
        By which images are recognised.
    points : callable (position of a kernel) -> KernelPoints
    error : as for `WeightPosterior.at`
    """

    def __init__(
        self,
        posterior: WeightPosterior,
        X: np.ndarray,
        points: Callable[[int], KernelPoints],
        error: np.ndarray | None = None,
    ):
        super().__init__(posterior, X, X, error)
        self._points: dict[int, KernelPoints] = {}
        self._make_points = points

    def _make_basis(self, group: int) -> Basis:
        bands = self._posterior.band_weights
        assert bands is not None
        kernel = int(bands[group].argmax())
        if kernel not in self._points:
            self._points[kernel] = self._make_points(kernel)
        at = self._points[kernel]
        return Basis.of_kernel(
            at.cross,
            at.short,
            at.kernel,
            at.fitted_short,
            self._posterior.images[group],
            own=at.own,
        )
