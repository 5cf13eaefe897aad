import numpy as np
import pytest
import references

from brainenc.metrics import identification, top_k_retrieval, two_way_identification


def patterns(n_images=25, n_voxels=30, noise=2.0, *, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    targets = rng.standard_normal((n_images, n_voxels))
    return (targets + noise * rng.standard_normal(targets.shape)).astype(dtype), targets.astype(
        dtype
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_way_is_the_loop_over_pairs(dtype):
    predictions, targets = patterns(dtype=dtype)
    wanted = references.two_way_identification(predictions, targets)
    # Counts of comparisons, none closer than round-off in this sample: exact.
    np.testing.assert_allclose(two_way_identification(predictions, targets), wanted, rtol=1e-12)


def test_two_way_goes_through_all_blocks(monkeypatch):
    predictions, targets = patterns()
    wanted = two_way_identification(predictions, targets)
    monkeypatch.setattr(
        identification, "blocks", lambda n, size: (slice(i, i + 1) for i in range(n))
    )
    np.testing.assert_array_equal(two_way_identification(predictions, targets), wanted)


def test_two_way_is_half_by_chance_and_for_a_predictor_that_says_always_the_same():
    rng = np.random.default_rng(1)
    predictions, targets = rng.standard_normal((2, 400, 20))
    # Each image's share has s.d. .29 at most and they hardly depend on each other: s.e. .015.
    assert abs(two_way_identification(predictions, targets).mean() - 0.5) < 0.06
    # For one prediction the ranks of the images are 0 … n − 1: the mean is exactly a half.
    same = np.broadcast_to(predictions[0], predictions.shape)
    assert two_way_identification(same, targets).mean() == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_count_one_half(dtype):
    # Column by column, a matrix product may round the same sum in two ways.
    rng = np.random.default_rng(2)
    targets = rng.standard_normal((40, 1001)).astype(dtype)
    targets[20:] = 3 * targets[:20] + 1  # the same pattern for a correlation
    # Each image beats the 38 others and ties with its copy.
    np.testing.assert_allclose(two_way_identification(targets, targets), 38.5 / 39, rtol=1e-12)


def test_voxels_missing_for_some_image_are_left_out():
    predictions, targets = patterns()
    kept = np.delete(np.arange(30), [3, 8, 11])
    wanted = two_way_identification(predictions[:, kept], targets[:, kept])
    targets[5, 3] = targets[6, 8] = predictions[0, 11] = np.nan
    np.testing.assert_array_equal(two_way_identification(predictions, targets), wanted)
    targets[4] = np.nan
    with pytest.raises(ValueError, match="no voxel is finite for all images in predictions and"):
        two_way_identification(predictions, targets)


def test_constant_patterns_are_undefined_and_not_compared_with():
    predictions, targets = patterns()
    predictions[3] = 0.1
    targets[7] = 0.1
    found = two_way_identification(predictions, targets)
    assert np.flatnonzero(np.isnan(found)).tolist() == [3, 7]
    others, without_7 = np.delete(np.arange(25), [3, 7]), np.delete(np.arange(25), 7)
    # Image 3 has no prediction, but a response that the others are compared with.
    wanted = references.two_way_identification(patterns()[0][without_7], targets[without_7])
    np.testing.assert_allclose(found[others], np.delete(wanted, 3), rtol=1e-12)


def test_top_k_counts_what_a_sort_of_the_whole_pool_finds():
    predictions, targets = patterns(60, noise=1.5)
    found = top_k_retrieval(predictions, targets, pool_size=60, n_pools=2, k=3)
    r = np.corrcoef(predictions, targets)[:60, 60:]
    for accuracy, matrix in ((found.forward, r), (found.backward, r.T)):
        best = np.argsort(-matrix, axis=1)[:, :3]
        wanted = np.mean([i in row for i, row in enumerate(best)])
        assert 0.1 < wanted < 0.95  # a case that could come out wrong
        np.testing.assert_allclose(accuracy, wanted, rtol=1e-12)
    assert found.chance == 0.05


def test_the_two_directions_are_told_apart():
    # Prediction 0 is the common part of all responses: it is everybody's best match, so looking
    # for predictions fails, while each response still is what its own prediction fits best.
    rng = np.random.default_rng(3)
    common = rng.standard_normal(500)
    targets = 3 * common + rng.standard_normal((20, 500))
    predictions = targets - 3 * common
    predictions[0] = common
    found = top_k_retrieval(predictions, targets, pool_size=20, n_pools=1)
    assert found.forward[0] >= 0.95
    assert found.backward[0] <= 0.05


def test_top_k_of_a_constant_predictor_is_exactly_chance():
    predictions, targets = patterns(100)
    same = np.broadcast_to(predictions[0], predictions.shape)
    found = top_k_retrieval(same, targets, pool_size=50, n_pools=4, k=2)
    np.testing.assert_allclose(found.forward, 2 / 50, rtol=1e-12)
    np.testing.assert_allclose(found.backward, 2 / 50, rtol=1e-12)


def test_pools_are_drawn_anew_and_repeatably():
    predictions, targets = patterns(200)
    first = top_k_retrieval(predictions, targets, pool_size=50, n_pools=10, random_state=1)
    again = top_k_retrieval(predictions, targets, pool_size=50, n_pools=10, random_state=1)
    np.testing.assert_array_equal(first.forward, again.forward)
    assert np.unique(first.forward).size > 1


def test_top_k_of_an_undefined_pattern_is_nan():
    predictions, targets = patterns()
    predictions[3] = 1
    found = top_k_retrieval(predictions, targets, pool_size=25, n_pools=2)
    assert np.isnan(found.forward).all()
    assert np.isnan(found.backward).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pool_size=300 must be between 2 and the number of images, 25"),
        ({"pool_size": 1}, "pool_size=1 must"),
        ({"pool_size": 10, "k": 11}, "k=11 in 1"),
        ({"pool_size": 10, "n_pools": 0}, "n_pools=0"),
    ],
)
def test_pools_that_cannot_be_drawn(arguments, message):
    with pytest.raises(ValueError, match=message):
        top_k_retrieval(*patterns(), **arguments)


def test_one_image_cannot_be_identified():
    with pytest.raises(ValueError, match="at least two images"):
        two_way_identification(np.ones((1, 3)), np.ones((1, 3)))
