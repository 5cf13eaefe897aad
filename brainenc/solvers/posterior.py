"""Posterior of ridge weights in closed form, and draws of whole functions from it.

Ridge with penalty α is the posterior mean of Bayesian linear regression: weights are a priori
N(0, σ²/α), noise is N(0, σ²), and the intercept has a flat prior. The posterior of the weights is
N(w, σ² (XᵀX + αI)⁻¹), X being centred over the images of the voxel, and that of the intercept at
the mean of the features has variance σ²/n.

No weights give the whole expected response: features lack something of an image. Where repeats
have measured the error of held-out predictions, what the posterior of the weights does not explain
of its variance is drawn for each image alone, as a number that depends on the image (its features):
equal images have equal numbers. A drawn function is the sum of the two.

Voxels share noise, so their weights err together. With noise of covariance C between voxels, and
the same penalty and images, the posterior covariance is that of a voxel times C: in each direction
of the features the random numbers of voxels have the correlation of the noise. Here, the numbers of
a voxel in the directions are those of a draw of noise of the training images, and noise of the
images is what voxels share, so that voxels with other penalties, images or band weights share what
they have in common. The distribution of each voxel alone is the same for every correlation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import ndtri

from brainenc.arrays import blocks
from brainenc.solvers._basis import Basis
from brainenc.solvers.shared_numbers import SharedNumbers
from brainenc.solvers.streamed import ScaledFeatures, cross_kernel
from brainenc.solvers.voxels import missing_patterns

#: Largest size in bytes of the random numbers, and of the projections, that are made at once.
BLOCK_BYTES = 2**27


@dataclass(frozen=True)
class WeightPosterior:
    """Posterior covariance of the weights of ridge regression, per voxel.

    Attributes
    ----------
    X : array, shape (n_images, n_features), or None
        Scaled features of the training images; None if the regression has them (kernel form).
    alphas : array, shape (n_voxels,)
        Penalties; NaN for a voxel that was not fitted.
    variance : array, shape (n_voxels,)
        σ², the noise variance of averages over repeats, in squared units of the betas.
    images : array of bool, shape (n_groups, n_images)
        Training images that each group of voxels has data for.
    band_weights : array, shape (n_groups, n_features), or None
        Factor on each feature (banded ridge), by group; None for 1.
    group : array of int, shape (n_voxels,)
        Group of each voxel; -1 for a voxel that was not fitted.

    References
    ----------
    MacKay (1992), Neural Computation 4; Rasmussen & Williams (2006), Gaussian Processes for Machine
    Learning, section 2.1.
    """

    X: np.ndarray | None
    alphas: np.ndarray
    variance: np.ndarray
    images: np.ndarray
    band_weights: np.ndarray | None
    group: np.ndarray

    def at(
        self,
        X: np.ndarray | ScaledFeatures,
        X_fit: np.ndarray | ScaledFeatures | None = None,
        *,
        error: np.ndarray | None = None,
    ) -> "DrawnFunctions":
        """The posterior of the values at some images.

        Parameters
        ----------
        X : array, shape (n_images, n_features)
            Scaled features, as those that were fitted.
        X_fit : array, optional
            In place of `X` of the object where that is None. If it is a `ScaledFeatures`, so is
            `X`: neither is held, and what fitted images do not span of an image is replaced by a
            `ScaledFeatures.sketch` of it.
        error : array, shape (n_voxels,), optional
            Variance of the error of held-out expected responses, in squared units of the betas. Of
            what exceeds the variance from the weights, each image gets a part of its own. By
            default functions are linear: weights alone.

        Returns
        -------
        DrawnFunctions
        """
        fitted = self.X if self.X is not None else X_fit
        assert fitted is not None
        return DrawnFunctions(self, X, fitted, error)


class DrawnFunctions:
    """Values at some images of functions drawn from a `WeightPosterior`.

    The images' coordinates are computed once for each group of voxels.
    """

    def __init__(
        self,
        posterior: WeightPosterior,
        X: np.ndarray | ScaledFeatures,
        fitted: np.ndarray | ScaledFeatures,
        error: np.ndarray | None = None,
    ):
        self._posterior, self._error = posterior, error
        self._X: Any = X
        self._fitted: Any = fitted
        self._seen: tuple[np.ndarray, np.ndarray] | None = None
        self._known: dict[int, Basis] = {}
        self._keys = None if error is None else image_keys(X)
        self._drawn: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
        self._own: NumbersOfImages | None = None
        self._drawn_for: tuple[int, Any, Any] = (0, None, None)

    def draws(
        self,
        n: int,
        voxels: slice,
        seeds: list[np.random.SeedSequence],
        noise: SharedNumbers | None = None,
        error: SharedNumbers | None = None,
    ) -> np.ndarray:
        """Deviations of drawn functions from the posterior mean.

        Draw k of a voxel is one function of the features: it depends on the voxel's seed and on k
        alone, not on the images or on the other voxels that are asked for.

        Parameters
        ----------
        n : int
        voxels : slice
        seeds : list of SeedSequence, one per voxel of the slice
        noise, error : SharedNumbers, optional
            Correlation between voxels of the noise that was fitted, and of what each image has of
            its own. By default voxels are independent.

        Returns
        -------
        array, shape (n, n_images, n_voxels of the slice), float32; NaN for a voxel that was not
        fitted
        """
        numbers = np.arange(len(self._posterior.alphas))[voxels]
        found = np.full((n, len(self._X), len(numbers)), np.nan, dtype=np.float32)
        if self._drawn_for != (n, noise, error):
            self._drawn_for, self._drawn = (n, noise, error), {}
            self._own = None if self._keys is None else NumbersOfImages(n, self._keys, error)
        rngs = [np.random.default_rng(seed) for seed in seeds]
        for i, (v, rng) in enumerate(zip(numbers, rngs, strict=True)):
            if self._posterior.group[v] < 0:
                continue
            basis, alpha, variance = self._of(v)
            private = np.float32(1) if noise is None else noise.private[v]
            for some in blocks(n, max(1, BLOCK_BYTES // (4 * basis.n_random))):
                shape = (len(range(n)[some]), basis.n_random)
                z = private * rng.standard_normal(shape, dtype=np.float32)
                found[some, :, i] = np.sqrt(max(variance, 0)) * basis.deviations(z, alpha)
        if noise is not None:
            self._add_shared(found, numbers, noise)
        if self._own is None:
            return found
        for i, (v, rng) in enumerate(zip(numbers, rngs, strict=True)):
            if self._posterior.group[v] >= 0 and (own := self.own_variance(v)) > 0:
                found[:, :, i] += np.sqrt(own) * self._own.of(v, rng)
        return found

    def _add_shared(self, found: np.ndarray, numbers: np.ndarray, noise: SharedNumbers) -> None:
        """Add what voxels share to draws (n, n_images, n_some) of some voxels, in place."""
        n, group = len(found), self._posterior.group[numbers]
        for g in np.unique(group[group >= 0]):
            along, across = self._shared(int(g), n, noise)
            members = np.flatnonzero(group == g)
            # Products of many voxels at once: shared numbers are read once for all of them.
            size = max(1, BLOCK_BYTES // (4 * along[0].size))
            for some in blocks(len(members), size):
                loadings = noise.loadings[:, numbers[members[some]]].T
                combined = np.tensordot(loadings, along, axes=1)
                beyond = None if across is None else np.tensordot(loadings, across, axes=1)
                for j, i in enumerate(members[some]):
                    basis, alpha, variance = self._of(numbers[i])
                    added = basis.deviations(combined[j], alpha)
                    if beyond is not None:
                        added += beyond[j] / np.float32(np.sqrt(alpha))
                    found[:, :, i] += np.float32(np.sqrt(max(variance, 0))) * added

    def _shared(
        self, group: int, n: int, noise: SharedNumbers
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What shared noise gives: numbers along, (n_factors, n, 1 + rank), and across.

        Those across are multiplied by the images already, (n_factors, n, n_images); they are None
        if training images span everything.
        """
        if group in self._drawn:
            return self._drawn[group]
        if group not in self._known:
            self._known[group] = self._make_basis(group)
        basis, rows = self._known[group], self._posterior.images[group]
        n_factors = len(noise.loadings)
        along = np.empty((n_factors, n, 1 + len(basis.eigenvalues)), np.float32)
        rng = noise.rng(0)
        for some in blocks(n, max(1, BLOCK_BYTES // (4 * n_factors * len(rows)))):
            shape = (len(range(n)[some]), n_factors, len(rows))
            of_images = rng.standard_normal(shape, dtype=np.float32)[..., rows]
            along[:, some] = basis.numbers_of_noise(of_images).swapaxes(0, 1)
        across = None
        if basis.across is not None:
            width, rng = basis.across.shape[1], noise.rng(1)
            across = np.empty((n_factors, n, len(basis.across)), np.float32)
            for some in blocks(n, max(1, BLOCK_BYTES // (4 * n_factors * width))):
                shape = (len(range(n)[some]), n_factors, width)
                of_features = rng.standard_normal(shape, dtype=np.float32)
                across[:, some] = (of_features @ basis.across.T).swapaxes(0, 1)
        self._drawn[group] = along, across
        return along, across

    def covariance(self, voxel: int) -> np.ndarray:
        """Posterior covariance of the values of a voxel's function, (n_images, n_images).

        Of the weights alone: `own_variance` is to be added where two images are the same.
        """
        basis, alpha, variance = self._of(voxel)
        return variance * basis.covariance(alpha)

    def own_variance(self, voxel: int) -> float:
        """Variance of what each image has of its own: the error that weights do not explain."""
        if self._error is None:
            return 0.0
        basis, alpha, variance = self._of(voxel)
        # Mean variance of held-out predictions, if each image had the mean leverage.
        leverage = (1 + (basis.eigenvalues / (basis.eigenvalues + alpha)).sum()) / basis.n_fitted
        explained = variance * leverage / max(1 - leverage, 1e-6)
        own = float(self._error[voxel]) - explained
        return own if own > 0 else 0.0  # also for NaN, a voxel without repeats

    def _of(self, voxel: int) -> tuple[Basis, float, float]:
        posterior, group = self._posterior, int(self._posterior.group[voxel])
        if group not in self._known:
            self._known[group] = self._make_basis(group)
        alpha, variance = float(posterior.alphas[voxel]), float(posterior.variance[voxel])
        return self._known[group], alpha, variance

    def _make_basis(self, group: int) -> Basis:
        rows, bands = self._posterior.images[group], self._posterior.band_weights
        if isinstance(self._fitted, ScaledFeatures):
            if self._seen is None:
                cross = cross_kernel(self._X.features, self._fitted)
                self._seen = cross, self._X.short
            cross, short = self._seen
            return Basis.of_kernel(cross, short, self._fitted.kernel, self._fitted.short, rows)
        factor = self._X.dtype.type(1) if bands is None else bands[group]
        own = self._fitted if rows.all() else self._fitted[rows]
        return Basis.of(self._X * factor, own * factor)


#: Projections of an image's features that it is recognised by, and their rounding. Features of the
#: same image by another batch differ by about 1e-6, and rarely change a rounded value.
_N_PROJECTIONS, _ROUNDING = 4, 1e-3


def image_keys(X: np.ndarray | ScaledFeatures) -> np.ndarray:
    """A number (n_images,), uint64, for the features of each image; equal images have equal ones.

    Parameters
    ----------
    X : array, shape (n_images, n_features)
        Scaled features.
    """
    directions = np.random.default_rng(0).standard_normal((X.shape[1], _N_PROJECTIONS))
    directions = (directions / np.sqrt(X.shape[1])).astype(X.dtype)
    projected = X.projected(directions) if isinstance(X, ScaledFeatures) else X @ directions
    rounded = np.rint(projected.astype(np.float64) / _ROUNDING).astype(np.int64).astype(np.uint64)
    keys = np.zeros(len(X), dtype=np.uint64)
    for column in rounded.T:
        keys = _mixed(keys ^ _mixed(column))
    return keys


def normal_of_keys(n: int, keys: np.ndarray, key: int) -> np.ndarray:
    """Standard normal numbers (n, n_images), each a function of its draw, image and `key`."""
    of_draw = _mixed(np.arange(n, dtype=np.uint64) + np.uint64(key))
    bits = _mixed(of_draw[:, None] ^ keys)
    return ndtri(((bits >> np.uint64(11)) + 0.5) * 2.0**-53).astype(np.float32)


class NumbersOfImages:
    """Standard normal numbers of draws, voxels and images, correlated between voxels.

    Parameters
    ----------
    n : int
        Draws.
    keys : array, shape (n_images,), uint64
        Of `image_keys`: equal images have equal numbers.
    shared : SharedNumbers, optional
        Correlation between voxels; independent by default.
    """

    def __init__(self, n: int, keys: np.ndarray, shared: SharedNumbers | None = None):
        self._n, self._keys, self._shared = n, keys, shared

    @cached_property
    def _common(self) -> np.ndarray:
        """Shared numbers (n_factors, n, n_images)."""
        assert self._shared is not None
        of_factor = self._shared.rng(2).integers(2**63, size=len(self._shared.loadings))
        return np.stack([normal_of_keys(self._n, self._keys, int(key)) for key in of_factor])

    def of(self, voxel: int, rng: np.random.Generator) -> np.ndarray:
        """Numbers (n, n_images) of a voxel, whose own are made with its `rng`."""
        own = normal_of_keys(self._n, self._keys, int(rng.integers(2**63)))
        if self._shared is None:
            return own
        own *= self._shared.private[voxel]
        own += np.tensordot(self._shared.loadings[:, voxel], self._common, axes=1)
        return own


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Numbers, uint64, as if drawn anew: a step of SplitMix64 (Steele, Lea & Flood 2014)."""
    with np.errstate(over="ignore"):
        z = numbers + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def weight_posterior(
    X: np.ndarray | ScaledFeatures,
    targets: np.ndarray,
    residuals: Callable[[slice], np.ndarray],
    alphas: np.ndarray,
    *,
    band_weights: np.ndarray | None = None,
    band_sizes: Sequence[int] = (),
    keep: bool = True,
) -> WeightPosterior:
    """Posterior of the weights, with the noise variance of the largest marginal likelihood.

    With ŷ the prediction of the training images, y and ŷ centred, and the prior that belongs to
    the penalty, σ² = yᵀ(y − ŷ) / (n − 1).

    Parameters
    ----------
    X : array or ScaledFeatures, shape (n_images, n_features)
        Scaled features.
    targets : array, shape (n_images, n_voxels)
        Averages over repeats; NaN where an image has no data.
    residuals : callable (voxels: slice) -> array, shape (n_images, n_voxels of the slice)
        Targets of the training images minus their predictions.
    alphas : array, shape (n_voxels,)
    band_weights : array, shape (n_bands, n_voxels), optional
        Factor on the kernel of each band, in banded ridge.
    band_sizes : sequence of int
        Number of features of each band.
    keep : bool
        Store `X` in the result.

    Returns
    -------
    WeightPosterior
    """
    n_images, n_voxels = targets.shape
    variance = np.full(n_voxels, np.nan, dtype=np.float32)
    for voxels in blocks(n_voxels, max(1, BLOCK_BYTES // (16 * n_images))):
        y = targets[:, voxels].astype(np.float64)
        present = np.isfinite(y)
        n = present.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            y -= np.where(present, y, 0).sum(axis=0) / n
            product = np.where(present, y * residuals(voxels), 0).sum(axis=0)
            variance[voxels] = np.where(n > 1, product / (n - 1), np.nan)
    group = np.full(n_voxels, -1, dtype=np.int32)
    images: list[np.ndarray] = []
    kinds: list[np.ndarray] = []
    for rows, members in missing_patterns(targets):
        members = members[np.isfinite(alphas[members])]
        of_pattern = np.zeros(n_images, dtype=bool)
        of_pattern[rows] = True
        # Voxels that chose the same candidate differ in the last digits.
        own = np.zeros((0, len(members))) if band_weights is None else band_weights[:, members]
        kind, which = np.unique(own.round(6), axis=1, return_inverse=True)
        for i in range(kind.shape[1] if len(members) else 0):
            group[members[which.ravel() == i]] = len(images)
            images.append(of_pattern)
            kinds.append(np.sqrt(np.repeat(kind[:, i], band_sizes)).astype(X.dtype))
    return WeightPosterior(
        X if keep and not isinstance(X, ScaledFeatures) else None,
        np.asarray(alphas),
        variance,
        np.array(images, dtype=bool).reshape(-1, n_images),
        None if band_weights is None else np.array(kinds, dtype=X.dtype).reshape(-1, X.shape[1]),
        group,
    )
