"""Arrays that pycortex takes: volumes in its order of axes, hemispheres one after the other."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.brain.surfaces import FSAVERAGE, HEMISPHERES, to_hemispheres
from brainenc.brain.volumes import Volume, to_nifti
from brainenc.storage import atomic_path


def to_pycortex(
    values: Any,
    voxels: pd.DataFrame,
    *,
    volume: Volume | None = None,
    n_vertices: int = FSAVERAGE,
    path: str | os.PathLike | None = None,
) -> np.ndarray:
    """Values per voxel as an array for ``cortex.Volume`` or ``cortex.Vertex``.

    Parameters
    ----------
    values : array, shape (n_voxels,) or (n_maps, n_voxels)
    voxels : pandas.DataFrame, n_voxels rows
        With ``vertex`` and ``hemisphere``, or with ``i, j, k`` in `volume`.
    volume : Volume, optional
        Grid of the functional volume: that of the reference of pycortex's transform.
    n_vertices : int
        Vertices of each hemisphere's mesh; fsaverage by default.
    path : path, optional
        A ``.npy`` file to write.

    Returns
    -------
    array of float32, NaN where there is no voxel
        Of voxels in a volume shape ([n_maps,] z, y, x), the transpose of the NIfTI array, which is
        pycortex's order (its ``VolumeData`` transposes what nibabel reads). Of vertices shape
        ([n_maps,] 2 · n_vertices), the left hemisphere first.

    Raises
    ------
    ValueError : positions are missing or lie outside the volume or mesh, the number of values
        differs from that of voxels, or the path does not end in ``.npy``.

    Notes
    -----
    ``cortex.Volume(np.load("r.npy"), subject, transform)`` or ``cortex.Vertex(np.load("r.npy"),
    "fsaverage")`` shows it. Not tried with pycortex itself, which does not build everywhere.

    Examples
    --------
    >>> import pandas as pd
    >>> voxels = pd.DataFrame({"i": [0, 1], "j": [0, 2], "k": [0, 3]})
    >>> array = to_pycortex([0.1, 0.2], voxels, volume=Volume((2, 3, 4), np.eye(4)))
    >>> array.shape, round(float(array[3, 2, 1]), 3)
    ((4, 3, 2), 0.2)
    """
    if path is not None and not str(path).endswith(".npy"):
        raise ValueError(f"path={str(path)!r} must end in .npy")
    if {"vertex", "hemisphere"} <= set(voxels):
        maps = to_hemispheres(values, voxels, n_vertices=n_vertices)
        array = np.concatenate([maps[name] for name in HEMISPHERES], axis=-1)
    elif volume is None:
        raise ValueError(
            "volume is missing: pass Volume(shape, affine) of the functional volume, or give the "
            "voxel table the columns vertex and hemisphere"
        )
    else:
        image = to_nifti(values, voxels, shape=volume.shape, affine=volume.affine)
        array = np.ascontiguousarray(np.asarray(image.dataobj, np.float32).T)
    if path is not None:
        with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
            np.save(file, array)
    return array
