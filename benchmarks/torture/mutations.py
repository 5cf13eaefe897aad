"""Mutated inputs: every one is read in a worker process with limits, and its outcome noted.

Outcomes: "clear", a ValueError, TypeError or OSError that names a file or the argument; "right",
the numbers of the unchanged input; "warned", other numbers and a warning that names the file;
"another valid file", other numbers from a format without checksums.

These are faults: "accepted", other numbers without a word although the format has checksums;
"ugly", another error, or one that names nothing; "memory", more than the limits; "hang"; "crash",
a signal; "code run".
"""

import json
import os
import selectors
import shutil
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from torture.mutate import mutated
from torture.samples import digest
from torture.sandbox import (
    PATIENCE,
    RESIDENT,
    SECONDS,
    Hang,
    PeakMemory,
    Watch,
    alarm,
    answered,
    forked,
    kill,
    limit_memory,
)
from torture.subjects import Subject

OUTCOMES = ("clear", "right", "warned", "another valid file")
FAULTS = ("accepted", "ugly", "memory", "hang", "crash", "code run")

#: Inputs per entry of the log, and per worker process.
CHUNK = 100


class Sample:
    """A subject's unchanged input in a folder, and what reading it gives."""

    def __init__(self, subject: Subject, home: Path):
        self.subject = subject
        self.folder = home / "clean" / subject.name
        self.folder.mkdir(parents=True)
        answered(lambda: subject.write(self.folder))
        self.files = {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        self.folders = [
            str(path.relative_to(self.folder))
            for path in sorted(self.folder.rglob("*"))
            if path.is_dir()
        ]
        # Here and not in a fork: what it imports is then there in every worker.
        self.numbers = digest(_quietly(subject, self.folder))

    def build(self, work: Path, changes: dict[str, bytes | None]) -> None:
        """The sample in a folder, with other content of some files; None leaves a file out."""
        work.mkdir()
        for name in self.folders:
            (work / name).mkdir(parents=True)
        for name in self.files:
            if name not in changes:
                os.link(self.folder / name, work / name)
            elif (content := changes[name]) is not None:
                (work / name).write_bytes(content)


def _quietly(subject: Subject, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return subject.read(folder)


def changes_of(sample: Sample, seed: int) -> tuple[dict[str, bytes | None], list[str]]:
    """Changed files of an input, and how they were changed."""
    rng = np.random.default_rng([seed, zlib.crc32(sample.subject.name.encode())])
    action = rng.random()
    chosen = [str(name) for name in rng.permutation(list(sample.files))[:2]]
    first = chosen[0]
    if action < 0.03:
        return {first: None}, [f"delete({first})"]
    if action < 0.06 and len(chosen) > 1 and sample.files[first] != sample.files[chosen[1]]:
        a, b = chosen
        return {a: sample.files[b], b: sample.files[a]}, [f"swap({a}, {b})"]
    changes: dict[str, bytes | None] = {}
    how = []
    for name in chosen[: 2 if action > 0.94 else 1]:
        changes[name], mutator = mutated(rng, sample.files[name], name)
        how.append(f"{mutator}({name})")
    return changes, how


# -------------------------------------------------------------------- in a worker


def outcome(sample: Sample, seed: int, work: Path, watch: Watch) -> dict[str, Any]:
    """What reading one input gives."""
    changes, how = changes_of(sample, seed)
    sample.build(work, changes)
    found: dict[str, Any] = {"seed": seed, "how": how}
    error: BaseException | None = None
    numbers = None
    watch.seen.clear()
    try:
        with warnings.catch_warnings(record=True) as caught, PeakMemory() as memory:
            warnings.simplefilter("always")
            watch.on = True
            try:
                with alarm(SECONDS):
                    numbers = digest(sample.subject.read(work))
            finally:
                watch.on = False
    except BaseException as raised:
        error = raised
    # Python's own that a file was not closed names it, too.
    told = [one for one in caught if not issubclass(one.category, ResourceWarning)]
    said = " ".join(str(warning.message) for warning in told)
    found["outcome"] = _classified(sample, how, work, error, numbers, said)
    if watch.seen:
        found["outcome"], found["text"] = "code run", "; ".join(watch.seen[:3])
    elif found["outcome"] != "hang" and memory.peak > RESIDENT:
        found["outcome"], found["text"] = "memory", f"{memory.peak / 2**30:.1f} GiB resident"
    if error is not None and found["outcome"] in FAULTS:
        found["error"] = type(error).__name__
        found.setdefault("text", str(error)[:300].replace(str(work), "…"))
        found["at"] = _place(error)
    shutil.rmtree(work, ignore_errors=True)
    return found


def _classified(
    sample: Sample,
    how: list[str],
    work: Path,
    error: BaseException | None,
    numbers: str | None,
    said: str,
) -> str:
    if isinstance(error, Hang):
        return "hang"
    if error is not None:
        if _for_memory(error):
            return "memory"
        own = type(error).__name__ in sample.subject.errors
        wanted = own or isinstance(error, (ValueError, TypeError, OSError))
        return "clear" if wanted and _names(sample, work, str(error)) else "ugly"
    if numbers == sample.numbers:
        return "right"
    if _names(sample, work, said):
        return "warned"
    mutators = {step.split("(")[0] for step in how}
    if sample.subject.checked and not mutators & set(sample.subject.valid):
        return "accepted"
    return "another valid file"


def _names(sample: Sample, work: Path, text: str) -> bool:
    """Whether a message names a file or folder of the input, or an argument."""
    files = {Path(name).name for name in (*sample.files, *sample.folders)}
    return str(work) in text or any(name in text for name in (*files, *sample.subject.words))


def _for_memory(error: BaseException | None) -> bool:
    while error is not None:
        text = str(error)
        if (
            isinstance(error, MemoryError)
            or "can't allocate memory" in text
            or ("mmap" in text and "Cannot allocate" in text)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _place(error: BaseException) -> str:
    """The innermost line of brainenc that the error came through."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/brainenc/" in frame.filename
    ]
    if not frames:
        return ""
    last = frames[-1]
    return f"brainenc/{last.filename.split('/brainenc/')[-1]}:{last.name}"


def _serve(sample: Sample, seeds: Iterable[int], home: Path, send: int) -> None:
    limit_memory()
    watch = Watch(home)
    work = home / f"work-{os.getpid()}"
    with os.fdopen(send, "w", buffering=1) as pipe:
        for seed in seeds:
            pipe.write(f"{seed}\n")
            pipe.write(json.dumps(outcome(sample, seed, work, watch)) + "\n")


# -------------------------------------------------------------------- around workers


class Worker:
    """A forked process that reads inputs of some seeds, and what it has said of them."""

    def __init__(self, sample: Sample, seeds: list[int], home: Path):
        self.sample, self.seeds, self.home = sample, list(seeds), home
        self.found: list[dict[str, Any]] = []
        self._start()

    def _start(self) -> None:
        done = {found["seed"] for found in self.found}
        left = [seed for seed in self.seeds if seed not in done]
        self.receive, send = os.pipe()

        def serve() -> None:
            os.close(self.receive)
            _serve(self.sample, left, self.home, send)

        self.pid = forked(serve)
        os.close(send)
        self.text = b""
        self.at, self.since = None, time.monotonic()

    def read(self) -> bool:
        """Take in what the process said; whether it has ended."""
        part = os.read(self.receive, 2**16)
        self.text += part
        *lines, self.text = self.text.split(b"\n")
        for line in lines:
            if line.isdigit():
                self.at, self.since = int(line), time.monotonic()
            else:
                self.found.append(json.loads(line))
                self.at = None
        return not part

    def ended(self, outcome: str = "crash") -> bool:
        """After the end of the process: whether all were read; else go on with the others."""
        os.close(self.receive)
        kill(self.pid)
        shutil.rmtree(self.home / f"work-{self.pid}", ignore_errors=True)
        if self.at is not None:
            how = changes_of(self.sample, self.at)[1]
            self.found.append({"seed": self.at, "how": how, "outcome": outcome})
        if len(self.found) >= len(self.seeds):
            return True
        self._start()
        return False


def run(
    samples: Iterable[tuple[Sample, list[int]]], home: Path, n_jobs: int
) -> Iterator[tuple[Sample, list[int], list[dict[str, Any]]]]:
    """Outcomes of chunks of seeds, in the order in which they are done."""
    waiting = iter(samples)
    selector = selectors.DefaultSelector()
    running: set[Worker] = set()
    try:
        while True:
            while len(running) < n_jobs and (todo := next(waiting, None)) is not None:
                worker = Worker(*todo, home)
                running.add(worker)
                selector.register(worker.receive, selectors.EVENT_READ, worker)
            if not running:
                return
            ready = [key.data for key, _ in selector.select(timeout=1)]
            for worker in list(running):
                late = worker.at is not None and time.monotonic() - worker.since > PATIENCE
                if not late and not (worker in ready and worker.read()):
                    continue
                selector.unregister(worker.receive)
                if worker.ended("hang" if late else "crash"):
                    running.discard(worker)
                    yield worker.sample, worker.seeds, worker.found
                else:
                    selector.register(worker.receive, selectors.EVENT_READ, worker)
    finally:
        for worker in running:
            kill(worker.pid)


def chunks(n: int, first: int, size: int = CHUNK) -> list[list[int]]:
    """Seeds of n inputs from the first on, in chunks."""
    last = first + n
    return [list(range(start, min(start + size, last))) for start in range(first, last, size)]


def counts(subject: Subject, seeds: list[int], found: list[dict[str, Any]]) -> dict[str, Any]:
    """Entry of the log for a chunk of inputs."""
    return {
        "kind": subject.kind,
        "subject": subject.name,
        "first": seeds[0],
        "n": len(seeds),
        "counts": dict(Counter(one["outcome"] for one in found)),
        "faults": [one for one in found if one["outcome"] in FAULTS],
    }


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Counts by kind of input."""
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = [Counter(row["counts"]) for row in rows if row["kind"] == kind]
        total = sum(of_kind, Counter())
        line = {"input": kind, "inputs": sum(total.values())}
        lines.append(line | {name: total[name] for name in OUTCOMES + FAULTS})
    counted = pd.DataFrame(lines, columns=["input", "inputs", *OUTCOMES, *FAULTS])
    total = {"input": "all", **counted.drop(columns="input").sum().to_dict()}
    return pd.concat([counted, pd.DataFrame([total])], ignore_index=True)


def faults(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every input that was a fault."""
    return [{"subject": row["subject"], **one} for row in rows for one in row["faults"]]


def groups(found: list[dict[str, Any]]) -> pd.DataFrame:
    """Faults that look the same, most frequent first, each with the seed of one of them."""
    keys = ["outcome", "subject", "error", "at"]
    if not found:
        return pd.DataFrame(columns=[*keys, "n", "seed"])
    lines = [{"error": "", "at": "", **one} for one in found]
    grouped = pd.DataFrame(lines).groupby(keys)["seed"].agg(n="size", seed="first").reset_index()
    return grouped.sort_values(["outcome", "n"], ascending=[True, False])
