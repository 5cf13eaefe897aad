"""Categories in every form that has one meaning."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import brainenc
from brainenc.analysis.categories import category_table, label_columns, prototype_scores

LABELS = ["b", "a", None, "a"]
COLUMNS = [[0, 1], [1, 0], [np.nan, np.nan], [1, 0]]


@pytest.mark.parametrize(
    "given",
    [
        LABELS,
        np.array(LABELS, dtype=object),
        pd.Series(LABELS),
        pd.Series(LABELS, dtype="category"),
        pd.Series(LABELS, dtype="string"),
        np.array(COLUMNS),
        pd.DataFrame(COLUMNS, columns=["a", "b"]),
    ],
    ids=lambda given: type(given).__name__,
)
def test_labels_and_columns_are_the_same(given):
    _, found = label_columns(given)
    np.testing.assert_array_equal(found, COLUMNS)


def test_columns_of_bool_are_columns():
    names, found = label_columns(np.array([[True, False], [False, True]]))
    assert names is None
    np.testing.assert_array_equal(found, np.eye(2))


def test_test_images_have_the_categories_of_training():
    found = category_table((LABELS, ["c", "b", None]), 4)
    assert found.names == ["a", "b"]
    np.testing.assert_array_equal(found.train, np.array(COLUMNS) == 1)
    np.testing.assert_array_equal(found.test, [[False, False], [False, True], [False, False]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((LABELS, np.array(COLUMNS)), "both be labels"),
        ((np.array(COLUMNS), np.array(COLUMNS)[:, :1]), "as many columns"),
        ((np.full((4, 2), 2), np.zeros((4, 2))), "0 or 1"),
        ((np.zeros((4, 2, 1)), np.zeros((4, 2, 1))), "must be labels"),
        (([None] * 4, LABELS), "no category with a training image"),
    ],
)
def test_two_meanings_are_refused(given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        category_table(given, 4)


def test_a_constant_embedding_has_one_score():
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((20, 6))
    labels = np.arange(20)[:, None] % 2 == [0, 1]
    scores = prototype_scores(np.ones((9, 6)), targets, labels)
    np.testing.assert_allclose(scores, scores[:1].repeat(9, axis=0), atol=1e-12)
    # The two mean targets are opposite around their mean.
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1])


def test_an_image_without_a_label_is_not_of_the_rest():
    found = category_table((LABELS, ["c", "b", None]), 4)
    np.testing.assert_array_equal(found.train_known, [True, True, False, True])
    np.testing.assert_array_equal(found.test_known, [True, True, False])
    none = category_table((LABELS, [None, None]), 4)
    assert not none.test_known.any()
    columns = category_table((np.array(COLUMNS), np.array([[1, np.nan], [0, 0]])), 4)
    np.testing.assert_array_equal(columns.test_known, [False, True])
    assert not columns.test.any()


@pytest.mark.parametrize("as_columns", [False, True])
def test_images_without_a_label_leave_scores_as_they_are_without_them(as_columns):
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((200, 4))
    betas = targets @ rng.standard_normal((4, 8)) + 2 * rng.standard_normal((200, 8))
    labels = np.where(targets[:, 0] > 0, "a", "b").astype(object)
    known = rng.random(200) > 0.4
    given = np.where(known, labels, None)
    if as_columns:
        labels, given = (
            np.array([[np.nan] * 2 if of is None else [of == "a", of == "b"] for of in part], float)
            for part in (labels, given)
        )
    train, test = slice(100), slice(100, 200)
    pair = (betas[train], targets[train])
    decoder = brainenc.RidgeDecoder().fit(*pair)
    some = np.arange(100, 200)[known[test]]

    information = [
        brainenc.analysis.category_information(
            decoder,
            train=pair,
            test=(betas[rows], targets[rows]),
            categories=(given[train], of[rows]),
            n_bootstraps=3,
            n_permutations=3,
        )
        for rows, of in ((test, given), (some, labels))
    ]
    pd.testing.assert_frame_equal(*information)
    curves = [
        brainenc.masking_curve(
            decoder,
            train=pair,
            test=(betas[rows], targets[rows]),
            categories=(given[train], of[rows]),
            shares=(0, 0.5),
            n_masks=1,
        )["category_auc"]
        for rows, of in ((test, given), (some, labels))
    ]
    np.testing.assert_allclose(*curves)
    # Of true embeddings, the read-out learnt from images that have a label alone.
    fitted = np.flatnonzero(known[train])
    of = np.where(targets[:, 0] > 0, 1.0, 0.0)
    ridge = brainenc.RidgeDecoder(targets=None).fit(
        targets[fitted], np.stack([of, 1 - of], axis=1)[fitted]
    )
    expected = roc_auc_score(of[some], ridge.predict(targets[some])[:, 0])
    rows = information[0].query("source == 'embeddings'")
    assert rows["auc"].iloc[0] == pytest.approx(expected)
    assert rows["n_positive"].iloc[0] == of[some].sum()
