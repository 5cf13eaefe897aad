"""MindSimulatorEncoder: responses decoded from latents drawn by a diffusion model.

Long because half of it is the documentation of its parameters and attributes.
"""

import os
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from brainenc.arrays import Rows, blocks, release
from brainenc.encoders.base import HeldOut
from brainenc.encoders.blended import BlendedEncoder
from brainenc.encoders.ensemble import run_net, voxel_moments
from brainenc.encoders.inputs import adapting
from brainenc.encoders.mind_simulator import stages
from brainenc.encoders.mind_simulator.noise import draw_spread, remaining_noise
from brainenc.encoders.mind_simulator.parameters import (
    AT_LEAST,
    TRAINING,
    all_sizes,
    check_sampling,
)
from brainenc.encoders.mind_simulator.sampler import Sampler
from brainenc.encoders.mind_simulator.scale import LatentScale
from brainenc.encoders.tokens import TokenAdapter, linear_features
from brainenc.encoders.trained import MIN_IMAGES, Published
from brainenc.encoders.training_images import learnt_images
from brainenc.encoders.trunk import check_same_features, start_from
from brainenc.nets import DiffusionPrior, FMRIAutoencoder
from brainenc.repeats import average_repeats
from brainenc.training import TrainingRun

#: Held-out images, and draws of each, from which the spread of draws is estimated.
N_SPREAD_IMAGES, N_SPREAD_DRAWS = 64, 8


class MindSimulatorEncoder(Published, BlendedEncoder):
    """MindSimulator: an autoencoder of single trials, and a diffusion prior on its latent.

    The autoencoder reads single trials; its latent is aligned with the image's tokens (SoftCLIP).
    The prior, a transformer, draws latents for an image by diffusion: given the tokens, it removes
    noise step by step. A draw is a decoded latent; the prediction is the mean of `n_draws` draws.

    `MindSimulatorEncoder.published` is the published configuration. The default has the same parts
    in small sizes, with two changes that improve predictions of held-out images of simulated
    subjects: the autoencoder reconstructs the average of an image's trials, with half the voxels
    hidden, and the prior starts from a linear one (ridge from tokens to latents, with Gaussian
    residuals), which the transformer corrects if that lowers the held-out error.

    Parameters
    ----------
    features : "auto", None or transformer
        Tokens (n_images, n_tokens, width) or pooled features (n_images, n_features); "auto" takes
        float arrays as they are and computes OpenCLIP features of images.
    sizes : "auto", "published" or dict
        Sizes of the nets and values of parameters that are None: small, or as published. A dict
        replaces some sizes of "auto": `n_latents`, `latent_width` (shape of the latent; None: shape
        of the image's tokens), `hidden`, `n_blocks`, `dropout` (autoencoder), `width`, `depth`,
        `n_heads`, `head_width`, `mlp_ratio`, `prior_dropout` (prior).
    blend : "auto", "ridge" or None
        "ridge": in each voxel the prediction is a convex blend of mean, ridge on the same features
        and network, with weights chosen on held-out images. "auto" is "ridge", but None, the
        network alone, with ``sizes="published"`` or
        without held-out images.
    n_draws : int
        Number of draws whose mean is the prediction. They start from the same noise for every
        image, so that the prediction of an image does not depend on the other images.
    n_steps : int, optional
        Diffusion steps: 25, published 100.
    n_sampling_steps : int, optional
        Number of steps in sampling (DDIM); None: all steps (DDPM).
    eta : float
        Randomness of DDIM steps: 0 is deterministic, 1 is DDPM.
    guidance : float
        Weight of the condition: 1 as learnt; larger values exaggerate the effect of the image.
    noise_correlation : float
        Correlation between draws of an image of their noise, at the start and in each step.
    gaussian_start : bool, optional
        Start the prior from the linear one; published: False.
    condition_dropout : float
        Share of training examples without the condition in the prior.
    voxel_dropout : float, optional
        Share of voxels hidden from the autoencoder in training: .5, published 0.
    temperature : (float, float), optional
        Temperature of SoftCLIP at start and end: (.1, .1), published (.004, .0075) for CLIP tokens.
    autoencoder_epochs, prior_epochs : int, optional
        8 each, but at least 150 steps of the autoencoder; published 300 and 150. With held-out
        images, training stops after a third of the epochs without improvement.
    batch_size, learning_rate, weight_decay : optional
        64, 1e-3, .05; published 32, 3e-4, .01.
    validation : float, optional
        Share of images held out, for epochs and trial noise: .15, published 0 (no "full" draws).
    min_images : int
        With `gaussian_start` and fewer images, only ridge is fitted, with a warning.
    device, precision, checkpoint_dir, random_state, verbose
        As for `brainenc.encoders.trained.TrainedEncoder`.

    Attributes
    ----------
    history_ : DataFrame
        One row per epoch of every `stage`; empty with ridge.
    autoencoder_, prior_ : brainenc.nets.FMRIAutoencoder, brainenc.nets.DiffusionPrior
        None with ridge.
    blend_ : RidgeBlend or None
    net_share_ : array, shape (n_voxels,)
        Weight of the network in each voxel's blend; absent without one.
    linear_ : RidgeRegression or None
        Ridge from tokens to latents, or to voxels if there are fewer than `min_images` images.
    spread_ : ResidualNoise or None
        Distribution of (blended) decoded draws around their mean, on held-out images.
    seed_ : int
        Seed of the noise in `predict`.

    Notes
    -----
    Voxels are z-scored over image averages; missing values are set to the mean in the input and
    left out of the error. Ctrl-C ends a stage with a warning, and the next stage starts.

    References
    ----------
    MindSimulator (ICLR 2025), arXiv 2503.02351.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> tokens = rng.standard_normal((40, 4, 8)).astype("float32")  # 40 images of 4 tokens
    >>> betas = tokens[:, None, 0, :5] + rng.standard_normal((40, 2, 5))  # 2 repeats, 5 voxels
    >>> options = {"autoencoder_epochs": 1, "prior_epochs": 1, "min_images": 20, "device": "cpu"}
    >>> encoder = brainenc.MindSimulatorEncoder(**options).fit(tokens, betas)
    >>> encoder.sample(tokens[:3], n=2, random_state=0).shape
    (2, 3, 5)
    """

    sample_kind = "latent"
    at_least: ClassVar = AT_LEAST
    below_one: ClassVar = ("condition_dropout", "voxel_dropout", "validation")
    saved_parts = (
        *BlendedEncoder.saved_parts,
        TokenAdapter,
        LatentScale,
        FMRIAutoencoder,
        DiffusionPrior,
    )
    autoencoder_: Any
    prior_: Any
    linear_: Any
    spread_: Any

    def __init__(
        self,
        features: Any = "auto",
        *,
        sizes: Any = "auto",
        blend: str | None = "auto",
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
        min_images: int = MIN_IMAGES,
        device: str = "auto",
        precision: str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
        random_state: int | None = 0,
        verbose: bool = False,
    ):
        super().__init__(
            features,
            blend=blend,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            device=device,
            precision=precision,
            checkpoint_dir=checkpoint_dir,
            random_state=random_state,
            verbose=verbose,
        )
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
        self.validation = validation
        self.min_images = min_images

    # ---------------------------------------------------------------- public methods

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
            "latent" decodes draws of the latent, as published, and blends them as the prediction
            is; "full" adds the remaining noise of held-out single trials, and is the distribution
            of single trials. "trial", "signal" and None are as in `BaseEncoder.sample`. "auto" is
            "latent" with ``sizes="published"``, else "full". Without held-out images only "latent"
            and None exist.
        start : array, shape (n_voxels,), optional
            Responses, in the units of the betas, whose latent is the start of "latent" and "full"
            draws (for example responses at rest). NaN is replaced by the voxel's mean.
        start_share : float
            With `start`: share of the steps that are run, in (0, 1]. Smaller values stay closer to
            `start`.

        Returns
        -------
        array, shape (n, n_images, n_voxels), float32

        Raises
        ------
        ValueError : as in `BaseEncoder.sample`; `start` has a wrong shape or the encoder is ridge;
            `start_share` is out of range.
        """
        if start is None:
            return super().sample(X, n, random_state, noise=noise, out=out)
        check_is_fitted(self)
        self._check_start(start_share)
        latents = self._encoded(start)
        return self._sample(X, n, random_state, noise, out, start=latents, start_share=start_share)

    def adapt(self, X: Any, y: Any) -> "MindSimulatorEncoder":
        """Fit to a new subject, from this one's networks; this encoder is unchanged.

        Autoencoder and prior start from this subject's weights and are fine-tuned; the layers that
        read and write voxels start anew. An encoder that is ridge has none and fits anew.
        """
        return super().adapt(X, y)

    def _adapting(self) -> tuple[Any, dict[str, Any]]:
        new = adapting(self).set_params(checkpoint_dir=None)
        return new, {} if self.prior_ is None else {"source": self}

    # ---------------------------------------------------------------- fitting

    def _check_parameters(self) -> None:
        super()._check_parameters()
        all_sizes(self.sizes)
        check_sampling(self.get_params(deep=False))

    def _defaults(self, features: np.ndarray, betas: np.ndarray) -> dict[str, Any]:
        return dict(TRAINING["published" if self._is_published else "auto"])

    @property
    def _is_published(self) -> bool:
        return isinstance(self.sizes, str) and self.sizes == "published"

    def _becomes_ridge(self, n_images: int) -> bool:
        starts = self.gaussian_start
        starts = not self._is_published if starts is None else starts
        return bool(starts) and n_images < self.min_images

    def _train(
        self,
        features: np.ndarray,
        betas: np.ndarray,
        run: TrainingRun,
        options: dict[str, Any],
        **start: Any,
    ) -> np.ndarray | HeldOut:
        held_out = super()._train(features, betas, run, options, **start)
        if self.blend_ is not None and self.spread_ is not None:
            share = np.nan_to_num(self.net_share_)
            self.spread_ = self.spread_.times(share)
        return held_out

    def _train_net(
        self,
        features: np.ndarray,
        betas: np.ndarray,
        run: TrainingRun,
        options: dict[str, Any],
        *,
        source: Any = None,
        **start: Any,
    ) -> np.ndarray:
        self.seed_, self.n_draws_ = run.random_state, self.n_draws
        self.default_noise_ = "latent" if self._is_published else "full"
        self.autoencoder_ = self.prior_ = self.linear_ = self.spread_ = None
        self.history_ = pd.DataFrame()
        if source is not None:
            check_same_features(self, source)
        elif self._becomes_ridge(len(features)):
            self.linear_, held_out = stages.fit_linear(features, average_repeats(betas), run)
            return held_out
        trials = self._trials(features, betas, options)
        if self.autoencoder_epochs is None:
            least = stages.least_epochs(trials, run.batch_size)
            options["autoencoder_epochs"] = max(options["autoencoder_epochs"], least)
        shape, sizes = trials.tokens.shape[1:], all_sizes(self.sizes)
        self.autoencoder_ = stages.make_autoencoder(shape, betas.shape[2], sizes, run.random_state)
        if source is not None:
            start_from(self.autoencoder_, source.autoencoder_)
        targets = stages.clip_targets(trials.tokens, trials.learnt, self._latent_shape)
        histories = [stages.fit_autoencoder(self.autoencoder_, trials, targets, run, options)]
        self.latent_, self.linear_, expected = stages.fit_latents(
            self.autoencoder_, features, trials, run, options["gaussian_start"]
        )
        self.prior_ = stages.make_prior(
            shape, self._latent_shape, sizes, options["n_steps"], run.random_state
        )
        if source is not None:
            start_from(self.prior_, source.prior_)
        histories.append(
            stages.fit_prior(
                self.prior_, self.autoencoder_, self.latent_, trials, expected, run, options
            )
        )
        self.history_ = pd.concat(histories, ignore_index=True)
        return self._held_out(features, trials, expected)

    def _trials(
        self, features: np.ndarray, betas: np.ndarray, options: dict[str, Any]
    ) -> stages.Trials:
        averages = average_repeats(betas).astype(np.float32, copy=False)
        learnt = learnt_images(averages, options["validation"], self.seed_)
        self.mean_, self.scale_ = voxel_moments(averages[learnt])
        self.undefined_ = ~np.isfinite(averages[learnt]).any(axis=0)
        self.adapter_ = None
        if options["gaussian_start"]:
            # Tokens of many images exceed memory: rows are read on demand.
            in_memory = features.ndim == 2
            rows: Any = features[learnt] if in_memory else Rows(features, np.flatnonzero(learnt))
            self.adapter_ = TokenAdapter.fit(rows)
        return stages.Trials(
            betas, averages, self._tokens(features), self.mean_, self.scale_, learnt
        )

    def _held_out(
        self, features: np.ndarray, trials: stages.Trials, expected: np.ndarray | None
    ) -> np.ndarray:
        """Predictions of held-out images, NaN for the others; sets `spread_`.

        `expected` are held-out latents: the linear path has learnt these images too.
        """
        prediction = np.full(trials.averages.shape, np.nan, dtype=np.float32)
        held = trials.held_out
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

    def _predict_net(self, features: np.ndarray) -> np.ndarray:
        if self.prior_ is None:
            return self.linear_.predict(linear_features(features))
        return self._mean_of_draws(features, np.arange(len(features)))

    def _mean_of_draws(
        self, features: np.ndarray, images: np.ndarray, expected: np.ndarray | None = None
    ) -> np.ndarray:
        """Predictions (n_images, n_voxels) of some images, with the same noise for every image."""
        means = np.empty((len(images), len(self.scale_)), dtype=np.float32)
        values = self.n_draws * len(self.scale_)
        for rows in blocks(len(images), stages.BLOCK_VALUES // values):
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

    @property
    def _parts(self) -> tuple[str, ...]:
        if self.prior_ is not None and self.spread_ is None:
            return ("latent",)
        kinds = ("latent", "full") if self.default_noise_ == "latent" else ("full", "latent")
        return *kinds, "trial", "signal"

    def _draw(
        self,
        features: np.ndarray,
        n: int,
        rng: np.random.Generator,
        part: str,
        *,
        start: np.ndarray | None = None,
        start_share: float = 1.0,
    ) -> np.ndarray:
        if self.prior_ is None or part in ("trial", "signal"):
            return super()._draw(features, n, rng, part)
        draws = self._decoded_draws(features, n, lambda: rng, start=start, start_share=start_share)
        draws = self._blended(features, draws)
        if part == "full":
            left = remaining_noise(self.noise_, self.spread_, self.n_draws_)
            draws += left.sample((n, len(features)), rng)
        return draws

    def _decoded_draws(
        self,
        features: np.ndarray,
        n: int,
        rng: Any,
        shared: bool = False,
        expected: np.ndarray | None = None,
        start: np.ndarray | None = None,
        start_share: float = 1.0,
    ) -> np.ndarray:
        """Decoded latents (n, n_images, n_voxels), in the units of the betas.

        `expected` are held-out latents of the linear path; by default it predicts them.
        """
        if expected is None and self.linear_ is not None:
            expected = self.linear_.predict(linear_features(features))
            expected = expected.reshape(-1, *self._latent_shape).astype(np.float32, copy=False)
        if start is not None:
            start = np.broadcast_to(start, (len(features), *self._latent_shape))
        check_sampling(self.get_params(deep=False))  # may have changed since the fit
        sampler = Sampler(
            self.autoencoder_,
            self.prior_,
            self.latent_,
            n_sampling_steps=self.n_sampling_steps,
            eta=self.eta,
            guidance=self.guidance,
            noise_correlation=self.noise_correlation,
            device=self.device,
        )
        draws = sampler.draw(
            self._tokens(features),
            expected,
            n,
            rng,
            shared=shared,
            start=start,
            share=start_share,
        )
        draws = draws * self.scale_ + self.mean_
        draws[..., self.undefined_] = np.nan
        return draws

    def _tokens(self, features: np.ndarray) -> Any:
        """Tokens; a half-precision or lazy array if they would fill the memory."""
        if self.adapter_ is not None:
            return self.adapter_.tokens(features)
        tokens = features if features.ndim == 3 else features[:, None]
        return tokens if tokens.dtype == np.float16 else tokens.astype(np.float32, copy=False)

    @property
    def _latent_shape(self) -> tuple[int, int]:
        sizes = self.autoencoder_.sizes
        return sizes["n_tokens"], sizes["token_width"]

    def _check_start(self, share: float) -> None:
        if self.prior_ is None:
            raise ValueError(
                f"start: fitted to fewer than min_images={self.min_images} images, this encoder is "
                "ridge and has no latent to start from"
            )
        if not 0 < share <= 1:
            raise ValueError(f"start_share={share!r} must be more than 0 and at most 1")

    def _encoded(self, responses: Any) -> np.ndarray:
        """Latent (1, n_latents, latent_width) of a response pattern (n_voxels,)."""
        responses = np.asarray(responses, dtype=np.float32)
        if responses.shape != (self.n_voxels_,):
            raise ValueError(f"start {responses.shape} must be (n_voxels,) = ({self.n_voxels_},)")
        z = np.nan_to_num((responses - self.mean_) / self.scale_).astype(np.float32)
        return run_net(self.autoencoder_, z[None], self.device, call=self.autoencoder_.encode)
