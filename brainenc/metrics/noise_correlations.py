"""Noise correlations of voxels, in draws and in repeats."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.metrics._jackknife import Estimate, jackknife
from brainenc.metrics.variances import _N_GROUPS
from brainenc.numeric import as_doubles, as_numbers
from brainenc.repeats import within_image_residuals


def noise_correlation(betas: ArrayLike) -> NDArray[np.float64]:
    """Correlation between voxels over trials of the same image, without signal.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
        Trials, NaN where missing; or draws, as ``np.moveaxis(draws, 0, 1)``. For few voxels.

    Returns
    -------
    array, shape (n_voxels, n_voxels)
        From deviations from the average of each image, pooled over images. NaN for a voxel
        without repeats or variance.

    Raises
    ------
    ValueError : betas of another number of dimensions.
    """
    residuals, _ = within_image_residuals(_trials(betas))
    flat = np.nan_to_num(_trial_after_trial(residuals).astype(np.float64))
    return correlation_of(flat.T @ flat)


def _trials(betas: ArrayLike) -> np.ndarray:
    array = as_numbers(betas, "betas")
    if array.ndim != 3:
        raise ValueError(
            f"betas {array.shape} must be (n_images, n_repeats, n_voxels); draws are "
            "np.moveaxis(draws, 0, 1)"
        )
    return array


def correlation_of(covariance: ArrayLike) -> NDArray[np.float64]:
    """Covariance matrix, or a multiple of one, to correlations; NaN where the variance is 0."""
    covariance = as_doubles(covariance, "covariance")
    sd = np.sqrt(np.diag(covariance))
    sd = np.where(sd > 0, sd, np.nan)
    return covariance / sd / sd[:, None]


def noise_correlation_agreement(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson's r of the off-diagonal entries of two correlation matrices.

    Between draws and repeats it is below 1 even for perfect draws, since correlations of repeats
    have an error of about 1 / √(degrees of freedom); this does not hold against a known truth.
    Draws also include the encoder's error, which is the same in all repeats of an image: with a
    large error, agreement drops even if the draws are right.

    Parameters
    ----------
    a, b : array, shape (n_voxels, n_voxels)
        NaN in either leaves the pair out.

    Returns
    -------
    float : NaN with fewer than three pairs, or if one side is constant.

    Raises
    ------
    ValueError : not square, or of different shapes.
    """
    a, b = as_doubles(a, "a"), as_doubles(b, "b")
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

    The interval is a jackknife over images, or over 100 groups of them. It covers the expected
    agreement for other test images of the same number, which is low for few images, but not for
    other training images. In a bootstrap, an image drawn twice would add repeats with the same
    noise, and the agreement would be too low.

    Parameters
    ----------
    correlation : array, shape (n_voxels, n_voxels)
        Correlations of draws; held fixed.
    betas : array, shape (n_images, n_repeats, n_voxels)
        Trials, NaN where missing; for few voxels.
    images : array of int, shape (n_images,), optional
        Image of each row, if some were tested more than once.

    Returns
    -------
    Estimate : NaN as for `noise_correlation_agreement`; no interval with fewer than three images
        that have repeats.

    Raises
    ------
    ValueError : not square, or of different shapes, or `images` of another length.
    """
    residuals, _ = within_image_residuals(_trials(betas))
    image = np.arange(len(residuals)) if images is None else np.asarray(images)
    if image.shape != residuals.shape[:1]:
        raise ValueError(
            f"images {image.shape} must have one number per image of betas {residuals.shape}"
        )
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
    flat = _trial_after_trial(residuals)
    return flat.T @ flat


def _trial_after_trial(residuals: np.ndarray) -> np.ndarray:
    """Residuals (n_images, n_repeats, n_voxels) with one row per trial, also for no voxels."""
    n_images, n_repeats, n_voxels = residuals.shape
    return residuals.reshape(n_images * n_repeats, n_voxels)
