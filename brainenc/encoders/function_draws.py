"""Draws of an encoder: one draw is one function of the image, the same for all images.

These are the draws of ``sample(noise="weights")``. What is drawn of a voxel depends on the seed
and on the number of the draw alone: blocks of images, and other images later, get the same
functions.

Voxels share noise, so weights that were fitted to the same trials err together: their random
numbers are correlated as the residuals of the averages over repeats are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from brainenc.encoders.blocks_of_draws import BLOCK_VALUES
from brainenc.encoders.training_images import marks_of
from brainenc.noise.gaussian import ResidualNoise
from brainenc.noise.trials import TrialDistribution
from brainenc.solvers.posterior import NumbersOfImages, image_keys
from brainenc.solvers.shared_numbers import SharedNumbers

#: Voxels drawn at once: a row of a file is then written in pieces of 4 KiB.
BLOCK_VOXELS = 1024

#: Shared numbers of a draw, at most: they take 4 · n · MOST_FACTORS · n_images bytes.
MOST_FACTORS = 50

#: Values (n, n_images, n_voxels of the slice) of drawn functions at some images.
Functions = Callable[[slice], np.ndarray]


@dataclass(frozen=True)
class Streams:
    """Seeds of one call of `sample`.

    Attributes
    ----------
    whole : SeedSequence
        For what is drawn for all voxels together, such as a member of an ensemble.
    voxels : list of SeedSequence, one per voxel
    noise, error : SharedNumbers or None
        Correlation between voxels of what a fit has of the noise of the training trials, and of the
        error of expected responses that is drawn for each image alone; None: independent.
    """

    whole: np.random.SeedSequence
    voxels: list[np.random.SeedSequence]
    noise: SharedNumbers | None = None
    error: SharedNumbers | None = None

    @classmethod
    def of(cls, random_state: Any, n_voxels: int) -> "Streams":
        """Seeds from an int, Generator or None."""
        seeds: Any = np.random.default_rng(random_state).bit_generator.seed_seq
        whole, *voxels = seeds.spawn(1 + n_voxels)
        return cls(whole, voxels)

    def correlated(self, trials: TrialDistribution) -> "Streams":
        """Seeds of numbers that are correlated between voxels as the encoder's residuals are."""

        def shared(noise: ResidualNoise | None, position: int) -> SharedNumbers | None:
            if noise is None or not len(noise.factors):
                return None
            key = (*self.whole.spawn_key, position)
            seed = np.random.SeedSequence(self.whole.entropy, spawn_key=key)
            return SharedNumbers.of(noise.factors, noise.private_sd, seed, MOST_FACTORS)

        return replace(self, noise=shared(trials.of_averages(), 0), error=shared(trials.error, 1))


def function_blocks(
    functions: Callable[[slice], Functions], shape: tuple[int, int, int]
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Values of drawn functions, in blocks of images and voxels.

    Parameters
    ----------
    functions : callable (images: slice) -> Functions
        For each block of images the same functions.
    shape : (n, n_images, n_voxels)

    Yields
    ------
    images, voxels : slices
    draws : array, shape (n, n_images, n_voxels) of the block, float32
    """
    n, n_images, n_voxels = shape
    wide = max(1, min(n_voxels, BLOCK_VOXELS, BLOCK_VALUES // n))
    high = max(1, BLOCK_VALUES // (n * wide))
    for start in range(0, n_images, high):
        images = slice(start, min(start + high, n_images))
        values = functions(images)
        for first in range(0, n_voxels, wide):
            voxels = slice(first, min(first + wide, n_voxels))
            yield (images, voxels), values(voxels).astype(np.float32, copy=False)


#: Training images at which the variance of members is measured; a mean over them is kept.
MOST_IMAGES = 500


def some_images(n_images: int) -> np.ndarray:
    """Positions of at most `MOST_IMAGES` images, evenly spaced."""
    return np.unique(np.linspace(0, n_images - 1, min(n_images, MOST_IMAGES)).astype(int))


def variance_of_members(predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Variance of members' predictions (n_images, n_voxels), mean over images: (n_voxels,)."""
    total, squares = np.zeros((2, *predictions[0].shape))
    for prediction in predictions:
        deviations = prediction - predictions[0].astype(np.float64)
        total += deviations
        squares += np.square(deviations)
    m = len(predictions)
    return ((squares - np.square(total) / m) / (m - 1)).mean(axis=0).astype(np.float32)


def functions_of_members(
    encoder: Any,
    predictions: Sequence[np.ndarray],
    features: np.ndarray,
    n: int,
    streams: Streams,
    *,
    refits: bool = False,
    beside: Callable[[np.ndarray | None], Functions] | None = None,
) -> Functions:
    """Functions that vary as members do, and at each image by the error they do not explain.

    A draw is the prediction plus a random combination of the members' deviations from their mean:
    normal, with the members' covariance. For refits it is divided by the root of χ²/(m − 1) of its
    own, since m refits estimate a covariance (a t distribution with m − 1 degrees of freedom).
    Where repeats have measured the error of held-out predictions, what exceeds the variance of the
    members is drawn for each image alone, as in `brainenc.solvers.posterior`.

    Parameters
    ----------
    encoder : BaseEncoder, with ``member_variance_``, or ``refit_variance_`` for refits
    predictions : list of arrays, shape (n_images, n_voxels)
        Of each member.
    features : array, of the images
    n : int
    streams : Streams
    refits : bool
        Whether members are those of `brainenc.encoders.add_refits`.
    beside : callable, optional
        Further deviations, in place of the error that members do not explain, whose variance
        (n_voxels,) it gets; None without repeats.

    Raises
    ------
    ValueError : an earlier version saved the encoder, without the variance of its members.
    """
    explained = getattr(encoder, "refit_variance_" if refits else "member_variance_", None)
    if explained is None:
        way = "call brainenc.encoders.add_refits again" if refits else "fit it again"
        raise ValueError(
            'noise="weights" needs the variance of members at training images, which this '
            f"{type(encoder).__name__} lacks, since an earlier version of brainenc saved it: {way}"
        )
    expected = encoder._predict(features)
    deviations = np.stack(predictions)
    deviations -= deviations.mean(axis=0)
    m = len(predictions)
    z = np.random.default_rng(streams.whole).standard_normal((n, 2 * m - 1))
    of_member = z[:, :m] / np.sqrt(m - 1)
    if refits:
        of_member /= np.sqrt(np.square(z[:, m:]).mean(axis=1, keepdims=True))
    own, keys = _unexplained(encoder, explained), _keys_of_images(encoder, features)
    others = None if beside is None else beside(own)
    numbers = None if keys is None else NumbersOfImages(n, keys, streams.error)

    def draws(voxels: slice) -> np.ndarray:
        found = np.tensordot(of_member.astype(deviations.dtype), deviations[..., voxels], axes=1)
        found += expected[:, voxels]
        if others is not None:
            return found + others(voxels)
        if own is None or numbers is None:
            return found
        positions, seeds = range(len(own))[voxels], streams.voxels[voxels]
        for i, (v, seed) in enumerate(zip(positions, seeds, strict=True)):
            if own[v] > 0:
                found[..., i] += np.sqrt(own[v]) * numbers.of(v, np.random.default_rng(seed))
        return found

    return draws


def _unexplained(encoder: Any, explained: np.ndarray) -> np.ndarray | None:
    """Variance (n_voxels,) of held-out errors beyond what is explained; None without repeats."""
    error = error_of_expected(encoder, len(encoder.training_marks_))
    if error is None:
        return None
    # NaN, of a voxel without repeats or without data, is 0 too.
    return np.fmax(error - np.nan_to_num(explained), 0)


def _keys_of_images(encoder: Any, features: np.ndarray) -> np.ndarray | None:
    """A number per image, equal for equal features; None if there are no features."""
    known = encoder.training_marks_
    if known.shape[1] == 0:
        return None
    scale = known.std(axis=0, dtype=np.float64)
    return image_keys(marks_of(features) / np.where(scale > 0, scale, 1))


def fitted_posterior(encoder: Any) -> Any:
    """The encoder's posterior of weights.

    Raises
    ------
    ValueError : it was saved by a version that had none.
    """
    posterior = getattr(encoder, "posterior_", None)
    if posterior is None:
        raise ValueError(
            f'noise="weights" needs the posterior of the weights, which this '
            f"{type(encoder).__name__} lacks, since an earlier version of brainenc saved it: fit "
            "it again"
        )
    return posterior


def drawn_of_posterior(drawn: Any, n: int, streams: Streams, voxels: slice) -> np.ndarray:
    """Deviations (n, n_images, n_voxels of the slice) that a `DrawnFunctions` draws."""
    return drawn.draws(n, voxels, streams.voxels[voxels], streams.noise, streams.error)


def error_of_expected(encoder: Any, n_images: int | None = None) -> np.ndarray | None:
    """Variance of the error of held-out expected responses per voxel; None without repeats.

    `n_images` is the number of training images, by default those of its posterior.

    The estimate of a voxel is the difference of two variances, so it is shrunk towards the voxels'
    mean in units of their noise, by the share of the variance between voxels that errors of the
    estimates explain (empirical Bayes): estimates of 0 would make intervals too narrow.
    """
    error, noise = encoder.model_error_, encoder.trial_noise_
    if error is None:
        return None
    if n_images is None:
        n_images = fitted_posterior(encoder).images.sum(axis=1).max(initial=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = error.variance / noise.variance
    if not (known := np.isfinite(ratio)).any():
        return error.variance
    squared_error = 2 / max(n_images, 2) * (1 + ratio + ratio**2)
    between = max(float(np.var(ratio[known]) - squared_error[known].mean()), 0)
    share = between / (between + squared_error)
    return (share * ratio + (1 - share) * ratio[known].mean()) * noise.variance
