"""The ``.brain`` folder: one subject's data as plain files, memory-mapped when read.

``meta.json``, ``betas.npy``, ``images.npy`` (or ``images/`` with image files, or ``image_rows.npy``
with rows of an HDF5 file elsewhere), ``voxels.csv`` (one row per voxel) and ``trials.csv`` (one row
per trial), ``n_averaged.npy`` if the betas are averages over repeats, and ``stimuli.csv`` (one row
per image) if there is a table of stimuli.

``meta.json`` has the size and a checksum (CRC-32) of every file, and a checksum of itself. On
reading, sizes and the checksums of ``meta.json`` and the tables are compared; those of betas and
images, which can be 40 GB, on request, and in folders of at most 256 MiB.
"""

import os
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.arrays import write_array
from brainenc.brain.volumes import Volume
from brainenc.csv_files import unprotected, write_csv
from brainenc.data.hdf5_images import HDF5Images
from brainenc.data.images import ImageFiles, ImageSubset
from brainenc.reading import read_array, read_whole, reading
from brainenc.storage import (
    atomic_path,
    check_file,
    file_record,
    fingerprint,
    read_json,
    write_json,
)
from brainenc.validation import FLOATS

#: Value of ``format`` in ``meta.json``.
FORMAT = "brainenc.EncodingData"

#: Latest version of the layout. Folders of version 1 have no checksums, of version 2 no stimuli.
FORMAT_VERSION = 3

#: Files that are small enough to be read whole when data are opened, …
_SMALL = ("voxels.csv", "trials.csv", "stimuli.csv", "image_rows.npy", "n_averaged.npy")
#: … and bytes up to which that is so of all files together: it takes a fraction of a second.
_SMALL_FOLDER = 2**28


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
    stimuli: pd.DataFrame | None = None,
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
            stimuli=stimuli,
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
    stimuli: pd.DataFrame | None = None,
    copy_images: bool,
) -> None:
    """Write the other files of a folder with ``betas.npy``, ``meta.json`` last."""
    image_files = _write_images(folder, images, copy_images)
    write_csv(folder / "voxels.csv", voxels, index=True, index_label="voxel")
    write_csv(folder / "trials.csv", trials)
    if n_averaged is not None:
        write_array(folder / "n_averaged.npy", n_averaged)
    of_stimuli = {}
    if stimuli is not None and stimuli.shape[1]:
        write_csv(folder / "stimuli.csv", stimuli)
        of_stimuli = {"stimuli_dtypes": _dtypes(stimuli)}
    meta = {
        "format": FORMAT,
        # Without stimuli it is a folder of version 2, which older versions of brainenc read.
        "format_version": FORMAT_VERSION if of_stimuli else FORMAT_VERSION - 1,
        "name": name,
        "units": units,
        "betas_shape": betas_shape,
        "images_shape": images.shape,
        **image_files,
        **({} if n_averaged is None else {"n_averaged_shape": n_averaged.shape}),
        **of_stimuli,
        "n_trials": len(trials),
        "voxels_dtypes": _dtypes(voxels),
        "trials_dtypes": _dtypes(trials),
        "volume": None if volume is None else volume.to_json(),
    }
    absent = dict.fromkeys(("image_hdf5", "n_averaged_shape", "stimuli_dtypes"))
    names = sorted(_expected({**absent, **meta}))
    meta["files"] = {name: file_record(folder / name) for name in names}
    write_json(folder / "meta.json", {**meta, "checksum": _checksum(meta)})


def _checksum(meta: dict[str, Any]) -> str:
    """Of all but the place of an HDF5 file, which may move."""
    content = {name: value for name, value in meta.items() if name != "checksum"}
    if isinstance(place := content.get("image_hdf5"), dict):
        content["image_hdf5"] = {**place, "path": ""}
    return fingerprint(content)


def read(folder: Path, *, verify: bool | None = None) -> dict[str, Any]:
    """Parts of `EncodingData` by name: images, betas, voxels, trials, name, volume, units.

    Parameters
    ----------
    folder : path
    verify : bool, optional
        Compare the checksums of all files (True), of none (False), or by default of ``meta.json``
        and the tables, and of all files if they have at most 256 MiB together.

    Raises
    ------
    FileNotFoundError : the folder or one of its files is missing; the message names it.
    ValueError : a file is truncated or inconsistent with the others, or the folder was written by a
        newer version.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    return read_whole(folder, partial(_read, folder, verify))


def _read(folder: Path, verify: bool | None) -> dict[str, Any]:
    meta = _read_meta(folder, verify=verify is not False)
    version, records = meta["format_version"], meta.get("files", {})
    with reading(folder / "meta.json", "the description of a .brain folder"):
        meta = _typed(meta)
        if version >= 2 and set(records) != _expected(meta):
            raise ValueError("its table of files is not that of such a folder")
        if (version >= 3) != (meta["stimuli_dtypes"] is not None):
            raise ValueError(f"a folder of version {version} and its stimuli do not fit")
    if verify and version < 2:
        warnings.warn(
            f"{folder} was written by a version without checksums: only shapes could be compared. "
            "Save it again to give it checksums",
            stacklevel=3,
        )
    if verify is not False and version >= 2:
        _check_files(folder, records, whole=bool(verify))
    betas = _mapped_array(folder / "betas.npy", meta["betas_shape"], FLOATS)
    # Folders of version 1 have their texts as they are.
    read = partial(_read_table, restore=unprotected if version >= 2 else str)
    voxels = read(folder / "voxels.csv", meta["voxels_dtypes"], betas.shape[2])
    return {
        "images": _read_images(folder, meta),
        "betas": betas,
        "voxels": voxels.drop(columns="voxel"),
        "trials": read(folder / "trials.csv", meta["trials_dtypes"], meta["n_trials"]),
        "name": meta["name"],
        "volume": meta["volume"],
        "units": meta["units"],
        "n_averaged": _read_counts(folder, meta),
        "stimuli": None
        if meta["stimuli_dtypes"] is None
        else read(folder / "stimuli.csv", meta["stimuli_dtypes"], betas.shape[0]),
    }


def _expected(meta: dict[str, Any]) -> set[str]:
    """Files that a folder with this description has beside meta.json."""
    images = [f"images/{name}" for name in meta["image_files"] or []]
    if meta["image_hdf5"] is not None:
        images = ["image_rows.npy"]
    elif meta["image_files"] is None:
        images = ["images.npy"]
    counts = [] if meta["n_averaged_shape"] is None else ["n_averaged.npy"]
    stimuli = [] if meta["stimuli_dtypes"] is None else ["stimuli.csv"]
    return {"betas.npy", "voxels.csv", "trials.csv", *images, *counts, *stimuli}


def _check_files(folder: Path, records: dict[str, Any], *, whole: bool) -> None:
    """Compare the files with their records: sizes of all, contents of small ones or of all."""
    paths = [folder / name for name in records]
    total = sum(os.path.getsize(path) for path in paths if path.exists())
    for name, record in records.items():
        content = whole or total <= _SMALL_FOLDER or name in _SMALL
        try:
            check_file(folder / name, record, content=content)
        except ValueError as error:
            if not name.endswith(".csv"):
                raise
            raise ValueError(
                f"{error}. If you changed the table on purpose, open the folder once with "
                f"EncodingData.load({str(folder)!r}, verify=False) and save the data"
            ) from None


def _typed(meta: dict[str, Any]) -> dict[str, Any]:
    """Entries of meta.json, of the right types."""
    dtypes: dict[str, Any] = {"stimuli_dtypes": None}
    for table in ("voxels_dtypes", "trials_dtypes", "stimuli_dtypes"):
        if table == "stimuli_dtypes" and meta.get(table) is None:
            continue
        dtypes[table] = {str(name): str(dtype) for name, dtype in dict(meta[table]).items()}
        for dtype in set(dtypes[table].values()) - {"text"}:
            if not pd.api.types.is_numeric_dtype(pd.api.types.pandas_dtype(dtype)):
                raise ValueError(f"{table} has {dtype!r}, which is no dtype of numbers")
    names = meta["image_files"]
    # Plain names: the folder has no business with files elsewhere.
    if not (names is None or all(os.path.basename(name) == name for name in names)):
        raise ValueError(f"image_files is {names!r:.100}")
    return {
        "betas_shape": _shape(meta["betas_shape"], (3,)),
        "images_shape": _shape(meta["images_shape"], (3, 4)),
        "n_trials": int(meta["n_trials"]),
        "name": str(meta["name"]),
        "image_files": names,
        "image_hdf5": None if meta.get("image_hdf5") is None else dict(meta["image_hdf5"]),
        # Folders of 0.1 have neither of these.
        "volume": Volume.from_json(meta.get("volume")),
        "units": str(meta.get("units", "")),
        "n_averaged_shape": _shape_of_counts(meta.get("n_averaged_shape")),
        **dtypes,
    }


def _shape(value: Any, n_axes: Sequence[int]) -> tuple[int, ...]:
    if len(value) not in n_axes or not all(type(n) is int and n >= 0 for n in value):
        raise ValueError(f"{value!r:.100} is no shape of {' or '.join(map(str, n_axes))} axes")
    return tuple(value)


def _shape_of_counts(value: Any) -> tuple[int, ...] | None:
    return None if value is None else _shape(value, (2,))


def _read_counts(folder: Path, meta: dict[str, Any]) -> np.ndarray | None:
    shape = meta["n_averaged_shape"]
    unsigned = (np.uint8, np.uint16, np.uint32)
    return shape and _mapped_array(folder / "n_averaged.npy", shape, unsigned)


def _check_replaceable(folder: Path, images: Any) -> None:
    if not folder.exists():
        return
    try:
        _read_meta(folder, verify=False)
    except (OSError, ValueError) as error:
        raise FileExistsError(f"{folder} exists and will not be replaced: {error}") from None
    if isinstance(images, ImageFiles):
        inside = folder.resolve() / "images"
        if any(path.resolve().is_relative_to(inside) for path in images.paths):
            raise FileExistsError(
                f"{folder} holds the image files of these data, which replacing it would delete; "
                "save under another name"
            )


def _read_meta(folder: Path, *, verify: bool) -> dict[str, Any]:
    if not (folder / "meta.json").exists():
        # It is written last, so without it the folder is incomplete or not a .brain folder.
        raise FileNotFoundError(
            f"{folder} is not a .brain folder, or only part of one: meta.json is missing"
        )
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ValueError(f"{folder} is not a .brain folder: its meta.json does not say {FORMAT!r}")
    version = meta.get("format_version")
    if type(version) is not int or version < 1:
        raise ValueError(f"{folder / 'meta.json'} is damaged: format_version={version!r}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{folder} was written in format {version}, and this brainenc reads up to "
            f"{FORMAT_VERSION}; upgrade brainenc"
        )
    if verify and version >= 2 and meta.get("checksum") != _checksum(meta):
        raise ValueError(
            f"{folder / 'meta.json'} is damaged: it was changed after the folder was written. If "
            f"you changed it on purpose, open the folder once with EncodingData.load("
            f"{str(folder)!r}, verify=False) and save the data"
        )
    return meta


def _mapped_array(path: Path, shape: Sequence[int], dtypes: Sequence[type]) -> np.ndarray:
    array = read_array(path, mapped=True)
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
    # Files that are resized or laid over a background are not the images themselves.
    plain = isinstance(images, ImageFiles) and images.size is images.background is None
    if not plain:
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
        with reading(folder / "meta.json", "the description of a .brain folder"):
            images = HDF5Images(
                place["path"], place["dataset"], place["size"], _shape(place["shape"], (3, 4))
            )
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(images)):
            raise ValueError(
                f"{folder / 'image_rows.npy'} is damaged: rows {rows.min()} to {rows.max()} of "
                f"{len(images)} images"
            )
        return ImageSubset(images, np.array(rows))
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


def _read_table(
    path: Path, dtypes: dict[str, str], n_rows: int, *, restore: Callable[[Any], Any]
) -> pd.DataFrame:
    text = [column for column, dtype in dtypes.items() if dtype == "text"]
    if not path.read_bytes().endswith(b"\n"):
        raise ValueError(f"{path} does not end with a line break (truncated?)")
    options: Any = {"encoding_errors": "surrogatepass"}
    with reading(path, "a table"):
        names = {column: restore(column) for column in pd.read_csv(path, nrows=0, **options)}
        numbers: Any = {
            column: dtypes[name]
            for column, name in names.items()
            if dtypes.get(name, "text") != "text"
        }
        table = pd.read_csv(path, dtype=numbers, **options).rename(columns=names)
        # Only an empty field is a missing label: "NA" may be the name of a region.
        labels = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], **options)
        labels = labels.rename(columns=names)
    if len(table) != n_rows:
        raise ValueError(f"{path} has {len(table)} rows (truncated?), but {n_rows} are expected")
    restored = {
        name: labels[name].map(restore, na_action="ignore") for name in text if name in labels
    }
    return table.assign(**restored)
