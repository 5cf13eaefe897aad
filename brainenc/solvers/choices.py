"""Bands of which a candidate takes a single one: kernels that are alternatives to each other."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from brainenc.devices import linear_algebra_device
from brainenc.model_selection import Folds
from brainenc.solvers.search import working_dtype
from brainenc.solvers.smoother import Smoother


class KernelChoices:
    """Kernels that `banded_ridge_cv` chooses from, with the rows of the identity as candidates.

    Only the kernel that is tried is in memory.

    Parameters
    ----------
    n_kernels : int
    make : callable (position) -> array, shape (n_images, n_images)
    like : array
        Of the dtype of the kernels.
    n_images : int
    device : str or torch.device

    Examples
    --------
    >>> import numpy as np
    >>> from brainenc.model_selection import image_folds
    >>> from brainenc.solvers import banded_ridge_cv
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-3, 3, (60, 1))
    >>> kernels = KernelChoices(2, lambda i: np.exp(-((x - x.T) ** 2) * [1, 1e-3][i]), x, 60, "cpu")
    >>> Y, folds, alphas = np.sin(3 * x), image_folds(5, 60), np.logspace(-4, 2, 7)
    >>> fit = banded_ridge_cv(kernels, Y, alphas, folds, candidates=np.eye(2))
    >>> fit.band_weights[:, 0]  # the narrow kernel
    array([1., 0.])
    """

    def __init__(
        self,
        n_kernels: int,
        make: Callable[[int], np.ndarray],
        like: np.ndarray,
        n_images: int,
        device: str | torch.device,
    ):
        self.n_bands, self._make = n_kernels, make
        given = torch.empty(0, dtype=torch.as_tensor(like[:0]).dtype)
        self.like = torch.empty(
            0, dtype=working_dtype(given.dtype, n_images), device=linear_algebra_device(device)
        )

    def smoother(self, weights: Tensor, alphas: Tensor, folds: Folds) -> Smoother:
        """Ridge with the kernel that has the weight 1.

        Raises
        ------
        ValueError : the kernel is not finite.
        """
        position = int(weights.argmax())
        K = torch.as_tensor(self._make(position)).to(self.like)
        if not bool(torch.isfinite(K).all()):
            raise ValueError(
                f"kernel {position} is not finite: features are too large for it, or have NaN or "
                "infinity"
            )
        return Smoother.of_kernel(K, alphas, folds)
