"""Input checks: every error names the argument, its shape or value, and the way to mend it."""

from collections.abc import Sized
from typing import Any

import numpy as np

#: dtypes in which numbers are computed; everything else numeric is converted to float32.
FLOATS = (np.float32, np.float64)


def check_betas(betas: Any, *, n_images: int | None = None, name: str = "betas") -> np.ndarray:
    """Betas as a float array with a repeat axis.

    Parameters
    ----------
    betas : array-like, shape (n_images,), (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
        NaN marks a missing repeat. float32 and float64 keep their precision, integers become
        float32. One dimension means one voxel.
    n_images : int, optional
        Number of rows wanted.
    name : str
        What to call the argument in errors.

    Returns
    -------
    array, shape (n_images, n_repeats, n_voxels); a memory-mapped array stays memory-mapped.

    Raises
    ------
    TypeError : not numeric.
    ValueError : wrong number of dimensions or rows, no voxels, infinite values, or no finite
        value at all.
    """
    if betas is None:
        raise ValueError(
            f"requires {name} to be passed, but the target y is None: "
            f"give an array of shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)"
        )
    array = _numeric_array(betas, name)
    if array.ndim == 0 or array.ndim > 3:
        raise ValueError(
            f"{name} {array.shape} must be (n_images, n_voxels) or (n_images, n_repeats, n_voxels)"
        )
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim == 2:
        array = array[:, None, :]
    if 0 in array.shape:
        raise ValueError(f"{name} {array.shape} is empty: it needs images, repeats and voxels")
    if n_images is not None and len(array) != n_images:
        raise ValueError(
            f"{name} has {len(array)} rows and images {n_images}, but they must have one row per "
            "image each. If betas has one row per trial, group them with "
            "EncodingData.from_trials first."
        )
    any_finite = False
    for row in array:  # row by row: a memory-mapped array is never copied whole
        if np.isinf(row).any():
            raise ValueError(
                f"{name} contains infinite values (infinity): mark missing repeats with NaN, "
                "and check the scaling of the rest"
            )
        any_finite = any_finite or bool(np.isfinite(row).any())
    if not any_finite:
        raise ValueError(f"{name} {array.shape} contains nothing but NaN: there is nothing to fit")
    return array


def _numeric_array(values: Any, name: str) -> np.ndarray:
    if hasattr(values, "toarray"):
        raise TypeError(f"sparse {name} are not supported: pass {name}.toarray()")
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be numeric, got dtype object: {error}") from None
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {array.dtype}")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be numeric (float32 at best), got dtype {array.dtype}")
    return array if array.dtype in FLOATS else array.astype(np.float32)


def check_same_length(**arguments: Sized) -> int:
    """Common number of rows of the named arguments.

    Raises
    ------
    ValueError : the numbers differ; the message lists them by name.
    """
    lengths = {name: len(value) for name, value in arguments.items()}
    if len(set(lengths.values())) > 1:
        listing = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"one row per image is needed in each, but {listing} rows")
    return next(iter(lengths.values()))


def check_index(index: Any, n: int, name: str) -> np.ndarray:
    """Boolean mask or integer index as non-negative integer positions.

    Parameters
    ----------
    index : array-like of bool, shape (n,), or of int
    n : int
        Length of the axis indexed.
    name : str
        What to call the argument in errors.

    Returns
    -------
    array of int, shape (n_selected,)

    Raises
    ------
    ValueError : a mask of another length, nothing selected, or a position outside the axis.
    TypeError : neither bool nor int.
    """
    index = np.atleast_1d(np.asarray(index))
    if index.dtype == bool:
        if index.shape != (n,):
            raise ValueError(f"{name} is a mask of shape {index.shape}, but {n} entries are wanted")
        index = np.flatnonzero(index)
    elif index.size and index.dtype.kind not in "iu":
        raise TypeError(f"{name} must be a boolean mask or integer positions, got {index.dtype}")
    if index.size == 0:
        raise ValueError(f"{name} selects nothing of {n}")
    if index.ndim != 1 or index.min() < -n or index.max() >= n:
        raise ValueError(f"{name} has positions outside 0 … {n - 1}")
    return np.where(index < 0, index + n, index).astype(np.int64)
