"""What single trials do around a prediction, and drawing from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import helmert
from sklearn.isotonic import isotonic_regression

from brainenc.metrics import gaussian_log_density
from brainenc.model_selection import image_folds
from brainenc.repeats import average_repeats, count_repeats
from brainenc.storage import release, row_slices

#: Trials that factors are looked for in: seconds for 16 000 voxels.
_MAX_TRIALS = 2000
#: Shared factors kept at most; what stands out on held-out trials is fewer as a rule.
MAX_FACTORS = 100
#: Share of a voxel's variance that factors explain at most.
_MOST_SHARED = 0.99
#: Parts of the images, each of which says how much factors found in the others vary.
_N_FOLDS = 4
#: Rounds of subspace iteration: two and a half passes of the usual two-sided scheme.
_N_ITERATIONS = 5


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

    def shared(self) -> "ResidualNoise":
        """What voxels share alone."""
        return ResidualNoise(self.factors, 0 * self.private_sd)

    def logpdf(self, residuals: np.ndarray) -> np.ndarray:
        """Natural logarithm of the density of residuals, without forming the covariance.

        Parameters
        ----------
        residuals : array, shape (..., n_voxels)
            NaN stays NaN, but voxels without data (NaN in `private_sd`) are left out.

        Returns
        -------
        array, shape (...), float64
        """
        known = np.isfinite(self.private_sd)
        return gaussian_log_density(
            residuals[..., known], self.factors[:, known], self.private_sd[known]
        )

    def of_voxels(self, voxels: Any) -> "ResidualNoise":
        """That of some voxels."""
        return ResidualNoise(self.factors[:, voxels], self.private_sd[voxels])

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
    betas: np.ndarray,
    held_out: np.ndarray,
    *,
    max_factors: int = MAX_FACTORS,
    random_state: Any = 0,
) -> ResidualNoise:
    """Residual distribution of single trials around held-out predictions.

    A residual is the trial's noise plus the error of the model, and voxels share both: noise
    where they fluctuate together, error where the model gets them wrong for the same images.
    With N the covariance of the noise and M that of the error, residuals have M + N. Shared
    factors are directions in which residuals vary most, each with the variance that residuals of
    *other* images have along it, less what voxels have alone. The variance of each voxel is the
    mean square of its single-trial residuals.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels); NaN where a repeat is missing
    held_out : array, shape (n_images, n_voxels)
        Predictions of images that the model was not fitted on; NaN where there is none.
    max_factors : int
        Largest number of shared factors; fewer are kept where fewer stand out on other images.
    random_state : int, Generator or None
        Of the folds over images, of the randomised SVD, and of the images it sees where there are
        more than 2000 trials.

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
    rng = np.random.default_rng(random_state)
    kept = np.arange(len(betas))[_some_images(betas, rng, held_out)]
    residuals = betas[kept].astype(np.result_type(betas, held_out), copy=False)
    residuals -= held_out[kept, None]
    release(betas)
    residuals[~np.isfinite(residuals)] = 0
    images = np.repeat(np.arange(len(residuals)), betas.shape[1])
    rows = residuals.reshape(-1, betas.shape[2])
    shared = shared_factors(rows, images, max_factors=max_factors, random_state=rng)
    return assemble(_trial_variance(betas, held_out), shared)


def fit_trial_noise(
    betas: np.ndarray, *, max_factors: int = MAX_FACTORS, random_state: Any = 0
) -> ResidualNoise:
    """Distribution of the noise of single trials, from differences between repeats alone.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels); NaN where a repeat is missing
    max_factors, random_state
        As for `fit_residual_noise`.

    Returns
    -------
    ResidualNoise
        NaN for a voxel that no image has two trials of.

    Raises
    ------
    ValueError : no image has two trials.
    """
    variance = _contrast_variance(betas)
    if np.isnan(variance).all():
        raise ValueError(
            f"betas {betas.shape} have no image with two trials of a voxel, and trial noise is "
            "told from signal by repeats: give betas (n_images, n_repeats, n_voxels) that have some"
        )
    rng = np.random.default_rng(random_state)
    kept = _some_images(betas, rng)
    rows, _ = _repeat_contrasts(betas[kept])
    release(betas)
    images = np.repeat(np.arange(len(rows) // (betas.shape[1] - 1)), betas.shape[1] - 1)
    shared = shared_factors(rows, images, max_factors=max_factors, random_state=rng)
    return assemble(variance, shared)


def fit_shared_signal(
    betas: np.ndarray,
    held_out: np.ndarray,
    noise: ResidualNoise,
    *,
    max_factors: int = MAX_FACTORS,
    random_state: Any = 0,
) -> ResidualNoise:
    """Distribution over images of what repeats agree on: expected response minus prediction.

    Around held-out predictions that is the error of the model, the uncertainty about the expected
    response; around the voxels' means it is the signal. Directions come from averages over
    repeats, in coordinates in which the noise of trials is alike and independent everywhere, so
    that noise does not turn them; the variance along each is that of averages of other images,
    less what the noise of their trials adds to it.

    Parameters
    ----------
    betas, held_out, max_factors, random_state
        As for `fit_residual_noise`.
    noise : ResidualNoise
        Of single trials, from `fit_trial_noise`.

    Returns
    -------
    ResidualNoise
        0 where trials vary no more than their noise; NaN for a voxel without repeats.
    """
    variance = np.maximum(_trial_variance(betas, held_out) - noise.variance, 0)
    whitening = Whitening(noise)
    rng = np.random.default_rng(random_state)
    kept = _some_images(betas, rng, held_out)
    trials = betas[kept]
    release(betas)
    averages = average_repeats(trials) - held_out[kept]
    n_trials = count_repeats(trials)
    contrasts, _ = _repeat_contrasts(trials)
    # A contrast has the variance of the noise; its share in the average of k trials is 1 / k.
    contrasts = contrasts.reshape(len(averages), -1, betas.shape[2])
    contrasts /= np.sqrt(np.maximum(n_trials, 1, dtype=np.float32))[:, None]
    factors = shared_factors(
        whitening.apply(np.where(np.isfinite(averages), averages, 0)),
        np.arange(len(averages)),
        noise=whitening.apply(contrasts),
        max_factors=max_factors,
        random_state=rng,
    )
    return assemble(variance, whitening.undo(factors))


class Whitening:
    """Coordinates in which noise has the same variance in all directions, and the way back."""

    def __init__(self, noise: ResidualNoise):
        # A voxel that the factors explain wholly must not outweigh all others.
        sd = np.maximum(noise.private_sd, 0.1 * np.sqrt(noise.variance))
        self.sd = np.where(np.isfinite(sd), sd, 0).astype(np.float32)
        self.inverse_sd = np.divide(1, self.sd, out=np.zeros_like(self.sd), where=self.sd > 0)
        _, strength, self.directions = np.linalg.svd(
            noise.factors * self.inverse_sd, full_matrices=False
        )
        self.gain = np.sqrt(1 + np.square(strength))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, n_voxels) of betas in these coordinates; 0 for voxels without noise."""
        return self._along(rows * self.inverse_sd, 1 / self.gain - 1)

    def undo(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, n_voxels) in these coordinates as betas."""
        return self._along(rows, self.gain - 1) * self.sd

    def _along(self, rows: np.ndarray, change: np.ndarray) -> np.ndarray:
        return rows + ((rows @ self.directions.T) * change) @ self.directions


def shared_factors(
    rows: np.ndarray,
    images: np.ndarray,
    *,
    noise: np.ndarray | None = None,
    max_factors: int = MAX_FACTORS,
    random_state: Any = 0,
) -> np.ndarray:
    """Factors of the covariance of `rows`, shrunk to what they are on images left out.

    Directions are principal components of the correlation matrix. The variance along the k-th is
    the mean over folds of that of images left out, along the k-th direction found in the others;
    what a voxel has alone is the mean variance in the remaining directions. So noise that happens
    to align in the images at hand, or one image with large residuals, makes no factor.

    Parameters
    ----------
    rows : array, shape (n_rows, n_voxels)
        Mean 0; 0 where missing. Overwritten.
    images : array of int, shape (n_rows,)
        The image of each row, counted from 0; the rows of an image are left out together.
    noise : array, shape (n_images, n_contrasts, n_voxels), optional
        What noise alone does to the rows of an image; its variance is taken off. Rows are then
        taken to be whitened for it, and directions are those of their covariance.
    max_factors, random_state
        As for `fit_residual_noise`.

    Returns
    -------
    array, shape (n_factors, n_voxels), float32

    References
    ----------
    Bartz (2016), arXiv 1611.00798 (cross-validated eigenvalues).
    """
    rng = np.random.default_rng(random_state)
    sd = np.sqrt(np.einsum("tv,tv->v", rows, rows) / max(np.count_nonzero(rows.any(axis=1)), 1))
    inverse_sd = np.divide(1, sd, out=np.zeros_like(sd), where=sd > 0)
    is_noise = np.zeros(len(rows), dtype=bool)
    if noise is not None:
        sd, inverse_sd = (sd > 0).astype(sd.dtype), (sd > 0).astype(sd.dtype)
        is_noise = np.repeat([False, True], [len(rows), noise.shape[0] * noise.shape[1]])
        rows = np.concatenate([rows, noise.reshape(-1, noise.shape[2])])
        images = np.concatenate([images, np.repeat(np.arange(len(noise)), noise.shape[1])])
    if not (present := rows.any(axis=1)).all():
        rows, images, is_noise = rows[present], images[present], is_noise[present]
    rows *= inverse_sd
    n_voxels, n_images = int((sd > 0).sum()), len(np.unique(images[~is_noise]))
    n_factors = min(max_factors, n_images // 2, n_voxels // 2)
    if n_factors < 1:
        return np.zeros((0, len(sd)), dtype=np.float32)
    # Products of rows hold all that is needed, however many voxels there are.
    products = rows @ rows.T
    along, total = _held_out_variance(products, images, is_noise, n_factors, rng)
    strength = _above_private(along, total, n_voxels, n_images)
    kept = strength > 0
    signal = slice(np.count_nonzero(~is_noise))  # noise comes after it
    weights = _direction_weights(products[signal, signal], n_factors, rng)
    directions = weights[:, kept].T.astype(rows.dtype) @ rows[signal]
    return (np.sqrt(strength[kept])[:, None] * directions * sd).astype(np.float32)


def _held_out_variance(
    products: np.ndarray,
    images: np.ndarray,
    is_noise: np.ndarray,
    n_factors: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Variance of rows, and of noise, along directions found in the rows of other images.

    Parameters
    ----------
    products : array, shape (n_rows, n_rows)
        Scalar products of all rows.
    images, is_noise : arrays, shape (n_rows,)

    Returns
    -------
    along : array, shape (2, n_factors)
    total : array, shape (2,)
        Sum over all directions.
    """
    known = np.unique(images[~is_noise])
    folds = image_folds(min(_N_FOLDS, len(known)), len(known), random_state=_seed(rng))
    along, total = np.zeros((2, n_factors)), np.zeros(2)
    for train, test in folds:
        learnt = np.flatnonzero(np.isin(images, known[train]) & ~is_noise)
        weights = _direction_weights(products[np.ix_(learnt, learnt)], n_factors, rng)
        for i in range(2):
            left_out = np.flatnonzero(np.isin(images, known[test]) & (is_noise == bool(i)))
            n = max(len(left_out), 1) * len(folds)
            projected = products[np.ix_(left_out, learnt)] @ weights
            along[i] += np.square(projected).sum(axis=0) / n
            total[i] += products[left_out, left_out].sum() / n
    return along, total


def _direction_weights(products: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Weights (n_rows, n) that make the leading principal directions of mean-0 rows.

    Randomised subspace iteration (Halko et al. 2011, SIAM Review 53). Bases are made orthonormal
    by way of their small Gram matrices, which takes a tenth of the time of QR on narrow matrices.
    """
    basis = rng.standard_normal((len(products), min(n + 10, len(products))))
    for _ in range(_N_ITERATIONS):
        basis = _orthonormal(products @ basis.astype(products.dtype))
    small = basis.T @ (products @ basis.astype(products.dtype))
    squared, turn = np.linalg.eigh((small + small.T) / 2)
    squared, left = squared[: -n - 1 : -1], basis @ turn[:, : -n - 1 : -1]
    safe = np.where(squared > 1e-6 * squared[0], squared, np.inf)
    return (left / np.sqrt(safe)).astype(products.dtype)


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span the same; 0 for directions that are not there."""
    columns = columns.astype(np.float64)
    squared, turn = np.linalg.eigh(columns.T @ columns)
    safe = np.where(squared > 1e-10 * squared[-1], squared, np.inf)
    return (columns @ turn) / np.sqrt(safe)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _above_private(
    along: np.ndarray, total: np.ndarray, n_voxels: int, n_independent: int
) -> np.ndarray:
    """Variance of factors beyond what voxels have alone; 0 for those that chance explains.

    Both are held-out variances, of rows and of the noise in them: `along` (2, n_factors), `total`
    (2,).
    """
    variance = isotonic_regression(along[0] - along[1], increasing=False)
    private = (total - along.sum(axis=1)) / (n_voxels - len(variance))
    above = variance - max(private[0] - private[1], 0)
    # Chance: two standard errors of the variance of as many normal numbers.
    chance = 2 * np.sqrt(2 / n_independent) * private[0]
    return np.where(above > chance, above, 0).astype(np.float32)


def assemble(variance: np.ndarray, factors: np.ndarray) -> ResidualNoise:
    """Distribution with these variances per voxel and shared factors.

    Factors explain at most 99 % of the variance there is: a voxel they overshoot gets them scaled
    down. With nothing of its own left it would have no density.
    """
    shared = np.square(factors, dtype=np.float64).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(np.minimum(1, _MOST_SHARED * variance / shared))
    factors = factors * np.where(np.isfinite(scale), scale, 0)
    private = np.sqrt(np.maximum(variance - np.square(factors).sum(axis=0), 0))
    return ResidualNoise(factors.astype(np.float32), private.astype(np.float32))


def _some_images(
    betas: np.ndarray, rng: np.random.Generator, held_out: np.ndarray | None = None
) -> Any:
    """Images that factors are looked for in; of those with a held-out prediction, if given."""
    known = np.arange(len(betas))
    if held_out is not None:
        known = np.flatnonzero(~np.isnan(np.fmax.reduce(held_out, axis=1)))
        known = known if len(known) else np.arange(len(betas))
    n_kept = max(1, _MAX_TRIALS // betas.shape[1])
    if n_kept >= len(known):
        return known if len(known) < len(betas) else slice(None)
    return np.sort(rng.choice(known, n_kept, replace=False))


def _trial_variance(betas: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Mean squared residual of single trials per voxel; NaN without data."""
    squared, n_trials = np.zeros((2, betas.shape[2]))
    for images in row_slices(betas):
        residuals = betas[images] - held_out[images, None]
        of_block, n = np.einsum("irv,irv->v", residuals, residuals), residuals[..., 0].size
        if not np.isfinite(of_block).all():  # one missing trial makes the sum NaN
            present = np.isfinite(residuals)
            residuals[~present] = 0
            of_block, n = np.einsum("irv,irv->v", residuals, residuals), present.sum(axis=(0, 1))
        squared += of_block
        n_trials += n
    with np.errstate(invalid="ignore"):
        return squared / n_trials


def _contrast_variance(betas: np.ndarray) -> np.ndarray:
    """Noise variance of single trials per voxel; NaN without repeats."""
    squared, degrees = np.zeros((2, betas.shape[2]))
    for images in row_slices(betas):
        contrasts, n = _repeat_contrasts(betas[images])
        squared += np.einsum("tv,tv->v", contrasts, contrasts)
        degrees += n
    with np.errstate(invalid="ignore"):
        return squared / degrees


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
    if n_repeats < 2:
        return contrasts.reshape(-1, n_voxels), degrees
    complete = -helmert(n_repeats).astype(betas.dtype)
    for images in row_slices(betas):
        present = np.isfinite(betas[images])
        if present.all():
            contrasts[images] = complete @ betas[images]
            degrees += contrasts[images, :, 0].size
            continue
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
