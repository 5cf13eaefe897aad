"""Ridge solvers against scikit-learn and the normal equations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV

from brainenc import solvers
from brainenc.model_selection import image_folds
from brainenc.solvers import _fold, primal

ALPHAS = np.logspace(-1, 4, 11)


def solve_guided(form, X, Y, alphas, folds, **options):
    """Ridge in either form, with weights of features, and not every penalty tried."""
    if form == "primal":
        return solvers.ridge_cv(X, Y, alphas, folds, search="guided", **options)
    fit = solvers.kernel_ridge_cv(X @ X.T, Y, alphas, folds, search="guided", **options)
    return replace(fit, weights=X.T @ fit.weights)


either_form = pytest.mark.parametrize("form", ["primal", "kernel"])


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


@pytest.fixture(scope="module")
def hard_problem():
    """Single precision, features of a steep spectrum, and voxels from no signal to much."""
    rng = np.random.default_rng(2)
    X = rng.standard_normal((600, 120)) * np.arange(1, 121) ** -1.5
    X = (X @ np.linalg.qr(rng.standard_normal((120, 120)))[0]).astype(np.float32)
    Y = X @ rng.standard_normal((120, 400))
    Y *= np.sqrt(np.linspace(0, 0.8, 400)) / Y.std(0)
    Y += rng.standard_normal(Y.shape) + 100
    return X, Y.astype(np.float32), 600 * np.logspace(-4, 2, 13), image_folds(5, 600)


@either_form
def test_low_precision_changes_no_choice(hard_problem, form):
    X, Y, alphas, folds = hard_problem
    single = solve_guided(form, X, Y, alphas.astype(np.float32), folds)
    double = solve_guided(form, X.astype(np.float64), Y.astype(np.float64), alphas, folds)
    # Where float32 ties, either may win: one voxel in a hundred at most.
    same = np.isclose(single.alphas, double.alphas, rtol=1e-4)
    assert same.mean() >= 0.99
    assert len(set(single.alphas)) > 4
    # float32 round-off, 1e-7, grows with the condition of XᵀX + α.
    for name in ("held_out", "intercept"):
        found, wanted = getattr(single, name), getattr(double, name)
        np.testing.assert_allclose(found[..., same], wanted[..., same], rtol=1e-3)


@either_form
@pytest.mark.parametrize("unit", [1e-12, 1e9])
def test_units_of_features_change_no_choice(hard_problem, unit, form):
    """Their Gram matrices are within float32, the squares of these are not."""
    X, Y, alphas, folds = hard_problem
    plain = solve_guided(form, X, Y, alphas.astype(np.float32), folds)
    other = solve_guided(
        form, X * np.float32(unit), Y, (alphas * unit**2).astype(np.float32), folds
    )
    # Products of other numbers are rounded otherwise: a tie in a hundred at most.
    assert np.isclose(other.alphas / unit**2, plain.alphas, rtol=1e-3).mean() >= 0.99


def held_out_errors(X, Y, alphas, folds):
    """Mean squared error for each penalty and voxel, from the normal equations."""
    errors = np.zeros((len(alphas), Y.shape[1]))
    for train, test in folds:
        x, y = X[train].astype(np.float64), Y[train].astype(np.float64)
        x_mean, y_mean = x.mean(0), y.mean(0)
        for a, alpha in enumerate(alphas):
            gram = (x - x_mean).T @ (x - x_mean) + alpha * np.eye(X.shape[1])
            weights = np.linalg.solve(gram, (x - x_mean).T @ (y - y_mean))
            errors[a] += np.square((X[test] - x_mean) @ weights + y_mean - Y[test]).mean(0)
    return errors / len(folds)


@pytest.mark.parametrize("drift", [0, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("guess", [None, 99])
def test_close_calls_are_decided_in_full_precision(dtype, guess, drift, monkeypatch):
    """Penalties so close that bf16, 8 bits, cannot tell, or far from the one that is guessed."""
    monkeypatch.setattr(_fold, "_low_dtype", lambda features: dtype)
    if guess is not None:
        far = torch.full((200,), guess)
        monkeypatch.setattr(primal._Design, "_guess", lambda *_: far)
    rng = np.random.default_rng(2)
    X = rng.standard_normal((600, 120)) * np.arange(1, 121) ** -0.5
    X = (X @ np.linalg.qr(rng.standard_normal((120, 120)))[0]).astype(np.float32)
    # Folds of consecutive images, unlike those trained on: their axes are not those of training.
    X += drift * np.linspace(-1, 1, 600, dtype=np.float32)[:, None] * X[0]
    Y = X @ rng.standard_normal((120, 200))
    Y = Y / Y.std(0) + rng.standard_normal(Y.shape) * np.linspace(4, 0.5, 200)
    Y, alphas = Y.astype(np.float32), (600 * np.logspace(-3, 1, 100)).astype(np.float32)
    tests = np.split(np.arange(600), 5)
    folds = [(np.setdiff1d(np.arange(600), test), test) for test in tests]
    fit = solvers.ridge_cv(X, Y, alphas, folds, search="guided")
    errors = held_out_errors(X, Y, alphas, folds)
    best = errors.argmin(0)
    assert len(set(best)) > 20
    # Without doubt in what is nearly known the choice is another one in 7 to 75 %; float32
    # leaves next to no ties.
    assert np.isclose(fit.alphas, alphas[best], rtol=1e-4).mean() >= 0.99


@either_form
@pytest.mark.parametrize("case", ["an image", "categories", "rare features"])
def test_test_images_that_vary_unlike_the_others(case, form):
    """Voxels that respond to just what few images have, so that test images tell something else."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((600, 100)) * np.arange(1, 101) ** -0.5
    X = X @ np.linalg.qr(rng.standard_normal((100, 100)))[0]
    if case == "an image":  # far from all others
        far = rng.standard_normal((100, 1)) * np.ones(300)
        X[0] = 1.2 * far[:, 0]
    elif case == "categories":  # each is a fold
        centres = 0.1 * rng.standard_normal((5, 100))
        X += np.repeat(centres, 120, axis=0)
        far = 10 * centres[rng.integers(5, size=300)].T
    else:  # in four images each
        X = (rng.random((600, 200)) < 4 / 600).astype(float)
        X = X[:, X.any(0)]
        far = np.eye(X.shape[1])[rng.integers(X.shape[1], size=300)].T
    weights = 0.1 * rng.standard_normal(far.shape) * (case != "rare features")
    Y = X @ (far / np.sqrt(100) + weights)
    Y = Y / Y.std(0) + rng.standard_normal(Y.shape) * np.linspace(4, 0.5, 300)
    X = (X - X.mean(0)) / X.std(0)
    alphas, tests = 600 * np.logspace(-4, 3, 22), np.split(np.arange(600), 5)
    folds = [(np.setdiff1d(np.arange(600), test), test) for test in tests]
    fit = solve_guided(form, X, Y, alphas, folds)
    errors = held_out_errors(X, Y, alphas, folds)
    chosen = errors[np.searchsorted(alphas, fit.alphas * (1 - 1e-9)), np.arange(300)]
    # Were all taken for diagonal, 7 to 8 % of voxels would get another penalty, with errors up to
    # 5 % larger, and with rare features two voxels, one 1.2 % off, if no random mixtures checked.
    # What all mixtures leave may be off by chance, in few voxels and by little.
    assert (chosen == errors.min(0)).mean() >= 0.99
    np.testing.assert_allclose(chosen, errors.min(0), rtol=5e-3)
    shared = solve_guided(form, X, Y, alphas, folds, per_voxel=False)
    np.testing.assert_allclose(shared.alphas, alphas[errors.sum(1).argmin()])


def test_the_guess_is_that_of_generalised_cross_validation(hard_problem):
    """A worse one would change no answer, only take longer."""
    X, Y, alphas, folds = hard_problem
    X, Y = X.astype(np.float64), Y.astype(np.float64)
    design = primal._Design(X, alphas, folds, torch.device("cpu"))
    found = design._guess(design.block(Y))
    x, y, scores = X - X.mean(0), Y - Y.mean(0), []
    for alpha in alphas:
        hat = x @ np.linalg.solve(x.T @ x + alpha * np.eye(120), x.T)
        scores.append(np.square(y - hat @ y).sum(0) / (599 - np.trace(hat)) ** 2)
    assert len(set(np.argmin(scores, axis=0))) > 4
    np.testing.assert_array_equal(found, np.argmin(scores, axis=0))


def test_estimates_of_the_change_of_the_error(hard_problem):
    """Wrong ones would often change no answer, as more penalties would be predicted."""
    X, Y, alphas, folds = hard_problem
    X, Y = X.astype(np.float64), Y.astype(np.float64)
    design = primal._Design(X, alphas, folds, torch.device("cpu"))
    block, at = design.block(Y), torch.full((400,), 6)
    predictions = design.held_out(block, design.alphas[at])
    found = [
        fold.changes(projected, block.Y[fold.test] - prediction, design.alphas, at)
        for fold, projected, prediction in zip(
            design.folds, block.of_folds, predictions, strict=True
        )
    ]
    error, doubt = (each.numpy() for each in primal._over_folds(found))
    errors = held_out_errors(X, Y, alphas, folds).T
    others = np.arange(13) != 6
    off = (error - (errors - errors[:, [6]]))[:, others]
    z = primal._SAFETY * off / doubt[:, others]
    # Voxels have their test images in common, and these but a few strong axes: z of one problem has
    # an s.d. of .9 to 1.4.
    assert 0.6 < np.sqrt(np.square(z).mean()) < 1.8
    assert (np.abs(z) < primal._SAFETY).mean() > 0.98
    # Means of 80 squares of normal numbers, the same mixtures for all voxels: s.e. 16 %, or less.
    ratio = sum(each.checked for each in found).sum() / sum(each.diagonal for each in found).sum()
    assert ratio == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("drift", [0, 1])
def test_the_norm_of_what_is_not_diagonal(drift):
    rng = np.random.default_rng(0)
    P = rng.standard_normal((300, 100)) * np.arange(1, 101) ** -0.5
    P += drift * np.linspace(-1, 1, 300)[:, None] * rng.standard_normal(100)
    gram = P.T @ P
    wanted = np.linalg.norm(gram - np.diag(np.diag(gram))) / np.trace(gram)
    P = torch.from_numpy(P)
    # By 64 random signs: √(2 / 64) / 2 = 9 % at most (one direction, drift), allowed three times.
    assert float(_fold._coupling(P, P.square().sum(0))) == pytest.approx(wanted, rel=0.27)


@either_form
def test_a_fold_whose_test_image_is_the_mean_of_the_others(form):
    """Its features are all 0 once centred: any penalty predicts it as well."""
    rng = np.random.default_rng(0)
    half = rng.integers(-9, 10, (20, 8)).astype(float)
    X = np.concatenate([half, -half, np.zeros((1, 8))])
    Y = X @ rng.standard_normal((8, 30)) + 40 * rng.standard_normal((41, 30))
    folds = [(np.delete(np.arange(41), i), np.array([i])) for i in range(41)]
    fit = solve_guided(form, X, Y, ALPHAS, folds)
    wanted = RidgeCV(ALPHAS, alpha_per_target=True).fit(X, Y)
    assert len(set(wanted.alpha_)) > 1
    np.testing.assert_allclose(fit.alphas, wanted.alpha_)
    np.testing.assert_allclose(fit.weights, wanted.coef_.T, atol=1e-10)


@pytest.mark.parametrize("unit", [1, 1e4])
@pytest.mark.parametrize("per_voxel", [True, False])
def test_a_penalty_below_round_off_is_solved_in_doubles(per_voxel, unit):
    """Features of which some hardly vary on their own: the axes of these are lost in float32."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 60)) * np.arange(1, 61.0) ** -3
    X = (X @ np.linalg.qr(rng.standard_normal((60, 60)))[0]).astype(np.float32)
    Y = (X @ rng.standard_normal((60, 5))).astype(np.float32)
    X *= np.float32(unit)
    alphas, folds = np.array([1e-9 * unit**2]), image_folds(5, 300)
    single, double = (
        solvers.ridge_cv(X.astype(t), Y.astype(t), alphas.astype(t), folds, per_voxel=per_voxel)
        for t in (np.float32, np.float64)
    )
    assert single.weights.dtype == np.float32
    # Y is known to 6e-8, and X weakens its weakest axis 2e5 times; in float32 alone this is off
    # by tens.
    np.testing.assert_allclose(single.held_out, double.held_out, atol=1e-4)
    np.testing.assert_allclose(X @ single.weights, X @ double.weights, atol=1e-2)


@either_form
def test_ridge_agrees_with_himalaya(hard_problem, form):
    from himalaya.ridge import RidgeCV

    X, Y, alphas, folds = hard_problem
    Y = Y - 100  # himalaya's means of large float32 lose digits
    wanted = RidgeCV(alphas=alphas, fit_intercept=True, cv=folds).fit(X, Y)
    fit = solve_guided(form, X, Y, alphas, folds)
    same = np.isclose(fit.alphas, wanted.best_alphas_, rtol=1e-4)
    assert same.mean() >= 0.99
    found = X @ fit.weights + fit.intercept
    expected = X @ wanted.coef_ + wanted.intercept_
    error, size = (np.linalg.norm(part, axis=0) for part in (found - expected, expected))
    # Where shrinkage leaves next to nothing, beside round-off of responses of size 1.
    limit = 1e-3 * size + 1e-6 * np.sqrt(len(X))
    np.testing.assert_array_less(error[same], limit[same])


@either_form
@pytest.mark.parametrize("per_voxel", [True, False])
def test_folds_that_are_no_partition(problem, per_voxel, form):
    X, Y, _ = problem
    rng = np.random.default_rng(3)
    # Trained on a part of what is not tested, and some images never tested.
    folds = [(order[:50], order[60:90]) for order in (rng.permutation(110) for _ in range(3))]
    fit = solve_guided(form, X, Y, ALPHAS, folds, per_voxel=per_voxel)
    errors = [
        [
            np.mean(
                [
                    np.square(Ridge(alpha).fit(X[a], Y[a, v]).predict(X[b]) - Y[b, v]).mean()
                    for a, b in folds
                ]
            )
            for alpha in ALPHAS
        ]
        for v in range(Y.shape[1])
    ]
    errors = errors if per_voxel else [np.sum(errors, axis=0)] * Y.shape[1]
    np.testing.assert_allclose(fit.alphas, ALPHAS[np.argmin(errors, axis=1)])
    never = np.setdiff1d(np.arange(120), np.concatenate([test for _, test in folds]))
    assert np.isnan(fit.held_out[never]).all()
    train, test = folds[-1]
    wanted = Ridge(fit.alphas[0]).fit(X[train], Y[train, 0]).predict(X[test])
    np.testing.assert_allclose(fit.held_out[test, 0], wanted, atol=1e-9)


def test_blocks_of_voxels_and_the_users_precision_change_nothing(problem, monkeypatch):
    import torch

    from brainenc.solvers import primal

    X, Y, folds = problem
    X, Y, alphas = (part.astype(np.float32) for part in (X, Y, ALPHAS))
    whole = solvers.ridge_cv(X, Y, alphas, folds, search="guided")
    monkeypatch.setattr(primal, "_BLOCK_VOXELS", 4)
    former = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        parts = solvers.ridge_cv(X, Y, alphas, folds, search="guided")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(former)
    np.testing.assert_array_equal(parts.alphas, whole.alphas)
    # Products of other shapes round otherwise: 1e-5 of predictions about 10.
    np.testing.assert_allclose(parts.held_out, whole.held_out, atol=1e-4)


# ------------------------------------------------------------------ penalties of groups of voxels


@pytest.mark.parametrize("n_images", [80, 1200])  # exact and guided
@pytest.mark.parametrize("form", ["primal", "kernel", "banded"])
def test_voxels_of_a_label_share_the_penalty_of_a_fit_to_them_alone(form, n_images):
    """The oracle is one penalty for all voxels, fitted to the voxels of each label alone."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_images, 20))
    labels = np.array(["V1", "V2", "V1", "none", "V2", "V1"])
    noise = {"V1": 0.1, "V2": 3.0, "none": 10.0}
    Y = X @ rng.standard_normal((20, 6))
    Y += rng.standard_normal(Y.shape) * [noise[label] for label in labels] * 3
    folds = image_folds(4, n_images)

    def fit(Y, per_voxel):
        options = {"per_voxel": per_voxel}
        if form == "primal":
            return solvers.ridge_cv(X, Y, np.logspace(-2, 5, 15), folds, **options)
        if form == "kernel":
            return solvers.kernel_ridge_cv(X @ X.T, Y, np.logspace(-2, 5, 15), folds, **options)
        Ks = [X[:, :7] @ X[:, :7].T, X[:, 7:] @ X[:, 7:].T]
        return solvers.banded_ridge_cv(Ks, Y, np.logspace(-2, 5, 15), folds, n_iter=4, **options)

    shared = fit(Y, labels)
    for label in noise:
        alone = fit(Y[:, labels == label], False)
        np.testing.assert_array_equal(shared.alphas[labels == label], alone.alphas)
        for name in ("weights", "held_out"):
            ours = getattr(shared, name)[:, labels == label]
            np.testing.assert_allclose(ours, getattr(alone, name), rtol=1e-6, atol=1e-8)
    assert len(set(shared.alphas)) == 3
    with pytest.raises(ValueError, match="must have one for each of 6 voxels"):
        fit(Y, labels[:4])
