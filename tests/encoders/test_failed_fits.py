"""A fit that raises leaves the encoder as it was: unfitted, or with its former fit whole."""

import copy

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from tiny_encoders import tiny_encoder

from brainenc.encoders import ENCODERS, MeanEncoder
from brainenc.training import TrainingError


@pytest.fixture(scope="module")
def problem():
    """130 images × 16 features as 4 tokens; 6 voxels, 2 repeats. Four folds of five are 104."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((130, 4, 4)).astype(np.float32)
    betas = X.reshape(130, 16) @ rng.standard_normal((16, 6)) / 2
    return X, (betas[:, None] + rng.standard_normal((130, 2, 6))).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(problem):
    """Encoder of a name, fitted once, and what it says."""
    found = {}

    def get(name):
        if name not in found:
            encoder = tiny_encoder(name).fit(*problem)
            found[name] = encoder, outputs(encoder, problem)
        encoder, expected = found[name]
        return copy.deepcopy(encoder), expected

    return get


def outputs(encoder, problem):
    X, betas = problem
    return (
        encoder.predict(X),
        encoder.sample(X[:9], 3, 0),
        encoder.log_density(X[:9], betas[:9]),
        *encoder.predict_interval(X[:9]),
    )


def check(name, fitted, problem, fail, folder):
    """`fail(encoder)` fits in a way that raises, a fresh encoder and a fitted one."""
    X, _ = problem
    fresh = tiny_encoder(name)
    fail(fresh)
    assert not any(attribute.endswith("_") for attribute in vars(fresh))
    for call in (fresh.predict, fresh.sample, fresh.predict_interval):
        with pytest.raises(NotFittedError):
            call(X)
    with pytest.raises(NotFittedError):
        fresh.log_density(*problem)
    with pytest.raises(NotFittedError):
        fresh.sample(X, out=folder / "draws.npy")
    with pytest.raises(NotFittedError):
        fresh.save(folder / "model")
    assert list(folder.iterdir()) == []

    encoder, expected = fitted(name)
    former = {key: value for key, value in vars(encoder).items() if key.endswith("_")}
    fail(encoder)
    now = {key: value for key, value in vars(encoder).items() if key.endswith("_")}
    assert now.keys() == former.keys()
    for attribute, value in former.items():
        assert now[attribute] is value, attribute
    for ours, theirs in zip(outputs(encoder, problem), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# -------------------------------------------------------------------- parameters and data

#: Some are seen before anything is computed, others when features or betas are at hand.
WRONG = [
    ("ridge", {"cv": 999}, "999 folds need at least 999 images"),
    ("ridge", {"alphas": [-1.0]}, "alphas="),
    ("ridge", {"features": "pixels"}, "features='pixels'"),
    ("banded", {"cv": 999}, "999 folds"),
    ("banded", {"alphas": [-1.0]}, "alphas="),
    ("banded", {"bands": {"a": 3}}, "add up to the 16 features"),
    ("kernelridge", {"cv": 999}, "999 folds"),
    ("kernelridge", {"kernel": "cosine"}, "kernel='cosine'"),
    ("kernelridge", {"candidates": [0.0]}, "widths must be positive"),
    ("kernelridge", {"kernel": "polynomial", "candidates": [1.5]}, "whole numbers from 1 on"),
    ("kernelridge", {"kernel": "linear", "candidates": [1]}, "no width or degree"),
    ("pls", {"cv": 999}, "999 folds"),
    ("pls", {"n_components": 0}, "n_components=0"),
    ("pls", {"n_components": [2.5]}, "a whole number from 1 on"),
    ("pls", {"n_components": "all"}, "n_components='all'"),
    ("pls", {"n_components": 17}, "16 features have at most 16 components"),
    ("latent", {"n_members": 1}, "n_members=1"),
    ("latent", {"n_members": 999}, "999 folds"),
    ("synbrain", {"sizes": "large"}, "sizes='large'"),
    ("synbrain", {"architecture": "conv"}, "conv"),
    ("synbrain", {"sizes": {"vae": {"n_block": 1}}}, "n_block"),
    ("mindsimulator", {"n_steps": 0}, "n_steps=0"),
    ("mindreader", {"clip": -1.0}, "clip=-1.0"),
    ("mindreader", {"n_members": 999}, "999 folds"),
    ("roitransformer", {"rois": ["V1"] * 5}, "labels of 5 voxels"),
    ("stacked", {"draws": "both"}, "draws='both'"),
    ("stacked", {"cv": 999}, "999 folds"),
    ("stacked", {"inputs": {"ridge": [0, 4]}}, "not the members"),
    ("calibrated", {"cv": 999}, "999 folds"),
    ("calibrated", {"groups": ["V1"] * 5}, "one label for each of the 6 voxels"),
]


@pytest.mark.parametrize(("name", "wrong", "message"), WRONG)
def test_a_wrong_parameter(name, wrong, message, fitted, problem, tmp_path):
    def fail(encoder):
        with pytest.raises(ValueError, match=message):
            encoder.set_params(**wrong).fit(*problem)

    check(name, fitted, problem, fail, tmp_path)


@pytest.mark.parametrize("name", ENCODERS)
def test_wrong_data(name, fitted, problem, tmp_path):
    X, betas = problem
    pairs = [
        (np.where(X > 2, np.nan, X), betas),
        (X[:, :2], betas[:-1]),
        (X, np.where(betas > 2, np.inf, betas)),
        (X[:1], betas[:1, :, :3]),
        (np.zeros((9, 8, 8, 3), np.uint8), betas[:9]),
    ]

    def fail(encoder):
        if "features" in encoder.get_params(deep=False):
            encoder.set_params(features=None)
        for pair in pairs if name != "mean" else pairs[:-1]:
            with pytest.raises((ValueError, TypeError)):
                encoder.fit(*pair)

    check(name, fitted, problem, fail, tmp_path)


# -------------------------------------------------------------------- while it is computed

#: The parameter with which the networks of an encoder are trained.
RATES = {
    **dict.fromkeys(("latent", "synbrain", "mindsimulator", "mindreader", "roitransformer")),
    "stacked": "mindreader__learning_rate",
}


@pytest.mark.parametrize("name", RATES)
def test_a_training_that_diverges(name, fitted, problem, tmp_path):
    def fail(encoder):
        encoder = encoder.set_params(**{RATES[name] or "learning_rate": 1e38})
        with pytest.raises(TrainingError, match="not finite in step"):
            encoder.fit(*problem)

    check(name, fitted, problem, fail, tmp_path)


def test_a_member_of_a_calibrated_encoder_that_diverges(fitted, problem, tmp_path):
    def fail(encoder):
        encoder.set_params(encoder=tiny_encoder("mindreader", learning_rate=1e38))
        with pytest.raises(TrainingError, match="not finite in step"):
            encoder.fit(*problem)

    check("calibrated", fitted, problem, fail, tmp_path)


@pytest.mark.parametrize("name", ENCODERS)
def test_ctrl_c_at_the_end_of_the_fit(name, fitted, problem, tmp_path, monkeypatch):
    """All that `_fit` sets is there, and the distribution of trials is not."""
    encoder, _ = fitted(name)  # before the class is changed
    fit = type(encoder)._fit

    def interrupted(self, *arguments, **options):
        fit(self, *arguments, **options)
        raise KeyboardInterrupt

    def fail(encoder):
        with monkeypatch.context() as patch:
            patch.setattr(type(encoder), "_fit", interrupted)
            with pytest.raises(KeyboardInterrupt):
                encoder.fit(*problem)

    check(name, fitted, problem, fail, tmp_path)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_estimate_of_noise_that_fails(name, fitted, problem, tmp_path, monkeypatch):
    def out_of_memory(*arguments, **options):
        raise MemoryError

    def fail(encoder):
        with monkeypatch.context() as patch:
            patch.setattr("brainenc.noise.trials.residual_noise_later", out_of_memory)
            patch.setattr("brainenc.encoders.latent.encoder.fit_residual_noise", out_of_memory)
            with pytest.raises(MemoryError):
                encoder.fit(*problem)

    check(name, fitted, problem, fail, tmp_path)


def test_held_out_predictions_and_adapting_fail_alike(fitted, problem):
    X, betas = problem
    for name in ("ridge", "synbrain"):
        encoder, expected = fitted(name)
        with pytest.raises(ValueError, match="rows"):
            encoder.fit_held_out(X, betas[1:])
        with pytest.raises(ValueError, match="rows"):
            encoder.adapt(X, betas[1:])
        for ours, theirs in zip(outputs(encoder, problem), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_fit_after_a_failure_is_that_of_a_fresh_encoder(problem):
    X, betas = problem
    encoder = tiny_encoder("latent")
    expected = clone(encoder).fit(X, betas).predict(X)
    with pytest.raises(ValueError, match="rows"):
        encoder.fit(X, betas[1:])
    np.testing.assert_array_equal(encoder.fit(X, betas).predict(X), expected)


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (lambda betas: None, r"_fit must return .* \(130, 6\).*returned a NoneType"),
        (lambda betas: np.zeros((len(betas), 1)), r"a ndarray of shape \(130, 1\)"),
        (lambda betas: np.zeros_like(betas), r"of shape \(130, 2, 6\)"),
    ],
)
def test_a_subclass_that_returns_no_held_out_predictions(held_out, message, problem):
    class Wrong(MeanEncoder):
        def _fit(self, features, betas):
            super()._fit(features, betas)
            return held_out(betas)

    with pytest.raises(ValueError, match=message):
        Wrong().fit(*problem)


@pytest.mark.parametrize("name", ["latent", "synbrain", "mindsimulator", "mindreader"])
def test_a_parameter_that_is_no_number_is_named(name, problem):
    with pytest.raises(TypeError, match="batch_size='8' must be an int"):
        tiny_encoder(name).set_params(batch_size="8").fit(*problem)


def test_a_distribution_of_ones_own_needs_a_sampler(problem):
    """Without one, draws would be residuals under another name."""

    class Wrong(MeanEncoder):
        sample_kind = "told"

    with pytest.raises(TypeError, match=r"sample_kind='told'.* has no _draw\(features"):
        Wrong().fit(*problem)
