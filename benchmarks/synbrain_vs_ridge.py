"""LatentEncoder and SynBrain against ridge on the same features and folds.

Responses are simulated and measured: subjects simulated at three sizes (features: the tokens of a
simulated vision transformer), human V1 (Miyawaki 2008, pixels) and macaque V4 (Cowley 2023, Gabor
pyramid). Files of the last two,
``miyawaki2008_s1_v1.npz`` and ``cowley2023_v4_210325.npz``, are looked for in ``--data``,
``$BRAINENC_TEST_DATA`` or ``../shared/data`` beside the repository, and left out when absent.

Prints, and with ``--out`` writes as CSV with a JSON manifest:

- scores: every encoder, 5 folds over images, with its paired difference to ridge;
- rois: r per ROI of the last simulated subject, whose high-level areas respond to categories.

SynBrain has small networks, trained for ``--synbrain-steps`` steps a fold.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from comparison import DATA, SETS, Subject, against_ridge, score_table
from synbrain_common import FORMAT, SMALL, published_unit, show, small_synbrain, write

import brainenc

LATENT, SYNBRAIN = "LatentEncoder", "SynBrain (small)"


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="which data sets")
    add("--no-synbrain", action="store_true", help="leave SynBrain out, the slow one")
    add("--synbrain-steps", type=int, default=200, help="of its autoencoder, per fold")
    add("--jobs", type=int, default=2, help="fits at once")
    add("--data", type=Path, default=DATA, help="folder of the measured data")
    add("--out", type=Path, help="folder for CSV tables and manifest")
    return parser.parse_args(given)


def compare(subject: Subject, arguments: argparse.Namespace) -> brainenc.BenchmarkResult:
    data = subject.data
    data = replace(data, betas=data.betas * np.float32(published_unit(data.betas)))
    encoders: dict[str, Any] = {
        "mean": brainenc.MeanEncoder(),
        LATENT: brainenc.LatentEncoder(),
    }
    if not arguments.no_synbrain:
        n_trials = len(data.trials) * 4 // 5
        encoders[SYNBRAIN] = small_synbrain(n_trials, arguments.synbrain_steps)
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


def roi_table(subject: Subject, result: brainenc.BenchmarkResult) -> pd.DataFrame:
    """One row per ROI: r of ridge and of LatentEncoder, and their paired difference."""
    rois = result.rois.pivot(index="roi", columns="encoder", values="r")
    ceiling = result.rois.groupby("roi")["noise_ceiling"].first()
    return pd.DataFrame(
        {
            "data": subject.title,
            "ROI": roi,
            "ridge": rois.loc[roi, "ridge"],
            LATENT: rois.loc[roi, LATENT],
            **against_ridge(result, LATENT, roi),
            "ceiling of r": ceiling[roi],
        }
        for roi in result.rois["roi"].unique()
    )


def manifest(arguments: argparse.Namespace, results: list, started: float) -> dict:
    option = " --no-synbrain" if arguments.no_synbrain else ""
    return {
        "command": f"python benchmarks/synbrain_vs_ridge.py{option} --out docs/results",
        "date": results[0].manifest["date"],
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "jobs": arguments.jobs,
        "versions": results[0].manifest["versions"],
        "hardware": results[0].manifest["hardware"],
        SYNBRAIN: None
        if arguments.no_synbrain
        else {**SMALL, "steps of the autoencoder": arguments.synbrain_steps},
        "runs": [
            {k: result.manifest[k] for k in ("data", "split", "settings")} for result in results
        ],
    }


if __name__ == "__main__":
    main()
