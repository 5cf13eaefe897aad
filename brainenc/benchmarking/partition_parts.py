"""Parts of the variance as sums and differences of the R² of models, and their tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from brainenc import metrics
from brainenc.arrays import blocks
from brainenc.benchmarking.partition_fits import (
    MAX_FULL,
    Model,
    model_name,
    permutation_of,
    subset,
)
from brainenc.data.voxels import beside_results
from brainenc.metrics import NoiseCeiling
from brainenc.model_selection import bootstrap_interval, bootstrap_p_value

#: A part: the R² of models with their coefficients.
Terms = dict[Model, int]

#: Voxels whose bootstrap samples are in memory at once.
_BLOCK = 256


def terms_of(names: Sequence[str]) -> dict[str, Terms]:
    """Every part of the R² of all bands, by the name of its column.

    The part that the bands T share, and no other band explains, is Σ (-1)^(|U| + 1) R²(U and all
    bands outside T) over the subsets U of T (commonality analysis). The R² of no band is 0.

    Examples
    --------
    >>> {model_name(model): n for model, n in terms_of(["a", "b"])["shared"].items()}
    {'a + b': -1, 'b': 1, 'a': 1}
    """
    total = {subset(names): 1}
    found = {f"unique_{name}": _common(names, [name]) for name in names}
    if 2 < len(names) <= MAX_FULL:
        for n in range(2, len(names) + 1):
            for chosen in combinations(names, n):
                found["shared_" + "+".join(chosen)] = _common(names, chosen)
    uniques = [found[f"unique_{name}"] for name in names]
    found["shared"] = _sum([total, *uniques], [1, *[-1] * len(names)])
    found["total"] = total
    return found | {f"alone_{name}": {subset([name]): 1} for name in names}


def null_terms(names: Sequence[str], part: str, permutation: int = 1) -> Terms:
    """The same part where nothing is to be explained.

    Of what a band explains, alone or beside the others: with this band permuted. Of what is shared,
    and of all bands: with all bands permuted.
    """
    for name in names:
        if part == f"unique_{name}":
            rest = [other for other in names if other != name]
            return {subset(names, [name], permutation): 1, subset(rest): -1}
    given = terms_of(names)[part]
    return {subset([m.band for m in model], names, permutation): n for model, n in given.items()}


def _common(names: Sequence[str], chosen: Sequence[str]) -> Terms:
    outside = set(names) - set(chosen)
    found: Terms = {}
    for n in range(len(chosen) + 1):
        for some in combinations(chosen, n):
            if model := subset([name for name in names if name in outside or name in some]):
                found[model] = (-1) ** (n + 1)
    return found


def _sum(terms: Sequence[Terms], signs: Sequence[int]) -> Terms:
    found: Terms = {}
    for each, sign in zip(terms, signs, strict=True):
        for model, n in each.items():
            found[model] = found.get(model, 0) + sign * n
    return {model: n for model, n in found.items() if n}


@dataclass(frozen=True)
class Scored:
    """Held-out predictions of every model, and what they are scored on.

    Attributes
    ----------
    names : list of str
        Bands.
    n_permutations : int
    predictions : dict of Model to array, shape (n_rows, n_voxels)
    targets : array, shape (n_rows, n_voxels)
    weights : array, shape (n_bootstraps, n_rows)
        Count of each row in each resample of images, the same for all models.
    n_images : int
        Images that the rows are of.
    ceiling : NoiseCeiling
        Of R², for these targets.
    n_trials : float or array, shape (n_voxels,)
        Trials averaged in the targets.
    min_ceiling : float
        Smallest ceiling of r for normalised values.
    """

    names: list[str]
    n_permutations: int
    predictions: Mapping[Model, np.ndarray]
    targets: np.ndarray
    weights: np.ndarray
    n_images: int
    ceiling: NoiseCeiling
    n_trials: float | np.ndarray
    min_ceiling: float

    def r2(self, voxels: slice = slice(None), *, sampled: bool = False) -> dict[Model, np.ndarray]:
        """R² of every model, (n_voxels,) or of every resample (n_bootstraps, n_voxels)."""
        y = self.targets[:, voxels]
        found = {}
        for model, prediction in self.predictions.items():
            weights = self.weights if sampled else None
            values = metrics.r_squared(prediction[:, voxels], y, weights=weights)
            if sampled:
                # Resamples of n images vary less by (n - 1) / n, and their errors do not.
                values = 1 - (1 - values) * (self.n_images - 1) / self.n_images
            found[model] = values
        return found

    def normalized(self, values: np.ndarray, voxels: slice = slice(None)) -> np.ndarray:
        """Shares of the explainable variance; NaN where the ceiling is too low to divide by."""
        ceiling = self.ceiling.of_voxels(voxels)
        n = self.n_trials[voxels] if isinstance(self.n_trials, np.ndarray) else self.n_trials
        ratio = ceiling.normalize(values, space="r2", n_trials=n)
        return np.where(ceiling.to("r").values >= self.min_ceiling, ratio, np.nan)

    def quantities(self, r2: Mapping[Model, np.ndarray], voxels: slice) -> Iterator[tuple]:
        """Kind, name and values of all that tables hold."""
        for part, terms in terms_of(self.names).items():
            value = _value(terms, r2)
            nulls = [
                _value(null_terms(self.names, part, k), r2)
                for k in range(1, self.n_permutations + 1)
            ]
            null = sum(nulls[1:], start=nulls[0]) / len(nulls)
            yield "", part, value
            yield "null", part, null
            for k, each in enumerate(nulls, start=1):
                yield f"null {k}", part, each
            yield "above null", part, value - null
            yield "normalized", part, self.normalized(value, voxels)
        for model, value in r2.items():
            yield "model", model_name(model), value
            yield "model normalized", model_name(model), self.normalized(value, voxels)


def _value(terms: Terms, r2: Mapping[Model, np.ndarray]) -> np.ndarray:
    first, *others = [n * r2[model] for model, n in terms.items()]
    return sum(others, start=first)


def voxel_table(scored: Scored, voxels: pd.DataFrame) -> pd.DataFrame:
    """One row per voxel: the parts, their nulls and the ceiling beside the user's own columns."""
    found: dict[str, np.ndarray] = {}
    for kind, name, values in scored.quantities(scored.r2(), slice(None)):
        if kind in ("", "null", "normalized"):
            found[f"{name}_{kind}" if kind else name] = values
    order = [*terms_of(scored.names)]
    columns = [*order, *(f"{part}_null" for part in order), *(f"{p}_normalized" for p in order)]
    table = pd.DataFrame(found)[columns]
    table.insert(len(order), "noise_ceiling", scored.ceiling.values)
    table.insert(0, "voxel", np.arange(len(table)))
    return beside_results(table, voxels)


@dataclass(frozen=True)
class Means:
    """Means over the voxels of each place, and their bootstrap samples."""

    value: dict[tuple[str, str], np.ndarray]  # (n_places,)
    samples: dict[tuple[str, str], np.ndarray]  # (n_bootstraps, n_places)
    n_voxels: dict[tuple[str, str], np.ndarray]


def means(scored: Scored, places: Sequence[np.ndarray]) -> Means:
    """Means over the voxels of places, arrays of positions; undefined voxels are left out."""
    n_voxels = scored.targets.shape[1]
    member = np.zeros((n_voxels, len(places)))
    for i, place in enumerate(places):
        member[place, i] = 1
    sums: dict[bool, dict[tuple[str, str], np.ndarray]] = {False: {}, True: {}}
    counts: dict[bool, dict[tuple[str, str], np.ndarray]] = {False: {}, True: {}}
    for voxels in blocks(n_voxels, _BLOCK):
        for sampled in (False, True):
            r2 = scored.r2(voxels, sampled=sampled)
            for kind, name, values in scored.quantities(r2, voxels):
                finite = np.isfinite(values)
                key = kind, name
                total = np.where(finite, values, 0) @ member[voxels]
                count = finite.astype(float) @ member[voxels]
                sums[sampled][key] = sums[sampled].get(key, 0) + total
                counts[sampled][key] = counts[sampled].get(key, 0) + count
    with np.errstate(invalid="ignore", divide="ignore"):
        value, samples = (
            {key: total / counts[sampled][key] for key, total in sums[sampled].items()}
            for sampled in (False, True)
        )
    return Means(value, samples, {key: n.astype(int) for key, n in counts[False].items()})


#: Place of a row: atlas, ROI and its voxels.
Place = tuple[str, str, np.ndarray]


def roi_tables(scored: Scored, places: Sequence[Place]) -> tuple[pd.DataFrame, ...]:
    """Tables of ROIs (wide), of parts (one row per ROI and part) and of models.

    The last two of the first place, all voxels, come first.
    """
    found = means(scored, [voxels for _, _, voxels in places])
    parts = list(terms_of(scored.names))
    rois, long = [], []
    for i, (atlas, roi, voxels) in enumerate(places):
        ceiling = scored.ceiling.values[voxels]
        known = ceiling[np.isfinite(ceiling)]
        row: dict[str, object] = {"atlas": atlas, "roi": roi, "n_voxels": len(voxels)}
        row["noise_ceiling"] = known.mean() if len(known) else np.nan
        for part in parts:
            row |= _with_interval(found, ("", part), i, part)
            row |= _with_interval(found, ("normalized", part), i, f"{part}_normalized")
            row[f"{part}_null"] = found.value["null", part][i]
            long.append(
                {
                    "atlas": atlas,
                    "roi": roi,
                    "part": part,
                    **_with_interval(found, ("", part), i, "r2"),
                    **_with_interval(found, ("null", part), i, "null"),
                    **_with_interval(found, ("above null", part), i, "above_null"),
                    "p": bootstrap_p_value(found.samples["above null", part][:, i]),
                    **_of_permutations(found, part, i, scored.n_permutations),
                    **_with_interval(found, ("normalized", part), i, "r2_normalized"),
                    "n_voxels": int(found.n_voxels["", part][i]),
                    "n_voxels_normalized": int(found.n_voxels["normalized", part][i]),
                }
            )
        rois.append(row)
    models = []
    for model in scored.predictions:
        name = model_name(model)
        models.append(
            {
                "encoder": name,
                "control": "permuted" if permutation_of(model) else "",
                "n_bands": len(model),
                **_with_interval(found, ("model", name), 0, "r2"),
                "noise_ceiling": rois[0]["noise_ceiling"],
                **_with_interval(found, ("model normalized", name), 0, "r2_normalized"),
                "n_voxels": int(found.n_voxels["model", name][0]),
            }
        )
    return pd.DataFrame(rois), pd.DataFrame(long), pd.DataFrame(models)


def _with_interval(found: Means, key: tuple[str, str], place: int, name: str) -> dict[str, float]:
    low, high = bootstrap_interval(found.samples[key][:, place])
    return {name: found.value[key][place], f"{name}_low": float(low), f"{name}_high": float(high)}


def _of_permutations(found: Means, part: str, place: int, n: int) -> dict[str, float]:
    """s.d. of the null over permutations, and the p of as large a value; NaN with one of them."""
    nulls = np.array([found.value[f"null {k}", part][place] for k in range(1, n + 1)])
    value = found.value["", part][place]
    if n < 2 or not (np.isfinite(nulls).all() and np.isfinite(value)):
        return {"null_sd": np.nan, "p_permuted": np.nan}
    return {
        "null_sd": float(nulls.std(ddof=1)),
        "p_permuted": float((1 + (nulls >= value).sum()) / (1 + n)),
    }
