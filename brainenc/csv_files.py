"""CSV files of tables with names: written so that a spreadsheet shows names and runs none of them.

A spreadsheet takes a text that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, and names of
encoders and labels of ROIs come from anybody. `write_csv` puts an apostrophe before such a text, as
one does by hand in a spreadsheet, and `read_csv` takes it away: names come back as they were.
"""

import csv
import os
import re
from collections.abc import Callable, Collection, Sequence
from itertools import chain, groupby, repeat
from typing import Any

import numpy as np
import pandas as pd

from brainenc.storage import atomic_path

#: Text that is written with one apostrophe more, and read with one less. Those in front are counted
#: in, so that a name that begins with an apostrophe comes back, too.
_FORMULA = re.compile(r"'*[=+\-@\t\r].", re.DOTALL)
_PROTECTED = re.compile(r"'+[=+\-@\t\r].", re.DOTALL)


def write_csv(path: str | os.PathLike, table: pd.DataFrame, **changes: Any) -> None:
    """Write a table, atomically; text that a spreadsheet would take for a formula is protected.

    Parameters
    ----------
    path : path
    table : DataFrame
    **changes
        Options of ``DataFrame.to_csv``; without the index by default.

    Raises
    ------
    OSError : the file could not be written.
    """
    with atomic_path(path) as temporary:
        # Characters of paths that are no text in this locale are written as they are.
        protected = _changed(table, _protect)
        options: Any = {"index": False, "errors": "surrogatepass"}
        if _has_carriage_return(protected):  # unquoted, it would end the row
            options["quoting"] = csv.QUOTE_NONNUMERIC
        protected.to_csv(temporary, **options | changes)


def read_csv(path: str | os.PathLike, *, texts: Collection[str] = ()) -> pd.DataFrame:
    """Read what `write_csv` wrote.

    Parameters
    ----------
    path : path
    texts : collection of str
        Columns of text, in which "1" and "NA" are text.
    """
    options: dict[str, Any] = {"encoding_errors": "surrogatepass"}
    columns = pd.read_csv(path, nrows=0, **options).columns
    names = [column for column in columns if unprotected(column) in texts]
    missing = {column: [""] for column in columns if column not in names}
    table = pd.read_csv(
        path,
        dtype=dict.fromkeys(names, str),
        keep_default_na=False,
        na_values=missing,
        **options,
    )
    return _changed(table, unprotected)


#: A cell of a column of objects, by the name of its kind in `column_types`, from its text.
_CELLS: dict[str, Callable[[str], Any]] = {
    "text": str,
    "bool": lambda text: text == "True",
    "int": int,
    "float": float,
    "None": lambda _: None,
    "NaN": lambda _: np.nan,
}


def column_types(table: pd.DataFrame) -> list[dict[str, Any]]:
    """What a CSV file does not keep of a table: dtypes, and the kinds of cells; JSON-able.

    Returns
    -------
    list of dict, one per column
        ``name``; ``dtype``; and of columns that are not numeric ``cells``, runs of cells of one
        kind, [kind, number].

    Examples
    --------
    >>> column_types(pd.DataFrame({"value": pd.Series([1, 10, "on", None], dtype=object)}))
    [{'name': 'value', 'dtype': 'object', 'cells': [['int', 2], ['text', 1], ['None', 1]]}]
    """
    found = []
    for name, column in table.items():
        record: dict[str, Any] = {"name": str(name), "dtype": str(column.dtype)}
        if _is_text(column):
            kinds = groupby(map(_kind, column))
            record["cells"] = [[kind, sum(1 for _ in run)] for kind, run in kinds]
        found.append(record)
    return found


def read_typed_csv(path: str | os.PathLike, types: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Read what `write_csv` wrote, as the table was; `types` are its `column_types`.

    Raises
    ------
    ValueError : the file has other columns or another number of rows.
    """
    named = {record["name"]: record for record in types}
    floats = {name for name, record in named.items() if record["dtype"].startswith("float")}
    # Floats as text too, since pandas may round their last bit.
    texts = floats | {name for name, record in named.items() if "cells" in record}
    table = read_csv(path, texts=texts)
    if list(table) != list(named):
        raise ValueError(f"it has the columns {list(table)}, and was written with {list(named)}")
    for name, record in named.items():
        column = table[name]
        if "cells" in record:
            kinds = list(chain.from_iterable(repeat(kind, n) for kind, n in record["cells"]))
            if len(kinds) != len(column):
                raise ValueError(f"it has {len(column)} rows, and was written with {len(kinds)}")
            cells = [_CELLS[kind](text) for kind, text in zip(kinds, column, strict=True)]
            column = pd.Series(cells, index=column.index, dtype=object)
        elif name in floats:
            column = pd.Series([float(text or "nan") for text in column], column.index, float)
        table[name] = column.astype(record["dtype"])
    return table


def _kind(cell: Any) -> str:
    if cell is None:
        return "None"
    for kind, types in {
        "text": (str,),
        "bool": (bool, np.bool_),
        "int": (int, np.integer),
        "float": (float, np.floating),
    }.items():
        if isinstance(cell, types):
            return "NaN" if cell != cell else kind
    return "NaN" if pd.api.types.is_scalar(cell) and pd.isna(cell) else "text"


def _changed(table: pd.DataFrame, change: Callable[[Any], Any]) -> pd.DataFrame:
    """The table with every text changed, of cells and of headings."""
    changed = table.copy(deep=False)
    for position, (_, column) in enumerate(table.items()):  # names of columns may be numbers
        if _is_text(column):
            changed.isetitem(position, column.map(change).array)
    return changed.rename(columns=change)


def _has_carriage_return(table: pd.DataFrame) -> bool:
    texts = [table.columns, *(column for _, column in table.items() if _is_text(column))]
    return any("\r" in value for column in texts for value in column if isinstance(value, str))


def _is_text(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column.dtype)


def _protect(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def unprotected(value: Any) -> Any:
    """A text as it was before `write_csv` protected it; other values unchanged.

    Examples
    --------
    >>> unprotected("'=V1"), unprotected("V1's"), unprotected(2)
    ('=V1', "V1's", 2)
    """
    return value[1:] if isinstance(value, str) and _PROTECTED.match(value) else value
