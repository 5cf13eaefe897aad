"""The rows of the demo, and what it says of itself."""

import numpy as np
import pytest

import brainenc
from brainenc.demo import NETWORK, ROWS, SETTINGS, decode, make_rows, reductions, rows
from brainenc.encoders.composed import view


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(30, 10, verbose=False)


def test_every_encoder_has_a_row_and_ridge_one_for_each_set_of_features():
    without_others = set(brainenc.encoders.ENCODERS) - {"incontext"}  # that learns from subjects
    assert {row.encoder for row in ROWS} == without_others
    seen = {part for row in ROWS for part in row.features.split(" + ") if part}
    assert {row.features for row in ROWS if row.encoder == "ridge"} == seen
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_a_trained_network_has_a_row_if_its_weights_are_installed(data, monkeypatch):
    added = [row for row in rows() if row not in ROWS]
    assert [row.name for row in added] == [f"ridge ({NETWORK})"]
    assert [row for row in rows() if row in ROWS] == list(ROWS)
    features = make_rows(data)[0][added[0].name].features
    assert isinstance(features, brainenc.EfficientNetLiteFeatures)
    assert features.layer in NETWORK
    monkeypatch.setattr("brainenc.features.efficientnet_lite._PACKAGE", "not_installed_here")
    assert rows() == ROWS
    assert list(make_rows(data)[0]) == [row.name for row in ROWS]


def test_rows_have_their_features_and_options(data):
    encoders, features = make_rows(data)
    assert list(encoders) == [row.name for row in rows()]
    for row in rows():
        encoder = encoders[row.name]
        assert type(encoder).__name__ == brainenc.encoders.ENCODERS[row.encoder]
        for name, value in row.options.items():
            assert encoder.get_params(deep=False)[name] == value
        if row.features == "tokens":
            assert features[row.name] is data.truth.tokens
    assert isinstance(encoders["ridge (Gabor)"].features, brainenc.GaborPyramid)
    shapes = {"Gabor": [3200], "tokens": list(data.truth.tokens.shape[1:])}
    assert encoders["banded (Gabor + tokens)"].bands == shapes
    # The stack's two members find their own features in the array that both are in.
    stacked, joined = encoders["stacked (Gabor + tokens)"], features["stacked (Gabor + tokens)"]
    np.testing.assert_array_equal(view(joined, *stacked.inputs["tokens"]), data.truth.tokens)
    gabor = brainenc.GaborPyramid(verbose=False).fit_transform(data.images)
    np.testing.assert_array_equal(view(joined, *stacked.inputs["Gabor"]), gabor)


def test_what_was_reduced_is_said_with_the_defaults():
    said = reductions()
    assert f"cv={SETTINGS['cv']} (5)" in said
    assert f"n_draws={SETTINGS['n_draws']} (200)" in said
    assert f"n_bootstraps={SETTINGS['n_bootstraps']} (1000)" in said
    for row in rows():
        assert (f"; {row.name}: " in said) == bool(row.options)
    assert "banded (Gabor + tokens): n_iter=10 (20)" in said


def test_the_decoding_table_has_an_encoder_as_decoder_and_the_nulls(tmp_path):
    small = brainenc.datasets.simulate_subject(60, 12, verbose=False)
    found = decode(small, tmp_path / "decoding", verbose=False)
    names = set(found.decoders["decoder"])
    assert {"LatentEncoder as decoder", "ridge decoder", "ridge encoder as decoder"} <= names
    assert {"chance", "ROI means", "training images permuted"} <= names
    assert (found.decoders["error"] == "").all()
    assert (tmp_path / "decoding" / "decoding.html").exists()
