"""What benchmarks that compare encoders share: data sets, and tables of differences to ridge."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import brainenc
from brainenc.features import make_features

REPOSITORY = Path(__file__).resolve().parents[1]

#: Where measured data are looked for unless `--data` says otherwise.
DATA = Path(os.environ.get("BRAINENC_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


class Subject(NamedTuple):
    """A data set, and the features that all encoders get."""

    title: str
    data: brainenc.EncodingData
    features: Any


def simulated(n_images: int, n_voxels: int, seed: int = 0) -> Callable[[Path], Subject]:
    def make(folder: Path) -> Subject:
        data = brainenc.datasets.simulate_subject(n_images, n_voxels, random_state=seed)
        title = f"simulated, {n_images} × {n_voxels}" + (f", seed {seed}" if seed else "")
        return Subject(title, data, data.truth.tokens)

    return make


def measured(name: str, title: str, features: Any) -> Callable[[Path], Subject]:
    def make(folder: Path) -> Subject:
        data = brainenc.load_npz(folder / f"{name}.npz")
        return Subject(title, data, features)

    return make


def averages(name: str, title: str, features: Any) -> Callable[[Path], Subject]:
    """A folder with photographs and their responses, averaged over repeats."""

    def make(folder: Path) -> Subject:
        responses = np.load(folder / name / "responses.npy")
        images = brainenc.ImageFiles.from_folder(folder / name / "images")
        data = brainenc.EncodingData(images, responses[:, None], name=name)
        return Subject(title, data, features)

    return make


SETS: dict[str, Callable[[Path], Subject]] = {
    "small": simulated(300, 300),
    "medium": simulated(600, 800),
    "large": simulated(1500, 800),
    "miyawaki": measured(
        "miyawaki2008_s1_v1", "Miyawaki, V1 fMRI", brainenc.PixelFeatures(verbose=False)
    ),
    "v4": measured(
        "cowley2023_v4_210325",
        "Cowley, V4 spikes",
        brainenc.GaborPyramid(verbose=False),
    ),
}

#: Sessions without single trials, for which there are no ceilings and no scores of draws.
SESSIONS: dict[str, Callable[[Path], Subject]] = {
    f"v4-{session}": averages(
        f"cowley2023_v4_{session}",
        f"Cowley, V4 spikes, session {session}",
        brainenc.GaborPyramid(verbose=False),
    )
    for session in ("190923", "210225")
}


def with_features(subject: Subject, spec: str | None, store: Path | None = None) -> Subject:
    """The data set with other features of its images, by their name on the command line.

    ``None`` leaves those that the set has; see `brainenc.features.make_features`.
    """
    if spec is None:
        return subject
    extractor = make_features(spec, store=store, verbose=False)
    return subject._replace(title=f"{subject.title}, {spec}", features=extractor)


def score_table(
    subject: Subject, result: brainenc.BenchmarkResult, reference: str = "ridge"
) -> pd.DataFrame:
    """One row per encoder, with the paired bootstrap of its mean r minus that of a reference."""
    scores = result.encoders
    for encoder, error in zip(scores["encoder"], scores["error"], strict=True):
        if error:
            print(f"{encoder} failed on {subject.title}: {error}")
    table = pd.DataFrame(
        {
            "data": subject.title,
            "encoder": scores["encoder"],
            "r": scores["r"],
            "95 %": list(map(interval, scores["r_low"], scores["r_high"])),
            "ceiling of r": scores["noise_ceiling"],
            "r / ceiling": scores["r_normalized"],
            "MSE (z)": scores["mse_z"],
            "pattern r": scores["pattern_r"],
        }
    )
    against = pd.DataFrame([against_other(result, name, reference) for name in scores["encoder"]])
    return pd.concat([table, against, scores["fit_seconds"].rename("fit, s")], axis=1)


def against_ridge(result: brainenc.BenchmarkResult, encoder: str, roi: str = "all") -> dict:
    """Paired bootstrap over images: mean r of an encoder minus that of ridge."""
    return against_other(result, encoder, "ridge", roi)


def against_other(
    result: brainenc.BenchmarkResult, encoder: str, other: str, roi: str = "all"
) -> dict:
    """Paired bootstrap over images: mean r of an encoder minus that of another one."""
    found = result.pairs.query(
        "metric == 'r' and encoder_a == @encoder and encoder_b == @other and roi == @roi"
    )
    names = [f"r − {other}", "95 % of it", "p"]
    if found.empty or not np.isfinite(found["difference"].iloc[0]):
        return dict.fromkeys(names, np.nan)
    row = found.iloc[0]
    values = [row["difference"], interval(row["low"], row["high"]), row["p"]]
    return dict(zip(names, values, strict=True))


def interval(low: float, high: float) -> Any:
    return f"{low:.3f} – {high:.3f}" if np.isfinite(low) else np.nan
