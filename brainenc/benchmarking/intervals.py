"""Means over voxels and differences of encoders, with bootstrap intervals."""

from typing import Any

import numpy as np

from brainenc.arrays import release
from brainenc.model_selection import bootstrap_interval, bootstrap_p_value


def difference_row(difference: np.ndarray, sampled: np.ndarray) -> dict[str, Any]:
    """Mean difference (n_voxels,), and interval and p by samples of the mean (n_bootstraps,)."""
    low, high = bootstrap_interval(sampled)
    return {
        "difference": mean_over_voxels(difference),
        "low": float(low),
        "high": float(high),
        "p": bootstrap_p_value(sampled),
        "n_voxels": int(np.isfinite(difference).sum()),
    }


def mean_of_samples(samples: np.ndarray, voxels: Any = slice(None)) -> np.ndarray:
    """Mean over some voxels of samples (n_bootstraps, n_voxels), which may be memory-mapped."""
    mean = mean_over_voxels(samples[:, voxels])
    release(samples)
    return mean


def sample_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Difference of two sets of samples, in memory; they may be memory-mapped."""
    difference = np.asarray(a) - b
    release(a)
    release(b)
    return difference


def mean_over_voxels(values: np.ndarray) -> Any:
    """Mean over the defined values of the last axis; NaN if there are none."""
    n = np.isfinite(values).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(values, axis=-1, dtype=np.float64) / n
    return float(mean) if mean.ndim == 0 else mean
