"""Draws of held-out images, scored block by block and never held all at once.

What is kept of them, as arrays of one fold (`score_draws`), is small and still allows bootstrap
over images. Beside an encoder's own draws there are reference rows, made of the same fits: ridge
with independent Gaussian residuals, ridge with residuals of whole held-out trials drawn anew, and
the true distribution where data has one. (Ridge's own draws have a low-rank noise covariance.)
"""

from pathlib import Path
from typing import Any

import numpy as np

from brainenc.arrays import blocks, release
from brainenc.benchmarking.draw_kept import Arrays, Kept
from brainenc.benchmarking.draw_plan import N_PAIRS, QUANTILES, DrawPlan
from brainenc.benchmarking.draw_sources import DrawSource
from brainenc.metrics import (
    log_score,
    random_pairs,
    variogram_score,
)
from brainenc.metrics.probabilistic import crps_of_sorted, energy_and_ranks, sort_draws
from brainenc.metrics.ranks import MISSING, ranks_among_sorted

#: Numbers drawn at once: 16 MiB of float32, and a few arrays of that size beside it.
_BLOCK_VALUES = 2**22


def score_draws(
    source: DrawSource,
    betas: np.ndarray,
    scale: np.ndarray,
    plan: DrawPlan,
    fold: int,
    folder: Path | None = None,
) -> Arrays:
    """Draw for the test images of one fold, and keep what scores are made of.

    Parameters
    ----------
    source : DrawSource
    betas : array, shape (n_test, n_repeats, n_voxels)
        Single trials.
    scale : array, shape (n_voxels,)
        s.d. of the training trials; the unit of energy and variogram score.
    plan : DrawPlan
    fold : int
        Part of the seed.
    folder : path, optional
        Made, for the arrays; the large ones are then memory-mapped. See `read_kept`.

    Returns
    -------
    dict of arrays: ``crps``, ``one_draw``, ``mean_draw`` (n_test, n_voxels); ``ranks``
    (n_test, n_repeats, n_voxels); ``pattern_ranks`` (n_test, n_repeats); ``energy``,
    ``variogram``, ``log_score`` (n_test,);
    ``draw_variance`` (n_voxels,) and ``cross_products`` (n_subset, n_subset), sums over the
    images; ``quantiles`` (n_test, n_shown, n_quantiles).

    Raises
    ------
    ValueError : draws of a wrong shape.
    """
    n_test, _, n_voxels = betas.shape
    sums: dict[str, Any] = {"draw_variance": 0.0, "cross_products": 0.0}
    with Kept(n_test, folder) as kept:
        for images in blocks(n_test, _BLOCK_VALUES // (plan.n_draws * n_voxels)):
            seed = np.random.SeedSequence([plan.random_state, fold, images.start])
            drawn = source.sample(images, plan.n_draws, int(seed.generate_state(1)[0]))
            draws = np.array(drawn, dtype=np.float32)  # a copy, to be overwritten
            wanted = (plan.n_draws, images.stop - images.start, n_voxels)
            if draws.shape != wanted:
                raise ValueError(f"sample gave shape {draws.shape}, not {wanted}")
            trials = betas[images]
            found = _scores_of_block(draws, trials, scale, plan, sums)
            found["log_score"] = _log_score(source, images, trials, plan.subset)
            kept.add(found)
            release(betas)
        return kept.joined(**sums)


def _scores_of_block(
    draws: np.ndarray, betas: np.ndarray, scale: np.ndarray, plan: DrawPlan, sums: dict[str, Any]
) -> Arrays:
    """Scores of some images; `sums` grow, and draws are overwritten."""
    unit, subset = scale[plan.subset], plan.subset
    pairs = random_pairs(np.arange(len(subset)), N_PAIRS, random_state=plan.random_state)
    found = {
        "one_draw": draws[0].copy(),
        "mean_draw": draws.mean(axis=0),
        "variogram": variogram_score(draws[..., subset] / unit, betas[..., subset] / unit, pairs),
    }
    # The rest is of differences: around the mean of the draws, their squares keep their digits.
    mean = found["mean_draw"]
    draws -= mean
    trials = betas - mean[:, None]
    ordered = sort_draws(draws)
    squares = np.einsum("ivn,ivn->v", ordered, ordered)
    sums["draw_variance"] += squares.astype(np.float64) / (len(draws) - 1)
    of_subset = draws[..., subset].reshape(draws[..., 0].size, len(subset))
    sums["cross_products"] += (of_subset.T @ of_subset).astype(np.float64)
    positions = np.quantile(np.arange(len(draws)), QUANTILES, method="nearest")
    found["quantiles"] = ordered[:, plan.shown][..., positions] + mean[:, plan.shown, None]
    found["crps"] = crps_of_sorted(ordered, trials).astype(np.float32)
    found["ranks"] = ranks_among_sorted(ordered, trials)
    draws /= scale
    trials /= scale
    whole = slice(None) if len(plan.complete) == draws.shape[2] else plan.complete
    energy, pattern_ranks = energy_and_ranks(draws[..., whole], trials[..., whole])
    if len(plan.complete) == 0:  # patterns of no voxels are all alike
        energy, pattern_ranks = np.full_like(energy, np.nan), np.full_like(pattern_ranks, MISSING)
    found["energy"], found["pattern_ranks"] = energy, pattern_ranks
    return found


def _log_score(
    source: DrawSource, images: slice, betas: np.ndarray, voxels: np.ndarray
) -> np.ndarray:
    if source.log_density is None or len(voxels) == 0:
        return np.full(len(betas), np.nan)
    return log_score(source.log_density(images, betas, voxels))
