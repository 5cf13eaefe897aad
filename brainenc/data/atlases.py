"""Atlases of own data: maps of labels on the grid of the voxels, as columns of the voxel table."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.data.atlas_labels import labelled, read_labels
from brainenc.data.voxel_grids import GrayordinateGrid, SurfaceGrid, VolumeGrid, as_hemispheres
from brainenc.data.voxels import NON_ATLAS_COLUMNS
from brainenc.documentation import see

#: Endings that are no part of an atlas's name.
_ENDINGS = (
    ".nii.gz",
    ".dlabel.nii",
    ".label.gii",
    ".nii",
    ".annot",
    ".mgz",
    ".mgh",
    ".gii",
    ".npy",
)


def atlas_table(
    grid: VolumeGrid | SurfaceGrid | GrayordinateGrid, atlases: Any, labels: Any
) -> pd.DataFrame:
    """One column of ROI labels per atlas.

    Parameters
    ----------
    grid : grid of the voxels
    atlases : dict of name to map, a path, a list of paths, or None
        Maps as the grid reads them. Paths give their names to the atlases.
    labels : dict of atlas to label table, one label table for the only atlas, or None
        As `brainenc.data.atlas_labels.read_labels` takes them. Without one the labels of the atlas
        file itself are taken, or a table of BIDS next to a volume: ``x_dseg.tsv``.

    Returns
    -------
    pandas.DataFrame, one row per voxel

    Raises
    ------
    ValueError : maps of another grid, a table that lacks codes, names given twice.

    Warns
    -----
    UserWarning : atlases without a label table, whose labels are the codes; atlases that label no
        voxel.
    """
    sources = _named(atlases)
    tables = _tables(labels, list(sources))
    columns: dict[str, np.ndarray] = {}
    unnamed, empty = [], []
    for name, source in sources.items():
        if name in NON_ATLAS_COLUMNS:
            raise ValueError(f"atlases has {name!r}, which is a column of positions: rename it")
        values, own = grid.read_map(source, f"atlas {name!r}")
        table = tables.get(name, own)
        if table is None and (sidecar := _sidecar(source)) is not None:
            table = read_labels(sidecar)
        columns[name], has_names = labelled(values, table, name)
        if all(label is None for label in columns[name]):
            empty.append(name)
        elif not has_names:
            unnamed.append(name)
    if unnamed:
        warnings.warn(
            f"the atlases {unnamed} have no label table: their labels are the codes, '12' for 12. "
            f"Name them with labels={{{unnamed[0]!r}: …}}, a dict {{1: 'V1', …}} or a .ctab, .txt "
            "or .tsv file",
            stacklevel=3,
        )
    if empty:
        warnings.warn(
            f"the atlases {empty} label no voxel of the mask: are they of the same subject and "
            "space?",
            stacklevel=3,
        )
    return pd.DataFrame(columns, index=range(grid.n_voxels))


def _named(atlases: Any) -> dict[str, Any]:
    if atlases is None:
        return {}
    if isinstance(atlases, Mapping):
        if atlases and {str(key).lower() for key in atlases} <= {"lh", "rh", "l", "r"}:
            return {"atlas": as_hemispheres(dict(atlases), "atlases")}
        return {str(name): source for name, source in atlases.items()}
    if isinstance(atlases, (str, os.PathLike)):
        atlases = [atlases]
    if not isinstance(atlases, (list, tuple)) or not all(
        isinstance(one, (str, os.PathLike)) for one in atlases
    ):
        raise TypeError(
            "atlases must be a dict of name to map, such as {'streams': 'streams.nii.gz'}, or paths"
        )
    names = [atlas_name(path) for path in atlases]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"atlases has several files called {sorted(twice)}: give a dict of names")
    return dict(zip(names, atlases, strict=True))


def atlas_name(path: str | os.PathLike) -> str:
    """Name of an atlas, from that of its file.

    Examples
    --------
    >>> atlas_name("rois/sub-01_atlas-Wang2015_dseg.nii.gz"), atlas_name("streams.nii.gz")
    ('Wang2015', 'streams')
    """
    name = Path(path).name
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    entities = dict(part.split("-", 1) for part in name.split("_") if "-" in part)
    return entities.get("atlas", entities.get("seg", name)) if "_" in name else name


def _tables(labels: Any, names: list[str]) -> dict[str, dict[int, str]]:
    """Label table of each atlas that has one."""
    if labels is None:
        return {}
    texts = isinstance(labels, Mapping) and all(isinstance(key, str) for key in labels)
    # A dict of JSON has its codes as text.
    if texts and labels and not all(key.isdecimal() and key not in names for key in labels):
        if unknown := [name for name in labels if name not in names]:
            raise ValueError(f"labels has {unknown}, but the atlases are {names}")
        return {
            name: read_labels(table, f"labels[{name!r}]")
            for name, table in labels.items()
            if table is not None
        }
    if len(names) != 1:
        raise ValueError(
            f"labels is one table, but there are the atlases {names}: give a dict of atlas to table"
            + see("howto_own_data")
        )
    return {names[0]: read_labels(labels)}


def _sidecar(source: Any) -> Path | None:
    """Table of BIDS with the name of a volume."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    for ending in (".nii.gz", ".nii"):
        if path.name.endswith(ending):
            table = path.with_name(path.name.removesuffix(ending) + ".tsv")
            return table if table.is_file() else None
    return None
