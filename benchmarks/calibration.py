"""Whether draws and intervals fit held-out single trials: simulated subject, Miyawaki, V4.

Every image is tested in a fold whose encoders did not see it. Draws are compared with its single
trials, never with their average. Run as

    python benchmarks/calibration.py --out docs/results

``--encoders ridge,latent,synbrain,mindsimulator`` adds rows: "synbrain" is SynBrain at the small
sizes of the other SynBrain benchmarks, whose draws are latent alone.
"""

import argparse
import copy
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import scoringrules
from synbrain_common import published_unit, show, small_synbrain, write

import brainenc
from brainenc import metrics
from brainenc.benchmarking.manifest import data_hash, versions
from brainenc.benchmarking.split import trial_sd
from brainenc.encoders import CalibratedEncoder, make_encoder
from brainenc.metrics.variances import mean_square_deviations
from brainenc.model_selection import image_folds
from brainenc.noise.gaussian import ResidualNoise

REPOSITORY = Path(__file__).resolve().parents[1]
FIGURES, V4 = "miyawaki2008_s1_v1", "cowley2023_v4_210325"

INDEPENDENT, TRUTH = "ridge + independent Gaussian", "true distribution"
NOISELESS = "latent trained without noise + true noise"
SYNBRAIN = "synbrain"

#: Draws of a block of images held at once: 128 MB.
BLOCK_VALUES = 2**25


def main() -> None:
    arguments = parse_arguments()
    subjects = list(load_subjects(arguments))
    rows: list[dict] = []
    roi_rows: list[dict] = []
    for data, features in subjects:
        of_data, of_rois = score_subject(data, features, arguments)
        rows += of_data
        roi_rows += of_rois
        show({data.name: pd.DataFrame(of_data)})
    tables = {
        "scores": pd.DataFrame(rows),
        "rois": pd.DataFrame(roi_rows),
        "noise_correlations": noise_correlations(arguments),
    }
    show(tables)
    if arguments.out is not None:
        manifest = {
            "command": shlex.join(["python", "benchmarks/calibration.py", *sys.argv[1:]]),
            "versions": versions(),
            "data": {data.name: data_hash(data) for data, _ in subjects},
            "settings": {k: str(v) for k, v in vars(arguments).items() if k not in ("data", "out")},
        }
        write(arguments.out, "calibration", tables, manifest)


def parse_arguments() -> argparse.Namespace:
    fallback = os.environ.get("BRAINENC_TEST_DATA", REPOSITORY.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(fallback), help="folder of the files")
    parser.add_argument("--out", type=Path, help="folder for CSV tables and manifest")
    parser.add_argument("--encoders", default="ridge,latent", help="short names")
    parser.add_argument("--calibrated", default="ridge", help="those to calibrate as well")
    parser.add_argument(
        "--synbrain-steps", type=int, default=200, help="of SynBrain's autoencoder, per fold"
    )
    parser.add_argument("--folds", type=int, default=5, help="how many of the five to test")
    parser.add_argument("--only", default="simulated,miyawaki,v4", help="data sets")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--images", type=int, default=600, help="simulated images")
    parser.add_argument("--voxels", type=int, default=800, help="simulated voxels")
    parser.add_argument("--seeds", type=int, default=3, help="subjects for noise correlations")
    return parser.parse_args()


def load_subjects(arguments) -> Iterator[tuple[brainenc.EncodingData, np.ndarray]]:
    """Data and features: the simulated network's tokens, pixels of figures, Gabor energies."""
    chosen = arguments.only.split(",")
    if "simulated" in chosen:
        data = brainenc.datasets.simulate_subject(
            arguments.images, arguments.voxels, random_state=0
        )
        yield data, data.truth.tokens
    extractors = {
        FIGURES: ("miyawaki", brainenc.PixelFeatures(verbose=False)),
        V4: ("v4", brainenc.GaborPyramid(verbose=False)),
    }
    for name, (short, extractor) in extractors.items():
        path = arguments.data / f"{name}.npz"
        if short in chosen and not path.exists():
            print(f"{path} is not there and is left out; give --data")
        elif short in chosen:
            data = brainenc.load_npz(path)
            yield data, extractor.fit_transform(data.images)


# ------------------------------------------------------------------ scores of held-out trials


def score_subject(data, features: np.ndarray, arguments) -> tuple[list[dict], list[dict]]:
    """Scores of every encoder, and their 90 % coverage by ROI."""
    found: dict[str, list[dict]] = {}
    sd = trial_sd(data.betas)
    folds = image_folds(5, data.n_images, random_state=0)[: arguments.folds]
    for number, (train, test) in enumerate(folds):
        for name, draw, interval in drawers(data, features, train, test, arguments):
            trials = data.betas[test]
            fold = list(score_draws(draw, interval, trials, sd, arguments.draws))
            found.setdefault(name, []).extend(part | {"fold": number} for part in fold)
            print(f"{data.name}: {name}, {len(test)} images", flush=True)
    rows, roi_rows = [], []
    rois = {"all": np.arange(data.n_voxels), **data.rois()}
    for name, parts in found.items():
        rows.append({"data": data.name, "encoder": name, **summary(parts)})
        inside, n = (sum(part[k] for part in parts) for k in ("inside_90", "n"))
        for roi, voxels in rois.items():
            coverage = inside[voxels].sum() / n[voxels].sum()
            roi_rows.append(
                {"data": data.name, "encoder": name, "roi": roi, "coverage 90": coverage}
            )
    return rows, roi_rows


def drawers(data, features, train, test, arguments):
    """Name, draws (images: slice) -> array, and intervals or None."""
    n, X = arguments.draws, features[test]
    seen = features[train], data.betas[train]
    for name in arguments.encoders.split(","):
        encoder = make(name, arguments).fit(*seen)
        yield name, lambda images, e=encoder: e.sample(X[images], n, 1), None
        if name == "ridge":
            alone = copy.copy(encoder)
            noise = encoder.noise_
            noise = ResidualNoise(0 * noise.factors[:0], np.sqrt(noise.variance))
            alone.trials_ = replace(encoder.trials_, noise=noise, shape=None)
            yield INDEPENDENT, lambda images, e=alone: e.sample(X[images], n, 1), None
        if name not in arguments.calibrated.split(","):
            continue
        rois = data.voxels["roi"] if "roi" in data.voxels else np.zeros(data.n_voxels)
        groups = None if len(train) >= 50 else np.asarray(rois)
        fixed = CalibratedEncoder(make(name, arguments), groups=groups).fit(*seen)
        # A coverage of .9 takes nine images.
        intervals = partial(interval_of, fixed, X) if len(train) >= 9 else None
        yield f"{name}, calibrated", lambda images, e=fixed: e.sample(X[images], n, 1), intervals
    if data.truth is not None:
        truth = data.truth
        yield TRUTH, lambda images: truth.select(images=test[images]).sample(n, 1), None
        # How far from the truth would so many images of these features be without any noise?
        clean = make("latent", arguments).fit(seen[0], truth.signal[train][:, None])
        signal = truth.signal.copy()
        signal[test] = clean.predict(X)
        near = replace(truth, signal=signal)
        yield NOISELESS, lambda images: near.select(images=test[images]).sample(n, 1), None


def make(name: str, arguments):
    if name == SYNBRAIN:
        return SmallSynBrain(arguments.synbrain_steps)
    return make_encoder(name, features=None)


class SmallSynBrain:
    """The small SynBrain, fitted to betas in the unit its loss is made for."""

    def __init__(self, n_steps: int):
        self.n_steps = n_steps

    def fit(self, X, betas):
        self.unit = np.float32(published_unit(betas))
        n_trials = int(np.isfinite(betas).any(axis=2).sum())
        self.encoder = small_synbrain(n_trials, self.n_steps).fit(X, betas * self.unit)
        return self

    def sample(self, X, n, random_state):
        return self.encoder.sample(X, n, random_state) / self.unit


def interval_of(encoder, X, images):
    return encoder.predict_interval(X[images])


def score_draws(draw, interval, trials, sd, n_draws) -> Iterator[dict]:
    """Sums over trials per voxel, block by block of images."""
    size = max(1, BLOCK_VALUES // (n_draws * trials.shape[2]))
    for start in range(0, len(trials), size):
        images = slice(start, start + size)
        draws, block = draw(images), trials[images]
        present = np.isfinite(block) & np.isfinite(draws[0])[:, None]
        ordered = np.sort(np.moveaxis(draws, 0, -1))  # once for all scores
        low, q25, q75, high = (quantile(ordered, p) for p in (0.05, 0.25, 0.75, 0.95))
        conformal = (low, high) if interval is None else interval(images)
        rank, crps = np.empty_like(block), np.empty_like(block)
        for r in range(block.shape[1]):
            rank[:, r] = (draws < block[:, r]).mean(axis=0)
            crps[:, r] = scoringrules.crps_ensemble(
                block[:, r], ordered, sorted_ensemble=True, estimator="pwm"
            )
        yield {
            "n": present.sum(axis=(0, 1)),
            "crps": total(crps / sd, present),
            "inside_50": total(between(block, q25, q75), present),
            "inside_90": total(between(block, low, high), present),
            "interval_90": total(between(block, *conformal), present),
            "drawn": draws.var(0, ddof=1).sum(axis=0),
            "measured": mean_square_deviations(draws.mean(0), block)
            - draws.var(0, ddof=1) / n_draws,
            "pit": np.histogram(rank[present], bins=10, range=(0, 1))[0],
        }


def quantile(ordered, p):
    """As numpy's, of values sorted along the last axis."""
    position = p * (ordered.shape[-1] - 1)
    lower = int(position)
    share = position - lower
    return (1 - share) * ordered[..., lower] + share * ordered[
        ..., min(lower + 1, ordered.shape[-1] - 1)
    ]


def between(block, low, high):
    return (block >= low[:, None]) & (block <= high[:, None])


def total(values, present):
    return np.where(present, values, 0).sum(axis=(0, 1), dtype=np.float64)


def summary(parts: list[dict]) -> dict:
    variances = agreement(parts)
    sums = {key: sum(part[key] for part in parts) for key in parts[0] if key != "measured"}
    n, known = sums["n"], sums["n"] > 0
    pit = sums["pit"] / sums["pit"].sum()
    return {
        "CRPS (z)": np.mean(sums["crps"][known] / n[known]),
        "coverage 50": sums["inside_50"].sum() / n.sum(),
        "coverage 90": sums["inside_90"].sum() / n.sum(),
        "interval 90": sums["interval_90"].sum() / n.sum(),
        "variance slope": variances.slope.value,
        "slope low": variances.slope.low,
        "slope high": variances.slope.high,
        "variance r": variances.r.value,
        "PIT lowest": 10 * pit.min(),
        "PIT highest": 10 * pit.max(),
    }


def agreement(parts: list[dict]) -> metrics.VarianceAgreement:
    """Of the variance of draws with that of trials: every image with draws of its own fold."""
    folds = np.repeat([part["fold"] for part in parts], [len(part["measured"]) for part in parts])
    drawn = [
        sum(part["drawn"] for part in parts if part["fold"] == fold) / (folds == fold).sum()
        for fold in np.unique(folds)
    ]
    measured = np.concatenate([part["measured"] for part in parts])
    return metrics.variance_agreement(np.stack(drawn), measured, folds=folds)


# ------------------------------------------------------------------ noise correlations


def noise_correlations(arguments) -> pd.DataFrame:
    """Agreement with the truth of simulated subjects: r over pairs of voxels.

    Estimates are from all the images of a subject; draws are of 100 more images.
    """
    rows = []
    for seed in range(arguments.seeds if "simulated" in arguments.only else 0):
        data = brainenc.datasets.simulate_subject(
            arguments.images + 100, arguments.voxels, random_state=seed
        )
        true = correlations(data.truth.noise_covariance())
        for name, covariance in estimates(data, arguments):
            agreement = np.corrcoef(correlations(covariance), true)[0, 1]
            rows.append({"estimate": name, "agreement": agreement})
    if not rows:
        return pd.DataFrame()
    by_estimate = pd.DataFrame(rows).groupby("estimate", sort=False)["agreement"]
    return by_estimate.agg(["mean", "min", "max"]).reset_index()


def estimates(data, arguments) -> Iterator[tuple[str, np.ndarray]]:
    train, new = slice(arguments.images), slice(arguments.images, None)
    X, betas = data.truth.tokens, data.betas[train]
    zscored = data.zscore_by_session().betas[train]
    yield "noise_model", brainenc.noise_model(betas).noise.covariance()
    yield "noise_model, z by session", brainenc.noise_model(zscored).noise.covariance()
    for name in arguments.encoders.split(","):
        encoder = make(name, arguments).fit(X[train], betas)
        if name == SYNBRAIN:
            draws = encoder.sample(X[new], arguments.draws, 0)
            yield f"draws of {name}, noise='latent'", covariance_within_images(draws)
            continue
        for noise in ("full", "trial"):
            draws = encoder.sample(X[new], arguments.draws, 0, noise=noise)
            yield f"draws of {name}, noise={noise!r}", covariance_within_images(draws)


def covariance_within_images(draws: np.ndarray) -> np.ndarray:
    deviations = (draws - draws.mean(axis=0)).reshape(-1, draws.shape[2])
    return deviations.T @ deviations / len(deviations)


def correlations(covariance: np.ndarray) -> np.ndarray:
    """Off-diagonal correlations, every pair of voxels once."""
    sd = np.sqrt(np.diag(covariance))
    return (covariance / np.outer(sd, sd))[np.triu_indices(len(sd), 1)]


if __name__ == "__main__":
    main()
