"""Retrieval by decoders, by encoders used as decoders, and by nulls, on a simulated subject.

900 images with three trials each to learn from, 600 others to test: top-1 of 300, both directions,
with the similarity centred on the training mean, not centred, and with CSLS. Run as

    python benchmarks/decoding.py --out docs/results
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from synbrain_common import show, write

import brainenc
from brainenc import metrics
from brainenc.benchmarking.manifest import data_hash, versions
from brainenc.metrics.retrieval_scores import DIRECTIONS
from brainenc.repeats import average_repeats

CENTRED, UNCENTRED, CSLS = "centred", "uncentred", "CSLS (uses all test responses)"
AVERAGE, TRIAL, SIGNAL = "mean of repeats", "first trial", "signal without noise"


def main() -> None:
    arguments = parse_arguments()
    started = time.monotonic()
    data = brainenc.datasets.simulate_subject(
        arguments.images, arguments.voxels, random_state=arguments.seed
    )
    problem = Problem(data, arguments.train)
    rows = [
        row
        for name, test, found in all_rows(problem)
        for row in scored(problem, name, test, found, arguments)
    ]
    table = pd.DataFrame(rows)
    permuted = table["decoder"].str.startswith("training images permuted")
    tables = {
        "retrieval": pd.concat([table[~permuted], permuted_mean(table)], ignore_index=True),
        "permuted": table[permuted],
    }
    table = tables["retrieval"]
    show({"retrieval": table.drop(columns=[c for c in table if c.endswith(("low", "high"))])})
    print(f"\n{time.monotonic() - started:.0f} s")
    if arguments.out is not None:
        manifest = {
            "command": shlex.join(["python", "benchmarks/decoding.py", *sys.argv[1:]]),
            "versions": versions(),
            "data": {data.name: data_hash(data)},
            "settings": {k: str(v) for k, v in vars(arguments).items() if k != "out"},
            "seconds": round(time.monotonic() - started),
        }
        name = f"decoding_seed{arguments.seed}" if arguments.seed else "decoding"
        write(arguments.out, name, tables, manifest)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--train", type=int, default=900, help="images to learn from")
    parser.add_argument("--voxels", type=int, default=800)
    parser.add_argument("--pool-size", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the simulated subject")
    parser.add_argument("--out", type=Path, help="folder for CSV tables and manifest")
    return parser.parse_args()


class Problem:
    """Images to learn from and to test, and what each decoder is tested on."""

    def __init__(self, data: brainenc.EncodingData, n_train: int):
        order = np.random.default_rng(0).permutation(data.n_images)
        self.train, self.test = np.sort(order[:n_train]), np.sort(order[n_train:])
        self.betas = data.zscore_by_session().betas
        self.tokens = data.truth.tokens
        self.category = data.truth.category
        self.rois = data.rois()
        signal, raw = data.truth.signal, average_repeats(data.betas[self.train])
        # Session z-scores divide by the s.d. of single trials.
        sd = np.nanstd(data.betas[self.train], axis=(0, 1))
        self.signal = (signal - raw.mean(axis=0)) / sd

    def responses(self, test: str) -> np.ndarray:
        """Of the test images, (n_images, n_repeats, n_voxels)."""
        if test == SIGNAL:
            return self.signal[self.test][:, None]
        return self.betas[self.test] if test == AVERAGE else self.betas[self.test][:, :1]

    @property
    def targets(self) -> np.ndarray:
        return self.tokens[self.test]


def all_rows(problem: Problem) -> Iterator[tuple[str, str, Any]]:
    """Name, kind of test responses, and predictions or a similarity of them."""
    train, betas, tokens = problem.train, problem.betas, problem.tokens
    ridge = brainenc.RidgeDecoder()
    ridge.fit(betas[train], tokens[train])
    for test in (AVERAGE, TRIAL, SIGNAL):
        yield "ridge decoder", test, ridge.predict(problem.responses(test))
    one = brainenc.RidgeDecoder(n_test_repeats=1).fit(betas[train], tokens[train])
    name = "ridge decoder, penalty for one trial"
    yield name, TRIAL, one.predict(problem.responses(TRIAL))
    averages = brainenc.RidgeDecoder(train_on="averages").fit(betas[train], tokens[train])
    name = "ridge decoder, learned from averages"
    yield name, AVERAGE, averages.predict(problem.responses(AVERAGE))
    encoder = brainenc.RidgeEncoder().fit(tokens[train], betas[train])
    for method in ("ratio", "likelihood", "correlation"):
        decoder = brainenc.EncoderDecoder(encoder, method=method, prefit=True)
        decoder.fit(betas[train], tokens[train])
        for test in (AVERAGE, TRIAL):
            found = {method: decoder.similarity(problem.responses(test), problem.targets)}
            yield f"ridge encoder, {method}", test, found
    found = decoder.predict(problem.responses(AVERAGE))
    yield "ridge encoder, posterior mean", AVERAGE, found
    latent = brainenc.EncoderDecoder(brainenc.LatentEncoder(n_members=0))
    latent.fit(betas[train], tokens[train])
    for test in (AVERAGE, TRIAL):
        found = {"ratio": latent.similarity(problem.responses(test), problem.targets)}
        yield "LatentEncoder(n_members=0), ratio", test, found
    yield from of_networks(problem)
    yield from nulls(problem)


def of_networks(problem: Problem) -> Iterator[tuple[str, str, Any]]:
    """Rows of trained networks; of MindEye the retrieval head and the tokens."""
    train, betas, tokens = problem.train, problem.betas, problem.tokens
    eye = brainenc.MindEyeDecoder(device="cpu").fit(betas[train], tokens[train])
    for test in (AVERAGE, TRIAL):
        yield "MindEyeDecoder, retrieval head", test, eye.embeddings(problem.responses(test))
    yield "MindEyeDecoder, tokens", AVERAGE, eye.predict(problem.responses(AVERAGE))
    reader = brainenc.MindReaderDecoder(device="cpu").fit(betas[train], tokens[train])
    yield "MindReaderDecoder", AVERAGE, reader.predict(problem.responses(AVERAGE))


def nulls(problem: Problem) -> Iterator[tuple[str, str, Any]]:
    """Rows that say what a score means."""
    train, betas, tokens = problem.train, problem.betas, problem.tokens
    responses = problem.responses(AVERAGE)
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(train)
        decoder = brainenc.RidgeDecoder()
        found = decoder.fit(betas[train], tokens[shuffled]).predict(responses)
        yield f"training images permuted, {seed}", AVERAGE, found
    mean = tokens[train].mean(axis=0)
    yield "training mean", AVERAGE, np.broadcast_to(mean, problem.targets.shape)
    whole = betas.mean(axis=2, keepdims=True)
    regions = np.stack([betas[..., voxels].mean(axis=2) for voxels in problem.rois.values()], 2)
    for name, means in (("mean of all voxels", whole), ("ROI means", regions)):
        decoder = brainenc.RidgeDecoder().fit(means[train], tokens[train])
        yield name, AVERAGE, decoder.predict(means[problem.test])
    labels = problem.category
    of_category = {
        name: tokens[train][labels[train] == name].mean(axis=0) for name in set(labels[train])
    }
    known = np.stack([of_category.get(name, mean) for name in labels[problem.test]])
    yield "category known", AVERAGE, known
    first, third = average_repeats(betas[problem.test][:, :2]), betas[problem.test][:, 2]
    present = np.isfinite(third).all(axis=1)
    r = metrics.cosine_similarity(
        *(part[present] - part[present].mean(axis=1, keepdims=True) for part in (first, third))
    )
    yield "repeats 1 and 2 against repeat 3", "no model", {"correlation": r}


def scored(
    problem: Problem, name: str, test: str, found: Any, arguments: argparse.Namespace
) -> Iterator[dict]:
    """A row of the table for each similarity."""
    more = {}
    if not isinstance(found, dict):
        targets, flat = problem.targets, found.reshape(len(found), -1)
        mean = problem.tokens[problem.train].mean(axis=0)
        more = {
            "relative MSE": np.square(found - targets).mean() / np.square(mean - targets).mean(),
            "output dimension": metrics.output_dimension(flat, targets.reshape(len(flat), -1)),
        }
        found = metrics.similarities(found, targets, training_mean=mean)
    else:
        ((method, values),) = found.items()
        found = {method: values, f"{method} + {CSLS}": metrics.csls(values)}
    for label, values in found.items():
        ids = np.arange(len(values))
        result = metrics.retrieval(
            values, query_ids=ids, candidate_ids=ids, pool_size=arguments.pool_size
        )
        row = {"decoder": name, "responses": test, "similarity": label}
        for direction in DIRECTIONS:
            part = result.image if direction == DIRECTIONS[0] else result.brain
            low, high = result.interval(direction)
            title = direction.replace("_", " ")
            row |= {
                f"{title} %": 100 * part.score,
                f"{title} % low": 100 * low,
                f"{title} % high": 100 * high,
                f"{title} rank": part.median_rank,
            }
        yield {
            **row,
            "chance %": 100 * result.image.chance,
            "undefined": result.n_undefined,
            **more,
        }


def permuted_mean(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over permutations, and their standard error in place of the interval."""
    some = table[table["decoder"].str.startswith("training images permuted")]
    rows = []
    for label, part in some.groupby("similarity", sort=False):
        row = {
            "decoder": "training images permuted, mean of 5",
            "responses": AVERAGE,
            "similarity": label,
            "chance %": part["chance %"].iloc[0],
            "undefined": 0,
        }
        for direction in DIRECTIONS:
            title = f"{direction.replace('_', ' ')} %"
            mean, error = part[title].mean(), part[title].std() / np.sqrt(len(part))
            row |= {
                title: mean,
                f"{title} low": mean - 3 * error,
                f"{title} high": mean + 3 * error,
            }
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
