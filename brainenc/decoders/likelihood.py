"""Likelihood of measured responses given images, under an encoder's Gaussian noise."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from brainenc.metrics import gaussian_log_density
from brainenc.noise.gaussian import ResidualNoise


@dataclass(frozen=True)
class ResponseNoise:
    """Noise of an average of trials around the expected response of an encoder.

    Attributes
    ----------
    error : ResidualNoise or None
        Error of the expected response, which all trials of an image share.
    trial : ResidualNoise or None
        Noise of single trials, divided by their number in an average. None where it cannot be
        separated from the error: averages then have the noise of single trials.
    """

    error: ResidualNoise | None
    trial: ResidualNoise | None

    def of_average(self, n_trials: NDArray[Any], voxels: NDArray[np.int64]) -> ResidualNoise:
        """Noise of averages of so many trials in each of the chosen voxels, (n_chosen,)."""
        parts = []
        if self.error is not None:
            parts.append(self.error.of_voxels(voxels))
        if self.trial is not None:
            parts.append(self.trial.of_voxels(voxels).times(1 / np.sqrt(n_trials)))
        private = np.sqrt(sum(np.square(part.private_sd, dtype=np.float64) for part in parts))
        return ResidualNoise(np.concatenate([part.factors for part in parts]), private)

    def known(self) -> NDArray[np.bool_]:
        """Voxels that have a density."""
        parts = [part for part in (self.error, self.trial) if part is not None]
        variance = sum(part.private_sd**2 for part in parts)
        return np.isfinite(variance) & (np.asarray(variance) > 0)


def groups(
    n_trials: NDArray[np.int32], usable: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]]:
    """Responses with the same trials present in the same voxels.

    Parameters
    ----------
    n_trials : array, shape (n_responses, n_voxels)
        Trials behind the average.
    usable : array of bool, shape (n_voxels,)

    Yields
    ------
    responses, voxels : positions
    n : array, shape (len(voxels),)
        Number of trials.
    """
    kinds, member = np.unique(n_trials, axis=0, return_inverse=True)
    for kind, counts in enumerate(kinds):
        voxels = np.flatnonzero((counts > 0) & usable)
        if len(voxels):
            yield np.flatnonzero(member.reshape(-1) == kind), voxels, counts[voxels]


def pairwise_log_density(
    responses: np.ndarray, expected: np.ndarray, noise: ResidualNoise
) -> NDArray[np.float64]:
    """Log density of every response under the noise around every expected response.

    Parameters
    ----------
    responses : array, shape (n_responses, n_voxels)
    expected : array, shape (n_candidates, n_voxels)
    noise : ResidualNoise

    Returns
    -------
    array, shape (n_responses, n_candidates)
        Natural log; by Woodbury's identity and one product of matrices.

    Examples
    --------
    >>> noise = ResidualNoise(np.zeros((0, 1)), np.ones(1))
    >>> pairwise_log_density(np.zeros((1, 1)), np.array([[0.0], [2.0]]), noise).round(3)
    array([[-0.919, -2.919]])
    """
    sd = noise.private_sd.astype(np.float64)
    scaled: Any = noise.factors / sd
    if len(scaled) > len(sd):
        scaled = np.linalg.qr(scaled, mode="r")
    centre = expected.mean(axis=0, dtype=np.float64)  # smaller values lose fewer digits
    a, b = (responses - centre) / sd, (expected - centre) / sd
    root = np.linalg.cholesky(np.eye(len(scaled)) + scaled @ scaled.T)
    whiten = np.linalg.solve(root, scaled).T
    along_a, along_b = a @ whiten, b @ whiten
    distance = (
        (np.square(a).sum(1) - np.square(along_a).sum(1))[:, None]
        + (np.square(b).sum(1) - np.square(along_b).sum(1))
        - 2 * (a @ b.T - along_a @ along_b.T)
    )
    log_determinant = 2 * (np.log(np.diag(root)).sum() + np.log(sd).sum())
    return -(distance + log_determinant + len(sd) * np.log(2 * np.pi)) / 2


@dataclass(frozen=True)
class ImagePrior:
    """Gaussian prior of images: features and expected responses of the training images.

    Attributes
    ----------
    features : array, shape (n_images, n_features)
    expected : array, shape (n_images, n_voxels)
        What the encoder predicts for them.
    """

    features: np.ndarray
    expected: np.ndarray

    def log_density(
        self, responses: np.ndarray, voxels: np.ndarray, noise: ResidualNoise
    ) -> NDArray[np.float64]:
        """Log density of responses (n_responses, n_chosen) to an image that is not known."""
        mean, signal = self._signal(voxels)
        factors = np.concatenate([signal, noise.factors])
        return gaussian_log_density(responses - mean, factors, noise.private_sd)

    def posterior_mean(
        self, responses: np.ndarray, voxels: np.ndarray, noise: ResidualNoise
    ) -> NDArray[np.float64]:
        """Posterior mean of features (n_responses, n_features), given responses.

        With weights W, features of mean m and covariance C, and noise of covariance S it is
        m + C W (Wᵀ C W + S)⁻¹ (y − E[y]). C W and Wᵀ C W are covariances of the training images'
        features and predictions, so that W is not needed.
        """
        mean, signal = self._signal(voxels)
        deviations = (responses - mean).astype(np.float64)
        private = np.square(noise.private_sd)
        factors = np.concatenate([signal, noise.factors]).astype(np.float64)
        if len(factors) < len(private):
            inner = np.eye(len(factors)) + (factors / private) @ factors.T
            alone = deviations / private
            along = cho_solve(cho_factor(inner), factors @ alone.T)
            weighed = alone - ((factors / private).T @ along).T
        else:
            covariance = factors.T @ factors + np.diag(private)
            weighed = cho_solve(cho_factor(covariance), deviations.T).T
        centre = self.features.mean(axis=0, dtype=np.float64)
        of_images = weighed @ signal.T / np.sqrt(len(self.features))
        return centre + of_images @ (self.features - centre)

    def _signal(self, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean, and factors of the covariance, of expected responses in the chosen voxels."""
        chosen = self.expected[:, voxels].astype(np.float64)
        mean = chosen.mean(axis=0)
        return mean, (chosen - mean) / np.sqrt(len(chosen))
