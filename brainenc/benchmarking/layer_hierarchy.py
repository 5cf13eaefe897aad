"""Whether the depth of the best layer rises along an order of areas, with a permutation test."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from math import factorial
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr

#: Permutations of so many at most are all tried.
_ALL = 10_000


def hierarchy_score(
    depths: Mapping[str, float], order: Sequence[str], *, random_state: Any = 0
) -> dict[str, float]:
    """Spearman correlation over areas of their place in an order with the depth of their layer.

    Parameters
    ----------
    depths : dict of area to mean depth, 0 for the first layer and 1 for the last
    order : sequence of areas, from low to high
    random_state : int
        Of permutations, where all are too many.

    Returns
    -------
    dict
        ``rho``; ``p``, the share of permutations of the areas with as large a rho or a larger one
        (one-sided, exact up to seven areas); ``smallest_p`` that so many areas allow;
        ``n_areas``. NaN with fewer than three areas that have a depth, or if all depths are equal.

    Notes
    -----
    Areas are permuted, and not voxels or layers: voxels of an area resemble each other, so that
    tests of single voxels find an order where there is none.

    Examples
    --------
    >>> hierarchy_score({"V1": 0.1, "V2": 0.3, "V4": 0.5, "IT": 0.9}, ["V1", "V2", "V4", "IT"])
    {'rho': 1.0, 'p': 0.041666666666666664, 'smallest_p': 0.041666666666666664, 'n_areas': 4}
    """
    values = np.array([depths[area] for area in order if np.isfinite(depths.get(area, np.nan))])
    n = len(values)
    if n < 3 or np.ptp(values) == 0:
        return {"rho": np.nan, "p": np.nan, "smallest_p": np.nan, "n_areas": n}
    rho = float(spearmanr(np.arange(n), values).statistic)
    if factorial(n) <= _ALL:
        orders = np.array(list(permutations(range(n))))
    else:
        generator = np.random.default_rng(random_state)
        orders = np.stack([np.arange(n), *(generator.permutation(n) for _ in range(_ALL))])
    # rho of ranks is linear in Σ position · rank, and so is its order over permutations.
    ranks = rankdata(values)
    sums = ranks[orders] @ np.arange(n)
    p = float((sums >= sums[0] - 1e-9).mean())
    return {"rho": rho, "p": p, "smallest_p": 1 / len(orders), "n_areas": n}
