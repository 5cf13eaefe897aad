import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc.benchmarking import BenchmarkResult
from brainenc.report import render_report, styled

VOXEL_METRICS = ("r", "r_normalized", "r2", "mse", "mse_z", "mse_trials", "mse_z_trials")
IMAGE_METRICS = ("pattern_r", "pattern_mse", "pattern_cosine", "identification", "rdm_correlation")


def scores_row(rng, metrics):
    row = {}
    for metric in metrics:
        row[metric] = rng.uniform(0.2, 0.6)
        row[f"{metric}_low"] = row[metric] - rng.uniform(0.01, 0.05)
        row[f"{metric}_high"] = row[metric] + rng.uniform(0.01, 0.05)
    return row


def pair_rows(rng, names, places):
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            for metric in ("r", "mse_z"):
                for atlas, roi in places:
                    difference = rng.normal(0, 0.02)
                    row = {"encoder_a": a, "encoder_b": b, "metric": metric, "atlas": atlas}
                    row |= {"roi": roi, "difference": difference, "low": difference - 0.01}
                    yield row | {"high": difference + 0.01, "p": 0.2, "n_voxels": 7}


def make_result(names=("mean", "ridge"), roi_names=("V1", "V2"), n_voxels=40, seed=0, **changes):
    """Tables of the right shape, with random numbers, and no link between them."""
    rng = np.random.default_rng(seed)
    counts = {"n_voxels": n_voxels, "n_undefined": 3, "n_voxels_normalized": n_voxels - 5}
    voxelwise = [
        {"encoder": name, **scores_row(rng, VOXEL_METRICS), "noise_ceiling": 0.7, **counts}
        for name in names
    ]
    cost = {"fit_seconds": 1.5, "predict_images_per_second": 2000.0, "peak_memory_mb": 12.5}
    table = pd.DataFrame(
        [
            {**row, **scores_row(rng, (*IMAGE_METRICS, "cka")), "n_significant": 9, **cost}
            for row in voxelwise
        ]
    ).assign(error=None)
    roi_rows = [
        {"encoder": name, "atlas": "visual", "roi": roi, **scores_row(rng, VOXEL_METRICS)}
        | {**counts, "n_voxels": n_voxels + i, "noise_ceiling": 0.6 + 0.01 * i}
        for name in names
        for i, roi in enumerate(roi_names)
    ]
    maps = [
        pd.DataFrame(
            {
                "encoder": name,
                "voxel": np.arange(n_voxels),
                "r": rng.normal(0.3, 0.1, n_voxels),
                "noise_ceiling": rng.uniform(0, 0.9, n_voxels),
            }
        ).assign(
            **(
                {"visual": np.resize(np.array(roi_names, dtype=object), n_voxels)}
                if roi_names
                else {}
            )
        )
        for name in names
    ]
    places = [("all", "all"), *(("visual", roi) for roi in roi_names)]
    columns = ["encoder_a", "encoder_b", "metric", "atlas", "roi"]
    columns += ["difference", "low", "high", "p", "n_voxels"]
    parts = {
        "encoders": table,
        "rois": pd.DataFrame(
            roi_rows or None, columns=None if roi_names else ["encoder", "atlas", "roi"]
        ),
        "pairs": pd.DataFrame(list(pair_rows(rng, list(names), places)), columns=columns),
        "maps": pd.concat(maps, ignore_index=True),
        "voxels": pd.DataFrame(columns=["encoder"]),
        "manifest": {"data": {"name": "subject 1", "n_images": 50, "n_repeats": 3}},
        "warnings": [],
    }
    return BenchmarkResult(**{**parts, **changes})


@pytest.fixture
def in_report_style():
    """Figures as the report draws them: titles on the left, and so on."""
    with styled():
        yield


@pytest.fixture(scope="session", name="make_result")
def make_result_fixture():
    return make_result


@pytest.fixture(scope="session")
def result():
    """A real run: small, but with every part of the page."""
    data = brainenc.datasets.simulate_subject(n_images=90, n_voxels=60, random_state=0)
    pixels = brainenc.PixelFeatures(verbose=False)
    encoders = {
        "ridge": brainenc.RidgeEncoder(features=pixels),
        "banded": brainenc.BandedRidgeEncoder(features=pixels, n_iter=2),
    }
    return brainenc.benchmark(
        data, encoders, cv=3, n_bootstraps=100, n_permutations=50, n_draws=200, verbose=False
    )


@pytest.fixture(scope="session")
def html(result):
    return render_report(result)
