"""Means and contrasts of conditions by draws of an encoder: intervals, tests, preferences."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from brainenc.model_selection import fdr

#: Differences of responses that are round-off of float32, relative to the responses.
_ROUND_OFF = 1e-6

#: Share of a parameter's step by which circular values may be unevenly spaced.
_UNEVEN = 1e-3


@dataclass(frozen=True)
class Responses:
    """Mean responses to the conditions, of voxels or of areas, and functions drawn around them.

    Attributes
    ----------
    mean : array, shape (n_conditions, n)
        By the encoder's prediction.
    draws : array, shape (n_draws, n_conditions, n)
        One draw is one function of the image: conditions of a draw belong together. Without draws
        (0, n_conditions, n).
    """

    mean: np.ndarray
    draws: np.ndarray

    def averaged(self, weights: np.ndarray) -> "Responses":
        """Of areas: `weights` (n, n_areas) are the voxels' shares."""
        return Responses(self.mean @ weights, self.draws @ weights.astype(self.draws.dtype))

    def combined(self, weights: np.ndarray) -> "Responses":
        """Weighted sums of conditions: `weights` (n_sums, n_conditions)."""
        draws = np.einsum("sc,dcv->dsv", weights.astype(self.draws.dtype), self.draws)
        return Responses(weights @ self.mean, draws)


def intervals(found: Responses, confidence: float) -> dict[str, np.ndarray]:
    """s.d. over draws and the interval around the mean, each (n_conditions, n).

    Draws estimate the s.d. with n_draws − 1 degrees of freedom, so the interval has quantiles of t.
    """
    sd = _sd(found.draws)
    df = max(len(found.draws) - 1, 1)
    half = stats.t.ppf((1 + confidence) / 2, df) * sd
    return {"sd": sd, "low": found.mean - half, "high": found.mean + half}


def tests(found: Responses) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided p of "the value is 0", and q over the last axis; NaN without draws."""
    sd = _sd(found.draws)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * stats.t.sf(np.abs(found.mean) / sd, max(len(found.draws) - 1, 1))
    p = np.where(sd > 0, p, np.nan)
    return p, np.stack([fdr(row) for row in p]) if len(p) else p


def _sd(draws: np.ndarray) -> np.ndarray:
    if len(draws) < 2:
        return np.full(draws.shape[1:], np.nan)
    return draws.std(axis=0, ddof=1, dtype=np.float64)


# ------------------------------------------------------------------ preferences


@dataclass(frozen=True)
class Preference:
    """Preferred value of a parameter, one per voxel or area.

    Attributes
    ----------
    at : array, shape (n,)
        Preferred value; of values without an order its position. NaN, as are error and agreement,
        without data, and for equal responses to all values or a mean vector of length 0.
    error : array, shape (n,)
        Of a circular parameter: circular s.d. of the preferred value over draws, in its units.
    agreement : array, shape (n,)
        Share of draws that prefer the same value (circular: within half a step).
    strength : array, shape (n,)
        Circular: length of the mean vector, in units of the responses. Else largest − smallest.
    p, q : arrays, shape (n,)
        Of "the response is the same at all values".
    """

    at: np.ndarray
    error: np.ndarray
    agreement: np.ndarray
    strength: np.ndarray
    p: np.ndarray
    q: np.ndarray


def preference(found: Responses, values: np.ndarray | None, period: float | None) -> Preference:
    """Preferred value of each voxel.

    Parameters
    ----------
    found : Responses
        One condition per value.
    values : array of float, shape (n_values,), or None
        None: values have no order.
    period : float or None
        The parameter is circular: 180 for orientations. Values must be evenly spaced.
    """
    n_values, n = found.mean.shape
    defined = np.isfinite(found.mean).all(axis=0)
    if period is None:
        at = found.mean.argmax(axis=0)
        same = (found.draws.argmax(axis=1) == at).mean(axis=0) if len(found.draws) else np.nan
        strength = np.ptp(found.mean, axis=0)
        features = np.eye(n_values - 1, n_values) - 1 / n_values
        preferred = at.astype(float) if values is None else values[at]
        error = np.full(n, np.nan)
    else:
        angle = 2 * np.pi * np.asarray(values) / period
        features = np.stack([np.cos(angle), np.sin(angle)]) * 2 / n_values
        mean = _vector(found.mean, features)
        preferred = np.mod(np.angle(mean) * period / (2 * np.pi), period)
        strength = np.abs(mean)
        drawn = (
            np.stack([_vector(draw, features) for draw in found.draws])
            if len(found.draws)
            else (np.empty((0, n), complex))
        )
        turned = np.angle(drawn * np.conj(mean)) * period / (2 * np.pi)
        same = (np.abs(turned) <= period / n_values / 2).mean(axis=0) if len(drawn) else np.nan
        error = _circular_sd(turned, period)
    p = _joint_p(found.combined(features))
    p[~defined] = np.nan

    strength = np.where(defined, strength, np.nan)
    prefers = strength > _ROUND_OFF * np.abs(found.mean).max(axis=0)  # NaN does not
    preferred, error, same = (np.where(prefers, some, np.nan) for some in (preferred, error, same))
    return Preference(preferred, error, same, strength, p, fdr(p))


def check_circular(values: np.ndarray, period: float, name: str) -> None:
    """Raise ValueError unless values are evenly spaced over the whole period."""
    turns = np.sort(np.mod(values, period))
    steps = np.diff([*turns, turns[0] + period])
    if len(values) < 3 or np.ptp(steps) > _UNEVEN * period:
        raise ValueError(
            f"{name} has values {values.tolist()}, and with a period of {period:g} it needs three "
            "or more, evenly spaced over the whole of it, for a preferred value between them; give "
            f"circular={{}} to treat {name} as not circular"
        )


def _vector(responses: np.ndarray, features: np.ndarray) -> np.ndarray:
    cosine, sine = features @ responses
    return cosine + 1j * sine


def _circular_sd(turned: np.ndarray, period: float) -> np.ndarray:
    """s.d. of deviations within a period, in its units; NaN without draws."""
    if not len(turned):
        return np.full(turned.shape[1], np.nan)
    length = np.abs(np.exp(2j * np.pi * turned / period).mean(axis=0))
    with np.errstate(divide="ignore"):
        return np.sqrt(np.maximum(-2 * np.log(length), 0)) * period / (2 * np.pi)


def _joint_p(found: Responses) -> np.ndarray:
    """Probability of draws as large if all values are 0, by Hotelling's T², (n,)."""
    k, n = found.mean.shape
    n_draws = len(found.draws)
    p = np.full(n, np.nan)
    if n_draws < k + 2:
        return p
    deviations = found.draws - found.draws.mean(axis=0)
    for v in range(n):
        d = deviations[:, :, v].astype(np.float64)
        covariance = d.T @ d / (n_draws - 1)
        if not np.isfinite(covariance).all() or np.linalg.matrix_rank(covariance) < k:
            continue
        t2 = found.mean[:, v] @ np.linalg.solve(covariance, found.mean[:, v])
        p[v] = stats.f.sf(t2 * (n_draws - k) / (k * (n_draws - 1)), k, n_draws - k)
    return p
