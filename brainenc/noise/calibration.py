"""Calibration of draws and intervals on trials of held-out images."""

from typing import Any

import numpy as np

from brainenc.conversion import check_row_order, text_labels


def check_coverage(coverage: float) -> float:
    """Return `coverage` if it is strictly between 0 and 1.

    Raises
    ------
    ValueError : it is not a probability in (0, 1).
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage={coverage!r} must lie between 0 and 1, such as .9")
    return float(coverage)


def check_groups(groups: Any, n_voxels: int) -> np.ndarray:
    """Index of the group of each voxel, from 0; without groups each voxel is its own group.

    Parameters
    ----------
    groups : array-like of labels (such as ROIs), shape (n_voxels,), or None

    Raises
    ------
    ValueError : `groups` has another shape.
    """
    if groups is None:
        return np.arange(n_voxels)
    if isinstance(groups, str):
        raise ValueError(
            f"groups={groups!r} names an atlas, but the encoder has no voxel table: call "
            "with_voxels first (the benchmark does), or give the labels of the voxels"
        )
    check_row_order(voxels=(), groups=groups)
    labels = text_labels(groups, "groups").astype(str)  # a missing label is a label of its own
    if labels.shape != (n_voxels,):
        raise ValueError(
            f"groups {labels.shape} must have one label for each of the {n_voxels} voxels"
        )
    return np.unique(labels, return_inverse=True)[1]


def variance_scale(standardized: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Factor on the predicted s.d. that gives the variance of the trials.

    Parameters
    ----------
    standardized : array, shape (n_images, n_repeats, n_voxels)
        Held-out trial minus prediction, divided by the predicted s.d.; NaN where missing.
    group : array of int, shape (n_voxels,)
        Voxels of a group share one factor.

    Returns
    -------
    array, shape (n_voxels,)
        Root mean square over the group. NaN for a group without data.
    """
    present = np.isfinite(standardized)
    squared = np.where(present, np.square(standardized, dtype=np.float64), 0).sum(axis=(0, 1))
    total = np.bincount(group, squared)
    n = np.bincount(group, present.sum(axis=(0, 1)))
    with np.errstate(invalid="ignore"):
        return np.sqrt(total / n)[group]


def conformal_quantile(scores: np.ndarray, coverage: float, group: np.ndarray) -> np.ndarray:
    """Upper bound on the score of a trial of a new image, with probability `coverage`.

    Images are exchangeable, trials of one image are not: each of the K images has weight 1 / (K +
    1), divided equally among its trials (and voxels of the group); the new image has the same
    weight at infinity. The bound is the quantile of these weighted scores.

    Parameters
    ----------
    scores : array, shape (n_images, n_repeats, n_voxels)
        Distance of held-out trials from the prediction; NaN where missing.
    coverage : float
        Between 0 and 1.
    group : array of int, shape (n_voxels,)
        Voxels of a group share a bound, and coverage holds on average over them.

    Returns
    -------
    array, shape (n_voxels,)
        Infinite with fewer than coverage / (1 − coverage) images; NaN without data.

    Notes
    -----
    If new images are exchangeable with the calibration images, the probability over both that the
    bound holds for a trial of a new image is at least `coverage` and, without ties, at most
    `coverage` + 2 / (K + 1).

    References
    ----------
    Lee, Barber & Willett (2023), arXiv 2306.06342 (hierarchical conformal prediction).
    """
    bound = np.full(scores.shape[2], np.nan)
    order = np.argsort(group, kind="stable")
    for voxels in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        bound[voxels] = _weighted_quantile(scores[:, :, voxels].reshape(len(scores), -1), coverage)
    return bound


def _weighted_quantile(scores: np.ndarray, coverage: float) -> float:
    """Quantile of scores (n_images, n_entries), NaN where missing; see `conformal_quantile`."""
    present = np.isfinite(scores)
    n = present.sum(axis=1)
    n_images = np.count_nonzero(n)
    if n_images == 0:
        return np.nan
    weight = np.broadcast_to(1 / (np.maximum(n, 1) * (n_images + 1))[:, None], scores.shape)
    values = scores[present]
    order = np.argsort(values)
    below = np.cumsum(weight[present][order])
    # The tolerance of 1e-9 is for round-off in sums of weights.
    position = np.searchsorted(below, coverage - 1e-9)
    return float(values[order[position]]) if position < len(values) else np.inf
