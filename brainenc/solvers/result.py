"""RidgeFit: the result of every ridge solver."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RidgeFit:
    """Result of a ridge solver.

    Attributes
    ----------
    weights : array, shape (n_features, n_voxels) in primal form, (n_images, n_voxels) in dual form
    intercept : array, shape (n_voxels,)
    alphas : array, shape (n_voxels,)
        Penalty of each voxel.
    held_out : array, shape (n_images, n_voxels)
        Held-out predictions of every image, at the chosen alpha.
    round_off : float
        Penalties below it are lost in the round-off of a kernel of this precision.
    band_weights : array, shape (n_bands, n_voxels), or None
        Kernel weight of each band (sums to 1 over bands); banded ridge only.
    """

    weights: np.ndarray
    intercept: np.ndarray
    alphas: np.ndarray
    held_out: np.ndarray
    round_off: float = 0.0
    band_weights: np.ndarray | None = None
