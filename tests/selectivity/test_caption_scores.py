import numpy as np
import pytest
from scipy.stats import spearmanr

from brainenc import caption_scores


def test_words_of_planted_voxels_beat_those_of_their_roi(planted, described):
    found = caption_scores(
        np.where(described.voxels["named"], described.voxels["word"], ""),
        planted.captions,
        planted.betas,
        rois=planted.data.voxels["roi"],
    )
    with_colour = (planted.selectivity["colour"] != "").to_numpy()
    means = found[with_colour].mean(numeric_only=True)
    assert means["score"] > 0.2
    assert abs(means["shuffled"]) < 0.1
    assert abs(means["shuffled_in_roi"]) < 0.1
    assert means["score"] > means["roi_label"] + 0.2  # no label gives these voxels away
    of_area = planted.high & ~with_colour
    area = found[of_area].mean(numeric_only=True)
    assert area["roi_label"] > 0.5 * area["score"]  # while the label says most of the others
    assert found["score"].isna()[~described.voxels["named"]].all()


def test_scores_are_spearmans_correlation_with_similarity():
    """Captions of one word: the TF-IDF cosine is 1 or 0; of two, between."""
    captions = ["dog", "bus", "cat", "dog bus"] * 8
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((32, 2, 3))
    found = caption_scores(["dog", "a cat", "unknown"], captions, betas)
    y = betas.mean(axis=1)
    near = {"dog": [2.0, 0, 0, 1], "cat": [0, 0, 1.0, 0]}  # in order: ranks are all that counts
    expected = [
        spearmanr(near[word] * 8, y[:, v]).statistic for v, word in enumerate(["dog", "cat"])
    ]
    np.testing.assert_allclose(found["score"][:2], expected, atol=1e-6)
    assert np.isnan(found["score"][2])


def test_an_embedding_of_ones_own_and_several_captions():
    rng = np.random.default_rng(1)
    table = {name: rng.standard_normal(6) for name in ("a", "b", "c", "dog")}
    captions = [[rng.choice(["a", "b", "c"]) for _ in range(2)] for _ in range(40)]
    betas = rng.standard_normal((40, 1))
    betas[3] = np.nan  # left out
    found = caption_scores(
        ["dog"], captions, betas, embed=lambda texts: np.array([table[t] for t in texts])
    )

    def cosine(one, other):
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    near = [np.mean([cosine(table["dog"], table[t]) for t in texts]) for texts in captions]
    kept = np.arange(40) != 3
    expected = spearmanr(np.array(near)[kept], betas[kept, 0]).statistic
    assert found["score"][0] == pytest.approx(expected, abs=1e-6)


def test_shuffles_within_rois_are_the_mean_over_permutations():
    """Two voxels in one ROI: half of the shuffles exchange their words."""
    rng = np.random.default_rng(2)
    captions = [("dog", "bus", "cat")[i % 3] for i in range(60)]
    betas = rng.standard_normal((60, 3))
    words = ["dog", "bus", "cat"]
    found = caption_scores(
        words, captions, betas, rois=["x", "x", "y"], n_shuffles=4000, random_state=1
    )
    score = {
        (word, v): spearmanr([c == word for c in captions], betas[:, v]).statistic
        for word in words
        for v in range(3)
    }
    assert found["score"].tolist() == pytest.approx([score[w, v] for v, w in enumerate(words)])
    expected = [(score["dog", v] + score["bus", v]) / 2 for v in (0, 1)] + [score["cat", 2]]
    assert found["shuffled_in_roi"].tolist() == pytest.approx(expected, abs=0.01)
    everyone = [np.mean([score[w, v] for w in words]) for v in range(3)]
    assert found["shuffled"].tolist() == pytest.approx(everyone, abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"descriptions": ["dog"]}, "voxels"),
        ({"descriptions": ["", None]}, "descriptions are all empty"),
        ({"captions": ["dog"] * 19}, "captions has 19 rows, but there are 20 images"),
        ({"captions": ["dog"] * 19 + [""]}, r"captions\[19\] is empty"),
        ({"rois": ["x"]}, "rois has 1 labels"),
        ({"n_shuffles": 0}, "n_shuffles=0"),
        ({"embed": lambda texts: np.zeros((2, 2))}, r"embed gave an array \(2, 2\) for 20 texts"),
        ({"betas": np.r_[np.zeros((5, 2)), np.full((15, 2), np.nan)]}, "responses to 5 images"),
    ],
)
def test_wrong_arguments(change, message):
    given = {
        "descriptions": ["dog", "bus"],
        "captions": ["dog"] * 10 + ["bus"] * 10,
        "betas": np.zeros((20, 2)),
    }
    with pytest.raises(ValueError, match=message):
        caption_scores(**{**given, **change})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_similarities_equal_up_to_round_off_are_equal(dtype):
    rng = np.random.default_rng(0)
    captions = [f"picture {i}" for i in range(40)]
    betas = rng.standard_normal((40, 2))
    direction, other = rng.standard_normal((2, 50))

    def collinear(texts):
        lengths = np.random.default_rng(len(texts)).uniform(0.1, 9, (len(texts), 1))
        return (lengths * direction).astype(dtype)

    found = caption_scores(["dog", "bus"], captions, betas, embed=collinear)
    assert found["score"].isna().all()

    def two_groups(texts):
        lengths = np.random.default_rng(len(texts)).uniform(0.1, 9, (len(texts), 1))
        second = np.array([text[-1] in "13579" for text in texts])[:, None]
        return (lengths * np.where(second, other, direction)).astype(dtype)

    found = caption_scores(["dog", "bus"], captions, betas, embed=two_groups)
    even = np.arange(40) % 2 == 0
    expected = [spearmanr(even, betas[:, v]).statistic for v in (0, 1)]
    np.testing.assert_allclose(found["score"], expected, rtol=1e-9)
