"""cycle: what comes back, against other trials, references and nulls."""

import numpy as np
import pytest

import brainenc
from brainenc.analysis.through_decoder import PSEUDO_INVERSE, RANDOM
from brainenc.metrics import correlation
from brainenc.repeats import average_repeats


@pytest.fixture(scope="module")
def table(subject):
    return brainenc.analysis.cycle(
        subject.encoder, subject.decoder, train=subject.train, test=subject.test
    ).set_index("path")


def test_a_response_comes_back_with_its_own_noise(table):
    r = table["r"]
    # The same trials: more like them than the signal can be.
    assert r["decoder → encoder, same trials"] > r["encoder"] + 0.1
    assert r["decoder → encoder, other trials"] < r["decoder → encoder, same trials"] - 0.2
    # Noise of the input is smoothed: better than the other half itself.
    other = r["decoder → encoder, other trials"]
    assert r["encoder"] > other > r["half of the trials, no model"]
    assert table.loc["decoder → encoder, same trials", "image_retrieval"] > 0.9
    assert table.loc["decoder → encoder, other trials", "image_retrieval"] < 0.5


def test_targets_come_back_from_responses_without_noise(table):
    scores = table[table["space"] == "targets"]["image_retrieval"]
    assert scores["encoder → decoder"] > scores["measured → decoder"]
    assert scores["encoder, one draw → decoder"] < scores["encoder → decoder"]
    for name in (f"{PSEUDO_INVERSE} → decoder", RANDOM):
        assert scores[name] > 0.95
        assert table.loc[name, "r"] > table.loc["encoder → decoder", "r"]


def test_permuted_images_are_at_chance(table):
    null = table[table["kind"] == "null"]
    assert len(null) == 2
    chance = null["image_retrieval_chance"]
    np.testing.assert_allclose(chance, 1 / 200)
    high = chance + 4 * np.sqrt(chance * (1 - chance) / 200)
    assert (null["image_retrieval"] < high).all()
    assert (null["brain_retrieval"] < high).all()
    assert null["r"].abs().max() < 0.05


def test_one_way_rows_are_those_of_encoder_and_decoder(table, subject):
    betas, targets = subject.test
    r = correlation(subject.encoder.predict(targets), average_repeats(betas))
    assert table.loc["encoder", "r"] == pytest.approx(np.nanmean(r))
    assert table.loc["measured → decoder", "r"] == pytest.approx(
        subject.decoder.score(betas, targets)
    )


def test_the_same_trials_are_those_that_were_decoded(table, subject):
    betas, _ = subject.test
    decoded = subject.decoder.predict(betas)
    r = correlation(subject.encoder.predict(decoded), average_repeats(betas))
    assert table.loc["decoder → encoder, same trials", "r"] == pytest.approx(np.nanmean(r))


def test_without_repeats_there_are_no_other_trials(subject):
    train, test = ((average_repeats(b), t) for b, t in (subject.train, subject.test))
    table = brainenc.analysis.cycle(subject.encoder, subject.decoder, train=train, test=test)
    assert not table["path"].str.contains("other trials|no model").any()


def test_refused(subject):
    pairs = {"train": subject.train, "test": subject.test}
    with pytest.raises(TypeError, match="must be an encoder"):
        brainenc.analysis.cycle(subject.decoder, subject.decoder, **pairs)
    with pytest.raises(TypeError, match="must be a decoder"):
        brainenc.analysis.cycle(subject.encoder, subject.encoder, **pairs)
    with pytest.raises(ValueError, match="targets of a training image"):
        brainenc.analysis.cycle(
            subject.encoder, subject.decoder, train=subject.train, test=subject.train
        )
