"""SynBrainEncoder: an autoencoder of single trials, and a mapper from tokens to its latent."""

import copy
import os
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.encoders.synbrain import checkpoint, stages
from brainenc.encoders.synbrain.sizes import (
    PUBLISHED_TRAINING,
    check_sizes,
    chosen_sizes,
)
from brainenc.encoders.trained import Published, TrainedEncoder, check_number
from brainenc.nets import S2N, BrainVAE
from brainenc.noise.trials import TrialDistribution
from brainenc.process_state import own_settings
from brainenc.training import TrainingRun


class SynBrainEncoder(Published, TrainedEncoder):
    """SynBrain: single trials decoded from a latent predicted from the image.

    BrainVAE is a variational autoencoder of single trials, whose latent is aligned with the tokens
    of the image. S2N then learns to predict that latent from the tokens. A prediction is the
    decoded latent; a draw is the decoded latent plus noise.

    `SynBrainEncoder.published` is the published configuration. The default has the same
    architecture and losses, with sizes and lengths of training that suit the data and the device.
    In the benchmarks of this toolbox ridge on the same features predicts single voxels better; see
    `brainenc.LatentEncoder` for a model designed for that.

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
        s.d. of the noise on the latent of draws.
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
        One row per epoch of every `stage`.
    trials_ : TrialDistribution
        NaN: both stages learn all images, so that there are no held-out trials. Calibrate draws
        with `brainenc.calibrate` on separate images.

    Notes
    -----
    The autoencoder reads whole trials: all voxels must have the same trials.

    Stage 1 sums the squared error over voxels and weights the alignment by 1000, as published. With
    few voxels, or betas of small s.d., the alignment dominates the loss.

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

    sample_kind = "latent"
    at_least: ClassVar = {
        "vae_epochs": 1,
        "mapper_steps": 1,
        "relative_stop": 0.0,
        "noise_factor": 0.0,
    }
    below_one: ClassVar = ("ema_decay",)
    saved_parts = (*TrainedEncoder.saved_parts, BrainVAE, S2N)

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
        noise : "auto", "latent" or None
            "latent", which is "auto", decodes the latent plus `noise_factor` · N(0, I), as
            published. None repeats the prediction.

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
        adapted = clone(self).set_params(checkpoint_dir=checkpoint_dir)
        adapted._check_resume(resume)
        adapted._fit_all(X, y, resume=resume, nets=copy.deepcopy((self.vae_, self.mapper_)))
        return adapted

    @classmethod
    @own_settings()
    def from_official(
        cls,
        *,
        vae: str | os.PathLike,
        s2n: str | os.PathLike,
        n_voxels: int,
        features: Any = "auto",
        **parameters: Any,
    ) -> "SynBrainEncoder":
        """Make a fitted encoder from checkpoints of the official code.

        Parameters
        ----------
        vae, s2n : path
            ``last.pth`` of the autoencoder and ``last.pt`` of the mapper, whose moving average is
            used. No code in the files is run.
        n_voxels : int
            Number of voxels, in the order of the data the autoencoder was trained on.
        features, **parameters
            Parameters of the encoder; tokens must have the shape the mapper was trained on.

        Returns
        -------
        SynBrainEncoder

        Raises
        ------
        FileNotFoundError, ValueError : a file is missing, damaged or of another kind; the message
            names it.
        """
        if n_voxels < 1:
            raise ValueError(f"n_voxels={n_voxels!r} must be at least 1")
        encoder = cls.published(features=features, **parameters)
        encoder._check_parameters()
        encoder.vae_, vae_sizes = checkpoint.read_vae(vae)
        encoder.mapper_, sizes = checkpoint.read_s2n(s2n)
        shape = (sizes["n_tokens"], sizes["width"])
        if shape != (vae_sizes["n_tokens"], vae_sizes["token_width"]):
            raise ValueError(
                f"{vae} has latents of shape {vae_sizes['n_tokens']} × {vae_sizes['token_width']}, "
                f"but {s2n} maps tokens of {shape[0]} × {shape[1]}: are they of one model?"
            )
        encoder.n_voxels_, encoder.betas_ndim_ = n_voxels, 3
        encoder.feature_shape_, encoder.n_features_in_ = list(shape), shape[0]
        if not (features is None or isinstance(features, str)):
            encoder.features_ = clone(features)  # extractors are not fitted to images
        encoder.undefined_ = np.zeros(n_voxels, dtype=bool)
        encoder.batch_size_ = encoder.batch_size or PUBLISHED_TRAINING["batch_size"]
        encoder.history_ = pd.DataFrame()
        encoder.sample_kind_ = cls.sample_kind
        encoder.trials_ = TrialDistribution.unknown(n_voxels)
        return encoder

    def to_official(self, *, vae: str | os.PathLike, s2n: str | os.PathLike) -> None:
        """Write the nets as official checkpoints, which `from_official` reads.

        Parameters
        ----------
        vae, s2n : path
            Existing files are replaced, atomically. The mapper's weights, here the moving average,
            are written as `model` and as `ema`.

        Raises
        ------
        ValueError : the encoder has ``s2n=False`` or the "mlp" architecture, which are not in the
            layout.
        """
        check_is_fitted(self)
        if self.mapper_ is None:
            raise ValueError(
                "an official checkpoint holds a mapper, and this encoder was fitted with s2n=False"
            )
        checkpoint.write_vae(vae, self.vae_)
        checkpoint.write_s2n(s2n, self.mapper_)

    # ---------------------------------------------------------------- fitting

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_sizes(self.sizes)

    def _defaults(self, features: np.ndarray, betas: np.ndarray) -> dict[str, Any]:
        shape, (image, _) = stages.token_shape(features), stages.trial_index(betas)
        found = chosen_sizes(self.sizes, shape, len(image), betas.shape[2], self.device)
        steps = self.mapper_steps or found.training["mapper_steps"]
        return {**found.training, "ema_decay": max(0.0, 1 - 5 / steps)}

    def _train(
        self,
        features: np.ndarray,
        betas: np.ndarray,
        run: TrainingRun,
        options: dict[str, Any],
        nets: tuple[BrainVAE, S2N | None] | None = None,
    ) -> np.ndarray:
        tokens, self.batch_size_ = stages.as_tokens(features), run.batch_size
        self.undefined_ = ~np.isfinite(betas).any(axis=(0, 1))
        trials = stages.complete_trials(betas, self.undefined_)
        few_shot = nets is not None
        self.vae_, self.mapper_ = nets or self._make_nets(tokens, betas, run)
        stages.check_shape(self.vae_, tokens)
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
                )
            )
        self.history_ = pd.concat(histories, ignore_index=True)
        return np.full((len(betas), betas.shape[2]), np.nan)  # every image was learnt

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
        return ("latent",)

    def _predict(self, features: np.ndarray) -> np.ndarray:
        return self._decode(stages.batches_of(self._latents(features), self.batch_size_))

    def _draw(
        self, features: np.ndarray, n: int, rng: np.random.Generator, part: str
    ) -> np.ndarray:
        check_number("noise_factor", self.noise_factor, 0.0)  # may have changed since the fit
        z = self._latents(features)

        def noisy(rows: np.ndarray) -> np.ndarray:
            noise = rng.standard_normal((len(rows), *z.shape[1:]), dtype=np.float32)
            return z[rows % len(z)] + self.noise_factor * noise

        n_rows = n * len(z)
        parts = np.array_split(np.arange(n_rows), -(-n_rows // self.batch_size_))
        # In one call, so that the decoder moves to its device and back once.
        return self._decode(map(noisy, parts)).reshape(n, len(z), -1)

    def _latents(self, features: np.ndarray) -> np.ndarray:
        return stages.latents(
            self.mapper_, stages.as_tokens(features), self.device, self.batch_size_, self.precision
        )

    def _decode(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        decoded = stages.decode(self.vae_, batches, self.n_voxels_, self.device, self.precision)
        decoded[:, self.undefined_] = np.nan
        return decoded
