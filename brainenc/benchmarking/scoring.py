"""Predictions of held-out images to scores per voxel, per image and their bootstrap samples.

Every metric is computed within the test images of a fold and then averaged over folds: pooling
predictions over folds would reward an encoder for the differences between fold means.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from brainenc import metrics
from brainenc.model_selection import bootstrap_weights, permutation_p_values
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
class FoldTargets:
    """What the predictions of one fold are compared with.

    Attributes
    ----------
    test : array of int, shape (n_test,)
    betas : array, shape (n_test, n_repeats, n_voxels)
        Single trials.
    averages : array, shape (n_test, n_voxels)
        Repeat-averaged betas.
    scale : array, shape (n_voxels,)
        s.d. of the training single trials, the unit of "z".
    weights : array, shape (n_bootstraps, n_test)
        How often each test image is drawn, the same for every encoder.
    """

    test: np.ndarray
    betas: np.ndarray
    averages: np.ndarray
    scale: np.ndarray
    weights: np.ndarray


def fold_targets(
    betas: np.ndarray, folds: Sequence[tuple], n_bootstraps: int, random_state: Any
) -> list[FoldTargets]:
    """Targets of every fold, with bootstrap weights drawn once for all encoders."""
    rng = np.random.default_rng(random_state)
    return [
        FoldTargets(
            test=test,
            betas=betas[test],
            averages=average_repeats(betas[test]),
            scale=trial_sd(betas[train]),
            weights=bootstrap_weights(len(test), n_bootstraps, random_state=rng),
        )
        for train, test in folds
    ]


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
    """Scores of one encoder, averaged over folds, with their bootstrap samples.

    Attributes
    ----------
    folds : list of dict of metric to array, shape (n_voxels,)
        Voxel metrics of each fold.
    voxels : dict of metric to array, shape (n_voxels,)
        Their averages over the folds in which they are defined.
    voxel_samples : dict of metric to array, shape (n_bootstraps, n_voxels), float32
    images : dict of metric to float
    image_samples : dict of metric to array, shape (n_bootstraps,)
    p : array, shape (n_voxels,)
        Permutation p of r.
    """

    folds: list[dict[str, np.ndarray]] = field(default_factory=list)
    voxels: dict[str, np.ndarray] = field(default_factory=dict)
    voxel_samples: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[str, float] = field(default_factory=dict)
    image_samples: dict[str, np.ndarray] = field(default_factory=dict)
    p: np.ndarray = field(default_factory=lambda: np.empty(0))


def score_encoder(
    predictions: Sequence[np.ndarray],
    targets: Sequence[FoldTargets],
    ceiling_r: np.ndarray,
    *,
    n_permutations: int,
    random_state: Any,
) -> EncoderScores:
    """All scores of one encoder.

    Parameters
    ----------
    predictions : sequence of arrays, shape (n_test, n_voxels), one per fold
    targets : sequence of FoldTargets
    ceiling_r : array, shape (n_voxels,)
        Noise ceiling of r against the repeat averages; NaN where it is undefined or too low to
        divide by.
    n_permutations : int
    random_state : int, Generator or None

    Returns
    -------
    EncoderScores
    """
    scores = EncoderScores()
    scores.folds = [
        voxel_metrics(p, t, ceiling_r, None) for p, t in zip(predictions, targets, strict=True)
    ]
    samples = [
        voxel_metrics(p, t, ceiling_r, t.weights) for p, t in zip(predictions, targets, strict=True)
    ]
    of_images = [image_metrics(p, t) for p, t in zip(predictions, targets, strict=True)]
    for metric in VOXEL_METRICS:
        scores.voxels[metric] = fold_mean([fold[metric] for fold in scores.folds])
        scores.voxel_samples[metric] = fold_mean([fold[metric] for fold in samples])
    for metric in IMAGE_METRICS:
        scores.images[metric] = float(fold_mean([point[metric] for point, _ in of_images]))
        scores.image_samples[metric] = fold_mean([sample[metric] for _, sample in of_images])
    scores.p = correlation_p_values(
        predictions, targets, n_permutations=n_permutations, random_state=random_state
    )
    return scores


def fold_mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over folds, of those that are defined; NaN where none is."""
    stacked = np.stack(values)
    n_defined = np.isfinite(stacked).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.nansum(stacked, axis=0) / n_defined


def voxel_metrics(
    predictions: np.ndarray,
    targets: FoldTargets,
    ceiling_r: np.ndarray,
    weights: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Voxel metrics of one fold: (n_voxels,), or (n_bootstraps, n_voxels) float32 with weights."""
    r = metrics.correlation(predictions, targets.averages, weights=weights)
    mse = metrics.mean_squared_error(predictions, targets.averages, weights=weights)
    trials = metrics.mean_squared_error_to_trials(predictions, targets.betas, weights=weights)
    variance = targets.scale**2
    found = {
        "r": r,
        "r_normalized": r / ceiling_r,
        "r2": metrics.r_squared(predictions, targets.averages, weights=weights),
        "mse": mse,
        "mse_z": mse / variance,
        "mse_trials": trials,
        "mse_z_trials": trials / variance,
    }
    return found if weights is None else {k: v.astype(np.float32) for k, v in found.items()}


def image_metrics(
    predictions: np.ndarray, targets: FoldTargets
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Image metrics of one fold and their bootstrap samples (n_bootstraps,).

    Voxels without data for some test image, or without a prediction, are left out.
    """
    complete = np.isfinite(predictions).all(axis=0) & np.isfinite(targets.averages).all(axis=0)
    if not complete.any():
        undefined = np.full(len(targets.weights), np.nan)
        return dict.fromkeys(IMAGE_METRICS, np.float64(np.nan)), dict.fromkeys(
            IMAGE_METRICS, undefined
        )
    predicted, measured = predictions[:, complete], targets.averages[:, complete]
    per_image = {
        "pattern_r": metrics.pattern_correlation(predicted, measured),
        "pattern_mse": metrics.pattern_mse(predicted, measured),
        "pattern_cosine": metrics.pattern_cosine(predicted, measured),
        "identification": metrics.two_way_identification(predicted, measured),
    }
    weights = targets.weights
    point = {name: values.mean() for name, values in per_image.items()}
    sample = {name: weights @ values / len(values) for name, values in per_image.items()}
    rdms = metrics.rdm(predicted), metrics.rdm(measured)
    point["rdm_correlation"] = np.float64(metrics.rdm_correlation(*rdms))
    sample["rdm_correlation"] = metrics.rdm_correlation(*rdms, weights=weights)
    point["cka"] = np.float64(metrics.linear_cka(predicted, measured))
    sample["cka"] = metrics.linear_cka(predicted, measured, weights=weights)
    return point, sample


def correlation_p_values(
    predictions: Sequence[np.ndarray],
    targets: Sequence[FoldTargets],
    *,
    n_permutations: int,
    random_state: Any,
) -> np.ndarray:
    """Permutation p of each voxel's mean r over folds; images are shuffled within folds.

    Returns
    -------
    array, shape (n_voxels,); NaN where r is undefined.
    """
    sizes = [len(target.test) for target in targets]
    strata = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    folds = list(zip(strata, map(_unit_columns, predictions), targets, strict=True))
    measured = [_unit_columns(target.averages) for target in targets]
    incomplete = np.zeros(predictions[0].shape[1], dtype=bool)
    for target in targets:
        incomplete |= ~np.isfinite(target.averages).all(axis=0)

    def mean_r(rows: np.ndarray) -> np.ndarray:
        per_fold = []
        for (stratum, predicted, _), unit in zip(folds, measured, strict=True):
            shuffled = unit[rows[stratum] - stratum[0]]
            per_fold.append(np.einsum("iv,iv->v", predicted, shuffled))
        r = fold_mean(per_fold)
        if incomplete.any():  # which images count changes with the shuffle
            r[incomplete] = fold_mean(
                [
                    metrics.correlation(p[:, incomplete], t.averages[:, incomplete][rows[s] - s[0]])
                    for (s, _, t), p in zip(folds, predictions, strict=True)
                ]
            )
        return r

    return permutation_p_values(
        mean_r, strata, n_permutations=n_permutations, random_state=random_state
    )


def _unit_columns(array: np.ndarray) -> np.ndarray:
    """Columns centred and scaled to length 1; NaN columns where that is undefined."""
    centred = array - array.mean(axis=0, dtype=np.float64)
    length = np.sqrt(np.square(centred).sum(axis=0))
    # A constant column has a round-off length that must not be blown up to 1.
    tiny = 1e-6 * np.sqrt(len(array)) * np.abs(array).max(axis=0, initial=0)
    with np.errstate(invalid="ignore"):
        return (centred / np.where(length > tiny, length, np.nan)).astype(np.float32)
