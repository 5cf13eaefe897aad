"""Variance of draws against that of single trials, across voxels."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.metrics._jackknife import Estimate, jackknife, jackknife_covariance
from brainenc.metrics._variance_sums import check_variances, mean_over_pairs, row_covariances
from brainenc.metrics.probabilistic import check_draws

#: Groups of images that a jackknife of correlations leaves out.
_N_GROUPS = 100


class VarianceAgreement(NamedTuple):
    """Agreement across voxels of the variance of draws with the true variance of trials.

    Attributes
    ----------
    slope : Estimate
        Slope of the draws' variance on the trials', with intercept, in squared units of the betas,
        so that voxels of large variance weigh most. 1 for calibrated draws.
    r : Estimate
        Pearson's r of the two; not clipped, may exceed 1.
    ratio : float
        Mean over voxels of the draws' / the *measured* variance, with equal weights of voxels. With
        few images it is too large on average, since measured variances are noisy.
    reliability : float
        Share of true variance in the variation across voxels of variances measured in a fold, at
        most 1. If it is not above 0, slope and r are NaN.
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

    Both are variances around the encoder's expected response: the variance of the draws around
    their mean, and the mean square of trials around that same mean (`variances`). The latter
    includes trial noise *and* the encoder's error, and so must the draws: draws with trial noise
    alone would be too narrow for badly predicted images.

    A variance measured on few images is noisy, and the slope on measured variances is too low even
    for perfect draws. For one fitted encoder, however, measurements on different images are
    independent. Let xᵢ be the variances measured on image i and dᵢ those of draws. With covariances
    across voxels,

        slope = mean cov(dᵢ, xᵢ) / mean over i ≠ j of cov(xᵢ, xⱼ),

    both over pairs of images of one fold. Repeats of one image need not be independent. Images of
    different folds form no pair: each encoder was trained on the other's image, so its draws and
    errors depend on the noise of that image's trials. Beale's estimator corrects the bias of the
    ratio. Standard errors are a jackknife over images: they apply to these encoders and voxels, and
    to other test images. `tests/metrics/test_variance_agreement.py` has the coverage of the
    intervals.

    Parameters
    ----------
    draw_variance : array, shape (n_voxels,), or (n_folds, n_voxels) with `folds`
        Mean over the test images of each fitted encoder; treated as exact.
    trial_variance : array, shape (n_images, n_voxels)
        Variance measured on each image; may be memory-mapped, and is read in blocks of voxels. NaN
        where an image has no trial. Voxels without trials or variance, in either array, are left
        out.
    folds : array of int, shape (n_images,), optional
        Row of `draw_variance` that belongs to the image.
    images : array of int, shape (n_images,), optional
        Image of each row, from 0, if some were tested in several folds.

    Returns
    -------
    VarianceAgreement
        NaN with fewer than three voxels or images, with one image per fold, if one side is
        constant, or if the variances of different images are not correlated across voxels.

    Raises
    ------
    ValueError : shapes that do not match.

    References
    ----------
    Fuller (1987), Measurement Error Models, chapter 1; Beale (1962), Industrielle Organisation 31.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> sd = np.linspace(1, 3, 50)  # of 50 voxels
    >>> draws = sd * rng.standard_normal((100, 200, 50))
    >>> trials = sd * rng.standard_normal((200, 3, 50))
    >>> agreement = variance_agreement(*variances(draws, trials))
    >>> bool(0.8 < agreement.slope.value < 1.2)  # 1 for calibrated draws
    True
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

        In squared units of the betas, both unbiased: the variance of the mean of n draws is
        subtracted from that of the trials.

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
