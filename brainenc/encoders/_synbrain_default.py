"""The default SynBrain: a linear path, a latent distribution mapped from tokens, and what is left.

The published net pools and interpolates over the order of voxels, decodes single trials and is
judged by pattern scores; voxel by voxel it does badly. This one keeps its idea (a latent
distribution of responses given the image, a mapper from tokens to it, a decoder to voxels) with a
linear read-in and read-out per subject, starts from the ridge solution, and learns what is left.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from brainenc.devices import resolve_device
from brainenc.model_selection import Folds, image_folds
from brainenc.nets.latent_mapper import (
    LatentResponse,
    gaussian_nll,
    masked_squared_error,
)
from brainenc.noise import ResidualNoise, fit_residual_noise
from brainenc.repeats import average_repeats
from brainenc.training import Examples, OneCycle, TrainingSettings, train

#: With fewer images a mapper learns nothing that the linear path does not know: on the 16 training
#: images of Miyawaki et al. (2008) it lowered r from .46 to .43.
MIN_IMAGES = 100

#: Principal components kept of features that come without tokens.
N_COMPONENTS = 128


@dataclass(frozen=True)
class TokenAdapter:
    """Features of any shape to standardised tokens (n_images, n_tokens, width), float32.

    Tokens are z-scored feature by feature over images and positions. Pooled features become one
    token: their leading principal components, half whitened, so that many small components
    neither drown nor vanish.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray | None = None

    @classmethod
    def fit(cls, features: np.ndarray) -> "TokenAdapter":
        """Adapter for features (n_images, n_features) or (n_images, n_tokens, width)."""
        axes = tuple(range(features.ndim - 1))
        mean, sd = features.mean(axes, dtype=np.float64), features.std(axes, dtype=np.float64)
        scale = np.where(sd > 1e-6 * np.abs(mean), sd, 1)
        if features.ndim == 3:
            return cls(mean, scale)
        _, singular, directions = np.linalg.svd((features - mean) / scale, full_matrices=False)
        singular = singular / np.sqrt(len(features))
        n = min(N_COMPONENTS, int((singular > 1e-3 * singular[0]).sum()))
        components = directions[:n].T / np.sqrt(singular[:n])
        overall = np.sqrt(singular[:n].mean())  # s.d. of the half-whitened components together
        return cls(mean, scale, components / overall)

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Tokens of new features."""
        tokens = (features - self.mean) / self.scale
        if self.components is not None:
            tokens = (tokens @ self.components)[:, None]
        return tokens.astype(np.float32)


@dataclass(frozen=True)
class LatentBasis:
    """Linear read-out from latents of unit variance to z-scored voxels, and back.

    Attributes
    ----------
    read_out : array, shape (n_latents, n_voxels)
    read_in : array, shape (n_voxels, n_latents)
    """

    read_out: np.ndarray
    read_in: np.ndarray

    @classmethod
    def fit(cls, responses: np.ndarray, n_latents: int) -> "LatentBasis":
        """Principal components of z-scored responses (n_images, n_voxels), NaN counting as 0."""
        filled = np.nan_to_num(responses)
        _, singular, directions = np.linalg.svd(filled, full_matrices=False)
        sd = singular / np.sqrt(len(filled))
        n = min(n_latents, int((sd > 1e-3 * sd[0]).sum()))
        sd, directions = sd[:n, None].astype(np.float32), directions[:n].astype(np.float32)
        return cls(read_out=sd * directions, read_in=(directions / sd).T)

    def latents(self, trials: np.ndarray) -> np.ndarray:
        """Latents (..., n_latents) of trials (..., n_voxels) in z units; NaN for missing trials."""
        missing = ~np.isfinite(trials).any(axis=-1)
        found = np.nan_to_num(trials).astype(np.float32) @ self.read_in
        found[missing] = np.nan
        return found


@dataclass(frozen=True)
class LatentNoise:
    """What single trials do around the prediction, in z units.

    Latents vary together with one covariance, scaled by image; voxels add what the read-out does
    not reach.

    Attributes
    ----------
    read_out : array, shape (n_latents, n_voxels)
    cholesky : array, shape (n_latents, n_latents)
        Of the latent covariance of held-out trials.
    remainder : ResidualNoise
    """

    read_out: np.ndarray
    cholesky: np.ndarray
    remainder: ResidualNoise

    @classmethod
    def fit(
        cls, trials: np.ndarray, predicted: np.ndarray, log_variance: np.ndarray, basis: LatentBasis
    ) -> "LatentNoise":
        """From z-scored trials (n_images, n_repeats, n_voxels) and held-out predictions of them."""
        residuals = trials - predicted[:, None]
        latents = basis.latents(residuals)
        left = residuals - latents @ basis.read_out
        scaled = (latents * np.exp(-0.5 * log_variance)[:, None]).reshape(-1, latents.shape[-1])
        scaled = scaled[np.isfinite(scaled).all(axis=1)]
        covariance = scaled.T @ scaled / max(len(scaled), 1)
        jitter = 1e-6 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        cholesky = np.linalg.cholesky(covariance + jitter).astype(np.float32)
        shared = fit_residual_noise(left, np.zeros_like(predicted)).factors
        # Latents and remainder are drawn apart although they vary together a little: what a voxel
        # has for itself is what makes its variance that of the held-out trials.
        total = fit_residual_noise(trials, predicted, max_factors=0).variance
        of_latents = np.square(cholesky.T @ basis.read_out).sum(axis=0)
        private = total - of_latents - np.square(shared).sum(axis=0)
        remainder = ResidualNoise(shared, np.sqrt(np.maximum(private, 0)).astype(np.float32))
        return cls(basis.read_out, cholesky, remainder)

    def sample(
        self, log_variance: np.ndarray, n: int, noise: str, rng: np.random.Generator
    ) -> np.ndarray:
        """Deviations (n, n_images, n_voxels) from the prediction, in z units."""
        n_images, n_latents = log_variance.shape
        latents = rng.standard_normal((n, n_images, n_latents), dtype=np.float32)
        latents = latents @ self.cholesky.T * np.exp(0.5 * log_variance)
        draws = latents @ self.read_out
        if noise == "full":
            draws += self.remainder.sample((n, n_images), rng)
        return draws


def fit_members(
    tokens: np.ndarray,
    responses: np.ndarray,
    trials: np.ndarray,
    basis: LatentBasis,
    folds: Folds,
    options: dict[str, Any],
) -> tuple[list[LatentResponse], np.ndarray, np.ndarray, list[Any]]:
    """Train one mapper per fold, stopped on the images it holds out.

    Parameters
    ----------
    tokens : array, shape (n_images, n_tokens, width)
    responses : array, shape (n_images, n_voxels)
        z-scored averages, NaN where an image has no data.
    trials : array, shape (n_images, n_repeats, n_voxels)
        z-scored single trials.
    basis : LatentBasis
        Shared by all members, so that their latents mean the same.
    folds : list of (train, test)
    options : dict
        hidden, dropout, n_epochs, batch_size, learning_rate, weight_decay, device,
        precision, checkpoint_dir, resume, random_state, verbose.

    Returns
    -------
    members : list of LatentResponse
    held_out : array, shape (n_images, n_voxels)
        Prediction of each image by the member that held it out.
    log_variance : array, shape (n_images, n_latents)
        Likewise.
    histories : list of DataFrame
    """
    members, histories = [], []
    held_out = np.full_like(responses, np.nan)
    log_variance = np.zeros((len(tokens), len(basis.read_out)), dtype=np.float32)
    arrays = {"tokens": tokens, "responses": responses, "latents": basis.latents(trials)}
    for k, (train_rows, test_rows) in enumerate(folds):
        net, history = _fit_member(k, basis, arrays, train_rows, test_rows, options)
        held_out[test_rows], log_variance[test_rows] = run_net(
            net, tokens[test_rows], options["device"]
        )
        members.append(net)
        histories.append(history.assign(member=k))
    return members, held_out, log_variance, histories


def _fit_member(
    k: int,
    basis: LatentBasis,
    arrays: dict[str, np.ndarray],
    train_rows: np.ndarray,
    test_rows: np.ndarray,
    options: dict[str, Any],
) -> tuple[LatentResponse, Any]:
    with torch.random.fork_rng([]):
        torch.manual_seed(options["random_state"] + k)
        net = LatentResponse(
            *arrays["tokens"].shape[1:],
            *basis.read_out.shape,
            hidden=options["hidden"],
            dropout=options["dropout"],
        )
        net.read_out.data = torch.from_numpy(basis.read_out).clone()
    held_tokens = torch.from_numpy(arrays["tokens"][test_rows])
    held = torch.from_numpy(arrays["responses"][test_rows])

    def loss(module: Any, batch: Any) -> dict[str, torch.Tensor]:
        predicted, mean, log_variance = module(batch["tokens"])
        error = masked_squared_error(predicted, batch["responses"])
        nll = gaussian_nll(batch["latents"], mean.detach(), log_variance)
        return {"loss": error + 0.1 * nll, "mse": error, "nll": nll}

    def evaluate(module: Any) -> dict[str, float]:
        device = next(module.parameters()).device
        predicted = module(held_tokens.to(device))[0]
        return {"held_out_mse": float(masked_squared_error(predicted, held.to(device)))}

    n_steps = max(50, options["n_epochs"] * len(train_rows) // options["batch_size"])
    settings = TrainingSettings(
        n_steps=n_steps,
        batch_size=options["batch_size"],
        learning_rate=options["learning_rate"],
        weight_decay=options["weight_decay"],
        schedule=OneCycle(),
        report_every=max(1, n_steps // 20),
        monitor="held_out_mse",
        mode="min",
        patience=6,
        precision=options["precision"],
        random_state=options["random_state"] + k,
    )
    folder = options["checkpoint_dir"]
    result = train(
        net,
        loss,
        Examples(**{name: (array, train_rows) for name, array in arrays.items()}),
        settings,
        evaluate=evaluate,
        parameters=[
            {"params": net.mapper.parameters()},
            # The read-out starts where it should be; the mapper moves first.
            {
                "params": [net.read_out],
                "lr": 0.1 * options["learning_rate"],
                "weight_decay": 0.0,
            },
        ],
        device=resolve_device(options["device"]),
        checkpoint_dir=None if folder is None else Path(folder) / f"member{k}",
        resume=options["resume"],
        verbose=options["verbose"],
        desc=f"mapper {k + 1}",
    )
    return net, result.history


def run_net(
    net: LatentResponse, tokens: np.ndarray, device: Any, batch_size: int = 512
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (n_images, n_voxels) in z units and log-variances (n_images, n_latents)."""
    device = resolve_device(device)
    net = net.to(device).eval()
    predictions, spreads = [], []
    with torch.no_grad():
        for start in range(0, len(tokens), batch_size):
            batch = torch.from_numpy(tokens[start : start + batch_size]).to(device)
            predicted, _, log_variance = net(batch)
            predictions.append(predicted.cpu().numpy())
            spreads.append(log_variance.cpu().numpy())
    net.to("cpu")
    return np.concatenate(predictions), np.concatenate(spreads)


def blend(linear: np.ndarray, mapped: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Non-negative weights of the two parts with the smallest held-out squared error.

    Parameters
    ----------
    linear, mapped : array, shape (n_images, n_voxels)
        Held-out predictions.
    responses : array, shape (n_images, n_voxels); NaN where an image has no data

    Returns
    -------
    array, shape (2,)
    """
    parts = np.stack([linear, mapped], axis=-1)
    known = np.isfinite(responses) & np.isfinite(parts).all(axis=-1)
    parts, measured = parts[known].astype(np.float64), responses[known].astype(np.float64)
    # The normal equations hold all there is to know: nnls on their root is nnls on the data.
    gram, moment = parts.T @ parts, parts.T @ measured
    root = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) * np.eye(2))
    weights, _ = nnls(root.T, np.linalg.solve(root, moment))
    return weights


def standardise(betas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean and s.d. of the repeat averages, and averages and trials z-scored with them.

    A voxel that does not vary has s.d. 1: its z-scored responses are 0.
    """
    averages = average_repeats(betas).astype(np.float32)
    present = np.isfinite(averages)
    n = np.maximum(present.sum(axis=0), 1)
    filled = np.where(present, averages, 0)
    mean = filled.sum(axis=0, dtype=np.float64) / n
    centred = np.where(present, averages - mean, 0)
    sd = np.sqrt(np.square(centred).sum(axis=0) / n)
    scale = np.where(sd > 1e-6 * np.abs(mean), sd, 1.0)
    mean, scale = mean.astype(np.float32), scale.astype(np.float32)
    return mean, scale, (averages - mean) / scale, ((betas - mean) / scale).astype(np.float32)


def member_folds(n_images: int, n_members: int, random_state: int) -> Folds:
    """Held-out images of each member; none when there are too few images for a mapper."""
    if n_members == 0 or n_images < MIN_IMAGES:
        return []
    return image_folds(n_members, n_images, random_state=random_state)
