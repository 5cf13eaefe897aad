"""Estimates of noise from betas: residuals, trial noise, shared signal.

Each estimate has two steps. The first reads all betas: it sums variances and copies the few trials
that factors are found in. The second, which takes the time, needs these alone: it may run later,
when the betas are gone (`brainenc.noise.trials.TrialDistribution.later`).
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
from scipy.linalg import helmert

from brainenc.arrays import release, row_slices
from brainenc.documentation import see
from brainenc.noise.factors import MAX_FACTORS, shared_factors
from brainenc.noise.gaussian import ResidualNoise, Whitening, assemble
from brainenc.repeats import average_repeats, count_repeats

#: Largest number of trials for estimating factors: seconds for 16 000 voxels.
_MAX_TRIALS = 2000


def fit_residual_noise(
    betas: np.ndarray,
    held_out: np.ndarray,
    *,
    max_factors: int = MAX_FACTORS,
    random_state: Any = 0,
) -> ResidualNoise:
    """Residual distribution of single trials around held-out predictions.

    A residual is the sum of trial noise and model error, and both are correlated between voxels.
    With N the covariance of the noise and M that of the error, residuals have covariance M + N.
    Shared factors are directions in which residuals vary most, each with the variance of residuals
    of *other* images along it, minus the private variance. The variance of each voxel is the mean
    square of its single-trial residuals.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels); NaN where a repeat is missing
    held_out : array, shape (n_images, n_voxels)
        Held-out predictions; NaN where there is none.
    max_factors : int
        Largest number of shared factors; only those that exceed chance on other images are kept.
    random_state : int, Generator or None
        Seed of the folds over images, of the randomised SVD, and of its choice of images if there
        are more than 2000 trials.

    Returns
    -------
    ResidualNoise

    Notes
    -----
    The distribution is the same for every image, and every draw has an independent model error:
    draws are single trials, and an average of K draws has less error than the model. Covariance of
    only a few voxels (close neighbours, for example) is not found and counts as private, so means
    over a ROI vary somewhat less in draws than in held-out trials.
    """
    options = {"max_factors": max_factors, "random_state": random_state}
    return residual_noise_later(
        TakenRows(betas), TakenRows(held_out), trial_variance(betas, held_out), **options
    )()


def residual_noise_later(
    betas: "TakenRows",
    held_out: "TakenRows",
    variance: np.ndarray,
    *,
    max_factors: int = MAX_FACTORS,
    random_state: Any = 0,
) -> Callable[[], ResidualNoise]:
    """`fit_residual_noise` in two steps; `variance` is `trial_variance`."""
    rng = np.random.default_rng(random_state)
    kept = _some_images(betas.array, rng, held_out.array)
    trials, predictions = betas.take(kept), held_out.take(kept)

    def estimate() -> ResidualNoise:
        residuals = trials() - predictions()[:, None]
        residuals[~np.isfinite(residuals)] = 0
        n_images, n_repeats, n_voxels = residuals.shape
        images = np.repeat(np.arange(n_images), n_repeats)
        rows = residuals.reshape(-1, n_voxels)
        shared = shared_factors(rows, images, max_factors=max_factors, random_state=deepcopy(rng))
        return assemble(variance, shared)

    return estimate


def fit_trial_noise(
    betas: np.ndarray, *, max_factors: int = MAX_FACTORS, random_state: Any = 0
) -> ResidualNoise:
    """Distribution of trial noise, from differences between repeats alone.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels); NaN where a repeat is missing
    max_factors, random_state
        As for `fit_residual_noise`.

    Returns
    -------
    ResidualNoise
        NaN for a voxel without an image with two trials.

    Raises
    ------
    ValueError : no image has two trials.
    """
    options = {"max_factors": max_factors, "random_state": random_state}
    return trial_noise_later(TakenRows(betas), **options)()


def trial_noise_later(
    betas: "TakenRows", *, max_factors: int = MAX_FACTORS, random_state: Any = 0
) -> Callable[[], ResidualNoise]:
    """`fit_trial_noise` in two steps."""
    variance, shape = _contrast_variance(betas.array), betas.array.shape
    if np.isnan(variance).all():
        raise ValueError(
            f"betas {shape} have no image with two trials of a voxel, and only repeats "
            "separate trial noise from signal: give betas (n_images, n_repeats, n_voxels)"
            + see("draws")
        )
    rng = np.random.default_rng(random_state)
    trials = betas.take(_some_images(betas.array, rng))

    def estimate() -> ResidualNoise:
        rows, _ = _repeat_contrasts(trials())
        images = np.repeat(np.arange(len(rows) // (shape[1] - 1)), shape[1] - 1)
        shared = shared_factors(rows, images, max_factors=max_factors, random_state=deepcopy(rng))
        return assemble(variance, shared)

    return estimate


def fit_shared_signal(
    betas: np.ndarray,
    held_out: np.ndarray,
    noise: ResidualNoise,
    *,
    max_factors: int = MAX_FACTORS,
    random_state: Any = 0,
) -> ResidualNoise:
    """Distribution over images of the expected response minus the prediction.

    With held-out predictions this is the error of the model, the uncertainty of the expected
    response; with the voxels' means it is the signal. Directions are estimated from averages over
    repeats, in coordinates in which trial noise is isotropic, so that noise does not bias them; the
    variance along each is that of averages of other images, minus the variance of their noise.

    Parameters
    ----------
    betas, held_out, max_factors, random_state
        As for `fit_residual_noise`.
    noise : ResidualNoise
        Trial noise, from `fit_trial_noise`.

    Returns
    -------
    ResidualNoise
        Variance 0 where trials vary no more than their noise; NaN for a voxel without repeats.
    """
    options = {"max_factors": max_factors, "random_state": random_state}
    return shared_signal_later(
        TakenRows(betas), TakenRows(held_out), trial_variance(betas, held_out), **options
    )(noise)


def shared_signal_later(
    betas: "TakenRows",
    held_out: "TakenRows",
    variance: np.ndarray,
    *,
    max_factors: int = MAX_FACTORS,
    random_state: Any = 0,
) -> Callable[[ResidualNoise], ResidualNoise]:
    """`fit_shared_signal` in two steps, the second of which takes the trial noise."""
    rng = np.random.default_rng(random_state)
    kept = _some_images(betas.array, rng, held_out.array)
    take, predictions = betas.take(kept), held_out.take(kept)

    def estimate(noise: ResidualNoise) -> ResidualNoise:
        whitening, trials = Whitening(noise), take()
        averages = average_repeats(trials) - predictions()
        n_trials = count_repeats(trials)
        contrasts, _ = _repeat_contrasts(trials)
        # A contrast has the variance of the noise; its share in the average of k trials is 1 / k.
        contrasts = contrasts.reshape(len(averages), -1, trials.shape[2])
        contrasts /= np.sqrt(np.maximum(n_trials, 1, dtype=np.float32))[:, None]
        factors = shared_factors(
            whitening.apply(np.where(np.isfinite(averages), averages, 0)),
            np.arange(len(averages)),
            noise=whitening.apply(contrasts),
            max_factors=max_factors,
            random_state=deepcopy(rng),
        )
        return assemble(np.maximum(variance - noise.variance, 0), whitening.undo(factors))

    return estimate


class TakenRows:
    """Copies of rows of an array, each set of rows once; the array itself may then change.

    Attributes
    ----------
    array : array
    """

    def __init__(self, array: np.ndarray):
        self.array = array
        self._taken: list[tuple[Any, np.ndarray]] = []

    def take(self, rows: Any) -> Callable[[], np.ndarray]:
        """Function that returns ``array[rows]`` as it is now, not to be changed in place."""
        for known, copy in self._taken:
            if isinstance(known, slice):  # all rows
                return partial(copy.__getitem__, rows)
            if not isinstance(rows, slice) and np.array_equal(known, rows):
                return partial(copy.__getitem__, ...)
        found = np.copy(self.array[rows]) if isinstance(rows, slice) else self.array[rows]
        release(self.array)
        self._taken.append((rows, found))
        return partial(found.__getitem__, ...)


def _some_images(
    betas: np.ndarray, rng: np.random.Generator, held_out: np.ndarray | None = None
) -> Any:
    """Images for estimating factors, among those with a held-out prediction if given."""
    known = np.arange(len(betas))
    if held_out is not None:
        known = np.flatnonzero(~np.isnan(np.fmax.reduce(held_out, axis=1)))
        known = known if len(known) else np.arange(len(betas))
    n_kept = max(1, _MAX_TRIALS // betas.shape[1])
    if n_kept >= len(known):
        return known if len(known) < len(betas) else slice(None)
    return np.sort(rng.choice(known, n_kept, replace=False))


def trial_variance(betas: np.ndarray, held_out: np.ndarray) -> np.ndarray:
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

    Unlike deviations from the average of all repeats, these rows are independent, one per degree of
    freedom.

    Returns
    -------
    contrasts : array, shape (n_images · (n_repeats − 1), n_voxels), float32; 0 where undefined
    degrees_of_freedom : array, shape (n_voxels,)
        Number of defined contrasts.
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
