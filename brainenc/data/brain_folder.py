"""The ``.brain`` folder: one subject's data as plain files, memory-mapped when read.

``meta.json``, ``betas.npy``, ``images.npy`` (or ``images/`` with image files, or ``image_rows.npy``
with rows of an HDF5 file elsewhere), ``voxels.csv`` (one row per voxel) and ``trials.csv`` (one row
per trial), and ``n_averaged.npy`` if the betas are averages over repeats.
"""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.arrays import write_array
from brainenc.brain.volumes import Volume
from brainenc.data.hdf5_images import HDF5Images
from brainenc.data.images import ImageFiles, ImageSubset
from brainenc.storage import atomic_path, read_json, write_json
from brainenc.validation import FLOATS

#: Value of ``format`` in ``meta.json``.
FORMAT = "brainenc.EncodingData"

#: Version of the layout that is written.
FORMAT_VERSION = 1


def write(
    folder: Path,
    *,
    images: Any,
    betas: np.ndarray,
    voxels: pd.DataFrame,
    trials: pd.DataFrame,
    name: str,
    volume: Volume | None = None,
    units: str = "",
    n_averaged: np.ndarray | None = None,
    copy_images: bool = False,
) -> None:
    """Write the folder atomically; the arguments are the parts of `EncodingData`.

    `copy_images` copies the images of an HDF5 file; otherwise the folder refers to the file.

    Raises
    ------
    PermissionError : the parent folder is read-only.
    OSError : the disk is full.
    FileExistsError : `folder` exists and is no ``.brain`` folder, or holds the files of `images`.
    """
    _check_replaceable(folder, images)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_array(temporary / "betas.npy", betas)
        write_beside_betas(
            temporary,
            images=images,
            betas_shape=betas.shape,
            voxels=voxels,
            trials=trials,
            name=name,
            volume=volume,
            units=units,
            n_averaged=n_averaged,
            copy_images=copy_images,
        )


def write_beside_betas(
    folder: Path,
    *,
    images: Any,
    betas_shape: tuple[int, ...],
    voxels: pd.DataFrame,
    trials: pd.DataFrame,
    name: str,
    volume: Volume | None,
    units: str,
    n_averaged: np.ndarray | None = None,
    copy_images: bool,
) -> None:
    """Write the other files of a folder with ``betas.npy``, ``meta.json`` last."""
    image_files = _write_images(folder, images, copy_images)
    voxels.to_csv(folder / "voxels.csv", index_label="voxel")
    trials.to_csv(folder / "trials.csv", index=False)
    if n_averaged is not None:
        write_array(folder / "n_averaged.npy", n_averaged)
    meta = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": name,
        "units": units,
        "betas_shape": betas_shape,
        "images_shape": images.shape,
        "n_averaged_shape": None if n_averaged is None else n_averaged.shape,
        **image_files,
        "n_trials": len(trials),
        "voxels_dtypes": _dtypes(voxels),
        "trials_dtypes": _dtypes(trials),
        "volume": None if volume is None else volume.to_json(),
    }
    write_json(folder / "meta.json", meta)


def read(folder: Path) -> dict[str, Any]:
    """Parts of `EncodingData` by name: images, betas, voxels, trials, name, volume, units.

    Raises
    ------
    FileNotFoundError : the folder or one of its files is missing; the message names it.
    ValueError : a file is truncated or inconsistent with the others, or the folder was written by a
        newer version.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    meta = _read_meta(folder)
    betas = _mapped_array(folder / "betas.npy", meta["betas_shape"], FLOATS)
    voxels = _read_table(folder / "voxels.csv", meta["voxels_dtypes"], betas.shape[2])
    return {
        "images": _read_images(folder, meta),
        "betas": betas,
        "voxels": voxels.drop(columns="voxel"),
        "trials": _read_table(folder / "trials.csv", meta["trials_dtypes"], meta["n_trials"]),
        "name": meta["name"],
        # Folders of 0.1 have neither of these.
        "volume": Volume.from_json(meta.get("volume")),
        "units": meta.get("units", ""),
        "n_averaged": _read_counts(folder, meta),
    }


def _read_counts(folder: Path, meta: dict[str, Any]) -> np.ndarray | None:
    shape = meta.get("n_averaged_shape")  # folders of 0.1 have none
    unsigned = (np.uint8, np.uint16, np.uint32)
    return shape and _mapped_array(folder / "n_averaged.npy", shape, unsigned)


def _check_replaceable(folder: Path, images: Any) -> None:
    if not folder.exists():
        return
    try:
        _read_meta(folder)
    except (OSError, ValueError) as error:
        raise FileExistsError(f"{folder} exists and will not be replaced: {error}") from None
    if isinstance(images, ImageFiles):
        inside = folder.resolve() / "images"
        if any(path.resolve().is_relative_to(inside) for path in images.paths):
            raise FileExistsError(
                f"{folder} holds the image files of these data, which replacing it would delete; "
                "save under another name"
            )


def _read_meta(folder: Path) -> dict[str, Any]:
    if not (folder / "meta.json").exists():
        # It is written last, so without it the folder is incomplete or not a .brain folder.
        raise FileNotFoundError(
            f"{folder} is not a .brain folder, or only part of one: meta.json is missing"
        )
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ValueError(f"{folder} is not a .brain folder: its meta.json does not say {FORMAT!r}")
    if meta["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{folder} was written in format {meta['format_version']}, and this brainenc reads "
            f"up to {FORMAT_VERSION}; upgrade brainenc"
        )
    return meta


def _mapped_array(path: Path, shape: Sequence[int], dtypes: Sequence[type]) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is truncated or no .npy file: {error}") from None
    if array.shape != tuple(shape):
        raise ValueError(f"{path} has shape {array.shape}, but meta.json says {tuple(shape)}")
    if array.dtype not in dtypes:
        raise ValueError(f"{path} has dtype {array.dtype}, but {np.dtype(dtypes[0])} is wanted")
    return array


def _write_images(folder: Path, images: Any, copy_images: bool) -> dict[str, Any]:
    """Write images or their location; return their entries of ``meta.json``."""
    rows = images[:] if isinstance(images, HDF5Images) else images
    if not copy_images and isinstance(rows, ImageSubset) and isinstance(rows.parent, HDF5Images):
        return _refer_to_hdf5(folder, rows)
    if not isinstance(images, ImageFiles) or images.size is not None:
        write_array(folder / "images.npy", images)
        return {"image_files": None}
    (folder / "images").mkdir()
    # Numbered once, even if the data are saved again.
    names = [
        f"{i:06d}_{re.sub(r'^[0-9]{6}_', '', path.name)}" for i, path in enumerate(images.paths)
    ]
    for path, name in zip(images.paths, names, strict=True):
        shutil.copyfile(path, folder / "images" / name)
    return {"image_files": names}


def _refer_to_hdf5(folder: Path, rows: ImageSubset) -> dict[str, Any]:
    write_array(folder / "image_rows.npy", rows.index)
    source = rows.parent
    place = {
        "path": str(source.path),
        "dataset": source.dataset,
        "size": source.size,
        "shape": source.stored_shape,
    }
    return {"image_files": None, "image_hdf5": place}


def _read_images(folder: Path, meta: dict[str, Any]) -> Any:
    shape, names = meta["images_shape"], meta["image_files"]
    if place := meta.get("image_hdf5"):
        rows = _mapped_array(folder / "image_rows.npy", shape[:1], (np.int64,))
        return ImageSubset(HDF5Images(**place), np.array(rows))
    if names is None:
        return _mapped_array(folder / "images.npy", shape, (np.uint8,))
    if missing := set(names).difference(os.listdir(folder / "images")):
        raise FileNotFoundError(f"{folder / 'images' / min(missing)} is missing")
    paths = [folder / "images" / name for name in names]
    return ImageFiles.of_size(paths, (shape[1], shape[2]))


def _dtypes(table: pd.DataFrame) -> dict[str, str]:
    """Column dtypes, which a CSV file lacks: of numbers, and of labels such as "1" or "NA"."""
    return {
        str(column): str(dtype) if pd.api.types.is_numeric_dtype(dtype) else "text"
        for column, dtype in table.dtypes.items()
    }


def _read_table(path: Path, dtypes: dict[str, str], n_rows: int) -> pd.DataFrame:
    text = [column for column, dtype in dtypes.items() if dtype == "text"]
    numbers: Any = {column: dtype for column, dtype in dtypes.items() if dtype != "text"}
    if not path.read_bytes().endswith(b"\n"):
        raise ValueError(f"{path} does not end with a line break (truncated?)")
    try:
        table = pd.read_csv(path, dtype=numbers)
        # Only an empty field is a missing label: "NA" may be the name of a region.
        labels = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from None
    if len(table) != n_rows:
        raise ValueError(f"{path} has {len(table)} rows (truncated?), but {n_rows} are expected")
    return table.assign(**{column: labels[column] for column in text if column in labels})
