"""Decoder: what all decoders share. BaseDecoder: maps from responses to targets."""

import os
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin, clone
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils.validation import check_is_fitted

from brainenc.arrays import varies
from brainenc.conversion import check_one_order, numeric_array
from brainenc.data.images import looks_like_images
from brainenc.decoders.responses import (
    VoxelScaling,
    check_every_image,
    check_every_voxel,
    check_responses,
    single_trials,
)
from brainenc.encoders.fit_frame import check_two_images, fit_anew
from brainenc.encoders.inputs import extracted, extractor_for
from brainenc.encoders.saving import save
from brainenc.features.learned import fitted_extractor
from brainenc.metrics import correlation, cosine_similarity
from brainenc.metrics.similarity import CENTRED, UNCENTRED
from brainenc.process_state import own_settings
from brainenc.repeats import average_repeats


class Decoder(MultiOutputMixin, RegressorMixin, BaseEstimator, ABC):
    """What all decoders share: checks, targets, similarity, scores, files.

    A part of `BaseDecoder` (a map from responses to targets) and of `EncoderDecoder` (an encoder,
    asked which image explains a response). They provide ``_fit_checked`` and ``predict``.

    Attributes
    ----------
    target_mean_ : array, shape of a target
        Mean over the training images, which `similarity` subtracts.
    target_shape_ : list of int
    scaling_ : VoxelScaling
        Mean and s.d. of voxels.
    n_features_in_ : int
        Number of voxels.
    targets_ : transformer
        The fitted extractor of targets; absent when arrays were passed.
    """

    targets: Any = None
    saved_alone = True
    #: What ``model.json`` says that it holds.
    saved_format = "brainenc.decoder"
    #: Dataclasses among the fitted attributes, which `brainenc.load` may create.
    saved_parts: tuple[type, ...] = (VoxelScaling,)

    @abstractmethod
    def _fit_checked(self, betas: np.ndarray, y: Any) -> np.ndarray:
        """Fit to checked betas (n_images, n_repeats, n_voxels) and targets or images.

        Sets `scaling_` and, by `_targets_of`, the shape and mean of targets; returns flattened
        held-out predictions of them, NaN where there is none.
        """

    @abstractmethod
    def predict(self, X: Any, *, average: str = "betas") -> np.ndarray:
        """Targets of responses."""

    def _check_parameters(self) -> None:
        """Raise ValueError or TypeError for parameters that are invalid for any data."""

    # ---------------------------------------------------------------- fitting

    def fit(self, X: Any, y: Any) -> "Decoder":
        """Fit to betas and the targets of their images.

        Parameters
        ----------
        X : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
            Betas, one row per unique image; NaN where a repeat or a voxel of it is missing.
        y : array, shape (n_images, n_dimensions) or (n_images, n_tokens, width), or images
            Targets, or images whose features by the parameter `targets` they are.

        Returns
        -------
        self

        Raises
        ------
        ValueError : rows that do not match, fewer than two images, voxels or images without data,
            targets that are constant over images or not finite.
        TypeError : betas or targets of a wrong dtype.

        Notes
        -----
        An error leaves the decoder unchanged, including an earlier fit.
        """
        self._fit_all(X, y)
        return self

    def fit_held_out(self, X: Any, y: Any) -> np.ndarray:
        """Fit, and return held-out predictions of the training images' targets.

        Parameters
        ----------
        X, y : as for `fit`

        Returns
        -------
        array, shape of the targets; NaN for images that no fit held out.
        """
        found = self._fit_all(X, y)
        return found.reshape(len(found), *self.target_shape_)

    def _fit_all(self, X: Any, y: Any, **how: Any) -> np.ndarray:
        """Fit and return held-out predictions; undo all after an error. `how` is for the fit."""
        with fit_anew(self):
            betas = self._checked(X, y)
            with own_settings():
                found = self._fit_checked(betas, y, **how)
        return found

    def _checked(self, X: Any, y: Any) -> np.ndarray:
        """Betas to fit to, (n_images, n_repeats, n_voxels); the number of voxels is recorded."""
        betas = check_responses(self, X, reset=True)
        check_one_order(X=X, y=y)
        check_two_images(self, len(betas))
        check_every_voxel(betas)
        check_every_image(betas)
        return betas

    def _targets_of(self, y: Any, n_images: int | None = None, *, reset: bool = False) -> Any:
        """Targets of images or arrays, checked and flattened: (n_images, n_dimensions)."""
        extractor = (
            extractor_for(self.targets, y)
            if reset and (looks_like_images(y) or not isinstance(self.targets, str | None))
            else getattr(self, "targets_", None)
        )
        if extractor is not None and (reset or looks_like_images(y)):
            self.targets_ = fitted_extractor(extractor, y) if reset else extractor
            array = extracted(self.targets_, y)
        else:
            if looks_like_images(y):
                raise TypeError(
                    f"{type(self).__name__} was fitted to arrays of targets, or has targets=None, "
                    "but got images: give their targets, or an extractor such as "
                    "targets=brainenc.GaborPyramid()"
                )
            array = _check_targets(y, varying=reset)
        return self._recorded(array, n_images, reset=reset)

    def _recorded(self, array: np.ndarray, n_images: int | None, *, reset: bool) -> np.ndarray:
        """Targets, flattened; their shape is recorded, or compared with the recorded one."""
        if n_images is not None and len(array) != n_images:
            raise ValueError(
                f"targets {array.shape} must have one row for each of the {n_images} images"
            )
        if reset:
            self.target_shape_ = list(array.shape[1:])
            self.target_mean_ = array.mean(axis=0, dtype=np.float64)
        elif list(array.shape[1:]) != self.target_shape_:
            raise ValueError(
                f"targets {array.shape} do not fit: each had the shape {tuple(self.target_shape_)} "
                f"when {type(self).__name__} was fitted"
            )
        return array.reshape(len(array), -1)

    # ---------------------------------------------------------------- predicting

    def score(self, X: Any, y: Any) -> float:
        """Mean over target dimensions of Pearson's r across images.

        Parameters
        ----------
        X, y : as for `fit`

        Returns
        -------
        float
            Dimensions whose r is undefined are left out. NaN, with a warning, if all are.
        """
        prediction = self.predict(X)
        check_one_order(X=X, y=y)
        targets = self._targets_of(y, len(prediction))
        r = correlation(prediction.reshape(targets.shape), targets)
        if np.isnan(r).all():
            warnings.warn(
                "r is undefined for every dimension: predictions or targets are constant",
                UndefinedMetricWarning,
                stacklevel=2,
            )
            return float("nan")
        return float(np.nanmean(r))

    def similarity(self, X: Any, candidates: Any, *, center: bool = True) -> np.ndarray:
        """Cosine of predicted targets with those of candidate images.

        Parameters
        ----------
        X : betas, as for `predict`
        candidates : targets or images, as for `fit`
        center : bool
            Subtract the mean target of the *training* images first. False is usual in papers.

        Returns
        -------
        array, shape (n_responses, n_candidates)
            For `brainenc.metrics.retrieval`; NaN where a prediction is undefined.
        """
        predictions = self.predict(X).reshape(-1, int(np.prod(self.target_shape_)))
        mean = self.target_mean_ if center else None
        return cosine_similarity(predictions, self._targets_of(candidates), mean=mean)

    def similarities(self, X: Any, candidates: Any) -> dict[str, np.ndarray]:
        """Similarities under the labels that tables of retrieval have; the first is the main one.

        Parameters
        ----------
        X, candidates : as for `similarity`

        Returns
        -------
        dict of label to array, shape (n_responses, n_candidates)
            "centred" and "uncentred"; of an encoder that is asked for likelihoods, its `method`.
        """
        return {
            CENTRED: self.similarity(X, candidates),
            UNCENTRED: self.similarity(X, candidates, center=False),
        }

    # ---------------------------------------------------------------- other subjects, files

    def adapt(self, X: Any, y: Any) -> "Decoder":
        """Fit a new decoder to another subject; this decoder is unchanged.

        Linear decoders have no part that subjects share: the parameters are kept, and all else is
        fitted to the new subject.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject; the number of voxels may differ

        Returns
        -------
        Decoder
        """
        check_is_fitted(self)
        return clone(self).fit(X, y)

    def save(self, folder: str | os.PathLike, *, voxels: pd.DataFrame | None = None) -> Path:
        """Write the fitted decoder to a folder, which `brainenc.load` reads.

        Parameters
        ----------
        folder, voxels : as for `brainenc.BaseEncoder.save`

        Returns
        -------
        pathlib.Path : `folder`

        Raises
        ------
        FileExistsError, TypeError, ValueError : as for `brainenc.BaseEncoder.save`.
        """
        check_is_fitted(self)
        return save(self, folder, voxels=voxels)

    @property
    def n_voxels_(self) -> int:
        """Number of voxels."""
        return self.n_features_in_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class BaseDecoder(Decoder):
    """Base class of decoders: voxel responses in, embeddings (targets) of their images out.

    A new decoder stores its constructor arguments, among them `targets`, and provides

    - ``_fit(betas, targets)``, which sets the fitted attributes (ending in ``_``) and returns
      held-out predictions of the targets, (n_images, n_dimensions), NaN where there is none;
    - ``_predict(responses)``, which returns (n_responses, n_dimensions).

    Betas are (n_images, n_repeats, n_voxels), z-scored per voxel with the mean and s.d. of the
    training images' averages; a missing trial is NaN in all voxels, and a voxel that is missing in
    a trial is at its mean, 0. Responses are averages, (n_responses, n_voxels), scaled alike.
    Targets are flattened.

    Attributes
    ----------
    target_mean_ : array, shape of a target
        Mean over the training images, which `similarity` subtracts.
    target_shape_ : list of int
    scaling_ : VoxelScaling
        Mean and s.d. of voxels.
    n_features_in_ : int
        Number of voxels.
    targets_ : transformer
        The fitted extractor of targets; absent when arrays were passed.

    Examples
    --------
    >>> from brainenc.decoders import BaseDecoder
    >>> class Mean(BaseDecoder):
    ...     def __init__(self, targets=None):
    ...         self.targets = targets
    ...     def _fit(self, betas, targets):
    ...         self.mean_ = targets.mean(axis=0)
    ...         return np.full(targets.shape, np.nan)
    ...     def _predict(self, responses):
    ...         return np.tile(self.mean_, (len(responses), 1))
    >>> rng = np.random.default_rng(0)
    >>> decoder = Mean().fit(rng.standard_normal((50, 3, 10)), rng.standard_normal((50, 4)))
    >>> decoder.predict(rng.standard_normal((2, 10))).shape
    (2, 4)
    """

    # ---------------------------------------------------------------- what a decoder provides

    @abstractmethod
    def _fit(self, betas: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Fit; return held-out predictions (n_images, n_dimensions), NaN where there is none."""

    @abstractmethod
    def _predict(self, responses: np.ndarray) -> np.ndarray:
        """Targets (n_responses, n_dimensions)."""

    def _fit_checked(self, betas: np.ndarray, y: Any) -> np.ndarray:
        """Fit to checked betas, and return flattened held-out predictions."""
        return self._fit(*self._scaled(betas, y))

    def _scaled(self, betas: np.ndarray, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Scaled betas and flattened targets; scaling, shape and mean are recorded."""
        targets = self._targets_of(y, len(betas), reset=True)
        self.scaling_ = VoxelScaling.of(betas)
        return self.scaling_.apply(betas), targets

    # ---------------------------------------------------------------- predicting

    def predict(self, X: Any, *, average: str = "betas") -> np.ndarray:
        """Targets of responses.

        Parameters
        ----------
        X : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
            Betas. A voxel that is missing in a response counts as its training mean.
        average : "betas" or "predictions"
            Average the repeats that there are before predicting, or predict from each and average.

        Returns
        -------
        array, shape of the targets, float32
            NaN for an image without data. A response's prediction does not depend on the others.
        """
        check_is_fitted(self)
        betas = check_responses(self, X, reset=False)
        if average not in ("betas", "predictions"):
            raise ValueError(f"average={average!r} must be 'betas' or 'predictions'")
        with own_settings():
            if average == "betas":
                found = self._predict_known(self.scaling_.apply(average_repeats(betas)))
            else:
                trials, images = single_trials(betas)
                found = np.full((len(betas), int(np.prod(self.target_shape_))), np.nan)
                predicted = self._predict_known(self.scaling_.apply(trials))
                for image in np.unique(images):
                    found[image] = predicted[images == image].mean(axis=0)
        return found.astype(np.float32, copy=False).reshape(len(betas), *self.target_shape_)

    def _predict_known(self, responses: np.ndarray) -> np.ndarray:
        """`_predict` of responses that have data, NaN of the others."""
        known = np.isfinite(responses).all(axis=1)
        if known.all():
            return self._predict(responses)
        found = np.full((len(responses), int(np.prod(self.target_shape_))), np.nan, np.float32)
        if known.any():
            found[known] = self._predict(responses[known])
        return found


def _check_targets(y: Any, *, varying: bool) -> np.ndarray:
    """Arrays of targets: (n_images,), (n_images, n_dimensions) or (n_images, n_tokens, width)."""
    if y is None:
        raise ValueError(
            "the targets are missing (fit requires y to be passed, but the target y is None): give "
            "an array of shape (n_images, n_dimensions), or images"
        )
    array = numeric_array(y, "targets")
    if array.ndim not in (1, 2, 3) or 0 in array.shape:
        raise ValueError(
            f"targets {array.shape} must be (n_images, n_dimensions) or (n_images, n_tokens, width)"
        )
    flat = array.reshape(len(array), -1)
    bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
    if bad.size:
        raise ValueError(
            f"targets {array.shape} contain NaN or infinity for {bad.size} images (first in row "
            f"{bad[0]}): correct or leave out those images"
        )
    if varying and len(array) > 1:
        constant = np.flatnonzero(~varies(flat.mean(0, dtype=np.float64), flat.std(0)))
        if constant.size:
            raise ValueError(
                f"targets {array.shape} are constant over images in {constant.size} dimensions "
                f"(first: {constant[0]}), which no response can predict: leave these out, "
                "targets[:, targets.std(axis=0) > 0]"
            )
    return array
