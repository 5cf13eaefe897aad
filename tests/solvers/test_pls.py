"""Components of partial least squares, against scikit-learn's fits one by one."""

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression

from brainenc.model_selection import image_folds
from brainenc.solvers.pls import Design, pls_components, pls_cv


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 12))
    return X, X[:, :3] @ rng.standard_normal((3, 5)) + rng.standard_normal((60, 5)) + 7


def predicted(found, X, n):
    return found.constant + (X - found.mean) @ found.rotations[:, :n] @ found.loadings[:, :n].T


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_the_first_components_are_a_fit_with_fewer(problem, n):
    X, Y = problem
    found = pls_components(X, Y, 9)
    expected = PLSRegression(n, scale=False).fit(X, Y).predict(X)
    np.testing.assert_allclose(predicted(found, X, n), expected, rtol=1e-10)


def test_more_features_than_images(problem):
    """They are reduced to as many coordinates, in which components are the same."""
    X, Y = np.random.default_rng(2).standard_normal((60, 300)) + 3, problem[1]
    found = pls_components(X[:40], Y[:40], 6)
    expected = PLSRegression(6, scale=False).fit(X[:40], Y[:40]).predict(X)
    np.testing.assert_allclose(predicted(found, X, 6), expected, rtol=1e-9)
    assert found.rotations.shape == (300, 6)


def test_all_components_are_least_squares(problem):
    X, Y = problem
    found = pls_components(X, Y, 12)
    A = np.column_stack([np.ones(60), X])
    np.testing.assert_allclose(
        predicted(found, X, 12), A @ np.linalg.lstsq(A, Y, rcond=None)[0], rtol=1e-8
    )


@pytest.mark.parametrize("kind", ["rank", "constant voxels", "constant features", "one image"])
def test_where_nothing_is_left_there_are_no_further_components(problem, kind):
    X, Y = problem
    if kind == "rank":
        X = X[:, [0, 1, 2, 0, 1, 2]]
    elif kind == "constant voxels":
        Y = np.ones_like(Y)
    elif kind == "constant features":
        X = np.ones_like(X)
    else:
        X, Y = X[:1], Y[:1]
    found = pls_components(X, Y, 6)
    assert found.rotations.shape[1] == found.loadings.shape[1] == (3 if kind == "rank" else 0)
    assert all(np.isfinite(part).all() for part in found)


def test_the_number_is_that_of_the_smallest_held_out_error(problem):
    X, Y = problem
    folds = image_folds(4, 60)
    fit = pls_cv(Design(X), Y, range(1, 10), folds)
    errors = []
    for n in range(1, 10):
        held_out = np.empty_like(Y)
        for train, test in folds:
            pls = PLSRegression(n, scale=False).fit(X[train], Y[train])
            held_out[test] = pls.predict(X[test])
        errors.append(np.square(held_out - Y).sum())
        if errors[-1] == min(errors):
            expected = held_out
    assert fit.components.rotations.shape[1] == 1 + int(np.argmin(errors))
    np.testing.assert_allclose(fit.held_out, expected, rtol=1e-9)


def test_functions_are_further_features(problem):
    """Components in features and functions, as weights of features alone."""
    X, Y = problem
    factor = np.random.default_rng(1).standard_normal((12, 2))
    design = Design(X, factor)
    a, b = design.sizes(0.9)
    beside = np.hstack([a * X, b * (X @ factor)])
    shares = np.square(beside - beside.mean(axis=0)).mean(axis=0)
    np.testing.assert_allclose([shares[:12].sum(), shares[12:].sum()], [0.1, 0.9])
    found = design.fit(np.arange(40), Y[:40], 3, 0.9)
    expected = PLSRegression(3, scale=False).fit(beside[:40], Y[:40]).predict(beside)
    np.testing.assert_allclose(predicted(found, X, 3), expected, rtol=1e-9)
