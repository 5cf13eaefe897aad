"""category_information: responses, embeddings and decoded embeddings; chance and leaks."""

import numpy as np
import pytest

import brainenc
from brainenc.analysis.category_information import DECODED, EMBEDDINGS, RESPONSES
from brainenc.metrics import category_auc


@pytest.fixture(scope="module")
def labels(subject):
    return tuple(subject.categories[rows] for rows in subject.rows)


@pytest.fixture(scope="module")
def table(subject, labels):
    return brainenc.analysis.category_information(
        subject.decoder, train=subject.train, test=subject.test, categories=labels
    )


def means(table):
    return table[table["category"] == "mean"].set_index("source")


def test_a_linear_decoder_keeps_what_a_linear_read_out_finds(table):
    rows = means(table)
    assert rows.loc[EMBEDDINGS, "auc"] > rows.loc[RESPONSES, "auc"] + 0.03
    # Decoded from the responses: not more than they have, and here not less.
    assert rows.loc[DECODED, "auc"] == pytest.approx(rows.loc[RESPONSES, "auc"], abs=0.02)
    assert rows.loc[RESPONSES, "share"] == 1
    np.testing.assert_allclose(
        rows["share"], (rows["auc"] - 0.5) / (rows.loc[RESPONSES, "auc"] - 0.5)
    )
    assert (rows["low"] < rows["auc"]).all()
    assert (rows["auc"] < rows["high"]).all()
    assert (rows["p"] < 0.01).all()
    assert (rows["permuted_high"] < 0.6).all()


def test_the_mean_is_that_of_the_categories(table):
    for _, own in table.groupby("source"):
        rows = own.set_index("category")["auc"]
        assert rows["mean"] == pytest.approx(rows.drop("mean").mean())


def test_labels_without_relation_are_at_chance(subject, labels):
    rng = np.random.default_rng(0)
    permuted = tuple(rng.permutation(part) for part in labels)
    rows = means(
        brainenc.analysis.category_information(
            subject.decoder, train=subject.train, test=subject.test, categories=permuted
        )
    )
    # The null's own 95 % range is .45 to .55; a read-out that had seen test labels is above.
    assert (abs(rows["auc"] - 0.5) < 0.08).all()
    assert (rows["p"] > 0.01).all()


def test_decoded_training_images_were_held_out():
    """Of two dimensions only one can be decoded, but the decoder learns both by heart.

    A read-out of predictions in training would use both alike, and one of held-out ones does not.
    """
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((400, 2))
    voxels = targets[:, 1:] + 0.5 * rng.standard_normal((400, 20))
    betas = np.hstack([voxels, rng.standard_normal((400, 180))])
    labels = (targets.sum(axis=1) > 0).astype(int)[:, None]
    train, test = (betas[:100], targets[:100]), (betas[100:], targets[100:])
    decoder = brainenc.RidgeDecoder(alphas=[1e-3]).fit(*train)
    np.testing.assert_allclose(decoder.predict(train[0]), train[1], atol=0.05)  # by heart
    in_training = brainenc.RidgeDecoder().fit(decoder.predict(train[0]), labels[:100].astype(float))
    learnt = category_auc(in_training.predict(decoder.predict(test[0])), labels[100:])[0]
    rows = means(
        brainenc.analysis.category_information(
            decoder, train=train, test=test, categories=(labels[:100], labels[100:])
        )
    )
    assert rows.loc[DECODED, "auc"] > learnt + 0.03


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": (["a"] * 40, ["a"] * 20)}, "categories has none"),
        ({"categories": (["mean", "b"] * 20, ["mean", "b"] * 10)}, "another name"),
        ({"categories": (["a", "b"] * 20, ["a"] * 3)}, "test have 3 rows"),
        ({"min_positives": 15}, "none with 15 test images"),
        ({"prefit": True}, "prefit=False"),
    ],
)
def test_refused(change, message):
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((60, 4))
    betas = targets @ rng.standard_normal((4, 8)) + rng.standard_normal((60, 8))
    train, test = (betas[:40], targets[:40]), (betas[40:], targets[40:])
    decoder = brainenc.RidgeDecoder().fit(*train)
    if change.pop("prefit", False):
        encoder = brainenc.RidgeEncoder().fit(*train[::-1])
        decoder = brainenc.EncoderDecoder(encoder, prefit=True).fit(*train)
    arguments = {"categories": (["a", "b"] * 20, ["a", "b"] * 10), **change}
    with pytest.raises(ValueError, match=message):
        brainenc.analysis.category_information(decoder, train=train, test=test, **arguments)
