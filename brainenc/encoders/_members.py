"""What encoders made of other encoders share: members that take arrays, and fits on folds."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.base import clone

from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.persistence import describe
from brainenc.images import looks_like_images
from brainenc.model_selection import Folds
from brainenc.storage import fingerprint

#: Why a fitted encoder that was asked for may not be one.
NOT_PREFIT = (
    'cv="prefit" takes fitted encoders, and this %(name)s is not; note that clone, and with it '
    "cross-validation, makes unfitted copies"
)


def for_arrays(member: BaseEncoder) -> BaseEncoder:
    """Unfitted copy that takes features as they are."""
    member = clone(member)
    if "features" in member.get_params(deep=False):
        member.set_params(features=None)
    return member


def prepare(
    member: BaseEncoder, X: Any, transform: Callable[[Any], np.ndarray]
) -> tuple[BaseEncoder, Any]:
    """Unfitted copy that takes features, and the features it wants of X."""
    prepared, features = member.precompute(X, transform)
    if features is X and looks_like_images(X):
        # The mean takes images and looks at none; whoever wants features has the error.
        features = clone(member)._features_of(X, reset=True)
    return prepared, features


def extraction(X: Any, extractors: dict[str, Any]) -> Callable[[Any], np.ndarray]:
    """What makes features of X with an extractor: the same array for the same features.

    Parameters
    ----------
    X : images
    extractors : dict of fingerprint to fitted extractor
        Those missing are fitted and added.
    """
    found: dict[str, np.ndarray] = {}

    def transform(extractor: Any) -> np.ndarray:
        key = fingerprint(describe(extractor))
        if key not in extractors:
            extractors[key] = clone(extractor).fit(X)
        if key not in found:
            found[key] = extractors[key].transform(X)
        return found[key]

    return transform


def cross_fits(
    member: BaseEncoder, X: np.ndarray, betas: np.ndarray, folds: Folds
) -> Iterator[tuple[np.ndarray, BaseEncoder]]:
    """Test images of every fold, and a copy of the member fitted to the others."""
    for train, test in folds:
        fitted = clone(member)
        if "checkpoint_dir" in fitted.get_params(deep=False):
            fitted.set_params(checkpoint_dir=None)  # the member's own checkpoints stay
        yield test, fitted.fit(X[train], betas[train])
