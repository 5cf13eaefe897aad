"""Predictions of held-out images to scores per voxel and per image, with bootstrap samples.

Test images of all folds are scored together, after predictions and responses were each centred
within their fold. Without the centring an encoder would be judged by the differences between fold
means (the mean response of a training set is low where that of its test set is high); with r
averaged over folds instead, small test sets would give wild values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainenc import metrics
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
    scale : array, shape (n_rows, n_voxels)
        s.d. of the single trials of the fold's training images, the unit of "z".
    ceiling_r : array, shape (n_voxels,)
        Noise ceiling of r against the averages; NaN where it is undefined or too low to divide by.
    weights : array, shape (n_bootstraps, n_rows)
        How often each image is drawn in each bootstrap sample, the same for every encoder.
    """

    betas: np.ndarray
    averages: np.ndarray
    folds: list[slice]
    scale: np.ndarray
    ceiling_r: np.ndarray
    weights: np.ndarray


def make_targets(
    betas: np.ndarray, folds: Folds, ceiling_r: np.ndarray, n_bootstraps: int, random_state: Any
) -> Targets:
    """Targets of all folds, with bootstrap weights drawn once for all encoders."""
    rows = np.concatenate([test for _, test in folds])
    ends = np.cumsum([len(test) for _, test in folds])
    slices = [slice(end - len(test), end) for end, (_, test) in zip(ends, folds, strict=True)]
    images, image_of_row = np.unique(rows, return_inverse=True)
    weights = bootstrap_weights(len(images), n_bootstraps, random_state=random_state)
    scale = np.concatenate(
        [np.tile(trial_sd(betas[train]), (len(test), 1)) for train, test in folds]
    )
    tested = betas[rows]
    return Targets(
        betas=tested,
        averages=average_repeats(tested),
        folds=slices,
        scale=scale.astype(np.float32),
        ceiling_r=ceiling_r,
        weights=weights[:, image_of_row],
    )


def trial_sd(betas: np.ndarray) -> np.ndarray:
    """Standard deviation over single trials, (n_voxels,); NaN where it is 0 or undefined."""
    present = np.isfinite(betas)
    n = present.sum(axis=(0, 1))
    filled = np.where(present, betas, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=(0, 1), dtype=np.float64) / n
        centred = np.where(present, betas - mean, 0)
        sd = np.sqrt(np.square(centred).sum(axis=(0, 1), dtype=np.float64) / n)
    return np.where(sd > 1e-6 * np.abs(mean), sd, np.nan)


@dataclass
class EncoderScores:
    """Scores of one encoder, with their bootstrap samples.

    Attributes
    ----------
    voxels : dict of metric to array, shape (n_voxels,)
    voxel_samples : dict of metric to array, shape (n_bootstraps, n_voxels), float32
    folds : list of dict of metric to array, shape (n_voxels,)
        The same metrics within the test images of each fold.
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
    every = slice(None)
    images, image_samples = image_metrics(predictions, targets)
    samples = voxel_metrics(predictions, targets, every, targets.weights)
    return EncoderScores(
        voxels=voxel_metrics(predictions, targets, every, None),
        voxel_samples={metric: sample.astype(np.float32) for metric, sample in samples.items()},
        folds=[voxel_metrics(predictions, targets, fold, None) for fold in targets.folds],
        images=images,
        image_samples=image_samples,
        p=correlation_p_values(
            predictions, targets, n_permutations=n_permutations, random_state=random_state
        ),
    )


def centre_within_folds(array: np.ndarray, folds: Sequence[slice]) -> np.ndarray:
    """Rows minus the mean of their fold, column by column; NaN entries stay and do not count."""
    centred = np.empty_like(array)
    for fold in folds:
        part = array[fold]
        present = np.isfinite(part)
        with np.errstate(invalid="ignore"):
            mean = np.where(present, part, 0).sum(axis=0, dtype=np.float64) / present.sum(axis=0)
            centred[fold] = part - mean
    return centred


def voxel_metrics(
    predictions: np.ndarray, targets: Targets, rows: slice, weights: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Voxel metrics over some rows: (n_voxels,), or (n_bootstraps, n_voxels) with weights."""
    averages, betas = targets.averages[rows], targets.betas[rows]
    predicted, scale = predictions[rows], targets.scale[rows]
    folds = targets.folds if rows == slice(None) else [slice(None)]
    measured = centre_within_folds(averages, folds)
    error = predicted - averages
    r = metrics.correlation(centre_within_folds(predicted, folds), measured, weights=weights)
    r2 = metrics.r_squared(measured + error, measured, weights=weights)
    if weights is not None:
        # Drawing n images with repetition shrinks the variance of the responses by (n - 1) / n,
        # and not that of the errors: left alone, intervals of R² would lie too low.
        n_images = weights[0].sum()
        r2 = 1 - (1 - r2) * (n_images - 1) / n_images
    return {
        "r": r,
        "r_normalized": r / targets.ceiling_r,
        "r2": r2,
        "mse": metrics.mean_squared_error(predicted, averages, weights=weights),
        "mse_z": metrics.mean_squared_error(predicted / scale, averages / scale, weights=weights),
        "mse_trials": metrics.mean_squared_error_to_trials(predicted, betas, weights=weights),
        "mse_z_trials": metrics.mean_squared_error_to_trials(
            predicted / scale, betas / scale[:, None], weights=weights
        ),
    }


def image_metrics(
    predictions: np.ndarray, targets: Targets
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Image metrics and their bootstrap samples (n_bootstraps,).

    Each image is compared with the others of its fold, whose predictions come from the same fit.
    Voxels without data for some test image, or without a prediction, are left out.
    """
    complete = np.isfinite(predictions).all(axis=0) & np.isfinite(targets.averages).all(axis=0)
    weights = targets.weights
    if not complete.any():
        undefined = np.full(len(weights), np.nan)
        return dict.fromkeys(IMAGE_METRICS, np.nan), dict.fromkeys(IMAGE_METRICS, undefined)
    predicted, measured = predictions[:, complete], targets.averages[:, complete]
    per_image = {
        "pattern_r": metrics.pattern_correlation(predicted, measured),
        "pattern_mse": metrics.pattern_mse(predicted, measured),
        "pattern_cosine": metrics.pattern_cosine(predicted, measured),
        "identification": np.concatenate(
            [metrics.two_way_identification(predicted[f], measured[f]) for f in targets.folds]
        ),
    }
    point = {name: float(values.mean()) for name, values in per_image.items()}
    total = weights.sum(axis=1)
    samples = {name: weights @ values / total for name, values in per_image.items()}
    for name, score in (("rdm_correlation", _rdm_correlation), ("cka", metrics.linear_cka)):
        parts = [(predicted[fold], measured[fold], weights[:, fold]) for fold in targets.folds]
        point[name] = float(fold_mean([score(p, m) for p, m, _ in parts]))
        samples[name] = fold_mean([score(p, m, weights=w) for p, m, w in parts])
    return point, samples


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
    """Permutation p of each voxel's r; images change places within their fold.

    Returns
    -------
    array, shape (n_voxels,); NaN where r is undefined.
    """
    measured = centre_within_folds(targets.averages, targets.folds)
    r = metrics.correlation(centre_within_folds(predictions, targets.folds), measured)
    defined = np.isfinite(r)
    incomplete = defined & ~np.isfinite(measured).all(axis=0)
    complete = defined & ~incomplete
    # Shuffles within folds leave means and lengths as they are: r is one product of unit columns.
    unit_predictions = _unit_columns(centre_within_folds(predictions[:, complete], targets.folds))
    unit_measured = _unit_columns(measured[:, complete])

    def shuffled_r(rows: np.ndarray) -> np.ndarray:
        r = np.full(len(defined), np.nan)
        r[complete] = np.einsum("iv,iv->v", unit_predictions, unit_measured[rows])
        if incomplete.any():  # which images count changes with the shuffle
            partner = measured[rows][:, incomplete]
            predicted = np.where(np.isnan(partner), np.nan, predictions[:, incomplete])
            r[incomplete] = metrics.correlation(
                np.nan_to_num(centre_within_folds(predicted, targets.folds)), partner
            )
        return r

    strata = [np.arange(fold.start, fold.stop) for fold in targets.folds]
    return permutation_p_values(
        shuffled_r, strata, n_permutations=n_permutations, random_state=random_state
    )


def _unit_columns(centred: np.ndarray) -> np.ndarray:
    return (centred / np.linalg.norm(centred, axis=0)).astype(np.float32)
