"""Noise correlations of voxels, in draws and in repeats."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.metrics._jackknife import Estimate, jackknife
from brainenc.metrics.variances import _N_GROUPS
from brainenc.repeats import within_image_residuals


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
    flat = np.nan_to_num(_trial_after_trial(residuals).astype(np.float64))
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
    flat = _trial_after_trial(residuals)
    return flat.T @ flat


def _trial_after_trial(residuals: np.ndarray) -> np.ndarray:
    """Residuals (n_images, n_repeats, n_voxels) as one row per trial, of no voxels too."""
    n_images, n_repeats, n_voxels = residuals.shape
    return residuals.reshape(n_images * n_repeats, n_voxels)
