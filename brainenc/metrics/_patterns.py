"""Patterns over voxels, standardised for correlation by a matrix product."""

import numpy as np
from numpy.typing import DTypeLike, NDArray

from brainenc.arrays import blocks


def finite_voxels(**arrays: np.ndarray) -> NDArray[np.bool_]:
    """Voxels that are finite for all images in every array.

    Returns
    -------
    array of bool, shape (n_voxels,)

    Raises
    ------
    ValueError : there are none.
    """
    keep = np.ones(next(iter(arrays.values())).shape[1], dtype=bool)
    for array in arrays.values():
        for images in blocks(len(array), 2**16 // array.shape[1]):
            keep &= np.isfinite(array[images]).all(axis=0)
    if not keep.any():
        raise ValueError(
            f"no voxel is finite for all images in {' and '.join(arrays)}: leave out the images or "
            "voxels without data first"
        )
    return keep


def unit_patterns(
    responses: np.ndarray, voxels: NDArray[np.bool_], dtype: DTypeLike | None = None
) -> np.ndarray:
    """Patterns centred across the kept voxels and scaled to length 1: products are Pearson r.

    Parameters
    ----------
    responses : array, shape (n_images, n_voxels)
    voxels : array of bool, shape (n_voxels,)
    dtype : dtype, optional
        By default float32 for float32 responses and float64 otherwise.

    Returns
    -------
    array, shape (n_images, n_kept)
        A row of NaN where the pattern is constant up to round-off.
    """
    epsilon = np.finfo(np.float32 if responses.dtype == np.float32 else np.float64).eps
    if dtype is None:
        dtype = np.float32 if responses.dtype == np.float32 else np.float64
    units = np.empty((len(responses), int(voxels.sum())), dtype=dtype)
    for images in blocks(len(responses), 2**16 // responses.shape[1]):
        pattern = np.array(responses[images], dtype=np.float64)
        if not voxels.all():
            pattern = pattern[:, voxels]
        size = np.sqrt(np.einsum("iv,iv->i", pattern, pattern))
        pattern -= pattern.mean(axis=1, keepdims=True)
        length = np.sqrt(np.einsum("iv,iv->i", pattern, pattern))
        length[length <= 8 * epsilon * size] = np.nan
        units[images] = pattern / length[:, None]
    return units


def tie_tolerance(*units: np.ndarray) -> float:
    """Difference below which two correlations count as equal: round-off of the product."""
    return 1e-6 if any(array.dtype == np.float32 for array in units) else 1e-12
