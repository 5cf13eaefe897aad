"""Two runs at once on one folder: both end right, or one says so clearly."""

import functools
import re
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from torture import kills, sandbox
from torture.kills import quietly

Run = Callable[[Path], tuple[str, list[str]]]


@dataclass(frozen=True)
class Together:
    """Two runs on one folder.

    Attributes
    ----------
    what : str
        Row of the table.
    name : str
    runs : (function, function) of a folder
        As `kills.Command.run`.
    prepare : function of a folder
    either : bool
        They write other things under one name: what is there at the end is one of the two.
    n : int
        Pairs in a campaign of 100.
    """

    what: str
    name: str
    runs: tuple[Run, Run]
    prepare: Callable[[Path], Any] = lambda folder: None
    either: bool = False
    n: int = 10


def pairs() -> dict[str, Together]:
    """All pairs by name."""
    of = kills.commands()
    synbrain = of["fit-synbrain"].run
    other_seed = functools.partial(kills.fit, "synbrain", random_state=1)

    def twice(name: str, what: str, n: int = 10) -> Together:
        command = of[name]
        return Together(what, name, (command.run, command.run), command.prepare, n=n)

    def of_each(save: Any) -> tuple[Run, Run]:
        first, second = (functools.partial(save, which=slice(i, i + 1)) for i in range(2))
        return first, second

    found = [
        twice("fit-synbrain", "two fits, one checkpoint_dir, same seed", 15),
        Together("two fits, one checkpoint_dir, other seed", "seeds", (synbrain, other_seed), n=15),
        twice("benchmark-1", "two benchmarks, one out", 15),
        twice("convert", "two conversions, one out", 15),
        Together(
            "encoder.save to one folder", "save-model", of_each(kills.save_models), either=True
        ),
        Together(
            "EncodingData.save to one folder", "save-data", of_each(kills.save_data), either=True
        ),
        twice("store", "one feature store"),
        twice("sample", "sample(out=) to one file"),
    ]
    return {pair.name: pair for pair in found}


class Range:
    """A pair of runs, with the answers and times of each alone."""

    def __init__(self, pair: Together, home: Path):
        self.pair, self.home = pair, home / f"two-{pair.name}"
        self.home.mkdir(parents=True)
        self.answers, times = [], []
        for run in pair.runs:
            folder = self.fresh()
            start = time.perf_counter()
            alone = functools.partial(quietly, functools.partial(run, folder))
            self.answers.append(sandbox.answered(alone)[0])
            times.append(time.perf_counter() - start)
        self.seconds = min(times)

    def fresh(self) -> Path:
        folder = self.home / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        sandbox.answered(lambda: quietly(lambda: self.pair.prepare(folder)) and None)
        return folder

    def together(self, seed: int) -> dict[str, Any]:
        """Both runs, the second a little later.

        Returns
        -------
        dict
            "outcome": "both right", "one said so", or a fault: "wrong", "unclear", "leftovers".
            "text": what was said.
        """
        rng = np.random.default_rng([seed, zlib.crc32(self.pair.name.encode())])
        folder = self.fresh()
        delay = rng.choice([0.0, rng.uniform(0, 0.8 * self.seconds)])
        started = []
        for run in self.pair.runs:
            started.append(
                sandbox.Answer(functools.partial(quietly, functools.partial(run, folder)))
            )
            if len(started) == 1:
                time.sleep(delay)
        found = {"pair": self.pair.name, "seed": seed, "delay": round(float(delay), 3)}
        answers = [answer.get() for answer in started]
        said, faults = [], []
        for (good, value), alone in zip(answers, self.answers, strict=True):
            if good and value[0] in (self.answers if self.pair.either else [alone]):
                continue
            if good:
                faults.append("wrong: another result than alone")
                continue
            name, text, clear = value
            plain = clear and str(folder) in text and re.search(SAYS_SO, text) is not None
            (said if plain else faults).append(f"{name}: {text[:200]}")
        if len(said) == 2:
            faults.append(f"both refused: {said}")
        left = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.name.startswith(".")]
        if left and not faults:
            found |= {"outcome": "leftovers", "text": ", ".join(left)[:300]}
        elif faults:
            wrong = any(fault.startswith("wrong") for fault in faults)
            found |= {"outcome": "wrong" if wrong else "unclear", "text": "; ".join(faults)[:500]}
        else:
            found |= {"outcome": "one said so" if said else "both right", "text": "; ".join(said)}
        return found


#: What a run says that finds another one at work, or its result.
SAYS_SO = r"another (process|run|training|fit|benchmark)|in use|exists"

OUTCOMES = ("both right", "one said so", "wrong", "unclear", "leftovers")


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Counts by pair."""
    lines = []
    for what in dict.fromkeys(row["what"] for row in rows):
        found = [row["outcome"] for row in rows if row["what"] == what]
        lines.append({"what": what, "pairs": len(found), **{o: found.count(o) for o in OUTCOMES}})
    counted = pd.DataFrame(lines, columns=["what", "pairs", *OUTCOMES])
    total = {"what": "all", **counted.drop(columns="what").sum().to_dict()}
    return pd.concat([counted, pd.DataFrame([total])], ignore_index=True)
