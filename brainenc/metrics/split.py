"""Scores of a prediction that is a sum of parts, divided among the parts: one per band of features.

A model of several bands predicts the sum of what each band adds
(``BandedRidgeEncoder.predict(X, split=True)``). The scores here divide its R² or its correlation
into one number per band; they add up to the score of the sum. What correlated bands predict alike
is divided between them: for what a band explains that no other one does, see
`brainenc.variance_partitioning`.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.metrics.sums import (
    check_matrix,
    check_weights,
    first_finite,
    round_off,
    variance,
    weighted_sums,
)
from brainenc.numeric import as_numbers


def split_r2(
    parts: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """R² of the sum of several predictions, divided among them by the product measure.

    With centred targets y, parts p_b and their sum p, the share of part b is
    Σ (2 y p_b − p_b p) / Σ y². The mean of the targets is taken from the parts in equal shares, as
    the intercept is added to them.

    Parameters
    ----------
    parts : array, shape (n_bands, n_images, n_voxels)
        Such as ``BandedRidgeEncoder.predict(X, split=True)``; their sum is the prediction.
    targets : array, shape (n_images, n_voxels)
        In the same units. NaN leaves that image out for that voxel.
    weights : array, shape (n_sets, n_images), optional
        How often each image counts in each set, >= 0, such as bootstrap counts.

    Returns
    -------
    array, shape (n_bands, n_voxels) or, with weights, (n_bands, n_sets, n_voxels)
        Sums over bands are `brainenc.metrics.r_squared` of the sum. Negative where a part makes the
        prediction worse. NaN where the R² is undefined.

    Raises
    ------
    ValueError : shapes that do not match, negative or non-finite weights.

    References
    ----------
    Dupré la Tour et al. (2022), NeuroImage 264; ``r2_score_split`` of their package himalaya is the
    same for targets of mean 0.

    Examples
    --------
    >>> import numpy as np
    >>> targets = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    >>> parts = np.stack([0.5 * targets, 0 * targets])  # the second part predicts nothing
    >>> split_r2(parts, targets)
    array([[0.75],
           [0.  ]])
    """
    parts, targets, sets = _checked(parts, targets, weights)
    n_bands = len(parts)
    y_floor = round_off(targets, first_finite(targets))
    scores = np.empty((n_bands, len(sets), targets.shape[1]))
    for voxels, (w, y, yy, *rest) in _sums(parts, targets, sets):
        of_band = np.stack(rest).reshape(n_bands, 3, *y.shape)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            mean, total = y / w, variance(w, y, yy, y_floor[voxels])
            p = of_band[:, 0] / w  # mean of each part
            sum_of = p.sum(axis=0)
            share = mean / n_bands
            # Means of products about the mean of the targets, of which each part has a share.
            with_target = of_band[:, 1] / w - mean * p
            with_sum = of_band[:, 2] / w - share * sum_of - mean * p + share * mean
            scores[:, :, voxels] = (2 * with_target - with_sum) / total
    return _finished(scores, weights)


def split_correlation(
    parts: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Correlation of the sum of several predictions with the targets, divided among them.

    The share of part b is cov(y, p_b) / (s.d. of y · s.d. of the sum).

    Parameters
    ----------
    parts, targets, weights : as for `split_r2`

    Returns
    -------
    array, shape (n_bands, n_voxels) or, with weights, (n_bands, n_sets, n_voxels)
        Sums over bands are `brainenc.metrics.correlation` of the sum; a single share may be outside
        [-1, 1]. NaN where the correlation is undefined.

    Raises
    ------
    ValueError : shapes that do not match, negative or non-finite weights.

    References
    ----------
    Dupré la Tour et al. (2022), NeuroImage 264; ``correlation_score_split`` of himalaya.

    Examples
    --------
    >>> import numpy as np
    >>> first, second = np.array([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])[:, :, None]
    >>> split_correlation([first, second], first + second)
    array([[0.5],
           [0.5]])
    """
    parts, targets, sets = _checked(parts, targets, weights)
    n_bands = len(parts)
    whole = parts.sum(axis=0)
    y_floor = round_off(targets, first_finite(targets))
    x_floor = round_off(whole, first_finite(whole))
    scores = np.empty((n_bands, len(sets), targets.shape[1]))
    for voxels, (w, y, yy, *rest) in _sums(parts, targets, sets):
        of_band = np.stack(rest).reshape(n_bands, 3, *y.shape)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            total = of_band[:, 0].sum(axis=0), of_band[:, 2].sum(axis=0)
            scale = np.sqrt(
                variance(w, y, yy, y_floor[voxels]) * variance(w, *total, x_floor[voxels])
            )
            covariance = of_band[:, 1] / w - (y / w) * (of_band[:, 0] / w)
            scores[:, :, voxels] = covariance / scale
    return _finished(scores, weights)


def _checked(
    parts: ArrayLike, targets: ArrayLike, weights: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, NDArray[np.float64]]:
    parts, targets = as_numbers(parts, "parts"), check_matrix(targets, "targets")
    if parts.ndim != 3 or len(parts) == 0 or parts.shape[1:] != targets.shape:
        raise ValueError(
            f"parts {parts.shape} must be (n_bands, n_images, n_voxels), with images and voxels "
            f"of targets {targets.shape}: encoder.predict(X, split=True)"
        )
    return parts, targets, check_weights(weights, len(targets))


def _sums(
    parts: np.ndarray, targets: np.ndarray, sets: NDArray[np.float64]
) -> Iterator[tuple[slice, list[NDArray[np.float64]]]]:
    """Sums of 1, y, y², and for each band of p_b, y p_b and p_b p, about a value of the voxel.

    The values are taken from y, and from the parts in equal shares.
    """
    shift = first_finite(targets)

    def statistics(images: slice, voxels: slice) -> Sequence[np.ndarray]:
        y = np.asarray(targets[images, voxels], dtype=np.float64)
        missing = np.isnan(y)
        y = np.where(missing, 0, y - shift[voxels])
        found = [~missing, y, y * y]
        given = np.asarray(parts[:, images, voxels], dtype=np.float64)
        given = np.where(missing, 0, given - shift[voxels] / len(parts))
        whole = given.sum(axis=0)
        for part in given:
            found += [part, y * part, part * whole]
        return found

    yield from weighted_sums(statistics, sets, targets.shape[1])


def _finished(scores: np.ndarray, weights: ArrayLike | None) -> NDArray[np.float64]:
    scores = np.where(np.isfinite(scores), scores, np.nan)
    return scores if weights is not None else scores[:, 0]
