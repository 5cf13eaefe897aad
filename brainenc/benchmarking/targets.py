"""Targets of scores: averages and single trials of the test images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from brainenc.arrays import blocks, take_columns
from brainenc.benchmarking.split import Split
from brainenc.metrics import NoiseCeiling
from brainenc.metrics.representational import Geometry
from brainenc.metrics.voxelwise import Correlations
from brainenc.model_selection import bootstrap_weights
from brainenc.repeats import average_repeats, shared_number

#: Betas at a time in sums: temporary arrays of a few MB.
_BLOCK_VALUES = 2**20
#: Betas of all test images scored at a time: 128 MiB, and a few arrays of averages.
_TRIAL_VALUES = 2**25
#: Betas, and entries of an array of samples, up to which what all encoders share is kept between
#: their scores: 32 MiB of betas, and six or so arrays of 8 MiB.
_KEPT_VALUES, _KEPT_SAMPLES = 2**23, 2**20


@dataclass(frozen=True)
class Targets:
    """Responses to the test images of all folds, in the order of the folds.

    Betas may be larger than memory: `of_voxels` and `of_fold` load a part of them.

    Attributes
    ----------
    source : array, shape (n_images, n_repeats, n_voxels)
        Single trials; may be memory-mapped.
    rows : array of int, shape (n_rows,)
        Test images in `source`; an image tested in two folds has two rows.
    folds : list of slice
        Rows of each fold.
    images : array of int, shape (n_rows,)
        Image of each row, counted from 0 among the test images.
    fold_of_row : array of int, shape (n_rows,)
        Fold that tests each row.
    scale : array, shape (n_folds, n_voxels)
        Unit of "z" in each fold, as in `Split`.
    ceiling : NoiseCeiling
        Ceiling of r against the averages.
    enough : array of bool, shape (n_voxels,)
        Voxels whose ceiling is high enough for normalisation.
    n_trials : array, shape (n_voxels,)
        Effective number of averaged trials; see `trials_averaged`.
    trials_per_draw : float, or array, shape (n_voxels,)
        Trials whose noise a draw has; see `trials_per_draw`.
    weights : array, shape (n_bootstraps, n_rows)
        Count of each image in each bootstrap sample, the same for every encoder.
    """

    source: np.ndarray
    rows: np.ndarray
    folds: list[slice]
    images: np.ndarray
    fold_of_row: np.ndarray
    scale: np.ndarray
    ceiling: NoiseCeiling
    enough: np.ndarray
    n_trials: np.ndarray
    trials_per_draw: float | np.ndarray
    weights: np.ndarray

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return self.source.shape[2]

    @cached_property
    def betas(self) -> np.ndarray:
        """Single trials of the rows, (n_rows, n_repeats, n_voxels), in memory."""
        if len(self.rows) and (np.diff(self.rows) == 1).all():  # a view
            return self.source[self.rows[0] : self.rows[-1] + 1]
        return self.source[self.rows]

    @cached_property
    def averages(self) -> np.ndarray:
        """Repeat-averaged betas of the rows, (n_rows, n_voxels), in memory."""
        return average_repeats(self.betas)

    def trials(self, voxels: Any, rows: Any = slice(None)) -> np.ndarray:
        """Single trials of some voxels and rows, (n_rows, n_repeats, n_voxels)."""
        return take_columns(self.source, voxels, self.rows[rows])

    def blocks(self, n_images: int | None = None) -> Iterator[slice]:
        """Blocks of voxels to load at a time, with the trials of all rows or of `n_images`."""
        n_images = len(self.rows) if n_images is None else n_images
        return blocks(self.n_voxels, _TRIAL_VALUES // max(1, n_images * self.source.shape[1]))

    @cached_property
    def are_kept(self) -> bool:
        """Whether these are small enough to keep what the scores of all encoders share."""
        n_values = len(self.rows) * self.source.shape[1] * self.n_voxels
        n_samples = len(self.weights) * max(self.n_voxels, len(self.rows))
        return n_values <= _KEPT_VALUES and n_samples <= _KEPT_SAMPLES

    def of_voxels(self, voxels: slice) -> "Targets":
        """Targets of some voxels, in memory."""
        if self.are_kept and voxels == slice(0, self.n_voxels):
            return self._of_all_voxels
        return self._of_voxels(voxels)

    @cached_property
    def _of_all_voxels(self) -> "Targets":
        return self._of_voxels(slice(0, self.n_voxels))

    def _of_voxels(self, voxels: slice) -> "Targets":
        per_draw = self.trials_per_draw
        return replace(
            self,
            source=self.trials(voxels),
            rows=np.arange(len(self.rows)),
            scale=self.scale[:, voxels],
            ceiling=self.ceiling.of_voxels(voxels),
            enough=self.enough[voxels],
            n_trials=self.n_trials[voxels],
            trials_per_draw=per_draw[voxels] if isinstance(per_draw, np.ndarray) else per_draw,
        )

    def by_fold(self) -> Iterable["Targets"]:
        """Targets of each fold."""
        return self._by_fold if self.are_kept else map(self.of_fold, range(len(self.folds)))

    @cached_property
    def _by_fold(self) -> list["Targets"]:
        return [self.of_fold(fold) for fold in range(len(self.folds))]

    @cached_property
    def shared(self) -> dict[str, Any]:
        """What the scores of all encoders share, by name: filled by them, if `are_kept`."""
        return {}

    @cached_property
    def centred(self) -> np.ndarray:
        """Averages minus the mean of their fold, as of `centre_within_folds`."""
        return centre_within_folds(self.averages, self.folds)

    @cached_property
    def correlations(self) -> Correlations:
        """Correlations of centred predictions with `centred`, for every bootstrap sample."""
        return Correlations(self.centred, self.weights)

    def geometry(self, fold: int) -> Geometry:
        """Geometry of the averages of a fold of two or more images, under bootstrap weights."""
        return self._geometries[fold] if self.are_kept else self._geometry(fold)

    @cached_property
    def _geometries(self) -> dict[int, Geometry]:
        large = (fold for fold, rows in enumerate(self.folds) if rows.stop - rows.start > 1)
        return {fold: self._geometry(fold) for fold in large}

    def _geometry(self, fold: int) -> Geometry:
        return Geometry(self.fold_averages(fold), self.weights[:, self.folds[fold]])

    def of_fold(self, fold: int) -> "Targets":
        """Targets of one fold."""
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

    def normalized(self, r: np.ndarray, ceiling: NoiseCeiling | None = None) -> np.ndarray:
        """R divided by a noise ceiling; NaN in voxels whose ceiling is too low.

        Parameters
        ----------
        r : array, shape (..., n_voxels)
            Correlations with the averages.
        ceiling : NoiseCeiling, optional
            By default the ceiling of predictions; draws have another.

        Raises
        ------
        ValueError : the ceiling is not in space "r", or is for other numbers of averaged trials.
        """
        ceiling = self.ceiling if ceiling is None else ceiling
        # A voxel without data has no number of trials, but its r is NaN.
        n_trials = np.where(np.isnan(self.n_trials), ceiling.n_trials, self.n_trials)
        n_trials = shared_number(n_trials)  # for a short message
        normalized = ceiling.normalize(r, space="r", n_trials=n_trials)
        return np.where(self.enough, normalized, np.nan)

    def fold_averages(self, fold: int) -> np.ndarray:
        """Repeat-averaged betas of one fold, (n_test, n_voxels)."""
        rows = self.rows[self.folds[fold]]
        averages = np.empty((len(rows), self.n_voxels), self.source.dtype)
        for some in blocks(len(rows), _BLOCK_VALUES // self.source[0].size):
            averages[some] = average_repeats(take_columns(self.source, slice(None), rows[some]))
        return averages


def make_targets(
    betas: np.ndarray,
    split: Split,
    ceiling: NoiseCeiling,
    *,
    n_trials: float | np.ndarray,
    trials_per_draw: float | np.ndarray = 1.0,
    min_ceiling: float,
    n_bootstraps: int,
    random_state: Any,
) -> Targets:
    """Targets of all folds, with bootstrap weights drawn once for all encoders.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
    split : Split
    ceiling, n_trials, trials_per_draw
        As in `Targets`.
    min_ceiling : float
        Smallest ceiling for normalisation, above 0.
    n_bootstraps : int
    random_state : int, Generator or None
    """
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
        ceiling=ceiling,
        enough=(ceiling.values >= min_ceiling) & (ceiling.values > 0),
        n_trials=np.broadcast_to(n_trials, split.scale.shape[1:]),
        trials_per_draw=trials_per_draw,
        weights=weights[:, image_of_row],
    )


def centre_within_folds(array: np.ndarray, folds: Sequence[Any]) -> np.ndarray:
    """Rows minus the mean of their fold, column by column.

    NaN stays NaN and is left out of means; a single entry in its fold becomes NaN.
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
