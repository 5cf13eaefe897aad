"""Draws of an encoder: one draw is one function of the image, the same for all images.

These are the draws of ``sample(noise="weights")``. What is drawn of a voxel depends on the seed
and on the number of the draw alone: blocks of images, and other images later, get the same
functions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainenc.encoders.blocks_of_draws import BLOCK_VALUES

#: Voxels drawn at once: a row of a file is then written in pieces of 4 KiB.
BLOCK_VOXELS = 1024

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
    """

    whole: np.random.SeedSequence
    voxels: list[np.random.SeedSequence]

    @classmethod
    def of(cls, random_state: Any, n_voxels: int) -> "Streams":
        """Seeds from an int, Generator or None."""
        seeds: Any = np.random.default_rng(random_state).bit_generator.seed_seq
        whole, *voxels = seeds.spawn(1 + n_voxels)
        return cls(whole, voxels)


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


def choice_of_members(n: int, n_members: int, streams: Streams) -> np.ndarray:
    """Member of each draw, (n,): all of them in random order before one is drawn again."""
    rng = np.random.default_rng(streams.whole)
    rounds = [rng.permutation(n_members) for _ in range(-(-n // n_members))]
    return np.concatenate(rounds)[:n]


def functions_of_members(
    predictions: Sequence[np.ndarray], chosen: np.ndarray, *, around: np.ndarray | None = None
) -> Functions:
    """Functions that are predictions of members.

    Parameters
    ----------
    predictions : list of arrays, shape (n_images, n_voxels)
        Of each member.
    chosen : array of int, shape (n,)
        Member of each draw.
    around : array, shape (n_images, n_voxels), optional
        Centre of the draws, in place of the members' mean. Deviations are then enlarged by
        sqrt(m / (m − 1)), so that their variance is that of m members without bias.
    """
    stacked = np.stack(predictions)
    if around is not None:
        m = len(stacked)
        stacked = around + (stacked - stacked.mean(axis=0)) * np.sqrt(m / max(m - 1, 1))
    return lambda voxels: stacked[chosen][..., voxels]


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


def error_of_expected(encoder: Any) -> np.ndarray | None:
    """Variance of the error of held-out expected responses per voxel; None without repeats.

    The estimate of a voxel is the difference of two variances, so it is shrunk towards the voxels'
    mean in units of their noise, by the share of the variance between voxels that errors of the
    estimates explain (empirical Bayes): estimates of 0 would make intervals too narrow.
    """
    error, noise = encoder.model_error_, encoder.trial_noise_
    if error is None:
        return None
    n_images = np.atleast_1d(fitted_posterior(encoder).images.sum(axis=1)).max(initial=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = error.variance / noise.variance
    if not (known := np.isfinite(ratio)).any():
        return error.variance
    squared_error = 2 / n_images * (1 + ratio + ratio**2)
    between = max(float(np.var(ratio[known]) - squared_error[known].mean()), 0)
    share = between / (between + squared_error)
    return (share * ratio + (1 - share) * ratio[known].mean()) * noise.variance
