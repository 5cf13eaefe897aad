"""Meaning of `precision`, for training and for inference."""

import torch

from brainenc.training.settings import PRECISIONS


def in_bf16(device: torch.device, precision: str) -> bool:
    """Whether products are computed in bf16 on a device.

    Parameters
    ----------
    device : torch.device
    precision : {"auto", "32", "bf16"}
        "auto" is bf16 only on a GPU that supports it.

    Raises
    ------
    ValueError : an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision={precision!r} must be one of {', '.join(map(repr, PRECISIONS))}"
        )
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context in which layers compute in that precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bf16(device, precision))
