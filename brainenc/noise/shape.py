"""Residuals of single trials that are not normal: skew, tails, variance that depends on the mean.

Spike counts are skewed, and their variance grows with the mean; fMRI betas have somewhat heavy
tails. A residual is modelled as s(prediction) · g(z), with z normal (and correlated between voxels
as in `ResidualNoise`), g the voxel's own quantiles, and s an exponential in the prediction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp, ndtr

#: Standard normal values with stored quantiles; linear extrapolation beyond them.
NODES = np.linspace(-2.5, 2.5, 21)
_STEP = NODES[1] - NODES[0]

#: With fewer images the estimated shape does not generalise to other images.
MIN_IMAGES = 100
#: Largest number of trials for the estimate: seconds for 16 000 voxels.
_MAX_TRIALS = 1500
#: Weight, in trials, of the quantiles of all voxels beside a voxel's own.
_POOLED_TRIALS = 300
#: Voxels on which the decision to keep the shape is made.
_MAX_VOXELS = 400


@dataclass(frozen=True)
class ResidualShape:
    """Residuals of single trials as functions of normal ones.

    Attributes
    ----------
    quantiles : array, shape (n_nodes, n_voxels)
        Residual of mean 0 and unit variance at each of `NODES`; increasing.
    slope : array, shape (n_voxels,)
        Change of the log-variance per unit of the prediction.
    centre : array, shape (n_voxels,)
        Log-variance relative to the average is slope · prediction − centre.
    lowest, highest : arrays, shape (n_voxels,)
        Range of held-out predictions; the variance is constant beyond it.
    """

    quantiles: np.ndarray
    slope: np.ndarray
    centre: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

    def relative_sd(self, expected: np.ndarray) -> np.ndarray:
        """s.d. of trials relative to the average, for expected responses (..., n_voxels)."""
        seen = np.clip(expected, self.lowest, self.highest)
        return np.exp(0.5 * (self.slope * seen - self.centre)).astype(np.float32)

    def quantile(self, z: np.ndarray) -> np.ndarray:
        """Residuals of unit variance for normal ones (..., n_voxels); see `NODES`."""
        position = (z - NODES[0]) / _STEP
        # NaN (a voxel without data) cannot be sorted among the nodes; the result is NaN.
        below = np.fmin(np.fmax(position, 0), len(NODES) - 2).astype(np.intp)
        flat = self.quantiles.astype(np.float32).ravel()
        index = below * self.quantiles.shape[1] + np.arange(self.quantiles.shape[1])
        low, high = flat[index], flat[index + self.quantiles.shape[1]]
        return low + (position - below).astype(np.float32) * (high - low)

    def shape(self, normal: np.ndarray, sd: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Residuals with this shape from normal residuals.

        Parameters
        ----------
        normal : array, shape (n, n_images, n_voxels), float32
        sd : array, shape (n_images or 1, n_voxels)
            s.d. of `normal`. Where it is 0 residuals are 0; NaN, for voxels without data, stays
            NaN.
        expected : array, shape (n_images, n_voxels)

        Returns
        -------
        array, shape (n, n_images, n_voxels), float32
        """
        inverse = np.divide(1, sd, out=np.zeros_like(sd), where=sd > 0)
        size = sd * self.relative_sd(expected)
        for draw in normal:
            draw[:] = self.quantile(draw * inverse) * size
        return normal

    def normal(
        self, residuals: np.ndarray, sd: np.ndarray, expected: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inverse of `shape`: normal residuals, and the log of the derivative.

        Parameters
        ----------
        residuals : array, shape (n_images, n_repeats, n_voxels)
        sd, expected : as for `shape`

        Returns
        -------
        normal, log_derivative : arrays, shape (n_images, n_repeats, n_voxels)
        """
        relative = self.relative_sd(expected)
        z, log_slope = self.unit_normal(residuals / (sd * relative)[:, None])
        return z * sd[:, None], log_slope - np.log(relative)[:, None]

    def unit_normal(self, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inverse of `quantile`: normal values, and the log of the derivative.

        Both have the shape of the residuals (..., n_voxels); NaN stays NaN in the values.
        """
        z, log_slope = np.empty_like(unit), np.empty_like(unit)
        for v in range(unit.shape[-1]):
            table = self.quantiles[:, v].astype(np.float64)
            below = np.clip(np.searchsorted(table, unit[..., v]) - 1, 0, len(table) - 2)
            rise = np.diff(table)[below]
            z[..., v] = NODES[below] + (unit[..., v] - table[below]) / rise * _STEP
            log_slope[..., v] = np.log(_STEP / rise)
        return z, log_slope

    def select(self, voxels: Any) -> "ResidualShape":
        """Shape of some voxels."""
        return ResidualShape(
            self.quantiles[:, voxels],
            self.slope[voxels],
            self.centre[voxels],
            self.lowest[voxels],
            self.highest[voxels],
        )


def fit_residual_shape(
    betas: np.ndarray,
    held_out: np.ndarray,
    spread: Callable[[np.ndarray], np.ndarray],
    *,
    random_state: Any = 0,
) -> ResidualShape | None:
    """Shape of residuals around held-out predictions, if it describes held-out trials better.

    Quantiles of a voxel are averaged with those of all voxels, weighted by the number of trials;
    the slope of its log-variance is shrunk towards the average voxel according to its standard
    error. The shape is kept only if, estimated on one half of the images, it describes trials of
    the other half better than normal residuals of constant variance, by the pinball loss of
    quantiles averaged over voxels.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels); NaN where a repeat is missing
    held_out : array, shape (n_images, n_voxels)
        Held-out predictions; NaN where there is none.
    spread : function (images: array of int) -> array, shape (n_images or 1, n_voxels)
        s.d. of single trials around the predictions.
    random_state : int, Generator or None
        Seed of the choice of images if there are more than 1500 trials, and of the halves.

    Returns
    -------
    ResidualShape or None
        None if normal residuals are as good, if fewer than 100 images have trials, or if no voxel
        varies.

    References
    ----------
    Gneiting & Raftery (2007), Journal of the American Statistical Association 102 (pinball loss).
    """
    images = some_images(betas, held_out, rng := np.random.default_rng(random_state))
    if len(images) < MIN_IMAGES:
        return None
    return shape_of_trials(betas[images], held_out[images], spread(images), rng)


def shape_of_trials(
    betas: np.ndarray, held_out: np.ndarray, sd: np.ndarray, rng: np.random.Generator
) -> ResidualShape | None:
    """As `fit_residual_shape`, of all images that are given; `sd` as its `spread` returns it."""
    half = rng.permutation(len(betas)) % 2 == 0
    varies = np.flatnonzero((np.isfinite(sd) & (sd > 0)).any(axis=0))
    if not len(varies):
        return None

    def unit_and_expected(voxels: Any) -> tuple[np.ndarray, np.ndarray]:
        expected, scale = held_out[:, voxels], sd[:, voxels]
        residuals = betas[..., voxels] - expected[:, None]
        unit = residuals / np.where(scale > 0, scale, np.nan)[:, None]
        return unit.astype(np.float32, copy=False), expected

    unit, expected = unit_and_expected(varies[:: max(1, len(varies) // _MAX_VOXELS)])
    gain = 0.0
    for learnt in (half, ~half):
        shape = _fit(unit[learnt], expected[learnt])
        gain += _pinball_gain(unit[~learnt], expected[~learnt], shape)
    return _fit(*unit_and_expected(slice(None))) if gain > 0 else None


def some_images(betas: np.ndarray, held_out: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images with trials and predictions: enough for the number of trials, and at least 100."""
    taken: list[int] = []
    n_trials = 0
    for i in rng.permutation(len(betas)):
        if n_trials >= _MAX_TRIALS and len(taken) >= MIN_IMAGES:
            break
        n = int(np.isfinite(betas[i]).any(axis=1).sum()) if np.isfinite(held_out[i]).any() else 0
        if n > 0:
            taken.append(i)
            n_trials += n
    return np.sort(taken)


def _fit(unit: np.ndarray, expected: np.ndarray) -> ResidualShape:
    slope, error = _variance_slopes(unit, expected)
    slope = _shrink(slope, error)
    shape = _with_slopes(unit, expected, slope)
    unit = unit / shape.relative_sd(expected)[:, None]
    own, n_trials = _quantiles(unit)
    known = n_trials > 0
    own = np.where(known, own, 0)
    pooled = own @ n_trials[:, None] / n_trials.sum() if known.any() else NODES[:, None]
    share = n_trials / (n_trials + _POOLED_TRIALS)
    quantiles = _standardized(share * own + (1 - share) * pooled)
    return ResidualShape(
        quantiles.astype(np.float32), shape.slope, shape.centre, shape.lowest, shape.highest
    )


def _variance_slopes(unit: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maximum-likelihood slope of the log-variance on the prediction, and its standard error.

    Newton's method on the profile likelihood of normal residuals, which is convex; the standard
    error is robust to non-normal residuals.
    """
    present = np.isfinite(unit)
    n = present.sum(axis=1)
    squares = np.square(np.where(present, unit, 0)).sum(axis=1)
    weight = n / np.maximum(n.sum(axis=0), 1)
    x = np.where(n > 0, expected, 0)
    x = np.where(n > 0, x - (weight * x).sum(axis=0), 0)
    scale = np.sqrt((weight * x**2).sum(axis=0))
    x = x / np.where(scale > 0, scale, 1)
    slope = np.zeros(x.shape[1])
    for _ in range(8):
        share = squares * np.exp(-slope * x)
        share /= np.maximum(share.sum(axis=0), np.finfo(float).tiny)
        mean = (share * x).sum(axis=0)
        curvature = (share * x**2).sum(axis=0) - mean**2
        step = mean / np.maximum(curvature, 0.1)
        slope = np.clip(slope + np.clip(step, -1, 1), -3, 3)
    error = np.sqrt((np.square(share - weight) * x**2).sum(axis=0)) / np.maximum(curvature, 0.1)
    safe = np.where(scale > 0, scale, np.inf)
    return slope / safe, error / safe


def _shrink(slope: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Shrink towards the mean by the share of variance over voxels that errors explain."""
    known = (error > 0) & np.isfinite(slope)
    if not known.any():
        return np.zeros_like(slope)
    mean = np.average(slope[known], weights=1 / error[known] ** 2)
    real = max(np.mean((slope[known] - mean) ** 2 - error[known] ** 2), 0)
    return np.where(known, mean + (slope - mean) * real / (real + error**2 + 1e-30), 0)


def _with_slopes(unit: np.ndarray, expected: np.ndarray, slope: np.ndarray) -> ResidualShape:
    """Normal shape with these slopes, centred to keep the mean variance."""
    n = np.isfinite(unit).sum(axis=1)
    weight = n / np.maximum(n.sum(axis=0), 1)
    known = n.any(axis=0)
    lowest = np.where(known, np.where(n > 0, expected, np.inf).min(axis=0), 0)
    highest = np.where(known, np.where(n > 0, expected, -np.inf).max(axis=0), 0)
    mean_relative = logsumexp(slope * np.where(n > 0, expected, 0), axis=0, b=weight)
    centre = np.where(known, mean_relative, 0)
    quantiles = np.broadcast_to(NODES[:, None], (len(NODES), len(slope)))
    return ResidualShape(quantiles, slope, centre, lowest, highest)


def _quantiles(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample quantiles at `NODES` of unit residuals per voxel, and the number of residuals."""
    flat = unit.reshape(-1, unit.shape[2])
    n = np.isfinite(flat).sum(axis=0)
    ordered = np.sort(flat.T, axis=1)  # NaN last
    position = np.maximum(ndtr(NODES)[:, None] * n - 0.5, 0)
    below = np.minimum(position.astype(np.intp), np.maximum(n - 2, 0))
    part = np.minimum(position - below, 1)
    voxels = np.arange(len(ordered))
    low, high = ordered[voxels, below], ordered[voxels, np.minimum(below + 1, np.maximum(n - 1, 0))]
    return low + part * (high - low), n


def _standardized(quantiles: np.ndarray) -> np.ndarray:
    """Quantiles with mean 0 and variance 1, strictly increasing."""
    rises = np.maximum(np.diff(quantiles, axis=0), 1e-3)
    quantiles = quantiles[:1] + np.concatenate([np.zeros_like(rises[:1]), rises.cumsum(axis=0)])
    z = np.linspace(-5, 5, 401)
    weight = np.exp(-(z**2) / 2.0) / np.sqrt(2 * np.pi)
    weight = weight / weight.sum()
    below = np.clip(((z - NODES[0]) / _STEP).astype(int), 0, len(NODES) - 2)
    part = ((z - NODES[below]) / _STEP)[:, None]
    mean = square = 0.0
    for w, k, t in zip(weight, below, part, strict=True):
        value = (1 - t) * quantiles[k] + t * quantiles[k + 1]
        mean, square = mean + w * value, square + w * value**2
    return (quantiles - mean) / np.sqrt(square - mean**2)


def _pinball_gain(unit: np.ndarray, expected: np.ndarray, shape: ResidualShape) -> float:
    """Pinball loss of normal residuals minus that of shaped ones, per trial."""
    relative = shape.relative_sd(expected)[:, None]
    gain = np.zeros(unit.shape[2])
    for node, ours in zip(NODES[::2], shape.quantiles[::2], strict=True):
        level = ndtr(node)
        for sign, quantile in ((1, node), (-1, ours * relative)):
            beyond = unit - quantile
            loss = np.where(beyond > 0, level, level - 1) * beyond
            gain += sign * np.nansum(loss, axis=(0, 1))
    return float(np.mean(gain / np.maximum(np.isfinite(unit).sum(axis=(0, 1)), 1)))
