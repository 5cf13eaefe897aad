"""What the repeats of an experiment say of its signal and its noise."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from brainenc.metrics import ncsnr_from_repeats
from brainenc.noise.estimates import fit_shared_signal, fit_trial_noise
from brainenc.noise.factors import MAX_FACTORS
from brainenc.noise.gaussian import ResidualNoise
from brainenc.repeats import average_repeats
from brainenc.validation import check_betas


@dataclass(frozen=True)
class NoiseModel:
    """Signal and single-trial noise of betas: low rank plus diagonal each.

    Attributes
    ----------
    noise : ResidualNoise
        Of single trials around the expected response to their image.
    signal : ResidualNoise
        Of expected responses, over images, around `mean`.
    mean : array, shape (n_voxels,)
    ncsnr : array, shape (n_voxels,)
        Signal s.d. / single-trial noise s.d. NaN for a voxel without repeats.
    """

    noise: ResidualNoise
    signal: ResidualNoise
    mean: np.ndarray
    ncsnr: np.ndarray


def noise_model(betas: Any, *, max_factors: int = MAX_FACTORS, random_state: Any = 0) -> NoiseModel:
    """Covariance of signal and noise between voxels, from repeats.

    Noise is what differs between repeats of an image, signal what they share. Of each, directions
    in which voxels vary together are kept as factors, with the variance that images left out have
    along them; the rest is private to voxels. No matrix of n_voxels² is formed.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels); NaN where a repeat is missing
        Drift between sessions counts as noise: z-score by session beforehand
        (`EncodingData.zscore_by_session`) to leave it out.
    max_factors : int
        Shared factors kept at most, of signal and of noise.
    random_state : int, Generator or None
        Of the folds over images, of the randomised SVD, and of the images it sees where there are
        more than 2000 trials.

    Returns
    -------
    NoiseModel
        NaN for voxels without repeats.

    Raises
    ------
    TypeError, ValueError : betas of a wrong dtype or shape, or no image with two trials.

    See Also
    --------
    BaseEncoder.sample : draws around a prediction, whose noise is estimated in the same way.
    """
    betas = check_betas(betas)
    options = {"max_factors": max_factors, "random_state": random_state}
    noise = fit_trial_noise(betas, **options)
    averages = average_repeats(betas)
    present = np.isfinite(averages)
    with np.errstate(invalid="ignore"):
        mean = np.where(present, averages, 0).sum(axis=0, dtype=np.float64) / present.sum(axis=0)
    mean = mean.astype(betas.dtype)
    signal = fit_shared_signal(betas, np.broadcast_to(mean, averages.shape), noise, **options)
    return NoiseModel(noise, signal, mean, ncsnr_from_repeats(betas))
