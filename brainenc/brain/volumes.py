"""Volumes: the grid of voxels, and values per voxel as NIfTI files."""

import gzip
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from brainenc.brain.values import voxel_values
from brainenc.conversion import numeric_array
from brainenc.documentation import see
from brainenc.reading import check_claim, n_bytes_of, reading
from brainenc.storage import atomic_path

if TYPE_CHECKING:
    import nibabel as nib

#: Columns of the voxel table with a voxel's position in the volume, counted from 0.
POSITION = ["i", "j", "k"]


@dataclass(frozen=True, eq=False)  # comparison by identity, as arrays have no truth value
class Volume:
    """Grid of a volume: with ``i, j, k`` of each voxel it defines a NIfTI file.

    Parameters
    ----------
    shape : (int, int, int)
        Number of voxels along i, j and k.
    affine : array, shape (4, 4)
        From (i, j, k, 1) to millimetres, right-anterior-superior positive.
    space : str
        Space of the millimetres: "native", the subject's own, or "MNI152", whose voxels can be
        shown on a template surface.

    Raises
    ------
    ValueError : a wrong shape, or an affine that is not finite or not invertible.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    space: str = "native"

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape={self.shape} must be three numbers of voxels, 1 or more")
        affine = np.array(self.affine, dtype=float)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError(f"affine {affine.shape} must be (4, 4) and finite")
        if np.linalg.matrix_rank(affine) < 4 or not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise ValueError(f"affine must be invertible and end in (0, 0, 0, 1), got\n{affine}")
        affine.flags.writeable = False
        for name, value in {"shape": shape, "affine": affine, "space": str(self.space)}.items():
            object.__setattr__(self, name, value)  # how a frozen dataclass sets its fields

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> "Volume | None":
        """Inverse of `to_json`; None for None."""
        return None if content is None else cls(**content)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"shape": list(self.shape), "affine": self.affine.tolist(), "space": self.space}

    def check_positions(self, voxels: pd.DataFrame) -> None:
        """Check that every voxel has a distinct position in the volume.

        Raises
        ------
        ValueError : ``i, j, k`` missing, not whole, outside the volume, or the same twice.
        """
        _check_inside(_positions(voxels), self.shape)


def to_nifti(
    values: Any,
    voxels: pd.DataFrame,
    *,
    affine: Any = None,
    shape: Sequence[int] | None = None,
    mask: Any = None,
    path: str | os.PathLike | None = None,
) -> "nib.Nifti1Image":
    """Values per voxel as a NIfTI volume.

    Parameters
    ----------
    values : array, shape (n_voxels,) or (n_maps, n_voxels)
        Several maps become the fourth axis of the volume.
    voxels : pandas.DataFrame, n_voxels rows
        Columns ``i``, ``j``, ``k``: position in the volume, counted from 0.
    affine : array, shape (4, 4), optional
        From ``i``, ``j``, ``k`` to millimetres. By default, without `mask`, the identity: the
        volume is then in voxel indices and does not match any anatomy.
    shape : (int, int, int), optional
        Shape of the volume; by default, without `mask`, the smallest with room for all voxels.
    mask : NIfTI image or path, optional
        Source of affine and shape instead of the two arguments; must be above 0 at every voxel.
    path : path, optional
        Destination, ``.nii`` or ``.nii.gz``, written atomically.

    Returns
    -------
    nibabel.Nifti1Image, float32, NaN outside the voxels

    Raises
    ------
    ValueError : positions are missing, are not whole numbers, occur twice or lie outside the volume
        or the mask; the number of values differs from that of voxels; or the path is not a NIfTI
        file.

    Examples
    --------
    >>> import pandas as pd
    >>> voxels = pd.DataFrame({"i": [0, 1], "j": [0, 2], "k": [0, 3]})
    >>> image = to_nifti([0.1, 0.2], voxels)
    >>> image.shape, round(float(image.dataobj[1, 2, 3]), 3)
    ((2, 3, 4), 0.2)
    """
    import nibabel as nib  # imported here, since opening data does not need it

    if path is not None and not str(path).endswith((".nii", ".nii.gz")):
        raise ValueError(f"path={str(path)!r} must end in .nii or .nii.gz")
    values = voxel_values(values, voxels)
    position = _positions(voxels)
    if mask is not None:
        affine, shape = _from_mask(mask, position, affine, shape)
    elif shape is None:
        shape = tuple(int(size) for size in position.max(axis=0) + 1)
    _check_inside(position, shape)
    grid = Volume(tuple(shape), np.eye(4) if affine is None else affine)
    volume = np.full((*shape, *values.shape[:-1]), np.nan, dtype=np.float32)
    volume[tuple(position.T)] = values.T
    image = nib.Nifti1Image(volume, grid.affine)
    image.header.set_xyzt_units("mm")
    if path is not None:
        _write(image, Path(path))
    return image


def open_volume(path: str | os.PathLike) -> Any:
    """A NIfTI or MGH file through nibabel, its header compared with the file's size.

    Parameters
    ----------
    path : path

    Returns
    -------
    nibabel image; its values are not read yet

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : not such a file, damaged, or its header says more values than the file can hold.
    """
    import nibabel as nib

    with reading(path, "a volume (NIfTI or MGH)"):
        image: Any = nib.load(path)
        stored = image.file_map["image"].filename or path
        n_bytes = n_bytes_of(image.shape, image.get_data_dtype())
        check_claim(stored, n_bytes, compressed=str(stored).endswith((".gz", ".mgz", ".bz2")))
    return image


def read_volume(path: str | os.PathLike) -> tuple[Any, np.ndarray]:
    """A NIfTI or MGH file and its values; see `open_volume`.

    Returns
    -------
    image : nibabel image
    values : array
    """
    image = open_volume(path)
    with reading(path, "a volume (NIfTI or MGH)"):
        values = np.asarray(image.dataobj)
        check_gzip(path)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{path} holds {values.dtype}, but a map has one number per voxel")
    return image, values


def check_gzip(path: str | os.PathLike) -> None:
    """Read a compressed file to its end, where the checksum is; nibabel stops before."""
    if str(path).endswith((".gz", ".mgz")):
        with gzip.open(path) as file:
            while file.read(2**20):
                pass


def _positions(voxels: pd.DataFrame) -> np.ndarray:
    missing = [name for name in POSITION if name not in voxels]
    if missing:
        raise ValueError(
            f"the voxel table has no column {', '.join(missing)}: a volume needs each voxel's "
            f"position in {', '.join(POSITION)} (there are {', '.join(map(str, voxels)) or 'none'})"
            + see("brain_maps")
        )
    position = numeric_array(voxels[POSITION], "i, j, k of voxels").astype(np.float64)
    if not len(position):
        raise ValueError("the voxel table is empty: there is nothing to put into a volume")
    if not (np.isfinite(position).all() and (position == position.round()).all()):
        raise ValueError(
            "i, j, k of the voxel table must be whole numbers counted from 0; for millimetres "
            "apply the inverse of the affine first"
        )
    n_twice = len(position) - len(np.unique(position, axis=0))
    if n_twice:
        raise ValueError(f"{n_twice} voxels have the i, j, k of another: one would hide the other")
    return position.astype(np.int64)


def _from_mask(mask: Any, position: np.ndarray, affine: Any, shape: Any) -> tuple[Any, tuple]:
    if affine is not None or shape is not None:
        raise ValueError("give mask, or affine and shape, not both")
    given = isinstance(mask, (str, os.PathLike))
    name = f"mask {os.fspath(mask)}" if given else "mask"
    mask, values = read_volume(mask) if given else (mask, np.asanyarray(mask.dataobj))
    try:
        _check_inside(position, Volume(mask.shape[:3], mask.affine).shape)
    except ValueError as error:
        raise ValueError(f"{name} is no grid of these voxels: {error}") from None
    # Masks of NSD have -1 outside the cortex.
    n_outside = int((~(values[tuple(position.T)] > 0)).sum())
    if n_outside:
        raise ValueError(
            f"{n_outside} of {len(position)} voxels lie where mask is 0 or below: is it the mask "
            "of another subject or resolution?"
        )
    return mask.affine, mask.shape[:3]


def _check_inside(position: np.ndarray, shape: Sequence[int]) -> None:
    if len(shape) != 3 or (position < 0).any() or (position >= np.asarray(shape)).any():
        raise ValueError(
            f"voxels have i, j, k from {position.min(axis=0)} to {position.max(axis=0)}, which do "
            f"not fit a volume of shape {tuple(shape)}"
        )


def _write(image: "nib.Nifti1Image", path: Path) -> None:
    content = image.to_bytes()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)  # no time stamp: equal maps are equal files
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
