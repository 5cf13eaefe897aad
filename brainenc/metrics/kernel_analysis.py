"""kernel_analysis: how well categories are read from responses, at every complexity of the map."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist, squareform

from brainenc.conversion import text_labels
from brainenc.metrics._patterns import finite_voxels
from brainenc.metrics.sums import check_matrix

#: Widths of the Gaussian kernel tried, as quantiles of the distances between images.
_WIDTHS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, eq=False)
class KernelAnalysis:
    """Result of `kernel_analysis`.

    Attributes
    ----------
    curve : DataFrame, one row per penalty, from simple to complex maps
        ``complexity``, 1 / penalty; ``precision``, 1 − the leave-one-out squared error of labels
        with a variance of 1, mean over draws; ``sd`` over draws.
    auc : float
        Mean precision over the logarithm of the complexity.
    auc_sd : float
        Over draws; NaN for one draw.
    n_units, n_images : int
        Used.
    """

    curve: pd.DataFrame
    auc: float
    auc_sd: float
    n_units: int
    n_images: int


def kernel_analysis(
    responses: ArrayLike,
    labels: ArrayLike,
    *,
    n_units: int | None = None,
    noise: float = 0.0,
    n_draws: int = 10,
    random_state: int = 0,
) -> KernelAnalysis:
    """Precision of kernel ridge from responses to categories, by the complexity of the map.

    Leave-one-out errors are in closed form, with the width of the Gaussian kernel that is best at
    each penalty. 0 is the precision of the mean label, 1 that of a perfect map.

    Parameters
    ----------
    responses : array, shape (n_images, n_units)
        Of voxels, neurons or a layer. Units that are not finite for all images are left out.
    labels : array, shape (n_images,)
        Categories. An image without a label (None, NaN) is left out.
    n_units : int, optional
        Draw so many units: compare two sets of responses at the same number only, since more units
        have a higher precision.
    noise : float
        Variance of normal noise that is added, per unit of the mean response's size: 1 for spike
        counts of Poisson neurons. Models without noise are compared with measured responses at
        equal noise.
    n_draws : int
        Draws of units and noise; one if there is neither.
    random_state : int

    Returns
    -------
    KernelAnalysis

    Raises
    ------
    ValueError : fewer than two categories, other numbers of labels than images, more units than
        there are, or a negative noise.

    References
    ----------
    Cadieu et al. (2014), PLoS Computational Biology 10, e1003963.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat(["cat", "dog"], 20)
    >>> apart = rng.standard_normal((40, 5)) + 2 * (labels == "cat")[:, None]
    >>> good = kernel_analysis(apart, labels).auc
    >>> bool(good > 0.4 > kernel_analysis(rng.standard_normal((40, 5)), labels).auc)
    True
    """
    matrix = check_matrix(responses, "responses")
    names = text_labels(labels, "labels")
    if len(names) != len(matrix):
        raise ValueError(f"labels has {len(names)} categories for {len(matrix)} images")
    known = np.array([name is not None for name in names])
    matrix, Y = matrix[known], _targets(names[known])
    matrix = np.asarray(matrix, dtype=np.float64)[:, finite_voxels(responses=matrix)]
    if n_units is not None and not 1 <= n_units <= matrix.shape[1]:
        raise ValueError(f"n_units={n_units} must be between 1 and {matrix.shape[1]}")
    if not noise >= 0 or n_draws < 1:
        raise ValueError(f"noise={noise} must be 0 or more, and n_draws={n_draws} at least 1")
    rng = np.random.default_rng(random_state)
    penalties = np.logspace(2, -4, 25)
    curves = []
    for _ in range(n_draws if n_units is not None or noise else 1):
        units = slice(None) if n_units is None else rng.choice(matrix.shape[1], n_units, False)
        own = matrix[:, units]
        own = own + np.sqrt(noise * np.abs(own)) * rng.standard_normal(own.shape)
        curves.append(1 - _errors(own, Y, penalties).min(axis=0))
    found = np.stack(curves)
    several = len(found) > 1
    curve = pd.DataFrame(
        {
            "complexity": 1 / penalties,
            "precision": found.mean(axis=0),
            "sd": found.std(axis=0, ddof=1) if several else np.nan,
        }
    )
    auc = found.mean(axis=1)
    sd = float(auc.std(ddof=1)) if several else np.nan
    return KernelAnalysis(curve, float(auc.mean()), sd, own.shape[1], len(matrix))


def _targets(labels: NDArray[np.object_]) -> NDArray[np.float64]:
    """A column per category, with mean 0 and variance 1."""
    names = labels.astype(str)
    categories = np.unique(names)
    if len(categories) < 2:
        only = f"one category, {categories[0]!r}," if len(categories) else "no category"
        raise ValueError(f"labels has {only} and needs two or more")
    Y = np.equal.outer(names, categories).astype(np.float64)
    return (Y - Y.mean(axis=0)) / Y.std(axis=0)


def _errors(
    responses: NDArray[np.float64], Y: NDArray[np.float64], penalties: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Leave-one-out squared errors, (n_widths, n_penalties)."""
    distances = pdist(responses)
    found = np.empty((len(_WIDTHS), len(penalties)))
    for w, width in enumerate(np.quantile(distances, _WIDTHS)):
        if not width > 0:
            found[w] = np.inf
            continue
        kernel = squareform(np.exp(-np.square(distances) / (2 * width**2)))
        np.fill_diagonal(kernel, 1)
        values, vectors = np.linalg.eigh(kernel)
        projected = vectors.T @ Y
        for k, penalty in enumerate(penalties):
            inverse = 1 / (np.maximum(values, 0) + penalty)
            dual = vectors @ (inverse[:, None] * projected)
            diagonal = np.square(vectors) @ inverse
            found[w, k] = np.square(dual / diagonal[:, None]).mean()
    if np.isinf(found).all():
        found[:] = np.nan
    return found
