"""What each step of SynBrain's default adds to the published model, one after the other.

The first row is the published model in small sizes; every further row has one more step, and the
last is the default. Mean response and ridge on the same features are beside them. One part of the
images is held out for the scores; rows are means over seeds of the networks ± s.d.

``python benchmarks/synbrain_ablation.py --part steps`` runs it.
"""

import argparse
import copy
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from comparison import SESSIONS, SETS, Subject, simulated, with_features
from joblib import Parallel, delayed

import brainenc
from brainenc.encoders.synbrain.sizes import PUBLISHED_STEPS, STEPS
from brainenc.metrics import correlation
from brainenc.progress import progress
from brainenc.repeats import average_repeats

#: Steps that need a fit of their own, in the order in which they are added.
FITS = {
    "as published, small": [],
    "+ standardised voxels": ["standardize"],
    "+ held-out stopping": ["validation"],
    "+ voxels in order": ["voxel_order"],
    "+ averaged targets": ["average_targets"],
    "+ fine-tuning": ["fine_tuning_steps"],
}
READ_OUT, BLEND = "+ read-out", "+ blend with ridge"
ORDER = ["mean", "ridge", *FITS, READ_OUT, BLEND]

#: Data sets by name; the first trains in minutes.
SUBJECTS = {"tiny": simulated(300, 100)} | SETS | SESSIONS

#: Features of measured sets: tokens of a real network.
TOKENS = "efficientnet-lite0:block12"


def parameters() -> dict[str, dict[str, Any]]:
    """Parameters of the encoder in each row that has a fit."""
    found: dict[str, dict[str, Any]] = {}
    given = {**PUBLISHED_STEPS, "blend": None}
    for name, added in FITS.items():
        given = given | {step: STEPS[step] for step in added}
        if name == "+ fine-tuning":
            given |= {"read_out": True, "blend": "ridge"}  # taken away again for its row
        found[name] = dict(given)
    return found


def steps_table(arguments: argparse.Namespace) -> pd.DataFrame:
    """One row per data set and step."""
    tables = []
    for name in arguments.sets:
        subject = SUBJECTS[name](arguments.data)
        if subject.data.truth is None:
            subject = with_features(subject, TOKENS)
        tables.append(of_subject(subject, arguments))
        print(tables[-1].to_string(index=False), flush=True)
    return pd.concat(tables, ignore_index=True)


def of_subject(subject: Subject, arguments: argparse.Namespace) -> pd.DataFrame:
    X = subject.features
    if not isinstance(X, np.ndarray):
        X = X.fit_transform(subject.data.images)
    betas = np.asarray(subject.data.betas, dtype=np.float32)
    test = np.random.default_rng(0).permutation(len(betas)) < len(betas) // 5
    split = X[~test], betas[~test], X[test], average_repeats(betas[test])
    options = {
        name: value
        for name, value in (
            ("vae_epochs", arguments.vae_epochs),
            ("mapper_steps", arguments.mapper_steps),
        )
        if value is not None
    }
    jobs = [
        delayed(fitted_rows)(name, seed, split, given | options)
        for seed in range(arguments.seeds)
        for name, given in parameters().items()
    ]
    parallel = Parallel(n_jobs=arguments.jobs, return_as="generator_unordered")
    rows = [
        row for found in progress(parallel(jobs), desc="fits", total=len(jobs)) for row in found
    ]
    for name, model in (("mean", brainenc.MeanEncoder()), ("ridge", brainenc.RidgeEncoder(None))):
        prediction = model.fit(*split[:2]).predict(split[2])
        rows.append({"encoder": name, **scores(prediction, split), "net's share": np.nan})
    return summary(pd.DataFrame(rows), subject.title)


def fitted_rows(
    name: str, seed: int, split: tuple[np.ndarray, ...], given: dict[str, Any]
) -> list[dict[str, Any]]:
    """The row of a fit; with fine-tuning, those of read-out and blend too."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = brainenc.SynBrainEncoder(None, random_state=seed, **given).fit(*split[:2])
    seconds = time.perf_counter() - started

    def row(step: str, of: Any, share: float = np.nan) -> dict[str, Any]:
        found = scores(of.predict(split[2]), split)
        return {"encoder": step, **found, "net's share": share, "fit, s": seconds}

    if encoder.blend_ is None:
        return [row(name, encoder)]
    blended, read_out, bare = encoder, copy.copy(encoder), copy.copy(encoder)
    read_out.blend_ = bare.blend_ = bare.read_out_ = None
    share = float(np.nanmean(encoder.net_share_))
    return [row(name, bare), row(READ_OUT, read_out), row(BLEND, blended, share)]


def scores(prediction: np.ndarray, split: tuple[np.ndarray, ...]) -> dict[str, float]:
    """Mean over voxels of r, and of the squared error in units of the test images' variance."""
    targets = split[3]
    error = np.nanmean((prediction - targets) ** 2, axis=0) / np.nanvar(targets, axis=0)
    r = correlation(prediction, targets)
    return {
        "r": float(np.nanmean(r)) if np.isfinite(r).any() else np.nan,
        "MSE / variance": float(np.nanmean(error)),
    }


def summary(rows: pd.DataFrame, title: str) -> pd.DataFrame:
    """Mean ± s.d. over seeds, and r as a share of that of ridge."""
    columns = ["r", "MSE / variance", "net's share", "fit, s"]
    grouped = rows.groupby("encoder")[columns]
    mean, sd = grouped.mean(), grouped.std(ddof=1)
    found = []
    for name in [each for each in ORDER if each in mean.index]:
        cells: dict[str, Any] = {"data": title, "encoder": name}
        for column in columns:
            value, spread = mean.loc[name, column], sd.loc[name, column]
            digits = 0 if column == "fit, s" else 3
            cells[column] = "–" if np.isnan(value) else f"{value:.{digits}f}"
            if np.isfinite(spread) and np.isfinite(value) and column != "fit, s":
                cells[column] += f" ± {spread:.3f}"
        share = mean.loc[name, "r"] / mean.loc["ridge", "r"]
        cells["r / r of ridge"] = "–" if np.isnan(share) else f"{share:.2f}"
        found.append(cells)
    return pd.DataFrame(found)
