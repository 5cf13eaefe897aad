"""Helpers around the solvers: scaling of features, penalties, folds, missing images."""

import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from brainenc.arrays import row_blocks, varies
from brainenc.model_selection import Folds, image_folds
from brainenc.solvers.result import RidgeFit

#: With at most so many images every penalty is tried, in double precision: in a second or so.
EXACT_IMAGES = 1000
#: Shares of the isotropic prior of weights that are tried beside each component of a prior.
SHARES = (0.1, 0.5)


def fit_voxels(
    Y: np.ndarray,
    solve: Callable[[np.ndarray, np.ndarray, Any], RidgeFit],
    *,
    n_weights: int,
    dual: bool,
    n_bands: int | None = None,
    min_images: int = 2,
) -> RidgeFit:
    """Solve voxels on the images they have data for, grouped by missing images.

    Parameters
    ----------
    Y : array, shape (n_images, n_voxels); NaN where an image has no data for a voxel
    solve : callable
        Takes rows (positions of images), their Y without NaN, and the positions of its voxels,
        returns a `RidgeFit`.
    n_weights : int
        Rows of the weights: n_features in primal form, n_images in dual form.
    dual : bool
        Whether weights belong to images (those of a voxel's missing images are then 0).
    n_bands : int, optional
        Rows of `RidgeFit.band_weights`, for banded ridge.
    min_images : int
        Voxels with fewer are left out, with a warning.

    Returns
    -------
    RidgeFit
        All voxels; NaN for voxels without enough data.
    """
    n_voxels = Y.shape[1]
    patterns = list(missing_patterns(Y))
    if [len(part) for pattern in patterns for part in pattern] == list(Y.shape):
        return solve(patterns[0][0], Y, slice(None))  # nothing is missing: avoids copies
    fitted = RidgeFit(
        weights=np.full((n_weights, n_voxels), np.nan, dtype=Y.dtype),
        intercept=np.full(n_voxels, np.nan, dtype=Y.dtype),
        alphas=np.full(n_voxels, np.nan, dtype=Y.dtype),
        held_out=np.full(Y.shape, np.nan, dtype=Y.dtype),
        band_weights=None if n_bands is None else np.full((n_bands, n_voxels), np.nan, Y.dtype),
    )
    n_left_out = 0
    for rows, voxels in patterns:
        if len(rows) < min(min_images, len(Y)):
            n_left_out += len(voxels)
            continue
        part = solve(rows, Y[np.ix_(rows, voxels)], voxels)
        if dual:
            fitted.weights[:, voxels] = 0
            fitted.weights[np.ix_(rows, voxels)] = part.weights
        else:
            fitted.weights[:, voxels] = part.weights
        fitted.intercept[voxels] = part.intercept
        fitted.alphas[voxels] = part.alphas
        fitted.held_out[np.ix_(rows, voxels)] = part.held_out
        if fitted.band_weights is not None:
            fitted.band_weights[:, voxels] = part.band_weights
    if n_left_out:
        warnings.warn(
            f"{n_left_out} voxels have data for fewer than {min_images} images: not fitted, and "
            "predicted as NaN",
            stacklevel=4,
        )
    return fitted


def missing_patterns(Y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Groups of voxels that lack data for the same images.

    Parameters
    ----------
    Y : array, shape (n_images, n_voxels); NaN where an image has no data for a voxel.

    Yields
    ------
    rows : array of int
        Images with data; voxels without any data at all are in no group.
    voxels : array of int
    """
    if all(np.isfinite(block).all() for block in row_blocks(Y)):
        yield np.arange(Y.shape[0]), np.arange(Y.shape[1])
        return
    present = np.isfinite(Y)
    packed = np.packbits(present, axis=0)
    _, first, member = np.unique(packed, axis=1, return_index=True, return_inverse=True)
    for pattern, column in enumerate(first):
        rows = np.flatnonzero(present[:, column])
        if len(rows):
            yield rows, np.flatnonzero(member.ravel() == pattern)


def folds_of_rows(cv: Any, rows: np.ndarray, n_images: int, *, random_state: Any) -> Folds:
    """Folds over some of the images, as positions within `rows`.

    An int makes balanced folds of the rows; a splitter or given positions refer to all images, and
    their folds are restricted to the rows.

    Parameters
    ----------
    cv, random_state
        As for `brainenc.model_selection.image_folds`.
    rows : array of int
        Images that have data.
    n_images : int

    Returns
    -------
    list of (train, test)
    """
    if isinstance(cv, (int, np.integer)) or len(rows) == n_images:
        return image_folds(cv, len(rows), random_state=random_state)
    position = np.full(n_images, -1)
    position[rows] = np.arange(len(rows))
    cut = [
        tuple(position[part][position[part] >= 0] for part in fold)
        for fold in image_folds(cv, n_images, random_state=random_state)
    ]
    return [(train, test) for train, test in cut if len(train) and len(test)]


def choose_alphas(alphas: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Penalties to try, for a feature matrix of this shape.

    Parameters
    ----------
    alphas : "auto" or array-like of positive numbers
        "auto" spans seven decades around the mean non-zero eigenvalue of XᵀX when features are
        z-scored, which is max(n_images, n_features).
    shape : (n_images, n_features)

    Returns
    -------
    array, shape (n_alphas,)

    Raises
    ------
    ValueError : empty, not positive or not finite.
    """
    if isinstance(alphas, str):
        if alphas != "auto":
            raise ValueError(f"alphas={alphas!r}: give 'auto' or positive numbers")
        return max(shape) * np.logspace(-4, 3, 15)
    values = np.atleast_1d(np.asarray(alphas, dtype=np.float64))
    if values.ndim != 1 or values.size == 0 or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"alphas={alphas!r} must be positive finite numbers")
    return values


def choose_per_voxel(per_voxel: Any, n_images: int, voxels: Any = slice(None)) -> Any:
    """Whether alpha is chosen per voxel; or the labels of `voxels`, of which each has its alpha.

    "auto" is True from 100 images on. With fewer, the held-out error of a single voxel is too noisy
    to choose alpha. On 16 training images of Miyawaki et al. (2008) one alpha for all voxels lowers
    the held-out squared error; from 200 images on, both gave the same r on all data tried.

    Raises
    ------
    ValueError : neither "auto" nor a bool nor labels.
    """
    if not isinstance(per_voxel, str) and np.ndim(per_voxel) == 1:
        return np.asarray(per_voxel)[voxels]
    if isinstance(per_voxel, (bool, np.bool_)):
        return bool(per_voxel)
    if per_voxel != "auto":
        raise ValueError(
            f"alpha_per_voxel={per_voxel!r} must be 'auto', True, False or a label per voxel"
        )
    return n_images >= 100


def check_voxel_labels(per_voxel: Any, n_voxels: int) -> None:
    """Raise ValueError if labels of voxels are not as many as voxels; other values pass."""
    if not isinstance(per_voxel, str) and np.ndim(per_voxel) and np.shape(per_voxel) != (n_voxels,):
        raise ValueError(
            f"alpha_per_voxel has labels of shape {np.shape(per_voxel)} and must have one for each "
            f"of {n_voxels} voxels"
        )


def voxel_groups(per_voxel: Any, n_voxels: int) -> list[np.ndarray] | None:
    """Voxels that share a penalty; None if each has its own.

    Parameters
    ----------
    per_voxel : bool, or array of labels, shape (n_voxels,)
        False: all share one. Labels: those of a label share one.
    n_voxels : int

    Returns
    -------
    list of arrays of int, or None

    Examples
    --------
    >>> [group.tolist() for group in voxel_groups(np.array(["V1", "V2", "V1"]), 3)]
    [[0, 2], [1]]
    """
    if isinstance(per_voxel, (bool, np.bool_)):
        return None if per_voxel else [np.arange(n_voxels)]
    check_voxel_labels(per_voxel, n_voxels)
    _, member = np.unique(np.asarray(per_voxel).astype(str), return_inverse=True)
    return [np.flatnonzero(member == label) for label in range(member.max() + 1)]


def flatten_tokens(features: np.ndarray) -> np.ndarray:
    """Features as (n_images, n_features); token features are concatenated.

    Half precision becomes float32, since squares of features would overflow.
    """
    flat = features.reshape(len(features), -1)
    return flat.astype(np.float32) if flat.dtype == np.float16 else flat


def feature_scaling(X: np.ndarray, standardize: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Mean and s.d. of each feature; the s.d. of a constant feature is 1.

    Parameters
    ----------
    X : array, shape (n_images, n_features)
    standardize : bool
        If False, all scales are 1.

    Returns
    -------
    mean, scale : arrays, shape (n_features,), in the dtype of X
    """
    mean = X.mean(axis=0, dtype=np.float64)
    scale = np.ones(X.shape[1])
    if standardize:
        sd = np.empty(X.shape[1])
        for columns in _column_blocks(X.shape):
            part = X[:, columns] - mean[columns].astype(X.dtype)
            sd[columns] = np.sqrt(np.square(part, out=part).mean(axis=0, dtype=np.float64))
        scale = np.where(varies(mean, sd), sd, 1.0)
    return mean.astype(X.dtype), scale.astype(X.dtype)


def _column_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Columns whose values fit a core's cache; none alone, as NumPy sums it in another order."""
    size = max(16, 2**18 // max(1, shape[0]))
    edges = [*range(0, max(1, shape[1] - 1), size), shape[1]]
    return (slice(*edge) for edge in pairwise(edges))
