"""Signal and noise variance of voxels from repeated images: analysis of variance and split halves.

The model is one-way random effects: the response in trial r of image i is s_i + e_ir, with signal
variance σ²ₛ over images and noise variance σ²ₙ over trials. Images may have any number of repeats,
and a repeat may be missing in some voxels only.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainenc.arrays import blocks
from brainenc.metrics.sums import (
    CANCELLATION,
    first_finite,
    pearson,
    suits_compiled,
    weighted_sums,
)
from brainenc.progress import progress

#: Entries of the betas of one block of voxels held as float64 while they are split: 64 MiB.
_SPLIT_ENTRIES = 2**23


class VarianceComponents(NamedTuple):
    """Per set of images and voxel, shape (n_sets, n_voxels)."""

    signal: NDArray[np.float64]
    noise: NDArray[np.float64]
    n_trials: NDArray[np.float64]


def variance_components(betas: np.ndarray, sets: NDArray[np.float64]) -> VarianceComponents:
    """Unbiased signal and noise variance by analysis of variance for uneven repeats.

    noise = SS_within / (N − k); signal = (SS_between / (k − 1) − noise) / n₀, with N trials of k
    images and n₀ = (N − Σn_i² / N) / (k − 1), which is the number of repeats when that is even.
    Searle, Casella & McCulloch (1992), Variance Components, section 3.6.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels), NaN where a repeat is missing
    sets : array, shape (n_sets, n_images)
        How often each image counts in each set.

    Returns
    -------
    VarianceComponents
        `signal` (may be negative) and `noise` are NaN without repeated images, with fewer than two
        images or where all trials are equal. `n_trials` is 1 / mean(1 / n_i) over the images that
        have trials, NaN where there are none.
    """
    shape = (len(sets), betas.shape[2])
    signal, noise, n_trials = np.empty(shape), np.empty(shape), np.empty(shape)
    for voxels, sums in _sums_over_images(betas, sets):
        k, n, n_squared, inverse, total, between, within = sums
        with np.errstate(divide="ignore", invalid="ignore"):
            between = between - total**2 / n
            n0 = (n - n_squared / n) / (k - 1)
            # N − k and k − 1 are whole numbers, so "positive" is exact.
            defined = (n - k > 0) & (k > 1) & (between + within > 0)
            ms_within = np.where(defined, within / (n - k), np.nan)
            noise[:, voxels] = ms_within
            signal[:, voxels] = (between / (k - 1) - ms_within) / n0
            n_trials[:, voxels] = k / inverse
    return VarianceComponents(signal, noise, n_trials)


def _sums_over_images(
    betas: np.ndarray, sets: NDArray[np.float64]
) -> Iterator[tuple[slice, Sequence[NDArray[np.float64]]]]:
    """Over images with n > 0 trials of sum t: Σ1, Σn, Σn², Σ1/n, Σt, Σt²/n, squares within."""
    shift = first_finite(betas)
    if suits_compiled(betas, sets):
        from brainenc.metrics import _compiled  # Numba takes a second to import

        *sums, between, squares = _compiled.repeats(betas, shift)
        with np.errstate(invalid="ignore"):  # infinite betas
            within = squares - between
        within[within <= CANCELLATION * squares] = 0  # repeats that are equal
        yield slice(0, betas.shape[2]), [part[None] for part in (*sums, between, within)]
        return

    def statistics(images: slice, voxels: slice) -> Sequence[np.ndarray]:
        y, present = _load(betas[images, :, voxels], shift[voxels])
        n = present.sum(axis=1)
        total, safe = y.sum(axis=1), np.maximum(n, 1)
        mean = total / safe
        deviation = np.where(present, y - mean[:, None], 0.0)
        within = np.einsum("irv,irv->iv", deviation, deviation)
        return n > 0, n, n**2, (n > 0) / safe, total, total * mean, within

    yield from weighted_sums(statistics, sets, betas.shape[2])


def split_half_reliability(
    betas: np.ndarray,
    sets: NDArray[np.float64],
    *,
    n_splits: int,
    seed: np.random.SeedSequence,
    verbose: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reliability of the average over all trials, from random halves of each image's trials.

    The correlation of the two half averages across images, averaged over the splits, gives the
    signal-to-noise ratio σ²ₛ / σ²ₙ, and that the reliability of the full average. With halves of
    equal size this is the Spearman–Brown formula 2r / (1 + r); with odd or uneven numbers of
    trials it is its generalisation to parts of unequal length (Horst 1951, Psychometrika 16).

    Returns
    -------
    reliability : array, shape (n_sets, n_voxels)
        In [0, 1]; a negative correlation of the halves gives 0. NaN where a half is constant over
        images or fewer than two images have repeats.
    n_trials : array, shape (n_sets, n_voxels): 1 / mean(1 / n_i) over the images with trials.
    """
    n_images, n_repeats, n_voxels = betas.shape
    shape = (len(sets), n_voxels)
    reliability, n_trials = np.empty(shape), np.empty(shape)
    shift = first_finite(betas)
    width = _SPLIT_ENTRIES // (n_images * n_repeats)
    bar = progress(total=n_splits * n_voxels, desc="split halves", unit="voxel", verbose=verbose)
    for voxels in blocks(n_voxels, width):
        y, present = _load(betas[:, :, voxels], shift[voxels])
        rng = np.random.default_rng(seed)  # the same splits in every block of voxels
        r = np.zeros((len(sets), y.shape[2]))
        for _ in range(n_splits):
            r += _half_correlation(y, present, rng.random((n_images, n_repeats)), sets)
            bar.update(y.shape[2])
        n_trials[:, voxels], first, second = _mean_inverse_counts(present, sets)
        ratio = _signal_to_noise(r / n_splits, first, second)
        reliability[:, voxels] = reliability_of_average(ratio, n_trials[:, voxels])
    bar.close()
    return reliability, n_trials


def reliability_of_average(
    signal_to_noise: NDArray[np.float64], n_trials: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """σ²ₛ / (σ²ₛ + σ²ₙ / n) from σ²ₛ / σ²ₙ; 0 at 0, and 1 at infinity."""
    with np.errstate(divide="ignore"):
        return 1 / (1 + 1 / (signal_to_noise * n_trials))


def _load(
    betas: np.ndarray, shift: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Betas about `shift`, 0 where missing, and which trials are present.

    What is present has one column if it is the same for all voxels, as it mostly is; everything
    counted from it is then counted once.
    """
    y = np.subtract(betas, shift, dtype=np.float64)
    present = ~np.isnan(y)
    if not present.all():
        y[~present] = 0
    if (present == present[..., :1]).all():
        present = present[..., :1]
    return y, present


def _half_correlation(
    y: np.ndarray, present: np.ndarray, keys: np.ndarray, sets: np.ndarray
) -> NDArray[np.float64]:
    """Correlation across images of the averages of two halves, the trials put in order of `keys`.

    The first half gets ⌊n/2⌋ trials of an image, the second ⌈n/2⌉.
    """
    earlier = (keys[:, None, :] < keys[:, :, None]).astype(np.float64)

    def statistics(images: slice, voxels: slice) -> Sequence[np.ndarray]:
        here = present[images] if present.shape[2] == 1 else present[images, :, voxels]
        n = here.sum(axis=1)
        rank = earlier[images] @ here
        half = (here & (rank < (n // 2)[:, None])).astype(np.float64)
        total = np.einsum("irv,irv->iv", half, y[images, :, voxels])
        rest = y[images, :, voxels].sum(axis=1) - total
        repeated = n > 1
        first = repeated * total / np.maximum(n // 2, 1)
        second = repeated * rest / np.maximum(n - n // 2, 1)
        return repeated, first, second, first * first, second * second, first * second

    r = np.empty((len(sets), y.shape[2]))
    for voxels, sums in weighted_sums(statistics, sets, y.shape[2]):
        r[:, voxels] = pearson(sums)
    return r


def _mean_inverse_counts(present: np.ndarray, sets: np.ndarray) -> tuple[np.ndarray, ...]:
    """1 / mean(1 / n_i) over images with trials; mean 1 / n_i of either half, where repeated."""
    n = present.sum(axis=1)
    seen, repeated = n > 0, n > 1
    with np.errstate(divide="ignore", invalid="ignore"):
        n_trials = (sets @ seen) / (sets @ (seen / np.maximum(n, 1)))
        first, second = (
            (sets @ (repeated / np.maximum(size, 1))) / (sets @ repeated)
            for size in (n // 2, n - n // 2)
        )
    return n_trials, first, second


def _signal_to_noise(r: np.ndarray, first: np.ndarray, second: np.ndarray) -> NDArray[np.float64]:
    """σ²ₛ / σ²ₙ from the correlation of two averages with noise variances σ²ₙ · first, · second.

    Solves r = q / √((q + first)(q + second)) for q; 0 for negative r.
    """
    r2 = np.clip(r, 0, 1) ** 2
    linear = r2 * (first + second)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = (linear + np.sqrt(linear**2 + 4 * (1 - r2) * r2 * first * second)) / (2 * (1 - r2))
    return q
