"""Ranks of single trials among the draws of their image, PIT and coverage."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.arrays import blocks
from brainenc.metrics.probabilistic import _CACHED_VALUES, check_draws, image_blocks, sort_draws
from brainenc.numeric import as_whole_numbers

#: Rank of a trial that is missing.
MISSING = -1


def trial_ranks(draws: ArrayLike, trials: ArrayLike) -> NDArray[np.int16]:
    """Number of draws below each trial.

    Parameters
    ----------
    draws : array, shape (n, n_images, n_voxels)
        n is 2 … 32 766.
    trials : array, shape (n_images, n_repeats, n_voxels)

    Returns
    -------
    array, shape (n_images, n_repeats, n_voxels)
        0 … n; -1 where the trial is missing or a draw is NaN.

    Raises
    ------
    ValueError : shapes do not match, or there are too few or too many draws.
    """
    draws, trials = check_draws(draws, trials)
    ranks = np.empty(trials.shape, dtype=np.int16)
    for images in image_blocks(draws):
        ranks[images] = ranks_among_sorted(sort_draws(draws[:, images]), trials[images])
    return ranks


def ranks_among_sorted(ordered: np.ndarray, trials: np.ndarray) -> NDArray[np.int16]:
    """`trial_ranks` from draws sorted by `sort_draws`."""
    n_images, n_voxels, n = ordered.shape
    if n >= np.iinfo(np.int16).max:
        raise ValueError(f"{n} draws are more than the 32 766 that ranks are counted for")
    flat = ordered.reshape(-1, n)
    columns_of_trials = np.moveaxis(trials, 1, 0).reshape(trials.shape[1], -1)
    ranks = np.empty(columns_of_trials.shape, dtype=np.int16)
    for columns in blocks(len(flat), _CACHED_VALUES // n):
        for trial, rank in zip(columns_of_trials[:, columns], ranks[:, columns], strict=True):
            rank[:] = (flat[columns] < trial[:, None]).sum(axis=1)
    ranks[np.isnan(columns_of_trials) | np.isnan(flat[:, -1])] = MISSING
    return np.moveaxis(ranks.reshape(-1, n_images, n_voxels), 0, 1)


def rank_histogram(ranks: ArrayLike, n_draws: int) -> NDArray[np.int64]:
    """Counts of ranks: uniform if draws are calibrated, a hump if they are too wide.

    Parameters
    ----------
    ranks : array of int, shape (..., n_voxels)
        From `trial_ranks`; -1, NaN and masked ranks are left out.
    n_draws : int

    Returns
    -------
    array, shape (n_draws + 1, n_voxels)

    Raises
    ------
    ValueError : ranks that n_draws draws do not give.
    """
    ranks = _check_ranks(ranks, n_draws)
    flat = ranks.reshape(-1, ranks.shape[-1])
    counts = np.zeros((n_draws + 2, flat.shape[1]), dtype=np.int64)  # the last row: missing
    voxels = np.arange(flat.shape[1])
    for row in flat:
        counts[row, voxels] += 1
    return counts[:-1]


def _check_ranks(ranks: ArrayLike, n_draws: int) -> np.ndarray:
    return as_whole_numbers(ranks, "ranks", lowest=MISSING, highest=n_draws, missing=MISSING)


def pit_histogram(ranks: ArrayLike, n_draws: int, *, n_bins: int = 20) -> NDArray[np.float64]:
    """Histogram of the probability integral transform of trials, per voxel.

    Parameters
    ----------
    ranks, n_draws
        As for `rank_histogram`.
    n_bins : int
        Equal bins of [0, 1].

    Returns
    -------
    array, shape (n_bins, n_voxels)
        Trials per bin; a rank on the border of two bins is divided between them. All bins are equal
        in expectation if draws and trials have the same distribution: a ∪ shape means that draws
        vary too little, ∩ too much, a slope means a wrong mean.
    """
    edges = np.arange(n_draws + 2) / (n_draws + 1)
    low, high = np.arange(n_bins)[:, None] / n_bins, np.arange(1, n_bins + 1)[:, None] / n_bins
    return _share_inside(edges, low, high) @ rank_histogram(ranks, n_draws)


def interval_coverage(ranks: ArrayLike, n_draws: int, level: float) -> NDArray[np.float64]:
    """Whether trials lie in the central interval of the draws.

    The interval between the k-th smallest and k-th largest of n draws covers a trial of the same
    distribution with probability (n + 1 − 2k) / (n + 1). The k for `level` is rarely an integer:
    trials at the two end ranks count in part. The expected mean for calibrated draws is exactly
    `level`, for any n.

    Parameters
    ----------
    ranks, n_draws
        As for `rank_histogram`.
    level : float
        Nominal coverage, such as .9.

    Returns
    -------
    array, shape of `ranks`: 0 … 1, NaN where the trial is missing.

    Raises
    ------
    ValueError : level outside (0, 1], or ranks that n_draws draws do not give.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> draws, trials = rng.standard_normal((99, 1000, 1)), rng.standard_normal((1000, 1, 1))
    >>> inside = interval_coverage(trial_ranks(draws, trials), n_draws=99, level=0.9)
    >>> inside.mean().round(1)
    np.float64(0.9)
    """
    if not 0 < level <= 1:
        raise ValueError(f"level={level} must be a share in (0, 1], .9 say")
    edges = np.arange(n_draws + 2) / (n_draws + 1)
    inside = _share_inside(edges, (1 - level) / 2, (1 + level) / 2)
    return np.append(inside, np.nan)[_check_ranks(ranks, n_draws)]  # -1, missing, is the last


def _share_inside(edges: np.ndarray, low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """Share of each interval between edges that lies between low and high."""
    overlap = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return np.maximum(overlap, 0) / np.diff(edges)
