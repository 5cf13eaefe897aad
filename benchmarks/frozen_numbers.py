"""Hashes of what every encoder computes, to tell a change of structure from a change of numbers.

Fits every encoder (tiny nets, 130 images, fixed seeds) and runs one benchmark with draws. Prints
a hash of each prediction, draw, density, interval and table, or compares them with those of an
earlier run on the same machine::

    python benchmarks/frozen_numbers.py --out before.json
    python benchmarks/frozen_numbers.py --against before.json

Hashes of two machines differ: matrix products round differently. Run it with OMP_NUM_THREADS=1.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import brainenc
from brainenc.encoders import make_encoder
from brainenc.storage import fingerprint

PRIOR = {"n_latents": 2, "latent_width": 4, "hidden": 16, "width": 16, "depth": 1, "head_width": 4}
MIND_SIMULATOR = {"sizes": PRIOR, "autoencoder_epochs": 2, "prior_epochs": 2, "n_steps": 6}
VAE = {
    "pooled_length": 16,
    "n_channels": 4,
    "channel_multipliers": (1, 2),
    "n_blocks": 1,
    "projector_width": 8,
    "mlp_widths": (640, 896),
    "mlp_token_width": 32,
}
SYNBRAIN = {
    "sizes": {"vae": VAE, "mapper": {"depth": 1, "n_heads": 2}},
    "vae_epochs": 2,
    "mapper_steps": 8,
    "batch_size": 16,
    "learning_rate": 1e-4,
}
LATENT = {"n_members": 2, "n_epochs": 2}
SHORT = {"n_members": 2, "n_epochs": 1}
MIND_SIMULATOR_PUBLISHED = {
    "sizes": "published",
    "autoencoder_epochs": 1,
    "prior_epochs": 1,
    "n_steps": 1,
    "n_draws": 2,
    "batch_size": 64,
}

#: Name of a case to a function that makes its encoder; names outlive those of classes.
CASES: dict[str, Callable[[], Any]] = {
    "mean": lambda: make_encoder("mean"),
    "ridge": lambda: make_encoder("ridge"),
    "ridge, kernel": lambda: make_encoder("ridge", form="kernel"),
    "ridge, one penalty": lambda: make_encoder("ridge", alpha_per_voxel=False, standardize=False),
    "banded": lambda: make_encoder("banded", bands={"a": 40, "b": 24}, n_iter=5),
    "latent": lambda: make_encoder("latent", **LATENT),
    "latent, kernel alone": lambda: make_encoder("latent", n_members=0),
    "synbrain": lambda: make_encoder("synbrain", **SYNBRAIN),
    "synbrain, ablated": lambda: make_encoder(
        "synbrain", **SYNBRAIN, s2n=False, variational=False, contrastive=False
    ),
    "synbrain, mlp": lambda: make_encoder("synbrain", **SYNBRAIN, architecture="mlp"),
    "mindsimulator": lambda: make_encoder("mindsimulator", **MIND_SIMULATOR),
    "mindsimulator, few steps": lambda: make_encoder(
        "mindsimulator",
        **MIND_SIMULATOR,
        n_sampling_steps=3,
        eta=0.5,
        guidance=2.0,
        noise_correlation=0.5,
    ),
    "mindsimulator, published": lambda: make_encoder("mindsimulator", **MIND_SIMULATOR_PUBLISHED),
    "mindsimulator, published, validated": lambda: make_encoder(
        "mindsimulator", **MIND_SIMULATOR_PUBLISHED, validation=0.2
    ),
    "mindreader": lambda: make_encoder("mindreader", **SHORT),
    "mindreader, published": lambda: make_encoder(
        "mindreader", sizes="published", n_epochs=1, batch_size=64
    ),
    "roitransformer": lambda: make_encoder("roitransformer", **SHORT, n_clusters=3),
    "roitransformer, published": lambda: make_encoder(
        "roitransformer", sizes="published", n_epochs=1
    ),
    "stacked": lambda: make_encoder(
        "stacked",
        encoders={
            "ridge": make_encoder("ridge"),
            "latent": CASES["latent"](),
            "mindreader": CASES["mindreader"](),
        },
    ),
    "stacked, mixture": lambda: make_encoder(
        "stacked",
        encoders={"ridge": make_encoder("ridge"), "latent": CASES["latent, kernel alone"]()},
        draws="mixture",
    ),
    "calibrated": lambda: make_encoder("calibrated", cv=2),
    "calibrated latent": lambda: make_encoder(
        "calibrated", encoder=CASES["latent, kernel alone"](), cv=2
    ),
    "calibrated mindsimulator": lambda: make_encoder(
        "calibrated", encoder=CASES["mindsimulator"](), cv=[(np.arange(100), np.arange(100, 130))]
    ),
}

#: Those that are not fitted to voxels that lack trials.
COMPLETE = ("synbrain",)
#: Those that become ridge with few images.
NETWORKS = ("latent", "mindsimulator", "mindreader", "roitransformer")


def problem(n_images: int = 130) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and betas with NaN for missing trials, and a voxel without data."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((n_images, 4, 16)).astype(np.float32)
    signal = tokens.reshape(n_images, -1) @ rng.standard_normal((64, 14)) / 7
    noise = rng.standard_normal((n_images, 3, 14)) + rng.standard_normal((n_images, 3, 1)) / 2
    betas = (signal[:, None] + noise * np.exp(0.2 * tokens[:, :1, :1]) + 1).astype(np.float32)
    betas[rng.random((n_images, 3)) < 0.15] = np.nan
    return tokens, betas


def main() -> None:
    arguments = parse_arguments()
    found: dict[str, str] = {}
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, hashed in all_hashes(arguments.only):
            found[name] = hashed
            print(hashed, name, f"({time.perf_counter() - started:.0f} s)", flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.against is not None:
        compare(found, json.loads(arguments.against.read_text(encoding="utf-8")), arguments.only)


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file to write the hashes to")
    parser.add_argument("--against", type=Path, help="JSON file of an earlier run to compare with")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    return parser.parse_args(given)


def compare(found: dict[str, str], former: dict[str, str], only: str) -> None:
    """Print what differs, and end with an error if anything does."""
    former = {name: value for name, value in former.items() if name.startswith(only)}
    changed = [name for name in former if found.get(name, former[name]) != former[name]]
    missing, new = sorted(former.keys() - found.keys()), sorted(found.keys() - former.keys())
    for what, names in {"CHANGED": changed, "MISSING": missing, "NEW": new}.items():
        for name in names:
            print(f"{what}: {name}")
    print(f"{len(found) - len(changed) - len(new)} of {len(former)} hashes are the same")
    sys.exit(bool(changed or missing))


def all_hashes(only: str) -> Iterator[tuple[str, str]]:
    """Name and hash of every number."""
    for case in CASES:
        if not case.startswith(only):
            continue
        tokens, betas = problem()
        betas = betas if case.startswith(COMPLETE) else with_holes(betas)
        yield from of_encoder(case, CASES[case]().fit(tokens, betas), tokens, betas)
    if "few images".startswith(only):
        for case in (name for name in NETWORKS if name in CASES):
            tokens, betas = problem(60)
            yield from of_encoder(
                f"few images, {case}", CASES[case]().fit(tokens, betas), tokens, betas
            )
    for name, more in MORE.items():
        if name.startswith(only):
            yield from more()


def with_holes(betas: np.ndarray) -> np.ndarray:
    holed = betas.copy()
    holed[:, :, 4] = np.nan
    holed[:25, :, 7] = np.nan
    return holed


def of_encoder(case: str, encoder: Any, X: Any, betas: np.ndarray) -> Iterator[tuple[str, str]]:
    """Hashes of all that a fitted encoder gives."""
    some = X[:20]
    yield f"{case}: predict", of(encoder.predict(X))
    for noise in ("auto", "full", "latent", "trial", "signal", None):
        try:
            draws = encoder.sample(some, 3, 1, noise=noise)
        except ValueError:
            continue
        yield f"{case}: sample {noise}", of(draws)
    yield f"{case}: log_density", of(encoder.log_density(some, betas[:20]))
    yield f"{case}: log_density of some", of(encoder.log_density(some, betas[:20], voxels=[0, 2]))
    lower, upper = encoder.predict_interval(some, 0.8)
    yield f"{case}: interval", of(lower, upper)
    history = getattr(encoder, "history_", pd.DataFrame())
    if len(history):
        yield f"{case}: history", of_table(history)


def of(*arrays: np.ndarray) -> str:
    return fingerprint(*map(np.ascontiguousarray, arrays))[:16]


def of_table(table: pd.DataFrame) -> str:
    """Hash of a table, less what depends on the clock."""
    clock = [name for name in table if "second" in str(name) or str(name).endswith("_mb")]
    return fingerprint(table.drop(columns=clock).to_csv(index=False, float_format="%.17g"))[:16]


# -------------------------------------------------------------------- besides the plain fits


def adapted() -> Iterator[tuple[str, str]]:
    tokens, betas = problem()
    encoder = CASES["synbrain"]().fit(tokens, betas)
    yield "adapted: synbrain", of(encoder.adapt(tokens[:40], betas[:40, :, :9]).predict(tokens))


def mind_simulator_from_a_start() -> Iterator[tuple[str, str]]:
    tokens, betas = problem()
    encoder = CASES["mindsimulator"]().fit(tokens, betas)
    start = np.linspace(-1, 1, betas.shape[2])
    draws = encoder.sample(tokens[:9], 2, 0, start=start, start_share=0.4)
    yield "start: mindsimulator", of(draws)


def held_out() -> Iterator[tuple[str, str]]:
    tokens, betas = problem()
    for case in ("ridge", "latent", "mindreader", "mindsimulator"):
        yield f"held out: {case}", of(CASES[case]().fit_held_out(tokens, betas))


def prefit() -> Iterator[tuple[str, str]]:
    tokens, betas = problem()
    ridge, latent = (CASES[case]().fit(tokens[:80], betas[:80]) for case in ("ridge", "latent"))
    rest = tokens[80:], betas[80:]
    stack = make_encoder("stacked", encoders=[("a", ridge), ("b", latent)], cv="prefit").fit(*rest)
    yield from of_encoder("prefit: stacked", stack, *rest)
    yield from of_encoder("prefit: calibrated", brainenc.calibrate(ridge, *rest), *rest)


def from_images() -> Iterator[tuple[str, str]]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (120, 6, 6), dtype=np.uint8)
    betas = images.reshape(120, -1)[:, None, :6] / 50 + rng.standard_normal((120, 2, 6))
    pixels = brainenc.PixelFeatures()
    for name, encoder in {
        "ridge": make_encoder("ridge", features=pixels),
        "banded": make_encoder("banded", features={"a": pixels, "b": pixels}, n_iter=3),
        "mindreader": make_encoder("mindreader", features=pixels, **SHORT),
    }.items():
        yield f"from images: {name}", of(encoder.fit(images, betas).predict(images))


def wide() -> Iterator[tuple[str, str]]:
    """More images and features than landmarks."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2100, 2100)).astype(np.float32)
    betas = (X[:, None, :5] + rng.standard_normal((2100, 2, 5))).astype(np.float32)
    encoder = CASES["latent, kernel alone"]().fit(X, betas)
    yield "wide: latent", of(encoder.predict(X[:50]), encoder.sample(X[:50], 2, 0))


def benchmark() -> Iterator[tuple[str, str]]:
    """One benchmark with draws, of a simulated subject."""
    data = brainenc.datasets.simulate_subject(240, 40, random_state=0)
    encoders = {
        "ridge": CASES["ridge"](),
        "latent": CASES["latent"](),
        "mindreader": CASES["mindreader"](),
        "mindsimulator": CASES["mindsimulator"](),
        "calibrated": CASES["calibrated"](),
    }
    options = {"n_bootstraps": 20, "n_permutations": 20, "n_draws": 20, "verbose": False}
    with tempfile.TemporaryDirectory() as folder:
        result = brainenc.benchmark(
            data, encoders, cv=2, features=data.truth.tokens, out=folder, controls=False, **options
        )
    for name, table in vars(result).items():
        if isinstance(table, pd.DataFrame):
            yield f"benchmark: {name}", of_table(table)
    for name, table in (vars(result.draws) if hasattr(result.draws, "__dict__") else {}).items():
        if isinstance(table, pd.DataFrame):
            yield f"benchmark: draws, {name}", of_table(table)
    yield "benchmark: warnings", fingerprint(result.warnings)[:16]


MORE: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "adapted": adapted,
    "start": mind_simulator_from_a_start,
    "held out": held_out,
    "prefit": prefit,
    "from images": from_images,
    "wide": wide,
    "benchmark": benchmark,
}


if __name__ == "__main__":
    main()
