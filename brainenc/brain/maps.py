"""VoxelMaps: methods that write values per voxel to files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from brainenc.brain.pycortex import to_pycortex
from brainenc.brain.surfaces import FSAVERAGE, to_surface
from brainenc.brain.volumes import Volume, to_nifti
from brainenc.conversion import check_row_order, column
from brainenc.csv_files import write_csv
from brainenc.documentation import see
from brainenc.validation import check_same_length

if TYPE_CHECKING:
    import nibabel


class VoxelMaps:
    """Base class of data with a voxel table: writes values per voxel in three formats.

    Attributes
    ----------
    voxels : pandas.DataFrame, one row per voxel
    volume : Volume or None
        Grid of the volume that the voxels come from.
    name : str
        Name of the data in messages.
    """

    voxels: pd.DataFrame
    volume: Volume | None
    name: str

    def to_nifti(self, values: Any, path: str | os.PathLike | None = None) -> "nibabel.Nifti1Image":
        """Values per voxel in the volume that the voxels come from.

        Parameters
        ----------
        values : array, shape (n_voxels,) or (n_maps, n_voxels)
        path : path, optional
            A ``.nii`` or ``.nii.gz`` file to write.

        Returns
        -------
        nibabel.Nifti1Image, float32, NaN outside the voxels

        Raises
        ------
        ValueError : the data have no `volume`, or the number of values differs from that of voxels.
        """
        if self.volume is None and "vertex" in self.voxels:
            raise ValueError(
                f"the voxels of {self.name!r} are on the surface: use to_surface"
                + see("brain_maps")
            )
        if self.volume is None:
            raise ValueError(
                f"{self.name!r} has no volume: set "
                "data = dataclasses.replace(data, volume=Volume(shape, affine)), with i, j, k in "
                "the voxel table, or use brainenc.brain.to_nifti" + see("brain_maps")
            )
        shape, affine = self.volume.shape, self.volume.affine
        return to_nifti(values, self.voxels, shape=shape, affine=affine, path=path)

    def to_surface(
        self,
        values: Any,
        path: str | os.PathLike | None = None,
        *,
        n_vertices: int = FSAVERAGE,
    ) -> "dict[str, nibabel.GiftiImage]":
        """Values per vertex as GIfTI, one per hemisphere: see `brainenc.brain.to_surface`."""
        return to_surface(values, self.voxels, n_vertices=n_vertices, path=path)

    def to_pycortex(
        self,
        values: Any,
        path: str | os.PathLike | None = None,
        *,
        n_vertices: int = FSAVERAGE,
    ) -> np.ndarray:
        """Values per voxel as an array for pycortex: see `brainenc.brain.to_pycortex`."""
        return to_pycortex(
            values, self.voxels, volume=self.volume, n_vertices=n_vertices, path=path
        )

    def to_csv(self, values: Any, path: str | os.PathLike) -> Path:
        """Write the voxel table with columns of values.

        Parameters
        ----------
        values : array, shape (n_voxels,), or dict or DataFrame of columns of such arrays
            An array becomes the column ``value``. A Series is taken in the order of its rows,
            whatever its index.
        path : path

        Returns
        -------
        pathlib.Path : `path`

        Raises
        ------
        ValueError : the number of values differs from that of voxels, a column name is taken, or
            a Series has an index in another order.
        """
        several = isinstance(values, (Mapping, pd.DataFrame))
        given = {str(key): values[key] for key in values} if several else {"value": values}
        named = {name: column(one, name, "n_voxels") for name, one in given.items()}
        check_row_order(voxels=self.voxels, **given)
        check_same_length(voxels=self.voxels, **named)
        if taken := [name for name in named if name in self.voxels]:
            raise ValueError(f"the voxel table has columns {taken} already; choose other names")
        write_csv(path, self.voxels.assign(**named), index=True, index_label="voxel")
        return Path(path)
