"""Outputs of GLMsingle: files of its Python and MATLAB versions.

Sources: ``glmsingle/glmsingle.py`` and ``matlab/GLMestimatesingletrial.m`` of
https://github.com/cvnlab/GLMsingle. Python saves each model type as a dict (``.npy``, pickled) or
as HDF5 (``wanthdf5``), with ``betasmd`` (X, Y, Z, trials), or (units, 1, 1, trials) of data that
were (units, time); MATLAB as ``.mat`` of version 7.3, which is HDF5 with reversed axes, with
``modelmd``. ``DESIGNINFO`` has the condition of each trial (``stimorder``, from 0 in Python, from 1
in MATLAB).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brainenc.data.trial_sources import ArrayTrials, columns_of_matlab, layout_of, opened
from brainenc.documentation import see
from brainenc.pickled_arrays import read_dict
from brainenc.reading import reading

#: Files of the model types, without ending.
TYPES = {
    "A": "TYPEA_ONOFF",
    "B": "TYPEB_FITHRF",
    "C": "TYPEC_FITHRF_GLMDENOISE",
    "D": "TYPED_FITHRF_GLMDENOISE_RR",
}

_ENDINGS = (".npy", ".hdf5", ".h5", ".mat")

#: Maps of one value per voxel, and their columns in the voxel table. The noise ceiling is
#: GLMsingle's own estimate, in its own units, and stands beside the one that is estimated here.
MAPS = {
    "noiseceiling": "glmsingle_noise_ceiling",
    "R2": "glmsingle_R2",
    "meanvol": "glmsingle_meanvol",
    "HRFindex": "glmsingle_HRFindex",
    "FRACvalue": "glmsingle_FRACvalue",
}


@dataclass(frozen=True, eq=False)
class Output:
    """One model type of one fit.

    Attributes
    ----------
    name : str
        File in messages.
    betas : array, or (path, data set)
    maps : dict of name to array
        In the order of axes of the file.
    matlab : bool
        Axes are reversed, and voxels of flat data are in MATLAB's order.
    folder : Path or None
        Where ``DESIGNINFO`` may be.
    """

    name: str
    betas: Any
    maps: dict[str, np.ndarray]
    matlab: bool
    folder: Path | None

    def source(self, inside: np.ndarray) -> ArrayTrials:
        """Trials of the voxels of a mask; infinite values, of a mean signal of 0, are NaN."""
        with opened(self.betas) as values:
            shape = tuple(values.shape)
        axes = self._axes(shape, inside)
        layout = layout_of(shape, inside.shape, int(inside.sum()), self.name, axes=axes)
        return ArrayTrials(
            self.betas, layout, inside, self.name, fortran=self.matlab, infinite=False
        )

    def _axes(self, shape: tuple[int, ...], inside: np.ndarray) -> str | None:
        """Order of axes, which GLMsingle fixes; None if the shapes do not fit it."""
        n_voxels = int(inside.sum())
        if self.matlab:
            fits = {"tzyx": shape[1:] == inside.shape[::-1], "t11v": shape[1:] == (1, 1, n_voxels)}
        else:
            fits = {"xyzt": shape[:-1] == inside.shape, "v11t": shape[:-1] == (n_voxels, 1, 1)}
        return next((axes for axes, fit in fits.items() if fit), None)

    def columns(self, inside: np.ndarray) -> dict[str, np.ndarray]:
        """Maps as columns of the voxel table."""
        found = {}
        n_voxels = int(inside.sum())
        for key, name in MAPS.items():
            if key not in self.maps:
                continue
            values = np.asarray(self.maps[key], dtype=np.float32)
            volume = values.T if self.matlab else values
            if volume.shape == inside.shape:
                found[name] = volume[inside]
            elif values.size == n_voxels:
                flat = values.reshape(-1)
                found[name] = flat[columns_of_matlab(inside)] if self.matlab else flat
        return found

    def design(self) -> dict[str, Any]:
        """``stimorder`` (from 0), ``numtrialrun`` and ``wantpercentbold``, as far as known."""
        if self.folder is None:
            return {}
        if (path := self.folder / "DESIGNINFO.npy").exists():
            stored = read_dict(path)
            found: dict[str, Any] = {
                key: np.asarray(stored[key]).reshape(-1).astype(np.int64)
                for key in ("stimorder", "numtrialrun")
                if key in stored
            }
            parameters = stored.get("params")
            if isinstance(parameters, dict) and "wantpercentbold" in parameters:
                found["wantpercentbold"] = parameters["wantpercentbold"]
            return found
        if (path := self.folder / "DESIGNINFO.mat").exists():
            stored = _numbers(path, ("stimorder", "numtrialrun"))
            found = {key: value.reshape(-1).astype(np.int64) for key, value in stored.items()}
            if "stimorder" in found:
                found["stimorder"] -= 1
            return found
        return {}


def open_output(path: Any, kind: str | None) -> Output:
    """Output of GLMsingle: a folder, a file, or its dict in memory.

    Parameters
    ----------
    path : folder, file or dict
    kind : {"B", "C", "D"} or None
        Model type to take of a folder, or of a dict of all types; by default the last of B, C, D.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : type A, which has no betas of trials; no betas; a damaged file.
    """
    if kind is not None and kind not in TYPES:
        raise ValueError(f"kind={kind!r} must be 'B', 'C' or 'D', or None for the last of them")
    if isinstance(path, Mapping):
        return _of_dict(path, kind, "the dict of GLMsingle", None)
    file = _file(Path(path), kind)
    if file.name.startswith(TYPES["A"]) or kind == "A":
        raise _no_trials(str(file))
    if file.suffix == ".npy":
        return _of_dict(read_dict(file), kind, str(file), file.parent)
    return _of_hdf5(file)


def _no_trials(name: str) -> ValueError:
    return ValueError(
        f"{name} is of type A (ONOFF): it has one beta per voxel for all trials together, and no "
        "betas of trials. Give the file of type B, C or D, such as "
        "TYPED_FITHRF_GLMDENOISE_RR.npy"
    )


def _file(path: Path, kind: str | None) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"there is no file or folder {path}")
    there = {
        letter: path / f"{stem}{ending}"
        for letter, stem in TYPES.items()
        for ending in reversed(_ENDINGS)
        if (path / f"{stem}{ending}").exists()
    }
    if kind is not None and kind not in there:
        raise FileNotFoundError(
            f"{path} holds no {TYPES[kind]}, but {[file.name for file in there.values()]}"
        )
    if not there:
        raise FileNotFoundError(
            f"{path} holds no output of GLMsingle: {TYPES['D']}.npy, .hdf5 or .mat, or that of "
            "another type" + see("howto_own_data")
        )
    return there[kind or max(there)]


def _of_dict(found: Any, kind: str | None, name: str, folder: Path | None) -> Output:
    if not any(key in found for key in ("betasmd", "modelmd")):
        types = {key[-1].upper(): found[key] for key in found if str(key).startswith("type")}
        types = {letter: one for letter, one in types.items() if isinstance(one, Mapping)}
        if types:
            letter = kind or max(types)
            if letter == "A" or letter not in types:
                raise _no_trials(f"{name} ({', '.join(sorted(types))})")
            return _of_dict(types[letter], None, name, folder)
        raise ValueError(f"{name} has no betasmd; it has {list(found)}")
    betas = found["betasmd"] if "betasmd" in found else found["modelmd"]
    if isinstance(betas, list):  # type A has its HRF and betas
        raise _no_trials(name)
    betas = np.asanyarray(betas)
    _check_betas(betas.shape, betas.dtype, name)
    maps = {key: found[key] for key in MAPS if isinstance(found.get(key), np.ndarray)}
    return Output(name, betas, maps, False, folder)


def _of_hdf5(path: Path) -> Output:
    import h5py

    if not h5py.is_hdf5(path):
        raise ValueError(
            f"{path} is no HDF5 file (truncated?)"
            + (": save it with -v7.3" if path.suffix == ".mat" else "")
        )
    maps = {}
    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        key = next((one for one in ("betasmd", "modelmd") if one in file), None)
        if key is None:
            raise ValueError(f"{path} has no betasmd or modelmd; it has {list(file)}")
        if not isinstance(file[key], h5py.Dataset) or file[key].dtype.kind == "O":
            raise _no_trials(str(path))  # a cell of HRF and betas
        _check_betas(file[key].shape, file[key].dtype, str(path))
        # MATLAB's files say so at their head, and hold the attribute of a class.
        matlab = path.suffix == ".mat" or "MATLAB_class" in file[key].attrs
        for name in MAPS:
            stored = file.get(name)
            if isinstance(stored, h5py.Dataset) and stored.shape and stored.dtype.kind in "biuf":
                maps[name] = stored[()]
    return Output(str(path), (str(path), key), maps, matlab, path.parent)


def _check_betas(shape: tuple[int, ...] | None, dtype: np.dtype, name: str) -> None:
    if dtype.kind not in "iuf":
        raise ValueError(f"the betas of {name} are {dtype}, and no numbers")
    if shape is None or len(shape) not in (2, 4):
        raise ValueError(
            f"the betas of {name} have the shape {shape}, and no axis of trials (X, Y, Z, trials)"
            + (": type A (ONOFF) has no betas of trials" if shape and len(shape) == 3 else "")
            + see("howto_own_data")
        )


def _numbers(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    import h5py

    if not h5py.is_hdf5(path):
        return {}
    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        return {
            name: np.asarray(file[name])
            for name in names
            if isinstance(file.get(name), h5py.Dataset) and file[name].dtype.kind in "iuf"
        }
