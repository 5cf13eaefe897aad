"""Categories in every form that has one meaning."""

import numpy as np
import pandas as pd
import pytest

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
