"""Saving and loading fitted encoders: JSON for structure, safetensors for arrays, no pickle."""

import dataclasses
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator

import brainenc
from brainenc import encoders, features
from brainenc.storage import atomic_path, check_writable, read_json, write_json

#: Version of the folder layout that `save` writes.
FORMAT_VERSION = 1

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
    structure = {
        "format": "brainenc.encoder",
        "format_version": FORMAT_VERSION,
        "brainenc_version": brainenc.__version__,
        "encoder": _pack(encoder, "", arrays),
    }
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(arrays, temporary / ARRAYS)
        write_json(temporary / STRUCTURE, structure)
    return folder


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


def load(
    folder: str | os.PathLike, *, classes: Iterable[type] = (), device: str | None = None
) -> Any:
    """Read an encoder that `save` wrote; runs no code from the folder.

    Parameters
    ----------
    folder : path
    classes : iterable of classes
        Your own encoders and transformers that the model uses; brainenc's are known.
    device : "auto", "cpu", "cuda", "cuda:1" or "mps", optional
        Where the encoder, its members and its features compute from now on: "cpu" for one that was
        fitted on a GPU. By default where it was told to when it was fitted.

    Returns
    -------
    BaseEncoder, fitted

    Raises
    ------
    FileNotFoundError : the folder or a file of it is missing.
    ValueError : written by a newer version, damaged, of a class that is not known, or a device
        that this machine does not have.
    TypeError : `classes` holds something else.
    """
    folder = Path(folder)
    known = _Classes(classes)
    for name in (STRUCTURE, ARRAYS):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} is missing; is {folder} a saved encoder?")
    structure = read_json(folder / STRUCTURE)
    if structure.get("format") != "brainenc.encoder":
        raise ValueError(f"{folder} holds no encoder: {STRUCTURE} says {structure.get('format')!r}")
    if structure["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{folder} was written by brainenc {structure['brainenc_version']} in format "
            f"{structure['format_version']}, and this brainenc {brainenc.__version__} reads up to "
            f"{FORMAT_VERSION}; upgrade brainenc"
        )
    try:
        arrays = load_file(folder / ARRAYS)
    except SafetensorError as error:
        raise ValueError(f"{folder / ARRAYS} is damaged: {error}") from None
    packed = structure["encoder"]
    if device is not None:
        from brainenc.devices import resolve_device  # imports torch

        resolve_device(device)
        packed = _computing_on(device, packed)
    try:
        return _unpack(packed, arrays, known)
    except KeyError as error:
        raise ValueError(f"{folder} is damaged: {error} is missing") from None


def describe(estimator: BaseEstimator) -> dict[str, Any]:
    """Class and parameters of an estimator as plain values, for manifests and cache keys.

    Feature extractors are described by their key, which tells one set of weights from another.
    """
    if callable(getattr(estimator, "key", None)):
        return {"class": type(estimator).__name__, **estimator.key()}
    return {
        "class": type(estimator).__name__,
        "module": type(estimator).__module__,
        "parameters": {
            key: _describe_value(value) for key, value in estimator.get_params(deep=False).items()
        },
    }


def _describe_value(value: Any) -> Any:
    if callable(getattr(value, "key", None)):  # an extractor, whose key knows its weights
        return value.key()
    if isinstance(value, BaseEstimator):
        return describe(value)
    if isinstance(value, Mapping):
        return {str(key): _describe_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe_value(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)


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
        return {"$dict": [[k, _pack(v, f"{key}.{k}", arrays)] for k, v in value.items()]}
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


def _unpack(value: Any, arrays: dict[str, np.ndarray], find_class: "_Classes") -> Any:
    if isinstance(value, list):
        return [_unpack(item, arrays, find_class) for item in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        return arrays[value["$array"]]
    if "$strings" in value:
        return np.array(value["$strings"], dtype=object)
    if "$dict" in value:
        return {k: _unpack(v, arrays, find_class) for k, v in value["$dict"]}
    if "$table" in value:
        return pd.DataFrame({k: _unpack(v, arrays, find_class) for k, v in value["$table"].items()})
    if "$net" in value:
        return _unpack_net(value, arrays, find_class)
    if "$tuple" in value:
        return tuple(_unpack(item, arrays, find_class) for item in value["$tuple"])
    found = find_class(value["$class"])
    find_class.add(getattr(found, "saved_parts", ()))
    parts = {
        part: {k: _unpack(v, arrays, find_class) for k, v in value[part].items()}
        for part in ("fields", "parameters", "state")
        if part in value
    }
    if "fields" in parts:
        return found(**parts["fields"])
    estimator = found(**parts["parameters"])
    vars(estimator).update(parts["state"])
    return estimator


def _computing_on(device: str, value: Any) -> Any:
    """What `_pack` gives, with another device for every estimator in it that has one."""
    if isinstance(value, list):
        return [_computing_on(device, item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _computing_on(device, item) for key, item in value.items()}
    if "device" in value.get("parameters", {}):
        value["parameters"]["device"] = device
    return value


def _unpack_net(value: dict, arrays: dict[str, np.ndarray], find_class: "_Classes") -> Any:
    import torch

    net = find_class(value["$net"])(**_unpack(value["sizes"], arrays, find_class))
    weights = _unpack(value["weights"], arrays, find_class)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return net.eval()


class _Classes:
    """Classes by name; imports only the modules of those that are asked for."""

    def __init__(self, classes: Iterable[type]):
        self.known: dict[str, type] = {}
        self.add(classes)

    def add(self, classes: Iterable[type]) -> None:
        classes = list(classes)
        if wrong := [cls for cls in classes if not isinstance(cls, type)]:
            raise TypeError(f"classes must be classes, such as [MyEncoder], got {wrong[0]!r}")
        self.known |= {cls.__name__: cls for cls in classes}

    def __call__(self, name: str) -> type:
        if name in self.known:
            return self.known[name]
        for module in (encoders, features):
            if name in module.__all__:
                return getattr(module, name)
        raise ValueError(
            f"the model uses the class {name}, which brainenc does not have; "
            f"pass it as load(folder, classes=[{name}])"
        )
