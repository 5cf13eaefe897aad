"""Tables of an experiment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainenc.insilico.conditions import Axis, Place
from brainenc.insilico.effects import Responses, intervals, preference, tests
from brainenc.model_selection import fdr


@dataclass(frozen=True)
class Tested:
    """Responses of voxels and of areas, and how they are shown.

    Attributes
    ----------
    voxels, rois : Responses
    places : list of Place
    shares : array, shape (n_voxels, n_areas)
    confidence : float
    """

    voxels: Responses
    rois: Responses
    places: Sequence[Place]
    shares: np.ndarray
    confidence: float

    def areas(self) -> pd.DataFrame:
        """``atlas``, ``roi`` and ``n_voxels`` with data, one row per area."""
        counts = (self.shares > 0).sum(axis=0)
        rows = [(atlas, roi, n) for (atlas, roi, _), n in zip(self.places, counts, strict=True)]
        return pd.DataFrame(rows, columns=["atlas", "roi", "n_voxels"])

    def of_empty(self, values: np.ndarray) -> np.ndarray:
        """Values (..., n_areas), NaN for areas without data."""
        return np.where((self.shares > 0).any(axis=0), values, np.nan)


def condition_rows(
    tested: Tested, n_images: Mapping[str, int], spread: np.ndarray, trial_sd: np.ndarray
) -> pd.DataFrame:
    """One row per (condition, area)."""
    found = intervals(tested.rois, tested.confidence)
    tables = []
    for c, (name, n) in enumerate(n_images.items()):
        table = tested.areas()
        table.insert(0, "condition", name)
        values = {
            "response": tested.rois.mean[c],
            "model_sd": found["sd"][c],
            "low": found["low"][c],
            "high": found["high"][c],
            "image_sd": spread[c],
            "trial_sd": trial_sd,
        }
        given = {key: tested.of_empty(value) for key, value in values.items()}
        tables.append(table.assign(n_images=n, **given))
    return pd.concat(tables, ignore_index=True)


def voxel_rows(
    tested: Tested, names: Sequence[str], spread: np.ndarray, trial_sd: np.ndarray
) -> pd.DataFrame:
    """One row per (condition, voxel)."""
    found = intervals(tested.voxels, tested.confidence)
    n = len(trial_sd)
    tables = [
        pd.DataFrame(
            {
                "condition": name,
                "voxel": np.arange(n),
                "response": tested.voxels.mean[c],
                "model_sd": found["sd"][c],
                "low": found["low"][c],
                "high": found["high"][c],
                "image_sd": spread[c],
                "trial_sd": trial_sd,
            }
        )
        for c, name in enumerate(names)
    ]
    return pd.concat(tables, ignore_index=True)


def contrast_rows(tested: Tested, weights: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row per (contrast, area)."""
    combined = tested.rois.combined(np.stack(list(weights.values())))
    found = intervals(combined, tested.confidence)
    p, _ = tests(combined)
    tables = []
    for k, name in enumerate(weights):
        table = tested.areas()
        table.insert(0, "contrast", name)
        values = {
            "effect": combined.mean[k],
            "model_sd": found["sd"][k],
            "low": found["low"][k],
            "high": found["high"][k],
            "p": p[k],
        }
        table = table.assign(**{key: tested.of_empty(value) for key, value in values.items()})
        # The first area, all voxels together, is no further test of the areas of an atlas or dict.
        families = [table["atlas"], np.arange(len(table)) == 0]
        table["q"] = table.groupby(families)["p"].transform(lambda some: fdr(some.to_numpy()))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def voxel_contrast_rows(tested: Tested, weights: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row per (contrast, voxel)."""
    combined = tested.voxels.combined(np.stack(list(weights.values())))
    found = intervals(combined, tested.confidence)
    p, q = tests(combined)
    tables = [
        pd.DataFrame(
            {
                "contrast": name,
                "voxel": np.arange(p.shape[1]),
                "effect": combined.mean[k],
                "model_sd": found["sd"][k],
                "low": found["low"][k],
                "high": found["high"][k],
                "p": p[k],
                "q": q[k],
            }
        )
        for k, name in enumerate(weights)
    ]
    return pd.concat(tables, ignore_index=True)


_TUNING = ["parameter", "value", "atlas", "roi", "n_voxels", "response", "model_sd", "low", "high"]


def tuning_rows(tested: Tested, axes: Sequence[Axis]) -> pd.DataFrame:
    """One row per (parameter, value, area)."""
    tables = [pd.DataFrame({name: pd.Series(dtype=object) for name in _TUNING})]
    for axis in axes:
        curve = tested.rois.combined(axis.weights)
        found = intervals(curve, tested.confidence)
        for k, value in enumerate(axis.values):
            table = tested.areas()
            values = {
                "response": curve.mean[k],
                "model_sd": found["sd"][k],
                "low": found["low"][k],
                "high": found["high"][k],
            }
            given = {key: tested.of_empty(some) for key, some in values.items()}
            tables.append(table.assign(parameter=axis.name, value=value, **given)[_TUNING])
    return pd.concat(tables[1:] or tables, ignore_index=True)


_PREFERENCES = ["parameter", "voxel", "preferred", "error", "agreement", "strength", "p", "q"]


def preference_rows(tested: Tested, axes: Sequence[Axis]) -> pd.DataFrame:
    """One row per (parameter, voxel)."""
    tables = [pd.DataFrame({name: pd.Series(dtype=object) for name in _PREFERENCES})]
    for axis in axes:
        found = preference(tested.voxels.combined(axis.weights), axis.numbers, axis.period)
        preferred = found.at
        if axis.numbers is None:
            values = [*axis.values, None]
            preferred = np.array(
                [values[-1 if np.isnan(k) else int(k)] for k in found.at], dtype=object
            )
        columns = {
            "parameter": axis.name,
            "voxel": np.arange(len(preferred)),
            "preferred": preferred,
            "error": found.error,
            "agreement": found.agreement,
            "strength": found.strength,
            "p": found.p,
            "q": found.q,
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables[1:] or tables, ignore_index=True)
