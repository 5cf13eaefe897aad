"""Kernel features: linear regression on them is kernel regression."""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances

from brainenc.arrays import blocks
from brainenc.solvers.voxels import feature_scaling, flatten_tokens

#: Largest number of landmark images: 2048² values, and seconds for the eigenvectors.
MAX_LANDMARKS = 2048
#: Images compared with the landmarks at a time.
BLOCK = 512


@dataclass(frozen=True)
class KernelFeatures:
    """Features for kernel regression on z-scored features by linear regression.

    The Gaussian kernel of two images is exp(−d² / mean d²), with d their distance; the linear one
    is their scalar product. Exact for up to 2048 images; with more, 2048 of them are landmarks
    (Nyström).

    Attributes
    ----------
    mean, scale : arrays, shape (n_features,)
        The scale is the s.d. of the feature, divided by its weight if it has one.
    landmarks : array, shape (n_landmarks, n_features)
        z-scored features of the landmark images.
    width : float
        Mean squared distance between landmarks; infinite for the linear kernel.
    turn : array, shape (n_landmarks, k)
        From the kernel with the landmarks to features of mean variance 1.

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
    def fit(
        cls,
        features: np.ndarray,
        kernel: str,
        random_state: int,
        weights: np.ndarray | None = None,
    ) -> "KernelFeatures":
        """Fit to features (n_images, n_features) or (n_images, n_tokens, width).

        Parameters
        ----------
        features : array
        kernel : "gaussian" or "linear"
        random_state : int
            Seed of the choice of landmarks.
        weights : array, shape (n_features,), optional
            Factor on each z-scored feature; 0 leaves it out.
        """
        X = flatten_tokens(features)
        mean, scale = feature_scaling(X)
        if weights is not None:
            with np.errstate(divide="ignore"):  # an infinite scale makes a feature 0
                scale = (scale / weights).astype(X.dtype)
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
        # In the memory order of a saved file: products round differently in another order.
        turn = np.ascontiguousarray(turn, dtype=np.float32)
        return cls(mean, scale, landmarks, width, turn)

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Features (n_images, k), float32, of images."""
        X = flatten_tokens(features)
        found = np.empty((len(X), self.turn.shape[1]), dtype=np.float32)
        for rows in blocks(len(X), BLOCK):
            z = (X[rows] - self.mean) / self.scale
            found[rows] = _kernel(z, self.landmarks, self.width) @ self.turn
        return found


def _kernel(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    if np.isinf(width):
        return a @ b.T / a.shape[1]
    return np.exp(euclidean_distances(a, b, squared=True) / -width)
