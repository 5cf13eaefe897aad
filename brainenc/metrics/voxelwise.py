"""Scores across images, one number per voxel: Pearson r, R² and mean squared error.

Predictions and targets are arrays (n_images, n_voxels), float32 or float64, in memory or
memory-mapped; they are read once, in order. A NaN in the targets leaves that image out for that
voxel. A score that is not defined is NaN, never 0: a constant voxel has no correlation.

Every function takes `weights` (n_sets, n_images), how often each image counts in each set. Rows
of bootstrap counts give the score of every resample in one call, as matrix products:

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> targets = rng.standard_normal((50, 3))
>>> predictions = targets + rng.standard_normal((50, 3))
>>> counts = rng.multinomial(50, np.full(50, 1 / 50), size=1000)
>>> correlation(predictions, targets, weights=counts).shape
(1000, 3)
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.metrics._sums import (
    Differences,
    Statistic,
    check_pair,
    check_weights,
    first_finite,
    head_mean,
    lacks_values,
    pearson,
    round_off,
    suits_single,
    variance,
    weighted_sums,
)

#: From predictions and targets about a value of the voxel, and a function that gives their
#: difference, to what is summed over images.
Terms = Callable[[np.ndarray, np.ndarray, Callable[[], np.ndarray]], Sequence[Statistic]]
Sums = list[NDArray[np.float64]]


def correlation(
    predictions: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Pearson correlation across images, per voxel.

    Parameters
    ----------
    predictions, targets : array, shape (n_images, n_voxels)
        NaN in `targets` leaves that image out for that voxel.
    weights : array, shape (n_sets, n_images), optional
        How often each image counts in each set, >= 0 (bootstrap counts, say).

    Returns
    -------
    array, shape (n_voxels,) or, with weights, (n_sets, n_voxels)
        In [-1, 1]. NaN where the prediction or the target is constant over the images that count
        (up to the round-off of its dtype), where fewer than two images count, and where a
        prediction of an image with a target is not finite.

    Raises
    ------
    ValueError : shapes that do not match, negative or non-finite weights.
    """
    predictions, targets = check_pair(predictions, targets)
    x_floor = round_off(predictions, first_finite(predictions))
    y_floor = round_off(targets, first_finite(targets))

    def terms(x: np.ndarray, y: np.ndarray, difference: Any) -> Sequence[Statistic]:
        return x, y, (x, x), (y, y), (x, y)

    def finish(voxels: slice, sums: Sums) -> np.ndarray:
        # Round-off of sums in float32 takes an r of 1 some 1e-7 beyond.
        return np.clip(pearson(sums, x_floor[voxels], y_floor[voxels]), -1, 1)

    return _score(predictions, targets, weights, terms, finish)


def r_squared(
    predictions: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Coefficient of determination across images, per voxel: 1 − SS_res / SS_tot.

    SS_tot is taken about the (weighted) mean of the targets that are scored, so predicting that
    mean gives 0 and worse predictions give negative values; nothing is clipped. Unlike r², it
    punishes a wrong mean or gain.

    Parameters
    ----------
    predictions, targets : array, shape (n_images, n_voxels)
        In the same units. NaN in `targets` leaves that image out for that voxel.
    weights : array, shape (n_sets, n_images), optional
        How often each image counts in each set, >= 0.

    Returns
    -------
    array, shape (n_voxels,) or, with weights, (n_sets, n_voxels)
        In (-inf, 1]. NaN where the target is constant over the images that count, where fewer
        than two images count, and where a prediction of an image with a target is not finite.
        A constant prediction is defined.

    Raises
    ------
    ValueError : shapes that do not match, negative or non-finite weights.
    """
    predictions, targets = check_pair(predictions, targets)
    y_floor = round_off(targets, first_finite(targets))

    def terms(x: np.ndarray, y: np.ndarray, difference: Any) -> Sequence[Statistic]:
        error = difference()
        return y, (y, y), (error, error)

    def finish(voxels: slice, sums: Sums) -> np.ndarray:
        w, y, yy, residual = sums
        return 1 - residual / w / variance(w, y, yy, y_floor[voxels])

    return _score(predictions, targets, weights, terms, finish)


def mean_squared_error(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    scale: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Mean squared error across images, per voxel.

    Parameters
    ----------
    predictions, targets : array, shape (n_images, n_voxels)
        In the same units. NaN in `targets` leaves that image out for that voxel.
    weights : array, shape (n_sets, n_images), optional
        How often each image counts in each set, >= 0.
    scale : array, shape (n_voxels,), optional
        Divides predictions and targets; with the voxels' standard deviations the error is in z
        units. NaN or 0 gives NaN.

    Returns
    -------
    array, shape (n_voxels,) or, with weights, (n_sets, n_voxels)
        In squared units of the betas, or of `scale`. NaN where no image counts, and where a
        prediction of an image with a target is not finite.

    Raises
    ------
    ValueError : shapes that do not match, negative or non-finite weights, a negative scale.
    """
    predictions, targets = check_pair(predictions, targets)
    scale = _check_scale(scale, targets.shape[1])

    def finish(voxels: slice, sums: Sums) -> np.ndarray:
        return sums[1] / sums[0]

    return _score(predictions, targets, weights, _squared_error, finish) / scale**2


def mean_squared_error_to_trials(
    predictions: ArrayLike,
    betas: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    scale: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Mean squared error against single trials, per voxel.

    Every trial present counts once, so an image with three repeats counts three times. The
    error of a perfect model is the trial-to-trial noise variance, not 0.

    Parameters
    ----------
    predictions : array, shape (n_images, n_voxels)
    betas : array, shape (n_images, n_repeats, n_voxels)
        NaN where a repeat is missing.
    weights : array, shape (n_sets, n_images), optional
        How often each image, with all its trials, counts in each set, >= 0.
    scale : array, shape (n_voxels,), optional
        Divides predictions and betas, as in `mean_squared_error`.

    Returns
    -------
    array, shape (n_voxels,) or, with weights, (n_sets, n_voxels)
        NaN where no trial counts, and where a prediction of an image with trials is not finite.

    Raises
    ------
    ValueError : shapes that do not match, negative or non-finite weights, a negative scale.
    """
    betas = betas if isinstance(betas, np.ndarray) else np.asarray(betas)
    if betas.ndim != 3 or betas.shape[1] == 0:
        raise ValueError(
            f"betas {betas.shape} must be (n_images, n_repeats, n_voxels); "
            "for one trial per image, pass betas[:, None]"
        )
    pairs = [check_pair(predictions, betas[:, repeat]) for repeat in range(betas.shape[1])]
    scale = _check_scale(scale, betas.shape[2])
    sets = check_weights(weights, len(betas))
    error, n_trials = np.zeros((2, len(sets), betas.shape[2]))
    for x, y in pairs:
        for voxels, (w, squared) in _sums(x, y, sets, _squared_error):
            error[:, voxels] += squared
            n_trials[:, voxels] += w
    with np.errstate(divide="ignore", invalid="ignore"):
        result = _nan_if_infinite(error / n_trials) / scale**2
    return result if weights is not None else result[0]


def _squared_error(x: np.ndarray, y: np.ndarray, difference: Any) -> Sequence[Statistic]:
    error = difference()
    return ((error, error),)


def _score(
    predictions: np.ndarray,
    targets: np.ndarray,
    weights: ArrayLike | None,
    terms: Terms,
    finish: Callable[[slice, Sums], np.ndarray],
) -> NDArray[np.float64]:
    sets = check_weights(weights, len(targets))
    scores = np.empty((len(sets), targets.shape[1]))
    for voxels, sums in _sums(predictions, targets, sets, terms):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            scores[:, voxels] = finish(voxels, sums)
    scores = _nan_if_infinite(scores)
    return scores if weights is not None else scores[0]


def _sums(predictions: np.ndarray, targets: np.ndarray, sets: NDArray[np.float64], terms: Terms):
    """Weighted sums of 1 and of `terms(x, y, difference)`, over the images that have a target."""
    single = suits_single(predictions, targets)
    x_shift, y_shift = map(head_mean if single else first_finite, (predictions, targets))
    shifted_x, shifted_y, errors = Differences(), Differences(), Differences()

    def quick(images: slice, voxels: slice) -> Sequence[Statistic]:
        prediction, target = predictions[images, voxels], targets[images, voxels]
        x = shifted_x(prediction, x_shift[voxels], np.float32)
        y = shifted_y(target, y_shift[voxels], np.float32)
        error = functools.partial(errors, prediction, target, np.float32)
        return np.ones((len(y), 1)), *terms(x, y, error)

    def statistics(images: slice, voxels: slice) -> Sequence[Statistic]:
        prediction, target = predictions[images, voxels], targets[images, voxels]
        x = shifted_x(prediction, x_shift[voxels])
        y = shifted_y(target, y_shift[voxels])
        if not lacks_values(y):
            return np.ones((len(y), 1)), *terms(x, y, lambda: errors(prediction, target))
        missing = np.isnan(y)
        x[missing] = y[missing] = 0
        error = errors(prediction, target)
        error[missing] = 0
        return ~missing, *terms(x, y, lambda: error)

    return weighted_sums(statistics, sets, targets.shape[1], quick=quick if single else None)


def _nan_if_infinite(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(scores), scores, np.nan)


def _check_scale(scale: ArrayLike | None, n_voxels: int) -> NDArray[np.float64]:
    if scale is None:
        return np.ones(n_voxels)
    array = np.asarray(scale, dtype=np.float64)
    if array.shape != (n_voxels,):
        raise ValueError(f"scale {array.shape} must have one entry per voxel, ({n_voxels},)")
    if (array < 0).any():
        raise ValueError("scale must not be negative: it is a standard deviation")
    return np.where(array > 0, array, np.nan)
