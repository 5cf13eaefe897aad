"""Ridge with a prior covariance of the weights, learned from other subjects.

A prior N(0, Σ) on the weights, Σ = FFᵀ, is ridge on the features XF. With several Σ and the
isotropic one, whose kernel is XXᵀ, the kernels are those of bands, so banded ridge solves them. The
weights of the features themselves are Σ_b ω_b F_b F_bᵀ Xᵀ d, d
being the dual weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainenc.arrays import blocks
from brainenc.model_selection import Folds
from brainenc.solvers.banded import banded_ridge_cv, feature_bands
from brainenc.solvers.kernel import BLOCK_NUMBERS
from brainenc.solvers.result import RidgeFit
from brainenc.solvers.simplex import blend, measure_errors
from brainenc.solvers.voxels import SHARES

#: Largest number of directions of a component.
MAX_RANK = 512
#: Directions of which the variance is so small a part of the largest are left out.
_SMALLEST = 1e-8
#: Weight, in images, of the average voxel beside a voxel's own errors.
POOLING = 200


def prior_factor(weights: np.ndarray, max_rank: int = MAX_RANK) -> np.ndarray:
    """F (n_features, rank) with FFᵀ the second moment of weights (n_features, n_voxels).

    Only the leading `max_rank` directions are kept.

    Examples
    --------
    >>> import numpy as np
    >>> weights = np.random.default_rng(0).standard_normal((5, 3))
    >>> F = prior_factor(weights)
    >>> bool(np.allclose(F @ F.T, weights @ weights.T / 3))
    True
    """
    n_features, n_voxels = weights.shape
    W = weights.astype(np.float64) / np.sqrt(n_voxels)
    wide = n_voxels > n_features
    values, axes = np.linalg.eigh(W @ W.T if wide else W.T @ W)
    kept = np.flatnonzero(values > _SMALLEST * max(float(values[-1]), 0))[::-1][:max_rank]
    # Of few voxels the axes are combinations of their weights.
    return axes[:, kept] * np.sqrt(values[kept]) if wide else W @ axes[:, kept]


@dataclass(frozen=True)
class PriorBands:
    """Scaled features as bands: one for each component of the prior, and the features themselves.

    Attributes
    ----------
    maps : list of arrays, shape (n_features, rank)
        From scaled features to the features of a component; all kernels have the trace of XXᵀ.
    n_features : int
    """

    maps: list[np.ndarray]
    n_features: int

    @classmethod
    def of(cls, X: np.ndarray, factors: Sequence[np.ndarray]) -> "PriorBands":
        """Bands of scaled training features X, for factors in units of these.

        Raises
        ------
        ValueError : a component has no variance in these images.
        """
        centred = X - X.mean(axis=0)
        total = np.square(centred, dtype=np.float64).sum()
        maps = []
        for i, factor in enumerate(factors):
            found = np.square(centred @ factor.astype(X.dtype), dtype=np.float64).sum()
            if not found > 0:
                raise ValueError(
                    f"component {i} of the prior has no variance in the features of these images: "
                    "they are constant, or the prior is of other features"
                )
            maps.append((factor * np.sqrt(total / found)).astype(X.dtype))
        return cls(maps, X.shape[1])

    @property
    def sizes(self) -> list[int]:
        """Number of features of each band."""
        return [*(F.shape[1] for F in self.maps), self.n_features]

    def features(self, X: np.ndarray) -> np.ndarray:
        """Bands side by side, (n_images, Σ sizes), of scaled features."""
        return np.concatenate([*(X @ F for F in self.maps), X], axis=1)

    def weights(self, X: np.ndarray, duals: np.ndarray) -> np.ndarray:
        """Weights of scaled features, (n_features, n_voxels), in the dtype of `duals`.

        Parameters
        ----------
        X : array, shape (n_images, n_features)
        duals : array, shape (n_bands, n_images, n_voxels)
            Dual weights of each band, times its share.
        """
        n_voxels = duals.shape[2]
        found = np.empty((self.n_features, n_voxels), duals.dtype)
        for voxels in blocks(n_voxels, max(1, BLOCK_NUMBERS // self.n_features)):
            part = X.T @ duals[-1][:, voxels]
            for F, dual in zip(self.maps, duals[:-1], strict=True):
                if dual.any():
                    part += F.astype(X.dtype, copy=False) @ (F.T @ (X.T @ dual[:, voxels]))
            found[:, voxels] = part
        return found


def prior_candidates(n_components: int, own: Sequence[int]) -> np.ndarray:
    """Shares of components and of the isotropic prior that are tried, (n_candidates, n + 1).

    The isotropic prior alone comes first, so that of equal errors it is taken.

    Parameters
    ----------
    n_components : int
    own : sequence of int
        The components to try.
    """
    found = [np.eye(n_components + 1)[-1]]
    for component in own:
        for share in SHARES:
            row = np.zeros(n_components + 1)
            row[component], row[-1] = 1 - share, share
            found.append(row)
    return np.array(found)


def prior_ridge_cv(
    bands: PriorBands,
    X: np.ndarray,
    Y: np.ndarray,
    alphas: np.ndarray,
    folds: Folds,
    candidates: np.ndarray,
    *,
    pooling: float = POOLING,
    **options: Any,
) -> RidgeFit:
    """Ridge with priors: a fit for each candidate, and their average with weights per voxel.

    The weights of the candidates are those of the smallest held-out squared error, beside which the
    errors of the average voxel count as much as `pooling` images: with few images all voxels have
    about the same weights, with many each has its own.

    Parameters
    ----------
    bands : PriorBands
    X : array, shape (n_images, n_features)
        Scaled features.
    Y : array, shape (n_images, n_voxels)
    alphas, folds
        As for `ridge_cv`.
    candidates : array, shape (n_candidates, n_bands)
    pooling : float
    **options
        ``per_voxel``, ``search`` and ``device`` of `banded_ridge_cv`.

    Returns
    -------
    RidgeFit, in primal form
        ``alphas`` are those of the candidate with the largest weight; ``band_weights`` are the
        weights of the candidates, (n_candidates, n_voxels).

    Examples
    --------
    >>> import numpy as np
    >>> from brainenc.model_selection import image_folds
    >>> rng = np.random.default_rng(0)
    >>> X, W = rng.standard_normal((40, 200)), rng.standard_normal((200, 3))
    >>> Y = X @ W @ rng.standard_normal((3, 6)) + rng.standard_normal((40, 6))
    >>> bands = PriorBands.of(X, [prior_factor(W)])
    >>> alphas, folds = 200 * np.logspace(-3, 3, 7), image_folds(5, 40)
    >>> fit = prior_ridge_cv(bands, X, Y, alphas, folds, prior_candidates(1, [0]))
    >>> bool(fit.band_weights[0].max() < 0.1)  # of the isotropic prior alone
    True
    """
    fits = []
    for candidate in candidates:
        used = np.flatnonzero(candidate)
        fits.append(
            banded_ridge_cv(
                _kernels(bands, X, list(used), options.get("device", "cpu")),
                Y,
                alphas,
                folds,
                candidates=candidate[None, used],
                **options,
            )
        )
    held_out = [fit.held_out for fit in fits]
    shares = measure_errors(held_out, Y).weights(pooling)
    duals = np.zeros((candidates.shape[1], *Y.shape), Y.dtype)
    intercept = np.zeros(Y.shape[1], Y.dtype)
    for candidate, fit, share in zip(candidates, fits, shares.astype(Y.dtype), strict=True):
        for band in np.flatnonzero(candidate):
            duals[band] += fit.weights * (share * Y.dtype.type(candidate[band]))
        intercept += share * fit.intercept
    largest = shares.argmax(axis=0)
    alphas_of = np.array([fit.alphas for fit in fits])[largest, np.arange(Y.shape[1])]
    blended = blend(shares, held_out)
    del fits, held_out
    return RidgeFit(
        bands.weights(X, duals),
        intercept,
        alphas_of,
        blended,
        band_weights=shares.astype(Y.dtype),
    )


def band_kernels(bands: PriorBands, X: np.ndarray, used: Sequence[int]) -> list[np.ndarray]:
    """Kernels (n_images, n_images) of some bands, of scaled features X."""
    parts = (X @ bands.maps[b] if b < len(bands.maps) else X for b in used)
    return [part @ part.T for part in parts]


def _kernels(bands: PriorBands, X: np.ndarray, used: Sequence[int], device: Any) -> Any:
    """Features side by side where these are few, else kernels, of the bands that are used."""
    sizes = [bands.sizes[b] for b in used]
    if 2 * sum(sizes) > len(X):
        return band_kernels(bands, X, used)
    parts = [X @ bands.maps[b] if b < len(bands.maps) else X for b in used]
    return feature_bands(np.concatenate(parts, axis=1), sizes, device=device)
