"""Proper scores of draws against single trials: CRPS, energy, variogram and log score.

The expected value of a proper score is best for the true distribution of the trials: draws that
vary too little or too much are worse. All are errors (smaller is better) against *single trials*,
not against averages, which vary less.

Draws are (n, n_images, n_voxels), trials (n_images, n_repeats, n_voxels) with NaN where one is
missing. All four are unbiased for any number of draws: the expected score is that of the
distribution of the draws, not of the n points ("fair" scores, Ferro 2014).

References
----------
Gneiting & Raftery (2007), Journal of the American Statistical Association 102; Ferro (2014),
Quarterly Journal of the Royal Meteorological Society 140; Scheuerer & Hamill (2015), Monthly
Weather Review 143 (variogram score).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cholesky

from brainenc.arrays import blocks
from brainenc.numeric import as_doubles, as_numbers, as_whole_numbers

#: Values of draws at a time: temporary arrays of a few MB, in memory that is already mapped.
_BLOCK_VALUES = 2**21
#: Values of sorted draws compared with trials at a time: they stay in the cache.
_CACHED_VALUES = 2**17


def crps(draws: ArrayLike, trials: ArrayLike) -> NDArray[np.float64]:
    """Continuous ranked probability score per image and voxel, mean over the trials of the image.

    ``E|x − y| − E|x − x'| / 2`` for draws x, x' and a trial y. For a point prediction it would be
    the absolute error.

    Parameters
    ----------
    draws : array, shape (n, n_images, n_voxels)
        At least two.
    trials : array, shape (n_images, n_repeats, n_voxels)
        NaN where a repeat is missing.

    Returns
    -------
    array, shape (n_images, n_voxels)
        In the units of the betas. NaN where all trials are missing or a draw is NaN.

    Raises
    ------
    ValueError : shapes that do not match, or fewer than two draws.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> trials = rng.standard_normal((500, 2, 1))
    >>> draws = rng.standard_normal((100, 500, 1))
    >>> crps(draws, trials).shape
    (500, 1)
    >>> bool(crps(draws, trials).mean() < crps(2 * draws, trials).mean())  # these vary too much
    True
    """
    draws, trials = check_draws(draws, trials)
    score = np.empty((draws.shape[1], draws.shape[2]))
    for images in image_blocks(draws):
        score[images] = crps_of_sorted(sort_draws(draws[:, images]), trials[images])
    return score


def sort_draws(draws: np.ndarray) -> np.ndarray:
    """Draws in ascending order on the last axis, (n_images, n_voxels, n); NaN come last."""
    n, n_images, n_voxels = draws.shape
    flat = draws.reshape(n, -1)
    ordered = np.empty((n_images * n_voxels, n), draws.dtype)
    for columns in blocks(len(ordered), _CACHED_VALUES // n):
        ordered[columns] = flat[:, columns].T
        ordered[columns].sort(axis=1)
    return ordered.reshape(n_images, n_voxels, n)


def crps_of_sorted(ordered: np.ndarray, trials: np.ndarray) -> NDArray[np.float64]:
    """`crps` from draws sorted by `sort_draws`.

    The mean distance between two sorted draws is a weighted sum, the same for all trials (the "PWM"
    form of Zamo & Naveau 2018, Mathematical Geosciences 50).
    """
    n_images, n_voxels, n = ordered.shape
    flat, score = ordered.reshape(-1, n), np.empty(n_images * n_voxels)
    columns_of_trials = np.moveaxis(trials, 1, 0).reshape(trials.shape[1], -1)
    n_present = np.isfinite(columns_of_trials).sum(axis=0)
    dtype = np.result_type(ordered, trials, np.float32)
    weights = ((2 * np.arange(n) - (n - 1)) / (n * (n - 1))).astype(dtype)
    for columns in blocks(len(flat), _CACHED_VALUES // n):
        some, to_trials = flat[columns], np.zeros(len(flat[columns]))
        distance = np.empty(some.shape, dtype)
        for trial in columns_of_trials[:, columns]:
            np.abs(np.subtract(some, trial[:, None], out=distance), out=distance)
            to_trials += np.where(np.isfinite(trial), distance.mean(axis=1), 0)
        with np.errstate(invalid="ignore"):
            # Rounding in a product of matrices would depend on the number of images.
            score[columns] = to_trials / n_present[columns] - np.einsum("vn,n->v", some, weights)
    return score.reshape(n_images, n_voxels)


def energy_score(draws: ArrayLike, trials: ArrayLike) -> NDArray[np.float64]:
    """Energy score per image: CRPS with distances between whole patterns, mean over trials.

    ``E‖x − y‖ − E‖x − x'‖ / 2`` with Euclidean norms over voxels. Voxels are weighted by their
    variance, so divide draws and trials by the s.d. of each voxel's trials first. All pairs of
    draws enter; their distances come from one matrix product per image, which is feasible for
    hundreds of draws of thousands of voxels (all differences at once would be n × n × n_voxels
    numbers).

    Parameters
    ----------
    draws : array, shape (n, n_images, n_voxels)
        At least two.
    trials : array, shape (n_images, n_repeats, n_voxels)
        A trial with a NaN in any voxel is left out: give voxels whose trials are complete.

    Returns
    -------
    array, shape (n_images,)
        In the units of draws and trials; grows as √n_voxels. NaN where no trial is complete or a
        draw has NaN.

    Raises
    ------
    ValueError : shapes that do not match, or fewer than two draws.
    """
    return energy_and_ranks(draws, trials)[0]


def pattern_ranks(draws: ArrayLike, trials: ArrayLike) -> NDArray[np.int16]:
    """Rank of each trial among draws by centrality of the whole pattern.

    The trial and the n draws of its image are pooled, and each has its mean Euclidean distance to
    the others: the smallest is the most central, the largest the most outlying. The rank is the
    number of draws more central than the trial, uniform on 0 … n if the trial has the distribution
    of the draws. Ranks per voxel (`trial_ranks`) can be uniform although voxels are correlated in
    trials and not in draws; trials are then too often more central or more outlying than all draws.

    Parameters
    ----------
    draws, trials : as for `energy_score`

    Returns
    -------
    array, shape (n_images, n_repeats)
        0 … n; -1 where the trial or a draw lacks a voxel. Too many large ranks: draws vary too
        little; too many small ones: too much; both: draws lack correlations between voxels.

    Raises
    ------
    ValueError : shapes that do not match, or fewer than two draws.

    References
    ----------
    Gneiting et al. (2008), TEST 17 (ranks of patterns by a function of them); Knüppel, Krüger &
    Pohle (2022), arXiv 2211.16362 (the function here, which is the energy score among all).
    """
    return energy_and_ranks(draws, trials)[1]


def energy_and_ranks(
    draws: ArrayLike, trials: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """`energy_score` and `pattern_ranks`, from the same distances."""
    draws, trials = check_draws(draws, trials)
    n = len(draws)
    score = np.full(draws.shape[1], np.nan)
    ranks = np.full(trials.shape[:2], -1, dtype=np.int16)
    for i, of_image in enumerate(np.moveaxis(draws, 1, 0)):
        present = np.isfinite(trials[i]).all(axis=1)
        if not present.any():
            continue
        between, to_trials = _pattern_distances(of_image, trials[i][present])
        from_draws = between.sum(axis=1, dtype=np.float64)
        from_trials = to_trials.sum(axis=0, dtype=np.float64)
        score[i] = from_trials.mean() / n - from_draws.sum() / (n * (n - 1)) / 2
        if np.isfinite(score[i]):
            ranks[i, present] = (from_draws[:, None] + to_trials < from_trials).sum(axis=0)
    return score, ranks


def _pattern_distances(of_image: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances between draws (n, n_voxels), (n, n), and from them to trials, (n, n_trials)."""
    centre = of_image.mean(axis=0)  # smaller values lose fewer digits in differences
    x, y = of_image - centre, (trials - centre).astype(of_image.dtype, copy=False)
    products = x @ x.T
    xx = np.diag(products)
    to_trials = np.sqrt(_at_least_0(xx[:, None] + np.einsum("nv,nv->n", y, y) - 2 * (x @ y.T)))
    between = _at_least_0(xx[:, None] + xx - 2 * products)
    np.fill_diagonal(between, 0)
    return np.sqrt(between), to_trials


def _at_least_0(squares: np.ndarray) -> np.ndarray:
    """Squared distances with negative round-off set to 0; NaN stays NaN."""
    return np.maximum(squares, 0, out=squares)


def variogram_score(
    draws: ArrayLike, trials: ArrayLike, pairs: ArrayLike, *, order: float = 0.5
) -> NDArray[np.float64]:
    """Variogram score per image, of differences between voxels.

    Mean over pairs of voxels (i, j) and trials y of (``|yᵢ − yⱼ|^order − E|xᵢ − xⱼ|^order``)². It
    is more sensitive to correlations than the energy score. Pairs are given, since all pairs of
    many voxels are too many: `random_pairs` draws some.

    Parameters
    ----------
    draws : array, shape (n, n_images, n_voxels)
        At least two.
    trials : array, shape (n_images, n_repeats, n_voxels)
        A trial with a NaN in any voxel of `pairs` is left out.
    pairs : array of int, shape (n_pairs, 2)
        Positions of two voxels each.
    order : float

    Returns
    -------
    array, shape (n_images,)
        In units of the betas to the power 2 · order; divide voxels by their s.d. first. The
        variance of the mean over draws is subtracted, since few draws would otherwise score worse.
        NaN where no trial is complete or a draw has NaN.

    Raises
    ------
    ValueError : shapes that do not match, fewer than two draws, or voxels that there are not.
    """
    draws, trials = check_draws(draws, trials)
    first, second = _check_pairs(pairs, draws.shape[2]).T
    n = len(draws)
    score = np.full(draws.shape[1], np.nan)
    for i in range(draws.shape[1]):
        drawn = _distances(draws[:, i], first, second, order)
        measured = _distances(trials[i], first, second, order)
        measured = measured[:, np.isfinite(measured).all(axis=0)]
        if measured.size:
            mean = drawn.mean(axis=1, keepdims=True)
            drawn -= mean
            variance = np.einsum("pn,pn->", drawn, drawn) / (n - 1) / len(first)
            score[i] = np.square(measured - mean).mean() - variance / n
    return score


def _check_pairs(pairs: ArrayLike, n_voxels: int) -> np.ndarray:
    positions = as_whole_numbers(pairs, "pairs", lowest=-n_voxels, highest=n_voxels - 1)
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(f"pairs {positions.shape} must be (n_pairs, 2), positions of two voxels")
    return positions


def _distances(
    responses: np.ndarray, first: np.ndarray, second: np.ndarray, order: float
) -> np.ndarray:
    """|difference|^order of pairs of voxels, (n_pairs, n): rows are copied faster than columns."""
    by_voxel = np.ascontiguousarray(responses.T)
    distance = by_voxel[first]
    distance -= by_voxel[second]
    np.abs(distance, out=distance)
    return np.sqrt(distance, out=distance) if order == 0.5 else distance**order


def random_pairs(
    voxels: ArrayLike, n_pairs: int = 500, *, random_state: int | np.random.Generator | None = 0
) -> NDArray[np.int64]:
    """Pairs of different voxels for `variogram_score`, each at most once.

    Parameters
    ----------
    voxels : array of int, shape (n_voxels,)
        Positions to choose from.
    n_pairs : int
        Number of pairs; all pairs if there are fewer.
    random_state : int, Generator or None

    Returns
    -------
    array, shape (n_pairs, 2)
    """
    voxels = as_whole_numbers(voxels, "voxels", lowest=0, highest=2**53)
    n_all = len(voxels) * (len(voxels) - 1) // 2
    rng = np.random.default_rng(random_state)
    chosen = np.sort(rng.choice(n_all, size=min(n_pairs, n_all), replace=False))
    # Pairs (i, j < i) in one row: those of i start at i (i − 1) / 2.
    i = ((1 + np.sqrt(1 + 8 * chosen.astype(np.float64))) / 2).astype(np.int64)
    return np.stack([voxels[i], voxels[chosen - i * (i - 1) // 2]], axis=1)


def gaussian_log_density(
    residuals: ArrayLike, factors: ArrayLike, private_sd: ArrayLike
) -> NDArray[np.float64]:
    """Log density of residuals under N(0, factorsᵀ factors + diag(private_sd²)).

    Parameters
    ----------
    residuals : array, shape (..., n_voxels)
    factors : array, shape (n_factors, n_voxels)
        With n_factors = 0 voxels are independent.
    private_sd : array, shape (n_voxels,)

    Returns
    -------
    array, shape (...)
        Natural log, by Woodbury's identity: the inverted matrix has n_factors² entries, or
        n_voxels² if that is smaller. NaN where a residual is NaN, and everywhere if a private s.d.
        is 0 or NaN, since there is no density then.
    """
    residuals, sd = as_numbers(residuals, "residuals"), as_doubles(private_sd, "private_sd")
    factors = as_numbers(factors, "factors")
    if sd.ndim != 1 or factors.shape[1:] != sd.shape or residuals.shape[-1:] != sd.shape:
        raise ValueError(
            f"residuals {residuals.shape}, factors {factors.shape} and private_sd {sd.shape} must "
            "be (..., n_voxels), (n_factors, n_voxels) and (n_voxels,)"
        )
    if not (np.isfinite(sd) & (sd > 0)).all():
        return np.full(residuals.shape[:-1], np.nan)
    scaled: Any = factors / sd
    residuals = residuals / sd
    if len(scaled) > len(sd):
        scaled = np.linalg.qr(scaled, mode="r")  # n_voxels factors are equivalent
    root = cholesky(np.eye(len(scaled)) + scaled @ scaled.T, lower=True)
    # No eigenvalue of the inverted matrix is below 1.
    explained = (residuals @ scaled.T) @ np.linalg.inv(root).T
    distance = np.square(residuals).sum(axis=-1) - np.square(explained).sum(axis=-1)
    log_determinant = 2 * (np.log(np.diag(root)).sum() + np.log(sd).sum())
    return -(distance + log_determinant + len(sd) * np.log(2 * np.pi)) / 2


def log_score(log_density: ArrayLike) -> NDArray[np.float64]:
    """Negative log density per image, mean over the trials that have a density.

    Parameters
    ----------
    log_density : array, shape (n_images, n_repeats)
        For example from `BaseEncoder.log_density`; NaN for trials without a density.

    Returns
    -------
    array, shape (n_images,)
        In nats per trial. Other units of the betas add a constant. NaN where no trial has a
        density.
    """
    log_density = as_doubles(log_density, "log_density")
    if log_density.ndim != 2:
        raise ValueError(f"log_density {log_density.shape} must be (n_images, n_repeats)")
    present = np.isfinite(log_density)
    with np.errstate(invalid="ignore"):
        return -np.where(present, log_density, 0).sum(axis=1) / present.sum(axis=1)


def check_draws(draws: ArrayLike, trials: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Draws and trials as arrays of floats whose images and voxels match.

    Raises
    ------
    ValueError : they do not match, or there are fewer than two draws.
    """
    draws, trials = as_numbers(draws, "draws"), as_numbers(trials, "trials")
    if draws.ndim != 3 or len(draws) < 2:
        raise ValueError(
            f"draws {draws.shape} must be (n, n_images, n_voxels) with n >= 2: the variance "
            "of a distribution needs at least two draws"
        )
    if trials.ndim != 3 or draws.shape[1:] != (trials.shape[0], trials.shape[2]):
        raise ValueError(
            f"trials {trials.shape} must be (n_images, n_repeats, n_voxels), with the images and "
            f"voxels of draws {draws.shape}; single trials without repeats are betas[:, None]"
        )
    return draws, trials


def image_blocks(draws: np.ndarray) -> Iterator[slice]:
    """Slices of images with a few MB of draws each."""
    n, n_images, n_voxels = draws.shape
    return blocks(n_images, _BLOCK_VALUES // max(n * n_voxels, 1))
