"""Reading a saved encoder; nothing in the folder is run."""

import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

import brainenc
from brainenc.encoders.model_reader import ModelReader
from brainenc.encoders.saving import (
    ARRAYS,
    FORMAT_WITH_FILES,
    FORMATS,
    STRUCTURE,
    checksum_of_format_2,
    structure_checksum,
)
from brainenc.process_state import own_settings
from brainenc.reading import read_whole, reading
from brainenc.storage import fingerprint, read_json

#: The oldest format that is read.
_OLDEST = 2


@own_settings()
def load(
    folder: str | os.PathLike, *, classes: Iterable[type] = (), device: str | None = None
) -> Any:
    """Read an encoder that `save` wrote; runs no code from the folder.

    The folder can only name classes to make objects of: brainenc's encoders and feature extractors,
    the `saved_parts` of these, and `classes`.

    Parameters
    ----------
    folder : path
    classes : iterable of classes
        Your own encoders and transformers that the model uses; brainenc's are known.
    device : "auto", "cpu", "cuda", "cuda:1" or "mps", optional
        Device for the loaded encoder, its members and its features: "cpu" for one that was fitted
        on a GPU. By default the device it was fitted with.

    Returns
    -------
    BaseEncoder, fitted

    Raises
    ------
    FileNotFoundError : the folder or a file of it is missing.
    ValueError : written in a newer or an older format, damaged (the message says where and what),
        of a class that is not known, or a device that this machine does not have.
    TypeError : `classes` holds something else.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features, betas = rng.standard_normal((50, 4)), rng.standard_normal((50, 3))
    >>> encoder = brainenc.RidgeEncoder(alpha_per_voxel=False).fit(features, betas)
    >>> with TemporaryDirectory() as folder:
    ...     loaded = brainenc.load(encoder.save(f"{folder}/model"))
    >>> bool((loaded.predict(features) == encoder.predict(features)).all())
    True
    """
    folder = Path(folder)
    if device is not None:
        from brainenc.devices import resolve_device  # imports torch

        resolve_device(device)
    structure, arrays = read_whole(folder, partial(_read_files, folder))
    reader = ModelReader(str(folder / STRUCTURE), arrays, classes, device=device)
    return reader.encoder(structure.get("encoder"))


def _read_files(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    for name in (STRUCTURE, ARRAYS):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} is missing; is {folder} a saved encoder?")
    structure = _read_structure(folder)
    arrays = _read_arrays(folder / ARRAYS) | _map_arrays(folder, structure)
    # Before anything is made of the values: sizes in a damaged file may be of any size.
    try:
        _check_sums(folder, structure, arrays)
    except RecursionError:
        raise ValueError(f"{folder / STRUCTURE} is damaged: it is nested too deeply") from None
    return structure, arrays


def _check_sums(folder: Path, structure: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Compare the checksums of both files."""
    changed = "was changed after the encoder was saved"
    if structure["format_version"] == 2:
        if structure.get("checksum") != checksum_of_format_2(structure.get("encoder"), arrays):
            raise ValueError(f"{folder} is damaged: {STRUCTURE} or {ARRAYS} {changed}")
        return
    if structure.get("checksum") != structure_checksum(structure):
        raise ValueError(f"{folder / STRUCTURE} is damaged: it {changed}")
    saved = structure.get("arrays")
    if not isinstance(saved, dict) or saved.keys() != arrays.keys():
        raise ValueError(f"{folder / ARRAYS} is damaged: it holds arrays of another model")
    for name, array in arrays.items():
        if (found := fingerprint(array)) != saved[name]:
            raise ValueError(
                f"{folder / ARRAYS} is damaged: {name.strip('.')} {changed} (checksum {found}, "
                f"and {saved[name]} when it was saved)"
            )


def _read_structure(folder: Path) -> dict[str, Any]:
    """What `save` wrote as JSON, if it is of the format that this version reads."""
    file = folder / STRUCTURE
    structure = read_json(file)
    kind = structure.get("format") if isinstance(structure, dict) else None
    if kind not in FORMATS:
        raise ValueError(f"{folder} holds no encoder or decoder: {STRUCTURE} says {kind!r}")
    found = structure.get("format_version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ValueError(f"{file} is damaged: format_version={found!r} is no version of the format")
    version = structure.get("brainenc_version")
    if found > FORMAT_WITH_FILES:
        raise ValueError(
            f"{folder} was written by brainenc {version} in format {found}, and this brainenc "
            f"{brainenc.__version__} reads up to {FORMAT_WITH_FILES}; upgrade brainenc"
        )
    if found < _OLDEST:
        raise ValueError(
            f"{folder} was written in format {found}, by a version of brainenc ({version}) before "
            f"attributes of encoders changed; this one reads format {_OLDEST} and later: fit the "
            "encoder again and save it"
        )
    return structure


def _map_arrays(folder: Path, structure: dict[str, Any]) -> dict[str, np.ndarray]:
    """Large arrays, which have files of their own, as memory maps."""
    files = structure.get("files", {})
    names = files.values() if isinstance(files, dict) else [files]
    if not all(isinstance(name, str) and re.fullmatch(r"array_\d+\.npy", name) for name in names):
        raise ValueError(f"{folder / STRUCTURE} is damaged: it names other files as arrays")
    found = {}
    for key, name in files.items():
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} is missing: it holds {key.strip('.')}")
        with reading(folder / name, "an array of a model"):
            found[key] = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    return found


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    with reading(file, "arrays of a model"):
        try:
            return load_file(file)
        except (SafetensorError, LookupError) as error:  # KeyError: no such dtype in NumPy
            raise ValueError(f"{file} is damaged: {error}") from None
