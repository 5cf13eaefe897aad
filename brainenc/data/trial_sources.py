"""Trials of volumes and surfaces, read some at a time: arrays, NIfTI, HDF5, GIFTI, CIFTI.

A source gives rows of one value per voxel, (n_trials, n_voxels), in the order of the voxels of its
grid. It takes memory for the trials that are asked for, and for some whole volumes at a time.
"""

import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from brainenc.arrays import blocks, is_mapped, release
from brainenc.brain.volumes import check_gzip, open_volume
from brainenc.data.voxel_grids import MGH, GrayordinateGrid, SurfaceGrid, read_mgh
from brainenc.documentation import see
from brainenc.reading import check_claim, n_bytes_of, read_array, reading

#: Bytes of values outside the mask, or in double precision, that are in memory at a time.
_AT_ONCE = 2**26

#: Orders of axes, slowest first: x, y, z are those of the volume, t the trials, v the voxels of the
#: mask, in the order of ``volume[mask]``, and 1 an axis of one.
LAYOUTS = ("xyzt", "txyz", "tzyx", "vt", "tv", "v11t", "t11v", "xyz")


class TrialSource(Protocol):
    """Trials of one run or of several."""

    n_trials: int
    #: Name in messages.
    name: str
    #: Files that are read.
    files: list[Path]

    def read(self, trials: slice) -> np.ndarray:
        """Trials ``start`` … ``stop`` − 1, (n, n_voxels) float32."""


def layouts_of(shape: tuple[int, ...], mask: tuple[int, ...], n_voxels: int) -> list[str]:
    """Orders of axes that an array of this shape may have.

    Parameters
    ----------
    shape : tuple of int
    mask : tuple of int
        Shape of the mask.
    n_voxels : int
        Inside the mask.

    Examples
    --------
    >>> layouts_of((5, 6, 7, 100), (5, 6, 7), 40), layouts_of((100, 40), (5, 6, 7), 40)
    (['xyzt'], ['tv'])
    """
    fits = {
        "xyzt": len(shape) == 4 and shape[:3] == mask,
        "txyz": len(shape) == 4 and shape[1:] == mask,
        "tzyx": len(shape) == 4 and shape[1:] == mask[::-1] and mask != mask[::-1],
        "v11t": len(shape) == 4 and shape[:3] == (n_voxels, 1, 1) != mask,
        "t11v": len(shape) == 4 and shape[1:] == (1, 1, n_voxels) and mask[::-1] != shape[1:],
        "vt": len(shape) == 2 and shape[0] == n_voxels,
        "tv": len(shape) == 2 and shape[1] == n_voxels,
        "xyz": shape == mask,
    }
    return [layout for layout, fit in fits.items() if fit]


def layout_of(
    shape: tuple[int, ...],
    mask: tuple[int, ...],
    n_voxels: int,
    name: str,
    *,
    axes: str | None = None,
    n_trials: int | None = None,
) -> str:
    """The order of axes of an array of trials.

    Parameters
    ----------
    shape, mask, n_voxels
        As for `layouts_of`.
    name : str
        Name of the array in errors.
    axes : str, optional
        One of `LAYOUTS`, where it is known.
    n_trials : int, optional
        Number of trials, which may decide between two orders.

    Raises
    ------
    ValueError : no order fits, or several.
    """
    found = layouts_of(shape, mask, n_voxels)
    # Of a cubic mask, (T, X, Y, Z) and (T, Z, Y, X) are the same numbers.
    if "txyz" in found and mask == mask[::-1] and axes == "tzyx":
        return "tzyx"
    if axes is not None:
        if axes not in found:
            raise ValueError(
                f"{name} has the shape {shape}, which is not {axes!r} of a mask of shape {mask} "
                f"with {n_voxels} voxels" + see("howto_own_data")
            )
        return axes
    if n_trials is not None and len(found) > 1:
        kept = [one for one in found if shape[one.index("t")] == n_trials]
        found = kept or found
    if len(found) == 1 and not (found == ["txyz"] and mask == mask[::-1]):
        return found[0]
    if not found:
        raise ValueError(
            f"{name} has the shape {shape}, but the mask has {mask} with {n_voxels} voxels inside: "
            "volumes are (X, Y, Z, trials), values of the voxels inside (voxels, trials)"
            + see("howto_own_data")
        )
    choices = ", ".join(repr(one) for one in [*found, *(["tzyx"] if "txyz" in found else [])])
    raise ValueError(
        f"the shape {shape} of {name} fits several orders of axes: say which with axes=, one of "
        f"{choices} (t: trials, v: voxels of the mask)" + see("howto_own_data")
    )


class ArrayTrials:
    """Trials of an array in memory or on disk: NumPy's, a memory map, an HDF5 data set.

    Parameters
    ----------
    array : array, ``.npy`` path, or (path, data set) of an HDF5 file
    layout : str
        One of `LAYOUTS`.
    inside : array of bool, shape (X, Y, Z)
        Mask; for layouts with "v" only the number of voxels counts.
    name : str
    fortran : bool
        For layouts with "v": voxels are in the order of MATLAB's ``volume(mask)``, with i fastest.
    infinite : bool
        Keep infinite values, which `Runs` refuses; otherwise they are NaN.
    """

    def __init__(
        self,
        array: Any,
        layout: str,
        inside: np.ndarray,
        name: str,
        *,
        fortran: bool = False,
        infinite: bool = True,
    ):
        self.array, self.layout, self.name, self.infinite = array, layout, name, infinite
        self._columns = columns_of_matlab(inside) if fortran and "v" in layout else None
        self.n_voxels = int(inside.sum())
        with opened(array) as values:
            self.n_trials = values.shape[layout.index("t")] if "t" in layout else 1
        self.files = files_of(array)
        place = np.argwhere(inside)
        self._place = place[:, ::-1] if layout == "tzyx" else place

    def read(self, trials: slice) -> np.ndarray:
        """As of `TrialSource`."""
        with opened(self.array) as values:
            if "v" in self.layout:
                found = self._of_voxels(values, trials)
            else:
                found = self._of_grid(values, trials)
        if not self.infinite:
            found[np.isinf(found)] = np.nan
        return found if self._columns is None else found[:, self._columns]

    def _of_voxels(self, values: Any, trials: slice) -> np.ndarray:
        found = np.empty((trials.stop - trials.start, self.n_voxels), dtype=np.float32)
        if self.layout.startswith("t"):
            for some in blocks(len(found), max(1, _AT_ONCE // (8 * self.n_voxels))):
                rows = slice(trials.start + some.start, trials.start + some.stop)
                found[some] = np.asarray(values[rows]).reshape(-1, self.n_voxels)
                _release(values)
            return found
        for some in blocks(self.n_voxels, max(1, _AT_ONCE // (8 * len(found)))):
            block = values[some, ..., trials]
            found[:, some] = np.asarray(block).reshape(-1, len(found)).T
            _release(values)
        return found

    def _of_grid(self, values: Any, trials: slice) -> np.ndarray:
        found = np.empty((trials.stop - trials.start, self.n_voxels), dtype=np.float32)
        # Plane by plane of the slowest axis of space, the smallest box that holds its voxels: most
        # of a volume is no brain, and files hold neighbours together.
        for plane in np.unique(self._place[:, 0]):
            columns = np.flatnonzero(self._place[:, 0] == plane)
            a, b = self._place[columns, 1], self._place[columns, 2]
            box = (slice(a.min(), a.max() + 1), slice(b.min(), b.max() + 1))
            a, b = a - a.min(), b - b.min()
            size = 8 * (a.max() + 1) * (b.max() + 1)
            for some in blocks(len(found), max(1, _AT_ONCE // size)):
                rows = slice(trials.start + some.start, trials.start + some.stop)
                if self.layout == "xyz":
                    block = np.asarray(values[(int(plane), *box)])[..., None]
                elif self.layout == "xyzt":
                    block = np.asarray(values[(int(plane), *box, rows)])
                else:
                    block = np.moveaxis(np.asarray(values[(rows, int(plane), *box)]), 0, -1)
                found[some, columns] = block[a, b].T
            _release(values)
        return found


def _release(values: Any) -> None:
    """Give back the memory of a map's pages: the system maps many around each that is read."""
    if is_mapped(values):
        release(values)


def columns_of_matlab(inside: np.ndarray) -> np.ndarray:
    """Where MATLAB's ``volume(mask)`` has each voxel of NumPy's ``volume[mask]``.

    Examples
    --------
    >>> columns_of_matlab(np.ones((2, 2, 1), dtype=bool)).tolist()
    [0, 2, 1, 3]
    """
    place = np.ravel_multi_index(tuple(np.nonzero(inside)), inside.shape, order="F")
    return np.argsort(np.argsort(place))


@contextmanager
def opened(array: Any) -> Any:
    """The array itself, or that of a file, which is closed at the end."""
    if isinstance(array, (str, os.PathLike)):
        yield read_array(array, mapped=True)
    elif isinstance(array, tuple):
        import h5py

        path, dataset = array
        # Room for chunks that several reads take from.
        with reading(path, "an HDF5 file"), h5py.File(path, "r", rdcc_nbytes=_AT_ONCE) as file:
            yield file[dataset]
    else:
        yield array


def files_of(array: Any) -> list[Path]:
    """File that an array is read from, if it is known."""
    if isinstance(array, (str, os.PathLike)):
        return [Path(array)]
    if isinstance(array, tuple):
        return [Path(array[0])]
    path = getattr(array, "filename", None)  # of a memory map
    if path is None and hasattr(array, "chunks"):  # of an HDF5 data set
        path = getattr(getattr(array, "file", None), "filename", None)
    return [Path(path)] if isinstance(path, (str, os.PathLike)) else []


class ImageTrials:
    """Trials of a NIfTI file of four axes, or one trial of one of three.

    Parameters
    ----------
    image : path or nibabel image
    inside : array of bool, shape (X, Y, Z)
    name : str
    """

    def __init__(self, image: Any, inside: np.ndarray, name: str):
        self._image = open_volume(image) if isinstance(image, (str, os.PathLike)) else image
        self.inside, self.name = inside, name
        shape = self._image.shape
        self.n_trials = 1 if len(shape) == 3 else shape[3]
        path = self._image.get_filename()
        self.files = [] if path is None else [Path(path)]
        self._kept: Any = None

    def read(self, trials: slice) -> np.ndarray:
        """As of `TrialSource`."""
        found = np.empty((trials.stop - trials.start, int(self.inside.sum())), dtype=np.float32)
        for some in blocks(len(found), max(1, _AT_ONCE // (8 * self.inside.size))):
            rows = slice(trials.start + some.start, trials.start + some.stop)
            with reading(self.name, "a volume (NIfTI or MGH)"):
                proxy = self._proxy()
                whole = len(self._image.shape) == 3
                block = np.asarray(proxy if whole else proxy[..., rows])
            found[some] = block[self.inside].reshape(-1, some.stop - some.start).T
        if trials.stop >= self.n_trials and self._kept is not None:
            self._kept = None  # closes the file
            with reading(self.name, "a volume (NIfTI or MGH)"):
                check_gzip(self.files[0])
        return found

    def _proxy(self) -> Any:
        """Values; a compressed file stays open, as each block would be read from its start."""
        path = self._image.get_filename()
        if path is None or not str(path).endswith((".gz", ".mgz", ".bz2")):
            return self._image.dataobj
        if self._kept is None:
            import nibabel as nib

            self._kept = nib.load(path, keep_file_open=True)
        return self._kept.dataobj


class SurfaceTrials:
    """Trials of vertices, a file or array for each hemisphere.

    Parameters
    ----------
    parts : dict of "lh" and "rh" to GIFTI or MGH file, image, or array (n_vertices, n_trials)
    grid : SurfaceGrid
    name : str
    """

    def __init__(self, parts: dict[str, Any], grid: SurfaceGrid, name: str):
        self.parts, self.grid, self.name = parts, grid, name
        files = [Path(p) for p in parts.values() if isinstance(p, (str, os.PathLike))]
        self.files = files if len(files) == len(parts) else []
        self._last: dict[str, np.ndarray] = {}
        counts = {side: surface_shape(part, f"{name} of {side}")[1] for side, part in parts.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"{name} has {counts} trials: hemispheres must have the same")
        self.n_trials = next(iter(counts.values()))

    def read(self, trials: slice) -> np.ndarray:
        """As of `TrialSource`."""
        found = []
        for side, inside in self.grid.inside.items():
            values = self._values(side)
            found.append(np.asarray(values[:, trials])[inside].T)
        if trials.stop >= self.n_trials:
            self._last = {}
        return np.concatenate(found, axis=1).astype(np.float32, copy=False)

    def _values(self, side: str) -> np.ndarray:
        # A GIFTI file is text that is read as a whole; it is kept until its last trial is read.
        if side not in self._last:
            self._last[side] = surface_values(self.parts[side], f"{self.name} of {side}")
        return self._last[side]


def surface_values(source: Any, name: str) -> np.ndarray:
    """Trials of a hemisphere, (n_vertices, n_trials)."""
    if isinstance(source, (str, os.PathLike)):
        with reading(source, "data of a surface"):
            if str(source).endswith(".npy"):
                source = read_array(source, mapped=True)
            elif str(source).endswith(".gii"):
                import nibabel as nib

                source = nib.load(source)
            elif Path(source).suffix in MGH:
                values = read_mgh(Path(source))
                source = values.reshape(len(values), -1)
            else:
                raise ValueError(f"{source} must end in .gii, .mgh, .mgz or .npy")
    if hasattr(source, "darrays"):
        arrays = [array.data for array in source.darrays]
        if not arrays:
            raise ValueError(f"{name} holds no data")
        if len(arrays) == 1 and arrays[0].ndim == 2:
            return arrays[0]
        if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 1:
            shapes = sorted({array.shape for array in arrays})
            raise ValueError(f"{name} holds data of the shapes {shapes}, not one value per vertex")
        return np.stack(arrays, axis=1)
    values = np.asanyarray(source)
    if values.ndim == 4 and values.shape[1:3] == (1, 1):
        values = values[:, 0, 0]
    if values.ndim != 2:
        raise ValueError(f"{name} of shape {values.shape} must be (n_vertices, n_trials)")
    return values


def surface_shape(source: Any, name: str) -> tuple[int, int]:
    """Vertices and trials of a hemisphere."""
    n_vertices, n_trials = surface_values(source, name).shape
    return n_vertices, n_trials


class GrayordinateTrials:
    """Trials of a CIFTI file, one per row.

    Parameters
    ----------
    image : nibabel.Cifti2Image
    grid : GrayordinateGrid
    name : str
    """

    def __init__(self, image: Any, grid: GrayordinateGrid, name: str):
        self._image, self.grid, self.name = image, grid, name
        self.n_trials = image.shape[0]
        path = image.get_filename()
        self.files = [] if path is None else [Path(path)]
        if path is not None:
            check_claim(path, n_bytes_of(image.shape, image.get_data_dtype()))

    def read(self, trials: slice) -> np.ndarray:
        """As of `TrialSource`."""
        found = np.empty((trials.stop - trials.start, self.grid.n_voxels), dtype=np.float32)
        for some in blocks(len(found), max(1, _AT_ONCE // (8 * len(self.grid.inside)))):
            rows = slice(trials.start + some.start, trials.start + some.stop)
            with reading(self.name, "a CIFTI file"):
                found[some] = np.asarray(self._image.dataobj[rows])[:, self.grid.inside]
        return found


class Runs:
    """Sources one after the other.

    Parameters
    ----------
    sources : sequence of TrialSource
    """

    def __init__(self, sources: Sequence[TrialSource]):
        self.sources = list(sources)
        self.lengths = [source.n_trials for source in self.sources]
        self.n_trials = sum(self.lengths)
        self.files = [path for source in self.sources for path in source.files]
        self.name = self.sources[0].name if len(self.sources) == 1 else "betas"

    def read(self, trials: slice) -> np.ndarray:
        """As of `TrialSource`, checked for infinite values.

        Raises
        ------
        ValueError : infinite values; the message names the run and the trial in it.
        """
        found, first = [], 0
        for source in self.sources:
            start, stop = (
                min(max(edge - first, 0), source.n_trials) for edge in (trials.start, trials.stop)
            )
            if start < stop:
                found.append(_finite(source.read(slice(start, stop)), source.name, start))
            first += source.n_trials
        return found[0] if len(found) == 1 else np.concatenate(found)


def _finite(rows: np.ndarray, name: str, start: int) -> np.ndarray:
    # A sum is infinite or NaN if a value is, and takes no memory.
    if not np.isfinite(rows.sum(dtype=np.float64)) and np.isinf(rows).any():
        trial = int(np.argmax(np.isinf(rows).any(axis=1)))
        raise ValueError(
            f"{name} has infinite values in {int(np.isinf(rows[trial]).sum())} voxels of trial "
            f"{start + trial}: make them NaN, or leave these voxels out of the mask"
        )
    return rows
