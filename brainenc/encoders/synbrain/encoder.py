"""SynBrainEncoder: a latent distribution of responses, mapped from image tokens."""

import copy
import math
import os
from collections.abc import Iterable
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.ensemble import MIN_IMAGES, run_net, voxel_moments
from brainenc.encoders.latent import maps as default
from brainenc.encoders.latent.kernel import MAX_LANDMARKS, KernelFeatures
from brainenc.encoders.latent.latents import find_latents, trial_noise
from brainenc.encoders.latent.variances import VarianceCalibration, log_variances, noise_coordinates
from brainenc.encoders.ridge import RidgeEncoder
from brainenc.encoders.synbrain import stages as paper
from brainenc.encoders.synbrain.parameters import DEFAULTS, check_parameters
from brainenc.encoders.tokens import TokenAdapter, linear_features
from brainenc.nets import S2N, BrainVAE, LatentMapper
from brainenc.noise.estimates import fit_residual_noise
from brainenc.noise.gaussian import log_density, noise_sd, sample_noise
from brainenc.repeats import average_repeats


class SynBrainEncoder(BaseEncoder):
    """SynBrain: responses as a latent distribution given the image.

    ``variant="default"`` is made to predict voxels well. The latent is what voxels share: the
    principal components of their responses, in coordinates in which the noise of trials (known
    from repeats) is alike in all directions. Two kinds of maps lead from an image to it, regression
    with a Gaussian kernel and small transformers on the tokens, and a linear read-out from it to
    voxels; ridge on the same features stands beside it. Everything counts, latent by latent and
    voxel by voxel, with the weight that has the smallest squared error on held-out images, and so
    for as much as it adds. A single trial is the expected response, plus fluctuations of latent
    factors that voxels share, plus what each voxel has alone. How much a voxel varies comes from
    held-out trials; how much more or less an image makes each factor vary is predicted from its
    tokens, as far as that fits held-out trials.

    ``variant="paper"`` is the published system, trained as published: BrainVAE, an autoencoder of
    single trials with a latent aligned with the image's CLIP tokens, and S2N, a mapper from tokens
    to that latent. Its betas must not have voxels that lack some of the trials.

    Parameters
    ----------
    features : "auto", None or transformer
        Tokens (n_images, n_tokens, width) or pooled features (n_images, n_features); "auto" takes
        float arrays as they are and computes OpenCLIP features of images.
    variant : "default" or "paper"
    n_latents, hidden, dropout, n_members, n_epochs
        Default variant: principal components of the responses that make the latent; width (a
        multiple of 4) and dropout of the mappers; mappers trained, 0 or at least 2, each stopped
        on another part of the images and averaged (0 leaves the kernel alone, in seconds); epochs
        at most. Fewer than 100 images leave ridge alone.
    vae_sizes, mapper_sizes : "paper", "small" or dict
        Paper variant: arguments of `brainenc.nets.BrainVAE` and `brainenc.nets.S2N`; "small"
        trains in minutes on a CPU and is for ablations. Where 13 attention heads do not divide
        the width of the tokens, "paper" has the next smaller number that does.
    vae_epochs, mapper_steps : int
        Paper variant: length of stages 1 and 2.
    relative_stop : float
        Paper variant: stage 1 stops after an epoch whose mean reconstruction error is below this
        share of the error of predicting the mean trial. (The published threshold is 350, which is
        this share for subject 1.)
    ema_decay : float, optional
        Paper variant: of the moving average of the mapper's weights, which inference uses. None is
        1 − 5 / `mapper_steps`: the published .9999 for the published 50 000 steps, and an average
        over the same part of a shorter training.
    architecture : "conv-attention" or "mlp"
    variational, contrastive, s2n : bool
        Paper variant, the paper's ablations: sample the latent in stage 1 (if not, there is no KL
        divergence either); align it with the tokens; map tokens to the latent (if not, tokens are
        decoded directly).
    noise_factor : float
        Paper variant: s.d. of the noise on the latent of draws.
    batch_size, learning_rate, weight_decay : optional
        The variant's own when None: 64, 2e-3, .05 or, as published, 24, 1e-4, .05. (Stage 2 of
        the paper variant has no weight decay, as in the published code.)
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
    precision : "auto", "32", "bf16"
        Of training; paper variant: of predictions and draws too, which in bf16 differ from those
        in "32" by 1 to 3 % of their s.d. "auto" is bf16 on a GPU that has it. Results are float32.
    checkpoint_dir : path, optional
        Where training writes checkpoints; ``fit(..., resume=True)`` goes on from there.
    random_state : int or None
        The same seed gives the same encoder; None, another one each time.
    verbose : bool
        Show progress bars.

    Attributes
    ----------
    history_ : DataFrame
        One row per evaluation (default variant) or epoch, of every `member` or `stage`; empty
        if no mapper was trained.
    linear_ : RidgeEncoder
    span_ : KernelFeatures or None
        Default variant: what ridge sees of more than 2048 features of more than 2048 images.
    mix_ : array, shape (2, n_voxels)
        Default variant, from 100 images on: weights of ridge and of the latent; what they lack to
        1 is the mean's.
    read_out_ : array, shape (n_latents, n_voxels)
    gaussian_, kernel_ : KernelFeatures, RidgeEncoder
    members_ : list of brainenc.nets.LatentMapper
    latent_mix_ : array, shape (1 or 2, n_latents)
        Default variant, from 100 images on: latent to betas; the maps to the latent, by a Gaussian
        kernel and by transformers, and their weights.
    variance_ : RidgeEncoder
    calibration_ : VarianceCalibration
        Default variant, from 100 images on: predicts the log-variance of each factor of `noise_`,
        and of what voxels have alone; how far it is believed.
    vae_, mapper_ : brainenc.nets.BrainVAE, brainenc.nets.S2N
        Paper variant; the mapper is None without `s2n`.

    Notes
    -----
    Ctrl-C ends the training of a mapper, or a stage of the paper variant, with a warning. The
    default variant then makes do with the mappers there are; the paper variant goes on to stage 2,
    without which there are no predictions, and a second Ctrl-C ends that.

    References
    ----------
    SynBrain (NeurIPS 2025), arXiv 2508.10298.
    """

    sample_kind = "latent"
    saved_parts = (
        *BaseEncoder.saved_parts,
        TokenAdapter,
        KernelFeatures,
        VarianceCalibration,
        LatentMapper,
        BrainVAE,
        S2N,
    )
    _resume = False
    _start: Any = None

    def __init__(
        self,
        features: Any = "auto",
        *,
        variant: str = "default",
        n_latents: int = 128,
        hidden: int = 96,
        dropout: float = 0.3,
        n_members: int = 5,
        n_epochs: int = 12,
        vae_sizes: Any = "paper",
        mapper_sizes: Any = "paper",
        vae_epochs: int = 15,
        mapper_steps: int = 50_000,
        relative_stop: float = 0.28,
        ema_decay: float | None = None,
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
        random_state: int | None = 0,
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
        ValueError : besides those of `BaseEncoder.fit`, a parameter out of range, `resume` without
            what it needs, or (paper variant) voxels that lack some of the trials.
        TrainingError : the loss became NaN or infinite; names the step and the last checkpoint.
        FileExistsError : `checkpoint_dir` has checkpoints, and `resume` is False.
        """
        check_parameters(self.get_params(deep=False), resume)
        self._resume = resume
        super().fit(X, y)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "sample_kind_")

    def sample(
        self,
        X: Any,
        n: int = 5,
        random_state: Any = None,
        *,
        noise: str | None = "auto",
        out: str | os.PathLike | None = None,
    ) -> np.ndarray:
        """Single-trial draws.

        Parameters
        ----------
        X, n, random_state, out : as for `BaseEncoder.sample`
        noise : "auto", "full", "latent", "trial", "signal" or None
            None repeats the prediction. Default variant: "latent" adds the fluctuations of latent
            factors, what voxels share, as large as the image makes them; "full", which is "auto",
            also what each voxel has alone, and is the distribution of single trials. "trial" and
            "signal" are as in `BaseEncoder.sample`, alike for all images. Paper variant: "latent",
            which is "auto", decodes the latent plus `noise_factor` · N(0, I), as published; None.

        Returns
        -------
        array, shape (n, n_images, n_voxels), float32

        Raises
        ------
        ValueError : as in `BaseEncoder.sample`; "full", "trial" or "signal" in the paper variant.
        """
        return super().sample(X, n, random_state, noise=noise, out=out)

    def _noise_kinds(self) -> tuple[str | None, ...]:
        if self._is_paper:
            return "latent", None
        return "full", "latent", "trial", "signal", None

    def _described(self) -> str:
        return f"variant={self.variant!r}"

    def adapt(
        self,
        X: Any,
        y: Any,
        *,
        checkpoint_dir: str | os.PathLike | None = None,
        resume: bool = False,
    ) -> "SynBrainEncoder":
        """New encoder for another subject with few images, leaving this one as it is.

        In the paper variant the whole autoencoder is fine-tuned on the new subject (whose number
        of voxels may differ) and then the mapper's MLPs alone, from the moving average; the lengths
        are `vae_epochs` and `mapper_steps`. In the default variant everything is fitted anew.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject
            Features of the same shape.
        checkpoint_dir, resume
            As `checkpoint_dir` of the encoder and `resume` of `fit`, for this training.

        Returns
        -------
        SynBrainEncoder
        """
        check_is_fitted(self)
        adapted = clone(self).set_params(checkpoint_dir=checkpoint_dir)
        if self._is_paper:
            adapted._start = copy.deepcopy((self.vae_, self.mapper_))
        try:
            return adapted.fit(X, y, resume=resume)
        finally:
            adapted._start = None

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

        if n_voxels < 1:
            raise ValueError(f"n_voxels={n_voxels!r} must be at least 1")
        encoder = cls(features, variant="paper", **parameters)
        check_parameters(encoder.get_params(deep=False))
        encoder.vae_, vae_sizes = read_vae(vae)
        encoder.mapper_, sizes = read_s2n(s2n)
        shape = (sizes["n_tokens"], sizes["width"])
        if shape != (vae_sizes["n_tokens"], vae_sizes["token_width"]):
            raise ValueError(
                f"{vae} has latents of shape {vae_sizes['n_tokens']} × {vae_sizes['token_width']}, "
                f"but {s2n} maps tokens of {shape[0]} × {shape[1]}: are they of one model?"
            )
        encoder.n_voxels_, encoder.betas_ndim_ = n_voxels, 3
        encoder.feature_shape_, encoder.n_features_in_ = list(shape), shape[0]
        if not (features is None or isinstance(features, str)):
            encoder.features_ = clone(features)  # extractors learn nothing from images
        encoder.undefined_ = np.zeros(n_voxels, dtype=bool)
        encoder.sample_kind_ = cls.sample_kind
        return encoder

    def to_official(self, *, vae: str | os.PathLike, s2n: str | os.PathLike) -> None:
        """Write the nets in the layout of the official checkpoints; `from_official` reads them.

        Parameters
        ----------
        vae, s2n : path
            Written whole or not at all; former files there are replaced. The weights of the
            mapper, here the moving average, are written as `model` and as `ema`.

        Raises
        ------
        ValueError : the default variant, `s2n` off or the "mlp" architecture, which the layout
            does not have.
        """
        from brainenc.interop import write_s2n, write_vae

        check_is_fitted(self)
        if not self._is_paper or self.mapper_ is None:
            raise ValueError(
                'only variant="paper" with s2n=True has the nets of an official checkpoint, not '
                f"variant={self.variant!r} with s2n={self.s2n!r}"
            )
        write_vae(vae, self.vae_)
        write_s2n(s2n, self.mapper_)

    # ---------------------------------------------------------------- either variant

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        return (
            self._fit_paper(features, betas)
            if self._is_paper
            else self._fit_default(features, betas)
        )

    def _predict(self, features: np.ndarray) -> np.ndarray:
        if self._is_paper:
            return self._decode(paper.batches_of(self._latents(features), self._batch))
        return self._predict_default(features)

    def _sample(self, features: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        if self._is_paper:
            return self._decoded_draws(self._latents(features), n, rng)
        return self._default_draws(features, n, rng, private=True)

    def _sample_part(
        self, features: np.ndarray, n: int, rng: np.random.Generator, noise: str
    ) -> np.ndarray:
        if noise == "latent":
            return self._default_draws(features, n, rng, private=False)
        return super()._sample_part(features, n, rng, noise)

    def _spread(self, features: np.ndarray) -> np.ndarray:
        if self._is_paper:
            return super()._spread(features)
        return self._shaped_spread(features, noise_sd(self.noise_, self._noise_scale(features)))

    def _normal_spread(self) -> Any:
        scale = self.__dict__.pop("_held_out_scale", None)
        if self._is_paper or scale is None:
            return None
        return lambda images: noise_sd(self.noise_, scale[images])

    def _log_density(self, features: np.ndarray, betas: np.ndarray, voxels: Any) -> np.ndarray:
        if self._is_paper:
            return super()._log_density(features, betas, voxels)
        noise, scale = self.noise_.of_voxels(voxels), self._noise_scale(features)
        expected = self._predict(features)[:, voxels]
        sd = noise_sd(noise, scale)
        normal, log_derivative = self._normal_residuals(betas, expected, sd, voxels)
        return log_density(noise, scale, normal) + log_derivative

    @property
    def _is_paper(self) -> bool:
        return self.variant == "paper"

    @property
    def _has_latent(self) -> bool:
        """Whether there were images enough for more than the linear path."""
        return hasattr(self, "read_out_")

    def _options(self) -> dict[str, Any]:
        """All parameters, with the variant's own, and a seed, where they are None."""
        own = {**DEFAULTS[self.variant], "ema_decay": max(0.0, 1 - 5 / self.mapper_steps)}
        if self.random_state is None:
            own["random_state"] = int(np.random.default_rng().integers(2**31))
        options = self.get_params(deep=False)
        return {k: own.get(k) if v is None else v for k, v in options.items()} | {
            "resume": self._resume
        }

    # ---------------------------------------------------------------- default variant

    def _fit_default(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        options = self._options()
        coarse = linear_features(features)
        seen = self._fit_span(coarse, options)
        self.linear_ = self._ridge(options, standardize=self.span_ is None)
        linear = self.linear_._fit(seen, betas)
        self.members_: list[LatentMapper] = []
        self.history_ = pd.DataFrame()
        if len(features) < MIN_IMAGES:
            return linear
        responses = average_repeats(betas).astype(np.float32, copy=False)
        self.mean_, self.scale_ = voxel_moments(responses)
        latents = self._find_latents(responses, linear, betas)
        held_out = self._fit_maps(features, coarse, latents, options)
        decoded = held_out @ self.read_out_ + self.mean_
        self.mix_ = default.convex_weights([linear, decoded], responses, self.mean_)
        del responses, decoded
        blended = self._blended(linear, held_out)
        self._fit_noise_scale(seen, betas, blended, options)
        return blended

    def _ridge(self, options: dict[str, Any], **parameters: Any) -> RidgeEncoder:
        return RidgeEncoder(
            None, device=self.device, random_state=options["random_state"], **parameters
        )

    def _fit_span(self, coarse: np.ndarray, options: dict[str, Any]) -> np.ndarray:
        """What the linear path sees: the features, or what many images span of wide ones."""
        self.span_: KernelFeatures | None = None
        if min(len(coarse), math.prod(coarse.shape[1:])) > MAX_LANDMARKS:
            # The eigenvectors of 6656 features would take minutes, those of 2048 seconds.
            self.span_ = KernelFeatures.fit(coarse, "linear", options["random_state"])
        return self._spanned(coarse)

    def _spanned(self, coarse: np.ndarray) -> np.ndarray:
        return coarse if self.span_ is None else self.span_.transform(coarse)

    def _find_latents(
        self, responses: np.ndarray, linear: np.ndarray, betas: np.ndarray
    ) -> np.ndarray:
        """Latents of the averages, (n_images, n_latents); NaN for an image without data."""
        noise = trial_noise(betas, self.scale_)
        # What an image lacks is taken to be as ridge predicts it.
        filled = np.where(np.isfinite(responses), responses, linear) - self.mean_
        latents, self.read_out_ = find_latents(np.nan_to_num(filled), noise, self.n_latents)
        latents[np.isnan(responses).all(axis=1)] = np.nan
        return latents

    def _fit_maps(
        self, features: np.ndarray, coarse: np.ndarray, latents: np.ndarray, options: dict[str, Any]
    ) -> np.ndarray:
        """Learn to predict latents from images; held-out predictions of them."""
        self.gaussian_ = KernelFeatures.fit(coarse, "gaussian", options["random_state"])
        self.kernel_ = self._ridge(options, standardize=False)
        parts = [self.kernel_._fit(self.gaussian_.transform(coarse), latents[:, None])]
        folds = default.member_folds(len(features), self.n_members, options["random_state"])
        if folds:
            self.adapter_ = TokenAdapter.fit(features)
            tokens = self.adapter_.tokens(features)
            members = default.fit_members(tokens, latents, folds, options)
            self.members_, self.history_ = members.nets, members.history
            parts.append(members.held_out)
        mean = np.zeros(latents.shape[1], dtype=np.float32)
        self.latent_mix_ = default.convex_weights(parts, latents, mean)
        return self._latent(parts)

    def _predict_default(self, features: np.ndarray) -> np.ndarray:
        coarse = linear_features(features)
        linear = self.linear_._predict(self._spanned(coarse))
        if not self._has_latent:
            return linear
        parts = [self.kernel_._predict(self.gaussian_.transform(coarse))]
        if self.members_:
            tokens = self.adapter_.tokens(features)
            mapped = reduce(np.add, (run_net(net, tokens, self.device) for net in self.members_))
            parts.append(mapped / len(self.members_))
        return self._blended(linear, self._latent(parts))

    def _latent(self, parts: list[np.ndarray]) -> np.ndarray:
        """Latents (n_images, n_latents) that maps agree on."""
        return np.einsum("knl,kl->nl", np.stack(parts), self.latent_mix_)

    def _blended(self, linear: np.ndarray, latents: np.ndarray) -> np.ndarray:
        """Ridge's predictions and those from the latent together. Overwrites `linear`."""
        for i in range(0, len(linear), default.BLOCK):
            rows = slice(i, i + default.BLOCK)
            linear[rows] -= self.mean_
            linear[rows] *= self.mix_[0]
            linear[rows] += self.mix_[1] * (latents[rows] @ self.read_out_) + self.mean_
        return linear

    def _fit_noise_scale(
        self, features: np.ndarray, betas: np.ndarray, held_out: np.ndarray, options: dict[str, Any]
    ) -> None:
        """Learn how noisy single trials of an image are, factor by factor of the noise."""
        noise = fit_residual_noise(betas, held_out)  # what `fit` makes noise_ of
        coordinates = noise_coordinates(betas, held_out, noise)
        self.variance_ = self._ridge(options, standardize=self.span_ is None)
        said = self.variance_._fit(features, log_variances(coordinates, betas.shape[2])[:, None])
        self.calibration_ = VarianceCalibration.fit(coordinates, said)
        self._held_out_scale = self.calibration_.scale(said)

    def _default_draws(
        self, features: np.ndarray, n: int, rng: np.random.Generator, *, private: bool
    ) -> np.ndarray:
        scale = self._noise_scale(features)
        draws = sample_noise(self.noise_, scale, n, private, rng)
        expected = self._predict(features)
        return (
            self._around(expected, draws, noise_sd(self.noise_, scale))
            if private
            else draws + expected
        )

    def _noise_scale(self, features: np.ndarray) -> np.ndarray:
        if not self._has_latent:
            return np.ones((len(features), len(self.noise_.factors) + 1), dtype=np.float32)
        seen = self._spanned(linear_features(features))
        return self.calibration_.scale(self.variance_._predict(seen))

    # ---------------------------------------------------------------- paper variant

    def _fit_paper(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        tokens, options = paper.as_tokens(features), self._options()
        self.undefined_ = ~np.isfinite(betas).any(axis=(0, 1))
        trials = paper.complete_trials(betas, self.undefined_)
        nets = self._start or paper.make_nets(tokens.shape[1:], options)
        paper.check_shape(nets[0], tokens)
        self.vae_: BrainVAE = nets[0]
        self.mapper_: S2N | None = nets[1]
        histories = [paper.fit_vae(self.vae_, trials, tokens, options)]
        if self.mapper_ is not None:
            few_shot = self._start is not None
            histories.append(
                paper.fit_mapper(self.mapper_, self.vae_, trials, tokens, options, few_shot)
            )
        self.history_ = pd.concat(histories, ignore_index=True)
        return np.full((len(betas), betas.shape[2]), np.nan)  # every image was learnt

    @property
    def _batch(self) -> int:
        return self.batch_size or DEFAULTS["paper"]["batch_size"]

    def _decoded_draws(self, z: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        def noisy(rows: np.ndarray) -> np.ndarray:
            noise = rng.standard_normal((len(rows), *z.shape[1:]), dtype=np.float32)
            return z[rows % len(z)] + self.noise_factor * noise

        n_rows = n * len(z)
        parts = np.array_split(np.arange(n_rows), -(-n_rows // self._batch))
        # In one call, so that the decoder goes to its device and back once.
        return self._decode(map(noisy, parts)).reshape(n, len(z), -1)

    def _latents(self, features: np.ndarray) -> np.ndarray:
        return paper.latents(
            self.mapper_, paper.as_tokens(features), self.device, self._batch, self.precision
        )

    def _decode(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        decoded = paper.decode(self.vae_, batches, self.n_voxels_, self.device, self.precision)
        decoded[:, self.undefined_] = np.nan
        return decoded
