"""Every encoder on the same features and folds: a simulated subject, macaque V4, human V1.

Encoders of one feature space see the last space of a set; ridge and kernel ridge also each of the
others, and banded ridge, kernel ridge, LatentEncoder and a stack see all of them:

- simulated subjects: a Gabor pyramid of the images, and the tokens of a simulated vision
  transformer;
- macaque V4 (Cowley 2023): a Gabor pyramid, and EfficientNet-Lite0, block 12 (needs
  ``brainenc[pretrained]``);
- human V1 (Miyawaki 2008): pixels.

``--features NAME …`` (names of `brainenc.features.make_features`) gives other spaces; ``--store``
keeps them. Files ``miyawaki2008_s1_v1.npz`` and ``cowley2023_v4_210325.npz`` are looked for in
``--data``, ``$BRAINENC_TEST_DATA`` or ``../shared/data`` beside the repository, and left out when
absent. Two sessions of V4 without single trials, folders with ``responses.npy`` and ``images``, are
run by ``--sets v4-210225 v4-190923``. All encoders have their default settings; rows "network
alone" are not blended with ridge (``blend=None``).

Encoders that train for minutes, and networks alone, are fitted to the first of the folds only, in
rows of their own with banded ridge and ridge beside them (``--first-fold``).

Prints, and with ``--out`` writes as CSV with a JSON manifest:

- scores: r, MSE and pattern r on held-out images, paired bootstrap differences to banded ridge on
  all spaces, time and memory of a fit;
- first_fold: the same for the encoders of the first fold;
- draws: scores of draws per image against held-out single trials, reference rows beside them;
- rois: r per ROI of the simulated subject.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from comparison import DATA, SESSIONS, SETS, Subject, interval, score_table, simulated
from synbrain_common import FORMAT, show, write

import brainenc
from brainenc.encoders.composed import joined_features
from brainenc.features import make_features
from brainenc.model_selection import image_folds

N_FOLDS = 5
NETWORK = "efficientnet-lite0:block12"

#: Feature spaces of measured sets; simulated subjects have a Gabor pyramid and their tokens.
SPACES = {
    "miyawaki": ("pixels",),
    "v4": ("gabor", NETWORK),
    **dict.fromkeys(SESSIONS, ("gabor", NETWORK)),
}

#: No setting of any encoder was chosen on this subject.
UNTOUCHED = {"simulated-101": simulated(600, 400, seed=101)}
ALL_SETS = SETS | SESSIONS | UNTOUCHED

#: Encoders of a network and of one feature space.
NETWORKS = {
    "SynBrain": brainenc.SynBrainEncoder,
    "Mind Reader": brainenc.MindReaderEncoder,
    "ROI transformer": brainenc.ROITransformerEncoder,
    "MindSimulator": brainenc.MindSimulatorEncoder,
}
ALONE = ", network alone"

#: Names for `--encoders`. Banded ridge is the last, so that all pairs are "… minus banded ridge".
ENCODERS = (
    "LatentEncoder",
    "stacked",
    *NETWORKS,
    *(f"{name}{ALONE}" for name in NETWORKS),
    "kernel ridge",
    "ridge",
    "banded ridge",
)
REFERENCE = "banded ridge"
SLOW = ("SynBrain", *(f"{name}{ALONE}" for name in NETWORKS))

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


class Rows(NamedTuple):
    """Encoders by the name of their row, and the array of features that each gets."""

    encoders: dict[str, Any]
    features: dict[str, np.ndarray]


def main() -> None:
    arguments = parse_arguments()
    for name in arguments.features or ():
        make_features(name).key()  # a wrong name or missing weights are said now
    started = time.perf_counter()
    results, found = [], {"scores": [], "first_fold": [], "draws": [], "rois": []}
    for name in arguments.sets:
        try:
            subject = ALL_SETS[name](arguments.data)
        except FileNotFoundError as error:
            print(f"{name} left out: {error}. Give --data.")
            continue
        spaces = spaces_of(subject, arguments.features or SPACES.get(name), arguments.store)
        for slow in (False, True):
            wanted = [each for each in arguments.encoders if (each in arguments.first_fold) == slow]
            if slow and wanted:  # the blends of networks alone, and ridge, on the same fold
                beside = [each.removesuffix(ALONE) for each in wanted] + ["ridge", REFERENCE]
                wanted = list(dict.fromkeys(wanted + beside))
            if not wanted:
                continue
            out = arguments.runs and arguments.runs / f"{name}-{'first' if slow else 'all'}"
            result = compare(subject, spaces, wanted, arguments, first_fold=slow, out=out)
            results.append(result)
            table = score_table(subject, result, REFERENCE).join(memory(result))
            table.insert(1, "folds", 1 if slow else arguments.tested or arguments.folds)
            found["first_fold" if slow else "scores"].append(table)
            print(f"\n{table.to_string(**FORMAT)}", flush=True)
            if slow:
                continue
            if len(result.draws):
                found["draws"].append(draw_table(subject, result))
            if subject.data.truth is not None:
                found["rois"].append(roi_table(subject, result))
    tables = {name: pd.concat(parts) for name, parts in found.items() if parts}
    show(tables)
    if arguments.out is not None and results:
        write(arguments.out, arguments.stem, tables, manifest(arguments, results, started))


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sets", nargs="+", choices=list(ALL_SETS), default=["simulated-101", "v4", "miyawaki"])
    add("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    add("--first-fold", nargs="*", choices=ENCODERS, default=list(SLOW), help="one fold of these")
    add("--folds", type=int, default=N_FOLDS)
    add("--tested", type=int, help="folds that are tested, to save time; all by default")
    add("--features", nargs="+", help="feature spaces by name, such as gabor openclip")
    add("--store", type=Path, help="folder that keeps computed features")
    add("--draws", type=int, default=200, help="per image")
    add("--jobs", type=int, default=1, help="fits at once; with more, times tell less")
    add("--data", type=Path, default=DATA, help="folder of the measured data")
    add("--runs", type=Path, help="folder that keeps fits, so that a stopped run goes on there")
    add("--out", type=Path, help="folder for CSV tables and manifest")
    add("--stem", default="compare_encoders", help="with which the names of these files begin")
    return parser.parse_args(given)


def spaces_of(
    subject: Subject, names: tuple[str, ...] | list[str] | None, store: Path | None
) -> dict[str, np.ndarray]:
    """Features of the images in each space, by the name of the space."""
    if names is None and subject.data.truth is None:
        return {"features": subject.features.fit_transform(subject.data.images)}
    found = {
        name: make_features(name, store=store, verbose=False).fit_transform(subject.data.images)
        for name in names or ("gabor",)
    }
    return found if names else {**found, "tokens": np.asarray(subject.features)}


def make_rows(spaces: dict[str, np.ndarray], wanted: list[str]) -> Rows:
    """Encoders of all feature spaces, of the last one, and of each."""
    joined = joined_features(spaces)[0]
    bands = {name: list(array.shape[1:]) for name, array in spaces.items()}
    last, several = list(spaces)[-1], len(spaces) > 1
    rows = Rows({}, {})

    def add(label: str, encoder: Any, seen: str) -> None:
        name = f"{label} ({seen})" if several and label != REFERENCE else label
        rows.encoders[name] = encoder
        rows.features[name] = joined if seen == "all" else spaces[seen]

    for name in sorted(wanted, key=ENCODERS.index):
        if name.removesuffix(ALONE) in NETWORKS:
            options = {"blend": None} if name.endswith(ALONE) else {}
            add(name, NETWORKS[name.removesuffix(ALONE)](None, **options), last)
        elif name == "LatentEncoder":
            if several:
                add(name, brainenc.LatentEncoder(None, bands=bands), "all")
            add(name, brainenc.LatentEncoder(None), last)
        elif name == "stacked":
            add(name, stack(spaces), "all" if several else last)
        elif name == REFERENCE:
            sizes = {space: int(np.prod(shape)) for space, shape in bands.items()}
            add(name, brainenc.BandedRidgeEncoder(None, bands=sizes), "all")
        else:
            make = brainenc.RidgeEncoder if name == "ridge" else brainenc.KernelRidgeEncoder
            if several and name != "ridge":
                add(name, make(None), "all")
            for space in spaces:
                add(name, make(None), space)
    return rows


def stack(spaces: dict[str, np.ndarray]) -> brainenc.StackedEncoder:
    """Ridge and kernel ridge on every space, with weights per voxel."""
    members, arrays = {}, {}
    for name, array in spaces.items():
        members[f"ridge, {name}"] = brainenc.RidgeEncoder(None)
        members[f"kernel ridge, {name}"] = brainenc.KernelRidgeEncoder(None)
        arrays |= {f"ridge, {name}": array, f"kernel ridge, {name}": array}
    inputs = joined_features(arrays)[1]
    return brainenc.StackedEncoder(members, features=None, inputs=inputs)


def compare(
    subject: Subject,
    spaces: dict[str, np.ndarray],
    wanted: list[str],
    arguments: argparse.Namespace,
    *,
    first_fold: bool = False,
    out: Path | None = None,
) -> brainenc.BenchmarkResult:
    """The benchmark of these encoders on all folds, or on the first alone."""
    rows = make_rows(spaces, wanted)
    mean = {} if first_fold else {"mean": brainenc.MeanEncoder()}
    folds = image_folds(arguments.folds, subject.data.n_images, random_state=0)
    return brainenc.benchmark(
        subject.data,
        {**mean, **rows.encoders},
        features=rows.features,
        references=False,
        cv=folds[: 1 if first_fold else arguments.tested],
        n_draws=0 if first_fold else arguments.draws,
        n_jobs=arguments.jobs,
        n_permutations=1,
        out=out,
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
    names = [name for name in result.encoders["encoder"] if name in rois and name != "mean"]
    table = rois.loc[order, names]
    table["ceiling of r"] = result.rois.groupby("roi")["noise_ceiling"].first()[order]
    table.insert(0, "data", subject.title)
    return table.reset_index(names="ROI")


def manifest(arguments: argparse.Namespace, results: list, started: float) -> dict:
    return {
        "command": f"python benchmarks/compare_encoders.py --sets {' '.join(arguments.sets)}",
        "features": arguments.features or "of each set",
        "encoders": arguments.encoders,
        "encoders of the first fold alone": arguments.first_fold,
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
