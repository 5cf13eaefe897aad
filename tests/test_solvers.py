"""Ridge solvers against scikit-learn and the normal equations."""

import numpy as np
import pytest
from himalaya.backend import get_backend, set_backend
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV

from brainenc import solvers
from brainenc.model_selection import image_folds

ALPHAS = np.logspace(-1, 4, 11)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 40))
    # Signal from strong to none, so that different voxels choose different alphas.
    Y = X @ rng.standard_normal((40, 6)) * np.linspace(2, 0, 6) + 8 * rng.standard_normal((120, 6))
    return X, Y + 3, image_folds(5, 120)


def test_ridge_agrees_with_scikit_learn(problem):
    X, Y, folds = problem
    fit = solvers.ridge_cv(X, Y, ALPHAS, folds)
    assert len(set(fit.alphas)) > 1
    for v in range(Y.shape[1]):
        search = GridSearchCV(
            Ridge(), {"alpha": ALPHAS}, cv=folds, scoring="neg_mean_squared_error"
        ).fit(X, Y[:, v])
        assert fit.alphas[v] == pytest.approx(search.best_params_["alpha"])
        # Both are direct solves in double precision: 1e-10 is round-off.
        predicted = X @ fit.weights[:, v] + fit.intercept[v]
        np.testing.assert_allclose(predicted, search.predict(X), atol=1e-10)


def test_held_out_predictions_come_from_fits_without_the_image(problem):
    X, Y, folds = problem
    fit = solvers.ridge_cv(X, Y, ALPHAS, folds)
    for train, test in folds:
        for v in (0, 5):
            model = Ridge(alpha=fit.alphas[v]).fit(X[train], Y[train, v])
            np.testing.assert_allclose(fit.held_out[test, v], model.predict(X[test]), atol=1e-10)


def test_kernel_form_gives_the_answers_of_the_primal_form(problem):
    X, Y, folds = problem
    primal = solvers.ridge_cv(X, Y, ALPHAS, folds)
    kernel = solvers.kernel_ridge_cv(X @ X.T, Y, ALPHAS, folds)
    np.testing.assert_allclose(kernel.alphas, primal.alphas)
    np.testing.assert_allclose(
        X @ (X.T @ kernel.weights) + kernel.intercept,
        X @ primal.weights + primal.intercept,
        atol=1e-9,
    )
    np.testing.assert_allclose(kernel.held_out, primal.held_out, atol=1e-9)


def test_banded_ridge_solves_the_normal_equations_of_its_weights(problem):
    X, Y, folds = problem
    bands = X[:, :15], X[:, 15:]
    Ks = [band @ band.T for band in bands]
    fit = solvers.banded_ridge_cv(Ks, Y, ALPHAS, folds, n_iter=8)
    np.testing.assert_allclose(fit.band_weights.sum(axis=0), 1, atol=1e-6)
    centre = np.eye(len(X)) - 1 / len(X)
    for v in range(Y.shape[1]):
        K = sum(w * k for w, k in zip(fit.band_weights[:, v], Ks, strict=True))
        centred = centre @ K @ centre
        dual = np.linalg.solve(centred + fit.alphas[v] * np.eye(len(X)), centre @ Y[:, v])
        expected = centred @ dual + Y[:, v].mean()
        np.testing.assert_allclose(K @ fit.weights[:, v] + fit.intercept[v], expected, atol=1e-8)
        train, test = folds[1]
        fold = Ridge(alpha=fit.alphas[v]).fit(
            *_weighted(bands, fit.band_weights[:, v], train, Y, v)
        )
        held_out = fold.predict(_weighted(bands, fit.band_weights[:, v], test, Y, v)[0])
        np.testing.assert_allclose(fit.held_out[test, v], held_out, atol=1e-8)


def _weighted(bands, weights, rows, Y, v):
    scaled = [np.sqrt(w) * band[rows] for w, band in zip(weights, bands, strict=True)]
    return np.concatenate(scaled, axis=1), Y[rows, v]


def test_banded_ridge_turns_off_a_band_of_noise():
    rng = np.random.default_rng(1)
    signal, noise = rng.standard_normal((200, 10)), rng.standard_normal((200, 300))
    Y = signal @ rng.standard_normal((10, 5)) + rng.standard_normal((200, 5))
    Ks = [signal @ signal.T / 10, noise @ noise.T / 300]
    fit = solvers.banded_ridge_cv(Ks, Y, ALPHAS, image_folds(5, 200), n_iter=30)
    assert (fit.band_weights[0] > 0.8).all()


def test_backend_is_put_back_after_an_error():
    set_backend("torch")
    try:
        # Inside NumPy is in force: a shape error of its matmul comes from there.
        with pytest.raises(ValueError, match="matmul"), solvers.himalaya_backend("cpu") as backend:
            backend.matmul(backend.ones_like(np.ones((2, 3))), np.ones((2, 3)))
        assert get_backend().name == "torch"
    finally:
        set_backend("numpy")
