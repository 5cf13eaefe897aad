"""Transforms of dissimilarity matrices, and their regression on one another."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls
from scipy.sparse.csgraph import csgraph_from_masked, shortest_path
from scipy.spatial.distance import squareform

from brainenc.conversion import text_keys
from brainenc.numeric import as_doubles

#: Deviations from a constant, relative to it, that are round-off of double precision.
_ROUND_OFF = 1e-12


def geotopological(
    rdm: ArrayLike, low: float = 0.0, high: float = 1.0, *, quantiles: bool = True
) -> NDArray[np.float64]:
    """Geo-topological transform of an RDM: small distances count as 0, large ones as 1.

    Distances below the lower threshold become 0, those above the upper one 1, and those between
    rise linearly. With ``low=0, high=1`` and quantiles it is the RDM, shifted and scaled to 0 … 1;
    with equal thresholds a graph of neighbours.

    Parameters
    ----------
    rdm : array, shape (n_images, n_images)
        Symmetric; infinite distances, as of `geodesic`, are above any threshold. It is not changed.
    low, high : float
        Thresholds, low <= high: quantiles, 0 … 1, of the finite distances of this RDM, or
        distances.
    quantiles : bool

    Returns
    -------
    array, shape (n_images, n_images), float64
        0 on the diagonal, else in [0, 1]; NaN where the RDM is. With equal thresholds, distances
        that equal them become 0.

    Raises
    ------
    ValueError : no square symmetric matrix, thresholds out of order or range.

    References
    ----------
    Lin & Kriegeskorte (2024), PNAS 121 (topological RSA).

    Examples
    --------
    >>> distances = np.array([[0, 1, 3], [1, 0, 5], [3, 5, 0]])
    >>> geotopological(distances, 2, 4, quantiles=False)
    array([[0. , 0. , 0.5],
           [0. , 0. , 1. ],
           [0.5, 1. , 0. ]])
    """
    matrix, pairs = _checked(rdm)
    if not -np.inf < low <= high < np.inf or (quantiles and not 0 <= low <= high <= 1):
        raise ValueError(
            f"low={low} and high={high} must be finite and in order"
            + (", quantiles between 0 and 1" if quantiles else "")
        )
    values = matrix[pairs]
    known = ~np.isnan(values)
    finite = np.isfinite(values)
    if quantiles and finite.any():
        low, high = np.quantile(values[finite], [low, high])
    if high > low:
        found = np.clip((values - low) / (high - low), 0, 1)
    else:
        found = np.where(values > low, 1.0, 0.0)
    return _full(np.where(known, found, np.nan), len(matrix))


def geodesic(rdm: ArrayLike, high: float = 0.5, *, quantiles: bool = True) -> NDArray[np.float64]:
    """Geodesic distances: shortest paths over pairs of images that are near each other.

    Images are neighbours if their distance is at most `high`, and edges have this distance. Images
    of distance 0 are neighbours, too.

    Parameters
    ----------
    rdm : array, shape (n_images, n_images)
        Symmetric, >= 0. It is not changed.
    high : float
        Largest distance of neighbours: a quantile, 0 … 1, of the distances, or a distance.
    quantiles : bool

    Returns
    -------
    array, shape (n_images, n_images), float64
        0 on the diagonal; infinite between images that no path connects; NaN for an image whose
        distances are all NaN. Single NaN distances are no edges.

    Raises
    ------
    ValueError : no square symmetric matrix, a negative distance, `high` out of range.

    References
    ----------
    Lin & Kriegeskorte (2024), PNAS 121; Tenenbaum, de Silva & Langford (2000), Science 290.

    Examples
    --------
    >>> points = np.array([0.0, 1.0, 2.0, 3.0])
    >>> distances = np.abs(points[:, None] - points) ** 2  # the square bends the line
    >>> geodesic(distances, 1.0, quantiles=False)[0]
    array([0., 1., 2., 3.])
    """
    matrix, pairs = _checked(rdm)
    values = matrix[pairs]
    known = np.isfinite(values)
    if (values[known] < 0).any():
        raise ValueError(f"rdm {matrix.shape} has negative distances, which have no paths")
    if quantiles:
        if not 0 <= high <= 1:
            raise ValueError(f"high={high} must be a quantile between 0 and 1")
        high = float(np.quantile(values[known], high)) if known.any() else np.nan
    elif not high >= 0:
        raise ValueError(f"high={high} must be 0 or more")
    # Of a masked array SciPy takes zeros for edges, of a plain one for none.
    edges = _full(np.where(known & (values <= high), values, np.nan), len(matrix))
    graph = csgraph_from_masked(np.ma.masked_invalid(edges))
    lengths: NDArray[np.float64] = shortest_path(graph, directed=False)
    np.fill_diagonal(lengths, 0)
    alone = ~np.isfinite(matrix + np.diag(np.full(len(matrix), np.nan))).any(axis=1)
    if len(matrix) > 1:
        lengths[alone] = lengths[:, alone] = np.nan
    return lengths


@dataclass(frozen=True, eq=False)
class RDMRegression:
    """Result of `rdm_regression`.

    Attributes
    ----------
    weights : Series, one per model
        >= 0; of the models scaled to a standard deviation of 1.
    r2 : float
        Of all models together.
    unique : Series, one per model
        R² of all models minus that of all others.
    ceiling : float
        R² of the mean RDM of the other subjects; NaN without.
    """

    weights: pd.Series
    r2: float
    unique: pd.Series
    ceiling: float


def rdm_regression(
    rdm: ArrayLike, models: Mapping[str, ArrayLike], *, others: ArrayLike | None = None
) -> RDMRegression:
    """Non-negative regression of an RDM on those of models, with the unique part of each.

    Parameters
    ----------
    rdm : array, shape (n_images, n_images)
        Of a brain area.
    models : dict of name to array, shape (n_images, n_images)
    others : array, shape (n_subjects, n_images, n_images), optional
        RDMs of the same area in other subjects, whose mean is the (lower) ceiling.

    Returns
    -------
    RDMRegression
        With an intercept; pairs that are NaN or infinite in any RDM are left out. R² is that of the
        fit, NaN of a constant RDM.

    Raises
    ------
    ValueError : matrices of another shape, no models, two of one name, or fewer pairs than models.

    References
    ----------
    Khaligh-Razavi & Kriegeskorte (2014), PLoS Computational Biology 10.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> one, two, three = (squareform(row) for row in rng.random((3, 45)))
    >>> found = rdm_regression(one + 2 * two, {"one": one, "two": two, "three": three})
    >>> round(found.r2, 6), round(float(found.unique["three"]), 6)
    (1.0, 0.0)
    """
    matrix, pairs = _checked(rdm)
    if not models:
        raise ValueError("models is empty: give one RDM or more, by name")
    columns = {}
    for name, model in text_keys(models, "models").items():
        own, _ = _checked(model, f"models[{name!r}]")
        if own.shape != matrix.shape:
            raise ValueError(
                f"models[{name!r}] {own.shape} and rdm {matrix.shape} must be of the same images"
            )
        columns[name] = own[pairs]
    ceiling = None
    if others is not None:
        several = as_doubles(others, "others")
        if several.ndim != 3 or several.shape[1:] != matrix.shape:
            n = len(matrix)
            raise ValueError(f"others {several.shape} must be (n_subjects, {n}, {n})")
        ceiling = several.mean(axis=0)[pairs]
    y = matrix[pairs]
    known = np.isfinite(y) & np.isfinite(np.stack(list(columns.values()))).all(axis=0)
    if ceiling is not None:
        known &= np.isfinite(ceiling)
    if known.sum() <= len(columns):
        raise ValueError(
            f"{int(known.sum())} pairs of images without NaN are too few for {len(columns)} models"
        )
    y = y[known]
    X = np.stack([column[known] for column in columns.values()], axis=1)
    weights, r2 = _fit(X, y)
    names = list(columns)
    unique = [r2 - _fit(np.delete(X, i, axis=1), y)[1] for i in range(len(names))]
    top = np.nan if ceiling is None else _fit(ceiling[known][:, None], y)[1]
    return RDMRegression(pd.Series(weights, names), r2, pd.Series(unique, names), top)


def _fit(X: np.ndarray, y: np.ndarray) -> tuple[NDArray[np.float64], float]:
    """Weights of standardised columns, and R²; NaN of a constant y."""
    centred = y - y.mean()
    total = float(centred @ centred)
    if total <= len(y) * (_ROUND_OFF * np.abs(y).max()) ** 2:  # a constant, but for round-off
        total = 0.0
    if X.shape[1] == 0:
        return np.zeros(0), 0.0 if total > 0 else np.nan
    largest = np.abs(X).max(axis=0)
    X = X - X.mean(axis=0)
    sd = X.std(axis=0)
    constant = sd <= _ROUND_OFF * largest
    X, sd = np.where(constant, 0, X), np.where(constant, 0, sd)
    weights, residual = nnls(X / np.where(sd > 0, sd, 1), centred)
    return weights, max(1 - residual**2 / total, 0.0) if total > 0 else np.nan


def _checked(rdm: ArrayLike, name: str = "rdm") -> tuple[NDArray[np.float64], tuple]:
    """Copy of the matrix, and the positions of its pairs."""
    matrix = np.array(as_doubles(rdm, name))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(
            f"{name} {matrix.shape} must be (n_images, n_images), of two images or more"
        )
    if not np.allclose(matrix, matrix.T, equal_nan=True):
        raise ValueError(f"{name} {matrix.shape} must be symmetric")
    return matrix, np.triu_indices(len(matrix), k=1)


def _full(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    found: NDArray[np.float64] = squareform(values, checks=False)
    assert len(found) == n
    return found
