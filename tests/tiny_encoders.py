"""Every encoder of the registry, so small that it trains in a second."""

from typing import Any

from brainenc.encoders import make_encoder

PRIOR = {"n_latents": 2, "latent_width": 4, "hidden": 16, "width": 16, "depth": 1, "head_width": 4}
VAE = {"pooled_length": 16, "n_channels": 4, "channel_multipliers": (1, 2), "n_blocks": 1}
SHORT = {"n_members": 2, "n_epochs": 1}

#: Parameters by short name. With at least 110 images none of the encoders becomes ridge.
TINY: dict[str, dict[str, Any]] = {
    "latent": {"n_members": 2, "n_epochs": 1, "least_gain": 0},
    "synbrain": {
        "sizes": {"vae": VAE | {"projector_width": 8}, "mapper": {"depth": 1, "n_heads": 2}},
        **{"vae_epochs": 2, "mapper_steps": 5, "batch_size": 16, "learning_rate": 1e-4},
        "fine_tuning_steps": 2,
    },
    "mindsimulator": {"sizes": PRIOR, "autoencoder_epochs": 2, "prior_epochs": 2, "n_steps": 6},
    "mindreader": SHORT,
    "roitransformer": SHORT | {"n_clusters": 2},
}


def tiny_encoder(name: str, **parameters: Any) -> Any:
    """Unfitted encoder; parameters that it does not have are left out.

    The stacked encoder has a ridge and a network for members, the calibrated one a ridge.
    """
    known = make_encoder(name).get_params(deep=False)
    given = {key: value for key, value in parameters.items() if key in known}
    if name == "stacked":
        members = [tiny_encoder(member, **parameters) for member in ("ridge", "mindreader")]
        return make_encoder(name, **{"encoders": members, **given})
    if name == "calibrated":
        return make_encoder(name, **{"encoder": tiny_encoder("ridge", **parameters), **given})
    if name == "incontext":  # a net is of one kind of features: tests/encoders/in_context has one
        return make_encoder(name, **{"untrained": "ridge", **given})
    return make_encoder(name, **{**TINY.get(name, {}), **given})
