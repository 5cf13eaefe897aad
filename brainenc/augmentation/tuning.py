"""Decoders of a replicate: any decoder of the contract, with the weight of added rows chosen."""

import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import clone

from brainenc import metrics
from brainenc.augmentation.linear import WEIGHTS, Pairs, tuned_ridge
from brainenc.metrics.similarity import CENTRED, CSLS, UNCENTRED

#: Weights of added rows for a decoder without `sample_weight`: left out, or as real rows.
OUT_OR_IN = (0.0, 1.0)


@dataclass(frozen=True)
class Decoded:
    """Test images as the best decoder of a condition sees them.

    Attributes
    ----------
    predicted : array, shape (n_test, n_dimensions)
    similarities : dict of label to array, shape (n_test, n_test)
        Centred, uncentred, CSLS; the mean of the real targets is that of all conditions.
    chosen : dict
        weight of the added rows; penalty, of a ridge decoder.
    """

    predicted: np.ndarray
    similarities: dict[str, np.ndarray]
    chosen: dict[str, float]


@dataclass
class RidgeFits:
    """Ridge in closed form: penalty and weight with the least squared error on tuning images."""

    real: Pairs
    tuning: Pairs
    test: Pairs

    def decoded(self, added: Pairs | None) -> Decoded:
        """With added rows, or without."""
        best = tuned_ridge(self.real, added, self.tuning, self.test.X)
        similarities = metrics.similarities(
            best.predicted, self.test.Y, training_mean=self.real.Y.mean(axis=0)
        )
        return Decoded(
            best.predicted, similarities, {"weight": best.weight, "penalty": best.penalty}
        )


@dataclass
class DecoderFits:
    """Fits of a decoder: the weight of added rows that identifies tuning images best.

    Attributes
    ----------
    decoder : Decoder, unfitted
        On equal terms for all numbers of rows (see `on_equal_terms`).
    shape : tuple of int
        Of a target.
    """

    real: Pairs
    tuning: Pairs
    test: Pairs
    decoder: Any
    shape: tuple[int, ...]
    _alone: tuple[float, Any] | None = field(default=None, repr=False)

    def decoded(self, added: Pairs | None) -> Decoded:
        """With added rows, or without."""
        if self._alone is None:  # the same fit for every condition
            self._alone = self._fitted([self.real], None)
        error, best, weight = *self._alone, 0.0
        takes_weights = "sample_weight" in inspect.signature(self.decoder.fit).parameters
        tried = () if added is None else (WEIGHTS if takes_weights else OUT_OR_IN)[1:]
        for each in tried:
            assert added is not None
            mass = np.repeat([1.0, each], [len(self.real.X), len(added.X)])
            found = self._fitted([self.real, added], mass if takes_weights else None)
            if found[0] < error:
                (error, best), weight = found, each
        predicted = np.asarray(best.predict(self.test.X)).reshape(len(self.test.X), -1)
        return Decoded(predicted, _similarities(best, self.test, self.shape), {"weight": weight})

    def _fitted(self, rows: list[Pairs], mass: np.ndarray | None) -> tuple[float, Any]:
        """Error on the tuning images, and the fitted decoder."""
        how: dict[str, Any] = {}
        if mass is not None:
            how["sample_weight"] = mass
        if "validation" in inspect.signature(self.decoder.fit).parameters:
            how["validation"] = (self.tuning.X, self._shaped(self.tuning.Y))
        X = np.concatenate([part.X for part in rows]).astype(np.float32)
        targets = self._shaped(np.concatenate([part.Y for part in rows]))
        fitted = clone(self.decoder).fit(X, targets, **how)
        # Added rows have other targets: all conditions are centred by those of the real rows.
        fitted.target_mean_ = self.real.Y.mean(axis=0).reshape(self.shape)
        similarity = _similarities(fitted, self.tuning, self.shape)[CENTRED]
        return identification_error(similarity), fitted

    def _shaped(self, targets: np.ndarray) -> np.ndarray:
        return targets.reshape(len(targets), *self.shape).astype(np.float32)


def identification_error(similarity: np.ndarray) -> float:
    """Share of wrong pairs that are more similar than the right one, mean of both directions.

    Parameters
    ----------
    similarity : array, shape (n, n)
        Row i and column i belong together. Ties are half wrong, as is what is undefined.

    Examples
    --------
    >>> identification_error(np.eye(3)), identification_error(np.ones((3, 3)))
    (0.0, 0.5)
    """
    own = np.diag(similarity)
    wrong = 0.0
    for values in (similarity, similarity.T):
        above = np.where(values > own[:, None], 1.0, 0.0)
        above[~(np.not_equal(values, own[:, None]))] = 0.5
        above[np.isnan(values) | np.isnan(own)[:, None]] = 0.5
        np.fill_diagonal(above, 0)
        wrong += above.sum() / (len(own) * (len(own) - 1))
    return float(wrong / 2)


def on_equal_terms(decoder: Any, fewest: int, most: int) -> Any:
    """Unfitted copy whose steps and batches are the same for all numbers of rows in a range.

    Parameters
    ----------
    decoder : Decoder
        One that is trained by steps has a method `on_equal_terms` (see
        `brainenc.MindEyeDecoder`); others are the same for all anyway.
    fewest, most : int
        Numbers of rows.
    """
    if hasattr(decoder, "on_equal_terms"):
        return decoder.on_equal_terms(fewest, most)
    return clone(decoder)


def _similarities(decoder: Any, pairs: Pairs, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    candidates = pairs.Y.reshape(len(pairs.Y), *shape).astype(np.float32)
    X = pairs.X.astype(np.float32)
    centred = np.asarray(decoder.similarity(X, candidates), np.float64)
    return {
        CENTRED: centred,
        UNCENTRED: np.asarray(decoder.similarity(X, candidates, center=False), np.float64),
        CSLS: metrics.csls(centred, min(10, *centred.shape)),
    }
