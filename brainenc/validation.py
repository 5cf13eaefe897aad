"""Input checks: every error names the argument, its shape or value, and the remedy."""

from collections.abc import Sized
from typing import Any

import numpy as np

from brainenc.arrays import row_blocks

#: dtypes that are kept; other numeric dtypes are converted to float32.
FLOATS = (np.float32, np.float64)


def check_betas(
    betas: Any,
    *,
    n_images: int | None = None,
    n_voxels: int | None = None,
    name: str = "betas",
    values: bool = True,
) -> np.ndarray:
    """Betas as a float array with a repeat axis.

    Parameters
    ----------
    betas : array-like, shape (n_images,), (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
        NaN, or the mask of a masked array, marks a missing repeat. float32 and float64 keep
        their precision, integers become float32. One dimension means one voxel.
    n_images, n_voxels : int, optional
        Required number of rows, and of voxels: those an encoder was fitted to.
    name : str
        Name of the argument in errors.
    values : bool
        Whether to check the values too; otherwise the caller calls `check_beta_values`.

    Returns
    -------
    array, shape (n_images, n_repeats, n_voxels); a memory-mapped array stays memory-mapped.

    Raises
    ------
    TypeError : not numeric.
    ValueError : wrong number of dimensions, rows or voxels, no voxels, infinite values, or no
        finite value at all.
    """
    if betas is None:
        raise ValueError(
            f"{name} is missing (fit requires y to be passed, but the target y is None): "
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
    if n_voxels is not None and array.shape[2] != n_voxels:
        raise ValueError(
            f"{name} {array.shape} has {array.shape[2]} voxels, but the encoder was fitted to "
            f"{n_voxels}: give the betas of the same voxels"
        )
    if n_images is not None and len(array) != n_images:
        raise ValueError(
            f"{name} {array.shape} has {len(array)} rows, but there are {n_images} images: one row "
            "per image is needed. If betas has one row per trial, group them with "
            "EncodingData.from_trials first."
        )
    if values:
        check_beta_values(array, name)
    return array


def check_beta_values(array: np.ndarray, name: str = "betas") -> None:
    """Raise ValueError if betas are infinite or only NaN.

    It reads all betas, so callers that read them anyway may check their results first.
    """
    # fmin and fmax skip NaN and need no temporary array of the size of a memory map.
    extremes = [
        (np.fmin.reduce(block, axis=None), np.fmax.reduce(block, axis=None))
        for block in row_blocks(array)
    ]
    if np.isinf(extremes).any():
        raise ValueError(
            f"{name} contains infinite values (infinity): mark missing repeats with NaN, "
            "and check the scaling of the rest"
        )
    if np.isnan(extremes).all():
        raise ValueError(f"{name} {array.shape} contains nothing but NaN: there is nothing to fit")


def _numeric_array(values: Any, name: str) -> np.ndarray:
    if hasattr(values, "toarray"):
        raise TypeError(f"sparse {name} are not supported: pass {name}.toarray()")
    if isinstance(values, np.ma.MaskedArray):
        dtype = np.result_type(values.dtype, np.float32)
        values = np.ma.filled(values.astype(dtype), np.nan)
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be numeric, got dtype object: {error}") from None
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {array.dtype}")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be numeric, float32 for choice, got dtype {array.dtype}")
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
        raise ValueError(f"the same number of rows is needed in each, but {listing}")
    return next(iter(lengths.values()))


def check_index(index: Any, n: int, name: str) -> np.ndarray:
    """Boolean mask or integer index as non-negative integer positions.

    Parameters
    ----------
    index : array-like of bool, shape (n,), or of int
    n : int
        Length of the axis indexed.
    name : str
        Name of the argument in errors.

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
    if index.ndim != 1:
        raise ValueError(f"{name} {index.shape} must have one dimension")
    if index.min() < -n or index.max() >= n:
        raise ValueError(
            f"{name} has positions from {index.min()} to {index.max()}, outside 0 … {n - 1}"
        )
    return np.where(index < 0, index + n, index).astype(np.int64)


def check_features(estimator: Any, X: Any, *, reset: bool) -> np.ndarray:
    """Features as a float array; their shape is recorded on an estimator or compared with it.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Gets ``n_features_in_`` (and ``feature_names_in_`` of a DataFrame), and
        ``feature_shape_``.
    X : array-like, shape (n_images, n_features) or (n_images, n_tokens, width)
        float32 and float64 keep their precision, other numbers become float32; half-precision
        tokens are not converted, since those of many images exceed memory.
    reset : bool
        Record the shape, or compare it with the recorded one.

    Returns
    -------
    array of the shape of X

    Raises
    ------
    ValueError : NaN or infinite features, wrong number of dimensions or of features.
    """
    from sklearn.utils.validation import validate_data

    if not hasattr(X, "dtype") and not hasattr(X, "columns"):
        X = np.asarray(X)  # a list of floats gets the same precision as an array
    floats = isinstance(X, np.ndarray) and X.dtype.kind == "f" and X.ndim > 1
    if floats:
        _refuse_non_finite(X)
    half_tokens = [np.float16] if floats and X.ndim == 3 else []
    X = validate_data(
        estimator,
        X,
        reset=reset,
        dtype=[*FLOATS, *half_tokens],
        order="C",  # sums in another order differ in the last bit, which training amplifies
        allow_nd=True,
        ensure_all_finite=not floats,  # already checked in blocks
    )
    if X.ndim > 3:
        raise ValueError(
            f"features {X.shape} must be (n_images, n_features) or (n_images, n_tokens, width)"
        )
    check_feature_shape(estimator, X, reset=reset)
    return X


def _refuse_non_finite(X: np.ndarray) -> None:
    # In blocks, since tokens of many images exceed memory.
    finite = [np.isfinite(block).reshape(len(block), -1).all(axis=1) for block in row_blocks(X)]
    if finite and not np.concatenate(finite).all():
        bad = np.flatnonzero(~np.concatenate(finite))
        raise ValueError(
            f"features {X.shape} contain NaN or infinity for {len(bad)} images (first in row "
            f"{bad[0]}): correct or leave out those images"
        )


def check_feature_shape(estimator: Any, features: np.ndarray, *, reset: bool) -> None:
    """Record the shape of an image's features on an estimator, or compare it with the recorded one.

    Raises
    ------
    ValueError : it differs, for example because images have another size.
    """
    if reset:
        estimator.feature_shape_ = list(features.shape[1:])
    elif list(features.shape[1:]) != estimator.feature_shape_:
        raise ValueError(
            f"features {features.shape} do not fit: each image had "
            f"{tuple(estimator.feature_shape_)} when {type(estimator).__name__} was fitted; "
            "were the images of another size?"
        )
