"""The guided search over penalties against every penalty tried, on data that are hard for it."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from brainenc import solvers
from brainenc.model_selection import image_folds
from brainenc.solvers import search as search_module


def solve(form, X, Y, alphas, folds, search):
    if form == "primal":
        return solvers.ridge_cv(X, Y, alphas, folds, search=search)
    return solvers.kernel_ridge_cv(X @ X.T, Y, alphas, folds, search=search)


def hard_data(case, rng, p=400):
    n, v = 240, 200
    X = rng.standard_normal((n, p)) * np.arange(1, p + 1) ** -0.5
    folds = image_folds(5, n)
    if case == "outlying images":
        X[:3] *= 30
    elif case == "heavy tails":
        X = rng.standard_t(1.5, (n, p)) * np.arange(1, p + 1) ** -0.5
    elif case == "categories as folds":
        X += np.repeat(rng.standard_normal((6, p)), 40, axis=0)
        tests = np.split(np.arange(n), 6)
        folds = [(np.setdiff1d(np.arange(n), test), test) for test in tests]
    elif case == "duplicated features":
        X = np.concatenate([X[:, : p // 4]] * 4, axis=1)
    elif case == "few images":
        X = X[:12]
        folds = image_folds(4, 12)
    elif case == "uneven folds":
        tests = np.split(np.arange(n), [5, 100, 101])
        folds = [(np.setdiff1d(np.arange(n), test), test) for test in tests]
    Y = X @ rng.standard_normal((X.shape[1], v))
    Y = Y / Y.std(0) + rng.standard_normal(Y.shape) * np.geomspace(10, 0.1, v)
    if case == "heavy tails":
        Y += rng.standard_t(1.5, Y.shape)
    Y[:, 7] = 3  # a constant voxel
    return X, Y, folds


CASES = ["outlying images", "heavy tails", "categories as folds", "duplicated features"]
CASES += ["few images", "uneven folds"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", ["primal", "kernel"])
@pytest.mark.parametrize("case", CASES)
def test_guided_search_chooses_as_if_every_penalty_were_tried(case, form, dtype):
    X, Y, folds = hard_data(case, np.random.default_rng(5), p=400 if form == "kernel" else 60)
    alphas = max(X.shape) * np.logspace(-3, 3, 13)  # well above round-off of float32
    # Few images and uneven folds are where "auto" is exact whatever the number of images.
    search = "auto" if case in ("few images", "uneven folds") else "guided"
    X, Y, alphas = X.astype(dtype), Y.astype(dtype), alphas.astype(dtype)
    exact = solve(form, X, Y, alphas, folds, "exact")
    found = solve(form, X, Y, alphas, folds, search)
    errors = [
        np.mean([np.square(fit.held_out[test] - Y[test]).mean(0) for _, test in folds], axis=0)
        for fit in (found, exact)
    ]
    assert len(set(exact.alphas)) > 3
    # What the search may overlook are voxels with two minima that are nearly as good.
    assert np.isclose(found.alphas, exact.alphas, rtol=1e-3).mean() >= 0.985
    np.testing.assert_allclose(*errors, rtol=5e-3, atol=1e-5)


@pytest.mark.parametrize("form", ["primal", "kernel"])
@pytest.mark.parametrize("search", ["guided", "exact"])
def test_folds_of_one_image(form, search):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((15, 40)), rng.standard_normal((15, 4))
    alphas = np.logspace(-1, 2, 6)
    folds = [(np.delete(np.arange(15), i), np.array([i])) for i in range(15)]
    fit = solve(form, X, Y, alphas, folds, search)
    train, test = folds[3]
    for v in range(4):
        model = Ridge(alpha=fit.alphas[v]).fit(X[train], Y[train, v])
        # Two direct solves in double precision.
        np.testing.assert_allclose(fit.held_out[test, v], model.predict(X[test]), atol=1e-9)


def test_training_on_one_image_and_on_images_drawn_twice():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((20, 30)), rng.standard_normal((20, 3))
    drawn = rng.integers(0, 15, 18)
    folds = [(np.array([4]), np.arange(5, 20)), (drawn, np.arange(15, 20))]
    fit = solvers.kernel_ridge_cv(X @ X.T, Y, np.array([0.5, 5.0]), folds)
    # One image tells its own responses only.
    np.testing.assert_allclose(fit.held_out[5:15], np.tile(Y[4], (10, 1)), atol=1e-12)
    model = Ridge(alpha=fit.alphas[0]).fit(X[drawn], Y[drawn, 0])
    np.testing.assert_allclose(fit.held_out[15:, 0], model.predict(X[15:]), atol=1e-9)


def test_one_penalty_for_all_voxels_is_that_of_the_summed_error():
    X, Y, folds = hard_data("outlying images", np.random.default_rng(2))
    alphas = max(X.shape) * np.logspace(-4, 3, 15)
    totals = [
        np.square(solvers.kernel_ridge_cv(X @ X.T, Y, alphas[[i]], folds).held_out - Y).sum()
        for i in range(15)
    ]
    for search in ("guided", "exact"):
        fit = solvers.kernel_ridge_cv(X @ X.T, Y, alphas, folds, per_voxel=False, search=search)
        np.testing.assert_allclose(fit.alphas, alphas[np.argmin(totals)])


def test_a_second_minimum_is_found_where_expectation_was_wrong_before():
    """Errors with two minima, of which the expected curve shows the worse one."""
    expected = torch.tensor([[3.0, 2.0, 1.0, 2.0, 2.2, 2.1, 2.4]])
    actual = torch.tensor([[3.0, 2.0, 1.9, 2.3, 2.2, 1.0, 2.0]])
    errors = torch.full_like(actual, torch.nan)
    errors[0, 2] = actual[0, 2]
    best = search_module.search_penalties(errors, expected, lambda v, at: actual[v, at])
    assert best.tolist() == [5]


@pytest.mark.parametrize("n_wrong", [1, 40])
def test_all_penalties_are_evaluated_if_expectations_are_wrong_for_most_voxels(n_wrong):
    """Far from the guess, behind worse neighbours, lies a minimum that nothing expected."""
    expected = 1 + 0.1 * (torch.arange(11.0) - 3).square().expand(50, -1)
    truth = expected.clone()
    truth[:n_wrong] = torch.tensor([1.05] * 11)
    truth[:n_wrong, 3], truth[:n_wrong, 9] = 1, 0.9
    errors = torch.full_like(truth, torch.nan)
    errors[:, 3] = truth[:, 3]
    evaluated = []

    def evaluate(voxels, positions):
        evaluated.append(len(voxels))
        return truth[voxels, positions]

    best = search_module.search_penalties(errors, expected, evaluate)
    assert (best[n_wrong:] == 3).all()
    if n_wrong == 40:
        assert sum(evaluated) == 50 * 10
        assert (best[:40] == 9).all()
    else:
        assert sum(evaluated) <= 50 * 2 + 8  # neighbours, and what the one voxel doubts


def test_what_is_neither_a_kernel_nor_a_search_is_refused():
    K, Y, folds = np.eye(20), np.ones((20, 2)), image_folds(4, 20)
    with pytest.raises(ValueError, match=r"K of shape .* must be finite"):
        solvers.kernel_ridge_cv(K * np.nan, Y, np.ones(1), folds)
    with pytest.raises(ValueError, match="search='quick' must be one of"):
        solvers.kernel_ridge_cv(K, Y, np.ones(1), folds, search="quick")
    with pytest.raises(ValueError, match="search='quick' must be one of"):
        solvers.ridge_cv(K, Y, np.ones(1), folds, search="quick")
