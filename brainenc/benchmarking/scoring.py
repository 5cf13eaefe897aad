"""Scores of held-out predictions per voxel and per image, with bootstrap samples.

Test images of all folds are scored together. For r, predictions and responses are first centred
within their fold: otherwise r would depend on differences between fold means (the mean response of
a training set is low if that of its test set is high), and an average of r over folds would be
noisy for small test sets. A fold with one test image is left out of r. Errors and R² use uncentred
responses, R² about the mean of all test images: about the means of small folds, even good
predictions would score below the mean, since SS_tot loses a degree of freedom per fold and SS_res
does not.

Bootstrap samples and intervals resample test images for fixed fitted encoders: they describe
variation over other test images, not over other training images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from brainenc import metrics
from brainenc.arrays import blocks, row_blocks, take_columns
from brainenc.benchmarking.by_voxel import ByVoxel, of_voxels
from brainenc.benchmarking.permutation import correlation_p_values
from brainenc.benchmarking.targets import Targets, centre_within_folds
from brainenc.metrics.representational import Geometry
from brainenc.metrics.sums import (
    add_in_place,
    first_finite,
    round_off,
    sum_block,
    variance,
    weighted_sums,
)

#: Metrics with one value per voxel, and those with one value per set of images.
VOXEL_METRICS = ("r", "r_normalized", "r2", "mse", "mse_z", "mse_trials", "mse_z_trials")
ERRORS = ("mse", "mse_z", "mse_trials", "mse_z_trials")
IMAGE_METRICS = (
    "pattern_r",
    "pattern_mse",
    "pattern_cosine",
    "identification",
    "rdm_correlation",
    "cka",
)


#: Images per fold, on average, from which errors are summed fold by fold.
_FOLD_IMAGES = 64


@dataclass
class EncoderScores:
    """Scores of one encoder, with their bootstrap samples.

    Attributes
    ----------
    voxels : dict of metric to array, shape (n_voxels,)
    voxel_samples : dict of metric to array, shape (n_bootstraps, n_voxels), float32
        May be memory-mapped.
    folds : list of dict of metric to array, shape (n_voxels,)
        The same metrics within the test images of each fold; NaN if a fold has too few.
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
    """All scores of one encoder, in blocks of voxels.

    Parameters
    ----------
    predictions : array, shape (n_rows, n_voxels), or list of arrays (n_test, n_voxels)
        In the order of `targets`, as one array or per fold; may be memory-mapped.
    targets : Targets
    n_permutations : int
    random_state : int, Generator or None
    folder : path, optional
        Folder for samples of voxels, which are then memory-mapped.

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
            centred = centred_predictions(predicted, some)
            samples.add(voxel_metrics(predicted, some, some.weights, centred))
            p = correlation_p_values(
                predicted,
                some,
                n_permutations=n_permutations,
                random_state=random_state,
                centred=centred,
            )
            plain.add(voxel_metrics(predicted, some, None, centred) | {"p": p})
            for fold, (rows, here) in enumerate(zip(some.folds, some.by_fold(), strict=True)):
                folds[fold].add(voxel_metrics(predicted[rows], here, None, centred[rows]))
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


def voxel_metrics(
    predictions: np.ndarray,
    targets: Targets,
    weights: np.ndarray | None,
    centred: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Voxel metrics: (n_voxels,), or with weights (n_bootstraps, n_voxels), float32.

    `centred` are `centred_predictions`, where a caller has them.
    """
    averages = targets.averages
    if len(averages) == 0:
        return {metric: np.full(averages.shape[1], np.nan) for metric in VOXEL_METRICS}
    centred = centred_predictions(predictions, targets) if centred is None else centred
    if weights is targets.weights and targets.are_kept:
        r = targets.correlations(centred)
    else:
        r = metrics.correlation(centred, targets.centred, weights=weights)
    found = {"r": r, "r_normalized": targets.normalized(r)}
    if weights is None:
        found["r2"] = metrics.r_squared(predictions, averages)
        return found | squared_errors(predictions, targets)
    found |= resampled_errors(predictions, targets, weights)
    # A bootstrap shrinks the variance of responses by (n - 1) / n, but not that of errors:
    # without this correction, intervals of R² would be too low.
    n_images = len(np.unique(targets.images))
    found["r2"] = 1 - (1 - found["r2"]) * (n_images - 1) / n_images
    return {metric: values.astype(np.float32, copy=False) for metric, values in found.items()}


def centred_predictions(predictions: np.ndarray, targets: Targets) -> np.ndarray:
    """Predictions minus the mean of their fold, of the rows with a response: NaN elsewhere.

    Rows without a response must not enter the mean of the predictions of their fold either.
    """
    paired = np.where(np.isnan(targets.averages), np.nan, predictions)
    return centre_within_folds(paired, targets.folds)


def squared_errors(predictions: np.ndarray, targets: Targets) -> dict[str, np.ndarray]:
    """Mean squared errors to averages and to single trials, plain and in z units, in one pass.

    Returns
    -------
    dict of metric to array, shape (n_voxels,)
        NaN where no image counts, or where a prediction is not finite or the unit of z undefined.
    """
    z = 1 / targets.scale.astype(np.float64) ** 2

    def statistics(images: slice, voxels: slice) -> Sequence[np.ndarray]:
        x, y = predictions[images, voxels], targets.averages[images, voxels]
        trials = targets.betas[images, :, voxels]
        n, n_trials = _numbers(y, trials)
        error, to_trials = _errors(x, y, trials)
        unit = z[targets.fold_of_row[images], voxels]
        return n, n_trials, error, error * unit, to_trials, to_trials * unit

    found = {name: np.empty(predictions.shape[1]) for name in ERRORS}
    ones = np.ones((1, len(predictions)))
    for voxels, (n, n_trials, *sums) in weighted_sums(statistics, ones, predictions.shape[1]):
        for name, total, count in zip(ERRORS, sums, (n, n, n_trials, n_trials), strict=True):
            found[name][voxels] = _ratio(total, count)[0]
    return found


def resampled_errors(
    predictions: np.ndarray, targets: Targets, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """R² and the metrics of `squared_errors` for every set of weights, from the same sums.

    The unit of z is that of a fold. Sums are taken fold by fold, if folds are not very small: the
    matrix products, which take most of the time, are then those of errors in units of betas alone.

    Returns
    -------
    dict of metric to array, shape (n_bootstraps, n_voxels)
    """
    sets, n_voxels = weights.astype(np.float64), predictions.shape[1]
    z = 1 / targets.scale.astype(np.float64) ** 2
    found = {name: np.empty((len(sets), n_voxels)) for name in ("r2", *ERRORS)}
    large = len(predictions) >= _FOLD_IMAGES * len(targets.folds)
    keep = weights is targets.weights and targets.are_kept
    kept = targets.shared.setdefault("sums of resampled errors", {}) if keep else {}

    def summed(terms: Callable[..., Sequence[np.ndarray]], voxels: slice) -> list[np.ndarray]:
        """Sums over images of what `terms` gives of some rows and the unit of z, in z last."""
        sums: list[np.ndarray] = []
        for fold, rows in enumerate(targets.folds) if large else [(0, slice(None))]:
            unit = z[fold, voxels] if large else z[targets.fold_of_row, voxels]
            if rows.start == rows.stop and large:
                continue
            of_rows = partial(terms, rows, voxels, None if large else unit)
            width = len(range(n_voxels)[voxels])
            ((_, found_here),) = weighted_sums(of_rows, sets[:, rows], width)
            if large and terms is error_terms:
                found_here += [found_here[0] * unit, found_here[1] * unit]
            sums = add_in_place(sums, found_here)
        return sums

    def error_terms(
        rows: slice, voxels: slice, unit: np.ndarray | None, images: slice, _: slice
    ) -> Sequence[np.ndarray]:
        """Squared errors to averages and to trials; with `unit` per image also in units of z."""
        parts = (predictions[rows, voxels], targets.averages[rows, voxels])
        x, y, trials = (part[images] for part in (*parts, targets.betas[rows, :, voxels]))
        error, to_trials = _errors(x, y, trials)
        in_z = [] if unit is None else [error * unit[images], to_trials * unit[images]]
        return error, to_trials, *in_z

    def target_terms(
        rows: slice, voxels: slice, unit: Any, images: slice, _: slice
    ) -> Sequence[np.ndarray]:
        """Numbers of averages and of trials, and averages about a value of the voxel."""
        y, trials = targets.averages[rows, voxels][images], targets.betas[rows, :, voxels][images]
        from_shift = y - first_finite(targets.averages[:, voxels])
        from_shift[np.isnan(y)] = 0
        return *_numbers(y, trials), from_shift, np.square(from_shift)

    for voxels in blocks(n_voxels, sum_block(len(sets))):
        shift = first_finite(targets.averages[:, voxels])
        of_targets = kept.get(voxels.start)
        if of_targets is None:
            of_targets = summed(target_terms, voxels)
            if keep:
                kept[voxels.start] = of_targets
        n, n_trials, sum_y, sum_yy = of_targets
        error, to_trials, in_z, to_trials_in_z = summed(error_terms, voxels)
        of_trials = {"mse_trials": to_trials, "mse_z_trials": to_trials_in_z}
        for name, total in {"mse": error, "mse_z": in_z}.items():
            found[name][:, voxels] = _ratio(total, n)
        for name, total in of_trials.items():
            found[name][:, voxels] = _ratio(total, n_trials)
        floor = round_off(targets.averages, shift)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean, spread = error / n, variance(n, sum_y, sum_yy, floor)
        found["r2"][:, voxels] = 1 - _ratio(mean, spread)
    return found


def _errors(x: np.ndarray, y: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors to averages and, summed over them, to trials, per image and voxel."""
    predicted = x.astype(np.float64)[:, None]
    return _sum_of_squares(predicted, y[:, None]), _sum_of_squares(predicted, trials)


def _sum_of_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Σ over repeats of (x − y)², (n, v), of the y that are not missing."""
    missing = np.isnan(y)
    squares = np.square(x - y)
    if missing.any():
        squares[missing] = 0
    return squares.sum(axis=1)


def _numbers(y: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of averages and of trials, per image and voxel, or (n, 1) if all voxels agree."""
    found = []
    for values in (y[:, None], trials):
        n = values.shape[1] - np.isnan(values).sum(axis=1)
        found.append(n[:, :1] if (n == n[:, :1]).all() else n)
    return found[0], found[1]


def _ratio(total: Any, count: Any) -> np.ndarray:
    """Quotient, NaN where it is not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = total / count
    ratio[~np.isfinite(ratio)] = np.nan
    return ratio


def image_metrics(
    predictions: Sequence[np.ndarray], targets: Targets
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Image metrics and their bootstrap samples (n_bootstraps,).

    Each image is compared with the others of its fold, whose predictions come from the same fit.
    Left out are voxels without a prediction or without data for some test image, images whose score
    is undefined, and folds with too few images. NaN if nothing is left.

    Parameters
    ----------
    predictions : list of arrays, shape (n_test, n_voxels)
        Predictions of each fold.
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
        if len(predicted) < 2:
            continue
        geometry = (
            targets.geometry(fold) if complete.all() else Geometry(measured, weights[:, rows])
        )
        for name, compare in _PER_FOLD.items():
            plain, resampled = compare(geometry, predicted)
            points[name].append(plain)
            in_folds[name].append(resampled)
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


_PER_IMAGE: dict[str, Callable[..., np.ndarray]] = {
    "pattern_r": metrics.pattern_correlation,
    "pattern_mse": metrics.pattern_mse,
    "pattern_cosine": metrics.pattern_cosine,
    "identification": _identification,
}
_PER_FOLD: dict[str, Callable[..., Any]] = {
    "rdm_correlation": Geometry.rdm_correlation,
    "cka": Geometry.cka,
}


def fold_mean(values: Sequence[Any]) -> np.ndarray:
    """Mean over folds with a defined value; NaN if there are none."""
    stacked = np.stack([np.asarray(value) for value in values])
    n_defined = np.isfinite(stacked).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.nansum(stacked, axis=0) / n_defined
