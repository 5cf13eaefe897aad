"""Helpers of encoders made of other encoders: members that take arrays, and fits on folds."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import clone

from brainenc.data.images import looks_like_images
from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.describe import describe
from brainenc.encoders.inputs import extracted, fitted_extractor
from brainenc.model_selection import Folds
from brainenc.storage import fingerprint

#: Part of the message when a member had to be fitted and is not.
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
    """Unfitted copy that takes features, and its features of X."""
    prepared, features = member.precompute(X, transform)
    if features is X and looks_like_images(X):
        # MeanEncoder accepts images and uses none; other encoders raise the error.
        features = clone(member)._features_of(X, reset=True)
    return prepared, features


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
            extractors[key] = fitted_extractor(clone(extractor), X)
        if key not in found:
            found[key] = extracted(extractors[key], X)
        return found[key]

    return transform


def cross_fits(
    member: BaseEncoder, X: np.ndarray, betas: np.ndarray, folds: Folds
) -> Iterator[tuple[np.ndarray, BaseEncoder]]:
    """Test images of every fold, and a copy of the member fitted to the training images."""
    for train, test in folds:
        fitted = clone(member)
        if "checkpoint_dir" in fitted.get_params(deep=False):
            fitted.set_params(checkpoint_dir=None)  # keep the member's own checkpoints
        yield test, fitted.fit(X[train], betas[train])


def named_encoders(encoders: Any) -> dict[str, BaseEncoder]:
    """Encoders by name.

    Parameters
    ----------
    encoders : list of encoders, list of (name, encoder), or dict

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
