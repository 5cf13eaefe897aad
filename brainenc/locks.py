"""Locks between processes: who holds a folder, and a refusal that says so."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def exclusive(
    path: str | os.PathLike, *, what: str, way_out: str, wait: float = 0
) -> Iterator[None]:
    """Hold a lock file; the system releases it when the process ends, however it ends.

    Parameters
    ----------
    path : path
        The lock file, made if necessary, with its folder, and removed at the end.
    what : str
        What the lock protects, for the error.
    way_out : str
        What the user can do, for the error.
    wait : float
        Seconds to wait for another process; negative to wait without end.

    Raises
    ------
    BlockingIOError : another process holds it; the message says which.
    """
    path = Path(path)
    # Not thread-local: a second holder in this process must not get in either.
    lock = FileLock(path, timeout=wait, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise BlockingIOError(f"{what} is in use by {_holder(path)}: {way_out}") from None
    except (OSError, NotImplementedError):
        # A folder that cannot be written to, or a file system without locks: writing there says
        # what is wrong, or works.
        yield
        return
    try:
        with suppress(OSError):  # Windows may refuse it; then the holder is not named
            path.write_text(
                f"process {os.getpid()} on {platform.node()} since "
                f"{time.strftime('%Y-%m-%d %H:%M:%S')}",
                encoding="utf-8",
            )
        yield
    finally:
        # Removed while it is held: those that wait find that their file is gone and try again.
        with suppress(OSError):
            path.unlink()
        lock.release()


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
