"""BandedRidgeEncoder: bands from features or from several transformers."""

import numpy as np
import pytest
from himalaya.kernel_ridge import predict_weighted_kernel_ridge

import brainenc
from brainenc import BandedRidgeEncoder, GaborPyramid, PixelFeatures, RidgeEncoder


@pytest.fixture(scope="module")
def problem():
    """Half of the voxels follow the first band, half the second; both bands are wide."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((200, 15)), rng.standard_normal((200, 150))
    signal = np.concatenate(
        [first @ rng.standard_normal((15, 5)), second @ rng.standard_normal((150, 5)) / 4], axis=1
    )
    return np.concatenate([first, second], axis=1), signal + rng.standard_normal(signal.shape)


def test_each_voxel_finds_its_band_and_gains_by_it(problem):
    X, betas = problem
    bands = {"first": 15, "second": 150}
    banded = BandedRidgeEncoder(bands=bands).fit(X[:150], betas[:150])
    assert banded.band_names_ == ["first", "second"]
    np.testing.assert_allclose(banded.band_weights_.sum(axis=0), 1, atol=1e-6)
    assert (banded.band_weights_[0, :5] > 0.7).all()
    assert (banded.band_weights_[1, 5:] > 0.5).all()
    ridge = RidgeEncoder().fit(X[:150], betas[:150])
    assert banded.score(X[150:], betas[150:, :]) > ridge.score(X[150:], betas[150:]) + 0.02


def test_one_band_is_ridge(problem):
    X, betas = problem
    # One band is divided by sqrt(165): the same ridge at alphas 165 times smaller.
    banded = BandedRidgeEncoder(alphas=np.logspace(0, 3, 7) / 165).fit(X, betas)
    ridge = RidgeEncoder(alphas=np.logspace(0, 3, 7)).fit(X, betas)
    np.testing.assert_allclose(banded.alphas_ * 165, ridge.alphas_, rtol=1e-6)
    np.testing.assert_allclose(banded.predict(X), ridge.predict(X), atol=1e-5)


def test_transformers_as_bands_from_images_and_back_from_disk(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    betas = rng.standard_normal((60, 2, 3))
    spaces = {
        "pixels": PixelFeatures(size=4, verbose=False),
        "gabor": GaborPyramid(n_scales=2, pool=2, size=32, verbose=False),
    }
    encoder = BandedRidgeEncoder(spaces).fit(images, betas)
    parts = [space.transform(images) for space in spaces.values()]
    bands = {name: part.shape[1] for name, part in zip(spaces, parts, strict=True)}
    by_hand = BandedRidgeEncoder(None, bands=bands).fit(np.concatenate(parts, axis=1), betas)
    np.testing.assert_allclose(
        encoder.predict(images), by_hand.predict(np.concatenate(parts, axis=1)), atol=1e-5
    )
    given, features = encoder.precompute(images, lambda space: space.transform(images))
    np.testing.assert_array_equal(features, np.concatenate(parts, axis=1))
    assert given.bands == bands
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(images), encoder.predict(images))
    with pytest.raises(TypeError, match="dict of transformers"):
        BandedRidgeEncoder(spaces).fit(features, betas)


@pytest.mark.parametrize("bands", [{"a": 100, "b": 64}, {"a": 165, "b": 0}])
def test_bands_must_add_up(problem, bands):
    X, betas = problem
    with pytest.raises(ValueError, match="add up to the 165 features"):
        BandedRidgeEncoder(bands=bands).fit(X, betas)


@pytest.mark.parametrize("with_prior", [False, True])
def test_parts_of_bands_add_up_to_the_prediction(problem, with_prior):
    X, betas = problem
    prior = None
    if with_prior:
        other = RidgeEncoder().fit(X[100:], betas[100:])
        prior = brainenc.WeightPrior.from_encoders([other])
    encoder = BandedRidgeEncoder(bands={"first": 15, "second": 150}, prior=prior)
    encoder.fit(X[:150], betas[:150] + 5)
    parts = encoder.predict(X[150:], split=True)
    assert parts.shape == (len(encoder.band_names_), 50, 10)
    assert encoder.band_names_[2:] == (["prior: all"] if with_prior else [])
    np.testing.assert_allclose(parts.sum(axis=0), encoder.predict(X[150:]), atol=1e-5)
    # A part depends on its own band alone, and all have the same share of the intercept.
    moved = X[150:].copy()
    moved[:, 15:] = X[:150, 15:].mean(axis=0)
    other = encoder.predict(moved, split=True)
    np.testing.assert_allclose(other[0], parts[0], atol=1e-5)
    share = np.broadcast_to(encoder.intercept_ / len(parts), other[1].shape)
    np.testing.assert_allclose(other[1], share, atol=1e-4)


def test_parts_of_one_voxel_without_an_axis(problem):
    X, betas = problem
    encoder = BandedRidgeEncoder(bands={"first": 15, "second": 150}, n_iter=3).fit(X, betas[:, 0])
    assert encoder.predict(X[:7], split=True).shape == (2, 7)


def test_parts_of_bands_are_those_of_himalaya(problem):
    X, betas = problem
    encoder = BandedRidgeEncoder(bands={"first": 15, "second": 150}, n_iter=5)
    encoder.fit(X[:150], betas[:150])
    Z = (X - X[:150].mean(axis=0)) / X[:150].std(axis=0)
    parts = [Z[:, :15] / np.sqrt(15), Z[:, 15:] / np.sqrt(150)]
    Ks = np.stack([part[150:] @ part[:150].T for part in parts])
    expected = predict_weighted_kernel_ridge(
        Ks, encoder.dual_coef_, np.log(encoder.band_weights_), split=True
    )
    found = encoder.predict(X[150:], split=True)
    np.testing.assert_allclose(found - encoder.intercept_ / 2, expected, atol=1e-5)
