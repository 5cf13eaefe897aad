"""Networks adapted to a new subject with few images, on simulated subjects.

    python benchmarks/new_subjects_networks.py --alikeness 1
    python benchmarks/new_subjects_networks.py --alikeness 0 --networks LatentEncoder MindSimulator

Every network of brainenc is fitted to one other subject and adapted, by its own `adapt`, to each of
several new ones, beside ridge with a prior, in-context weights, the group mean, and ridge from
scratch. Writes docs/results/new_subjects_networks*.csv and .json, in which rows of other networks
and other degrees of alikeness are kept. Nearly all of the time is that of SynBrain.

"SynBrain, published steps" has the published losses, stages and way of adapting, in the small
sizes of its networks; "SynBrain" is the default, which is blended with ridge.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import pandas as pd
from new_subjects import IN_CONTEXT, RESULTS
from synbrain_common import SMALL

import brainenc
from brainenc.datasets import simulate_subjects

N_IMAGES, N_SHARED = 600, 150
NETWORKS: dict[str, Any] = {
    "LatentEncoder": brainenc.LatentEncoder,
    "MindSimulator": brainenc.MindSimulatorEncoder,
    "Mind Reader": brainenc.MindReaderEncoder,
    "ROI transformer": brainenc.ROITransformerEncoder,
    "SynBrain": brainenc.SynBrainEncoder,
}


PUBLISHED_STEPS = "SynBrain, published steps"


def networks(given: argparse.Namespace) -> dict[str, Any]:
    """Unfitted networks in their default sizes."""
    found = {name: make(None, device=given.device) for name, make in NETWORKS.items()}
    options = SMALL | {"vae_epochs": 15, "blend": None, "device": given.device}
    found[PUBLISHED_STEPS] = brainenc.SynBrainEncoder(None, **options)
    return {name: found[name] for name in given.networks}


def curve_of(given: argparse.Namespace, alikeness: float) -> tuple[Any, dict[str, float]]:
    """The curve of the new subjects, and the seconds of each network's fit to the source."""
    # In-context weights are trained on as many other subjects as there are new ones.
    subjects = simulate_subjects(
        2 * given.subjects, N_IMAGES, given.voxels, shared_images=N_SHARED, alikeness=alikeness,
        random_state=17,
    )  # fmt: skip
    own = [data.select(images=np.arange(N_SHARED, N_IMAGES)) for data in subjects]
    news, sources = subjects[: given.subjects], own[given.subjects :]
    methods, seconds = {}, {}
    for name, network in networks(given).items():
        begun = time.perf_counter()
        fitted = network.with_voxels(sources[0].voxels).fit(
            sources[0].truth.tokens, sources[0].betas
        )
        seconds[name] = time.perf_counter() - begun
        print(f"{name}: fitted to {sources[0].name} in {seconds[name]:.0f} s", flush=True)
        methods[f"{name}, adapted"] = fitted
    ridge = brainenc.RidgeEncoder(None)
    methods |= {
        "ridge, adapted": brainenc.Transfer(ridge, "adapt"),
        "in context": brainenc.Transfer(brainenc.InContextEncoder(**IN_CONTEXT), "pretrain"),
        "group mean": brainenc.Transfer(ridge, "group-mean"),
    }
    curve = brainenc.learning_curve(
        news,
        methods,
        sources=sources,
        sizes=given.sizes,
        features={data.name: data.truth.tokens for data in (*news, *sources)},
        n_draws=given.draws,
        verbose=True,
    )
    return curve, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=4, help="new ones, and as many sources")
    parser.add_argument("--voxels", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--alikeness", type=float, nargs="*", default=[1.0, 0.5, 0.0])
    parser.add_argument("--device", default="cpu")
    names = [*NETWORKS, PUBLISHED_STEPS]
    parser.add_argument("--networks", nargs="+", default=names, choices=names)
    given = parser.parse_args()
    tables = {name: kept(name, given) for name in ("summary", "pairs")}
    path = RESULTS / "new_subjects_networks.json"
    former = json.loads(path.read_text())["runs"] if path.exists() else {}
    for alikeness in given.alikeness:
        begun = time.perf_counter()
        curve, fits = curve_of(given, alikeness)
        former[f"alikeness {alikeness:g}: {', '.join(given.networks)}"] = vars(given) | {
            "seconds": fits | {"all": time.perf_counter() - begun},
            **{key: curve.manifest[key] for key in ("versions", "hardware")},
        }
        for name, parts in tables.items():
            parts.append(getattr(curve, name).assign(alikeness=alikeness))
            written = pd.concat(parts).round(4)
            written.to_csv(RESULTS / f"new_subjects_networks_{name}.csv", index=False)
        print(f"alikeness {alikeness:g}\n{curve.table().to_string()}", flush=True)
        path.write_text(json.dumps({"runs": former}, indent=1) + "\n")


def kept(name: str, given: argparse.Namespace) -> list[pd.DataFrame]:
    """Rows of an earlier run, of other networks or at other degrees of alikeness."""
    path = RESULTS / f"new_subjects_networks_{name}.csv"
    if not path.exists():
        return []
    found = pd.read_csv(path)
    column = found["encoder" if "encoder" in found else "encoder_a"]
    others = [f"{n}, adapted" for n in (*NETWORKS, PUBLISHED_STEPS) if n not in given.networks]
    return [found[~found["alikeness"].isin(given.alikeness) | column.isin(others)]]


if __name__ == "__main__":
    main()
