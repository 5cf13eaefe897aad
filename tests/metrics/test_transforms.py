"""Transforms of RDMs: closed forms on few points, invariances, NaN; regression against scipy."""

import itertools

import numpy as np
import pytest
from scipy.optimize import lsq_linear
from scipy.spatial.distance import pdist, squareform

from brainenc.metrics import geodesic, geotopological, rdm, rdm_regression

LINE = np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0)))


def test_the_full_range_is_the_rdm_itself():
    matrix = rdm(np.random.default_rng(0).standard_normal((8, 30)))
    before = matrix.copy()
    pairs = np.triu_indices(8, 1)
    found = geotopological(matrix)
    np.testing.assert_array_equal(matrix, before)  # the caller's is not changed
    values = matrix[pairs]
    expected = (values - values.min()) / np.ptp(values)
    np.testing.assert_allclose(found[pairs], expected, atol=1e-12)
    assert (np.diagonal(found) == 0).all()


def test_distances_as_thresholds_on_a_line():
    found = geotopological(LINE, 1, 3, quantiles=False)
    np.testing.assert_allclose(found[0], [0, 0, 0.5, 1, 1])
    graph = geotopological(LINE, 2, 2, quantiles=False)
    np.testing.assert_array_equal(graph[0], [0, 0, 0, 1, 1])


def test_quantiles_are_of_the_rdm_s_own_distances():
    """Ranks alone count where thresholds are equal: monotone rescaling changes nothing."""
    matrix = squareform(pdist(np.random.default_rng(1).standard_normal((9, 4))))
    graph = geotopological(matrix, 0.4, 0.4)
    np.testing.assert_array_equal(graph, geotopological(matrix**3, 0.4, 0.4))
    assert graph[np.triu_indices(9, 1)].mean() == pytest.approx(0.6, abs=0.02)


def test_pairs_without_a_distance_stay_without():
    matrix = LINE.copy()
    matrix[0, 3] = matrix[3, 0] = np.nan
    found = geotopological(matrix, 0.25, 0.75)
    assert np.isnan(found).sum() == 2
    assert np.isnan(found[0, 3])


def brute_force(matrix, high):
    """Shortest paths by trying every order of the images between."""
    n = len(matrix)
    edge = np.where((matrix <= high) & ~np.eye(n, dtype=bool), matrix, np.inf)
    found = np.zeros((n, n))
    for i, j in itertools.permutations(range(n), 2):
        between = [k for k in range(n) if k not in (i, j)]
        found[i, j] = min(
            sum(edge[a, b] for a, b in itertools.pairwise((i, *path, j)))
            for size in range(n - 1)
            for path in itertools.permutations(between, size)
        )
    return found


@pytest.mark.parametrize("high", [0.5, 1.0, 1.6, 5])
def test_paths_are_the_shortest(high):
    matrix = squareform(pdist(np.random.default_rng(2).standard_normal((6, 2))))
    found = geodesic(matrix, high, quantiles=False)
    np.testing.assert_allclose(found, brute_force(matrix, high))


def test_the_nearest_and_the_farthest_pairs_are_edges_and_zero_is_a_distance():
    """What the public implementation gets wrong: 0 is no missing edge, nor is the largest."""
    np.testing.assert_allclose(geodesic(LINE, 1.0), LINE)
    twins = np.array([[0, 0, 2.0], [0, 0, 3.0], [2.0, 3.0, 0]])
    # From the second to the third by way of its twin.
    np.testing.assert_allclose(geodesic(twins, 1.0), [[0, 0, 2], [0, 0, 2], [2, 2, 0]])


def test_unconnected_images_are_infinitely_far_and_unknown_ones_nan():
    matrix = np.array([[0, 1, 9, 9], [1, 0, 9, 9], [9, 9, 0, 1], [9, 9, 1, 0.0]])
    found = geodesic(matrix, 2, quantiles=False)
    assert np.isinf(found[0, 2])
    assert found[2, 3] == 1
    matrix = LINE.copy()
    matrix[2] = matrix[:, 2] = np.nan
    found = geodesic(matrix, 2, quantiles=False)
    assert np.isnan(found[2, 0])
    assert found[1, 3] == 2


def test_regression_is_the_bounded_least_squares_and_unique_parts_are_differences():
    rng = np.random.default_rng(3)
    one, two, three = (squareform(row) for row in rng.random((3, 66)))
    noisy = 0.5 * one + two + squareform(0.3 * rng.standard_normal(66))
    found = rdm_regression(noisy, {"one": one, "two": two, "three": three})
    pairs = np.triu_indices(12, 1)
    X = np.stack([m[pairs] for m in (one, two, three)], axis=1)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    y = noisy[pairs] - noisy[pairs].mean()
    oracle = lsq_linear(X, y, bounds=(0, np.inf))
    np.testing.assert_allclose(found.weights, oracle.x, atol=1e-4)
    assert found.r2 == pytest.approx(1 - 2 * oracle.cost / (y @ y), abs=1e-6)
    rest = rdm_regression(noisy, {"two": two, "three": three})
    assert found.unique["one"] == pytest.approx(found.r2 - rest.r2)
    assert found.unique["two"] > found.unique["one"] > 0.05 > found.unique["three"]
    assert np.isnan(found.ceiling)


def test_the_ceiling_is_that_of_the_other_subjects_mean():
    rng = np.random.default_rng(4)
    true = rng.random(300)
    of_subjects = [squareform(true + 0.2 * rng.random(300)) for _ in range(5)]
    found = rdm_regression(of_subjects[0], {"true": squareform(true)}, others=of_subjects[1:])
    assert 0.8 < found.ceiling < found.r2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: geotopological(np.zeros((2, 3))), "n_images, n_images"),
        (lambda: geotopological([[0, 1], [2, 0]]), "symmetric"),
        (lambda: geotopological(LINE, 0.8, 0.2), "in order"),
        (lambda: geotopological(LINE, 0, 2), "between 0 and 1"),
        (lambda: geodesic(-LINE), "negative"),
        (lambda: geodesic(LINE, 2), "high=2"),
        (lambda: rdm_regression(LINE, {}), "empty"),
        (lambda: rdm_regression(LINE, {"a": LINE[:4, :4]}), "same images"),
        (lambda: rdm_regression(LINE, {"a": LINE}, others=LINE), "n_subjects"),
        (lambda: rdm_regression(LINE[:2, :2], {"a": LINE[:2, :2]}), "too few"),
    ],
)
def test_wrong_matrices_and_thresholds_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_infinite_distances_are_above_any_threshold():
    far = geodesic(LINE, 1.0, quantiles=False)
    far[:2, 2:] = far[2:, :2] = np.inf  # two parts without a path
    for thresholds in ({}, {"low": 0.2, "high": 0.7}, {"low": 0.5, "high": 0.5}):
        found = geotopological(far, **thresholds)
        assert (found[:2, 2:] == 1).all()
        near = geotopological(np.where(np.isinf(far), np.nan, far), **thresholds)
        np.testing.assert_array_equal(found[2:, 2:], near[2:, 2:])
    with pytest.raises(ValueError, match="high=inf must be finite"):
        geotopological(far, 0, np.inf, quantiles=False)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6, 1.0])
def test_a_constant_rdm_has_no_explained_variance(value):
    constant = value * (1 - np.eye(7))
    model = squareform(pdist(np.random.default_rng(0).standard_normal((7, 3))))
    found = rdm_regression(constant, {"a": model})
    assert np.isnan(found.r2)
    assert np.isnan(found.unique["a"])
    other_way = rdm_regression(model, {"constant": constant, "a": model}, others=constant[None])
    assert other_way.weights["constant"] == 0
    assert other_way.unique["constant"] == pytest.approx(0, abs=1e-12)
    assert other_way.ceiling == 0


def test_models_of_one_name_are_refused():
    with pytest.raises(ValueError, match="models has the name '1' twice"):
        rdm_regression(LINE, {1: LINE, "1": LINE**2})
