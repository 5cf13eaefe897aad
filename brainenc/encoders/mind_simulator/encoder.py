"""MindSimulatorEncoder: responses decoded from latents that diffusion draws for an image."""

import os
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from brainenc.arrays import Rows, release
from brainenc.encoders.ensemble import run_net, voxel_moments
from brainenc.encoders.mind_simulator import stages
from brainenc.encoders.mind_simulator.noise import draw_spread, remaining_noise
from brainenc.encoders.mind_simulator.parameters import TRAINING, all_sizes, check_sampling
from brainenc.encoders.mind_simulator.sampler import Sampler
from brainenc.encoders.tokens import TokenAdapter, linear_features
from brainenc.encoders.trained import MIN_IMAGES, PublishedEncoder
from brainenc.nets import DiffusionPrior, FMRIAutoencoder
from brainenc.repeats import average_repeats
from brainenc.solvers.regression import RidgeRegression
from brainenc.training import TrainingRun

#: Held-out images, and draws of each, that tell how much draws scatter.
N_SPREAD_IMAGES, N_SPREAD_DRAWS = 64, 8

#: An autoencoder trained for fewer steps has not learnt what even few images can teach.
MIN_STEPS = 150


class MindSimulatorEncoder(PublishedEncoder):
    """MindSimulator: an autoencoder of single trials, and a diffusion prior on its latent.

    The autoencoder reads single trials; its latent is aligned with the image's tokens (SoftCLIP).
    The prior, a transformer, draws latents of an image by diffusion: given the tokens it takes
    noise away step by step. A draw is a decoded latent, the prediction the mean of `n_draws`.

    `MindSimulatorEncoder.published` is the published configuration. The default has the same parts
    in small sizes, with changes that made it predict held-out images of simulated subjects better:
    the autoencoder reconstructs the average of an image's trials, with half the voxels hidden, and
    the prior starts from a linear one (ridge from tokens to latents, with Gaussian residuals),
    which the transformer changes as far as that lowers the error on held-out images.

    Parameters
    ----------
    features : "auto", None or transformer
        Tokens (n_images, n_tokens, width) or pooled features (n_images, n_features); "auto" takes
        float arrays as they are and computes OpenCLIP features of images.
    sizes : "auto", "published" or dict
        Of the nets, and the values of the parameters that are None: small, or as published. A dict
        replaces some of the sizes of "auto": `n_latents`, `latent_width` (shape of the latent;
        None: that of the image's tokens), `hidden`, `n_blocks`, `dropout` (autoencoder), `width`,
        `depth`, `n_heads`, `head_width`, `mlp_ratio`, `prior_dropout` (prior).
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
    min_images : int
        With `gaussian_start`: fewer images are fitted with ridge alone, with a warning.
    device, precision, checkpoint_dir, random_state, verbose
        As for `brainenc.encoders.trained.TrainedEncoder`.

    Attributes
    ----------
    history_ : DataFrame
        One row per epoch of every `stage`; empty if ridge is alone.
    autoencoder_, prior_ : brainenc.nets.FMRIAutoencoder, brainenc.nets.DiffusionPrior
        None if ridge is alone.
    linear_ : RidgeRegression or None
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
    at_least: ClassVar = {
        "n_steps": 1,
        "autoencoder_epochs": 1,
        "prior_epochs": 1,
    }
    below_one: ClassVar = ("condition_dropout", "voxel_dropout", "validation")
    saved_parts = (
        *PublishedEncoder.saved_parts,
        TokenAdapter,
        stages.LatentScale,
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
            sizes=sizes,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            device=device,
            precision=precision,
            checkpoint_dir=checkpoint_dir,
            random_state=random_state,
            verbose=verbose,
        )
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

    # ---------------------------------------------------------------- what a user calls

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
            ``sizes="published"``, and where no images were held out there is "latent" and None
            alone.
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
        if start is None:
            return super().sample(X, n, random_state, noise=noise, out=out)
        check_is_fitted(self)
        self._check_start(start_share)
        latents = self._encoded(start)
        return self._sample(X, n, random_state, noise, out, start=latents, start_share=start_share)

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
        self, features: np.ndarray, betas: np.ndarray, run: TrainingRun, options: dict[str, Any]
    ) -> np.ndarray:
        self.seed_, self.n_draws_ = run.random_state, self.n_draws
        self.default_noise_ = "latent" if self._is_published else "full"
        self.autoencoder_ = self.prior_ = self.linear_ = self.spread_ = None
        self.history_ = pd.DataFrame()
        if self._becomes_ridge(len(features)):
            self.linear_, held_out = self._ridge(features, average_repeats(betas), run)
            return held_out
        trials = self._trials(features, betas, options)
        if self.autoencoder_epochs is None:
            n_trials = len(trials.index(trials.learnt)[0])
            least = -(-MIN_STEPS * run.batch_size // n_trials)
            options["autoencoder_epochs"] = max(options["autoencoder_epochs"], least)
        histories = [self._fit_autoencoder(trials, run, options)]
        expected = self._fit_scale(features, trials, run, options["gaussian_start"])
        shape = trials.tokens.shape[1:]
        self.prior_ = stages.make_prior(
            shape, self._latent_shape, all_sizes(self.sizes), options["n_steps"], run.random_state
        )
        histories.append(
            stages.fit_prior(
                self.prior_, self.autoencoder_, self.latent_, trials, expected, run, options
            )
        )
        self.history_ = pd.concat(histories, ignore_index=True)
        return self._held_out(features, trials, expected)

    def _ridge(
        self, features: np.ndarray, targets: np.ndarray, run: TrainingRun
    ) -> tuple[RidgeRegression, np.ndarray]:
        return RidgeRegression.fit(
            linear_features(features), targets, device=run.device, random_state=run.random_state
        )

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

    def _fit_autoencoder(
        self, trials: stages.Trials, run: TrainingRun, options: dict[str, Any]
    ) -> pd.DataFrame:
        shape, n_voxels = trials.tokens.shape[1:], trials.betas.shape[2]
        self.autoencoder_ = stages.make_autoencoder(
            shape, n_voxels, all_sizes(self.sizes), run.random_state
        )
        targets = stages.clip_targets(trials.tokens, trials.learnt, self._latent_shape)
        return stages.fit_autoencoder(self.autoencoder_, trials, targets, run, options)

    def _fit_scale(
        self, features: np.ndarray, trials: stages.Trials, run: TrainingRun, linear: bool
    ) -> np.ndarray | None:
        """Scale of the latents; what the linear path expects of images it had not learnt."""
        at_most = None if linear else stages.N_SCALED
        image, repeat = trials.index(np.ones_like(trials.learnt), at_most)
        z = stages.encode(self.autoencoder_, trials, image, repeat, self.device)
        learnt = trials.learnt[image]
        if not linear:
            self.latent_ = stages.fit_scale(z[learnt])
            return None
        mean, sd = stages.latent_moments(z[learnt])
        by_image = np.full((*trials.betas.shape[:2], mean.size), np.nan, dtype=np.float32)
        by_image[image, repeat] = ((z - mean) / sd).reshape(len(z), -1)
        self.linear_, expected = self._ridge(features, average_repeats(by_image), run)
        expected = expected.reshape(-1, *mean.shape)
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
            return self.linear_.predict(linear_features(features))
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

        `expected` are latents of images that the linear path had not learnt; by default it predicts
        them.
        """
        if expected is None and self.linear_ is not None:
            expected = self.linear_.predict(linear_features(features))
            expected = expected.reshape(-1, *self._latent_shape).astype(np.float32, copy=False)
        if start is not None:
            start = np.broadcast_to(start, (len(features), *self._latent_shape))
        check_sampling(self.get_params(deep=False))  # they may have been changed since the fit
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
        """Tokens; in half precision, or a lazy array, where they would fill the memory."""
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
        """Latent (1, n_latents, latent_width) of one pattern of responses."""
        responses = np.asarray(responses, dtype=np.float32)
        if responses.shape != (self.n_voxels_,):
            raise ValueError(f"start {responses.shape} must be (n_voxels,) = ({self.n_voxels_},)")
        z = np.nan_to_num((responses - self.mean_) / self.scale_).astype(np.float32)
        return run_net(self.autoencoder_, z[None], self.device, call=self.autoencoder_.encode)
