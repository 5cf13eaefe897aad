"""Tables of voxels and trials as plain tables: text names, native columns, rows in order."""

from typing import Any

import numpy as np
import pandas as pd

from brainenc.conversion import column, plain_array


def plain_table(table: Any, name: str) -> pd.DataFrame:
    """Copy of a table with text for column names and columns that every function can use.

    Parameters
    ----------
    table : pandas.DataFrame
        Its index is left out: rows count in their order (`brainenc.conversion.check_row_order`).
    name : str
        Name of the table in errors.

    Returns
    -------
    pandas.DataFrame, index 0 … n − 1
        Numbers in native byte order and NumPy's dtypes, NaN where a nullable column has ``pd.NA``;
        bytes and MATLAB's cells as text. Other columns are as they were.

    Raises
    ------
    TypeError : not a DataFrame, or complex numbers.
    ValueError : two columns of one name.
    """
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            f"{name} must be a pandas.DataFrame, got {type(table).__name__}: pd.DataFrame({name})"
        )
    names = [_name(given, name) for given in table.columns]
    if twice := sorted({given for given in names if names.count(given) > 1}):
        raise ValueError(f"{name} has several columns of the name {twice}: rename them")
    columns = {
        text: _plain_column(table.iloc[:, i], f"{name}[{text!r}]") for i, text in enumerate(names)
    }
    return pd.DataFrame(columns, index=range(len(table)))


def _name(given: Any, table: str) -> str:
    if isinstance(given, tuple):
        raise ValueError(f"{table} has columns of several levels, such as {given}: give one level")
    return given.decode() if isinstance(given, bytes) else str(given)


def _plain_column(values: pd.Series, name: str) -> Any:
    values = values.reset_index(drop=True)
    if pd.api.types.is_numeric_dtype(values.dtype):
        if pd.api.types.is_complex_dtype(values.dtype):
            raise TypeError(
                f"{name} has complex numbers ({values.dtype}), which have no place here"
            )
        return plain_array(values, name)
    foreign = (bytes, np.ndarray, np.generic)
    if values.dtype == object and any(isinstance(value, foreign) for value in values):
        return column(values, name)
    return values
