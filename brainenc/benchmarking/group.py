"""Encoders compared over subjects: one value per subject, tested against zero."""

import datetime
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainenc.benchmarking.group_checks import check_runs, run_warnings
from brainenc.benchmarking.group_result import GroupResult, as_result
from brainenc.benchmarking.group_tests import TESTS, check_test, t_test
from brainenc.benchmarking.manifest import versions
from brainenc.benchmarking.result import BenchmarkResult
from brainenc.benchmarking.tables import PAIR_COLUMNS
from brainenc.brain.surfaces import FSAVERAGE, hemisphere_names
from brainenc.documentation import see
from brainenc.model_selection import fdr

#: Columns that identify a difference.
_KEY = PAIR_COLUMNS[:5]

#: Scores that are averaged over subjects, with an interval.
_SCORES = ("r", "r_normalized", "r2", "mse_z")

#: Columns of the table of subjects, besides the scores and their intervals.
_OF_SUBJECT = ("noise_ceiling", "n_voxels", "n_undefined", "control", "error")


def group(
    results: Mapping[str, BenchmarkResult | str | os.PathLike] | Sequence[Any],
    *,
    test: str = "t",
    random_state: int = 0,
) -> GroupResult:
    """Compare encoders over subjects, each with a run of `brainenc.benchmark` of its own.

    Every subject gives one difference for each pair of encoders, metric and ROI; the test asks
    whether their mean is zero in the population that the subjects are from.

    Parameters
    ----------
    results : dict of subject to BenchmarkResult, or to the folder of a run; or a list of these
        In a list, subjects have the names of their data.
    test : "t", "signflip" or "hierarchical"
        Student's t test of the subjects' differences, for more than a few subjects the usual
        choice; all sign flips of the differences, which assumes symmetry alone, but whose p cannot
        be below 2 / 2ⁿ; or a bootstrap of images within subjects, with the error of t that has at
        least the size that images alone explain.
    random_state : int
        Seed of sign flips (above 16 subjects) and bootstrap samples.

    Returns
    -------
    GroupResult

    Raises
    ------
    TypeError : something else than results or folders.
    ValueError : an unknown test, fewer than two subjects, two of one name or of the same data, a
        run that is not finished, one name of encoders of two classes, no two encoders that two
        subjects have, or runs without bootstrap samples for "hierarchical".

    Examples
    --------
    >>> import brainenc
    >>> few = {"n_bootstraps": 50, "n_permutations": 20, "n_draws": 0, "check": False}
    >>> encoders = {"pixels": brainenc.RidgeEncoder(brainenc.PixelFeatures(8, verbose=False))}
    >>> results = {}
    >>> for i in range(3):
    ...     data = brainenc.datasets.simulate_subject(60, 10, random_state=i, verbose=False)
    ...     results[f"subject {i}"] = brainenc.benchmark(data, encoders, **few, verbose=False)
    >>> found = brainenc.group(results).pairs.query("roi == 'all' and metric == 'mse_z'")
    >>> found["encoder_a"].iloc[0], found["encoder_b"].iloc[0], int(found["n_subjects"].iloc[0])
    ('mean', 'pixels', 3)
    """
    check_test(test)
    runs = _by_name(results)
    check_runs(runs)
    subject_pairs, samples = _all_differences(runs, with_samples=test == "hierarchical")
    pairs = _tested(subject_pairs, samples, test, random_state)
    has = _subjects_of_rois(runs)
    shared = {place for place, names in has.items() if len(names) > 1}
    maps, notes = _surface_means(runs)
    return GroupResult(
        pairs=pairs,
        subject_pairs=subject_pairs,
        encoders=_means(runs, "encoders", ["encoder"]),
        rois=_only(_means(runs, "rois", ["encoder", "atlas", "roi"]), shared),
        subjects=_subject_table(runs),
        maps=maps,
        manifest=_manifest(runs, test, random_state),
        warnings=run_warnings(runs, has) + notes,
        results=runs,
    )


def _by_name(results: Any) -> dict[str, BenchmarkResult]:
    if isinstance(results, Mapping):
        named = {str(name): as_result(result, str(name)) for name, result in results.items()}
        if len(named) < len(results):
            raise ValueError(f"two subjects have one name as text: {list(results)}")
        return named
    if isinstance(results, (str, os.PathLike, BenchmarkResult)) or not np.iterable(results):
        raise TypeError(
            "results must be a dict of subject to BenchmarkResult, or to the folder of a run, got "
            f"{type(results).__name__}"
        )
    found: dict[str, BenchmarkResult] = {}
    for i, given in enumerate(results):
        result = as_result(given, str(i))
        name = str(result.manifest.get("data", {}).get("name", i))
        if name in found:
            raise ValueError(
                f"two runs are of data of the name {name!r}: give a dict, such as "
                "{'subject 1': result1, 'subject 2': result2}" + see("howto_group")
            )
        found[name] = result
    return found


# -------------------------------------------------------------------- differences


def _all_differences(
    runs: Mapping[str, BenchmarkResult], *, with_samples: bool
) -> tuple[pd.DataFrame, list[np.ndarray] | None]:
    """Differences of all subjects, in one direction, and their bootstrap samples row by row."""
    direction: dict[frozenset[str], tuple[str, str]] = {}
    tables, samples = [], []
    for name, run in runs.items():
        pairs = run.pairs[PAIR_COLUMNS].reset_index(drop=True)
        couples = list(zip(pairs["encoder_a"].map(str), pairs["encoder_b"].map(str), strict=True))
        turn = np.array(
            [direction.setdefault(frozenset(couple), couple) != couple for couple in couples],
            dtype=bool,
        )
        turned = pairs.copy()
        turned.loc[turn, ["encoder_a", "encoder_b"]] = pairs.loc[
            turn, ["encoder_b", "encoder_a"]
        ].to_numpy()
        values = -pairs.loc[turn, ["difference", "high", "low"]].to_numpy(float)
        turned.loc[turn, ["difference", "low", "high"]] = values
        turned.insert(0, "subject", name)
        tables.append(turned)
        if with_samples:
            samples += list(_samples(run, name) * np.where(turn, -1, 1)[:, None])
    table = pd.concat(tables, ignore_index=True)
    counts = table.groupby(_KEY, sort=False)["subject"].transform("nunique")
    kept = (counts > 1).to_numpy(bool)
    if not kept.any():
        have = "; ".join(f"{name}: {list(run.encoders['encoder'])}" for name, run in runs.items())
        raise ValueError(
            f"no two encoders are in the runs of two subjects ({have}): give the encoders the same "
            "names in all runs" + see("howto_group")
        )
    few = [s for s, keep in zip(samples, kept, strict=True) if keep] if with_samples else None
    return table[kept].reset_index(drop=True), few


def _samples(run: BenchmarkResult, name: str) -> np.ndarray:
    if run.pair_samples is None or len(run.pair_samples) != len(run.pairs):
        raise ValueError(
            f"the run of subject {name!r} has no bootstrap samples of differences, which "
            "test='hierarchical' needs: call the same benchmark again (nothing is fitted again), "
            "or use test='t'" + see("howto_group")
        )
    return run.pair_samples


def _tested(
    table: pd.DataFrame, samples: list[np.ndarray] | None, test: str, random_state: int
) -> pd.DataFrame:
    """One row per difference, with its test over subjects."""
    rows = []
    for i, (key, of_row) in enumerate(table.groupby(_KEY, sort=False)):
        few = None
        if samples is not None:
            parts = [samples[position] for position in of_row.index]
            n = min(map(len, parts))  # subjects may have other numbers of bootstraps
            few = np.stack([part[:n] for part in parts])
        found = TESTS[test](of_row["difference"].to_numpy(float), few, [random_state, i])
        sign = np.sign(found.mean)
        same = np.sign(of_row["difference"]) == sign
        credible = same & ((of_row["low"] > 0) | (of_row["high"] < 0))
        rows.append(
            dict(zip(_KEY, key, strict=True))
            | {"difference": found.mean, "low": found.low, "high": found.high, "p": found.p}
            | {
                "n_voxels": int(of_row["n_voxels"].sum()),
                "n_subjects": found.n_subjects,
                "statistic": found.statistic,
                "p_min": found.p_min,
                "n_same_sign": int(same.sum()),
                "n_credible": int(credible.sum()),
                "prevalence": f"{int(credible.sum())} of {found.n_subjects}",
            }
        )
    tested = pd.DataFrame(rows)
    family = ["encoder_a", "encoder_b", "metric", "atlas"]
    q = tested.groupby(family, sort=False)["p"].transform(lambda p: fdr(p.to_numpy(float)))
    tested.insert(list(tested).index("p_min") + 1, "q", q)
    return tested


# -------------------------------------------------------------------- scores of subjects


def _means(runs: Mapping[str, BenchmarkResult], table: str, keys: list[str]) -> pd.DataFrame:
    """Scores averaged over subjects, with intervals by t."""
    tables = [getattr(run, table) for run in runs.values()]
    together = pd.concat([part for part in tables if len(part)] or tables[:1], ignore_index=True)
    columns = [*keys, *_SCORES, "noise_ceiling", "n_voxels", "control"]
    together = together.reindex(columns=columns)
    rows = []
    for key, of_key in together.groupby(keys, sort=False):
        row: dict[str, Any] = dict(zip(keys, key, strict=True))
        for score in _SCORES:
            found = t_test(of_key[score].to_numpy(float))
            row |= {score: found.mean, f"{score}_low": found.low, f"{score}_high": found.high}
        row["noise_ceiling"] = of_key["noise_ceiling"].mean()
        row["n_subjects"] = int(of_key["mse_z"].notna().sum())
        row["n_voxels"] = int(of_key["n_voxels"].sum())
        if of_key["control"].notna().any():
            row["control"] = of_key["control"].fillna("").iloc[0]
        rows.append(row)
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def _only(rois: pd.DataFrame, shared: set[tuple[str, str]]) -> pd.DataFrame:
    places = zip(rois["atlas"], rois["roi"], strict=True)
    return rois[[place in shared for place in places]].reset_index(drop=True)


def _subject_table(runs: Mapping[str, BenchmarkResult]) -> pd.DataFrame:
    scores = [f"{score}{end}" for score in _SCORES for end in ("", "_low", "_high")]
    parts = []
    for name, run in runs.items():
        has = [column for column in _OF_SUBJECT if column in run.encoders]
        part = run.encoders.reindex(columns=["encoder", *scores, *has])
        part.insert(0, "subject", name)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _subjects_of_rois(runs: Mapping[str, BenchmarkResult]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for name, run in runs.items():
        for row in run.rois[["atlas", "roi"]].drop_duplicates().itertuples(index=False, name=None):
            found.setdefault(row, []).append(name)
    return found


def _surface_means(runs: Mapping[str, BenchmarkResult]) -> tuple[pd.DataFrame, list[str]]:
    """Mean r at the vertices of fsaverage, and a sentence on subjects without such vertices."""
    columns = ["encoder", "hemisphere", "vertex", "r", "noise_ceiling"]
    parts: dict[str, pd.DataFrame] = {}
    for name, run in runs.items():
        if not set(columns) <= set(run.maps):
            continue
        vertex = pd.to_numeric(run.maps["vertex"], errors="coerce")
        if vertex.between(0, FSAVERAGE - 1).all():
            hemispheres = hemisphere_names(run.maps["hemisphere"])
            parts[name] = run.maps[columns].assign(hemisphere=hemispheres, vertex=vertex)
    if len(parts) < 2:
        return pd.DataFrame(columns=[*columns, "n_subjects"]), []
    rows = pd.concat(parts.values(), ignore_index=True)
    rows["n_subjects"] = rows["r"].notna().astype(int)
    by_vertex = rows.groupby(["encoder", "hemisphere", "vertex"], sort=False)
    how = {"r": "mean", "noise_ceiling": "mean", "n_subjects": "sum"}
    missing = [name for name in runs if name not in parts]
    notes = [f"Maps of the cortex are without {', '.join(missing)}."] if missing else []
    return by_vertex.agg(how).reset_index(), notes


def _manifest(runs: Mapping[str, BenchmarkResult], test: str, random_state: int) -> dict[str, Any]:
    kept = ("data", "split", "date", "noise_ceiling")
    first = next(iter(runs.values())).manifest.get("settings", {})
    return {
        "subjects": {
            name: {key: run.manifest[key] for key in kept if key in run.manifest}
            for name, run in runs.items()
        },
        "test": test,
        "random_state": random_state,
        "settings": dict(first),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
