"""SynBrainEncoder: a latent distribution of responses, mapped from image tokens."""

import os
from typing import Any

import numpy as np
import pandas as pd
import torch

from brainenc.encoders import _synbrain_default as default
from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.ridge import RidgeEncoder


class SynBrainEncoder(BaseEncoder):
    """SynBrain: responses as a latent distribution given the image.

    Each voxel's expected response is a blend of a linear path (ridge on the tokens) and of
    mappers, small transformers from tokens to a latent that a linear read-out turns into voxels;
    the blend is the one with the smallest squared error on held-out images, so that the mapper
    counts for as much as it adds. A single trial is the expected response, plus a draw of the
    latent given the image (one covariance for what varies together, scaled by a variance that
    the mapper predicts), plus what the read-out does not reach.

    Parameters
    ----------
    features : "auto", None or transformer
        Tokens (n_images, n_tokens, width) or pooled features (n_images, n_features); "auto" takes
        float arrays as they are and computes OpenCLIP features of images.
    n_latents : int
        Dimensions of the latent: principal components of the responses.
    hidden : int
        Width of the mappers.
    dropout : float
    n_members : int
        Mappers trained, each stopped on another part of the images and averaged; 0, and any
        number with fewer than 100 images, leaves the linear path alone.
    n_epochs : int
        At most; a mapper stops when its held-out error no longer falls.
    batch_size, learning_rate, weight_decay
        Of AdamW with a one-cycle schedule.
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
    precision : "auto", "32", "bf16"
    checkpoint_dir : path, optional
        Where training writes checkpoints; ``fit(..., resume=True)`` goes on from there.
    random_state : int
    verbose : bool
        Show progress bars.

    Attributes
    ----------
    history_ : DataFrame
        One row per evaluation of each member: step, losses, held-out error.
    mix_ : array, shape (2,)
        Weights of the linear path and of the mappers.
    linear_ : RidgeEncoder
    n_latents_ : int

    Notes
    -----
    This is not the published net, which does badly voxel by voxel; it keeps the published idea.

    References
    ----------
    SynBrain (NeurIPS 2025), arXiv 2508.10298.
    """

    sample_kind = "latent"
    saved_parts = (*BaseEncoder.saved_parts, default.TokenAdapter, default.LatentNoise)
    _resume = False

    def __init__(
        self,
        features: Any = "auto",
        *,
        n_latents: int = 48,
        hidden: int = 96,
        dropout: float = 0.3,
        n_members: int = 5,
        n_epochs: int = 32,
        batch_size: int = 64,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.05,
        device: str = "auto",
        precision: str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
        random_state: int = 0,
        verbose: bool = False,
    ):
        self.features = features
        self.n_latents = n_latents
        self.hidden = hidden
        self.dropout = dropout
        self.n_members = n_members
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.device = device
        self.precision = precision
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, *, resume: bool = False) -> "SynBrainEncoder":
        """Fit to images and the betas they evoked.

        Parameters
        ----------
        X, y : as for `BaseEncoder.fit`
        resume : bool
            Go on from the checkpoints in `checkpoint_dir`, if there are any.

        Returns
        -------
        self
        """
        self._resume = resume
        return super().fit(X, y)  # type: ignore[return-value]

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        self.mean_, self.scale_, responses, trials = default.standardise(betas)
        no_data = ~np.isfinite(responses).any(axis=0)
        self.linear_ = RidgeEncoder(None, device=self.device, random_state=self.random_state)
        linear = (self.linear_._fit(features, betas) - self.mean_) / self.scale_
        self.adapter_ = default.TokenAdapter.fit(features)
        tokens = self.adapter_.transform(features)
        basis = default.LatentBasis.fit(responses, self.n_latents)
        self.n_latents_ = len(basis.read_out)
        self.token_shape_ = list(tokens.shape[1:])
        folds = default.member_folds(len(tokens), self.n_members, self.random_state)
        self.members_, mapped, log_variance, histories = default.fit_members(
            tokens, responses, trials, basis, folds, self._options()
        )
        self.history_ = pd.concat(histories, ignore_index=True) if histories else pd.DataFrame()
        self.mix_ = default.blend(linear, mapped, responses) if folds else np.array([1.0, 0.0])
        predicted = self._blended(linear, mapped if folds else 0.0)
        self.latent_noise_ = default.LatentNoise.fit(trials, predicted, log_variance, basis)
        predicted[:, no_data] = np.nan
        return predicted * self.scale_ + self.mean_

    def _options(self) -> dict[str, Any]:
        names = ("hidden", "dropout", "n_epochs", "batch_size", "learning_rate", "weight_decay")
        names += ("device", "precision", "checkpoint_dir", "random_state", "verbose")
        return {**{name: getattr(self, name) for name in names}, "resume": self._resume}

    def _blended(self, linear: np.ndarray, mapped: Any) -> np.ndarray:
        return self.mix_[0] * linear + self.mix_[1] * mapped

    def _run(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected responses in the units of the betas, and log-variances of the latents."""
        linear = (self.linear_._predict(features) - self.mean_) / self.scale_
        tokens = self.adapter_.transform(features)
        mapped: Any = 0.0
        log_variance = np.zeros((len(tokens), self.n_latents_), dtype=np.float32)
        for weights in self.members_:
            prediction, spread = default.run_net(self._net(weights), tokens, self.device)
            mapped = mapped + prediction / len(self.members_)
            log_variance += spread / len(self.members_)
        return self._blended(linear, mapped) * self.scale_ + self.mean_, log_variance

    def _net(self, weights: dict[str, np.ndarray]) -> Any:
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
        net = default.make_net(tuple(self.token_shape_), tensors["read_out"], self._options())
        net.load_state_dict(tensors)
        return net

    def _predict(self, features: np.ndarray) -> np.ndarray:
        return self._run(features)[0]

    def _sample(
        self, features: np.ndarray, n: int, rng: np.random.Generator, noise: str | None = "full"
    ) -> np.ndarray:
        prediction, log_variance = self._run(features)
        if noise is None:
            return np.tile(prediction, (n, 1, 1))
        draws = self.latent_noise_.sample(log_variance, n, noise, rng)
        return prediction + draws * self.scale_
