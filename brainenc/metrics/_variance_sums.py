"""Covariances across voxels of the variances measured on images, in one pass over voxels."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from brainenc.arrays import blocks
from brainenc.numeric import as_doubles, as_numbers, as_whole_numbers

#: Images × voxels at a time: 8 MiB of float64, and a few temporary arrays of that size.
_BLOCK_VALUES = 2**20


class RowCovariances(NamedTuple):
    """Centred sums of products over voxels, one per row; a row is an image in a fold.

    Attributes
    ----------
    draws, fold, own : arrays, shape (n_rows,)
        Products with the draws of the fold, with the sum of all rows of the fold, and with itself.
    of_draws : array, shape (n_rows,)
        Products of the draws of the fold with themselves.
    """

    draws: np.ndarray
    fold: np.ndarray
    own: np.ndarray
    of_draws: np.ndarray


def row_covariances(
    drawn: np.ndarray, trials: np.ndarray, fold: np.ndarray
) -> tuple[int, float, RowCovariances]:
    """Number of voxels, mean ratio of variances, and sums for all pairs of rows.

    One pass over the voxels, without a loop over pairs.
    """
    n_voxels, ratio = 0, 0.0
    x, x_draws, x_fold, x_own = np.zeros((4, len(trials)))
    d, d_own = np.zeros((2, len(drawn)))
    members = (np.arange(len(drawn))[:, None] == fold).astype(np.float64)
    for voxels in blocks(trials.shape[1], _BLOCK_VALUES // max(1, len(trials))):
        of_draws, of_trials = _defined(drawn[:, voxels], trials[:, voxels])
        n_voxels += of_trials.shape[1]
        ratio += float((of_draws[fold].sum(axis=0) / of_trials.sum(axis=0)).sum())
        x += of_trials.sum(axis=1)
        x_draws += np.einsum("iv,iv->i", of_draws[fold], of_trials)
        x_fold += np.einsum("iv,iv->i", (members @ of_trials)[fold], of_trials)
        x_own += np.einsum("iv,iv->i", of_trials, of_trials)
        d += of_draws.sum(axis=1)
        d_own += np.einsum("fv,fv->f", of_draws, of_draws)
    with np.errstate(divide="ignore", invalid="ignore"):  # no voxel left: NaN
        n = np.float64(n_voxels)
        centred = RowCovariances(
            x_draws - x * d[fold] / n,
            x_fold - x * (members @ x)[fold] / n,
            x_own - x * x / n,
            (d_own - d**2 / n)[fold],
        )
        return n_voxels, float(ratio / n), centred


def mean_over_pairs(
    rows: RowCovariances, fold: np.ndarray, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over all pairs of rows of one fold, in sums of products over voxels.

    Returns
    -------
    means : array, shape (2,)
        Covariance of trials with draws, and of the trials of the two rows.
    without : array, shape (2, n_images)
        The same without each image.
    variances : array, shape (2,)
        Variance of draws, and of the mean over trials of a fold.
    """
    n = np.bincount(fold)[fold]  # rows in the fold of each row
    of_fold = np.bincount(fold, rows.draws)[fold]
    with_others = np.stack([((n - 2) * rows.draws + of_fold) / 2, rows.fold - rows.own])
    totals, pairs = with_others.sum(axis=1), (n - 1).sum()
    # Each pair is counted twice, and leaving out either of its rows removes it.
    left = totals[:, None] - 2 * np.stack([np.bincount(image, row) for row in with_others])
    with np.errstate(divide="ignore", invalid="ignore"):
        without = left / (pairs - 2 * np.bincount(image, n - 1))
        spread = np.stack([rows.of_draws, rows.fold / n])
        return totals / pairs, without, ((n - 1) * spread).sum(axis=1) / pairs


def _defined(drawn: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels with variances on both sides, those of trials as float64 without NaN.

    An image without trials gets the mean, and deviations of the others are scaled up: means and
    their standard errors are as without that image.
    """
    trials = trials.astype(np.float64)
    present = np.isfinite(trials)
    n = present.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(present, trials, 0).sum(axis=0) / n
        trials = mean + np.where(present, trials - mean, 0) * (len(trials) / n)
    defined = np.isfinite(drawn).all(axis=0) & (mean > 0)
    return drawn[:, defined], trials[:, defined]


def check_variances(
    draw_variance: ArrayLike,
    trial_variance: ArrayLike,
    folds: ArrayLike | None,
    images: ArrayLike | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Variances (n_folds, n_voxels), (n_images, n_voxels); fold and number of each image.

    Raises
    ------
    ValueError : shapes that do not match, or several folds without `folds`.
    """
    drawn = np.atleast_2d(as_doubles(draw_variance, "draw_variance"))
    trials = as_numbers(trial_variance, "trial_variance")
    if drawn.ndim != 2 or trials.ndim != 2 or drawn.shape[1] != trials.shape[1]:
        raise ValueError(
            f"draw_variance {drawn.shape} and trial_variance {trials.shape} must be (n_folds, "
            "n_voxels) and (n_images, n_voxels); `variances` makes them of draws and trials"
        )
    if folds is None and len(drawn) > 1:
        raise ValueError(f"draw_variance has {len(drawn)} rows: give folds, the row of each image")
    last = len(drawn) - 1
    given = np.zeros(len(trials)) if folds is None else folds
    fold = as_whole_numbers(given, "folds", lowest=0, highest=last)
    image = np.arange(len(trials)) if images is None else np.asarray(images)
    for name, labels in {"folds": fold, "images": image}.items():
        if labels.shape != (len(trials),):
            raise ValueError(f"{name} {labels.shape} must have one number per image, {len(trials)}")
    return drawn, trials, fold, np.unique(image, return_inverse=True)[1]
