"""Jackknife standard errors and intervals, leaving out each image in turn."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

#: Confidence of intervals.
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A statistic of the test images, with its standard error and interval.

    Attributes
    ----------
    value : float
    se : float
        Standard error.
    low, high : float
        95 % interval, `value` ± t · `se`; not clipped, so that of a correlation may exceed 1.
    """

    value: float
    se: float
    low: float
    high: float


def jackknife(value: float, without: NDArray[np.float64]) -> Estimate:
    """Estimate from the values without each of n images, or of n groups of equal size.

    se² = (n − 1) / n · Σ (θ₋ᵢ − mean θ₋)², and t has n − 1 degrees of freedom. A bootstrap draws
    images twice, with the same noise, which biases squares and products of means by that noise. A
    jackknife does not.

    Parameters
    ----------
    value : float
    without : array, shape (n,)

    Returns
    -------
    Estimate : NaN if `value` is; `se` and interval also with n < 3 or NaN in `without`.

    References
    ----------
    Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 11.
    """
    value, n = float(value), len(without)
    if n < 3 or np.isnan(value):
        return no_interval(value)
    se = float(np.sqrt(jackknife_covariance(without[None])[0, 0]))
    margin = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * se
    return Estimate(value, se, value - margin, value + margin)


def no_interval(value: float) -> Estimate:
    """Estimate without an interval: its error is unknown, or not from the test images."""
    return Estimate(value, np.nan, np.nan, np.nan)


def jackknife_covariance(without: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance of k statistics from their values without each image, (k, n)."""
    n = without.shape[1]
    deviations = without - without.mean(axis=1, keepdims=True)
    return (n - 1) / n * deviations @ deviations.T
