"""Stages of SynBrain's training: the autoencoder of single trials, then the mapper."""

import math
from collections.abc import Iterable, Iterator, Sequence
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
from brainenc.encoders.synbrain.held_out import (
    N_EVALUATIONS,
    HeldOutImages,
    batches_of,
    early_stopping,
    tensor_of,
    trial_index,
)
from brainenc.encoders.synbrain.sizes import Sizes
from brainenc.nets import S2N, BrainVAE, synbrain_vae_loss
from brainenc.reading import read_array
from brainenc.sealed import read_sealed, seal
from brainenc.storage import atomic_path, fingerprint
from brainenc.training import Examples, TrainingRun
from brainenc.training.precision import autocast

#: Images whose trials are read at a time.
BLOCK = 256

#: Weights of the KL divergence and of SoftCLIP beside the reconstruction error, as published.
KL_WEIGHT, CLIP_WEIGHT = 1e-3, 1e3

#: Largest size in bytes of posterior means kept in memory; larger ones go to a file if possible.
MEANS_IN_MEMORY = 2 * 2**30

#: Number of tokens that pooled features are cut into.
N_TOKENS_OF_POOLED = 8


def as_tokens(features: np.ndarray) -> np.ndarray:
    """Features as tokens (n_images, n_tokens, width) of even width.

    Half-precision and memory-mapped tokens are not converted here but batch by batch. Pooled
    features are cut into 8 tokens; an odd width is padded with a zero, since the mapper's positions
    are pairs of sine and cosine.
    """
    if features.ndim == 2:
        width = -(-features.shape[1] // N_TOKENS_OF_POOLED)
        missing = N_TOKENS_OF_POOLED * width - features.shape[1]
        features = np.pad(features, ((0, 0), (0, missing)))
        features = features.reshape(len(features), N_TOKENS_OF_POOLED, width)
    if features.shape[2] % 2:
        features = np.pad(features, ((0, 0), (0, 0), (0, 1)))
    return features if features.dtype == np.float16 else features.astype(np.float32, copy=False)


def token_shape(features: np.ndarray) -> tuple[int, int]:
    """Shape (n_tokens, width) of the tokens that `as_tokens` returns."""
    n_tokens, width = as_tokens(features[:1]).shape[1:]
    return n_tokens, width


def make_nets(
    shape: Sequence[int], sizes: Sizes, architecture: str, s2n: bool, random_state: int
) -> tuple[BrainVAE, S2N | None]:
    """Untrained autoencoder and mapper for tokens of `shape`.

    Parameters
    ----------
    shape : (n_tokens, width)
    sizes : Sizes
    architecture : as for `BrainVAE`
    s2n : bool
        Whether there is a mapper.
    random_state : int
    """
    vae = seeded(
        random_state, lambda: BrainVAE(*shape, **{"architecture": architecture, **sizes.vae})
    )
    if not s2n:
        return vae, None
    return vae, seeded(random_state, lambda: S2N(*shape, **sizes.mapper))


def check_shape(vae: BrainVAE, tokens: np.ndarray) -> None:
    """Raise ValueError if tokens (n_images, n_tokens, width) differ in shape from the latent."""
    shape = (vae.sizes["n_tokens"], vae.sizes["token_width"])
    if tokens.shape[1:] != shape:
        raise ValueError(
            f"features make tokens {tokens.shape[1:]} per image, but the encoder to adapt was "
            f"fitted to tokens {shape}: compute them in the same way"
        )


def complete_trials(betas: np.ndarray, undefined: np.ndarray) -> np.ndarray:
    """Betas whose trials are complete or missing; voxels without data are set to 0.

    Raises
    ------
    ValueError : a voxel lacks trials that others have, but the autoencoder reads whole trials.
    """
    lacking = np.zeros(betas.shape[2], dtype=bool)
    for block in row_blocks(betas):
        present = np.isfinite(block)
        shown = present[..., ~undefined].any(axis=2)
        lacking |= ~present[shown].all(axis=0)
    if n_lacking := int(lacking[~undefined].sum()):
        raise ValueError(
            f"{n_lacking} voxels lack some of the trials that others have, and SynBrain's "
            "autoencoder reads whole trials: leave those voxels out, or use LatentEncoder"
        )
    if not undefined.any():
        return betas.astype(np.float32, copy=False)  # memory-mapped ones stay on disk
    missing = np.isnan(betas[..., int(np.argmin(undefined))])
    trials = np.where(undefined, np.float32(0), betas)
    trials[missing] = np.nan
    return trials.astype(np.float32, copy=False)


def fit_vae(
    vae: BrainVAE,
    betas: np.ndarray,
    tokens: np.ndarray,
    run: TrainingRun,
    *,
    n_epochs: int,
    relative_stop: float,
    variational: bool = True,
    contrastive: bool = True,
    held: HeldOutImages | None = None,
) -> pd.DataFrame:
    """Stage 1: train the autoencoder on single trials, with its latent aligned with the tokens.

    Parameters
    ----------
    vae : BrainVAE, trained in place
    betas : array, shape (n_images, n_repeats, n_voxels)
        Complete trials; a missing trial is NaN in every voxel.
    tokens : array, shape (n_images, n_tokens, width)
    run : TrainingRun
    n_epochs : int
    relative_stop, variational, contrastive
        As for `brainenc.SynBrainEncoder`.
    held : HeldOutImages, optional
        Images that are not learnt. The weights are kept that decode the posterior means of their
        trials best, against the average of each image.

    Returns
    -------
    DataFrame : the history
    """
    image, repeat = trial_index(betas, None if held is None else held.learnt)
    weights: dict[str, Any] = {
        "kl_weight": KL_WEIGHT if variational else 0.0,
        "clip_weight": CLIP_WEIGHT if contrastive else 0.0,
    }
    threshold = relative_stop * error_of_mean(betas)
    stopping = {} if held is None else early_stopping(max(3, n_epochs // 3))
    result = run.train(
        vae,
        vae_loss(variational, **weights),
        Examples(betas=(betas, image, repeat), tokens=(tokens, image)),
        run.settings(n_epochs=n_epochs, **stopping),
        name="vae",
        identity=weights | {"variational": variational},
        evaluate=None if held is None else held.error_of_autoencoder,
        stop=lambda row: row["reconstruction"] < threshold,
    )
    return result.history.assign(stage="vae")


def vae_loss(variational: bool = True, **weights: Any) -> Any:
    """Loss of stage 1; `weights` are arguments of `synbrain_vae_loss`."""

    def loss(module: Any, batch: Any) -> dict[str, Tensor]:
        trials = batch["betas"]
        mean, log_variance = module.encode(trials)
        z = mean
        if variational:
            z = mean + batch.normal(*mean.shape[1:]) * (0.5 * log_variance).exp()
        decoded = module.decode(z, trials.shape[1])
        # The alignment compares examples of the whole batch, across processes.
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
    run: TrainingRun,
    *,
    n_steps: int,
    ema_decay: float,
    few_shot: bool = False,
    averaged: bool = False,
    held: HeldOutImages | None = None,
) -> pd.DataFrame:
    """Stage 2: train the mapper from tokens to posterior means of trials, by squared error.

    On return the mapper has the moving average of its weights, which inference uses. There is no
    weight decay, as in the published code.

    Parameters
    ----------
    mapper : S2N, trained in place
    vae : BrainVAE
        Computes the targets: see `posterior_means`.
    betas, tokens, run
        As for `fit_vae`.
    n_steps : int
    ema_decay : float
    few_shot : bool
        Train only the MLPs of the blocks.
    averaged : bool
        Targets are the averages of the posterior means of an image's trials, one per image.
    held : HeldOutImages, optional
        Images that are not learnt. The weights are kept whose decoded latents are nearest to their
        average responses.

    Returns
    -------
    DataFrame : the history
    """
    image, repeat = trial_index(betas, None if held is None else held.learnt)
    stopping: dict[str, Any] = {}
    if held is not None:
        every = max(1, n_steps // N_EVALUATIONS)
        stopping = early_stopping(N_EVALUATIONS // 3) | {"report_every": every}
    vae.eval()
    try:
        means = posterior_means(vae, betas, (image, repeat), run, n_steps)
        if averaged and means is not None:
            image, means = averages_by_image(image, means)
        if means is not None:
            targets: dict[str, Any] = {"target": means}
        elif averaged:
            image = np.unique(image)
            targets = {"betas": (betas, image)}
        else:
            targets = {"betas": (betas, image, repeat)}
        result = run.train(
            mapper,
            mapper_loss(vae),
            Examples(tokens=(tokens, image), **targets),
            run.settings(
                n_steps=n_steps, ema_decay=ema_decay, clip_norm=1.0, weight_decay=0.0, **stopping
            ),
            name="mapper",
            parameters=mlps_of(mapper) if few_shot else None,
            evaluate=None if held is None else lambda module: held.error_of_mapper(module, vae),
        )
    finally:
        vae.to("cpu")
    return result.history.assign(stage="mapper")


def mlps_of(mapper: S2N) -> list[Any]:
    """Weights of the MLPs of a mapper's blocks."""
    blocks: Any = mapper.blocks
    return [weight for block in blocks for weight in block.mlp.parameters()]


def averages_by_image(image: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images (ascending), and the mean over trials of values (n_trials, ...) of each."""
    images, first = np.unique(image, return_index=True)  # trials are ordered by image
    stops = [*first[1:], len(image)]
    means = np.empty((len(images), *values.shape[1:]), dtype=values.dtype)
    for i, rows in enumerate(zip(first, stops, strict=True)):
        means[i] = values[slice(*rows)].mean(axis=0, dtype=np.float32)
    return images, means


def mapper_loss(vae: BrainVAE) -> Any:
    """Loss of stage 2, against the targets of the batch or, without these, means from `vae`."""

    def target(batch: Any) -> Tensor:
        # Targets do not depend on the precision of the training.
        with torch.no_grad(), torch.autocast(batch.device.type, enabled=False):
            return mean_of_posterior(vae.to(batch.device), batch["betas"])

    def loss(module: nn.Module, batch: Any) -> dict[str, Tensor]:
        wanted = batch["target"] if "target" in batch else target(batch)
        return {"loss": F.mse_loss(module(batch["tokens"]), wanted)}

    return loss


def mean_of_posterior(vae: BrainVAE, betas: Tensor) -> Tensor:
    """Posterior means of trials (batch, n_voxels), or averages over those of images.

    Betas (batch, n_repeats, n_voxels) are NaN in every voxel of a missing trial.
    """
    if betas.ndim == 2:
        return vae.encode(betas)[0]
    present = betas[..., 0].isfinite()
    of_trials = vae.encode(betas[present])[0]
    image = present.nonzero()[:, 0]
    total = of_trials.new_zeros(len(betas), *of_trials.shape[1:]).index_add(0, image, of_trials)
    return total / present.sum(1)[:, None, None]


def posterior_means(
    vae: BrainVAE,
    betas: np.ndarray,
    trials: tuple[np.ndarray, np.ndarray],
    run: TrainingRun,
    n_steps: int,
) -> np.ndarray | None:
    """Posterior mean of every trial, computed once if stage 2 would need it several times.

    Parameters
    ----------
    vae : BrainVAE, in evaluation mode
    betas : array, shape (n_images, n_repeats, n_voxels)
    trials : (image, repeat)
        The trials to encode.
    run : TrainingRun
    n_steps : int
        Steps of stage 2.

    Returns
    -------
    array, shape (n_trials, n_tokens, width), float16, or None
        .85 MB per trial at the published sizes. Up to 2 GiB are kept in memory, more in a
        memory-mapped file in `checkpoint_dir`. None if they need that folder and there is none.
    """
    image, repeat = trials
    shape = (len(image), vae.sizes["n_tokens"], vae.sizes["token_width"])
    if n_steps * min(run.batch_size, len(image)) <= len(image):
        return None
    encoded = _Encoded(vae, betas, (image, repeat), shape, run)
    if run.checkpoint_dir is not None:
        # A resumed training finds the file by a hash of its inputs.
        weights = [value.cpu().numpy() for value in vae.state_dict().values()]
        key = fingerprint(*weights, image, repeat, np.asarray(betas))
        path = Path(run.checkpoint_dir) / f"posterior-means-{key[:12]}.npy"
        try:
            return read_sealed(path, key, dtype=encoded.dtype, mapped=True)
        except (FileNotFoundError, ValueError):  # new, or damaged: computed again
            with atomic_path(path) as temporary:
                write_array(temporary, encoded)
                seal(temporary, key)
        return read_array(path, mapped=True)
    return encoded[:] if 2 * math.prod(shape) <= MEANS_IN_MEMORY else None


class _Encoded:
    """Posterior means of trials as a lazy array: slices are computed when read."""

    dtype = np.dtype(np.float16)

    def __init__(
        self,
        vae: BrainVAE,
        betas: np.ndarray,
        trials: tuple[np.ndarray, np.ndarray],
        shape: tuple[int, ...],
        run: TrainingRun,
    ):
        self.vae, self.betas, self.trials, self.shape = vae, betas, trials, shape
        self.device, self.batch_size = resolve_device(run.device), run.batch_size

    def __getitem__(self, rows: slice) -> np.ndarray:
        trials = self.betas[tuple(part[rows] for part in self.trials)]
        batches = batches_of(trials, self.batch_size)
        means = _of_batches(lambda x: self.vae.encode(x)[0], self.vae, batches, self.device)
        return means.astype(self.dtype)


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


def _of_batches(
    function: Any,
    module: nn.Module,
    batches: Iterable[np.ndarray],
    device: Any,
    precision: str = "32",
) -> np.ndarray:
    """Results of a function of batches, with the module on the device meanwhile."""
    module.to(device).eval()
    if isinstance(function, nn.Module):
        function.to(device).eval()
    try:
        with torch.no_grad(), autocast(device, precision):
            parts = [function(tensor_of(x, device)).float().cpu().numpy() for x in batches]
    finally:
        module.to("cpu")
    return np.concatenate(parts)
