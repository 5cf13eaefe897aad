"""Conditions of the study: rows that are added to the real ones, in each replicate."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from brainenc.augmentation.linear import Pairs
from brainenc.augmentation.rows import responses

NONE, REPEATED, JITTER, MIXED = (
    "none",
    "real rows repeated",
    "real rows with noise",
    "BiMixCo rows",
)
REAL_TRIALS = "real trials of the new images"
#: Both parameters of the beta distribution of mixed rows, as in MindEye.
BETA = 0.15


@dataclass(frozen=True)
class Replicate:
    """What one replicate has: scaled responses, targets, and features of the encoder.

    Attributes
    ----------
    real : Pairs
        One trial of each real image.
    real_features, new_features : arrays
        What encoders predict from; of real images and of new ones.
    new : Pairs
        One measured trial of each new image.
    ratio : int
        Added rows per real row.
    """

    real: Pairs
    real_features: np.ndarray
    new: Pairs
    new_features: np.ndarray
    ratio: int


def added_rows(
    replicate: Replicate,
    encoders: Mapping[str, Any],
    fitted: Mapping[str, Any],
    rng: np.random.Generator,
) -> Iterator[tuple[str, Pairs | None]]:
    """Name of each condition, and its added rows.

    Parameters
    ----------
    replicate : Replicate
    encoders : dict of name to fitted encoder
        Fitted to the real rows. The first gives the noise of jittered rows.
    fitted : dict of name to fitted encoder
        Adapted from another subject to the real rows.
    rng : Generator
    """
    real, ratio = replicate.real, replicate.ratio
    X, Y = np.tile(real.X, (ratio, 1)), np.tile(real.Y, (ratio, 1))
    yield NONE, None
    yield REPEATED, Pairs(X, Y)
    first = next(iter(encoders.values()))
    drawn = responses(first, replicate.real_features, ratio, "full", _seed(rng))
    noise = drawn - first.predict(replicate.real_features)[:, None]
    yield JITTER, Pairs(X + _stacked(noise), Y)
    partners, share = rng.integers(0, len(X), len(X)), rng.beta(BETA, BETA, len(X))[:, None]
    yield (
        MIXED,
        Pairs(share * X + (1 - share) * X[partners], share * Y + (1 - share) * Y[partners]),
    )
    for name, encoder in encoders.items():
        for noise_kind, label in ((None, "predictions"), ("full", "draws")):
            made = responses(encoder, replicate.new_features, 1, noise_kind, _seed(rng))[:, 0]
            yield f"{name}: {label}, new images", Pairs(made, replicate.new.Y)
            if noise_kind is not None:
                order = rng.permutation(len(made))
                yield f"{name}: {label}, images permuted", Pairs(made, replicate.new.Y[order])
            made = _stacked(
                responses(encoder, replicate.real_features, ratio, noise_kind, _seed(rng))
            )
            yield f"{name}: {label}, real images", Pairs(made, Y)
    for name, encoder in fitted.items():
        for noise_kind, label in ((None, "predictions"), ("full", "draws")):
            made = responses(encoder, replicate.new_features, 1, noise_kind, _seed(rng))[:, 0]
            yield f"{name}, adapted: {label}, new images", Pairs(made, replicate.new.Y)
            if noise_kind is not None:
                order = rng.permutation(len(made))
                yield (
                    f"{name}, adapted: {label}, images permuted",
                    Pairs(made, replicate.new.Y[order]),
                )
    yield REAL_TRIALS, replicate.new


def fit_encoders(encoders: Mapping[str, Any], replicate: Replicate) -> dict[str, Any]:
    """Copies of encoders, fitted to the real rows of a replicate and to nothing else."""
    betas = replicate.real.X[:, None]
    return {
        name: clone(encoder).fit(replicate.real_features, betas)
        for name, encoder in encoders.items()
    }


def controls_of(condition: str, all_conditions: list[str]) -> list[str]:
    """Conditions that an honest gain is above: repeated and jittered rows, permuted images."""
    encoder = condition.partition(":")[0]
    permuted = f"{encoder}: draws, images permuted"
    found = [REPEATED, JITTER, permuted]
    return [name for name in found if name != condition and name in all_conditions]


def _stacked(drawn: np.ndarray) -> np.ndarray:
    """Draws (n_images, n_draws, n_voxels) as rows in the order of tiled images."""
    return np.concatenate(list(np.swapaxes(drawn, 0, 1)))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))
