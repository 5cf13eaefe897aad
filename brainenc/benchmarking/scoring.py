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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from brainenc import metrics
from brainenc.metrics._sums import blocks, weighted_sums
from brainenc.model_selection import Folds, bootstrap_weights, permutation_p_values
from brainenc.repeats import average_repeats

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


@dataclass(frozen=True)
class Targets:
    """What predictions are compared with: the test images of all folds, fold after fold.

    Attributes
    ----------
    betas : array, shape (n_rows, n_repeats, n_voxels)
        Single trials; an image tested in two folds has two rows.
    averages : array, shape (n_rows, n_voxels)
        Repeat-averaged betas.
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

    betas: np.ndarray
    averages: np.ndarray
    folds: list[slice]
    images: np.ndarray
    scale: np.ndarray
    ceiling_r: np.ndarray
    weights: np.ndarray

    def of_fold(self, fold: int) -> "Targets":
        """The test images of one fold alone."""
        rows = self.folds[fold]
        return replace(
            self,
            betas=self.betas[rows],
            averages=self.averages[rows],
            folds=[slice(0, rows.stop - rows.start)],
            images=self.images[rows],
            scale=self.scale[fold : fold + 1],
            weights=self.weights[:, rows],
        )


def make_targets(
    betas: np.ndarray, folds: Folds, ceiling_r: np.ndarray, n_bootstraps: int, random_state: Any
) -> Targets:
    """Targets of all folds, with bootstrap weights drawn once for all encoders."""
    rows = np.concatenate([test for _, test in folds])
    ends = np.cumsum([len(test) for _, test in folds])
    slices = [slice(end - len(test), end) for end, (_, test) in zip(ends, folds, strict=True)]
    images, image_of_row = np.unique(rows, return_inverse=True)
    weights = bootstrap_weights(len(images), n_bootstraps, random_state=random_state)
    tested = betas[rows]
    return Targets(
        betas=tested,
        averages=average_repeats(tested),
        folds=slices,
        images=image_of_row,
        scale=np.stack([trial_sd(betas[train]) for train, _ in folds]).astype(np.float32),
        ceiling_r=ceiling_r,
        weights=weights[:, image_of_row],
    )


def trial_sd(betas: np.ndarray) -> np.ndarray:
    """Standard deviation over single trials, (n_voxels,); NaN where it is 0 or undefined."""
    n, total, squares = np.zeros((3, betas.shape[2]))
    few = list(blocks(len(betas), _BLOCK_VALUES // betas[0].size))
    for images in few:
        present = np.isfinite(betas[images])
        n += present.sum(axis=(0, 1))
        total += np.where(present, betas[images], 0).sum(axis=(0, 1), dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / n
        for images in few:
            deviations = betas[images] - mean
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
    predictions: np.ndarray, targets: Targets, *, n_permutations: int, random_state: Any
) -> EncoderScores:
    """All scores of one encoder.

    Parameters
    ----------
    predictions : array, shape (n_rows, n_voxels)
        In the order of `targets`.
    targets : Targets
    n_permutations : int
    random_state : int, Generator or None

    Returns
    -------
    EncoderScores
    """
    images, image_samples = image_metrics(predictions, targets)
    return EncoderScores(
        voxels=voxel_metrics(predictions, targets, None),
        voxel_samples=voxel_metrics(predictions, targets, targets.weights),
        folds=[
            voxel_metrics(predictions[rows], targets.of_fold(fold), None)
            for fold, rows in enumerate(targets.folds)
        ],
        images=images,
        image_samples=image_samples,
        p=correlation_p_values(
            predictions, targets, n_permutations=n_permutations, random_state=random_state
        ),
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
    predictions: np.ndarray, targets: Targets
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Image metrics and their bootstrap samples (n_bootstraps,).

    Each image is compared with the others of its fold, whose predictions come from the same fit.
    Voxels without data for some test image, or without a prediction, are left out, and so are
    images whose score is undefined, and folds with too few images to compare. NaN where nothing
    is left.
    """
    complete = np.isfinite(predictions).all(axis=0) & np.isfinite(targets.averages).all(axis=0)
    weights = targets.weights
    if not complete.any() or len(predictions) == 0:
        undefined = np.full(len(weights), np.nan)
        return dict.fromkeys(IMAGE_METRICS, np.nan), dict.fromkeys(IMAGE_METRICS, undefined)
    predicted, measured = predictions[:, complete], targets.averages[:, complete]
    per_image = {
        "pattern_r": metrics.pattern_correlation(predicted, measured),
        "pattern_mse": metrics.pattern_mse(predicted, measured),
        "pattern_cosine": metrics.pattern_cosine(predicted, measured),
        "identification": np.concatenate(
            [_identification(predicted[fold], measured[fold]) for fold in targets.folds]
        ),
    }
    point, samples = {}, {}
    for name, values in per_image.items():
        defined = np.isfinite(values)
        total = weights[:, defined].sum(axis=1)
        with np.errstate(invalid="ignore"):
            samples[name] = weights[:, defined] @ values[defined] / total
        point[name] = float(values[defined].mean()) if defined.any() else np.nan
    large = [fold for fold in targets.folds if fold.stop - fold.start > 1]
    for name, score in (("rdm_correlation", _rdm_correlation), ("cka", metrics.linear_cka)):
        parts = [(predicted[fold], measured[fold], weights[:, fold]) for fold in large]
        point[name] = float(fold_mean([np.nan, *(score(p, m) for p, m, _ in parts)]))
        undefined = np.full(len(weights), np.nan)
        samples[name] = fold_mean([undefined, *(score(p, m, weights=w) for p, m, w in parts)])
    return point, samples


def _identification(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    if len(predicted) < 2:
        return np.full(len(predicted), np.nan)
    return metrics.two_way_identification(predicted, measured)


def _rdm_correlation(predicted: np.ndarray, measured: np.ndarray, **weights: Any) -> Any:
    return metrics.rdm_correlation(metrics.rdm(predicted), metrics.rdm(measured), **weights)


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
