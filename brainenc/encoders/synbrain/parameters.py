"""Parameters of SynBrainEncoder: what None stands for, and what is out of range."""

import numbers
from typing import Any

#: What the training arguments are when they are None, by variant.
DEFAULTS: dict[str, dict[str, Any]] = {
    "default": {"batch_size": 64, "learning_rate": 2e-3, "weight_decay": 0.05},
    "paper": {"batch_size": 24, "learning_rate": 1e-4, "weight_decay": 0.05},
}

#: Smallest value of parameters that have one.
AT_LEAST = {
    "n_latents": 1,
    "hidden": 4,
    "n_members": 0,
    "n_epochs": 1,
    "vae_epochs": 1,
    "mapper_steps": 1,
    "relative_stop": 0,
    "noise_factor": 0,
    "batch_size": 1,
    "weight_decay": 0,
}


def check_parameters(parameters: dict[str, Any], resume: bool = False) -> None:
    """Raise ValueError for what training would only come upon after minutes."""
    if parameters["variant"] not in DEFAULTS:
        raise ValueError(f"variant={parameters['variant']!r} must be one of {list(DEFAULTS)}")
    for name, least in AT_LEAST.items():
        if parameters[name] is not None and not parameters[name] >= least:
            raise ValueError(f"{name}={parameters[name]!r} must be at least {least}")
    if parameters["n_members"] == 1:
        raise ValueError(
            "n_members=1: each mapper is stopped on images that the others learn, so there are "
            "2 or more, or 0 for the kernel alone"
        )
    if parameters["hidden"] % 4:
        raise ValueError(f"hidden={parameters['hidden']!r} must be a multiple of 4")
    for name in ("dropout", "ema_decay"):
        if parameters[name] is not None and not 0 <= parameters[name] < 1:
            raise ValueError(f"{name}={parameters[name]!r} must be at least 0 and less than 1")
    rate, seed = parameters["learning_rate"], parameters["random_state"]
    if rate is not None and not rate > 0:
        raise ValueError(f"learning_rate={rate!r} must be more than 0")
    if not (seed is None or isinstance(seed, numbers.Integral)):
        raise ValueError(f"random_state={seed!r} must be an int or None")
    if resume and (parameters["checkpoint_dir"] is None or seed is None):
        raise ValueError("resume=True needs checkpoint_dir, and a random_state that is not None")
