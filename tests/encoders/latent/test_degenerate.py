"""LatentEncoder where there is nothing to learn, or less than its latent could hold."""

import numpy as np
import pytest

import brainenc

KERNEL = {"features": None, "n_members": 0}


def problem(n=160, n_voxels=12):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 8)).astype(np.float32)
    signal = X @ rng.standard_normal((8, n_voxels))
    return X, (signal[:, None] + rng.standard_normal((n, 2, n_voxels))).astype(np.float32)


def test_saved_with_more_latents_than_voxels_it_predicts_the_same_bits(tmp_path):
    X, betas = problem(100)
    encoder = brainenc.LatentEncoder(**KERNEL).fit(X, betas)
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(X), encoder.predict(X))


def test_voxels_that_never_vary_are_predicted_as_they_are():
    X, betas = problem(120)
    encoder = brainenc.LatentEncoder(**KERNEL).fit(X, np.ones_like(betas))
    np.testing.assert_array_equal(encoder.predict(X), 1)


@pytest.mark.parametrize("n_members", [0, 2])
def test_features_that_never_vary_predict_the_mean(n_members):
    X, betas = problem(120)
    encoder = brainenc.LatentEncoder(None, n_members=n_members, n_epochs=1, hidden=8)
    prediction = encoder.fit(np.ones_like(X), betas).predict(np.ones_like(X))
    np.testing.assert_allclose(prediction, np.tile(betas.mean((0, 1)), (120, 1)), atol=1e-3)
