"""Choices among candidates: how often a right one is among the k best, ties broken at random."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def compare(
    values: np.ndarray, own: np.ndarray, tolerance: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per row, how many entries are above `own`, and how many others equal it."""
    difference = values - own[:, None]
    better = (difference > tolerance).sum(axis=1)
    ties = (np.abs(difference) <= tolerance).sum(axis=1) - 1
    return better, ties


def compare_several(
    values: np.ndarray, right: NDArray[np.bool_], tolerance: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Per row with several right entries: wrong ones above and equal to the best right, and rights.

    Returns
    -------
    better, ties, n_best : arrays, shape (n_rows,)
        Wrong entries above the best right one, wrong entries equal to it, right entries equal to
        it (itself among them).
    """
    own = np.where(right, values, -np.inf).max(axis=1, initial=-np.inf)
    difference = values - own[:, None]
    equal = np.abs(difference) <= tolerance
    better = ((difference > tolerance) & ~right).sum(axis=1)
    return better, (equal & ~right).sum(axis=1), (equal & right).sum(axis=1)


def chosen(better: Any, ties: Any, k: int, n_best: Any = 1) -> NDArray[np.float64]:
    """Probability that one of `n_best` equal right entries is among the k best.

    `better` wrong entries are above them and `ties` wrong ones equal to them: the places that are
    left are given to the equal ones at random.
    """
    places = np.asarray(k - better)
    n_equal = np.asarray(ties + n_best)
    single = np.clip(places / n_equal, 0, 1)
    if np.all(np.asarray(n_best) == 1):
        return single
    # None of the places goes to a right one: drawn without replacement among the equal ones.
    missed = np.ones(np.broadcast(places, n_equal).shape)
    for drawn in range(k):
        wrong_left = np.maximum(ties - drawn, 0) / np.maximum(n_equal - drawn, 1)
        missed = np.where(drawn < places, missed * wrong_left, missed)
    return 1 - missed


def chance(n_right: Any, n_candidates: Any, k: int) -> NDArray[np.float64]:
    """Probability that k of the candidates, drawn at random, hold one of the right ones."""
    return chosen(0, np.asarray(n_candidates) - n_right, k, n_right)
