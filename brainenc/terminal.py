"""The command line's side of the system: what it prints, the signals it gets, its exit status.

None of these may cost what a command computes: characters that the terminal lacks are replaced, a
closed or full output is no more written to, and a signal ends the command after it has cleaned up.
"""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

#: Packages, and names of classes, of errors that come from files, memory or a lost process, though
#: they are not of Python's own kinds.
_LIBRARIES = {
    "safetensors",
    "safetensors_rust",
    "h5py",
    "nibabel",
    "PIL",
    "zipfile",
    "zlib",
    "lzma",
}
_LIBRARIES |= {"_lzma", "pickle", "_pickle"}
_CLASSES = {"OutOfMemoryError", "TrainingError", "BrokenExecutor"}


class Stopped(SystemExit):
    """The process was told to end, by a signal other than that of Ctrl-C.

    No `KeyboardInterrupt`, since that ends a training early and goes on.
    """

    def __init__(self, number: int):
        super().__init__(128 + number)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, as `run` raises it.

    Where a plain KeyboardInterrupt passes through a text that Python executes (`dataclass` and
    `namedtuple` execute one per class, at imports), Python kills its process at the end with
    SIGINT, even if it was caught, and the exit status of `run` is lost. It asks for that very
    class: another one passes.
    """


def run(command: Callable[[], Any], shows_traceback: Callable[[], bool]) -> int:
    """Run a command line and return the exit status of the process.

    Parameters
    ----------
    command : callable without arguments
        It may raise SystemExit, as click's do.
    shows_traceback : callable () -> bool
        Whether errors are raised and not printed as one line.

    Returns
    -------
    int
        0; 1 as the command says; 2 for an error that a user can mend, which is one line on stderr;
        130 after Ctrl-C, and 128 + n after signal n.
    """
    _stop["said"] = False
    with _safe_outputs() as outputs, _signals_raise():
        try:
            command()
            status: Any = 0
        except SystemExit as ended:
            status = ended.code if ended.code is not None else 0
            if not isinstance(status, int):
                say_error(status)
                status = 1
            if status == 130 or isinstance(ended, Stopped):
                _say_stopped()
        except KeyboardInterrupt:
            status = 130
            _say_stopped()
        except Exception as error:
            if shows_traceback() or not is_expected(error):
                raise
            say_error(one_line(error))
            status = 2
        for output in outputs:
            output.flush()
        if (why := outputs[0].failed) is not None and why.errno != errno.EPIPE:
            say_error(f"the output could not be written: {why.strerror or why}")
            status = status or 2
    return status


def say_error(text: Any) -> None:
    """Print one line on stderr."""
    print(f"brainenc: {printable(text)}", file=sys.stderr, flush=True)


def printable(text: Any) -> str:
    """Text without control characters, with which a name could steer the terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", str(text))


_stop = {"said": False}


@contextmanager
def resumable(finished: str) -> Iterator[None]:
    """Say how to go on if the work in this block is stopped by Ctrl-C or by another signal."""
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        print(file=sys.stderr)  # the bar or ^C is on a line of its own
        say_error(f"stopped; the same command goes on after {finished}")
        _stop["said"] = True
        raise


def _say_stopped() -> None:
    if not _stop["said"]:
        say_error("stopped; what the command was to write is not written")


def one_line(error: BaseException) -> str:
    """Text of an error on one line; its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def is_expected(error: BaseException) -> bool:
    """Whether an error is of input, files, memory or a missing package, and not of this package."""
    if isinstance(
        error, ValueError | TypeError | OSError | MemoryError | ImportError | EOFError
    ) and not isinstance(error, UnboundLocalError):
        return True
    return any(
        kind.__module__.partition(".")[0] in _LIBRARIES or kind.__name__ in _CLASSES
        for kind in type(error).__mro__
    )


# -------------------------------------------------------------------- outputs


class _Output:
    """A text stream that can be closed or full: then nothing more is written, without an error.

    Attributes
    ----------
    failed : OSError or None
        Why nothing is written any more.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self.failed: OSError | None = None

    def write(self, text: str) -> int:
        if self.failed is None:
            self._attempt(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.failed is None:
            self._attempt(self._stream.flush)

    def _attempt(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except OSError as error:
            self.failed = error
            # What is buffered would fail again when Python ends.
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _safe_outputs() -> Iterator[tuple[_Output, _Output]]:
    """Outputs that replace characters they cannot show, and that may be closed or full."""
    for number in range(3):  # a file must not get the number of a closed output
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    streams: list[Any] = [stream or open(os.devnull, "w", encoding="utf-8") for stream in before]  # noqa: SIM115
    for stream in streams:
        with suppress(AttributeError, ValueError):  # not a stream of the system
            stream.reconfigure(errors="replace")
    outputs = _Output(streams[0]), _Output(streams[1])
    sys.stdout, sys.stderr = outputs
    try:
        yield outputs
    finally:
        sys.stdout, sys.stderr = before


# -------------------------------------------------------------------- signals


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Raise `Stopped` or `Interrupted` on the signals that end a process, so that it cleans up.

    Signals that are ignored, as under ``nohup``, stay ignored.
    """

    def stop(number: int, frame: Any) -> None:
        for each in before:  # once is enough: it is ending
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    def interrupt(number: int, frame: Any) -> None:
        raise Interrupted

    before: dict[Any, Any] = {}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with suppress(ValueError):  # not in the main thread
            before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            with suppress(ValueError):  # not in the main thread
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
