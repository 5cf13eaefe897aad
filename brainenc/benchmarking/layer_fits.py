"""Fits of a layer map: every layer on the same folds, the best one chosen in training images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.cross_decomposition import PLSRegression

from brainenc import metrics
from brainenc.benchmarking.intervals import mean_over_voxels
from brainenc.benchmarking.partition_bands import Source
from brainenc.devices import resolve_device
from brainenc.model_selection import Folds, bootstrap_weights, image_folds
from brainenc.process_state import own_settings
from brainenc.progress import progress
from brainenc.solvers.regression import RidgeRegression
from brainenc.solvers.voxels import flatten_tokens

#: Folds within the training images, in which penalties and layers are chosen.
INNER_FOLDS = 5
#: Components of partial least squares, as in Brain-Score.
PLS_COMPONENTS = 25
#: What a row of the tables stands for: the layers as given, or a control.
CONTROLS = ("", "untrained", "permuted")


@dataclass(frozen=True)
class LayerSettings:
    """How layers are fitted and resampled; see `brainenc.layer_map`."""

    score: str
    alphas: Any
    device: str
    n_bootstraps: int
    random_state: int


@dataclass(frozen=True)
class LayerScores:
    """r of every layer, on the test images of every fold.

    Attributes
    ----------
    inner, outer : arrays, shape (n_folds, n_layers, n_voxels)
        On held-out images within the training images, and on the test images.
    samples : array, shape (n_bootstraps, n_layers, n_places)
        Mean `outer` over the voxels of each place and over folds, of resampled test images.
    chosen : array of int, shape (n_folds, n_voxels)
        The layer with the largest `inner`; -1 where none is defined.
    best_samples : array, shape (n_bootstraps, n_places)
        As `samples`, of the chosen layers.
    """

    inner: np.ndarray
    outer: np.ndarray
    samples: np.ndarray
    chosen: np.ndarray
    best_samples: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """Mean r of the chosen layers on the test images over folds, (n_voxels,)."""
        at = np.maximum(self.chosen, 0)[:, None]
        found = np.take_along_axis(self.outer, at, axis=1)[:, 0]
        return mean_over_folds(np.where(self.chosen < 0, np.nan, found))


def mean_over_folds(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of finite values; NaN where there is none."""
    return np.asarray(mean_over_voxels(np.moveaxis(values, 0, -1)))


def choose_layers(inner: np.ndarray) -> np.ndarray:
    """Position of the largest score along the layers, the last axis but one; -1 without any."""
    undefined = ~np.isfinite(inner).any(axis=-2)
    best = np.where(np.isfinite(inner), inner, -np.inf).argmax(axis=-2)
    return np.where(undefined, -1, best)


def score_layers(
    sources: Mapping[str, Source],
    averages: np.ndarray,
    folds: Folds,
    places: Sequence[np.ndarray],
    settings: LayerSettings,
    *,
    order: np.ndarray | None = None,
    steps: Callable[[], None],
) -> LayerScores:
    """Fit every layer on every fold.

    Parameters
    ----------
    sources : dict of layer to Source
    averages : array, shape (n_images, n_voxels)
    folds : list of (train, test)
    places : sequence of arrays of int
        Voxels that means are taken over.
    settings : LayerSettings
    order : array of int, shape (n_images,), optional
        The image whose features an image gets: a permutation, for the control.
    steps : callable
        Called after each fit.
    """
    n_voxels = averages.shape[1]
    member = np.zeros((n_voxels, len(places)))
    for i, voxels in enumerate(places):
        member[voxels, i] = 1
    shape = len(folds), len(sources), n_voxels
    inner, outer = np.full(shape, np.nan), np.full(shape, np.nan)
    chosen = np.full((len(folds), n_voxels), -1)
    samples = np.zeros((len(folds), settings.n_bootstraps, len(sources), len(places)))
    best_samples = np.zeros((len(folds), settings.n_bootstraps, len(places)))
    for f, (train, test) in enumerate(folds):
        rows = (train, test) if order is None else (order[train], order[test])
        weights = bootstrap_weights(
            len(test), settings.n_bootstraps, random_state=settings.random_state + f
        )
        best = np.full((len(test), n_voxels), np.nan, np.float32)
        highest = np.full(n_voxels, -np.inf)
        for k, source in enumerate(sources.values()):
            with own_settings():
                held_out, predicted = _fit(source, rows, averages[train], settings)
            inner[f, k] = metrics.correlation(held_out, averages[train])
            outer[f, k] = metrics.correlation(predicted, averages[test])
            sampled = metrics.correlation(predicted, averages[test], weights=weights)
            samples[f, :, k] = _means(sampled, member)
            better = np.where(np.isfinite(inner[f, k]), inner[f, k], -np.inf) > highest
            best[:, better] = predicted[:, better]
            highest[better] = inner[f, k, better]
            steps()
        chosen[f] = choose_layers(inner[f])
        sampled = metrics.correlation(best, averages[test], weights=weights)
        best_samples[f] = _means(sampled, member)
    return LayerScores(
        inner, outer, mean_over_folds(samples), chosen, mean_over_folds(best_samples)
    )


def _means(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Means of finite values over the voxels of places, (n_sets, n_places)."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return (np.where(finite, values, 0) @ member) / (finite.astype(float) @ member)


def _fit(
    source: Source, rows: tuple[np.ndarray, np.ndarray], y: np.ndarray, settings: LayerSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of training images when they are held out, and of test images."""
    X, X_test = (flatten_tokens(part) for part in source.of_rows(*rows))
    if settings.score == "pls":
        return _fit_pls(X, X_test, y, settings)
    regression, held_out = RidgeRegression.fit(
        X,
        y,
        alphas=settings.alphas,
        cv=INNER_FOLDS,
        device=resolve_device(settings.device),
        random_state=settings.random_state,
    )
    return held_out, regression.predict(X_test)


def _fit_pls(
    X: np.ndarray, X_test: np.ndarray, y: np.ndarray, settings: LayerSettings
) -> tuple[np.ndarray, np.ndarray]:
    held_out = np.full(y.shape, np.nan, np.float32)
    folds = image_folds(INNER_FOLDS, len(X), random_state=settings.random_state)
    for train, test in folds:
        held_out[test] = _predicted_by_pls(X[train], y[train], X[test])
    return held_out, _predicted_by_pls(X, y, X_test)


def _predicted_by_pls(X: np.ndarray, y: np.ndarray, X_new: np.ndarray) -> np.ndarray:
    """Predictions, NaN from features that are all constant."""
    fitted = _pls(X, y)
    if fitted is None:
        return np.full((len(X_new), y.shape[1]), np.nan, np.float32)
    return fitted.predict(X_new).astype(np.float32)


def _pls(X: np.ndarray, y: np.ndarray) -> PLSRegression | None:
    # Components beyond what images and features span do not exist.
    rank = int(np.linalg.matrix_rank(X - X.mean(0)))
    return PLSRegression(min(PLS_COMPONENTS, rank), scale=False).fit(X, y) if rank else None


def fit_steps(n: int, verbose: bool) -> Callable[[], None]:
    """A progress bar over fits, moved by each call."""
    steps = iter(progress(range(n), desc="layers", unit="fit", verbose=verbose))
    next(steps, None)

    def step() -> None:
        next(steps, None)

    return step
