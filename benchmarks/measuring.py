"""Time and memory of a piece of work in a process of its own, and rows of a table of them."""

import multiprocessing
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: When `measure` gives up, on the clock of `time.monotonic`; see `deadline`.
_ends = float("inf")
#: Toy sizes are run without starting processes: what they measure is nothing.
_processes = True


@contextmanager
def deadline(seconds: float, processes: bool = True) -> Iterator[None]:
    """Within the block `measure` raises TimeoutError once so many seconds have passed.

    Without `processes` it runs its work here, and to its end.
    """
    global _ends, _processes
    former = _ends, _processes
    _ends, _processes = time.monotonic() + seconds, processes
    try:
        yield
    finally:
        _ends, _processes = former


def measure(work: Callable[..., dict | None], *args: Any) -> dict:
    """Run `work(*args)` in a fresh process.

    Returns
    -------
    dict
        What `work` returned, a dict. In it "s", "CPU s", "peak GiB" and "anonymous GiB" of what
        ran under `timed`.

    Raises
    ------
    TimeoutError : it was not done by the `deadline`; it is ended.
    RuntimeError : the process ended without a result.
    """
    left = _ends - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"no time left for {work.__name__}")
    if not _processes:
        return work(*args)
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(send, work, args))
    process.start()
    send.close()
    try:
        if not receive.poll(min(left, 1e6)):
            process.terminate()
            raise TimeoutError(f"{work.__name__} took longer than the {left:.0f} s left")
        return receive.recv()
    except EOFError:
        raise RuntimeError(f"{work.__name__} ended without a result") from None
    finally:
        process.join()


def _send_result(send: Any, work: Callable[..., dict], args: tuple) -> None:
    send.send(work(*args))


@contextmanager
def timed(device: str = "cpu") -> Iterator[dict]:
    """Time and peak memory of a block, in the dict it yields."""
    found: dict = {}
    stop = threading.Event()
    anonymous = [0.0]
    watch = threading.Thread(target=_watch_anonymous, args=(stop, anonymous))
    watch.start()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield found
        if device.startswith("cuda"):
            import torch

            torch.cuda.synchronize()
            found["GPU GiB"] = torch.cuda.max_memory_allocated() / 2**30
    finally:
        found |= {"s": time.perf_counter() - wall, "CPU s": time.process_time() - cpu}
        stop.set()
        watch.join()
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    found["peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    found["anonymous GiB"] = anonymous[0]


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
        for name in ("s", "CPU s", "peak GiB"):
            found[f"other {name}"] = theirs[name]
            found[f"{name} ratio"] = theirs[name] / ours[name]
    return found | more
