"""Estimates of the memory of fits and of the disk of benchmarks, against what they take.

    python benchmarks/memory_preflight.py --out docs/results

Every row is a process of its own. Estimates and measurements are above what the process has before
the fit: the interpreter, torch, features and betas, which lie in memory. Networks are trained for
an epoch, which takes less time and as much memory.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold
from synbrain_common import show, write

import brainenc
from brainenc.benchmarking.inputs import Entry
from brainenc.benchmarking.manifest import hardware, versions
from brainenc.benchmarking.preflight import disk_bytes
from brainenc.encoders import make_encoder
from brainenc.encoders.memory import fit_memory

#: `prior` is the number of its directions.
#: Encoder, parameters, and two sizes: images, features or (tokens, width), repeats, voxels.
SMALL, LARGE = (600, 512, 3, 6000), (1500, 512, 2, 12_000)
TOKENS = (300, (16, 64), 3, 10_000), (800, (16, 16), 1, 5000)
NETWORK = {"n_members": 1, "n_epochs": 1}
STEPS = {"autoencoder_epochs": 1, "prior_epochs": 1, "n_steps": 2, "n_draws": 2}
CASES: dict[str, tuple[str, dict[str, Any], tuple[tuple, tuple]]] = {
    "mean": ("mean", {}, (SMALL, LARGE)),
    "ridge": ("ridge", {}, (SMALL, LARGE)),
    "ridge, kernel": ("ridge", {}, ((600, 9000, 1, 8000), (1500, 3000, 3, 3000))),
    "banded": (
        "banded",
        {"n_iter": 2, "bands": {"a": 1000, "b": 1000}},
        ((600, 2000, 1, 10_000), (1000, 2000, 3, 5000)),
    ),
    "ridge, prior": ("ridge", {"prior": 300}, (SMALL, LARGE)),
    "ridge, prior, by cross-validation": (
        "ridge",
        {"prior": 300, "selection": "cross-validation"},
        (SMALL, LARGE),
    ),
    "banded, prior": (
        "banded",
        {"n_iter": 2, "bands": {"a": 1000, "b": 1000}, "prior": 300},
        ((600, 2000, 1, 10_000), (1000, 2000, 3, 5000)),
    ),
    "latent": ("latent", {"n_members": 2, "n_epochs": 1}, TOKENS),
    "mindreader": ("mindreader", NETWORK, TOKENS),
    "roitransformer": ("roitransformer", NETWORK, TOKENS),
    "mindsimulator": ("mindsimulator", STEPS, TOKENS),
    "synbrain": (
        "synbrain",
        {"vae_epochs": 1, "mapper_steps": 2},
        ((60, (16, 64), 3, 6000), (100, (16, 64), 1, 2000)),
    ),
    "stacked": ("stacked", {"encoders": ["ridge", "ridge"]}, (SMALL, LARGE)),
    "calibrated": ("calibrated", {"cv": 2}, (SMALL, LARGE)),
}

#: Images, repeats, voxels and draws of a benchmark whose folder is measured.
DISK = (600, 3, 2000, 0), (300, 3, 1000, 50), (400, 1, 3000, 50), (300, 3, 1000, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(row(arguments.child[0], int(arguments.child[1]))))
        return
    rows = [measured(name, size) for name in arguments.only for size in range(2)]
    table = pd.DataFrame(rows)
    manifest = {
        "command": f"python benchmarks/memory_preflight.py --only {' '.join(arguments.only)}",
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "hardware": hardware(),
    }
    tables = {"memory": table}
    if arguments.only == list(CASES):
        tables["disk"] = pd.DataFrame([disk_row(*size) for size in DISK])
    show(tables)
    write(arguments.out, "memory_preflight", tables, manifest)


def row(name: str, size: int) -> dict[str, Any]:
    """Estimate and measurement of one fit, in this process."""
    kind, options, sizes = CASES[name]
    n_images, width, n_repeats, n_voxels = sizes[size]
    options = dict(options)
    if kind == "stacked":
        options["encoders"] = [brainenc.RidgeEncoder(None) for _ in options["encoders"]]
    if "prior" in options:
        options["prior"] = prior_of(options["prior"], width)
    encoder = make_encoder(kind, **options)
    shape = (n_images, *width) if isinstance(width, tuple) else (n_images, width)
    rng = np.random.default_rng(0)
    X = np.empty(shape, np.float32)
    betas = np.empty((n_images, n_repeats, n_voxels), np.float32)
    for array in (X, betas):
        rng.standard_normal(out=array, dtype=np.float32)
    estimate = fit_memory(encoder, X.shape, betas.shape).n_bytes
    gc.collect()
    before = resident("VmRSS")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder.fit(X, betas).fit_noise()  # as for draws: the estimate is of both
    peak = resident("VmHWM") - before
    return {
        "encoder": name,
        "features": " × ".join(map(str, shape)),
        "betas": " × ".join(map(str, betas.shape)),
        "estimate, MiB": round(estimate / 2**20),
        "measured, MiB": round(peak / 2**20),
        "ratio": round(estimate / peak, 2),
    }


def prior_of(rank: int, n_features: int) -> brainenc.WeightPrior:
    """A prior of so many directions, of few images, whose fit takes little."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((rank + 1, n_features), dtype=np.float32)
    betas = X @ rng.standard_normal((n_features, rank), dtype=np.float32)
    return brainenc.WeightPrior.from_encoders([brainenc.RidgeEncoder().fit(X, betas)])


def disk_row(n_images: int, n_repeats: int, n_voxels: int, n_draws: int) -> dict[str, Any]:
    """Estimate and measurement of the folder of a benchmark of two encoders in three folds."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_images, 30), dtype=np.float32)
    betas = rng.standard_normal((n_images, n_repeats, n_voxels), dtype=np.float32)
    images = rng.integers(0, 256, (n_images, 8, 8, 3), dtype=np.uint8)
    data = brainenc.EncodingData(images, betas)
    ridge = brainenc.RidgeEncoder(None)
    entries = {name: Entry(ridge, X, key="", description={}) for name in ("ridge", "mean")}
    folds = list(KFold(3).split(X))
    estimate = disk_bytes(entries, betas, folds, n_draws)
    with tempfile.TemporaryDirectory() as folder:
        brainenc.benchmark(
            data, {"ridge": ridge}, cv=3, features=X, out=folder, n_draws=n_draws, controls=False,
            n_bootstraps=10, n_permutations=10, check=False, verbose=False,
        )  # fmt: skip
        pairs = Path(folder) / "pairs"
        taken = sum(path.stat().st_size for path in pairs.rglob("*") if path.is_file())
    return {
        "betas": " × ".join(map(str, betas.shape)),
        "draws": n_draws,
        "estimate, MiB": round(estimate / 2**20, 1),
        "measured, MiB": round(taken / 2**20, 1),
        "ratio": round(estimate / taken, 2),
    }


def resident(what: str) -> int:
    """Bytes; "VmRSS" now, "VmHWM" the largest so far."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{what}:")[1].split()[0])


def measured(name: str, size: int) -> dict[str, Any]:
    """One fit in a process of its own."""
    command = [sys.executable, __file__, "--child", name, str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
