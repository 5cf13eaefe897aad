"""Tidy tables of the scores of draws, with reference rows."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from brainenc.arrays import take_columns
from brainenc.benchmarking.draw_plan import QUANTILES, DrawPlan
from brainenc.benchmarking.draw_scores import (
    CORRELATION_SCORES,
    IMAGE_SCORES,
    LEVELS,
    N_BINS,
    VOXEL_SCORES,
    DrawScores,
    Measured,
    rank_bins,
)
from brainenc.benchmarking.intervals import (
    difference_row,
    mean_of_samples,
    mean_over_voxels,
    sample_difference,
)
from brainenc.benchmarking.scoring import EncoderScores
from brainenc.benchmarking.tables import ALL
from brainenc.benchmarking.targets import Targets
from brainenc.metrics import Estimate, NoiseCeiling, ceiling_of_draws
from brainenc.metrics.variance_components import variance_components
from brainenc.model_selection import bootstrap_interval
from brainenc.result_tables import MEAN_OF_DRAWS, ONE_DRAW, PREDICTION

#: Largest numbers of voxels in the table of noise correlations, and of images in shown draws.
N_CORRELATED, N_SHOWN_IMAGES = 80, 60

#: Columns that identify reference rows.
_REFERENCE = ("reference", "reference_kind", "reference_of")

Scores = Mapping[str, DrawScores]
Groups = Mapping[tuple[str, str], np.ndarray]


class Reference(NamedTuple):
    """Kind of a reference row, and the encoder of its predictions ("" if none)."""

    kind: str
    encoder: str


def draw_table(scores: Scores, groups: Groups, references: Mapping[str, Reference]) -> pd.DataFrame:
    """One row per encoder or reference row, atlas and ROI; all voxels first."""
    rows = []
    for name, found in scores.items():
        kind, encoder = references.get(name, ("", ""))
        head: dict[str, Any] = {"encoder": name, "reference": name in references}
        head |= {"reference_kind": kind, "reference_of": encoder, "draws_from": found.kind}
        rows += [
            head | {"atlas": atlas, "roi": roi} | _row(found, voxels, whole=atlas == ALL)
            for (atlas, roi), voxels in _with_all(groups)
        ]
    columns = ["encoder", "reference", "reference_kind", "reference_of", "draws_from"]
    return _table(rows, [*columns, "atlas", "roi"])


def _with_all(groups: Groups) -> list[tuple[tuple[str, str], Any]]:
    return [((ALL, ALL), slice(None)), *groups.items()]


def _table(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def _row(found: DrawScores, voxels: Any, *, whole: bool) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for score in VOXEL_SCORES:
        samples = mean_of_samples(found.voxel_samples[score], voxels)
        row |= _with_interval(score, mean_over_voxels(found.voxels[score][voxels]), samples)
    for score in IMAGE_SCORES:
        if whole:
            row |= _with_interval(score, found.images[score], found.image_samples[score])
    variances = found.variances.agreement(voxels)
    row |= _estimate("variance_slope", variances.slope) | _estimate("variance_r", variances.r)
    row |= {"variance_ratio": variances.ratio, "variance_reliability": variances.reliability}
    if whole:
        row |= _estimate("noise_correlation_r", found.agreement)
        row["noise_correlation_truth_r"] = found.agreement_with_truth
    row["n_voxels"] = int(np.isfinite(found.voxels["crps"][voxels]).sum())
    return row


def _with_interval(score: str, value: float, samples: np.ndarray) -> dict[str, float]:
    low, high = map(float, bootstrap_interval(samples))
    return {score: value, f"{score}_low": low, f"{score}_high": high}


def _estimate(score: str, found: Estimate) -> dict[str, float]:
    return {score: found.value, f"{score}_low": found.low, f"{score}_high": found.high}


def beside(table: pd.DataFrame, draws: pd.DataFrame, *, by_roi: bool) -> pd.DataFrame:
    """Encoder or ROI table with scores of draws, NaN for encoders without draws."""
    if draws.empty:
        return table
    keys = ["encoder", "atlas", "roi"] if by_roi else ["encoder"]
    kept = draws if by_roi else draws[draws["atlas"] == ALL].drop(columns=["atlas", "roi"])
    of_whole = {*IMAGE_SCORES, *CORRELATION_SCORES} if by_roi else set()
    left_out = [
        c for c in map(str, kept) if c.removesuffix("_low").removesuffix("_high") in of_whole
    ]
    kept = kept.drop(columns=["n_voxels", *_REFERENCE, *left_out])
    both = table.merge(kept, on=keys, how="left", validate="one_to_one")
    both["draws_from"] = both["draws_from"].fillna("")
    return both


def draw_pair_table(scores: Scores, groups: Groups, n_complete: int) -> pd.DataFrame:
    """Paired bootstrap differences of crps_z (also per ROI) and of scores of whole patterns."""
    rows = []
    for a, b in combinations(scores, 2):
        head = {"encoder_a": a, "encoder_b": b}
        difference = scores[a].voxels["crps_z"] - scores[b].voxels["crps_z"]
        samples = sample_difference(
            scores[a].voxel_samples["crps_z"], scores[b].voxel_samples["crps_z"]
        )
        for (atlas, roi), voxels in _with_all(groups):
            key = {"metric": "crps_z", "atlas": atlas, "roi": roi}
            rows.append(
                head
                | key
                | difference_row(difference[voxels], mean_over_voxels(samples[:, voxels]))
            )
        for score in IMAGE_SCORES:
            value = scores[a].images[score] - scores[b].images[score]
            samples_a, samples_b = scores[a].image_samples[score], scores[b].image_samples[score]
            row = difference_row(np.array([value]), samples_a - samples_b)
            row["n_voxels"] = n_complete if np.isfinite(value) else 0
            rows.append(head | {"metric": score, "atlas": ALL, "roi": ALL} | row)
    return _table(rows, ["encoder_a", "encoder_b", "metric", "atlas", "roi"])


def calibration_table(scores: Scores, groups: Groups) -> pd.DataFrame:
    """PIT and rank histograms, and coverage of central intervals, per encoder and ROI."""
    rows = []
    centres = (np.arange(N_BINS) + 0.5) / N_BINS
    for name, found in scores.items():
        bins = rank_bins(found.n_draws)
        ranks = np.array([of_bin.mean() / found.n_draws for of_bin in bins])
        expected = np.array([len(of_bin) for of_bin in bins]) / (found.n_draws + 1)
        for (atlas, roi), voxels in _with_all(groups):
            pit, rank = (counts[:, voxels].sum(axis=1) for counts in (found.pit, found.rank))
            curves: list[Any] = [
                ("pit", centres, _density(pit, 1 / N_BINS)),
                ("coverage", LEVELS, mean_over_voxels(found.coverage[:, voxels])),
                ("rank", ranks, _density(rank, expected)),
            ]
            if atlas == ALL:
                curves.append(("pattern_rank", ranks, _density(found.pattern_rank, expected)))
            head = {"encoder": name, "atlas": atlas, "roi": roi}
            rows += [
                head | {"quantity": quantity, "position": float(x), "value": float(y)}
                for quantity, positions, values in curves
                for x, y in zip(positions, values, strict=True)
            ]
    return _table(rows, ["encoder", "atlas", "roi", "quantity", "position", "value"])


def _density(counts: np.ndarray, expected: Any) -> np.ndarray:
    """Share of the counts per bin, divided by the expected share; NaN without counts."""
    with np.errstate(invalid="ignore"):
        return counts / counts.sum() / expected


def k_fairness_table(
    draw_scores: Scores, scores: Mapping[str, EncoderScores], targets: Targets
) -> pd.DataFrame:
    """One draw, the mean of all draws and the prediction, each with its own ceiling.

    Parameters
    ----------
    draw_scores, scores : scores of draws and of predictions, by name
    targets : Targets
    """
    floor, ceiling, per_draw = _noise_variance_z(targets), targets.ceiling, targets.trials_per_draw
    rows = []
    for name, found in draw_scores.items():
        for averaged in found.averages:
            n = averaged["n_averaged"]
            label, kind = (
                ("one draw", ONE_DRAW) if n == 1 else (f"mean of {n} draws", MEAN_OF_DRAWS)
            )
            r, samples = averaged["r"], averaged["r_samples"]
            row = {"encoder": name, "average": label, "average_kind": kind, "n_averaged": float(n)}
            noise = 1 / ceiling.n_trials + 1 / (n * per_draw)
            row |= _against(
                r, samples, ceiling_of_draws(ceiling, n, trials_per_draw=per_draw), targets
            )
            error = {
                "mse_z": mean_over_voxels(averaged["mse_z"]),
                "mse_z_floor": mean_over_voxels(floor * noise),
            }
            rows.append(row | error)
        if name in scores:
            of_prediction = scores[name]
            r, samples = of_prediction.voxels["r"], of_prediction.voxel_samples["r"]
            row = {"encoder": name, "average": "prediction", "average_kind": PREDICTION}
            row |= {"n_averaged": np.nan}
            noise = 1 / ceiling.n_trials + 1 / (n * per_draw)
            row |= _against(r, samples, ceiling, targets)
            error = {
                "mse_z": mean_over_voxels(of_prediction.voxels["mse_z"]),
                "mse_z_floor": mean_over_voxels(floor / ceiling.n_trials),
            }
            rows.append(row | error)
    return _table(rows, ["encoder", "average", "average_kind", "n_averaged"])


def _against(
    r: np.ndarray, samples: np.ndarray, ceiling: NoiseCeiling, targets: Targets
) -> dict[str, Any]:
    normalized = targets.normalized(r, ceiling)
    return {
        **_with_interval("r", mean_over_voxels(r), mean_of_samples(samples)),
        "noise_ceiling": mean_over_voxels(ceiling.values),
        "r_normalized": mean_over_voxels(normalized),
        "n_voxels_normalized": int(np.isfinite(normalized).sum()),
    }


def _noise_variance_z(targets: Targets) -> np.ndarray:
    """Trial-to-trial variance in z units; NaN without repeats.

    Of the test images; a voxel without repeats of these gets that of all images, so that floors
    are means over the voxels of the errors beside them.
    """
    noise = _noise_variance(targets.trials, targets.blocks(), len(targets.rows))
    if not np.isfinite(noise).all():
        n_images = len(targets.source)
        trials = partial(take_columns, targets.source)
        everywhere = _noise_variance(trials, targets.blocks(n_images), n_images)
        noise = np.where(np.isfinite(noise), noise, everywhere)
    in_z = np.mean(1 / np.square(targets.scale, dtype=np.float64), axis=0)
    return noise * in_z


def _noise_variance(
    trials: Callable[[slice], np.ndarray], some: Iterable[slice], n_images: int
) -> np.ndarray:
    sets = np.ones((1, n_images))
    return np.concatenate([variance_components(trials(v), sets).noise[0] for v in some])


def noise_correlation_table(scores: Scores, measured: Measured, plan: DrawPlan) -> pd.DataFrame:
    """Correlations of pairs of some voxels: in draws, in repeats, and true.

    Voxels are ordered by ROI.
    """
    n_kept = min(N_CORRELATED, len(plan.subset))
    kept = np.linspace(0, len(plan.subset), n_kept, endpoint=False).astype(int)
    a, b = np.triu_indices(n_kept, k=1)
    above = kept[a], kept[b]
    parts = [
        pd.DataFrame(
            {
                "encoder": name,
                "voxel_a": plan.subset[above[0]],
                "voxel_b": plan.subset[above[1]],
                "draws": found.noise_correlation[above],
                "repeats": measured.repeats[above],
                "truth": measured.truth[above],
            }
        )
        for name, found in scores.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else _table([], ["encoder"])


def shown_draw_table(scores: Scores, targets: Targets, plan: DrawPlan) -> pd.DataFrame:
    """Quantiles of draws and single trials, for the best voxel of each ROI and some images."""
    images = targets.rows
    rows = np.linspace(0, len(images), min(N_SHOWN_IMAGES, len(images)), endpoint=False).astype(int)
    n_shown = len(plan.shown)
    trials = targets.trials(plan.shown, rows)
    measured = {f"trial_{r + 1}": trials[:, r].ravel() for r in range(trials.shape[1])}
    parts = []
    for name, found in scores.items():
        quantiles = found.shown["quantiles"][rows]
        columns: dict[str, Any] = {"encoder": name, "image": np.repeat(images[rows], n_shown)}
        columns["voxel"] = np.tile(plan.shown, len(rows))
        for k, quantile in enumerate(QUANTILES):
            columns[f"q{round(100 * quantile):02}"] = quantiles[..., k].ravel()
        for kind in ("mean", "one_draw"):
            columns[kind] = found.shown[kind][rows].ravel()
        parts.append(pd.DataFrame(columns | measured))
    return pd.concat(parts, ignore_index=True) if parts else _table([], ["encoder"])
