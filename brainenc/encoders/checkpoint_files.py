"""Checkpoints of official code, read without running code in them, and nets made of them."""

import os
import re
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from brainenc.process_state import state_lock
from brainenc.reading import check_archive

Weights = dict[str, Tensor]
Net = TypeVar("Net", bound=nn.Module)

#: Prefix of all names in the state dict of a net that was trained on several GPUs.
PREFIX = "module."


@contextmanager
def naming(path: str | os.PathLike, kind: str) -> Iterator[None]:
    """Put the file and its kind in front of the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as {kind}: {error}") from None


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Top level of a checkpoint; tensors stay in the file until they are copied."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    check_archive(path)
    try:
        # Warnings and torch's list of safe classes are those of the whole process.
        with (
            state_lock(),
            warnings.catch_warnings(),
            torch.serialization.safe_globals([Namespace]),
        ):
            warnings.simplefilter("ignore")  # about formats that are rejected below
            # Mapped: only one of the mapper's four sets of weights is read.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file may raise any error
        raise ValueError(_reason(error)) from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a dict with the key 'model'")
    return content


def _reason(error: Exception) -> str:
    """Reason of an error in torch.load, without its advice to read the file unsafely."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it asks for {found[1]}, which is not data; refused, and nothing of it was run"
    if found := re.search(r"WeightsUnpickler error: (.*)", text):
        text = found[1]
    # Only the first line, as the advice follows; some messages print whole tensors.
    first = next(iter(text.splitlines()), "") or type(error).__name__
    return f"damaged, or a file of another kind? {first[:200]}"


def state_dict_of(content: Mapping[str, Any], key: str, path: str | os.PathLike) -> Weights:
    """State dict of that key, checked, with keys without the prefix."""
    found = content.get(key)
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"it has no weights {key!r}; its keys are {listing(content)}")
    for name, weight in found.items():
        if not isinstance(name, str) or not _is_plain(weight):
            raise ValueError(f"{key}[{name!r}] is not a dense tensor of floats")
    # Strides of 0 can expand one number to terabytes.
    n_bytes = sum(weight.numel() * weight.element_size() for weight in found.values())
    if n_bytes > os.path.getsize(path):
        raise ValueError(f"its weights claim {n_bytes} bytes, more than the file has")
    for name, weight in found.items():
        if not torch.isfinite(weight).all():
            raise ValueError(f"{key}[{name!r}] holds NaN or infinite values")
    if all(name.startswith(PREFIX) for name in found):
        return {name.removeprefix(PREFIX): weight for name, weight in found.items()}
    return dict(found)


def _is_plain(weight: Any) -> bool:
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.layout == torch.strided
        and weight.device.type == "cpu"
        and weight.is_floating_point()
    )


def shape_of(weights: Weights, key: str, n_dimensions: int) -> tuple[int, ...]:
    """Shape of a weight, which must be there with so many dimensions."""
    if key not in weights:
        raise ValueError(f"the weight {key} is missing")
    shape = tuple(weights[key].shape)
    if len(shape) != n_dimensions or 0 in shape:
        raise ValueError(f"the weight {key} {shape} must have {n_dimensions} dimensions, none of 0")
    return shape


def count(weights: Weights, pattern: str) -> int:
    """Number of different first groups of a pattern in the names of weights, such as of layers."""
    return len({found[1] for key in weights if (found := re.match(pattern, key))})


def build(make: Callable[..., Net], sizes: Mapping[str, Any], weights: Weights) -> Net:
    """Net of these sizes and weights, without initialising or copying weights."""
    with torch.device("meta"):
        net = make(**sizes)
    _compare(net.state_dict(), weights)
    copies = {
        key: torch.empty(weight.shape, dtype=torch.float32).copy_(weight.detach())
        for key, weight in weights.items()
    }
    net.load_state_dict(copies, assign=True)
    return net


def _compare(expected: Mapping[str, Tensor], found: Weights) -> None:
    reshaped = [
        f"{key} {tuple(found[key].shape)} for {tuple(weight.shape)}"
        for key, weight in expected.items()
        if key in found and found[key].shape != weight.shape
    ]
    faults = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of another shape": reshaped,
    }
    if any(faults.values()):
        texts = [f"{fault}: {listing(keys)}" for fault, keys in faults.items() if keys]
        raise ValueError("its weights do not fit the net; " + "; ".join(texts))


def listing(keys: Any, most: int = 5) -> str:
    """The first keys as text, and how many more there are."""
    keys = [str(key)[:200] for key in keys]
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + rest
