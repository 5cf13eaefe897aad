"""brainenc.benchmark on measured responses: human V1 (fMRI) and macaque V4 (spike counts).

Looks for ``miyawaki2008_s1_v1.npz`` and ``cowley2023_v4_210325.npz`` in ``--data``,
``$BRAINENC_TEST_DATA`` or ``../shared/data`` beside the repository, prints three tables and, with
``--out``, writes them as CSV with a JSON manifest:

- scores: every encoder, 5 folds over images, with intervals and ceiling;
- splits: how far r depends on which images are held out;
- ceilings: the NSD formula, split halves corrected by Spearman-Brown, and the raw correlation of
  two halves, which is no ceiling of anything but is often printed as one.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import ShuffleSplit

import brainenc
from brainenc.benchmarking.manifest import data_hash, versions
from brainenc.metrics import correlation, noise_ceiling_split_half
from brainenc.model_selection import image_folds
from brainenc.repeats import average_repeats
from brainenc.storage import atomic_path, write_json

REPOSITORY = Path(__file__).resolve().parents[1]
FIGURES, V4 = "miyawaki2008_s1_v1", "cowley2023_v4_210325"
TITLES = {FIGURES: "Miyawaki 2008, V1 (fMRI)", V4: "Cowley 2023, V4 (spikes)"}

#: Mean r of simpler code on the same files, which these encoders are to reach.
FLOORS = {(FIGURES, "ridge (pixels)"): 0.43, (V4, "ridge (Gabor)"): 0.52}

SEEDS = range(10)

FORMAT: dict = {"index": False, "float_format": "{:.3f}".format, "na_rep": "–"}


def main() -> None:
    arguments = parse_arguments()
    missing = [name for name in TITLES if not (arguments.data / f"{name}.npz").exists()]
    if missing:
        print(
            f"{', '.join(missing)}: no such .npz in {arguments.data}; nothing to do. Give --data."
        )
        return
    subjects = [brainenc.load_npz(arguments.data / f"{name}.npz") for name in TITLES]
    results = [five_folds(data) for data in subjects]
    tables = {
        "scores": pd.concat([score_table(result) for result in results]),
        "splits": pd.concat([repeated_folds(subjects[0]), random_splits(subjects[1])]),
        "ceilings": pd.concat([ceiling_table(data) for data in subjects]),
    }
    for name, table in tables.items():
        print(f"\n{name}\n{table.to_string(**FORMAT)}")
    if arguments.out is not None:
        write(arguments.out, tables, subjects, results)
        print(f"\nwritten to {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    fallback = os.environ.get("BRAINENC_TEST_DATA", REPOSITORY.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(fallback), help="folder of the files")
    parser.add_argument("--out", type=Path, help="folder for CSV tables and manifest")
    return parser.parse_args()


def encoders_for(data: brainenc.EncodingData) -> dict[str, brainenc.BaseEncoder]:
    """The mean and ridge on what suits the images: 10 × 10 figures, or photographs."""
    if data.name == FIGURES:
        pixels = brainenc.PixelFeatures(verbose=False)
        return {"mean": brainenc.MeanEncoder(), "ridge (pixels)": brainenc.RidgeEncoder(pixels)}
    return {
        "mean": brainenc.MeanEncoder(),
        "ridge (pixels)": brainenc.RidgeEncoder(brainenc.PixelFeatures(size=16)),
        "ridge (Gabor)": brainenc.RidgeEncoder(brainenc.GaborPyramid()),
    }


def five_folds(data: brainenc.EncodingData) -> brainenc.BenchmarkResult:
    return brainenc.benchmark(data, encoders_for(data), cv=5, references=False)


def score_table(result: brainenc.BenchmarkResult) -> pd.DataFrame:
    scores = result.encoders
    interval = [
        f"{row.r_low:.3f} – {row.r_high:.3f}" if np.isfinite(row.r) else np.nan
        for row in scores.itertuples()
    ]
    return pd.DataFrame(
        {
            "data": TITLES[result.manifest["data"]["name"]],
            "encoder": scores["encoder"],
            "units": scores["n_voxels"],
            "r": scores["r"],
            "95 %": interval,
            "ceiling of r": scores["noise_ceiling"],
            "r / ceiling": scores["r_normalized"],
            "R²": scores["r2"],
            "MSE (z)": scores["mse_z"],
            "pattern r": scores["pattern_r"],
            "identification": scores["identification"],
            "q < .05": scores["n_significant"],
        }
    )


def repeated_folds(data: brainenc.EncodingData) -> pd.DataFrame:
    """Five folds drawn ten times over: with 20 figures, one draw says little."""
    encoder = {"ridge (pixels)": encoders_for(data)["ridge (pixels)"]}
    found = [
        brainenc.benchmark(
            data,
            encoder,
            cv=5,
            references=False,
            random_state=seed,
            n_bootstraps=2,
            n_permutations=1,
            verbose=False,
        ).encoders["r"][0]
        for seed in SEEDS
    ]
    pooled = [pooled_r(data, encoder["ridge (pixels)"], seed) for seed in SEEDS]
    split = f"5 folds, {len(SEEDS)} draws"
    rows = [
        split_row(data, "ridge (pixels)", f"{split}, centred within folds", found),
        split_row(data, "ridge (pixels)", f"{split}, pooled as they are", pooled),
    ]
    return pd.DataFrame(rows)


def pooled_r(data: brainenc.EncodingData, encoder: brainenc.BaseEncoder, seed: int) -> float:
    """Mean r of the predictions of all folds, put together without centring."""
    encoder, images = encoder.precompute(data.images, lambda e: e.fit_transform(data.images))
    predictions = np.empty((data.n_images, data.n_voxels), np.float32)
    for train, test in image_folds(5, data.n_images, random_state=seed):
        predictions[test] = encoder.fit(images[train], data.betas[train]).predict(images[test])
    return float(np.nanmean(correlation(predictions, average_repeats(data.betas))))


def random_splits(data: brainenc.EncodingData) -> pd.DataFrame:
    """Ten random 80/20 splits of the images, each scored by itself."""
    encoders = {k: encoder for k, encoder in encoders_for(data).items() if k != "mean"}
    voxels = brainenc.benchmark(
        data,
        encoders,
        cv=ShuffleSplit(len(SEEDS), test_size=0.2, random_state=0),
        references=False,
        n_bootstraps=2,
        n_permutations=1,
    ).voxels
    r = voxels.groupby(["encoder", "fold"])["r"].mean()
    return pd.DataFrame(
        split_row(data, name, f"80/20, {len(SEEDS)} random splits", r[name]) for name in encoders
    )


def split_row(data: brainenc.EncodingData, encoder: str, split: str, r) -> dict:
    floor = FLOORS.get((data.name, encoder), np.nan)
    return {
        "data": TITLES[data.name],
        "encoder": encoder,
        "split": split,
        "mean r": np.mean(r),
        "s.d.": np.std(r, ddof=1),
        "lowest": np.min(r),
        "highest": np.max(r),
        "floor": floor,
        "reached": "" if np.isnan(floor) else "yes" if np.mean(r) >= floor else "no",
    }


def ceiling_table(data: brainenc.EncodingData) -> pd.DataFrame:
    formula = data.noise_ceiling().to("r2")
    halves = noise_ceiling_split_half(data.betas, space="r2")
    rows = [
        ("NSD formula", formula.n_trials, formula.values),
        ("split halves, Spearman-Brown", halves.n_trials, halves.values),
    ]
    table = pd.DataFrame(
        {
            "data": TITLES[data.name],
            "estimator": estimator,
            "trials averaged": float(np.mean(n_trials)),
            "mean ceiling of r": float(np.nanmean(np.sqrt(r2))),
            "mean ceiling of r²": float(np.nanmean(r2)),
            "units without signal": int((r2 == 0).sum()),
        }
        for estimator, n_trials, r2 in rows
    )
    raw = raw_half_correlation(data.betas)
    return table.assign(**{"raw correlation of halves": [np.nan, raw]})


def raw_half_correlation(betas: np.ndarray, n_splits: int = 100) -> float:
    """Mean r between averages of two random halves of each image's trials, uncorrected.

    A correlation of two noisy averages: it is not the ceiling of r (a model has no noise) nor of
    r² (that is for averages over all trials).
    """
    rng = np.random.default_rng(0)
    n = np.isfinite(betas).any(axis=2).sum(axis=1)
    r = []
    for _ in range(n_splits):
        order = np.where(np.isfinite(betas).any(axis=2), rng.random(betas.shape[:2]), 2)
        rank = order.argsort(axis=1).argsort(axis=1)
        first = (rank < (n // 2)[:, None])[:, :, None]
        halves = [average_repeats(np.where(keep, betas, np.nan)) for keep in (first, ~first)]
        r.append(correlation(*halves))
    return float(np.nanmean(r))


def write(folder: Path, tables: dict, subjects: list, results: list) -> None:
    for name, table in tables.items():
        with atomic_path(folder / f"real_input_{name}.csv") as temporary:
            table.to_csv(temporary, **FORMAT)
    manifest = {
        "command": "python benchmarks/real_input.py --out docs/results",
        "date": results[0].manifest["date"],
        "versions": versions(),
        "data": {data.name: data_hash(data) for data in subjects},
        "runs": {
            result.manifest["data"]["name"]: {k: result.manifest[k] for k in ("split", "settings")}
            for result in results
        },
    }
    write_json(folder / "real_input.json", manifest)


if __name__ == "__main__":
    main()
