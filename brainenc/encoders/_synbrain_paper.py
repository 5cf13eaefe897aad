"""The published SynBrain: an autoencoder of single trials, and a mapper from tokens to latents."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brainenc.devices import resolve_device
from brainenc.nets import S2N, BrainVAE, soft_clip_loss
from brainenc.nets.losses import kl_divergence, reconstruction_loss
from brainenc.training import Examples, TrainingSettings, train

#: Sizes that train on a CPU in minutes; for ablations and tests, not for results.
SMALL_VAE = {
    "pooled_length": 512,
    "n_channels": 16,
    "channel_multipliers": (1, 2, 2),
    "n_blocks": 1,
    "projector_width": 128,
    "mlp_widths": (96, 128),
    "mlp_token_width": 16,
}
SMALL_S2N = {"depth": 2}

#: Weights of the KL divergence and of SoftCLIP beside the reconstruction error.
KL_WEIGHT, CLIP_WEIGHT = 1e-3, 1e3

#: Tokens that pooled features are cut into, for a latent of that shape.
N_TOKENS_OF_POOLED = 8


def as_tokens(features: np.ndarray) -> np.ndarray:
    """Features as tokens (n_images, n_tokens, width), float32, of even width.

    Pooled features are cut into 8 tokens; a zero is added where a width is odd, since the mapper's
    positions are pairs of sine and cosine.
    """
    if features.ndim == 2:
        width = -(-features.shape[1] // N_TOKENS_OF_POOLED)
        missing = N_TOKENS_OF_POOLED * width - features.shape[1]
        features = np.pad(features, ((0, 0), (0, missing)))
        features = features.reshape(len(features), N_TOKENS_OF_POOLED, width)
    return np.pad(features, ((0, 0), (0, 0), (0, features.shape[2] % 2))).astype(np.float32)


def make_vae(sizes: Any, shape: tuple[int, int], architecture: str, random_state: int) -> BrainVAE:
    """Autoencoder with a latent of `shape`; `sizes` is "paper", "small" or a dict."""
    given = _sizes(sizes, {"paper": {}, "small": SMALL_VAE}, "vae_sizes")
    return _seeded(random_state, lambda: BrainVAE(*shape, architecture=architecture, **given))


def make_mapper(sizes: Any, shape: tuple[int, int], random_state: int) -> S2N:
    """Mapper for tokens of `shape`; `sizes` is "paper", "small" or a dict."""
    small = SMALL_S2N | {"n_heads": math.gcd(shape[1], 4)}
    given = _sizes(sizes, {"paper": {}, "small": small}, "mapper_sizes")
    return _seeded(random_state, lambda: S2N(*shape, **given))


def _sizes(sizes: Any, presets: dict[str, dict], name: str) -> dict[str, Any]:
    if isinstance(sizes, Mapping):
        return dict(sizes)
    if sizes not in presets:
        raise ValueError(f"{name}={sizes!r} must be 'paper', 'small' or a dict of sizes")
    return presets[sizes]


def _seeded(random_state: int, make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng([]):
        torch.manual_seed(random_state)
        return make()


def complete_trials(betas: np.ndarray, undefined: np.ndarray) -> np.ndarray:
    """Betas whose trials are present in all voxels or in none; voxels without data are 0.

    Raises
    ------
    ValueError : a voxel lacks trials that others have: the autoencoder reads whole trials.
    """
    present = np.isfinite(betas[:, :, ~undefined])
    ragged = present.any(axis=2) & ~present.all(axis=2)
    if ragged.any():
        raise ValueError(
            f"{int((~present[ragged]).any(axis=0).sum())} voxels lack some of the trials that "
            'others have, and variant="paper" reads whole trials: leave those voxels out, or use '
            'variant="default"'
        )
    trials = np.where(undefined, 0, betas)
    trials[~present.any(axis=2)] = np.nan
    return trials.astype(np.float32, copy=False)


def trial_index(betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image and repeat of every trial present."""
    image, repeat = np.nonzero(np.isfinite(betas).any(axis=2))
    return image, repeat


def fit_vae(
    vae: BrainVAE, betas: np.ndarray, tokens: np.ndarray, options: dict[str, Any]
) -> pd.DataFrame:
    """Stage 1: reconstruct single trials from a sampled latent aligned with the image's tokens.

    Parameters
    ----------
    vae : BrainVAE, trained in place
    betas : array, shape (n_images, n_repeats, n_voxels)
        Complete trials; a missing trial is NaN in every voxel.
    tokens : array, shape (n_images, n_tokens, width)
    options : dict
        variational, contrastive, vae_epochs, relative_stop, weight_decay, and what `_train`
        takes.

    Returns
    -------
    DataFrame : the history
    """
    image, repeat = trial_index(betas)
    null = _error_of_mean(betas[image, repeat])

    def loss(module: Any, batch: Any) -> dict[str, Tensor]:
        trials = batch["betas"]
        mean, log_variance = module.encode(trials)
        z = mean
        if options["variational"]:
            z = mean + batch.normal(*mean.shape[1:]) * (0.5 * log_variance).exp()
        reconstruction = reconstruction_loss(module.decode(z, trials.shape[1]), trials)
        kl = kl_divergence(mean, log_variance)
        clip = soft_clip_loss(batch.gather(z), batch.gather(batch["tokens"]))
        total = reconstruction
        if options["variational"]:
            total = total + KL_WEIGHT * kl
        if options["contrastive"]:
            total = total + CLIP_WEIGHT * clip
        return {"loss": total, "reconstruction": reconstruction, "kl": kl, "soft_clip": clip}

    # The published absolute threshold, 350 for subject 1, as a share of the error of the mean.
    threshold = options["relative_stop"] * null
    return _train(
        vae,
        loss,
        Examples(betas=(betas, image, repeat), tokens=(tokens, image)),
        options,
        "vae",
        n_epochs=options["vae_epochs"],
        weight_decay=options["weight_decay"],
        stop=lambda row: row["reconstruction"] < threshold,
    )


def _error_of_mean(trials: np.ndarray) -> float:
    """Squared error per trial, summed over voxels, of predicting the mean trial."""
    return float(np.square(trials - trials.mean(axis=0)).sum(axis=1).mean())


def posterior_means(vae: BrainVAE, trials: np.ndarray, device: Any, batch_size: int) -> np.ndarray:
    """Means of the posterior, (n_trials, n_tokens, width), of trials (n_trials, n_voxels)."""
    device = resolve_device(device)
    return _in_batches(lambda x: vae.encode(x)[0], vae, trials, device, batch_size)


def fit_mapper(
    mapper: S2N,
    vae: BrainVAE,
    betas: np.ndarray,
    tokens: np.ndarray,
    options: dict[str, Any],
    parameters: Any = None,
) -> pd.DataFrame:
    """Stage 2: tokens to the posterior mean of the trials they evoked, by squared error.

    Afterwards the mapper has the moving average of its weights, which inference uses.

    Parameters
    ----------
    mapper : S2N, trained in place
    vae : BrainVAE
        Its posterior means are computed once.
    betas, tokens, options
        As for `fit_vae`; options mapper_steps, ema_decay.
    parameters : iterable of parameters, optional
        What to train; all by default.

    Returns
    -------
    DataFrame : the history
    """
    image, repeat = trial_index(betas)
    trials = betas[image, repeat].astype(np.float32)
    targets = posterior_means(vae, trials, options["device"], options["batch_size"])

    def loss(module: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": F.mse_loss(module(batch["tokens"]), batch["targets"])}

    return _train(
        mapper,
        loss,
        Examples(targets=targets, tokens=(tokens, image)),
        options,
        "mapper",
        n_steps=options["mapper_steps"],
        ema_decay=options["ema_decay"],
        clip_norm=1.0,
        parameters=parameters,
    )


def _train(
    module: nn.Module,
    loss: Any,
    examples: Examples,
    options: dict[str, Any],
    name: str,
    *,
    stop: Any = None,
    parameters: Any = None,
    **settings: Any,
) -> pd.DataFrame:
    folder = options["checkpoint_dir"]
    result = train(
        module,
        loss,
        examples,
        TrainingSettings(
            batch_size=options["batch_size"],
            learning_rate=options["learning_rate"],
            precision=options["precision"],
            random_state=options["random_state"],
            **settings,
        ),
        stop=stop,
        parameters=parameters,
        device=options["device"],
        checkpoint_dir=None if folder is None else Path(folder) / name,
        resume=options["resume"],
        verbose=options["verbose"],
        desc=name,
    )
    return result.history.assign(stage=name)


def latents(mapper: S2N | None, tokens: np.ndarray, device: Any, batch_size: int) -> np.ndarray:
    """Latents (n_images, n_tokens, width) of images; without a mapper, the tokens themselves."""
    if mapper is None:
        return tokens
    return _in_batches(mapper.fold_time(), mapper, tokens, resolve_device(device), batch_size)


def decode(vae: BrainVAE, z: np.ndarray, n_voxels: int, device: Any, batch_size: int) -> np.ndarray:
    """Responses (n, n_voxels) of latents (n, n_tokens, width)."""
    return _in_batches(
        lambda x: vae.decode(x, n_voxels), vae, z, resolve_device(device), batch_size
    )


def _in_batches(
    function: Any, module: nn.Module, array: np.ndarray, device: Any, batch_size: int
) -> np.ndarray:
    module.to(device).eval()
    if isinstance(function, nn.Module):
        function.to(device).eval()
    with torch.no_grad():
        parts = [
            function(torch.from_numpy(array[i : i + batch_size]).to(device)).cpu().numpy()
            for i in range(0, len(array), batch_size)
        ]
    module.to("cpu")
    return np.concatenate(parts)
