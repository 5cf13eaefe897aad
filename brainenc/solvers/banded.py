"""Banded ridge: one penalty per band and voxel, from kernels shared by all voxels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from brainenc.arrays import blocks
from brainenc.devices import full_precision, linear_algebra_device
from brainenc.model_selection import Folds
from brainenc.progress import progress
from brainenc.solvers.bands import Bands, FeatureBands, KernelBands
from brainenc.solvers.kernel import (
    Responses,
    block_size,
    empty_fit,
    shared_alphas,
    solve_voxels,
    store,
)
from brainenc.solvers.proposals import promising_weights, random_weights
from brainenc.solvers.result import RidgeFit
from brainenc.solvers.search import choose_search
from brainenc.solvers.smoother import Smoother
from brainenc.solvers.voxels import voxel_groups

#: One in so many candidates is random; the others are chosen from what these have shown.
RANDOM_SHARE = 3
#: A voxel's held-out error is computed for a candidate whose error by generalised cross-validation
#: is at most so much above the smallest known one.
_MARGIN = 0.03


def banded_ridge_cv(
    bands: Sequence[np.ndarray] | Bands,
    Y: np.ndarray,
    alphas: np.ndarray,
    folds: Folds,
    *,
    n_iter: int = 20,
    candidates: Any = "random",
    per_voxel: Any = True,
    search: str = "auto",
    random_state: int | None = 0,
    device: Any = "cpu",
    verbose: bool = False,
) -> RidgeFit:
    """Ridge regression with one penalty per band and voxel.

    Candidate band weights are shared by all voxels: one eigendecomposition of the weighted kernel
    serves all voxels, penalties and folds. Each voxel takes the candidate and the penalty with the
    smallest held-out error.

    Parameters
    ----------
    bands : sequence of arrays, shape (n_images, n_images), or Bands
        Kernel of each band; or `feature_bands`, where the bands together are narrower than images.
    Y, alphas, folds, per_voxel, device
        As for `ridge_cv`.
    n_iter : int
        Number of candidates.
    candidates : "random", "chosen" or array, shape (n_candidates, n_bands)
        "random" draws them from Dirichlet distributions, the first with equal weights. "chosen"
        draws a third so, and chooses each further one where the errors so far promise the largest
        fall of the error, summed over voxels: better for as many candidates, but what a voxel gets
        then depends on the other voxels. An array gives the weights themselves.
    search : "auto", "guided" or "exact"
        As for `kernel_ridge_cv`. "guided" also skips the folds for voxels whose generalised
        cross-validation says that a candidate is more than 3 % worse than another one.
    random_state : int
    verbose : bool
        Show a progress bar over candidates.

    Returns
    -------
    RidgeFit
        Weights in dual form: predictions are Σ_b band_weights[b] K_b(new, fitted) @ weights +
        intercept.

    Raises
    ------
    ValueError : kernels are not finite, or candidates are not weights of the bands.

    References
    ----------
    Dupré la Tour et al. (2022), NeuroImage 264, "Feature-space selection with banded ridge
    regression"; himalaya's random search gives the same answers for the same candidates.

    Examples
    --------
    >>> import numpy as np
    >>> from brainenc.model_selection import image_folds
    >>> rng = np.random.default_rng(0)
    >>> signal, other = rng.standard_normal((2, 60, 10))
    >>> Y = signal[:, :2] + 0.1 * rng.standard_normal((60, 2))
    >>> Ks = [signal @ signal.T, other @ other.T]
    >>> fit = banded_ridge_cv(Ks, Y, np.array([1e-1, 1e1]), image_folds(5, 60))
    >>> bool((fit.band_weights[0] > 0.9).all())
    True
    """
    search = choose_search(search, len(Y), folds)
    generator = np.random.RandomState(random_state)
    with full_precision():
        if isinstance(bands, Sequence):
            bands = KernelBands(bands, linear_algebra_device(device))
        planned = _planned(candidates, n_iter, bands.n_bands, generator)
        n_candidates = n_iter if isinstance(candidates, str) else len(planned)
        tried = torch.as_tensor(np.asarray(alphas)).to(bands.like)
        best = _Best(Y, bands, n_candidates, voxel_groups(per_voxel, Y.shape[1]))
        for i in progress(range(n_candidates), desc="band weights", verbose=verbose):
            weights = planned[i] if i < len(planned) else best.promising(i, generator)
            smoother = bands.smoother(torch.as_tensor(weights).to(bands.like), tried, folds)
            best.compare(i, weights, smoother, search)
    return best.fit


def feature_bands(X: np.ndarray, sizes: Sequence[int], *, device: Any = "cpu") -> FeatureBands:
    """Bands for `banded_ridge_cv` from features side by side, fewer than images.

    Parameters
    ----------
    X : array, shape (n_images, n_features)
    sizes : sequence of int
        Number of features of each band; they add up to n_features.
    device : str or torch.device

    Returns
    -------
    FeatureBands

    Raises
    ------
    ValueError : sizes do not add up to the features.

    Examples
    --------
    >>> import numpy as np
    >>> feature_bands(np.ones((9, 5)), [2, 3]).n_bands
    2
    """
    if sum(sizes) != X.shape[1]:
        raise ValueError(f"sizes={list(sizes)} must add up to the {X.shape[1]} features of X")
    return FeatureBands(X, sizes, linear_algebra_device(device))


def _planned(
    candidates: Any, n_iter: int, n_bands: int, generator: np.random.RandomState
) -> np.ndarray:
    """Band weights that are known before any is tried, (n, n_bands).

    Raises
    ------
    ValueError : neither a name nor weights of the bands, which are positive or 0 and sum to 1.
    """
    if isinstance(candidates, str):
        if candidates not in ("random", "chosen"):
            raise ValueError(
                f"candidates={candidates!r} must be 'random', 'chosen' or an array of weights, "
                f"(n_candidates, {n_bands})"
            )
        all_random = candidates == "random" or n_bands == 1 or n_iter < 3
        n_random = n_iter if all_random else max(2, n_iter // RANDOM_SHARE)
        return random_weights(n_random, n_bands, generator)
    return check_candidates(candidates, n_bands)


def check_candidates(candidates: Any, n_bands: int) -> np.ndarray:
    """Given band weights, (n_candidates, n_bands).

    Raises
    ------
    ValueError : they are not weights of the bands, which are positive or 0 and sum to 1.
    """
    weights = np.asarray(candidates, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != n_bands or not len(weights):
        raise ValueError(
            f"candidates of shape {weights.shape} must have the shape (n_candidates, {n_bands}): "
            "a weight for each band"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all() or not np.allclose(weights.sum(1), 1):
        raise ValueError("candidates must be positive or 0, and each must sum to 1 over bands")
    return weights


class _Best:
    """The best candidate of each voxel so far, and what all candidates have shown."""

    def __init__(
        self,
        Y: np.ndarray,
        bands: Bands,
        n_candidates: int,
        groups: list[np.ndarray] | None,
    ):
        n_images, n_voxels = Y.shape
        self.Y, self.groups = Y, groups
        self.band_weights = np.empty((bands.n_bands, n_voxels), Y.dtype)
        self.fit = replace(empty_fit(Y), band_weights=self.band_weights)
        self.parts = list(blocks(n_voxels, block_size(n_images)))
        self.errors = bands.like.new_full((n_voxels,), torch.inf)
        self.totals = bands.like.new_full((len(groups or []),), torch.inf)
        self.guesses = bands.like.new_zeros(n_candidates, n_voxels)
        self.tried = np.empty((n_candidates, bands.n_bands))

    def promising(self, i: int, generator: np.random.RandomState) -> np.ndarray:
        """The weights to try after `i` candidates."""
        return promising_weights(self.tried[:i], self.guesses[:i], generator)

    def compare(self, i: int, weights: np.ndarray, smoother: Smoother, search: str) -> None:
        """Take the candidate for the voxels whose held-out error it lowers."""
        self.tried[i] = weights
        shared, totals = shared_alphas(smoother, self.Y, self.groups, search)
        lower = torch.ones(self.Y.shape[1], dtype=torch.bool, device=self.errors.device)
        for k, group in enumerate(self.groups or []):
            lower[torch.as_tensor(group)] = totals[k] < self.totals[k]
        self.totals = torch.minimum(self.totals, totals)
        for part in self.parts:
            responses = Responses.of(self.Y[:, part], smoother)
            guesses = smoother.guess_scores(responses.Y, responses.projected).amin(1)
            variance = responses.Y.square().mean(0)
            self.guesses[i, part] = guesses / variance.where(variance > 0, 1)
            hopeful = lower[part]
            if shared is None and search == "guided":
                known = self.guesses[: i + 1, part]
                hopeful = known[i] <= (1 + _MARGIN) * known.amin(0)
            voxels = hopeful.nonzero()[:, 0]
            if not len(voxels):
                continue
            responses = responses.of_voxels(voxels)
            voxels += part.start
            found = solve_voxels(
                smoother, responses, search, None if shared is None else shared[voxels]
            )
            if shared is None:
                better = (found.error < self.errors[voxels]).nonzero()[:, 0]
                found, responses = found.of_voxels(better), responses.of_voxels(better)
                voxels = voxels[better]
            self.errors[voxels] = found.error
            columns = voxels.numpy(force=True)
            store(self.fit, columns, smoother, responses, found)
            self.band_weights[:, columns] = weights[:, None]
