"""How time and memory of ridge and LatentEncoder grow with voxels, images and tokens.

    python benchmarks/scaling.py --out docs/results

One size is changed at a time, the others stay at 400 voxels, 400 images and 16 tokens of width 64.
Every fit has a process of its own. Its time is processor time ("CPU s"), which other programs do
not change much; its memory is what the largest resident set has above what the
process had before the fit: interpreter, libraries and data do not count. The exponent is the slope
of a line through the four points in logarithms: 1 is proportional growth.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import measure, timed
from speed_training import made_up
from synbrain_common import show, write

BASE = {"voxels": 400, "images": 400, "tokens": 16}
WIDTH = 64
FACTORS = (0.5, 1, 2, 4)
ENCODERS = ("RidgeEncoder", "LatentEncoder")
MEASURES = ("CPU s", "MiB")


def main() -> None:
    arguments = parse_arguments()
    points = measured_points(arguments.shrink)
    exponents = exponents_of(points)
    tables = {"points": points, "exponents": exponents}
    show(tables)
    if arguments.out is not None:
        write(arguments.out, "scaling", tables, manifest(arguments.shrink))


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shrink", type=int, default=1, help="divide images and voxels by this")
    parser.add_argument("--out", type=Path, help="folder for scaling.json and scaling_*.csv")
    return parser.parse_args(given)


def measured_points(shrink: int = 1) -> pd.DataFrame:
    """A row for every encoder and size: seconds and MiB of its fit."""
    base = {**BASE, "voxels": BASE["voxels"] // shrink, "images": BASE["images"] // shrink}
    rows = []
    for encoder in ENCODERS:
        at_base = measure(fit, encoder, base)
        for axis, size in base.items():
            for factor in FACTORS:
                sizes = {**base, axis: round(size * factor)}
                found = at_base if factor == 1 else measure(fit, encoder, sizes)
                rows.append({"encoder": encoder, "axis": axis, "size": sizes[axis], **found})
                print(f"{encoder}, {sizes[axis]} {axis}: {found['s']:.2f} s", flush=True)
    return pd.DataFrame(rows)


def fit(encoder: str, sizes: dict[str, int]) -> dict[str, float]:
    model = make_encoder(encoder)
    # A toy first, with images enough for networks: imports, and what libraries set up once, are no
    # part of the work.
    model.fit(*problem({"voxels": 10, "images": 120, "tokens": 4}))
    tokens, betas = problem(sizes)
    before = resident_mib()
    with timed() as found:
        model.fit(tokens, betas)
    return {"s": found["s"], "CPU s": found["CPU s"], "MiB": found["peak GiB"] * 1024 - before}


def make_encoder(name: str) -> Any:
    import brainenc

    if name == "RidgeEncoder":
        return brainenc.RidgeEncoder(None, device="cpu")
    return brainenc.LatentEncoder(None, n_members=2, n_epochs=3, device="cpu", precision="32")


def problem(sizes: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n_images, n_tokens, width) and betas (n_images, 1, n_voxels)."""
    made = {"tokens": (sizes["tokens"], WIDTH), "voxels": sizes["voxels"]}
    tokens, betas = made_up(made, sizes["images"])
    return tokens, betas[:, None]


def resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def exponents_of(points: pd.DataFrame) -> pd.DataFrame:
    """Slopes in logarithms, a row for every encoder and axis; NaN where nothing was measured."""
    rows = []
    for (encoder, axis), part in points.groupby(["encoder", "axis"], sort=False):
        slopes = {name: slope(part["size"], part[name]) for name in MEASURES}
        rows.append({"encoder": encoder, "axis": axis, **slopes})
    return pd.DataFrame(rows)


def slope(size: pd.Series, value: pd.Series) -> float:
    if (value <= 0).any():
        return np.nan
    return float(np.polyfit(np.log(size), np.log(value), 1)[0])


def manifest(shrink: int) -> dict[str, Any]:
    from brainenc.benchmarking.manifest import hardware, versions

    return {
        "command": "python benchmarks/scaling.py --out docs/results",
        "date": time.strftime("%Y-%m-%d"),
        "base": BASE | {"width": WIDTH, "repeats": 1},
        "shrink": shrink,
        "versions": versions(),
        "hardware": hardware(),
    }


if __name__ == "__main__":
    main()
