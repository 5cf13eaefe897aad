"""BaseEncoder: the interface of every encoder."""

import os
import warnings
from abc import abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils.validation import check_is_fitted

from brainenc.conversion import check_one_order, plain_array
from brainenc.documentation import see
from brainenc.encoders.draws import Draws
from brainenc.encoders.fit_frame import check_two_images, fit_anew
from brainenc.encoders.inputs import Inputs, adapting
from brainenc.encoders.memory import warn_of_memory
from brainenc.encoders.training_images import marks_of, mean_response
from brainenc.features.learned import Columns, LearnedFeatures, Within
from brainenc.metrics import correlation
from brainenc.noise.gaussian import ResidualNoise
from brainenc.noise.shape import ResidualShape
from brainenc.noise.trials import TrialDistribution
from brainenc.process_state import own_settings
from brainenc.repeats import average_repeats
from brainenc.validation import check_betas


class HeldOut(NamedTuple):
    """Held-out predictions with estimates of the noise: an alternative return value of `_fit`.

    Attributes
    ----------
    predictions : array, shape (n_images, n_voxels)
        Prediction of each training image by a fit without that image; NaN where there is none.
    noise_scale : array, shape (n_images, n_factors + 1), optional
        Strength of the noise of each image, as in `brainenc.noise.gaussian.ScaledNoise`.
    noise, trial_noise : ResidualNoise, optional
        Estimates that `_fit` has made already.
    """

    predictions: np.ndarray
    noise_scale: np.ndarray | None = None
    noise: ResidualNoise | None = None
    trial_noise: ResidualNoise | None = None


class BaseEncoder(Inputs, Draws, MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Base class of encoders: images (or features) in, voxel responses out.

    A new encoder stores its constructor arguments, among them `features`, and provides

    - ``_fit(features, betas)``, which sets the fitted attributes (ending in ``_``) and returns
      predictions of held-out images, (n_images, n_voxels), NaN for the rest: the distribution
      behind `sample` is estimated from them;
    - ``_predict(features)``, which returns (n_images, n_voxels).

    Both get features as a float array, (n_images, n_features) or (n_images, n_tokens, width), and
    betas as (n_images, n_repeats, n_voxels) with NaN for missing repeats.

    It may provide ``_check_parameters()``, which raises before anything is fitted, and override
    methods of `brainenc.encoders.draws.Draws` (noise that differs between images, draws from its
    own distribution) and `brainenc.encoders.inputs.Inputs` (features made in another way).

    Encoders that are made of other encoders (a stack, a calibrated encoder) call these methods of
    their members: they are the contract between encoders, as the methods without an underscore are
    the contract with users.

    Attributes
    ----------
    trials_ : TrialDistribution
        Distribution of single trials around the prediction; the next four are its parts. It is
        fitted when it is first needed (draws, intervals, densities, saving, pickling), from copies
        of some trials that `fit` keeps until then; `fit_noise` fits it at once.
    noise_ : ResidualNoise
        Residuals of held-out single trials.
    residual_shape_ : ResidualShape or None
        Skew and tails of residuals, and how their variance depends on the prediction. None if
        normal residuals of one size describe held-out trials as well, or for an encoder with a
        distribution of its own.
    trial_noise_, model_error_ : ResidualNoise or None
        The two parts of residuals: trial noise, which differs between repeats of an image, and the
        error of the expected response, which repeats share. None if no image had two trials.
    sample_kind_ : str
        Source of the draws: "residual" is the prediction plus draws of residuals.
    features_ : FeatureExtractor
        The fitted feature extractor; absent when features were passed in.
    n_voxels_ : int
    training_mean_ : array, shape (n_voxels,), float32
        Mean response over the training images, the null of `brainenc.evaluate`.
    training_marks_ : array, shape (n_images, 8), float32
        Random projections of the features of the training images, by which `brainenc.evaluate`
        finds test images among them; (n_images, 0) without features.

    Examples
    --------
    >>> from brainenc.encoders import BaseEncoder
    >>> class Zero(BaseEncoder):
    ...     def __init__(self, features=None):
    ...         self.features = features
    ...     def _fit(self, features, betas):
    ...         return np.zeros((len(betas), betas.shape[2]))
    ...     def _predict(self, features):
    ...         return np.zeros((len(features), self.n_voxels_))
    >>> betas = np.random.default_rng(0).standard_normal((50, 2, 3))
    >>> encoder = Zero().fit(np.zeros((50, 1)), betas)
    >>> encoder.sample(np.zeros((4, 1)), n=2).shape
    (2, 4, 3)
    """

    features: Any = None
    #: What ``model.json`` says that it holds.
    saved_format = "brainenc.encoder"
    #: Dataclasses, nets and transformers among the fitted attributes, which `brainenc.load` may
    #: create.
    saved_parts: tuple[type, ...] = (
        *(TrialDistribution, ResidualNoise, ResidualShape),
        *(LearnedFeatures, Columns, Within),
    )

    # ---------------------------------------------------------------- what an encoder provides

    @abstractmethod
    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray | HeldOut:
        """Fit; return held-out predictions (n_images, n_voxels), NaN where an image was learnt."""

    @abstractmethod
    def _predict(self, features: np.ndarray) -> np.ndarray:
        """Expected responses (n_images, n_voxels)."""

    def _check_parameters(self) -> None:
        """Raise ValueError or TypeError for parameters that are invalid for any data."""

    # ---------------------------------------------------------------- fitting

    def fit(self, X: Any, y: Any) -> "BaseEncoder":
        """Fit to images and betas.

        Parameters
        ----------
        X : images (n_images, H, W[, 3]) uint8, paths or PIL images; or features, float
            (n_images, n_features) or (n_images, n_tokens, width). One row per unique image.
        y : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
            Betas; NaN where a repeat is missing. A voxel without any data is predicted as NaN.

        Returns
        -------
        self

        Raises
        ------
        ValueError : rows that do not match, fewer than two images, non-finite features, infinite
            betas, or nothing but NaN.
        TypeError : images or betas of a wrong dtype.

        Notes
        -----
        An error leaves the encoder unchanged, including an earlier fit.
        """
        self._fit_all(X, y)
        return self

    def fit_held_out(self, X: Any, y: Any) -> np.ndarray:
        """Fit, and return held-out predictions of the training images.

        Parameters
        ----------
        X, y : as for `fit`

        Returns
        -------
        array, shape (n_images, n_voxels)
            In the units of the betas. NaN for images that no fit held out (most images, with
            encoders that hold out one part of them) and for voxels without data.
        """
        return self._fit_all(X, y)

    def _fit_all(self, X: Any, y: Any, **how: Any) -> np.ndarray:
        """Fit and return held-out predictions; undo all after an error. `how` is for `_fit`."""
        with fit_anew(self):
            features = self._features_of(X, reset=True)
            check_one_order(X=X, y=y)  # else rows are matched by position, as in scikit-learn
            betas = check_betas(y, n_images=len(features))
            check_two_images(self, len(features))
            warn_of_memory(self, features.shape, betas.shape)
            self.n_voxels_, self.betas_ndim_ = betas.shape[2], plain_array(y, "betas").ndim
            with own_settings():
                found = self._fit(features, betas, **how)
            found = found if isinstance(found, HeldOut) else HeldOut(found)
            shape, given = (len(betas), self.n_voxels_), np.shape(found.predictions)
            if given != shape:
                raise ValueError(
                    f"{type(self).__name__}._fit must return held-out predictions {shape}, NaN "
                    f"where there is none, and returned a {type(found.predictions).__name__} of "
                    f"shape {given}" + see("add_an_encoder")
                )
            self.training_mean_, self.training_marks_ = mean_response(betas), marks_of(features)
            self.sample_kind_ = self.sample_kind
            has_sampler = (type(self)._draw, type(self).sample) != (Draws._draw, Draws.sample)
            if self._draws_itself and not has_sampler:
                raise TypeError(
                    f"{type(self).__name__} has sample_kind={self.sample_kind!r}, so it draws from "
                    "a distribution of its own, but has no _draw(features, n, rng, part): add it, "
                    'or leave sample_kind as "residual"' + see("add_an_encoder")
                )
            with own_settings():
                self.trials_later_ = TrialDistribution.later(
                    betas,
                    found.predictions,
                    scale=found.noise_scale,
                    noise=found.noise,
                    trial=found.trial_noise,
                    shaped=not self._draws_itself,
                )
        return found.predictions

    def __sklearn_is_fitted__(self) -> bool:
        return not {"trials_", "trials_later_"}.isdisjoint(vars(self))

    # ---------------------------------------------------------------- predicting

    def predict(self, X: Any) -> np.ndarray:
        """Expected responses.

        Parameters
        ----------
        X : images or features, as for `fit`

        Returns
        -------
        array, shape (n_images, n_voxels), float32
            In the units of the betas given to `fit`; (n_images,) if those were one-dimensional.
        """
        check_is_fitted(self)
        features = self._features_of(X)
        with own_settings():
            prediction = self._predict(features).astype(np.float32, copy=False)
        return prediction[:, 0] if self.betas_ndim_ == 1 else prediction

    def score(self, X: Any, y: Any) -> float:
        """Mean over voxels of Pearson's r across images, against repeat-averaged betas.

        Parameters
        ----------
        X, y : as for `fit`

        Returns
        -------
        float
            Voxels whose r is undefined are left out. NaN, with a warning, if r is undefined for
            every voxel (constant predictions, for example).
        """
        prediction = self.predict(X)
        check_one_order(X=X, y=y)  # else rows are matched by position, as in scikit-learn
        betas = check_betas(y, n_images=len(prediction), n_voxels=self.n_voxels_)
        targets = average_repeats(betas)
        r = correlation(prediction.reshape(targets.shape), targets)
        if np.isnan(r).all():
            warnings.warn(
                "r is undefined for every voxel: predictions or betas are constant",
                UndefinedMetricWarning,
                stacklevel=2,
            )
            return float("nan")
        return float(np.nanmean(r))

    # ---------------------------------------------------------------- other subjects, files

    def adapt(self, X: Any, y: Any) -> "BaseEncoder":
        """Fit a new encoder to another subject; this encoder is unchanged.

        What the new encoder keeps is in the docstring of each encoder's `adapt`: weights as a
        prior, or a network's trunk. This one has no part that subjects share (the mean response,
        kernel ridge, a regressor of another library, an encoder that does not override `adapt`):
        the parameters and a learned transformer of features are kept, and all else is fitted to
        the new subject.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject; the number of voxels may differ

        Returns
        -------
        BaseEncoder
        """
        return self.adapt_held_out(X, y)[0]

    def adapt_held_out(self, X: Any, y: Any) -> tuple["BaseEncoder", np.ndarray]:
        """As `adapt`, with held-out predictions of the new subject's images.

        Parameters
        ----------
        X, y : as for `adapt`

        Returns
        -------
        encoder : BaseEncoder
        held_out : array, shape (n_images, n_voxels)
            As of `fit_held_out`.
        """
        check_is_fitted(self)
        new, how = self._adapting()
        return new, new._fit_all(X, y, **how)

    def _adapting(self) -> tuple["BaseEncoder", dict[str, Any]]:
        """Unfitted encoder for a new subject, and what its `_fit` takes of this one."""
        return adapting(self), {}

    def save(self, folder: str | os.PathLike, *, voxels: pd.DataFrame | None = None) -> Path:
        """Write the fitted encoder to a folder, which `brainenc.load` reads.

        The loaded encoder predicts and draws the same, bit by bit, on the same machine and
        versions; what cannot be restored exactly is refused.

        Parameters
        ----------
        folder : path
            A former model there is replaced once the new one is complete.
        voxels : DataFrame, one row per voxel, optional
            Table of the voxels that the encoder was fitted to, such as ``data.voxels``; the loaded
            encoder has it as ``voxels_``.

        Returns
        -------
        pathlib.Path : `folder`

        Raises
        ------
        FileExistsError : `folder` exists and holds no model.
        TypeError : a parameter or attribute cannot be restored exactly, such as a `preprocess` or
            a module of your own; the message names it and a way on.
        ValueError : `voxels` has another number of rows than the encoder has voxels.
        """
        from brainenc.encoders.saving import save

        check_is_fitted(self)
        return save(self, folder, voxels=voxels)
