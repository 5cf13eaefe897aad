"""Input checks: every error names the argument, its shape or value, and the remedy."""

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np

from brainenc.arrays import by_columns, is_large, is_mapped, row_blocks
from brainenc.conversion import FLOATS, check_row_order, numeric_array, plain_array
from brainenc.documentation import see
from brainenc.numeric import as_numbers


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
        NaN, ``pd.NA`` or the mask of a masked array marks a missing repeat. float32 and float64
        keep their precision; integers become float32, or float64 if float32 would round them.
        Tensors are taken too. One dimension means one voxel.
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
    array = numeric_array(betas, name)
    if array.ndim == 0 or array.ndim > 3:
        raise ValueError(
            f"{name} {array.shape} must be (n_images, n_voxels) or (n_images, n_repeats, n_voxels)"
            + see("guide/data")
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
            "EncodingData.from_trials first" + see("guide/data")
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
            "and check the scaling of the rest" + see("guide/data")
        )
    if np.isnan(extremes).all():
        raise ValueError(
            f"{name} {array.shape} contains nothing but NaN: there is nothing to fit"
            + see("guide/data")
        )


def check_whole(
    name: str, value: Any, least: int = 1, most: int | None = None, of: str = ""
) -> None:
    """Raise ValueError unless an argument is a whole number from `least` to `most`.

    `of` says what `most` is, such as "the number of images".

    Examples
    --------
    >>> check_whole("n_top", 2.5)
    Traceback (most recent call last):
    ...
    ValueError: n_top=2.5 must be a whole number of at least 1
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if whole and value >= least and (most is None or value <= most):
        return
    limit = "" if most is None else f" and at most {most}" + (f", {of}" if of else "")
    raise ValueError(f"{name}={value!r} must be a whole number of at least {least}{limit}")


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
    """A choice of rows, as a mask or as positions, as non-negative positions.

    Parameters
    ----------
    index : array-like of bool, shape (n,), or of int, or slice
        Positions name each row once. A Series is taken in the order of its rows.
    n : int
        Length of the axis indexed.
    name : str
        Name of the argument in errors.

    Returns
    -------
    array of int, shape (n_selected,)

    Raises
    ------
    ValueError : a mask of another length or with missing entries, nothing selected, a position
        outside the axis or named twice; or n numbers of -1, 0 and 1, which may be a mask or
        positions.
    TypeError : neither bool nor int.

    Examples
    --------
    >>> check_index(np.array([0, 0, 1, 1]) == 1, 4, "images")
    array([2, 3])
    >>> check_index([0, 0, 1, 1], 4, "images")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: images has 4 numbers of 0 and 1 only, so it may be a mask of the 4 rows or ...
    """
    if isinstance(index, slice):
        index = np.arange(n)[index]
    array = _one_dimension(plain_array(index, name), name)
    array = _bool_of_objects(array, name) if array.dtype == object else array
    if array.dtype == bool:
        if array.shape != (n,):
            raise ValueError(f"{name} is a mask of shape {array.shape}, but {n} entries are wanted")
        check_row_order(**{"axis": array, name: index})
        positions = np.flatnonzero(array)
        if not len(positions):
            raise ValueError(f"{name} selects nothing of {n}")
        return positions
    _refuse_number_masks(array, n, name)
    positions = check_positions(array, n, name)
    different, count = np.unique(positions, return_counts=True)
    if len(different) < len(positions):
        raise ValueError(
            f"{name} names a row twice ({different[count > 1][0]}, for example), but each may be "
            "selected once; if it is a mask of 0 and 1, pass it as bool: mask > 0"
        )
    return positions


def check_positions(positions: Any, n: int, name: str) -> np.ndarray:
    """Positions on an axis of length n as non-negative integers; rows may occur several times.

    Parameters
    ----------
    positions : array-like of int, shape (n_selected,)
    n : int
    name : str

    Returns
    -------
    array of int64, shape (n_selected,)

    Raises
    ------
    ValueError : no positions, or one outside the axis.
    TypeError : not integers.
    """
    array = _one_dimension(plain_array(positions, name), name)
    if array.size == 0:
        raise ValueError(f"{name} selects nothing of {n}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be a boolean mask or integer positions, got {array.dtype}")
    if array.min() < -n or array.max() >= n:
        raise ValueError(
            f"{name} has positions from {array.min()} to {array.max()}, outside 0 … {n - 1}"
        )
    return np.where(array < 0, array + n, array).astype(np.int64)


def _one_dimension(array: np.ndarray, name: str) -> np.ndarray:
    array = np.atleast_1d(array)
    if array.ndim == 2 and 1 in array.shape:  # a column of MATLAB
        array = array.reshape(-1)
    if array.ndim != 1:
        raise ValueError(f"{name} {array.shape} must have one dimension")
    return array


def _bool_of_objects(array: np.ndarray, name: str) -> np.ndarray:
    """A mask of dtype object, as pandas makes of a column with missing entries."""
    kinds = {type(value) for value in array}
    if kinds <= {bool, np.bool_}:
        return array.astype(bool)
    if kinds & {bool, np.bool_}:
        raise ValueError(
            f"{name} is a mask with missing entries: say whether they are selected, with "
            ".fillna(False) for example"
        )
    return array


def _refuse_number_masks(array: np.ndarray, n: int, name: str) -> None:
    """Refuse n numbers of -1, 0 and 1: they are a mask to some programs, and positions to NumPy."""
    if array.dtype.kind not in "iuf" or len(array) != n or n < 3:
        return
    values = np.unique(array).tolist()
    if set(values) <= {-1, 0, 1}:
        listed = " and ".join(f"{value:g}" for value in values)
        raise ValueError(
            f"{name} has {n} numbers of {listed} only, so it may be a mask of the {n} rows or "
            "positions: pass a mask as bool (mask > 0, or mask.astype(bool) without negative "
            "numbers), or positions (np.flatnonzero(mask > 0))" + see("guide/data")
        )


def check_features(estimator: Any, X: Any, *, reset: bool) -> np.ndarray:
    """Features as a float array; their shape is recorded on an estimator or compared with it.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Gets ``n_features_in_`` (and ``feature_names_in_`` of a DataFrame), and
        ``feature_shape_``.
    X : array-like, shape (n_images, n_features) or (n_images, n_tokens, width)
        float32 and float64 keep their precision, other numbers become float32. Half precision is
        not converted where it is that of tokens, or of more than 1 GiB as float32: those of many
        images exceed memory.
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

    if not hasattr(X, "columns"):  # names of columns are kept by scikit-learn
        X = plain_array(X, "features")  # a list of floats gets the same precision as an array
    floats = isinstance(X, np.ndarray) and X.dtype.kind == "f" and X.ndim > 1
    if floats:
        _refuse_non_finite(X)
    large = floats and is_large(X)
    half = [np.float16] if floats and (large or X.ndim == 3) else []
    X = validate_data(
        estimator,
        X,
        reset=reset,
        dtype=[*FLOATS, *half],
        # Sums in another order differ in the last bit, which training amplifies. A map by columns,
        # or a part of a map, stays as it is: a copy would take the memory.
        order=None if large and is_mapped(X) else "C",
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
    if by_columns(X):
        finite = np.ones(len(X), dtype=bool)
        for block in row_blocks(X.T):
            finite &= np.isfinite(block).reshape(-1, len(X)).all(axis=0)
    else:
        of_blocks = [
            np.isfinite(block).reshape(len(block), -1).all(axis=1) for block in row_blocks(X)
        ]
        finite = np.concatenate(of_blocks) if of_blocks else np.ones(len(X), dtype=bool)
    if not finite.all():
        bad = np.flatnonzero(~finite)
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
            "row per image, in the order of the images" + see("guide/features")
        )
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            f"{name} gave features of shape {array.shape}: they must be (n_images, n_features) or "
            "(n_images, n_tokens, width); a single feature is [:, None], and maps are flattened by "
            "features.reshape(len(features), -1)" + see("guide/features")
        )
    finite = [np.isfinite(block).reshape(len(block), -1).all(axis=1) for block in row_blocks(array)]
    bad = np.flatnonzero(~np.concatenate(finite))
    if bad.size:
        first = bad[0] if images is None else images[bad[0]]
        raise ValueError(
            f"{name} gave NaN or infinite features for {bad.size} images, the first of them "
            f"images[{first}]; check the images, the weights, and try full precision"
            + see("guide/features")
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
