"""A small fit of an encoder, run here or by ``torchrun``: FOLDER/rank*.npz get what it learnt."""

import sys
from pathlib import Path

import numpy as np

from brainenc.encoders import make_encoder

PARAMETERS = {
    # Dropout draws on every process by itself, so that two cannot give the bits of one.
    "latent": {
        **{"n_epochs": 3, "n_members": 2, "least_gain": 0},
        **{"n_latents": 8, "hidden": 16, "dropout": 0.0},
    },
    "synbrain": {
        "vae_epochs": 2,
        "mapper_steps": 6,
        "relative_stop": 0.0,
        "min_images": 2,  # a network for the few images here
        "learning_rate": 1e-4,
        "sizes": {
            "vae": {
                "pooled_length": 32,
                "n_channels": 8,
                "channel_multipliers": (1, 2),
                "n_blocks": 1,
                "projector_width": 48,
            }
        },
    },
}

#: Training images; LatentEncoder has no networks below a hundred.
N_IMAGES = {"latent": 128, "synbrain": 32}


def fit(name):
    """Predictions of held-out images, draws and losses of an encoder fitted to a few images."""
    rng = np.random.default_rng(0)
    n = N_IMAGES[name]
    tokens = rng.standard_normal((n + 10, 4, 8)).astype(np.float32)
    signal = np.tanh(tokens.reshape(n + 10, -1) @ rng.standard_normal((32, 30)) / 4)
    betas = (signal[:, None] + 0.5 * rng.standard_normal((n + 10, 2, 30))).astype(np.float32)
    encoder = make_encoder(
        name, features=None, batch_size=16, random_state=0, device="cpu", precision="32",
        **PARAMETERS[name],
    )  # fmt: skip
    encoder.fit(tokens[:n], betas[:n])
    history = encoder.history_.drop(columns="seconds").select_dtypes("number")
    return {
        "predictions": encoder.predict(tokens[n:]),
        "draws": encoder.sample(tokens[n:], n=2, random_state=1),
        "history": history.to_numpy(float),
    }


if __name__ == "__main__":
    import torch.distributed as dist

    folder, name = sys.argv[1:]
    found = fit(name)
    np.savez(Path(folder) / f"rank{dist.get_rank()}.npz", **found)
