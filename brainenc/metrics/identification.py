"""Retrieval of patterns: whether a predicted pattern matches the response to its image.

Two-way identification compares with every other image in turn (chance ½); top-k retrieval within
random pools, in both directions (chance k / pool size). Both correlate patterns across the voxels
that are finite for all images, and count with `brainenc.metrics.choices`, as `retrieval` does.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.arrays import blocks
from brainenc.metrics._patterns import finite_voxels, tie_tolerance, unit_patterns
from brainenc.metrics.choices import chosen, compare
from brainenc.metrics.sums import check_pair


def two_way_identification(predictions: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Share of other images whose response matches the prediction worse than the right one.

    For image i, the share of images j ≠ i with r(prediction i, target i) > r(prediction i,
    target j), r taken across voxels; a tie counts one half. Chance is .5.

    Parameters
    ----------
    predictions, targets : array, shape (n_images, n_voxels)
        Voxels that are not finite for every image, in both, are left out.

    Returns
    -------
    array, shape (n_images,)
        In [0, 1]. NaN where the predicted or the own measured pattern is constant across voxels;
        other images with a constant pattern are not compared with.

    Raises
    ------
    ValueError : shapes that do not match, fewer than two images, or no voxel finite for all.

    References
    ----------
    Mitchell et al. (2008), Science 320, the leave-two-out test.

    Examples
    --------
    >>> targets = np.random.default_rng(0).standard_normal((50, 100))
    >>> two_way_identification(targets, targets).mean()
    np.float64(1.0)
    >>> two_way_identification(np.roll(targets, 1, axis=0), targets).mean().round(1)  # chance
    np.float64(0.5)
    """
    predictions, targets = check_pair(predictions, targets)
    n_images = len(targets)
    if n_images < 2:
        raise ValueError(f"targets {targets.shape}: identification needs at least two images")
    voxels = finite_voxels(predictions=predictions, targets=targets)
    candidates = unit_patterns(targets, voxels)
    scores = np.empty(n_images)
    for images in blocks(n_images, 2**22 // n_images):
        queries = unit_patterns(predictions[images], voxels)
        r = _product(queries, candidates)
        own = r[np.arange(len(r)), np.arange(images.start, images.stop)]
        better, ties = compare(r, own, tie_tolerance(queries, candidates))
        n_others = np.isfinite(r).sum(axis=1) - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            share = 1 - (better + ties / 2) / n_others
        scores[images] = np.where(np.isfinite(own), share, np.nan)
    return scores


@dataclass(frozen=True)
class RetrievalAccuracy:
    """Top-k accuracy in random pools of images.

    Attributes
    ----------
    forward, backward : array, shape (n_pools,)
        Share of the pool retrieved: the response to an image from its prediction, and the
        prediction from the response. NaN for a pool with a pattern that is constant across
        voxels.
    chance : float
        k / pool_size.
    """

    forward: NDArray[np.float64]
    backward: NDArray[np.float64]
    chance: float


def top_k_retrieval(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    pool_size: int = 300,
    n_pools: int = 30,
    k: int = 1,
    random_state: int | np.random.Generator | None = 0,
) -> RetrievalAccuracy:
    """Top-k retrieval within random pools of images, in both directions.

    In each pool, drawn without replacement, every prediction ranks the measured patterns by Pearson
    r (forward), and every measured pattern ranks the predictions (backward). Ties are broken at
    random in expectation, so a constant predictor scores exactly chance.

    Parameters
    ----------
    predictions, targets : array, shape (n_images, n_voxels)
        Voxels that are not finite for every image, in both, are left out.
    pool_size : int
        Images per pool. 300 is usual in decoding papers.
    n_pools : int
        Number of random pools.
    k : int
        The right one must be among the k best.
    random_state : int, Generator or None
        Seed of the pools.

    Returns
    -------
    RetrievalAccuracy : `forward` and `backward` (n_pools,) in [0, 1], and `chance`.

    Raises
    ------
    ValueError : shapes that do not match, no voxel finite for all images, fewer images than
        `pool_size`, `pool_size` < 2, `n_pools` < 1, or `k` not in 1 … pool_size.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> targets = rng.standard_normal((50, 100))
    >>> accuracy = top_k_retrieval(targets, targets, pool_size=20, random_state=0)
    >>> accuracy.forward.mean(), accuracy.chance
    (np.float64(1.0), 0.05)
    """
    predictions, targets = check_pair(predictions, targets)
    n_images = len(targets)
    if not 2 <= pool_size <= n_images:
        raise ValueError(
            f"pool_size={pool_size} must be between 2 and the number of images, {n_images}"
        )
    if n_pools < 1 or not 1 <= k <= pool_size:
        raise ValueError(f"n_pools={n_pools} must be >= 1 and k={k} in 1 … pool_size={pool_size}")
    voxels = finite_voxels(predictions=predictions, targets=targets)
    rng = np.random.default_rng(random_state)
    forward, backward = np.empty(n_pools), np.empty(n_pools)
    for pool in range(n_pools):
        images = np.sort(rng.choice(n_images, pool_size, replace=False))
        queries = unit_patterns(predictions[images], voxels)
        candidates = unit_patterns(targets[images], voxels)
        r, tolerance = _product(queries, candidates), tie_tolerance(queries, candidates)
        forward[pool], backward[pool] = _top_k(r, k, tolerance), _top_k(r.T, k, tolerance)
    return RetrievalAccuracy(forward, backward, k / pool_size)


def _product(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # constant patterns are NaN
        return queries @ candidates.T


def _top_k(r: np.ndarray, k: int, tolerance: float) -> float:
    """Expected share of rows whose diagonal entry is among the k largest; NaN if any is."""
    if not np.isfinite(r).all():
        return np.nan
    return float(chosen(*compare(r, np.diagonal(r), tolerance), k).mean())
