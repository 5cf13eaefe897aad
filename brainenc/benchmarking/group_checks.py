"""Checks that the runs of several subjects can be compared, and sentences on what differs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from brainenc.benchmarking.result import BenchmarkResult
from brainenc.documentation import see

#: Settings of a run that should be the same for all subjects.
_SETTINGS = ("cv", "groups", "random_state", "min_ceiling")

#: Names listed in a sentence.
_N_LISTED = 6


def check_runs(results: Mapping[str, BenchmarkResult]) -> None:
    """Raise ValueError for runs that make no group.

    Raises
    ------
    ValueError : fewer than two subjects, the same data twice, a run that is not finished, or an
        encoder's name that is of another class in another run.
    """
    if len(results) < 2:
        raise ValueError(
            f"a group takes at least 2 subjects, got {len(results)}: "
            "{'subject 1': result1, 'subject 2': result2}" + see("howto_group")
        )
    seen: dict[str, str] = {}
    for name, result in results.items():
        if todo := result.manifest.get("unfinished"):
            raise ValueError(
                f"the run of subject {name!r} is not finished ({_listed(todo)} to do): call the "
                "same benchmark again, which goes on where it was stopped" + see("howto_group")
            )
        hashed = result.manifest.get("data", {}).get("hash")
        if hashed is not None and hashed in seen:
            raise ValueError(
                f"subjects {seen[hashed]!r} and {name!r} are runs of the same data: a subject "
                "counts once" + see("howto_group")
            )
        seen[hashed or name] = name
    for encoder, kinds in _by_encoder(results, "class").items():
        if len(kinds) > 1:
            raise ValueError(
                f"encoder {encoder!r} is {_each(kinds)}: give encoders of one kind one name in all "
                "runs" + see("howto_group")
            )


def run_warnings(
    results: Mapping[str, BenchmarkResult], rois: Mapping[tuple[str, str], Sequence[str]]
) -> list[str]:
    """Sentences on what differs between the runs of subjects.

    Parameters
    ----------
    results : dict of subject to BenchmarkResult
    rois : dict of (atlas, roi) to the subjects that have it
    """
    found = []
    for setting in _SETTINGS:
        values: dict[str, list[str]] = {}
        for name, result in results.items():
            value = result.manifest.get("settings", {}).get(setting)
            values.setdefault(str(value), []).append(name)
        if len(values) > 1:
            found.append(f"{setting} differs between the runs: {_each(values)}.")
    for encoder, texts in _by_encoder(results, None).items():
        if len(texts) > 1:
            groups = "; ".join(_listed(names) for names in texts.values())
            found.append(f"{encoder} has other parameters in the runs of: {groups}.")
    found += _encoders_of_some(results)
    return found + _rois_of_some(rois, list(results))


def _encoders_of_some(results: Mapping[str, BenchmarkResult]) -> list[str]:
    scored: dict[str, list[str]] = {}
    for name, result in results.items():
        errors = result.encoders.set_index("encoder").get("error", pd.Series(dtype=object))
        for encoder in map(str, result.encoders["encoder"]):
            error = errors.get(encoder)
            if not (isinstance(error, str) and error):
                scored.setdefault(encoder, []).append(name)
    found = []
    for encoder, names in scored.items():
        if missing := [name for name in results if name not in names]:
            used = "its differences are of these alone" if len(names) > 1 else "it is left out"
            found.append(
                f"{encoder} is scored in {len(names)} of {len(results)} subjects, not in "
                f"{_listed(missing)}: {used}."
            )
    return found


def _rois_of_some(rois: Mapping[tuple[str, str], Sequence[str]], subjects: list[str]) -> list[str]:
    alone = [f"{atlas}: {roi} ({of[0]})" for (atlas, roi), of in rois.items() if len(of) == 1]
    some = [
        f"{atlas}: {roi} ({len(of)})"
        for (atlas, roi), of in rois.items()
        if 1 < len(of) < len(subjects)
    ]
    found = []
    if alone:
        found.append(f"ROIs of a single subject are left out: {_listed(alone)}.")
    if some:
        found.append(
            f"ROIs that not all {len(subjects)} subjects have are of those that have them: "
            f"{_listed(some)}."
        )
    return found


def _by_encoder(
    results: Mapping[str, BenchmarkResult], key: str | None
) -> dict[str, dict[str, list[str]]]:
    """Subjects by what their manifest says of an encoder: its class, or all of it."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, result in results.items():
        described = result.manifest.get("settings", {}).get("encoders", {})
        for encoder, description in described.items():
            what = description.get(key) if key is not None else json.dumps(_plain(description))
            if what is not None:
                found.setdefault(str(encoder), {}).setdefault(str(what), []).append(name)
    return found


def _plain(value: Any) -> Any:
    """A description without arrays and hashes, which are of one subject's data."""
    if isinstance(value, Mapping):
        if {"hash", "values", "token"} & set(value) or "array" in value:
            return "array"
        return {str(key): _plain(item) for key, item in sorted(value.items())}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else str(value)


def _each(values: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{value} ({_listed(names)})" for value, names in values.items())


def _listed(names: Sequence[Any]) -> str:
    shown = ", ".join(map(str, names[:_N_LISTED]))
    return f"{shown} and {len(names) - _N_LISTED} more" if len(names) > _N_LISTED else shown
