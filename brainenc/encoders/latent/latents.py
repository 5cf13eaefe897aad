"""The latent: principal components of responses in coordinates of isotropic noise."""

import numpy as np
from sklearn.utils.extmath import randomized_svd

from brainenc.arrays import blocks, row_slices
from brainenc.noise.gaussian import ResidualNoise, Whitening
from brainenc.repeats import count_repeats

#: Images transformed at a time.
BLOCK = 512

#: Weight, in degrees of freedom, of the typical voxel beside a voxel's own repeats.
_PRIOR_DEGREES = 10


def noise_of_all_voxels(
    measured: ResidualNoise | None, betas: np.ndarray, scale: np.ndarray
) -> ResidualNoise:
    """Noise of single trials, including voxels without repeats.

    Parameters
    ----------
    measured : ResidualNoise or None
        From repeats (`fit_trial_noise`); NaN for voxels without repeats; None if there are none.
    betas : array, shape (n_images, n_repeats, n_voxels); NaN where a repeat is missing
    scale : array, shape (n_voxels,)
        s.d. of the averages over images. Noise is assumed proportional to it where a voxel has few
        or no repeats.

    Returns
    -------
    ResidualNoise
        Without any repeats: no factors, and private s.d. `scale`.
    """
    if measured is None:
        return ResidualNoise(np.zeros((0, len(scale)), np.float32), scale)
    n_pairs = sum(np.maximum(count_repeats(betas[i]) - 1, 0).sum(axis=0) for i in row_slices(betas))
    relative = np.where(n_pairs > 0, np.nan_to_num(measured.variance) / scale**2, 0)
    typical = np.median(relative[n_pairs > 0])
    shrunk = (n_pairs * relative + _PRIOR_DEGREES * typical) / (n_pairs + _PRIOR_DEGREES)
    factors = np.square(measured.factors).sum(axis=0)
    private = np.sqrt(np.maximum(shrunk * scale**2 - factors, 0))
    return ResidualNoise(measured.factors, private.astype(np.float32))


def find_latents(
    centred: np.ndarray, noise: ResidualNoise, n_latents: int
) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of responses, in coordinates in which noise is isotropic.

    Otherwise the first component would be shared noise, which images do not predict; here
    components are ordered by signal.

    Parameters
    ----------
    centred : array, shape (n_images, n_voxels)
        Averages over repeats, less their mean over images. Overwritten.
    noise : ResidualNoise
        Noise of single trials.
    n_latents : int

    Returns
    -------
    latents : array, shape (n_images, k), float32
        k <= n_latents; their overall mean square is 1.
    read_out : array, shape (k, n_voxels), float32
        Linear map from latents to centred responses.

    References
    ----------
    Breiman & Friedman (1997), Journal of the Royal Statistical Society B 59 (regression on linear
    combinations of the responses, given their residual covariance).
    """
    whitening = Whitening(noise)
    for rows in blocks(len(centred), BLOCK):
        centred[rows] = whitening.apply(centred[rows])
    n = min(n_latents, *centred.shape)
    _, singular, directions = randomized_svd(centred, n, n_iter=4, random_state=0)
    kept = singular > 1e-3 * singular[0]
    kept[0] = True  # voxels that never vary
    directions = directions[kept].astype(np.float32)
    latents = centred @ directions.T
    rms = np.sqrt(np.square(latents, dtype=np.float64).mean()).astype(np.float32) or np.float32(1)
    return latents / rms, whitening.undo(rms * directions)
