"""The noise ceiling of averages over repeats, from repeats or from ncsnr."""

import warnings
from typing import Any

import numpy as np
import pandas as pd

from brainenc import metrics
from brainenc.data.synthetic import measured_betas
from brainenc.repeats import effective_trials, has_repeats

#: What `ceiling_of_averages` warns of.
TAKEN_FOR_SINGLE_TRIALS = (
    "the noise ceiling is that of single trials: betas have no repeats, and nothing says whether "
    "they are averages. If they are, give the number of trials averaged (n_averaged=3, say, one "
    "number per image, or one per image and voxel); if not, n_averaged=1"
)


def ceiling_of_averages(
    betas: np.ndarray,
    ncsnr: Any,
    n_averaged: np.ndarray | None,
    images: np.ndarray | None,
    trials: pd.DataFrame,
    *,
    n_bootstraps: int = 0,
    random_state: Any = 0,
) -> "metrics.NoiseCeiling":
    """Ceiling of averages of some images, with signal and noise estimated from all.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
    ncsnr : array, shape (n_voxels,), or None
        Used only without repeats.
    n_averaged : array, shape (n_images, 1) or (n_images, n_voxels), or None
        Trials averaged in each beta.
    images : array of int, or None
        Images whose averages are scored; all by default.
    trials : DataFrame
        Trial table. Its synthetic trials do not count: they have the noise of an encoder.
    n_bootstraps, random_state
        As for `brainenc.metrics.noise_ceiling_from_repeats`.

    Returns
    -------
    NoiseCeiling, in space "r2"; for numbers of trials per voxel if voxels lack different trials.

    Warns
    -----
    UserWarning : `TAKEN_FOR_SINGLE_TRIALS`.
    """
    betas = measured_betas(betas, trials)
    if has_repeats(betas):
        ceiling = metrics.noise_ceiling_from_repeats(
            betas, n_bootstraps=n_bootstraps, random_state=random_state
        )
        if images is None:
            return ceiling
        return ceiling.with_n_trials(effective_trials(betas, images=images)[None])
    if ncsnr is None:
        return metrics.NoiseCeiling(
            np.full(betas.shape[2], np.nan),
            "r2",
            n_trials=1,
            estimator="none: no repeats, no ncsnr",
        )
    if n_averaged is None:
        warnings.warn(TAKEN_FOR_SINGLE_TRIALS, stacklevel=3)
    return metrics.noise_ceiling_from_ncsnr(
        ncsnr, effective_trials(betas, n_averaged, images)[None]
    )
