"""The noise ceiling that a run divides by, and the trials averaged in what it scores."""

import numpy as np

from brainenc.arrays import blocks, release
from brainenc.benchmarking.split import Split
from brainenc.data.encoding_data import EncodingData
from brainenc.metrics import NoiseCeiling

#: Betas taken up at once where trials are counted: temporary arrays of some MB.
_BLOCK_VALUES = 2**20


def ceiling_of_tested(data: EncodingData, split: Split) -> NoiseCeiling:
    """Ceiling of r against averages of the images tested; all images tell signal from noise.

    Often only the test images were repeated: their averages then have less noise than all have.
    """
    ceiling = data.noise_ceiling(n_bootstraps=200).to("r")
    if data.trials["image"].isin(split.rows).all():
        return ceiling
    return ceiling.with_n_trials(_trials_per_image(data, split))


def trials_averaged(data: EncodingData, split: Split, ceiling: NoiseCeiling) -> float | np.ndarray:
    """Trials averaged in the responses of the tested images: 1 / mean(1 / n_i), as of a ceiling.

    Counted apart from the ceiling, so that one for other averages is refused where scores are
    divided by it.

    Returns
    -------
    float, by the trial table; or, if that does not agree with the ceiling, an array (n_voxels,)
    by the betas, since voxels may lack trials that the table lists; NaN for one without data.
    """
    counts = _trials_per_image(data, split)
    n_trials = float(1 / np.mean(1 / counts))
    if np.allclose(n_trials, ceiling.n_trials, rtol=1e-6):
        return n_trials
    return _trials_by_voxel(data.betas, np.unique(split.rows))


def _trials_per_image(data: EncodingData, split: Split) -> np.ndarray:
    """By the trial table, of every image tested."""
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
