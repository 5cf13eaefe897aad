"""Run pairs on the workers of a Dask cluster that share a file system with the run.

Workers get arrays as paths and memory-map them: nothing large is sent, workers of one machine share
its memory, and losing a worker loses no array.
"""

import mmap
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from brainenc.arrays import write_array
from brainenc.benchmarking import pairs
from brainenc.benchmarking.pairs import Pair
from brainenc.data.images import ImageFiles
from brainenc.documentation import see
from brainenc.temporaries import scratch_folder


@dataclass(frozen=True)
class ArrayFile:
    """Location of an array on a shared file system."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def open(self) -> np.ndarray:
        """The array, memory-mapped to read."""
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


@contextmanager
def connected(
    scheduler: str | None, out: str | os.PathLike | None
) -> Iterator[Callable[[Any], Any]]:
    """Run joblib's tasks in this context on a Dask cluster, if one is given.

    Parameters
    ----------
    scheduler : str or None
        Address, such as ``tcp://10.0.0.1:8786``. None does not change joblib.
    out : path
        Folder of the run, which every worker must see under this very path.

    Yields
    ------
    function of an array or images
        Object to send instead. Arrays in memory are written to a folder in `out`, removed at the
        end.

    Raises
    ------
    ValueError : no `out`, no workers, or workers without access to `out`.
    ImportError : dask is not installed.
    OSError : no scheduler answers at that address.

    Warns
    -----
    UserWarning : workers that run several tasks at once.
    """
    if scheduler is None:
        yield lambda array: array
        return
    if out is None:
        raise ValueError(
            "scheduler needs out=, a folder that all workers share with this machine"
            + see("cluster")
        )
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(
            "scheduler needs Dask: pip install 'brainenc[dask]'" + see("cluster")
        ) from error
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with (
        scratch_folder(out, "inputs") as folder,
        Client(scheduler) as client,
    ):
        _check_workers(client, str(folder))
        with joblib.parallel_config(_backend(client), n_jobs=-1):
            yield _Sender(folder)


def _backend(client: Any) -> Any:
    """Joblib's backend for a growing cluster: Dask gets all pairs at once and queues them.

    Joblib's own backend counts the workers once. It submits at most two jobs per initial worker,
    and with a single worker it runs everything in this process.
    """
    # Not a public name, but the only backend for Dask; the tests of clusters use it.
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):
        def effective_n_jobs(self, n_jobs: int | None) -> int:
            return 10_000

    return Backend(client=client)


def _check_workers(client: Any, folder: str) -> None:
    sees = client.run(os.path.isdir, folder)
    if not sees:
        raise ValueError(
            f"the scheduler {client.scheduler.address} has no workers yet: start some"
            + see("cluster")
        )
    if blind := [address for address, found in sees.items() if not found]:
        raise ValueError(
            f"{len(blind)} of {len(sees)} workers ({blind[0]}) do not see {Path(folder).parent}: "
            "out must be a folder on a file system that all machines share, under the same path"
            + see("cluster")
        )
    threads = client.nthreads()
    if several := [address for address, n in threads.items() if n > 1]:
        warnings.warn(
            f"{len(several)} of {len(threads)} workers ({several[0]}) run "
            f"{threads[several[0]]} tasks at once, in threads, but a worker fits one pair after "
            "the other: those that wait there are lost to other workers. Start workers with one "
            "thread for tasks (dask worker --nthreads 1)",
            UserWarning,
            stacklevel=5,
        )


class _Sender:
    """Arrays to `ArrayFile`, each written once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._sent: dict[int, tuple[Any, ArrayFile]] = {}

    def __call__(self, array: Any) -> Any:
        if isinstance(array, ImageFiles):  # these are paths
            return array
        if id(array) not in self._sent:
            found = _own_file(array) or self._written(array)
            self._sent[id(array)] = (array, found)  # kept alive, so that its id is not reused
        return self._sent[id(array)][1]

    def _written(self, array: Any) -> ArrayFile:
        path = self.folder / f"{len(self._sent)}.npy"
        write_array(path, array)
        written = _own_file(np.load(path, mmap_mode="r"))
        assert written is not None
        return written


def _own_file(array: Any) -> ArrayFile | None:
    """File of a memory map; None for a part of a map, whose offset is unknown.

    Also None for a copy-on-write map, whose changes are not in the file.
    """
    if not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap):
        return None
    if array.filename is None or array.mode == "c" or not array.flags.c_contiguous:
        return None
    path = Path(os.fsdecode(array.filename)).resolve()
    return ArrayFile(path, array.dtype.str, array.shape, array.offset)


def run_pair(pair: Pair, X: Any, betas: Any) -> Pair:
    """`pairs.run_pair` on a worker, unless a worker that was lost had finished it.

    If its folder cannot be written, `lost` of the pair has the reason, and the others continue.
    """
    try:
        return _run_unless_finished(pair, X, betas)
    except Exception as error:
        return replace(pair, lost=f"{type(error).__name__}: {error}")


def _run_unless_finished(pair: Pair, X: Any, betas: Any) -> Pair:
    if not pair.to_fit():
        return pair
    with on_worker(X, betas) as opened:
        return pairs.run_pair(pair, *opened)


@contextmanager
def on_worker(*arrays: Any) -> Iterator[tuple[Any, ...]]:
    """Arrays that were sent, opened; what an encoder runs in parallel stays on this worker."""
    opened = tuple(array.open() if isinstance(array, ArrayFile) else array for array in arrays)
    # joblib would send what the encoder itself runs in parallel to the cluster, behind all other
    # pairs; those that wait for this one would keep the workers' threads, and it would wait for
    # ever. So it is run by threads of this worker, and one after the other without n_jobs.
    inner = joblib.parallel_config("threading", n_jobs=1) if _on_dask_worker() else nullcontext()
    with inner:
        yield opened


def _on_dask_worker() -> bool:
    if "distributed" not in sys.modules:  # which takes a second to import
        return False
    from distributed import get_worker

    try:
        get_worker()
    except ValueError:
        return False
    return True
