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
    # 30 training images a fold: too few for SynBrain's networks, so it is its ridge.
    encoders = {"ridge": brainenc.RidgeEncoder(), "synbrain": brainenc.SynBrainEncoder()}
    result = brainenc.benchmark(data, encoders, features=data.truth.tokens, **FEW)
    (warning,) = same(result)
    assert warning.startswith("ridge and synbrain made the same predictions: below their smallest")


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
