"""The latent of the default SynBrain: what voxels share, seen where their noise is alike."""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils.extmath import randomized_svd

from brainenc.linear import feature_scaling, flatten_tokens
from brainenc.noise import ResidualNoise, Whitening, fit_trial_noise
from brainenc.repeats import count_repeats
from brainenc.storage import row_slices

#: Images that a new one is compared with at most: 2048² numbers, and seconds for the eigenvectors.
MAX_LANDMARKS = 2048

#: Images that are compared with the landmarks at a time.
BLOCK = 512

#: Degrees of freedom that the typical voxel counts for beside the repeats of a voxel itself.
_PRIOR_DEGREES = 10


def trial_noise(betas: np.ndarray, scale: np.ndarray) -> ResidualNoise:
    """Noise of single trials, for voxels without repeats too.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels); NaN where a repeat is missing
    scale : array, shape (n_voxels,)
        s.d. of the averages over images, which noise is taken to be proportional to where repeats
        say little of it.

    Returns
    -------
    ResidualNoise
        Without repeats: no factors, and `scale`.
    """
    n_pairs = sum(np.maximum(count_repeats(betas[i]) - 1, 0).sum(axis=0) for i in row_slices(betas))
    if not n_pairs.any():
        return ResidualNoise(np.zeros((0, len(scale)), np.float32), scale)
    noise = fit_trial_noise(betas)
    relative = np.where(n_pairs > 0, np.nan_to_num(noise.variance) / scale**2, 0)
    typical = np.median(relative[n_pairs > 0])
    shrunk = (n_pairs * relative + _PRIOR_DEGREES * typical) / (n_pairs + _PRIOR_DEGREES)
    factors = np.square(noise.factors).sum(axis=0)
    private = np.sqrt(np.maximum(shrunk * scale**2 - factors, 0))
    return ResidualNoise(noise.factors, private.astype(np.float32))


def find_latents(
    centred: np.ndarray, noise: ResidualNoise, n_latents: int
) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of responses, in coordinates in which noise is alike in all directions.

    What voxels' noise shares would otherwise be the first component, and be learnt from images
    that cannot tell it; here a direction leads by its signal.

    Parameters
    ----------
    centred : array, shape (n_images, n_voxels)
        Averages over repeats, less their mean over images. Overwritten.
    noise : ResidualNoise
        Of single trials.
    n_latents : int

    Returns
    -------
    latents : array, shape (n_images, k), float32
        k <= n_latents; of mean square 1 over all of them.
    read_out : array, shape (k, n_voxels), float32
        Latents to centred responses.

    References
    ----------
    Breiman & Friedman (1997), Journal of the Royal Statistical Society B 59 (regression on linear
    combinations of the responses that their residual covariance tells apart).
    """
    whitening = Whitening(noise)
    for start in range(0, len(centred), BLOCK):
        centred[start : start + BLOCK] = whitening.apply(centred[start : start + BLOCK])
    n = min(n_latents, *centred.shape)
    _, singular, directions = randomized_svd(centred, n, n_iter=4, random_state=0)
    kept = singular > 1e-3 * singular[0]
    kept[0] = True  # voxels that never vary
    directions = directions[kept].astype(np.float32)
    latents = centred @ directions.T
    rms = np.sqrt(np.square(latents, dtype=np.float64).mean()).astype(np.float32) or np.float32(1)
    return latents / rms, whitening.undo(rms * directions)


@dataclass(frozen=True)
class KernelFeatures:
    """Features in which linear regression is regression with a kernel of z-scored features.

    The Gaussian kernel of two images is exp(−d² / mean d²), with d their distance; the linear one
    is their scalar product. Exact for up to 2048 images; more are seen through 2048 of them
    (Nyström).

    Attributes
    ----------
    mean, scale : arrays, shape (n_features,)
    landmarks : array, shape (n_landmarks, n_features)
        z-scored features of the images that others are compared with.
    width : float
        Mean squared distance between landmarks; infinite for the linear kernel.
    turn : array, shape (n_landmarks, k)
        Kernel with the landmarks to features, of mean variance 1.

    References
    ----------
    Williams & Seeger (2001), NeurIPS 13.
    """

    mean: np.ndarray
    scale: np.ndarray
    landmarks: np.ndarray
    width: float
    turn: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, kernel: str, random_state: int) -> "KernelFeatures":
        """From features (n_images, n_features) or (n_images, n_tokens, width).

        Parameters
        ----------
        features : array
        kernel : "gaussian" or "linear"
        random_state : int
            Of the choice of images.
        """
        X = flatten_tokens(features)
        mean, scale = feature_scaling(X)
        chosen = np.random.default_rng(random_state).permutation(len(X))[:MAX_LANDMARKS]
        landmarks = (X[np.sort(chosen)] - mean) / scale
        n = len(landmarks)
        width = np.inf
        if kernel == "gaussian":
            width = float(euclidean_distances(landmarks, squared=True).sum() / (n * (n - 1))) or 1.0
        products = _kernel(landmarks, landmarks, width).astype(np.float64)
        eigenvalues, directions = np.linalg.eigh(products)
        kept = eigenvalues > 1e-6 * eigenvalues[-1]
        turn = directions[:, kept] / np.sqrt(eigenvalues[kept])
        turn /= np.sqrt((products @ turn).var(axis=0).mean()) or 1.0
        # As it is read back from a file: products round differently in another order.
        turn = np.ascontiguousarray(turn, dtype=np.float32)
        return cls(mean, scale, landmarks, width, turn)

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Features (n_images, k), float32, of images."""
        X = flatten_tokens(features)
        found = np.empty((len(X), self.turn.shape[1]), dtype=np.float32)
        for start in range(0, len(X), BLOCK):
            z = (X[start : start + BLOCK] - self.mean) / self.scale
            found[start : start + BLOCK] = _kernel(z, self.landmarks, self.width) @ self.turn
        return found


def _kernel(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    if np.isinf(width):
        return a @ b.T / a.shape[1]
    return np.exp(euclidean_distances(a, b, squared=True) / -width)
