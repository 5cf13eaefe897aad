"""Temporary files and folders beside their destination, and the removal of those left behind.

A temporary is named ``.NAME.MACHINE-PID.RANDOM.tmp``. A process that is killed cannot remove its
own; the name says whose it is, so that the next writer in that folder can. One is removed

- if its process ran on this machine and has ended;
- if it is of another machine (a network file system, another container, or this machine before it
  was started anew), after `KEPT_DAYS` days without a change in it.

Those of running processes are never removed.
"""

import hashlib
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

#: Days without a change after which a temporary of another machine counts as left behind: longer
#: than any fit that writes only at its end.
KEPT_DAYS = 30

#: Share of the time spent in a folder that may go into looking for temporaries there.
_SHARE = 0.01

#: Longest name of a destination, in bytes, that a temporary's name repeats in full: names of files
#: have at most 255 bytes.
_LONGEST = 180

_PATTERN = re.compile(
    r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{12})-(?P<pid>\d+)\.[0-9a-f]{12}\.(?P<kind>tmp|old)",
    re.DOTALL,
)

_of_this_process: set[str] = set()
_next_look: dict[Path, float] = {}


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Path for a temporary beside `path`, which is removed at the end if it is still there.

    Temporaries that other processes left in the folder are removed first.

    Parameters
    ----------
    path : pathlib.Path
        The destination; its folder must exist.

    Yields
    ------
    pathlib.Path : not yet existing
    """
    remove_left_behind(path.parent)
    name = os.fsencode(path.name)[:_LONGEST].decode(errors="ignore")
    owner = f"{_machine()}-{os.getpid()}"
    temporary = path.parent / f".{name}.{owner}.{uuid.uuid4().hex[:12]}.tmp"
    _of_this_process.add(temporary.name)
    try:
        yield temporary
    finally:
        try:
            _remove(temporary)
        finally:
            _of_this_process.discard(temporary.name)


@contextmanager
def scratch_folder(parent: str | os.PathLike, name: str) -> Iterator[Path]:
    """Hidden folder for intermediate files, removed at the end; see `temporary_beside`.

    Parameters
    ----------
    parent : path
        It must exist.
    name : str
        Purpose of the folder, for those who see it.

    Yields
    ------
    pathlib.Path : an empty folder that only this user can read
    """
    with temporary_beside(Path(parent).resolve() / name) as folder:
        folder.mkdir(mode=0o700)
        yield folder


def set_aside(temporary: Path) -> Path:
    """Path for a folder that is about to be replaced by `temporary`."""
    return temporary.with_suffix(".old")


def remove_left_behind(folder: Path) -> None:
    """Remove temporaries in `folder` whose process has ended; see the module.

    A folder that was set aside and not replaced any more is put back. Folders of many files are
    not looked through each time. Errors are ignored: another process may remove the same ones.
    """
    start = time.monotonic()
    if start < _next_look.get(folder, 0):
        return
    with suppress(OSError), os.scandir(folder) as entries:
        found = [match for entry in entries if (match := _PATTERN.fullmatch(entry.name))]
        # Replaced folders first: their temporary says whether the new one was complete.
        for match in sorted(found, key=lambda match: match["kind"] != "old"):
            was_cut = len(os.fsencode(match["name"])) > _LONGEST - 4
            if match["kind"] == "old" and was_cut:  # where it belongs is unknown
                continue
            if _is_left_behind(folder / match[0], match):
                if match["kind"] == "old":
                    _put_back(folder / match[0], match["name"])
                _remove(folder / match[0])
    _next_look[folder] = start + (time.monotonic() - start) / _SHARE


def _is_left_behind(path: Path, match: re.Match[str]) -> bool:
    if match["machine"] == _machine():
        pid = int(match["pid"])
        if pid == os.getpid():
            return path.with_suffix(".tmp").name not in _of_this_process
        if not _is_running(pid):
            return True
    # A number of a process that has ended may be that of another one by now.
    return time.time() - _last_change(path) > KEPT_DAYS * 24 * 3600


def _is_running(pid: int) -> bool:
    import psutil  # only where there is a temporary to judge

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it cannot be looked at, so it is there
        return True


def _last_change(path: Path) -> float:
    """Time of the last change of a file, or of anything in a folder; now if it has vanished."""
    try:
        return max(each.lstat().st_mtime for each in [path, *path.rglob("*")])
    except OSError:
        return time.time()


def _put_back(aside: Path, name: str) -> None:
    """Finish a replacement that was stopped between its two renamings."""
    path, new = aside.with_name(name), aside.with_suffix(".tmp")
    with suppress(OSError):
        if not os.path.lexists(path):  # else the new one, or a later one, is in place
            (new if new.exists() else aside).rename(path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@cache
def _machine() -> str:
    """12 hexadecimal digits for this machine since its start, and this container on it.

    Two machines may have one name, and two containers of a machine have processes of one number.
    """
    parts = [platform.node()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        parts.append(hex(uuid.getnode()))
    joined = "\n".join(parts).encode(errors="surrogateescape")
    return hashlib.blake2b(joined, digest_size=6).hexdigest()
