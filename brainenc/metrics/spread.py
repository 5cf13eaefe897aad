"""Do draws spread as trials do? Ranks, PIT and coverage; variances; noise correlations.

If draws and a trial come from the same distribution, the trial is as likely to be the smallest of
them all as the second smallest, and so on: its rank among n draws is uniform on 0 … n. Everything
about calibration here is a reading of these ranks, and is exact for any number of draws: a trial
of rank k stands for a probability anywhere in [k, k + 1] / (n + 1), and its weight is shared out
over that stretch. No random numbers are needed for that, and intervals need no interpolation
between draws.

References
----------
Gneiting, Balabdaoui & Raftery (2007), Journal of the Royal Statistical Society B 69; Czado,
Gneiting & Held (2009), Biometrics 65 (the non-randomised PIT histogram).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.metrics._jackknife import Estimate, jackknife, jackknife_covariance
from brainenc.metrics._sums import blocks
from brainenc.metrics._variance_sums import check_variances, mean_over_pairs, row_covariances
from brainenc.metrics.noise_ceiling import NoiseCeiling
from brainenc.metrics.probabilistic import _CACHED_VALUES, check_draws, image_blocks, sort_draws
from brainenc.repeats import within_image_residuals

#: Rank of a trial that is missing.
MISSING = -1

#: Groups of images that a jackknife of correlations leaves out.
_N_GROUPS = 100


def trial_ranks(draws: ArrayLike, trials: ArrayLike) -> NDArray[np.int16]:
    """How many draws lie below each trial.

    Parameters
    ----------
    draws : array, shape (n, n_images, n_voxels)
        From 2 to 32 766.
    trials : array, shape (n_images, n_repeats, n_voxels)

    Returns
    -------
    array, shape (n_images, n_repeats, n_voxels)
        0 … n; -1 where the trial is missing or a draw is.

    Raises
    ------
    ValueError : shapes that do not match, too few or too many draws.
    """
    draws, trials = check_draws(draws, trials)
    ranks = np.empty(trials.shape, dtype=np.int16)
    for images in image_blocks(draws):
        ranks[images] = ranks_among_sorted(sort_draws(draws[:, images]), trials[images])
    return ranks


def ranks_among_sorted(ordered: np.ndarray, trials: np.ndarray) -> NDArray[np.int16]:
    """`trial_ranks` from the draws as `sort_draws` gives them."""
    n_images, n_voxels, n = ordered.shape
    if n >= np.iinfo(np.int16).max:
        raise ValueError(f"{n} draws are more than the 32 766 that ranks are counted for")
    flat = ordered.reshape(-1, n)
    columns_of_trials = np.moveaxis(trials, 1, 0).reshape(trials.shape[1], -1)
    ranks = np.empty(columns_of_trials.shape, dtype=np.int16)
    for columns in blocks(len(flat), _CACHED_VALUES // n):
        for trial, rank in zip(columns_of_trials[:, columns], ranks[:, columns], strict=True):
            rank[:] = (flat[columns] < trial[:, None]).sum(axis=1)
    ranks[np.isnan(columns_of_trials) | np.isnan(flat[:, -1])] = MISSING
    return np.moveaxis(ranks.reshape(-1, n_images, n_voxels), 0, 1)


def rank_histogram(ranks: ArrayLike, n_draws: int) -> NDArray[np.int64]:
    """How often each rank occurs: flat if draws are calibrated, a hump if they are too wide.

    Parameters
    ----------
    ranks : array of int, shape (..., n_voxels)
        As `trial_ranks` gives them; -1 is left out.
    n_draws : int

    Returns
    -------
    array, shape (n_draws + 1, n_voxels)
    """
    ranks = np.asarray(ranks)
    flat = ranks.reshape(-1, ranks.shape[-1])
    counts = np.zeros((n_draws + 2, flat.shape[1]), dtype=np.int64)  # the last row: missing
    voxels = np.arange(flat.shape[1])
    for row in flat:
        counts[row, voxels] += 1
    return counts[:-1]


def pit_histogram(ranks: ArrayLike, n_draws: int, *, n_bins: int = 20) -> NDArray[np.float64]:
    """Histogram of the probability integral transform of trials, per voxel.

    Parameters
    ----------
    ranks, n_draws
        As for `rank_histogram`.
    n_bins : int
        Equal bins of [0, 1].

    Returns
    -------
    array, shape (n_bins, n_voxels)
        Trials per bin; fractions where a rank straddles two bins. In expectation all bins are
        equal if draws and trials have one distribution: ∪-shaped means draws that vary too
        little, ∩ too much, a slope a wrong mean.
    """
    edges = np.arange(n_draws + 2) / (n_draws + 1)
    low, high = np.arange(n_bins)[:, None] / n_bins, np.arange(1, n_bins + 1)[:, None] / n_bins
    return _share_inside(edges, low, high) @ rank_histogram(ranks, n_draws)


def interval_coverage(ranks: ArrayLike, n_draws: int, level: float) -> NDArray[np.float64]:
    """Whether trials lie in the central interval of the draws.

    The interval between the k-th smallest and k-th largest of n draws covers a trial of the same
    distribution with probability (n + 1 − 2k) / (n + 1), so `level` is met by a k that is rarely
    whole: trials of the two ranks at its ends count in part. Calibrated draws have the mean
    `level`, exactly, for any n.

    Parameters
    ----------
    ranks, n_draws
        As for `rank_histogram`.
    level : float
        .9, say.

    Returns
    -------
    array, shape of `ranks`: 0 … 1, NaN where the trial is missing.

    Raises
    ------
    ValueError : level outside (0, 1].
    """
    if not 0 < level <= 1:
        raise ValueError(f"level={level} must be a share in (0, 1], .9 say")
    edges = np.arange(n_draws + 2) / (n_draws + 1)
    inside = _share_inside(edges, (1 - level) / 2, (1 + level) / 2)
    return np.append(inside, np.nan)[np.asarray(ranks)]  # -1, missing, is the last


def _share_inside(edges: np.ndarray, low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """Share of each stretch between edges that lies between low and high."""
    overlap = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return np.maximum(overlap, 0) / np.diff(edges)


class VarianceAgreement(NamedTuple):
    """How the variance of draws follows the true variance of trials across voxels.

    Attributes
    ----------
    slope : Estimate
        Of the draws' variance on the trials', with intercept, in squared units of the betas:
        voxels of large variance weigh most. 1 is right.
    r : Estimate
        Pearson's r of the two; not clipped, and may come out above 1.
    ratio : float
        Mean over voxels of the draws' / the *measured* variance, in which all voxels count alike.
        Measured variances of few images scatter, and their inverse is then too large on average.
    reliability : float
        Share of what the variances measured in a fold differ by across voxels that is true, at
        most 1. Where it is not above 0, slope and r are NaN.
    """

    slope: Estimate
    r: Estimate
    ratio: float
    reliability: float


def variance_agreement(
    draw_variance: ArrayLike,
    trial_variance: ArrayLike,
    *,
    folds: ArrayLike | None = None,
    images: ArrayLike | None = None,
) -> VarianceAgreement:
    """Slope and correlation of the draws' variance on the true variance of trials, across voxels.

    Both are variances around what the encoder expects: that of the draws around their mean, and
    the mean square of trials around that same mean (`variances`). So the trials' holds their
    noise *and* the encoder's error, as the draws' must: draws that only had the noise would be
    too narrow for images the encoder gets wrong.

    A variance measured on few images scatters about the true one, and the slope on what was
    measured is too low even for perfect draws. What one image says about the variances is however
    independent of what another says, for one fitted encoder. So with xᵢ the variances measured on
    image i and dᵢ those of draws, covariances across voxels being meant,

        slope = mean cov(dᵢ, xᵢ) / mean over i ≠ j of cov(xᵢ, xⱼ),

    both over pairs of images of one fold. Repeats of one image may share as much as they like.
    Images of two folds are no pair: each encoder has seen the other's image. Its draws vary as
    the trials of that image did by chance, and its errors go with them. That the mean of a ratio
    is not the ratio of means is corrected for (Beale's estimator). Standard errors are a
    jackknife over images, and so for these encoders and voxels and other test images.
    `tests/metrics/test_variance_agreement.py` has the coverage of the intervals.

    Parameters
    ----------
    draw_variance : array, shape (n_voxels,), or (n_folds, n_voxels) with `folds`
        Of each encoder, mean over the images it was tested on; taken to be exact.
    trial_variance : array, shape (n_images, n_voxels)
        Measured on each image; may be memory-mapped, and is read some voxels at a time. NaN where
        an image has no trial. A voxel without trials or variance, on either side, is left out.
    folds : array of int, shape (n_images,), optional
        Row of `draw_variance` that belongs to the image.
    images : array of int, shape (n_images,), optional
        Which image a row is of, if some were tested in several folds; counted from 0.

    Returns
    -------
    VarianceAgreement
        NaN with fewer than three voxels or images, with one image per fold, where one side does
        not vary, or where different images do not agree on which voxels vary more.

    Raises
    ------
    ValueError : shapes that do not match.

    References
    ----------
    Fuller (1987), Measurement Error Models, chapter 1; Beale (1962), Industrielle Organisation 31.
    """
    drawn, trials, fold, image = check_variances(draw_variance, trial_variance, folds, images)
    n_voxels, ratio, rows = row_covariances(drawn, trials, fold)
    (num, den), without, (of_draws, of_trials) = mean_over_pairs(rows, fold, image)
    if n_voxels < 3 or without.shape[1] < 3 or not den > 0:
        num = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        c = jackknife_covariance(without)
        slope = (num / den + c[0, 1] / den**2) / (1 + c[1, 1] / den**2)
        sd = np.sqrt(of_draws) if of_draws > 0 else np.nan
        return VarianceAgreement(
            jackknife(slope, without[0] / without[1]),
            jackknife(num / sd / np.sqrt(den), without[0] / sd / np.sqrt(without[1])),
            ratio,
            float(den / of_trials),
        )


def variances(
    draws: ArrayLike, trials: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance of draws per voxel, and of trials around their mean per image and voxel.

    Parameters
    ----------
    draws : array, shape (n, n_images, n_voxels)
    trials : array, shape (n_images, n_repeats, n_voxels)

    Returns
    -------
    draw_variance : array, shape (n_voxels,)
        Mean over images.
    trial_variance : array, shape (n_images, n_voxels)
        Mean over the trials of the image; NaN where it has none.

        In squared units of the betas, both unbiased: what the mean of n draws varies by itself is
        taken off the trials'.

    Raises
    ------
    ValueError : shapes that do not match, or fewer than two draws.
    """
    draws, trials = check_draws(draws, trials)
    draw_variance = draws.var(axis=0, ddof=1, dtype=np.float64).mean(axis=0)
    around_mean = mean_square_deviations(draws.mean(axis=0), trials)
    return draw_variance, around_mean - draw_variance / len(draws)


def mean_square_deviations(centre: np.ndarray, trials: np.ndarray) -> NDArray[np.float64]:
    """Mean over the trials of an image of their squared distance to `centre`, image by image.

    Parameters
    ----------
    centre : array, shape (n_images, n_voxels)
    trials : array, shape (n_images, n_repeats, n_voxels)

    Returns
    -------
    array, shape (n_images, n_voxels): NaN where an image has no trial.
    """
    found = np.empty(centre.shape)
    for row, of_image, mean in zip(found, trials, centre, strict=True):
        squares = np.square(of_image - mean, dtype=np.float64)
        present = np.isfinite(squares)
        with np.errstate(invalid="ignore"):
            row[:] = np.where(present, squares, 0).sum(axis=0) / present.sum(axis=0)
    return found


def noise_correlation(betas: ArrayLike) -> NDArray[np.float64]:
    """Correlation between voxels of trials of the same image, the signal taken off.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
        Trials, NaN where missing; or draws, as ``np.moveaxis(draws, 0, 1)``. For few voxels.

    Returns
    -------
    array, shape (n_voxels, n_voxels)
        From deviations from the average of each image, pooled over images. NaN for a voxel
        without repeats or variance.
    """
    residuals, _ = within_image_residuals(np.asarray(betas))
    flat = np.nan_to_num(residuals.reshape(-1, residuals.shape[2]).astype(np.float64))
    return correlation_of(flat.T @ flat)


def correlation_of(covariance: ArrayLike) -> NDArray[np.float64]:
    """Covariance matrix, or a multiple of one, to correlations; NaN where the variance is 0."""
    covariance = np.asarray(covariance, dtype=np.float64)
    sd = np.sqrt(np.diag(covariance))
    sd = np.where(sd > 0, sd, np.nan)
    return covariance / sd / sd[:, None]


def noise_correlation_agreement(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson's r of the off-diagonal entries of two correlation matrices.

    Of draws and repeats it stays below 1 even for perfect draws, for the repeats give each
    correlation with an error of about 1 / √(degrees of freedom); against a known truth it does
    not. The draws of an encoder also hold its error, which repeats of an image share and so do
    not show: where the encoder errs much, agreement drops though the draws may be right.

    Parameters
    ----------
    a, b : array, shape (n_voxels, n_voxels)
        NaN in either leaves the pair out.

    Returns
    -------
    float : NaN with fewer than three pairs, or if one side does not vary.

    Raises
    ------
    ValueError : not square, or of different shapes.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or a.shape != b.shape or a.shape[0] != a.shape[1]:
        raise ValueError(f"a {a.shape} and b {b.shape} must be square matrices of one size")
    above = np.triu_indices(len(a), k=1)
    x, y = a[above], b[above]
    defined = np.isfinite(x) & np.isfinite(y)
    x, y = x[defined], y[defined]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def agreement_with_repeats(
    correlation: ArrayLike, betas: ArrayLike, *, images: ArrayLike | None = None
) -> Estimate:
    """`noise_correlation_agreement` with the `noise_correlation` of repeats, and its interval.

    The interval is a jackknife over images, or over 100 groups of them: it covers the agreement
    that is to be expected with as many other images, as low as that is for few of them, and says
    nothing of other training images. In a bootstrap, images that are drawn twice would count as
    twice the repeats with the same noise, and the agreement would come out too low.

    Parameters
    ----------
    correlation : array, shape (n_voxels, n_voxels)
        Of draws; held fixed.
    betas : array, shape (n_images, n_repeats, n_voxels)
        Trials, NaN where missing; for few voxels.
    images : array of int, shape (n_images,), optional
        Which image a row is of, if some were tested more than once.

    Returns
    -------
    Estimate : NaN as for `noise_correlation_agreement`; no interval with fewer than three images
        that have repeats.

    Raises
    ------
    ValueError : not square, or of different shapes.
    """
    residuals, _ = within_image_residuals(np.asarray(betas))
    image = np.arange(len(residuals)) if images is None else np.asarray(images)
    repeated = np.isfinite(residuals).any(axis=(1, 2))
    flat = np.nan_to_num(residuals[repeated].astype(np.float64))
    total = _cross_products(flat)
    number = np.unique(image[repeated], return_inverse=True)[1]
    n_groups = min(_N_GROUPS, number.max(initial=-1) + 1)
    without = [
        noise_correlation_agreement(
            correlation, correlation_of(total - _cross_products(flat[number % n_groups == group]))
        )
        for group in range(n_groups)
    ]
    value = noise_correlation_agreement(correlation, correlation_of(total))
    return jackknife(value, np.array(without))


def _cross_products(residuals: np.ndarray) -> NDArray[np.float64]:
    """Sums of products of every two voxels, over images and repeats."""
    flat = residuals.reshape(-1, residuals.shape[2])
    return flat.T @ flat


def ceiling_of_draws(ceiling: NoiseCeiling, n_draws: int) -> NoiseCeiling:
    """What r the mean of K draws from the true distribution has with averages of trials.

    A draw has noise as a trial has. If signal has variance s² and trial noise σ², the mean of K
    draws has variance s² + σ²/K and the average of n trials s² + σ²/n, and only s² is shared:
    r = √(s² / (s² + σ²/K)) · √(s² / (s² + σ²/n)), the ceiling of r for n trials times that for K.
    It grows with K to the ceiling for n trials, that of `predict`: averaging draws raises r
    without the encoder getting any better. Draws from the true distribution *have* this r;
    draws that vary too little exceed it, which is no merit of a sampler.

    Parameters
    ----------
    ceiling : NoiseCeiling
        For the averages that are scored, in any space.
    n_draws : int
        K, the draws averaged; 1 is one draw.

    Returns
    -------
    NoiseCeiling
        In space "r", for the same averages; `estimator` says how many draws.

    Raises
    ------
    ValueError : n_draws < 1.
    """
    if n_draws < 1:
        raise ValueError(f"n_draws={n_draws}: at least one draw is averaged")
    of_averages = ceiling.to("r")
    values = of_averages.values * of_averages.with_n_trials(n_draws).values
    what = "one draw" if n_draws == 1 else f"mean of {n_draws} draws"
    return NoiseCeiling(values, "r", ceiling.n_trials, f"{ceiling.estimator}, {what}")
