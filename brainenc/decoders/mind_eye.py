"""MindEyeDecoder: a network with a read-in per subject, trained to tell images apart."""

import copy
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.decoders.held_images import HeldImages
from brainenc.decoders.linear_start import start_read_in, target_basis
from brainenc.decoders.mind_eye_training import (
    CONTRASTS,
    PRESETS,
    SHARED_SIZES,
    TrainingRows,
    latents_of,
    mind_eye_losses,
    monitored_rows,
    normalised,
    tokens_of,
)
from brainenc.decoders.responses import check_responses
from brainenc.decoders.subjects import SubjectData, are_pairs
from brainenc.decoders.trained import TrainedDecoder
from brainenc.encoders.ensemble import run_net, seeded
from brainenc.encoders.trained import MIN_IMAGES
from brainenc.metrics import cosine_similarity
from brainenc.nets import MindEyeNet
from brainenc.process_state import own_settings
from brainenc.repeats import average_repeats
from brainenc.training import TrainingRun


class MindEyeDecoder(TrainedDecoder):
    """Linear read-in per subject, residual backbone, tokens and retrieval head (MindEye2).

    The retrieval head is trained by contrast between the images of a batch, BiMixCo in the first
    third of the steps, then SoftCLIP; the tokens by squared error. There is no diffusion prior and
    no low-level branch. `predict` gives the tokens, `similarity` compares the retrieval head.

    Training responses are averages of random repeats of an image, other ones each time.

    Parameters
    ----------
    targets : "auto", None or transformer
        As for `brainenc.RidgeDecoder`.
    sizes : "auto", "published" or dict
        "published" is the network, the losses and the schedule of MindEye2 with 2 billion weights,
        for tokens as they are, without held-out images. "auto" is small, its targets are centred,
        and the weights are kept that are best on a tenth of the images. A dict replaces arguments
        of `brainenc.nets.MindEyeNet` in "auto".
    start : "auto", "ridge" or "random"
        "ridge": the read-in begins as ridge to the principal components of the targets, so that the
        untrained net is a ridge decoder. "auto" is "ridge" unless `sizes` is "published".
    min_images : int
        With fewer images (of all subjects) a decoder that starts as ridge stays ridge, with a
        warning.
    n_epochs, batch_size, learning_rate, weight_decay : optional
        Training parameters; None: those of `sizes`.
    n_steps : int, optional
        Steps of the training, whatever the number of images, instead of `n_epochs`.
    device, precision, random_state, verbose
        As for `brainenc.encoders.trained.TrainedEncoder`.

    Attributes
    ----------
    net_ : brainenc.nets.MindEyeNet
    history_ : DataFrame
        One row per evaluation, with `held_out_nce`, the contrastive loss of the held-out images.
        Empty if the decoder stayed ridge.
    subjects_ : list of VoxelScaling
        Of each subject; predictions are for subject number `subject_` (see `of_subject`).

    References
    ----------
    Scotti et al. (2023), MindEye, NeurIPS; Scotti et al. (2024), MindEye2, ICML.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> targets = rng.standard_normal((150, 4, 3)).astype("float32")  # 4 tokens
    >>> signal = targets.reshape(150, 12) @ rng.standard_normal((12, 30))
    >>> betas = signal[:, None] + 3 * rng.standard_normal((150, 3, 30))  # 3 repeats, 30 voxels
    >>> decoder = brainenc.MindEyeDecoder(sizes={"width": 32}, n_epochs=10, device="cpu")
    >>> decoder.fit(betas[:120], targets[:120]).predict(betas[120:]).shape
    (30, 4, 3)
    >>> decoder.similarity(betas[120:], targets[120:]).shape
    (30, 30)

    Two subjects with other numbers of voxels:

    >>> pairs = [(betas[:120], targets[:120]), (betas[:120, :, :20], targets[:120])]
    >>> both = brainenc.MindEyeDecoder(sizes={"width": 32}, n_epochs=1, device="cpu").fit(pairs)
    >>> both.of_subject(1).predict(betas[120:, :, :20]).shape
    (30, 4, 3)
    """

    presets = PRESETS
    at_least: ClassVar = {"min_images": 2}
    saved_parts = (*TrainedDecoder.saved_parts, MindEyeNet)

    def __init__(
        self,
        targets: Any = "auto",
        *,
        sizes: Any = "auto",
        start: str = "auto",
        min_images: int = MIN_IMAGES,
        n_epochs: int | None = None,
        n_steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        random_state: int | None = 0,
        verbose: bool = False,
    ):
        super().__init__(
            targets,
            sizes=sizes,
            n_epochs=n_epochs,
            n_steps=n_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            device=device,
            precision=precision,
            random_state=random_state,
            verbose=verbose,
        )
        self.start = start
        self.min_images = min_images

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.start not in ("auto", "ridge", "random"):
            raise ValueError(f"start={self.start!r} must be 'auto', 'ridge' or 'random'")

    # ---------------------------------------------------------------- fitting

    def fit(self, X: Any, y: Any = None, *, validation: Any = None) -> "MindEyeDecoder":
        """Fit to betas and the targets of their images, of one subject or of several.

        Parameters
        ----------
        X, y : as for `BaseDecoder.fit`
            Or X is a list of pairs (betas, targets), one for each subject, without y. The targets
            are of the same shape; subjects may have seen the same images or others.
        validation : pair (betas, targets), optional
            Other images of one subject, which choose the penalty of the start and the weights: no
            training image is held out.

        Returns
        -------
        self

        Warns
        -----
        UserWarning : fewer images than `min_images`; the decoder is ridge.

        Raises
        ------
        ValueError, TypeError : as `BaseDecoder.fit`; targets of other shapes.
        """
        if y is None and are_pairs(X):
            if validation is not None:
                raise ValueError("validation is for a fit to one subject: leave it out")
            self._check_parameters()
            self._become([self._subject(*pair) for pair in X])
        else:
            self._fit_all(X, y, validation=validation)
        return self

    def adapt(self, X: Any, y: Any) -> "MindEyeDecoder":
        """Fit a new decoder to another subject, from this one's network; this one is unchanged.

        The read-in of voxels is new. With at least `min_images` images all else is trained further,
        otherwise only the read-in is fitted.

        Parameters
        ----------
        X, y : as for `BaseDecoder.fit`, of the new subject; the number of voxels may differ

        Returns
        -------
        MindEyeDecoder
        """
        check_is_fitted(self)
        new = clone(self)
        new._check_parameters()
        new._become([new._subject(X, y)], source=self)
        return new

    def of_subject(self, subject: int) -> "MindEyeDecoder":
        """The decoder for responses of another of the subjects that it was fitted to.

        Parameters
        ----------
        subject : int
            From 0, in the order of the pairs.

        Returns
        -------
        MindEyeDecoder
            Shares the network with this one.

        Raises
        ------
        ValueError : no such subject.
        """
        check_is_fitted(self)
        if subject not in range(len(self.subjects_)):
            raise ValueError(
                f"subject={subject!r}: the decoder was fitted to {len(self.subjects_)} subjects, "
                f"0 to {len(self.subjects_) - 1}"
            )
        found = copy.copy(self)
        found._show(subject)
        return found

    def _show(self, subject: int) -> None:
        self.subject_, self.scaling_ = subject, self.subjects_[subject]
        self.n_features_in_ = len(self.scaling_.mean)

    def _subject(self, X: Any, y: Any) -> "tuple[MindEyeDecoder, SubjectData]":
        """Checked data of a subject, and an unfitted decoder with its shapes, mean and scaling."""
        of_subject = clone(self)
        with own_settings():
            betas, targets = of_subject._scaled(of_subject._checked(X, y), y)
        return of_subject, SubjectData(betas, targets, of_subject.scaling_)

    def _become(
        self,
        subjects: "Sequence[tuple[MindEyeDecoder, SubjectData]]",
        source: "MindEyeDecoder | None" = None,
    ) -> None:
        """Fit to checked data of subjects; nothing changes before the training is done."""
        owns, parts = zip(*subjects, strict=True)
        shapes = [own.target_shape_ for own in owns]
        if source is not None:
            shapes.insert(0, source.target_shape_)
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(
                f"targets of the shapes {[tuple(shape) for shape in shapes]} per image: subjects "
                "must have targets of the same kind"
            )
        new = clone(self)
        new.target_shape_ = shapes[0]
        if hasattr(owns[0], "targets_"):
            new.targets_ = owns[0].targets_
        new._train(parts, source)
        numbers = [len(part.targets) for part in parts]
        means = [own.target_mean_ for own in owns]
        new.target_mean_ = np.average(means, axis=0, weights=numbers)
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        self.__dict__.update({name: v for name, v in vars(new).items() if name.endswith("_")})
        self._show(0)

    def _fit(
        self, betas: np.ndarray, targets: np.ndarray, held: HeldImages | None = None
    ) -> np.ndarray:
        return self._train([SubjectData(betas, targets, self.scaling_)], validation=held)

    def _train(
        self,
        parts: Sequence[SubjectData],
        source: "MindEyeDecoder | None" = None,
        validation: HeldImages | None = None,
    ) -> np.ndarray:
        """Make and train the network; held-out tokens of the images of all subjects."""
        self.subjects_, self.subject_ = [part.scaling for part in parts], 0
        run, n_epochs = self._run()
        rows = TrainingRows(parts)
        as_ridge = self.start == "ridge" or (self.start == "auto" and self.sizes != "published")
        few = len(rows.targets) < self.min_images
        stays = few and (as_ridge or source is not None)
        given = stays or validation is not None or self._preset().as_published
        held = [] if given else rows.held_out(run.random_state)
        used = np.setdiff1d(np.arange(len(rows.targets)), held)
        self.net_ = self._new_net(parts, rows.targets[used], run, source)
        self.history_ = pd.DataFrame()
        found = np.full(rows.targets.shape, np.nan, np.float32)
        if as_ridge:
            latents = self._start_as_ridge(rows, used, run, source is None, validation)
            if stays:
                found = tokens_of(self.net_, latents)
        if stays and source is None:
            warnings.warn(
                f"{len(rows.targets)} images, fewer than min_images={self.min_images}: "
                f"{type(self).__name__} stays the ridge decoder that it starts as",
                stacklevel=4,
            )
        if not stays or not as_ridge:
            tested = monitored_rows(rows, held, validation)
            self._train_net(rows, used, tested, run, n_epochs, only_read_in=stays)
            for subject, part in enumerate(parts):
                mine = np.intersect1d(np.flatnonzero(rows.subjects == subject), held).astype(int)
                if mine.size:
                    responses = average_repeats(part.betas)[mine - rows.starts[subject]]
                    found[mine] = self._output("tokens", responses, subject)
        self.net_.eval()
        return found

    def _make_net(self, *shape: Any, **sizes: Any) -> MindEyeNet:
        return MindEyeNet(*shape, **sizes)

    def _new_net(
        self, parts: Sequence[SubjectData], targets: np.ndarray, run: TrainingRun, source: Any
    ) -> MindEyeNet:
        n_voxels = [part.betas.shape[2] for part in parts]
        shape = self.target_shape_
        n_tokens = shape[0] if len(shape) == 2 else 1
        width = targets.shape[1] // n_tokens
        sizes = self._net_sizes()
        if source is not None:
            sizes = {k: v for k, v in source.net_.sizes.items() if k in SHARED_SIZES}
        net = seeded(run.random_state, lambda: self._make_net(n_voxels, n_tokens, width, **sizes))
        if source is not None:
            trunk = source.net_.state_dict()
            shared = {k: v for k, v in trunk.items() if not k.startswith("read_in.")}
            net.load_state_dict(shared, strict=False)
        elif self.sizes != "published":
            mean = targets.mean(axis=0, dtype=np.float64)
            sd = np.sqrt(np.square(targets - mean).mean())
            net.centre.copy_(torch.from_numpy(mean))
            net.scale.fill_(float(sd) or 1.0)
        return net

    def _start_as_ridge(
        self,
        rows: TrainingRows,
        used: np.ndarray,
        run: TrainingRun,
        new: bool,
        validation: HeldImages | None,
    ) -> np.ndarray:
        """Set the read-ins to ridge; held-out values of the read-ins, NaN where there are none."""
        net = self.net_
        normal = normalised(net, rows.targets)
        basis = target_basis(normal[used], net.sizes["width"]) if new else None
        if basis is not None:
            net.start_linear(torch.from_numpy(basis))
        latents = latents_of(net, normal, basis)
        found = np.full((len(normal), net.sizes["width"]), np.nan, np.float32)
        others = None
        if validation is not None:
            wanted = latents_of(net, normalised(net, validation.targets), basis)
            others = (validation.averages, wanted)
        for subject, part in enumerate(rows.parts):
            mine = used[rows.subjects[used] == subject]
            held_out = start_read_in(
                net.read_in[subject],
                part.betas[mine - rows.starts[subject]],
                latents[mine],
                validation=others,
                device=run.device,
                random_state=run.random_state,
            )
            found[mine, : held_out.shape[1]] = held_out
            found[mine, held_out.shape[1] :] = 0
        return found

    def _train_net(
        self,
        rows: TrainingRows,
        used: np.ndarray,
        monitored: tuple[TrainingRows, np.ndarray],
        run: TrainingRun,
        n_epochs: int,
        *,
        only_read_in: bool,
    ) -> None:
        contrast = CONTRASTS["published" if self.sizes == "published" else "auto"]
        evaluate = None
        monitor: dict[str, Any] = {}
        of_rows, held = monitored
        if len(held):
            monitor = {"monitor": "held_out_nce", "mode": "min"}
            evaluate = of_rows.evaluation(held, contrast)
        result = run.train(
            self.net_,
            partial(mind_eye_losses, contrast=contrast),
            rows.examples(used),
            self._settings(run, n_epochs, len(used), **monitor),
            name="mind_eye",
            evaluate=evaluate,
            parameters=self.net_.read_in.parameters() if only_read_in else None,
        )
        self.history_ = result.history

    # ---------------------------------------------------------------- predicting

    def _predict(self, responses: np.ndarray) -> np.ndarray:
        return self._output("tokens", responses, self.subject_)

    def _output(self, method: str, responses: np.ndarray, subject: int) -> np.ndarray:
        call = getattr(self.net_, method)
        inputs = responses.astype(np.float32, copy=False)
        return run_net(self.net_, inputs, self.device, call=lambda x: call(x, subject))

    def embeddings(self, X: Any) -> np.ndarray:
        """Output of the retrieval head, which `similarity` compares with candidates.

        Its direction, from the training mean, is what the contrastive losses train. Its length is
        that of a typical target.

        Parameters
        ----------
        X : betas, as for `predict`; repeats are averaged

        Returns
        -------
        array, shape of the targets, float32
            NaN for an image without data.
        """
        check_is_fitted(self)
        betas = check_responses(self, X, reset=False)
        with own_settings():
            responses = self.scaling_.apply(average_repeats(betas))
            known = np.isfinite(responses).all(axis=1)
            n_outputs = int(np.prod(self.target_shape_))
            found = np.full((len(responses), n_outputs), np.nan, np.float32)
            if known.any():
                found[known] = self._output("embeddings", responses[known], self.subject_)
        return found.reshape(len(found), *self.target_shape_)

    def similarity(self, X: Any, candidates: Any, *, center: bool = True) -> np.ndarray:
        """Cosine of the retrieval head's output with the targets of candidate images.

        Parameters
        ----------
        X, candidates, center : as for `BaseDecoder.similarity`

        Returns
        -------
        array, shape (n_responses, n_candidates)
        """
        embeddings = self.embeddings(X).reshape(-1, int(np.prod(self.target_shape_)))
        mean = self.target_mean_ if center else None
        return cosine_similarity(embeddings, self._targets_of(candidates), mean=mean)
