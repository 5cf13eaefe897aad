"""MindSimulatorEncoder: responses decoded from latents that diffusion draws for an image."""

import copy
import os
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from brainenc.arrays import Rows, release
from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.ensemble import MIN_IMAGES, run_net, voxel_moments
from brainenc.encoders.mind_simulator import stages as stages
from brainenc.encoders.mind_simulator.noise import draw_spread, remaining_noise
from brainenc.encoders.mind_simulator.parameters import TRAINING, all_sizes, check_parameters
from brainenc.encoders.mind_simulator.sampler import Sampler
from brainenc.encoders.ridge import RidgeEncoder
from brainenc.encoders.tokens import TokenAdapter, linear_features
from brainenc.nets import DiffusionPrior, FMRIAutoencoder
from brainenc.repeats import average_repeats

#: Held-out images, and draws of each, that tell how much draws scatter.
N_SPREAD_IMAGES, N_SPREAD_DRAWS = 64, 8

#: An autoencoder trained for fewer steps has not learnt what even few images can teach.
MIN_STEPS = 150


class MindSimulatorEncoder(BaseEncoder):
    """MindSimulator: an autoencoder of single trials, and a diffusion prior on its latent.

    The autoencoder reads single trials; its latent is aligned with the image's tokens (SoftCLIP).
    The prior, a transformer, draws latents of an image by diffusion: given the tokens it takes
    noise away step by step. A draw is a decoded latent, the prediction the mean of `n_draws`.

    ``sizes="paper"`` is the published system. The default is small, and differs in what made it
    predict held-out images of simulated subjects better: the autoencoder reconstructs the average
    of an image's trials, with half the voxels hidden, and the prior starts from a linear one
    (ridge from tokens to latents, with Gaussian residuals), which the transformer changes as far
    as that lowers the error on held-out images. With fewer than 100 images it is ridge alone.

    Parameters
    ----------
    features : "auto", None or transformer
        Tokens (n_images, n_tokens, width) or pooled features (n_images, n_features); "auto" takes
        float arrays as they are and computes OpenCLIP features of images.
    sizes : "default", "paper" or dict
        Of the nets. A dict replaces some of the default: `n_latents`, `latent_width` (shape of
        the latent, None: of the image's tokens), `hidden`, `n_blocks`, `dropout` (autoencoder),
        `width`, `depth`, `n_heads`, `head_width`, `mlp_ratio`, `prior_dropout` (prior). Whatever
        is None below is that of the default too, or with "paper" the published one.
    n_draws : int
        Draws whose mean is the prediction. They start from the same noise for every image, so
        that the prediction of an image does not depend on which others are asked for.
    n_steps : int, optional
        Of the diffusion: 25, published 100.
    n_sampling_steps : int, optional
        Take so many steps instead of all (DDIM); None: all of them (DDPM).
    eta : float
        Randomness of DDIM's steps: 0 none, 1 as DDPM.
    guidance : float
        Weight of the condition: 1 as learnt, more exaggerates what the image changes.
    noise_correlation : float
        Between the draws of an image, of the noise they start from and get on the way.
    gaussian_start : bool, optional
        Start the prior from the linear one; published: no.
    condition_dropout : float
        Share of the examples that the prior learns without the image.
    voxel_dropout : float, optional
        Share of the voxels hidden from the autoencoder in training: .5, published 0.
    temperature : (float, float), optional
        Of SoftCLIP at the start and at the end of the training; (.1, .1), published (.004, .0075)
        for CLIP tokens, which are more alike.
    autoencoder_epochs, prior_epochs : int, optional
        8 each, or as many as give the autoencoder 150 steps; published 300 and
        150. With images held out, training ends when a third of them have brought nothing.
    batch_size, learning_rate, weight_decay : optional
        64, 1e-3, .05; published 32, 3e-4, .01.
    validation : float, optional
        Share of the images held out: the best epochs are chosen on them, and the noise of single
        trials is estimated from them. .15; published 0, which leaves no "full" draws.
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
    precision : "auto", "32", "bf16"
    checkpoint_dir : path, optional
        Where training writes checkpoints; ``fit(..., resume=True)`` goes on from there.
    random_state : int or None
        The same seed gives the same encoder; None, another one each time.
    verbose : bool
        Show progress bars.

    Attributes
    ----------
    history_ : DataFrame
        One row per epoch of every `stage`; empty if ridge is alone.
    autoencoder_, prior_ : brainenc.nets.FMRIAutoencoder, brainenc.nets.DiffusionPrior
        None if ridge is alone.
    linear_ : RidgeEncoder or None
        From tokens to latents, or to voxels if it is alone.
    spread_ : ResidualNoise or None
        How decoded draws of a held-out image scatter.
    seed_ : int
        Of the noise behind `predict`.

    Notes
    -----
    Voxels are z-scored over the averages of the images, and what an image lacks in a voxel counts
    as that voxel's mean in the input, and not at all in the error.

    Ctrl-C ends the training of a stage with a warning, and the next one begins.

    References
    ----------
    MindSimulator (ICLR 2025), arXiv 2503.02351.
    """

    sample_kind = "latent"
    saved_parts = (
        *BaseEncoder.saved_parts,
        TokenAdapter,
        stages.LatentScale,
        FMRIAutoencoder,
        DiffusionPrior,
    )
    _resume = False
    _noise: str | None = "full"
    _start: Any = None
    _start_share = 1.0
    autoencoder_: Any
    prior_: Any
    linear_: Any
    spread_: Any

    def __init__(
        self,
        features: Any = "auto",
        *,
        sizes: Any = "default",
        n_draws: int = 5,
        n_steps: int | None = None,
        n_sampling_steps: int | None = None,
        eta: float = 0.0,
        guidance: float = 1.0,
        noise_correlation: float = 0.0,
        gaussian_start: bool | None = None,
        condition_dropout: float = 0.2,
        voxel_dropout: float | None = None,
        temperature: tuple[float, float] | None = None,
        autoencoder_epochs: int | None = None,
        prior_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        validation: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
        random_state: int | None = 0,
        verbose: bool = False,
    ):
        self.features = features
        self.sizes = sizes
        self.n_draws = n_draws
        self.n_steps = n_steps
        self.n_sampling_steps = n_sampling_steps
        self.eta = eta
        self.guidance = guidance
        self.noise_correlation = noise_correlation
        self.gaussian_start = gaussian_start
        self.condition_dropout = condition_dropout
        self.voxel_dropout = voxel_dropout
        self.temperature = temperature
        self.autoencoder_epochs = autoencoder_epochs
        self.prior_epochs = prior_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation = validation
        self.device = device
        self.precision = precision
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state
        self.verbose = verbose

    # ---------------------------------------------------------------- what a user calls

    def fit(self, X: Any, y: Any, *, resume: bool = False) -> "MindSimulatorEncoder":
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
        ValueError : besides those of `BaseEncoder.fit`, a parameter out of range, or `resume`
            without what it needs.
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
        start: Any = None,
        start_share: float = 0.5,
    ) -> np.ndarray:
        """Single-trial draws.

        Parameters
        ----------
        X, n, random_state, out : as for `BaseEncoder.sample`
        noise : "auto", "full", "latent", "trial", "signal" or None
            "latent" decodes draws of the latent, as published; "full" adds what single trials of
            held-out images scatter beyond that, and is the distribution of single trials. "trial",
            "signal" and None are as in `BaseEncoder.sample`. "auto" is "full", but "latent" with
            ``sizes="paper"``, and where no images were held out there is "latent" and None alone.
        start : array, shape (n_voxels,), optional
            Responses, at rest for instance, from whose latent "latent" and "full" draws start, in
            the units of the betas. NaN counts as the voxel's mean.
        start_share : float
            With `start`: share of the steps that are left to go, in (0, 1]. The smaller, the
            more of `start` remains.

        Returns
        -------
        array, shape (n, n_images, n_voxels), float32

        Raises
        ------
        ValueError : as in `BaseEncoder.sample`; `start` of a wrong shape or if ridge is alone;
            `start_share` out of range.
        """
        check_is_fitted(self)
        sampler = copy.copy(self)
        if start is not None:
            sampler._start = self._check_start(start, start_share)
            sampler._start_share = start_share
        return super(MindSimulatorEncoder, sampler).sample(X, n, random_state, noise=noise, out=out)

    def _noise_kinds(self) -> tuple[str | None, ...]:
        if self.prior_ is not None and self.spread_ is None:
            return "latent", None
        kinds = ("latent", "full") if self.sizes == "paper" else ("full", "latent")
        return *kinds, "trial", "signal", None

    def _described(self) -> str:
        return f"sizes={self.sizes!r} and validation={self.validation!r}"

    # ---------------------------------------------------------------- fitting

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        options = self._options()
        self.seed_ = int(options["random_state"])
        self.autoencoder_ = self.prior_ = self.linear_ = self.spread_ = None
        self.history_ = pd.DataFrame()
        if options["gaussian_start"]:
            self.linear_ = RidgeEncoder(None, device=self.device, random_state=self.seed_)
            if len(features) < MIN_IMAGES:
                return self.linear_._fit(linear_features(features), betas)
        trials = self._trials(features, betas, options)
        if self.autoencoder_epochs is None:
            n_trials = len(trials.index(trials.learnt)[0])
            least = -(-MIN_STEPS * options["batch_size"] // n_trials)
            options["autoencoder_epochs"] = max(options["autoencoder_epochs"], least)
        histories = [self._fit_autoencoder(trials, options)]
        expected = self._fit_scale(features, trials)
        self.prior_ = stages.make_prior(trials.tokens.shape[1:], self._latent_shape, options)
        histories.append(
            stages.fit_prior(
                self.prior_, self.autoencoder_, self.latent_, trials, expected, options
            )
        )
        self.history_ = pd.concat(histories, ignore_index=True)
        return self._held_out(features, trials, expected)

    def _options(self) -> dict[str, Any]:
        """All parameters, with the preset's own, and a seed, where they are None."""
        own = dict(TRAINING["paper" if self.sizes == "paper" else "default"])
        if self.random_state is None:
            own["random_state"] = int(np.random.default_rng().integers(2**31))
        options = self.get_params(deep=False)
        return {k: own.get(k) if v is None else v for k, v in options.items()} | {
            "sizes": all_sizes(self.sizes),
            "resume": self._resume,
        }

    def _trials(
        self, features: np.ndarray, betas: np.ndarray, options: dict[str, Any]
    ) -> stages.Trials:
        averages = average_repeats(betas).astype(np.float32, copy=False)
        learnt = np.ones(len(betas), dtype=bool)
        # Images without data would judge nothing.
        shown = np.flatnonzero(np.isfinite(averages).any(axis=1))
        n_held = round(options["validation"] * len(shown))
        learnt[np.random.default_rng(self.seed_).permutation(shown)[:n_held]] = False
        self.mean_, self.scale_ = voxel_moments(averages[learnt])
        self.undefined_ = ~np.isfinite(averages[learnt]).any(axis=0)
        self.adapter_ = None
        if options["gaussian_start"]:
            # Tokens of many images are larger than memory: rows are read as they are asked for.
            in_memory = features.ndim == 2
            rows: Any = features[learnt] if in_memory else Rows(features, np.flatnonzero(learnt))
            self.adapter_ = TokenAdapter.fit(rows)
        return stages.Trials(
            betas, averages, self._tokens(features), self.mean_, self.scale_, learnt
        )

    def _fit_autoencoder(self, trials: stages.Trials, options: dict[str, Any]) -> pd.DataFrame:
        shape = trials.tokens.shape[1:]
        self.autoencoder_ = stages.make_autoencoder(shape, trials.betas.shape[2], options)
        targets = stages.clip_targets(trials.tokens, trials.learnt, self._latent_shape)
        return stages.fit_autoencoder(self.autoencoder_, trials, targets, options)

    def _fit_scale(self, features: np.ndarray, trials: stages.Trials) -> np.ndarray | None:
        """Scale of the latents; what the linear path expects of images it had not learnt."""
        at_most = None if self.linear_ is not None else stages.N_SCALED
        image, repeat = trials.index(np.ones_like(trials.learnt), at_most)
        z = stages.encode(self.autoencoder_, trials, image, repeat, self.device)
        learnt = trials.learnt[image]
        if self.linear_ is None:
            self.latent_ = stages.fit_scale(z[learnt])
            return None
        mean, sd = stages.latent_moments(z[learnt])
        by_image = np.full((*trials.betas.shape[:2], mean.size), np.nan, dtype=np.float32)
        by_image[image, repeat] = ((z - mean) / sd).reshape(len(z), -1)
        expected = self.linear_._fit(linear_features(features), by_image).reshape(-1, *mean.shape)
        self.latent_ = stages.fit_scale(z[learnt], expected[image[learnt]])
        return expected.astype(np.float32)

    def _held_out(
        self, features: np.ndarray, trials: stages.Trials, expected: np.ndarray | None
    ) -> np.ndarray:
        """Predictions of the images held out; NaN for the others. Sets `spread_`.

        The linear path has learnt these images too: `expected` is what it says without them.
        """
        prediction = np.full(trials.averages.shape, np.nan, dtype=np.float32)
        held = np.flatnonzero(~trials.learnt & np.isfinite(trials.averages).any(axis=1))
        if len(held):
            unseen = None if expected is None else expected[held]
            prediction[held] = self._mean_of_draws(features, held, unseen)
            rng = np.random.default_rng(self.seed_)
            some = slice(N_SPREAD_IMAGES)
            draws = self._decoded_draws(
                features[held[some]],
                N_SPREAD_DRAWS,
                lambda: rng,
                expected=None if unseen is None else unseen[some],
            )
            self.spread_ = draw_spread(np.where(self.undefined_, 0, draws))
        return prediction

    # ---------------------------------------------------------------- predicting and drawing

    def _predict(self, features: np.ndarray) -> np.ndarray:
        if self.prior_ is None:
            return self.linear_._predict(linear_features(features))
        return self._mean_of_draws(features, np.arange(len(features)))

    def _mean_of_draws(
        self, features: np.ndarray, images: np.ndarray, expected: np.ndarray | None = None
    ) -> np.ndarray:
        """Of some images: the same noise for every image, whichever others there are."""
        means = np.empty((len(images), len(self.scale_)), dtype=np.float32)
        for rows in stages.row_blocks(len(images), self.n_draws * len(self.scale_)):
            draws = self._decoded_draws(
                features[images[rows]],
                self.n_draws,
                lambda: np.random.default_rng(self.seed_),
                shared=True,
                expected=None if expected is None else expected[rows],
            )
            means[rows] = draws.mean(axis=0)
            release(features)
        return means

    def _sample(self, features: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        return self._sample_part(features, n, rng, str(self._noise_kinds()[0]))

    def _sample_part(
        self, features: np.ndarray, n: int, rng: np.random.Generator, noise: str
    ) -> np.ndarray:
        if self.prior_ is None and noise == "full":
            return super()._sample(features, n, rng)
        if self.prior_ is None or noise in ("trial", "signal"):
            return super()._sample_part(features, n, rng, noise)
        draws = self._decoded_draws(features, n, lambda: rng)
        if noise == "full":
            left = remaining_noise(self.noise_, self.spread_, self.n_draws)
            draws += left.sample((n, len(features)), rng)
        return draws

    def _decoded_draws(
        self,
        features: np.ndarray,
        n: int,
        rng: Any,
        shared: bool = False,
        expected: np.ndarray | None = None,
    ) -> np.ndarray:
        """Decoded latents (n, n_images, n_voxels), in the units of the betas.

        `expected`: what the linear path expects, where it is not to be asked.
        """
        start = None
        if expected is None and self.linear_ is not None:
            expected = self.linear_._predict(linear_features(features)).reshape(
                -1, *self._latent_shape
            )
            expected = expected.astype(np.float32, copy=False)
        if self._start is not None:
            start = self._start_latents(len(features))
        sampler = Sampler(self.autoencoder_, self.prior_, self.latent_, self._options())
        draws = sampler.draw(
            self._tokens(features),
            expected,
            n,
            rng,
            shared=shared,
            start=start,
            share=self._start_share,
        )
        draws = draws * self.scale_ + self.mean_
        draws[..., self.undefined_] = np.nan
        return draws

    def _start_latents(self, n_images: int) -> np.ndarray:
        z = np.nan_to_num((self._start - self.mean_) / self.scale_).astype(np.float32)
        latents = run_net(self.autoencoder_, z[None], self.device, call=self.autoencoder_.encode)
        return np.broadcast_to(latents, (n_images, *self._latent_shape))

    def _tokens(self, features: np.ndarray) -> Any:
        """Tokens; in half precision, or a lazy array, where they would fill the memory."""
        if self.adapter_ is not None:
            return self.adapter_.tokens(features)
        tokens = features if features.ndim == 3 else features[:, None]
        return tokens if tokens.dtype == np.float16 else tokens.astype(np.float32, copy=False)

    @property
    def _latent_shape(self) -> tuple[int, int]:
        sizes = self.autoencoder_.sizes
        return sizes["n_tokens"], sizes["token_width"]

    def _check_start(self, start: Any, share: float) -> np.ndarray:
        if self.prior_ is None:
            raise ValueError(
                f"start: fitted to fewer than {MIN_IMAGES} images, this encoder is ridge and has "
                "no latent to start from"
            )
        if not 0 < share <= 1:
            raise ValueError(f"start_share={share!r} must be more than 0 and at most 1")
        start = np.asarray(start, dtype=np.float32)
        if start.shape != (self.n_voxels_,):
            raise ValueError(f"start {start.shape} must be (n_voxels,) = ({self.n_voxels_},)")
        return start
