"""False alarms and power of the checks for leaks and wrong images, on simulated subjects.

Every fault is made in copies of clean subjects with known truth; `EncodingData.check` and
`brainenc.data.check_features` are then asked. Run as

    python benchmarks/leak_checks.py --out docs/results

which takes about half an hour on one core. ``--clean 0`` leaves out the false alarms, ``--only``
chooses faults by the beginning of their names.
"""

import argparse
import dataclasses
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from synbrain_common import show, write

import brainenc
from brainenc.benchmarking.manifest import versions
from brainenc.data.cheap_features import cheap_features
from brainenc.progress import progress

REPOSITORY = Path(__file__).resolve().parents[1]
REAL = (
    "cowley2023_v4_210325.npz",
    "miyawaki2008_s1_v1.npz",
    "vangerven2010_digits69_fmri.npz",
    "henaff2021_v1_ay3_u001.npz",
)

Data = brainenc.EncodingData


def main() -> None:
    arguments = parse_arguments()
    tables = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what they say is counted
        if arguments.clean:
            tables["false_alarms"] = false_alarms(arguments.clean)
            show({"false_alarms": tables["false_alarms"]})
        tables["power"] = power(arguments)
        show({"power": tables["power"]})
        real = real_data(arguments.data)
        if len(real):
            tables["real_data"] = real
            show({"real_data": real})
    if arguments.out is not None:
        manifest = {
            "command": shlex.join(["python", "benchmarks/leak_checks.py", *sys.argv[1:]]),
            "versions": versions(),
            "settings": {k: str(v) for k, v in vars(arguments).items() if k not in ("data", "out")},
        }
        write(arguments.out, "leak_checks", tables, manifest)


def parse_arguments() -> argparse.Namespace:
    fallback = os.environ.get("BRAINENC_TEST_DATA", REPOSITORY.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clean", type=int, default=150, help="clean subjects")
    parser.add_argument("--subjects", type=int, default=10, help="subjects per fault and size")
    parser.add_argument("--sizes", default="200,600", help="numbers of images")
    parser.add_argument("--only", default="", help="faults whose name begins so")
    parser.add_argument("--data", type=Path, default=Path(fallback), help="folder of real data")
    parser.add_argument("--out", type=Path, help="folder for CSV tables and manifest")
    return parser.parse_args()


# ------------------------------------------------------------------ clean data


def false_alarms(n: int) -> pd.DataFrame:
    """Alarms on clean subjects of random sizes, by number of images."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in progress(range(n), desc="clean", unit="subject"):
        n_images = int(rng.choice([100, 200, 400, 600]))
        data = brainenc.datasets.simulate_subject(
            n_images,
            int(rng.choice([40, 100, 200])),
            int(rng.choice([1, 2, 3, 4])),
            image_size=48,
            n_sessions=int(rng.choice([2, 4, 10, 20])),
            session_drift=float(rng.choice([0, 0.15, 0.5])),
            random_state=10_000 + seed,
        )
        features = cheap_features(data.images)
        start = time.perf_counter()
        found = data.check(features=features)
        seconds = time.perf_counter() - start
        tokens = brainenc.data.check_features(data.truth.tokens, data.betas, trials=data.trials)
        row = {
            "images": n_images,
            "subjects": 1,
            "alignment": found.suspicious,
            "sessions": found.session is not None and found.session.confounded,
            "features": found.features.suspicious + tokens.suspicious,
            "seconds": seconds,
        }
        if found.warnings:
            print(data, found.warnings, flush=True)
        rows.append(row)
    table = pd.DataFrame(rows)
    counted = {name: "sum" for name in ("subjects", "alignment", "sessions", "features")}
    by_size = table.groupby("images").agg(counted | {"seconds": "median"}).reset_index()
    total = table.agg(counted | {"seconds": "median"}).to_frame().T.assign(images="all")
    return pd.concat([by_size, total], ignore_index=True)


def real_data(folder: Path) -> pd.DataFrame:
    """What the check says of public data sets as they are."""
    rows = []
    for name in REAL:
        if (folder / name).exists():
            found = brainenc.load_npz(folder / name).check()
            parts = ", ".join(found.parts)
            rows.append({"data": name, "verdict": found.verdict, "parts": parts})
    return pd.DataFrame(rows)


# ------------------------------------------------------------------ faults


def reorder(data: Data, order: np.ndarray) -> Data:
    """Betas of row order[i] under image i."""
    return dataclasses.replace(data, betas=data.betas[order], trials=None, truth=None)


def exchange(data: Data, chosen: np.ndarray, rng: np.random.Generator | None) -> Data:
    """Chosen trials in random order, or moved by one in the order of the table."""
    image, repeat = (data.trials[key].to_numpy()[chosen] for key in ("image", "repeat"))
    order = np.roll(np.arange(len(image)), 1) if rng is None else rng.permutation(len(image))
    betas = data.betas.copy()
    betas[image, repeat] = data.betas[image[order], repeat[order]]
    return dataclasses.replace(data, betas=betas, truth=None)


def permuted_rows(share: float, *, scattered: bool) -> Callable[..., Data]:
    """Betas permuted among a share of the rows."""

    def change(data: Data, rng: np.random.Generator) -> Data:
        n = round(share * data.n_images)
        first = rng.integers(data.n_images - n + 1)
        some = rng.permutation(data.n_images)[:n] if scattered else np.arange(first, first + n)
        order = np.arange(data.n_images)
        order[some] = rng.permutation(some)
        return reorder(data, order)

    return change


def half_shifted(data: Data, rng: np.random.Generator) -> Data:
    """Betas of the second half moved by one row."""
    order = np.arange(data.n_images)
    order[len(order) // 2 :] = np.roll(order[len(order) // 2 :], 1)
    return reorder(data, order)


def shifted_single(data: Data, rng: np.random.Generator) -> Data:
    """One trial per image, all moved by one row: no ceiling."""
    single = dataclasses.replace(data, betas=data.betas[:, :1], trials=None, truth=None)
    return reorder(single, np.roll(np.arange(data.n_images), 1))


def exchanged_session(data: Data, rng: np.random.Generator) -> Data:
    return exchange(data, (data.trials["session"] == 2).to_numpy(), rng)


def moved_session(data: Data, rng: np.random.Generator) -> Data:
    ordered = data.trials.sample(frac=1, random_state=0)  # order of presentation
    data = dataclasses.replace(data, trials=ordered)
    return exchange(data, (ordered["session"] == 2).to_numpy(), None)


def exchanged_repeat(data: Data, rng: np.random.Generator) -> Data:
    return exchange(data, (data.trials["repeat"] == 1).to_numpy(), rng)


def exchanged_trials(share: float) -> Callable[..., Data]:
    """A share of the trials, at random places, exchanged."""

    def change(data: Data, rng: np.random.Generator) -> Data:
        return exchange(data, rng.random(len(data.trials)) < share, rng)

    return change


def offsets(sd: float, *, responses: bool = True) -> Callable[..., Data]:
    """Session by brightness of the image, with offsets of `sd` noise s.d. of the voxels."""

    def change(data: Data, rng: np.random.Generator) -> Data:
        brightness = data.images.reshape(data.n_images, -1).mean(axis=1)
        session = np.argsort(np.argsort(brightness)) * 4 // data.n_images
        noise = np.nanstd(data.betas - data.truth.signal[:, None], axis=(0, 1))
        betas = data.betas
        if not responses:
            betas = np.where(np.isfinite(betas), rng.standard_normal(betas.shape) * noise, np.nan)
        betas = betas + (sd * noise * rng.standard_normal((4, data.n_voxels)))[session][:, None]
        trials = data.trials.assign(session=session[data.trials["image"]])
        return dataclasses.replace(data, betas=betas.astype(np.float32), trials=trials, truth=None)

    return change


#: Name to a function of data and generator that makes the fault.
FAULTS: dict[str, Callable[[Data, np.random.Generator], Data]] = {
    "rows: half shifted by one": half_shifted,
    "rows: a quarter permuted, a block": permuted_rows(0.25, scattered=False),
    "rows: an eighth permuted, a block": permuted_rows(0.125, scattered=False),
    "rows: a quarter permuted, scattered": permuted_rows(0.25, scattered=True),
    "rows: a tenth permuted, scattered": permuted_rows(0.1, scattered=True),
    "rows: shifted by one, no repeats, no ncsnr": shifted_single,
    "trials: a session of four permuted": exchanged_session,
    "trials: a session of four moved by one": moved_session,
    "trials: a repeat of three permuted": exchanged_repeat,
    "trials: a quarter permuted, scattered": exchanged_trials(0.25),
    "trials: a tenth permuted, scattered": exchanged_trials(0.1),
    "sessions: offset 0.3 s.d. with brightness": offsets(0.3),
    "sessions: offset 1 s.d. with brightness": offsets(1),
    "sessions: offset 3 s.d. with brightness": offsets(3),
    "sessions: offset 1 s.d., no responses": offsets(1, responses=False),
}


def _components(values: np.ndarray, n: int) -> np.ndarray:
    vectors, sizes, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    return vectors[:, :n] * sizes[:n]


def _beside(column: np.ndarray, data: Data) -> np.ndarray:
    return np.column_stack([cheap_features(data.images), column])


#: Name to a function of data that makes features with betas in them.
FEATURES: dict[str, Callable[[Data], np.ndarray]] = {
    "features: betas of the first trial": lambda data: data.betas[:, 0],
    "features: a voxel's first trial beside others": lambda data: _beside(
        data.betas[:, 0, 0], data
    ),
    "features: 20 components of the first trial": lambda data: _components(data.betas[:, 0], 20),
    "features: averaged betas": lambda data: np.nanmean(data.betas, axis=1),
    "features: 20 components of the averages": lambda data: _components(
        np.nanmean(data.betas, axis=1), 20
    ),
}


def power(arguments: argparse.Namespace) -> pd.DataFrame:
    """Share of subjects in which each fault is found, by number of images."""
    rows = []
    sizes = [int(size) for size in arguments.sizes.split(",")]
    cases = list(_cases(sizes, arguments.subjects))
    for n_images, seed, data in progress(cases, desc="faults", unit="subject", total=len(cases)):
        for name, found in _answers(data(), arguments.only, seed):
            rows.append({"fault": name, "images": n_images, "found": found})
    table = pd.DataFrame(rows, columns=["fault", "images", "found"])
    order = [*FAULTS, *FEATURES]
    shares = table.groupby(["fault", "images"])["found"].mean().unstack()
    shares = shares.reindex([name for name in order if name in shares.index])
    return shares.reset_index().assign(subjects=arguments.subjects)


def _cases(sizes: list[int], n: int) -> Iterator[tuple[int, int, Any]]:
    for n_images in sizes:
        for seed in range(n):

            def make(n_images: int = n_images, seed: int = seed) -> Data:
                return brainenc.datasets.simulate_subject(
                    n_images, 100, image_size=48, random_state=seed
                )

            yield n_images, seed, make


def _answers(data: Data, only: str, seed: int) -> Iterator[tuple[str, bool]]:
    for name, change in FAULTS.items():
        if name.startswith(only):
            checked = change(data, np.random.default_rng(seed)).check()
            about_sessions = checked.session is not None and checked.session.confounded
            yield name, about_sessions if name.startswith("sessions") else checked.suspicious
    for name, make in FEATURES.items():
        if name.startswith(only):
            features = np.nan_to_num(make(data))
            checked = brainenc.data.check_features(features, data.betas, trials=data.trials)
            yield name, checked.suspicious


if __name__ == "__main__":
    main()
