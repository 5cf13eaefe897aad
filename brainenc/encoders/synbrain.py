"""SynBrainEncoder: a latent distribution of responses, mapped from image tokens."""

import copy
import os
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.encoders import _synbrain_default as default
from brainenc.encoders import _synbrain_paper as paper
from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.ridge import RidgeEncoder
from brainenc.nets import S2N, BrainVAE, LatentResponse

#: What the training arguments are when they are None, by variant.
DEFAULTS: dict[str, dict[str, Any]] = {
    "default": {"batch_size": 64, "learning_rate": 2e-3, "weight_decay": 0.05},
    "paper": {"batch_size": 24, "learning_rate": 1e-4, "weight_decay": 0.05},
}


class SynBrainEncoder(BaseEncoder):
    """SynBrain: responses as a latent distribution given the image.

    ``variant="default"`` is made to predict voxels well. Each voxel's expected response is a
    blend of a linear path (ridge on the tokens) and of mappers, small transformers from tokens to
    a latent that a linear read-out turns into voxels; the blend is the one with the smallest
    squared error on held-out images, so that the mapper counts for as much as it adds. A single
    trial is the expected response, plus a draw of the latent given the image (one covariance for
    what varies together, scaled by a variance that the mapper predicts), plus what the read-out
    does not reach.

    ``variant="paper"`` is the published system, trained as published: BrainVAE, an autoencoder of
    single trials with a latent aligned with the image's CLIP tokens, and S2N, a mapper from tokens
    to that latent. Its betas must not have voxels that lack some of the images.

    Parameters
    ----------
    features : "auto", None or transformer
        Tokens (n_images, n_tokens, width) or pooled features (n_images, n_features); "auto" takes
        float arrays as they are and computes OpenCLIP features of images.
    variant : "default" or "paper"
    n_latents, hidden, dropout, n_members, n_epochs
        Default variant: principal components of the responses that make the latent; width and
        dropout of the mappers; mappers trained, each stopped on another part of the images and
        averaged (0, and any number with fewer than 100 images, leaves the linear path alone);
        epochs at most.
    vae_sizes, mapper_sizes : "paper", "small" or dict
        Paper variant: arguments of `brainenc.nets.BrainVAE` and `brainenc.nets.S2N`; "small"
        trains in minutes on a CPU and is for ablations.
    vae_epochs, mapper_steps, relative_stop, ema_decay
        Paper variant: length of stages 1 and 2; stage 1 stops when the reconstruction error is
        below this share of the error of the mean response; moving average of the mapper.
    architecture : "conv-attention" or "mlp"
    variational, contrastive, s2n : bool
        Paper variant, the paper's ablations: sample the latent in stage 1; align it with the
        tokens; map tokens to the latent (if not, tokens are decoded directly).
    noise_factor : float
        Paper variant: s.d. of the noise on the latent of draws.
    batch_size, learning_rate, weight_decay : optional
        The variant's own when None: 64, 2e-3, .05 or, as published, 24, 1e-4, .05.
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
        One row per evaluation (default variant) or epoch, of every member or stage.
    mix_ : array, shape (2,)
        Default variant: weights of the linear path and of the mappers.
    linear_ : RidgeEncoder
    members_ : list of brainenc.nets.LatentResponse
    vae_, mapper_ : brainenc.nets.BrainVAE, brainenc.nets.S2N
        Paper variant; the mapper is None without `s2n`.

    References
    ----------
    SynBrain (NeurIPS 2025), arXiv 2508.10298.
    """

    sample_kind = "latent"
    saved_parts = (
        *BaseEncoder.saved_parts,
        default.TokenAdapter,
        default.LatentNoise,
        LatentResponse,
        BrainVAE,
        S2N,
    )
    _resume = False

    def __init__(
        self,
        features: Any = "auto",
        *,
        variant: str = "default",
        n_latents: int = 48,
        hidden: int = 96,
        dropout: float = 0.3,
        n_members: int = 5,
        n_epochs: int = 32,
        vae_sizes: Any = "paper",
        mapper_sizes: Any = "paper",
        vae_epochs: int = 15,
        mapper_steps: int = 50_000,
        relative_stop: float = 0.28,
        ema_decay: float = 0.9999,
        architecture: str = "conv-attention",
        variational: bool = True,
        contrastive: bool = True,
        s2n: bool = True,
        noise_factor: float = 1.0,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
        random_state: int = 0,
        verbose: bool = False,
    ):
        self.features = features
        self.variant = variant
        self.n_latents = n_latents
        self.hidden = hidden
        self.dropout = dropout
        self.n_members = n_members
        self.n_epochs = n_epochs
        self.vae_sizes = vae_sizes
        self.mapper_sizes = mapper_sizes
        self.vae_epochs = vae_epochs
        self.mapper_steps = mapper_steps
        self.relative_stop = relative_stop
        self.ema_decay = ema_decay
        self.architecture = architecture
        self.variational = variational
        self.contrastive = contrastive
        self.s2n = s2n
        self.noise_factor = noise_factor
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.device = device
        self.precision = precision
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state
        self.verbose = verbose

    # ---------------------------------------------------------------- what a user calls

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

        Raises
        ------
        ValueError : besides those of `BaseEncoder.fit`, an unknown variant, or (paper variant)
            voxels that lack some of the trials.
        TrainingError : the loss became NaN or infinite; names the step and the last checkpoint.
        """
        if self.variant not in DEFAULTS:
            raise ValueError(f"variant={self.variant!r} must be one of {list(DEFAULTS)}")
        self._resume = resume
        super().fit(X, y)
        return self

    def sample(
        self, X: Any, n: int = 5, random_state: Any = None, *, noise: str | None = "auto"
    ) -> np.ndarray:
        """Single-trial draws.

        Parameters
        ----------
        X : images or features, as for `fit`
        n : int
            Draws per image.
        random_state : int, Generator or None
        noise : "auto", "full", "latent" or None
            "latent" draws the latent given the image; "full" adds what its read-out does not
            reach (default variant only); None repeats the prediction. "auto" is "full", or
            "latent" in the paper variant, which models nothing else.

        Returns
        -------
        array, shape (n, n_images, n_voxels), float32

        Raises
        ------
        ValueError : n < 1, an unknown noise, or "full" in the paper variant.
        """
        known = ["latent", None] + ["full"] * (self.variant == "default")
        if noise == "auto":
            noise = "full" if "full" in known else "latent"
        if noise not in known:
            raise ValueError(f"noise={noise!r} must be one of {['auto', *known]} here")
        self._noise = noise
        return super().sample(X, n, random_state)

    def adapt(self, X: Any, y: Any) -> "SynBrainEncoder":
        """New encoder for another subject with few images, leaving this one as it is.

        In the paper variant the whole autoencoder is fine-tuned on the new subject (whose number
        of voxels may differ) and then the mapper's MLPs alone; the lengths are `vae_epochs` and
        `mapper_steps`. In the default variant everything is fitted anew.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject

        Returns
        -------
        SynBrainEncoder
        """
        check_is_fitted(self)
        adapted = clone(self)
        if self.variant == "paper":
            adapted._start = copy.deepcopy((self.vae_, self.mapper_))
        adapted.fit(X, y)
        adapted.__dict__.pop("_start", None)
        return adapted

    @classmethod
    def from_official(
        cls,
        *,
        vae: str | os.PathLike,
        s2n: str | os.PathLike,
        n_voxels: int,
        features: Any = "auto",
        **parameters: Any,
    ) -> "SynBrainEncoder":
        """Fitted encoder from the checkpoints that the official code writes.

        Parameters
        ----------
        vae, s2n : path
            ``last.pth`` of the autoencoder and ``last.pt`` of the mapper, whose moving average is
            used. Nothing in the files is run.
        n_voxels : int
            Voxels to decode to, in the order of the data the autoencoder was trained on.
        features, **parameters
            Of the encoder; tokens must have the shape the mapper was trained on.

        Returns
        -------
        SynBrainEncoder

        Raises
        ------
        FileNotFoundError, ValueError : a file is missing, damaged or of another kind; named.
        """
        from brainenc.interop import read_s2n, read_vae

        encoder = cls(features, variant="paper", **parameters)
        encoder.vae_, vae_sizes = read_vae(vae)
        encoder.mapper_, sizes = read_s2n(s2n)
        shape = [sizes["n_tokens"], sizes["width"]]
        if shape != [vae_sizes["n_tokens"], vae_sizes["token_width"]]:
            raise ValueError(
                f"{vae} has latents of shape {vae_sizes['n_tokens']} × {vae_sizes['token_width']}, "
                f"but {s2n} maps tokens of {shape[0]} × {shape[1]}: are they of one model?"
            )
        encoder.n_voxels_, encoder.betas_ndim_ = n_voxels, 3
        encoder.feature_shape_, encoder.n_features_in_ = shape, shape[0]
        encoder.undefined_ = np.zeros(n_voxels, dtype=bool)
        encoder.sample_kind_ = cls.sample_kind
        return encoder

    # ---------------------------------------------------------------- either variant

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        return (
            self._fit_paper(features, betas)
            if self._is_paper
            else self._fit_default(features, betas)
        )

    def _predict(self, features: np.ndarray) -> np.ndarray:
        if self._is_paper:
            return self._decode(self._latents(features))
        return self._run(features)[0]

    def _sample(self, features: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        if self._noise is None:
            return np.tile(self._predict(features), (n, 1, 1))
        if self._is_paper:
            z = self._latents(features)
            noise = [rng.standard_normal(z.shape, dtype=np.float32) for _ in range(n)]
            return np.stack([self._decode(z + self.noise_factor * part) for part in noise])
        prediction, log_variance = self._run(features)
        draws = self.latent_noise_.sample(log_variance, n, self._noise, rng)
        return prediction + draws * self.scale_

    @property
    def _is_paper(self) -> bool:
        return self.variant == "paper"

    def _options(self) -> dict[str, Any]:
        """All parameters, with the variant's own where they are None."""
        options = self.get_params(deep=False)
        own = {k: v for k, v in DEFAULTS[self.variant].items() if options[k] is None}
        return {**options, **own, "resume": self._resume}

    # ---------------------------------------------------------------- default variant

    def _fit_default(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        self.mean_, self.scale_, responses, trials = default.standardise(betas)
        no_data = ~np.isfinite(responses).any(axis=0)
        self.linear_ = RidgeEncoder(None, device=self.device, random_state=self.random_state)
        linear = (self.linear_._fit(features, betas) - self.mean_) / self.scale_
        self.adapter_ = default.TokenAdapter.fit(features)
        tokens = self.adapter_.transform(features)
        basis = default.LatentBasis.fit(responses, self.n_latents)
        folds = default.member_folds(len(tokens), self.n_members, self.random_state)
        self.members_, mapped, log_variance, histories = default.fit_members(
            tokens, responses, trials, basis, folds, self._options()
        )
        self.history_ = pd.concat(histories, ignore_index=True) if histories else pd.DataFrame()
        self.mix_ = np.array([1.0, 0.0])
        if folds:
            self.mix_ = default.blend(linear, mapped, responses)
        predicted = self._blended(linear, mapped if folds else 0.0)
        self.latent_noise_ = default.LatentNoise.fit(trials, predicted, log_variance, basis)
        predicted[:, no_data] = np.nan
        return predicted * self.scale_ + self.mean_

    def _blended(self, linear: np.ndarray, mapped: Any) -> np.ndarray:
        return self.mix_[0] * linear + self.mix_[1] * mapped

    def _run(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected responses in the units of the betas, and log-variances of the latents."""
        linear = (self.linear_._predict(features) - self.mean_) / self.scale_
        tokens = self.adapter_.transform(features)
        mapped: Any = 0.0
        n_latents = len(self.latent_noise_.read_out)
        log_variance = np.zeros((len(tokens), n_latents), dtype=np.float32)
        for member in self.members_:
            prediction, spread = default.run_net(member, tokens, self.device)
            mapped = mapped + prediction / len(self.members_)
            log_variance += spread / len(self.members_)
        return self._blended(linear, mapped) * self.scale_ + self.mean_, log_variance

    # ---------------------------------------------------------------- paper variant

    def _fit_paper(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        tokens, options = paper.as_tokens(features), self._options()
        self.undefined_ = ~np.isfinite(betas).any(axis=(0, 1))
        trials = paper.complete_trials(betas, self.undefined_)
        start = getattr(self, "_start", None)
        shape = tokens.shape[1:]
        nets: Any = start or (
            paper.make_vae(self.vae_sizes, shape, self.architecture, self.random_state),
            paper.make_mapper(self.mapper_sizes, shape, self.random_state) if self.s2n else None,
        )
        self.vae_: BrainVAE = nets[0]
        self.mapper_: S2N | None = nets[1]
        histories = [paper.fit_vae(self.vae_, trials, tokens, options)]
        if self.mapper_ is not None:
            few_shot = [p for block in self.mapper_.blocks for p in block.mlp.parameters()]
            trained = few_shot if start else None
            histories.append(
                paper.fit_mapper(self.mapper_, self.vae_, trials, tokens, options, trained)
            )
        self.history_ = pd.concat(histories, ignore_index=True)
        return np.full((len(betas), betas.shape[2]), np.nan)  # every image was learnt

    def _latents(self, features: np.ndarray) -> np.ndarray:
        options = self._options()
        tokens = paper.as_tokens(features)
        return paper.latents(self.mapper_, tokens, self.device, options["batch_size"])

    def _decode(self, z: np.ndarray) -> np.ndarray:
        batch_size = self._options()["batch_size"]
        decoded = paper.decode(self.vae_, z, self.n_voxels_, self.device, batch_size)
        decoded[:, self.undefined_] = np.nan
        return decoded
