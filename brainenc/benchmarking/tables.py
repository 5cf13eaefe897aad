"""Tidy tables of scores: one row per encoder, ROI, pair of encoders or voxel."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from brainenc.benchmarking.draw_scores import DRAW_COLUMNS, DrawScores
from brainenc.benchmarking.intervals import (
    difference_row,
    mean_of_samples,
    mean_over_voxels,
    sample_difference,
)
from brainenc.benchmarking.pairs import Pair
from brainenc.benchmarking.scoring import IMAGE_METRICS, VOXEL_METRICS, EncoderScores
from brainenc.data.encoding_data import EncodingData
from brainenc.model_selection import bootstrap_interval, fdr

#: Metrics whose differences between encoders are tested.
PAIR_METRICS = ("r", "r2", "mse_z")

#: Columns of the table of differences.
PAIR_COLUMNS = [
    *("encoder_a", "encoder_b", "metric", "atlas", "roi"),
    *("difference", "low", "high", "p", "n_voxels"),
]

#: Name of the group of all voxels.
ALL = "all"


def voxel_groups(data: EncodingData) -> dict[tuple[str, str], np.ndarray]:
    """Voxel positions of every ROI of every atlas, keyed by (atlas, roi)."""
    return {
        (atlas, roi): voxels for atlas in data.atlases for roi, voxels in data.rois(atlas).items()
    }


def encoder_table(
    scores: Mapping[str, EncoderScores],
    ceiling_r: np.ndarray,
    pairs: Mapping[str, Sequence[Pair]],
    failed: Mapping[str, str],
    errors: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """One row per encoder; failed encoders have NaN scores and their error.

    Those of `failed` were not fitted, those of `errors` were fitted and not scored.
    """
    rows = []
    for name, of_folds in pairs.items():
        row: dict[str, Any] = {"encoder": name}
        if name in scores:
            row |= _group_row(scores[name], ceiling_r, slice(None))
            row |= _image_row(scores[name])
            row["n_significant"] = int((fdr(scores[name].p) < 0.05).sum())
        row |= _cost_row([pair.info() for pair in of_folds], of_folds)
        row["error"] = row["error"] or (errors or {}).get(name, "")
        rows.append(row)
    rows += [{"encoder": name, "error": error} for name, error in failed.items()]
    return pd.DataFrame(rows)


def roi_table(
    scores: Mapping[str, EncoderScores],
    ceiling_r: np.ndarray,
    groups: Mapping[tuple[str, str], np.ndarray],
) -> pd.DataFrame:
    """One row per encoder, atlas and ROI."""
    rows = [
        {"encoder": name, "atlas": atlas, "roi": roi, **_group_row(found, ceiling_r, voxels)}
        for name, found in scores.items()
        for (atlas, roi), voxels in groups.items()
    ]
    return pd.DataFrame(rows or None, columns=None if rows else ["encoder", "atlas", "roi"])


def _group_row(scores: EncoderScores, ceiling_r: np.ndarray, voxels: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for metric in VOXEL_METRICS:
        row[metric] = mean_over_voxels(scores.voxels[metric][voxels])
        interval = bootstrap_interval(mean_of_samples(scores.voxel_samples[metric], voxels))
        row[f"{metric}_low"], row[f"{metric}_high"] = map(float, interval)
    r = scores.voxels["r"][voxels]
    row["noise_ceiling"] = mean_over_voxels(ceiling_r[voxels])
    row["n_voxels"] = len(r)
    row["n_undefined"] = int(np.isnan(r).sum())
    row["n_voxels_normalized"] = int(np.isfinite(scores.voxels["r_normalized"][voxels]).sum())
    return row


def _image_row(scores: EncoderScores) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for metric in IMAGE_METRICS:
        row[metric] = scores.images[metric]
        interval = bootstrap_interval(scores.image_samples[metric])
        row[f"{metric}_low"], row[f"{metric}_high"] = map(float, interval)
    return row


def _cost_row(infos: Sequence[dict[str, Any]], pairs: Sequence[Pair]) -> dict[str, Any]:
    errors = [info["error"] for info in infos if info["error"] is not None]
    done = [(info, pair) for info, pair in zip(infos, pairs, strict=True) if info["error"] is None]
    row: dict[str, Any] = {"error": errors[0] if errors else ""}
    if done:
        seconds = sum(info["predict_seconds"] for info, _ in done)
        row["fit_seconds"] = float(np.mean([info["fit_seconds"] for info, _ in done]))
        row["predict_images_per_second"] = sum(len(pair.test) for _, pair in done) / seconds
        row["peak_memory_mb"] = max(info["peak_memory_mb"] for info, _ in done)
    return row


def pair_table(
    scores: Mapping[str, EncoderScores],
    groups: Mapping[tuple[str, str], np.ndarray],
    kept: dict[tuple[str, ...], np.ndarray] | None = None,
) -> pd.DataFrame:
    """Paired bootstrap difference of every two encoders, over all voxels and in each ROI.

    Parameters
    ----------
    scores : dict of encoder name to EncoderScores
    groups : dict of (atlas, roi) to positions of voxels
    kept : dict, optional
        Gets the difference in every bootstrap sample, (n_bootstraps,), by the first five columns.
    """
    places: dict[tuple[str, str], Any] = {(ALL, ALL): slice(None), **groups}
    rows = []
    for a, b in combinations(scores, 2):
        for metric in PAIR_METRICS:
            difference = scores[a].voxels[metric] - scores[b].voxels[metric]
            samples = sample_difference(
                scores[a].voxel_samples[metric], scores[b].voxel_samples[metric]
            )
            for (atlas, roi), voxels in places.items():
                sampled = mean_over_voxels(samples[:, voxels])
                key = {"encoder_a": a, "encoder_b": b, "metric": metric, "atlas": atlas, "roi": roi}
                rows.append(key | difference_row(difference[voxels], sampled))
                if kept is not None:
                    kept[tuple(key.values())] = sampled
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def map_table(
    scores: Mapping[str, EncoderScores],
    ceiling_r: np.ndarray,
    voxels: pd.DataFrame,
    drawn: Mapping[str, DrawScores] | None = None,
) -> pd.DataFrame:
    """One row per encoder and voxel: scores, p, q, scores of draws, and the voxel table."""
    parts = [
        pd.concat(
            [
                pd.DataFrame({"encoder": name, "voxel": np.arange(len(ceiling_r))}),
                pd.DataFrame(found.voxels),
                pd.DataFrame({"noise_ceiling": ceiling_r, "p": found.p, "q": fdr(found.p)}),
                _of_draws(drawn, name, len(ceiling_r)),
                voxels.reset_index(drop=True).rename(columns=_beside_scores),
            ],
            axis=1,
        )
        for name, found in scores.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["encoder"])


def _of_draws(drawn: Mapping[str, DrawScores] | None, name: str, n_voxels: int) -> pd.DataFrame:
    """Scores of draws per voxel: NaN for an encoder without draws, no columns if there are none."""
    if drawn is None:
        return pd.DataFrame(index=range(n_voxels))
    if name in drawn:
        return pd.DataFrame(drawn[name].voxels)
    return pd.DataFrame(np.nan, index=range(n_voxels), columns=list(DRAW_COLUMNS))


def _beside_scores(column: Any) -> Any:
    """Name of a voxel-table column, changed if it is the name of a score (an atlas "r")."""
    scores = {"encoder", "voxel", "noise_ceiling", "p", "q", *VOXEL_METRICS, *DRAW_COLUMNS}
    return f"{column}_of_voxel" if column in scores else column


def voxel_table(scores: Mapping[str, EncoderScores]) -> pd.DataFrame:
    """One row per encoder, fold and voxel."""
    parts = [
        pd.DataFrame({"encoder": name, "fold": fold, "voxel": np.arange(len(found["r"])), **found})
        for name, of_encoder in scores.items()
        for fold, found in enumerate(of_encoder.folds)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["encoder"])
