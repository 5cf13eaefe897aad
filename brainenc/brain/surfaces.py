"""Values per vertex on the two hemispheres: arrays, GIfTI files."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from brainenc.brain.values import voxel_values
from brainenc.conversion import numeric_array
from brainenc.documentation import see
from brainenc.storage import atomic_path

if TYPE_CHECKING:
    import nibabel as nib

HEMISPHERES = ("lh", "rh")

#: Vertices of a hemisphere of FreeSurfer's fsaverage. The first 10 242 are those of fsaverage5.
FSAVERAGE, FSAVERAGE5 = 163842, 10242


def to_hemispheres(
    values: Any, voxels: pd.DataFrame, *, n_vertices: int = FSAVERAGE
) -> dict[str, np.ndarray]:
    """Values per voxel as arrays over the vertices of both hemispheres.

    Parameters
    ----------
    values : array, shape (n_voxels,) or (n_maps, n_voxels)
    voxels : pandas.DataFrame, n_voxels rows
        ``vertex``, counted from 0 in its hemisphere, and ``hemisphere``: "lh" or "rh", also
        "L", "R", "left", "right".
    n_vertices : int
        Vertices of each hemisphere's mesh; fsaverage by default.

    Returns
    -------
    dict of "lh" and "rh" to array of float32, shape (n_vertices,) or (n_maps, n_vertices)
        NaN at vertices without a voxel.

    Raises
    ------
    ValueError : columns are missing, a hemisphere has another name, vertices are not whole numbers,
        lie outside the mesh or occur twice, or the number of values differs from that of voxels.
    """
    values = voxel_values(values, voxels)
    vertex, hemisphere = _places(voxels, n_vertices)
    maps = {}
    for name in HEMISPHERES:
        here = hemisphere == name
        maps[name] = np.full((*values.shape[:-1], n_vertices), np.nan, dtype=np.float32)
        maps[name][..., vertex[here]] = values[..., here]
    return maps


def to_surface(
    values: Any,
    voxels: pd.DataFrame,
    *,
    n_vertices: int = FSAVERAGE,
    path: str | os.PathLike | None = None,
) -> dict[str, "nib.GiftiImage"]:
    """Values per vertex as a pair of GIfTI images.

    Parameters
    ----------
    values, voxels, n_vertices
        As for `to_hemispheres`. Several maps become several data arrays.
    path : path, optional
        Destination: ``maps/r.func.gii`` writes ``maps/lh.r.func.gii`` and ``maps/rh.r.func.gii``,
        each atomically.

    Returns
    -------
    dict of "lh" and "rh" to nibabel.GiftiImage, float32, NaN at vertices without a voxel

    Raises
    ------
    ValueError : as `to_hemispheres`, or a path that does not end in ``.gii``.
    """
    import nibabel as nib

    if path is not None and not str(path).endswith(".gii"):
        raise ValueError(f"path={str(path)!r} must end in .gii")
    structures = {"lh": "CortexLeft", "rh": "CortexRight"}
    images = {}
    for name, maps in to_hemispheres(values, voxels, n_vertices=n_vertices).items():
        meta = nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": structures[name]})
        images[name] = nib.GiftiImage(meta=meta)
        for one in np.atleast_2d(maps):
            array = nib.gifti.GiftiDataArray(
                one, intent="NIFTI_INTENT_NONE", datatype="NIFTI_TYPE_FLOAT32"
            )
            images[name].add_gifti_data_array(array)
        if path is not None:
            with atomic_path(Path(path).with_name(f"{name}.{Path(path).name}")) as temporary:
                temporary.write_bytes(images[name].to_bytes())
    return images


def hemisphere_names(labels: Any) -> np.ndarray:
    """Labels as "lh" and "rh".

    Raises
    ------
    ValueError : a label that begins with neither L nor R.
    """
    first = pd.Series(labels).astype(str).str.lower().str[:1].to_numpy(object)
    if not set(first) <= {"l", "r"}:
        other = pd.unique(pd.Series(labels)[~np.isin(first, ["l", "r"])]).tolist()
        raise ValueError(f"hemisphere must be 'lh' or 'rh', and is {other[:3]} for some voxels")
    return np.where(first == "l", *HEMISPHERES)


def _places(voxels: pd.DataFrame, n_vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertex and hemisphere of every voxel."""
    if missing := [column for column in ("vertex", "hemisphere") if column not in voxels]:
        raise ValueError(
            f"the voxel table has no column {missing}: a surface needs each voxel's vertex and "
            f"hemisphere (there are {list(voxels)})" + see("brain_maps")
        )
    vertex = numeric_array(voxels["vertex"], "vertex of voxels").astype(float)
    if not ((vertex >= 0) & (vertex < n_vertices) & (vertex % 1 == 0)).all():
        raise ValueError(
            f"vertex runs from {np.min(vertex):g} to {np.max(vertex):g}, but must be whole numbers "
            f"in 0 … {n_vertices - 1}, counted from 0 in each hemisphere; is n_vertices="
            f"{n_vertices} that of the mesh?"
        )
    hemisphere = hemisphere_names(voxels["hemisphere"])
    table = pd.DataFrame({"vertex": vertex.astype(np.int64), "hemisphere": hemisphere})
    if n_twice := int(table.duplicated().sum()):
        raise ValueError(f"{n_twice} voxels have the vertex of another: one would hide the other")
    return table["vertex"].to_numpy(), hemisphere
