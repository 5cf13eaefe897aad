"""The benchmark: data × encoders × image-wise folds to tidy tables."""

import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, clone

import brainenc
from brainenc.benchmarking import scoring, tables
from brainenc.benchmarking.manifest import data_hash, make_manifest, split_hash
from brainenc.benchmarking.pairs import Pair, run_pair
from brainenc.benchmarking.result import BenchmarkResult
from brainenc.data import EncodingData
from brainenc.encoders import MeanEncoder, RidgeEncoder
from brainenc.encoders.persistence import describe
from brainenc.metrics import NoiseCeiling
from brainenc.model_selection import Folds, bootstrap_interval, image_folds
from brainenc.progress import progress
from brainenc.storage import fingerprint


def benchmark(
    data: EncodingData,
    encoders: Mapping[str, BaseEstimator],
    *,
    cv: Any = 5,
    features: Any = None,
    references: bool = True,
    n_bootstraps: int = 1000,
    n_permutations: int = 1000,
    min_ceiling: float = 0.2,
    n_jobs: int | None = 1,
    out: str | os.PathLike | None = None,
    random_state: int = 0,
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
        Unfitted or fitted; copies are fitted, these stay as they are.
    cv : int, splitter or iterable of (train, test)
        Folds over images; an int means shuffled folds.
    features : array (n_images, …), transformer, or dict of encoder name to either, optional
        Used in place of the encoders' own.
    references : bool
        Add the mean response, and ridge on every set of features in use, where they are missing.
    n_bootstraps, n_permutations : int
        Resamples of images for intervals and for p-values.
    min_ceiling : float
        Voxels whose noise ceiling of r is lower get no NC-normalised score.
    n_jobs : int
        Pairs fitted at once, through joblib: any joblib backend can run them.
    out : path, optional
        Folder for tables and predictions. A run that was stopped is taken up again there:
        finished pairs are not fitted twice.
    random_state : int
        Of folds, bootstrap and permutations.
    verbose : bool
        Show progress bars.

    Returns
    -------
    BenchmarkResult

    Raises
    ------
    ValueError : fewer images than folds, names that differ only in characters that a folder name
        cannot have, or features with another number of rows.
    """
    shown = np.unique(data.trials["image"])
    folds = [
        (np.intersect1d(train, shown), np.intersect1d(test, shown))
        for train, test in image_folds(cv, data.n_images, random_state=random_state)
    ]
    entries = _inputs(data, encoders, features, references, verbose)
    settings = {
        # As they were given: what is fitted has its features computed beforehand.
        "encoders": {
            name: describe(encoders.get(name, encoder)) for name, (encoder, _) in entries.items()
        },
        "features": _describe_features(features),
        "inputs": {name: list(X.shape) for name, (_, X) in entries.items()},
        "n_bootstraps": n_bootstraps,
        "n_permutations": n_permutations,
        "min_ceiling": min_ceiling,
        "random_state": random_state,
    }
    with tempfile.TemporaryDirectory() if out is None else nullcontext(out) as folder:
        data_key = data_hash(data)
        pairs = _make_pairs(data_key, data.images, entries, folds, Path(folder) / "pairs")
        _run_pairs(pairs, entries, data.betas, n_jobs, verbose)
        manifest = make_manifest(data, data_key, folds, settings)
        result = _score(data, pairs, folds, manifest, verbose)
    if out is not None:
        result.save(out)
    return result


# -------------------------------------------------------------------- what is fitted on what


def _inputs(
    data: EncodingData,
    encoders: Mapping[str, BaseEstimator],
    features: Any,
    references: bool,
    verbose: bool,
) -> dict[str, tuple[BaseEstimator, Any]]:
    """Encoders by name, each with what it is fitted on: shared features, or images."""
    cache: dict[str, np.ndarray] = {}

    def transform(extractor: Any) -> np.ndarray:
        if "verbose" in extractor.get_params():
            extractor.set_params(verbose=verbose)
        key = json.dumps(describe(extractor), sort_keys=True)
        if key not in cache:
            cache[key] = extractor.fit(data.images).transform(data.images)
        return cache[key]

    given = features if isinstance(features, Mapping) else dict.fromkeys(encoders, features)
    if unknown := [name for name in given if name not in encoders]:
        raise ValueError(f"features names {unknown}, but the encoders are {list(encoders)}")
    entries = {
        str(name): _input_of(encoder, data.images, given.get(name), transform)
        for name, encoder in encoders.items()
    }
    return _with_references(entries, data) if references else entries


def _input_of(
    encoder: BaseEstimator, images: Any, features: Any, transform: Callable
) -> tuple[BaseEstimator, Any]:
    if features is not None:
        if hasattr(features, "transform"):
            features = transform(clone(features))
        if len(features) != len(images):
            raise ValueError(
                f"features has {len(features)} rows, but there are {len(images)} images"
            )
        given = clone(encoder)
        if "features" in given.get_params(deep=False):
            given.set_params(features=None)
        return given, features
    if hasattr(encoder, "precompute"):
        return encoder.precompute(images, transform)
    return clone(encoder), images


def _describe_features(features: Any) -> Any:
    """Features given to the benchmark as plain values: extractors in full, arrays by shape."""
    if isinstance(features, Mapping):
        return {name: _describe_features(part) for name, part in features.items()}
    if hasattr(features, "transform"):
        return describe(features)
    return None if features is None else {"array": list(np.shape(features))}


def _with_references(
    entries: dict[str, tuple[BaseEstimator, Any]], data: EncodingData
) -> dict[str, tuple[BaseEstimator, Any]]:
    """Add the mean, and ridge on each set of features that has none."""
    references: dict[str, tuple[BaseEstimator, Any]] = {}
    if not any(isinstance(encoder, MeanEncoder) for encoder, _ in entries.values()):
        references["mean"] = (MeanEncoder(), data.images)
    has_ridge = {id(X) for encoder, X in entries.values() if isinstance(encoder, RidgeEncoder)}
    for name, (_, X) in entries.items():
        if X is not data.images and id(X) not in has_ridge:
            label = f"ridge (for {name})" if has_ridge or "ridge" in entries else "ridge"
            references[label] = (RidgeEncoder(features=None), X)
            has_ridge.add(id(X))
    return references | entries


# -------------------------------------------------------------------- fitting


def _make_pairs(
    data_key: str, images: Any, entries: Mapping[str, tuple], folds: Folds, folder: Path
) -> dict[str, list[Pair]]:
    names = {name: re.sub(r"[^\w.+-]+", "_", name) for name in entries}
    if len(set(names.values())) < len(names):
        raise ValueError(f"encoder names {list(names)} are too alike: folders would clash")
    pairs: dict[str, list[Pair]] = {}
    for name, (encoder, X) in entries.items():
        input_key = None if X is images else fingerprint(np.asarray(X))
        key = fingerprint(
            brainenc.__version__, describe(encoder), data_key, input_key, split_hash(folds)
        )
        pairs[name] = [
            Pair(encoder, name, fold, train, test, folder / names[name] / f"fold{fold}", key)
            for fold, (train, test) in enumerate(folds)
        ]
    return pairs


def _run_pairs(
    pairs: Mapping[str, list[Pair]],
    entries: Mapping[str, tuple],
    betas: np.ndarray,
    n_jobs: int | None,
    verbose: bool,
) -> None:
    todo = [pair for of_encoder in pairs.values() for pair in of_encoder if not pair.finished()]
    parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    jobs = (delayed(run_pair)(pair, entries[pair.name][1], betas) for pair in todo)
    bar = progress(desc="fitting", total=len(todo), unit="fit", verbose=verbose)
    with bar, warnings.catch_warnings():
        # joblib takes the memory of a large fit for a leak and replaces the worker: no harm done.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
        for pair in parallel(jobs):
            bar.set_postfix_str(f"{pair.name}, fold {pair.fold}")
            bar.update()


# -------------------------------------------------------------------- scoring


def _score(
    data: EncodingData,
    pairs: Mapping[str, list[Pair]],
    folds: Folds,
    manifest: dict[str, Any],
    verbose: bool,
) -> BenchmarkResult:
    settings = manifest["settings"]
    ceiling = data.noise_ceiling(n_bootstraps=200).to("r")
    usable = np.where(ceiling.values >= settings["min_ceiling"], ceiling.values, np.nan)
    targets = scoring.make_targets(
        data.betas, folds, usable, settings["n_bootstraps"], settings["random_state"]
    )
    done = [name for name, group in pairs.items() if all(pair.finished() for pair in group)]
    scores = {
        name: scoring.score_encoder(
            np.concatenate([pair.predictions() for pair in pairs[name]]),
            targets,
            n_permutations=settings["n_permutations"],
            random_state=settings["random_state"],
        )
        for name in progress(done, desc="scoring", unit="encoder", verbose=verbose)
    }
    groups = tables.voxel_groups(data)
    manifest["noise_ceiling"] = {
        "estimator": ceiling.estimator,
        "n_trials": float(np.mean(ceiling.n_trials)),
    }
    return BenchmarkResult(
        encoders=tables.encoder_table(scores, ceiling.values, pairs),
        rois=tables.roi_table(scores, ceiling.values, groups),
        pairs=tables.pair_table(scores, groups),
        maps=tables.map_table(scores, ceiling.values, data.voxels),
        voxels=tables.voxel_table(scores),
        manifest=manifest,
        warnings=find_warnings(data, ceiling, scores, pairs),
    )


def find_warnings(
    data: EncodingData,
    ceiling: NoiseCeiling,
    scores: Mapping[str, scoring.EncoderScores],
    pairs: Mapping[str, list[Pair]],
) -> list[str]:
    """What a reader should know before believing the numbers, as sentences."""
    found = []
    for name, group in pairs.items():
        infos = [pair.info() for pair in group]
        found += [f"{name} failed: {info['error']}" for info in infos if info["error"]][:1]
        messages = {message for info in infos for message in info.get("warnings", [])}
        found += [f"{name}: {message}" for message in sorted(messages)]
    without_data = int((~np.isfinite(data.betas).any(axis=(0, 1))).sum())
    if without_data:
        found.append(f"{without_data} voxels have no data at all; their scores are NaN.")
    without_ceiling = int((~np.isfinite(ceiling.values)).sum())
    if without_ceiling:
        found.append(f"{without_ceiling} of {data.n_voxels} voxels have no noise ceiling.")
    without_trials = data.n_images - data.trials["image"].nunique()
    if without_trials:
        found.append(f"{without_trials} images have no trials; they are left out.")
    n_missing = data.n_images * data.n_repeats - len(data.trials)
    if n_missing:
        n = data.n_images * data.n_repeats
        found.append(f"{n_missing} of {n} repeats are missing ({n_missing / n:.1%}).")
    for name, found_scores in scores.items():
        low, _ = bootstrap_interval(found_scores.voxel_samples["r"])
        highest = ceiling.values if ceiling.interval is None else ceiling.interval[1]
        above = int((low > highest).sum())
        # A perfect encoder is above in about 2.5 % of voxels by the luck of the test images.
        if above > 0.05 * data.n_voxels:
            found.append(
                f"{name}: r is credibly above the noise ceiling in {above} of {data.n_voxels} "
                "voxels; check that no test image, or near copy of one, was trained on."
            )
    return found
