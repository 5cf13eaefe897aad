"""Retrieval scores, and faults of public decoding code that they must not have."""

import math

import numpy as np
import pytest
from scipy.stats import hypergeom
from sklearn.metrics import roc_auc_score

from brainenc import metrics
from brainenc.metrics import retrieval
from brainenc.metrics.choices import chosen


def noisy(n=60, noise=2.0, *, seed=0, n_features=40):
    rng = np.random.default_rng(seed)
    targets = rng.standard_normal((n, n_features))
    return targets + noise * rng.standard_normal(targets.shape), targets


def scores(similarity, n_pools=10, **options):
    ids = np.arange(len(similarity))
    return retrieval(
        similarity, **{"query_ids": ids, "candidate_ids": ids, "n_pools": n_pools, **options}
    )


def test_both_directions_are_counted_as_a_sort_does():
    similarity = np.random.default_rng(0).standard_normal((40, 40)) + 2 * np.eye(40)
    found = scores(similarity, pool_size=40, n_pools=1, k=3)
    for direction, matrix in ((found.image, similarity), (found.brain, similarity.T)):
        order = np.argsort(-matrix, axis=1)
        rank = np.array([list(row).index(i) + 1 for i, row in enumerate(order)])
        assert 0.1 < (rank <= 3).mean() < 0.95
        np.testing.assert_allclose(direction.scores, rank <= 3)
        np.testing.assert_allclose(direction.ranks, rank)
        assert direction.median_rank == np.median(rank)


def test_fault_1_directions_are_named_by_what_is_chosen():
    # Candidate 0 is the most similar one to every response, so the wrong image is chosen for all
    # but one; each image still has its own response as the most similar one.
    similarity = np.eye(20)
    similarity[:, 0] = 2
    similarity[0, 0] = 3
    found = scores(similarity, pool_size=20, n_pools=1)
    assert found.image_retrieval == 1 / 20
    assert found.brain_retrieval == 1
    turned = scores(similarity.T, pool_size=20, n_pools=1)
    assert (turned.image_retrieval, turned.brain_retrieval) == (1, 1 / 20)


def test_fault_3_rows_and_columns_are_matched_by_ids_and_not_by_position():
    predictions, targets = noisy(noise=1.0)
    similarity = metrics.cosine_similarity(predictions, targets)
    names = np.array([f"image {i}" for i in range(60)])
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(60), rng.permutation(60)
    wanted = retrieval(similarity, query_ids=names, candidate_ids=names, pool_size=30)
    found = retrieval(
        similarity[np.ix_(rows, columns)],
        query_ids=names[rows],
        candidate_ids=names[columns],
        pool_size=30,
    )
    assert wanted.image_retrieval > 0.8
    np.testing.assert_array_equal(found.image.scores, wanted.image.scores)
    np.testing.assert_array_equal(found.brain.scores, wanted.brain.scores)


def test_fault_4_chance_is_exact_where_images_have_several_trials():
    rng = np.random.default_rng(0)
    # 3, 2 or 1 trials of each of 30 images: an image has more than one right response.
    query_ids = np.repeat(np.arange(30), rng.integers(1, 4, 30))
    found = [
        retrieval(
            rng.standard_normal((len(query_ids), 30)),
            query_ids=query_ids,
            candidate_ids=np.arange(30),
            pool_size=30,
            n_pools=1,
            k=2,
        )
        for _ in range(300)
    ]
    n, counts = len(query_ids), np.bincount(query_ids)
    assert found[0].image.chance == pytest.approx(2 / 30)
    exact = np.mean([hypergeom(n, count, 2).sf(0) for count in counts])  # each image asks once
    assert found[0].brain.chance == pytest.approx(exact)
    assert abs(exact - 2 / 30) > 5e-4  # k over the number of images would be wrong
    for name, chance in (("image_retrieval", 2 / 30), ("brain_retrieval", exact)):
        simulated = np.array([getattr(result, name) for result in found])
        error = simulated.std() / math.sqrt(len(simulated))
        assert abs(simulated.mean() - chance) < 4 * error


def test_fault_4_the_interval_is_over_images_and_more_pools_do_not_narrow_it():
    predictions, targets = noisy(200, noise=2.5)
    similarity = metrics.cosine_similarity(predictions, targets)
    few, many = (scores(similarity, n, pool_size=100) for n in (20, 400))
    width = [np.ptp(found.interval("image_retrieval")) for found in (few, many)]
    assert 0.2 < many.image_retrieval < 0.8
    assert width[1] > 0.75 * width[0]
    # s.e. over pools would be a fifth of it: 400 pools of the same 200 images.
    over_pools = 4 * many.image.pools.std() / math.sqrt(400)
    assert width[1] > 5 * over_pools
    values = many.image.scores
    assert width[1] == pytest.approx(2 * 1.96 * values.std() / math.sqrt(200), rel=0.15)


def test_fault_5_centred_and_uncentred_similarity_are_two_columns():
    predictions, targets = noisy(noise=0.5)
    mean = np.full(40, 5.0)
    found = {
        scale: metrics.similarities(scale * predictions + mean, targets + mean, training_mean=mean)
        for scale in (1, 0.05)
    }
    labels = ["centred", "uncentred", "CSLS (uses all test responses)"]
    assert list(found[1]) == labels
    # Shrinking predictions towards the mean changes nothing about which image they point to.
    np.testing.assert_allclose(found[1]["centred"], found[0.05]["centred"], atol=1e-12)
    ids = np.arange(60)
    tables = [
        metrics.retrieval_table(found[s], query_ids=ids, candidate_ids=ids, pool_size=60)
        for s in (1, 0.05)
    ]
    assert tables[0]["similarity"].tolist() == labels
    images = [table.set_index("similarity")["image_retrieval"] for table in tables]
    assert images[0]["centred"] == images[1]["centred"] == 1
    assert images[1]["uncentred"] < 0.5 < images[0]["uncentred"]


def test_fault_9_undefined_choices_are_nan_and_never_right():
    predictions, targets = noisy(noise=0.5)
    mean = targets.mean(axis=0)
    constant = np.broadcast_to(mean, targets.shape).astype(np.float32)
    similarity = metrics.cosine_similarity(constant, targets, mean=mean.astype(np.float32))
    assert np.isnan(similarity).all()
    found = scores(similarity, pool_size=30)
    assert math.isnan(found.image_retrieval)
    assert math.isnan(found.brain_retrieval)
    assert math.isnan(found.image.median_rank)
    assert all(math.isnan(end) for end in found.interval("image_retrieval"))
    assert found.n_undefined == 60
    predictions[7] = mean
    similarity = metrics.cosine_similarity(predictions, targets, mean=mean)
    found = scores(similarity, pool_size=30)
    assert np.flatnonzero(np.isnan(found.image.scores)).tolist() == [7]
    assert found.n_undefined == 1
    assert found.image_retrieval > 0.9


def test_fault_10_the_auc_of_a_constant_is_exactly_a_half():
    rng = np.random.default_rng(0)
    labels = rng.random((200, 6)) < [0.5, 0.3, 0.1, 0.05, 0.01, 0.9]
    # Scores that follow how frequent categories are, whatever the image.
    frequent = np.broadcast_to(labels.mean(axis=0), labels.shape)
    assert roc_auc_score(labels.ravel(), frequent.ravel()) > 0.8  # pooled: the fault
    found = metrics.category_auc(frequent, labels)
    assert np.isnan(found[4])  # two images of this category
    np.testing.assert_array_equal(np.delete(found, 4), 0.5)
    values = rng.standard_normal(labels.shape).round(1) + labels
    wanted = [roc_auc_score(labels[:, c], values[:, c]) for c in range(6) if c != 4]
    np.testing.assert_allclose(np.delete(metrics.category_auc(values, labels), 4), wanted)


def test_ties_count_in_expectation():
    found = scores(np.zeros((40, 40)), pool_size=20, k=3)
    assert found.image_retrieval == pytest.approx(3 / 20, abs=1e-12)
    assert found.brain_retrieval == pytest.approx(3 / 20, abs=1e-12)
    assert found.image.median_rank == 10.5


@pytest.mark.parametrize("k", [1, 2, 4])
def test_several_equal_right_ones_among_equal_wrong_ones(k):
    # One wrong is better; 2 right and 3 wrong share the next places.
    rng = np.random.default_rng(0)
    hits = [(rng.permutation(5)[: k - 1] < 2).any() for _ in range(20_000)]
    assert chosen(1, 3, k, 2) == pytest.approx(np.mean(hits), abs=0.015)  # four s.e.


def test_paired_difference_is_narrower_than_that_of_two_intervals():
    rng = np.random.default_rng(0)
    predictions, targets = noisy(300, noise=3.5)
    better = predictions + 0.3 * (targets - predictions)
    a, b = (
        scores(metrics.cosine_similarity(p, targets), pool_size=100) for p in (better, predictions)
    )
    table = a.difference(b)
    row = table.loc["image_retrieval"]
    assert row["difference"] == pytest.approx(a.image_retrieval - b.image_retrieval)
    assert 0 < row["low"] < row["difference"] < row["high"]
    assert row["p"] < 0.05
    alone = np.hypot(*(np.ptp(found.interval("image_retrieval")) for found in (a, b)))
    assert row["high"] - row["low"] < 0.9 * alone
    other = scores(rng.standard_normal((300, 300)), pool_size=100, random_state=1)
    with pytest.raises(ValueError, match="other images, pools or k"):
        a.difference(other)


def test_hard_pools_are_of_one_category_or_of_the_nearest():
    rng = np.random.default_rng(0)
    category = np.repeat(np.arange(5), 20)
    centres = 3 * rng.standard_normal((5, 10))
    targets = centres[category] + rng.standard_normal((100, 10))
    predicted = centres[category] + 1e-3 * rng.standard_normal((100, 10))  # the category alone
    similarity = metrics.cosine_similarity(predicted, targets)
    easy = scores(similarity, pool_size=20, n_pools=50)
    names = np.array(list("abcde"))[category]
    hard = scores(similarity, pool_size=20, pools="same category", categories=names)
    near = scores(similarity, pool_size=20, pools="nearest", targets=targets)
    assert easy.image_retrieval > 0.15
    assert hard.image_retrieval < 0.1  # chance .05, s.e. .02
    assert near.image_retrieval < easy.image_retrieval
    assert np.isfinite(near.image.scores).all()
    with pytest.raises(ValueError, match="the largest category, 'a', has 20 images"):
        scores(similarity, pool_size=21, pools="same category", categories=names)
    with pytest.raises(ValueError, match="needs targets"):
        scores(similarity, pool_size=21, pools="nearest")


def test_csls_is_the_definition_and_takes_hubs_away():
    rng = np.random.default_rng(0)
    similarity = rng.standard_normal((12, 15))
    found = metrics.csls(similarity, k=3)
    for i, j in ((0, 0), (4, 11)):
        of_row = np.sort(similarity[i])[-3:].mean()
        of_column = np.sort(similarity[:, j])[-3:].mean()
        assert found[i, j] == pytest.approx(2 * similarity[i, j] - of_row - of_column)
    hub = np.eye(20) + np.where(np.arange(20) == 3, 1.5, 0.0)
    assert scores(hub, pool_size=20, n_pools=1).image_retrieval == 1 / 20
    assert scores(metrics.csls(hub, 5), pool_size=20, n_pools=1).image_retrieval == 1
    hub[2] = np.nan
    left = metrics.csls(hub, 5)
    assert np.isnan(left[2]).all()
    assert np.isfinite(np.delete(left, 2, axis=0)).all()


def test_output_dimension_is_the_ratio_of_participation():
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((300, 8)) * [4, 2, 1, 1, 1, 1, 1, 1]
    predictions = targets @ np.diag([1, 1, 0, 0, 0, 0, 0, 0.1])

    def ratio(values):
        spectrum = np.linalg.eigvalsh(np.cov(values.T))
        return spectrum.sum() ** 2 / (spectrum**2).sum()

    wanted = ratio(predictions) / ratio(targets)
    assert metrics.output_dimension(predictions, targets) == pytest.approx(wanted)
    assert metrics.output_dimension(predictions[:5], targets[:5]) > 0  # wide
    assert math.isnan(metrics.output_dimension(np.full((300, 8), 0.1), targets))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidate_ids": np.arange(1, 21)}, r"candidate_ids lacks 1 ids .* such as \[0\]"),
        ({"query_ids": np.zeros(20)}, "query_ids lacks 19 ids"),
        ({"query_ids": np.arange(19)}, "query_ids has 19 ids, but similarity .* has 20 rows"),
        ({"candidate_ids": [f"{i}" for i in range(20)]}, "query_ids are numbers and .* are text"),
        ({"query_ids": [None, *range(1, 20)]}, "query_ids has no id for 1 of 20"),
        ({"pool_size": 21}, "pool_size=21 must be between 2 and the number of images, 20"),
        ({"k": 11}, "k=11 in 1"),
        ({"pools": "hard"}, "pools='hard' must be one of"),
    ],
)
def test_what_retrieval_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        scores(np.eye(20), **{"pool_size": 10, **options})
