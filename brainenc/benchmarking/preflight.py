"""Memory and disk of a benchmark, estimated before anything is fitted."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from joblib import effective_n_jobs

from brainenc.arrays import TAKEN_IN_MEMORY, is_mapped
from brainenc.benchmarking.inputs import Entry
from brainenc.documentation import see
from brainenc.encoders.memory import WITHIN, fit_memory
from brainenc.memory import Limit, free_disk, free_memory, size
from brainenc.model_selection import Folds

#: Memory of a process that has the package and torch, which other workers take anew.
_PROCESS = 650 * 2**20


def check_resources(
    entries: Mapping[str, Entry],
    betas: np.ndarray,
    folds: Folds,
    *,
    n_jobs: int | None,
    n_draws: int,
    out: str | os.PathLike | None,
    limit: Limit | None = None,
    disk: int | None = None,
) -> list[str]:
    """Refuse a run that does not fit into memory or on the disk; say so of one that may not.

    Parameters
    ----------
    entries : dict of name to Entry
    betas : array, shape (n_images, n_repeats, n_voxels)
    folds : list of (train, test)
    n_jobs, n_draws, out : as for `brainenc.benchmark`
    limit : Limit, optional
        Free memory; by default that of `brainenc.memory.free_memory`.
    disk : int, optional
        Free bytes of the folder; by default those that the system reports.

    Returns
    -------
    list of str : warnings

    Raises
    ------
    ValueError : even two thirds of the estimate are not there.
    """
    limit = free_memory() if limit is None else limit
    needs = {name: _of_pair(entry, betas, folds) for name, entry in entries.items()}
    warnings = []
    for name, (n_bytes, remedy) in needs.items():
        warnings += _judge(f"a fit of {name}", n_bytes, limit, remedy)
    n_at_once = min(effective_n_jobs(n_jobs), len(entries) * len(folds))
    if n_at_once > 1 and not warnings:
        largest = sorted((n_bytes for n_bytes, _ in needs.values()), reverse=True)
        each = [n_bytes + _PROCESS for n_bytes in largest for _ in folds]
        fitting = int(np.searchsorted(np.cumsum(each), limit.n_bytes, side="right"))
        remedy = f"use n_jobs={max(1, min(fitting, n_at_once - 1))}"
        warnings += _judge(f"{n_at_once} fits at once", sum(each[:n_at_once]), limit, remedy)
    return warnings + _disk(entries, betas, folds, n_draws, out, disk)


def _of_pair(entry: Entry, betas: np.ndarray, folds: Folds) -> tuple[float, str]:
    """Largest memory of a fold: rows taken, the fit, predictions; and what makes it less."""
    n_train = max(len(train) for train, _ in folds)
    n_test = max(len(test) for _, test in folds)
    _, n_repeats, n_voxels = betas.shape
    row_X = _row_bytes(entry.X)
    rows = _taken(entry.X, row_X, n_train) + _taken(betas, betas[:1].nbytes, n_train)
    shape = (n_train, *entry.X.shape[1:])
    if entry.learned is not None or np.dtype(entry.X.dtype) == np.uint8:
        # How many features are made of these is not known: no more than images, in a PCA.
        shape = (n_train, min(int(np.prod(shape[1:])), n_train))
        rows += _row_bytes(entry.X) * n_train
    need = fit_memory(entry.encoder, shape, (n_train, n_repeats, n_voxels))
    return rows + need.n_bytes + n_test * (row_X + 8 * n_voxels), need.remedy


def _row_bytes(X: Any) -> int:
    return int(np.prod(X.shape[1:])) * np.dtype(X.dtype).itemsize


def _taken(array: Any, row: int, n_rows: int) -> int:
    """Bytes of rows in memory; large rows of a memory map go to the disk."""
    n_bytes = row * n_rows
    return 0 if n_bytes > TAKEN_IN_MEMORY and is_mapped(array) else n_bytes


def _judge(what: str, n_bytes: float, limit: Limit, remedy: str) -> list[str]:
    if n_bytes <= limit.n_bytes / 1.1:
        return []
    text = (
        f"{what} takes about {size(n_bytes)} of memory, and there are {size(limit.n_bytes)} "
        f"({limit.source}): {remedy}"
    )
    if n_bytes / WITHIN > limit.n_bytes:
        raise ValueError(
            f"{text}; or go on all the same with check_memory=False (--no-check-memory)"
            + see("guide/benchmark")
        )
    return [f"{text}."]


def disk_bytes(
    entries: Mapping[str, Entry], betas: np.ndarray, folds: Folds, n_draws: int
) -> float:
    """Bytes that a run writes."""
    _, n_repeats, n_voxels = betas.shape
    n_tested = sum(len(test) for _, test in folds)
    # Predictions, and of draws what their scores are made of: a few numbers per trial and voxel.
    each = n_tested * n_voxels * 4 * (1 + (8 + n_repeats if n_draws else 0))
    n_bytes = sum(n_tested * n_voxels * 4 if entry.control else each for entry in entries.values())
    # Rows of memory maps that are too large for memory are written beside them.
    n_train = max(len(train) for train, _ in folds)
    rows = [n_train * _row_bytes(entry.X) for entry in entries.values() if is_mapped(entry.X)]
    n_bytes += max([n for n in rows if n > TAKEN_IN_MEMORY], default=0)
    return n_bytes


def _disk(
    entries: Mapping[str, Entry],
    betas: np.ndarray,
    folds: Folds,
    n_draws: int,
    out: str | os.PathLike | None,
    disk: int | None,
) -> list[str]:
    n_bytes = disk_bytes(entries, betas, folds, n_draws)
    folder = Path(tempfile.gettempdir() if out is None else out)
    free = free_disk(folder) if disk is None else disk
    if n_bytes <= free / 1.1:
        return []
    text = (
        f"the run writes about {size(n_bytes)} to {folder}, where {size(free)} are free: choose "
        "another disk with out=, or fewer voxels or encoders, or n_draws=0"
    )
    if n_bytes / WITHIN > free:
        raise ValueError(
            f"{text}; or go on all the same with check_memory=False (--no-check-memory)"
            + see("guide/benchmark")
        )
    return [f"{text}."]
