"""Names of the integer codes of an atlas: label tables of files, and codes without one.

An atlas never loses its voxels: codes that no table names become labels of their digits, and a
table that lacks some of the codes is refused.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.conversion import column, text_labels
from brainenc.data.stimuli import read_table
from brainenc.data.voxels import labels_of_codes
from brainenc.documentation import see
from brainenc.reading import reading

#: Names, in small letters, of what lies outside every ROI.
OUTSIDE = {
    "", "???", "unknown", "background", "none", "outside", "unlabeled", "unlabelled", "no label",
    "clear label", "unassigned", "medial_wall", "medialwall", "medial wall", "n/a", "nan",
}  # fmt: skip


def read_labels(source: Any, name: str = "labels") -> dict[int, str]:
    """A label table: the name of each code.

    Parameters
    ----------
    source : dict of int to str, pandas.DataFrame, or path
        A FreeSurfer colour table (``.ctab``, or ``FreeSurferColorLUT.txt``: number and name in each
        line), a table of BIDS (``.tsv`` or ``.csv`` with columns ``index`` and ``name``), or a
        DataFrame with these columns.
    name : str
        Name of the table in errors.

    Returns
    -------
    dict of int to str

    Raises
    ------
    ValueError : a code that is no whole number or has two names, or no such columns.
    TypeError : no table.

    Examples
    --------
    >>> read_labels({1: "V1", 2.0: "V2"})
    {1: 'V1', 2: 'V2'}
    """
    if isinstance(source, Mapping):
        pairs = list(source.items())
    elif isinstance(source, pd.DataFrame):
        pairs = _of_table(source, name)
    elif isinstance(source, (str, os.PathLike)):
        name, path = str(source), Path(source)
        with reading(path, "a label table"):
            if path.suffix.lower() in (".tsv", ".csv"):
                pairs = _of_table(read_table(path, name), name)
            else:
                pairs = _of_colour_table(path)
    else:
        raise TypeError(
            f"{name} must be a dict of code to name, or a .ctab, .txt, .tsv or .csv file, got "
            f"{type(source).__name__}" + see("howto_own_data")
        )
    return _checked(pairs, name)


def _of_table(table: pd.DataFrame, name: str) -> list[tuple[Any, Any]]:
    """Columns of BIDS; of other tables those that are called alike."""
    found = []
    for choices in (("index", "code", "value", "id"), ("name", "label", "roi")):
        lower = {str(heading).lower(): heading for heading in table}
        known = [lower[choice] for choice in choices if choice in lower]
        if not known:
            raise ValueError(
                f"{name} has the columns {list(table)}, but a label table of BIDS has 'index' and "
                "'name': rename them" + see("howto_own_data")
            )
        found.append(table[known[0]].tolist())
    return list(zip(*found, strict=True))


def _of_colour_table(path: Path) -> list[tuple[Any, Any]]:
    """Number and name of each line; colours after them and comments are passed over."""
    pairs: list[tuple[Any, Any]] = []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        words = line.partition("#")[0].replace("\t", " ").split()
        if not words:
            continue
        if len(words) < 2:
            raise ValueError(f"{path} has a line without a name: {line!r}")
        pairs.append((words[0], words[1]))
    if not pairs:
        raise ValueError(
            f"{path} has no labels: each line of a colour table has a number and name"
            + see("howto_own_data")
        )
    return pairs


def _checked(pairs: list[tuple[Any, Any]], name: str) -> dict[int, str]:
    labels: dict[int, str] = {}
    for code, label in pairs:
        try:
            number = float(code)
            whole = int(number)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                f"{name} has the code {code!r}: codes of labels are whole numbers"
            ) from None
        if whole != number:
            raise ValueError(f"{name} has the code {code}: codes of labels are whole numbers")
        text = "" if label is None or label is pd.NA or label != label else str(label).strip()
        if labels.setdefault(whole, text) != text:
            raise ValueError(
                f"{name} gives the code {whole} two names, {labels[whole]!r} and {text!r}"
                + see("howto_own_data")
            )
    return labels


def labelled(values: Any, labels: Mapping[int, str] | None, name: str) -> tuple[np.ndarray, bool]:
    """Labels of the voxels of an atlas.

    Parameters
    ----------
    values : array, shape (n_voxels,)
        Codes, or labels as text.
    labels : dict of int to str, or None
        As `read_labels` gives it.
    name : str
        Name of the atlas in errors.

    Returns
    -------
    labels : array of object, shape (n_voxels,)
        Text, None outside every ROI. Without a table the digits of codes above 0. In a table, names
        such as "Unknown" and "???" are outside, and so are codes of 0 and below that it lacks.
    named : bool
        False if digits stand for names.

    Raises
    ------
    ValueError : codes that are not whole, codes that the table lacks, two codes of one name.
    """
    codes = column(values, f"atlas {name!r}", "n_voxels")
    if codes.dtype == bool:
        inside = [name if one else None for one in codes]
        return np.array(inside, dtype=object), True
    if codes.dtype.kind not in "iuf":
        given = text_labels(codes, f"atlas {name!r}")
        return np.array([label or None for label in given], dtype=object), True
    present = codes[np.isfinite(codes)]
    if (present % 1 != 0).any():
        raise ValueError(
            f"atlas {name!r} has values such as {present[present % 1 != 0][0]:g} between whole "
            "numbers, so it is no atlas of labels: a probability map takes a threshold first, a "
            "resampled atlas nearest-neighbour interpolation" + see("howto_own_data")
        )
    if labels is None:
        return labels_of_codes(codes), False
    numbers, voxels = np.unique(present.astype(np.int64), return_counts=True)
    lacking = [int(code) for code in numbers if code > 0 and code not in labels]
    if lacking:
        n_voxels = int(voxels[np.isin(numbers, lacking)].sum())
        raise ValueError(
            f"the label table of atlas {name!r} has no name for the codes {lacking[:10]} of "
            f"{n_voxels} voxels (it names {_some(labels)}): add them, or leave labels out to have "
            "codes as labels" + see("howto_own_data")
        )
    named = {code: labels[code] for code in numbers.tolist() if code in labels}
    named = {code: text for code, text in named.items() if text.lower() not in OUTSIDE}
    names = list(named.values())
    if len(set(names)) < len(names):
        twice = max(names, key=names.count)
        codes_of_it = [code for code, text in named.items() if text == twice]
        raise ValueError(
            f"the label table of atlas {name!r} gives the name {twice!r} to the codes "
            f"{codes_of_it}: give each its own name, such as 'lh {twice}' and 'rh {twice}'"
            + see("howto_own_data")
        )
    texts = [named.get(code) if code == code else None for code in codes.tolist()]
    return np.array(texts, dtype=object), True


def _some(labels: Mapping[int, str]) -> str:
    listed = [f"{code}: {label}" for code, label in list(labels.items())[:4]]
    return ", ".join(listed) + (" …" if len(labels) > 4 else "")
