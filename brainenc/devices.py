"""Device and precision of torch code, by one rule for the whole package."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from brainenc.process_state import state_lock


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Torch device of that name; checks that it exists.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "cuda:1", "mps"} or torch.device
        "auto" is the first CUDA device if there is one, else the CPU. Apple's "mps" must be named,
        since it lacks some operations.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError : unknown name, or this machine lacks the device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda", "mps"):
        raise ValueError(
            f'device={device!r} is not one of "auto", "cpu", "cuda", "cuda:1" … or "mps"'
        )
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={str(device)!r} was asked for, but torch {torch.__version__} sees "
            f'{torch.cuda.device_count()} CUDA devices here; use device="auto" or "cpu"'
        )
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError('device="mps" was asked for, but is not available; use "auto" or "cpu"')
    return resolved


def linear_algebra_device(device: Any) -> torch.device:
    """That device, or the CPU if the device lacks eigendecompositions and double precision."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute matrix products of float32 in float32, regardless of the user's setting.

    The setting is that of the whole process: one thread at a time.
    """
    with state_lock(), _highest_precision():
        yield


@contextmanager
def _highest_precision() -> Iterator[None]:
    # torch has an old and, since 2.9, a new name for this setting. Reading the old one fails if
    # only the new one was set; setting the old one sets both.
    parts: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    newer = [part for part in parts if hasattr(part, "fp32_precision")]
    chosen = [part.fp32_precision for part in newer]
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        older = "highest"
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(older)
        for part, precision in zip(newer, chosen, strict=True):
            part.fp32_precision = precision


@contextmanager
def float32_convolutions() -> Iterator[None]:
    """Compute convolutions of float32 in float32 on NVIDIA GPUs, regardless of the user's setting.

    torch takes TF32 by default, with three decimal digits. The setting is that of the whole
    process: one thread at a time.
    """
    cudnn: Any = torch.backends.cudnn
    # As for matrix products: torch has an older and, since 2.9, a newer name for this setting.
    # Setting the older one sets both; reading it fails where the newer one says something else.
    parts: list[Any] = [getattr(cudnn, name, None) for name in ("conv", "rnn")]
    newer = [part for part in parts if hasattr(part, "fp32_precision")]
    with state_lock():
        chosen = [part.fp32_precision for part in newer]
        try:
            _set_all(newer, "ieee")
            try:
                older = cudnn.allow_tf32
            except RuntimeError:
                older = True  # and not what the newer one says now
            cudnn.allow_tf32 = False
            _set_all(newer, "ieee")
            yield
        finally:
            cudnn.allow_tf32 = older
            for part, precision in zip(newer, chosen, strict=True):
                part.fp32_precision = precision


def _set_all(parts: list[Any], precision: str) -> None:
    for part in parts:
        part.fp32_precision = precision
