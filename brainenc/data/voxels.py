"""The voxel table, which gives the ROIs of each voxel.

A voxel table has one row per voxel: ROI labels, as one column of text per atlas (missing or ""
outside every ROI) or one column of bool per ROI, and any of the columns in `NON_ATLAS_COLUMNS`.
Whole numbers that several voxels share are codes of ROIs, and their digits become labels.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainenc.conversion import check_row_order, numeric_array, text_labels
from brainenc.data.tables import plain_table
from brainenc.documentation import see

#: Columns with the position or quality of a voxel, not its ROI.
NON_ATLAS_COLUMNS = ("ncsnr", "i", "j", "k", "x", "y", "z", "vertex", "hemisphere")

#: Beginnings of the names of columns with counts or measures in whole numbers.
MEASURES = ("n_", "glmsingle_")

#: Label that NumPy makes of NaN in an array of text.
_NAN_TEXT = "nan"


def as_voxels(voxels: Any, n_voxels: int) -> pd.DataFrame:
    """A voxel table given by a user as a plain table in which no ROI is lost.

    Parameters
    ----------
    voxels : pandas.DataFrame, n_voxels rows, or None
    n_voxels : int

    Returns
    -------
    pandas.DataFrame
        As `brainenc.data.tables.plain_table`; labels as text, missing where they were.

    Raises
    ------
    ValueError : another number of rows, an index in another order, two columns of one name.
    TypeError : not a DataFrame, or a position or ncsnr that is no number.

    Warns
    -----
    UserWarning : columns of whole numbers, whose digits become labels; other columns that name no
        ROI and are no measure; and the label "nan".
    """
    if voxels is None:
        return pd.DataFrame(index=range(n_voxels))
    check_row_order(betas=np.empty(0), voxels=voxels)
    table = plain_table(voxels, "voxels")
    check_voxels(table, (0, 0, n_voxels))
    ignored = []
    for name in table:
        if name in NON_ATLAS_COLUMNS:
            if name != "hemisphere" and not pd.api.types.is_numeric_dtype(table[name].dtype):
                table[name] = numeric_array(table[name], f"voxels[{name!r}]")
            continue
        if (labels := _labels(table[name], f"voxels[{name!r}]")) is not None:
            table[name] = labels
            continue
        if table[name].dtype == object:
            table[name] = numeric_array(table[name], f"voxels[{name!r}]")
        if not _is_measure(str(name), table[name]) and not _looks_like_codes(table[name]):
            ignored.append(str(name))
    table = with_codes_as_labels(table, stacklevel=5)
    if ignored:
        warnings.warn(
            f"columns {ignored} of voxels name no ROI, as they are no text, bool or codes that "
            "several voxels share. If one is an atlas, make it text, .astype('category'); if it is "
            "a count, let its name begin with n_; else leave it out of voxels",
            stacklevel=4,
        )
    if unclear := [name for name in atlas_columns(table) if (table[name] == _NAN_TEXT).any()]:
        warnings.warn(
            f"columns {unclear} of voxels have an ROI of the name 'nan', which NumPy makes of NaN "
            "in an array of text: if it means outside every ROI, make it None or ''",
            stacklevel=4,
        )
    return table


def with_codes_as_labels(voxels: pd.DataFrame, stacklevel: int = 3) -> pd.DataFrame:
    """The table with codes of ROIs as labels of their digits.

    Parameters
    ----------
    voxels : pandas.DataFrame
    stacklevel : int
        Of the warning.

    Warns
    -----
    UserWarning : there are such columns.
    """
    coded = [
        str(name)
        for name in voxels
        if name not in NON_ATLAS_COLUMNS
        and isinstance(voxels[name].dtype, np.dtype)
        and voxels[name].dtype.kind in "iuf"
        and not _is_measure(str(name), voxels[name])
        and _looks_like_codes(voxels[name])
    ]
    if not coded:
        return voxels
    warnings.warn(
        f"columns {coded} of voxels are whole numbers: they are read as codes of ROIs, whose "
        "labels are their digits, and 0, -1 and NaN are outside every ROI. Name the ROIs with "
        f"voxels[{coded[0]!r}].map({{1: 'V1', …}}); an ROI of 0 and 1 is .astype(bool); a "
        f"count gets a name that begins with n_: rename(columns={{{coded[0]!r}: "
        f"{'n_' + coded[0]!r}}})",
        stacklevel=stacklevel,
    )
    return voxels.assign(**{name: labels_of_codes(voxels[name].to_numpy()) for name in coded})


def _labels(values: pd.Series, name: str) -> Any:
    """Labels of an atlas, or bool of an ROI; None of a column that is neither."""
    if values.dtype == bool:
        return values
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values if _is_text(values.cat.categories) else text_labels(values, name)
    if values.dtype != object:
        return values if isinstance(values.dtype, pd.StringDtype) else None
    kinds = {type(value) for value in values.dropna()}
    if kinds <= {bool, np.bool_} and kinds:  # a voxel of which it is not known is outside
        return values.map(lambda inside: inside is True)
    if kinds <= {str}:
        return values
    if all(issubclass(kind, (int, float, np.number)) for kind in kinds):
        return None
    return text_labels(values, name)


def _is_text(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_measure(name: str, values: pd.Series) -> bool:
    """Whether a column of numbers is a count or a measure, no codes of ROIs."""
    if values.dtype.kind == "f":
        measured = not values.notna().any() or bool((values.dropna() % 1 != 0).any())
        return measured or name.startswith(MEASURES)
    return values.dtype.kind in "iu" and name.startswith(MEASURES)


def _looks_like_codes(values: pd.Series) -> bool:
    """Whether whole numbers may be codes of ROIs: -1 or more, and some voxels share one.

    A running number of voxels is unique in each, and positions are far below 0.
    """
    if values.dtype.kind not in "iuf" or not len(values):
        return False
    inside = values[values > 0]
    return bool(values.min() >= -1) and bool(inside.duplicated().any())


def labels_of_codes(codes: np.ndarray) -> np.ndarray:
    """Digits of whole numbers as labels of ROIs; None for NaN and for what is not above 0.

    Parameters
    ----------
    codes : array of whole numbers, shape (n_voxels,)

    Returns
    -------
    array of object, shape (n_voxels,)

    Examples
    --------
    >>> labels_of_codes(np.array([12, 0, -1, 3])).tolist()
    ['12', None, None, '3']
    """
    inside = np.nan_to_num(codes, nan=0) > 0
    return text_labels(np.where(inside, codes, np.nan), "codes of ROIs")


def check_voxels(voxels: pd.DataFrame, shape: tuple[int, ...]) -> None:
    """Raise ValueError if a voxel table does not fit betas of this shape."""
    if len(voxels) != shape[2]:
        raise ValueError(
            f"voxels has {len(voxels)} rows, but betas {shape} has {shape[2]} voxels"
            + see("guide/data")
        )


def beside_results(results: pd.DataFrame, voxels: pd.DataFrame | None) -> pd.DataFrame:
    """Results of voxels with the columns of the voxel table, which follow ``voxel``.

    A column whose name a result has, such as a coordinate ``z``, is taken over as ``z_of_voxel``;
    ``voxel`` is left out if it is the position, too.

    Parameters
    ----------
    results : DataFrame, n_voxels rows
        With a column ``voxel``, the position.
    voxels : DataFrame, n_voxels rows, optional

    Examples
    --------
    >>> results = pd.DataFrame({"voxel": [0, 1], "z": [2.5, -1.0]})
    >>> beside_results(results, pd.DataFrame({"roi": ["V1", "V2"], "z": [30, 31]}))
       voxel roi  z_of_voxel    z
    0      0  V1          30  2.5
    1      1  V2          31 -1.0
    """
    if voxels is None:
        return results
    own = voxels.reset_index(drop=True)
    if "voxel" in own and own["voxel"].tolist() == results["voxel"].tolist():
        own = own.drop(columns="voxel")
    taken = {*results, *own}
    names = {}
    for name in own:
        if name in results:
            new = f"{name}_of_voxel"
            while new in taken:
                new += "_"
            taken.add(new)
            names[name] = new
    own = own.rename(columns=names)
    return pd.concat([results[["voxel"]], own, results.drop(columns="voxel")], axis=1)


def atlas_columns(voxels: pd.DataFrame) -> list[str]:
    """Columns of a voxel table that hold ROI labels; then those of bool, which are an ROI each."""
    found = [
        str(column)
        for column in voxels
        if column not in NON_ATLAS_COLUMNS and _holds_rois(voxels[column].dtype)
    ]
    return sorted(found, key=lambda column: bool(voxels[column].dtype == bool))


def _holds_rois(dtype: Any) -> bool:
    text = isinstance(dtype, (pd.StringDtype, pd.CategoricalDtype))
    return text or (isinstance(dtype, np.dtype) and dtype.kind in "bO")


def atlas_labels(voxels: pd.DataFrame, atlas: str) -> np.ndarray:
    """Label of every voxel in an atlas.

    Parameters
    ----------
    voxels : pandas.DataFrame
    atlas : str
        A column; one of bool holds one ROI, of the column's name.

    Returns
    -------
    array of object, shape (n_voxels,): str, "" outside every ROI
    """
    values = voxels[atlas]
    if values.dtype == bool:
        return np.where(values, atlas, "").astype(object)
    text = values.astype(object)
    return text.astype(str).where(text.notna(), "").to_numpy(dtype=object)


def roi_positions(voxels: pd.DataFrame, atlas: str | None = None) -> dict[str, np.ndarray]:
    """Voxel positions of every ROI.

    Parameters
    ----------
    voxels : pandas.DataFrame
    atlas : str, optional
        Column of the voxel table; the first atlas by default.

    Returns
    -------
    dict of label to array of int, in order of first appearance; {} without an atlas.

    Raises
    ------
    ValueError : no such atlas.
    """
    atlases = atlas_columns(voxels)
    if atlas is None:
        if not atlases:
            return {}
        atlas = atlases[0]
    if atlas not in atlases:
        raise ValueError(
            f"atlas {atlas!r} is not in the voxel table, which has {atlases}" + see("guide/data")
        )
    codes, labels = pd.factorize(atlas_labels(voxels, atlas))
    return {label: np.flatnonzero(codes == i) for i, label in enumerate(labels) if label}


def in_rois(voxels: pd.DataFrame, roi: str | Sequence[str], atlas: str | None = None) -> np.ndarray:
    """Mask of the voxels in one ROI or in any of several.

    Parameters
    ----------
    voxels : pandas.DataFrame
    roi : label or several
    atlas : str, optional
        The atlas that `roi` is in; by default the first, or the only one that has the ROI.

    Returns
    -------
    array of bool, shape (n_voxels,)

    Raises
    ------
    ValueError : no such ROI or atlas, or an ROI of several atlases other than the first.
    """
    known = roi_positions(voxels, atlas)
    wanted = text_labels([roi] if np.ndim(roi) == 0 else roi, "roi").tolist()
    for label in wanted if atlas is None else ():
        if label not in known:
            others = [
                name for name in atlas_columns(voxels) if label in roi_positions(voxels, name)
            ]
            if len(others) > 1:
                raise ValueError(f"ROI {label!r} is in the atlases {others}: name one with atlas=")
            if others:
                known[label] = roi_positions(voxels, others[0])[label]
    if missing := [label for label in wanted if label not in known]:
        raise ValueError(f"no ROI {missing} here; there are {list(known)}" + see("guide/data"))
    mask = np.zeros(len(voxels), dtype=bool)
    for label in wanted:
        mask[known[label]] = True
    return mask
