"""Fit the pairs of a run in parallel, and hand each on as soon as it is fitted."""

import warnings
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, closing
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
    failed: set[str] = set()
    left = {name: sum(pair.name == name for pair in todo) for name in pairs}
    jobs = [
        delayed(cluster.run_pair)(pair, send(entries[pair.name].X), send(betas)) for pair in todo
    ]
    known = [name for name, n in left.items() if n == 0]
    for name in progress(known, desc="scoring", unit="encoder", verbose=verbose):
        when_fitted(name)
    bar = progress(desc="fitting", total=len(todo), unit="fit", verbose=verbose)
    with bar, warnings.catch_warnings(), ExitStack() as stack:
        # joblib may take the memory of a large fit for a leak and replace the worker, which is
        # harmless.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
        # After Ctrl-C the pairs that were not fitted are no news.
        warnings.filterwarnings("ignore", r"\d+ tasks which were still being processed")
        pairs_as_they_end = stack.enter_context(closing(as_they_end(jobs, todo, n_jobs)))
        for pair in pairs_as_they_end:
            pairs[pair.name][pair.fold] = pair
            if (error := pair.info().get("error")) and pair.name not in failed:
                failed.add(pair.name)
                warnings.warn(failure(pair.name, f"{error} (fold {pair.fold})"), stacklevel=3)
            bar.set_postfix_str(f"{pair.name}, fold {pair.fold}", refresh=False)
            bar.update()
            left[pair.name] -= 1
            if left[pair.name] == 0:
                when_fitted(pair.name)


def failure(name: str, error: str) -> RuntimeWarning:
    """Warning, at once, of an encoder that failed: the result of a long run comes much later."""
    return RuntimeWarning(
        f"{name} failed: {error}. The other encoders go on; in the result its scores are NaN, and "
        "its error is in encoders['error']"
    )


def as_they_end(jobs: list[Any], todo: list[Any], n_jobs: int | None) -> Generator[Any, None, None]:
    """The pairs in the order in which they are fitted, those too that take their process down.

    Parameters
    ----------
    jobs : list of joblib's delayed calls, each of which returns its pair
    todo : list of `Pair` or `brainenc.benchmarking.curve_fits.Point`
        Whatever has a `place` of its own, and `lost` for the reason why it was not fitted.
    n_jobs : int or None
    """
    ended: set[Any] = set()
    found = iter(_parallel(n_jobs)(jobs))
    try:
        for pair in found:
            ended.add(pair.place)
            yield pair
    except GeneratorExit:
        if hasattr(found, "close"):
            found.close()
        raise
    except Exception as error:
        # joblib gives up all of them if one cannot be sent, or takes its process down, for lack of
        # memory mostly; which one is unknown. Those that are left are fitted one at a time, each in
        # a process of its own.
        left = [
            (pair, job) for pair, job in zip(todo, jobs, strict=True) if pair.place not in ended
        ]
        all_lost = not ended and not isinstance(error, BrokenExecutor)
        for pair, job in left:
            pair = _alone(pair, job)
            all_lost = all_lost and bool(pair.lost)
            yield pair
        if all_lost:  # nothing can be fitted at all, for example because a cluster is gone
            raise


def _alone(pair: Any, job: Any) -> Any:
    """The pair, fitted in a process of its own, or with the reason why it could not be."""
    try:
        return Parallel(n_jobs=2)([job])[0]
    except BrokenExecutor as error:
        why = f"its process was killed, for lack of memory? ({error})"
    except Exception as error:
        cause = str(error.__cause__ or "").strip().splitlines()[-1:]  # of a worker: a traceback
        why = " ".join([f"{type(error).__name__}: {error}", *cause])
    return replace(pair, lost=" ".join(why.split()))


def _parallel(n_jobs: int | None) -> Any:
    try:
        return Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
    except ValueError:  # a backend that gives all results at the end
        return Parallel(n_jobs=n_jobs, batch_size=1)
