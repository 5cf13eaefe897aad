"""Parameters of MindSimulatorEncoder: presets, defaults of None, ranges."""

from collections.abc import Mapping
from typing import Any

from brainenc.encoders.trained import check_number

#: Sizes of the nets. None in `n_latents` and `latent_width`: the sizes of the image tokens.
SIZES: dict[str, dict[str, Any]] = {
    "auto": {
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
    "published": {
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

#: Values of the other arguments when they are None.
TRAINING: dict[str, dict[str, Any]] = {
    "auto": {
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
    "published": {
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


#: Smallest values of arguments of the training.
AT_LEAST = {"n_steps": 1, "autoencoder_epochs": 1, "prior_epochs": 1}


def all_sizes(sizes: Any) -> dict[str, Any]:
    """Sizes of a preset, or those of "auto" with some replaced.

    Raises
    ------
    ValueError : an unknown preset or size.
    """
    if isinstance(sizes, Mapping):
        if unknown := sizes.keys() - SIZES["auto"].keys():
            raise ValueError(f"sizes has {sorted(unknown)}; there are {list(SIZES['auto'])}")
        return SIZES["auto"] | dict(sizes)
    if not isinstance(sizes, str) or sizes not in SIZES:
        raise ValueError(f"sizes={sizes!r} must be one of {list(SIZES)} or a dict of sizes")
    return SIZES[sizes]


def check_sampling(parameters: dict[str, Any]) -> None:
    """Raise ValueError or TypeError for parameters of the sampling that are out of range."""
    smallest = {"n_draws": 1, "guidance": 0.0, "eta": 0.0, "noise_correlation": 0.0}
    for name, least in smallest.items():
        check_number(name, parameters[name], least)
    if parameters["n_sampling_steps"] is not None:
        check_number("n_sampling_steps", parameters["n_sampling_steps"], 1)
    for name in ("eta", "noise_correlation"):
        if not parameters[name] <= 1:
            raise ValueError(f"{name}={parameters[name]!r} must be between 0 and 1")
    if parameters["guidance"] != 1 and parameters["condition_dropout"] == 0:
        raise ValueError(
            f"guidance={parameters['guidance']!r} needs a prior that has also learnt without the "
            "condition: fit with condition_dropout > 0, or set guidance=1"
        )
