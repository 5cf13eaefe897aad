"""Search for the penalty with the smallest held-out error, from a guess."""

from collections.abc import Callable

import torch
from torch import Tensor

from brainenc.model_selection import Folds
from brainenc.solvers.voxels import EXACT_IMAGES

#: Differences between expected and found errors may be so many times as large as seen so far.
_SAFETY = 1.5
#: Expected errors are wrong by less than so much of the error per step, at the median of voxels, if
#: folds are random parts of the images (.001 to .004 in what was tried); else all is evaluated.
_BLIND = 0.008
#: Ratio of the largest to the smallest fold from which folds are uneven.
_UNEVEN = 4
SEARCHES = ("auto", "guided", "exact")


def working_dtype(given: torch.dtype, n_images: int) -> torch.dtype:
    """Double precision for few images, where it takes no time that counts."""
    return torch.float64 if n_images <= EXACT_IMAGES else given


def choose_search(search: str, n_images: int, folds: Folds) -> str:
    """Either "guided" or "exact".

    "auto" is exact for at most `EXACT_IMAGES` images, and where folds are so uneven that the mean
    over folds is the error of few images, which generalised cross-validation cannot expect.

    Raises
    ------
    ValueError : unknown search.
    """
    if search not in SEARCHES:
        raise ValueError(f"search={search!r} must be one of {', '.join(map(repr, SEARCHES))}")
    if search != "auto":
        return search
    sizes = [len(test) for _, test in folds]
    uneven = max(sizes) > _UNEVEN * min(sizes)
    return "exact" if n_images <= EXACT_IMAGES or uneven else "guided"


def search_penalties(
    errors: Tensor, expected: Tensor, evaluate: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Evaluate penalties until none is left that may be better than the best known one.

    These are the neighbours of the best one, and those for which the expected difference to it is
    within what expectation and error have differed by, per step along the penalties, where both are
    known. All are evaluated if expectations are wrong for most voxels, as with folds of categories.

    Parameters
    ----------
    errors : (n_voxels, n_alphas)
        Held-out errors, NaN where unknown, and known for one penalty at least; filled in place.
    expected : (n_voxels, n_alphas)
        What they are expected to be, up to a constant for each voxel.
    evaluate : callable
        Errors of pairs of voxels and positions, each of shape (n_pairs,).

    Returns
    -------
    best : (n_voxels,) of int
        Of penalties with equal errors the first.
    """
    while True:
        voxels, positions = _next(errors, expected)
        if not len(voxels):
            return best_known(errors)
        errors[voxels, positions] = evaluate(voxels, positions)


def best_known(errors: Tensor) -> Tensor:
    """Position of the smallest known error; the first of equal ones."""
    return errors.nan_to_num(torch.inf, torch.inf).argmin(1)


def _next(errors: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Voxels whose choice is open, and the most promising penalty of unknown error of each."""
    best = best_known(errors)[:, None]
    steps = (torch.arange(errors.shape[1], device=errors.device) - best).abs()
    rise = expected - expected.gather(1, best)
    off = ((errors - errors.gather(1, best)) - rise).abs() / steps.clamp(min=1)
    largest = off.nan_to_num(0, 0).amax(1, keepdim=True)
    doubt = _SAFETY * largest * steps
    is_blind = (largest / errors.gather(1, best)).nanmedian() > _BLIND
    possible = errors.isnan() & ((steps == 1) | (rise <= doubt) | is_blind)
    voxels = possible.any(1).nonzero()[:, 0]
    # Neighbours come first, then what promises most.
    promise = (rise - doubt).where(steps > 1, -torch.inf).where(possible, torch.inf)
    positions = promise[voxels].argmin(1)
    order = positions.argsort(stable=True)  # voxels of one penalty are evaluated together
    return voxels[order], positions[order]
