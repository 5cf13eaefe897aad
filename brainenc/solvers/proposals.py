"""Weights of bands to try next: random ones, then those that promise most to all voxels."""

import numpy as np
import torch
from torch import Tensor

#: Concentrations of the Dirichlet distributions that random weights are drawn from in turn: nearly
#: one band only, and any mixture alike.
_CONCENTRATIONS = (0.1, 1.0)
#: Weights among which the next ones are chosen.
_N_PROPOSALS = 500
#: Length scales of the errors as a function of the weights' square roots, of which the likeliest is
#: taken.
_LENGTHS = (0.15, 0.3, 0.6, 1.2)
#: Variance of what a smooth function of the weights leaves.
_NUGGET = 1e-3


def random_weights(n: int, n_bands: int, generator: np.random.RandomState) -> np.ndarray:
    """Band weights (n, n_bands) that sum to 1; the first are equal.

    The same as himalaya's random search tries (Dupré la Tour et al. 2022).
    """
    per_kind = -(-n // len(_CONCENTRATIONS))
    kinds = [generator.dirichlet([c] * n_bands, per_kind) for c in _CONCENTRATIONS]
    weights = np.stack(kinds, axis=1).reshape(-1, n_bands)[:n]
    weights[0] = 1 / n_bands
    return weights


def promising_weights(
    tried: np.ndarray, errors: Tensor, generator: np.random.RandomState
) -> np.ndarray:
    """Weights with the largest expected fall of the error, summed over voxels.

    The errors of each voxel are taken as a Gaussian process over the square roots of the weights,
    with one length scale for all voxels (Jones et al. 1998, Journal of Global Optimization 13).

    Parameters
    ----------
    tried : array, shape (n_tried, n_bands)
    errors : (n_tried, n_voxels)
        Of each voxel, relative to its variance.

    Returns
    -------
    array, shape (n_bands,)
    """
    n_bands = tried.shape[1]
    near = tried[generator.randint(len(tried), size=_N_PROPOSALS // 2)]
    moved = near * np.exp(0.7 * generator.standard_normal(near.shape)) + 1e-3
    anywhere = generator.dirichlet([0.7] * n_bands, _N_PROPOSALS - len(moved))
    proposals = np.concatenate([moved / moved.sum(1, keepdims=True), anywhere])
    known = torch.as_tensor(np.sqrt(tried))
    new = torch.as_tensor(np.sqrt(proposals))
    errors = errors.double().cpu()
    mean, scale = errors.mean(0), errors.std(0).clamp(min=1e-12)
    scaled = (errors - mean) / scale
    factors = {length: _factor(known, length) for length in _LENGTHS}
    length = min(_LENGTHS, key=lambda each: _unlikeliness(factors[each], scaled))
    cross = torch.exp(-torch.cdist(new, known).square() / (2 * length**2))
    solved = torch.cholesky_solve(cross.T, factors[length]).T
    deviation = (1 + _NUGGET - (solved * cross).sum(1)).clamp(min=1e-9).sqrt()[:, None]
    below = (scaled.amin(0) - solved @ scaled) / deviation
    normal = torch.distributions.Normal(0, 1)
    density = torch.exp(-below.square() / 2) / np.sqrt(2 * np.pi)
    gain = (deviation * (below * normal.cdf(below) + density)) @ scale
    return proposals[int(gain.argmax())]


def _factor(points: Tensor, length: float) -> Tensor:
    covariance = torch.exp(-torch.cdist(points, points).square() / (2 * length**2))
    covariance.diagonal().add_(_NUGGET)
    return torch.linalg.cholesky(covariance)


def _unlikeliness(factor: Tensor, scaled: Tensor) -> float:
    """Negative logarithm of the likelihood, but for constants."""
    whitened = torch.linalg.solve_triangular(factor, scaled, upper=False)
    n_voxels = scaled.shape[1]
    variance = whitened.square().sum() / scaled.numel()
    per_voxel = factor.diagonal().log().sum() + len(scaled) / 2 * variance.log()
    return float(n_voxels * per_voxel)
