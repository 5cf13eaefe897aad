"""Trials averaged in each beta: a number per image and voxel, beside the betas.

Betas of single trials need no count: a beta is a trial, and NaN is none. Averages over repeats lose
the number of their trials, which the noise ceiling needs. It belongs to an image *and* a voxel,
because voxels may lack different trials (sessions that did not cover them, censored trials).
"""

from typing import Any

import numpy as np
import pandas as pd

from brainenc.arrays import row_slices
from brainenc.conversion import numeric_array
from brainenc.repeats import count_repeats

#: Column of the trial table with the count of an image, where all voxels share it.
COLUMN = "n_averaged"


def check_n_averaged(n_averaged: Any, betas: np.ndarray, trials: pd.DataFrame) -> np.ndarray | None:
    """Counts of `EncodingData`, from its argument or from the column of the trial table.

    Parameters
    ----------
    n_averaged : number or array, shape (n_images,), (n_images, 1) or (n_images, n_voxels), or None
        Whole numbers >= 1 wherever there is a beta; ignored where there is none.
    betas : array, shape (n_images, n_repeats, n_voxels)
    trials : pandas.DataFrame

    Returns
    -------
    array of unsigned integers, shape (n_images, 1) or (n_images, n_voxels); None without counts.

    Raises
    ------
    ValueError : counts below 1, not whole, of another shape, other than those of the trial table,
        or above 1 for betas with a repeat axis.
    """
    of_table = counts_of_table(trials, len(betas))
    if n_averaged is None:
        counts, name = of_table, f"trials[{COLUMN!r}]"
    else:
        counts, name = _of_shape(n_averaged, betas), "n_averaged"
    if counts is None:
        return None
    _check_counts(counts, betas, name)
    if n_averaged is not None and of_table is not None:
        listed = of_table[:, 0] > 0
        if not (counts[listed] == of_table[listed]).all():
            raise ValueError(
                f"n_averaged and trials[{COLUMN!r}] give different numbers of averaged trials: "
                "give one of them"
            )
    if betas.shape[1] > 1:
        if (counts > 1).any():
            raise ValueError(
                f"{name} has {int(counts.max())} trials in a beta, but betas {betas.shape} have "
                "repeats: give single trials, or averages over all repeats of an image, of shape "
                "(n_images, n_voxels)"
            )
        return None
    return compact(counts)


def counts_of_table(trials: pd.DataFrame, n_images: int) -> np.ndarray | None:
    """Counts of the trial table's column, (n_images, 1), 0 for images without trials; or None."""
    if COLUMN not in trials:
        return None
    counts = np.zeros((n_images, 1))
    # The largest of an image with repeats shows whether all are 1.
    values = numeric_array(trials[COLUMN], f"trials[{COLUMN!r}]")
    largest = pd.Series(values).groupby(trials["image"].to_numpy()).max()
    counts[largest.index, 0] = largest
    return counts


def _of_shape(n_averaged: Any, betas: np.ndarray) -> np.ndarray:
    counts = numeric_array(n_averaged, "n_averaged").astype(np.float64)
    n_images, _, n_voxels = betas.shape
    if counts.ndim < 2 or counts.shape == (1, n_images):  # a column of MATLAB is (n, 1) or (1, n)
        counts = counts.reshape(-1, 1)
    if counts.shape == (1, 1):
        return np.repeat(counts, n_images, axis=0)
    if counts.shape not in ((n_images, 1), (n_images, n_voxels)):
        raise ValueError(
            f"n_averaged {np.shape(n_averaged)} must be one number, or one for each of the "
            f"{n_images} images, or ({n_images}, {n_voxels}) for images and voxels"
        )
    return counts


def _check_counts(counts: np.ndarray, betas: np.ndarray, name: str) -> None:
    for rows in row_slices(betas):
        shown = count_repeats(betas[rows]) > 0
        some = np.where(shown, counts[rows], 1)
        bad = ~((some >= 1) & (some == np.round(some)))
        if bad.any():
            image, voxel = np.argwhere(bad)[0]
            raise ValueError(
                f"{name} must be whole numbers >= 1, the trials averaged in a beta, but it is "
                f"{some[image, voxel]:g} for image {rows.start + image}, voxel {voxel}, which has "
                "a beta"
            )


def counts_of_average(betas: np.ndarray) -> np.ndarray:
    """Trials in the average over repeats, (n_images, 1) or (n_images, n_voxels)."""
    n_images, n_repeats, n_voxels = betas.shape
    counts = np.empty((n_images, n_voxels), np.min_scalar_type(n_repeats))
    for rows in row_slices(betas):
        counts[rows] = count_repeats(betas[rows])
    return compact(counts)


def compact(counts: np.ndarray) -> np.ndarray:
    """Counts in the smallest unsigned type, with one column if voxels with data share them.

    Parameters
    ----------
    counts : array, shape (n_images, 1) or (n_images, n_voxels); 0 or NaN without data.
    """
    if counts.dtype.kind == "f":
        counts = np.nan_to_num(counts)
    largest = counts.max(axis=1, keepdims=True)
    shared = all(
        ((counts[rows] == largest[rows]) | (counts[rows] == 0)).all() for rows in row_slices(counts)
    )
    return (largest if shared else counts).astype(np.min_scalar_type(int(largest.max(initial=0))))


def counts_of_voxels(n_averaged: Any, voxels: np.ndarray, n_voxels: int) -> np.ndarray:
    """Counts of some voxels, for `brainenc.metrics.noise_ceiling_from_ncsnr`.

    Parameters
    ----------
    n_averaged : number, or array of shape (n_images,), (n_images, 1) or (n_images, n_voxels)
    voxels : array of int
    n_voxels : int
        Number of all voxels.
    """
    counts = np.asarray(n_averaged)
    if counts.shape[1:] == (n_voxels,):
        return counts[:, voxels]
    return counts[:, None] if counts.ndim == 1 else counts


def with_counts(trials: pd.DataFrame, n_averaged: np.ndarray | None) -> pd.DataFrame:
    """Trial table with the column of counts if all voxels share them, else without."""
    if n_averaged is None or n_averaged.shape[1] > 1:
        return trials.drop(columns=COLUMN, errors="ignore")
    return trials.assign(**{COLUMN: n_averaged[trials["image"], 0]})
