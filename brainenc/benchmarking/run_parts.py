"""Parts that a benchmark and an evaluation of fitted encoders share."""

import os
import tempfile
import unicodedata
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from brainenc.arrays import release
from brainenc.benchmarking.ceilings import ceiling_of_tested, trials_averaged, trials_per_draw
from brainenc.benchmarking.result import NOT_SAVED, BenchmarkResult
from brainenc.benchmarking.split import Split
from brainenc.benchmarking.targets import Targets, make_targets
from brainenc.data.encoding_data import EncodingData
from brainenc.documentation import see
from brainenc.temporaries import scratch_folder


def run_folder(out: str | os.PathLike | None) -> Any:
    """Folder of the pairs, as a context."""
    if out is None:
        return scratch_folder(tempfile.gettempdir(), "brainenc-benchmark")
    Path(out).mkdir(parents=True, exist_ok=True)
    return nullcontext(out)


def save_run(result: BenchmarkResult, out: str | os.PathLike) -> None:
    """Write the tables; if that fails, warn, since the result would be lost with an error."""
    try:
        result.save(out)
    except OSError as error:
        result.warnings.append(
            f"{NOT_SAVED}: {error}. The fits are kept: the same call writes them without fitting "
            "again."
        )
        warnings.warn(result.warnings[-1], RuntimeWarning, stacklevel=3)


def check_arguments(data: Any, encoders: Any, n_bootstraps: int, n_permutations: int) -> None:
    """Raise TypeError or ValueError for arguments that are invalid for any encoder.

    Raises
    ------
    TypeError : data that are no EncodingData, or encoders that are no dict.
    ValueError : no resamples, or an encoder name that is empty or has control characters.
    """
    if not isinstance(data, EncodingData):
        raise TypeError(
            f"data must be an EncodingData, got {type(data).__name__}; make one with "
            "EncodingData(images, betas) or brainenc.load_npz(path)" + see("guide/data")
        )
    if not isinstance(encoders, Mapping):
        raise TypeError(
            f"encoders must be a dict of name to encoder, such as {{'ridge': RidgeEncoder()}}, "
            f"got {type(encoders).__name__}"
        )
    for name, value in {"n_bootstraps": n_bootstraps, "n_permutations": n_permutations}.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be 1 or more")
    if any(not str(name).strip() for name in encoders):
        raise ValueError("an encoder has an empty name")
    for name in map(str, encoders):
        if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
            raise ValueError(
                f"the encoder name {name!r} has line breaks or other control characters, which "
                "tables and terminals do not show; give the encoder another name"
            )


def targets_of(data: EncodingData, split: Split, settings: Mapping[str, Any]) -> Targets:
    """Targets of the scores of a run, with the numbers of resamples in its settings."""
    ceiling = ceiling_of_tested(data, split)
    release(data.betas)
    return make_targets(
        data.betas,
        split,
        ceiling,
        n_trials=trials_averaged(data, split, ceiling),
        trials_per_draw=trials_per_draw(data),
        min_ceiling=settings["min_ceiling"],
        n_bootstraps=settings["n_bootstraps"],
        random_state=settings["random_state"],
    )
