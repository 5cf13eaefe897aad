"""Inputs of each encoder: images, or features that are computed once and shared."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone

from brainenc.conversion import check_row_order, plain_array
from brainenc.data.encoding_data import EncodingData
from brainenc.documentation import see
from brainenc.encoders import MeanEncoder, RidgeEncoder, as_encoder, tokens
from brainenc.encoders.describe import describe
from brainenc.encoders.inputs import extracted
from brainenc.features.learned import fit_nothing, learns, share
from brainenc.storage import fingerprint

#: Images of which ridge uses all tokens, however many: their kernel is of 1 GiB.
MAX_KERNEL_IMAGES = 2**14


@dataclass(frozen=True)
class Entry:
    """An encoder with its input.

    Attributes
    ----------
    encoder : estimator, unfitted
    X : features (n_images, …), or images
    key : str
        Fingerprint of the features, and of what is learned from them; "images" for the images
        themselves.
    description : dict
        The given encoder, with its features.
    learned : transformer or None
        What the encoder learns from `X` before it is fitted, if anything.
    features : list of transformers
        As given, the encoder's own or its members'; empty for arrays.
    control : str
        Kind of a null control; "" for encoders.
    rows : array of int or None
        Row of `X` of each image, for permuted images; by default its own.
    of : tuple of str
        Encoders that a control is a control of.
    """

    encoder: BaseEstimator
    X: Any
    key: str
    description: dict[str, Any]
    learned: Any = None
    features: Any = ()
    control: str = ""
    rows: np.ndarray | None = None
    of: tuple[str, ...] = ()


class Inputs:
    """Features of one data set, each computed and fingerprinted once.

    Parameters
    ----------
    data : EncodingData
    verbose : bool
        Show the extractors' progress bars.
    """

    def __init__(self, data: EncodingData, verbose: bool):
        images = data.images
        self.images, self.voxels, self.verbose = images, data.voxels, verbose
        self._features: dict[str, np.ndarray] = {}
        self._keys: dict[int, str] = {id(images): "images"}
        self._alive: list[Any] = [images]  # ids are unique only while the objects live

    def transform(self, extractor: Any) -> np.ndarray:
        """Features of the images, of an extractor that learns nothing from them.

        The same array for the same features.

        Raises
        ------
        ValueError : the extractor learns; it must be fitted to training images.
        """
        if learns(extractor):
            raise ValueError(f"{extractor!r} learns from images: fit it to training images")
        key = fingerprint(describe(extractor))
        if key not in self._features:
            extractor = clone(extractor)
            if "verbose" in extractor.get_params(deep=False):
                extractor.set_params(verbose=self.verbose)
            self._features[key] = extracted(fit_nothing(extractor, self.images), self.images)
        return self._features[key]

    def entry(self, encoder: Any, features: Any, name: str | None = None) -> Entry:
        """Entry of an encoder; `features` (an array or a transformer) replace its own."""
        encoder = as_encoder(encoder, name)
        if not isinstance(encoder, BaseEstimator) or isinstance(encoder, type):
            raise TypeError(
                f"encoders must be scikit-learn estimators such as RidgeEncoder(), got {encoder!r}"
                + see("howto_pipeline")
            )
        description = describe(encoder)
        if hasattr(encoder, "with_voxels"):
            encoder = encoder.with_voxels(self.voxels)
        if features is not None:
            description["features"] = describe_features(features)
            prepared, X = self._given(encoder, features)
        elif hasattr(encoder, "precompute"):
            prepared, X = encoder.precompute(self.images, self.transform)
        else:
            prepared, X = clone(encoder), self.images
        learned = prepared.learned_features() if hasattr(prepared, "learned_features") else None
        if X is self.images and hasattr(getattr(prepared, "features", None), "transform"):
            learned = prepared.features  # of the images themselves
        key = self.key(X)
        if learned is not None:
            key = fingerprint(key, describe(learned))
        shown = _own_features(encoder) if features is None else [features]
        shown = [part for part in shown if hasattr(part, "transform")]
        return Entry(prepared, X, key, description, learned, features=shown)

    def _given(self, encoder: Any, features: Any) -> tuple[BaseEstimator, Any]:
        """The encoder that takes given features, and these."""
        if not (hasattr(features, "fit") and hasattr(features, "transform")):
            return _without_features(encoder), self._array(features)
        if not learns(features):
            return _without_features(encoder), self.transform(features)
        if "features" in encoder.get_params(deep=False) and hasattr(encoder, "precompute"):
            return (
                clone(encoder).set_params(features=features).precompute(self.images, self.transform)
            )
        rest, X = share(features, self.images, self.transform)
        from sklearn.pipeline import Pipeline

        return Pipeline([("features", rest), ("encoder", clone(encoder))]), X

    def _array(self, features: Any) -> np.ndarray:
        check_row_order(features=features, images=self.images)
        features = plain_array(features, "features")
        if len(features) != len(self.images):
            raise ValueError(
                f"features has {len(features)} rows, but there are {len(self.images)} images"
            )
        return features

    def key(self, X: Any) -> str:
        """Fingerprint of features, equal for arrays with equal values."""
        if id(X) not in self._keys:
            self._keys[id(X)] = fingerprint(np.asarray(X))
            self._alive.append(X)
        return self._keys[id(X)]


def _own_features(encoder: Any) -> list[Any]:
    """Extractors of an encoder and of its members."""
    found = [step for _, step in getattr(encoder, "steps", [])][:-1]
    own = getattr(encoder, "_given_features", getattr(encoder, "features", None))
    found += list(own.values()) if isinstance(own, Mapping) else [own]
    members = getattr(encoder, "encoders", None) or getattr(encoder, "encoder", None) or []
    if hasattr(own, "transform"):  # members get these, whatever theirs are
        return [part for part in found if part is not None]
    if isinstance(own, str) and own == "auto" and not members:
        from brainenc.features import OpenCLIPFeatures  # imports torch

        found.append(OpenCLIPFeatures(verbose=False))
    members = list(members.values()) if isinstance(members, Mapping) else members
    for member in members if isinstance(members, (list, tuple)) else [members]:
        found += _own_features(member[1] if isinstance(member, tuple) else member)
    return found


def describe_features(features: Any) -> Any:
    """Features given to the benchmark as plain values: extractors in full, arrays by shape."""
    if isinstance(features, Mapping):
        return {name: describe_features(part) for name, part in features.items()}
    if hasattr(features, "fit"):
        return describe(features)
    return None if features is None else {"array": list(np.shape(features))}


def _without_features(encoder: BaseEstimator) -> BaseEstimator:
    given = clone(encoder)
    if "features" in given.get_params(deep=False):
        given.set_params(features=None)
    return given


def collect(
    data: EncodingData,
    encoders: Mapping[str, BaseEstimator],
    features: Any,
    references: bool,
    verbose: bool,
    inputs: Inputs | None = None,
) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries by name, references first, and the errors of encoders whose features failed.

    Parameters
    ----------
    data, encoders, features, references, verbose
        As for `brainenc.benchmark`.
    inputs : Inputs, optional
        Features of the data, which may be used further.

    Returns
    -------
    entries : dict of name to Entry
    failed : dict of name to error

    Raises
    ------
    TypeError, ValueError : arguments that are invalid for any data.
    Exception : error of the first encoder, if the features of all encoders failed.
    """
    given = features if isinstance(features, Mapping) else dict.fromkeys(encoders, features)
    if unknown := [name for name in given if name not in encoders]:
        raise ValueError(f"features names {unknown}, but the encoders are {list(encoders)}")
    inputs = inputs or Inputs(data, verbose)
    entries: dict[str, Entry] = {}
    errors: dict[str, Exception] = {}
    for name, encoder in encoders.items():
        try:
            entries[str(name)] = inputs.entry(encoder, given.get(name), str(name))
        except (OSError, ImportError) as error:  # such as missing weights; the others continue
            errors[str(name)] = error
    if errors and not entries:
        raise next(iter(errors.values()))
    if references:
        entries = _references(entries, data, inputs) | entries
    return entries, {name: f"{type(error).__name__}: {error}" for name, error in errors.items()}


def _references(entries: dict[str, Entry], data: EncodingData, inputs: Inputs) -> dict[str, Entry]:
    """MeanEncoder, and ridge on each set of features without a ridge encoder.

    Ridge uses all tokens, unless the kernel of the images would fill the memory; see `for_ridge`.
    """
    found: dict[str, Entry] = {}

    def add(label: str, encoder: BaseEstimator, X: Any) -> None:
        while label in entries or label in found:
            label += " (reference)"
        found[label] = Entry(encoder, X, inputs.key(X), describe(encoder))

    if not any(isinstance(entry.encoder, MeanEncoder) for entry in entries.values()):
        add("mean", MeanEncoder(), data.images)
    has_ridge = {e.key for e in entries.values() if isinstance(e.encoder, RidgeEncoder)}
    for name, entry in entries.items():
        if entry.key not in has_ridge | {"images"}:
            label = f"ridge (for {name})" if has_ridge or "ridge" in entries else "ridge"
            has_ridge.add(entry.key)
            if entry.learned is None:
                add(label, RidgeEncoder(features=None), for_ridge(entry.X))
            else:
                add(label, RidgeEncoder(features=entry.learned), entry.X)
    return found


def for_ridge(X: Any) -> Any:
    """Features of the reference ridge: all tokens, or averages if neither form fits the memory.

    The kernel form reads tokens of any size from their file. With more images than
    `MAX_KERNEL_IMAGES` its kernel is too large, and the primal form needs fewer features.
    """
    if getattr(X, "ndim", 0) != 3 or 4 * X.size <= tokens.TOKENS_IN_MEMORY:
        return X
    if len(X) <= MAX_KERNEL_IMAGES:
        return X
    return tokens.linear_features(X)


def ridges_with_reference_rows(entries: Mapping[str, Entry]) -> set[str]:
    """Names of the ridge encoders that get reference rows.

    One for each set of features that another kind of encoder uses too, else the first: more rows
    would be redundant.
    """
    ridges = {name: e.key for name, e in entries.items() if type(e.encoder) is RidgeEncoder}
    others = {entry.key for name, entry in entries.items() if name not in ridges}
    by_features = {key: name for name, key in reversed(ridges.items())}
    return {name for key, name in by_features.items() if key in others} or set(list(ridges)[:1])
