"""Slow and obvious versions of what the package computes fast, for tests to compare with."""

from itertools import permutations

import numpy as np


def resample(array, counts):
    """The rows of `array`, each repeated as often as `counts` says."""
    return np.repeat(array, np.asarray(counts, dtype=int), axis=0)


def two_way_identification(predictions, targets):
    shares = []
    for i, prediction in enumerate(predictions):
        right = np.corrcoef(prediction, targets[i])[0, 1]
        wrong = [np.corrcoef(prediction, t)[0, 1] for j, t in enumerate(targets) if j != i]
        shares.append(np.mean([1.0 if right > w else 0.5 if right == w else 0.0 for w in wrong]))
    return np.array(shares)


def hsic_unbiased(x, y, identity):
    """HSIC as a mean over all quadruples of rows whose images (`identity`) all differ."""
    k, m = x @ x.T, y @ y.T
    return np.mean(
        [
            k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
            for i, j, q, r in permutations(range(len(x)), 4)
            if len({identity[i], identity[j], identity[q], identity[r]}) == 4
        ]
    )


def rdm_entries(rdm, identity):
    """Entries above the diagonal of an RDM of resampled rows, copies of one image left out."""
    return np.array(
        [
            rdm[identity[i], identity[j]]
            for i in range(len(identity))
            for j in range(i + 1, len(identity))
            if identity[i] != identity[j]
        ]
    )


def variance_components(groups):
    """Signal and noise variance of one voxel from a list of arrays of trials, one per image.

    Analysis of variance with unequal group sizes, as in Searle, Casella & McCulloch (1992).
    """
    groups = [np.asarray(group) for group in groups if len(group)]
    sizes = np.array([len(group) for group in groups])
    everything = np.concatenate(groups)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    between = sum(len(group) * (group.mean() - everything.mean()) ** 2 for group in groups)
    noise = within / (sizes.sum() - len(groups))
    n0 = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(groups) - 1)
    return (between / (len(groups) - 1) - noise) / n0, noise
