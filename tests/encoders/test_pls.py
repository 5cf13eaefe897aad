"""PLSEncoder against scikit-learn's PLSRegression, with missing data, and on other subjects."""

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression

import brainenc
from brainenc import PLSEncoder
from brainenc.encoders.pls import numbers_tried


@pytest.fixture(scope="module")
def problem():
    """120 images × 15 features on unequal scales; 2 repeats, 8 voxels on unequal scales."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 15)) * np.geomspace(0.1, 10, 15) + 3
    signal = (X / X.std(axis=0)) @ rng.standard_normal((15, 4)) @ rng.standard_normal((4, 8))
    betas = signal[:, None] + 3 * rng.standard_normal((120, 2, 8))
    return X, betas * np.geomspace(0.5, 20, 8) - 5


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("n_components", [1, 4, 15])
def test_predictions_are_those_of_scikit_learn(problem, n_components, standardize):
    X, betas = problem
    encoder = PLSEncoder(None, n_components=n_components, standardize=standardize)
    encoder.fit(X[:90], betas[:90])
    oracle = PLSRegression(n_components, scale=standardize).fit(X[:90], betas[:90].mean(axis=1))
    expected = oracle.predict(X)
    # Predictions are in single precision, 6e-8 of the largest value.
    size = np.abs(expected).max(axis=0)
    np.testing.assert_allclose(encoder.predict(X) / size, expected / size, atol=5e-7)
    assert (encoder.n_components_ == n_components).all()
    components = (X - encoder.feature_mean_) / encoder.feature_scale_ @ encoder.rotations_
    r = [np.corrcoef(*pair)[0, 1] for pair in zip(components.T, oracle.transform(X).T, strict=True)]
    np.testing.assert_allclose(r, 1, atol=1e-6)


def test_the_number_of_components_is_found():
    """Four directions: fewer components lack some of them, many fit noise."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((600, 30))
    signal = X[:, :4] @ np.linalg.qr(rng.standard_normal((40, 4)))[0].T
    betas = signal[:, None] + 0.3 * rng.standard_normal((600, 2, 40))
    encoder = PLSEncoder(None).fit(X[:400], betas[:400])
    assert 4 <= encoder.n_components_[0] <= 12
    fits = {n: PLSEncoder(None, n_components=n).fit(X[:400], betas[:400]) for n in (3, 25)}
    error = {
        n: np.square(fit.predict(X[400:]) - signal[400:]).mean()
        for n, fit in {"chosen": encoder, **fits}.items()
    }
    assert error["chosen"] < min(error[3], error[25])


def test_noise_has_one_component_and_no_score():
    rng = np.random.default_rng(2)
    X, betas = rng.standard_normal((400, 30)), rng.standard_normal((400, 1, 50))
    encoder = PLSEncoder(None).fit(X[:200], betas[:200])
    assert encoder.n_components_[0] <= 2
    # s.e. of a mean over 50 voxels of r on 200 images that share a prediction: below .071.
    assert abs(encoder.score(X[200:], betas[200:])) < 0.15


def test_voxels_that_lack_the_same_images_are_fitted_together(problem):
    X, betas = problem
    holes = betas.copy()
    holes[::3, :, 5:] = np.nan
    holes[:, :, 2] = np.nan
    encoder = PLSEncoder(None, n_components=3).fit(X, holes)
    whole, some = [0, 1, 3, 4], np.flatnonzero(np.arange(120) % 3)
    averages = betas.mean(axis=1)
    complete = PLSRegression(3).fit(X, averages[:, whole]).predict(X)
    lacking = PLSRegression(3).fit(X[some], averages[some, 5:]).predict(X)
    found = encoder.predict(X)
    assert np.isnan(found[:, 2]).all()
    assert list(encoder.n_components_) == [3, 3, 0, 3, 3, 3, 3, 3]
    for voxels, expected in (whole, complete), (slice(5, None), lacking):
        size = np.abs(expected).max(axis=0)
        np.testing.assert_allclose(found[:, voxels] / size, expected / size, atol=5e-7)


def test_held_out_predictions_are_by_fits_without_the_image(problem):
    X, betas = problem
    folds = [(np.arange(40, 120), np.arange(40)), (np.arange(80), np.arange(80, 120))]
    encoder = PLSEncoder(None, n_components=5, cv=folds, standardize=False)
    held_out = encoder.fit_held_out(X, betas)
    assert np.isnan(held_out[40:80]).all()
    for train, test in folds:
        oracle = PLSRegression(5, scale=False).fit(X[train], betas[train].mean(axis=1))
        np.testing.assert_allclose(held_out[test], oracle.predict(X[test]), rtol=1e-6)
    errors = (held_out - betas.mean(axis=1))[[*range(40), *range(80, 120)]]
    np.testing.assert_allclose(encoder.error_sd_, np.sqrt(np.square(errors).mean(0)), rtol=1e-6)


def test_more_components_than_images_or_features_are_refused(problem):
    X, betas = problem
    with pytest.raises(ValueError, match="20 images and 15 features have at most 15 components"):
        PLSEncoder(None, n_components=16).fit(X[:20], betas[:20])
    with pytest.raises(ValueError, match="at most 9 components"):
        PLSEncoder(None, n_components=[12, 25]).fit(X[:10], betas[:10])
    assert numbers_tried([25, 2, 40], most=15) == [2, 15]


def test_weights_are_a_prior_for_other_subjects():
    first, second = brainenc.datasets.simulate_subjects(2, 300, 60, shared_images=0)
    encoder = PLSEncoder(None).fit(first.truth.tokens, first.betas)
    weights = encoder.linear_map()
    X = first.truth.tokens.reshape(300, -1)
    np.testing.assert_allclose(
        (X - weights.mean) @ weights.weights + encoder.predict(weights.mean.reshape(1, 16, -1)),
        encoder.predict(first.truth.tokens),
        atol=1e-4,
    )
    prior = brainenc.WeightPrior.from_encoders([encoder])
    X, betas = second.truth.tokens, second.betas
    plain = brainenc.RidgeEncoder(None).fit(X[:60], betas[:60])
    primed = brainenc.RidgeEncoder(None, prior=prior).fit(X[:60], betas[:60])
    assert primed.score(X[100:], betas[100:]) > plain.score(X[100:], betas[100:]) + 0.03


def test_an_encoder_without_components_cannot_be_adapted():
    X, betas = np.random.default_rng(0).standard_normal((30, 4)), np.ones((30, 1, 3))
    encoder = PLSEncoder(None).fit(X, betas)
    np.testing.assert_array_equal(encoder.predict(X), 1)
    with pytest.raises(ValueError, match="no components to adapt"):
        encoder.adapt(X, betas + X[:, :1, None])
