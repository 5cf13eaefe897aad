"""Repeats of one image: counts, averages and residuals around the average.

All functions take betas of shape (n_images, n_repeats, n_voxels), NaN where a repeat is missing,
and process them in blocks of images, so that memory-mapped betas are never fully copied.
"""

import numpy as np
from numpy.typing import NDArray

from brainenc.arrays import row_slices
from brainenc.numeric import as_numbers


def count_repeats(betas: np.ndarray) -> NDArray[np.int32]:
    """Number of repeats present per image and voxel.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)

    Returns
    -------
    array, shape (n_images, n_voxels)
    """
    count = np.empty((betas.shape[0], betas.shape[2]), dtype=np.int32)
    for rows in row_slices(betas):
        np.isfinite(as_numbers(betas[rows], "betas")).sum(axis=1, out=count[rows])
    return count


def has_repeats(betas: np.ndarray) -> bool:
    """Whether there is an image with two trials of a voxel.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
    """
    blocks = row_slices(betas) if betas.shape[1] > 1 else ()
    return any((count_repeats(betas[rows]) > 1).any() for rows in blocks)


def average_repeats(betas: np.ndarray) -> np.ndarray:
    """Mean over the repeats present; NaN where an image has none for a voxel.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)

    Returns
    -------
    array, shape (n_images, n_voxels), in the units of `betas` and their dtype, float32 or float64;
        averages of other numbers are float64.
    """
    betas = as_numbers(betas, "betas")
    if betas.shape[1] == 1:
        return np.asarray(betas[:, 0])
    average = np.empty((betas.shape[0], betas.shape[2]), dtype=betas.dtype)
    for rows in row_slices(betas):
        with np.errstate(invalid="ignore"):  # 0 / 0 = NaN where no repeat is present
            # Counted in the dtype of betas: an integer count would convert float32 to float64.
            total, n = betas[rows].sum(axis=1), betas.dtype.type(betas.shape[1])
            if not np.isfinite(total).all():  # one missing trial makes the sum NaN
                present = np.isfinite(betas[rows])
                total = np.where(present, betas[rows], betas.dtype.type(0)).sum(axis=1)
                n = present.sum(axis=1, dtype=betas.dtype)
            np.divide(total, n, out=average[rows])
    return average


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
    betas = as_numbers(betas, "betas")
    n_repeats = count_repeats(betas)
    average = np.where(n_repeats < 2, betas.dtype.type(np.nan), average_repeats(betas))
    return betas - average[:, None], np.maximum(n_repeats - 1, 0).sum(axis=0)
