"""Words of voxels where the truth is known, and kinds of pictures of macaque V4 neurons.

    python benchmarks/selectivity.py --out docs/results

- simulated subjects with concepts and voxels of noise: share of named voxels by kind, and whether
  the first word is the planted one;
- macaque V4 (Cowley 2023, session 210325, in ``--data``): pictures have no captions, so labels are
  clusters of the last layer of EfficientNet-Lite0; and the same with the images of all responses
  permuted, ten times.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans

import brainenc
from brainenc.storage import atomic_path

REPOSITORY = Path(__file__).resolve().parents[1]
V4 = "cowley2023_v4_210325.npz"
N_CLUSTERS, N_PERMUTED = 10, 10


def simulated(seed: int) -> pd.DataFrame:
    """Named voxels of a subject, one row per kind."""
    data = brainenc.datasets.simulate_subject(
        1800, 400, concepts=0.5, noise_voxels=0.2, random_state=seed
    )
    fit, new = np.arange(900), np.arange(900, 1800)
    tokens, captions, truth = data.truth.tokens, data.truth.captions(), data.truth.selectivity
    encoder = brainenc.RidgeEncoder(features=None).fit(tokens[fit], data.betas[fit])
    found = brainenc.describe(
        encoder, tokens[new], captions[900:], betas=data.betas[new], min_images=20,
        training=(tokens[fit], data.betas[fit]),
    ).voxels  # fmt: skip
    kind = np.select(
        [truth["noise"], truth["colour"] != "", truth["category"] != ""],
        ["noise", "concept", "category"],
        "early",
    )
    right = [w in c.split() for w, c in zip(found["word"], truth["concept"], strict=True)]
    table = found.assign(kind=kind, right=right)
    rows = table.groupby("kind").agg(
        n=("voxel", "size"),
        named=("named", "mean"),
        purity=("purity", "median"),
        agreement=("agreement", "median"),
    )
    rows["right_of_named"] = table[table["named"]].groupby("kind")["right"].mean()
    rows.loc[["noise", "early"], "right_of_named"] = np.nan
    return rows.reset_index().assign(data=f"simulated, seed {seed}")


def v4(path: Path) -> pd.DataFrame:
    """Named neurons, with measured and with permuted responses."""
    data = brainenc.load_npz(path)
    images, betas = data.images, np.asarray(data.betas)
    layers = {
        name: brainenc.EfficientNetLiteFeatures(name, pool="avg", verbose=False).transform(images)
        for name in ("block7", "head")
    }
    clusters = KMeans(N_CLUSTERS, n_init=10, random_state=0).fit_predict(layers["head"])
    labels = [f"cluster {c}" for c in clusters]
    half = np.random.default_rng(0).permutation(len(betas))
    fit, new = np.sort(half[: len(half) // 2]), np.sort(half[len(half) // 2 :])
    X = layers["block7"]

    def row(responses: np.ndarray, name: str) -> dict:
        encoder = brainenc.RidgeEncoder(features=None).fit(X[fit], responses[fit])
        found = brainenc.describe(
            encoder, X[new], labels=[labels[i] for i in new], betas=responses[new],
            training=(X[fit], responses[fit]),
        )  # fmt: skip
        voxels = found.voxels
        return {
            "kind": name,
            "n": len(voxels),
            "named": voxels["named"].mean(),
            "purity": voxels["purity"].median(),
            "agreement": voxels["agreement"].median(),
            "r_word": voxels["r_word"].median(),
            "r_model": voxels["r_model"].median(),
        }

    rng = np.random.default_rng(1)
    rows = [row(betas, "measured")]
    nulls = [row(betas[rng.permutation(len(betas))], "permuted") for _ in range(N_PERMUTED)]
    rows.append(pd.DataFrame(nulls).drop(columns="kind").mean().to_dict() | {"kind": "permuted"})
    return pd.DataFrame(rows).assign(data="macaque V4, session 210325")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("BRAINENC_TEST_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--out", type=Path, help="folder for selectivity.csv")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    arguments = parser.parse_args()
    tables = [simulated(seed) for seed in arguments.seeds]
    if (arguments.data / V4).exists():
        tables.append(v4(arguments.data / V4))
    else:
        print(f"{V4} is not in {arguments.data}: give --data")
    table = pd.concat(tables, ignore_index=True)
    table = table[["data", *(name for name in table if name != "data")]].round(3)
    print(table.to_string(index=False))
    if arguments.out is not None:
        with atomic_path(arguments.out / "selectivity.csv") as temporary:
            table.to_csv(temporary, index=False)


if __name__ == "__main__":
    main()
