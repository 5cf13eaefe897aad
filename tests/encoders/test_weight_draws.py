"""Draws of the encoder, ``sample(noise="weights")``: one draw is one function of the image."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import BaggingRegressor
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from tiny_encoders import tiny_encoder

import brainenc
from brainenc.encoders import add_refits, function_draws
from brainenc.encoders.function_draws import error_of_expected
from brainenc.solvers import posterior


def make_problem(n_features, *, n_images=120, n_voxels=6, repeats=None):
    rng = np.random.default_rng(n_features)
    X = rng.standard_normal((n_images, n_features)).astype(np.float32)
    weights = rng.standard_normal((n_features, n_voxels)) / np.sqrt(n_features)
    shape = (n_images, n_voxels) if repeats is None else (n_images, repeats, n_voxels)
    signal = X @ weights
    signal = signal if repeats is None else signal[:, None]
    return X, (signal + rng.standard_normal(shape)).astype(np.float32)


def closed_form(encoder, X, Y, new, voxel):
    """Mean and covariance of the posterior at new images, from the normal equations."""
    Z, new = (encoder.regression_.scaled(part).astype(float) for part in (X, new))
    rows = np.isfinite(Y[:, voxel])
    centre, y = Z[rows].mean(axis=0), Y[rows, voxel].astype(float)
    Z, new, mean = Z[rows] - centre, new - centre, y.mean()
    alpha = float(encoder.alphas_[voxel])
    precision = Z.T @ Z + alpha * np.eye(Z.shape[1])
    weights = np.linalg.solve(precision, Z.T @ (y - mean))
    variance = (y - mean) @ (y - mean - Z @ weights) / (rows.sum() - 1)
    covariance = variance * (new @ np.linalg.solve(precision, new.T) + 1 / rows.sum())
    return mean + new @ weights, covariance


@pytest.mark.parametrize(("n_features", "form"), [(20, "primal"), (20, "kernel"), (300, "kernel")])
def test_the_posterior_is_that_of_the_normal_equations(n_features, form):
    X, Y = make_problem(n_features)
    Y[:40, 2] = np.nan
    encoder = brainenc.RidgeEncoder(features=None, form=form).fit(X, Y)
    new = 1.5 * X[:5]
    n = 4000
    draws = encoder.sample(new, n=n, noise="weights", random_state=0).astype(float)
    for voxel in (0, 2):
        mean, covariance = closed_form(encoder, X, Y, new, voxel)
        found = encoder.posterior_.at(encoder.regression_.scaled(new), encoder.X_fit_)
        # Single precision in the coordinates of images.
        np.testing.assert_allclose(found.covariance(voxel), covariance, rtol=1e-3, atol=1e-5)
        sd = np.sqrt(np.diag(covariance))
        # Standard errors of means and covariances of n normal draws; five of them.
        assert (np.abs(draws[..., voxel].mean(axis=0) - mean) < 5 * sd / np.sqrt(n)).all()
        error = np.abs(np.cov(draws[..., voxel].T) - covariance) / np.outer(sd, sd)
        assert error.max() < 5 * np.sqrt(2 / n)


def test_the_posterior_of_banded_ridge_is_that_of_scaled_features():
    X, Y = make_problem(30)
    encoder = brainenc.BandedRidgeEncoder(features=None, bands={"a": 10, "b": 20}, n_iter=4)
    encoder.fit(X, Y)
    new = X[:4] * 1.3
    drawn = encoder.posterior_.at(encoder._scaled(new), encoder.X_fit_)
    for voxel in range(3):
        root = np.sqrt(np.repeat(encoder.band_weights_[:, voxel].astype(float), [10, 20]))
        Z, scaled = (encoder._scaled(part).astype(float) * root for part in (X, new))
        precision = Z.T @ Z + float(encoder.alphas_[voxel]) * np.eye(30)
        y = Y[:, voxel] - Y[:, voxel].mean()
        fitted = Z @ np.linalg.solve(precision, Z.T @ y)
        np.testing.assert_allclose(
            fitted + Y[:, voxel].mean(), encoder.predict(X)[:, voxel], atol=1e-3
        )
        variance = y @ (y - fitted) / (len(y) - 1)
        expected = variance * (scaled @ np.linalg.solve(precision, scaled.T) + 1 / len(y))
        np.testing.assert_allclose(drawn.covariance(voxel), expected, rtol=2e-3)


def test_forms_have_the_same_posterior():
    X, Y = make_problem(20)
    options = {"features": None, "alphas": [30.0]}
    primal, kernel = (
        brainenc.RidgeEncoder(form=form, **options).fit(X, Y) for form in ("primal", "kernel")
    )
    scaled = primal.regression_.scaled(X[:5])
    np.testing.assert_allclose(
        primal.posterior_.at(scaled).covariance(1),
        kernel.posterior_.at(scaled, kernel.X_fit_).covariance(1),
        rtol=1e-3,
    )


def encoders():
    yield pytest.param(brainenc.RidgeEncoder(), id="ridge")
    yield pytest.param(brainenc.RidgeEncoder(form="kernel"), id="kernel")
    yield pytest.param(brainenc.BandedRidgeEncoder(bands={"a": 8, "b": 4}, n_iter=3), id="banded")
    yield pytest.param(brainenc.KernelRidgeEncoder(), id="gaussian")
    yield pytest.param(brainenc.KernelRidgeEncoder(kernel="polynomial"), id="polynomial")
    yield pytest.param(brainenc.MeanEncoder(), id="mean")
    yield pytest.param(brainenc.CalibratedEncoder(brainenc.RidgeEncoder(), cv=3), id="calibrated")
    bagging = BaggingRegressor(Ridge(), 6, random_state=0)
    yield pytest.param(brainenc.SklearnEncoder(bagging), id="bagging")
    yield pytest.param(tiny_encoder("mindreader"), id="network")


@pytest.mark.parametrize("encoder", list(encoders()))
def test_one_draw_is_one_function(encoder, tmp_path, monkeypatch):
    X, betas = make_problem(12, repeats=2)
    encoder = clone(encoder).fit(X, betas)
    twice = np.concatenate([X[:10], X[:10]])
    draw = encoder.sample(twice, n=8, noise="weights", random_state=3)
    assert draw.shape == (8, 20, 6)
    assert draw.dtype == np.float32
    # The same image twice: differences are of rounding in products of matrices.
    np.testing.assert_allclose(draw[:, :10], draw[:, 10:], atol=1e-5)
    assert (draw.std(axis=0) > 0).all()
    again = encoder.sample(twice, n=8, noise="weights", random_state=3)
    np.testing.assert_array_equal(again, draw)
    other = encoder.sample(twice, n=8, noise="weights", random_state=4)
    assert not np.allclose(other, draw)
    # The same functions at other images, in blocks, in a file.
    alone = encoder.sample(X[4:6], n=8, noise="weights", random_state=3)
    np.testing.assert_allclose(alone, draw[:, 4:6], atol=1e-5)
    monkeypatch.setattr(function_draws, "BLOCK_VALUES", 8 * 4 * 3)
    monkeypatch.setattr(function_draws, "BLOCK_VOXELS", 4)
    np.testing.assert_allclose(
        encoder.sample(twice, n=8, noise="weights", random_state=3), draw, atol=1e-5
    )
    path = tmp_path / "draws.npy"
    in_file = encoder.sample(twice, n=8, noise="weights", random_state=3, out=path)
    np.testing.assert_allclose(in_file, draw, atol=1e-5)
    copies = [pickle.loads(pickle.dumps(encoder)), copy.deepcopy(encoder)]
    copies.append(brainenc.load(encoder.save(tmp_path / "model")))
    for same in copies:
        np.testing.assert_array_equal(
            same.sample(twice, n=8, noise="weights", random_state=3), in_file
        )


def test_blocks_of_random_numbers_change_nothing(monkeypatch):
    X, betas = make_problem(20)
    encoder = brainenc.RidgeEncoder().fit(X, betas)
    whole = encoder.sample(X[:3], n=30, noise="weights", random_state=0)
    monkeypatch.setattr(posterior, "BLOCK_BYTES", 4 * 21 * 7)  # 7 draws at a time
    np.testing.assert_allclose(
        encoder.sample(X[:3], n=30, noise="weights", random_state=0), whole, atol=1e-6
    )


def test_voxels_without_data_and_single_voxels():
    X, betas = make_problem(20)
    betas[:, 3] = np.nan
    draws = brainenc.RidgeEncoder().fit(X, betas).sample(X, n=3, noise="weights", random_state=0)
    assert np.isnan(draws[..., 3]).all()
    assert np.isfinite(np.delete(draws, 3, axis=2)).all()
    one = brainenc.RidgeEncoder().fit(X, betas[:, 0])
    assert one.sample(X, n=3, noise="weights").shape == (3, len(X))


def mean_coverage(make, noise, level, seeds):
    """Share of voxels whose mean response to 50 new images is in the interval of draws."""
    covered = []
    for seed in seeds:
        data = brainenc.datasets.simulate_subject(
            500, 60, random_state=seed, session_drift=0, missing=0
        )
        tokens, signal = data.truth.tokens.mean(axis=1), data.truth.signal
        encoder = make(tokens[:300], data.betas[:300])
        for start in range(300, 500, 50):
            images = slice(start, start + 50)
            means = encoder.sample(tokens[images], n=200, random_state=1, noise=noise).mean(axis=1)
            low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
            truth = signal[images].mean(axis=0)
            covered.append(((low <= truth) & (truth <= high)).mean())
    return np.mean(covered)


def ridge(X, betas):
    return brainenc.RidgeEncoder(features=None).fit(X, betas)


def lasso_with_refits(X, betas):
    encoder = brainenc.SklearnEncoder(Lasso(0.02), features=None).fit(X, betas)
    return add_refits(encoder, X, betas)


def networks(X, betas):
    return brainenc.MindReaderEncoder(features=None, device="cpu").fit(X, betas)


def gaussian(X, betas):
    return brainenc.KernelRidgeEncoder(features=None).fit(X, betas)


# Voxels of a subject share their signal: 12 subjects have a standard error of 1.5 points.
@pytest.mark.slow
@pytest.mark.parametrize("make", [ridge, gaussian, lasso_with_refits, networks])
def test_intervals_of_means_over_images_have_their_coverage(make):
    found = mean_coverage(make, "weights", 0.9, range(12))
    assert abs(found - 0.9) < 0.03


@pytest.mark.slow
def test_intervals_of_means_from_errors_that_are_independent_between_images_are_too_narrow():
    assert mean_coverage(ridge, "signal", 0.9, range(4)) < 0.8


def test_the_part_of_an_image_of_its_own_is_the_error_that_weights_leave():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 10)).astype(np.float32)
    extra = rng.standard_normal((400, 5))  # features that the encoder lacks: variance 1
    signal = X @ rng.standard_normal((10, 5)) + extra
    betas = signal[:, None] + rng.standard_normal((400, 3, 5))
    encoder = brainenc.RidgeEncoder(features=None).fit(X, betas)
    scaled = encoder.regression_.scaled(X)
    drawn = encoder.posterior_.at(scaled, error=error_of_expected(encoder))
    own = [drawn.own_variance(voxel) for voxel in range(5)]
    # Standard error of a variance of 400 images: .07; of five voxels .03. Three of them.
    assert abs(np.mean(own) - 1) < 0.1
    draws = encoder.sample(X[:200], n=100, noise="weights", random_state=0)
    deviations = draws - encoder.predict(X[:200])
    expected = np.mean([np.diag(drawn.covariance(v)).mean() + own[v] for v in range(5)])
    assert deviations.var() == pytest.approx(expected, rel=0.05)


def test_keys_of_images_do_not_depend_on_rounding():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 500)).astype(np.float32)
    keys = posterior.image_keys(X)
    assert len(np.unique(keys)) == 300
    shifted = posterior.image_keys(X * (1 + 1e-7 * rng.standard_normal(X.shape)).astype(np.float32))
    assert (shifted == keys).mean() > 0.99
    numbers = posterior.normal_of_keys(1000, keys, 5)
    # 300 000 normal numbers: standard errors .0018 and .0026.
    assert abs(numbers.mean()) < 0.01
    assert abs(numbers.var() - 1) < 0.015
    across = np.corrcoef(numbers[:, :50].T) - np.eye(50)
    assert np.abs(across).max() < 0.2  # s.e. .03, the largest of 1225


def test_an_encoder_without_such_draws_says_so_and_refits_give_it_some(tmp_path):
    X, betas = make_problem(12, repeats=2)
    encoder = brainenc.SklearnEncoder(Ridge(5.0)).fit(X, betas)
    with pytest.raises(ValueError, match=r"not available for this SklearnEncoder.*add_refits"):
        encoder.sample(X, noise="weights")
    expected = encoder.predict(X)
    add_refits(encoder, X, betas, n_refits=30)
    np.testing.assert_array_equal(encoder.predict(X), expected)
    twice = np.concatenate([X[:40], X[:40]])
    draws = encoder.sample(twice, n=30, noise="weights", random_state=0)
    np.testing.assert_allclose(draws[:, :40], draws[:, 40:], atol=1e-5)
    fewer = encoder.sample(X[3:9], n=7, noise="weights", random_state=0)
    np.testing.assert_allclose(fewer, draws[:7, 3:9], atol=1e-5)
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_array_equal(
        loaded.sample(twice, n=30, noise="weights", random_state=0), draws
    )
    assert not {"refits_", "refit_variance_"} & set(vars(encoder.fit(X, betas)))
    add_refits(encoder, X, betas, n_refits=3)
    del encoder.refit_variance_
    with pytest.raises(ValueError, match="saved it: call brainenc"):
        encoder.sample(X, noise="weights")


def test_draws_of_refits_have_their_covariance():
    X, betas = make_problem(12)  # no repeats: functions of the features alone
    encoder = add_refits(brainenc.SklearnEncoder(Ridge(5.0)).fit(X, betas), X, betas, n_refits=30)
    n = 6000
    deviations = encoder.sample(X[:4], n=n, noise="weights", random_state=0) - encoder.predict(
        X[:4]
    )
    refits = np.stack([refit.predict(X[:4]) for refit in encoder.refits_])
    for voxel in (0, 5):
        # A t distribution with 29 degrees of freedom has 29 / 27 of the variance.
        expected = np.cov(refits[..., voxel].T) * 29 / 27
        sd = np.sqrt(np.diag(expected))
        error = np.abs(np.cov(deviations[..., voxel].T) - expected) / np.outer(sd, sd)
        assert error.max() < 5 * np.sqrt(2 / n)
    # The variance is about that of the closed form, at the same penalty.
    ridge = brainenc.RidgeEncoder(alphas=[5.0], standardize=False).fit(X, betas)
    drawn = ridge.posterior_.at(ridge.regression_.scaled(X[:40]))
    closed = np.mean([np.diag(drawn.covariance(v)).mean() for v in range(6)])
    spread = encoder.sample(X[:40], n=200, noise="weights", random_state=0)
    assert 0.6 < spread.var(axis=0).mean() / closed < 1.6


def test_the_error_that_refits_do_not_explain_is_drawn_for_each_image():
    rng = np.random.default_rng(0)
    X = 1e-4 * rng.standard_normal((400, 10)).astype(np.float32)  # images differ by this little
    extra = rng.standard_normal((400, 5))  # features that the encoder lacks: variance 1
    signal = 1e4 * X @ rng.standard_normal((10, 5)) + extra
    betas = signal[:, None] + rng.standard_normal((400, 3, 5))
    encoder = brainenc.SklearnEncoder(LinearRegression()).fit(X, betas)
    add_refits(encoder, X, betas, n_refits=20)
    # Least squares: at new images the variance of fits to n images, that of the noise of averages
    # (1 + 1/3) times p / n, with the intercept p = 11; at those of halves about (11 / 189) / 2 for
    # n = 200. Their mean over 5 voxels and 20 refits has a standard error of about a tenth.
    assert encoder.refit_variance_.mean() == pytest.approx(4 / 3 * 11 / 189 / 2, rel=0.3)
    draws = encoder.sample(X[:200], n=100, noise="weights", random_state=0)
    deviations = draws - encoder.predict(X[:200])
    # Independent between images: a mean over 200 has their variance / 200 and that of the refits.
    total = deviations.var()
    assert total == pytest.approx(1 + 4 / 3 * 11 / 389, rel=0.1)
    of_mean = deviations.mean(axis=1).var()
    assert 1 / 200 < of_mean < 3 / 200


def test_refits_are_refused_where_they_cannot_be_made():
    X, betas = make_problem(12, repeats=2)
    images = np.random.default_rng(0).integers(0, 255, (120, 8, 8), dtype=np.uint8)
    encoder = brainenc.MeanEncoder().fit(images, betas)
    with pytest.raises(TypeError, match="refits need features in place of images"):
        add_refits(encoder, images, betas)
    with pytest.raises(ValueError, match="n_refits=1 must be at least 2"):
        add_refits(brainenc.RidgeEncoder().fit(X, betas), X, betas, n_refits=1)
    stack = brainenc.StackedEncoder([brainenc.RidgeEncoder(), brainenc.MeanEncoder()])
    stack.fit(X, betas)
    with pytest.raises(ValueError, match="not available for this StackedEncoder"):
        stack.sample(X, noise="weights")
    assert add_refits(stack, X, betas, n_refits=3).sample(X, n=4, noise="weights").shape[0] == 4


def test_refits_of_images_take_the_features_of_the_encoder():
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    betas = np.random.default_rng(1).standard_normal((60, 2, 3))
    encoder = brainenc.SklearnEncoder(Ridge(), features=brainenc.PixelFeatures(size=4))
    encoder.fit(images, betas)
    add_refits(encoder, images, betas, n_refits=3)
    assert encoder.sample(images[:5], n=2, noise="weights").shape == (2, 5, 3)


def test_draws_of_an_ensemble_have_the_covariance_of_its_members():
    X, betas = make_problem(12)  # no repeats: functions of the features alone
    bagging = BaggingRegressor(Ridge(), 6, random_state=0)
    encoder = brainenc.SklearnEncoder(bagging).fit(X, betas)
    n = 6000
    draws = encoder.sample(X[:4], n=n, noise="weights", random_state=0)
    for voxel in (0, 5):
        members = encoder.regressor_.estimators_[voxel].estimators_
        expected = np.cov(np.stack([member.predict(X[:4]) for member in members]).T)
        sd = np.sqrt(np.diag(expected))
        error = np.abs(np.cov(draws[..., voxel].T) - expected) / np.outer(sd, sd)
        assert error.max() < 5 * np.sqrt(2 / n)
    members = [
        np.stack([member.predict(X) for member in ensemble.estimators_])
        for ensemble in encoder.regressor_.estimators_
    ]
    variance = [of_voxel.var(axis=0, ddof=1).mean() for of_voxel in members]
    np.testing.assert_allclose(encoder.member_variance_, variance, rtol=1e-5)


def test_an_earlier_model_without_posterior_is_refused():
    X, betas = make_problem(12)
    encoder = brainenc.RidgeEncoder().fit(X, betas)
    del encoder.posterior_
    with pytest.raises(ValueError, match="fit it again"):
        encoder.sample(X, noise="weights")
    networks = tiny_encoder("mindreader").fit(X, betas)
    del networks.member_variance_
    with pytest.raises(ValueError, match="fit it again"):
        networks.sample(X, noise="weights")
