"""The voxel table: which ROI each voxel is in.

A voxel table has one row per voxel: one column of ROI labels per atlas (missing or "" outside
every ROI), and any of the columns in `NON_ATLAS_COLUMNS`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

#: Columns that say where a voxel is or how good it is, not which ROI it is in.
NON_ATLAS_COLUMNS = ("ncsnr", "i", "j", "k", "x", "y", "z", "vertex", "hemisphere")


def check_voxels(voxels: pd.DataFrame, shape: tuple[int, ...]) -> None:
    """Refuse a voxel table that does not fit betas of this shape; raises ValueError."""
    if len(voxels) != shape[2]:
        raise ValueError(f"voxels has {len(voxels)} rows, but betas {shape} has {shape[2]} voxels")


def atlas_columns(voxels: pd.DataFrame) -> list[str]:
    """Columns of a voxel table that hold ROI labels."""
    return [
        str(column)
        for column in voxels
        if column not in NON_ATLAS_COLUMNS and not pd.api.types.is_numeric_dtype(voxels[column])
    ]


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
        raise ValueError(f"atlas {atlas!r} is not in the voxel table, which has {atlases}")
    codes, labels = pd.factorize(voxels[atlas])  # missing labels get no code
    return {str(label): np.flatnonzero(codes == i) for i, label in enumerate(labels) if label}


def in_rois(voxels: pd.DataFrame, roi: str | Sequence[str], atlas: str | None = None) -> np.ndarray:
    """Mask of the voxels in one ROI or in any of several.

    Parameters
    ----------
    voxels : pandas.DataFrame
    roi : label or several
    atlas : str, optional
        The atlas that `roi` is in; the first by default.

    Returns
    -------
    array of bool, shape (n_voxels,)

    Raises
    ------
    ValueError : no such ROI or atlas.
    """
    known = roi_positions(voxels, atlas)
    wanted = [roi] if isinstance(roi, str) else list(roi)
    if missing := [label for label in wanted if label not in known]:
        raise ValueError(f"no ROI {missing} here; there are {list(known)}")
    mask = np.zeros(len(voxels), dtype=bool)
    for label in wanted:
        mask[known[label]] = True
    return mask
