"""Scores of encoders that are fitted already: the benchmark's tables, without a fit."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

import brainenc
from brainenc.arrays import release
from brainenc.benchmarking.draw_plan import DrawPlan, make_plan, number_of_draws
from brainenc.benchmarking.fitted import Fitted, read_fitted
from brainenc.benchmarking.held_out import keep_predictions
from brainenc.benchmarking.manifest import data_hash, make_manifest
from brainenc.benchmarking.pairs import Pair, run_pair
from brainenc.benchmarking.result import BenchmarkResult, check_run_folder
from brainenc.benchmarking.run_parts import check_arguments, run_folder, save_run, targets_of
from brainenc.benchmarking.run_scores import RunScores
from brainenc.benchmarking.split import Split, trial_sd
from brainenc.benchmarking.training_data import check_training_data, images_in_training
from brainenc.data.encoding_data import EncodingData
from brainenc.data.synthetic import check_measured
from brainenc.encoders import MeanEncoder
from brainenc.encoders.training_images import mean_response
from brainenc.progress import progress
from brainenc.storage import fingerprint
from brainenc.temporaries import scratch_folder


def evaluate(
    data: EncodingData,
    encoders: Mapping[str, BaseEstimator | str | os.PathLike],
    *,
    features: Any = None,
    train: EncodingData | None = None,
    n_bootstraps: int = 1000,
    n_permutations: int = 1000,
    n_draws: int | None = None,
    min_ceiling: float = 0.2,
    device: str | None = None,
    out: str | os.PathLike | None = None,
    random_state: int = 0,
    check: bool = True,
    verbose: bool = True,
) -> BenchmarkResult:
    """Score encoders that are fitted already on images they have not seen; fits nothing.

    Parameters
    ----------
    data : EncodingData
        Test images and their betas, of the voxels that the encoders were fitted to, in the same
        order and units.
    encoders : dict of name to fitted encoder, or to the folder of a saved one
    features : array (n_images, …), transformer that learns nothing, or dict of name to either
        Features of the test images, for encoders that were fitted to features; by default the
        encoders compute their own from the images.
    train : EncodingData, optional
        Data that the encoders were fitted to: for near copies of training images, the mean
        response, and the unit of z.
    n_bootstraps, n_permutations, n_draws, min_ceiling
        As for `brainenc.benchmark`.
    device : "auto", "cpu", "cuda", …, optional
        For encoders that are loaded, as of `brainenc.load`.
    out : path, optional
        Folder for tables and predictions.
    random_state : int
        Seed of bootstrap, permutations and draws.
    check : bool
        First check in seconds whether test images and betas belong together.
    verbose : bool

    Returns
    -------
    BenchmarkResult
        The tables of a benchmark with one fold, which tests every image. Noise ceilings are those
        of the test data. The row of the mean response has the mean of the *training* responses,
        which fitted encoders keep (or of `train`); the mean of the test responses would use the
        responses that are scored. ``_z`` is in units of the s.d. of the single trials of `train`,
        or else of the test data. There are no rows of ridge and no null controls, which would have
        to be fitted. Test images among the training images are named in the warnings, and
        ``manifest["evaluation"]`` has what is known of each encoder.

    Raises
    ------
    TypeError : data or encoders of another type.
    ValueError : an encoder that is not fitted, or was fitted to another number of voxels, to other
        voxels or to features that are not given; or fewer than two images.
    FileNotFoundError : there is no such folder.

    Examples
    --------
    >>> import brainenc
    >>> data = brainenc.datasets.simulate_subject(120, 10, random_state=0, verbose=False)
    >>> train, test = data.train_test(0.25)
    >>> pixels = brainenc.PixelFeatures(8, verbose=False)
    >>> encoder = brainenc.RidgeEncoder(pixels).fit(train.images, train.betas)
    >>> few = {"n_bootstraps": 50, "n_permutations": 20, "n_draws": 0, "check": False}
    >>> result = brainenc.evaluate(test, {"pixels": encoder}, **few, verbose=False)
    >>> result.encoders["encoder"].tolist(), result.manifest["evaluation"]["pixels"]["n_seen"]
    (['mean', 'pixels'], 0)
    """
    check_arguments(data, encoders, n_bootstraps, n_permutations)
    check_measured(data.trials, range(data.n_images), "the data to evaluate on")
    if train is not None:
        check_training_data(train, data)
    if out is not None:
        check_run_folder(out)
    split = _split(data, train)
    fitted = read_fitted(data, encoders, features, device, verbose)
    n_draws = number_of_draws(n_draws, [found.encoder for found in fitted.values()])
    plan = make_plan(data, split, n_draws, random_state) if n_draws else None
    alignment = data.check(random_state=random_state) if check else None
    means = _means(fitted, train)
    described = {name: mean.description for name, mean in means.items()}
    described |= {name: found.description for name, found in fitted.items()}
    settings = {
        "encoders": described,
        "inputs": {name: list(np.shape(found.X)) for name, found in fitted.items()},
        "cv": "fitted before",
        "groups": None,
        "n_bootstraps": n_bootstraps,
        "n_permutations": n_permutations,
        "n_draws": n_draws,
        "min_ceiling": min_ceiling,
        "random_state": random_state,
    }
    with run_folder(out) as folder, scratch_folder(folder, "samples") as samples:
        data_key = data_hash(data)
        home = Path(folder).resolve() / "pairs"
        pairs = {
            name: [_pair(name, found, split, data_key, home, plan if name in fitted else None)]
            for name, found in (means | fitted).items()
        }
        manifest = make_manifest(data, data_key, split.folds, settings)
        manifest["z_units_of"] = "test" if train is None else "training"
        manifest["evaluation"] = {name: _known(found) for name, found in fitted.items()}
        targets = partial(targets_of, data, split, settings)
        run = RunScores(data, pairs, {}, split, plan, targets, manifest, samples)
        for name in progress(list(pairs), desc="scoring", unit="encoder", verbose=verbose):
            if pairs[name][0].to_fit():
                run_pair(pairs[name][0], (means | fitted)[name].X, data.betas)
            run.score(name)
        result = run.result()
        scored = {name: pairs[name] for name in run.scores}
        kept = keep_predictions(scored, None if out is None else Path(out))
    result = replace(result, kept=kept, manifest=result.manifest | {"predictions": kept.places})
    result.warnings[:0] = _warnings(data, train, fitted, means)
    if alignment is not None:
        result.warnings[:0] = alignment.warnings
    if out is not None:
        save_run(result, out)
    return result


def _split(data: EncodingData, train: EncodingData | None) -> Split:
    """One fold that tests all images with trials and trains on none."""
    shown = np.unique(data.trials["image"])
    if len(shown) < 2:
        raise ValueError(f"data has {len(shown)} images with trials, and scores take at least 2")
    source = data if train is None else train
    scale = trial_sd(source.betas, np.unique(source.trials["image"]))
    release(source.betas)
    return Split(
        folds=[(np.empty(0, dtype=np.int64), shown)],
        scale=scale[None].astype(np.float32),
        rows=shown,
        fold_of_row=np.zeros(len(shown), dtype=int),
    )


def _pair(
    name: str, found: Fitted, split: Split, data_key: str, home: Path, plan: DrawPlan | None
) -> Pair:
    of_draws = None if plan is None else plan.key()
    key = fingerprint(brainenc.__version__, "fitted", found.key, data_key, of_draws)
    readable = re.sub(r"[^\w+-]+", "_", name)[:40]
    return Pair(
        encoder=found.encoder,
        name=name,
        fold=0,
        train=split.folds[0][0],
        test=split.folds[0][1],
        folder=home / f"{readable}-{fingerprint(name, key)[:12]}" / "fold0",
        key=key,
        plan=plan,
        scale=split.scale[0],
        fitted=True,
    )


# -------------------------------------------------------------------- the mean response


class _TrainingMean(BaseEstimator):
    """The mean response of training images, for any image."""

    def __init__(self, mean: np.ndarray):
        self.mean = mean

    def predict(self, X: Any) -> np.ndarray:
        return np.tile(np.asarray(self.mean, np.float32), (len(X), 1))


def _means(fitted: Mapping[str, Fitted], train: EncodingData | None) -> dict[str, Fitted]:
    """Rows of the mean training response, one for each set of training images."""
    if any(isinstance(found.encoder, MeanEncoder) for found in fitted.values()):
        return {}
    means: list[tuple[np.ndarray, list[str]]] = []
    if train is not None:
        means.append((mean_response(train.betas), list(fitted)))
    else:
        for name, found in fitted.items():
            if found.mean is None:
                continue
            for mean, names in means:
                if np.array_equal(mean, found.mean, equal_nan=True):
                    names.append(name)
                    break
            else:
                means.append((found.mean, [name]))
    rows = {}
    for mean, names in means:
        label = "mean" if len(means) == 1 else f"mean (of {', '.join(names)})"
        while label in fitted:
            label += " (reference)"
        rows[label] = _mean_row(mean, names, next(iter(fitted.values())))
    return rows


def _mean_row(mean: np.ndarray, names: list[str], like: Fitted) -> Fitted:
    described = {"class": "MeanEncoder", "of": f"training images of {', '.join(names)}"}
    n_images = len(like.X)
    return Fitted(
        encoder=_TrainingMean(mean),
        X=np.arange(n_images),
        key=fingerprint(np.asarray(mean)),
        description=described,
        folder=None,
        mean=mean,
        seen=None,
        n_training_images=None,
    )


# -------------------------------------------------------------------- what is known


def _known(found: Fitted) -> dict[str, Any]:
    return {
        "folder": found.folder,
        "n_training_images": found.n_training_images,
        "n_seen": None if found.seen is None else int(found.seen.sum()),
    }


def _warnings(
    data: EncodingData,
    train: EncodingData | None,
    fitted: Mapping[str, Fitted],
    means: Mapping[str, Fitted],
) -> list[str]:
    found = images_in_training(train, data) if train is not None else []
    for name, encoder in fitted.items():
        if encoder.seen is not None and encoder.seen.any():
            rows = np.flatnonzero(encoder.seen)
            listed = ", ".join(map(str, rows[:5])) + (" …" if len(rows) > 5 else "")
            found.append(
                f"{name} was fitted to {len(rows)} of the {data.n_images} test images (their "
                f"features are those of training images; rows {listed}): its scores show memory of "
                "these and not prediction. Leave them out, data.select(images=...)."
            )
    unknown = [name for name, encoder in fitted.items() if encoder.seen is None]
    unknown = [name for name in unknown if not isinstance(fitted[name].encoder, MeanEncoder)]
    if unknown and train is None:
        found.append(
            f"It is unknown which images {', '.join(unknown)} "
            f"{'was' if len(unknown) == 1 else 'were'} fitted to: give train= to find test images "
            "among them."
        )
    if not means and not any(isinstance(f.encoder, MeanEncoder) for f in fitted.values()):
        found.append(
            "There is no row of the mean response: no encoder keeps that of its training images. "
            "Give train=."
        )
    return found
