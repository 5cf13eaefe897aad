"""Banded ridge with a prior, with the candidate and penalty of the largest likelihood per voxel."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brainenc.arrays import blocks
from brainenc.devices import full_precision, linear_algebra_device
from brainenc.model_selection import Folds
from brainenc.solvers.banded import check_candidates
from brainenc.solvers.bands import Bands, KernelBands
from brainenc.solvers.evidence import log_evidence
from brainenc.solvers.forms import EigenForm
from brainenc.solvers.kernel import (
    Responses,
    block_size,
    empty_fit,
    evaluate,
    store,
)
from brainenc.solvers.priors import POOLING
from brainenc.solvers.proposals import random_weights
from brainenc.solvers.result import RidgeFit
from brainenc.solvers.smoother import FullKernel, Smoother
from brainenc.solvers.voxels import SHARES


def candidates_with_priors(
    n_iter: int, n_bands: int, n_components: int, random_state: int | None
) -> np.ndarray:
    """Weights of bands and components of a prior that are tried, (n_candidates, n_bands + n).

    First those of the bands alone that are tried without a prior, so that of equal likelihoods
    they are taken. Then mixtures of one component with bands: half as many, but each component at
    least once with each share, beside equal weights of the bands first.

    Examples
    --------
    >>> candidates_with_priors(20, 1, 1, 0).tolist()  # one band needs no search
    [[1.0, 0.0], [0.1, 0.9], [0.5, 0.5]]
    >>> candidates_with_priors(20, 2, 1, 0).shape
    (30, 3)
    """
    generator = np.random.RandomState(random_state)
    alone = random_weights(n_iter if n_bands > 1 else 1, n_bands, generator)
    found = [np.concatenate([own, np.zeros(n_components)]) for own in alone]
    mixtures = [(component, share) for component in range(n_components) for share in SHARES]
    n_mixed = max(len(alone) // 2, len(mixtures))
    for i in range(n_mixed):
        component, share = mixtures[i % len(mixtures)]
        own = alone[i // len(mixtures) % len(alone)]
        found.append(np.concatenate([share * own, np.zeros(n_components)]))
        found[-1][n_bands + component] = 1 - share
    return np.array(found)


def banded_ridge_evidence(
    bands: Sequence[np.ndarray] | Bands,
    Y: np.ndarray,
    alphas: np.ndarray,
    folds: Folds,
    candidates: np.ndarray,
    *,
    pooling: float = POOLING,
    per_voxel: bool = True,
    device: Any = "cpu",
) -> RidgeFit:
    """As `banded_ridge_cv`, with the candidate and penalty that are likeliest.

    Of a voxel its marginal likelihood counts, and that of the average voxel as much as `pooling`
    images. One eigendecomposition for each candidate serves all voxels and penalties; folds are
    for held-out predictions alone.

    Parameters
    ----------
    bands, Y, alphas, folds, device
        As for `banded_ridge_cv`.
    candidates : array, shape (n_candidates, n_bands)
        Weights of the bands. Of equally likely candidates the first one is taken.
    pooling : float
    per_voxel : bool
        Otherwise only the average voxel counts.

    Returns
    -------
    RidgeFit
        As that of `banded_ridge_cv`.

    Raises
    ------
    ValueError : kernels are not finite, or candidates are not weights of the bands.

    Examples
    --------
    >>> import numpy as np
    >>> from brainenc.model_selection import image_folds
    >>> rng = np.random.default_rng(0)
    >>> signal, other = rng.standard_normal((2, 60, 10))
    >>> Y = signal[:, :2] + 0.1 * rng.standard_normal((60, 2))
    >>> Ks, tried = [signal @ signal.T, other @ other.T], np.array([[0.5, 0.5], [0.9, 0.1]])
    >>> fit = banded_ridge_evidence(Ks, Y, np.array([1e-1, 1e1]), image_folds(5, 60), tried)
    >>> fit.band_weights[0]
    array([0.9, 0.9])
    """
    n_images, n_voxels = Y.shape
    if isinstance(bands, Sequence):
        bands = KernelBands(bands, linear_algebra_device(device))
    candidates = check_candidates(candidates, bands.n_bands)
    band_weights = np.empty((candidates.shape[1], n_voxels), Y.dtype)
    fit = replace(empty_fit(Y), band_weights=band_weights)
    # A constant voxel has no likeliest penalty, and has no part in the average one.
    varies = np.ptp(Y, axis=0) > 0
    with full_precision():
        tried = torch.as_tensor(np.asarray(alphas)).to(bands.like)
        best = bands.like.new_full((n_voxels,), -torch.inf)
        counts = torch.as_tensor(varies, device=best.device)
        parts = list(blocks(n_voxels, block_size(n_images)))
        for weights in candidates:
            smoother = _smoother(bands, torch.as_tensor(weights).to(bands.like), tried, folds)
            logs = torch.cat([_evidence(smoother, Y[:, part]) for part in parts], 1)
            logs[:, ~counts] = 0
            average = logs.sum(1, keepdim=True) / max(1, int(varies.sum()))
            if per_voxel:
                logs += average * (pooling / n_images)
            else:
                logs = average.expand_as(logs)
            largest, at = logs.max(0)
            for part in parts:
                better = (largest[part] > best[part]).nonzero()[:, 0]
                # Voxels of one penalty are evaluated together.
                voxels = better[at[part][better].argsort(stable=True)]
                if not len(voxels):
                    continue
                responses = Responses.of(Y[:, part], smoother).of_voxels(voxels)
                voxels = voxels + part.start
                found = evaluate(smoother, responses, at[voxels])
                best[voxels] = largest[voxels]
                columns = voxels.numpy(force=True)
                store(fit, columns, smoother, responses, found)
                band_weights[:, columns] = weights[:, None]
    return fit


def _smoother(bands: Any, weights: Tensor, alphas: Tensor, folds: Folds) -> Smoother:
    """Ridge by eigenvectors: the likelihood asks for the determinant at every penalty."""
    if not isinstance(bands, KernelBands):
        return bands.smoother(weights, alphas, folds)
    K = bands.kernel(weights)
    return Smoother(EigenForm.of_kernel(K), FullKernel(K), alphas, folds)


def _evidence(smoother: Smoother, Y: np.ndarray) -> Tensor:
    """Logarithm of the marginal likelihood, (n_alphas, n_voxels)."""
    form: Any = smoother.form
    responses = Responses.of(Y, smoother)
    squares = responses.projected.square()
    n_missing = len(Y) - 1 - len(form.values)
    if n_missing <= 0:
        return log_evidence(form.values, squares, smoother.alphas)
    # Of axes with eigenvalue 0, which are left out, only the sum of squares counts.
    rest = (responses.Y.square().sum(0) - squares.sum(0)).clamp_(min=0)
    zeros = form.values.new_zeros(n_missing)
    padded = torch.cat([rest[None], squares.new_zeros(n_missing - 1, len(rest)), squares])
    return log_evidence(torch.cat([zeros, form.values]), padded, smoother.alphas)
