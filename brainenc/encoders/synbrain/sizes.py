"""Sizes and training lengths of SynBrain's networks: published, or chosen from the data."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from brainenc.devices import resolve_device
from brainenc.nets import S2N, BrainVAE

#: Smallest number of trials for the published sizes in "auto" on a GPU; NSD's subjects have 27 000.
MANY_TRIALS = 10_000

#: Largest pooled number of voxels in "auto"; the published one is 8192.
MAX_POOLED = 512

#: Steps of both stages with "auto", if a step is cheap.
VAE_STEPS, MAPPER_STEPS = 700, 3000

#: Multiplications per example in the mapper at which `MAPPER_STEPS` take about a minute on two
#: cores. Larger tokens get fewer steps, at least a tenth.
MAPPER_COST = 2e6

#: The published training: steps, batches and rates.
PUBLISHED_TRAINING: dict[str, Any] = {
    "vae_epochs": 15,
    "mapper_steps": 50_000,
    "batch_size": 24,
    "learning_rate": 1e-4,
    "weight_decay": 0.05,
}


#: Steps that the published model does not have: values of the default, and those without them.
STEPS: dict[str, Any] = {
    "validation": 0.15,
    "standardize": True,
    "voxel_order": "response",
    "average_targets": True,
    "fine_tuning_steps": None,
    "read_out": True,
}
PUBLISHED_STEPS: dict[str, Any] = {
    "validation": 0.0,
    "standardize": False,
    "voxel_order": "given",
    "average_targets": False,
    "fine_tuning_steps": 0,
    "read_out": False,
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of both networks, with training parameters.

    Attributes
    ----------
    vae, mapper : dict
        Arguments of `brainenc.nets.BrainVAE` and `brainenc.nets.S2N`; others have the published
        size.
    training : dict
        vae_epochs, mapper_steps, batch_size, learning_rate, weight_decay.
    """

    vae: dict[str, Any]
    mapper: dict[str, Any]
    training: dict[str, Any]


def published_sizes(width: int) -> Sizes:
    """The published sizes, for tokens of this width.

    If 13 attention heads do not divide the width, the next smaller number that does is used.
    """
    return Sizes({}, {"n_heads": n_heads(width, 13)}, dict(PUBLISHED_TRAINING))


def small_sizes(shape: Sequence[int], n_trials: int, n_voxels: int) -> Sizes:
    """Sizes that train in about two minutes on two cores.

    Parameters
    ----------
    shape : (n_tokens, width)
    n_trials, n_voxels : int
    """
    n_tokens, width = shape
    pooled = 2 ** int(math.log2(min(max(n_voxels, 16), MAX_POOLED)))
    vae = {
        "pooled_length": pooled,
        "n_channels": 16,
        "channel_multipliers": (1, 2, 2),
        "n_blocks": 1,
        "projector_width": 128,
        "mlp_widths": (96, 128),
        "mlp_token_width": 16,
    }
    mapper = {"depth": 2, "n_heads": n_heads(width, 4)}
    cost = n_tokens * width * (12 * width + 2 * n_tokens) * mapper["depth"]
    batch_size = PUBLISHED_TRAINING["batch_size"]
    training = {
        **PUBLISHED_TRAINING,
        "vae_epochs": math.ceil(VAE_STEPS / max(1, n_trials // batch_size)),
        "mapper_steps": round(MAPPER_STEPS * max(0.1, min(1, MAPPER_COST / cost))),
        # At the published rate, a few hundred steps hardly change the networks.
        "learning_rate": 2e-3,
    }
    return Sizes(vae, mapper, training)


def chosen_sizes(
    sizes: Any, shape: Sequence[int], n_trials: int, n_voxels: int, device: Any
) -> Sizes:
    """Sizes for the parameter `sizes` of the encoder.

    Parameters
    ----------
    sizes : "auto", "published" or dict
        As for `brainenc.SynBrainEncoder`.
    shape : (n_tokens, width)
    n_trials, n_voxels : int
    device : as `resolve_device` takes it
    """
    large = n_trials >= MANY_TRIALS and resolve_device(device).type == "cuda"
    if sizes == "published" or (sizes == "auto" and large):
        return published_sizes(shape[1])
    found = small_sizes(shape, n_trials, n_voxels)
    if sizes == "auto":
        return found
    return replace(
        found, vae=found.vae | sizes.get("vae", {}), mapper=found.mapper | sizes.get("mapper", {})
    )


def default_steps(sizes: Any) -> dict[str, Any]:
    """Values of the parameters of `brainenc.SynBrainEncoder` that are not of the paper.

    Parameters
    ----------
    sizes : as the parameter of the encoder
        With "published" these are the values that leave the published model.

    Returns
    -------
    dict
        None in `fine_tuning_steps` depends on the length of stage 2.
    """
    published = isinstance(sizes, str) and sizes == "published"
    return dict(PUBLISHED_STEPS if published else STEPS)


def check_sizes(sizes: Any) -> None:
    """Raise ValueError unless `sizes` is "auto", "published" or a dict of arguments of the nets."""
    if isinstance(sizes, Mapping):
        if unknown := sizes.keys() - {"vae", "mapper"}:
            raise ValueError(
                f"sizes has {sorted(unknown)}: give {{'vae': arguments of BrainVAE, 'mapper': "
                "arguments of S2N}, or one of the two"
            )
        for name, of_net in sizes.items():
            if not isinstance(of_net, Mapping):
                raise ValueError(f"sizes[{name!r}]={of_net!r} must be a dict of arguments")
            parameters = inspect.signature(BrainVAE if name == "vae" else S2N).parameters.values()
            # The first two, which are not keyword-only, are the shape of the tokens.
            allowed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
            if unknown := of_net.keys() - set(allowed):
                raise ValueError(f"sizes[{name!r}] has {sorted(unknown)}; there are {allowed}")
    elif not isinstance(sizes, str) or sizes not in ("auto", "published"):
        raise ValueError(f"sizes={sizes!r} must be 'auto', 'published' or a dict of sizes")


def n_heads(width: int, most: int) -> int:
    """Largest number of attention heads up to `most` that divides the width."""
    return max(n for n in range(1, most + 1) if width % n == 0)
