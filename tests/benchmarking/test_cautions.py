"""Sentences that a reader needs before believing the numbers."""

import numpy as np
import pytest

import brainenc

FEW = {"cv": 2, "n_bootstraps": 20, "n_permutations": 9, "n_draws": 0, "verbose": False}


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(60, 20, random_state=0)


def same(result):
    return [warning for warning in result.warnings if "made the same predictions" in warning]


def test_networks_that_fell_back_on_ridge_are_named_with_it(data):
    # 30 training images a fold: too few for LatentEncoder's networks, so it is its ridge.
    encoders = {"ridge": brainenc.RidgeEncoder(), "latent": brainenc.LatentEncoder()}
    result = brainenc.benchmark(data, encoders, features=data.truth.tokens, **FEW)
    (warning,) = same(result)
    assert warning.startswith("ridge and latent made the same predictions: below their smallest")


def test_encoders_that_differ_in_a_single_voxel_are_not_named(data):
    # Features of voxel 7 differ by a hundredth of their spread, in one encoder alone.
    signal = np.asarray(data.truth.signal, dtype=np.float32)
    nudged = signal.copy()
    nudged[:, 7] += 0.01 * signal.std() * np.random.default_rng(0).standard_normal(60)
    encoders = {name: Told() for name in "abcd"}
    features = {"a": signal, "b": nudged, "c": signal, "d": signal}
    result = brainenc.benchmark(data, encoders, features=features, references=False, **FEW)
    (warning,) = same(result)
    assert warning.startswith("a, c and d made the same predictions")


class Told(brainenc.encoders.BaseEncoder):
    """Predicts what it is given as features."""

    def __init__(self, features=None):
        self.features = features

    def _fit(self, features, betas):
        return features

    def _predict(self, features):
        return features


def test_trials_given_for_images_are_seen_by_their_pictures(data):
    trials = np.repeat(np.arange(20), 3)
    betas = np.random.default_rng(0).standard_normal((60, 5))
    mean = {"mean": brainenc.MeanEncoder()}
    given = brainenc.EncodingData(data.images[trials], betas)
    warnings = brainenc.benchmark(given, mean, **FEW).warnings
    assert "60 images are identical to another one: if rows are trials" in warnings[0]
    grouped = brainenc.EncodingData.from_trials(data.images[:20], betas, trials)
    warnings = brainenc.benchmark(grouped, mean, **FEW).warnings
    assert not any("near copy" in warning for warning in warnings)
