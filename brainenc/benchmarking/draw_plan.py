"""DrawPlan: number of draws and voxels of their scores, for all encoders and folds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainenc.arrays import release, row_blocks
from brainenc.benchmarking.draw_kept import VERSION
from brainenc.benchmarking.split import Split
from brainenc.data.encoding_data import EncodingData
from brainenc.data.voxels import atlas_labels
from brainenc.metrics import ncsnr_from_repeats

#: Draws per image, if a benchmark scores draws and is given no number.
N_DRAWS = 200
#: Number of voxels with kept correlations; number of their pairs in the variogram score.
N_SUBSET, N_PAIRS = 200, 500
#: Kept quantiles of the draws, for the voxels shown.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class DrawPlan:
    """Number of draws, and voxels for scores that are too large for all voxels.

    Attributes
    ----------
    n_draws : int
        Draws per image.
    random_state : int
    complete : array of int
        Voxels with data in all trials and variance in every training set, for the energy score.
    subset : array of int
        At most 200 of these, ordered by ROI and proportional to ROI size, for log and variogram
        score and noise correlations.
    shown : array of int
        Voxel of highest ncsnr in each ROI, for kept quantiles.
    """

    n_draws: int
    random_state: int
    complete: np.ndarray
    subset: np.ndarray
    shown: np.ndarray

    def key(self) -> list[Any]:
        """The plan as plain values, for fingerprints."""
        voxels = (self.complete, self.subset, self.shown)
        return [VERSION, self.n_draws, self.random_state, *(array.tolist() for array in voxels)]


def number_of_draws(n_draws: int | None, encoders: Iterable[Any]) -> int:
    """Draws per image to score: `n_draws`, or the default in place of None.

    Parameters
    ----------
    n_draws : int or None
    encoders : iterable of encoders
        With None, draws are scored if one of them has a distribution of its own, so that
        its draws are more than its prediction with residuals added.

    Raises
    ------
    ValueError : n_draws is neither 0 nor within the range of ranks.
    """
    if n_draws is None:
        kinds = {getattr(encoder, "sample_kind", "residual") for encoder in encoders}
        return 0 if kinds <= {"residual"} else N_DRAWS
    if n_draws != 0 and not 2 <= n_draws < np.iinfo(np.int16).max:
        raise ValueError(
            f"n_draws={n_draws} must be 0 (none), or from 2 to 32 766; 200 suffice for intervals"
        )
    return n_draws


def make_plan(data: EncodingData, split: Split, n_draws: int, random_state: int) -> DrawPlan:
    """Plan with `n_draws` >= 2 draws per test image of a data set."""
    in_z = np.isfinite(split.scale).all(axis=0)
    complete = np.flatnonzero(in_z & _is_complete(data.betas))
    labels = _first_labels(data)[complete]
    shuffled = np.random.default_rng(random_state).permutation(len(complete))
    by_roi = shuffled[np.argsort(labels[shuffled], kind="stable")]
    spaced = np.linspace(0, len(complete), min(N_SUBSET, len(complete)), endpoint=False)
    ncsnr = np.nan_to_num(ncsnr_from_repeats(data.betas))[complete]
    release(data.betas)
    best = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    shown = [complete[voxels[ncsnr[voxels].argmax()]] for voxels in best]
    return DrawPlan(
        n_draws,
        random_state,
        complete,
        complete[by_roi[spaced.astype(int)]],
        np.array(shown, dtype=np.int64),
    )


def _first_labels(data: EncodingData) -> np.ndarray:
    """ROI of every voxel in the first atlas, "" where it has none."""
    if not data.atlases:
        return np.full(data.n_voxels, "")
    return atlas_labels(data.voxels, data.atlases[0]).astype(str)


def _is_complete(betas: np.ndarray) -> np.ndarray:
    """Whether a voxel has a value in every trial of any voxel, shape (n_voxels,)."""
    complete = np.ones(betas.shape[2], dtype=bool)
    for block in row_blocks(betas):
        present = np.isfinite(block)
        complete &= present[present.any(axis=2)].all(axis=0)
    return complete
