"""Scores across voxels, one number per image: pattern r, mean squared error and cosine.

This is the protocol of the SynBrain paper (NeurIPS 2025, arXiv 2508.10298), kept under its own
label because it answers another question than a voxelwise score. On betas that are not centred
per voxel, the pattern of an image is mostly the map of voxel means, which is the same for every
image: a constant predictor, the train mean, scores almost what the published models score
(pattern r .673 against .687 over four subjects). Compare with `MeanEncoder` before reading
anything into these numbers, or z-score the betas per voxel first.

Voxels that are NaN in the target of an image are left out for that image.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.arrays import blocks
from brainenc.metrics.sums import check_pair
from brainenc.metrics.voxelwise import correlation, mean_squared_error


def pattern_correlation(predictions: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Pearson correlation across voxels, per image.

    The protocol of the SynBrain paper. On uncentred betas it mostly rewards the map of voxel
    means, which a constant predictor has too.

    Parameters
    ----------
    predictions, targets : array, shape (n_images, n_voxels)
        Voxels that are NaN in the target of an image are left out for that image.

    Returns
    -------
    array, shape (n_images,)
        In [-1, 1]. NaN where the predicted or the measured pattern is constant, has fewer than
        two voxels, or the prediction is not finite.

    Raises
    ------
    ValueError : shapes that do not match.
    """
    return _per_image(correlation, predictions, targets)


def pattern_mse(predictions: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Mean squared error across voxels, per image.

    The protocol of the SynBrain paper. On uncentred betas most of the variance between voxels is
    the map of voxel means, which a constant predictor has too.

    Parameters
    ----------
    predictions, targets : array, shape (n_images, n_voxels)
        Voxels that are NaN in the target of an image are left out for that image.

    Returns
    -------
    array, shape (n_images,)
        In squared units of the betas. NaN where no voxel is left or a prediction is not finite.

    Raises
    ------
    ValueError : shapes that do not match.
    """
    return _per_image(mean_squared_error, predictions, targets)


def pattern_cosine(predictions: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Cosine of the angle between predicted and measured pattern, per image.

    The protocol of the SynBrain paper. Patterns are not centred, so the mean over voxels counts
    too: on uncentred betas it rewards the map of voxel means even more than `pattern_correlation`.

    Parameters
    ----------
    predictions, targets : array, shape (n_images, n_voxels)
        Voxels that are NaN in the target of an image are left out for that image.

    Returns
    -------
    array, shape (n_images,)
        In [-1, 1]. NaN where a pattern is zero everywhere or a prediction is not finite.

    Raises
    ------
    ValueError : shapes that do not match.
    """
    return _per_image(_cosine, predictions, targets)


def _cosine(predictions: np.ndarray, targets: np.ndarray) -> NDArray[np.float64]:
    missing = np.isnan(targets)
    x = np.where(missing, 0.0, predictions)
    y = np.where(missing, 0.0, targets)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        norms = np.sqrt(np.einsum("vi,vi->i", x, x) * np.einsum("vi,vi->i", y, y))
        return np.einsum("vi,vi->i", x, y) / norms


def _per_image(
    score: Callable[..., NDArray[np.float64]], predictions: ArrayLike, targets: ArrayLike
) -> NDArray[np.float64]:
    """A voxelwise score with the parts of images and voxels exchanged, some images at a time."""
    predictions, targets = check_pair(predictions, targets)
    scores = np.empty(len(targets))
    for images in blocks(len(targets), 2**16 // targets.shape[1]):
        scores[images] = score(predictions[images].T, targets[images].T)
    return scores
