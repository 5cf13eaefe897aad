"""Fitted encoders scored without a fit: against a benchmark, counted, and refused."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

import brainenc
from brainenc.benchmarking import BenchmarkResult
from brainenc.data.splits import held_out_images
from brainenc.encoders import BaseEncoder
from brainenc.encoders.training_images import marks_of, trained_on

FEW = {"n_bootstraps": 30, "n_permutations": 19, "n_draws": 10, "check": False, "verbose": False}
TEST = held_out_images(0.3, 150)


def pixels():
    return brainenc.PixelFeatures(size=8, verbose=False)


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(150, 20, random_state=0, verbose=False)


@pytest.fixture(scope="module")
def split(data):
    return data.select(images=~TEST), data.select(images=TEST)


@pytest.fixture(scope="module")
def fitted(split):
    train, _ = split
    return brainenc.RidgeEncoder(pixels()).fit(train.images, train.betas)


def test_scores_are_those_of_a_benchmark_with_this_test_set(data, split, fitted):
    train, test = split
    result = brainenc.evaluate(test, {"ridge": fitted}, train=train, **FEW)
    whole = brainenc.benchmark(
        data, {"ridge": brainenc.RidgeEncoder(pixels())}, test=TEST, controls=False, **FEW
    )
    assert np.array_equal(result.predictions("ridge"), whole.predictions("ridge")[TEST])
    # The ceiling of a benchmark has signal and noise from all images, and is another.
    columns = ["r", "r_low", "r_high", "r2", "mse", "mse_z", "mse_trials", "pattern_r"]
    ours, theirs = (found.encoders.set_index("encoder") for found in (result, whole))
    for name in ("mean", "ridge"):
        np.testing.assert_allclose(
            ours.loc[name, columns].astype(float), theirs.loc[name, columns].astype(float), 1e-4
        )
    ours, theirs = (
        found.draws.query("roi == 'all' and encoder == 'ridge'") for found in (result, whole)
    )
    assert ours["crps"].item() == pytest.approx(theirs["crps"].item(), rel=1e-5)
    ceiling = test.noise_ceiling().to("r").values
    of_ridge = result.maps[result.maps["encoder"] == "ridge"]
    np.testing.assert_allclose(of_ridge["noise_ceiling"], ceiling)


def test_nothing_is_fitted(split, fitted, monkeypatch, tmp_path):
    train, test = split
    folder = fitted.save(tmp_path / "model", voxels=train.voxels)
    stacked = brainenc.StackedEncoder({"a": brainenc.RidgeEncoder(pixels())})
    stacked.fit(train.images, train.betas)
    fits = []

    def fit(self, *args, **kwargs):
        fits.append(type(self).__name__)
        raise AssertionError("fitted")

    for name in ("fit", "fit_held_out", "_fit_all"):
        monkeypatch.setattr(BaseEncoder, name, fit)
    result = brainenc.evaluate(test, {"ridge": folder, "stacked": stacked}, **FEW)
    assert fits == []
    assert (result.encoders["error"] == "").all()
    assert np.isnan(result.encoders["fit_seconds"]).all()
    assert np.array_equal(result.predictions("ridge"), fitted.predict(test.images))
    page = result.to_html(tmp_path / "report.html").read_text()
    assert "nothing was fitted here" in page
    assert "No test image has the features of a training image." in page
    assert "single trials of the test data" in page
    assert "were fitted and scored" not in page


def test_the_null_is_the_mean_of_the_training_responses(split, fitted):
    train, test = split
    with np.errstate(invalid="ignore"):
        averages = np.nanmean(train.betas, axis=1)
    expected = averages.mean(axis=0)
    for given in ({}, {"train": train}):
        found = brainenc.evaluate(test, {"ridge": fitted}, **given, **FEW).predictions("mean")
        np.testing.assert_allclose(found, np.tile(expected, (test.n_images, 1)), rtol=1e-5)
    # Two training sets have two means, and a mean encoder among those given is the null.
    half = train.select(images=np.arange(50))
    other = brainenc.RidgeEncoder(pixels()).fit(half.images, half.betas)
    two = brainenc.evaluate(test, {"a": fitted, "b": other}, **FEW)
    assert list(two.encoders["encoder"]) == ["mean (of a)", "mean (of b)", "a", "b"]
    mean = brainenc.MeanEncoder().fit(train.images, train.betas)
    given = brainenc.evaluate(test, {"null": mean, "ridge": fitted}, **FEW)
    assert list(given.encoders["encoder"]) == ["null", "ridge"]


def test_units_of_z_are_the_trials_of_the_training_data_or_else_of_the_test_data(split, fitted):
    train, test = split
    for source, given in ((test, {}), (train, {"train": train})):
        result = brainenc.evaluate(test, {"ridge": fitted}, **given, **FEW)
        row = result.maps[result.maps["encoder"] == "ridge"]
        sd = np.nanstd(source.betas, axis=(0, 1))
        np.testing.assert_allclose(row["mse_z"], row["mse"] / sd**2, rtol=1e-4)


def test_training_images_among_the_test_images_are_named(data, split, fitted, tmp_path):
    train, test = split
    some = np.flatnonzero(~TEST)[[4, 9]]
    mixed = data.select(images=np.concatenate([some, np.flatnonzero(TEST)]))
    loaded = fitted.save(tmp_path / "model")
    result = brainenc.evaluate(mixed, {"ridge": loaded}, **FEW)
    assert result.manifest["evaluation"]["ridge"]["n_seen"] == 2
    named = [warning for warning in result.warnings if "was fitted to" in warning]
    assert len(named) == 1
    assert "2 of the 47 test images" in named[0]
    assert "rows 0, 1)" in named[0]
    clean = brainenc.evaluate(test, {"ridge": loaded}, train=train, **FEW)
    assert clean.manifest["evaluation"]["ridge"]["n_seen"] == 0
    assert not [warning for warning in clean.warnings if "fitted to" in warning]
    # A near copy has other features; it is found in the training pictures.
    images = np.array(test.images)
    images[3] = np.clip(train.images[8].astype(int) + 3, 0, 255)
    altered = dataclasses.replace(test, images=images, truth=None)
    result = brainenc.evaluate(altered, {"ridge": fitted}, train=train, **FEW)
    assert any("1 of 45 test images have a near copy" in warning for warning in result.warnings)


def test_what_is_unknown_is_said(split):
    train, test = split
    averages = np.nanmean(train.betas, axis=1)
    plain = make_pipeline(pixels(), Ridge()).fit(train.images, averages)
    result = brainenc.evaluate(test, {"plain": plain}, **FEW)
    assert list(result.encoders["encoder"]) == ["plain"]
    expected = plain.predict(test.images)
    np.testing.assert_allclose(result.predictions("plain"), expected, rtol=1e-4, atol=1e-5)
    assert result.manifest["evaluation"]["plain"]["n_seen"] is None
    assert any("unknown which images plain was fitted to" in text for text in result.warnings)
    assert any("no row of the mean response" in text for text in result.warnings)
    assert any("plain: its draws are not scored" in text for text in result.warnings)


def test_encoders_of_features_get_those_of_the_test_images(split):
    train, test = split
    encoder = brainenc.RidgeEncoder(features=None).fit(train.truth.tokens, train.betas)
    with pytest.raises(ValueError, match=r"'tokens' was fitted to features.*features=\{'tokens'"):
        brainenc.evaluate(test, {"tokens": encoder}, **FEW)
    given = {"tokens": test.truth.tokens}
    result = brainenc.evaluate(test, {"tokens": encoder}, features=given, **FEW)
    assert np.array_equal(result.predictions("tokens"), encoder.predict(test.truth.tokens))
    with pytest.raises(ValueError, match="features has 3 rows, but there are 45 test images"):
        brainenc.evaluate(test, {"tokens": encoder}, features=test.truth.tokens[:3], **FEW)
    with pytest.raises(ValueError, match=r"features names \['other'\]"):
        brainenc.evaluate(test, {"tokens": encoder}, features={"other": None}, **FEW)


def test_a_run_is_kept_and_not_predicted_again(split, fitted, tmp_path, monkeypatch):
    _, test = split
    out = tmp_path / "run"
    first = brainenc.evaluate(test, {"ridge": fitted}, out=out, **FEW)
    loaded = BenchmarkResult.load(out)
    assert np.array_equal(loaded.predictions("ridge"), first.predictions("ridge"))
    monkeypatch.setattr(brainenc.RidgeEncoder, "_predict", lambda self, features: 1 / 0)
    again = brainenc.evaluate(test, {"ridge": fitted}, out=out, **FEW)
    assert again.pairs.equals(first.pairs)


def test_an_encoder_that_fails_leaves_the_others(split, fitted, monkeypatch):
    class Failing(brainenc.MeanEncoder):
        def _predict(self, features):
            raise RuntimeError("no network")

    train, test = split
    failing = Failing().fit(train.images, train.betas)
    result = brainenc.evaluate(test, {"bad": failing, "ridge": fitted}, **FEW)
    errors = result.encoders.set_index("encoder")["error"]
    assert errors["bad"] == "RuntimeError: no network"
    assert errors["ridge"] == ""


def refusal(test, encoders, **changes):
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as error:
        brainenc.evaluate(test, encoders, **(FEW | changes))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_other_voxels_are_refused(split, fitted, tmp_path):
    train, test = split
    loaded = brainenc.load(fitted.save(tmp_path / "model", voxels=train.voxels))
    fewer = test.select(voxels=np.arange(15))
    message = refusal(fewer, {"ridge": fitted})
    assert "'ridge' was fitted to 20 voxels, and the data 'simulated' have 15" in message
    assert "fitted to 20 voxels (voxel table with roi" in refusal(fewer, {"ridge": loaded})
    turned = test.select(voxels=np.arange(20)[::-1])
    assert "20 of 20 have another i, j, k" in refusal(turned, {"ridge": loaded})
    # Without places ROIs are compared; without a table nothing is known, and nothing refused.
    plain = train.voxels[["roi"]]
    named = brainenc.load(fitted.save(tmp_path / "named", voxels=plain))
    labels = plain.assign(roi=["V9", *plain["roi"][1:]])
    relabelled = dataclasses.replace(test, voxels=labels, truth=None)
    assert "1 of 20 have another roi" in refusal(relabelled, {"ridge": named})
    brainenc.evaluate(test, {"ridge": named}, **FEW)
    brainenc.evaluate(turned, {"ridge": fitted}, **FEW)


def test_bad_input_is_one_line(split, fitted, tmp_path):
    train, test = split
    assert "is not fitted, and brainenc.evaluate fits nothing" in refusal(
        test, {"new": brainenc.RidgeEncoder(pixels())}
    )
    assert "is missing" in refusal(test, {"gone": tmp_path / "gone"})
    assert "must be a fitted encoder or the folder" in refusal(test, {"x": 3})
    assert "dict of name to encoder" in refusal(test, fitted)
    assert "data must be an EncodingData" in refusal(test.betas, {"ridge": fitted})
    narrow = train.select(voxels=np.arange(3))
    assert "train has 3 voxels" in refusal(test, {"ridge": fitted}, train=narrow)
    assert "train must be an EncodingData" in refusal(test, {"ridge": fitted}, train=3)
    one = test.select(images=[0])
    assert "1 images with trials" in refusal(one, {"ridge": fitted})


def test_marks_do_not_find_images_that_were_not_learnt():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((6000, 768)).astype(np.float32)
    encoder = brainenc.MeanEncoder()
    encoder.training_marks_ = marks_of(features[:3000])
    assert not trained_on(encoder, features[3000:]).any()
    # The same features with the rounding of another device.
    rounded = features[:3000] * (1 + 1e-4 * rng.standard_normal((3000, 768)))
    assert trained_on(encoder, rounded).all()
    # Features that do not identify an image, such as categories, say nothing.
    categories = np.eye(10, dtype=np.float32)
    encoder.training_marks_ = marks_of(categories[rng.integers(10, size=500)])
    assert trained_on(encoder, categories) is None
