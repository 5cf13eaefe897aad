"""What `score_draws` kept of all folds to scores of draws, with bootstrap samples over images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brainenc import metrics
from brainenc.arrays import release
from brainenc.benchmarking.by_voxel import ByVoxel, of_voxels
from brainenc.benchmarking.draw_kept import LARGE, Arrays
from brainenc.benchmarking.draw_plan import DrawPlan
from brainenc.benchmarking.draw_sources import TrueDistribution
from brainenc.benchmarking.targets import Targets, centre_within_folds
from brainenc.metrics.noise_correlations import correlation_of
from brainenc.metrics.ranks import MISSING
from brainenc.metrics.sums import weighted_sums
from brainenc.metrics.variances import mean_square_deviations

#: Scores of draws with one value per voxel and an interval, all columns of voxel maps, scores
#: with one value per image, and those of pairs of voxels.
VOXEL_SCORES = ("crps", "crps_z", "coverage_50", "coverage_90")
DRAW_COLUMNS = (*VOXEL_SCORES, "draw_variance", "trial_variance")
IMAGE_SCORES = ("energy", "variogram", "log_score")
CORRELATION_SCORES = ("noise_correlation_r", "noise_correlation_truth_r")
#: Nominal levels of the calibration curve, and bins of the PIT and of rank histograms.
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
N_BINS, N_RANK_BINS = 20, 10


@dataclass(frozen=True)
class Variances:
    """Variances of draws and trials, to be compared across voxels.

    Attributes
    ----------
    draws : array, shape (n_folds, n_voxels)
        Mean over the test images of the fold.
    trials : array, shape (n_rows, n_voxels), float32
        Of each image, around the mean of its draws. May be memory-mapped.
    folds, images : arrays of int, shape (n_rows,)
        Fold of each row, and the image it is of.
    """

    draws: np.ndarray
    trials: np.ndarray
    folds: np.ndarray
    images: np.ndarray

    def agreement(self, voxels: Any) -> metrics.VarianceAgreement:
        """Slope and correlation across some voxels, with intervals."""
        found = metrics.variance_agreement(
            self.draws[:, voxels], self.trials[:, voxels], folds=self.folds, images=self.images
        )
        release(self.trials)
        return found


@dataclass
class DrawScores:
    """Scores of the draws of one encoder or reference row.

    Attributes
    ----------
    kind : str
        Where draws come from.
    voxels : dict of `DRAW_COLUMNS` to array, shape (n_voxels,)
    voxel_samples : dict of `VOXEL_SCORES` to array, shape (n_bootstraps, n_voxels), float32
        May be memory-mapped.
    images, image_samples : dict of `IMAGE_SCORES` to float, and to array (n_bootstraps,)
    variances : Variances
    agreement : Estimate
        Of the draws' noise correlations with those of the repeats.
    agreement_with_truth : float
    pit : array, shape (n_bins, n_voxels)
        Trials per bin.
    rank : array, shape (n_rank_bins, n_voxels)
        Trials whose rank among the draws is in each of `rank_bins`.
    pattern_rank : array, shape (n_rank_bins,)
        The same for ranks of whole patterns.
    n_draws : int
    coverage : array, shape (n_levels, n_voxels)
        Share of trials inside the central interval of each of `LEVELS`.
    noise_correlation : array, shape (n_subset, n_subset)
    averages : list of dict
        One draw and the mean of all: ``n_averaged``, ``r`` (n_voxels,), ``r_samples``, ``mse_z``.
    shown : dict of array
        ``quantiles`` (n_rows, n_shown, n_quantiles), ``mean`` and ``one_draw`` (n_rows, n_shown).
    """

    kind: str
    voxels: Arrays
    voxel_samples: Arrays
    images: dict[str, float]
    image_samples: Arrays
    variances: Variances
    agreement: metrics.Estimate
    agreement_with_truth: float
    pit: np.ndarray
    rank: np.ndarray
    pattern_rank: np.ndarray
    n_draws: int
    coverage: np.ndarray
    noise_correlation: np.ndarray
    averages: list[dict[str, Any]]
    shown: Arrays


@dataclass(frozen=True)
class Measured:
    """Noise correlations of the subset to compare draws with; NaN where they are not known.

    Attributes
    ----------
    repeats, truth : arrays, shape (n_subset, n_subset)
    trials : array, shape (n_rows, n_repeats, n_subset)
        What those of the repeats are made of.
    images : array of int, shape (n_rows,)
        Image of each row.
    """

    repeats: np.ndarray
    truth: np.ndarray
    trials: np.ndarray
    images: np.ndarray


def measured_correlations(targets: Targets, plan: DrawPlan, truth: Any) -> Measured:
    """Those of the repeats, and the true ones if the data has a `truth`."""
    covariance = np.full((len(plan.subset),) * 2, np.nan)
    if isinstance(truth, TrueDistribution):
        covariance = truth.noise_covariance(plan.subset)
    trials = targets.trials(plan.subset)
    repeats = metrics.noise_correlation(trials)
    return Measured(repeats, correlation_of(covariance), trials, targets.images)


def score_encoder_draws(
    kind: str,
    folds: Sequence[Arrays],
    targets: Targets,
    plan: DrawPlan,
    measured: Measured,
    folder: Path | None = None,
) -> DrawScores:
    """All scores of the draws of one encoder or reference row, some voxels at a time.

    Parameters
    ----------
    kind : str
    folds : list of what `score_draws` returned
    targets : Targets
    plan : DrawPlan
    measured : Measured
    folder : path, optional
        Where the samples of voxels go, which are then memory-mapped.

    Returns
    -------
    DrawScores
    """
    sizes = np.array([fold.stop - fold.start for fold in targets.folds])
    draw_variance = np.stack([part["draw_variance"] for part in folds]) / sizes[:, None]
    values, samples = _of_all_voxels(folds, targets, draw_variance, plan.n_draws, folder)
    images, image_samples = _image_scores(folds, targets)
    correlation = correlation_of(np.sum([part["cross_products"] for part in folds], axis=0))
    return DrawScores(
        kind=kind,
        voxels={name: values[name] for name in DRAW_COLUMNS},
        voxel_samples={name: samples[name] for name in VOXEL_SCORES},
        images=images,
        image_samples=image_samples,
        variances=Variances(
            draw_variance, samples["image_variance"], targets.fold_of_row, targets.images
        ),
        agreement=metrics.agreement_with_repeats(
            correlation, measured.trials, images=measured.images
        ),
        agreement_with_truth=metrics.noise_correlation_agreement(correlation, measured.truth),
        pit=values["pit"],
        rank=values["rank"],
        pattern_rank=_pattern_rank_counts(folds, plan.n_draws),
        n_draws=plan.n_draws,
        coverage=values["coverage"],
        noise_correlation=correlation,
        averages=_scores_of_averages(values, samples, plan.n_draws),
        shown=_shown(folds, plan),
    )


def _of_all_voxels(
    folds: Sequence[Arrays],
    targets: Targets,
    draw_variance: np.ndarray,
    n_draws: int,
    folder: Path | None,
) -> tuple[Arrays, Arrays]:
    """Values and samples of `_scores_of_voxels`, put together from blocks of voxels."""
    plain = ByVoxel(targets.n_voxels)
    with ByVoxel(targets.n_voxels, folder) as of_samples:
        for voxels in targets.blocks():
            kept = {name: of_voxels([part[name] for part in folds], voxels) for name in LARGE}
            values, samples = _scores_of_voxels(
                kept, targets.of_voxels(voxels), draw_variance[:, voxels], n_draws
            )
            plain.add(values)
            of_samples.add(samples)
        return plain.joined(), of_samples.joined()


def _scores_of_averages(values: Arrays, samples: Arrays, n_draws: int) -> list[dict[str, Any]]:
    return [
        {
            "n_averaged": n,
            "r": values[f"{name}_r"],
            "r_samples": samples[f"{name}_r"],
            "mse_z": values[f"{name}_mse_z"],
        }
        for name, n in _averages(n_draws).items()
    ]


def _shown(folds: Sequence[Arrays], plan: DrawPlan) -> Arrays:
    """What is shown of the draws of a few voxels; see `DrawScores`."""
    return {
        "quantiles": np.concatenate([part["quantiles"] for part in folds]),
        "mean": of_voxels([part["mean_draw"] for part in folds], plan.shown),
        "one_draw": of_voxels([part["one_draw"] for part in folds], plan.shown),
    }


def _averages(n_draws: int) -> dict[str, int]:
    """What is scored as though it were a prediction, and how many draws are averaged in it."""
    return {"one_draw": 1, "mean_draw": n_draws}


def _scores_of_voxels(
    kept: Arrays, targets: Targets, draw_variance: np.ndarray, n_draws: int
) -> tuple[Arrays, Arrays]:
    """Values (..., n_voxels) and samples (n_bootstraps, n_voxels) of all that is voxel by voxel.

    Among the samples are also the variances of trials image by image.
    """
    values = _voxel_scores(kept, targets, n_draws, None)
    samples = _voxel_scores(kept, targets, n_draws, targets.weights)
    of_rows = draw_variance[targets.fold_of_row]
    of_trials = mean_square_deviations(kept["mean_draw"], targets.betas) - of_rows / n_draws
    samples["image_variance"] = of_trials.astype(np.float32)
    present = np.isfinite(of_trials)
    with np.errstate(invalid="ignore"):
        trial_variance = np.where(present, of_trials, 0).sum(axis=0) / present.sum(axis=0)
    values |= {
        "draw_variance": of_rows.mean(axis=0),
        "trial_variance": trial_variance,
        "pit": metrics.pit_histogram(kept["ranks"], n_draws, n_bins=N_BINS),
        "rank": binned_ranks(metrics.rank_histogram(kept["ranks"], n_draws)),
        "coverage": _coverage(kept["ranks"], n_draws),
    }
    for name in _averages(n_draws):
        found = _averaged(kept[name], targets)
        samples[f"{name}_r"] = found.pop("r_samples")
        values |= {f"{name}_{score}": value for score, value in found.items()}
    return values, samples


def _voxel_scores(
    kept: Arrays, targets: Targets, n_draws: int, weights: np.ndarray | None
) -> Arrays:
    """Voxel scores (n_voxels,), or with weights (n_bootstraps, n_voxels), float32.

    CRPS is a mean over images of the mean over their trials, coverage over all trials.
    """
    ranks = kept["ranks"]

    def statistics(images: slice, voxels: slice) -> list[np.ndarray]:
        crps = kept["crps"][images, voxels].astype(np.float64)
        of_block = ranks[images, :, voxels]
        covered = [
            np.nansum(metrics.interval_coverage(of_block, n_draws, level), axis=1)
            for level in (0.5, 0.9)
        ]
        defined = np.isfinite(crps)
        crps = np.where(defined, crps, 0)
        n_trials = (of_block != MISSING).sum(axis=1).astype(np.float64)
        z = targets.scale[targets.fold_of_row[images], voxels]
        return [defined.astype(np.float64), n_trials, crps, crps / z, *covered]

    n_voxels = ranks.shape[2]
    sets = np.ones((1, len(ranks))) if weights is None else weights.astype(np.float64)
    found = {name: np.empty((len(sets), n_voxels), dtype=np.float32) for name in VOXEL_SCORES}
    for voxels, (n_images, n_trials, *sums) in weighted_sums(statistics, sets, n_voxels):
        counts = (n_images, n_images, n_trials, n_trials)
        for name, total, count in zip(VOXEL_SCORES, sums, counts, strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                found[name][:, voxels] = total / count
    return found if weights is not None else {name: mean[0] for name, mean in found.items()}


def _image_scores(folds: Sequence[Arrays], targets: Targets) -> tuple[dict[str, float], Arrays]:
    point, samples = {}, {}
    for name in IMAGE_SCORES:
        scores = np.concatenate([part[name] for part in folds])
        defined = np.isfinite(scores)
        weights, values = targets.weights[:, defined], scores[defined]
        point[name] = float(values.mean()) if defined.any() else np.nan
        with np.errstate(invalid="ignore"):
            samples[name] = weights @ values / weights.sum(axis=1)
    return point, samples


def rank_bins(n_draws: int) -> list[np.ndarray]:
    """The ranks 0 … n in bins of as many whole ranks as nearly as possible."""
    return np.array_split(np.arange(n_draws + 1), min(N_RANK_BINS, n_draws + 1))


def binned_ranks(counts: np.ndarray) -> np.ndarray:
    """Numbers of trials per rank (n_draws + 1, ...) to those per bin of `rank_bins`."""
    starts = [ranks[0] for ranks in rank_bins(len(counts) - 1)]
    return np.add.reduceat(counts, starts, axis=0)


def _pattern_rank_counts(folds: Sequence[Arrays], n_draws: int) -> np.ndarray:
    ranks = np.concatenate([part["pattern_ranks"].ravel() for part in folds])
    return binned_ranks(np.bincount(ranks[ranks != MISSING], minlength=n_draws + 1))


def _coverage(ranks: np.ndarray, n_draws: int) -> np.ndarray:
    counts = metrics.rank_histogram(ranks, n_draws)
    each = np.arange(n_draws + 1)
    inside = np.stack([metrics.interval_coverage(each, n_draws, level) for level in LEVELS])
    with np.errstate(invalid="ignore"):
        return inside @ counts / counts.sum(axis=0)


def _averaged(responses: np.ndarray, targets: Targets) -> Arrays:
    """What averages of draws score as though they were predictions."""
    paired = np.where(np.isnan(targets.averages), np.nan, responses)
    centred = [centre_within_folds(array, targets.folds) for array in (paired, targets.averages)]
    scale = targets.scale[targets.fold_of_row]
    error = np.square((responses - targets.averages) / scale, dtype=np.float64)
    n = np.isfinite(error).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mse_z = np.nansum(error, axis=0) / n
    return {
        "r": metrics.correlation(*centred),
        "r_samples": metrics.correlation(*centred, weights=targets.weights).astype(np.float32),
        "mse_z": mse_z,
    }
