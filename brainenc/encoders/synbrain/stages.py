"""The published SynBrain: an autoencoder of single trials, and a mapper from tokens to latents."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brainenc.arrays import row_blocks, write_array
from brainenc.devices import resolve_device
from brainenc.encoders.ensemble import seeded
from brainenc.nets import S2N, BrainVAE, synbrain_vae_loss
from brainenc.storage import atomic_path, fingerprint
from brainenc.training import Examples, TrainingSettings, train
from brainenc.training.precision import autocast

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

#: Images whose trials are looked at at a time.
BLOCK = 256

#: Weights of the KL divergence and of SoftCLIP beside the reconstruction error, as published.
KL_WEIGHT, CLIP_WEIGHT = 1e-3, 1e3

#: Bytes of posterior means that are kept in memory for stage 2; more go to a file, or are not kept.
MEANS_IN_MEMORY = 2 * 2**30

#: Tokens that pooled features are cut into, for a latent of that shape.
N_TOKENS_OF_POOLED = 8


def as_tokens(features: np.ndarray) -> np.ndarray:
    """Features as tokens (n_images, n_tokens, width) of even width.

    Tokens in half precision stay so, and on disk if they are there: batches of them become
    float32. Pooled features are cut into 8 tokens; a zero is added where a width is odd, since
    the mapper's positions are pairs of sine and cosine.
    """
    if features.ndim == 2:
        width = -(-features.shape[1] // N_TOKENS_OF_POOLED)
        missing = N_TOKENS_OF_POOLED * width - features.shape[1]
        features = np.pad(features, ((0, 0), (0, missing)))
        features = features.reshape(len(features), N_TOKENS_OF_POOLED, width)
    if features.shape[2] % 2:
        features = np.pad(features, ((0, 0), (0, 0), (0, 1)))
    return features if features.dtype == np.float16 else features.astype(np.float32, copy=False)


def make_nets(shape: Sequence[int], options: dict[str, Any]) -> tuple[BrainVAE, S2N | None]:
    """Untrained autoencoder and mapper for tokens of `shape`.

    Parameters
    ----------
    shape : (n_tokens, width)
    options : dict
        vae_sizes, mapper_sizes, architecture, s2n, random_state.
    """
    vae_sizes = _sizes(options["vae_sizes"], {"paper": {}, "small": SMALL_VAE}, "vae_sizes")
    presets: dict[str, dict[str, Any]] = {
        "paper": {"n_heads": _n_heads(shape[1], 13)},
        "small": SMALL_S2N | {"n_heads": _n_heads(shape[1], 4)},
    }
    mapper_sizes = _sizes(options["mapper_sizes"], presets, "mapper_sizes")
    vae = seeded(
        options["random_state"],
        lambda: BrainVAE(*shape, **{"architecture": options["architecture"], **vae_sizes}),
    )
    if not options["s2n"]:
        return vae, None
    return vae, seeded(options["random_state"], lambda: S2N(*shape, **mapper_sizes))


def check_shape(vae: BrainVAE, tokens: np.ndarray) -> None:
    """Raise ValueError if tokens (n_images, n_tokens, width) have not the latent's shape."""
    shape = (vae.sizes["n_tokens"], vae.sizes["token_width"])
    if tokens.shape[1:] != shape:
        raise ValueError(
            f"features make tokens {tokens.shape[1:]} per image, but the encoder to adapt was "
            f"fitted to tokens {shape}: compute them in the same way"
        )


def _n_heads(width: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if width % n == 0)


def _sizes(sizes: Any, presets: dict[str, dict], name: str) -> dict[str, Any]:
    if isinstance(sizes, Mapping):
        return dict(sizes)
    if not isinstance(sizes, str) or sizes not in presets:
        raise ValueError(f"{name}={sizes!r} must be 'paper', 'small' or a dict of sizes")
    return presets[sizes]


def complete_trials(betas: np.ndarray, undefined: np.ndarray) -> np.ndarray:
    """Betas whose trials are present in all voxels or in none; voxels without data are 0.

    Raises
    ------
    ValueError : a voxel lacks trials that others have: the autoencoder reads whole trials.
    """
    lacking = np.zeros(betas.shape[2], dtype=bool)
    for block in row_blocks(betas):
        present = np.isfinite(block)
        shown = present[..., ~undefined].any(axis=2)
        lacking |= ~present[shown].all(axis=0)
    if n_lacking := int(lacking[~undefined].sum()):
        raise ValueError(
            f"{n_lacking} voxels lack some of the trials that "
            'others have, and variant="paper" reads whole trials: leave those voxels out, or use '
            'variant="default"'
        )
    if not undefined.any():
        return betas.astype(np.float32, copy=False)  # memory-mapped ones stay on disk
    missing = np.isnan(betas[..., int(np.argmin(undefined))])
    trials = np.where(undefined, np.float32(0), betas)
    trials[missing] = np.nan
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
    weights: dict[str, Any] = {
        "kl_weight": KL_WEIGHT if options["variational"] else 0.0,
        "clip_weight": CLIP_WEIGHT if options["contrastive"] else 0.0,
    }
    threshold = options["relative_stop"] * error_of_mean(betas)
    return _train(
        vae,
        vae_loss(options["variational"], **weights),
        Examples(betas=(betas, image, repeat), tokens=(tokens, image)),
        options,
        "vae",
        identity=weights | {"variational": options["variational"]},
        n_epochs=options["vae_epochs"],
        weight_decay=options["weight_decay"],
        stop=lambda row: row["reconstruction"] < threshold,
    )


def vae_loss(variational: bool = True, **weights: Any) -> Any:
    """Loss of stage 1, with a latent that is sampled or not; weights of `synbrain_vae_loss`."""

    def loss(module: Any, batch: Any) -> dict[str, Tensor]:
        trials = batch["betas"]
        mean, log_variance = module.encode(trials)
        z = mean
        if variational:
            z = mean + batch.normal(*mean.shape[1:]) * (0.5 * log_variance).exp()
        decoded = module.decode(z, trials.shape[1])
        # Alignment compares the examples of the whole batch, wherever they are computed.
        pair = batch.gather(z), batch.gather(batch["tokens"])
        losses = synbrain_vae_loss(decoded, trials, *pair, mean, log_variance, **weights)
        return {"loss": losses.total, **{k: v for k, v in losses._asdict().items() if k != "total"}}

    return loss


def error_of_mean(betas: np.ndarray) -> float:
    """Squared error per trial, summed over voxels, of predicting the mean trial.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels); missing trials are NaN in every voxel
    """

    def blocks() -> Iterator[np.ndarray]:
        for i in range(0, len(betas), BLOCK):
            trials = betas[i : i + BLOCK].reshape(-1, betas.shape[2])
            yield trials[np.isfinite(trials[:, 0])].astype(np.float64)

    n_trials = sum(map(len, blocks()))
    mean = sum(block.sum(axis=0) for block in blocks()) / n_trials
    return sum(float(np.square(block - mean).sum()) for block in blocks()) / n_trials


def fit_mapper(
    mapper: S2N,
    vae: BrainVAE,
    betas: np.ndarray,
    tokens: np.ndarray,
    options: dict[str, Any],
    few_shot: bool = False,
) -> pd.DataFrame:
    """Stage 2: tokens to the posterior mean of the trials they evoked, by squared error.

    Afterwards the mapper has the moving average of its weights, which inference uses.

    Parameters
    ----------
    mapper : S2N, trained in place
    vae : BrainVAE
        Gives the targets: see `posterior_means`.
    betas, tokens, options
        As for `fit_vae`; options mapper_steps, ema_decay.
    few_shot : bool
        Train the MLPs of the blocks alone.

    Returns
    -------
    DataFrame : the history
    """
    image, repeat = trial_index(betas)
    blocks: Any = mapper.blocks
    mlps = [weight for block in blocks for weight in block.mlp.parameters()]
    vae.eval()
    try:
        means = posterior_means(vae, betas, options)
        return _train(
            mapper,
            mapper_loss(vae),
            Examples(
                tokens=(tokens, image),
                **({"betas": (betas, image, repeat)} if means is None else {"target": means}),
            ),
            options,
            "mapper",
            parameters=mlps if few_shot else None,
            n_steps=options["mapper_steps"],
            ema_decay=options["ema_decay"],
            clip_norm=1.0,
        )
    finally:
        vae.to("cpu")


def mapper_loss(vae: BrainVAE) -> Any:
    """Loss of stage 2: to the target of a batch, or else to the means that `vae` gives."""

    def target(batch: Any) -> Tensor:
        # Targets do not depend on the precision of the training.
        with torch.no_grad(), torch.autocast(batch.device.type, enabled=False):
            return vae.to(batch.device).encode(batch["betas"])[0]

    def loss(module: nn.Module, batch: Any) -> dict[str, Tensor]:
        wanted = batch["target"] if "target" in batch else target(batch)
        return {"loss": F.mse_loss(module(batch["tokens"]), wanted)}

    return loss


def posterior_means(vae: BrainVAE, betas: np.ndarray, options: dict[str, Any]) -> np.ndarray | None:
    """Posterior mean of every trial, computed once, where stage 2 would compute it several times.

    Parameters
    ----------
    vae : BrainVAE, in evaluation mode
    betas : array, shape (n_images, n_repeats, n_voxels)
    options : dict
        mapper_steps, batch_size, checkpoint_dir, device.

    Returns
    -------
    array, shape (n_trials, n_tokens, width), float16, or None
        At the published sizes .85 MB per trial. Up to 2 GiB are kept in memory; more in a file in
        `checkpoint_dir`, memory-mapped; without that folder there is nowhere to keep them, and
        the result is None.
    """
    image, repeat = trial_index(betas)
    shape = (len(image), vae.sizes["n_tokens"], vae.sizes["token_width"])
    if options["mapper_steps"] * min(options["batch_size"], len(image)) <= len(image):
        return None
    encoded = _Encoded(vae, betas, (image, repeat), shape, options)
    if options["checkpoint_dir"] is not None:
        # A training that is resumed finds them there, by what they were made of.
        weights = [value.cpu().numpy() for value in vae.state_dict().values()]
        key = fingerprint(*weights, image, repeat, betas[image[:16], repeat[:16]])
        path = Path(options["checkpoint_dir"]) / f"posterior-means-{key[:12]}.npy"
        if not path.exists():
            with atomic_path(path) as temporary:
                write_array(temporary, encoded)
        return np.load(path, mmap_mode="r")
    return encoded[:] if 2 * math.prod(shape) <= MEANS_IN_MEMORY else None


class _Encoded:
    """Posterior means of trials as a lazy array: slices are computed when they are asked for."""

    dtype = np.dtype(np.float16)

    def __init__(
        self,
        vae: BrainVAE,
        betas: np.ndarray,
        trials: tuple[np.ndarray, np.ndarray],
        shape: tuple[int, ...],
        options: dict[str, Any],
    ):
        self.vae, self.betas, self.trials, self.shape = vae, betas, trials, shape
        self.device, self.batch_size = resolve_device(options["device"]), options["batch_size"]

    def __getitem__(self, rows: slice) -> np.ndarray:
        trials = self.betas[tuple(part[rows] for part in self.trials)]
        batches = batches_of(trials, self.batch_size)
        means = _of_batches(lambda x: self.vae.encode(x)[0], self.vae, batches, self.device)
        return means.astype(self.dtype)


def _train(
    module: BrainVAE | S2N,
    loss: Any,
    examples: Examples,
    options: dict[str, Any],
    name: str,
    *,
    stop: Any = None,
    identity: Mapping[str, Any] | None = None,
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
        identity={**module.sizes, **(identity or {})},
        verbose=options["verbose"],
        desc=name,
    )
    return result.history.assign(stage=name)


def latents(
    mapper: S2N | None, tokens: np.ndarray, device: Any, batch_size: int, precision: str
) -> np.ndarray:
    """Latents (n_images, n_tokens, width) of images; without a mapper, the tokens themselves."""
    if mapper is None:
        return tokens
    on, batches = resolve_device(device), batches_of(tokens, batch_size)
    return _of_batches(mapper.fold_time(), mapper, batches, on, precision)


def decode(
    vae: BrainVAE, batches: Iterable[np.ndarray], n_voxels: int, device: Any, precision: str
) -> np.ndarray:
    """Responses (n, n_voxels) of batches of latents (any, n_tokens, width), n in all of them."""
    on = resolve_device(device)
    return _of_batches(lambda z: vae.decode(z, n_voxels), vae, batches, on, precision)


def batches_of(array: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Rows of an array, so many at a time."""
    return (array[i : i + batch_size] for i in range(0, len(array), batch_size))


def _of_batches(
    function: Any,
    module: nn.Module,
    batches: Iterable[np.ndarray],
    device: Any,
    precision: str = "32",
) -> np.ndarray:
    """The function of all batches, with the module on the device meanwhile."""
    module.to(device).eval()
    if isinstance(function, nn.Module):
        function.to(device).eval()
    try:
        with torch.no_grad(), autocast(device, precision):
            parts = [function(_tensor(x, device)).float().cpu().numpy() for x in batches]
    finally:
        module.to("cpu")
    return np.concatenate(parts)


def _tensor(rows: np.ndarray, device: Any) -> Tensor:
    return torch.from_numpy(rows.astype(np.float32, copy=False)).to(device)
