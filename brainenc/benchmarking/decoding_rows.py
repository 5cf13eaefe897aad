"""Rows of a decoding benchmark: what each decoder, null and reference gives in one fold."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import clone

from brainenc.benchmarking.decoding_inputs import (
    AVERAGE,
    SIGNAL,
    TRIAL,
    Fold,
    for_arrays,
    sees_images,
)
from brainenc.decoders import EncoderDecoder, RidgeDecoder
from brainenc.decoders.responses import VoxelScaling
from brainenc.encoders import RidgeEncoder
from brainenc.metrics import correlation, cosine_similarity, output_dimension
from brainenc.metrics.similarity import CENTRED, UNCENTRED
from brainenc.repeats import average_repeats
from brainenc.storage import fingerprint

#: Rows that are always there.
RIDGE, ENCODER = "ridge decoder", "ridge encoder as decoder"
PERMUTED, WHOLE, ROIS = "training images permuted", "mean of all voxels", "ROI means"
CATEGORY, REPEATS, CHANCE = "category known", "repeat against repeat", "chance"
#: Names that no decoder may have. Ridge and its encoder give way: "ridge decoder (reference)".
RESERVED = (CHANCE, PERMUTED, WHOLE, ROIS, CATEGORY, REPEATS)

#: Fewest training images from which ridge has a penalty for each dimension of the targets.
_PENALTY_PER_TARGET = 100


@dataclass(frozen=True)
class Outcome:
    """What a row gives for one kind of test responses in one fold.

    Attributes
    ----------
    row, responses : str
    images : array, shape (n_tested,)
        Positions of the tested images: ids of rows and columns.
    similarities : dict of label to array, shape (n_tested, n_tested)
        The first is the main one.
    errors, null_errors : arrays, shape (n_tested,)
        Squared error of each prediction, and of the mean of the training targets; empty if the row
        predicts no targets.
    r, dimension : float
        Mean over dimensions of r across images, and `brainenc.metrics.output_dimension`.
    roi : str
        ROI whose voxels alone were used; "" for all.
    """

    row: str
    responses: str
    images: np.ndarray
    similarities: dict[str, np.ndarray]
    errors: np.ndarray = field(default_factory=lambda: np.empty(0))
    null_errors: np.ndarray = field(default_factory=lambda: np.empty(0))
    r: float = float("nan")
    dimension: float = float("nan")
    roi: str = ""


@dataclass(frozen=True)
class Unit:
    """Rows that are fitted together.

    Attributes
    ----------
    name : str
        The decoder's, or that of the references.
    make : callable
        Takes a `Fold` and returns a list of `Outcome`.
    description : dict
    kind : str
        "" for decoders that were given, "reference" for others.
    """

    name: str
    make: Callable[[Fold], list[Outcome]]
    description: dict[str, Any]
    kind: str = ""


def of_predictions(
    fold: Fold, row: str, responses: str, predicted: np.ndarray, roi: str = ""
) -> Outcome:
    """Outcome of predicted targets of the test images."""
    mean = fold.targets.mean(axis=0, dtype=np.float64).reshape(-1)
    targets = fold.test_targets.reshape(len(fold.test), -1)
    flat = predicted.reshape(len(predicted), -1)
    similarities = {
        CENTRED: cosine_similarity(flat, targets, mean=mean),
        UNCENTRED: cosine_similarity(flat, targets),
    }
    return Outcome(
        *(row, responses, fold.test, similarities), **_errors(flat, targets, mean), roi=roi
    )


def _errors(predicted: np.ndarray, targets: np.ndarray, mean: np.ndarray) -> dict[str, Any]:
    r = correlation(predicted, targets)
    return {
        "errors": np.square(predicted - targets, dtype=np.float64).sum(axis=1),
        "null_errors": np.square(mean - targets, dtype=np.float64).sum(axis=1),
        "r": float(np.nanmean(r)) if np.isfinite(r).any() else float("nan"),
        "dimension": output_dimension(predicted, targets),
    }


def of_decoder(name: str, decoder: Any) -> Callable[[Fold], list[Outcome]]:
    """Outcomes of a decoder, fitted to the training images of a fold."""
    by_images = sees_images(decoder)
    copy = clone(decoder) if by_images else for_arrays(decoder)

    def make(fold: Fold) -> list[Outcome]:
        learnt, tested = (
            (fold.images, fold.test_images) if by_images else (fold.targets, fold.test_targets)
        )
        fitted = clone(copy).fit(fold.betas, learnt)
        found = []
        for responses, betas in fold.responses.items():
            more = {}
            if not by_images:
                flat = fitted.predict(betas).reshape(len(betas), -1)
                targets = fold.test_targets.reshape(len(betas), -1)
                more = _errors(flat, targets, fitted.target_mean_.reshape(-1))
            similarities = fitted.similarities(betas, tested)
            found.append(Outcome(name, responses, fold.test, similarities, **more))
        return found

    return make


def ridge_and_permuted(name: str, seed: int) -> Callable[[Fold], list[Outcome]]:
    """The ridge decoder, and the same with the training images' targets permuted.

    Both are columns of one regression, so that its decompositions are shared. With few images ridge
    has one penalty for all columns, and there are two fits.
    """

    def make(fold: Fold) -> list[Outcome]:
        n = len(fold.train)
        flat = fold.targets.reshape(n, -1)
        order = np.random.default_rng([seed, int(fold.train.sum())]).permutation(n)
        if n >= _PENALTY_PER_TARGET:
            both = np.concatenate([flat, flat[order]], axis=1)
            fitted = RidgeDecoder(targets=None).fit(fold.betas, both)
            parts = {
                kind: np.split(fitted.predict(betas), 2, axis=1)
                for kind, betas in fold.responses.items()
            }
        else:
            fits = [RidgeDecoder(targets=None).fit(fold.betas, Y) for Y in (flat, flat[order])]
            parts = {
                kind: [fit.predict(betas) for fit in fits] for kind, betas in fold.responses.items()
            }
        return [
            of_predictions(fold, row, kind, predicted)
            for kind, both in parts.items()
            for row, predicted in zip((name, PERMUTED), both, strict=True)
            if row == name or kind != SIGNAL
        ]

    return make


def of_means(rois: dict[str, np.ndarray]) -> Callable[[Fold], list[Outcome]]:
    """Ridge from the mean of all voxels, from ROI means, and from each ROI's voxels alone."""

    def make(fold: Fold) -> list[Outcome]:
        scaling = VoxelScaling.of(fold.betas)
        train = scaling.apply(fold.betas)
        tests = {k: scaling.apply(fold.responses[k]) for k in (AVERAGE, TRIAL)}

        def means(betas: np.ndarray, parts: list[Any]) -> np.ndarray:
            return np.stack([betas[..., part].mean(axis=2) for part in parts], axis=2)

        found = []
        kinds: dict[str, list[Any]] = {WHOLE: [slice(None)]}
        if rois:
            kinds[ROIS] = list(rois.values())
        for row, parts in kinds.items():
            decoder = _of_few_voxels().fit(means(train, parts), fold.targets)
            for kind, betas in tests.items():
                predicted = decoder.predict(means(betas, parts))
                found.append(of_predictions(fold, row, kind, predicted))
        for roi, voxels in rois.items():
            decoder = _of_few_voxels().fit(train[..., voxels], fold.targets)
            predicted = decoder.predict(tests[AVERAGE][..., voxels])
            found.append(of_predictions(fold, RIDGE, AVERAGE, predicted, roi))
        return found

    return make


def _of_few_voxels() -> RidgeDecoder:
    """Ridge from averages, in a fraction of the time: single trials help where voxels are many."""
    return RidgeDecoder(targets=None, train_on="averages")


def of_category(fold: Fold) -> list[Outcome]:
    """The mean target of the training images of the true category."""
    if fold.categories is None or fold.test_categories is None:
        return []
    mean = fold.targets.mean(axis=0)
    of = {c: fold.targets[fold.categories == c].mean(axis=0) for c in np.unique(fold.categories)}
    known = np.stack([of.get(c, mean) for c in fold.test_categories])
    return [of_predictions(fold, CATEGORY, AVERAGE, known)]


def of_repeats(fold: Fold) -> list[Outcome]:
    """The last trial of an image against the mean of its others, without a model."""
    present = np.isfinite(fold.test_betas).any(axis=2)
    several = np.flatnonzero(present.sum(axis=1) >= 2)
    if len(several) < 2:
        return []
    betas, present = fold.test_betas[several].copy(), present[several]
    last = present.shape[1] - 1 - present[:, ::-1].argmax(axis=1)
    rows = np.arange(len(several))
    one = betas[rows, last].copy()
    betas[rows, last] = np.nan
    # In units of trials: those of averages would weigh voxels with little signal more.
    sd = np.nanstd(fold.betas, axis=(0, 1))
    scaling = VoxelScaling(VoxelScaling.of(fold.betas).mean, np.where(sd > 0, sd, 1))
    pair = [scaling.apply(part) for part in (one, average_repeats(betas))]
    level = (scaling.mean / scaling.sd).astype(np.float64)
    similarities = {
        label: cosine_similarity(*(_without_mean(part + more) for part in pair))
        for label, more in ((CENTRED, 0.0), (UNCENTRED, level))
    }
    return [Outcome(REPEATS, TRIAL, fold.test[several], similarities)]


def _without_mean(patterns: np.ndarray) -> np.ndarray:
    return patterns - patterns.mean(axis=1, keepdims=True)


def reference_units(
    rois: dict[str, np.ndarray], ridge: str, encoder: str | None, seed: int
) -> list[Unit]:
    """Units of the rows that are always there.

    Parameters
    ----------
    rois : dict of name to positions of voxels
    ridge : str
        Name of the ridge decoder's row.
    encoder : str or None
        Name of the ridge encoder's row; None if it was given as a decoder.
    seed : int
    """
    # The same names may stand for other voxels, whose fits are others.
    of_rois = {roi: fingerprint(np.asarray(v, dtype=np.int64)) for roi, v in rois.items()}
    units = [
        Unit(ridge, ridge_and_permuted(ridge, seed), {"row": RIDGE}, "reference"),
        Unit(WHOLE, of_means(rois), {"row": WHOLE, "rois": of_rois}, "reference"),
        Unit(CATEGORY, of_category, {"row": CATEGORY}, "reference"),
        Unit(REPEATS, of_repeats, {"row": REPEATS}, "reference"),
    ]
    if encoder is not None:
        decoder = EncoderDecoder(RidgeEncoder(features=None))
        units.append(Unit(encoder, of_decoder(encoder, decoder), {"row": ENCODER}, "reference"))
    return units
