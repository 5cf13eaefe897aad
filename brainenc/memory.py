"""Memory and disk that a process may use: what is free, and the limits that are set for it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 2**30


@dataclass(frozen=True)
class Limit:
    """Memory that may still be taken, and what limits it.

    Attributes
    ----------
    n_bytes : int
    source : str
        Such as "free memory of this machine" or "memory.max of the control group".
    """

    n_bytes: int
    source: str


def free_memory(proc: Path = Path("/proc/self"), groups: Path = Path("/sys/fs/cgroup")) -> Limit:
    """Memory that this process may still take: the tightest of all limits that are known.

    These are the free memory of the machine, the limits of the control groups (versions 1 and 2)
    that a container or a scheduler such as Slurm sets, and those of ``ulimit`` (RLIMIT_AS,
    RLIMIT_DATA).

    Parameters
    ----------
    proc, groups : path
        Where the system describes the process and control groups.

    Examples
    --------
    >>> free_memory().n_bytes > 0
    True
    """
    limits = [Limit(psutil.virtual_memory().available, "free memory of this machine")]
    limits += _of_groups(proc, groups) + _of_process()
    return min(limits, key=lambda limit: limit.n_bytes)


def _of_groups(proc: Path, groups: Path) -> list[Limit]:
    """What the control groups of a process, and those around them, leave."""
    try:
        lines = (proc / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            names = ("memory.max", "memory.current", "inactive_file")
            base = groups
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            base = groups / "memory"
        else:
            continue
        inner = base / path.lstrip("/")
        # In a container the path may be that outside of it; the group is then mounted at the top.
        for folder in dict.fromkeys([inner, *inner.parents, base]):
            if folder == base or base in folder.parents:
                found += _of_group(folder, *names)
    return found


def _of_group(folder: Path, limit: str, current: str, cache: str) -> list[Limit]:
    most, used = _number(folder / limit), _number(folder / current)
    if most is None or used is None or most >= 2**60:  # "max", or version 1's largest number
        return []
    try:
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        stat = dict(line.split(None, 1) for line in lines)
        used -= int(stat.get(cache, 0))  # files read, which the system gives up
    except (OSError, ValueError):
        pass
    return [Limit(max(0, most - used), f"{limit} of the control group ({most / GIB:.1f} GiB)")]


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _of_process() -> list[Limit]:
    try:
        import resource
    except ImportError:  # Windows
        return []
    memory, found = psutil.Process().memory_info(), []
    for name, option in (("RLIMIT_AS", "v"), ("RLIMIT_DATA", "d")):
        most = resource.getrlimit(getattr(resource, name))[0]
        used = memory.vms if name == "RLIMIT_AS" else getattr(memory, "data", memory.rss)
        if most != resource.RLIM_INFINITY:
            source = f"ulimit -{option} ({most / GIB:.1f} GiB)"
            found.append(Limit(max(0, most - used), source))
    return found


def free_disk(folder: str | os.PathLike) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    folder = Path(folder).absolute()
    nearest = next(path for path in [folder, *folder.parents] if path.exists())
    return shutil.disk_usage(nearest).free


def size(n_bytes: float) -> str:
    """A number of bytes in GiB, or in MiB if it is small.

    Examples
    --------
    >>> size(3 * 2**30), size(5 * 2**20)
    ('3.0 GiB', '5 MiB')
    """
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes >= 0.1 * GIB else f"{n_bytes / 2**20:.0f} MiB"
