"""Work in forked processes with limits: memory, time, and a watch on code that runs.

A process that has imported everything once forks a worker in milliseconds.
"""

import contextlib
import os
import pickle
import resource
import select
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torture.mutate_bytes import CANARY

#: Address space that an input may take above that of the warm process, and resident memory.
LIMIT, RESIDENT = 2 * 2**30, 2**30
#: Seconds per input; the process that waits is more patient, for code that no alarm interrupts.
SECONDS, PATIENCE = 20, 30

FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"),
    *("subprocess.Popen", "socket.connect", "socket.bind", "socket.getaddrinfo", "pty.spawn"),
    *("pickle.find_class", "webbrowser.open", "ctypes.dlopen"),
)
CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")


class Hang(BaseException):
    """The alarm; no library catches it as an error."""


class Watch:
    """Audit hook that notes code run, connections, and files changed outside one folder."""

    def __init__(self, inside: Path):
        self.inside = str(inside)
        self.seen: list[str] = []
        self.on = False
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple) -> None:
        if not self.on or not event.startswith(_PREFIXES):
            return
        self.on = False  # what this hook does itself is not noted
        try:
            if note := self._note(event, args):
                self.seen.append(note[:200])
        finally:
            self.on = True

    def _note(self, event: str, args: tuple) -> str:
        if event.startswith(FORBIDDEN):
            return f"{event} {args!r}"
        if event == "exec" and isinstance(args[0], types.CodeType):
            code = args[0]
            foreign = code.co_filename.startswith(self.inside)
            return f"exec {code.co_filename}" if foreign or _has_canary(code) else ""
        if event == "open" and isinstance(args[0], (str, bytes)):
            flags = args[2] if isinstance(args[2], int) else 0
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            return self._outside(event, args[0]) if writes else ""
        if event in CHANGING and isinstance(args[0], (str, bytes, os.PathLike)):
            return self._outside(event, args[0])
        return ""

    def _outside(self, event: str, path: Any) -> str:
        full = os.path.realpath(os.fsdecode(path))
        inside = full.startswith(self.inside) or full == "/dev/null"
        return "" if inside else f"{event} of {full}"


_PREFIXES = (*FORBIDDEN, "exec", "open", *CHANGING)


def _has_canary(code: types.CodeType) -> bool:
    return CANARY in code.co_names or any(CANARY in str(const) for const in code.co_consts)


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def limit_memory() -> None:
    """Limit the address space of this process to `LIMIT` above what it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class PeakMemory:
    """Resident memory at its peak above that at the start, in bytes."""

    def __enter__(self) -> "PeakMemory":
        Path("/proc/self/clear_refs").write_text("5")
        self.before = self._status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = self._status("VmHWM") - self.before

    @staticmethod
    def _status(name: str) -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.split(f"{name}:")[1].split()[0]) * 1024


def forked(work: Callable[[], None], *, quiet: bool = True) -> int:
    """Start `work` in a fork of this process; give its process id. It ends with status 0 or 1.

    In a session of its own, so that its group can be killed with it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        if quiet:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
        work()
        status = 0
    except BaseException:
        if not quiet:
            import traceback

            traceback.print_exc()
    finally:
        os._exit(status)
    raise AssertionError("not reached")


def wait(pid: int, seconds: float) -> int | None:
    """Exit status of a process, negative for a signal; None if it still runs after so long."""
    end = time.monotonic() + seconds
    pause = 0.0005
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        left = end - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 0.02)


def kill(pid: int) -> None:
    """Kill a process of ours and its group, and wait for it."""
    for end in (os.kill, os.killpg):  # it may not have its own group yet
        with contextlib.suppress(ProcessLookupError):
            end(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


class Answer:
    """What `work` returns in a fork of this process, which starts at once."""

    def __init__(self, work: Callable[[], Any]):
        receive, send = os.pipe()

        def answer() -> None:
            os.close(receive)
            try:
                found = (True, work())
            except Exception as error:
                found = (False, (type(error).__name__, str(error), _is_clear(error)))
            with os.fdopen(send, "wb") as pipe:
                pickle.dump(found, pipe)

        self.receive = receive
        self.pid = forked(answer)
        os.close(send)

    def get(self, seconds: float = 600) -> tuple[bool, Any]:
        """Whether it returned, and what.

        After an error the name, the text, and whether it is a ValueError, TypeError or OSError;
        "Died" stands for a process that ended or took too long.
        """
        end = time.monotonic() + seconds
        text = b""
        with os.fdopen(self.receive, "rb", buffering=0) as pipe:
            while select.select([pipe], [], [], max(0, end - time.monotonic()))[0]:
                if not (part := pipe.read(2**16)):
                    break
                text += part
        kill(self.pid)
        try:
            return pickle.loads(text)
        except (EOFError, pickle.UnpicklingError):
            return False, ("Died", "the process ended without an answer, or took too long", False)


def _is_clear(error: BaseException) -> bool:
    return isinstance(error, (ValueError, TypeError, OSError))


def answered(work: Callable[[], Any], seconds: float = 600) -> Any:
    """What `work` returns in a fork of this process.

    Raises
    ------
    RuntimeError : it raised an error, died, or took too long.
    """
    good, value = Answer(work).get(seconds)
    if not good:
        raise RuntimeError(": ".join(value[:2]))
    return value
