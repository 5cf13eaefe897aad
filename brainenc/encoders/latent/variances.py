"""Noise variance per image: measured on trials, and predicted from the image."""

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma

from brainenc.noise.gaussian import ResidualNoise
from brainenc.solvers.voxels import missing_patterns

#: Candidate factors on predicted log-variances; held-out trials decide.
GAINS = np.linspace(0, 1.5, 16)

#: Images whose residuals are in memory at a time.
BLOCK = 512


def noise_coordinates(betas: np.ndarray, held_out: np.ndarray, noise: ResidualNoise) -> np.ndarray:
    """Size of each shared noise factor, and of the private noise, in every trial.

    Factors are fitted to the residual of the trial by least squares over its voxels, weighted by
    their private variance; the last coordinate is the root mean square of the remainder in units of
    the private s.d. Each coordinate has mean square 1 over trials, so that its square estimates the
    noise variance of a trial relative to the average.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
    held_out : array, shape (n_images, n_voxels)
        Held-out predictions.
    noise : ResidualNoise
        Noise around these predictions, with k factors.

    Returns
    -------
    array, shape (n_images, n_repeats, k + 1), float32
        NaN for missing trials, and for those with no more voxels than factors.
    """
    # A voxel that the factors explain fully must not outweigh all others.
    private = np.maximum(noise.private_sd**2, 0.01 * noise.variance)
    weight = np.divide(1, private, out=np.zeros_like(private), where=private > 0)
    parts = [
        _coordinates(betas[i : i + BLOCK] - held_out[i : i + BLOCK, None], noise.factors, weight)
        for i in range(0, len(betas), BLOCK)
    ]
    found = np.concatenate(parts)
    present = np.isfinite(found)
    mean_square = np.square(np.where(present, found, 0)).sum((0, 1)) / present.sum((0, 1)).clip(1)
    return found / np.sqrt(np.where(mean_square > 0, mean_square, 1)).astype(np.float32)


def _coordinates(residuals: np.ndarray, factors: np.ndarray, weight: np.ndarray) -> np.ndarray:
    rows = residuals.reshape(-1, residuals.shape[2]).astype(np.float32, copy=False)
    found = np.full((len(rows), len(factors) + 1), np.nan, dtype=np.float32)
    for voxels, trials in missing_patterns(rows.T):
        n_left = int(np.count_nonzero(weight[voxels])) - len(factors)
        if n_left > 0:
            present = rows[np.ix_(trials, voxels)]
            found[trials] = _fit_factors(present, factors[:, voxels], weight[voxels], n_left)
    return found.reshape(*residuals.shape[:2], -1)


def _fit_factors(
    rows: np.ndarray, factors: np.ndarray, weight: np.ndarray, n_left: int
) -> np.ndarray:
    weighted = weight * factors
    # Pseudo-inverse: a factor may be 0.
    error = np.linalg.pinv(weighted @ factors.T, hermitian=True)
    shared = rows @ (weighted.T @ error)
    alone = np.sqrt(np.square(rows - shared @ factors) @ weight / n_left)
    # With fewer voxels, more of a coordinate's square is error of the fit.
    return np.concatenate([shared / np.sqrt(1 + np.diag(error)), alone[:, None]], axis=1)


def log_variances(coordinates: np.ndarray, n_voxels: int = 1) -> np.ndarray:
    """Log of the mean square of each image's coordinates over trials, without bias.

    Parameters
    ----------
    coordinates : array, shape (n_images, n_repeats, n_coordinates)
    n_voxels : int
        Number of normal values in the mean square of the last coordinate; one in the others.

    Returns
    -------
    array, shape (n_images, n_coordinates), float32
        0 is the average. NaN for an image without trials, or for a coordinate that is 0.

    Notes
    -----
    The log of a mean of n squared normal numbers is ψ(n/2) − log(n/2) too small on average.
    """
    n = np.isfinite(coordinates).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_square = np.nansum(np.square(coordinates, dtype=np.float64), axis=1) / n
        n_normal = n * np.where(np.arange(n.shape[1]) == n.shape[1] - 1, n_voxels, 1)
        found = np.log(mean_square) - (digamma(n_normal / 2) - np.log(n_normal / 2))
    return np.where(np.isfinite(found), found, np.nan).astype(np.float32)


@dataclass(frozen=True)
class VarianceCalibration:
    """Shrinkage of predicted noise variances of images.

    The log-variance of an image relative to the average is gain · predicted − centre.

    Attributes
    ----------
    gain, centre : arrays, shape (n_coordinates,)
        One value per shared factor, and last of the private part.
    """

    gain: np.ndarray
    centre: np.ndarray

    @classmethod
    def fit(cls, coordinates: np.ndarray, predicted: np.ndarray) -> "VarianceCalibration":
        """Fit to held-out trials.

        The gain maximises the likelihood (0 if predictions carry no information); the centre keeps
        the mean variance over trials.

        Parameters
        ----------
        coordinates : array, shape (n_images, n_repeats, n_coordinates)
        predicted : array, shape (n_images, n_coordinates)
            Held-out predictions of `log_variances`; NaN where there is none.
        """
        values, said = _trials(coordinates, predicted)
        if not len(values):  # voxels that never vary
            return cls(*np.zeros((2, coordinates.shape[2]), dtype=np.float32))
        tried = GAINS[:, None, None] * said
        with np.errstate(divide="ignore"):  # a factor of 0 has no variance
            spread = np.log(np.mean(values**2 * np.exp(-tried), axis=1))
        gain = GAINS[np.argmin(spread + tried.mean(axis=1), axis=0)]
        centre = np.log(np.exp(gain * said).mean(axis=0))
        return cls(gain.astype(np.float32), centre.astype(np.float32))

    def scale(self, predicted: np.ndarray) -> np.ndarray:
        """Noise s.d. of images relative to the average, in the shape of the predictions."""
        relative = 0.5 * (self.gain * np.nan_to_num(predicted) - self.centre)
        return np.exp(relative).astype(np.float32)


def _trials(coordinates: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # A coordinate without variance is predicted as NaN and is not scaled.
    said = np.where(np.isfinite(predicted).any(axis=0), predicted, 0)
    said = np.broadcast_to(said[:, None], coordinates.shape)
    known = np.isfinite(coordinates).all(axis=-1) & np.isfinite(said).all(axis=-1)
    return coordinates[known].astype(np.float64), said[known].astype(np.float64)
