"""Repeats of one image: counting, averaging and what is left around the average.

All functions take betas of shape (n_images, n_repeats, n_voxels), NaN where a repeat is missing.
"""

import numpy as np
from numpy.typing import NDArray


def count_repeats(betas: np.ndarray) -> NDArray[np.int64]:
    """Number of repeats present per image and voxel.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)

    Returns
    -------
    array, shape (n_images, n_voxels)
    """
    return np.sum(np.isfinite(betas), axis=1)


def average_repeats(betas: np.ndarray) -> np.ndarray:
    """Mean over the repeats present; NaN where an image has none for a voxel.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)

    Returns
    -------
    array, shape (n_images, n_voxels), in the units and dtype of `betas`.
    """
    if betas.shape[1] == 1:
        return np.asarray(betas[:, 0])
    n_repeats = count_repeats(betas)
    total = np.nansum(betas, axis=1)
    with np.errstate(invalid="ignore"):
        average = total / n_repeats  # 0 / 0 = NaN where no repeat is present
    return average.astype(betas.dtype, copy=False)


def within_image_residuals(betas: np.ndarray) -> tuple[np.ndarray, NDArray[np.int64]]:
    """Deviations of single trials from their image's average: noise without signal.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)

    Returns
    -------
    residuals : array, shape (n_images, n_repeats, n_voxels)
        NaN where the trial is missing or is the only one of its image.
    degrees_of_freedom : array, shape (n_voxels,)
        Σ over images of (repeats − 1): the divisor that makes the mean of squared residuals an
        unbiased noise variance. 0 for a voxel without repeated images.
    """
    n_repeats = count_repeats(betas)
    residuals = betas - average_repeats(betas)[:, None]
    residuals = np.where((n_repeats < 2)[:, None], np.nan, residuals)
    return residuals, np.maximum(n_repeats - 1, 0).sum(axis=0)
