"""RidgeRegression against scikit-learn's ridge and loops over folds."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler

from brainenc.model_selection import image_folds
from brainenc.solvers import RidgeRegression, search

ALPHAS = np.logspace(-1, 4, 11)


@pytest.fixture(scope="module")
def problem():
    """150 images, 25 features in units of their own, 6 targets from clear to none; double."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 25)) * rng.uniform(0.1, 10, 25) + 5
    Y = (X / X.std(0)) @ rng.standard_normal((25, 6)) * np.linspace(1, 0, 6)
    return X, Y + 4 * rng.standard_normal((150, 6)) - 3


def z_scored(X, of):
    return StandardScaler().fit(of).transform(X)


def chosen_by_loops(X, Y, folds):
    """Alpha of each target with the smallest squared error on images left out, and these."""
    z = z_scored(X, X)  # features are scaled once, over all images
    held_out = np.empty((len(ALPHAS), *Y.shape))
    for a, alpha in enumerate(ALPHAS):
        for train, test in folds:
            held_out[a, test] = Ridge(alpha=alpha).fit(z[train], Y[train]).predict(z[test])
    best = np.square(held_out - Y).mean(axis=1).argmin(axis=0)
    return ALPHAS[best], np.take_along_axis(held_out, best[None, None], axis=0)[0]


@pytest.mark.parametrize("form", ["primal", "kernel"])
def test_it_is_the_ridge_of_z_scored_features_with_the_alpha_of_a_loop(problem, form):
    X, Y = problem
    folds = image_folds(5, 150)
    regression, held_out = RidgeRegression.fit(X, Y, alphas=ALPHAS, cv=folds, form=form)
    alphas, expected = chosen_by_loops(X, Y, folds)
    assert len(set(alphas)) > 2
    np.testing.assert_allclose(regression.alphas, alphas)
    # Direct solves in double precision; himalaya's kernel form has 1e-9.
    np.testing.assert_allclose(held_out, expected, atol=1e-8)
    new = np.random.default_rng(1).standard_normal((20, 25)) * 3 + 5
    for v, alpha in enumerate(alphas):
        model = Ridge(alpha=alpha).fit(z_scored(X, X), Y[:, v])
        theirs = model.predict(z_scored(new, X))
        np.testing.assert_allclose(regression.predict(new)[:, v], theirs, atol=1e-8)
        if form == "primal":
            np.testing.assert_allclose(regression.coef[:, v], model.coef_, atol=1e-8)
            assert regression.intercept[v] == pytest.approx(model.intercept_)
    assert regression.form == form
    assert (regression.X_fit is None) == (form == "primal")


def test_leaving_one_out_chooses_as_ridge_cv_does(problem):
    X, Y = problem
    folds = [(np.delete(np.arange(150), i), np.array([i])) for i in range(150)]
    regression, _ = RidgeRegression.fit(X, Y, alphas=ALPHAS, cv=folds)
    theirs = RidgeCV(ALPHAS, alpha_per_target=True).fit(z_scored(X, X), Y)
    np.testing.assert_allclose(regression.alphas, theirs.alpha_)
    np.testing.assert_allclose(regression.predict(X), theirs.predict(z_scored(X, X)), atol=1e-8)


def test_one_alpha_has_the_smallest_error_over_all_targets(problem):
    X, Y = problem
    folds = image_folds(5, 150)
    regression, held_out = RidgeRegression.fit(X, Y, alphas=ALPHAS, alpha_per_voxel=False, cv=folds)
    error = []
    for alpha in ALPHAS:
        model = Ridge(alpha=alpha)
        z = z_scored(X, X)
        left_out = [
            Y[test] - model.fit(z[train], Y[train]).predict(z[test]) for train, test in folds
        ]
        error.append(np.square(np.concatenate(left_out)).mean())
    assert set(regression.alphas) == {ALPHAS[np.argmin(error)]}
    assert np.square(held_out - Y).mean() == pytest.approx(min(error))


def test_both_forms_are_one_map_in_single_precision(problem):
    X, Y = (each.astype(np.float32) for each in problem)
    both = [RidgeRegression.fit(X, Y, form=form) for form in ("primal", "kernel")]
    np.testing.assert_allclose(both[0][0].alphas, both[1][0].alphas, rtol=1e-6)
    assert both[0][0].predict(X).dtype == both[1][0].predict(X).dtype == np.float32
    np.testing.assert_allclose(both[0][0].predict(X), both[1][0].predict(X), atol=1e-3)
    np.testing.assert_allclose(both[0][1], both[1][1], atol=1e-3)
    # "auto" is the smaller one.
    assert RidgeRegression.fit(X, Y)[0].form == "primal"
    assert RidgeRegression.fit(np.tile(X, 6), Y)[0].form == "kernel"
    with pytest.raises(ValueError, match="form='dual'"):
        RidgeRegression.fit(X, Y, form="dual")


def test_tokens_are_flattened_and_features_centred_in_any_case(problem):
    X, Y = problem
    plain, _ = RidgeRegression.fit(X, Y)
    tokens, _ = RidgeRegression.fit(X.reshape(150, 5, 5), Y)
    np.testing.assert_array_equal(tokens.predict(X.reshape(150, 5, 5)), plain.predict(X))
    centred, _ = RidgeRegression.fit(X, Y, alphas=[20.0], standardize=False)
    np.testing.assert_allclose(centred.predict(X), Ridge(20.0).fit(X, Y).predict(X), atol=1e-8)
    constant = X.copy()
    constant[:, 3] = 7
    model = Ridge(20.0).fit(z_scored(constant, constant), Y)
    ours, _ = RidgeRegression.fit(constant, Y, alphas=[20.0])
    theirs = model.predict(z_scored(constant, constant))
    np.testing.assert_allclose(ours.predict(constant), theirs, atol=1e-8)


@pytest.mark.parametrize("form", ["primal", "kernel"])
def test_images_that_a_target_lacks_are_left_out_for_that_target(problem, form):
    X, Y = problem
    holed = Y.copy()
    holed[:40, 2] = holed[60:, 4] = np.nan
    holed[:, 3] = np.nan
    folds = image_folds(5, 150)
    options = {"alphas": [20.0], "cv": folds, "form": form}
    regression, held_out = RidgeRegression.fit(X, holed, **options)
    z = z_scored(X, X)  # over all images
    for v, rows in ((0, slice(None)), (2, slice(40, None)), (4, slice(60))):
        model = Ridge(20.0).fit(z[rows], Y[rows, v])
        np.testing.assert_allclose(regression.predict(X)[:, v], model.predict(z), atol=1e-8)
        has = np.zeros(150, dtype=bool)
        has[rows] = True
        np.testing.assert_array_equal(np.isfinite(held_out[:, v]), has)
        for train, test in folds:
            model.fit(z[train[has[train]]], Y[train[has[train]], v])
            seen = test[has[test]]
            np.testing.assert_allclose(held_out[seen, v], model.predict(z[seen]), atol=1e-8)
    for values in (held_out[:, 3], regression.predict(X)[:, 3], regression.alphas[3]):
        assert np.isnan(values).all()
    assert np.isfinite(regression.predict(X)[:, [0, 1, 2, 4, 5]]).all()


@pytest.mark.parametrize("exact_images", [1000, 0])
def test_penalties_at_the_round_off_of_a_kernel_are_solved_in_doubles(exact_images, monkeypatch):
    """Features some of which hardly vary on their own: float32 kernels lose their axes."""
    monkeypatch.setattr(search, "EXACT_IMAGES", exact_images)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 60)) * np.arange(1, 61.0) ** -3
    X = (X @ np.linalg.qr(rng.standard_normal((60, 60)))[0]).astype(np.float32)
    Y = (X @ rng.standard_normal((60, 5))).astype(np.float32)
    options = {"alphas": [1e-9], "form": "kernel", "standardize": False}
    single, double = (
        RidgeRegression.fit(X.astype(t), Y.astype(t), **options) for t in (np.float32, np.float64)
    )
    assert single[0].coef.dtype == np.float32
    # Y is known to 6e-8, and X weakens its weakest axis 2e5 times.
    np.testing.assert_allclose(single[1], double[1], atol=1e-3)
