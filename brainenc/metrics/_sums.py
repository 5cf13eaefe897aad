"""Weighted sums over images: the one pass over the data that every voxelwise number shares.

A correlation, an R², a noise variance are all short formulas on sums over images. The sums are
gathered here chunk by chunk, so that memory-mapped arrays are read once, in order, and the
arithmetic is a matrix product of weights (one row per bootstrap) with per-image statistics.

Where every image counts once, sums of float32 arrays with many voxels are taken in float32 over a
few dozen images at a time, about a value near the voxel's mean, and added up in float64: each is
good to some 1e-7.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Entries of one array of sums (n_sets × voxels of a block): 2 MiB of float64.
_SUM_ENTRIES = 2**18
#: Entries of one chunk of statistics (images × voxels): 1 MiB of float32 stays in the cache of a
#: core.
_CHUNK_ENTRIES = 2**18
#: Voxels of a chunk where every image counts once: rows that are read whole are read twice as fast
#: as parts of them.
_PLAIN_VOXELS = 2**14
#: Fewest voxels summed in float32: chunks of fewer have more than 64 images, whose sums are worse.
_SINGLE_VOXELS = 2**12
#: Voxels with smaller values than this (but 0) are left to double precision: squares underflow.
_SMALLEST_SINGLE = 1e-10
#: Parts of the images that threads take, and arrays (images × voxels) large enough to share out.
_N_PARTS, _PARALLEL_ENTRIES = 8, 2**23
#: Images and voxels of a chunk where it is multiplied with many sets.
_PRODUCT_IMAGES, _PRODUCT_VOXELS = 512, 256
#: A variance below this share of the second moment it is left from is round-off.
_CANCELLATION = 1e-12

#: What is summed over images: an array, or the product of two.
Statistic = np.ndarray | tuple[np.ndarray, np.ndarray]
Statistics = Callable[[slice, slice], Sequence[Statistic]]


def blocks(n: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` (and at least 1) that cover ``range(n)``."""
    size = max(1, size)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def weighted_sums(
    statistics: Statistics,
    weights: NDArray[np.float64],
    n_voxels: int,
    *,
    quick: Statistics | None = None,
) -> Iterator[tuple[slice, list[NDArray[np.float64]]]]:
    """Sums over images of per-image statistics, for every set of weights.

    Parameters
    ----------
    statistics : callable (images, voxels) -> arrays of shape (n, v) or (n, 1)
        Called with two slices; (n, 1) means the statistic is the same for all voxels. A pair of
        arrays stands for their product. Voxels are positions, not a slice, after `quick`.
    weights : array, shape (n_sets, n_images)
    n_voxels : int
    quick : callable, optional
        The same in float32, with no regard to missing values: used if every image counts once. Of
        voxels in which a sum of it is not finite, `statistics` are summed.

    Yields
    ------
    voxels : slice
    sums : list of arrays, shape (n_sets, v) or (n_sets, 1), one per statistic.
    """
    n_sets, n_images = weights.shape
    if counts_all_once(weights):
        yield from _plain_sums(statistics, n_images, n_voxels, quick)
        return
    for voxels in blocks(n_voxels, min(_PRODUCT_VOXELS, _SUM_ENTRIES // n_sets)):
        sums: list[Any] = []
        for images in blocks(n_images, _PRODUCT_IMAGES):
            with np.errstate(invalid="ignore", over="ignore"):
                parts = [_sum(weights[:, images], s) for s in statistics(images, voxels)]
            sums = [s + part for s, part in zip(sums, parts, strict=True)] if sums else parts
        yield voxels, sums


def _plain_sums(
    statistics: Statistics, n_images: int, n_voxels: int, quick: Statistics | None
) -> Iterator[tuple[slice, list[NDArray[np.float64]]]]:
    """`weighted_sums` where every image counts once: files are read in order, row after row."""
    voxel_blocks = list(blocks(n_voxels, _PLAIN_VOXELS))
    n_rows = _CHUNK_ENTRIES // min(n_voxels, _PLAIN_VOXELS)

    def of_part(part: slice) -> list[list[Any]]:
        sums: list[list[Any]] = [[] for _ in voxel_blocks]
        for rows in blocks(part.stop - part.start, n_rows):
            images = slice(part.start + rows.start, part.start + rows.stop)
            for i, voxels in enumerate(voxel_blocks):
                with np.errstate(invalid="ignore", over="ignore"):
                    found = [_plain_sum(s) for s in (quick or statistics)(images, voxels)]
                    if quick is not None:
                        found = _mended(found, statistics, images, voxels)
                    sums[i] = _added(sums[i], found)
        return sums

    # Into how many parts images go must not depend on the machine, or sums would.
    n_parts = _N_PARTS if n_images * n_voxels >= _PARALLEL_ENTRIES else 1
    parts = list(blocks(n_images, -(-n_images // n_parts)))
    with ThreadPoolExecutor(min(n_parts, n_threads())) as pool:
        totals = functools.reduce(
            lambda a, b: [_added(*pair) for pair in zip(a, b, strict=True)],
            pool.map(of_part, parts),
        )
    yield from zip(voxel_blocks, totals, strict=True)


def _added(sums: list[Any], more: list[Any]) -> list[Any]:
    return [s + part for s, part in zip(sums, more, strict=True)] if sums else more


def n_threads() -> int:
    """Threads that a computation may take: as many as matrix products take, or all cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else joblib.cpu_count()


def _mended(
    parts: list[np.ndarray], statistics: Statistics, images: slice, voxels: slice
) -> list[NDArray[np.float64]]:
    """Sums in float64, of `statistics` where they are not finite."""
    finite = functools.reduce(np.logical_and, map(np.isfinite, parts))
    if finite.all():
        return [part.astype(np.float64) for part in parts]
    parts = [np.broadcast_to(part, finite.shape).astype(np.float64) for part in parts]
    bad = np.flatnonzero(~finite[0])
    again = statistics(images, voxels.start + bad if len(bad) < finite.size else voxels)
    for part, statistic in zip(parts, again, strict=True):
        part[:, bad] = _plain_sum(statistic)
    return parts


def counts_all_once(weights: NDArray[np.float64]) -> bool:
    """Whether there is one set, in which every image counts once."""
    return len(weights) == 1 and bool((weights == 1).all())


def _sum(weights: NDArray[np.float64], statistic: Statistic) -> NDArray[np.float64]:
    if isinstance(statistic, tuple):
        statistic = statistic[0] * statistic[1]
    return weights @ statistic


def _plain_sum(statistic: Statistic) -> NDArray[np.float64]:
    """Sum over images, (1, v); of a product without an array for it."""
    if isinstance(statistic, tuple):
        total = np.einsum("iv,iv->v", *statistic)
    elif statistic.dtype.kind == "f":
        total = np.ones(len(statistic), statistic.dtype) @ statistic
    else:
        total = statistic.sum(axis=0)
    return total[None]


class Differences:
    """Arrays minus values of each voxel, each in the memory of the one before.

    Fresh memory for every chunk would cost several times what is done with it. Every thread has
    its own.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def __call__(
        self, chunk: np.ndarray, subtrahend: np.ndarray, dtype: Any = np.float64
    ) -> np.ndarray:
        """`chunk` − `subtrahend`; overwritten by the next call."""
        memory = getattr(self._of_thread, "memory", np.empty(0))
        if memory.size < chunk.size:
            memory = self._of_thread.memory = np.empty(chunk.size)
        out = memory.view(dtype)[: chunk.size].reshape(chunk.shape)
        return np.subtract(chunk, subtrahend, out=out, dtype=dtype)


def lacks_values(chunk: np.ndarray) -> bool:
    """Whether there is a NaN in (..., n_voxels), at the cost of a sum."""
    rows = chunk.reshape(-1, chunk.shape[-1])
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isnan(np.ones(len(rows)) @ rows).any())


def first_finite(array: np.ndarray, n_rows: int = 64) -> NDArray[np.float64]:
    """First finite entry of each column among the first rows, 0 where there is none.

    Sums are taken about it: large voxel means then cost no digits, and a constant voxel is
    exactly zero. Any value near the data would do.
    """
    head = np.asarray(array[:n_rows], dtype=np.float64).reshape(-1, array.shape[-1])
    finite = np.isfinite(head)
    first = finite.argmax(axis=0)[None]
    return np.where(finite.any(axis=0), np.take_along_axis(head, first, axis=0)[0], 0.0)


def suits_single(*arrays: np.ndarray) -> bool:
    """Whether sums about `head_mean` may be taken in float32."""
    if any(array.dtype != np.float32 or array.shape[-1] < _SINGLE_VOXELS for array in arrays):
        return False
    heads = (np.abs(array[:64]).reshape(-1, array.shape[-1]) for array in arrays)
    largest = np.stack([np.fmax.reduce(head, axis=0, initial=0) for head in heads])
    return bool(((largest == 0) | (largest > _SMALLEST_SINGLE)).all())


def head_mean(array: np.ndarray, n_rows: int = 64) -> np.ndarray:
    """Mean of the finite entries of each column among the first rows, in float32; 0 without any.

    As `first_finite`, but never far from the data: one outlier would cost sums in float32 digits.
    """
    head = np.asarray(array[:n_rows], dtype=np.float64).reshape(-1, array.shape[-1])
    finite = np.isfinite(head)
    mean = np.where(finite, head, 0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
    return mean.astype(np.float32)


def round_off(array: np.ndarray, size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance that values of magnitude `size` can show from the dtype of `array` alone."""
    epsilon = np.finfo(array.dtype).eps if array.dtype.kind == "f" else 0.0
    return (8 * float(epsilon) * size) ** 2


def variance(w: Any, x: Any, xx: Any, floor: Any = 0.0) -> NDArray[np.float64]:
    """Variance from Σw, Σwx and Σwx²; NaN where it is no more than round-off."""
    second_moment = xx / w
    result = second_moment - (x / w) ** 2
    return np.where(result > _CANCELLATION * second_moment + floor, result, np.nan)


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
