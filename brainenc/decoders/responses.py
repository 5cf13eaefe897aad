"""Betas as inputs of decoders: checks, scaling of voxels, single trials and averages."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

from brainenc.arrays import row_blocks, varies
from brainenc.conversion import FLOATS, plain_array
from brainenc.documentation import see
from brainenc.repeats import average_repeats
from brainenc.solvers.voxels import feature_scaling
from brainenc.validation import check_betas


def check_responses(decoder: Any, betas: Any, *, reset: bool) -> np.ndarray:
    """Betas as (n_images, n_repeats, n_voxels); their voxels are recorded, or compared.

    Parameters
    ----------
    decoder : BaseDecoder
    betas : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
        NaN where a repeat is missing.
    reset : bool
        Record the number of voxels, or compare it with the recorded one.

    Raises
    ------
    ValueError : another number of axes or voxels, infinite values, nothing but NaN.
    TypeError : not numeric.
    """
    if not hasattr(betas, "columns"):  # names of columns are kept by scikit-learn
        betas = plain_array(betas, "betas")
    if np.ndim(betas) == 3:
        array = check_betas(betas)
        n_voxels = array.shape[2]
        if reset:
            decoder.n_features_in_ = n_voxels
            vars(decoder).pop("feature_names_in_", None)
    else:
        flat = validate_data(
            decoder, betas, reset=reset, dtype=list(FLOATS), ensure_all_finite="allow-nan"
        )
        array = check_betas(flat)
        n_voxels = array.shape[2]
    if not reset and n_voxels != decoder.n_features_in_:
        raise ValueError(
            f"betas {array.shape} have {n_voxels} voxels, but {type(decoder).__name__} was fitted "
            f"to {decoder.n_features_in_}: give the betas of the same voxels"
        )
    return array


def check_every_voxel(betas: np.ndarray) -> None:
    """Raise ValueError for voxels without any data."""
    present = np.zeros(betas.shape[2], dtype=bool)
    for block in row_blocks(betas):
        present |= np.isfinite(block).any(axis=(0, 1))
    if not present.all():
        empty = np.flatnonzero(~present)
        raise ValueError(
            f"betas {betas.shape} are NaN in all images for {len(empty)} voxels (first: "
            f"{empty[0]}): leave them out, betas[..., keep], here and when predicting"
            + see("decoding")
        )


def check_every_image(betas: np.ndarray) -> None:
    """Raise ValueError for images without any data."""
    blocks = [np.isfinite(block).any(axis=(1, 2)) for block in row_blocks(betas)]
    empty = np.flatnonzero(~np.concatenate(blocks))
    if empty.size:
        raise ValueError(
            f"betas {betas.shape} have no data for {empty.size} images (first in row {empty[0]}): "
            "leave them out, also of the targets" + see("decoding")
        )


@dataclass(frozen=True)
class VoxelScaling:
    """Mean and s.d. of each voxel over the training images' averages.

    Attributes
    ----------
    mean, sd : arrays, shape (n_voxels,)
        The s.d. of a constant voxel is 1.
    """

    mean: NDArray[Any]
    sd: NDArray[Any]

    @classmethod
    def of(cls, betas: np.ndarray, weights: np.ndarray | None = None) -> "VoxelScaling":
        """Of betas (n_images, n_repeats, n_voxels), with weights of images (n_images,) if any."""
        averages = average_repeats(betas)
        missing = ~np.isfinite(averages)
        if missing.any():
            means = np.nanmean(averages, axis=0, dtype=np.float64)
            averages = np.where(missing, means, averages).astype(averages.dtype)
        if weights is None:
            return cls(*feature_scaling(averages))
        used = averages[weights > 0].astype(np.float64)
        share = (weights[weights > 0] / weights.sum())[:, None]
        mean = (share * used).sum(axis=0)
        sd = np.sqrt((share * np.square(used - mean)).sum(axis=0))
        sd = np.where(varies(mean, sd), sd, 1.0)
        return cls(mean.astype(averages.dtype), sd.astype(averages.dtype))

    def apply(self, responses: np.ndarray) -> np.ndarray:
        """z-scored responses (..., n_voxels); a voxel missing in a response is at its mean, 0.

        A response without any voxel stays NaN.
        """
        scaled = (responses - self.mean) / self.sd
        missing = np.isnan(scaled)
        if missing.any():
            scaled[missing & ~missing.all(axis=-1, keepdims=True)] = 0
        return scaled


def single_trials(betas: np.ndarray) -> tuple[np.ndarray, NDArray[np.int64]]:
    """Trials that are there, one row each, and the image of each.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
        NaN in all voxels where a trial is missing.

    Returns
    -------
    trials : array, shape (n_trials, n_voxels)
        In order of images.
    images : array, shape (n_trials,)
        Positions of the images: ids for `brainenc.metrics.retrieval`.

    Examples
    --------
    >>> betas = np.arange(12.0).reshape(2, 3, 2)
    >>> betas[0, 1] = np.nan
    >>> trials, images = single_trials(betas)
    >>> trials.shape, images.tolist()
    ((5, 2), [0, 0, 1, 1, 1])
    """
    images, repeats = np.nonzero(np.isfinite(betas).any(axis=2))
    return betas[images, repeats], images


def averages_of(betas: np.ndarray, n: int) -> tuple[np.ndarray, NDArray[np.int64]]:
    """Averages of n trials each, of disjoint trials of an image; of all if there are fewer.

    Returns
    -------
    averages : array, shape (n_averages, n_voxels)
    images : array, shape (n_averages,)
    """
    trials, images = single_trials(betas)
    first = np.searchsorted(images, images)
    place = np.arange(len(images)) - first
    n_trials = np.bincount(images, minlength=len(betas))[images]
    group = place // n
    used = (group + 1) * n <= n_trials  # trials that fill no group of n are left out …
    used |= n_trials < n  # … but an image with fewer has one of them all
    trials, images, group = trials[used], images[used], group[used]
    _, starts = np.unique(images * (betas.shape[1] + 1) + group, return_index=True)
    parts = np.split(trials, starts[1:])
    return np.stack([_mean(part) for part in parts]), images[starts]


def _mean(trials: np.ndarray) -> np.ndarray:
    return average_repeats(trials[None])[0]
