"""Convex weights of several predictions, per voxel."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from brainenc.arrays import blocks

#: Images whose errors are held in memory at a time.
BLOCK = 256


@dataclass(frozen=True)
class Errors:
    """How several predictions err together, voxel by voxel.

    Weights w that sum to one make the error of the blend the blend of the errors, so its squared
    error is wᵀ G w with G the summed products of errors, whatever the weights.

    Attributes
    ----------
    grams : array, shape (n_voxels, k, k), float64
        Sums over images of the products of the errors.
    n_images : array, shape (n_voxels,)
        Images that went into them.
    """

    grams: np.ndarray
    n_images: np.ndarray

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(self.grams + other.grams, self.n_images + other.n_images)

    def __sub__(self, other: "Errors") -> "Errors":
        return Errors(self.grams - other.grams, self.n_images - other.n_images)

    def weights(self, pooling: float) -> np.ndarray:
        """Convex weights with the smallest squared error.

        Parameters
        ----------
        pooling : float, >= 0
            Images by which the errors of the average voxel count beside the voxel's own.

        Returns
        -------
        array, shape (k, n_voxels)
            Of a voxel without images, those of the average voxel.
        """
        trace = np.trace(self.grams, axis1=1, axis2=2)
        known = (trace > 0) & (self.n_images > 0)
        own = self.grams / np.where(known, trace, 1)[:, None, None]  # voxels on one scale
        average = own[known].mean(axis=0) if known.any() else np.eye(self.grams.shape[1])
        share = pooling / np.maximum(self.n_images, 1)
        share = np.where(known, share, 1)
        return simplex_weights(own + share[:, None, None] * average).T


def measure_errors(held_out: Sequence[np.ndarray], targets: np.ndarray) -> Errors:
    """Errors of k predictions.

    Parameters
    ----------
    held_out : k arrays, shape (n_images, n_voxels)
        Predictions of images that were not learnt; NaN where there is none.
    targets : array, shape (n_images, n_voxels)
        Repeat-averaged betas; NaN where an image has none.

    Returns
    -------
    Errors
        Over the images where the voxel has its target and all predictions.
    """
    k, n_voxels = len(held_out), targets.shape[1]
    grams, n_images = np.zeros((n_voxels, k, k)), np.zeros(n_voxels, dtype=np.int64)
    for rows in blocks(len(targets), BLOCK):
        errors = np.stack([member[rows] - targets[rows] for member in held_out]).astype(np.float64)
        known = np.isfinite(errors).all(axis=0)
        errors[:, ~known] = 0
        n_images += known.sum(axis=0)
        for a, b in combinations_with_replacement(range(k), 2):
            grams[:, a, b] += np.einsum("iv,iv->v", errors[a], errors[b])
            grams[:, b, a] = grams[:, a, b]
    return Errors(grams, n_images)


def blend(weights: np.ndarray, predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Weighted sum of predictions.

    Parameters
    ----------
    weights : array, shape (k, n_voxels)
    predictions : k arrays, shape (n_images, n_voxels)
        NaN does no harm where the weight is 0.

    Returns
    -------
    array, shape (n_images, n_voxels), float32
    """
    total = np.zeros(predictions[0].shape, dtype=np.float32)
    for weight, prediction in zip(weights.astype(np.float32), predictions, strict=True):
        total += np.where(weight == 0, 0, weight * prediction)
    return total


def simplex_weights(grams: np.ndarray) -> np.ndarray:
    """The w >= 0 with sum 1 that makes wᵀ G w smallest, for many G at once.

    Exact, by an active-set method that starts from the best single member, lets in the member
    whose share would lower the error fastest, and drops those whose weight would turn negative.

    Parameters
    ----------
    grams : array, shape (n, k, k)
        Symmetric and positive semidefinite. Members that always err alike get equal shares.

    Returns
    -------
    array, shape (n, k)
        NaN where G holds NaN.
    """
    k = grams.shape[1]
    trace = np.trace(grams, axis1=1, axis2=2)[:, None, None]
    defined = np.isfinite(trace[:, 0, 0])
    with np.errstate(invalid="ignore", divide="ignore"):
        G = np.where(trace > 0, grams / trace, 0) + 1e-10 * np.eye(
            k
        )  # one optimum, among equals too
    best = np.argmin(np.einsum("nkk->nk", G), axis=1)
    weights = np.eye(k)[best]
    inside = weights > 0
    active = np.flatnonzero(defined)
    for _ in range(100 * k):  # a few times k do; the bound is against cycles of round-off
        if active.size == 0:
            break
        active = _improve(G, weights, inside, active)
    weights[~defined] = np.nan
    return weights


def _improve(
    G: np.ndarray, weights: np.ndarray, inside: np.ndarray, active: np.ndarray
) -> np.ndarray:
    """One step of the `active` problems, in place; those that are not finished."""
    g, w, free = G[active], weights[active], inside[active]
    k = w.shape[1]
    system = np.where(free[:, :, None] & free[:, None, :], g, np.eye(k))
    target = free * np.linalg.solve(system, free[..., None].astype(float))[..., 0]
    target /= target.sum(axis=1, keepdims=True)
    # As far towards the optimum of the members let in as no weight turns negative.
    falling = free & (target < 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        reach = np.where(falling, w / (w - target), np.inf)
    blocked = falling.any(axis=1)
    first = reach.argmin(axis=1)
    step = np.minimum(reach.min(axis=1), 1)[:, None]
    w = np.where(blocked[:, None], w + step * (target - w), target)
    rows = np.arange(len(active))
    w[rows[blocked], first[blocked]] = 0
    free[rows[blocked], first[blocked]] = False
    slope = np.einsum("nab,nb->na", g, w)
    slope -= np.einsum("na,na->n", slope, w)[:, None]
    slope[free] = 0
    enter = slope.argmin(axis=1)
    entering = ~blocked & (slope[rows, enter] < -1e-12)
    free[rows[entering], enter[entering]] = True
    weights[active], inside[active] = w, free
    return active[blocked | entering]
