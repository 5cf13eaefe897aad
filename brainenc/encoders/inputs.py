"""Inputs of encoders, images or features, as an array of features."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn import config_context
from sklearn.base import BaseEstimator, clone

from brainenc.data.images import as_images, looks_like_images
from brainenc.documentation import see
from brainenc.features.learned import fitted_extractor, share, takes_features
from brainenc.features.one_space import frozen, learns_any
from brainenc.validation import check_extracted, check_feature_shape, check_features


class Inputs:
    """Features of images, during a fit or before it: a part of `BaseEncoder`.

    An encoder whose features are not a single array overrides `_features_of` and `precompute`.
    """

    features: Any = None

    @property
    def _given_features(self) -> Any:
        """The parameter `features`, or what an encoder has in its place."""
        return self.features

    def precompute(self, images: Any, transform: Callable[[Any], np.ndarray]) -> tuple[Any, Any]:
        """Copy of the encoder that takes precomputed features, and these features.

        The benchmark uses it to compute features once for all folds and encoders. Extractors that
        learn from images (a pipeline with PCA) are fitted with the encoder, to the images that it
        is fitted to: only what comes before them is computed once.

        Parameters
        ----------
        images : images, as for `fit`
        transform : callable
            Takes an extractor that learns nothing and returns the features of `images`,
            (n_images, ...).

        Returns
        -------
        encoder : BaseEncoder, unfitted
            With features=None, or the part of its extractor that learns.
        X : array, or `images` if the encoder computes no features from them, or learns all of them
        """
        extractor = extractor_for(self._given_features, images)
        if extractor is None:
            return clone(self), images
        rest, X = share(extractor, images, transform)
        return clone(self).set_params(features=rest), X

    def learned_features(self) -> Any:
        """Unfitted transformer of what `precompute` gave, if features are learned; else None."""
        return self._given_features if takes_features(self._given_features) else None

    def with_voxels(self, voxels: pd.DataFrame) -> Any:
        """Copy of the encoder that has the table of the voxels it will be fitted to.

        The benchmark calls it before it fits. Encoders that use ROIs override it; others return
        themselves.

        Parameters
        ----------
        voxels : DataFrame, one row per voxel
            As `EncodingData.voxels`: one column of labels per atlas.

        Returns
        -------
        BaseEncoder, unfitted
        """
        return self

    def _features_of(self, X: Any, *, reset: bool = False) -> np.ndarray:
        """Features of X, checked; with `reset` the extractor is made and shapes are recorded."""
        return features_of(self, X, reset=reset)


def adapting(encoder: Any) -> Any:
    """Unfitted copy of a fitted encoder whose features are the same, also where they were learned.

    A PCA that was fitted to other images would make other features than those that the encoder's
    weights, or its networks, are of.
    """
    new, extractor = clone(encoder), getattr(encoder, "features_", None)
    if learns_any(extractor):
        new.set_params(features=frozen(extractor))
    return new


def features_of(encoder: BaseEstimator, X: Any, *, reset: bool = False) -> np.ndarray:
    """Features of X, checked.

    Parameters
    ----------
    encoder : estimator with the parameter `features`
    X : images or features, as for `BaseEncoder.fit`
    reset : bool
        True at the start of a fit: make the extractor (`features_`) and record the features' shape.
        Otherwise both are taken from the fit.

    Returns
    -------
    array, shape (n_images, n_features) or (n_images, n_tokens, width)

    Raises
    ------
    TypeError : images, for an encoder that takes features.
    ValueError : features that are not finite, or of another shape than those of the fit.
    """
    given = getattr(encoder, "_given_features", encoder.features)
    extractor = extractor_for(given, X) if reset else getattr(encoder, "features_", None)
    if extractor is not None:
        encoder.features_ = fitted_extractor(extractor, X) if reset else extractor
        features = extracted(encoder.features_, X)
        check_feature_shape(encoder, features, reset=reset)
        return features
    if looks_like_images(X):
        raise TypeError(
            f"{type(encoder).__name__} has features={encoder.features!r} and takes features, but "
            "got images; give the encoder an extractor, such as features=brainenc.GaborPyramid()"
            + see("guide/features")
        )
    if reset and hasattr(encoder, "features_"):
        del encoder.features_
    return check_features(encoder, X, reset=reset)


def extracted(extractor: Any, images: Any) -> np.ndarray:
    """Features of images by a fitted extractor, which may be a user's own.

    Returns
    -------
    array, shape (n_images, n_features) or (n_images, n_tokens, width)

    Raises
    ------
    TypeError, ValueError : `images` are no images (nor features, if the extractor is the learned
        part of another), or what the extractor gives is no features of them; see
        `brainenc.validation.check_extracted`.
    """
    n_images = len(images) if takes_features(extractor) else as_images(images).shape[0]
    # Whatever the user has set for tables of features: tokens have no table.
    with config_context(transform_output="default"):
        return check_extracted(extractor.transform(images), n_images, extractor)


def extractor_for(features: Any, X: Any) -> Any:
    """Unfitted extractor for the parameter `features`; None if X are features.

    Raises
    ------
    ValueError : `features` is neither "auto", None nor a transformer.
    """
    if features is None:
        return None
    if not isinstance(features, str):
        if takes_features(features):
            return clone(features)
        as_images(X)  # a clearer error than the transformer's own
        return clone(features)
    if features != "auto":
        raise ValueError(
            f"features={features!r}: give 'auto', None or a transformer such as "
            "brainenc.GaborPyramid()" + see("guide/features")
        )
    if not looks_like_images(X):
        return None
    from brainenc.features import OpenCLIPFeatures

    return OpenCLIPFeatures()
