"""The closed form of the study against scikit-learn's weighted ridge."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from brainenc.augmentation.linear import Pairs, tuned_ridge


def pairs(n, n_voxels, seed, slope):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n_voxels))
    return Pairs(X + 1, X @ slope + rng.standard_normal((n, 3)) + 2)


@pytest.mark.parametrize("n_voxels", [8, 200])
def test_it_is_the_best_weighted_ridge_of_the_grid(n_voxels):
    slope = np.random.default_rng(9).standard_normal((n_voxels, 3)) / np.sqrt(n_voxels)
    real, tuning = pairs(30, n_voxels, 0, slope), pairs(20, n_voxels, 1, slope)
    added, test = pairs(50, n_voxels, 2, 0.5 * slope), pairs(10, n_voxels, 3, slope)
    weights, penalties = (0.0, 0.2, 1.0), np.array([0.01, 0.1, 1.0])
    found = tuned_ridge(real, added, tuning, test.X, weights=weights, penalties=penalties)
    errors = {}
    X, Y = np.concatenate([real.X, added.X]), np.concatenate([real.Y, added.Y])
    for weight in weights:
        for penalty in penalties * max(30, n_voxels):
            mass = np.r_[np.ones(30), np.full(50, weight)]
            ridge = Ridge(penalty).fit(X, Y, sample_weight=mass)
            error = np.square(ridge.predict(tuning.X) - tuning.Y).mean()
            errors[error] = (weight, penalty, ridge.predict(test.X))
    weight, penalty, predicted = errors[min(errors)]
    assert found.error == pytest.approx(min(errors), rel=1e-6)
    assert (found.weight, found.penalty) == pytest.approx((weight, penalty))
    np.testing.assert_allclose(found.predicted, predicted, rtol=1e-5, atol=1e-6)


def test_rows_that_mislead_get_weight_zero():
    slope = np.eye(5, 3)
    real, tuning = pairs(40, 5, 0, slope), pairs(40, 5, 1, slope)
    wrong = pairs(200, 5, 2, -slope)
    found = tuned_ridge(real, wrong, tuning, tuning.X)
    without = tuned_ridge(real, None, tuning, tuning.X)
    assert found.weight == 0
    np.testing.assert_array_equal(found.predicted, without.predicted)
