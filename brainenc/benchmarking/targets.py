"""What predictions are scored against: averages and single trials of the test images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from brainenc.arrays import blocks, release, take_columns
from brainenc.model_selection import Folds, bootstrap_weights
from brainenc.repeats import average_repeats

#: Betas taken up at once where they are summed: temporary arrays of some MB.
_BLOCK_VALUES = 2**20
#: Betas of all test images that are scored at once: 128 MiB, and a few arrays of averages.
_TRIAL_VALUES = 2**25


@dataclass(frozen=True)
class Targets:
    """What predictions are compared with: the test images of all folds, fold after fold.

    Betas may be larger than memory: `of_voxels` and `of_fold` take up a part of them.

    Attributes
    ----------
    source : array, shape (n_images, n_repeats, n_voxels)
        Single trials; may be memory-mapped.
    rows : array of int, shape (n_rows,)
        Test images in `source`; an image tested in two folds has two rows.
    folds : list of slice
        Rows of each fold.
    images : array of int, shape (n_rows,)
        Which image each row is of, counted from 0 among the images tested.
    scale : array, shape (n_folds, n_voxels)
        s.d. of the single trials of the fold's training images, the unit of "z"; NaN where it is
        0 or undefined.
    ceiling_r : array, shape (n_voxels,)
        Noise ceiling of r against the averages; NaN where it is undefined or too low to divide by.
    weights : array, shape (n_bootstraps, n_rows)
        How often each image is drawn in each bootstrap sample, the same for every encoder.
    """

    source: np.ndarray
    rows: np.ndarray
    folds: list[slice]
    images: np.ndarray
    scale: np.ndarray
    ceiling_r: np.ndarray
    weights: np.ndarray

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return self.source.shape[2]

    @cached_property
    def betas(self) -> np.ndarray:
        """Single trials of the rows, (n_rows, n_repeats, n_voxels), in memory."""
        in_order = len(self.rows) == len(self.source) and (np.diff(self.rows) == 1).all()
        return self.source if in_order else self.source[self.rows]

    @cached_property
    def averages(self) -> np.ndarray:
        """Repeat-averaged betas of the rows, (n_rows, n_voxels), in memory."""
        return average_repeats(self.betas)

    def trials(self, voxels: Any, rows: Any = slice(None)) -> np.ndarray:
        """Single trials of some voxels and rows, (n_rows, n_repeats, n_voxels)."""
        return take_columns(self.source, voxels, self.rows[rows])

    def blocks(self) -> Iterator[slice]:
        """Voxels that are taken up at once."""
        return blocks(self.n_voxels, _TRIAL_VALUES // max(1, len(self.rows) * self.source.shape[1]))

    def of_voxels(self, voxels: slice) -> "Targets":
        """The same images and some voxels, in memory."""
        return replace(
            self,
            source=self.trials(voxels),
            rows=np.arange(len(self.rows)),
            scale=self.scale[:, voxels],
            ceiling_r=self.ceiling_r[voxels],
        )

    def of_fold(self, fold: int) -> "Targets":
        """The test images of one fold alone."""
        rows = self.folds[fold]
        return replace(
            self,
            rows=self.rows[rows],
            folds=[slice(0, rows.stop - rows.start)],
            images=self.images[rows],
            scale=self.scale[fold : fold + 1],
            weights=self.weights[:, rows],
        )

    def fold_averages(self, fold: int) -> np.ndarray:
        """Repeat-averaged betas of one fold, (n_test, n_voxels)."""
        rows = self.rows[self.folds[fold]]
        averages = np.empty((len(rows), self.n_voxels), self.source.dtype)
        for some in blocks(len(rows), _BLOCK_VALUES // self.source[0].size):
            averages[some] = average_repeats(take_columns(self.source, slice(None), rows[some]))
        return averages


def make_targets(
    betas: np.ndarray, folds: Folds, ceiling_r: np.ndarray, n_bootstraps: int, random_state: Any
) -> Targets:
    """Targets of all folds, with bootstrap weights drawn once for all encoders."""
    rows = np.concatenate([test for _, test in folds])
    ends = np.cumsum([len(test) for _, test in folds])
    slices = [slice(end - len(test), end) for end, (_, test) in zip(ends, folds, strict=True)]
    images, image_of_row = np.unique(rows, return_inverse=True)
    weights = bootstrap_weights(len(images), n_bootstraps, random_state=random_state)
    return Targets(
        source=betas,
        rows=rows,
        folds=slices,
        images=image_of_row,
        scale=np.stack([trial_sd(betas, train) for train, _ in folds]).astype(np.float32),
        ceiling_r=ceiling_r,
        weights=weights[:, image_of_row],
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


def centre_within_folds(array: np.ndarray, folds: Sequence[Any]) -> np.ndarray:
    """Rows minus the mean of their fold, column by column.

    NaN entries stay and do not count; an entry alone in its fold becomes NaN.
    """
    centred = np.empty_like(array)
    for fold in folds:
        part = array[fold]
        present = np.isfinite(part)
        n = present.sum(axis=0)
        with np.errstate(invalid="ignore"):
            mean = np.where(present, part, 0).sum(axis=0, dtype=np.float64) / n
            centred[fold] = part - np.where(n > 1, mean, np.nan)
    return centred
