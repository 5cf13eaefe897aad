"""Kills: a command is killed at a random time, and the same command is run again.

After it, every result that was finished at the kill is still there and was not computed again, the
final result is that of a run without a kill to the bit, and no hidden file is left.
"""

import contextlib
import functools
import os
import shutil
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import brainenc
from torture import sandbox
from torture.samples import (
    digest,
    make_data,
    numbers_of,
    problem,
    result_numbers,
    small_benchmark,
)


def _nothing(*_: Any) -> list:
    return []


@dataclass(frozen=True)
class Command:
    """Something that takes a while and is killed.

    Attributes
    ----------
    what : str
        Row of the table.
    name : str
    run : function of a folder
        Runs the command to its end; returns the digest of the result and what it computed: names,
        as `finished` gives them.
    prepare : function of a folder
        Before the first run: what the command finds.
    finished : function of a folder
        Names of results that a kill must not lose, to their identity.
    whole : function of a folder
        What is wrong with what others see in the folder right after a kill, "" if nothing is.
    n : int
        Kills in a campaign of 200.
    alone : bool
        Also kill only the process, and not its children, every other time.
    """

    what: str
    name: str
    run: Callable[[Path], tuple[str, list[str]]]
    prepare: Callable[[Path], Any] = _nothing
    finished: Callable[[Path], dict[str, Any]] = lambda folder: {}
    whole: Callable[[Path], str] = lambda folder: ""
    n: int = 20
    alone: bool = False


# -------------------------------------------------------------------- fits


def fit(name: str, folder: Path, random_state: int = 0) -> tuple[str, list[str]]:
    from tiny_encoders import tiny_encoder

    from brainenc.training.checkpoints import Checkpoints

    write, written = Checkpoints.write, []

    def noted(self: Any, step: int, state: Any) -> Path:
        written.append(f"{self.folder.relative_to(folder)} {step:09d}")
        return write(self, step, state)

    Checkpoints.write = noted  # type: ignore[method-assign]
    quiet = {"features": None, "random_state": random_state, "verbose": False, "device": "cpu"}
    encoder = tiny_encoder(name, **quiet, checkpoint_dir=folder / "training")
    tokens, betas = problem()
    encoder.fit(tokens, betas, resume=True)
    answer = [encoder.predict(tokens[:9]), encoder.sample(tokens[:4], n=2, random_state=0)]
    history = encoder.history_.drop(columns="seconds", errors="ignore")
    return digest([*answer, history]), written


def _checkpoints(folder: Path) -> dict[str, Any]:
    """Every step up to the newest checkpoint of a training."""
    found: dict[str, Any] = {}
    for path in (folder / "training").rglob("step-*.pt"):
        if not path.name.startswith("."):
            home = str(path.parent.relative_to(folder))
            found |= {f"{home} {step:09d}": None for step in range(int(path.stem[5:]) + 1)}
    return found


# -------------------------------------------------------------------- benchmarks


def _encoders() -> dict[str, Any]:
    pixels = brainenc.PixelFeatures(4, verbose=False)
    gabor = brainenc.GaborPyramid(verbose=False)
    return {"pixels": brainenc.RidgeEncoder(pixels), "gabor": brainenc.RidgeEncoder(gabor)}


def _benchmark(folder: Path) -> tuple[str, list[str]]:
    result = small_benchmark(folder / "run", _encoders(), cv=3)
    return _timeless(result), []


def _timeless(result: Any) -> str:
    """Digest of the tables without times and memory."""
    tables, _, warned = result_numbers(result)
    columns = ["fit_seconds", "predict_images_per_second", "peak_memory_mb"]
    tables = {name: table.drop(columns=columns, errors="ignore") for name, table in tables.items()}
    return digest([tables, warned])


def _command_line(folder: Path) -> tuple[str, list[str]]:
    """The real command, in a process of its own with two workers."""
    out = folder / "run"
    arguments = [
        *("benchmark", str(folder / "subject.brain"), "--encoders", "mean,ridge", "--features"),
        *("pixels", "--cv", "3", "--n-jobs", "2", "--n-bootstraps", "10", "--quiet"),
        *("--n-permutations", "10", "--n-draws", "10", "--out", str(out)),
    ]
    pid = os.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-m", "brainenc.cli", *arguments])
    if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError(f"brainenc benchmark ended with status {status}")
    return _timeless(brainenc.benchmarking.BenchmarkResult.load(out)), []


def _subject(folder: Path) -> None:
    brainenc.datasets.simulate_subject(40, 12, random_state=0, verbose=False).save(
        folder / "subject.brain"
    )


def _pairs(folder: Path) -> dict[str, Any]:
    """Finished pairs of encoder and fold, and when each was written."""
    found = (folder / "run" / "pairs").glob("*/fold*/info.json")
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in found
        if not path.parent.name.startswith(".")
    }


# -------------------------------------------------------------------- conversion of NSD


def _nsd(folder: Path) -> None:
    from nsd_tree import NSDTree

    # A tree for all kills: the command reads it only.
    tree = folder.parent / "nsd"
    if not tree.exists():
        NSDTree(tree, sessions=(1, 2, 3, 4)).write()


def _convert(folder: Path) -> tuple[str, list[str]]:
    from brainenc.datasets.nsd.plan import Plan

    read, done = Plan.read, []

    def noted(self: Any, session: int) -> Any:
        done.append(f"session_{session:02d}.npy")
        return read(self, session)

    Plan.read = noted  # type: ignore[method-assign]
    out = folder / "subj01.brain"
    if not out.exists():  # the kill came after the end
        brainenc.datasets.convert_nsd(
            folder.parent / "nsd", out, units="percent", sessions=[1, 2, 3, 4], verbose=False
        )
    data = brainenc.EncodingData.load(out)
    return digest([np.asarray(data.betas), data.voxels, data.trials, data.units]), done


def _sessions(folder: Path) -> dict[str, Any]:
    partial = folder / ".subj01.brain.partial"
    return {path.name: None for path in partial.glob("session_*.npy")}


# -------------------------------------------------------------------- saving over existing ones


def _ridges() -> list[Any]:
    tokens, betas = problem()
    return [
        brainenc.RidgeEncoder(alphas=[1.0, 10.0]).fit(tokens.mean(axis=1), betas * factor)
        for factor in (1, 2)
    ]


def _predictions(encoder: Any) -> str:
    return digest(encoder.predict(problem()[0][:5].mean(axis=1)))


def save_models(folder: Path, which: slice = slice(None)) -> tuple[str, list[str]]:
    """Two models in turn, or one of them, over and over."""
    for encoder in _ridges()[which] * 6:
        encoder.save(folder / "model")
    return _predictions(brainenc.load(folder / "model")), []


def _whole_model(folder: Path) -> str:
    allowed = {_predictions(encoder) for encoder in _ridges()}
    found = _predictions(brainenc.load(folder / "model"))
    return "" if found in allowed else "neither the old nor the new model"


def _datas() -> list[Any]:
    return [make_data(), make_data(9)]


def save_data(folder: Path, which: slice = slice(None)) -> tuple[str, list[str]]:
    """Two data sets in turn, or one of them, over and over."""
    for data in _datas()[which] * 4:
        data.save(folder / "subject.brain")
    return digest(numbers_of(brainenc.EncodingData.load(folder / "subject.brain"))), []


def _whole_data(folder: Path) -> str:
    allowed = {digest(numbers_of(data)) for data in _datas()}
    found = digest(numbers_of(brainenc.EncodingData.load(folder / "subject.brain")))
    return "" if found in allowed else "neither the old nor the new data"


# -------------------------------------------------------------------- store and draws


def _fill(folder: Path) -> tuple[str, list[str]]:
    images = make_data(60, 16).images
    store = brainenc.FeatureStore(folder / "store")
    extractor = brainenc.GaborPyramid(store=store, batch_size=4, verbose=False)
    return digest(extractor.fit_transform(images)), []


def _stored(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in (folder / "store").rglob("*.npy")
        if not path.name.startswith(".")
    }


def _sample(folder: Path, seed: int = 1) -> tuple[str, list[str]]:
    tokens = np.tile(problem()[0].mean(axis=1), (200, 1))
    draws = _ridges()[0].sample(tokens, n=3, random_state=seed, out=folder / "draws.npy")
    return digest(np.asarray(draws)), []


def _whole_draws(folder: Path) -> str:
    draws = np.load(folder / "draws.npy")
    tokens = np.tile(problem()[0].mean(axis=1), (200, 1))
    for seed in (0, 1):
        if np.array_equal(draws, _ridges()[0].sample(tokens, n=3, random_state=seed)):
            return ""
    return "neither the old nor the new draws"


def commands() -> dict[str, Command]:
    """All commands by name."""

    def of_fit(name: str, what: str, n: int) -> Command:
        run = functools.partial(fit, name)
        title = f"fit of {what}, checkpoint_dir"
        return Command(title, f"fit-{name}", run, finished=_checkpoints, n=n)

    found = [
        of_fit("synbrain", "SynBrainEncoder", 25),
        of_fit("latent", "LatentEncoder", 20),
        Command("benchmark, 1 job", "benchmark-1", _benchmark, finished=_pairs, n=30),
        Command(
            "benchmark, 2 jobs, command line",
            "benchmark-2",
            _command_line,
            _subject,
            _pairs,
            n=10,
            alone=True,
        ),
        Command("convert nsd", "convert", _convert, _nsd, _sessions, n=25),
        Command(
            "encoder.save over a model",
            "save-model",
            save_models,
            lambda folder: _ridges()[0].save(folder / "model"),
            whole=_whole_model,
            n=25,
        ),
        Command(
            "EncodingData.save over a folder",
            "save-data",
            save_data,
            lambda folder: _datas()[0].save(folder / "subject.brain"),
            whole=_whole_data,
            n=25,
        ),
        Command("feature store", "store", _fill, finished=_stored, n=20),
        Command(
            "sample(out=) over a file",
            "sample",
            _sample,
            lambda folder: _sample(folder, 0),
            whole=_whole_draws,
            n=20,
        ),
    ]
    return {command.name: command for command in found}


# -------------------------------------------------------------------- a kill


def quietly(work: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return work()


class Range:
    """A command with the result and the time of a run without a kill."""

    def __init__(self, command: Command, home: Path):
        self.command, self.home = command, home / command.name
        self.home.mkdir(parents=True)
        folder = self.fresh("warm")
        # Here first, so that what it imports is in all the forks.
        if not command.alone:
            sandbox.answered(lambda: quietly(lambda: command.run(folder)))
        folder = self.fresh("straight")
        start = time.perf_counter()
        self.answer, _ = sandbox.answered(lambda: quietly(lambda: command.run(folder)))
        self.seconds = time.perf_counter() - start

    def fresh(self, name: str) -> Path:
        folder = self.home / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        sandbox.answered(lambda: quietly(lambda: self.command.prepare(folder)) and None)
        return folder

    def kill(self, seed: int) -> dict[str, Any]:
        """Kill a run at a random time, and run it again.

        Returns
        -------
        dict
            "killed" (whether it still ran), "lost", "unequal", "left", "failed": texts, "" if fine.
        """
        rng = np.random.default_rng([seed, zlib.crc32(self.command.name.encode())])
        found: dict[str, Any] = {"command": self.command.name, "seed": seed, "killed": False}
        for _ in range(10):
            folder = self.fresh("killed")
            seconds = rng.uniform(0, self.seconds)
            run = functools.partial(self.command.run, folder)
            pid = sandbox.forked(functools.partial(quietly, run))
            if sandbox.wait(pid, seconds) is None:
                found |= {"killed": True, "after": round(seconds, 4)}
                break
        if not found["killed"]:
            return found
        if self.command.alone and seed % 2:
            _kill_one(pid)
        else:
            sandbox.kill(pid)
        before = self.command.finished(folder)
        lost = []
        try:
            # The folder as others see it, before anything mends it.
            if wrong := sandbox.answered(lambda: quietly(lambda: self.command.whole(folder))):
                lost.append(wrong)
        except RuntimeError as error:
            lost.append(f"cannot be read after the kill: {error}")
        found |= {"unequal": "", "left": "", "failed": ""}
        try:
            answer, again = sandbox.answered(lambda: quietly(lambda: self.command.run(folder)))
            after = self.command.finished(folder)
            lost += [f"computed again: {name}" for name in again if name in before]
            lost += [
                f"written again: {name}"
                for name, identity in before.items()
                if identity is not None and after.get(name) != identity
            ]
            if answer != self.answer:
                found["unequal"] = "the final result is another"
        except RuntimeError as error:
            found["failed"] = str(error)[:500]
        sandbox.kill(pid)  # children that were left to themselves
        found["lost"] = "; ".join(lost)[:500]
        left = [path for path in folder.rglob("*") if path.name.startswith(".")]
        left += [path for path in folder.rglob("*.tmp") if not path.name.startswith(".")]
        found["left"] = ", ".join(sorted(str(path.relative_to(folder)) for path in left))[:500]
        return found


def _kill_one(pid: int) -> None:
    import signal

    # The command itself is a child of the fork, with workers of its own.
    with contextlib.suppress(FileNotFoundError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in map(int, children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Counts by command."""
    columns = ["what", "kills", "lost", "unequal", "leftovers", "second run failed"]
    lines = []
    for what in dict.fromkeys(row["what"] for row in rows):
        killed = [row for row in rows if row["what"] == what and row["killed"]]
        counts = [sum(bool(row[name]) for row in killed) for name in FAULTS]
        lines.append(dict(zip(columns, [what, len(killed), *counts], strict=True)))
    counted = pd.DataFrame(lines, columns=columns)
    total = {"what": "all", **counted.drop(columns="what").sum().to_dict()}
    return pd.concat([counted, pd.DataFrame([total])], ignore_index=True)


#: Entries of what `Range.kill` gives, "" if all is well.
FAULTS = ("lost", "unequal", "left", "failed")
