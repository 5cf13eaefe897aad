"""Fit the pairs of a run in parallel, and hand each on as soon as it is fitted."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from brainenc.benchmarking import cluster
from brainenc.benchmarking.inputs import Entry
from brainenc.benchmarking.pairs import Pair
from brainenc.progress import progress


def run_pairs(
    pairs: dict[str, list[Pair]],
    entries: Mapping[str, Entry],
    betas: np.ndarray,
    send: Callable[[Any], Any],
    n_jobs: int | None,
    verbose: bool,
    when_fitted: Callable[[str], None],
) -> None:
    """Fit the pairs that no earlier run finished; call `when_fitted` as soon as an encoder is.

    A pair that could not be fitted or kept gets the reason in `pairs`.
    """
    todo = [pair for of_encoder in pairs.values() for pair in of_encoder if pair.to_fit()]
    left = {name: sum(pair.name == name for pair in todo) for name in pairs}
    jobs = [
        delayed(cluster.run_pair)(pair, send(entries[pair.name].X), send(betas)) for pair in todo
    ]
    known = [name for name, n in left.items() if n == 0]
    for name in progress(known, desc="scoring", unit="encoder", verbose=verbose):
        when_fitted(name)
    bar = progress(desc="fitting", total=len(todo), unit="fit", verbose=verbose)
    with bar, warnings.catch_warnings():
        # joblib may take the memory of a large fit for a leak and replace the worker, which is
        # harmless.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
        for pair in _as_they_end(jobs, todo, n_jobs):
            pairs[pair.name][pair.fold] = pair
            bar.set_postfix_str(f"{pair.name}, fold {pair.fold}", refresh=False)
            bar.update()
            left[pair.name] -= 1
            if left[pair.name] == 0:
                when_fitted(pair.name)


def _as_they_end(jobs: list[Any], todo: list[Pair], n_jobs: int | None) -> Iterator[Pair]:
    """The pairs in the order in which they are fitted, those too that take their process down."""
    ended: set[tuple[str, int]] = set()
    try:
        for pair in _parallel(n_jobs)(jobs):
            ended.add((pair.name, pair.fold))
            yield pair
    except BrokenExecutor:
        # One of the pairs took its process down, for lack of memory mostly. Which one is unknown:
        # those that are left are fitted one at a time, each in a process of its own.
        for pair, job in zip(todo, jobs, strict=True):
            if (pair.name, pair.fold) not in ended:
                try:
                    yield from Parallel(n_jobs=2)([job])
                except BrokenExecutor as error:
                    why = f"its process was killed, for lack of memory? ({error})"
                    yield replace(pair, lost=" ".join(why.split()))


def _parallel(n_jobs: int | None) -> Any:
    try:
        return Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
    except ValueError:  # a backend that gives all results at the end
        return Parallel(n_jobs=n_jobs, batch_size=1)
