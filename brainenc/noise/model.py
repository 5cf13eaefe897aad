"""Model of signal and noise of betas, from repeats."""

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
        Single trials around the expected response to their image.
    signal : ResidualNoise
        Expected responses over images, around `mean`.
    mean : array, shape (n_voxels,)
    ncsnr : array, shape (n_voxels,)
        Signal s.d. / single-trial noise s.d. NaN for a voxel without repeats.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> betas = np.random.default_rng(0).standard_normal((100, 3, 4))
    >>> brainenc.noise_model(betas).noise.covariance().shape
    (4, 4)
    """

    noise: ResidualNoise
    signal: ResidualNoise
    mean: np.ndarray
    ncsnr: np.ndarray


def noise_model(betas: Any, *, max_factors: int = MAX_FACTORS, random_state: Any = 0) -> NoiseModel:
    """Covariance of signal and noise between voxels, from repeats.

    Noise differs between repeats of an image; the signal is the same in all repeats. Shared
    directions of each are kept as factors, with the variance of held-out images along them; the
    remaining variance is private to voxels. No matrix of n_voxels² is formed.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels); NaN where a repeat is missing
        Drift between sessions counts as noise: z-score by session beforehand
        (`EncodingData.zscore_by_session`) to leave it out.
    max_factors : int
        Largest number of shared factors, of signal and of noise.
    random_state : int, Generator or None
        Seed of the folds over images, of the randomised SVD, and of its choice of images if there
        are more than 2000 trials.

    Returns
    -------
    NoiseModel
        NaN for voxels without repeats.

    Raises
    ------
    TypeError, ValueError : betas have a wrong dtype or shape, or no image with two trials.

    See Also
    --------
    BaseEncoder.sample : draws around a prediction, with noise estimated in the same way.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> betas = rng.standard_normal((500, 1, 4)) + 2 * rng.standard_normal((500, 3, 4))
    >>> model = brainenc.noise_model(betas)
    >>> model.ncsnr.shape, bool((abs(model.ncsnr - 0.5) < 0.15).all())
    ((4,), True)
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
