"""Retrieval in random pools of any size, in closed form: its expectation over all pools."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln


def expected_top(
    better: Any, ties: Any, n_images: int, sizes: Sequence[int]
) -> NDArray[np.float64]:
    """Probability that the right one is the best of a random pool that holds it.

    Parameters
    ----------
    better, ties : arrays of int, shape (n_queries,)
        Other candidates that are better than the right one, and as good; ties are broken at random.
    n_images : int
        Candidates, the right one among them.
    sizes : sequence of int
        Pool sizes, 1 … `n_images`.

    Returns
    -------
    array, shape (n_queries, n_sizes)
        With b better ones of n − 1 others this is C(n − 1 − b, m − 1) / C(n − 1, m − 1).

    Examples
    --------
    >>> expected_top([0, 1, 9], [0, 0, 0], 10, [2, 10]).round(3)
    array([[1.   , 1.   ],
           [0.889, 0.   ],
           [0.   , 0.   ]])
    """
    others = n_images - 1
    place = np.arange(n_images)
    better, ties = np.asarray(better), np.asarray(ties)
    found = np.empty((len(better), len(sizes)))
    for column, size in enumerate(sizes):
        drawn = size - 1
        possible = others - place >= drawn
        left = np.where(possible, others - place, drawn)
        log = gammaln(left + 1) - gammaln(left - drawn + 1)
        log -= gammaln(others + 1) - gammaln(others - drawn + 1)
        of_place = np.where(possible, np.exp(log), 0.0)
        total = np.concatenate([[0.0], np.cumsum(of_place)])
        found[:, column] = (total[better + ties + 1] - total[better]) / (ties + 1)
    return found


def pool_sizes(n_images: int) -> list[int]:
    """Sizes of pools for a curve: 2, 5, 10, 20, 50, … and all images."""
    sizes = [n * 10**power for power in range(7) for n in (2, 5, 10)]
    return [*[size for size in dict.fromkeys(sizes) if size < n_images], n_images]
