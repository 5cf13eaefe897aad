"""category_information: responses, embeddings and decoded embeddings; chance and leaks."""

import numpy as np
import pytest

import brainenc
from brainenc.analysis.category_information import DECODED, EMBEDDINGS, RESPONSES


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
    """Responses of noise, more voxels than images: what was learnt by heart must not count."""
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((120, 5))
    betas = rng.standard_normal((120, 80))
    labels = (targets[:, :1] > 0).astype(int)
    pairs = {"train": (betas[:60], targets[:60]), "test": (betas[60:], targets[60:])}
    table = brainenc.analysis.category_information(
        brainenc.RidgeDecoder().fit(*pairs["train"]),
        **pairs,
        categories=(labels[:60], labels[60:]),
    )
    rows = means(table)
    assert rows.loc[EMBEDDINGS, "auc"] > 0.95
    assert abs(rows.loc[DECODED, "auc"] - 0.5) < 0.2
    assert np.isnan(rows.loc[DECODED, "share"]) or rows.loc[RESPONSES, "auc"] < 0.7


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
