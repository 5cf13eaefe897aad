"""Outcomes of a unit in a fold as a folder: whole or not there, so that a run can be taken up."""

import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brainenc.benchmarking.decoding_inputs import Fold
from brainenc.benchmarking.decoding_rows import Outcome, Unit
from brainenc.process_state import interruption_ends_fit
from brainenc.reading import reading
from brainenc.storage import (
    atomic_path,
    check_file,
    file_record,
    read_signed_json,
    write_signed_json,
)

_INFO, _ARRAYS = "info.json", "arrays.npz"


@dataclass(frozen=True)
class Kept:
    """What a folder holds of one unit in one fold.

    Attributes
    ----------
    outcomes : list of Outcome
        Empty after an error.
    error : str
        "" if there was none.
    seconds : float
        Time of fits and predictions.
    warnings : list of str
    """

    outcomes: list[Outcome]
    error: str
    seconds: float
    warnings: list[str]


def finished(folder: Path, key: str) -> bool:
    """Whether an earlier run wrote the outcomes of this unit, without an error."""
    try:
        info = read_signed_json(folder / _INFO)
        if info.get("key") != key or info.get("error"):
            return False
        check_file(folder / _ARRAYS, info["record"])
    except (FileNotFoundError, ValueError, KeyError, AttributeError):  # missing or damaged
        return False
    return True


def run_unit(unit: Unit, fold: Fold, folder: Path, key: str) -> None:
    """Fit and predict; an error is recorded and does not stop the other units."""
    info: dict[str, Any] = {"key": key, "error": ""}
    arrays: dict[str, np.ndarray] = {}
    outcomes: Sequence[Outcome] = []
    start = time.perf_counter()
    with interruption_ends_fit(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            outcomes = unit.make(fold)
        except Exception as error:
            info["error"] = f"{type(error).__name__}: {error}"
            info["traceback"] = traceback.format_exc()
    info["seconds"] = time.perf_counter() - start
    info["warnings"] = sorted({str(warning.message) for warning in caught})
    info["outcomes"] = []
    for i, outcome in enumerate(outcomes):
        info["outcomes"].append(
            {
                "row": outcome.row,
                "responses": outcome.responses,
                "labels": list(outcome.similarities),
                "r": outcome.r,
                "dimension": outcome.dimension,
                "roi": outcome.roi,
            }
        )
        arrays[f"{i} images"] = outcome.images
        arrays[f"{i} errors"], arrays[f"{i} null"] = outcome.errors, outcome.null_errors
        for j, values in enumerate(outcome.similarities.values()):
            arrays[f"{i} {j}"] = values
    write_kept(folder, info, arrays)


def write_kept(folder: Path, info: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write arrays and what is known of them; `info` has the ``key`` of the fit."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        np.savez(temporary / _ARRAYS, **arrays)  # type: ignore[arg-type]
        record = file_record(temporary / _ARRAYS)
        write_signed_json(temporary / _INFO, {**info, "record": record})


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Arrays that `write_kept` wrote."""
    path = folder / _ARRAYS
    with reading(path, "arrays of a decoding benchmark"), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file}


def read_unit(folder: Path) -> Kept:
    """What `run_unit` wrote."""
    info = read_signed_json(folder / _INFO)
    arrays = read_arrays(folder)
    outcomes = [
        Outcome(
            row=known["row"],
            responses=known["responses"],
            images=arrays[f"{i} images"],
            similarities={label: arrays[f"{i} {j}"] for j, label in enumerate(known["labels"])},
            errors=arrays[f"{i} errors"],
            null_errors=arrays[f"{i} null"],
            r=known["r"],
            dimension=known["dimension"],
            roi=known["roi"],
        )
        for i, known in enumerate(info["outcomes"])
    ]
    return Kept(outcomes, info["error"], info["seconds"], info["warnings"])
