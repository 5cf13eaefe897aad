"""The noise ceiling of a run."""

import warnings
from typing import Any

import numpy as np

from brainenc.benchmarking.split import Split
from brainenc.data.ceiling import TAKEN_FOR_SINGLE_TRIALS, ceiling_of_averages
from brainenc.data.encoding_data import EncodingData
from brainenc.metrics import NoiseCeiling
from brainenc.repeats import effective_trials


def ceiling_of_tested(data: EncodingData, split: Split) -> NoiseCeiling:
    """Ceiling of r against averages of the test images, with signal and noise from all images.

    Often only the test images have repeats: their averages then have less noise than others. Trials
    are counted for each voxel, since voxels may lack different ones.
    """
    # An image tested in several folds counts as often, which `data.noise_ceiling` does not know.
    tested = None if tests_all_once(data, split) else split.rows
    with warnings.catch_warnings():
        # Said among the warnings of the result, see `cautions`.
        warnings.filterwarnings("ignore", TAKEN_FOR_SINGLE_TRIALS[:30])
        return ceiling_of_averages(
            data.betas,
            data.voxels.get("ncsnr"),
            data.n_averaged,
            tested,
            data.trials,
            n_bootstraps=200,
        ).to("r")


def tests_all_once(data: EncodingData, split: Split) -> bool:
    """Whether every image with trials is tested, each equally often."""
    n_tested = np.bincount(split.rows, minlength=data.n_images)
    counts = n_tested[np.unique(data.trials["image"])]
    return bool((counts == counts[0]).all() and counts[0] > 0)


def trials_averaged(data: EncodingData, split: Split, ceiling: NoiseCeiling) -> Any:
    """Trials averaged in the responses of the tested images, per voxel: 1 / mean(1 / n_i).

    If all images are tested, the numbers that `ceiling` was counted for; else counted from the
    betas, so that a ceiling for other averages raises an error.

    Returns
    -------
    float, or array, shape (n_voxels,); NaN for a voxel without data
    """
    if tests_all_once(data, split):  # one pass through the betas less
        return ceiling.n_trials
    return effective_trials(data.betas, data.n_averaged, split.rows)


def trials_per_draw(data: EncodingData) -> Any:
    """Trials whose noise a draw has: 1, or if betas are averages, their number per voxel."""
    return 1.0 if data.n_averaged is None else data.effective_trials()
