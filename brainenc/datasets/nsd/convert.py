"""Convert NSD to a ``.brain`` folder, session by session; a killed conversion can continue."""

import math
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from brainenc.data import brain_folder
from brainenc.datasets.nsd.design import N_REPEATS
from brainenc.datasets.nsd.files import existing
from brainenc.datasets.nsd.plan import UNITS, Plan, coverage_line
from brainenc.progress import progress
from brainenc.sealed import read_sealed, save_sealed
from brainenc.storage import atomic_path, check_writable, fingerprint, read_json, write_json


def convert(plan: Plan, out: Path, *, copy_images: bool, verbose: bool) -> list[str]:
    """Write `out`, and return lines of a report.

    In the partial folder, ``plan.json`` describes the conversion, ``session_01.npy`` (which voxels
    have data) exists once that session's betas are on disk, and ``brain`` becomes `out`.
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
            has_data = _write_sessions(plan, partial, verbose)
            voxels, trials = plan.tables(has_data)
            brain_folder.write_beside_betas(
                partial / "brain",
                images=plan.images,
                betas_shape=_shape(plan),
                voxels=voxels,
                trials=trials,
                name=plan.name,
                volume=plan.volume,
                units=UNITS[plan.units],
                copy_images=copy_images,
            )
            (partial / "brain").rename(out)
            shutil.rmtree(partial)
            _remove(lock)
    except Timeout:
        raise FileExistsError(f"another process is writing {out}") from None
    return [*lines, coverage_line(voxels["n_sessions"].to_numpy(), len(plan.sessions))]


def _remove(lock: FileLock) -> None:
    """Delete the file of a lock that nobody needs any more, as the folder is there."""
    with suppress(OSError):  # Windows cannot delete a locked file
        Path(lock.lock_file).unlink()


def check_new(out: Path) -> None:
    """Raise FileExistsError if there is something at `out`."""
    if out.exists():
        raise FileExistsError(f"{out} exists: delete it or choose another name")


def _shape(plan: Plan) -> tuple[int, int, int]:
    return len(plan.images), N_REPEATS, len(plan.voxels)


def _start(plan: Plan, partial: Path) -> list[str]:
    """Make the partial folder, or keep an existing one with the same plan."""
    key = _fingerprint(plan)
    lines = []
    if (partial / "plan.json").exists() and (partial / "brain" / "betas.npy").exists():
        if read_json(partial / "plan.json") == key:
            n_done = len(list(partial.glob("session_*.npy")))
            return [f"going on with {partial}, where {n_done} sessions are finished"]
        lines = [f"{partial} was of other settings or files: starting over"]
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "brain").mkdir(parents=True)
    _create_betas(partial / "brain" / "betas.npy", plan)
    write_json(partial / "plan.json", key)
    return lines


def _fingerprint(plan: Plan) -> str:
    settings = [str(plan.files), plan.files.space, plan.units, plan.sessions, plan.images.shape]
    files = [path for s in plan.sessions for path in existing(plan.files.sessions(s))]
    stats = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    columns = plan.trials.to_numpy(dtype=np.int64)
    return fingerprint(settings, stats, columns, plan.mask)


def _create_betas(path: Path, plan: Plan) -> None:
    """Betas of the final size: NaN where no trial will be written, a hole elsewhere."""
    shape = _shape(plan)
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


def _write_sessions(plan: Plan, partial: Path, verbose: bool) -> list[np.ndarray]:
    """Write betas of unfinished sessions; return which voxels have data in each session."""
    records = {session: partial / f"session_{session:02d}.npy" for session in plan.sessions}
    todo = [session for session, record in records.items() if not _is_whole(record)]
    with progress(desc="sessions", total=len(records), unit="session", verbose=verbose) as bar:
        bar.update(len(records) - len(todo))
        for session in todo:
            # A separate function, so that one session's betas are freed before the next.
            _write_session(plan, session, partial / "brain" / "betas.npy", records[session])
            bar.update()
    return [read_sealed(record, record.name, dtype=bool) for record in records.values()]


def _is_whole(record: Path) -> bool:
    """Whether a session is finished; a damaged record is written again, with its betas."""
    try:
        read_sealed(record, record.name, dtype=bool)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _write_session(plan: Plan, session: int, path: Path, record: Path) -> None:
    trials, betas, has_data = plan.read(session)
    with path.open("r+b") as file:
        for image, repeat, trial in trials[["image", "repeat", "trial"]].to_numpy(int).tolist():
            _write_row(file, _shape(plan), image, repeat, betas[trial])
        file.flush()
        os.fsync(file.fileno())  # before the session counts as finished
    with atomic_path(record) as temporary:
        save_sealed(temporary, has_data, record.name)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut can leave an empty record under the name
