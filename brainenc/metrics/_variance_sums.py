"""Covariances across voxels of the variances that images show, in one pass over the voxels."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from brainenc.metrics._sums import blocks

#: Images × voxels taken up at once: 8 MiB of float64, and a few arrays of that size beside it.
_BLOCK_VALUES = 2**20


class ImageCovariances(NamedTuple):
    """Sums of products about the means over voxels, per image; rows of one image are added up."""

    draws: np.ndarray
    all: np.ndarray
    own: np.ndarray
    of_draws: float


def image_covariances(
    drawn: np.ndarray, trials: np.ndarray, fold: np.ndarray, image: np.ndarray
) -> tuple[int, float, ImageCovariances]:
    """Number of voxels, mean ratio, and covariances of images with draws, all images, themselves.

    That with all images is the sum over pairs: no pair is looked at, and no voxel twice.
    """
    n_voxels, ratio = 0, 0.0
    x, x_draws = np.zeros((2, len(trials)))
    x_all, x_own = np.zeros((2, image.max(initial=-1) + 1))
    d, d_own = np.zeros((2, len(drawn)))
    for voxels in blocks(trials.shape[1], _BLOCK_VALUES // max(1, len(trials))):
        of_draws, of_trials = _defined(drawn[:, voxels], trials[:, voxels])
        of_images = np.zeros((len(x_all), of_trials.shape[1]))
        np.add.at(of_images, image, of_trials)
        total = of_images.sum(axis=0)
        n_voxels += len(total)
        ratio += float((of_draws[fold].sum(axis=0) / total).sum())
        x += of_trials.sum(axis=1)
        x_draws += np.einsum("iv,iv->i", of_draws[fold], of_trials)
        x_all += of_images @ total
        x_own += np.einsum("iv,iv->i", of_images, of_images)
        d += of_draws.sum(axis=1)
        d_own += np.einsum("fv,fv->f", of_draws, of_draws)
    with np.errstate(divide="ignore", invalid="ignore"):  # no voxel left: NaN
        y, n = np.bincount(image, x), np.float64(n_voxels)
        centred = ImageCovariances(
            np.bincount(image, x_draws - x * d[fold] / n),
            x_all - y * y.sum() / n,
            x_own - y * y / n,
            float((d_own - d**2 / n)[fold].mean()),
        )
        return n_voxels, float(ratio / n), centred


def mean_covariances(parts: ImageCovariances, n_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean covariance of rows with draws, and of rows of different images with each other.

    Parameters
    ----------
    parts : ImageCovariances
    n_rows : array of int, shape (n_images,)
        Rows of each image.

    Returns
    -------
    means : array, shape (2,)
    without : array, shape (2, n_images)
        The same without each image.
    """
    n = n_rows.sum()
    with_others = parts.all - parts.own
    pairs = n**2 - np.square(n_rows).sum()
    totals = np.array([parts.draws.sum(), with_others.sum()])
    left = np.stack([totals[0] - parts.draws, totals[1] - 2 * with_others])
    with np.errstate(divide="ignore", invalid="ignore"):
        means = totals / np.array([n, pairs])
        return means, left / np.stack([n - n_rows, pairs - 2 * n_rows * (n - n_rows)])


def _defined(drawn: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels with variances on both sides, those of trials as float64 without NaN.

    An image without trials gets the mean, and the deviations of the others grow as much as if
    they were all there were: means stay what they are, and so do their errors.
    """
    trials = trials.astype(np.float64)
    present = np.isfinite(trials)
    n = present.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(present, trials, 0).sum(axis=0) / n
        trials = mean + np.where(present, trials - mean, 0) * (len(trials) / n)
    defined = np.isfinite(drawn).all(axis=0) & (mean > 0)
    return drawn[:, defined], trials[:, defined]


def check_variances(
    draw_variance: ArrayLike,
    trial_variance: ArrayLike,
    folds: ArrayLike | None,
    images: ArrayLike | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Variances (n_folds, n_voxels), (n_images, n_voxels); fold and number of each image.

    Raises
    ------
    ValueError : shapes that do not match, or more than one fold and not said which image is whose.
    """
    drawn = np.atleast_2d(np.asarray(draw_variance, dtype=np.float64))
    trials = trial_variance if isinstance(trial_variance, np.ndarray) else np.array(trial_variance)
    if drawn.ndim != 2 or trials.ndim != 2 or drawn.shape[1] != trials.shape[1]:
        raise ValueError(
            f"draw_variance {drawn.shape} and trial_variance {trials.shape} must be (n_folds, "
            "n_voxels) and (n_images, n_voxels); `variances` makes them of draws and trials"
        )
    if folds is None and len(drawn) > 1:
        raise ValueError(
            f"draw_variance has {len(drawn)} rows: folds must say which belongs to which image"
        )
    fold = np.zeros(len(trials), dtype=np.int64) if folds is None else np.asarray(folds)
    image = np.arange(len(trials)) if images is None else np.asarray(images)
    for name, labels in {"folds": fold, "images": image}.items():
        if labels.shape != (len(trials),):
            raise ValueError(f"{name} {labels.shape} must have one number per image, {len(trials)}")
    return drawn, trials, fold, np.unique(image, return_inverse=True)[1]
