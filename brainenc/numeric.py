"""Numbers as arrays of floats, whatever kind of array or number they come as."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: dtypes that are kept; other numeric dtypes become float64.
FLOATS = (np.float32, np.float64)


def as_numbers(values: Any, name: str) -> np.ndarray:
    """Values as float32 or float64, so that no score depends on the kind of the numbers.

    Differences of unsigned integers wrap around, sums of float16 overflow, and truncated means of
    integers are no means; so integers, bool and half precision become float64 before anything is
    computed.

    Parameters
    ----------
    values : array-like
        NumPy array, masked array, DataFrame or Series, torch tensor, or nested list.
    name : str
        Name of the argument in errors.

    Returns
    -------
    array of the same shape
        float32 and float64 arrays as they are, without a copy; others as float64. NaN where a
        masked array is masked, and for None and pandas' NA.

    Raises
    ------
    TypeError : sparse, complex, text, dates or other things that are no numbers.
    ValueError : None, or rows of different lengths.
    """
    if values is None:
        raise ValueError(f"{name} is missing: give an array of numbers, not None")
    if hasattr(values, "toarray"):
        raise TypeError(f"{name} is sparse, which is not supported: give {name}.toarray()")
    if hasattr(values, "detach"):
        values = _from_torch(values)
    if isinstance(values, np.ma.MaskedArray):
        floats = values.astype(_float_type(values.dtype, name), copy=False)
        return np.ma.filled(floats, np.nan)
    if isinstance(values, (list, tuple)) and any(_is_special(part) for part in values):
        values = [as_numbers(part, name) for part in values]
    try:
        array = values if isinstance(values, np.ndarray) else np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} is no array: {error}") from None
    if array.dtype == object:
        return _from_objects(array, name)
    return array.astype(_float_type(array.dtype, name), copy=False)


def _is_special(value: Any) -> bool:
    """Whether NumPy would lose the mask, or fail, in an array of such values."""
    return isinstance(value, np.ma.MaskedArray) or hasattr(value, "detach")


def _from_torch(tensor: Any) -> np.ndarray:
    plain = tensor.detach().cpu().resolve_conj()
    half = plain.dtype.is_floating_point and plain.dtype.itemsize < 4  # NumPy has no bfloat16
    found: np.ndarray = (plain.double() if half else plain).numpy()
    return found


def _float_type(dtype: np.dtype, name: str) -> Any:
    """float32 or float64, in the byte order of this machine."""
    if dtype.kind not in "fiub":
        raise TypeError(f"{name} must be numeric, got dtype {dtype}")
    native = dtype.newbyteorder("=")
    return native if native in FLOATS else np.float64


def _from_objects(array: np.ndarray, name: str) -> NDArray[np.float64]:
    """Numbers, None and pandas' NA as float64."""
    from pandas import isna

    if any(isinstance(value, (str, bytes)) for value in array.flat):
        raise TypeError(f"{name} must be numeric, but holds text")
    try:
        return np.where(isna(array), np.nan, array).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be numeric, got dtype object: {error}") from None


def as_doubles(values: Any, name: str) -> NDArray[np.float64]:
    """`as_numbers`, float64 always: for small arguments such as one number per voxel."""
    return as_numbers(values, name).astype(np.float64, copy=False)


def as_whole_numbers(
    values: Any, name: str, *, lowest: int, highest: int, missing: int | None = None
) -> NDArray[np.integer]:
    """Positions, ranks or numbers of folds as integers; whole numbers may have another dtype.

    Parameters
    ----------
    values : array-like, any shape
    name : str
        Name of the argument in errors.
    lowest, highest : int
        Range that values must be in.
    missing : int, optional
        Stands for NaN and masked values, which are refused without it.

    Returns
    -------
    array of the same shape
        Integer arrays without a copy.

    Raises
    ------
    TypeError : not numeric, or bool, which could be a mask.
    ValueError : not whole, missing, or outside the range.
    """
    array = _from_torch(values) if hasattr(values, "detach") else values
    if isinstance(array, (list, tuple)) and not any(_is_special(part) for part in array):
        array = np.asarray(array)
    if getattr(array, "dtype", None) == np.bool_:
        raise TypeError(f"{name} must be whole numbers, got bool: give np.flatnonzero of a mask")
    plain = isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)
    if plain and array.dtype.kind in "iu":
        wrong = array[(array < lowest) | (array > highest)]
    else:
        array = as_doubles(array, name)
        if missing is not None:
            array = np.where(np.isnan(array), missing, array)
        wrong = array[~((array == np.round(array)) & (array >= lowest) & (array <= highest))]
    if wrong.size:
        raise ValueError(
            f"{name} has {wrong.flat[0]:g}, but must be whole numbers from {lowest} to {highest}"
        )
    # Not uint64, which NumPy mixes with other integers to float64.
    return array if array.dtype.kind in "iu" and array.dtype != np.uint64 else array.astype(int)


def average_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1 of numbers, (n,), none of them NaN; equal ones have the mean of their ranks.

    As `scipy.stats.rankdata`, without the import, which takes longer than a benchmark's ranks.

    Examples
    --------
    >>> average_ranks(np.array([5.0, 1.0, 5.0]))
    array([2.5, 1. , 2.5])
    """
    order = np.argsort(values)
    ordered = values[order]
    begins = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(values)])
    ends = np.append(begins[1:], len(values))[: len(begins)]
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((begins + 1 + ends) / 2, ends - begins)
    return ranks
