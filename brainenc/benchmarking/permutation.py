"""p-values of voxelwise correlations, by shuffling images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from brainenc import metrics
from brainenc.arrays import blocks
from brainenc.benchmarking.targets import Targets, centre_within_folds
from brainenc.model_selection import permutation_p_values

#: Images × voxels that are shuffled at once: with their predictions they stay in the cache.
_SHUFFLE_ENTRIES = 2**18


def correlation_p_values(
    predictions: np.ndarray, targets: Targets, *, n_permutations: int, random_state: Any
) -> np.ndarray:
    """Permutation p of each voxel's r.

    The statistic is the numerator of r: what r is divided by does not depend on which image goes
    with which. It is a sum over images of a response times the centred predictions of that image
    summed over its rows, so an image tested in several folds moves as one; shuffling its rows
    apart would take the likeness of its predictions for evidence. Images change places within
    their fold, or, where folds have images in common, within all that these connect. A missing
    response counts 0 (the mean) and moves along.

    Predictions are not fitted again to every shuffle. The p are exact where test images are never
    trained on; under cross-validation images are predicted from each other, and r of noise
    scatters up to √2 times more than shuffles show. On noise, ridge got p < .05 in 4 to 11 % of
    voxels and p < .005 in 1 to 2.5 %.

    Returns
    -------
    array, shape (n_voxels,); NaN where r is undefined.
    """
    if len(predictions) == 0:
        return np.full(predictions.shape[1], np.nan)
    paired = np.where(np.isnan(targets.averages), np.nan, predictions)
    predicted = centre_within_folds(paired, targets.folds)
    measured = centre_within_folds(targets.averages, targets.folds)
    defined = np.flatnonzero(np.isfinite(metrics.correlation(predicted, measured)))
    rows, strata = _rows_of_images(targets), _strata(targets)
    _, first_row = np.unique(targets.images, return_index=True)
    summed = rows @ np.nan_to_num(predicted)
    response = np.nan_to_num(centre_within_folds(targets.averages[first_row], strata))
    p = np.full(predictions.shape[1], np.nan)
    for block in blocks(len(defined), _SHUFFLE_ENTRIES // len(summed)):
        voxels = defined[block]
        p[voxels] = permutation_p_values(
            _Product(_unit_columns(summed[:, voxels]), _unit_columns(response[:, voxels])),
            strata,
            n_permutations=n_permutations,
            random_state=random_state,
        )
    return p


def _rows_of_images(targets: Targets) -> csr_array:
    """Indicator (n_images, n_rows) of the rows of each image."""
    n_rows = len(targets.images)
    ones = np.ones(n_rows, dtype=np.float32)
    return csr_array((ones, (targets.images, np.arange(n_rows))))


def _strata(targets: Targets) -> list[np.ndarray]:
    """Images connected by folds: those of one fold, and of folds that have images in common."""
    n_images = targets.images.max() + 1
    n_nodes = n_images + len(targets.folds)
    ends = targets.images, n_images + targets.fold_of_row
    links = csr_array((np.ones(len(targets.images)), ends), (n_nodes, n_nodes))
    _, labels = connected_components(links, directed=False)
    return [np.flatnonzero(labels[:n_images] == label) for label in np.unique(labels[:n_images])]


@dataclass
class _Product:
    """Products of predictions with responses in another order, per voxel."""

    predicted: np.ndarray
    measured: np.ndarray

    def __call__(self, order: np.ndarray) -> np.ndarray:
        return np.einsum("iv,iv->v", self.predicted, self.measured[order])


def _unit_columns(centred: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (centred / np.linalg.norm(centred, axis=0)).astype(np.float32)
