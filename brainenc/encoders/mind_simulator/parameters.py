"""Parameters of MindSimulatorEncoder: presets, what None stands for, what is out of range."""

import numbers
from collections.abc import Mapping
from typing import Any

#: Sizes of the nets. `n_latents` and `latent_width` None: those of the image tokens.
SIZES: dict[str, dict[str, Any]] = {
    "default": {
        "n_latents": 4,
        "latent_width": 32,
        "hidden": 256,
        "n_blocks": 2,
        "dropout": 0.3,
        "width": 64,
        "depth": 2,
        "n_heads": 4,
        "head_width": 16,
        "mlp_ratio": 2.0,
        "prior_dropout": 0.3,
    },
    "paper": {
        "n_latents": None,
        "latent_width": None,
        "hidden": 256,
        "n_blocks": 2,
        "dropout": 0.15,
        "width": 768,
        "depth": 6,
        "n_heads": 14,
        "head_width": 48,
        "mlp_ratio": 4.0,
        "prior_dropout": 0.0,
    },
}

#: What the other arguments are when they are None.
TRAINING: dict[str, dict[str, Any]] = {
    "default": {
        "n_steps": 25,
        "gaussian_start": True,
        "temperature": (0.1, 0.1),
        "voxel_dropout": 0.5,
        "autoencoder_epochs": 8,
        "prior_epochs": 8,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "validation": 0.15,
    },
    "paper": {
        "n_steps": 100,
        "gaussian_start": False,
        "temperature": (0.004, 0.0075),
        "voxel_dropout": 0.0,
        "autoencoder_epochs": 300,
        "prior_epochs": 150,
        "batch_size": 32,
        "learning_rate": 3e-4,
        "weight_decay": 0.01,
        "validation": 0.0,
    },
}

_AT_LEAST = {
    "n_draws": 1,
    "n_steps": 1,
    "n_sampling_steps": 1,
    "autoencoder_epochs": 1,
    "prior_epochs": 1,
    "batch_size": 1,
    "weight_decay": 0,
    "guidance": 0,
}


def all_sizes(sizes: Any) -> dict[str, Any]:
    """Sizes of a preset, or of the default with some replaced.

    Raises
    ------
    ValueError : no such preset, or a size that there is not.
    """
    if isinstance(sizes, Mapping):
        if unknown := sizes.keys() - SIZES["default"].keys():
            raise ValueError(f"sizes has {sorted(unknown)}; there are {list(SIZES['default'])}")
        return SIZES["default"] | dict(sizes)
    if not isinstance(sizes, str) or sizes not in SIZES:
        raise ValueError(f"sizes={sizes!r} must be one of {list(SIZES)} or a dict of sizes")
    return SIZES[sizes]


def check_parameters(parameters: dict[str, Any], resume: bool = False) -> None:
    """Raise ValueError for what training would only come upon after minutes."""
    all_sizes(parameters["sizes"])
    for name, least in _AT_LEAST.items():
        if parameters[name] is not None and not parameters[name] >= least:
            raise ValueError(f"{name}={parameters[name]!r} must be at least {least}")
    for name in ("condition_dropout", "voxel_dropout", "validation"):
        if parameters[name] is not None and not 0 <= parameters[name] < 1:
            raise ValueError(f"{name}={parameters[name]!r} must be at least 0 and less than 1")
    for name in ("eta", "noise_correlation"):
        if not 0 <= parameters[name] <= 1:
            raise ValueError(f"{name}={parameters[name]!r} must be between 0 and 1")
    rate, seed = parameters["learning_rate"], parameters["random_state"]
    if rate is not None and not rate > 0:
        raise ValueError(f"learning_rate={rate!r} must be more than 0")
    if not (seed is None or isinstance(seed, numbers.Integral)):
        raise ValueError(f"random_state={seed!r} must be an int or None")
    if parameters["guidance"] != 1 and parameters["condition_dropout"] == 0:
        raise ValueError(
            f"guidance={parameters['guidance']!r} compares with a prior that has no condition, "
            "which is learnt with condition_dropout > 0"
        )
    if resume and (parameters["checkpoint_dir"] is None or seed is None):
        raise ValueError("resume=True needs checkpoint_dir, and a random_state that is not None")
