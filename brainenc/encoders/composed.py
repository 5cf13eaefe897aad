"""Helpers of encoders made of other encoders: members that take arrays, and fits on folds."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import clone

from brainenc.data.images import looks_like_images
from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.describe import describe
from brainenc.encoders.inputs import extracted
from brainenc.encoders.sklearn_encoder import as_encoder
from brainenc.features.learned import (
    fit_nothing,
    fitted_extractor,
    learns,
    on_arrays,
    takes_features,
)
from brainenc.features.one_space import frozen, learns_any
from brainenc.model_selection import Folds
from brainenc.storage import fingerprint

#: Part of the message when a member had to be fitted and is not.
NOT_PREFIT = (
    'cv="prefit" takes fitted encoders, and this %(name)s is not; note that clone, and with it '
    "cross-validation, makes unfitted copies"
)


def for_arrays(member: BaseEncoder) -> BaseEncoder:
    """Unfitted copy that takes features as they are, or learns its own from them."""
    member = clone(member)
    own = member.get_params(deep=False).get("features")
    if own is not None and not _all_take_features(own):
        member.set_params(features=None)
    return member


def _all_take_features(features: Any) -> bool:
    parts = list(features.values()) if isinstance(features, Mapping) else [features]
    return bool(parts) and all(map(takes_features, parts))


def with_features(member: BaseEncoder, features: Any) -> BaseEncoder:
    """Unfitted copy with other features, where the encoder has any."""
    member = clone(member)
    if "features" in member.get_params(deep=False):
        member.set_params(features=clone(features))
    return member


def prepare_own(
    member: BaseEncoder, X: Any, transform: Callable[[Any], np.ndarray]
) -> tuple[BaseEncoder, Any]:
    """As `BaseEncoder.precompute`, with an array also where the encoder learns all its features.

    It then takes the images as rows of numbers, which can be joined with other features and
    divided into folds.
    """
    prepared, features = member.precompute(X, transform)
    extractor = getattr(prepared, "features", None)
    if features is not X or extractor is None or isinstance(extractor, str):
        return prepared, features
    if _all_take_features(extractor):
        return prepared, features
    if isinstance(extractor, Mapping):
        found = {name: on_arrays(part, X) for name, part in extractor.items()}
        extractor = {name: part for name, (part, _) in found.items()}
        features = next(iter(found.values()))[1]
    else:
        extractor, features = on_arrays(extractor, X)
    return prepared.set_params(features=extractor), features


def prepare(
    member: BaseEncoder, X: Any, transform: Callable[[Any], np.ndarray]
) -> tuple[BaseEncoder, Any]:
    """Unfitted copy that takes features of X, and these.

    They are all that can be computed once; features that are learned from them are left to the
    copy, which fits them to the images that it is fitted to (`inputs_of`).
    """
    prepared, features = prepare_own(member, X, transform)
    if features is X and looks_like_images(X):
        # MeanEncoder accepts images and uses none; other encoders raise the error.
        features = clone(member)._features_of(X, reset=True)
    return prepared, features


def inputs_of(member: BaseEncoder, features: np.ndarray) -> np.ndarray:
    """Features for the methods with an underscore of a fitted member that `prepare` prepared."""
    if not _all_take_features(getattr(member, "features_", None)):
        return features
    return member._features_of(features)


def extraction(X: Any, extractors: dict[str, Any]) -> Callable[[Any], np.ndarray]:
    """Function from extractor to features of X; equal extractors give the same array.

    Parameters
    ----------
    X : images
    extractors : dict of fingerprint to fitted extractor
        Missing extractors are fitted and added.
    """
    found: dict[str, np.ndarray] = {}

    def transform(extractor: Any) -> np.ndarray:
        key = fingerprint(describe(extractor))
        if key not in extractors:
            extractor = clone(extractor)
            fitted = fitted_extractor if learns(extractor) else fit_nothing
            extractors[key] = fitted(extractor, X)
        if key not in found:
            found[key] = extracted(extractors[key], X)
        return found[key]

    return transform


def fitted_on_arrays(member: BaseEncoder) -> BaseEncoder:
    """Copy of a fitted member that takes the features that it computes, or was given."""
    found: Any = copy.copy(member)
    if getattr(member, "features_", None) is None:
        return found
    found.features = None
    del found.features_
    shape = getattr(member, "feature_shape_", None)
    if isinstance(shape, Mapping):  # of several spaces, which are then side by side
        keeps = getattr(member, "_keeps_shapes", False)
        found.bands = {name: list(s) if keeps else math.prod(s) for name, s in shape.items()}
        found.feature_shape_ = [sum(math.prod(s) for s in shape.values())]
    return found


def with_extractor(member: BaseEncoder, source: BaseEncoder) -> BaseEncoder:
    """The member, fitted to features, with the parameter and the extractor of a fitted one.

    What the extractor has learned stays in later fits too: the member was adapted on its features.
    """
    for name in ("features", "features_", "feature_shape_", "bands"):
        if hasattr(source, name):
            setattr(member, name, getattr(source, name))
    if learns_any(extractor := getattr(member, "features_", None)):
        member.features = member.features_ = frozen(extractor)
    return member


def fit_member(
    member: BaseEncoder, X: np.ndarray, betas: np.ndarray, source: BaseEncoder | None = None
) -> tuple[BaseEncoder, np.ndarray]:
    """The member, fitted, and held-out predictions; adapted from a fitted `source`, if given."""
    if source is None:
        return member, member.fit_held_out(X, betas)
    if type(source).adapt is not BaseEncoder.adapt and not _says_how(source):
        # An `adapt` of the user's own, which gives no held-out predictions.
        return source.adapt(X, betas), np.full((len(betas), betas.shape[2]), np.nan, np.float32)
    return source.adapt_held_out(X, betas)


def _says_how(encoder: BaseEncoder) -> bool:
    """Whether the class that has `adapt`, or one below it, says how in `_adapting`."""
    for kind in type(encoder).__mro__:
        if "_adapting" in vars(kind):
            return True
        if "adapt" in vars(kind):
            return False
    return False


def cross_fits(
    member: BaseEncoder,
    X: np.ndarray,
    betas: np.ndarray,
    folds: Folds,
    source: BaseEncoder | None = None,
) -> Iterator[tuple[np.ndarray, BaseEncoder]]:
    """Test images of every fold, and a copy of the member fitted to the training images.

    What the member learns of its features is learnt from the training images too. With a fitted
    `source` it is adapted to the training images instead.
    """
    for train, test in folds:
        if source is not None:
            yield test, source.adapt(X[train], betas[train])
            continue
        fitted = clone(member)
        if "checkpoint_dir" in fitted.get_params(deep=False):
            fitted.set_params(checkpoint_dir=None)  # keep the member's own checkpoints
        yield test, fitted.fit(X[train], betas[train])


def cross_predictions(
    member: BaseEncoder,
    X: np.ndarray,
    betas: np.ndarray,
    folds: Folds,
    source: BaseEncoder | None = None,
) -> np.ndarray:
    """Predictions (n_images, n_voxels) of each fold's test images by its fit; NaN for others."""
    predictions = np.full((len(betas), betas.shape[2]), np.nan, dtype=np.float32)
    for test, fitted in cross_fits(member, X, betas, folds, source):
        predictions[test] = fitted.predict(X[test])
    return predictions


def named_encoders(encoders: Any) -> dict[str, BaseEncoder]:
    """Encoders by name.

    Parameters
    ----------
    encoders : list of encoders, list of (name, encoder), or dict
        Other regressors become encoders (`as_encoder`).

    Raises
    ------
    TypeError : `encoders` is not a list or dict, or an entry is not an encoder.
    ValueError : `encoders` is empty or repeats a name.
    """
    if isinstance(encoders, Mapping):
        pairs = list(encoders.items())
    elif isinstance(encoders, (list, tuple)):
        named = all(isinstance(item, tuple) and len(item) == 2 for item in encoders)
        pairs = list(encoders) if named else list(zip(_names_of(encoders), encoders, strict=True))
    else:
        raise TypeError(
            "encoders must be a list of encoders, a list of (name, encoder) or a dict, got "
            f"{type(encoders).__name__}"
        )
    pairs = [(name, as_encoder(member, str(name))) for name, member in pairs]
    if not pairs:
        raise ValueError("encoders is empty: a stack needs one encoder at least")
    for name, member in pairs:
        if not isinstance(member, BaseEncoder):
            raise TypeError(
                f"encoder {name!r} is {member!r}: members must be encoders, such as RidgeEncoder()"
            )
    if twice := [str(name) for name, count in Counter(n for n, _ in pairs).items() if count > 1]:
        raise ValueError(f"encoders has the names {twice} more than once")
    return {str(name): member for name, member in pairs}


def _names_of(encoders: Sequence[Any]) -> list[str]:
    names = [type(member).__name__.removesuffix("Encoder").lower() for member in encoders]
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name}-{seen[name]}" if names.count(name) > 1 else name)
    return numbered


def joined_features(arrays: Mapping[str, Any]) -> tuple[Any, dict[str, list[int]] | None]:
    """All features in one array, each once, with the columns of each member.

    Parameters
    ----------
    arrays : dict of name to array, shape (n_images, ...)
        Members with the same object share its columns.

    Returns
    -------
    features : array
        The only array, or all arrays flattened and side by side.
    inputs : dict of name to (first column, *shape of an image's features), or None for one array
    """
    parts: list[Any] = []
    for array in arrays.values():
        looks = 0 not in np.shape(array)[1:]  # MeanEncoder does not
        if looks and not any(array is part for part in parts):
            parts.append(array)
    if not parts:
        return np.zeros((len(next(iter(arrays.values()))), 1), dtype=np.float32), None
    if len(parts) == 1:
        return parts[0], None
    flat = [part.reshape(len(part), -1) for part in parts]
    starts = np.cumsum([0, *(part.shape[1] for part in flat)])
    inputs = {}
    for name, array in arrays.items():
        place = next((i for i, part in enumerate(parts) if part is array), 0)
        inputs[name] = [int(starts[place]), *parts[place].shape[1:]]
    return np.concatenate(flat, axis=1), inputs


def view(features: np.ndarray, start: int, *shape: int) -> np.ndarray:
    """Features (n_images, *shape) that begin at a column of a joined array."""
    stop = start + int(np.prod(shape))
    if features.ndim != 2 or stop > features.shape[1]:
        raise ValueError(
            f"inputs names columns {start} to {stop}, which features {features.shape} do not have"
        )
    return features[:, start:stop].reshape(len(features), *shape)
