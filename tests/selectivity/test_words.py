import numpy as np
import pytest

from brainenc.selectivity.words import over_represented, split, words_of

CAPTIONS = ["A dog on the grass.", "Two dogs, a cat", "cats' grass", "the dog's bus"]


def test_words_without_function_words():
    assert split("A photo of the dog's RED bus, 2 of them") == ["dog's", "red", "bus"]
    assert split("café Größe") == ["café", "größe"]


def test_words_of_captions_and_of_several_per_image():
    words = words_of(CAPTIONS, None, 4, 1)
    assert words.names.tolist() == ["bus", "cat", "cats", "dog", "dog's", "dogs", "grass"]
    assert words.share[words.names == "grass"] == 0.5
    several = words_of([["a dog", "a dog on grass"], ["a cat"], ["a dog"], ["a bus"]], None, 4, 2)
    assert several.names.tolist() == ["dog"]
    assert several.present.toarray().ravel().tolist() == [1, 0, 1, 0]


def test_missing_texts_are_no_words():
    rows = [["a dog", np.nan], None, ["a dog", None], np.nan]
    words = words_of(rows, None, 4, 1)
    assert words.names.tolist() == ["dog"]
    assert words.present.toarray().ravel().tolist() == [1, 0, 1, 0]
    assert words_of(["dog", None, np.nan, "dog"], None, 4, 1).names.tolist() == ["dog"]


def test_labels_keep_their_spaces():
    words = words_of(None, [["red bus", "dog"], ["dog"], "red bus", None], 4, 1)
    assert words.names.tolist() == ["dog", "red bus"]
    assert words.present.toarray().tolist() == [[1, 1], [1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("captions", "labels", "error", "message"),
    [
        (None, None, ValueError, "either captions or labels"),
        (CAPTIONS, CAPTIONS, ValueError, "either captions or labels"),
        (CAPTIONS[:3], None, ValueError, "captions has 3 rows, but there are 4 images"),
        ("a dog", None, TypeError, "captions is one text"),
        (["of the"] * 4, None, ValueError, "captions has no word"),
        (["dog"] * 4, None, ValueError, "and not all of them"),  # all have it
    ],
)
def test_wrong_texts(captions, labels, error, message):
    with pytest.raises(error, match=message):
        words_of(captions, labels, 4, 1)


def test_log_odds_are_those_of_the_formula():
    """Monroe et al. (2008), equations 15, 16, 20 and 22, word by word."""
    rng = np.random.default_rng(0)
    present = rng.random((60, 3)) < [0.1, 0.5, 0.3]
    labels = [[w for w, has in zip("abc", row, strict=True) if has] for row in present]
    words = words_of(None, labels, 60, 1)
    top = np.stack([rng.permutation(60)[:12] for _ in range(4)], axis=1)
    found = over_represented(top, words)
    for voxel in range(4):
        inside = np.isin(np.arange(60), top[:, voxel])
        for w in range(3):
            share = present[:, w].mean()
            a, b = 10 * share, 10 * (1 - share)
            y, n = present[inside, w].sum(), 12
            y2, n2 = present[~inside, w].sum(), 48
            delta = np.log((y + a) / (n - y + b)) - np.log((y2 + a) / (n2 - y2 + b))
            variance = 1 / (y + a) + 1 / (n - y + b) + 1 / (y2 + a) + 1 / (n2 - y2 + b)
            assert found.z[voxel, w] == pytest.approx(delta / np.sqrt(variance))
            assert found.purity[voxel, w] == y / 12
            assert found.lift[voxel, w] == pytest.approx(y / 12 / share)
