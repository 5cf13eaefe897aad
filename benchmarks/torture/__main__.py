"""Command line of the campaigns; see the package."""

import argparse
import hashlib
import json
import math
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

import brainenc
from brainenc.benchmarking.manifest import hardware, versions
from brainenc.storage import atomic_path, write_json
from torture import concurrency, injection, kills, mutations
from torture.browser import chromium
from torture.rows import Rows
from torture.samples import digest
from torture.subjects import Subject, subjects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m torture")
    parser.add_argument("campaigns", nargs="*", metavar="CAMPAIGN", help=", ".join(CAMPAIGNS))
    parser.add_argument("--out", type=Path, help="folder for tables; none: only print them")
    parser.add_argument("--state", type=Path, default=Path("brainenc-torture"), help="for going on")
    parser.add_argument("--only", nargs="+", default=[], help="subjects or commands of that name")
    parser.add_argument("--n", type=int, help="inputs, kills, pairs or pages in all")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--chunk", type=int, default=mutations.CHUNK, help="inputs per process")
    parser.add_argument("--strict", action="store_true", help="status 1 if there is a fault")
    parser.add_argument("--show", action="store_true", help="the traceback of the input --seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if unknown := set(arguments.campaigns) - set(CAMPAIGNS):
        parser.error(f"there are {CAMPAIGNS}, and no {sorted(unknown)}")
    n_faults = sum(RUN[campaign](arguments) for campaign in arguments.campaigns or CAMPAIGNS)
    if arguments.strict and n_faults:
        raise SystemExit(f"{n_faults} faults")


def run_kills(arguments: argparse.Namespace) -> int:
    found = chosen(kills.commands(), arguments.only)
    return in_turn(
        arguments,
        "kills",
        found,
        lambda command, home: kills.Range(command, home).kill,
        kills.table,
        lambda row: [row[name] for name in kills.FAULTS if row.get(name)],
    )


def run_concurrency(arguments: argparse.Namespace) -> int:
    found = chosen(concurrency.pairs(), arguments.only)
    return in_turn(
        arguments,
        "concurrency",
        found,
        lambda pair, home: concurrency.Range(pair, home).together,
        concurrency.table,
        lambda row: [row["text"]] if row["outcome"] not in concurrency.OUTCOMES[:2] else [],
    )


def run_injection(arguments: argparse.Namespace) -> int:
    faults = ("markup", "ran", "formulas", "changed", "failed")
    with chromium() as browser:
        return in_turn(
            arguments,
            "injection",
            {"page": injection.Named()},
            lambda _, home: injection.Pages(home, browser).page,
            injection.table,
            lambda row: [f"{name}: {row[name]}" for name in faults if row[name]],
        )


def in_turn(
    arguments: argparse.Namespace,
    campaign: str,
    found: dict[str, Any],
    make: Any,
    table: Any,
    faults: Any,
) -> int:
    """Tries of every command, a row each, but those that an earlier run has done; count faults."""
    total = sum(one.n for one in found.values())
    n_of = {
        name: max(1, round((arguments.n or total) * one.n / total)) for name, one in found.items()
    }
    log = Rows(arguments.state / f"{campaign}.jsonl", source_hash())
    start, first = time.perf_counter(), arguments.seed
    with scratch() as home, bar_of(sum(n_of.values()), campaign) as bar:
        for name, one in found.items():
            seeds = range(first, first + n_of[name])
            left = [seed for seed in seeds if not log.find(name=name, seed=seed)]
            bar.update(len(seeds) - len(left))
            work = make(one, home) if left else None
            for seed in left:
                row = work(seed)
                log.add(what=one.what, name=name, **row)
                if wrong := faults(row):
                    print(f"{name} {seed}: {'; '.join(wrong)}", flush=True)
                bar.update()
            save(arguments, campaign, table(log.rows), {})
    print(table(log.rows).to_string(index=False))
    seconds = round(time.perf_counter() - start)
    save(
        arguments,
        campaign,
        table(log.rows),
        {"seconds of the last stretch": seconds, "first seed": first},
    )
    return sum(bool(faults(row)) for row in log.rows)


def run_mutations(arguments: argparse.Namespace) -> int:
    found = chosen(subjects(), arguments.only)
    if arguments.show:
        for subject in found.values():
            show(subject, arguments.seed)
        return 0
    n_of = inputs_of(found, arguments.n or 110_000, arguments.chunk)
    log = Rows(arguments.state / "mutations.jsonl", source_hash())
    start = time.perf_counter()
    with scratch() as home, bar_of(sum(n_of.values()), "inputs") as bar:

        def todo() -> Any:
            for name, subject in found.items():
                parts = mutations.chunks(n_of[name], arguments.seed, arguments.chunk)
                done = {(row["first"], row["n"]) for row in log.find(subject=name)}
                left = [part for part in parts if (part[0], len(part)) not in done]
                bar.update(n_of[name] - sum(map(len, left)))
                if left:
                    sample = mutations.Sample(subject, home)
                    yield from ((sample, part) for part in left)

        for sample, seeds, outcomes in mutations.run(todo(), home, arguments.jobs):
            log.add(**mutations.counts(sample.subject, seeds, outcomes))
            bar.update(len(seeds))
            if len(log.rows) % 50 == 0:
                save(arguments, "mutations", mutations.table(log.rows), {})
    print(mutations.table(log.rows).to_string(index=False))
    faults = mutations.faults(log.rows)
    if faults:
        print(mutations.groups(faults).to_string(index=False))
    write_json(arguments.state / "faults.json", faults)
    more = {
        "seconds of the last stretch": round(time.perf_counter() - start),
        "first seed": arguments.seed,
    }
    save(arguments, "mutations", mutations.table(log.rows), more)
    return len(faults)


def bar_of(total: int, unit: str) -> Any:
    tqdm.monitor_interval = 0  # a thread, which forks would lack
    return tqdm(total=total, desc=unit, mininterval=5)


def chosen(found: dict[str, Any], only: list[str]) -> dict[str, Any]:
    """Those whose names begin with one of `only`."""
    kept = {name: one for name, one in found.items() if not only or name.startswith(tuple(only))}
    if not kept:
        raise SystemExit(f"there are {list(found)}, and none begins with {only}")
    return kept


def show(subject: Subject, seed: int) -> None:
    """Read one input here, without limits; print what was changed and what came of it."""
    with scratch() as home:
        sample = mutations.Sample(subject, home)
        changes, how = mutations.changes_of(sample, seed)
        sample.build(home / "work", changes)
        print(subject.name, seed, how, flush=True)
        try:
            numbers = digest(subject.read(home / "work"))
            print("the same numbers" if numbers == sample.numbers else "other numbers")
        except Exception:
            traceback.print_exc(file=sys.stdout)


def inputs_of(found: dict[str, Subject], n: int, chunk: int) -> dict[str, int]:
    """Inputs per subject: whole chunks, in proportion to the shares, at least `n` in all."""
    total = sum(subject.share for subject in found.values())
    wanted = {name: n * subject.share / total for name, subject in found.items()}
    return {
        # A page of a report takes seconds.
        name: max(1, math.ceil(number)) if name == "report" else chunk * math.ceil(number / chunk)
        for name, number in wanted.items()
    }


def scratch() -> Any:
    """Folder in memory if there is one: a campaign writes millions of small files."""
    memory = Path("/dev/shm")
    return _Folder(memory if os.access(memory, os.W_OK) else None)


class _Folder(tempfile.TemporaryDirectory):
    def __init__(self, where: Path | None):
        super().__init__(prefix="torture-", dir=where, ignore_cleanup_errors=True)

    def __enter__(self) -> Path:  # type: ignore[override]
        return Path(super().__enter__())


def source_hash() -> str:
    """Hash of the code under test and of the campaigns: results of other code do not count."""
    state = hashlib.blake2b(digest_size=8)
    for root in (Path(brainenc.__file__).parent, Path(__file__).parent):
        for path in sorted(root.rglob("*.py")):
            state.update(path.read_bytes())
    return state.hexdigest()


def save(arguments: argparse.Namespace, name: str, table: pd.DataFrame, more: dict) -> None:
    """Table and manifest in the folder of results."""
    if arguments.out is None:
        return
    with atomic_path(arguments.out / f"torture_{name}.csv") as temporary:
        table.to_csv(temporary, index=False)
    path = arguments.out / "torture.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    content[name] = {
        "command": f"python -m torture {name} --seed {arguments.seed}",
        "date": time.strftime("%Y-%m-%d"),
        "source": source_hash(),
        "versions": versions(),
        "hardware": hardware(),
        **more,
    }
    write_json(path, content)


RUN = {
    "kills": run_kills,
    "mutations": run_mutations,
    "injection": run_injection,
    "concurrency": run_concurrency,
}
CAMPAIGNS = tuple(RUN)

if __name__ == "__main__":
    main()
