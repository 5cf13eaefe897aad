"""Write a ``.brain`` folder part by part; a killed conversion can continue.

A part is what is read at a time: a session of NSD, or a number of trials of other data.
"""

import math
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from brainenc.brain.volumes import Volume
from brainenc.data import brain_folder
from brainenc.progress import progress
from brainenc.sealed import read_sealed, save_sealed
from brainenc.storage import atomic_path, check_writable, read_json, write_json


class StreamedPlan(Protocol):
    """What to write, and how to read it part by part."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, repeats and voxels."""

    @property
    def parts(self) -> list[int]:
        """Numbers of the parts, such as the sessions."""

    @property
    def part_name(self) -> str:
        """What a part is called, in one word: "session"."""

    @property
    def trials(self) -> pd.DataFrame:
        """``image`` and ``repeat`` of all trials that will be written."""

    @property
    def images(self) -> Any:
        """Images, one per row of the betas."""

    @property
    def name(self) -> str:
        """Name of the data."""

    @property
    def volume(self) -> Volume | None:
        """Grid of the voxels."""

    @property
    def unit_name(self) -> str:
        """Units of the betas."""

    @property
    def stimuli(self) -> pd.DataFrame | None:
        """Table of stimuli, one row per image."""

    def fingerprint(self) -> str:
        """Of the settings and files: a plan with another one starts over."""

    def read(self, part: int, /) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        """Trials of a part (image, repeat, trial), betas by trial, and a record of bool."""

    def tables(self, records: list[np.ndarray], /) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Tables of voxels and trials, once the records of all parts are there."""


def convert(
    plan: StreamedPlan, out: Path, *, copy_images: bool, verbose: bool
) -> tuple[list[str], pd.DataFrame]:
    """Write `out`; return lines of a report and the voxel table.

    In the partial folder, ``plan.json`` describes the conversion, ``session_01.npy`` (the record of
    a part, here a session) exists once that part's betas are on disk, and ``brain`` becomes `out`.
    """
    out = out.absolute()
    check_writable(out.parent).mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial"
    lock = FileLock(f"{partial}.lock", timeout=0)
    try:
        with lock:
            try:
                check_new(out)  # another process may have written it meanwhile
            except FileExistsError:
                _remove(lock)
                raise
            lines = _start(plan, partial)
            voxels, trials = plan.tables(_write_parts(plan, partial, verbose))
            brain_folder.write_beside_betas(
                partial / "brain",
                images=plan.images,
                betas_shape=plan.shape,
                voxels=voxels,
                trials=trials,
                name=plan.name,
                volume=plan.volume,
                units=plan.unit_name,
                stimuli=plan.stimuli,
                copy_images=copy_images,
            )
            (partial / "brain").rename(out)
            shutil.rmtree(partial)
            _remove(lock)
    except Timeout:
        raise FileExistsError(f"another process is writing {out}") from None
    return lines, voxels


def _remove(lock: FileLock) -> None:
    """Delete the file of a lock that is no longer needed, because the folder exists."""
    with suppress(OSError):  # Windows cannot delete a locked file
        Path(lock.lock_file).unlink()


def check_new(out: Path) -> None:
    """Raise FileExistsError if there is something at `out`."""
    if out.exists():
        raise FileExistsError(f"{out} exists: delete it or choose another name")


def _start(plan: StreamedPlan, partial: Path) -> list[str]:
    """Make the partial folder, or keep an existing one with the same plan."""
    key = plan.fingerprint()
    lines = []
    if (partial / "plan.json").exists() and (partial / "brain" / "betas.npy").exists():
        if read_json(partial / "plan.json") == key:
            n_done = len(list(partial.glob(f"{plan.part_name}_*.npy")))
            return [f"going on with {partial}, where {n_done} {plan.part_name}s are finished"]
        lines = [f"{partial} was of other settings or files: starting over"]
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "brain").mkdir(parents=True)
    _create_betas(partial / "brain" / "betas.npy", plan)
    write_json(partial / "plan.json", key)
    return lines


def _create_betas(path: Path, plan: StreamedPlan) -> None:
    """Betas of the final size: NaN where no trial will be written, a hole elsewhere."""
    shape = plan.shape
    n_bytes, n_free = 4 * math.prod(shape), shutil.disk_usage(path.parent).free
    if n_bytes > n_free:
        raise OSError(f"{path} takes {n_bytes:,} bytes, but {n_free:,} are free on that disk")
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    written = np.zeros(shape[:2], dtype=bool)
    written[plan.trials["image"], plan.trials["repeat"]] = True
    missing = np.full(shape[2], np.nan, dtype=np.float32)
    with path.open("r+b") as file:
        for image, repeat in np.argwhere(~written).tolist():
            _write_row(file, shape, image, repeat, missing)


def _write_row(
    file: BinaryIO, shape: tuple[int, int, int], image: int, repeat: int, row: np.ndarray
) -> None:
    """Write one trial, without a memory map, whose pages would count as memory of the process."""
    n_values = math.prod(shape)
    header = file.seek(0, os.SEEK_END) - 4 * n_values
    file.seek(header + 4 * shape[2] * (shape[1] * image + repeat))
    file.write(row.data)


def _write_parts(plan: StreamedPlan, partial: Path, verbose: bool) -> list[np.ndarray]:
    """Write betas of unfinished parts; return the records of all."""
    one = plan.part_name
    records = {part: partial / f"{one}_{part:02d}.npy" for part in plan.parts}
    todo = [part for part, record in records.items() if not _is_whole(record)]
    with progress(desc=f"{one}s", total=len(records), unit=one, verbose=verbose) as bar:
        bar.update(len(records) - len(todo))
        for part in todo:
            # A separate function, so that one part's betas are freed before the next.
            _write_part(plan, part, partial / "brain" / "betas.npy", records[part])
            bar.update()
    return [read_sealed(record, record.name, dtype=bool) for record in records.values()]


def _is_whole(record: Path) -> bool:
    """Whether a part is finished; a damaged record is written again, with its betas."""
    try:
        read_sealed(record, record.name, dtype=bool)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _write_part(plan: StreamedPlan, part: int, path: Path, record: Path) -> None:
    trials, betas, has_data = plan.read(part)
    with path.open("r+b") as file:
        for image, repeat, trial in trials[["image", "repeat", "trial"]].to_numpy(int).tolist():
            _write_row(file, plan.shape, image, repeat, betas[trial])
        file.flush()
        os.fsync(file.fileno())  # before the part counts as finished
    with atomic_path(record) as temporary:
        save_sealed(temporary, has_data, record.name)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut can leave an empty record under the name
