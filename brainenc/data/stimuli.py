"""The table of stimuli: what is known of each image, such as its name and category.

One row per image, in the order of the images; any columns. A table without columns is the default.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.conversion import check_row_order
from brainenc.data.image_ids import image_positions
from brainenc.data.tables import plain_table
from brainenc.documentation import see
from brainenc.reading import reading

#: Column with the name of an image: its file, or its key in a dict.
NAME = "name"

#: Columns that may name the image of a row, in the order in which they are tried; then all others.
NAME_COLUMNS = (NAME, "stim_file", "image", "file", "filename", "stimulus", "image_id", "id")


def as_stimuli(stimuli: Any, n_images: int) -> pd.DataFrame:
    """A table of stimuli with one row per image, in the order of the images.

    Parameters
    ----------
    stimuli : pandas.DataFrame, n_images rows, or None
    n_images : int

    Returns
    -------
    pandas.DataFrame
        As `brainenc.data.tables.plain_table`; without columns for None.

    Raises
    ------
    ValueError : another number of rows, or two columns of one name.
    TypeError : not a DataFrame.
    """
    if stimuli is None:
        return pd.DataFrame(index=range(n_images))
    check_row_order(betas=np.empty(0), stimuli=stimuli)
    table = plain_table(stimuli, "stimuli")
    check_stimuli(table, n_images)
    return table


def check_stimuli(stimuli: pd.DataFrame, n_images: int) -> None:
    """Raise ValueError if a table of stimuli has not one row per image."""
    if len(stimuli) != n_images:
        raise ValueError(
            f"stimuli has {len(stimuli)} rows, but there are {n_images} images: one row per image "
            "is needed, in the order of the images"
        )


def stimuli_of_images(
    stimuli: Any, n_images: int, names: list[str] | dict[Any, int] | None
) -> pd.DataFrame:
    """The rows of a table that belong to the images, in the order of the images.

    Parameters
    ----------
    stimuli : pandas.DataFrame, path of a ``.tsv`` or ``.csv`` file, or None
        If the images have names, a column with their names (of files, with or without folder and
        ending) says which row is of which image: ``name``, ``stim_file``, ``image`` and the like,
        or any other. Otherwise the rows are in the order of the images.
    n_images : int
    names : list of paths, dict of key to row, or None
        As `brainenc.data.image_ids.names_of` gives them.

    Returns
    -------
    pandas.DataFrame, n_images rows
        With ``name``, if the images have names.

    Raises
    ------
    ValueError : an image without a row or with several, or another number of rows than images.

    Warns
    -----
    UserWarning : rows of images that are not there, which are left out.
    """
    shown = None if names is None else [os.path.basename(str(name)) for name in names]
    if shown is not None and len(set(shown)) < len(shown):
        shown = [str(name) for name in names or ()]
    if stimuli is None:
        table = as_stimuli(None, n_images)
    else:
        table = read_table(stimuli, "stimuli")
        rows = None if names is None else _rows_by_name(table, names)
        if rows is None:
            check_row_order(betas=np.empty(0), stimuli=table)
            check_stimuli(table, n_images)
        else:
            if n_more := len(table) - len(rows):
                warnings.warn(
                    f"stimuli has {n_more} rows of pictures that are not among the images; they "
                    "are left out",
                    stacklevel=3,
                )
            table = table.iloc[rows].reset_index(drop=True)
    if shown is None or NAME in table:
        return table
    return pd.concat([pd.DataFrame({NAME: shown}), table], axis=1)


def _rows_by_name(table: pd.DataFrame, names: list[str] | dict[Any, int]) -> np.ndarray | None:
    """Row of each image by the column that names it; None if no column names any image."""
    first = [column for column in NAME_COLUMNS if column in table]
    best: tuple[int, str, np.ndarray] | None = None
    for column in [*first, *(name for name in table if name not in first)]:
        images = positions_known(table[column], names)
        n_found = len(np.unique(images[images >= 0]))
        if n_found and (best is None or n_found > best[0]):
            best = (n_found, str(column), images)
    if best is None:
        return None
    _, column, images = best
    rows = np.flatnonzero(images >= 0)
    found, counts = np.unique(images[rows], return_counts=True)
    listed = list(names)
    if (counts > 1).any():
        twice = listed[found[np.argmax(counts > 1)]]
        raise ValueError(
            f"stimuli[{column!r}] names the image {twice!r} in several rows: one row per image is "
            f"needed, stimuli.drop_duplicates({column!r})"
        )
    if missing := sorted(set(range(len(listed))) - set(found.tolist())):
        raise ValueError(
            f"stimuli has no row for {len(missing)} of {len(listed)} images, "
            f"{listed[missing[0]]!r} for example (looked for in the column {column!r})"
            + see("howto_own_data")
        )
    return rows[np.argsort(images[rows])]


def positions_known(values: Any, names: list[str] | dict[Any, int]) -> np.ndarray:
    """Position of the image that each value names; -1 where it names none, or has no value."""
    labels = pd.Series(values)
    found = np.full(len(labels), -1)
    codes, unique = pd.factorize(labels)
    for code, label in enumerate(unique.tolist()):
        # One by one: a name that is not there must not hide those that are.
        try:
            position = image_positions([label], len(names), names)[0]
        except (ValueError, TypeError):
            continue
        if isinstance(names, dict) or isinstance(label, str):
            found[codes == code] = position
    return found


def read_table(source: Any, name: str) -> pd.DataFrame:
    """A table given as such, as columns, or as a ``.tsv`` or ``.csv`` file.

    Parameters
    ----------
    source : pandas.DataFrame, dict of columns, list of rows, or path
        In files, "n/a" and empty fields are missing, as in BIDS.
    name : str
        Name of the argument in errors.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : no table, or two columns of one name.
    TypeError : something else.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        with reading(path, "a table"):
            separator = "," if path.suffix.lower() == ".csv" else "\t"
            heading = path.read_text(encoding="utf-8-sig").partition("\n")[0].rstrip("\r")
            columns = heading.split(separator)
            if len(set(columns)) < len(columns):
                twice = max(columns, key=columns.count)
                raise ValueError(f"{path} has two columns of the name {twice!r}")
            options: Any = {"sep": separator, "encoding": "utf-8-sig", "keep_default_na": False}
            options["na_values"] = ["n/a", ""]
            source = pd.read_csv(path, **options)
            texts = pd.read_csv(path, dtype=str, **options)
            for heading in source:
                # "0012" is a name, of which a number would lose the zeros.
                padded = texts[heading].astype(str).str.fullmatch("0[0-9]+").any()
                if padded and pd.api.types.is_integer_dtype(source[heading].dtype):
                    source[heading] = texts[heading]
                elif padded and pd.api.types.is_float_dtype(source[heading].dtype):
                    source[heading] = texts[heading]  # whole numbers, some missing
    elif isinstance(source, (dict, list)):
        try:
            source = pd.DataFrame(source)
        except ValueError as error:
            raise ValueError(f"{name} is no table: {error}") from None
    if not isinstance(source, pd.DataFrame):
        raise TypeError(
            f"{name} must be a pandas.DataFrame or a .tsv or .csv file, got {type(source).__name__}"
        )
    return plain_table(source, name)
