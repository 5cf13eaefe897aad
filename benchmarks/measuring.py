"""Time and memory of a piece of work in a process of its own, and rows of a table of them."""

import multiprocessing
import resource
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: When `measure` gives up, on the clock of `time.monotonic`; see `deadline`.
_ends = float("inf")
#: Toy sizes are run without starting processes: what they measure is nothing.
_processes = True
#: Whether `measure` gives `Failed` for what fails; see `deadline`.
_goes_on = False


@contextmanager
def deadline(seconds: float, processes: bool = True) -> Iterator[None]:
    """Within the block `measure` ends after so many seconds, and gives `Failed` for what fails.

    Without `processes` it runs its work here, and to its end.
    """
    global _ends, _processes, _goes_on
    former = _ends, _processes, _goes_on
    _ends, _processes, _goes_on = time.monotonic() + seconds, processes, True
    try:
        yield
    finally:
        _ends, _processes, _goes_on = former


class Failed(dict):
    """In place of what could not be measured: its "error", and NaN for any other name."""

    def __missing__(self, name: str) -> float:
        return float("nan")


def measure(work: Callable[..., dict | None], *args: Any) -> dict:
    """Run `work(*args)` in a fresh process.

    Returns
    -------
    dict
        What `work` returned, a dict. In it "s", "CPU s", "peak GiB" and "anonymous GiB" of what
        ran under `timed`. Within a `deadline`, `Failed` in place of the errors below.

    Raises
    ------
    RuntimeError : the process ended without a result.
    Exception : what `work` raised.
    """
    try:
        return _measured(work, *args)
    except Exception:
        if not _goes_on:
            raise
        return Failed(error=traceback.format_exc())


def in_turn(n_rounds: int, *works: tuple) -> list[dict]:
    """What `measure` gives of each (work, *args), one after the other, for some rounds.

    Machines that others use are slower at one time than at another, for minutes: in turn, all works
    meet both. Numbers are medians over rounds.
    """
    rounds = [[measure(*work) for work in works] for _ in range(n_rounds)]
    return [
        {name: statistics.median(found[name] for found in of_work) for name in of_work[0]}
        for of_work in zip(*rounds, strict=True)
    ]


def _measured(work: Callable[..., Any], *args: Any) -> Any:
    left = _ends - time.monotonic()
    if not _processes:
        return work(*args)
    if left <= 0:
        raise TimeoutError(f"no time left for {work.__name__}")
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(send, work, args))
    process.start()
    send.close()
    try:
        if not receive.poll(min(left, 1e6)):
            process.terminate()
            raise TimeoutError(f"{work.__name__} took longer than the {left:.0f} s left")
        found = receive.recv()
    except EOFError:
        raise RuntimeError(f"{work.__name__} ended without a result") from None
    finally:
        process.join()
    if isinstance(found, str):
        raise RuntimeError(f"{work.__name__} failed in its process:\n{found}")
    return found


def _send_result(send: Any, work: Callable[..., Any], args: tuple) -> None:
    try:
        send.send(work(*args))
    except Exception:  # as text: not every exception survives the way to another process
        send.send(traceback.format_exc())


@contextmanager
def timed(device: str = "cpu") -> Iterator[dict]:
    """Time and peak memory of a block, in the dict it yields."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        import torch

        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    found: dict = {}
    stop = threading.Event()
    anonymous = [0.0]
    watch = threading.Thread(target=_watch_anonymous, args=(stop, anonymous))
    watch.start()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield found
        if on_gpu:
            torch.cuda.synchronize(device)
            found["GPU GiB"] = torch.cuda.max_memory_allocated(device) / 2**30
    finally:
        found |= {"s": time.perf_counter() - wall, "CPU s": time.process_time() - cpu}
        stop.set()
        watch.join()
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    found["peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    found["anonymous GiB"] = anonymous[0]


def device_of(backend: str) -> str:
    """Device of a backend of himalaya, for `timed`."""
    return "cuda" if backend == "torch_cuda" else "cpu"


def _watch_anonymous(stop: threading.Event, peak: list[float]) -> None:
    status = Path("/proc/self/status")
    while status.exists():
        lines = status.read_text().split("\n")
        kib = next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)
        peak[0] = max(peak[0], kib / 2**20)
        if stop.wait(0.02):
            return


def row(work: str, size: str, ours: dict, theirs: dict | None = None, **more: Any) -> dict:
    """A row of the table; ratios are theirs over ours, above 1 where brainenc is better."""
    found = {"work": work, "size": size, **ours}
    if theirs is not None:
        on_gpu = ["GPU GiB"] if "GPU GiB" in ours.keys() & theirs.keys() else []
        for name in ["s", "CPU s", "peak GiB", *on_gpu]:
            found[f"other {name}"] = theirs[name]
            found[f"{name} ratio"] = theirs[name] / ours[name]
        if "error" in theirs:
            found["other error"] = theirs["error"]
    return found | more
