"""Grids that voxels are taken from: volumes, pairs of hemispheres, grayordinates.

A grid holds which of its places are voxels of the data, and in which order: that of ``grid[mask]``.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.brain.surfaces import HEMISPHERES
from brainenc.brain.volumes import POSITION, Volume, read_volume
from brainenc.conversion import plain_array
from brainenc.data.atlas_labels import labelled
from brainenc.documentation import see
from brainenc.reading import read_array, reading

#: Difference in mm, or in mm per voxel, up to which two affines are those of one grid: headers
#: store single precision.
SAME_AFFINE = 1e-3

#: Endings of files of FreeSurfer with values of vertices.
MGH = (".mgh", ".mgz")

#: Labels that come with an atlas; None of maps without.
Labels = dict[int, str] | None


@dataclass(frozen=True, eq=False)
class VolumeGrid:
    """Voxels of a volume.

    Attributes
    ----------
    inside : array of bool, shape (X, Y, Z)
    affine : array, shape (4, 4), or None
        None if neither the mask nor the betas came with one.
    space : str
        As of `brainenc.Volume`.
    """

    inside: np.ndarray
    affine: np.ndarray | None
    space: str = "native"

    @property
    def n_voxels(self) -> int:
        """Number of voxels inside."""
        return int(self.inside.sum())

    @property
    def volume(self) -> Volume | None:
        """Grid for maps."""
        if self.affine is None:
            return None
        return Volume(self.inside.shape, self.affine, self.space)

    def table(self) -> pd.DataFrame:
        """Positions of the voxels."""
        return pd.DataFrame(np.argwhere(self.inside), columns=POSITION)

    def check(self, shape: tuple[int, ...], affine: Any, name: str) -> None:
        """Check that a volume has this grid.

        Raises
        ------
        ValueError : another shape or affine; the message has both.
        """
        if tuple(shape) != self.inside.shape:
            raise ValueError(
                f"{name} has the shape {tuple(shape)}, but the mask has {self.inside.shape}: "
                "nothing is resampled here; bring both to one grid first, with "
                "nilearn.image.resample_to_img for example" + see("howto_own_data")
            )
        check_affine(affine, self.affine, name)

    def read_map(self, source: Any, name: str) -> tuple[np.ndarray, Labels]:
        """One value per voxel, of a map on the grid or a column of values.

        Parameters
        ----------
        source : array of shape (X, Y, Z) or (n_voxels,), nibabel image, or path
            NIfTI, MGH or ``.npy``.
        name : str

        Returns
        -------
        values : array, shape (n_voxels,)
        labels : None
        """
        if isinstance(source, (str, os.PathLike)) and not str(source).endswith(".npy"):
            image, values = read_volume(source)
            name, affine = str(source), image.affine
        elif isinstance(source, (str, os.PathLike)):
            values, affine = read_array(source), None
        elif hasattr(source, "dataobj"):
            values, affine = np.asanyarray(source.dataobj), source.affine
        else:
            values, affine = plain_array(source, name), None
        if values.ndim == 1 and len(values) == self.n_voxels:
            return values, None
        if values.ndim == 4 and values.shape[3] == 1:  # as some programs save a map
            values = values[..., 0]
        self.check(values.shape, affine, name)
        return values[self.inside], None


def check_affine(affine: Any, expected: Any, name: str) -> None:
    """Raise ValueError if two affines differ by more than `SAME_AFFINE`; None fits any."""
    if affine is None or expected is None:
        return
    difference = np.abs(np.asarray(affine) - np.asarray(expected)).max()
    if not difference <= SAME_AFFINE:
        raise ValueError(
            f"{name} has the affine {_rows(affine)}, but the mask has {_rows(expected)}: nothing "
            "is resampled here; bring both to one grid first, with "
            "nilearn.image.resample_to_img for example" + see("howto_own_data")
        )


def _rows(affine: Any) -> str:
    return str(np.round(np.asarray(affine, dtype=float)[:3], 3).tolist())


@dataclass(frozen=True, eq=False)
class SurfaceGrid:
    """Vertices of one or both hemispheres, the left before the right.

    Attributes
    ----------
    inside : dict of "lh" and "rh" to array of bool, shape (n_vertices,)
    """

    inside: dict[str, np.ndarray]
    volume: None = None

    @property
    def n_voxels(self) -> int:
        """Number of vertices inside."""
        return sum(int(inside.sum()) for inside in self.inside.values())

    def table(self) -> pd.DataFrame:
        """Vertex and hemisphere of the voxels."""
        parts = [
            pd.DataFrame({"vertex": np.flatnonzero(inside), "hemisphere": side})
            for side, inside in self.inside.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def read_map(self, source: Any, name: str) -> tuple[np.ndarray, Labels]:
        """One value per voxel.

        Parameters
        ----------
        source : dict of "lh" and "rh" to array, path or image; or array, shape (n_voxels,)
            Paths of GIFTI (``.label.gii``, ``.func.gii``), FreeSurfer's ``.annot``, MGH or
            ``.npy``.

        Returns
        -------
        values : array, shape (n_voxels,)
        labels : dict of int to str, or None
            Of ``.annot`` and ``.label.gii``; if the hemispheres number other labels, values are
            the labels as text.
        """
        parts = as_hemispheres(source, name)
        if parts is None:
            values = plain_array(source, name)
            if values.shape != (self.n_voxels,):
                raise ValueError(
                    f"{name} of shape {values.shape} must have one value for each of the "
                    f"{self.n_voxels} vertices inside, or be a dict of 'lh' and 'rh'"
                )
            return values, None
        if missing := [side for side in self.inside if side not in parts]:
            raise ValueError(f"{name} has {list(parts)}, but the betas have {missing[0]}, too")
        found, tables = [], []
        for side, inside in self.inside.items():
            values, labels = read_surface_map(parts[side], f"{name} of {side}")
            if values.shape != inside.shape:
                raise ValueError(
                    f"{name} of {side} has {values.shape} vertices, but the mesh of the betas has "
                    f"{inside.shape}: nothing is resampled here" + see("howto_own_data")
                )
            found.append(values[inside])
            tables.append(labels)
        if all(table == tables[0] for table in tables):
            return np.concatenate(found), tables[0]
        texts = [labelled(*part, name)[0] for part in zip(found, tables, strict=True)]
        return np.concatenate(texts), None


def as_hemispheres(source: Any, name: str) -> dict[str, Any] | None:
    """A dict with the keys "lh" and "rh", in this order; None of other objects."""
    if not isinstance(source, dict):
        return None
    alike = {"l": "lh", "left": "lh", "r": "rh", "right": "rh", "lh": "lh", "rh": "rh"}
    found = {alike.get(str(key).lower(), str(key)): value for key, value in source.items()}
    if len(found) < len(source) or not found or not set(found) <= set(HEMISPHERES):
        raise ValueError(f"{name} has the keys {list(source)}, but hemispheres are 'lh' and 'rh'")
    return {side: found[side] for side in HEMISPHERES if side in found}


def read_mgh(path: Path) -> np.ndarray:
    """Values of an MGH file; `nibabel.load` leaves the file open."""
    import nibabel as nib
    from nibabel.openers import ImageOpener

    with ImageOpener(str(path)) as file:
        image = nib.MGHImage.from_bytes(file.read())
    return np.asarray(image.dataobj)


def read_surface_map(source: Any, name: str) -> tuple[np.ndarray, Labels]:
    """Values of all vertices of a hemisphere, and the labels of an atlas file."""
    import nibabel as nib

    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        with reading(path, "a map of a surface"):
            if path.suffix == ".annot":
                codes, _, names = nib.freesurfer.read_annot(path)
                labels = {i: label.decode("utf-8") for i, label in enumerate(names)}
                return codes, labels
            if path.suffix == ".npy":
                return read_array(path), None
            if path.suffix in MGH:
                return read_mgh(path).reshape(-1), None
            source = nib.load(path)
    if hasattr(source, "darrays"):
        if len(source.darrays) != 1:
            raise ValueError(f"{name} has {len(source.darrays)} maps, but one is wanted")
        table = source.labeltable.get_labels_as_dict()
        return np.asarray(source.darrays[0].data), dict(table) or None
    return plain_array(source, name), None


@dataclass(frozen=True, eq=False)
class GrayordinateGrid:
    """Grayordinates of a CIFTI file: vertices of the cortex, or voxels of a volume.

    Attributes
    ----------
    axis : nibabel.cifti2.BrainModelAxis
        Of all grayordinates.
    inside : array of bool, shape (n_grayordinates,)
        Vertices only, or voxels only.
    space : str
    """

    axis: Any
    inside: np.ndarray
    space: str = "native"

    @property
    def n_voxels(self) -> int:
        """Number of grayordinates inside."""
        return int(self.inside.sum())

    @property
    def on_surface(self) -> bool:
        """Whether they are vertices."""
        return bool(self.axis.surface_mask[self.inside].all())

    @property
    def volume(self) -> Volume | None:
        """Grid for maps of voxels."""
        if self.on_surface:
            return None
        return Volume(self.axis.volume_shape, self.axis.affine, self.space)

    def table(self) -> pd.DataFrame:
        """Vertex and hemisphere, or i, j, k and the name of the structure."""
        names = self.axis.name[self.inside].astype(str)
        if self.on_surface:
            sides = np.where(np.char.find(names, "LEFT") >= 0, *HEMISPHERES)
            return pd.DataFrame({"vertex": self.axis.vertex[self.inside], "hemisphere": sides})
        table = pd.DataFrame(self.axis.voxel[self.inside], columns=POSITION)
        short = [name.removeprefix("CIFTI_STRUCTURE_").lower() for name in names.tolist()]
        return table.assign(structure=short)

    def check(self, axis: Any, name: str) -> None:
        """Raise ValueError if a file has other grayordinates."""
        if axis != self.axis:
            raise ValueError(
                f"{name} has {len(axis)} grayordinates, and the betas have {len(self.axis)}, which "
                "are not the same: nothing is resampled here" + see("howto_own_data")
            )

    def read_map(self, source: Any, name: str) -> tuple[np.ndarray, Labels]:
        """One value per voxel, of a CIFTI file (``.dlabel.nii``, ``.dscalar.nii``) or an array."""
        import nibabel as nib

        if isinstance(source, (str, os.PathLike)):
            with reading(source, "a CIFTI file"):
                source = nib.load(source)
        if not hasattr(source, "dataobj"):
            values = plain_array(source, name)
            if values.shape == (self.n_voxels,):
                return values, None
            if values.shape == self.inside.shape:
                return values[self.inside], None
            raise ValueError(
                f"{name} of shape {values.shape} must have one value for each of the "
                f"{self.n_voxels} voxels or the {len(self.inside)} grayordinates"
            )
        rows, axis = (source.header.get_axis(i) for i in (0, 1))
        self.check(axis, name)
        values = np.asarray(source.dataobj)
        if len(values) != 1:
            raise ValueError(f"{name} has {len(values)} maps, but one is wanted")
        table = getattr(rows, "label", None)
        labels = None if table is None else {code: text for code, (text, _) in table[0].items()}
        return values[0][self.inside], labels


def read_mask(values: np.ndarray, name: str) -> np.ndarray:
    """Where a mask is above 0.

    Raises
    ------
    ValueError : an empty mask, labels of an atlas, or probabilities.
    """
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {values.dtype}, but a mask is of bool or numbers")
    finite = values if values.dtype.kind in "biu" else values[np.isfinite(values)]
    above = np.unique(finite[finite > 0])
    if not len(above):
        raise ValueError(
            f"{name} of shape {values.shape} is empty: no value is above 0" + see("howto_own_data")
        )
    if (above % 1 != 0).any():
        raise ValueError(
            f"{name} has values such as {above[above % 1 != 0][0]:g} between whole numbers, as "
            "maps of probabilities have: choose a threshold, mask > 0.5 for example"
            + see("howto_own_data")
        )
    if len(above) > 1:
        raise ValueError(
            f"{name} holds the labels {above[:5].tolist()}{' …' if len(above) > 5 else ''}, as an "
            "atlas does: for all of them pass mask > 0, for one mask == label; its labels go to "
            "atlases={'name': …}" + see("howto_own_data")
        )
    return values > 0
