"""Stages of MindSimulator's training: the autoencoder of single trials, then the prior."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from brainenc import arrays
from brainenc.devices import resolve_device
from brainenc.encoders import tokens as token_features
from brainenc.encoders.ensemble import seeded
from brainenc.encoders.mind_simulator.scale import LatentScale, fit_scale, latent_moments
from brainenc.encoders.tokens import linear_features, principal_components
from brainenc.nets import DiffusionPrior, FMRIAutoencoder, soft_clip_loss
from brainenc.nets.diffusion import add_noise, cosine_schedule
from brainenc.nets.losses import masked_squared_error
from brainenc.repeats import average_repeats
from brainenc.solvers.regression import RidgeRegression
from brainenc.training import Examples, OneCycle, TrainingRun

#: Weight of the prior's squared error, and largest norm of its gradient, as published.
PRIOR_WEIGHT, CLIP_NORM = 300.0, 2.0

#: Largest numbers of held-out trials for evaluation, and of trials for the scale of latents.
N_JUDGED, N_SCALED = 2048, 4096

#: Smallest number of training steps of the autoencoder by default, whatever the number of images.
MIN_STEPS = 150

#: Values of latents that are denoised at a time.
BLOCK_VALUES = 2**22


@dataclass(frozen=True)
class Trials:
    """Training data of both stages.

    Attributes
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
    averages : array, shape (n_images, n_voxels)
    tokens : array, shape (n_images, n_tokens, width)
        Or an object with ``shape``, ``dtype`` and rows by index.
    mean, sd : array, shape (n_voxels,)
        Mean and s.d. of the averages over learnt images.
    learnt : array of bool, shape (n_images,)
        False for held-out images.
    """

    betas: np.ndarray
    averages: np.ndarray
    tokens: Any
    mean: np.ndarray
    sd: np.ndarray
    learnt: np.ndarray

    @property
    def held_out(self) -> np.ndarray:
        """Indices of the held-out images that have data."""
        return np.flatnonzero(~self.learnt & np.isfinite(self.averages).any(axis=1))

    def index(self, images: np.ndarray, at_most: int | None = None) -> tuple[np.ndarray, ...]:
        """Image and repeat of the trials present; at most `at_most`, evenly spaced."""
        present = [np.isfinite(block).any(axis=2) for block in arrays.row_blocks(self.betas)]
        found = np.stack(np.nonzero(np.concatenate(present) & images[:, None]))
        if at_most is not None and found.shape[1] > at_most:
            found = found[:, np.linspace(0, found.shape[1] - 1, at_most).astype(int)]
        return tuple(found)

    def single(self, image: np.ndarray, repeat: np.ndarray) -> Tensor:
        """Betas (n_trials, n_voxels) of some trials."""
        betas = torch.from_numpy(self.betas[image, repeat])
        arrays.release(self.betas)
        return betas

    def z(self, betas: Tensor) -> Tensor:
        """z-scored betas; NaN stays NaN."""
        mean, sd = (torch.from_numpy(part).to(betas.device) for part in (self.mean, self.sd))
        return (betas.float() - mean) / sd


def least_epochs(trials: Trials, batch_size: int) -> int:
    """Epochs that make `MIN_STEPS` steps of the autoencoder."""
    return -(-MIN_STEPS * batch_size // len(trials.index(trials.learnt)[0]))


# ------------------------------------------------------------------ stage 1


def make_autoencoder(
    shape: tuple[int, int], n_voxels: int, sizes: Mapping[str, Any], random_state: int
) -> Any:
    """Untrained autoencoder; its latent has the shape of the tokens if `sizes` has none."""
    chosen = {name: sizes[name] for name in ("hidden", "n_blocks", "dropout")}
    n_latents = sizes["n_latents"] or shape[0]
    width = sizes["latent_width"] or shape[1]
    return seeded(random_state, lambda: FMRIAutoencoder(n_voxels, n_latents, width, **chosen))


def clip_targets(tokens: Any, learnt: np.ndarray, shape: tuple[int, int]) -> Any:
    """Targets of the alignment: tokens, or their principal components if the shape differs.

    Tokens that would fill the memory are first averaged over neighbours, as for the linear path.
    """
    if tokens.shape[1:] == shape:
        return tokens
    in_memory = 4 * math.prod(tokens.shape) <= token_features.TOKENS_IN_MEMORY
    averaged = tokens if in_memory else linear_features(tokens)
    flat = averaged[:].astype(np.float32, copy=False).reshape(len(averaged), -1)
    flat = flat - flat[learnt].mean(axis=0)
    _, directions = principal_components(flat[learnt], shape[0] * shape[1])
    components = flat @ directions.T
    missing = shape[0] * shape[1] - components.shape[1]
    return np.pad(components, ((0, 0), (0, missing))).reshape(len(flat), *shape)


def fit_autoencoder(
    net: FMRIAutoencoder,
    trials: Trials,
    targets: Any,
    run: TrainingRun,
    options: Mapping[str, Any],
) -> pd.DataFrame:
    """Stage 1: train the autoencoder from single trials to the average of their image.

    With one trial per image the average is the trial itself, as published.

    Parameters
    ----------
    net : FMRIAutoencoder, trained in place
    trials : Trials
    targets : array, shape (n_images, n_latents, latent_width)
        See `clip_targets`.
    run : TrainingRun
    options : mapping
        temperature, voxel_dropout, condition_dropout, autoencoder_epochs.

    Returns
    -------
    DataFrame : the history
    """
    image, repeat = trials.index(trials.learnt)
    first, last = options["temperature"]
    share = options["voxel_dropout"]

    def loss(module: Any, batch: Any) -> dict[str, Tensor]:
        measured = trials.z(batch["betas"]).nan_to_num()
        if share:
            seen = batch.uniform(measured.shape[1]) >= share
            measured = measured * seen / (1 - share)
        decoded, z = module(measured)
        error = masked_squared_error(decoded, trials.z(batch["averages"]))
        temperature = last + (first - last) * (1 + np.cos(np.pi * batch.progress)) / 2
        clip = soft_clip_loss(batch.gather(z), batch.gather(batch["targets"]), temperature)
        return {"loss": error + clip, "reconstruction": error, "soft_clip": clip}

    held, held_repeat = trials.index(~trials.learnt, N_JUDGED)

    def evaluate(module: Any) -> dict[str, float]:
        device = next(module.parameters()).device
        measured = trials.z(trials.single(held, held_repeat).to(device))
        wanted = trials.z(torch.from_numpy(trials.averages[held]).to(device))
        return {
            "held_out_mse": float(masked_squared_error(module(measured.nan_to_num())[0], wanted))
        }

    examples = Examples(
        betas=(trials.betas, image, repeat),
        averages=(trials.averages, image),
        targets=(targets, image),
    )
    return _train(
        net,
        loss,
        examples,
        run,
        "autoencoder",
        identity=_identity(options),
        evaluate=evaluate if len(held) else None,
        n_epochs=options["autoencoder_epochs"],
        schedule=OneCycle(pct_start=2 / 300, final_div=1000.0),
    )


def encode(
    net: FMRIAutoencoder, trials: Trials, image: np.ndarray, repeat: np.ndarray, device: Any
) -> np.ndarray:
    """Latents (n_trials, n_latents, latent_width) of trials; the mean replaces missing voxels."""
    device = resolve_device(device)
    net.to(device).eval()
    try:
        with torch.no_grad():
            parts = [
                _encoded(net, trials, trials.single(image[rows], repeat[rows]).to(device)).cpu()
                for rows in arrays.blocks(len(image), BLOCK_VALUES // trials.betas.shape[2])
            ]
    finally:
        net.to("cpu")
    return torch.cat(parts).numpy()


def _encoded(net: FMRIAutoencoder, trials: Trials, betas: Tensor) -> Tensor:
    return net.encode(trials.z(betas).nan_to_num())


def fit_linear(
    features: np.ndarray, targets: np.ndarray, run: TrainingRun
) -> tuple[RidgeRegression, np.ndarray]:
    """Ridge from features to targets (n_images, n_targets), and its held-out predictions."""
    return RidgeRegression.fit(
        linear_features(features), targets, device=run.device, random_state=run.random_state
    )


class Latents(NamedTuple):
    """Distribution of latents before the prior is trained.

    Attributes
    ----------
    scale : LatentScale
    linear : RidgeRegression or None
        From features to standardised latents.
    expected : array, shape (n_images, n_latents, latent_width), or None
        Held-out predictions of `linear`.
    """

    scale: LatentScale
    linear: RidgeRegression | None = None
    expected: np.ndarray | None = None


def fit_latents(
    net: FMRIAutoencoder, features: np.ndarray, trials: Trials, run: TrainingRun, linear: bool
) -> Latents:
    """Scale of the latents and, if `linear`, ridge that predicts them.

    Parameters
    ----------
    net : FMRIAutoencoder, trained
    features : array, shape (n_images, n_features) or (n_images, n_tokens, width)
    trials : Trials
    run : TrainingRun
    linear : bool
    """
    at_most = None if linear else N_SCALED
    image, repeat = trials.index(np.ones_like(trials.learnt), at_most)
    z = encode(net, trials, image, repeat, run.device)
    learnt = trials.learnt[image]
    if not linear:
        return Latents(fit_scale(z[learnt]))
    mean, sd = latent_moments(z[learnt])
    by_image = np.full((*trials.betas.shape[:2], mean.size), np.nan, dtype=np.float32)
    by_image[image, repeat] = ((z - mean) / sd).reshape(len(z), -1)
    regression, expected = fit_linear(features, average_repeats(by_image), run)
    expected = expected.reshape(-1, *mean.shape)
    scale = fit_scale(z[learnt], expected[image[learnt]])
    return Latents(scale, regression, expected.astype(np.float32))


# ------------------------------------------------------------------ stage 2


def make_prior(
    shape: tuple[int, int],
    latent_shape: tuple[int, int],
    sizes: Mapping[str, Any],
    n_steps: int,
    random_state: int,
) -> DiffusionPrior:
    """Untrained prior for tokens of `shape`."""
    chosen = {
        name: sizes[name] for name in ("width", "depth", "n_heads", "head_width", "mlp_ratio")
    }
    return seeded(
        random_state,
        lambda: DiffusionPrior(
            *shape,
            *latent_shape,
            n_steps=n_steps,
            dropout=sizes["prior_dropout"],
            **chosen,
        ),
    )


def fit_prior(
    prior: DiffusionPrior,
    net: FMRIAutoencoder,
    scale: LatentScale,
    trials: Trials,
    expected: np.ndarray | None,
    run: TrainingRun,
    options: Mapping[str, Any],
) -> pd.DataFrame:
    """Stage 2: train the prior to denoise latents of trials, given the tokens of the image.

    Parameters
    ----------
    prior : DiffusionPrior, trained in place
    net : FMRIAutoencoder
        It encodes the trials of each batch: all latents (.8 MB per trial at the published sizes)
        would not fit in memory.
    scale : LatentScale
    trials : Trials
    expected : array, shape (n_images, n_latents, latent_width), or None
        Standardised latents: held-out predictions of the linear path.
    run : TrainingRun
    options : mapping
        n_steps, temperature, voxel_dropout, condition_dropout, prior_epochs.

    Returns
    -------
    DataFrame : the history
    """
    kept = torch.from_numpy(cosine_schedule(options["n_steps"]).astype(np.float32))
    net.eval()

    def error(module: Any, fields: Any, step: Tensor, noise: Tensor, keep: Tensor | None) -> Tensor:
        betas = fields["betas"]
        # Targets do not depend on the precision of the training.
        with torch.no_grad(), torch.autocast(betas.device.type, enabled=False):
            x0 = scale.standardise(_encoded(net.to(betas.device), trials, betas))
            x0 = x0 if expected is None else x0 - fields["expected"]
        share = kept.to(step.device)[step][:, None, None]
        noisy = add_noise(x0, noise, share)
        start = scale.denoised(noisy, share[:, 0])
        return (start + module(noisy, step, fields["tokens"], keep) - x0).square().mean()

    def loss(module: Any, batch: Any) -> dict[str, Tensor]:
        step = 1 + batch.integers(options["n_steps"])
        noise = batch.normal(*scale.mean.shape)
        keep = batch.uniform() >= options["condition_dropout"]
        found = error(module, batch, step, noise, keep)
        return {"loss": PRIOR_WEIGHT * found, "denoising_mse": found}

    def examples(images: np.ndarray, at_most: int | None = None) -> Examples:
        image, repeat = trials.index(images, at_most)
        more = {} if expected is None else {"expected": (expected, image)}
        return Examples(betas=(trials.betas, image, repeat), tokens=(trials.tokens, image), **more)

    def evaluate(module: Any) -> dict[str, float]:
        return {"held_out_denoising_mse": _judge(module, error, held, options["n_steps"])}

    held: Any = None if trials.learnt.all() else examples(~trials.learnt, N_JUDGED)
    try:
        return _train(
            prior,
            loss,
            examples(trials.learnt),
            run,
            "prior",
            identity=_identity(options),
            evaluate=None if held is None else evaluate,
            n_epochs=options["prior_epochs"],
            clip_norm=CLIP_NORM,
            schedule=OneCycle(),
        )
    finally:
        net.to("cpu")


def _judge(module: Any, error: Callable[..., Tensor], held: Examples, n_steps: int) -> float:
    """Squared error on held-out trials, with the same noise at the same steps every time."""
    device = next(module.parameters()).device
    generator = torch.Generator().manual_seed(0)
    shape = (module.sizes["n_latents"], module.sizes["latent_width"])
    found, n = 0.0, 0
    for rows in np.array_split(np.arange(len(held)), -(-len(held) // 256)):
        fields = {k: torch.from_numpy(v).to(device) for k, v in held[rows].items()}
        for shift in range(4):
            step = 1 + (torch.arange(len(rows)) * 7 + shift * n_steps // 4) % n_steps
            noise = torch.randn((len(rows), *shape), generator=generator)
            value = error(module, fields, step.to(device), noise.to(device), None)
            found, n = found + float(value) * len(rows), n + len(rows)
    return found / n


def _train(
    net: Any,
    loss: Any,
    examples: Examples,
    run: TrainingRun,
    name: str,
    *,
    identity: Mapping[str, Any],
    evaluate: Any,
    n_epochs: int,
    **settings: Any,
) -> pd.DataFrame:
    monitor = {"autoencoder": "held_out_mse", "prior": "held_out_denoising_mse"}[name]
    result = run.train(
        net,
        loss,
        examples,
        run.settings(
            monitor=None if evaluate is None else monitor,
            mode="min",
            patience=None if evaluate is None else max(3, n_epochs // 3),
            n_epochs=n_epochs,
            **settings,
        ),
        name=name,
        identity=identity,
        evaluate=evaluate,
    )
    return result.history.assign(stage=name)


def _identity(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("temperature", "voxel_dropout", "condition_dropout")}
