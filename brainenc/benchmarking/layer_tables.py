"""Tables of a layer map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainenc.benchmarking.intervals import mean_over_voxels
from brainenc.benchmarking.layer_fits import LayerScores, choose_layers, mean_over_folds
from brainenc.benchmarking.partition_parts import Place
from brainenc.data.voxels import beside_results
from brainenc.model_selection import bootstrap_interval


@dataclass(frozen=True)
class Scored:
    """Scores of the layers and of the controls, and what they are shown with.

    Attributes
    ----------
    names : list of str
        Layers, from the first to the last.
    scores : dict of control to LayerScores
    ceiling : array, shape (n_voxels,)
        Of r.
    min_ceiling : float
    """

    names: list[str]
    scores: Mapping[str, LayerScores]
    ceiling: np.ndarray
    min_ceiling: float

    @property
    def depths(self) -> np.ndarray:
        """Place of each layer, from 0 to 1."""
        return np.linspace(0, 1, len(self.names))


def voxel_depths(scored: Scored, control: str = "") -> np.ndarray:
    """Depth of the chosen layer of each voxel, mean over folds; NaN where none was chosen."""
    chosen = scored.scores[control].chosen
    return mean_over_folds(np.where(chosen < 0, np.nan, scored.depths[np.maximum(chosen, 0)]))


def voxel_table(scored: Scored, voxels: pd.DataFrame) -> pd.DataFrame:
    """One row per voxel: layer, depth and scores beside the voxel table."""
    given = scored.scores[""]
    n_voxels = given.chosen.shape[1]
    counts = np.stack([(given.chosen == k).sum(0) for k in range(len(scored.names))])
    most = counts.argmax(0)
    n_chosen = counts.sum(0)
    with np.errstate(invalid="ignore"):
        agreement = counts.max(0) / n_chosen
    names = np.array([*scored.names, ""], dtype=object)
    table = {
        "layer": names[np.where(n_chosen > 0, most, -1)],
        "depth": voxel_depths(scored),
        "agreement": agreement,
        "r": given.best,
    }
    for control, scores in scored.scores.items():
        if control:
            table[f"r_{control}"] = scores.best
    table["noise_ceiling"] = scored.ceiling
    return beside_results(pd.DataFrame({"voxel": np.arange(n_voxels), **table}), voxels)


def layer_table(scored: Scored, places: Sequence[Place]) -> pd.DataFrame:
    """One row per (atlas, roi, layer, control)."""
    rows = []
    for i, (atlas, roi, voxels) in enumerate(places):
        for control, scores in scored.scores.items():
            r = mean_over_folds(mean_over_voxels(scores.outer[:, :, voxels]))
            low, high = bootstrap_interval(scores.samples[:, :, i])
            for k, name in enumerate(scored.names):
                rows.append(
                    {
                        "atlas": atlas,
                        "roi": roi,
                        "layer": name,
                        "control": control,
                        "depth": scored.depths[k],
                        "r": r[k],
                        "r_low": low[k],
                        "r_high": high[k],
                        "n_voxels": len(voxels),
                    }
                )
    return pd.DataFrame(rows)


def roi_table(scored: Scored, places: Sequence[Place]) -> pd.DataFrame:
    """One row per place."""
    depths = voxel_depths(scored)
    given = scored.scores[""]
    rows = []
    for i, (atlas, roi, voxels) in enumerate(places):
        within = mean_over_folds(mean_over_voxels(given.inner[:, :, voxels]))
        best = int(choose_layers(within[:, None])[0])
        deep = voxels[has_depth(scored, depths)[voxels]]
        low, high = bootstrap_interval(given.best_samples[:, i])
        row = {
            "atlas": atlas,
            "roi": roi,
            "n_voxels": len(voxels),
            "layer": scored.names[best] if best >= 0 else "",
            "depth": depths[deep].mean() if len(deep) else np.nan,
            "n_voxels_depth": len(deep),
            "r": mean_over_voxels(given.best[voxels]),
            "r_low": float(low),
            "r_high": float(high),
        }
        for control, scores in scored.scores.items():
            if control:
                row[f"r_{control}"] = mean_over_voxels(scores.best[voxels])
        rows.append(row | {"noise_ceiling": mean_over_voxels(scored.ceiling[voxels])})
    return pd.DataFrame(rows)


def area_depths(
    scored: Scored, places: Sequence[Place], control: str = ""
) -> dict[str, dict[str, float]]:
    """Mean depth over the voxels of each ROI, by atlas."""
    depths = voxel_depths(scored, control)
    found: dict[str, dict[str, float]] = {}
    for atlas, roi, voxels in places:
        deep = voxels[has_depth(scored, depths)[voxels]]
        found.setdefault(atlas, {})[roi] = float(depths[deep].mean()) if len(deep) else np.nan
    return found


def has_depth(scored: Scored, depths: np.ndarray) -> np.ndarray:
    """Voxels whose depth counts: it is defined, and there is signal enough to choose by.

    Where no ceiling is known, because there are no repeats, all count.
    """
    known = np.isfinite(scored.ceiling).any()
    enough = scored.ceiling >= scored.min_ceiling if known else True
    return np.isfinite(depths) & enough
