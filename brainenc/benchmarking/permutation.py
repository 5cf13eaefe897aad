"""p-values of voxelwise correlations, by shuffling images."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from brainenc import metrics
from brainenc.arrays import blocks
from brainenc.benchmarking.targets import Targets, centre_within_folds
from brainenc.model_selection import permutation_p, shuffles

#: Images × voxels shuffled at a time: with their predictions they stay in the cache.
_SHUFFLE_ENTRIES = 2**17
#: Orders × images drawn at a time.
_ORDER_ENTRIES = 2**23
#: Smallest number of images × voxels × shuffles for compiled code, which takes a second to load.
_LARGE = 2**32


def correlation_p_values(
    predictions: np.ndarray,
    targets: Targets,
    *,
    n_permutations: int,
    random_state: Any,
    centred: np.ndarray | None = None,
) -> np.ndarray:
    """Permutation p of each voxel's r.

    The statistic is the numerator of r, since the denominator does not depend on the pairing of
    images. It is a sum over images of a response times the centred predictions of that image summed
    over its rows, so an image tested in several folds moves as one: separate shuffling of its rows
    would count the similarity of its predictions as evidence. Images are shuffled within their fold
    or, if folds share images, within connected folds. A missing response is 0 (the mean) and is
    shuffled too.

    `centred` are the predictions that have a response, minus the mean of their fold, where a caller
    has them.

    Encoders are not refitted for each shuffle. The p are exact if test images are never trained on;
    under cross-validation images are predicted from each other, and r of noise varies up to √2
    times more than under shuffles. On noise, ridge had p < .05 in 4 to 11 % of voxels and p < .005
    in 1 to 2.5 %.

    Returns
    -------
    array, shape (n_voxels,); NaN where r is undefined.
    """
    if len(predictions) == 0:
        return np.full(predictions.shape[1], np.nan)
    if centred is None:
        paired = np.where(np.isnan(targets.averages), np.nan, predictions)
        centred = centre_within_folds(paired, targets.folds)
    defined = np.flatnonzero(np.isfinite(metrics.correlation(centred, targets.centred)))
    p = np.full(predictions.shape[1], np.nan)
    if len(defined) == 0:
        return p
    rows, strata = _rows_of_images(targets), _strata(targets)
    _, first_row = np.unique(targets.images, return_index=True)
    summed = rows @ np.nan_to_num(centred)
    response = np.nan_to_num(centre_within_folds(targets.averages[first_row], strata))
    summed, response = _unit_columns(summed[:, defined]), _unit_columns(response[:, defined])
    p[defined] = shuffled_p_values(
        summed, response, strata, n_permutations=n_permutations, random_state=random_state
    )
    return p


def shuffled_p_values(
    predicted: np.ndarray,
    measured: np.ndarray,
    strata: Sequence[np.ndarray],
    *,
    n_permutations: int,
    random_state: Any,
) -> np.ndarray:
    """One-sided p of the sums of products of two arrays, when images of one are shuffled.

    Parameters
    ----------
    predicted, measured : array, shape (n_images, n_voxels), float32
    strata : list of int arrays
        Images that are shuffled with each other.
    n_permutations : int
    random_state : int, Generator or None

    Returns
    -------
    array, shape (n_voxels,)
    """
    n_images, n_voxels = predicted.shape
    counted = _counted
    if predicted.size * n_permutations >= _LARGE:
        from brainenc.benchmarking import _permuted  # Numba takes a second to import

        counted = _permuted.counted
    identity = np.arange(n_images, dtype=np.int32)[None]
    observed, _ = counted(predicted, measured, identity, np.zeros(n_voxels, np.float32))
    at_least = np.zeros(n_voxels, dtype=np.int64)
    orders = shuffles(strata, n_permutations, random_state=random_state)
    # Orders are drawn once for all voxels, some at a time.
    while some := list(islice(orders, max(1, _ORDER_ENTRIES // n_images))):
        _, count = counted(predicted, measured, np.stack(some).astype(np.int32), observed)
        at_least += count
    return permutation_p(observed, at_least, n_permutations)


def _counted(
    predicted: np.ndarray, measured: np.ndarray, orders: np.ndarray, observed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of products in the last order, and in how many orders they reach `observed`."""
    sums, count = np.empty_like(observed), np.zeros(observed.shape, dtype=np.int64)
    for voxels in blocks(len(observed), _SHUFFLE_ENTRIES // len(predicted)):
        fixed, moved = predicted[:, voxels].copy(), measured[:, voxels].copy()
        shuffled = np.empty_like(moved)
        for order in orders:
            np.take(moved, order, axis=0, out=shuffled, mode="clip")  # it does not copy first
            found = np.einsum("iv,iv->v", fixed, shuffled)
            count[voxels] += found >= observed[voxels]
        sums[voxels] = found
    return sums, count


def _rows_of_images(targets: Targets) -> csr_array:
    """Indicator (n_images, n_rows) of the rows of each image."""
    n_rows = len(targets.images)
    ones = np.ones(n_rows, dtype=np.float32)
    return csr_array((ones, (targets.images, np.arange(n_rows))))


def _strata(targets: Targets) -> list[np.ndarray]:
    """Images that may be exchanged: those of a fold, or of folds that share images."""
    n_images = targets.images.max() + 1
    n_nodes = n_images + len(targets.folds)
    ends = targets.images, n_images + targets.fold_of_row
    links = csr_array((np.ones(len(targets.images)), ends), (n_nodes, n_nodes))
    _, labels = connected_components(links, directed=False)
    return [np.flatnonzero(labels[:n_images] == label) for label in np.unique(labels[:n_images])]


def _unit_columns(centred: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (centred / np.linalg.norm(centred, axis=0)).astype(np.float32)
