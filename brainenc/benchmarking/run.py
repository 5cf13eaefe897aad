"""The benchmark: tidy tables from data, encoders and image-wise folds."""

import os
import re
import tempfile
import unicodedata
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

import brainenc
from brainenc.arrays import release
from brainenc.benchmarking import cluster
from brainenc.benchmarking.ceilings import (
    ceiling_of_tested,
    trials_averaged,
    trials_per_draw,
)
from brainenc.benchmarking.draw_plan import DrawPlan, check_n_draws, make_plan
from brainenc.benchmarking.fitting import run_pairs
from brainenc.benchmarking.inputs import Entry, collect, ridges_with_reference_rows
from brainenc.benchmarking.interim import Interim
from brainenc.benchmarking.manifest import data_hash, make_manifest, split_hash
from brainenc.benchmarking.pairs import Pair
from brainenc.benchmarking.result import NOT_SAVED, BenchmarkResult, check_run_folder
from brainenc.benchmarking.run_scores import RunScores
from brainenc.benchmarking.split import Split, make_split
from brainenc.benchmarking.targets import Targets, make_targets
from brainenc.data.encoding_data import EncodingData
from brainenc.encoders.describe import describe
from brainenc.model_selection import Folds, image_folds
from brainenc.storage import fingerprint
from brainenc.temporaries import scratch_folder


def benchmark(
    data: EncodingData,
    encoders: Mapping[str, BaseEstimator],
    *,
    cv: Any = 5,
    features: Any = None,
    references: bool = True,
    n_bootstraps: int = 1000,
    n_permutations: int = 1000,
    n_draws: int = 200,
    min_ceiling: float = 0.2,
    n_jobs: int | None = 1,
    scheduler: str | None = None,
    out: str | os.PathLike | None = None,
    random_state: int = 0,
    check: bool = True,
    verbose: bool = True,
) -> BenchmarkResult:
    """Compare encoders on held-out images, voxel by voxel and per ROI.

    Features are computed once and shared by the folds; every (encoder, fold) pair is fitted on
    the fold's training images and scored on its test images. An encoder that fails is reported
    with its error, and the others finish.

    Parameters
    ----------
    data : EncodingData
    encoders : dict of name to encoder
        Unfitted or fitted; copies are fitted, the given encoders are not changed.
    cv : int, splitter or iterable of (train, test)
        Folds over images; an int means shuffled folds.
    features : array (n_images, …), transformer, or dict of encoder name to either, optional
        Features that replace the encoders' own.
    references : bool
        Add the mean response, and ridge on every set of features, if missing. For that ridge,
        tokens of more than 1 GiB in single precision are averaged over neighbours.
    n_bootstraps, n_permutations : int
        Resamples of images for intervals and for p-values.
    n_draws : int
        Draws per held-out image from each encoder's `sample`, scored against single trials; 0 for
        none. Reference rows are added: other residuals around ridge, and the true distribution if
        `data` has one.
    min_ceiling : float
        Smallest noise ceiling of r for NC-normalised scores.
    n_jobs : int
        Pairs fitted at once, in processes or by another joblib backend; of the same scores with
        each. Pairs in threads of one process take turns.
    scheduler : str, optional
        Address of a Dask scheduler (``tcp://…``) whose workers fit the pairs in place of `n_jobs`
        processes here; they must see `out` under the same path.
    out : path, optional
        Folder for tables and predictions. The same call continues an interrupted run: finished
        pairs are not fitted again.
    random_state : int
        Seed of folds, bootstrap, permutations and draws.
    check : bool
        First check in seconds whether images and betas belong together (`EncodingData.check`); if
        not, warn at once and in the result.
    verbose : bool
        Show progress bars.

    Returns
    -------
    BenchmarkResult

    Raises
    ------
    TypeError : data, encoders or features have a wrong type.
    ValueError : fewer images than folds, a fold with fewer than two test images, features with
        another number of rows, no resamples, one draw, or an encoder name that is empty or has
        control characters.
    FileExistsError : `out` contains a data set, a saved encoder, or a file not of a run that a run
        would replace.
    OSError : no scheduler at that address.
    PermissionError : `out` cannot be written to.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    >>> features = rng.standard_normal((60, 8))
    >>> betas = features[:, None, :5] + rng.standard_normal((60, 2, 5))
    >>> data = brainenc.EncodingData(images, betas)
    >>> small = {"n_bootstraps": 20, "n_permutations": 20, "n_draws": 0, "check": False}
    >>> result = brainenc.benchmark(
    ...     data, {"ridge": brainenc.RidgeEncoder()}, features=features, verbose=False, **small
    ... )
    >>> r = result.encoders.set_index("encoder")["r"]
    >>> list(r.index), bool(r["ridge"] > 0.5)  # r of the mean is undefined
    (['mean', 'ridge'], True)
    """
    _check_arguments(data, encoders, n_bootstraps, n_permutations)
    check_n_draws(n_draws)
    if out is not None:
        check_run_folder(out)
    split = make_split(data.betas, _folds(data, cv, random_state))
    plan = make_plan(data, split, n_draws, random_state) if n_draws else None
    alignment = data.check(random_state=random_state) if check else None
    entries, failed = collect(data, encoders, features, references, verbose)
    settings = {
        "encoders": {name: entry.description for name, entry in entries.items()},
        "inputs": {name: list(entry.X.shape) for name, entry in entries.items()},
        "cv": cv if isinstance(cv, int) else repr(cv),
        "n_bootstraps": n_bootstraps,
        "n_permutations": n_permutations,
        "n_draws": n_draws,
        "min_ceiling": min_ceiling,
        "random_state": random_state,
    }
    with _run_folder(out) as folder, scratch_folder(folder, "samples") as samples:
        data_key = data_hash(data)
        pairs = _make_pairs(
            entries,
            split,
            f"{data_key}{split_hash(split.folds)}",
            Path(folder).resolve() / "pairs",
            plan,
        )
        manifest = make_manifest(data, data_key, split.folds, settings)
        interim = Interim(out)
        targets = partial(_targets, data, split, settings)
        run = RunScores(data, pairs, failed, split, plan, targets, manifest, samples)

        def when_fitted(name: str) -> None:
            run.score(name)
            interim.write(run.unfinished)

        with cluster.connected(scheduler, out) as send:
            run_pairs(pairs, entries, data.betas, send, n_jobs, verbose, when_fitted)
        result = run.result()
    if alignment is not None and alignment.suspicious:
        result.warnings.insert(0, alignment.message)
    if out is not None:
        _save(result, out)
    return result


def _run_folder(out: str | os.PathLike | None) -> Any:
    """Folder of the pairs, as a context."""
    if out is None:
        return scratch_folder(tempfile.gettempdir(), "brainenc-benchmark")
    Path(out).mkdir(parents=True, exist_ok=True)
    return nullcontext(out)


def _save(result: BenchmarkResult, out: str | os.PathLike) -> None:
    """Write the tables; if that fails, warn, since the result would be lost with an error."""
    try:
        result.save(out)
    except OSError as error:
        result.warnings.append(
            f"{NOT_SAVED}: {error}. The fits are kept: the same call writes them without fitting "
            "again."
        )
        warnings.warn(result.warnings[-1], RuntimeWarning, stacklevel=3)


def _check_arguments(data: Any, encoders: Any, n_bootstraps: int, n_permutations: int) -> None:
    if not isinstance(data, EncodingData):
        raise TypeError(
            f"data must be an EncodingData, got {type(data).__name__}; make one with "
            "EncodingData(images, betas) or brainenc.load_npz(path)"
        )
    for name, value in {"n_bootstraps": n_bootstraps, "n_permutations": n_permutations}.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be 1 or more")
    if isinstance(encoders, Mapping) and any(not str(name).strip() for name in encoders):
        raise ValueError("an encoder has an empty name")
    for name in map(str, encoders if isinstance(encoders, Mapping) else ()):
        if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
            raise ValueError(
                f"the encoder name {name!r} has line breaks or other control characters, which "
                "tables and terminals do not show; give the encoder another name"
            )


def _folds(data: EncodingData, cv: Any, random_state: int) -> Folds:
    """Folds over the images that have trials."""
    shown = np.unique(data.trials["image"])
    folds = [
        (np.intersect1d(train, shown), np.intersect1d(test, shown))
        for train, test in image_folds(cv, data.n_images, random_state=random_state)
    ]
    for i, (train, test) in enumerate(folds):
        if len(test) < 2 or len(train) < 2:
            raise ValueError(
                f"fold {i} has {len(train)} train and {len(test)} test images with trials, and "
                "scores take at least 2 of each; use fewer folds"
            )
    return folds


# -------------------------------------------------------------------- fitting


def _make_pairs(
    entries: Mapping[str, Entry],
    split: Split,
    data_key: str,
    folder: Path,
    plan: DrawPlan | None,
) -> dict[str, list[Pair]]:
    pairs: dict[str, list[Pair]] = {}
    with_references = ridges_with_reference_rows(entries) if plan is not None else set()
    for name, entry in entries.items():
        references = name in with_references
        drawn = None if plan is None else [*plan.key(), references]
        key = fingerprint(brainenc.__version__, describe(entry.encoder), entry.key, data_key, drawn)
        # Names are arbitrary, and runs with other settings may share the folder: the fingerprint
        # distinguishes them, the name is for readers.
        readable = re.sub(r"[^\w+-]+", "_", name)[:40]
        home = folder / f"{readable}-{fingerprint(name, key)[:12]}"
        pairs[name] = [
            Pair(
                encoder=entry.encoder,
                name=name,
                fold=fold,
                train=train,
                test=test,
                folder=home / f"fold{fold}",
                key=key,
                plan=plan,
                scale=split.scale[fold],
                references=references,
            )
            for fold, (train, test) in enumerate(split.folds)
        ]
    return pairs


# -------------------------------------------------------------------- scoring


def _targets(data: EncodingData, split: Split, settings: Mapping[str, Any]) -> Targets:
    ceiling = ceiling_of_tested(data, split)
    release(data.betas)
    return make_targets(
        data.betas,
        split,
        ceiling,
        n_trials=trials_averaged(data, split),
        trials_per_draw=trials_per_draw(data),
        min_ceiling=settings["min_ceiling"],
        n_bootstraps=settings["n_bootstraps"],
        random_state=settings["random_state"],
    )
