"""Blends of networks with ridge: weights, shares, draws, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from tiny_encoders import tiny_encoder

import brainenc
from brainenc.encoders.blended import POOLING, RidgeBlend, cross_blend

NAMES = ["synbrain", "mindsimulator", "mindreader", "roitransformer"]


@pytest.fixture(scope="module")
def problem():
    """130 images to learn and 40 others; 12 features, 6 voxels, 2 repeats."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((170, 12)).astype(np.float32)
    signal = X @ rng.standard_normal((12, 6)) + 3
    betas = (signal[:, None] + 2 * rng.standard_normal((170, 2, 6))).astype(np.float32)
    return X[:130], betas[:130], X[130:]


@pytest.fixture(scope="module", params=NAMES)
def fitted(request, problem):
    return tiny_encoder(request.param).fit(*problem[:2])


def test_weights_minimise_the_pooled_held_out_error():
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((80, 3)).astype(np.float32)
    features = targets[:, :1] + 0.7 * rng.standard_normal((80, 1)).astype(np.float32)
    net = (targets + 0.8 * rng.standard_normal((80, 3))).astype(np.float32)
    net[50:] = np.nan  # learnt
    found, blended = RidgeBlend.fit(features, targets[:, None], net)
    assert np.isfinite(blended[:50]).all()
    assert np.isnan(blended[50:]).all()
    # The network has held out a part: ridge is judged by fits to nearly all images.
    ridge = brainenc.RidgeEncoder(None, cv=50).fit_held_out(features, targets)
    parts = [np.broadcast_to(targets.mean(0), (50, 3)), ridge[:50], net[:50]]
    errors = np.stack([part - targets[:50] for part in parts]).astype(np.float64)
    grams = np.einsum("aiv,biv->vab", errors, errors)
    scaled = grams / np.trace(grams, axis1=1, axis2=2)[:, None, None]
    for voxel in range(3):
        gram = scaled[voxel] + POOLING / 50 * scaled.mean(axis=0)
        best = minimize(
            lambda w, gram=gram: w @ gram @ w,
            np.full(3, 1 / 3),
            bounds=[(0, 1)] * 3,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-12},
        )
        np.testing.assert_allclose(found.weights[:, voxel], best.x, atol=1e-3)


def test_ridge_of_all_images_is_not_judged_by_fits_to_fewer_than_the_network_has():
    """A "network" that is ridge itself, of the images that it learns, adds nothing to ridge."""
    shares = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        features = rng.standard_normal((120, 60)).astype(np.float32)
        signal = features @ rng.standard_normal((60, 40)).astype(np.float32)
        targets = signal + 4 * rng.standard_normal(signal.shape).astype(np.float32)
        learnt = np.arange(120) >= 18
        of_learnt = brainenc.RidgeEncoder(None, alphas=[60.0])
        of_learnt.fit(features[learnt], targets[learnt])
        net = np.full_like(targets, np.nan)
        net[~learnt] = of_learnt.predict(features[~learnt])
        weights = RidgeBlend.fit(features, targets[:, None], net)[0].weights
        shares.append(weights[2].mean() / weights[1:].sum(axis=0).mean())
    # .09; with ridge judged in five folds, by fits to 96 of the 102 images of the network, .33
    assert np.mean(shares) < 0.15


def test_voxels_with_few_images_are_blended_too():
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((60, 4)).astype(np.float32)
    targets[12:, 1] = np.nan
    targets[3:, 2] = np.nan  # too few for ridge
    features = rng.standard_normal((60, 3)).astype(np.float32)
    net = targets + rng.standard_normal((60, 4)).astype(np.float32)
    net[20:] = np.nan
    with pytest.warns(UserWarning, match="1 voxels have data for fewer than 5 images"):
        found, _ = RidgeBlend.fit(features, targets[:, None], net)
    assert (np.isnan(found.linear.predict(features)).any(axis=0) == [0, 0, 1, 0]).all()
    # Of the second voxel ridge has the twelve images in as many folds.
    ridge = brainenc.RidgeEncoder(None, cv=12).fit_held_out(features, targets[:, [0, 1, 3]])
    parts = [np.broadcast_to(np.nanmean(targets, axis=0)[[0, 1, 3]], ridge.shape), ridge]
    rows = np.arange(20)
    folds = [(rows[1:], rows[:1]), (rows[:1], rows[1:])]
    held_out = [part[:20] for part in (*parts, net[:, [0, 1, 3]])]
    weights, _, _ = cross_blend(held_out, targets[:20][:, [0, 1, 3]], folds, POOLING)
    np.testing.assert_allclose(found.weights[:, [0, 1, 3]], weights, atol=1e-4)


def test_an_image_is_blended_with_weights_chosen_on_others():
    rng = np.random.default_rng(1)
    targets = rng.standard_normal((40, 2))
    parts = [rng.standard_normal((40, 2)), 0 * targets]
    rows = np.arange(40)
    folds = [(rows[rows % 4 != k], rows[rows % 4 == k]) for k in range(4)]
    weights, blended, n_images = cross_blend(parts, targets, folds, 0)
    assert (n_images == 40).all()
    changed = targets.copy()
    changed[folds[0][1]] = parts[0][folds[0][1]]  # the first member becomes right there
    others, again, _ = cross_blend(parts, changed, folds, 0)
    np.testing.assert_allclose(again[folds[0][1]], blended[folds[0][1]])
    assert (others[0] > weights[0]).all()
    assert (again[folds[1][1]] != blended[folds[1][1]]).any()


def test_the_prediction_is_the_weighted_sum(fitted, problem):
    X, betas, new = problem
    weights = fitted.blend_.weights
    assert weights.shape == (3, 6)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-6)
    np.testing.assert_array_equal(fitted.net_share_, weights[2])
    ridge = brainenc.RidgeEncoder(None).fit(X, betas).predict(new)
    parts = betas.mean(axis=(0, 1)), ridge, fitted._predict_net(new)
    expected = sum(w * part for w, part in zip(weights, parts, strict=True))
    np.testing.assert_allclose(fitted.predict(new), expected, rtol=1e-4, atol=1e-4)


def test_without_it_predictions_are_those_of_the_network(fitted, problem):
    X, betas, new = problem
    alone = fitted.__class__(**{**fitted.get_params(deep=False), "blend": None}).fit(X, betas)
    np.testing.assert_array_equal(alone.predict(new), fitted._predict_net(new))
    assert alone.blend_ is None
    with pytest.raises(AttributeError, match="no net_share_"):
        _ = alone.net_share_


def test_full_draws_have_the_spread_of_held_out_trials_of_the_blend(fitted, problem):
    """As for all encoders; residuals of the network alone would be larger."""
    new = problem[2]
    draws = fitted.sample(new, 400, 0)
    variance = draws.var(axis=0, ddof=1).mean(axis=0)
    # 16 000 draws per voxel; MindSimulator knows the spread of its draws from few images.
    np.testing.assert_allclose(variance, fitted.noise_.variance, rtol=0.1)


@pytest.mark.parametrize("name", ["synbrain", "mindsimulator"])
def test_latent_draws_are_those_of_the_network_times_its_share(name, problem):
    X, betas, new = problem
    blended = tiny_encoder(name).fit(X, betas)
    alone = tiny_encoder(name, blend=None).fit(X, betas)
    ours, theirs = (each.sample(new, 3, 0, noise="latent") for each in (blended, alone))
    differences = [draws - draws[:1] for draws in (ours, theirs)]
    np.testing.assert_allclose(
        differences[0], blended.net_share_ * differences[1], rtol=1e-3, atol=1e-4
    )


def test_draws_of_functions_vary_by_the_share_of_the_members(problem):
    X, betas, new = problem
    blended = tiny_encoder("mindreader").fit(X, betas)
    alone = tiny_encoder("mindreader", blend=None).fit(X, betas)
    np.testing.assert_allclose(
        blended.member_variance_, alone.member_variance_ * blended.net_share_**2, rtol=1e-5
    )
    draws = blended.sample(new, 400, 0, noise="weights")
    error = np.abs(draws.mean(axis=0) - blended.predict(new)) / draws.std(axis=0)
    assert error.max() < 5 / np.sqrt(400)


def test_a_voxel_without_data_has_no_share(problem):
    X, betas, new = problem
    holed = betas.copy()
    holed[..., 2] = np.nan
    for name in NAMES:
        encoder = tiny_encoder(name).fit(X, holed)
        assert (np.isnan(encoder.net_share_) == (np.arange(6) == 2)).all()
        assert (np.isnan(encoder.predict(new)).all(axis=0) == (np.arange(6) == 2)).all()


@pytest.mark.parametrize("name", ["synbrain", "mindsimulator"])
def test_held_out_images_are_needed(name, problem):
    X, betas, _ = problem
    assert tiny_encoder(name, validation=0.0).fit(X, betas).blend_ is None  # "auto"
    with pytest.raises(ValueError, match=r'blend="ridge".*0 were held out'):
        tiny_encoder(name, validation=0.0, blend="ridge").fit(X, betas)


@pytest.mark.parametrize("name", NAMES)
def test_another_blend_is_named(name, problem):
    with pytest.raises(ValueError, match="blend='lasso' must be"):
        tiny_encoder(name, blend="lasso").fit(*problem[:2])


@pytest.mark.parametrize("name", NAMES)
def test_published_models_are_not_blended(name):
    encoder = type(tiny_encoder(name)).published()
    assert not encoder._blends(
        encoder._defaults(np.zeros((9, 4, 8)), np.zeros((9, 1, 2))) | {"sizes": encoder.sizes}
    )


def test_shares_per_roi_are_means_over_voxels_with_data(problem):
    X, betas, _ = problem
    holed = betas.copy()
    holed[..., 2] = np.nan
    encoder = tiny_encoder("mindreader").fit(X, holed)
    voxels = pd.DataFrame({"roi": ["V1", "V1", "V1", "V2", "V2", ""]})
    given = {"net": encoder, "ridge": brainenc.RidgeEncoder().fit(X, betas)}
    table = brainenc.encoders.net_shares(given, voxels)
    share = encoder.net_share_
    expected = [
        ("net", "all", 5, share[[0, 1, 3, 4, 5]].mean()),
        ("net", "V1", 2, share[:2].mean()),
        ("net", "V2", 2, share[3:5].mean()),
    ]
    for row, wanted in zip(table.itertuples(index=False), expected, strict=True):
        assert tuple(row[:3]) == wanted[:3]
        assert row.net_share == pytest.approx(wanted[3])
    with pytest.raises(ValueError, match="voxels has 3 rows, but encoder 'net' has 6"):
        brainenc.encoders.net_shares(given, voxels[:3])
    with pytest.raises(ValueError, match="atlas='area' is no column"):
        brainenc.encoders.net_shares(given, voxels, atlas="area")
