"""The benchmark: tidy tables from data, encoders and image-wise folds."""

import os
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator

import brainenc
from brainenc.arrays import release
from brainenc.benchmarking import cluster, scoring, tables
from brainenc.benchmarking.cautions import find_warnings, not_identified
from brainenc.benchmarking.ceilings import ceiling_of_tested, trials_averaged
from brainenc.benchmarking.controls import (
    check_controls,
    control_warnings,
    make_controls,
    with_controls,
)
from brainenc.benchmarking.draw_plan import DrawPlan, check_n_draws, make_plan
from brainenc.benchmarking.draw_run import score_all_draws
from brainenc.benchmarking.inputs import Entry, Inputs, collect, ridges_with_reference_rows
from brainenc.benchmarking.manifest import data_hash, make_manifest, split_hash
from brainenc.benchmarking.pairs import Pair
from brainenc.benchmarking.preflight import check_resources
from brainenc.benchmarking.result import BenchmarkResult, check_run_folder
from brainenc.benchmarking.split import Split, make_split
from brainenc.benchmarking.targets import Targets, make_targets
from brainenc.data.encoding_data import EncodingData
from brainenc.encoders.describe import describe
from brainenc.memory import Limit
from brainenc.model_selection import Folds, image_folds
from brainenc.progress import progress
from brainenc.storage import fingerprint


def benchmark(
    data: EncodingData,
    encoders: Mapping[str, BaseEstimator],
    *,
    cv: Any = 5,
    features: Any = None,
    references: bool = True,
    controls: bool | Sequence[str] | None = None,
    n_bootstraps: int = 1000,
    n_permutations: int = 1000,
    n_draws: int = 200,
    min_ceiling: float = 0.2,
    n_jobs: int | None = 1,
    scheduler: str | None = None,
    out: str | os.PathLike | None = None,
    random_state: int = 0,
    check: bool = True,
    check_memory: bool = True,
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
    controls : bool or list of "permuted", "untrained", optional
        Add null controls, rows of ridge marked in the column ``control`` of the encoder table:
        on every set of features, permuted over images before folds are made; and on features of
        the same networks with random weights, for extractors that run one (if they take at most
        two minutes, unless the list names "untrained"). They have no draws. Encoders that are not
        credibly above their controls are named in the warnings. By default as `references`.
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
    check_memory : bool
        Before anything is fitted, estimate the memory of every fit, of `n_jobs` fits at once, and
        the disk that the run takes. Limits of control groups and of ``ulimit`` count. If even two
        thirds of an estimate are not there, nothing is fitted; if it is close, warn.
    verbose : bool
        Show progress bars.

    Returns
    -------
    BenchmarkResult

    Raises
    ------
    TypeError : data, encoders or features have a wrong type.
    ValueError : fewer images than folds, a fold with fewer than two test images, features with
        another number of rows, no resamples, one draw, an empty encoder name, or too little memory
        or disk (see `check_memory`).
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
    (['mean', 'ridge', 'ridge, permuted images'], True)
    """
    _check_arguments(data, encoders, n_bootstraps, n_permutations)
    check_n_draws(n_draws)
    kinds = check_controls(controls, references)
    if out is not None:
        check_run_folder(out)
    split = make_split(data.betas, _folds(data, cv, random_state))
    plan = make_plan(data, split, n_draws, random_state) if n_draws else None
    alignment = data.check(random_state=random_state) if check else None
    inputs = Inputs(data, verbose)
    entries, failed = collect(data, encoders, features, references, verbose, inputs)
    null, notes = make_controls(
        entries,
        inputs,
        kinds,
        random_state=random_state,
        only_cheap=controls is None or isinstance(controls, bool),
    )
    entries |= null
    if check_memory:
        # Workers of a cluster have memory of their own, of which nothing is known here.
        limit = None if scheduler is None else Limit(2**62, "workers of a cluster")
        at_once = n_jobs if scheduler is None else 1
        for warning in check_resources(
            entries, data.betas, split.folds, n_jobs=at_once, n_draws=n_draws, out=out, limit=limit
        ):
            warnings.warn(warning, UserWarning, stacklevel=2)
            notes.append(warning)
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
    with tempfile.TemporaryDirectory() if out is None else nullcontext(out) as folder:
        data_key = data_hash(data)
        pairs = _make_pairs(
            entries,
            split,
            f"{data_key}{split_hash(split.folds)}",
            Path(folder).resolve() / "pairs",
            plan,
        )
        with cluster.connected(scheduler, out) as send:
            _run_pairs(pairs, entries, data.betas, send, n_jobs, verbose)
        manifest = make_manifest(data, data_key, split.folds, settings)
        with tempfile.TemporaryDirectory(prefix=".samples-", dir=folder) as samples:
            result = _score(
                data, pairs, failed, split, plan, manifest, verbose, folder=Path(samples)
            )
    described = {name: entry.description for name, entry in entries.items()}
    result.warnings.extend(not_identified(described) + notes)
    if null:
        result.warnings.extend(control_warnings(result.encoders, result.pairs, null))
        result = replace(result, encoders=with_controls(result.encoders, null))
    if alignment is not None and alignment.suspicious:
        result.warnings.insert(0, alignment.message)
    if out is not None:
        result.save(out)
    return result


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
    encoders = {name: entry for name, entry in entries.items() if not entry.control}
    with_references = ridges_with_reference_rows(encoders) if plan is not None else set()
    for name, entry in entries.items():
        references = name in with_references
        drawn = None if plan is None or entry.control else plan
        of_draws = None if drawn is None else [*drawn.key(), references]
        order = [] if entry.rows is None else [entry.rows]
        key = fingerprint(
            brainenc.__version__, describe(entry.encoder), entry.key, data_key, of_draws, *order
        )
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
                plan=drawn,
                scale=split.scale[fold],
                references=references,
                rows=entry.rows,
            )
            for fold, (train, test) in enumerate(split.folds)
        ]
    return pairs


def _run_pairs(
    pairs: Mapping[str, list[Pair]],
    entries: Mapping[str, Entry],
    betas: np.ndarray,
    send: Callable[[Any], Any],
    n_jobs: int | None,
    verbose: bool,
) -> None:
    todo = [pair for of_encoder in pairs.values() for pair in of_encoder if not pair.finished()]
    parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
    jobs = (
        delayed(cluster.run_pair)(pair, send(entries[pair.name].X), send(betas)) for pair in todo
    )
    bar = progress(desc="fitting", total=len(todo), unit="fit", verbose=verbose)
    with bar, warnings.catch_warnings():
        # joblib may take the memory of a large fit for a leak and replace the worker, which is
        # harmless.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
        for pair in parallel(jobs):
            bar.set_postfix_str(f"{pair.name}, fold {pair.fold}")
            bar.update()


# -------------------------------------------------------------------- scoring


def _score(
    data: EncodingData,
    pairs: Mapping[str, list[Pair]],
    failed: Mapping[str, str],
    split: Split,
    plan: DrawPlan | None,
    manifest: dict[str, Any],
    verbose: bool,
    *,
    folder: Path,
) -> BenchmarkResult:
    settings = manifest["settings"]
    targets = _targets(data, split, settings)
    manifest["noise_ceiling"] = {
        "estimator": targets.ceiling.estimator,
        "n_trials": float(np.nanmean(targets.ceiling.n_trials)),
    }
    finished = {
        name: group for name, group in pairs.items() if all(pair.finished() for pair in group)
    }
    scores = {
        name: scoring.score_encoder(
            [pair.predictions() for pair in finished[name]],
            targets,
            n_permutations=settings["n_permutations"],
            random_state=settings["random_state"],
            folder=folder,
        )
        for name in progress(list(finished), desc="scoring", unit="encoder", verbose=verbose)
    }
    drawn = of_draws = None
    if plan is not None:
        drawing = {name: group for name, group in finished.items() if group[0].plan is not None}
        drawn = score_all_draws(data, drawing, split, targets, plan, folder)
        of_draws = drawn.scores
    ceiling, groups = targets.ceiling, tables.voxel_groups(data)
    result = BenchmarkResult(
        encoders=tables.encoder_table(scores, ceiling.values, pairs, failed),
        rois=tables.roi_table(scores, ceiling.values, groups),
        pairs=tables.pair_table(scores, groups),
        maps=tables.map_table(scores, ceiling.values, data.voxels, of_draws),
        voxels=tables.voxel_table(scores),
        manifest=manifest,
        warnings=find_warnings(data, ceiling, scores, pairs, failed),
    )
    return result if drawn is None else drawn.beside(result, groups, scores)


def _targets(data: EncodingData, split: Split, settings: Mapping[str, Any]) -> Targets:
    ceiling = ceiling_of_tested(data, split)
    release(data.betas)
    return make_targets(
        data.betas,
        split,
        ceiling,
        n_trials=trials_averaged(data, split, ceiling),
        min_ceiling=settings["min_ceiling"],
        n_bootstraps=settings["n_bootstraps"],
        random_state=settings["random_state"],
    )
