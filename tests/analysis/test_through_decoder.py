"""Synthetic responses through a decoder: the reference rows, the null, and refused input."""

from functools import partial

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import brainenc
from brainenc.analysis.parts import Part
from brainenc.analysis.through_decoder import (
    MEASURED,
    ONE_TRIAL,
    PSEUDO_INVERSE,
    RANDOM,
    RIDGE,
    pseudo_inverse,
)


def centred(table):
    return table[table["similarity"] == "centred"].set_index("responses")


@pytest.fixture(scope="module")
def table(subject):
    _, test = subject.rows
    signal = subject.data.truth.signal
    sd = np.nanstd(subject.data.betas, axis=(0, 1))
    noise_free = ((signal - signal.mean(axis=0)) / sd)[test]
    permuted = np.random.default_rng(3).permutation(noise_free)
    draws = subject.encoder.sample(subject.test[1], n=3, random_state=0)
    return brainenc.through_decoder(
        subject.decoder,
        {
            "signal": noise_free,
            "images permuted": permuted,
            "draw": draws[0],
            "mean of draws": np.moveaxis(draws, 0, 1),
            "own ridge": subject.encoder,
        },
        train=subject.train,
        test=subject.test,
        pool_size=200,
    )


def test_references_are_read_better_than_the_brain_without_being_like_it(table):
    rows = centred(table)
    for name in (PSEUDO_INVERSE, RANDOM):
        assert rows.loc[name, "image_retrieval"] > 0.95
        assert rows.loc[name, "brain_retrieval"] > 0.95
        assert abs(rows.loc[name, "voxel_r"]) < rows.loc[RIDGE, "voxel_r"] / 2
        assert rows.loc[name, "relative_mse"] > 1.5  # the training mean has 1
        assert rows.loc[name, "image_retrieval_above_measured_low"] > 0.3
    # Under no relation the mean over 150 voxels of r has a s.d. of about .02.
    assert abs(rows.loc[RANDOM, "voxel_r"]) < 0.08
    # No trial noise: read better than measured responses, and than the true signal.
    for direction in ("image_retrieval", "brain_retrieval"):
        assert rows.loc[RIDGE, direction] > rows.loc["signal", direction]
        assert rows.loc["signal", direction] > rows.loc[MEASURED, direction]
        assert rows.loc[MEASURED, direction] > rows.loc[ONE_TRIAL, direction]
        assert rows.loc["mean of draws", direction] > rows.loc["draw", direction]
    assert rows.loc["signal", "voxel_r"] > rows.loc[RIDGE, "voxel_r"] > 0.2


def test_the_ridge_row_is_a_ridge_encoder(table):
    rows = centred(table)
    columns = ["image_retrieval", "brain_retrieval", "voxel_r", "relative_mse"]
    same = rows.loc["own ridge", columns].astype(float)
    np.testing.assert_allclose(rows.loc[RIDGE, columns].astype(float), same)
    assert rows.loc[RIDGE, "kind"] == "reference"
    assert rows.loc["own ridge", "kind"] == "synthetic"


def test_permuted_images_are_at_chance(table):
    row = centred(table).loc["images permuted"]
    chance = row["image_retrieval_chance"]
    assert chance == pytest.approx(1 / 200)
    error = np.sqrt(chance * (1 - chance) / 200)
    assert row["image_retrieval"] < chance + 4 * error
    assert row["brain_retrieval"] < chance + 4 * error
    assert row["image_retrieval_above_measured_high"] < 0
    assert abs(row["voxel_r"]) < 0.05


def test_differences_are_those_of_the_scores(table):
    rows = table[table["similarity"] == "uncentred"].set_index("responses")
    less = rows["brain_retrieval"] - rows.loc[MEASURED, "brain_retrieval"]
    found = rows["brain_retrieval_above_measured"].drop(MEASURED)
    np.testing.assert_allclose(found, less.drop(MEASURED))
    assert rows.loc[MEASURED, ["voxel_r", "brain_retrieval_above_measured"]].isna().all()


def test_pseudo_inverse_is_that_of_the_weights():
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((60, 25)) + 3
    betas = 2 + targets @ rng.standard_normal((25, 10)) + rng.standard_normal((60, 10))
    decoder = brainenc.RidgeDecoder().fit(betas, targets)
    # The weights, from responses to one voxel at a time.
    start = decoder.predict(np.zeros((1, 10))).astype(float)
    weights = decoder.predict(np.eye(10)).astype(float) - start
    scaled = weights * decoder.scaling_.sd[:, None]
    deviations = targets[:7] - targets.mean(axis=0)
    expected = decoder.scaling_.mean + decoder.scaling_.sd * (deviations @ np.linalg.pinv(scaled))
    part = Part(betas[:, None], targets)
    found = pseudo_inverse(decoder, part, Part(betas[:7, None], targets[:7]))
    # Predictions are float32, and the smallest singular value is a tenth of the largest.
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_the_decoder_is_not_fitted_again(subject):
    before = subject.decoder.predict(subject.test[0])
    some = tuple(part[:60] for part in subject.test)
    brainenc.through_decoder(subject.decoder, {}, train=subject.train, test=some)
    np.testing.assert_array_equal(subject.decoder.predict(subject.test[0]), before)


def test_an_encoder_used_as_a_decoder_has_its_own_similarity(subject):
    decoder = brainenc.EncoderDecoder(subject.encoder, prefit=True).fit(*subject.train)
    some = tuple(part[:60] for part in subject.test)
    table = brainenc.through_decoder(decoder, {}, train=subject.train, test=some)
    measured = table[table["responses"] == MEASURED]
    assert measured["similarity"].iloc[0] == "ratio"
    assert measured["image_retrieval"].iloc[0] > 0.5


def small():
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((60, 6))
    betas = targets @ rng.standard_normal((6, 8)) + rng.standard_normal((60, 8))
    return brainenc.RidgeDecoder().fit(betas[:40], targets[:40]), betas, targets


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": slice(30, 60)}, "10 test images .first in row 0. have the targets of a training"),
        ({"synthetic": {RIDGE: np.zeros((20, 8))}}, "names of rows that are always there"),
        ({"synthetic": {"a": np.zeros((20, 7))}}, "have 7 voxels, but RidgeDecoder"),
        ({"synthetic": {"a": np.zeros((5, 20, 8))}}, r"moveaxis\(draws, 0, 1\)"),
        ({"n_targets": 5}, "each had the shape"),
        ({"empty": True}, "have no data for 1 images"),
    ],
)
def test_refused(change, message):
    decoder, betas, targets = small()
    test = change.get("test", slice(40, 60))
    if "n_targets" in change:
        targets = targets[:, :5]
    if "empty" in change:
        betas[3] = np.nan
    with pytest.raises(ValueError, match=message):
        brainenc.through_decoder(
            decoder,
            change.get("synthetic", {}),
            train=(betas[:40], targets[:40]),
            test=(betas[test], targets[test]),
        )


def test_not_a_decoder_or_not_fitted():
    _, betas, targets = small()
    pairs = {"train": (betas[:40], targets[:40]), "test": (betas[40:], targets[40:])}
    with pytest.raises(TypeError, match="must be a decoder"):
        brainenc.through_decoder(brainenc.RidgeEncoder(), {}, **pairs)
    with pytest.raises(NotFittedError):
        brainenc.through_decoder(brainenc.RidgeDecoder(), {}, **pairs)
    decoder = brainenc.RidgeDecoder().fit(*pairs["train"])
    with pytest.raises(TypeError, match="dict of name"):
        brainenc.through_decoder(decoder, betas[40:], **pairs)
    with pytest.raises(ValueError, match="train must be a pair"):
        brainenc.through_decoder(decoder, {}, train=betas, test=pairs["test"])


def test_an_image_without_data_is_undefined_and_not_right():
    decoder, betas, targets = small()
    betas[45] = np.nan
    table = brainenc.through_decoder(
        decoder,
        {"a": betas[40:]},
        train=(betas[:40], targets[:40]),
        test=(betas[40:], targets[40:]),
    )
    assert centred(table).loc[[MEASURED, "a"], "n_undefined"].gt(0).all()


def test_images_are_targets_and_what_encoders_take():
    data = brainenc.datasets.simulate_subject(90, 20, random_state=0)
    pixels = brainenc.PixelFeatures(8, verbose=False)
    train, test = ((data.betas[rows], data.images[rows]) for rows in (slice(60), slice(60, 90)))
    decoder = brainenc.RidgeDecoder(pixels).fit(*train)
    encoder = brainenc.RidgeEncoder(pixels).fit(*train[::-1])
    table = brainenc.through_decoder(decoder, {"own": encoder}, train=train, test=test)
    rows = centred(table)
    # The reference is ridge on the same features.
    assert rows.loc["own", "voxel_r"] == pytest.approx(rows.loc[RIDGE, "voxel_r"], abs=1e-6)


def calls(train, test, decoder=None, encoder=None):
    """Every analysis of a training and a test part."""
    decoder = decoder or brainenc.RidgeDecoder().fit(*train)
    encoder = encoder or brainenc.RidgeEncoder().fit(*train[::-1])
    pairs = {"train": train, "test": test}
    labels = tuple(np.arange(len(part[1])) % 2 == np.array([[0], [1]]) for part in (train, test))
    labels = tuple(part.T for part in labels)
    few = {"n_bootstraps": 3, "n_permutations": 3}
    return {
        "through": lambda: brainenc.through_decoder(decoder, {"x": encoder}, **pairs),
        "cycle": lambda: brainenc.analysis.cycle(encoder, decoder, **pairs),
        "masking": lambda: brainenc.masking_curve(decoder, **pairs, shares=(0,), refit=False),
        "information": lambda: brainenc.analysis.category_information(
            decoder, **pairs, categories=labels, **few
        ),
    }


@pytest.mark.parametrize("name", ["through", "cycle"])
def test_an_encoder_that_was_fitted_to_test_images_is_refused(name):
    _, betas, targets = small()
    train, test = ((betas[rows], targets[rows]) for rows in (slice(40), slice(40, 60)))
    fitted = brainenc.RidgeEncoder().fit(targets[:50], betas[:50])
    with pytest.raises(ValueError, match="fitted to 10 of the 20 test images"):
        calls(train, test, encoder=fitted)[name]()
    assert len(calls(train, test)[name]())


@pytest.mark.parametrize(
    ("name", "prefit"),
    [
        *((name, False) for name in ("through", "cycle", "masking", "information")),
        *((name, True) for name in ("through", "cycle", "masking")),
    ],
)
def test_a_decoder_by_an_encoder_that_was_fitted_to_test_images_is_refused(name, prefit):
    _, betas, targets = small()
    train, test = ((betas[rows], targets[rows]) for rows in (slice(40), slice(40, 60)))
    encoder = brainenc.RidgeEncoder().fit(targets[:50], betas[:50])
    decoder = brainenc.EncoderDecoder(encoder, prefit=prefit)
    decoder.fit(*(train if prefit else (betas[:50], targets[:50])))
    with pytest.raises(ValueError, match="fitted to 10 of the 20 test images"):
        calls(train, test, decoder=decoder)[name]()


@pytest.mark.parametrize("name", ["through", "cycle", "masking", "information"])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_an_image_on_both_sides_is_found_in_another_float_type(name, kind):
    _, betas, targets = small()
    train, test = (betas[:40], targets[:40]), (betas[35:], targets[35:].astype(kind))
    with pytest.raises(ValueError, match=r"5 test images .first in row 0. have the targets"):
        calls(train, test)[name]()


@pytest.mark.parametrize("name", ["through", "cycle", "masking", "information"])
def test_random_state_may_be_a_generator_or_none(name, monkeypatch):
    _, betas, targets = small()
    train, test = (betas[:40], targets[:40]), (betas[40:], targets[40:])
    for state in (None, np.random.default_rng(0)):
        for function in ("through_decoder", "masking_curve"):
            own = getattr(brainenc, function)
            monkeypatch.setattr(brainenc, function, partial(own, random_state=state))
        for function in ("cycle", "category_information"):
            own = getattr(brainenc.analysis, function)
            monkeypatch.setattr(brainenc.analysis, function, partial(own, random_state=state))
        assert len(calls(train, test)[name]())
