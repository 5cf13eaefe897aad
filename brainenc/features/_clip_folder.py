"""Downloaded models of open_clip: a folder with weights and ``open_clip_config.json``.

The configuration says what the weights were trained with: sizes, activation (QuickGELU), mean and
s.d. of the pixels, resizing. Weights without it are another network, of the same shapes.
"""

import os
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip

from brainenc.documentation import see
from brainenc.features._weights import ELSE, cached_on_disk, hub_reachable
from brainenc.storage import read_json

#: Name of the configuration beside the weights.
CONFIG = "open_clip_config.json"

_LOCAL, _HUB = "local-dir:", "hf-hub:"
#: Names of weights in open_clip's order of preference, then any other of these endings.
PREFERRED = (
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    *("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
)
_ENDINGS = (".safetensors", ".bin", ".pth")

#: Sizes in which the configuration must agree with the model that was named.
_SIZES = ("layers", "width", "patch_size", "head_width", "timm_model_name")


def folder_of(model: str | os.PathLike) -> Path | None:
    """Folder that `model` names: ``local-dir:FOLDER``, ``hf-hub:OWNER/MODEL`` or a path.

    Returns
    -------
    Path, or None if `model` is none of these but the name of a model.

    Raises
    ------
    FileNotFoundError : the folder or its configuration is missing, or the hub's model is not on
        this machine and cannot be downloaded.
    """
    name = os.fspath(model)
    if name.startswith(_HUB):
        return _hub_folder(name.removeprefix(_HUB))
    folder = Path(name.removeprefix(_LOCAL)).expanduser()
    if not name.startswith(_LOCAL) and not folder.is_dir():
        return None
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"model={name!r} is a folder without {CONFIG}: give the folder of a downloaded model "
            "of open_clip, or a name of open_clip.list_models() and the weights as pretrained"
        )
    return folder


def _hub_folder(repository: str) -> Path:
    cached = cached_on_disk(repository, (CONFIG,))
    if cached is not None and any(path.suffix in _ENDINGS for path in cached.parent.iterdir()):
        return cached.parent
    error: Exception | str = "no connection to the server"
    if hub_reachable():
        try:
            # First the weights, which may fail; both are in one folder of the cache.
            for name in PREFERRED:
                if huggingface_hub.file_exists(repository, name):
                    huggingface_hub.hf_hub_download(repository, name)
                    break
            return Path(huggingface_hub.hf_hub_download(repository, CONFIG)).parent
        except Exception as failure:  # the error depends on the client
            error = failure
    raise FileNotFoundError(
        f"the model hf-hub:{repository} is not on this machine and cannot be downloaded ({error}). "
        f"Ways on: give a downloaded folder as model='local-dir:FOLDER', {ELSE}"
        + see("guide/features")
    )


def weights_in(folder: Path) -> Path:
    """Weights in a folder, chosen as open_clip chooses.

    Raises
    ------
    FileNotFoundError : there are none.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS)
    for name in PREFERRED:
        if folder / name in found:
            return folder / name
    if found:
        return next((path for path in found if path.suffix == ".safetensors"), found[0])
    raise FileNotFoundError(
        f"{folder} holds no weights ({', '.join(f'*{ending}' for ending in _ENDINGS)})"
    )


def configuration(folder: Path) -> dict[str, Any] | None:
    """The configuration in a folder; None if there is none.

    Raises
    ------
    ValueError : damaged, or without a model.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        found = read_json(path)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("model_cfg"), dict):
        raise ValueError(f"{path} has no model_cfg, as configurations of open_clip have")
    return {name: found[name] for name in ("model_cfg", "preprocess_cfg") if name in found}


def check_same_model(model: str, config: dict[str, Any], folder: Path) -> None:
    """Raise ValueError if a configuration is of another network than the named model."""
    named = open_clip.get_model_config(model) or {}
    found = config["model_cfg"]
    sizes = [(name, named.get(name), found.get(name)) for name in ("embed_dim",)]
    towers = named.get("vision_cfg", {}), found.get("vision_cfg", {})
    sizes += [(name, *(tower.get(name) for tower in towers)) for name in _SIZES]
    for name, wanted, given in sizes:
        if None not in (wanted, given) and wanted != given:
            raise ValueError(
                f"{folder / CONFIG} has {name}={given}, and model={model!r} has {wanted}: the "
                f"weights are of another model; give model='{_LOCAL}{folder}' to take what the "
                "configuration says"
            )


def settings_of_file(model: str, path: Path) -> dict[str, Any]:
    """What is known of weights without a configuration: open_clip's entry for a file of that name.

    OpenAI's own files, the only ones in TorchScript, were trained with QuickGELU.
    """
    for name in {model, f"{model}-quickgelu"} & set(open_clip.list_models()):
        for tag in open_clip.list_pretrained_tags_by_model(name):
            entry = dict(open_clip.get_pretrained_cfg(name, tag) or {})
            if os.path.basename(entry.get("url", "")) == path.name:
                return entry
    return {"quick_gelu": True} if _is_torchscript(path) else {}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
