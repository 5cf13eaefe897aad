"""Predictions of held-out images to scores per voxel and per image, with bootstrap samples.

Test images of all folds are scored together. For r, predictions and responses are each centred
within their fold first: without that an encoder would be judged by the differences between fold
means (the mean response of a training set is low where that of its test set is high), and with r
averaged over folds instead, small test sets would give wild values. A fold with one test image
says nothing about r and is left out of it. Errors and R² are of the responses as they are, R²
about the mean of all test images: about the means of small folds, even good predictions would
look worse than the mean, since SS_tot loses a degree of freedom per fold and SS_res does not.

Bootstrap samples, and the intervals made of them, are of test images with the fitted encoders
left as they are: they say how far other test images would move the scores, not what other
training images would.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from brainenc import metrics
from brainenc.benchmarking.by_voxel import ByVoxel, of_voxels
from brainenc.metrics._sums import blocks, weighted_sums
from brainenc.model_selection import Folds, bootstrap_weights, permutation_p_values
from brainenc.repeats import average_repeats
from brainenc.storage import release, row_blocks, take_columns

#: Metrics with one value per voxel, and those with one value per set of images.
VOXEL_METRICS = ("r", "r_normalized", "r2", "mse", "mse_z", "mse_trials", "mse_z_trials")
IMAGE_METRICS = (
    "pattern_r",
    "pattern_mse",
    "pattern_cosine",
    "identification",
    "rdm_correlation",
    "cka",
)

#: Images × voxels that are shuffled at once: with their predictions they stay in the cache.
_SHUFFLE_ENTRIES = 2**18
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


@dataclass
class EncoderScores:
    """Scores of one encoder, with their bootstrap samples.

    Attributes
    ----------
    voxels : dict of metric to array, shape (n_voxels,)
    voxel_samples : dict of metric to array, shape (n_bootstraps, n_voxels), float32
        May be memory-mapped.
    folds : list of dict of metric to array, shape (n_voxels,)
        The same metrics within the test images of each fold; NaN where a fold has too few.
    images : dict of metric to float
    image_samples : dict of metric to array, shape (n_bootstraps,)
    p : array, shape (n_voxels,)
        Permutation p of r; NaN where r is undefined.
    """

    voxels: dict[str, np.ndarray]
    voxel_samples: dict[str, np.ndarray]
    folds: list[dict[str, np.ndarray]]
    images: dict[str, float]
    image_samples: dict[str, np.ndarray]
    p: np.ndarray


def score_encoder(
    predictions: np.ndarray | Sequence[np.ndarray],
    targets: Targets,
    *,
    n_permutations: int,
    random_state: Any,
    folder: Path | None = None,
) -> EncoderScores:
    """All scores of one encoder, some voxels at a time.

    Parameters
    ----------
    predictions : array, shape (n_rows, n_voxels), or list of arrays (n_test, n_voxels)
        In the order of `targets`, all or fold by fold; may be memory-mapped.
    targets : Targets
    n_permutations : int
    random_state : int, Generator or None
    folder : path, optional
        Where the samples of voxels go, which are then memory-mapped.

    Returns
    -------
    EncoderScores
    """
    if isinstance(predictions, np.ndarray):
        predictions = [predictions[rows] for rows in targets.folds]
    folds = [ByVoxel(targets.n_voxels) for _ in targets.folds]
    plain = ByVoxel(targets.n_voxels)
    with ByVoxel(targets.n_voxels, folder) as samples:
        for voxels in targets.blocks():
            some, predicted = targets.of_voxels(voxels), of_voxels(predictions, voxels)
            samples.add(voxel_metrics(predicted, some, some.weights))
            p = correlation_p_values(
                predicted, some, n_permutations=n_permutations, random_state=random_state
            )
            plain.add(voxel_metrics(predicted, some, None) | {"p": p})
            for fold, rows in enumerate(some.folds):
                folds[fold].add(voxel_metrics(predicted[rows], some.of_fold(fold), None))
        voxel_samples = samples.joined()
    found = plain.joined()
    images, image_samples = image_metrics(predictions, targets)
    return EncoderScores(
        p=found.pop("p"),
        voxels=found,
        voxel_samples=voxel_samples,
        folds=[fold.joined() for fold in folds],
        images=images,
        image_samples=image_samples,
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


def voxel_metrics(
    predictions: np.ndarray, targets: Targets, weights: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Voxel metrics: (n_voxels,), or with weights (n_bootstraps, n_voxels), float32."""
    averages = targets.averages
    if len(averages) == 0:
        return {metric: np.full(averages.shape[1], np.nan) for metric in VOXEL_METRICS}
    # Rows without a response must not enter the mean of the predictions of their fold either.
    paired = np.where(np.isnan(averages), np.nan, predictions)
    r = metrics.correlation(
        centre_within_folds(paired, targets.folds),
        centre_within_folds(averages, targets.folds),
        weights=weights,
    )
    r2 = metrics.r_squared(predictions, averages, weights=weights)
    if weights is not None:
        # Drawing n images with repetition shrinks the variance of the responses by (n - 1) / n,
        # and not that of the errors: left alone, intervals of R² would lie too low.
        n_images = len(np.unique(targets.images))
        r2 = 1 - (1 - r2) * (n_images - 1) / n_images
    found = {"r": r, "r_normalized": r / targets.ceiling_r, "r2": r2}
    found |= squared_errors(predictions, targets, weights)
    dtype = np.float64 if weights is None else np.float32
    return {metric: values.astype(dtype, copy=False) for metric, values in found.items()}


def squared_errors(
    predictions: np.ndarray, targets: Targets, weights: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Mean squared errors to averages and to single trials, plain and in z units, in one pass.

    Returns
    -------
    dict of metric to array, shape (n_voxels,) or (n_bootstraps, n_voxels)
        NaN where no image counts, or where a prediction is not finite or the unit of z undefined.
    """
    sizes = [fold.stop - fold.start for fold in targets.folds]
    fold_of_row = np.repeat(np.arange(len(sizes)), sizes)
    z = 1 / targets.scale.astype(np.float64) ** 2

    def statistics(images: slice, voxels: slice) -> Sequence[np.ndarray]:
        x = predictions[images, voxels].astype(np.float64)[:, None]
        error, n = _sum_of_squares(x, targets.averages[images, None, voxels])
        to_trials, n_trials = _sum_of_squares(x, targets.betas[images, :, voxels])
        unit = z[fold_of_row[images], voxels]
        return n, n_trials, error, error * unit, to_trials, to_trials * unit

    sets = np.ones((1, len(predictions))) if weights is None else weights.astype(np.float64)
    names = ("mse", "mse_z", "mse_trials", "mse_z_trials")
    found = {name: np.empty((len(sets), predictions.shape[1])) for name in names}
    for voxels, (n, n_trials, *sums) in weighted_sums(statistics, sets, predictions.shape[1]):
        for name, total, count in zip(names, sums, (n, n, n_trials, n_trials), strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                mean = total / count
            found[name][:, voxels] = np.where(np.isfinite(mean), mean, np.nan)
    return found if weights is not None else {name: mean[0] for name, mean in found.items()}


def _sum_of_squares(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Σ over repeats of (x − y)², (n, v), and how many there are, (n, 1) if all voxels agree."""
    missing = np.isnan(y)
    squares = np.square(x - y)
    squares[missing] = 0
    n = y.shape[1] - missing.sum(axis=1)
    return squares.sum(axis=1), n[:, :1] if (n == n[:, :1]).all() else n


def image_metrics(
    predictions: Sequence[np.ndarray], targets: Targets
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Image metrics and their bootstrap samples (n_bootstraps,).

    Each image is compared with the others of its fold, whose predictions come from the same fit.
    Voxels without data for some test image, or without a prediction, are left out, and so are
    images whose score is undefined, and folds with too few images to compare. NaN where nothing
    is left.

    Parameters
    ----------
    predictions : list of arrays, shape (n_test, n_voxels)
        Of each fold.
    targets : Targets
    """
    weights = targets.weights
    undefined = np.full(len(weights), np.nan)
    complete = _complete_voxels(predictions, targets)
    if not complete.any() or len(targets.rows) == 0:
        return dict.fromkeys(IMAGE_METRICS, np.nan), dict.fromkeys(IMAGE_METRICS, undefined)
    per_image: dict[str, list[Any]] = {name: [] for name in _PER_IMAGE}
    points: dict[str, list[Any]] = {name: [np.nan] for name in _PER_FOLD}
    in_folds: dict[str, list[Any]] = {name: [undefined] for name in _PER_FOLD}
    for fold, rows in enumerate(targets.folds):
        if rows.stop == rows.start:
            continue
        predicted = take_columns(predictions[fold], complete)
        measured = targets.fold_averages(fold)
        measured = measured if complete.all() else measured[:, complete]
        for name, score in _PER_IMAGE.items():
            per_image[name].append(score(predicted, measured))
        for name, compare in _PER_FOLD.items() if len(predicted) > 1 else ():
            points[name].append(compare(predicted, measured))
            in_folds[name].append(compare(predicted, measured, weights=weights[:, rows]))
    point = {name: float(fold_mean(found)) for name, found in points.items()}
    samples = {name: fold_mean(found) for name, found in in_folds.items()}
    for name, parts in per_image.items():
        values = np.concatenate(parts)
        defined = np.isfinite(values)
        total = weights[:, defined].sum(axis=1)
        with np.errstate(invalid="ignore"):
            samples[name] = weights[:, defined] @ values[defined] / total
        point[name] = float(values[defined].mean()) if defined.any() else np.nan
    return point, samples


def _complete_voxels(predictions: Sequence[np.ndarray], targets: Targets) -> np.ndarray:
    """Whether a voxel has a prediction and a response for every row, (n_voxels,)."""
    complete = np.ones(targets.n_voxels, dtype=bool)
    for fold, part in enumerate(predictions):
        complete &= np.isfinite(targets.fold_averages(fold)).all(axis=0)
        for some in row_blocks(part):
            complete &= np.isfinite(some).all(axis=0)
    return complete


def _identification(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    if len(predicted) < 2:
        return np.full(len(predicted), np.nan)
    return metrics.two_way_identification(predicted, measured)


def _rdm_correlation(predicted: np.ndarray, measured: np.ndarray, **weights: Any) -> Any:
    return metrics.rdm_correlation(metrics.rdm(predicted), metrics.rdm(measured), **weights)


_PER_IMAGE: dict[str, Callable[..., np.ndarray]] = {
    "pattern_r": metrics.pattern_correlation,
    "pattern_mse": metrics.pattern_mse,
    "pattern_cosine": metrics.pattern_cosine,
    "identification": _identification,
}
_PER_FOLD: dict[str, Callable[..., Any]] = {
    "rdm_correlation": _rdm_correlation,
    "cka": metrics.linear_cka,
}


def fold_mean(values: Sequence[Any]) -> np.ndarray:
    """Mean over folds, of those that are defined; NaN where none is."""
    stacked = np.stack([np.asarray(value) for value in values])
    n_defined = np.isfinite(stacked).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.nansum(stacked, axis=0) / n_defined


def correlation_p_values(
    predictions: np.ndarray, targets: Targets, *, n_permutations: int, random_state: Any
) -> np.ndarray:
    """Permutation p of each voxel's r.

    The statistic is the numerator of r: what r is divided by does not depend on which image goes
    with which. It is a sum over images of a response times the centred predictions of that image
    summed over its rows, so an image tested in several folds moves as one; shuffling its rows
    apart would take the likeness of its predictions for evidence. Images change places within
    their fold, or, where folds have images in common, within all that these connect. A missing
    response counts 0 (the mean) and moves along.

    Predictions are not fitted again to every shuffle. The p are exact where test images are never
    trained on; under cross-validation images are predicted from each other, and r of noise
    scatters up to √2 times more than shuffles show. On noise, ridge got p < .05 in 4 to 11 % of
    voxels and p < .005 in 1 to 2.5 %.

    Returns
    -------
    array, shape (n_voxels,); NaN where r is undefined.
    """
    if len(predictions) == 0:
        return np.full(predictions.shape[1], np.nan)
    paired = np.where(np.isnan(targets.averages), np.nan, predictions)
    predicted = centre_within_folds(paired, targets.folds)
    measured = centre_within_folds(targets.averages, targets.folds)
    defined = np.flatnonzero(np.isfinite(metrics.correlation(predicted, measured)))
    rows, strata = _rows_of_images(targets), _strata(targets)
    _, first_row = np.unique(targets.images, return_index=True)
    summed = rows @ np.nan_to_num(predicted)
    response = np.nan_to_num(centre_within_folds(targets.averages[first_row], strata))
    p = np.full(predictions.shape[1], np.nan)
    for block in blocks(len(defined), _SHUFFLE_ENTRIES // len(summed)):
        voxels = defined[block]
        p[voxels] = permutation_p_values(
            _Product(_unit_columns(summed[:, voxels]), _unit_columns(response[:, voxels])),
            strata,
            n_permutations=n_permutations,
            random_state=random_state,
        )
    return p


def _rows_of_images(targets: Targets) -> csr_array:
    """Indicator (n_images, n_rows) of the rows of each image."""
    n_rows = len(targets.images)
    ones = np.ones(n_rows, dtype=np.float32)
    return csr_array((ones, (targets.images, np.arange(n_rows))))


def _strata(targets: Targets) -> list[np.ndarray]:
    """Images connected by folds: those of one fold, and of folds that have images in common."""
    sizes = [fold.stop - fold.start for fold in targets.folds]
    fold_of_row = np.repeat(np.arange(len(sizes)), sizes)
    n_images = targets.images.max() + 1
    n_nodes = n_images + len(sizes)
    links = csr_array(
        (np.ones(len(fold_of_row)), (targets.images, n_images + fold_of_row)), (n_nodes, n_nodes)
    )
    _, labels = connected_components(links, directed=False)
    return [np.flatnonzero(labels[:n_images] == label) for label in np.unique(labels[:n_images])]


@dataclass
class _Product:
    """Products of predictions with responses in another order, per voxel."""

    predicted: np.ndarray
    measured: np.ndarray

    def __call__(self, order: np.ndarray) -> np.ndarray:
        return np.einsum("iv,iv->v", self.predicted, self.measured[order])


def _unit_columns(centred: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (centred / np.linalg.norm(centred, axis=0)).astype(np.float32)
