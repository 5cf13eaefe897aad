"""Image-wise folds of a run, and what follows from them and the betas: computed once."""

from dataclasses import dataclass

import numpy as np

from brainenc.arrays import blocks, release
from brainenc.model_selection import Folds

#: Betas taken up at once where they are summed: temporary arrays of some MB.
_BLOCK_VALUES = 2**20


@dataclass(frozen=True, eq=False)  # arrays have no one truth value: identity it is
class Split:
    """Folds, with the unit of "z" in each and the order in which test images are scored.

    Attributes
    ----------
    folds : list of (train, test)
        Positions of images.
    scale : array, shape (n_folds, n_voxels), float32
        s.d. of the single trials of the fold's training images, the unit of "z"; NaN where it is
        0 or undefined.
    rows : array of int, shape (n_rows,)
        Test images, fold after fold; an image tested in two folds has two rows.
    fold_of_row : array of int, shape (n_rows,)
        Fold that tests each row.
    """

    folds: Folds
    scale: np.ndarray
    rows: np.ndarray
    fold_of_row: np.ndarray


def make_split(betas: np.ndarray, folds: Folds) -> Split:
    """Split of betas (n_images, n_repeats, n_voxels), which may be memory-mapped.

    Two passes over the training images of every fold.
    """
    tested = [test for _, test in folds]
    return Split(
        folds=folds,
        scale=np.stack([trial_sd(betas, train) for train, _ in folds]).astype(np.float32),
        rows=np.concatenate(tested),
        fold_of_row=np.repeat(np.arange(len(folds)), [len(test) for test in tested]),
    )


def trial_sd(betas: np.ndarray, images: np.ndarray | None = None) -> np.ndarray:
    """Standard deviation over single trials, (n_voxels,); NaN where it is 0 or undefined.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
    images : array of int, optional
        Those whose trials count; all by default.
    """
    n, total, squares = np.zeros((3, betas.shape[2]))
    images = np.arange(len(betas)) if images is None else images
    few = list(blocks(len(images), _BLOCK_VALUES // betas[0].size))

    def trials(some: slice) -> np.ndarray:
        found = betas[images[some]]
        release(betas)
        return found

    for some in few:
        found = trials(some)
        present = np.isfinite(found)
        n += present.sum(axis=(0, 1))
        total += np.where(present, found, 0).sum(axis=(0, 1), dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / n
        for some in few:
            deviations = trials(some) - mean
            deviations[~np.isfinite(deviations)] = 0
            squares += np.einsum("irv,irv->v", deviations, deviations)
        sd = np.sqrt(squares / n)
    return np.where(sd > 1e-6 * np.abs(mean), sd, np.nan)
