"""Partial least squares: components of features that voxels share, and their number."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.exceptions import ConvergenceWarning

from brainenc.model_selection import Folds

#: Components whose scores are so small a part of the first one's are rounding errors.
_SMALLEST = 1e-8


class Components(NamedTuple):
    """Components of a fit; those of a fit with fewer of them are the first ones.

    Attributes
    ----------
    mean : array, shape (n_features,)
        Of the features.
    rotations : array, shape (n_features, n_components)
        Scores are (X − mean) @ rotations.
    loadings : array, shape (n_voxels, n_components)
        Responses are constant + scores @ loadings.T.
    constant : array, shape (n_voxels,)
    """

    mean: np.ndarray
    rotations: np.ndarray
    loadings: np.ndarray
    constant: np.ndarray


class Design(NamedTuple):
    """Features, and functions of them that a fit prefers.

    Attributes
    ----------
    features : array, shape (n_images, n_features), float64
        Centred.
    factor : array, shape (n_features, rank), or None
        Weights of the functions, of centred features.
    """

    features: np.ndarray
    factor: np.ndarray | None = None

    def sizes(self, share: float) -> tuple[float, float]:
        """Factors of the features and of the functions, such that `share` is of the functions.

        The variances of all columns sum to 1.
        """
        if self.factor is None or share == 0:
            return 1.0, 0.0
        own, of_functions = (
            np.square(values - values.mean(axis=0)).mean(axis=0).sum()
            for values in (self.features, self.features @ self.factor)
        )
        if not (own > 0 and of_functions > 0):
            return 1.0, 0.0
        return float(np.sqrt((1 - share) / own)), float(np.sqrt(share / of_functions))

    def fit(self, rows: np.ndarray, Y: np.ndarray, n_components: int, share: float) -> Components:
        """Components of some images, as functions of the features; as for `pls_components`."""
        a, b = self.sizes(share)
        X = self.features[rows]
        if b == 0 or self.factor is None:
            return pls_components(X, Y, n_components)
        found = pls_components(np.hstack([a * X, b * (X @ self.factor)]), Y, n_components)
        n_features = X.shape[1]
        rotations = a * found.rotations[:n_features]
        rotations += b * (self.factor @ found.rotations[n_features:])
        return found._replace(mean=X.mean(axis=0), rotations=rotations)


class PLSFit(NamedTuple):
    """Partial least squares with the chosen number of components.

    Attributes
    ----------
    components : Components
    share : float
        Of the functions in the features; 0 without functions.
    held_out : array, shape (n_images, n_voxels)
        NaN for images that no fold tests.
    """

    components: Components
    share: float
    held_out: np.ndarray


def pls_components(X: np.ndarray, Y: np.ndarray, n_components: int) -> Components:
    """Components of `sklearn.cross_decomposition.PLSRegression`, unscaled.

    Parameters
    ----------
    X : array, shape (n_images, n_features), finite
    Y : array, shape (n_images, n_voxels), finite
    n_components : int
        At most; there are fewer where features or responses have none left.

    Returns
    -------
    Components

    Examples
    --------
    >>> from sklearn.cross_decomposition import PLSRegression
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.standard_normal((30, 5)), rng.standard_normal((30, 2))
    >>> found = pls_components(X, Y, 3)
    >>> two = found.constant + (X - found.mean) @ found.rotations[:, :2] @ found.loadings[:, :2].T
    >>> np.allclose(two, PLSRegression(2, scale=False).fit(X, Y).predict(X))
    True
    """
    from sklearn.cross_decomposition import PLSRegression

    mean, constant = X.mean(axis=0), Y.mean(axis=0)
    n_components = min(n_components, len(X) - 1, X.shape[1])
    if n_components < 1 or Y.shape[1] == 0 or not np.ptp(X, axis=0).any():
        return Components(mean, np.zeros((X.shape[1], 0)), np.zeros((Y.shape[1], 0)), constant)
    basis = None
    if X.shape[1] > len(X):
        # Components lie in the span of the images: the same in coordinates of an orthonormal basis.
        basis, coordinates = np.linalg.qr((X - mean).T)
        X = coordinates.T
    pls = PLSRegression(n_components, scale=False)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # Two directions of nearly equal covariance: any between them is as good.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "y residual is constant")
        try:
            pls.fit(X, Y)
        except (ValueError, np.linalg.LinAlgError):
            # No features are left: the components found so far are kept.
            if not hasattr(pls, "x_loadings_"):
                raise
    W, P, Q = pls.x_weights_, pls.x_loadings_, pls.y_loadings_
    # Without features or responses left, components are 0, not finite, or of rounding errors.
    left = np.isfinite(W).all(axis=0) & np.isfinite(P).all(axis=0) & W.any(axis=0)
    W, P = (part[:, : _first(~left)] for part in (W, P))
    # PᵀW is upper triangular, so that the first columns are those of a fit with fewer components.
    rotations = solve_triangular(P.T @ W, W.T, lower=False, trans="T").T
    sizes = np.linalg.norm((X - X.mean(axis=0)) @ rotations, axis=0)
    n_found = _first(sizes <= _SMALLEST * sizes[:1])
    rotations = rotations[:, :n_found]
    rotations = rotations if basis is None else basis @ rotations
    return Components(mean, rotations, Q[:, :n_found], constant)


def _first(found: np.ndarray) -> int:
    """Position of the first True; the length if there is none."""
    return int(np.append(found, True).argmax())


def pls_cv(
    design: Design,
    Y: np.ndarray,
    counts: Sequence[int],
    folds: Folds,
    shares: Sequence[float] = (0.0,),
) -> PLSFit:
    """Fit with the number of components, and the share, of the smallest held-out squared error.

    Parameters
    ----------
    design : Design
    Y : array, shape (n_images, n_voxels), finite, float64
        Errors are summed over voxels in these units.
    counts : sequence of int
        Numbers of components tried, in increasing order. Fits to the images of a fold have as many
        as there are; of equal errors the smaller number is chosen.
    folds : list of (train, test)
    shares : sequence of float
        Shares of the functions that are tried.

    Returns
    -------
    PLSFit

    Examples
    --------
    >>> from brainenc.model_selection import image_folds
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((80, 6))
    >>> Y = X[:, :1] + 0.1 * rng.standard_normal((80, 3))  # voxels that share one direction
    >>> pls_cv(Design(X), Y, range(1, 7), image_folds(4, 80)).components.loadings.shape[0]
    3
    """
    largest = max(counts)
    errors = np.zeros((len(shares), largest + 1))
    parts: list[list[Components]] = []
    for i, share in enumerate(shares):
        parts.append([design.fit(train, Y[train], largest, share) for train, _ in folds])
        for (_, test), found in zip(folds, parts[-1], strict=True):
            errors[i] += _errors(found, design.features[test], Y[test], largest)
    tried = np.asarray(counts)
    which, number = np.unravel_index(errors[:, tried].argmin(), (len(shares), len(tried)))
    n, share = int(tried[number]), shares[int(which)]
    held_out = np.full(Y.shape, np.nan)
    for (_, test), found in zip(folds, parts[int(which)], strict=True):
        scores = (design.features[test] - found.mean) @ found.rotations[:, :n]
        held_out[test] = found.constant + scores @ found.loadings[:, :n].T
    return PLSFit(design.fit(np.arange(len(Y)), Y, n, share), share, held_out)


def _errors(found: Components, X: np.ndarray, Y: np.ndarray, largest: int) -> np.ndarray:
    """Sum of squared errors with 0, 1, … components, (largest + 1,)."""
    residuals = Y - found.constant
    errors = np.full(largest + 1, np.square(residuals).sum())
    scores = (X - found.mean) @ found.rotations
    for k in range(scores.shape[1]):
        residuals -= np.outer(scores[:, k], found.loadings[:, k])
        errors[k + 1 :] = np.square(residuals).sum()
    return errors
