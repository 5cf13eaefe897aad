"""Weighted sums over images, from which all voxelwise scores are computed in one pass.

Correlation, R² and noise variance are short formulas of sums over images. The sums are computed
here by chunks, so that memory-mapped arrays are read once, in order; the arithmetic is a matrix
product of weights (one row per bootstrap) with per-image statistics. If every image of a large
array counts once, `brainenc.metrics._compiled` computes the same sums faster.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.arrays import blocks
from brainenc.numeric import as_doubles, as_numbers

#: Entries of one array of sums (n_sets × voxels of a block): 2 MiB of float64.
_SUM_ENTRIES = 2**18
#: Smallest size of arrays for compiled code, which takes a second to load.
_LARGE = 2**23
#: Images and voxels of a chunk of statistics.
_PRODUCT_IMAGES, _PRODUCT_VOXELS = 256, 256
#: A variance below this share of the second moment is round-off.
CANCELLATION = 1e-12

#: Per-image statistics of some images and voxels, which are summed over images.
Statistics = Callable[[slice, slice], Sequence[np.ndarray]]


def weighted_sums(
    statistics: Statistics, weights: NDArray[np.float64], n_voxels: int
) -> Iterator[tuple[slice, list[NDArray[np.float64]]]]:
    """Sums over images of per-image statistics, for every set of weights.

    Parameters
    ----------
    statistics : callable (images, voxels) -> arrays of shape (n, v) or (n, 1)
        Called with two slices; (n, 1) means the statistic is the same for all voxels.
    weights : array, shape (n_sets, n_images)
    n_voxels : int

    Yields
    ------
    voxels : slice
    sums : list of arrays, shape (n_sets, v) or (n_sets, 1), one per statistic.
    """
    n_sets, n_images = weights.shape
    for voxels in blocks(n_voxels, sum_block(n_sets)):
        sums: list[Any] = []
        for images in blocks(n_images, _PRODUCT_IMAGES):
            with np.errstate(invalid="ignore", over="ignore"):
                parts = [weights[:, images] @ s for s in statistics(images, voxels)]
            sums = add_in_place(sums, parts)
        yield voxels, sums


def add_in_place(sums: list[np.ndarray], parts: list[np.ndarray]) -> list[np.ndarray]:
    """Sums with parts added, without new arrays; the parts themselves if there are no sums yet.

    Examples
    --------
    >>> add_in_place([np.array([1.0, 2.0])], [np.array([0.5, 0.5])])
    [array([1.5, 2.5])]
    """
    for i, part in enumerate(parts if sums else []):
        if sums[i].shape == part.shape:
            sums[i] += part
        else:  # a part that is the same for all voxels, and one that is not
            sums[i] = sums[i] + part
    return sums or parts


def sum_block(n_sets: int) -> int:
    """Number of voxels that `weighted_sums` sums at a time."""
    return max(1, min(_PRODUCT_VOXELS, _SUM_ENTRIES // n_sets))


def suits_compiled(array: np.ndarray, weights: NDArray[np.float64]) -> bool:
    """Whether the array is large and there is one set, in which every image counts once."""
    return array.size >= _LARGE and len(weights) == 1 and bool((weights == 1).all())


def n_threads() -> int:
    """Number of threads for a computation: that of matrix products, or all cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else joblib.cpu_count()


def first_finite(array: np.ndarray, n_rows: int = 64) -> NDArray[np.float64]:
    """First finite entry of each column among the first rows, 0 if there is none.

    Sums are taken about it: large voxel means then lose no digits, and a constant voxel is exactly
    zero. Any value near the data would work.
    """
    head = np.asarray(array[:n_rows], dtype=np.float64).reshape(-1, array.shape[-1])
    finite = np.isfinite(head)
    first = finite.argmax(axis=0)[None]
    return np.where(finite.any(axis=0), np.take_along_axis(head, first, axis=0)[0], 0.0)


def round_off(array: np.ndarray, size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of values of magnitude `size` due to rounding in the dtype of `array`."""
    epsilon = np.finfo(array.dtype).eps if array.dtype.kind == "f" else 0.0
    return (8 * float(epsilon) * size) ** 2


def variance(w: Any, x: Any, xx: Any, floor: Any = 0.0) -> NDArray[np.float64]:
    """Variance from Σw, Σwx and Σwx²; NaN if it is only round-off."""
    second_moment = xx / w
    result = second_moment - (x / w) ** 2
    return np.where(result > CANCELLATION * second_moment + floor, result, np.nan)


def pearson(
    sums: Sequence[NDArray[np.float64]], x_floor: Any = 0.0, y_floor: Any = 0.0
) -> NDArray[np.float64]:
    """Pearson r from Σw, Σwx, Σwy, Σwx², Σwy² and Σwxy.

    NaN where either side is constant or the weights are zero.
    """
    w, x, y, xx, yy, xy = sums
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        covariance = xy / w - (x / w) * (y / w)
        scale = np.sqrt(variance(w, x, xx, x_floor) * variance(w, y, yy, y_floor))
        return covariance / scale


def check_pair(predictions: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets as arrays of floats of one shape (n_images, n_voxels).

    Raises
    ------
    ValueError : not two-dimensional, of different shapes, or empty.
    TypeError : not numeric.
    """
    predictions, targets = (
        check_matrix(predictions, "predictions"),
        check_matrix(targets, "targets"),
    )
    if predictions.shape != targets.shape:
        hint = ""
        if predictions.shape == targets.shape[::-1]:
            hint = ": one of them is transposed"
        raise ValueError(
            f"predictions {predictions.shape} and targets {targets.shape} must have the same "
            f"shape (n_images, n_voxels){hint}"
        )
    return predictions, targets


def check_matrix(values: ArrayLike, name: str) -> np.ndarray:
    """`values` as an array of floats (n_images, n_voxels); see `as_numbers`.

    Raises
    ------
    ValueError : not two-dimensional, or empty.
    TypeError : not numeric.
    """
    array = as_numbers(values, name)
    if array.ndim == 3:
        raise ValueError(
            f"{name} {array.shape} must be (n_images, n_voxels): average the repeats first "
            "(brainenc.repeats.average_repeats)"
        )
    if array.ndim != 2 or array.size == 0:
        raise ValueError(
            f"{name} {array.shape} must be (n_images, n_voxels), with at least one of each; "
            "a single voxel is [:, None]"
        )
    return array


def check_weights(weights: ArrayLike | None, n_images: int) -> NDArray[np.float64]:
    """Weights of the images in each set; one set of ones for None.

    Raises
    ------
    ValueError : wrong shape, or negative or non-finite entries.
    """
    if weights is None:
        return np.ones((1, n_images))
    array = as_doubles(weights, "weights")
    if array.ndim != 2 or array.shape[1] != n_images or len(array) == 0:
        raise ValueError(
            f"weights {array.shape} must be (n_sets, n_images) with n_images = {n_images}; "
            "for one set, pass weights[None]"
        )
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError("weights must be finite and not negative: they count images of a resample")
    return array
