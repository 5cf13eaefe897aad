"""Every encoder on the same features and folds: simulated subject, human V1, macaque V4.

The simulated subject has 600 images × 3 trials × 800 voxels, and encoders get the tokens of a
simulated vision transformer; human V1 is Miyawaki 2008 (pixels) and macaque V4 Cowley 2023 (Gabor
pyramid). Files of the last two, ``miyawaki2008_s1_v1.npz`` and ``cowley2023_v4_210325.npz``, are
looked for in ``--data``, ``$BRAINENC_TEST_DATA`` or ``../shared/data`` beside the repository, and
left out when absent. All encoders have their default settings. Two sessions of V4 without single
trials, folders with ``responses.npy`` and ``images``, are run by ``--sets v4-210225 v4-190923``.

``--features efficientnet-lite0`` (or another name of `brainenc.features.make_features`) gives all
encoders these features of the images in place of the above; ``--store`` keeps them.

Prints, and with ``--out`` writes as CSV with a JSON manifest:

- scores: r, MSE and pattern r on held-out images, paired bootstrap differences to ridge, time and
  memory of a fit;
- draws: scores of 200 draws per image against held-out single trials, reference rows beside them;
- rois: r per ROI of the simulated subject.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
from comparison import DATA, SESSIONS, SETS, Subject, interval, score_table, with_features
from synbrain_common import FORMAT, show, write

import brainenc
from brainenc.features import make_features

#: All that predict from features, ridge last, so that all pairs are "… minus ridge".
ENCODERS = {
    "LatentEncoder": brainenc.LatentEncoder,
    "stacked": brainenc.StackedEncoder,
    "banded ridge": brainenc.BandedRidgeEncoder,
    "ROI transformer": brainenc.ROITransformerEncoder,
    "Mind Reader": brainenc.MindReaderEncoder,
    "MindSimulator": brainenc.MindSimulatorEncoder,
    "ridge": brainenc.RidgeEncoder,
}

ALL_SETS = SETS | SESSIONS

DRAWS = {
    "crps_z": "CRPS (z)",
    "energy": "energy score",
    "variogram": "variogram score",
    "coverage_50": "inside 50 %",
    "coverage_90": "inside 90 %",
    "variance_slope": "slope of variance",
    "noise_correlation_r": "noise corr., repeats",
    "noise_correlation_truth_r": "noise corr., truth",
}


def main() -> None:
    arguments = parse_arguments()
    if arguments.features is not None:
        make_features(arguments.features).key()  # a wrong name or missing weights are said now
    started = time.perf_counter()
    results, found = [], {"scores": [], "draws": [], "rois": []}
    for name in arguments.sets:
        try:
            subject = ALL_SETS[name](arguments.data)
        except FileNotFoundError as error:
            print(f"{name} left out: {error}. Give --data.")
            continue
        subject = with_features(subject, arguments.features, arguments.store)
        result = compare(subject, arguments)
        results.append(result)
        found["scores"].append(score_table(subject, result).join(memory(result)))
        found["draws"].append(draw_table(subject, result))
        if subject.data.truth is not None:
            found["rois"].append(roi_table(subject, result))
        print(f"\n{found['scores'][-1].to_string(**FORMAT)}", flush=True)
    tables = {name: pd.concat(parts) for name, parts in found.items() if parts}
    show(tables)
    if arguments.out is not None and results:
        write(arguments.out, "compare_encoders", tables, manifest(arguments, results, started))


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sets", nargs="+", choices=list(ALL_SETS), default=["medium", "miyawaki", "v4"])
    add("--encoders", nargs="+", choices=list(ENCODERS), default=list(ENCODERS))
    add("--features", help="name of features for all encoders, such as efficientnet-lite0:block12")
    add("--store", type=Path, help="folder that keeps computed features")
    add("--draws", type=int, default=200, help="per image")
    add("--jobs", type=int, default=1, help="fits at once; with more, times tell less")
    add("--data", type=Path, default=DATA, help="folder of the measured data")
    add("--out", type=Path, help="folder for CSV tables and manifest")
    return parser.parse_args(given)


def compare(subject: Subject, arguments: argparse.Namespace) -> brainenc.BenchmarkResult:
    chosen = {name: make() for name, make in ENCODERS.items() if name in arguments.encoders}
    return brainenc.benchmark(
        subject.data,
        {"mean": brainenc.MeanEncoder(), **chosen},
        features=dict.fromkeys(chosen, subject.features),
        references=False,
        cv=5,
        n_draws=arguments.draws,
        n_jobs=arguments.jobs,
        n_permutations=1,
    )


def memory(result: brainenc.BenchmarkResult) -> pd.Series:
    return result.encoders["peak_memory_mb"].rename("memory, MiB")


def draw_table(subject: Subject, result: brainenc.BenchmarkResult) -> pd.DataFrame:
    """One row per encoder and reference row: scores of draws against single trials."""
    draws = result.draws[result.draws["roi"] == "all"].reset_index(drop=True)
    table = draws[["encoder", "draws_from", *DRAWS]].rename(columns=DRAWS)
    between = map(interval, draws["crps_z_low"], draws["crps_z_high"])
    table.insert(3, "95 % of CRPS", list(between))
    table.insert(0, "data", subject.title)
    return table


def roi_table(subject: Subject, result: brainenc.BenchmarkResult) -> pd.DataFrame:
    """One row per ROI: r of every encoder, and the ceiling."""
    rois = result.rois.pivot(index="roi", columns="encoder", values="r")
    order = [roi for roi in result.rois["roi"].unique()]
    table = rois.loc[order, [name for name in ENCODERS if name in rois]]
    table["ceiling of r"] = result.rois.groupby("roi")["noise_ceiling"].first()[order]
    table.insert(0, "data", subject.title)
    return table.reset_index(names="ROI")


def manifest(arguments: argparse.Namespace, results: list, started: float) -> dict:
    return {
        "command": "python benchmarks/compare_encoders.py --out docs/results",
        "features": arguments.features or "of each set",
        "date": results[0].manifest["date"],
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "jobs": arguments.jobs,
        "versions": results[0].manifest["versions"],
        "hardware": results[0].manifest["hardware"],
        "runs": [
            {k: result.manifest[k] for k in ("data", "split", "settings")} for result in results
        ],
    }


if __name__ == "__main__":
    main()
