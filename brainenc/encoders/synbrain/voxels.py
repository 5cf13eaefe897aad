"""Voxels as SynBrain's networks see them: in an order of neighbours, standardised, read out."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from brainenc.arrays import row_blocks
from brainenc.conversion import plain_array
from brainenc.encoders.ensemble import voxel_moments
from brainenc.encoders.tokens import principal_components
from brainenc.repeats import average_repeats

#: Squared error, summed over voxels, of predicting the mean trial of NSD subject 1: the weights of
#: the KL divergence and of SoftCLIP were chosen beside an error of this size.
PUBLISHED_ERROR = 350 / 0.28

#: Principal components of the responses by which voxels are ordered.
N_COMPONENTS = 32

#: Voxels that are ordered by one component at the end.
LEAST = 4

#: Weight, in images, of the average voxel beside a voxel's own errors in the read-out.
POOLING = 50


@dataclass(frozen=True)
class VoxelSpace:
    """Order and scale of voxels for the networks.

    Attributes
    ----------
    order : array of int, shape (n_voxels,)
        Voxel at each position of the networks' array.
    mean, scale : array, shape (n_voxels,), float32
        Subtracted from the betas and divided by, voxels in the order of the betas.
    """

    order: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(
        cls, betas: np.ndarray, undefined: np.ndarray, *, standardize: bool, order: Any
    ) -> "VoxelSpace | None":
        """Space for betas (n_images, n_repeats, n_voxels) of the images to learn.

        Parameters
        ----------
        betas : array
            Trials are complete or NaN.
        undefined : array of bool, shape (n_voxels,)
            Voxels without data.
        standardize : bool
            z-score voxels over single trials, times one number for all voxels that gives trials the
            total variance of NSD subject 1.
        order : "response", "given" or array of int
            See `brainenc.SynBrainEncoder`.

        Returns
        -------
        VoxelSpace, or None if voxels stay as they are
        """
        n_voxels = betas.shape[2]
        given = isinstance(order, str) and order == "given"
        if given and not standardize:
            return None
        averages = average_repeats(betas).astype(np.float32, copy=False)
        mean, scale = np.zeros(n_voxels, np.float32), np.ones(n_voxels, np.float32)
        if standardize:
            mean, _ = voxel_moments(averages)
            scale = trial_sd_around(betas, mean)
            scale = scale / np.sqrt(PUBLISHED_ERROR / max(1, (~undefined).sum()))
        positions = np.arange(n_voxels)
        if not given:
            positions = order
            if isinstance(order, str):
                positions = response_order(averages)
        return cls(np.asarray(positions), mean, scale.astype(np.float32))

    def to_nets(self, betas: np.ndarray) -> np.ndarray:
        """Responses (..., n_voxels) as the networks see them, float32; NaN stays."""
        found = np.empty(betas.shape, dtype=np.float32)
        for rows in (slice(i, i + 256) for i in range(0, len(betas), 256)):
            found[rows] = ((betas[rows] - self.mean) / self.scale)[..., self.order]
        return found

    def from_nets(self, decoded: np.ndarray) -> np.ndarray:
        """Inverse of `to_nets`."""
        found = np.empty_like(decoded)
        found[..., self.order] = decoded
        found *= self.scale
        found += self.mean
        return found


def trial_sd_around(betas: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """s.d. (n_voxels,) of single trials around a mean; 1 where it is 0 or there are no data."""
    total, n = np.zeros(len(mean)), np.zeros(len(mean))
    for block in row_blocks(betas):
        deviations = block - mean
        n += np.isfinite(deviations).sum(axis=(0, 1))
        total += np.square(np.nan_to_num(deviations), dtype=np.float64).sum(axis=(0, 1))
    variance = total / np.maximum(n, 1)
    negligible = 1e-12 * np.square(mean, dtype=np.float64)
    return np.sqrt(np.where(variance > negligible, variance, 1))


def check_order(order: Any, n_voxels: int) -> Any:
    """The parameter `voxel_order`: a name, or each voxel's index once.

    Raises
    ------
    ValueError : unknown name, or indices that are not each voxel once.
    """
    if isinstance(order, str):
        if order not in ("given", "response"):
            raise ValueError(
                f"voxel_order={order!r} must be None, 'response', 'given' or the index of every "
                "voxel, in the order in which the networks are to see them"
            )
        return order
    found = plain_array(order, "voxel_order")
    if found.dtype.kind not in "iu" or not np.array_equal(np.sort(found), np.arange(n_voxels)):
        raise ValueError(
            f"voxel_order, {found.dtype} of shape {found.shape}, must be the index of each of the "
            f"{n_voxels} voxels once, from 0"
        )
    return found.astype(np.int64)


def response_order(averages: np.ndarray) -> np.ndarray:
    """Order in which voxels with similar responses are neighbours.

    Voxels are points, given by their correlations with the leading principal components of the
    responses. They are halved along the direction in which they vary most, and each half in the
    same way; halves are turned so that their ends meet.

    Parameters
    ----------
    averages : array, shape (n_images, n_voxels)
        NaN counts as the mean.

    Returns
    -------
    array of int, shape (n_voxels,)
    """
    mean, scale = voxel_moments(averages)
    sd, directions = principal_components(np.nan_to_num((averages - mean) / scale), N_COMPONENTS)
    return _halved((sd[:, None] * directions).T.astype(np.float64), np.arange(averages.shape[1]))


def _halved(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
    centred = points[rows] - points[rows].mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    along = centred @ vectors[:, -1]
    along = along * np.sign(along[np.abs(along).argmax()] or 1)  # independent of the sign found
    ordered = rows[np.argsort(along, kind="stable")]
    if len(rows) <= LEAST:
        return ordered
    left, right = (_halved(points, half) for half in np.array_split(ordered, 2))
    ends = [
        (np.linalg.norm(points[a[-1]] - points[b[0]]), turn)
        for turn, (a, b) in enumerate(
            [(left, right), (left[::-1], right), (left, right[::-1]), (left[::-1], right[::-1])]
        )
    ]
    turn = min(ends)[1]
    left, right = (left[::-1] if turn % 2 else left), (right[::-1] if turn >= 2 else right)
    return np.concatenate([left, right])


@dataclass(frozen=True)
class ReadOut:
    """Scale and offset of the prediction of each voxel.

    Attributes
    ----------
    scale, offset : array, shape (n_voxels,), float32
    """

    scale: np.ndarray
    offset: np.ndarray

    @classmethod
    def fit(cls, predictions: np.ndarray, targets: np.ndarray, mean: np.ndarray) -> "ReadOut":
        """Scale and offset with the smallest squared error on held-out images, shrunk.

        The slope of a voxel is shrunk towards that of all voxels, as if `POOLING` more images had
        that, and is at least 0; the mean of its error towards 0.

        Parameters
        ----------
        predictions, targets : array, shape (n_images, n_voxels)
            NaN where an image has no data.
        mean : array, shape (n_voxels,)
            Mean response of the images that were learnt.
        """
        known = np.isfinite(predictions) & np.isfinite(targets)
        n = np.maximum(known.sum(axis=0), 1)
        p, y = (np.where(known, part, 0).astype(np.float64) for part in (predictions, targets))
        p_mean, y_mean = p.sum(axis=0) / n, y.sum(axis=0) / n
        p, y = (np.where(known, part - centre, 0) for part, centre in ((p, p_mean), (y, y_mean)))
        of_y = np.square(y).sum(axis=0) / n
        unit = np.where(of_y > 0, of_y, 1)  # voxels on one scale
        xy, xx = (p * y).sum(axis=0) / n / unit, np.square(p).sum(axis=0) / n / unit
        seen = of_y > 0
        xy_all, xx_all = (part[seen].mean() if seen.any() else 0.0 for part in (xy, xx))
        numerator, denominator = n * xy + POOLING * xy_all, n * xx + POOLING * xx_all
        scale = np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), 0)
        scale = np.maximum(scale, 0)
        # A prediction equal to `mean` stays there, but for the error that held-out images show.
        offset = (1 - scale) * mean
        error = y_mean - (scale * p_mean + offset)
        return cls(
            scale.astype(np.float32), (offset + n / (n + POOLING) * error).astype(np.float32)
        )

    def apply(self, predictions: np.ndarray) -> np.ndarray:
        """Predictions (..., n_voxels) with scale and offset."""
        return predictions * self.scale + self.offset
