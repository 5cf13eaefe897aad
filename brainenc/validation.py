"""Input checks: every error names the argument, its shape or value, and the remedy."""

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np

from brainenc.arrays import row_blocks
from brainenc.numeric import as_numbers

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
        raise ValueError(feature_shape_message(estimator, features, estimator.feature_shape_))


def feature_shape_message(
    estimator: Any, features: np.ndarray, fitted: Sequence[int], band: str | None = None
) -> str:
    """The error for features of another shape than those that an estimator was fitted to."""
    of_band = "" if band is None else f" of band {band!r}"
    return (
        f"features{of_band} {features.shape} do not fit: each image had {tuple(fitted)} when "
        f"{type(estimator).__name__} was fitted; were the images of another size, or grey and not "
        "in colour?"
    )


def check_extracted(
    features: Any, n_images: int, extractor: Any, *, images: np.ndarray | None = None
) -> np.ndarray:
    """What a feature extractor gave for images, as an array with one row per image.

    Users write extractors too, and a mistake in one must not become features: missing rows, several
    axes per image, numbers that are not finite.

    Parameters
    ----------
    features : array, DataFrame, list, torch tensor or sparse matrix
    n_images : int
        Number of images that the extractor was given.
    extractor : transformer
        Errors name its class.
    images : array of int, shape (n_images,), optional
        Numbers of these images among all, for errors.

    Returns
    -------
    array, shape (n_images, n_features) or (n_images, n_tokens, width)
        float32 and float64 keep their precision, whole numbers and half precision become float32;
        half-precision tokens are not converted, since those of many images exceed memory.

    Raises
    ------
    ValueError : another number of rows than images, one or more than three axes, no features, NaN
        or infinity.
    TypeError : not numeric.
    """
    name = type(extractor).__name__
    array = _dense(features, f"the output of {name}")
    if array.ndim == 0 or len(array) != n_images:
        raise ValueError(
            f"{name} gave features of shape {array.shape} for {n_images} images: it must give one "
            "row per image, in the order of the images"
        )
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            f"{name} gave features of shape {array.shape}: they must be (n_images, n_features) or "
            "(n_images, n_tokens, width); a single feature is [:, None], and maps are flattened by "
            "features.reshape(len(features), -1)"
        )
    finite = [np.isfinite(block).reshape(len(block), -1).all(axis=1) for block in row_blocks(array)]
    bad = np.flatnonzero(~np.concatenate(finite))
    if bad.size:
        first = bad[0] if images is None else images[bad[0]]
        raise ValueError(
            f"{name} gave NaN or infinite features for {bad.size} images, the first of them "
            f"images[{first}]; check the images, the weights, and try full precision"
        )
    return array


def _dense(features: Any, name: str) -> np.ndarray:
    """Features of any kind as an array of floats, in half precision only with three axes."""
    features = features.toarray() if hasattr(features, "toarray") else features
    plain = isinstance(features, np.ndarray) and not isinstance(features, np.ma.MaskedArray)
    if plain and features.ndim == 3 and features.dtype == np.float16:
        return features
    array = as_numbers(features, name)
    # As `check_features`, which gets the same features without an extractor.
    short = plain and (features.dtype.kind in "iub" or features.dtype == np.float16)
    return array.astype(np.float32) if short else array
