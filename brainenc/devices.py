"""Which device torch code runs on: one rule for the whole package."""

import torch


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Torch device of that name, checked to exist.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "cuda:1", "mps"} or torch.device
        "auto" is the first CUDA device where there is one, else the CPU. Apple's "mps" is
        used only when asked for, as it lacks some operations.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError : not the name of a device, or a device that this machine does not have.
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
