"""Ridge decoders of permuted training images: chance of the whole procedure, many times over.

Ridge predictions are linear in the targets: with the penalty of the measured fit, those of permuted
training images are one matrix, of test by training images, times permuted targets. A permutation
then costs some products of matrices and no fit.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from brainenc.benchmarking.decoding_inputs import AVERAGE, Fold
from brainenc.benchmarking.decoding_pools import expected_top
from brainenc.decoders.responses import VoxelScaling, single_trials
from brainenc.metrics.choices import compare
from brainenc.model_selection import shuffles
from brainenc.repeats import average_repeats

#: What is permuted.
ALL, WITHIN = "all training images", "within category"


@dataclass(frozen=True)
class PermutedScores:
    """Retrieval of the mean test responses from ridge with one penalty for all dimensions.

    Attributes
    ----------
    observed : array, shape (2,)
        Image and brain retrieval without a permutation; the centred similarity.
    null : dict of what is permuted to array, shape (n_permutations, 2)
    """

    observed: NDArray[np.float64]
    null: dict[str, NDArray[np.float64]]


def smoother(fold: Fold, alpha: float) -> NDArray[np.float64]:
    """Matrix (n_test, n_train) that turns centred training targets into centred predictions.

    Of ridge from single trials, whose rows have the target of their image.
    """
    scaling = VoxelScaling.of(fold.betas)
    trials, images = single_trials(scaling.apply(fold.betas))
    X = trials.astype(np.float64)
    X -= X.mean(axis=0)
    test = scaling.apply(average_repeats(fold.responses[AVERAGE])) - trials.mean(axis=0)
    starts = np.flatnonzero(np.diff(images, prepend=-1))
    if X.shape[1] <= len(X):
        of_images = np.add.reduceat(X, starts, axis=0)
        factor = cho_factor(X.T @ X + alpha * np.eye(X.shape[1]))
        found = cho_solve(factor, test.T.astype(np.float64)).T @ of_images.T
    else:
        factor = cho_factor(X @ X.T + alpha * np.eye(len(X)))
        found = np.add.reduceat(cho_solve(factor, X @ test.T.astype(np.float64)), starts, axis=0).T
    # The intercept is the mean over rows, of which each image has as many as trials.
    return found + np.bincount(images) / len(images)


def permuted_scores(
    fold: Fold, alpha: float, pool_size: int, n_permutations: int, seed: int
) -> PermutedScores:
    """Scores with permuted training images, and with permutations within their categories.

    Parameters
    ----------
    fold : Fold
    alpha : float
        Penalty, for all dimensions.
    pool_size : int
        Images in a pool; the score is the expectation over random pools.
    n_permutations, seed : int
    """
    known = np.isfinite(fold.responses[AVERAGE]).any(axis=(1, 2))
    weights = smoother(fold, alpha)[known].astype(np.float32)
    mean = fold.targets.mean(axis=0, dtype=np.float64)
    train, test = (
        (part - mean).reshape(len(part), -1).astype(np.float32)
        for part in (fold.targets, fold.test_targets[known])
    )
    test /= np.linalg.norm(test, axis=1, keepdims=True)
    products, gram = train @ test.T, train @ train.T

    def scores(order: np.ndarray) -> NDArray[np.float64]:
        # A permutation of targets, as one of the matrix: its columns go to other images.
        turned = np.empty_like(weights)
        turned[:, order] = weights
        length = np.sqrt(np.maximum(((turned @ gram) * turned).sum(axis=1), 0))
        length[length == 0] = np.nan
        similarity = (turned @ products) / length[:, None]
        return top_in_pools(similarity, pool_size)

    n = len(fold.train)
    kinds = {ALL: [np.arange(n)]}
    if (labels := fold.categories) is not None:
        kinds[WITHIN] = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return PermutedScores(
        scores(np.arange(n)),
        {
            kind: np.array(
                [scores(order) for order in shuffles(strata, n_permutations, random_state=seed)]
            )
            for kind, strata in kinds.items()
        },
    )


def top_in_pools(similarity: np.ndarray, pool_size: int) -> NDArray[np.float64]:
    """Image and brain retrieval of a square similarity, expected over random pools."""
    own = np.diagonal(similarity)
    finite = np.isfinite(similarity)
    tolerance = 1e-6 * float(np.abs(similarity[finite]).max(initial=1e-30))
    found = []
    for values in (similarity, similarity.T):
        defined = np.isfinite(values).all(axis=1)
        better, ties = compare(values[defined], own[defined], tolerance)
        expected = expected_top(better, ties, len(values), [pool_size])
        found.append(expected.mean() if expected.size else np.nan)
    return np.array(found)
