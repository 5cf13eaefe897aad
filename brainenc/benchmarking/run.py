"""The benchmark: tidy tables from data, encoders and image-wise folds."""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator

import brainenc
from brainenc.benchmarking import cluster
from brainenc.benchmarking.brain_score import check_protocol, random_splits, with_brain_score
from brainenc.benchmarking.cautions import not_identified
from brainenc.benchmarking.controls import (
    check_controls,
    control_warnings,
    make_controls,
    with_controls,
)
from brainenc.benchmarking.draw_plan import DrawPlan, make_plan, number_of_draws
from brainenc.benchmarking.fitting import failure, run_pairs
from brainenc.benchmarking.fixed_test import DEFAULT_CV, fixed_split
from brainenc.benchmarking.folds import make_folds, near_copies
from brainenc.benchmarking.held_out import keep_predictions
from brainenc.benchmarking.inputs import Entry, Inputs, collect, ridges_with_reference_rows
from brainenc.benchmarking.interim import Interim
from brainenc.benchmarking.leaks import feature_warnings
from brainenc.benchmarking.manifest import data_hash, make_manifest, split_hash
from brainenc.benchmarking.pairs import Pair
from brainenc.benchmarking.preflight import check_resources
from brainenc.benchmarking.result import check_run_folder
from brainenc.benchmarking.run_parts import check_arguments, run_folder, save_run, targets_of
from brainenc.benchmarking.run_scores import RunScores
from brainenc.benchmarking.split import Split, make_split
from brainenc.benchmarking.subjects import benchmark_subjects
from brainenc.data.encoding_data import EncodingData
from brainenc.encoders.describe import describe
from brainenc.memory import Limit
from brainenc.storage import fingerprint
from brainenc.temporaries import scratch_folder


def benchmark(
    data: EncodingData | Sequence[EncodingData] | Mapping[str, EncodingData],
    encoders: Mapping[str, BaseEstimator],
    *,
    cv: Any = DEFAULT_CV,
    groups: Any = None,
    test: Any = None,
    features: Any = None,
    references: bool = True,
    controls: bool | Sequence[str] | None = None,
    n_bootstraps: int = 1000,
    n_permutations: int = 1000,
    n_draws: int | None = None,
    min_ceiling: float = 0.2,
    n_jobs: int | None = 1,
    scheduler: str | None = None,
    out: str | os.PathLike | None = None,
    random_state: int = 0,
    check: bool = True,
    check_memory: bool = True,
    verbose: bool = True,
    protocol: str | None = None,
) -> Any:
    """Compare encoders on held-out images, voxel by voxel and per ROI.

    Features are computed once and shared by the folds; every (encoder, fold) pair is fitted on
    the fold's training images and scored on its test images. An encoder that fails is reported
    with its error, at once in a warning and in the result, and the others finish.

    Parameters
    ----------
    data : EncodingData, or several: dict of subject to EncodingData, or a list
        Several subjects are run one after the other, and encoders are compared over them as by
        `brainenc.group`. `features`, `groups` and `test` may then be dicts of subject to value, and
        `out` gets a folder per subject.
    encoders : dict of name to encoder
        Unfitted or fitted; copies are fitted, the given encoders are not changed. Regressors and
        pipelines of scikit-learn's kind become encoders (`SklearnEncoder`), unless they have the
        attribute ``takes_repeats = True``; an object with fit and predict that does not say that it
        is a regressor must be wrapped in it.
    cv : int, "similar", splitter or iterable of (train, test)
        Folds over images; an int means shuffled folds. "similar": five shuffled folds with near
        copies of a picture in one fold (`brainenc.similar_groups`), as ``cv=5, groups="similar"``.
        Near copies on both sides of a fold are named in the warnings of the result.
    groups : array of shape (n_images,), "similar" or column of the trial table, optional
        Images of one group stay in one fold: an int `cv` makes shuffled folds of whole groups, and
        a splitter gets the groups.
    test : mask of shape (n_images,), positions, or names of image files, optional
        A fixed test set in place of folds: all other images are for training.
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
    n_draws : int, optional
        Draws per held-out image from each encoder's `sample`, scored against single trials; 0 for
        none. By default 200 if an encoder has a distribution of its own (such as
        `SynBrainEncoder`, `MindSimulatorEncoder`, `LatentEncoder`, `CalibratedEncoder`), and none
        if draws of all are predictions with residuals of held-out trials. Reference rows are
        added: other residuals around ridge, and the true distribution if `data` has one.
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
        First check in seconds whether images and betas belong together (`EncodingData.check`) and
        whether features contain betas; if so, warn at once and in the result.
    check_memory : bool
        Before anything is fitted, estimate the memory of every fit, of `n_jobs` fits at once, and
        the disk that the run takes. Limits of control groups and of ``ulimit`` count. If even two
        thirds of an estimate are not there, nothing is fitted; if it is close, warn.
    verbose : bool
        Show progress bars.
    protocol : "brain-score", optional
        Further columns of `BenchmarkResult.encoders` and ``rois``, as Brain-Score scores: 10 random
        splits with 90 % of the images for training and 10 % for testing, in place of folds; per
        voxel the mean over splits of r; ``brain_score`` is the square of its median over voxels,
        divided by the median reliability of split halves. With `groups`, splits of whole groups.

    Returns
    -------
    BenchmarkResult, or for several subjects GroupResult

    Warns
    -----
    RuntimeWarning : an encoder failed.

    Raises
    ------
    TypeError : data, encoders or features have a wrong type.
    ValueError : fewer images or groups than folds, a fold with fewer than two test images, a group
        on both sides of a fold, near copies that connect most of the images ("similar"), features
        with another number of rows, `test` beside `cv`, either beside `protocol`, an unknown
        protocol, no resamples, one draw, an encoder name that is empty or has control characters,
        or too little memory or disk (`check_memory`).
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
    arguments = {name: value for name, value in locals().items() if name != "data"}
    if not isinstance(data, EncodingData) and isinstance(data, (Mapping, Sequence)):
        return benchmark_subjects(data, benchmark, arguments)
    check_arguments(data, encoders, n_bootstraps, n_permutations)
    n_draws = number_of_draws(n_draws, encoders.values())
    kinds = check_controls(controls, references)
    if out is not None:
        check_run_folder(out)
    similar = cache(data.similar_images)
    as_brain_score = check_protocol(protocol, cv, test)
    if as_brain_score:
        cv = random_splits(groups, random_state)
    if test is not None:
        cv = fixed_split(data, test, cv, random_state=random_state)
    folds = make_folds(data, cv, groups, random_state, similar)
    split = make_split(data.betas, folds)
    plan = make_plan(data, split, n_draws, random_state) if n_draws else None
    alignment = data.check(random_state=random_state) if check else None
    copies = near_copies(similar(), folds)
    inputs = Inputs(data, verbose)
    entries, failed = collect(data, encoders, features, references, verbose, inputs)
    for name, error in failed.items():
        warnings.warn(failure(name, error), stacklevel=2)
    leaks = feature_warnings(data, entries, random_state) if check else []
    for message in leaks:
        warnings.warn(message, stacklevel=2)
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
        "cv": cv if isinstance(cv, int | str) else repr(cv) if test is None else "fixed test set",
        "groups": groups if groups is None or isinstance(groups, str) else "given",
        "n_bootstraps": n_bootstraps,
        "n_permutations": n_permutations,
        "n_draws": n_draws,
        "min_ceiling": min_ceiling,
        "random_state": random_state,
    }
    if as_brain_score:
        settings["protocol"] = protocol
    with run_folder(out) as folder, scratch_folder(folder, "samples") as samples:
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
        targets = partial(targets_of, data, split, settings)
        run = RunScores(data, pairs, failed, split, plan, targets, manifest, samples)

        def when_fitted(name: str) -> None:
            run.score(name)
            if name in run.steps.encoders:
                warnings.warn(failure(name, run.steps.encoders[name]), stacklevel=4)
            interim.write(run.unfinished)

        with cluster.connected(scheduler, out) as send:
            run_pairs(pairs, entries, data.betas, send, n_jobs, verbose, when_fitted)
        result = run.result()
        if as_brain_score:
            result = with_brain_score(result, data, run.groups, random_state)
        scored = {name: pairs[name] for name in run.scores}
        kept = keep_predictions(scored, None if out is None else Path(out))
    result = replace(result, kept=kept, manifest=result.manifest | {"predictions": kept.places})
    described = {name: entry.description for name, entry in entries.items()}
    result.warnings.extend(not_identified(described) + notes)
    if null:
        result.warnings.extend(control_warnings(result.encoders, result.pairs, null))
        result = replace(result, encoders=with_controls(result.encoders, null))
    result.warnings[:0] = copies
    if alignment is not None:
        result.warnings[:0] = alignment.warnings + leaks
    if out is not None:
        save_run(result, out)
    return result


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
