"""The benchmark of several subjects, one after the other."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from brainenc.benchmarking.group import group
from brainenc.benchmarking.group_result import GroupResult
from brainenc.benchmarking.result import BenchmarkResult
from brainenc.data.encoding_data import EncodingData
from brainenc.documentation import see

#: Arguments that may be given per subject, as a dict of subject to value.
_PER_SUBJECT = ("features", "groups", "test")


def benchmark_subjects(
    data: Any, run: Callable[..., BenchmarkResult], arguments: Mapping[str, Any]
) -> GroupResult:
    """Run the benchmark for each subject, and compare encoders over them.

    Parameters
    ----------
    data : dict of subject to EncodingData, or sequence of EncodingData of different names
    run : callable
        `brainenc.benchmark` of one subject.
    arguments : dict
        Its other arguments. ``features``, ``groups`` and ``test`` may be dicts with a value per
        subject; ``out`` gets a folder per subject.

    Returns
    -------
    GroupResult
        By Student's t test; `GroupResult.results` has the subjects' own results, for
        `brainenc.group` with another test.

    Raises
    ------
    TypeError : something else than EncodingData.
    ValueError : fewer than two subjects, two of one name, or what `run` raises, with the subject.
    """
    subjects = _by_name(data)
    out = arguments.get("out")
    folders = _folders(subjects)
    results = {}
    for name, of_subject in subjects.items():
        given = {
            key: _of_subject(key, value, name, subjects, arguments["encoders"])
            for key, value in arguments.items()
        }
        given["out"] = None if out is None else Path(out) / folders[name]
        try:
            results[name] = run(of_subject, **given)
        except (ValueError, TypeError) as error:
            raise type(error)(f"subject {name!r}: {error}") from error
    found = group(results)
    if out is not None:
        found.save(out)
    return found


def _by_name(data: Any) -> dict[str, EncodingData]:
    items = data.values() if isinstance(data, Mapping) else data
    if not any(isinstance(item, EncodingData) for item in items):
        raise TypeError(
            f"data must be an EncodingData, got {type(data).__name__}; make one with "
            "EncodingData(images, betas), or open a folder with EncodingData.load(folder); for "
            "several subjects give a dict of subject to EncodingData" + see("guide/data")
        )
    if isinstance(data, Mapping):
        subjects = {str(name): of_subject for name, of_subject in data.items()}
    else:
        subjects = {}
        for i, of_subject in enumerate(data):
            name = str(getattr(of_subject, "name", i))
            if name in subjects:
                raise ValueError(
                    f"two subjects have the name {name!r}: give a dict of name to data, such as "
                    "{'subject 1': data1, 'subject 2': data2}" + see("howto_group")
                )
            subjects[name] = of_subject
    for name, of_subject in subjects.items():
        if not isinstance(of_subject, EncodingData):
            raise TypeError(
                f"data of subject {name!r} must be an EncodingData, got "
                f"{type(of_subject).__name__}; make one with EncodingData(images, betas)"
            )
    if len(subjects) < 2:
        raise ValueError(
            f"a group takes at least 2 subjects, got {len(subjects)}; for one subject give its "
            "EncodingData itself" + see("howto_group")
        )
    return subjects


def _of_subject(key: str, value: Any, name: str, subjects: Mapping[str, Any], encoders: Any) -> Any:
    """An argument of one subject: its own value if it is given per subject."""
    if key not in _PER_SUBJECT or not isinstance(value, Mapping):
        return value
    keys = {str(of) for of in value}
    if keys != set(subjects):
        if key == "features" and keys <= {str(of) for of in encoders}:
            return value
        raise ValueError(
            f"{key} has values for {sorted(keys)}, but the subjects are {list(subjects)}: give one "
            "value for each, or one for all"
        )
    if key == "features" and keys <= {str(of) for of in encoders}:
        raise ValueError(
            "features is a dict whose keys are names of subjects and of encoders: give the "
            "encoders other names" + see("howto_group")
        )
    return {str(of): item for of, item in value.items()}[name]


def _folders(names: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """Name of a folder for each subject."""
    found: dict[str, str] = {}
    for name in names:
        readable = re.sub(r"[^\w.+-]+", "_", name).strip(".") or "subject"
        while readable.lower() in {other.lower() for other in found.values()}:
            readable += "_"
        found[name] = readable
    return found
