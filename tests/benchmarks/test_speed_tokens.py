"""The rows of ridge on all tokens: each has a speed, and the encoder predicts what was put in."""

import sys

import numpy as np
from conftest import REPOSITORY

from brainenc import arrays

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import measuring
import speed_tokens


def test_rows_have_speeds_and_predictions(tmp_path):
    former = arrays.LARGE_FEATURES
    with measuring.deadline(60, processes=False):
        rows = list(speed_tokens.rows_of((180, 6, 50), tmp_path))
    assert former == arrays.LARGE_FEATURES
    assert not list(tmp_path.iterdir())
    assert all(np.isfinite(row["s"]) for row in rows)
    assert {"GB/s", "share of GEMM", "share of SYRK"} <= rows[0].keys()
    kernels = [row for row in rows if "GFLOP/s" in row]
    assert len(kernels) == 3
    for row in kernels:
        assert np.isclose(row["share of GEMM"] * row["GEMM GFLOP/s"], row["GFLOP/s"])
    assert next(row["mean r"] for row in rows if "mean r" in row) > 0.3
