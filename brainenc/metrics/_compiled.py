"""Compiled sums over images of large arrays, limited only by the speed of reading.

These are the sums of `weighted_sums` for one set in which every image counts once. Rows are read
once, in order, and summed in double precision by machine code that Numba compiles at the first use
(and caches on disk). If the sum of a chunk of images is NaN, the chunk is summed again by a version
that leaves out missing values.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainenc.arrays import blocks
from brainenc.machine_code import compiled
from brainenc.metrics.sums import n_threads

#: Entries of a chunk of an array (images × voxels): 16 MiB of float32.
_ENTRIES = 2**22
#: Voxels per loop: their sums stay in the innermost cache.
_VOXELS = 1024
#: Parts of the images for threads; fixed, so that sums do not depend on the number of threads.
_N_PARTS = 8
#: Images whose terms are added before they enter the sums.
_AT_ONCE = 4

_Kernel = Callable[..., NDArray[np.float64]]


class _Kernels(NamedTuple):
    complete: _Kernel
    with_gaps: _Kernel


def moments(
    predictions: np.ndarray, targets: np.ndarray, x_shift: np.ndarray, y_shift: np.ndarray
) -> dict[str, NDArray[np.float64]]:
    """Sums of 1, x, y, x², y² and xy over the images with a target.

    Parameters
    ----------
    predictions, targets : array, shape (n_images, n_voxels)
        NaN in `targets` leaves that image out for that voxel.
    x_shift, y_shift : array, shape (n_voxels,)
        x and y are `predictions` and `targets` minus these.

    Returns
    -------
    dict of "1", "x", "y", "xx", "yy", "xy" to array, shape (n_voxels,)
    """
    sums = _over_images(
        _MOMENTS, [predictions, targets], [x_shift, y_shift], fill=[x_shift, y_shift]
    )
    return dict(zip(("1", "x", "y", "xx", "yy", "xy"), sums, strict=True))


def errors(
    predictions: np.ndarray, targets: np.ndarray, y_shift: np.ndarray
) -> dict[str, NDArray[np.float64]]:
    """Sums of 1, y, y² and e², with e = prediction − target; otherwise as `moments`."""
    sums = _over_images(_ERRORS, [predictions, targets], [y_shift], fill=[y_shift, y_shift])
    return dict(zip(("1", "y", "yy", "ee"), sums, strict=True))


def repeats(betas: np.ndarray, shift: np.ndarray) -> NDArray[np.float64]:
    """Sums for variances, over images with n trials of sum t and sum of squares q about `shift`.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels), NaN where a repeat is missing
    shift : array, shape (n_voxels,)

    Returns
    -------
    array, shape (7, n_voxels): Σ(n > 0), Σn, Σn², Σ1/n, Σt, Σt²/n, Σq.
    """
    return _over_images(_REPEATS, [betas], [shift])


def _over_images(
    kernels: _Kernels,
    arrays: list[np.ndarray],
    shifts: list[np.ndarray],
    *,
    fill: Sequence[np.ndarray] = (),
) -> NDArray[np.float64]:
    """Sums (n_sums, n_voxels) of the kernels over all images.

    With `fill`, images come in groups of `_AT_ONCE`: the last group is padded with images of these
    values, which change only the count, the first of the sums.
    """
    single = all(array.dtype == np.float32 for array in arrays)
    dtype = np.float32 if single else np.float64
    n_images = len(arrays[0])
    n_rows = max(1, _ENTRIES * n_images // arrays[0].size // _AT_ONCE) * _AT_ONCE

    def of_chunk(images: slice) -> NDArray[np.float64]:
        chunk = [array[images] for array in arrays]
        n_more = -len(chunk[0]) % _AT_ONCE if fill else 0
        if n_more:
            chunk = [
                np.concatenate([part, np.broadcast_to(values, (n_more, len(values)))], dtype=dtype)
                for part, values in zip(chunk, fill, strict=True)
            ]
        chunk = [_prepared(part, dtype) for part in chunk]
        sums = kernels.complete(*chunk, *shifts)
        if not np.isfinite(sums).all():
            sums = kernels.with_gaps(*chunk, *shifts)
        sums[0] -= n_more
        return sums

    def of_part(part: slice) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", over="ignore"):
            chunks = blocks(part.stop - part.start, n_rows)
            starts = ((part.start + rows.start, part.start + rows.stop) for rows in chunks)
            return functools.reduce(np.add, (of_chunk(slice(*ends)) for ends in starts))

    parts = list(blocks(n_images, -(-n_images // _N_PARTS)))
    with ThreadPoolExecutor(min(len(parts), n_threads())) as pool:
        return functools.reduce(np.add, pool.map(of_part, parts))


def _prepared(chunk: np.ndarray, dtype: type) -> np.ndarray:
    """Array in row order and read-only, like files: Numba would compile other code otherwise."""
    prepared: np.ndarray = np.asarray(chunk, dtype, order="C").view()
    prepared.flags.writeable = False
    return prepared


# Kernels. Inner loops run over voxels and are vectorised, with four images at a time. `gaps` is a
# constant for the compiler: if it is False, tests for NaN are removed.


@compiled
def _deviations(gaps, x, y, x_shift, y_shift):
    if gaps and np.isnan(y):
        return 0.0, 0.0, 0.0
    return 1.0, np.float64(x) - x_shift, np.float64(y) - y_shift


@compiled
def _deviation_and_error(gaps, x, y, y_shift):
    if gaps and np.isnan(y):
        return 0.0, 0.0, 0.0
    return 1.0, np.float64(y) - y_shift, np.float64(x) - np.float64(y)


def _moments(gaps: bool) -> _Kernel:
    @compiled
    def kernel(x, y, x_shift, y_shift):
        n_images, n_voxels = x.shape
        sums = np.zeros((6, n_voxels))
        for start in range(0, n_voxels, _VOXELS):
            v = slice(start, min(start + _VOXELS, n_voxels))
            sx, sy = x_shift[v], y_shift[v]
            sum_1, sum_x, sum_y = sums[0, v], sums[1, v], sums[2, v]
            sum_xx, sum_yy, sum_xy = sums[3, v], sums[4, v], sums[5, v]
            for i in range(0, n_images, _AT_ONCE):
                x0, x1, x2, x3 = x[i, v], x[i + 1, v], x[i + 2, v], x[i + 3, v]
                y0, y1, y2, y3 = y[i, v], y[i + 1, v], y[i + 2, v], y[i + 3, v]
                for j in range(len(sx)):
                    n0, a0, b0 = _deviations(gaps, x0[j], y0[j], sx[j], sy[j])
                    n1, a1, b1 = _deviations(gaps, x1[j], y1[j], sx[j], sy[j])
                    n2, a2, b2 = _deviations(gaps, x2[j], y2[j], sx[j], sy[j])
                    n3, a3, b3 = _deviations(gaps, x3[j], y3[j], sx[j], sy[j])
                    sum_1[j] += n0 + n1 + n2 + n3
                    sum_x[j] += a0 + a1 + a2 + a3
                    sum_y[j] += b0 + b1 + b2 + b3
                    sum_xx[j] += a0 * a0 + a1 * a1 + a2 * a2 + a3 * a3
                    sum_yy[j] += b0 * b0 + b1 * b1 + b2 * b2 + b3 * b3
                    sum_xy[j] += a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3
        return sums

    return kernel


def _errors(gaps: bool) -> _Kernel:
    @compiled
    def kernel(x, y, y_shift):
        n_images, n_voxels = x.shape
        sums = np.zeros((4, n_voxels))
        for start in range(0, n_voxels, _VOXELS):
            v = slice(start, min(start + _VOXELS, n_voxels))
            sy = y_shift[v]
            sum_1, sum_y, sum_yy, sum_ee = sums[0, v], sums[1, v], sums[2, v], sums[3, v]
            for i in range(0, n_images, _AT_ONCE):
                x0, x1, x2, x3 = x[i, v], x[i + 1, v], x[i + 2, v], x[i + 3, v]
                y0, y1, y2, y3 = y[i, v], y[i + 1, v], y[i + 2, v], y[i + 3, v]
                for j in range(len(sy)):
                    n0, b0, e0 = _deviation_and_error(gaps, x0[j], y0[j], sy[j])
                    n1, b1, e1 = _deviation_and_error(gaps, x1[j], y1[j], sy[j])
                    n2, b2, e2 = _deviation_and_error(gaps, x2[j], y2[j], sy[j])
                    n3, b3, e3 = _deviation_and_error(gaps, x3[j], y3[j], sy[j])
                    sum_1[j] += n0 + n1 + n2 + n3
                    sum_y[j] += b0 + b1 + b2 + b3
                    sum_yy[j] += b0 * b0 + b1 * b1 + b2 * b2 + b3 * b3
                    sum_ee[j] += e0 * e0 + e1 * e1 + e2 * e2 + e3 * e3
        return sums

    return kernel


def _repeats(gaps: bool) -> _Kernel:
    @compiled
    def kernel(betas, shift):
        n_images, n_repeats, n_voxels = betas.shape
        share_of_all = 1 / n_repeats
        sums = np.zeros((7, n_voxels))
        counts, totals = np.empty(_VOXELS), np.empty(_VOXELS)
        for start in range(0, n_voxels, _VOXELS):
            v = slice(start, min(start + _VOXELS, n_voxels))
            s = shift[v]
            n, t = counts[: len(s)], totals[: len(s)]
            sum_1, sum_n, sum_nn, sum_share = sums[0, v], sums[1, v], sums[2, v], sums[3, v]
            sum_t, between, squares = sums[4, v], sums[5, v], sums[6, v]
            for i in range(n_images):
                t[:] = 0
                if gaps:
                    n[:] = 0
                for r in range(n_repeats):
                    y = betas[i, r, v]
                    for j in range(len(s)):
                        here = not (gaps and np.isnan(y[j]))
                        deviation = np.float64(y[j]) - s[j] if here else 0.0
                        t[j] += deviation
                        squares[j] += deviation * deviation
                        if gaps:
                            n[j] += 1.0 if here else 0.0
                for j in range(len(s)):
                    sum_t[j] += t[j]
                    if gaps:
                        seen, share = (1.0, 1 / n[j]) if n[j] > 0 else (0.0, 0.0)
                        sum_1[j] += seen
                        sum_n[j] += n[j]
                        sum_nn[j] += n[j] * n[j]
                        sum_share[j] += share
                        between[j] += t[j] * t[j] * share
                    else:
                        between[j] += t[j] * t[j] * share_of_all
        if not gaps:
            sums[0] = n_images
            sums[1] = n_images * n_repeats
            sums[2] = n_images * n_repeats**2
            sums[3] = n_images * share_of_all
        return sums

    return kernel


_MOMENTS, _ERRORS, _REPEATS = (
    _Kernels(make(False), make(True)) for make in (_moments, _errors, _repeats)
)
