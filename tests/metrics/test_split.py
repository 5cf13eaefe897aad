"""split_r2, split_correlation: himalaya's scores, sums, closed forms, sets of weights, refusals."""

import numpy as np
import pytest
from himalaya.scoring import correlation_score_split, r2_score_split

from brainenc import metrics
from brainenc.metrics import split_correlation, split_r2


@pytest.fixture(scope="module")
def problem():
    """Three correlated parts of a prediction; voxels with means far from 0."""
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((3, 80, 6)) + 0.5 * rng.standard_normal((80, 6))
    targets = 0.3 * parts.sum(axis=0) + rng.standard_normal((80, 6))
    return parts * 0.2, targets


def test_scores_are_those_of_himalaya(problem):
    parts, targets = problem
    centred = targets - targets.mean(axis=0)
    np.testing.assert_allclose(split_r2(parts, centred), r2_score_split(centred, parts), atol=1e-12)
    np.testing.assert_allclose(
        split_correlation(parts, targets), correlation_score_split(targets, parts), atol=1e-12
    )


def test_parts_add_up_to_the_score_of_the_sum_whatever_the_mean(problem):
    parts, targets = problem
    far = targets + np.arange(6) * 1000
    shared = parts + np.arange(6) * 1000 / 3  # the intercept in equal shares
    for given, y in [(parts, targets), (shared, far), (parts + 1, far)]:
        whole = given.sum(axis=0)
        np.testing.assert_allclose(
            split_r2(given, y).sum(axis=0), metrics.r_squared(whole, y), rtol=1e-9
        )
        np.testing.assert_allclose(
            split_correlation(given, y).sum(axis=0), metrics.correlation(whole, y), atol=1e-9
        )
    # A mean that targets and predictions share changes nothing of any part.
    np.testing.assert_allclose(split_r2(shared, far), split_r2(parts, targets), atol=1e-9)


def test_missing_images_and_sets_of_weights_are_subsets(problem):
    parts, targets = problem
    targets = targets.copy()
    targets[:30, 2] = np.nan
    for score in (split_r2, split_correlation):
        np.testing.assert_allclose(
            score(parts, targets)[:, 2], score(parts[:, 30:], targets[30:])[:, 2], rtol=1e-9
        )
        some = np.zeros((2, 80))
        some[0, 40:], some[1] = 1, 1
        sets = score(parts, targets, weights=some)
        assert sets.shape == (3, 2, 6)
        np.testing.assert_allclose(sets[:, 0], score(parts[:, 40:], targets[40:]), rtol=1e-9)
        np.testing.assert_allclose(sets[:, 1], score(parts, targets), rtol=1e-9)


def test_orthogonal_parts_have_their_own_score():
    # Columns of a Hadamard matrix: of mean 0 and orthogonal, so that R² has a closed form.
    first, second, rest = np.array(
        [[1, 1, 1, 1, -1, -1, -1, -1], [1, 1, -1, -1, 1, 1, -1, -1], [1, -1, 1, -1, 1, -1, 1, -1]]
    )[:, :, None].astype(float)
    targets = 2 * first + second + rest  # variances 4, 1 and 1
    np.testing.assert_allclose(split_r2([2 * first, second], targets)[:, 0], [4 / 6, 1 / 6])
    r = split_correlation([2 * first, second], targets)[:, 0]
    np.testing.assert_allclose(r, np.array([4, 1]) / np.sqrt(5 * 6))
    # A part of twice the right size: 2·8/6 − 16/6 of the variance, which is none.
    np.testing.assert_allclose(split_r2([4 * first, second], targets)[:, 0], [0, 1 / 6], atol=1e-12)


def test_undefined_scores_are_nan_and_wrong_shapes_are_refused(problem):
    parts, targets = problem
    constant = targets.copy()
    constant[:, 0] = 7
    assert np.isnan(split_r2(parts, constant)[:, 0]).all()
    assert np.isnan(split_correlation(parts, constant)[:, 0]).all()
    assert np.isnan(split_correlation(0 * parts, targets)).all()
    assert np.isfinite(split_r2(0 * parts, targets)).all()
    for wrong in (parts[0], parts[:, :-1], parts[:0]):
        with pytest.raises(ValueError, match="n_bands, n_images, n_voxels"):
            split_r2(wrong, targets)
