"""What the benchmark says of sessions and of features with betas in them."""

import dataclasses

import numpy as np
import pytest

import brainenc
from brainenc.data.cheap_features import cheap_features

SMALL = {"n_bootstraps": 200, "n_permutations": 20, "n_draws": 0, "verbose": False}


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(240, 60, image_size=48)


@pytest.fixture(scope="module")
def features(data):
    return cheap_features(data.images)


def run(data, features, **arguments):
    return brainenc.benchmark(
        data,
        {"ridge": brainenc.RidgeEncoder()},
        features=features,
        **{"check": False, **SMALL, **arguments},
    )


def confounded(data, *, responses=True):
    """Sessions by brightness of the image, with offsets of one s.d. of a trial."""
    brightness = data.images.reshape(data.n_images, -1).mean(axis=1)
    session = np.argsort(np.argsort(brightness)) * 4 // data.n_images
    rng = np.random.default_rng(0)
    sd = np.nanstd(data.betas, axis=(0, 1))
    betas = data.betas if responses else sd * rng.standard_normal(data.betas.shape)
    betas = betas + (sd * rng.standard_normal((4, data.n_voxels)))[session][:, None]
    trials = data.trials.assign(session=session[data.trials["image"]])
    betas = np.where(np.isnan(data.betas), np.nan, betas).astype(np.float32)
    return dataclasses.replace(data, betas=betas, trials=trials, truth=None)


def test_scores_within_sessions_stand_beside_the_others(data, features):
    """Sessions at random: nothing changes but the noise of their offsets."""
    result = run(data, features)
    table = result.encoders.set_index("encoder").loc["ridge"]
    assert table["r_within_session"] == pytest.approx(table["r"], abs=0.02)
    maps = result.maps[result.maps["encoder"] == "ridge"]
    assert maps["r_within_session"].mean() == pytest.approx(table["r_within_session"])
    rois = result.rois.query("encoder == 'ridge' and roi == 'V1v'")
    of_roi = maps.query("roi == 'V1v'")["r_within_session"]
    assert rois["r_within_session"].item() == pytest.approx(of_roi.mean())
    assert not any("within session" in warning for warning in result.warnings)


def test_a_score_that_sessions_explain_is_warned_of(data, features):
    """Voxels that do not respond: all of r and of the ceiling is offsets."""
    result = run(confounded(data, responses=False), features)
    table = result.encoders.set_index("encoder").loc["ridge"]
    assert table["r"] > 0.1
    assert abs(table["r_within_session"]) < 0.05
    text = "\n".join(result.warnings)
    assert "ridge: r is 0." in text
    assert "The noise ceiling is 0." in text
    assert "data.zscore_by_session() removes the offsets of sessions" in text
    cured = run(confounded(data, responses=False).zscore_by_session(), features)
    assert not any("session" in warning for warning in cured.warnings)


def test_the_check_comes_first(data, features):
    with pytest.warns(UserWarning, match="cannot be distinguished from offsets of sessions"):
        result = run(confounded(data), features, check=True)
    assert result.warnings[0].startswith("responses to images cannot be distinguished")


def test_without_sessions_there_is_no_column(data, features):
    plain = dataclasses.replace(data, trials=data.trials[["image", "repeat"]])
    assert "r_within_session" not in run(plain, features).encoders


@pytest.mark.slow
def test_betas_as_features_are_warned_of(data):
    leak = np.nan_to_num(data.betas[:, 0])
    with pytest.warns(UserWarning, match="the features of ridge seem to contain the betas"):
        result = run(data, leak, check=True)
    assert any("seem to contain the betas" in warning for warning in result.warnings)
    assert not any("seem to contain" in warning for warning in run(data, leak).warnings)


def test_the_tables_are_read_back(data, features, tmp_path):
    result = run(data, features, out=tmp_path / "run")
    loaded = brainenc.benchmarking.BenchmarkResult.load(tmp_path / "run")
    np.testing.assert_allclose(loaded.maps["r_within_session"], result.maps["r_within_session"])
    result.to_html(tmp_path / "report.html")
