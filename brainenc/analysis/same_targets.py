"""Which images have the targets of another set, whatever float type each set was stored in."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from brainenc.arrays import row_blocks

#: Float types by their rounding, relative, the coarsest first; 0 for that of the values themselves.
_ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 0.0}

#: Relative difference of the same target computed twice, in batches of other sizes.
_COMPUTED_TWICE = 2.0**-20

#: Fewest dimensions in which two images are not that close by chance.
_MIN_WIDTH = 3

#: Error of projections in float64.
_PROJECTION = 1e-12


def same_targets(known: np.ndarray, asked: np.ndarray) -> NDArray[np.bool_]:
    """Which targets are among the known ones, but for rounding.

    Two targets are the same if their difference is no longer than rounding to the coarser of the
    types whose values the two sets have makes it, such as float16 for targets that were stored so.

    Parameters
    ----------
    known, asked : arrays, shape (n_images, ...)
        Finite, of the same shape but for the first axis.

    Returns
    -------
    array of bool, one per row of `asked`
    """
    found = np.zeros(len(asked), dtype=bool)
    width = int(np.prod(known.shape[1:]))
    if not len(known) or not len(asked) or not width:
        return found
    types = [_stored_as(part) for part in (known, asked)]
    rounding = 0.0 if types[0] == types[1] else max(_ROUNDING[one] for one in types)
    if width >= _MIN_WIDTH:
        rounding = max(rounding, _COMPUTED_TWICE)
    # Orthonormal: two rows are no farther apart in the projection than they are.
    n = min(width, 8)
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((width, n)))[0]
    tree = cKDTree(np.concatenate([rows @ axes for rows in _flat(known)]))
    start = 0
    for rows in _flat(asked):
        limits = rounding * np.linalg.norm(rows, axis=1)
        radius = 1.001 * limits + _PROJECTION * (1 + np.linalg.norm(rows, axis=1))
        near = tree.query_ball_point(rows @ axes, radius)
        for i, (row, limit, candidates) in enumerate(zip(rows, limits, near, strict=True)):
            found[start + i] = any(
                np.linalg.norm(known[j].reshape(-1).astype(np.float64) - row) <= limit
                for j in candidates
            )
        start += len(rows)
    return found


def _flat(targets: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of rows (n, width) in float64."""
    for block in row_blocks(targets):
        yield block.reshape(len(block), -1).astype(np.float64)


def _stored_as(targets: np.ndarray) -> str:
    """The coarsest float type that has all the values."""
    left = dict.fromkeys(_ROUNDING)
    for rows in _flat(targets):
        for name in list(left):
            if not _has(name, rows):
                del left[name]
    return next(iter(left))


def _has(name: str, values: np.ndarray) -> bool:
    if name == "bfloat16":
        single = values.astype(np.float32)
        return bool((single == values).all() and not (single.view(np.uint32) & 0xFFFF).any())
    with np.errstate(over="ignore"):
        return bool((values.astype(name) == values).all())
