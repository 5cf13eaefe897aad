"""Embeddings and learning; what it shares with others is in test_network_encoders.py."""

import numpy as np
import pytest
from sklearn.base import clone

from brainenc.encoders import MindReaderEncoder
from brainenc.encoders.mind_reader import EmbeddingAdapter

SMALL = {"n_channels": 8, "n_blocks": 1, "hidden": 32, "dropout": 0.0}


def test_it_learns_a_small_deterministic_map():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 6)).astype(np.float32)
    direction = X / np.linalg.norm(X, axis=1, keepdims=True)
    # Of the direction of the vector, which is what the division by the length leaves.
    betas = direction @ rng.standard_normal((6, 10)) * np.arange(1, 11) + 5
    encoder = MindReaderEncoder(
        sizes=SMALL, n_members=1, n_epochs=40, learning_rate=5e-3, weight_decay=0, clip=None
    ).fit(X[:300], betas[:300])
    error = np.square(encoder.predict(X[300:]) - betas[300:]).mean(0) / betas.var(0)
    # No noise, so what is left is what 370 steps and 270 images leave; the mean leaves 1.
    assert error.max() < 0.1


# ------------------------------------------------------------------ embeddings


def test_embeddings_are_clipped_then_divided_by_their_length():
    x = np.array([[3.0, -0.5, 1.0], [0.5, -4.0, 0.0]])
    embeddings = EmbeddingAdapter.fit(x, 1.5, standardize=False).transform(x)
    first, second = np.array([1.5, -0.5, 1.0]), np.array([0.5, -1.5, 0.0])
    expected = [first / np.sqrt(3.5), second / np.sqrt(2.5)]
    np.testing.assert_allclose(embeddings, expected, rtol=1e-6)


def test_standardised_embeddings_have_the_moments_of_the_fit():
    x = np.random.default_rng(0).standard_normal((50, 4)) * 0.1 + 0.3
    x[:, 2] = 0  # constant, and so it stays
    adapter = EmbeddingAdapter.fit(x, 1.5, standardize=True)
    embeddings = adapter.transform(x)
    np.testing.assert_allclose(embeddings.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(embeddings.std(0), [1, 1, 0, 1], atol=1e-5)
    np.testing.assert_allclose(adapter.transform(x[:1]), embeddings[:1], atol=1e-5)


def test_zeros_have_no_length_and_stay_zeros():
    adapter = EmbeddingAdapter.fit(np.ones((2, 3)), 1.5, standardize=False)
    assert (adapter.transform(np.zeros((1, 3))) == 0).all()


def test_clipping_is_for_features_on_the_scale_of_clip():
    rng = np.random.default_rng(0)
    like_clip = 0.4 * rng.standard_normal((200, 100))
    like_clip[:, 0] += 8  # one such dimension is why the vectors are clipped
    fit = lambda x: EmbeddingAdapter.fit(x, "auto", False).clip  # noqa: E731
    assert fit(like_clip) is None or (np.abs(like_clip) > 1.5).mean() <= 0.0101
    assert fit(0.4 * rng.standard_normal((200, 100))) == 1.5
    assert fit(rng.standard_normal((200, 100))) is None


def test_tokens_are_averaged_over():
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((40, 3, 5)).astype(np.float32)
    betas = rng.standard_normal((40, 2, 4))
    encoder = MindReaderEncoder(sizes=SMALL, n_members=1, n_epochs=1, min_images=2)
    of_tokens = encoder.fit(tokens, betas).predict(tokens)
    pooled = clone(encoder).fit(tokens.mean(1), betas)
    np.testing.assert_allclose(pooled.predict(tokens.mean(1)), of_tokens, atol=1e-5)


def test_a_bound_for_clipping_below_zero_is_refused():
    with pytest.raises(ValueError, match="clip=-1 must be"):
        MindReaderEncoder(clip=-1).fit(np.ones((5, 3)), np.ones((5, 2)))
