"""InContextEncoder: the weights of voxels inferred by a net that other subjects trained."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.blocks_of_draws import Blocks
from brainenc.encoders.draws import part_of
from brainenc.encoders.function_draws import Functions, Streams
from brainenc.encoders.in_context.context import (
    corrected,
    held_out_predictions,
    inferred_weights,
    unit_regression,
)
from brainenc.encoders.in_context.official import read_net
from brainenc.encoders.in_context.presets import PRESETS, plan
from brainenc.encoders.in_context.pretrained import InContextPretraining
from brainenc.encoders.in_context.pretraining import pretrained_net
from brainenc.encoders.in_context.sources import sources_of
from brainenc.encoders.inputs import adapting
from brainenc.encoders.prior_fit import labels_of_table, with_prior_of
from brainenc.encoders.ridge import RidgeEncoder, functions_of_weights
from brainenc.encoders.trained import Published, check_number
from brainenc.encoders.weight_prior import (
    LinearMap,
    WeightPrior,
    check_prior,
)
from brainenc.features.one_space import extractor_description
from brainenc.model_selection import image_folds
from brainenc.nets.in_context import InContextNet
from brainenc.process_state import own_settings
from brainenc.repeats import average_repeats
from brainenc.solvers.posterior import WeightPosterior
from brainenc.solvers.priors import PriorBands
from brainenc.solvers.regression import RidgeRegression
from brainenc.solvers.streamed import ScaledFeatures


class InContextEncoder(Published, BaseEncoder):
    """Weights of voxels that a net infers from images and responses, trained on other subjects.

    `pretrain` trains the net on other subjects. After that `fit` trains nothing: the images and
    betas are the net's context. By default the net is small and corrects ridge weights along the
    leading coordinates of a `WeightPrior` of the same subjects. What counts in each voxel of the
    correction is chosen on held-out images of the context; it is 0 where the net did not help
    held-out subjects. The rest is ridge with the prior, as ``RidgeEncoder(prior=...)``.

    ``sizes="published"`` is BraInCoRL: the net alone, on embeddings divided by their length.

    Parameters
    ----------
    features : "auto", None or transformer
        As for `RidgeEncoder`; those of the pretraining must be the same.
    prior : WeightPrior, optional
        None: `pretrain` makes it from its subjects. Not of ``sizes="published"``.
    pretrained : InContextPretraining, optional
        The net; `pretrain` sets it.
    untrained : "raise" or "ridge"
        Without `pretrained`, `fit` raises an error, or fits ridge with `prior`, if any.
    sizes : "auto", "published" or dict
        Net and training. A dict replaces arguments of `brainenc.nets.InContextNet` in "auto".
    n_coordinates : int
        Coordinates of the prior that the net reads; fewer if the prior has fewer.
    n_steps : int, optional
        Steps of the pretraining; None of these and the next three: the values of the preset.
    batch_size : int, optional
        Voxels of a step.
    learning_rate, weight_decay : float, optional
    alphas, alpha_per_voxel, cv, rois
        As for `RidgeEncoder`; the folds of `cv` also choose the share of the net.
    device, precision, checkpoint_dir, random_state, verbose
        As for `brainenc.encoders.trained.TrainedEncoder`; precision and checkpoints are those of
        the pretraining.

    Attributes
    ----------
    regression_ : RidgeRegression
        The weights: of z-scored features, or of published embeddings. The next are its parts.
    coef_ : array, shape (n_features, n_voxels)
    intercept_ : array, shape (n_voxels,)
    net_share_ : array, shape (n_voxels,)
        Share of the net in the weights of each voxel; 0 without a net, 1 as published.
    prior_shares_, prior_bands_, posterior_
        As those of `RidgeEncoder`, of the prior ridge; absent as published.

    References
    ----------
    Yu et al. (2025), BraInCoRL, NeurIPS 38. Differences of ``sizes="published"``: the learning rate
    falls along a cosine, not when the validation loss stays; the stages have equally many steps;
    weights of the best evaluation on held-out voxels are kept.

    Examples
    --------
    >>> import brainenc
    >>> *others, new = brainenc.datasets.simulate_subjects(3, 90, 20, shared_images=0)
    >>> encoder = brainenc.InContextEncoder(n_coordinates=8, n_steps=3, device="cpu")
    >>> encoder = encoder.pretrain([(d.truth.tokens, d.betas) for d in others])
    >>> encoder.fit(new.truth.tokens[:40], new.betas[:40]).predict(new.truth.tokens[40:]).shape
    (50, 20)
    """

    saved_parts = (
        *BaseEncoder.saved_parts,
        *(RidgeRegression, ScaledFeatures, WeightPosterior, WeightPrior, PriorBands),
        *(InContextPretraining, InContextNet),
    )

    coef_ = part_of("regression_", "coef")
    intercept_ = part_of("regression_", "intercept")

    def __init__(
        self,
        features: Any = "auto",
        *,
        prior: WeightPrior | None = None,
        pretrained: InContextPretraining | None = None,
        untrained: str = "raise",
        sizes: Any = "auto",
        n_coordinates: int = 64,
        n_steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        alphas: Any = "auto",
        alpha_per_voxel: Any = "auto",
        cv: Any = 5,
        rois: Any = None,
        device: str = "auto",
        precision: str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
        random_state: int | None = 0,
        verbose: bool = False,
    ):
        self.features = features
        self.prior = prior
        self.pretrained = pretrained
        self.untrained = untrained
        self.sizes = sizes
        self.n_coordinates = n_coordinates
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.alphas = alphas
        self.alpha_per_voxel = alpha_per_voxel
        self.cv = cv
        self.rois = rois
        self.device = device
        self.precision = precision
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state
        self.verbose = verbose

    # ---------------------------------------------------------------- pretraining

    def pretrain(self, subjects: Iterable[Any], *, resume: bool = False) -> "InContextEncoder":
        """Train the net on other subjects; sets `pretrained`, and `prior` if it is None.

        Parameters
        ----------
        subjects : sequence of EncodingData, or of (images or features, betas)
            With three or more, the last one is held out of the training: it decides which weights
            are kept, and for which numbers of images the net helps. With fewer, a fifth of the
            voxels. A `prior` that is made here is of all subjects, those voxels included; give
            ``prior=WeightPrior.fit(subjects[:-1], features)`` to hold the last one out of it too.
        resume : bool
            Continue from the checkpoints in `checkpoint_dir`, if there are any.

        Returns
        -------
        self

        Raises
        ------
        TypeError : something else than subjects.
        ValueError : no subjects, features that learn from images or that differ in shape, too few
            images or voxels, `prior` of other features; `resume` without `checkpoint_dir` or
            `random_state`.
        FileExistsError : `checkpoint_dir` has checkpoints, and `resume` is False.

        Notes
        -----
        An error leaves the encoder unchanged. A fit before it stays as it is.
        """
        self._check_parameters()
        if resume and (self.checkpoint_dir is None or self.random_state is None):
            raise ValueError(
                "resume=True needs checkpoint_dir, and a random_state that is not None"
            )
        published = self.sizes == "published"
        sources = sources_of(subjects, self.features)
        prior = self.prior
        if prior is None and not published:
            prior = WeightPrior.fit(
                sources.subjects,
                sources.features,
                random_state=self.random_state,
                device=self.device,
            )
            prior = replace(prior, extractor=extractor_description(sources.extractor))
        elif prior is not None and not published:
            for X in sources.features:
                prior.check(X, sources.extractor)
        net_sizes, stages, n_steps, run = plan(self, sources.features[0].shape[1:])
        with own_settings():
            pretrained = pretrained_net(
                sources.features,
                [average_repeats(betas) for betas in sources.betas],
                sources.names,
                None if published else prior,
                net_sizes,
                stages,
                n_steps,
                self.n_coordinates,
                replace(run, resume=resume),
            )
        self.pretrained, self.prior = pretrained, prior
        return self

    @classmethod
    def from_official(
        cls, path: str | os.PathLike, features: Any = "auto", **parameters: Any
    ) -> "InContextEncoder":
        """The published encoder with the net of a checkpoint of the released code.

        Parameters
        ----------
        path : path
            A file with the key `state_dict`. No code in it is run.
        features, **parameters
            Of the encoder; features must be the embeddings that the net was trained on.

        Returns
        -------
        InContextEncoder, unfitted: `fit` needs no training

        Raises
        ------
        FileNotFoundError, ValueError : the file is missing, damaged or of another kind; the message
            names it.
        """
        net = read_net(path)
        n = net.sizes["n_features"]
        one = np.ones(1, np.float32)
        pretrained = InContextPretraining(
            net,
            None,
            np.zeros((n, 0), np.float32),
            np.array([100]),
            one,
            one,
            [os.path.basename(os.fspath(path))],
            [n],
            pd.DataFrame(),
        )
        return cls.published(features=features, pretrained=pretrained, **parameters)

    def _check_parameters(self) -> None:
        check_prior(self.prior)
        if not isinstance(self.sizes, Mapping) and self.sizes not in PRESETS:
            raise ValueError(
                f"sizes={self.sizes!r} must be one of {list(PRESETS)}, or a dict of sizes"
            )
        if self.untrained not in ("raise", "ridge"):
            raise ValueError(f'untrained={self.untrained!r} must be "raise" or "ridge"')
        check_number("n_coordinates", self.n_coordinates, 1)
        for name in ("n_steps", "batch_size"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 1)
        if self.weight_decay is not None:
            check_number("weight_decay", self.weight_decay, 0.0)
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be more than 0")
        if self.pretrained is None:
            return
        if not isinstance(self.pretrained, InContextPretraining):
            raise TypeError(
                f"pretrained={self.pretrained!r} must be an InContextPretraining: call "
                "pretrain(subjects), or take the attribute `pretrained` of another encoder"
            )
        if (self.pretrained.prior is None) != (self.sizes == "published"):
            raise ValueError(
                f"sizes={self.sizes!r}, but the pretrained net "
                + ("is a published one" if self.pretrained.prior is None else "corrects a prior")
                + ": give the sizes that it was pretrained with"
            )

    # ---------------------------------------------------------------- fitting

    def with_voxels(self, voxels: pd.DataFrame) -> "InContextEncoder":
        """Copy of the encoder with the voxels' ROI labels, if its prior has components of ROIs.

        Raises
        ------
        ValueError : no atlas of the table has an ROI of the prior.
        """
        if self.prior is None or self.rois is not None:
            return self
        labels = labels_of_table(self.prior, voxels)
        return self if labels is None else clone(self).set_params(rois=labels)

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        pretrained = self.pretrained
        if pretrained is None and self.untrained == "raise":
            raise ValueError(
                "this InContextEncoder has no net: call pretrain(subjects) with the data of other "
                'subjects first; or give untrained="ridge", and it is ridge with its prior'
            )
        if pretrained is not None:
            pretrained.check(features, getattr(self, "features_", None))
        averages = average_repeats(betas)
        folds = image_folds(self.cv, len(averages), random_state=self.random_state)
        if pretrained is not None and pretrained.prior is None:
            X = pretrained.inputs(features)
            self.regression_ = unit_regression(
                inferred_weights(pretrained, X, averages, self.device)
            )
            self.net_share_ = np.ones(averages.shape[1], np.float32)
            return held_out_predictions(pretrained, X, averages, folds, self.device)
        prior = self.prior if pretrained is None or self.prior is not None else pretrained.prior
        if prior is not None:
            prior.check(features, getattr(self, "features_", None))
        ridge = RidgeEncoder(
            None,
            alphas=self.alphas,
            alpha_per_voxel=self.alpha_per_voxel,
            cv=self.cv,
            device=self.device,
            random_state=self.random_state,
            prior=prior,
            rois=self.rois,
        )
        held_out = ridge._fit(features, betas)
        self.regression_, self.posterior_ = ridge.regression_, ridge.posterior_
        self.net_share_ = np.zeros(averages.shape[1], np.float32)
        if ridge.prior is not None:
            self.prior_shares_, self.prior_bands_ = ridge.prior_shares_, ridge.prior_bands_
        if pretrained is None:
            return held_out
        found = corrected(
            pretrained, ridge.regression_, held_out, features, averages, folds, self.device
        )
        self.regression_, self.net_share_ = found.regression, found.shares
        return found.held_out

    def linear_map(self) -> LinearMap | None:
        """Weights of features as they are, of which priors are made; None as published."""
        check_is_fitted(self)
        if self._of_embeddings:
            return None
        return LinearMap.of(self.regression_, self.posterior_.variance)

    def adapt(self, X: Any, y: Any) -> "InContextEncoder":
        """Infer the weights of a new subject, by the same net and prior; this encoder is unchanged.

        Without a net, the weights of this subject are the prior of the new one.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject
            The number of voxels may differ; features must be the same.

        Returns
        -------
        InContextEncoder

        Raises
        ------
        ValueError : as `fit`; features of another shape or scale.
        """
        found: InContextEncoder = super().adapt(X, y)
        return found

    def _adapting(self) -> tuple[BaseEncoder, dict[str, Any]]:
        if self.pretrained is None:
            return with_prior_of(adapting(self), self), {}
        return adapting(self).set_params(rois=None), {}

    # ---------------------------------------------------------------- predicting

    @property
    def _of_embeddings(self) -> bool:
        """Whether the weights are of features divided by their length."""
        return not hasattr(self, "posterior_")

    def _seen(self, features: np.ndarray) -> Any:
        if not self._of_embeddings:
            return features
        X = features.reshape(len(features), -1).astype(np.float32, copy=False)
        length = np.linalg.norm(X, axis=1, keepdims=True)
        return X / np.where(length > 0, length, 1)

    def _predict(self, features: np.ndarray) -> np.ndarray:
        return self.regression_.predict(self._seen(features))

    def _draw_blocks(
        self, features: np.ndarray, n: int, random_state: Any, part: str | None, **how: Any
    ) -> Blocks:
        seen = features if self._of_embeddings else self.regression_.seen(features)
        return super()._draw_blocks(seen, n, random_state, part, **how)

    def _functions(self, features: np.ndarray, n: int, streams: Streams) -> Functions:
        """Draws vary as those of the prior ridge do; refused as published."""
        if self._of_embeddings:
            return super()._functions(features, n, streams)
        return functions_of_weights(self, features, n, streams)
