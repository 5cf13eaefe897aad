"""Single trials around the prediction of the default SynBrain, with a variance per image."""

from dataclasses import dataclass

import numpy as np

from brainenc.noise import ResidualNoise, fit_residual_noise

#: Factors by which predicted log-variances are multiplied; the one that fits held-out trials stays.
GAINS = np.linspace(0, 1.5, 16)

#: Images whose residuals are held in memory at a time.
BLOCK = 512


def noise_coordinates(betas: np.ndarray, linear: np.ndarray, noise: ResidualNoise) -> np.ndarray:
    """What every trial shows of each shared factor of the noise, and of what voxels have alone.

    Factors are fitted to the residual of the trial by least squares, each voxel weighted by its
    private variance; the last coordinate is the root mean square of what the fit leaves, in units
    of the private s.d. Each has mean square 1 over trials, so that its square estimates how noisy
    a trial is compared with the average one.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
    linear : array, shape (n_images, n_voxels)
        Held-out predictions.
    noise : ResidualNoise
        Of these betas, with k factors.

    Returns
    -------
    array, shape (n_images, n_repeats, k + 1), float32; NaN for missing trials
    """
    variance = noise.variance
    # A voxel that the factors explain wholly must not outweigh all others.
    private = np.maximum(noise.private_sd**2, 0.01 * variance)
    weight = np.divide(1, private, out=np.zeros_like(private), where=private > 0)
    weight = np.nan_to_num(weight).astype(np.float32)
    factors = noise.factors
    # Pseudo-inverse: a factor may have been scaled to nothing.
    read_in = (weight * factors).T @ np.linalg.pinv((weight * factors) @ factors.T)
    blocks = [
        _coordinates(betas[i : i + BLOCK] - linear[i : i + BLOCK, None], factors, read_in, weight)
        for i in range(0, len(betas), BLOCK)
    ]
    found = np.concatenate(blocks)
    mean_square = np.nanmean(np.square(found), axis=(0, 1))
    return (found / np.sqrt(np.where(mean_square > 0, mean_square, 1))).astype(np.float32)


def _coordinates(
    residuals: np.ndarray, factors: np.ndarray, read_in: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    present = np.isfinite(residuals)
    residuals = np.where(present, residuals, 0).astype(np.float32)
    shared = residuals @ read_in
    left = np.square(residuals - shared @ factors) * present
    n_left = np.maximum((present * (weight > 0)).sum(axis=-1), 1)
    alone = np.sqrt(left @ weight / n_left)
    found = np.concatenate([shared, alone[..., None]], axis=-1)
    found[~present.any(axis=-1)] = np.nan
    return found


@dataclass(frozen=True)
class LatentNoise:
    """Noise of single trials whose variance depends on the image.

    Attributes
    ----------
    average : ResidualNoise
        Over images: shared factors and private s.d. per voxel, in the units of the betas.
    gain, centre : arrays, shape (n_factors + 1,)
        The log-variance of an image, relative to the average, is gain · (what the mapper says) −
        centre; one for every factor and one for what voxels have alone.
    """

    average: ResidualNoise
    gain: np.ndarray
    centre: np.ndarray

    @classmethod
    def fit(
        cls,
        noise: ResidualNoise,
        betas: np.ndarray,
        held_out: np.ndarray,
        coordinates: np.ndarray,
        log_variance: np.ndarray,
    ) -> "LatentNoise":
        """Calibrated on held-out trials.

        Parameters
        ----------
        noise : ResidualNoise
            Gives the factors.
        betas : array, shape (n_images, n_repeats, n_voxels)
        held_out : array, shape (n_images, n_voxels)
            Predictions; the mean squared residual is the variance of the draws of a voxel.
        coordinates : array, shape (n_images, n_repeats, n_factors + 1)
        log_variance : array, shape (n_images, n_factors + 1)
            What a mapper says of images that it did not learn; NaN where there is none.
        """
        variance = fit_residual_noise(betas, held_out, max_factors=0).variance
        gain, centre = calibrated(coordinates, log_variance)
        return cls(with_variance(noise, variance), gain, centre)

    def scale(self, log_variance: np.ndarray) -> np.ndarray:
        """Noise s.d. of images relative to the average, (n_images, n_factors + 1)."""
        relative = 0.5 * (self.gain * log_variance - self.centre)
        return np.exp(relative).astype(np.float32)

    def sample(
        self, log_variance: np.ndarray, n: int, private: bool, rng: np.random.Generator
    ) -> np.ndarray:
        """Deviations from the prediction, (n, n_images, n_voxels), in the units of the betas.

        Parameters
        ----------
        log_variance : array, shape (n_images, n_factors + 1)
        n : int
        private : bool
            Whether to add what voxels have alone to what they share.
        rng : Generator
        """
        factors, alone = self.average.factors, self.average.private_sd
        scale = self.scale(log_variance)
        shared = rng.standard_normal((n, len(scale), len(factors)), dtype=np.float32)
        draws = (shared * scale[:, :-1]) @ factors
        if not private:
            draws[..., np.isnan(alone)] = np.nan
            return draws
        for draw in draws:
            own = rng.standard_normal(draw.shape, dtype=np.float32)
            draw += own * scale[:, -1:] * alone
        return draws


def with_variance(noise: ResidualNoise, variance: np.ndarray) -> ResidualNoise:
    """Noise of the same factors and another variance per voxel, (n_voxels,).

    A voxel whose factors overshoot the variance gets them scaled down.
    """
    shared = np.square(noise.factors).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(np.minimum(1, variance / shared))
    factors = noise.factors * np.where(np.isfinite(scale), scale, 0)
    private = np.sqrt(np.maximum(variance - np.square(factors).sum(axis=0), 0))
    return ResidualNoise(factors.astype(np.float32), private.astype(np.float32))


def calibrated(coordinates: np.ndarray, log_variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gain and centre of each coordinate, float32; see `LatentNoise`.

    The gain has the largest likelihood of held-out trials (0 if the image tells nothing), and the
    centre makes the variance, averaged over their trials, that of the average.
    """
    value, said = _trials(coordinates, log_variance)
    if not len(value):
        nothing = np.zeros(coordinates.shape[-1], dtype=np.float32)
        return nothing, nothing
    tried = GAINS[:, None, None] * said
    with np.errstate(divide="ignore"):  # a factor scaled to nothing has no variance
        likelihood = -np.log(np.mean(value**2 * np.exp(-tried), axis=1)) - tried.mean(axis=1)
    gain = GAINS[likelihood.argmax(axis=0)]
    centre = np.log(np.exp(gain * said).mean(axis=0))
    return gain.astype(np.float32), centre.astype(np.float32)


def _trials(coordinates: np.ndarray, log_variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    said = np.broadcast_to(log_variance[:, None], coordinates.shape)
    known = np.isfinite(coordinates).all(axis=-1) & np.isfinite(said).all(axis=-1)
    return coordinates[known].astype(np.float64), said[known].astype(np.float64)
