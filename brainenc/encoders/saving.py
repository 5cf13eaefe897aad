"""Saving fitted encoders: JSON for structure, safetensors for arrays, no pickle."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file
from sklearn.base import BaseEstimator

import brainenc
from brainenc.arrays import row_blocks, write_array
from brainenc.documentation import see
from brainenc.encoders.model_reader import ModelReader
from brainenc.encoders.packing import Packer, has_own_file
from brainenc.features.saved import difference, probe
from brainenc.storage import atomic_path, check_writable, fingerprint, write_json

#: Version of the folder layout that `save` writes, and that of one with large arrays in files of
#: their own, which is the newest one.
FORMAT_VERSION, FORMAT_WITH_FILES = 3, 4

#: What a folder may hold. Decoders of versions before 0.2 were saved as encoders.
FORMATS = ("brainenc.encoder", "brainenc.decoder")

STRUCTURE, ARRAYS = "model.json", "arrays.safetensors"

#: Relative difference of features that sums in another order explain.
_ROUND_OFF = 1e-3


def save(
    encoder: BaseEstimator, folder: str | os.PathLike, *, voxels: pd.DataFrame | None = None
) -> Path:
    """Write a fitted encoder to a folder, whole and exactly, or not at all.

    What is written is read back and compared before the folder gets its name.

    Parameters
    ----------
    encoder : BaseEncoder
        Its parameters and fitted attributes (those ending in ``_``) are written.
    folder : path
        A former model there is replaced once the new one is complete.
    voxels : DataFrame, one row per voxel, optional
        Table of the voxels that the encoder was fitted to, such as ``data.voxels``; the loaded
        encoder has it as ``voxels_``.

    Returns
    -------
    pathlib.Path : `folder`

    Raises
    ------
    FileExistsError : `folder` exists and holds no model.
    TypeError : a parameter or attribute that cannot be restored exactly (a function, a module or
        object of another library); the message names it and a way on.
    ValueError : `voxels` has another number of rows than the encoder has voxels.
    """
    folder = check_model_folder(folder)
    packer = Packer()
    packed = packer.pack(encoder, "")
    if voxels is not None:
        packed["state"]["voxels_"] = packer.pack(_voxel_table(voxels, encoder), ".voxels_")
    _check_it_comes_back(packed, packer)
    large = {name: array for name, array in packer.arrays.items() if has_own_file(array)}
    files = {name: f"array_{i}.npy" for i, name in enumerate(large)}
    structure = {
        # A pipeline, or a regressor that an encoder wraps, is saved as an encoder.
        "format": getattr(encoder, "saved_format", FORMATS[0]),
        "format_version": FORMAT_WITH_FILES if files else FORMAT_VERSION,
        "brainenc_version": brainenc.__version__,
        "needs_classes": sorted(kind.__name__ for kind in packer.classes),
        "encoder": packed,
    }
    structure = signed({**structure, "files": files} if files else structure, packer.arrays)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / STRUCTURE, structure)
        small = {name: array for name, array in packer.arrays.items() if name not in large}
        save_file(small, temporary / ARRAYS)
        for name, array in large.items():
            write_array(temporary / files[name], array)
        # safetensors makes files that only the user may read, whatever the umask.
        shutil.copymode(temporary / STRUCTURE, temporary / ARRAYS)
    return folder


def signed(structure: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The structure with checksums of the arrays and of itself."""
    found = {**structure, "arrays": {name: fingerprint(array) for name, array in arrays.items()}}
    return {**found, "checksum": structure_checksum(found)}


def structure_checksum(structure: Mapping[str, Any]) -> str:
    """Checksum of all of ``model.json``, which holds those of the arrays."""
    return fingerprint({name: value for name, value in structure.items() if name != "checksum"})


def checksum_of_format_2(packed: Any, arrays: Mapping[str, np.ndarray]) -> str:
    """The one checksum of a model of format 2."""
    names = sorted(arrays)
    return fingerprint(packed, names, *(arrays[name] for name in names))


def _voxel_table(voxels: pd.DataFrame, encoder: Any) -> pd.DataFrame:
    """The table with plain columns: labels as text, None where there is none."""
    if not isinstance(voxels, pd.DataFrame):
        raise TypeError(f"voxels must be a DataFrame, one row per voxel, got {type(voxels)}")
    if len(voxels) != encoder.n_voxels_:
        raise ValueError(
            f"voxels has {len(voxels)} rows, but the encoder was fitted to {encoder.n_voxels_} "
            "voxels: give the table of the data it was fitted to"
        )
    columns = {}
    for name in voxels:
        column = voxels[name].reset_index(drop=True)
        if not (pd.api.types.is_numeric_dtype(column) and isinstance(column.dtype, np.dtype)):
            plain = column.astype(object).where(column.notna(), None)
            columns[name] = plain.map(lambda label: None if label is None else str(label))
        else:
            columns[name] = column
    return pd.DataFrame(columns, index=range(len(voxels)))


def _check_it_comes_back(packed: Any, packer: Packer) -> None:
    """Read the packed encoder as `load` does, and compare it with what was packed."""
    text = json.dumps(packed)
    again = Packer()
    try:
        loaded = ModelReader("the encoder", packer.arrays, packer.classes).encoder(json.loads(text))
        found = json.dumps(again.pack(loaded, ""))
    except (ValueError, TypeError) as error:
        raise TypeError(f"the encoder cannot be saved, since it does not come back: {error}") from (
            error
        )
    names = {*packer.arrays, *again.arrays}
    changed = [name for name in names if not _same(packer.arrays.get(name), again.arrays.get(name))]
    if found != text or changed:
        place = min(changed, default="a value of its parameters or attributes").strip(".")
        raise TypeError(
            f"the encoder cannot be saved: {place} comes back as another one. A constructor must "
            "store its arguments as they are" + see("guide/encoders")
        )
    for ours, theirs in zip(packer.extractors, again.extractors, strict=True):
        _check_same_features(ours, theirs)


def _check_same_features(ours: Any, theirs: Any) -> None:
    """Compare features of a test picture with those of the extractor that was read back."""
    off = difference(probe(ours), probe(theirs))
    if not off < _ROUND_OFF:
        raise TypeError(
            f"the encoder cannot be saved: its {type(ours).__name__} gives other features when it "
            f"is made again from its parameters (those of a test picture differ by {100 * off:.2g} "
            "% of their spread). All that features depend on must be a parameter, random numbers "
            "must have a seed, and extracting must not change the extractor"
        )


def _same(ours: np.ndarray | None, theirs: np.ndarray | None) -> bool:
    """Whether two arrays are equal bit by bit."""
    if ours is theirs:
        return True
    if ours is None or theirs is None or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return False
    if ours.ndim == 0:
        return bool(np.array_equal(_as_bytes(ours), _as_bytes(theirs)))
    blocks = zip(row_blocks(ours), row_blocks(theirs), strict=True)
    return all(np.array_equal(_as_bytes(a), _as_bytes(b)) for a, b in blocks)


def _as_bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def check_model_folder(folder: str | os.PathLike) -> Path:
    """Folder for an encoder: new, or holding a former one.

    Raises
    ------
    FileExistsError : it exists and holds no model.
    NotADirectoryError, PermissionError : it cannot be made or written to.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / STRUCTURE).exists():
        raise FileExistsError(f"{folder} exists and holds no model; choose another name")
    check_writable(folder.absolute().parent)
    return folder
