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
import operator
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.metrics.sums import (
    check_matrix,
    check_pair,
    check_weights,
    first_finite,
    pearson,
    round_off,
    suits_compiled,
    variance,
    weighted_sums,
)
from brainenc.numeric import as_doubles, as_numbers

Sums = Sequence[NDArray[np.float64]]


def correlation(
    predictions: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Pearson correlation across images, per voxel.

    Parameters
    ----------
    predictions, targets : array, shape (n_images, n_voxels)
        NaN in `targets` leaves that image out for that voxel.
    weights : array, shape (n_sets, n_images), optional
        Count of each image in each set, >= 0, such as bootstrap counts.

    Returns
    -------
    array, shape (n_voxels,) or, with weights, (n_sets, n_voxels)
        In [-1, 1]. NaN where the prediction or the target is constant over the images that count
        (up to the round-off of its dtype), where fewer than two images count, and where a
        prediction of an image with a target is not finite.

    Raises
    ------
    ValueError : shapes that do not match, negative or non-finite weights.

    Examples
    --------
    >>> targets = [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]  # the second voxel is constant
    >>> correlation([[1.0, 1.0], [2.0, 2.0], [3.0, 1.0]], targets)
    array([ 1., nan])
    """
    predictions, targets = check_pair(predictions, targets)
    x_floor = round_off(predictions, first_finite(predictions))
    y_floor = round_off(targets, first_finite(targets))

    def finish(voxels: slice, sums: Sums) -> np.ndarray:
        # Round-off can make r exceed 1 by about 1e-16.
        return np.clip(pearson(sums, x_floor[voxels], y_floor[voxels]), -1, 1)

    return _score(predictions, targets, weights, ("x", "y", "xx", "yy", "xy"), finish)


def r_squared(
    predictions: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Coefficient of determination across images, per voxel: 1 − SS_res / SS_tot.

    SS_tot is taken about the (weighted) mean of the scored targets, so predicting that mean gives 0
    and worse predictions are negative; nothing is clipped. Unlike r², it depends on the mean and
    gain of predictions.

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

    Examples
    --------
    >>> targets = [[1.0], [2.0], [3.0]]
    >>> r_squared(targets, targets)
    array([1.])
    >>> abs(r_squared([[2.0], [2.0], [2.0]], targets).round(6))  # the mean
    array([0.])
    """
    predictions, targets = check_pair(predictions, targets)
    y_floor = round_off(targets, first_finite(targets))

    def finish(voxels: slice, sums: Sums) -> np.ndarray:
        w, y, yy, residual = sums
        return 1 - residual / w / variance(w, y, yy, y_floor[voxels])

    return _score(predictions, targets, weights, ("y", "yy", "ee"), finish)


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

    return _score(predictions, targets, weights, ("ee",), finish) / scale**2


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
    betas = as_numbers(betas, "betas")
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
        for voxels, (w, squared) in _sums(x, y, sets, ("ee",)):
            error[:, voxels] += squared
            n_trials[:, voxels] += w
    with np.errstate(divide="ignore", invalid="ignore"):
        result = _nan_if_infinite(error / n_trials) / scale**2
    return result if weights is not None else result[0]


def _score(
    predictions: np.ndarray,
    targets: np.ndarray,
    weights: ArrayLike | None,
    terms: Sequence[str],
    finish: Callable[[slice, Sums], np.ndarray],
) -> NDArray[np.float64]:
    sets = check_weights(weights, len(targets))
    scores = np.empty((len(sets), targets.shape[1]))
    for voxels, sums in _sums(predictions, targets, sets, terms):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            scores[:, voxels] = finish(voxels, sums)
    scores = _nan_if_infinite(scores)
    return scores if weights is not None else scores[0]


def _sums(
    predictions: np.ndarray,
    targets: np.ndarray,
    sets: NDArray[np.float64],
    terms: Sequence[str],
    *,
    counted: bool = True,
) -> Iterator[tuple[slice, Sums]]:
    """Weighted sums of 1, if `counted`, and of products, over the images that have a target.

    Names of terms use x and y, predictions and targets about a value of the voxel, and e, their
    difference: "xy" is the sum of x · y.
    """
    n_voxels = targets.shape[1]
    shift = {"x": first_finite(predictions), "y": first_finite(targets)}
    if suits_compiled(targets, sets):
        from brainenc.metrics import _compiled  # Numba takes a second to import

        if "ee" in terms:
            found = _compiled.errors(predictions, targets, shift["y"])
        else:
            found = _compiled.moments(predictions, targets, shift["x"], shift["y"])
        names = ("1", *terms) if counted else terms
        yield slice(0, n_voxels), [found[name][None] for name in names]
        return

    letters = set("".join(terms))

    def statistics(images: slice, voxels: slice) -> Sequence[np.ndarray]:
        x = np.asarray(predictions[images, voxels], dtype=np.float64)
        y = np.asarray(targets[images, voxels], dtype=np.float64)
        missing = np.isnan(y)
        values = {}
        if "x" in letters:
            values["x"] = x - shift["x"][voxels]
        if "y" in letters:
            values["y"] = y - shift["y"][voxels]
        if "e" in letters:
            values["e"] = x - y
        if missing.any():
            for value in values.values():
                value[missing] = 0
        else:
            missing = missing[:, :1]
        products = (
            functools.reduce(operator.mul, (values[letter] for letter in term)) for term in terms
        )
        return (~missing, *products) if counted else tuple(products)

    yield from weighted_sums(statistics, sets, n_voxels)


class Correlations:
    """`correlation` of several predictions with the same targets, for sets of weights.

    Weighted sums of the targets alone are computed once.

    Parameters
    ----------
    targets : array, shape (n_images, n_voxels)
    weights : array, shape (n_sets, n_images)

    Examples
    --------
    >>> targets = np.random.default_rng(0).standard_normal((50, 3))
    >>> with_targets = Correlations(targets, np.ones((2, 50)))
    >>> with_targets(2 * targets + 1).round(6)
    array([[1., 1., 1.],
           [1., 1., 1.]])
    """

    def __init__(self, targets: ArrayLike, weights: ArrayLike):
        self.targets = check_matrix(targets, "targets")
        self.sets = check_weights(weights, len(self.targets))

    @functools.cached_property
    def _of_targets(self) -> list[Sums]:
        """Sums of 1, y and y², by blocks of voxels."""
        zeros = np.broadcast_to(np.zeros(1, self.targets.dtype), self.targets.shape)
        found = _sums(zeros, self.targets, self.sets, ("y", "yy"))
        return [sums for _, sums in found]

    def __call__(self, predictions: ArrayLike) -> NDArray[np.float64]:
        """Correlations, shape (n_sets, n_voxels)."""
        predictions, targets = check_pair(predictions, self.targets)
        if not predictions.any():  # such as the mean response, centred
            return np.full((len(self.sets), targets.shape[1]), np.nan)
        x_floor = round_off(predictions, first_finite(predictions))
        y_floor = round_off(targets, first_finite(targets))
        scores = np.empty((len(self.sets), targets.shape[1]))
        blocks = _sums(predictions, targets, self.sets, ("x", "xx", "xy"), counted=False)
        for (voxels, (x, xx, xy)), (w, y, yy) in zip(blocks, self._of_targets, strict=True):
            r = pearson((w, x, y, xx, yy, xy), x_floor[voxels], y_floor[voxels])
            with np.errstate(invalid="ignore"):
                np.clip(r, -1, 1, out=scores[:, voxels])
        return _nan_if_infinite(scores)


def _nan_if_infinite(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(scores), scores, np.nan)


def _check_scale(scale: ArrayLike | None, n_voxels: int) -> NDArray[np.float64]:
    if scale is None:
        return np.ones(n_voxels)
    array = as_doubles(scale, "scale")
    if array.shape != (n_voxels,):
        raise ValueError(f"scale {array.shape} must have one entry per voxel, ({n_voxels},)")
    if (array < 0).any():
        raise ValueError("scale must not be negative: it is a standard deviation")
    return np.where(array > 0, array, np.nan)
