"""Weighted sums over images: the one pass over the data that every voxelwise number shares.

A correlation, an R², a noise variance are all short formulas on sums over images. The sums are
gathered here chunk by chunk, so that memory-mapped arrays are read once, in order, and the
arithmetic is a matrix product of weights (one row per bootstrap) with per-image statistics. Where
every image of a large array counts once, `brainenc.metrics._compiled` takes the same sums faster.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.arrays import blocks

#: Entries of one array of sums (n_sets × voxels of a block): 2 MiB of float64.
_SUM_ENTRIES = 2**18
#: Entries of arrays that are worth the second which loading compiled code takes.
_LARGE = 2**23
#: Images and voxels of a chunk of statistics.
_PRODUCT_IMAGES, _PRODUCT_VOXELS = 256, 256
#: A variance below this share of the second moment it is left from is round-off.
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
    for voxels in blocks(n_voxels, min(_PRODUCT_VOXELS, _SUM_ENTRIES // n_sets)):
        sums: list[Any] = []
        for images in blocks(n_images, _PRODUCT_IMAGES):
            with np.errstate(invalid="ignore", over="ignore"):
                parts = [weights[:, images] @ s for s in statistics(images, voxels)]
            sums = [s + part for s, part in zip(sums, parts, strict=True)] if sums else parts
        yield voxels, sums


def suits_compiled(array: np.ndarray, weights: NDArray[np.float64]) -> bool:
    """Whether there is one set, in which every image counts once, of a large array."""
    return array.size >= _LARGE and len(weights) == 1 and bool((weights == 1).all())


def n_threads() -> int:
    """Threads that a computation may take: as many as matrix products take, or all cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else joblib.cpu_count()


def first_finite(array: np.ndarray, n_rows: int = 64) -> NDArray[np.float64]:
    """First finite entry of each column among the first rows, 0 where there is none.

    Sums are taken about it: large voxel means then cost no digits, and a constant voxel is
    exactly zero. Any value near the data would do.
    """
    head = np.asarray(array[:n_rows], dtype=np.float64).reshape(-1, array.shape[-1])
    finite = np.isfinite(head)
    first = finite.argmax(axis=0)[None]
    return np.where(finite.any(axis=0), np.take_along_axis(head, first, axis=0)[0], 0.0)


def round_off(array: np.ndarray, size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance that values of magnitude `size` can show from the dtype of `array` alone."""
    epsilon = np.finfo(array.dtype).eps if array.dtype.kind == "f" else 0.0
    return (8 * float(epsilon) * size) ** 2


def variance(w: Any, x: Any, xx: Any, floor: Any = 0.0) -> NDArray[np.float64]:
    """Variance from Σw, Σwx and Σwx²; NaN where it is no more than round-off."""
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
    """Predictions and targets as numeric arrays of one shape (n_images, n_voxels).

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
    """`values` as a numeric array (n_images, n_voxels), not copied if it is one already.

    Raises
    ------
    ValueError : not two-dimensional, or empty.
    TypeError : not numeric.
    """
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be numeric, got dtype {array.dtype}")
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
    array = np.asarray(weights, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != n_images or len(array) == 0:
        raise ValueError(
            f"weights {array.shape} must be (n_sets, n_images) with n_images = {n_images}; "
            "for one set, pass weights[None]"
        )
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError("weights must be finite and not negative: they count images of a resample")
    return array
