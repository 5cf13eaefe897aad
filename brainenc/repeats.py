"""Repeats of one image: counts, averages and residuals around the average.

All functions take betas of shape (n_images, n_repeats, n_voxels), NaN where a repeat is missing,
and process them in blocks of images, so that memory-mapped betas are never fully copied.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.arrays import blocks, release, row_slices
from brainenc.conversion import numeric_array

#: Betas at a time in counting trials: temporary arrays of a few MB.
_BLOCK_VALUES = 2**20


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
        np.isfinite(betas[rows]).sum(axis=1, out=count[rows])
    return count


def effective_trials(
    betas: np.ndarray,
    n_averaged: np.ndarray | None = None,
    images: np.ndarray | None = None,
) -> NDArray[np.float64]:
    """Effective number of trials behind the averages of each voxel: 1 / mean(1 / n_i).

    The noise variance of averages over n_i trials is, over images, the single-trial variance
    times mean(1 / n_i). Voxels may lack different trials, so the number is counted for each voxel,
    over the images for which it has data.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
    n_averaged : array, shape (n_images, 1) or (n_images, n_voxels), optional
        Trials averaged in each beta; single trials by default.
    images : array of int, optional
        Images that count, each as often as it is listed; all once by default.

    Returns
    -------
    array, shape (n_voxels,); NaN for a voxel without data.

    Examples
    --------
    >>> betas = np.ones((2, 3, 2))
    >>> betas[0, 1:, 1] = np.nan  # voxel 1 has one trial of image 0, and three of image 1
    >>> effective_trials(betas).tolist()
    [3.0, 1.5]
    """
    n_images, inverse = np.zeros((2, betas.shape[2]))
    rows = np.arange(len(betas)) if images is None else images
    for some in blocks(len(rows), _BLOCK_VALUES // max(1, betas[0].size)):
        n = np.isfinite(betas[rows[some]]).sum(axis=1)
        present = n > 0
        n_images += present.sum(axis=0)
        averaged = 1 if n_averaged is None else np.maximum(n_averaged[rows[some]], 1)
        inverse += (present / (np.maximum(n, 1) * averaged)).sum(axis=0)
        release(betas)
    with np.errstate(invalid="ignore"):
        return n_images / inverse


def trials_of_averages(n_trials: ArrayLike, n_voxels: int) -> float | NDArray[np.float64]:
    """Effective number of trials behind averages, from numbers or counts: 1 / mean(1 / n_i).

    Parameters
    ----------
    n_trials : float, or array of shape (n_images,), (n_images, 1) or (n_images, n_voxels)
        One number for all averages, one per image, or one per image and voxel, >= 1; 0 or NaN
        where a voxel has no trial of an image. Effective numbers of voxels are (1, n_voxels). With
        as many images as voxels, one dimension has two meanings and is refused, unless the numbers
        are equal, or not whole: then they are effective numbers of voxels.
    n_voxels : int

    Returns
    -------
    float if all voxels have the same number, else array (n_voxels,), NaN for a voxel without trials

    Raises
    ------
    ValueError : fewer than one trial, a shape that does not fit, or one with two meanings.
    """
    counts = numeric_array(n_trials, "n_trials").astype(np.float64)
    few = ValueError(f"n_trials={n_trials!r} must be >= 1: trials averaged per image")
    if counts.ndim == 1 and counts.shape == (n_voxels,) and n_voxels > 1:
        known = counts[np.isfinite(counts)]
        if not known.size or (known < 1).any():
            raise few
        if (known == known[0]).all():
            return float(known[0])
        if (known == np.round(known)).all():
            raise ValueError(
                f"n_trials {counts.shape} has two meanings, since there are {n_voxels} voxels: "
                "give n_trials[:, None] for one number per image, n_trials[None] for one per voxel"
            )
        counts = counts[None]
    elif counts.ndim < 2:
        if not (counts >= 1).all():
            raise few
        counts = counts.reshape(-1, 1)
    if counts.ndim != 2 or counts.shape[1] not in (1, n_voxels):
        raise ValueError(
            f"n_trials {counts.shape} must be a number, (n_images,), or (n_images, {n_voxels}) for "
            f"{n_voxels} voxels"
        )
    present = counts > 0  # NaN is not
    if not present.any() or (counts[present] < 1).any() or (counts < 0).any():
        raise few
    inverse = np.divide(1, counts, out=np.zeros_like(counts), where=present)
    with np.errstate(invalid="ignore", divide="ignore"):
        return shared_number(present.sum(axis=0) / inverse.sum(axis=0))


def shared_number(values: ArrayLike) -> Any:
    """One number if all finite values equal it to round-off; else the array, as float64.

    Numbers that are whole up to round-off, as sums of 1 / n give them, are made whole.
    """
    values = np.asarray(values, dtype=np.float64)
    whole = np.round(values)
    values = np.where(np.isclose(values, whole, rtol=1e-12, atol=0), whole, values)
    known = values[np.isfinite(values)]
    if known.size and np.allclose(known, known.flat[0], rtol=1e-9, atol=0):
        return float(known.flat[0])
    return values


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
    array, shape (n_images, n_voxels), in the units and dtype of `betas`.
    """
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
    n_repeats = count_repeats(betas)
    average = np.where(n_repeats < 2, betas.dtype.type(np.nan), average_repeats(betas))
    return betas - average[:, None], np.maximum(n_repeats - 1, 0).sum(axis=0)
