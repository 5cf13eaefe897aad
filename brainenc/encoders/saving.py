"""Saving fitted encoders: JSON for structure, safetensors for arrays, no pickle."""

import dataclasses
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file
from sklearn.base import BaseEstimator

import brainenc
from brainenc.storage import atomic_path, check_writable, fingerprint, write_json

#: Version of the folder layout that `save` writes.
FORMAT_VERSION = 2

STRUCTURE, ARRAYS = "model.json", "arrays.safetensors"


def save(encoder: BaseEstimator, folder: str | os.PathLike) -> Path:
    """Write a fitted encoder to a folder, whole or not at all.

    Parameters
    ----------
    encoder : BaseEncoder
        Its parameters and fitted attributes (those ending in ``_``) are written.
    folder : path
        A former model there is replaced once the new one is complete.

    Returns
    -------
    pathlib.Path : `folder`

    Raises
    ------
    FileExistsError : `folder` exists and holds no model.
    TypeError : a fitted attribute of a kind that cannot be written.
    """
    folder = check_model_folder(folder)
    arrays: dict[str, np.ndarray] = {}
    packed = _pack(encoder, "", arrays)
    structure = {
        "format": "brainenc.encoder",
        "format_version": FORMAT_VERSION,
        "brainenc_version": brainenc.__version__,
        "checksum": checksum(packed, arrays),
        "encoder": packed,
    }
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(arrays, temporary / ARRAYS)
        write_json(temporary / STRUCTURE, structure)
    return folder


def checksum(packed: Any, arrays: Mapping[str, np.ndarray]) -> str:
    """Fingerprint of all that a saved encoder holds: a lost value or a flipped bit changes it."""
    names = sorted(arrays)
    return fingerprint(packed, names, *(arrays[name] for name in names))


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


# Every value becomes plain JSON, or a dict with one key that says what it stands for.


def _pack(value: Any, key: str, arrays: dict[str, np.ndarray]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OUS":
            return {"$strings": value.tolist()}
        arrays[key] = np.ascontiguousarray(value)
        return {"$array": key}
    if isinstance(value, Mapping):
        pairs = [(k.item() if isinstance(k, np.generic) else k, item) for k, item in value.items()]
        if wrong := [k for k, _ in pairs if not isinstance(k, (str, int, float, type(None)))]:
            raise TypeError(f"{key.strip('.')} has the key {wrong[0]!r}, which cannot be saved")
        return {"$dict": [[k, _pack(item, f"{key}.{k}", arrays)] for k, item in pairs]}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, f"{key}.{i}", arrays) for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, BaseEstimator):
        return _pack_estimator(value, key, arrays)
    if hasattr(value, "state_dict") and hasattr(value, "sizes"):  # a torch net of ours
        weights = {name: tensor.cpu().numpy() for name, tensor in value.state_dict().items()}
        sizes = _pack(dict(value.sizes), f"{key}.sizes", arrays)
        packed = _pack(weights, f"{key}.weights", arrays)
        return {"$net": type(value).__name__, "sizes": sizes, "weights": packed}
    if isinstance(value, pd.DataFrame):
        columns = {
            str(name): _pack(value[name].to_numpy(), f"{key}.{name}", arrays) for name in value
        }
        return {"$table": columns}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        packed = {k: _pack(v, f"{key}.{k}", arrays) for k, v in fields.items()}
        return {"$class": type(value).__name__, "fields": packed}
    raise TypeError(f"{key.strip('.')} is a {type(value).__name__}, which cannot be saved")


def _pack_estimator(estimator: BaseEstimator, key: str, arrays: dict[str, np.ndarray]) -> Any:
    parameters = {}
    for name, value in estimator.get_params(deep=False).items():
        try:
            parameters[name] = _pack(value, f"{key}.{name}", arrays)
        except TypeError:
            # A splitter, say: fitting is done, so the model must not be lost over it.
            warnings.warn(
                f"{name}={value!r} of {type(estimator).__name__} cannot be saved; the loaded "
                "encoder predicts the same and has the default there",
                stacklevel=4,
            )
    state = {
        name: _pack(value, f"{key}.{name}", arrays)
        for name, value in vars(estimator).items()
        if name.endswith("_") and not name.startswith("_")
    }
    return {"$class": type(estimator).__name__, "parameters": parameters, "state": state}
