"""SynBrainEncoder: an autoencoder of single trials, and a mapper from tokens to its latent.

Long because half of it is the documentation of its parameters and attributes.
"""

import copy
import os
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.encoders.blended import BlendedEncoder
from brainenc.encoders.ensemble import voxel_moments
from brainenc.encoders.synbrain import stages
from brainenc.encoders.synbrain.fine_tuning import fit_voxels
from brainenc.encoders.synbrain.official import OfficialCheckpoints
from brainenc.encoders.synbrain.sizes import check_sizes, chosen_sizes, default_steps
from brainenc.encoders.synbrain.voxels import ReadOut, VoxelSpace, check_order
from brainenc.encoders.tokens import linear_features
from brainenc.encoders.trained import MIN_IMAGES, Published, check_number
from brainenc.encoders.training_images import learnt_images
from brainenc.model_selection import image_folds
from brainenc.nets import S2N, BrainVAE
from brainenc.noise.trials import PARTS
from brainenc.repeats import average_repeats
from brainenc.solvers.regression import RidgeRegression
from brainenc.training import TrainingRun


class SynBrainEncoder(OfficialCheckpoints, Published, BlendedEncoder):
    """SynBrain: single trials decoded from a latent predicted from the image.

    BrainVAE is a variational autoencoder of single trials, whose latent is aligned with the tokens
    of the image. S2N then learns to predict that latent from the tokens. A prediction is the
    decoded latent; a draw is the decoded latent plus noise.

    `SynBrainEncoder.published` is the published configuration. The default has the same
    architecture and losses, in sizes that suit the data and the device, and adds steps that the
    paper does not have: images are held out to stop the training, voxels are standardised and put
    in an order of similar responses, the mapper learns averages over repeats, mapper and decoder
    are fine-tuned by voxels, and predictions are scaled per voxel and blended with ridge. Each is a
    parameter below; None is the default's value, and the published one with ``sizes="published"``.

    Parameters
    ----------
    features : "auto", None or transformer
        Tokens (n_images, n_tokens, width) or pooled features (n_images, n_features), which are cut
        into 8 tokens; "auto" takes float arrays as they are and computes OpenCLIP features of
        images.
    sizes : "auto", "published" or dict
        Sizes of the networks and values of training parameters that are None. "auto": small
        networks that train in about two minutes on two cores for 600 images, or the published ones
        on a GPU for 10 000 trials or more. A dict, ``{"vae": {...}, "mapper": {...}}``, replaces
        arguments of `brainenc.nets.BrainVAE` and `brainenc.nets.S2N` in the small sizes.
    vae_epochs, mapper_steps : int, optional
        Length of stages 1 and 2; published 15 and 50 000.
    relative_stop : float
        Stage 1 stops after an epoch whose mean reconstruction error is below this share of the
        error of predicting the mean trial. (The published threshold is 350, which is this share for
        subject 1.)
    ema_decay : float, optional
        Decay of the moving average of the mapper's weights, which inference uses. None is 1 − 5 /
        `mapper_steps`: the published .9999 for the published 50 000 steps, and an average over the
        same part of a shorter training.
    architecture : "conv-attention" or "mlp"
        Architecture of BrainVAE. This and the next three parameters are the paper's ablations.
    variational : bool
        Sample the latent in stage 1; if False, the loss has no KL divergence either.
    contrastive : bool
        Align the latent with the tokens.
    s2n : bool
        Predict the latent from the tokens; if False, the tokens are decoded directly.
    noise_factor : float
        s.d. of the noise on the latent of "latent" draws.
    validation : float, optional
        Share of images held out from all stages, which keep the weights that are best for them:
        .15, published 0.
    standardize : bool, optional
        Networks see voxels z-scored over trials, times a number that gives a trial the total
        variance of the paper's data, for which the weights of the losses were chosen; published:
        False.
    voxel_order : "response", "given" or array of int, shape (n_voxels,), optional
        Order of voxels before the convolutions. "response": neighbours have similar responses;
        "given", as published: that of the betas. An array has the index of every voxel, in the
        order to use, such as one along the cortex.
    average_targets : bool, optional
        The mapper learns averages over the trials of an image; published: False.
    fine_tuning_steps : int, optional
        Steps in which mapper and decoder learn the average responses themselves, by squared error,
        after both stages; a fifth of `mapper_steps`, published 0.
    read_out : bool, optional
        Scale and offset of each voxel's prediction are fitted on held-out images; published: False.
    blend : "auto", "ridge" or None
        "ridge": in each voxel the prediction is a convex blend of mean, ridge on the same features
        and network, with weights chosen on held-out images. "auto" is "ridge", but None, the
        network alone, with ``sizes="published"`` or without held-out images.
    min_images : int
        With held-out images and fewer images than this, only ridge is fitted, with a warning.
    batch_size, learning_rate, weight_decay : optional
        24, 2e-3 ("auto") or 1e-4 ("published"), .05 when None. The mapper has no weight decay, as
        in the published code.
    device, checkpoint_dir, random_state, verbose
        As for `brainenc.encoders.trained.TrainedEncoder`.
    precision : "auto", "32", "bf16"
        Precision of training, predictions and draws; the latter differ between bf16 and "32" by 1
        to 3 % of their s.d. "auto" is bf16 on a GPU that supports it. Results are float32.

    Attributes
    ----------
    vae_, mapper_ : brainenc.nets.BrainVAE, brainenc.nets.S2N
        The mapper is None without `s2n`.
    history_ : DataFrame
        One row per epoch or evaluation of every `stage`: "vae", "mapper", "voxels".
    space_ : VoxelSpace or None
        Order and scale of voxels.
    read_out_ : ReadOut or None
    blend_ : RidgeBlend or None
    net_share_ : array, shape (n_voxels,)
        Weight of the network in each voxel's blend; absent without one.
    linear_ : RidgeRegression or None
        Used instead of networks with fewer than `min_images` images.
    trials_ : TrialDistribution
        NaN without held-out images: there are no held-out trials. Calibrate draws with
        `brainenc.calibrate` on separate images.

    Notes
    -----
    The autoencoder reads whole trials: all voxels must have the same trials.

    Stage 1 sums the squared error over voxels and weights the alignment by 1000, as published.
    Without `standardize`, with few voxels or betas of small s.d., the alignment dominates the loss.

    Ctrl-C ends a stage with a warning. Stage 2 still follows stage 1, since predictions need it; a
    second Ctrl-C ends stage 2.

    References
    ----------
    SynBrain (NeurIPS 2025), arXiv 2508.10298.

    Examples
    --------
    >>> import brainenc
    >>> encoder = brainenc.SynBrainEncoder.published(device="cuda", checkpoint_dir="synbrain")
    >>> encoder.get_params()["sizes"]
    'published'
    """

    at_least: ClassVar = {
        "vae_epochs": 1,
        "mapper_steps": 1,
        "fine_tuning_steps": 0,
        "relative_stop": 0.0,
        "noise_factor": 0.0,
    }
    below_one: ClassVar = ("ema_decay", "validation")
    saved_parts = (*BlendedEncoder.saved_parts, BrainVAE, S2N, VoxelSpace, ReadOut)

    def __init__(
        self,
        features: Any = "auto",
        *,
        sizes: Any = "auto",
        vae_epochs: int | None = None,
        mapper_steps: int | None = None,
        relative_stop: float = 0.28,
        ema_decay: float | None = None,
        architecture: str = "conv-attention",
        variational: bool = True,
        contrastive: bool = True,
        s2n: bool = True,
        noise_factor: float = 1.0,
        validation: float | None = None,
        standardize: bool | None = None,
        voxel_order: Any = None,
        average_targets: bool | None = None,
        fine_tuning_steps: int | None = None,
        read_out: bool | None = None,
        blend: str | None = "auto",
        min_images: int = MIN_IMAGES,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
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
        self.vae_epochs = vae_epochs
        self.mapper_steps = mapper_steps
        self.relative_stop = relative_stop
        self.ema_decay = ema_decay
        self.architecture = architecture
        self.variational = variational
        self.contrastive = contrastive
        self.s2n = s2n
        self.noise_factor = noise_factor
        self.validation = validation
        self.standardize = standardize
        self.voxel_order = voxel_order
        self.average_targets = average_targets
        self.fine_tuning_steps = fine_tuning_steps
        self.read_out = read_out
        self.min_images = min_images

    @property
    def sample_kind(self) -> str:  # type: ignore[override]
        """Source of draws: "residual" (of held-out trials) with held-out images, else "latent"."""
        return "residual" if self._steps()["validation"] else "latent"

    # ---------------------------------------------------------------- public methods

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
        noise : "auto", "full", "latent", "trial", "signal", "weights" or None
            "latent" decodes the latent plus `noise_factor` · N(0, I), as published, and blends what
            is decoded as the prediction is. The others are as for `BaseEncoder.sample`. "auto" is
            "full"; without held-out images it is "latent", and only that and None exist.

        Returns
        -------
        array, shape (n, n_images, n_voxels), float32

        Raises
        ------
        ValueError : as in `BaseEncoder.sample`.
        """
        return super().sample(X, n, random_state, noise=noise, out=out)

    def adapt(
        self,
        X: Any,
        y: Any,
        *,
        checkpoint_dir: str | os.PathLike | None = None,
        resume: bool = False,
    ) -> "SynBrainEncoder":
        """Fit a new encoder to another subject with few images; this encoder is unchanged.

        As in the paper, the whole autoencoder is fine-tuned on the new subject, whose number of
        voxels may differ, and then only the mapper's MLPs, starting from the moving average. The
        lengths of training are `vae_epochs` and `mapper_steps`.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject
            Features must have the same shape.
        checkpoint_dir, resume
            For this training, as `checkpoint_dir` of the encoder and `resume` of `fit`.

        Returns
        -------
        SynBrainEncoder
        """
        check_is_fitted(self)
        adapted, how = self._adapting()
        adapted.set_params(checkpoint_dir=checkpoint_dir)._check_resume(resume)
        adapted._fit_all(X, y, resume=resume, **how)
        return adapted

    def _adapting(self) -> tuple[Any, dict[str, Any]]:
        new = clone(self).set_params(checkpoint_dir=None)
        return new, {"nets": copy.deepcopy((self.vae_, self.mapper_))}

    # ---------------------------------------------------------------- fitting

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_sizes(self.sizes)
        for name in ("standardize", "average_targets", "read_out"):
            if not isinstance(getattr(self, name), (bool, type(None))):
                raise TypeError(f"{name}={getattr(self, name)!r} must be True, False or None")
        if self.read_out and not self._steps()["validation"]:
            raise ValueError(
                "read_out=True fits scale and offset on held-out images, and validation is 0: give "
                "validation more than 0, or read_out=False"
            )

    def _steps(self) -> dict[str, Any]:
        """What the default adds to the published model, with values in place of None."""
        found = default_steps(self.sizes)
        found |= {n: getattr(self, n) for n in found if getattr(self, n) is not None}
        if not found["validation"] and self.read_out is None:
            found["read_out"] = False
        return found

    def _defaults(self, features: np.ndarray, betas: np.ndarray) -> dict[str, Any]:
        shape, (image, _) = stages.token_shape(features), stages.trial_index(betas)
        found = chosen_sizes(self.sizes, shape, len(image), betas.shape[2], self.device)
        steps = self.mapper_steps or found.training["mapper_steps"]
        added = self._steps()
        if added["fine_tuning_steps"] is None:
            added["fine_tuning_steps"] = max(1, steps // 5)
        return {**found.training, **added, "ema_decay": max(0.0, 1 - 5 / steps)}

    def _becomes_ridge(self, n_images: int) -> bool:
        return bool(self._steps()["validation"]) and n_images < self.min_images

    def _train_net(
        self,
        features: np.ndarray,
        betas: np.ndarray,
        run: TrainingRun,
        options: dict[str, Any],
        nets: tuple[BrainVAE, S2N | None] | None = None,
        **start: Any,
    ) -> np.ndarray:
        order = check_order(options["voxel_order"], betas.shape[2])
        self.vae_: Any = None
        self.mapper_: Any = None
        self.space_: VoxelSpace | None = None
        self.read_out_: ReadOut | None = None
        self.linear_: Any = None
        self.history_ = pd.DataFrame()
        self.batch_size_ = run.batch_size
        self.undefined_ = ~np.isfinite(betas).any(axis=(0, 1))
        if self._becomes_ridge(len(features)):
            self.linear_, held_out = RidgeRegression.fit(
                linear_features(features),
                average_repeats(betas),
                device=run.device,
                random_state=run.random_state,
            )
            return held_out
        tokens = stages.as_tokens(features)
        trials = stages.complete_trials(betas, self.undefined_)
        learnt = learnt_images(average_repeats(betas), options["validation"], run.random_state)
        some = trials if learnt.all() else trials[learnt]
        self.space_ = VoxelSpace.fit(
            some, self.undefined_, standardize=options["standardize"], order=order
        )
        if self.space_ is not None:
            trials = self.space_.to_nets(trials)
        held = None
        if not learnt.all():
            held = stages.HeldOutImages.of(learnt, trials, tokens, run.batch_size)
        few_shot = nets is not None
        self.vae_, self.mapper_ = nets or self._make_nets(tokens, betas, run)
        stages.check_shape(self.vae_, tokens)
        self._fit_nets(trials, tokens, run, options, held, few_shot)
        return self._held_out(features, betas, learnt)

    def _fit_nets(
        self,
        trials: np.ndarray,
        tokens: np.ndarray,
        run: TrainingRun,
        options: dict[str, Any],
        held: stages.HeldOutImages | None,
        few_shot: bool,
    ) -> None:
        histories = [
            stages.fit_vae(
                self.vae_,
                trials,
                tokens,
                run,
                n_epochs=options["vae_epochs"],
                relative_stop=self.relative_stop,
                variational=self.variational,
                contrastive=self.contrastive,
                held=held,
            )
        ]
        if self.mapper_ is not None:
            histories.append(
                stages.fit_mapper(
                    self.mapper_,
                    self.vae_,
                    trials,
                    tokens,
                    run,
                    n_steps=options["mapper_steps"],
                    ema_decay=options["ema_decay"],
                    few_shot=few_shot,
                    averaged=options["average_targets"],
                    held=held,
                )
            )
        if n_steps := options["fine_tuning_steps"]:
            histories.append(
                fit_voxels(
                    self.mapper_,
                    self.vae_,
                    trials,
                    tokens,
                    run,
                    n_steps=n_steps,
                    few_shot=few_shot,
                    held=held,
                )
            )
        self.history_ = pd.concat(histories, ignore_index=True)

    def _held_out(self, features: np.ndarray, betas: np.ndarray, learnt: np.ndarray) -> np.ndarray:
        """Predictions of held-out images, NaN for others; fits the read-out."""
        averages = average_repeats(betas).astype(np.float32, copy=False)
        predictions = np.full(averages.shape, np.nan, dtype=np.float32)
        rows = np.flatnonzero(~learnt)
        if not len(rows):
            return predictions
        predictions[rows] = self._predict_net(features[rows])
        if not self._steps()["read_out"]:
            return predictions
        mean = voxel_moments(averages[learnt])[0]
        found, targets = predictions[rows], averages[rows]
        folds = image_folds(min(5, len(rows)), len(rows), random_state=0)
        for train, test in folds:  # scale and offset of an image are fitted to the others
            read_out = ReadOut.fit(found[train], targets[train], mean)
            predictions[rows[test]] = read_out.apply(found[test])
        self.read_out_ = ReadOut.fit(found, targets, mean)
        return predictions

    def _make_nets(
        self, tokens: np.ndarray, betas: np.ndarray, run: TrainingRun
    ) -> tuple[BrainVAE, S2N | None]:
        image, _ = stages.trial_index(betas)
        shape = tokens.shape[1:]
        sizes = chosen_sizes(self.sizes, shape, len(image), betas.shape[2], run.device)
        return stages.make_nets(shape, sizes, self.architecture, self.s2n, run.random_state)

    # ---------------------------------------------------------------- predicting and drawing

    @property
    def _parts(self) -> tuple[str, ...]:
        return ("latent",) if self._draws_itself else PARTS

    def _predict_net(self, features: np.ndarray) -> np.ndarray:
        if getattr(self, "linear_", None) is not None:
            return self.linear_.predict(linear_features(features))
        return self._decode(stages.batches_of(self._latents(features), self.batch_size_))

    def _draw(
        self, features: np.ndarray, n: int, rng: np.random.Generator, part: str
    ) -> np.ndarray:
        if part != "latent" or getattr(self, "linear_", None) is not None:
            return super()._draw(features, n, rng, part)
        check_number("noise_factor", self.noise_factor, 0.0)  # may have changed since the fit
        z = self._latents(features)

        def noisy(rows: np.ndarray) -> np.ndarray:
            noise = rng.standard_normal((len(rows), *z.shape[1:]), dtype=np.float32)
            return z[rows % len(z)] + self.noise_factor * noise

        n_rows = n * len(z)
        parts = np.array_split(np.arange(n_rows), -(-n_rows // self.batch_size_))
        # In one call, so that the decoder moves to its device and back once.
        decoded = self._decode(map(noisy, parts)).reshape(n, len(z), -1)
        return self._blended(features, decoded)

    def _latents(self, features: np.ndarray) -> np.ndarray:
        return stages.latents(
            self.mapper_, stages.as_tokens(features), self.device, self.batch_size_, self.precision
        )

    def _decode(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        """Responses of latents, in the units of the betas."""
        decoded = stages.decode(self.vae_, batches, self.n_voxels_, self.device, self.precision)
        # Encoders that earlier versions saved have neither of these.
        if (space := getattr(self, "space_", None)) is not None:
            decoded = space.from_nets(decoded)
        if (read_out := getattr(self, "read_out_", None)) is not None:
            decoded = read_out.apply(decoded)
        decoded[:, self.undefined_] = np.nan
        return decoded
