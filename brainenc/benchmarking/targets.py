"""What predictions are scored against: averages and single trials of the test images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from brainenc.arrays import blocks, take_columns
from brainenc.benchmarking.split import Split
from brainenc.model_selection import bootstrap_weights
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
    fold_of_row : array of int, shape (n_rows,)
        Fold that tests each row.
    scale : array, shape (n_folds, n_voxels)
        Unit of "z" in each fold, as in `Split`.
    ceiling_r : array, shape (n_voxels,)
        Noise ceiling of r against the averages; NaN where it is undefined or too low to divide by.
    weights : array, shape (n_bootstraps, n_rows)
        How often each image is drawn in each bootstrap sample, the same for every encoder.
    """

    source: np.ndarray
    rows: np.ndarray
    folds: list[slice]
    images: np.ndarray
    fold_of_row: np.ndarray
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
            fold_of_row=np.zeros(rows.stop - rows.start, dtype=int),
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
    betas: np.ndarray, split: Split, ceiling_r: np.ndarray, n_bootstraps: int, random_state: Any
) -> Targets:
    """Targets of all folds, with bootstrap weights drawn once for all encoders."""
    ends = np.cumsum([len(test) for _, test in split.folds])
    slices = [slice(end - len(test), end) for end, (_, test) in zip(ends, split.folds, strict=True)]
    images, image_of_row = np.unique(split.rows, return_inverse=True)
    weights = bootstrap_weights(len(images), n_bootstraps, random_state=random_state)
    return Targets(
        source=betas,
        rows=split.rows,
        folds=slices,
        images=image_of_row,
        fold_of_row=split.fold_of_row,
        scale=split.scale,
        ceiling_r=ceiling_r,
        weights=weights[:, image_of_row],
    )


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
