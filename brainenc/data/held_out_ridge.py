"""Ridge on a few hundred images, for many permutations of the responses."""

from collections.abc import Sequence

import numpy as np

#: Ridge penalties, in units of the mean squared norm of an image's features.
ALPHAS = (0.3, 3.0, 30.0)

#: Number of voxels that a score is the mean over: the best, if there are more.
VOXELS = 100


def ridge_folds(n_images: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Positions of the images of each fold."""
    # Imported here, since scikit-learn takes a second and opening data does not need it.
    from brainenc.model_selection import image_folds

    return [test for _, test in image_folds(5, n_images, random_state=rng)]


def ridge_smoothers(features: np.ndarray, folds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Matrices from the responses of all images to held-out predictions, one per alpha.

    They do not depend on the responses, so that a permutation costs one matrix product.
    """
    kernel = features @ features.T
    smoothers = [np.zeros_like(kernel) for _ in ALPHAS]
    for test in folds:
        train = np.setdiff1d(np.arange(len(kernel)), test)
        values, vectors = np.linalg.eigh(kernel[np.ix_(train, train)])
        projected = kernel[np.ix_(test, train)] @ vectors
        for smoother, alpha in zip(smoothers, ALPHAS, strict=True):
            weights = (projected / (np.maximum(values, 0) + alpha)) @ vectors.T
            weights -= weights.mean(axis=1, keepdims=True)  # responses around their train mean
            smoother[np.ix_(test, train)] = weights
    return smoothers


def held_out_score(smoothers: Sequence[np.ndarray], responses: np.ndarray) -> float:
    """Mean over the best voxels of held-out r, at the best alpha: chosen alike in permutations."""
    best = -np.inf
    for smoother in smoothers:
        r = held_out_correlations(smoother @ responses, responses)
        if len(r) > VOXELS:
            r = np.partition(r, len(r) - VOXELS)[-VOXELS:]
        best = max(best, float(r.mean()))
    return best


def held_out_correlations(predictions: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Pearson r per voxel of responses with mean 0; 0 where undefined."""
    y = responses / np.maximum(np.linalg.norm(responses, axis=0), 1e-12)
    predictions = predictions - predictions.mean(axis=0)
    norm = np.maximum(np.linalg.norm(predictions, axis=0), 1e-12)
    return np.einsum("iv,iv->v", predictions, y) / norm
