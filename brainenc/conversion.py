"""Arrays of any kind as plain NumPy arrays: foreign kinds are converted here and nowhere else.

Betas, features, masks, ids, columns of tables and labels pass through these functions, so that a
tensor, a nullable column of pandas, a masked array, big-endian numbers and MATLAB's columns and
cells mean the same at every entry point. Each function takes what has one meaning and refuses, by
the name of the argument, what has two.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

#: dtypes that are kept; other numeric dtypes are converted to one of them.
FLOATS = (np.float32, np.float64)

#: float32 holds every whole number up to this one.
_EXACT_IN_FLOAT32 = 2**24

_TENSOR_DTYPES = ("torch.float16", "torch.float32", "torch.float64")


def plain_array(values: Any, name: str) -> np.ndarray:
    """Values as a NumPy array in native byte order.

    Parameters
    ----------
    values : array-like
        Also a torch tensor (of any device, with or without gradient; kinds of float that NumPy
        lacks become float32), a Series or DataFrame, in the order of its rows whatever its index
        (`check_row_order` looks at the index), a masked array, and an object whose method
        ``__betas__`` returns one of these, such as `brainenc.metrics.BetasWithRepeats`.
    name : str
        Name of the argument in errors.

    Returns
    -------
    array of any dtype; memory-mapped arrays in native byte order stay memory-mapped
        Missing values (``pd.NA``, masked entries) are NaN, and whole numbers among them are floats.

    Raises
    ------
    TypeError : sparse, or of a kind that cannot be converted (structured, a quantized tensor).
    ValueError : rows of different lengths, or masked entries that NaN cannot stand for.

    Examples
    --------
    >>> import pandas as pd
    >>> plain_array(pd.Series([1, pd.NA], dtype="Int64"), "session").tolist()
    [1.0, nan]
    >>> plain_array(np.array([1, 2], dtype=">i4"), "run").dtype.isnative
    True
    """
    if hasattr(values, "__betas__"):
        values = values.__betas__()
    if hasattr(values, "toarray"):
        raise TypeError(f"sparse {name} are not supported: pass {name}.toarray()")
    if isinstance(values, (list, tuple)) and any(_is_tensor(value) for value in values[:1]):
        values = [_of_tensor(value, name) if _is_tensor(value) else value for value in values]
    if _is_tensor(values):
        array = _of_tensor(values, name)
    elif isinstance(values, np.ma.MaskedArray):
        array = _of_masked(values, name)
    elif isinstance(values, pd.DataFrame):
        array = _of_frame(values)
    elif isinstance(values, (pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        array = _of_series(values)
    elif isinstance(values, np.ndarray) and not isinstance(values, np.matrix):
        array = values
    else:
        try:
            array = np.asarray(values)
        except ValueError as error:
            raise ValueError(f"{name} cannot be made an array: {error}") from None
    if array.dtype.kind == "V":
        raise TypeError(
            f"{name} is a structured array with fields {array.dtype.names}: pass one of its fields"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def numeric_array(values: Any, name: str) -> np.ndarray:
    """Numbers as an array of float32 or float64, NaN where a value is missing.

    Parameters
    ----------
    values : array-like
        As for `plain_array`. float32 and float64 keep their precision; float16 and whole numbers
        become float32, or float64 if float32 would round them.
    name : str

    Returns
    -------
    array of float32 or float64

    Raises
    ------
    TypeError : not numbers (text, bool, dates), as `plain_array`.
    ValueError : complex numbers, as `plain_array`.
    """
    array = plain_array(values, name)
    if array.dtype == object:
        array = _of_objects(array, name)
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {array.dtype}")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be numeric, float32 for choice, got dtype {array.dtype}")
    if array.dtype in FLOATS:
        return array
    return array.astype(np.float64 if _rounds_in_float32(array) else np.float32)


def column(values: Any, name: str, rows: str = "n_rows") -> np.ndarray:
    """One value per row, as a one-dimensional array.

    Parameters
    ----------
    values : array-like, shape (n,), (n, 1) or (1, n)
        As for `plain_array`. Cells as SciPy reads them from MATLAB's files are opened, and bytes
        are decoded as UTF-8.
    name, rows : str
        Names of the argument and of its length in errors.

    Returns
    -------
    array, shape (n,)
        Of numbers, bool, text (dtype "U"), or object where kinds differ or are missing (None).

    Raises
    ------
    ValueError : other shapes, cells of several values, or bytes that are no UTF-8.
    """
    array = plain_array(values, name)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1:
        raise ValueError(f"{name} {array.shape} must be ({rows},) or ({rows}, 1), a value per row")
    if array.dtype.kind == "S":
        return np.array([_text(value, name) for value in array.tolist()], dtype=str)
    if array.dtype != object:
        return array
    cells = [_cell(value, name) for value in array]
    missing = [value is None for value in cells]
    present = [value for value, absent in zip(cells, missing, strict=True) if not absent]
    if present and all(type(value) is bool for value in present):
        return np.array(cells, dtype=object if any(missing) else bool)
    if present and all(type(value) in (int, float) for value in present):
        return np.array(pd.Series(cells, dtype=float if any(missing) else None))
    found = np.empty(len(cells), dtype=object)
    found[:] = cells
    return found


def text_labels(values: Any, name: str) -> np.ndarray:
    """Labels as text, None where a label is missing.

    Parameters
    ----------
    values : array-like, shape (n,), (n, 1) or (1, n)
        Text, bytes, categories, MATLAB's cells, or codes: whole numbers, whose labels are their
        digits.
    name : str

    Returns
    -------
    array of object, shape (n,): str, or None for None, NaN and ``pd.NA``

    Raises
    ------
    ValueError : codes that are not whole numbers, as `column`.

    Examples
    --------
    >>> text_labels(np.array([b"V1", b"V2"]), "roi").tolist()
    ['V1', 'V2']
    >>> text_labels([1.0, np.nan], "roi").tolist()
    ['1', None]
    """
    found = [_label(value, name) for value in column(values, name).tolist()]
    labels = np.empty(len(found), dtype=object)
    labels[:] = found
    return labels


def text_keys(mapping: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """A dict whose keys are names, with the names as text; 1 and 1.0 are "1".

    Raises
    ------
    ValueError : an empty name, or two that are the same as text.

    Examples
    --------
    >>> text_keys({1: "a", 2.5: "b"}, "models")
    {'1': 'a', '2.5': 'b'}
    """
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        text = f"{key:g}" if isinstance(key, float) else str(key)
        if not text.strip():
            raise ValueError(f"{name} has the key {key!r}, an empty name: give it a name")
        if text in found:
            raise ValueError(
                f"{name} has the name {text!r} twice (names are compared as text): give different "
                "names"
            )
        found[text] = value
    return found


def check_row_order(**arguments: Any) -> None:
    """Check that the indexes of pandas objects leave one meaning to the order of rows.

    Values are taken in the order of their rows, never put by index. An index that says another
    order is therefore refused.

    Parameters
    ----------
    **arguments : array-likes with one row per image, trial or voxel, by name; None is left out

    Raises
    ------
    ValueError : two indexes hold the same labels in another order; or an index of whole numbers
        is not in increasing order, and not all arguments have it.

    Examples
    --------
    >>> import pandas as pd
    >>> check_row_order(voxels=np.zeros(3), r=pd.Series([0.1, 0.2, 0.3], index=[7, 8, 9]))
    >>> r = pd.Series([0.1, 0.2], index=[1, 0])
    >>> check_row_order(voxels=np.zeros(2), r=r)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: r has an index that is not in increasing order ([1, 0] …), so its rows ...
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    indexes = check_one_order(**given)
    for name, index in indexes.items():
        alike = len(indexes) == len(given) and all(index.equals(its) for its in indexes.values())
        if not alike and _is_shuffled(index):
            as_it_is = "reset_index(drop=True)" if hasattr(given[name], "columns") else "to_numpy()"
            raise ValueError(
                f"{name} has an index that is not in increasing order ({list(index[:3])} …), so "
                "its rows may be meant as they are or by index: pass "
                f"{name}.{as_it_is} or {name}.sort_index()"
            )


def check_one_order(**arguments: Any) -> dict[str, pd.Index]:
    """Indexes of the pandas objects among the arguments, which must not contradict one another.

    Raises
    ------
    ValueError : two indexes hold the same labels in another order.
    """
    indexes = {
        name: value.index
        for name, value in arguments.items()
        if isinstance(value, (pd.Series, pd.DataFrame))
    }
    for name, index in indexes.items():
        for other, its in indexes.items():
            if index.equals(its) or len(index) != len(its):
                continue
            if index.is_unique and its.is_unique and index.isin(its).all():
                raise ValueError(
                    f"the rows of {name} and {other} have the same index in another order: put "
                    f"them in one order first, with {other} = {other}.loc[{name}.index], or drop "
                    "the index, .reset_index(drop=True), if their rows match as they are"
                )
    return indexes


def _is_shuffled(index: pd.Index) -> bool:
    whole = pd.api.types.is_integer_dtype(index.dtype)
    return whole and index.is_unique and not index.is_monotonic_increasing


# ------------------------------------------------------------------ kinds of arrays


def _is_tensor(values: Any) -> bool:
    # Without importing torch, which takes seconds.
    return any(
        kind.__module__ == "torch" and kind.__name__ == "Tensor" for kind in type(values).__mro__
    )


def _of_tensor(tensor: Any, name: str) -> np.ndarray:
    if tensor.is_quantized or str(tensor.layout) != "torch.strided":
        raise TypeError(f"{name} is a sparse or quantized tensor: pass {name}.to_dense() or floats")
    if tensor.device.type == "meta":
        raise TypeError(f"{name} is a tensor of the device meta, which has no values")
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and str(tensor.dtype) not in _TENSOR_DTYPES:
        tensor = tensor.float()
    return tensor.resolve_conj().resolve_neg().numpy()


def _of_masked(values: np.ma.MaskedArray, name: str) -> np.ndarray:
    if values.dtype.kind in "fiu":
        dtype = np.result_type(values.dtype, np.float32)
        return np.ma.filled(values.astype(dtype), np.nan)
    if np.ma.is_masked(values):
        raise ValueError(
            f"{name} is a masked array of {values.dtype} with {int(values.mask.sum())} masked "
            "entries: fill them first, with .filled(value)"
        )
    return values.data


def _of_series(values: Any) -> np.ndarray:
    """A Series or Index; numbers among which some are missing as floats."""
    dtype = values.dtype
    numbers = pd.api.types.is_numeric_dtype(dtype)
    if not (pd.api.types.is_extension_array_dtype(dtype) and numbers and _numpy_dtype(dtype)):
        return np.asarray(values)
    numpy_dtype = _numpy_dtype(dtype)
    if not values.isna().any():
        return values.to_numpy(dtype=numpy_dtype)
    if numpy_dtype.kind == "b":
        return values.to_numpy(dtype=object, na_value=None)
    as_float = numpy_dtype if numpy_dtype.kind == "f" else np.float64
    return values.to_numpy(dtype=as_float, na_value=np.nan)


def _numpy_dtype(dtype: Any) -> Any:
    """NumPy's dtype of a nullable dtype; None for other extensions, such as categories."""
    return getattr(dtype, "numpy_dtype", None)


def _of_frame(frame: pd.DataFrame) -> np.ndarray:
    if not any(pd.api.types.is_extension_array_dtype(dtype) for dtype in frame.dtypes):
        return np.asarray(frame)
    return np.column_stack([_of_series(frame.iloc[:, i]) for i in range(frame.shape[1])])


def _of_objects(array: np.ndarray, name: str) -> np.ndarray:
    if any(isinstance(value, (str, bytes)) for value in array.flat):
        raise TypeError(f"{name} must be numeric, got dtype object with text in it")
    try:
        return np.where(pd.isna(array), np.nan, array).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be numeric, got dtype object: {error}") from None


def _rounds_in_float32(array: np.ndarray) -> bool:
    if array.dtype.kind == "f":
        return array.dtype.itemsize > 8  # long double
    if array.dtype.itemsize < 4 or not array.size:
        return False
    return max(abs(int(array.min())), abs(int(array.max()))) > _EXACT_IN_FLOAT32


# ------------------------------------------------------------------ cells and labels


def _cell(value: Any, name: str) -> Any:
    """A value of an object array: cells of MATLAB are arrays of one value, or of none."""
    if isinstance(value, np.ndarray):
        if value.size > 1:
            raise ValueError(f"{name} has a cell of shape {value.shape}, not one value per row")
        return _cell(value.reshape(-1)[0], name) if value.size else None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        return _text(value, name)
    return None if value is None or value is pd.NA or value is pd.NaT or value != value else value


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{name} has bytes that are no UTF-8 text: {value!r}") from None


def _label(value: Any, name: str) -> str | None:
    if value is None or value != value:
        return None
    if isinstance(value, float):
        if value % 1:
            raise ValueError(f"{name} has the code {value}: codes of labels are whole numbers")
        return str(int(value))
    return str(value)
