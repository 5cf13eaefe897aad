"""LatentEncoder of several feature spaces, and transformers that are not worth their time."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import rbf_kernel

import brainenc
from brainenc.encoders import BandedRidgeEncoder, LatentEncoder
from brainenc.encoders.latent import encoder as module
from brainenc.encoders.latent.inputs import (
    SpaceTokens,
    candidate_shares,
    choose_shares,
    coarse_features,
    split,
    weights_of,
)
from brainenc.encoders.latent.kernel import KernelFeatures
from brainenc.encoders.latent.maps import gain
from brainenc.encoders.tokens import TokenAdapter
from brainenc.features import GaborPyramid, PixelFeatures
from brainenc.metrics import correlation
from brainenc.repeats import average_repeats

SHAPES = {"wide": [300], "tokens": [6, 10]}


@pytest.fixture(scope="module")
def problem():
    """A wide space that says half of what 12 voxels do, linearly, and tokens that say the rest."""
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((200, 300)).astype(np.float32)
    wide[:, :20] *= 5
    tokens = rng.standard_normal((200, 6, 10)).astype(np.float32)
    signal = wide[:, :20] @ rng.standard_normal((20, 12)) / 25
    signal += np.square(tokens.mean(axis=1)) @ rng.standard_normal((10, 12)) * 2
    betas = signal[:, None] + 0.5 * rng.standard_normal((200, 2, 12))
    X = np.concatenate([wide, tokens.reshape(200, 60)], axis=1)
    return X, betas.astype(np.float32)


def test_ridge_is_banded_ridge_and_the_latent_adds_to_it(problem):
    X, betas = problem
    banded = BandedRidgeEncoder(None, bands={"wide": 300, "tokens": 60}).fit(X[:150], betas[:150])
    encoder = LatentEncoder(None, bands=SHAPES, n_members=0).fit(X[:150], betas[:150])
    np.testing.assert_allclose(encoder.linear_._predict(X), banded.predict(X), atol=1e-5)
    assert encoder.band_shapes_ == SHAPES
    assert encoder.score(X[150:], betas[150:]) > banded.score(X[150:], betas[150:]) + 0.02


def test_with_few_images_it_is_banded_ridge(problem):
    X, betas = problem[0][:80], problem[1][:80]
    with pytest.warns(UserWarning, match="fitted as ridge"):
        encoder = LatentEncoder(None, bands=SHAPES).fit(X, betas)
    banded = BandedRidgeEncoder(None, bands={"wide": 300, "tokens": 60}).fit(X, betas)
    np.testing.assert_allclose(encoder.predict(X), banded.predict(X), atol=1e-5)


@pytest.mark.parametrize("n_members", [0, 2])
def test_files_and_images(n_members, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (110, 16, 16), dtype=np.uint8)
    betas = images[:, :6, 0].astype(np.float32)[:, None] / 50 + rng.standard_normal((110, 2, 6))
    spaces = {
        "pixels": PixelFeatures(size=4, verbose=False),
        "gabor": GaborPyramid(n_scales=1, pool=2, size=16, verbose=False),
    }
    small = {"n_members": n_members, "n_epochs": 1, "hidden": 8, "least_gain": 0}
    encoder = LatentEncoder(spaces, **small).fit(images, betas)
    given, features = encoder.precompute(images, lambda space: space.transform(images))
    assert given.bands == encoder.band_shapes_
    np.testing.assert_allclose(
        given.fit(features, betas).predict(features), encoder.predict(images), atol=1e-5
    )
    assert len(encoder.members_) == n_members
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(images), encoder.predict(images))
    np.testing.assert_array_equal(loaded.sample(images, 2, 0), encoder.sample(images, 2, 0))
    with pytest.raises(TypeError, match="dict of transformers"):
        encoder.predict(features)


def test_bands_must_add_up(problem):
    with pytest.raises(ValueError, match="add up to the 360 features, not to 370"):
        LatentEncoder(None, bands={"wide": 310, "tokens": [6, 10]}).fit(*problem)


def test_shares_are_those_with_the_smallest_held_out_error():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 50)).astype(np.float32)
    latents = np.sin(X[:, :3]).astype(np.float32)
    latents[7] = np.nan
    for sizes, expected in (([10, 40], 0), ([40, 10], 0), ([3, 47], 0)):
        shares = choose_shares(X, sizes, latents, random_state=0, device="cpu")
        assert shares[expected] >= 0.8
        assert shares.sum() == pytest.approx(1)
    # Three voxels of which the other space says all.
    latents = X[:, 30:33].copy()
    assert choose_shares(X, [30, 20], latents, random_state=0, device="cpu")[1] >= 0.8
    assert choose_shares(X, [50], latents, random_state=0, device="cpu").tolist() == [1]


def test_the_kernel_is_that_of_weighted_distances():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 20)) * rng.uniform(1, 9, 20)
    Z = (X - X.mean(0)) / X.std(0)
    for share in candidate_shares(2, 0):
        found = KernelFeatures.fit(X, "gaussian", 0, weights_of(share, [5, 15]))
        weighted = Z * np.repeat(np.sqrt(share / [5, 15]), [5, 15])
        squared = np.square(weighted[:, None] - weighted).sum(-1)
        kernel = rbf_kernel(weighted, gamma=60 * 59 / squared.sum())
        ours = found.transform(X).astype(float)
        ours = ours @ ours.T
        # Up to a factor; features are in single precision, small eigenvalues are left out.
        np.testing.assert_allclose(ours / ours[0, 0], kernel / kernel[0, 0], atol=1e-4)
    drawn = candidate_shares(3, 0)
    np.testing.assert_allclose(drawn.sum(axis=1), 1)
    np.testing.assert_allclose(drawn[0], 1 / 3)


def test_tokens_of_each_space_are_in_columns_of_its_own(problem):
    X = problem[0]
    adapter = SpaceTokens.fit(X, SHAPES)
    wide, tokens = split(X, SHAPES)
    alone = [TokenAdapter.fit(part).transform(part) for part in (wide, tokens)]
    found = adapter.tokens(X[:9])
    width = alone[0].shape[2]
    assert found.shape == (9, 7, width + 10)
    np.testing.assert_allclose(found[:, :1, :width], alone[0][:9], atol=1e-5)
    np.testing.assert_allclose(found[:, 1:, width:], alone[1][:9], atol=1e-5)
    assert not found[:, :1, width:].any()
    assert not found[:, 1:, :width].any()
    coarse, sizes = coarse_features(X, SHAPES)
    np.testing.assert_array_equal(coarse, X)
    assert sizes == {"wide": 300, "tokens": 60}


def test_the_gain_is_the_fall_of_the_error_of_the_best_blend():
    rng = np.random.default_rng(0)
    y, noise, more = rng.standard_normal((3, 4000, 5))
    # Two measurements of y with independent noise: the best blends have these weights, and errors
    # 1/2 and 1/3 of the variance.
    parts, scale = [y + noise], np.full(5, 1.0)
    found = gain(parts, y + more, y, scale)
    assert found == pytest.approx(1 / 2 - 1 / 3, abs=0.02)
    assert gain([3 * parts[0]], 3 * (y + more), 3 * y, 3 * scale) == pytest.approx(found)
    assert gain(parts, rng.standard_normal((4000, 5)), y, scale) < 0.002


def test_transformers_that_add_nothing_are_not_trained(problem, monkeypatch, tmp_path):
    X, betas = problem
    small = {"hidden": 8, "n_members": 3, "n_epochs": 1}
    never = LatentEncoder(None, **small, least_gain=1.0).fit(X, betas)
    none = LatentEncoder(None, **small | {"n_members": 0}).fit(X, betas)
    assert never.members_ == []
    assert 0 <= never.gain_ <= 1
    assert set(never.history_["member"]) == {0}  # the first was tried
    np.testing.assert_array_equal(never.predict(X), none.predict(X))
    always = LatentEncoder(None, **small, least_gain=0.0).fit(X, betas)
    assert len(always.members_) == 3
    assert np.isnan(always.gain_)
    monkeypatch.setattr(module, "gain", lambda *_: 0.01)
    worth = LatentEncoder(None, **small).fit(X, betas)
    np.testing.assert_array_equal(worth.predict(X), always.predict(X))
    loaded = brainenc.load(never.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(X), never.predict(X))


def test_a_space_that_says_nothing_harms_little(problem):
    X, betas = problem
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((200, 400)).astype(np.float32)
    one = LatentEncoder(None, n_members=0).fit(X[:150, :300], betas[:150])
    both = LatentEncoder(None, bands={"wide": 300, "noise": 400}, n_members=0)
    joined = np.concatenate([X[:, :300], noise], axis=1)
    both.fit(joined[:150], betas[:150])
    target = average_repeats(betas[150:])
    r = [
        correlation(e.predict(x[150:]), target).mean()
        for e, x in ((one, X[:, :300]), (both, joined))
    ]
    assert both.shares_[0] >= 0.8
    assert r[1] > r[0] - 0.02
