"""The ablations of the SynBrain paper on a simulated subject, with the baselines beside them.

SynBrain at small sizes, with and without each of its parts, trained on 600 images and tested on
400; mean response, ridge and LatentEncoder on the same tokens. Scores:

- r: mean over voxels of Pearson's r across images, against repeat averages; reconstructed r is
  that of the autoencoder given the very responses;
- MSE in z units, and pattern r across voxels (the paper's score);
- retrieval, top-1 among 300 images (chance 1/300) by flattened cosine between a latent and the
  images' tokens, as in the paper: "raw" is the posterior mean of the averaged measured response,
  "syn" that of the predicted one. Predictions of the baselines are read by the full autoencoder.

``--part steps`` runs `synbrain_steps` instead: what each step of the default adds to the published
model, on simulated subjects and macaque V4.

Every row is the mean over seeds ± s.d.: seeds of the nets, not of the data. Prints the scores and
how far training went and, with ``--out``, writes both as CSV with a JSON manifest.
"""

import argparse
import copy
import datetime
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from comparison import DATA
from joblib import Parallel, delayed
from synbrain_common import SMALL, published_unit, show, small_synbrain, write
from synbrain_steps import SUBJECTS, steps_table

import brainenc
from brainenc.benchmarking.manifest import data_hash, hardware, versions
from brainenc.benchmarking.split import trial_sd
from brainenc.metrics import correlation, mean_squared_error, pattern_correlation
from brainenc.progress import progress
from brainenc.repeats import average_repeats
from brainenc.storage import write_json

#: "no S2N" is the full autoencoder with tokens decoded directly, so it needs no fit of its own.
ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "no sampling": {"variational": False},
    "no contrastive loss": {"contrastive": False},
    "MLP for conv + attention": {"architecture": "mlp"},
}
NO_S2N = "no S2N"
ORDER = [
    "mean",
    "ridge",
    "LatentEncoder",
    "full",
    "no sampling",
    "no contrastive loss",
    NO_S2N,
]
ORDER += ["MLP for conv + attention"]


@dataclass(frozen=True)
class Split:
    """Tokens and betas (in the unit of `published_unit`) of training and test images."""

    tokens: np.ndarray
    betas: np.ndarray
    test_tokens: np.ndarray
    test_averages: np.ndarray


def main() -> None:
    arguments = parse_arguments()
    started = time.perf_counter()
    if arguments.part == "steps":
        tables = {"steps": steps_table(arguments)}
        if arguments.out is not None:
            write(arguments.out, "synbrain_ablation", tables, None)
            write_json(arguments.out / "synbrain_ablation_steps.json", about(arguments, started))
        return
    n_images = arguments.train + arguments.test
    data = brainenc.datasets.simulate_subject(n_images, arguments.voxels, random_state=0)
    split = make_split(data, arguments.train)
    jobs = [
        delayed(run)(name, seed, split, arguments.steps, arguments.pool)
        for seed in range(arguments.seeds)
        for name in ABLATIONS
    ]
    parallel = Parallel(n_jobs=arguments.jobs, return_as="generator_unordered")
    done = list(progress(parallel(jobs), desc="fits", total=len(jobs)))
    runs = pd.DataFrame([row for rows, _ in done for row in rows])
    curves = pd.DataFrame([curve for _, curve in done])
    tables = {"scores": summary(runs), "training": training_table(curves)}
    print(f"chance of retrieval: {1 / min(arguments.pool, arguments.test):.4f}")
    print(f"ceiling of r: {ceiling_of_r(data):.3f}")
    show(tables)
    if arguments.out is not None:
        write(arguments.out, "synbrain_ablation", tables, manifest(arguments, data, started))


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--part", choices=["paper", "steps"], default="paper", help="table to make")
    add("--sets", nargs="+", choices=list(SUBJECTS), default=["tiny", "v4"])
    add("--vae-epochs", type=int, help="of the steps; by default those of the encoder")
    add("--mapper-steps", type=int, help="likewise")
    add("--data", type=Path, default=DATA, help="folder of the measured data")
    add("--train", type=int, default=600, help="training images")
    add("--test", type=int, default=400, help="test images")
    add("--voxels", type=int, default=400)
    add("--seeds", type=int, default=3)
    add("--steps", type=int, default=600, help="of the autoencoder; the published one has 16 900")
    add("--pool", type=int, default=300, help="images to retrieve among")
    add("--jobs", type=int, default=2, help="fits at once")
    add("--out", type=Path, help="folder for CSV tables and manifest")
    return parser.parse_args(given)


def make_split(data: brainenc.EncodingData, n_train: int) -> Split:
    betas = data.betas * np.float32(published_unit(data.betas[:n_train]))
    tokens = data.truth.tokens
    return Split(
        tokens[:n_train], betas[:n_train], tokens[n_train:], average_repeats(betas[n_train:])
    )


def ceiling_of_r(data: brainenc.EncodingData) -> float:
    return float(np.nanmean(data.noise_ceiling().to("r").values))


# -------------------------------------------------------------------- one fit, and its scores


def run(
    name: str, seed: int, split: Split, n_steps: int, pool: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Scores of one ablation and, with "full", of what is read by its autoencoder."""
    torch.set_num_threads(1)
    n_trials = int(np.isfinite(split.betas[:, :, 0]).sum())
    encoder = small_synbrain(n_trials, n_steps, random_state=seed, **ABLATIONS[name])
    encoder.fit(split.tokens, split.betas)
    reader = Reader(encoder.vae_, split, pool, seed)
    rows = [reader.of_vae() | reader.of(name, encoder.predict(split.test_tokens))]
    if name == "full":
        predict = without_mapper(encoder).predict
        rows.append(reader.of_vae() | reader.of(NO_S2N, predict(split.test_tokens)))
        for baseline, model in baselines(seed).items():
            model.fit(split.tokens, split.betas)
            rows.append(reader.of(baseline, model.predict(split.test_tokens)))
    return rows, {"encoder": name, "seed": seed, **training_facts(encoder.history_, split)}


def without_mapper(encoder: brainenc.SynBrainEncoder) -> brainenc.SynBrainEncoder:
    """The same autoencoder with tokens decoded directly: what ``s2n=False`` would train again."""
    ablated = copy.copy(encoder).set_params(s2n=False)
    ablated.mapper_ = None
    return ablated


def baselines(seed: int) -> dict[str, brainenc.BaseEncoder]:
    return {
        "mean": brainenc.MeanEncoder(),
        "ridge": brainenc.RidgeEncoder(None, random_state=seed),
        "LatentEncoder": brainenc.LatentEncoder(None, random_state=seed),
    }


@dataclass(frozen=True)
class Reader:
    """Scores of predictions, with an autoencoder that turns responses into latents."""

    vae: Any
    split: Split
    pool: int
    seed: int

    def of(self, encoder: str, predictions: np.ndarray) -> dict[str, Any]:
        """Scores of predicted responses to the test images, as one row."""
        scale, averages = trial_sd(self.split.betas), self.split.test_averages
        z = mean_squared_error(predictions / scale, averages / scale)
        return {
            "encoder": encoder,
            "seed": self.seed,
            "r": mean_or_nan(correlation(predictions, averages)),
            "MSE (z)": mean_or_nan(z),
            "pattern r": mean_or_nan(pattern_correlation(predictions, averages)),
            "syn retrieval": self.retrieval(predictions),
        }

    def of_vae(self) -> dict[str, Any]:
        """Scores of the autoencoder given the measured responses."""
        averages = self.split.test_averages
        with torch.no_grad():
            decoded = self.vae.decode(encode(self.vae, averages), averages.shape[1]).numpy()
        return {
            "reconstructed r": mean_or_nan(correlation(decoded, averages)),
            "raw retrieval": self.retrieval(averages),
        }

    def retrieval(self, responses: np.ndarray) -> float:
        """Top-1 retrieval of the images from responses."""
        latents = encode(self.vae, responses).numpy()
        return cosine_top_1(latents, self.split.test_tokens, self.pool)


@torch.no_grad()
def encode(vae: Any, responses: np.ndarray) -> torch.Tensor:
    """Posterior means (n_images, n_tokens, width) of responses (n_images, n_voxels)."""
    return vae.eval().encode(torch.from_numpy(np.asarray(responses, np.float32)))[0]


def cosine_top_1(
    latents: np.ndarray, tokens: np.ndarray, pool_size: int, n_pools: int = 30
) -> float:
    """Share of latents whose own image's tokens are the nearest in a pool, mean over random pools.

    The paper's retrieval: flattened, not centred, by cosine; `brainenc.metrics.top_k_retrieval`
    takes Pearson's r.
    """
    latents, tokens = unit_rows(latents), unit_rows(tokens)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n_pools):
        rows = rng.choice(len(tokens), min(pool_size, len(tokens)), replace=False)
        cosine = latents[rows] @ tokens[rows].T
        found.append((cosine.argmax(axis=1) == np.arange(len(rows))).mean())
    return float(np.mean(found))


def unit_rows(array: np.ndarray) -> np.ndarray:
    flat = array.reshape(len(array), -1).astype(np.float64)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def mean_or_nan(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan


# -------------------------------------------------------------------- tables


def training_facts(history: pd.DataFrame, split: Split) -> dict[str, float]:
    """Losses of the first and last epoch, reconstruction as a share of the mean response's."""
    null = float(np.nansum(trial_sd(split.betas) ** 2))
    vae, mapper = (history[history["stage"] == stage] for stage in ("vae", "mapper"))
    facts = {
        "epochs": len(vae),
        "minutes": float(history.groupby("stage")["seconds"].max().sum()) / 60,
    }
    for label, column, unit in [
        ("reconstruction / null", "reconstruction", null),
        ("SoftCLIP", "soft_clip", 1),
        ("KL", "kl", 1),
    ]:
        facts[f"{label}, first"] = vae[column].iloc[0] / unit
        facts[f"{label}, last"] = vae[column].iloc[-1] / unit
    facts["mapper MSE, first"] = mapper["loss"].iloc[0]
    facts["mapper MSE, last"] = mapper["loss"].iloc[-1]
    return facts


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean ± s.d. over seeds of every score; no s.d. where all seeds agree."""
    columns = ["r", "reconstructed r", "MSE (z)", "pattern r", "raw retrieval", "syn retrieval"]
    by_encoder = runs.groupby("encoder")[columns]
    mean, sd = by_encoder.mean(), by_encoder.std(ddof=1).fillna(0)
    rows = []
    for encoder in [name for name in ORDER if name in mean.index]:
        cells = {c: plus_minus(mean.loc[encoder, c], sd.loc[encoder, c]) for c in columns}
        rows.append({"encoder": encoder, **cells})
    return pd.DataFrame(rows)


def plus_minus(mean: float, sd: float) -> Any:
    if not np.isfinite(mean):
        return np.nan
    return f"{mean:.3f} ± {sd:.3f}" if sd > 1e-6 else f"{mean:.3f}"


def training_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, first and last epoch in one cell."""
    mean = curves.drop(columns="seed").groupby("encoder").mean()
    table = mean.loc[[name for name in ORDER if name in mean.index]]
    losses = [name.removesuffix(", first") for name in table if name.endswith(", first")]
    for loss in losses:
        ends = zip(table[f"{loss}, first"], table[f"{loss}, last"], strict=True)
        table = table.assign(**{loss: [f"{first:.4g} → {last:.4g}" for first, last in ends]})
    return table[["epochs", "minutes", *losses]].reset_index()


def about(arguments: argparse.Namespace, started: float) -> dict[str, Any]:
    """When, how and where a table was made."""
    settings = {k: v for k, v in vars(arguments).items() if k not in ("out", "data")}
    return {
        "command": f"python benchmarks/synbrain_ablation.py --part {arguments.part} --out DIR",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "settings": settings,
        "versions": versions(),
        "hardware": hardware(),
    }


def manifest(arguments: argparse.Namespace, data: Any, started: float) -> dict[str, Any]:
    return {
        **about(arguments, started),
        "SynBrain (small)": SMALL,
        "ceiling of r": ceiling_of_r(data),
        "data": {"name": data.name, "hash": data_hash(data)},
    }


if __name__ == "__main__":
    main()
