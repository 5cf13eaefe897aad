"""Synthetic responses through a frozen decoder, beside SynBrain's published scores of this kind.

A simulated subject: 900 images with three trials each to learn from, 600 others to test; top-1 of
300 images, both directions. The decoder is ridge, fitted to measured responses. Run as

    python benchmarks/through_decoder.py --out docs/results

With ``--data FILE`` it is measured responses, with Gabor energy as targets and all test images as
the pool.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from synbrain_common import show

import brainenc
from brainenc.analysis.through_decoder import MEASURED
from brainenc.benchmarking.manifest import data_hash, versions
from brainenc.metrics.similarity import CENTRED, UNCENTRED
from brainenc.storage import atomic_path, write_json

#: "Raw" and "syn" retrieval in percent, as published (SynBrain, arXiv 2508.10298): how well its
#: autoencoder reads measured averages, and synthetic responses. One direction, uncentred.
PUBLISHED = {
    "SynBrain, four subjects, 40 h": ("84.8", "92.5"),
    "SynBrain, subject 1, 40 h": ("", "99.3"),
    "SynBrain, adapted with 1 h": ("13 to 27", "55 to 76"),
}

#: Encoders whose draws, and but for ridge predictions, are rows.
ENCODERS = {
    "ridge encoder": brainenc.RidgeEncoder(),
    "LatentEncoder": brainenc.LatentEncoder(n_members=0),
    "SynBrainEncoder": brainenc.SynBrainEncoder(device="cpu"),
}

CHOSEN = "top-1, image / brain, %"


def main() -> None:
    arguments = parse_arguments()
    started = time.monotonic()
    problem = measured(arguments.data) if arguments.data else simulated(arguments)
    data, pairs, synthetic = problem
    decoder = brainenc.RidgeDecoder().fit(*pairs["train"])
    table = brainenc.through_decoder(decoder, synthetic, **pairs, pool_size=arguments.pool)
    tables = {"scores": table, "table": as_shown(table, published=arguments.data is None)}
    show({"table": tables["table"]})
    seconds = round(time.monotonic() - started)
    print(f"\n{seconds} s")
    if arguments.out is not None:
        stem = f"through_decoder_{arguments.name}" if arguments.name else "through_decoder"
        for name, some in tables.items():
            with atomic_path(arguments.out / f"{stem}_{name}.csv") as temporary:
                some.to_csv(temporary, index=False, float_format="%.4f")
        settings = {k: str(v) for k, v in vars(arguments).items() if k not in ("out", "data")}
        manifest = {
            "command": shlex.join(["python", "benchmarks/through_decoder.py", *sys.argv[1:]]),
            "versions": versions(),
            "data": {data.name: data_hash(data)},
            "settings": settings,
            "seconds": seconds,
        }
        if arguments.data is not None:
            command = f"python benchmarks/through_decoder.py --data {arguments.data.name}"
            manifest |= {"command": f"{command} --name {arguments.name}", "settings": {}}
        write_json(arguments.out / f"{stem}.json", manifest)


def simulated(arguments: argparse.Namespace) -> tuple:
    """A simulated subject, betas and tokens of both sides, and responses of three encoders."""
    data = brainenc.datasets.simulate_subject(
        arguments.images, arguments.voxels, random_state=arguments.seed
    )
    order = np.random.default_rng(0).permutation(data.n_images)
    train, test = np.sort(order[: arguments.train]), np.sort(order[arguments.train :])
    betas, tokens = data.zscore_by_session().betas, data.truth.tokens
    pairs = {"train": (betas[train], tokens[train]), "test": (betas[test], tokens[test])}
    sd = np.nanstd(data.betas, axis=(0, 1))
    signal = (data.truth.signal - data.truth.signal.mean(axis=0)) / sd
    found = {"true signal, without noise": signal[test]}
    return data, pairs, found | responses_of(ENCODERS, pairs)


def measured(path: Path) -> tuple:
    """Measured responses, with Gabor energy as targets; a fifth of the images is tested."""
    data = brainenc.load_npz(path)
    order = np.random.default_rng(0).permutation(data.n_images)
    test, train = np.split(order, [data.n_images // 5])
    gabor = brainenc.GaborPyramid(verbose=False).fit(data.images)
    targets = gabor.transform(data.images)
    varies = (targets[train].std(axis=0) > 0) & (targets[test].std(axis=0) > 0)
    targets = targets[:, varies]
    pairs = {
        name: (data.betas[rows], targets[rows])
        for name, rows in {"train": train, "test": test}.items()
    }
    encoders = {name: ENCODERS[name] for name in ("ridge encoder", "LatentEncoder")}
    return data, pairs, responses_of(encoders, pairs)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--train", type=int, default=900, help="images to learn from")
    parser.add_argument("--voxels", type=int, default=800)
    parser.add_argument("--pool", type=int, help="images in a pool; 300, or all there are")
    parser.add_argument("--seed", type=int, default=0, help="of the simulated subject")
    parser.add_argument("--data", type=Path, help="file that brainenc.load_npz reads, instead")
    parser.add_argument("--name", default="", help="in the names of the files")
    parser.add_argument("--out", type=Path, help="folder for CSV tables and manifest")
    return parser.parse_args()


def responses_of(encoders: dict, pairs: dict) -> dict[str, np.ndarray]:
    """Predictions, and draws as many as there are repeats, of encoders for the test images."""
    found = {}
    (betas, targets), (tested, asked) = pairs["train"], pairs["test"]
    n_draws = tested.shape[1]
    for name, encoder in encoders.items():
        encoder.fit(targets, betas)
        if name != "ridge encoder":  # its prediction is a reference row
            found[f"{name}, prediction"] = encoder.predict(asked)
        draws = np.moveaxis(encoder.sample(asked, n=n_draws, random_state=0), 0, 1)
        found[f"{name}, one draw"] = draws[:, 0]
        found[f"{name}, mean of {n_draws} draws"] = draws
    return found


def as_shown(table: pd.DataFrame, *, published: bool) -> pd.DataFrame:
    """One row per kind of responses, and the published scores below."""
    rows = []
    for name in dict.fromkeys(table["responses"]):
        own = table[table["responses"] == name].set_index("similarity")
        first = own.loc[CENTRED]
        row = {
            "responses": name,
            f"centred: {CHOSEN}": _both(first, "{:.0f}"),
            f"uncentred: {CHOSEN}": _both(own.loc[UNCENTRED], "{:.0f}"),
            "above measured, centred, points": ""
            if name == MEASURED
            else _both(first, "{:+.0f}", "_above_measured"),
            "voxel r": "" if first["kind"] == "measured" else f"{first['voxel_r']:.2f}",
            "relative MSE": "" if first["kind"] == "measured" else f"{first['relative_mse']:.2f}",
        }
        rows.append(row)
    for name, (raw, syn) in (PUBLISHED if published else {}).items():
        for kind, value in (("raw", raw), ("syn", syn)):
            if value:
                shown = {"responses": f"{name}: {kind} (published)"}
                rows.append({**shown, f"uncentred: {CHOSEN}": value})
    return pd.DataFrame(rows).fillna("")


def _both(row: pd.Series, form: str, end: str = "") -> str:
    """Both directions in percent."""
    values = (100 * row[f"{direction}_retrieval{end}"] for direction in ("image", "brain"))
    return " / ".join(form.format(value) for value in values)


if __name__ == "__main__":
    main()
