"""What a decoding benchmark learns from and tests: responses, targets and labels of every fold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone

from brainenc.arrays import varies
from brainenc.benchmarking.image_names import image_names
from brainenc.benchmarking.inputs import Inputs, describe_features
from brainenc.conversion import check_row_order, column, numeric_array
from brainenc.data.encoding_data import EncodingData
from brainenc.data.images import take_images
from brainenc.decoders import Decoder, EncoderDecoder
from brainenc.decoders.responses import check_every_voxel
from brainenc.documentation import see
from brainenc.encoders import BaseEncoder
from brainenc.encoders.inputs import extracted
from brainenc.features.learned import fitted_extractor, share
from brainenc.storage import fingerprint

#: Kinds of test responses.
AVERAGE, TRIAL, SIGNAL = "average", "one trial", "noise-free signal"


@dataclass(frozen=True)
class Fold:
    """One split: positions of its images, and their betas, targets and labels.

    Attributes
    ----------
    train, test : arrays of int
        Positions of images in the data: the ids of rows and columns of similarities.
    betas : array, shape (n_train, n_repeats, n_voxels)
    targets, test_targets : arrays, one row per image
    responses : dict of kind to array, shape (n_test, n_repeats, n_voxels)
    test_betas : array, shape (n_test, n_repeats, n_voxels)
    categories, test_categories : arrays of str, or None
    images, test_images : images
    """

    train: np.ndarray
    test: np.ndarray
    betas: np.ndarray
    test_betas: np.ndarray
    targets: np.ndarray
    test_targets: np.ndarray
    responses: dict[str, np.ndarray]
    categories: np.ndarray | None
    test_categories: np.ndarray | None
    images: Any
    test_images: Any


class DecodingInputs:
    """Data of a decoding benchmark, and its targets.

    Parameters
    ----------
    data : EncodingData
    targets : array, one row per image, or transformer
    category : str, array or None
        Column of the table of stimuli, or one label per image.
    verbose : bool

    Attributes
    ----------
    names : list of str
        Name of each image; its position where it has none.
    categories : array of str or None
    signal : array, shape (n_images, n_voxels), or None
        Expected responses of a simulated subject in the units of the betas.
    """

    def __init__(self, data: EncodingData, targets: Any, category: Any, verbose: bool):
        check_every_voxel(data.betas)
        self.data = data
        self.inputs = Inputs(data, verbose)
        self.description = describe_features(targets)
        self._learned: Any = None
        if hasattr(targets, "fit") and hasattr(targets, "transform"):
            self._learned, self._X = share(targets, data.images, self.inputs.transform)
        else:
            self._X = _check_array(targets, data)
        self._n_constant = self._n_dimensions = 0
        self.names = _names(data)
        self.categories = _categories(data, category)
        self.signal = _signal(data)
        self.key = fingerprint(
            self.inputs.key(self._X),
            self.description,
            None if self.categories is None else self.categories.tolist(),
            self.signal,
        )

    def fold(self, train: np.ndarray, test: np.ndarray) -> Fold:
        """Parts of one fold; extractors that learn are fitted to its training images."""
        data, labels = self.data, self.categories
        X = self._X
        if self._learned is not None:
            extractor = fitted_extractor(clone(self._learned), _rows(X, train))
            learnt, tested = (extracted(extractor, _rows(X, part)) for part in (train, test))
        else:
            learnt, tested = X[train], X[test]
        learnt, tested = self._varying(np.asarray(learnt), np.asarray(tested))
        betas = data.betas[test]
        responses = {AVERAGE: betas, TRIAL: first_trials(betas)}
        if self.signal is not None:
            responses[SIGNAL] = self.signal[test][:, None]
        return Fold(
            *(train, test, data.betas[train], betas, learnt, tested, responses),
            categories=None if labels is None else labels[train],
            test_categories=None if labels is None else labels[test],
            images=_rows(data.images, train),
            test_images=_rows(data.images, test),
        )

    @property
    def notes(self) -> list[str]:
        """What was left out of the targets of the folds so far."""
        if not self._n_constant:
            return []
        return [
            f"Targets have up to {self._n_constant} of {self._n_dimensions} dimensions that are "
            "constant over the training images of a fold: these are left out, as no response can "
            "predict them."
        ]

    def _varying(self, learnt: np.ndarray, tested: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Targets without dimensions that are constant over the training images."""
        flat = learnt.reshape(len(learnt), -1)
        kept = varies(flat.mean(axis=0, dtype=np.float64), flat.std(axis=0))
        if kept.all():
            return learnt, tested
        self._n_constant = max(self._n_constant, int((~kept).sum()))
        self._n_dimensions = len(kept)
        return flat[:, kept], tested.reshape(len(tested), -1)[:, kept]


def _rows(images: Any, index: np.ndarray) -> Any:
    return take_images(images, index)


def first_trials(betas: np.ndarray) -> np.ndarray:
    """The first trial that is there of each image, (n_images, 1, n_voxels)."""
    present = np.isfinite(betas).any(axis=2)
    return betas[np.arange(len(betas)), present.argmax(axis=1)][:, None]


def _check_array(targets: Any, data: EncodingData) -> np.ndarray:
    if targets is None or isinstance(targets, str):
        raise TypeError(
            f"targets={targets!r} must be an array with one row per image, or an extractor such as "
            "brainenc.GaborPyramid()" + see("decoding")
        )
    check_row_order(targets=targets, images=data.images)
    array = numeric_array(targets, "targets")
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim not in (2, 3) or len(array) != data.n_images:
        raise ValueError(
            f"targets {array.shape} must be (n_images, n_dimensions) or (n_images, n_tokens, "
            f"width), with a row for each of {data.n_images} images"
        )
    flat = array.reshape(len(array), -1)
    bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
    if bad.size:
        raise ValueError(
            f"targets {array.shape} contain NaN or infinity for {bad.size} images (first in row "
            f"{bad[0]}): correct or leave out those images"
        )
    constant = np.flatnonzero(~varies(flat.mean(axis=0, dtype=np.float64), flat.std(axis=0)))
    if constant.size:
        raise ValueError(
            f"targets {array.shape} are constant over images in {constant.size} dimensions (first: "
            f"{constant[0]}): leave these out, targets[:, targets.std(axis=0) > 0]"
        )
    return array


def _names(data: EncodingData) -> list[str]:
    """Names of images: a column "name" of the stimuli, those of their files, or positions."""
    if "name" in data.stimuli:
        return data.stimuli["name"].astype(str).tolist()
    return image_names(data) or [str(i) for i in range(data.n_images)]


def _categories(data: EncodingData, category: Any) -> np.ndarray | None:
    if category is None:
        if "category" in data.stimuli:
            return _categories(data, "category")
        found = getattr(data.truth, "category", None)
        return None if found is None else _complete(np.asarray(found), "the simulated subject")
    source = "category"
    if isinstance(category, str):
        if category not in data.stimuli:
            raise ValueError(
                f"category={category!r} is no column of the table of stimuli, which has "
                f"{list(data.stimuli.columns)}; give one label per image"
            )
        source = f"the column {category!r} of the table of stimuli"
        category = data.stimuli[category].to_numpy()
    check_row_order(category=category, images=data.images)
    labels = column(category, "category", "n_images")
    if len(labels) != data.n_images:
        raise ValueError(f"category has {len(labels)} labels, but there are {data.n_images} images")
    return _complete(labels, source)


def _complete(labels: np.ndarray, source: str) -> np.ndarray:
    """Labels as text; missing ones are no category of their own."""
    found = labels.astype(str)
    missing = np.flatnonzero(pd.isna(labels) | (np.char.strip(found) == ""))
    if missing.size:
        raise ValueError(
            f"{source} has no label for {missing.size} of {len(labels)} images (first: row "
            f"{missing[0]}): give category= with a label for each image, or leave these images "
            "out, data.select(images=...)"
        )
    return found


def _signal(data: EncodingData) -> np.ndarray | None:
    """Expected single trial of each image, over sessions, in the units of the betas."""
    if data.truth is None or not hasattr(data.truth, "drift"):
        return None
    drift = data.truth.drift
    return (drift.share @ drift.gain) * data.truth.signal + drift.share @ drift.offset


# -------------------------------------------------------------------- decoders


def as_decoders(decoders: Any, reserved: Sequence[str] = ()) -> dict[str, BaseEstimator]:
    """Decoders by name; an encoder becomes an `EncoderDecoder`.

    Parameters
    ----------
    decoders : dict of name to decoder or encoder
    reserved : list of str
        Names of rows that are always there, which no decoder may have.

    Raises
    ------
    TypeError : no dict, or something that is neither decoder nor encoder.
    ValueError : a name that is empty, reserved, or as text that of another decoder.
    """
    if not isinstance(decoders, Mapping):
        raise TypeError(
            "decoders must be a dict of name to decoder, such as {'ridge': RidgeDecoder()}, got "
            f"{type(decoders).__name__}"
        )
    found: dict[str, BaseEstimator] = {}
    for name, decoder in decoders.items():
        if not str(name).strip() or not str(name).isprintable():
            raise ValueError(f"the decoder name {str(name)!r} is empty or cannot be printed")
        if str(name) in reserved:
            raise ValueError(
                f"the decoder name {str(name)!r} is that of a row that is always in the tables: "
                f"give it another one than {', '.join(map(repr, reserved))}"
            )
        if str(name) in found:
            raise ValueError(
                f"decoders has the name {str(name)!r} twice, as text: {list(decoders)}; rename one"
            )
        if isinstance(decoder, BaseEncoder):
            decoder = EncoderDecoder(decoder)
        if not isinstance(decoder, Decoder):
            raise TypeError(
                f"{name!r} must be a decoder, or an encoder to be used as one, got {decoder!r}"
            )
        if getattr(decoder, "prefit", False):
            raise ValueError(
                f"{name!r} has prefit=True: an encoder that was fitted before may know the test "
                "images; give it unfitted"
            )
        own = decoder.get_params(deep=False).get("targets")
        if own is not None and not isinstance(own, str):
            raise ValueError(
                f"{name!r} has targets={own!r}, and all decoders are compared by the benchmark's "
                "targets=: leave out those of the decoder"
            )
        found[str(name)] = decoder
    return found


def sees_images(decoder: Any) -> bool:
    """Whether a decoder is an encoder that computes features of its own from images."""
    encoder = getattr(decoder, "encoder", None)
    features = getattr(encoder, "_given_features", None)
    return isinstance(encoder, BaseEncoder) and not isinstance(features, str | None)


def for_arrays(decoder: Any) -> Any:
    """Copy of a decoder that takes arrays of targets, whatever its own extractor."""
    copy = clone(decoder)
    if "targets" in copy.get_params(deep=False):
        copy.set_params(targets=None)
    return copy


def pool_size_for(pool_size: int | None, tests: Sequence[np.ndarray]) -> int:
    """Images in a pool: 300, or as many as the smallest test fold has.

    Raises
    ------
    ValueError : a fold has fewer test images than the pool size that was given.
    """
    smallest = min(map(len, tests))
    if pool_size is None:
        return min(300, smallest)
    if not 2 <= pool_size <= smallest:
        raise ValueError(
            f"pool_size={pool_size} must be between 2 and the number of test images of the "
            f"smallest fold, {smallest}; lower it or use fewer folds"
        )
    return int(pool_size)
