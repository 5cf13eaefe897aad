"""What single trials do around a prediction, and drawing from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from brainenc.repeats import average_repeats, count_repeats

#: Trials that factors are looked for in: more would cost memory and hardly move 50 factors.
_MAX_TRIALS = 10_000
#: Betas taken up at once: temporary arrays of some MB.
_BLOCK_VALUES = 2**20


@dataclass(frozen=True)
class ResidualNoise:
    """Gaussian residuals of single trials: independent per voxel plus shared factors.

    Attributes
    ----------
    factors : array, shape (n_factors, n_voxels)
        What varies together over voxels: the shared covariance is factorsᵀ factors.
    private_sd : array, shape (n_voxels,)
        Standard deviation of what each voxel has for itself. NaN for a voxel without data.

    In the units of the betas.
    """

    factors: np.ndarray
    private_sd: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Residual variance per voxel, shape (n_voxels,)."""
        return self.private_sd**2 + (self.factors**2).sum(axis=0)

    def covariance(self) -> np.ndarray:
        """Residual covariance, shape (n_voxels, n_voxels); for few voxels."""
        return self.factors.T @ self.factors + np.diag(self.private_sd**2)

    def sample(self, shape: tuple[int, ...], random_state: Any = None) -> NDArray[np.float32]:
        """Draw residuals.

        Parameters
        ----------
        shape : tuple of int
            Leading shape, (n, n_images) say.
        random_state : int, Generator or None

        Returns
        -------
        array, shape (*shape, n_voxels), float32
        """
        rng = np.random.default_rng(random_state)
        draws = rng.standard_normal((*shape, self.private_sd.size), dtype=np.float32)
        draws *= self.private_sd.astype(np.float32)
        if len(self.factors):
            shared = rng.standard_normal((*shape, len(self.factors)), dtype=np.float32)
            draws += shared @ self.factors.astype(np.float32)
        return draws


def fit_residual_noise(
    betas: np.ndarray, held_out: np.ndarray, *, max_factors: int = 50, random_state: Any = 0
) -> ResidualNoise:
    """Residual distribution of single trials around held-out predictions.

    A residual is the trial's noise plus the error of the model, and voxels share both: noise
    where they fluctuate together, error where the model gets them wrong for the same images. If N
    is the covariance of the noise and M that of the error, residuals have M + N, and their
    averages over the k repeats of an image M + N / k. So the covariance is put together from two
    independent samples: that of the averages, plus (1 − 1/k) times that of the differences
    between repeats, which hold noise alone; without repeats the first is all there is. Of each,
    what stands out from chance is kept as factors. The variance of each voxel is the mean square
    of its single-trial residuals.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels); NaN where a repeat is missing
    held_out : array, shape (n_images, n_voxels)
        Predictions of images that the model was not fitted on; NaN where there is none.
    max_factors : int
        Largest number of shared factors; fewer are kept where fewer stand out from chance.
    random_state : int, Generator or None
        Of the randomised SVD, and of the images it sees where there are more than 10 000 trials.

    Returns
    -------
    ResidualNoise

    Notes
    -----
    The distribution is the same for every image, and every draw has a model error of its own:
    draws are of single trials, and their average over K draws has less error than the model.
    What only few voxels share (close neighbours, say) does not stand out and counts as private,
    so means over a ROI vary somewhat less in draws than in held-out trials.
    """
    variance = _trial_variance(betas, held_out)
    factors = np.zeros((0, len(variance)), dtype=np.float32)
    if max_factors > 0:
        rng = np.random.default_rng(random_state)
        kept = _some_images(betas, rng)
        averages, n_images, inverse = _average_residuals(betas[kept], held_out[kept])
        of_averages = _shared_factors(averages, n_images, max_factors, rng)
        del averages
        noise, degrees = _repeat_contrasts(betas[kept])
        of_noise = np.sqrt(1 - inverse) * _shared_factors(noise, degrees, max_factors, rng)
        both = np.concatenate([of_averages, of_noise])
        factors = _strongest(both, np.sqrt(variance), max_factors)
    # Factors explain at most the variance there is: a voxel they overshoot gets them scaled down.
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(np.minimum(1, variance / (factors**2).sum(axis=0)))
    factors = factors * np.where(np.isfinite(scale), scale, 0)
    private = np.sqrt(np.maximum(variance - (factors**2).sum(axis=0), 0))
    return ResidualNoise(factors.astype(np.float32), private.astype(np.float32))


def _image_blocks(betas: np.ndarray) -> Iterator[slice]:
    n_images = max(1, _BLOCK_VALUES // betas[0].size)
    return (slice(start, start + n_images) for start in range(0, len(betas), n_images))


def _some_images(betas: np.ndarray, rng: np.random.Generator) -> Any:
    n_kept = _MAX_TRIALS // betas.shape[1]
    if n_kept >= len(betas):
        return slice(None)
    return np.sort(rng.choice(len(betas), n_kept, replace=False))


def _trial_variance(betas: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Mean squared residual of single trials per voxel; NaN without data."""
    squared, n_trials = np.zeros((2, betas.shape[2]))
    for images in _image_blocks(betas):
        residuals = betas[images] - held_out[images, None]
        present = np.isfinite(residuals)
        residuals[~present] = 0
        squared += np.einsum("irv,irv->v", residuals, residuals)
        n_trials += present.sum(axis=(0, 1))
    with np.errstate(invalid="ignore"):
        return squared / n_trials


def _average_residuals(
    betas: np.ndarray, held_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Averages over repeats minus predictions.

    Returns
    -------
    residuals : array, shape (n_images, n_voxels), float32; 0 where undefined
    n_images : array, shape (n_voxels,)
        Images that are not.
    inverse : array, shape (n_voxels,)
        Mean over these images of 1 / repeats; 1 where there are none.
    """
    residuals = np.empty(held_out.shape, dtype=np.float32)
    n_images, inverse = np.zeros((2, betas.shape[2]))
    for images in _image_blocks(betas):
        part = average_repeats(betas[images]) - held_out[images]
        present = np.isfinite(part)
        residuals[images] = np.where(present, part, 0)
        n_images += present.sum(axis=0)
        inverse += (present / np.maximum(count_repeats(betas[images]), 1)).sum(axis=0)
    inverse = np.where(n_images > 0, inverse / np.maximum(n_images, 1), 1.0)
    return residuals, n_images.astype(int), inverse


def _repeat_contrasts(betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each trial minus the mean of the earlier ones of its image, scaled to the noise variance.

    These are as many independent rows as there are degrees of freedom, which deviations from the
    average of all repeats are not.

    Returns
    -------
    contrasts : array, shape (n_images · (n_repeats − 1), n_voxels), float32; 0 where undefined
    degrees_of_freedom : array, shape (n_voxels,)
        Contrasts that are not.
    """
    n_images, n_repeats, n_voxels = betas.shape
    contrasts = np.zeros((n_images, n_repeats - 1, n_voxels), dtype=np.float32)
    degrees = np.zeros(n_voxels, dtype=np.int64)
    for images in _image_blocks(betas):
        present = np.isfinite(betas[images])
        trials = np.where(present, betas[images], 0)
        total, n = trials[:, 0].copy(), present[:, 0].astype(trials.dtype)
        for repeat in range(1, n_repeats):
            known = present[:, repeat] & (n > 0)
            earlier = np.maximum(n, 1)
            difference = (trials[:, repeat] - total / earlier) * np.sqrt(earlier / (earlier + 1))
            contrasts[images, repeat - 1] = np.where(known, difference, 0)
            degrees += known.sum(axis=0)
            total += trials[:, repeat]
            n += present[:, repeat]
    return contrasts.reshape(-1, n_voxels), degrees


def _shared_factors(
    residuals: np.ndarray, degrees: np.ndarray, max_factors: int, rng: np.random.Generator
) -> np.ndarray:
    """Factors of the covariance of residuals (n_rows, n_voxels) that stand out from chance.

    Eigenvalues of the correlation matrix are compared with the Marchenko–Pastur law of
    independent voxels, and those above its edge are shrunk to their expected true size
    (Donoho, Gavish & Johnstone 2018, Annals of Statistics 46). The law is of rows of one size;
    where some images or trials are noisier, each would pass for a factor, so factors also have to
    stand out from the same residuals with random signs (Hong, Sheng & Dobriban 2020,
    arXiv 2012.02985). `residuals` is overwritten.
    """
    length = np.sqrt(np.einsum("tv,tv->v", residuals, residuals))
    n_voxels, n_free = int((length > 0).sum()), int(degrees.max(initial=0))
    n_factors = min(max_factors, n_free - 1, n_voxels - 1)
    if n_factors < 1:
        return np.zeros((0, len(length)), dtype=np.float32)
    residuals /= np.where(length > 0, length, 1)
    seed = np.random.RandomState(rng.integers(2**31))
    _, singular, directions = randomized_svd(residuals, n_factors, n_iter=4, random_state=seed)
    for row in residuals:
        row *= 1 - 2 * rng.integers(2, size=len(row), dtype=np.int8)
    _, by_chance, _ = randomized_svd(residuals, 1, n_iter=4, random_state=seed)
    strength = _spiked_shrinkage(singular**2, n_voxels, n_free)
    keep = (strength > 0) & (singular > by_chance[0])
    sd = length / np.sqrt(np.maximum(degrees, 1))
    return np.sqrt(strength[keep])[:, None] * directions[keep] * sd


def _strongest(factors: np.ndarray, sd: np.ndarray, max_factors: int) -> np.ndarray:
    """The fewer orthogonal factors that make most of the same correlations."""
    sd = np.where(sd > 0, sd, np.inf)  # NaN too: a voxel without data has no factors
    _, strength, directions = np.linalg.svd(factors / sd, full_matrices=False)
    kept = slice(min(max_factors, int((strength > 0).sum())))
    return strength[kept, None] * directions[kept] * np.where(np.isinf(sd), 0, sd)


def _spiked_shrinkage(eigenvalues: np.ndarray, n_voxels: int, n_free: int) -> np.ndarray:
    """Variance of each shared factor, 0 for those that chance explains; total variance n_voxels."""
    ratio = n_voxels / n_free
    bulk = 1.0
    spikes = np.zeros(len(eigenvalues), dtype=bool)
    for _ in range(20):  # the bulk level and the set of spikes depend on each other
        above = eigenvalues > bulk * (1 + np.sqrt(ratio)) ** 2
        bulk = max((n_voxels - eigenvalues[above].sum()) / max(n_voxels - above.sum(), 1), 1e-12)
        if (above == spikes).all():
            break
        spikes = above
    scaled = eigenvalues / bulk + 1 - ratio
    true = (scaled + np.sqrt(np.maximum(scaled**2 - 4 * eigenvalues / bulk, 0))) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        alignment = (1 - ratio / (true - 1) ** 2) / (1 + ratio / (true - 1))
    strength = bulk * (true - 1) * np.clip(alignment, 0, 1)
    return np.where(spikes & np.isfinite(strength), strength, 0)
