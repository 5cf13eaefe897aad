"""The noise ceiling of a run, and the number of trials averaged in scored responses."""

import numpy as np

from brainenc.arrays import blocks, release
from brainenc.benchmarking.split import Split
from brainenc.data.encoding_data import EncodingData
from brainenc.metrics import NoiseCeiling

#: Betas at a time in counting trials: temporary arrays of a few MB.
_BLOCK_VALUES = 2**20


def ceiling_of_tested(data: EncodingData, split: Split) -> NoiseCeiling:
    """Ceiling of r against averages of the test images, with signal and noise from all images.

    Often only the test images have repeats: their averages then have less noise than others.
    """
    ceiling = data.noise_ceiling(n_bootstraps=200).to("r")
    if data.trials["image"].isin(split.rows).all():
        return ceiling
    return ceiling.with_n_trials(_trials_per_image(data, split))


def trials_averaged(data: EncodingData, split: Split, ceiling: NoiseCeiling) -> float | np.ndarray:
    """Trials averaged in the responses of the tested images: 1 / mean(1 / n_i), as of a ceiling.

    Counted independently of the ceiling, so that a ceiling for other averages raises an error.

    Returns
    -------
    float, from the trial table; if it differs from the ceiling's, an array (n_voxels,) counted from
    the betas, since voxels may lack trials of the table; NaN for a voxel without data.
    """
    counts = _trials_per_image(data, split)
    n_trials = float(1 / np.mean(1 / counts))
    if np.allclose(n_trials, ceiling.n_trials, rtol=1e-6):
        return n_trials
    return _trials_by_voxel(data.betas, np.unique(split.rows))


def _trials_per_image(data: EncodingData, split: Split) -> np.ndarray:
    """Trials of every test image, from the trial table."""
    trials = data.trials[data.trials["image"].isin(split.rows)]
    if "n_averaged" in trials and not data.trials["image"].duplicated().any():
        return trials["n_averaged"].to_numpy()
    return trials.groupby("image").size().to_numpy()


def _trials_by_voxel(betas: np.ndarray, images: np.ndarray) -> np.ndarray:
    """1 / mean(1 / n_i) over the images with trials, (n_voxels,); NaN without any."""
    n_images, inverse = np.zeros((2, betas.shape[2]))
    for some in blocks(len(images), _BLOCK_VALUES // betas[0].size):
        n = np.isfinite(betas[images[some]]).sum(axis=1)
        n_images += (n > 0).sum(axis=0)
        inverse += ((n > 0) / np.maximum(n, 1)).sum(axis=0)
        release(betas)
    with np.errstate(invalid="ignore"):
        return n_images / inverse
