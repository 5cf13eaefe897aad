"""Whether draws are scored, if nobody said so."""

import numpy as np
import pytest

import brainenc

SMALL = {"n_bootstraps": 10, "n_permutations": 10, "check": False, "verbose": False, "cv": 2}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    X = images.reshape(40, -1)[:, :5].astype(float)
    return brainenc.EncodingData(images, X[:, None, :4] + 50 * rng.standard_normal((40, 2, 4)))


RIDGE = brainenc.RidgeEncoder(brainenc.PixelFeatures((2, 2), verbose=False))


def test_draws_nobody_asked_for_are_not_scored(data, tmp_path):
    result = brainenc.benchmark(data, {"ridge": RIDGE}, **SMALL)
    assert result.draws.empty
    assert "crps" not in result.encoders
    assert result.manifest["settings"]["n_draws"] == 0
    assert 'id="draws"' not in result.to_html(tmp_path / "report.html").read_text("utf-8")


def test_draws_are_scored_on_request(data):
    result = brainenc.benchmark(data, {"ridge": RIDGE}, n_draws=20, **SMALL)
    assert result.manifest["settings"]["n_draws"] == 20
    assert np.isfinite(result.encoders.set_index("encoder").loc["ridge", "crps"])


def test_an_encoder_that_claims_a_distribution_has_its_draws_scored(data):
    encoders = {"ridge": RIDGE, "calibrated": brainenc.CalibratedEncoder(RIDGE)}
    result = brainenc.benchmark(data, encoders, **SMALL)
    assert result.manifest["settings"]["n_draws"] == 200
    assert result.encoders.set_index("encoder")["crps"][["ridge", "calibrated"]].notna().all()
    none = brainenc.benchmark(data, encoders, n_draws=0, **SMALL)
    assert none.draws.empty
