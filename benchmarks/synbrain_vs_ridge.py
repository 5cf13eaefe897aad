"""SynBrain against ridge on the same features and folds, simulated and measured responses.

Subjects simulated at three sizes (features: the tokens of a simulated vision transformer), human V1
(Miyawaki 2008, pixels) and macaque V4 (Cowley 2023, Gabor pyramid). Files of the last two,
``miyawaki2008_s1_v1.npz`` and ``cowley2023_v4_210325.npz``, are looked for in ``--data``,
``$BRAINENC_TEST_DATA`` or ``../shared/data`` beside the repository, and left out when absent.

Prints, and with ``--out`` writes as CSV with a JSON manifest:

- scores: every encoder, 5 folds over images, with its paired difference to ridge;
- rois: r per ROI of the last simulated subject, whose high-level areas respond to categories.

The paper variant is a small one, trained for ``--paper-steps`` steps a fold.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from synbrain_common import FORMAT, PAPER, paper_encoder, published_unit, show, write

import brainenc

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULT, PAPER_NAME = "SynBrain (default)", "SynBrain (paper, small)"


class Subject(NamedTuple):
    """A data set, and the features that all encoders get."""

    title: str
    data: brainenc.EncodingData
    features: Any


def simulated(n_images: int, n_voxels: int) -> Callable[[Path], Subject]:
    def make(folder: Path) -> Subject:
        data = brainenc.datasets.simulate_subject(n_images, n_voxels, random_state=0)
        title = f"simulated, {n_images} × {n_voxels}"
        return Subject(title, data, data.truth.tokens)

    return make


def measured(name: str, title: str, features: Any) -> Callable[[Path], Subject]:
    def make(folder: Path) -> Subject:
        data = brainenc.load_npz(folder / f"{name}.npz")
        return Subject(title, data, features)

    return make


SETS: dict[str, Callable[[Path], Subject]] = {
    "small": simulated(300, 300),
    "medium": simulated(600, 800),
    "large": simulated(1500, 800),
    "miyawaki": measured(
        "miyawaki2008_s1_v1", "Miyawaki, V1 fMRI", brainenc.PixelFeatures(verbose=False)
    ),
    "v4": measured(
        "cowley2023_v4_210325",
        "Cowley, V4 spikes",
        brainenc.GaborPyramid(verbose=False),
    ),
}


def main() -> None:
    arguments = parse_arguments()
    started = time.perf_counter()
    results, scores, rois = [], [], []
    for name in arguments.sets:
        try:
            subject = SETS[name](arguments.data)
        except FileNotFoundError as error:
            print(f"{name} left out: {error}. Give --data.")
            continue
        result = compare(subject, arguments)
        results.append(result)
        scores.append(score_table(subject, result))
        print(f"\n{scores[-1].to_string(**FORMAT)}", flush=True)
        if subject.data.truth is not None:
            rois = [roi_table(subject, result)]
    found = {
        name: pd.concat(parts) for name, parts in {"scores": scores, "rois": rois}.items() if parts
    }
    show(found)
    if arguments.out is not None and results:
        write(arguments.out, "synbrain_vs_ridge", found, manifest(arguments, results, started))


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    fallback = os.environ.get("BRAINENC_TEST_DATA", REPOSITORY.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="which data sets")
    add("--no-paper", action="store_true", help="leave the paper variant out, the slow one")
    add("--paper-steps", type=int, default=200, help="of its autoencoder, per fold")
    add("--jobs", type=int, default=2, help="fits at once")
    add("--data", type=Path, default=Path(fallback), help="folder of the measured data")
    add("--out", type=Path, help="folder for CSV tables and manifest")
    return parser.parse_args(given)


def compare(subject: Subject, arguments: argparse.Namespace) -> brainenc.BenchmarkResult:
    data = subject.data
    data = replace(data, betas=data.betas * np.float32(published_unit(data.betas)))
    encoders: dict[str, Any] = {
        "mean": brainenc.MeanEncoder(),
        DEFAULT: brainenc.SynBrainEncoder(),
    }
    if not arguments.no_paper:
        n_trials = len(data.trials) * 4 // 5
        encoders[PAPER_NAME] = paper_encoder(n_trials, arguments.paper_steps)
    encoders["ridge"] = brainenc.RidgeEncoder()  # last, so that all pairs are "… minus ridge"
    return brainenc.benchmark(
        data,
        encoders,
        features=dict.fromkeys(list(encoders)[1:], subject.features),
        references=False,
        cv=5,
        n_jobs=arguments.jobs,
        n_permutations=1,
    )


def score_table(subject: Subject, result: brainenc.BenchmarkResult) -> pd.DataFrame:
    """One row per encoder, with the paired bootstrap of its mean r minus that of ridge."""
    scores = result.encoders
    for encoder, error in zip(scores["encoder"], scores["error"], strict=True):
        if error:
            print(f"{encoder} failed on {subject.title}: {error}")
    table = pd.DataFrame(
        {
            "data": subject.title,
            "encoder": scores["encoder"],
            "r": scores["r"],
            "95 %": list(map(interval, scores["r_low"], scores["r_high"])),
            "ceiling of r": scores["noise_ceiling"],
            "MSE (z)": scores["mse_z"],
            "pattern r": scores["pattern_r"],
        }
    )
    against = pd.DataFrame([against_ridge(result, name) for name in scores["encoder"]])
    return pd.concat([table, against, scores["fit_seconds"].rename("fit, s")], axis=1)


def against_ridge(result: brainenc.BenchmarkResult, encoder: str, roi: str = "all") -> dict:
    """Paired bootstrap over images: mean r of an encoder minus that of ridge, the last of all."""
    found = result.pairs.query(
        "metric == 'r' and encoder_a == @encoder and encoder_b == 'ridge' and roi == @roi"
    )
    names = ["r − ridge", "95 % of it", "p"]
    if found.empty or not np.isfinite(found["difference"].iloc[0]):
        return dict.fromkeys(names, np.nan)
    row = found.iloc[0]
    values = [row["difference"], interval(row["low"], row["high"]), row["p"]]
    return dict(zip(names, values, strict=True))


def interval(low: float, high: float) -> Any:
    return f"{low:.3f} – {high:.3f}" if np.isfinite(low) else np.nan


def roi_table(subject: Subject, result: brainenc.BenchmarkResult) -> pd.DataFrame:
    """One row per ROI: r of ridge and of the default SynBrain, and their paired difference."""
    rois = result.rois.pivot(index="roi", columns="encoder", values="r")
    ceiling = result.rois.groupby("roi")["noise_ceiling"].first()
    return pd.DataFrame(
        {
            "data": subject.title,
            "ROI": roi,
            "ridge": rois.loc[roi, "ridge"],
            DEFAULT: rois.loc[roi, DEFAULT],
            **against_ridge(result, DEFAULT, roi),
            "ceiling of r": ceiling[roi],
        }
        for roi in result.rois["roi"].unique()
    )


def manifest(arguments: argparse.Namespace, results: list, started: float) -> dict:
    return {
        "command": "python benchmarks/synbrain_vs_ridge.py --out docs/results",
        "date": results[0].manifest["date"],
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "jobs": arguments.jobs,
        "versions": results[0].manifest["versions"],
        "hardware": results[0].manifest["hardware"],
        "paper variant": {**PAPER, "steps of the autoencoder": arguments.paper_steps},
        "runs": [
            {k: result.manifest[k] for k in ("data", "split", "settings")} for result in results
        ],
    }


if __name__ == "__main__":
    main()
