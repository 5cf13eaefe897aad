"""What each part of LatentEncoder adds: ridge, Gaussian kernels, the latent, transformers, blends.

On every set, with the same five folds over images:

- ridge: `RidgeEncoder`, or `BandedRidgeEncoder` on several feature spaces;
- Gaussian kernel on features: `KernelRidgeEncoder`, from (all) features to voxels;
- kernel to latents, transformers to latents: single maps of LatentEncoder, read out to voxels;
- blends of ridge with the kernel on features, with the kernel to latents, and with both maps to
  latents: weights per voxel chosen on held-out images, as LatentEncoder does. The last two are
  ``LatentEncoder(n_members=0)`` and ``LatentEncoder(least_gain=0)``.

"gain of the first" is what the first transformer lowers the held-out squared error by in the fit
itself (`LatentEncoder.gain_`, mean over folds); the default goes on if it is above `least_gain`.
Seconds are those of the processor for one fit, so that other programs do not count. Differences
of r are paired bootstraps over images.

Sets: simulated subjects (tokens of a simulated vision transformer), and Cowley's V4 sessions with
a Gabor pyramid, with EfficientNet-Lite0 (block 12), and with both. Prints the table and, with
``--out``, writes it as CSV with a JSON manifest.
"""

import argparse
import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from comparison import DATA, SESSIONS, SETS, interval
from synbrain_common import show, write

import brainenc
from brainenc.benchmarking.manifest import hardware, versions
from brainenc.encoders.ensemble import run_net, voxel_moments
from brainenc.encoders.latent.inputs import coarse_features
from brainenc.encoders.latent.maps import convex_weights
from brainenc.features import make_features
from brainenc.model_selection import bootstrap_interval, bootstrap_weights, image_folds
from brainenc.repeats import average_repeats

NETWORK = "efficientnet-lite0:block12"
#: Name of a set to the data set, and its features (None: tokens of the simulated subject).
CASES: dict[str, tuple[str, tuple[str, ...] | None]] = {
    **{f"simulated-{size}": (size, None) for size in ("small", "medium", "large")},
    **{
        f"{session}-{name}": (session, spaces)
        for session in ("v4", *SESSIONS)
        for name, spaces in {
            "gabor": ("gabor",),
            "network": (NETWORK,),
            "both": ("gabor", NETWORK),
        }.items()
    },
}
N_BOOTSTRAPS = 1000
RIDGE, KERNEL, LATENT, NETS = (
    "ridge",
    "Gaussian kernel on features",
    "kernel to latents",
    "transformers to latents",
)


class Problem(NamedTuple):
    """A set: features of all spaces side by side, their shapes, and betas."""

    title: str
    features: np.ndarray
    shapes: dict[str, list[int]]
    betas: np.ndarray


class Found(NamedTuple):
    """Predictions of test images, and seconds of the fit."""

    predictions: np.ndarray
    seconds: float


def main() -> None:
    arguments = parse_arguments()
    started = time.perf_counter()
    tables, gains = [], {}
    for name in arguments.sets:
        try:
            problem = load(name, arguments.data, arguments.store)
        except FileNotFoundError as error:
            print(f"{name} left out: {error}. Give --data.")
            continue
        table, gains[name] = ablate(problem, arguments.folds)
        tables.append(table)
        show({f"{name}, gain of the first {gains[name]:.4f}": table})
    if arguments.out is not None and tables:
        manifest = {
            "command": f"python benchmarks/latent_ablation.py --sets {' '.join(arguments.sets)}",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "minutes": round((time.perf_counter() - started) / 60, 1),
            "folds": arguments.folds,
            "gain of the first transformer": gains,
            "least_gain": brainenc.LatentEncoder().least_gain,
            "versions": versions(),
            "hardware": hardware(),
        }
        write(arguments.out, "latent_ablation", {"scores": pd.concat(tables)}, manifest)


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    default = ["simulated-small", "simulated-medium", "v4-gabor", "v4-network", "v4-both"]
    add("--sets", nargs="+", choices=list(CASES), default=default)
    add("--folds", type=int, default=5)
    add("--data", type=Path, default=DATA, help="folder of the measured data")
    add("--store", type=Path, help="folder that keeps computed features")
    add("--out", type=Path, help="folder for the CSV table and manifest")
    return parser.parse_args(given)


def load(name: str, folder: Path, store: Path | None) -> Problem:
    source, spaces = CASES[name]
    subject = (SETS | SESSIONS)[source](folder)
    betas = np.asarray(subject.data.betas, dtype=np.float32)
    if spaces is None:
        tokens = np.asarray(subject.features)
        return Problem(subject.title, tokens, {"tokens": list(tokens.shape[1:])}, betas)
    found = {
        spec: make_features(spec, store=store, verbose=False).fit_transform(subject.data.images)
        for spec in spaces
    }
    shapes = {spec: list(part.shape[1:]) for spec, part in found.items()}
    features = next(iter(found.values()))
    if len(found) > 1:
        flat = [part.reshape(len(part), -1) for part in found.values()]
        features = np.concatenate(flat, axis=1)
    return Problem(f"{subject.title}, {' + '.join(spaces)}", features, shapes, betas)


# -------------------------------------------------------------------- fits


def ablate(problem: Problem, n_folds: int) -> tuple[pd.DataFrame, float]:
    """A row per part and blend, and the mean gain of the first transformer."""
    folds = image_folds(n_folds, len(problem.features), random_state=0)
    found, gains = [], []
    for train, test in folds:
        of_fold, gain = fit_fold(problem, train, test)
        found.append(of_fold)
        gains.append(gain)
    targets = [average_repeats(problem.betas[test]) for _, test in folds]
    return table_of(problem.title, found, targets), float(np.mean(gains))


def fit_fold(
    problem: Problem, train: np.ndarray, test: np.ndarray
) -> tuple[dict[str, Found], float]:
    X, betas = problem.features[train], problem.betas[train]
    new, several = problem.features[test], len(problem.shapes) > 1
    bands = problem.shapes if several else None
    sizes = {name: int(np.prod(shape)) for name, shape in problem.shapes.items()}
    found: dict[str, Found] = {}
    averages = average_repeats(betas)
    mean = voxel_moments(averages)[0]

    ridge = (
        brainenc.BandedRidgeEncoder(None, bands=sizes) if several else brainenc.RidgeEncoder(None)
    )
    linear, seconds = timed(lambda: ridge.fit_held_out(X, betas))
    found[RIDGE] = Found(ridge.predict(new), seconds)

    kernel = brainenc.KernelRidgeEncoder(None)
    direct, seconds = timed(lambda: kernel.fit_held_out(X, betas))
    found[KERNEL] = Found(kernel.predict(new), seconds)
    weights = convex_weights([linear, direct], averages, mean)
    parts = [found[RIDGE].predictions, found[KERNEL].predictions]
    blended = mean + sum(w * (part - mean) for w, part in zip(weights, parts, strict=True))
    found[f"{RIDGE} and {KERNEL}"] = Found(blended, found[RIDGE].seconds + seconds)

    without = brainenc.LatentEncoder(None, bands=bands, n_members=0)
    _, seconds = timed(lambda: without.fit(X, betas))
    coarse = coarse_features(new, without.band_shapes_)[0]
    latents = without.kernel_.predict(without.gaussian_.transform(coarse))
    found[LATENT] = Found(latents @ without.read_out_ + without.mean_, seconds)
    found[f"{RIDGE} and {LATENT}"] = Found(without.predict(new), seconds)

    # A threshold that every gain is above, so that the gain is measured and all are trained.
    whole = brainenc.LatentEncoder(None, bands=bands, least_gain=1e-12)
    _, seconds = timed(lambda: whole.fit(X, betas))
    if whole.members_:
        tokens = whole.adapter_.tokens(new)
        mapped = np.mean([run_net(net, tokens, "cpu") for net in whole.members_], axis=0)
        found[NETS] = Found(mapped @ whole.read_out_ + whole.mean_, seconds)
    else:  # the first one added nothing at all
        found[NETS] = Found(np.tile(mean, (len(new), 1)), seconds)
    found[f"{RIDGE}, {LATENT} and {NETS}"] = Found(whole.predict(new), seconds)
    return found, whole.gain_


def timed(fit: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and seconds of the processor."""
    started = time.process_time()
    return fit(), time.process_time() - started


# -------------------------------------------------------------------- scores


def table_of(title: str, found: list[dict[str, Found]], targets: list[np.ndarray]) -> pd.DataFrame:
    """One row per part: r, paired bootstrap of its difference to ridge, MSE, seconds of a fit."""
    weights = [
        bootstrap_weights(len(y), N_BOOTSTRAPS, random_state=fold) for fold, y in enumerate(targets)
    ]
    sampled, rows = {}, []
    for name in found[0]:
        parts = [of_fold[name] for of_fold in found]
        values = [
            mean_r(part.predictions, y, np.concatenate([np.ones((1, len(y))), w]))
            for part, y, w in zip(parts, targets, weights, strict=True)
        ]
        sampled[name] = np.mean(values, axis=0)
        difference = sampled[name] - sampled[RIDGE]
        low, high = bootstrap_interval(difference[1:])
        errors = [
            np.nanmean(np.nanmean((p.predictions - y) ** 2, axis=0) / np.nanvar(y, axis=0))
            for p, y in zip(parts, targets, strict=True)
        ]
        rows.append(
            {
                "data": title,
                "part": name,
                "r": sampled[name][0],
                "r − ridge": difference[0] if name != RIDGE else np.nan,
                "95 % of it": interval(float(low), float(high)) if name != RIDGE else np.nan,
                "MSE (z)": np.mean(errors),
                "fit, s of CPU": np.mean([part.seconds for part in parts]),
            }
        )
    return pd.DataFrame(rows)


def mean_r(predictions: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over voxels of r, for every set of weights (n_sets, n_images)."""
    x, y = predictions.astype(np.float64), targets.astype(np.float64)
    keep = np.isfinite(x).all(axis=0) & np.isfinite(y).all(axis=0)
    x, y = x[:, keep] - x[:, keep].mean(axis=0), y[:, keep] - y[:, keep].mean(axis=0)
    w = weights / weights.sum(axis=1, keepdims=True)
    mx, my = w @ x, w @ y
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (w @ (x * y) - mx * my) / np.sqrt((w @ x**2 - mx**2) * (w @ y**2 - my**2))
    return np.nan_to_num(r).mean(axis=1)


if __name__ == "__main__":
    main()
