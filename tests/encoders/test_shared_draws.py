"""Draws of weights are correlated between voxels as the noise of the training trials is."""

import numpy as np
import pytest
from sklearn.base import clone

import brainenc
from brainenc.encoders import add_refits
from brainenc.solvers import posterior
from brainenc.solvers.posterior import NumbersOfImages, weight_posterior
from brainenc.solvers.shared_numbers import SharedNumbers

LOADINGS = np.array([[0.9, 0.6, -0.7, 0.0, 0.5], [0.0, 0.6, 0.3, 0.0, -0.5]])
CORRELATION = LOADINGS.T @ LOADINGS + np.diag(1 - np.square(LOADINGS).sum(axis=0))


def shared_numbers():
    private = np.sqrt(1 - np.square(LOADINGS).sum(axis=0))
    return SharedNumbers.of(3 * LOADINGS, 3 * private, np.random.SeedSequence(5), 50)


def root(matrix, power):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**power) @ vectors.T


@pytest.mark.parametrize("n_features", [6, 50])  # fewer and more than images
def test_draws_have_the_covariance_of_the_posterior_with_shared_noise(n_features):
    rng = np.random.default_rng(0)
    X, new = rng.standard_normal((30, n_features)), rng.standard_normal((3, n_features))
    alphas, variance = np.array([5.0, 5.0, 40.0, 5.0, 5.0]), np.array([1.0, 4, 1, 1, 2])
    targets = rng.standard_normal((30, 5))
    targets[:12, 4] = np.nan
    found = weight_posterior(X, targets, lambda v: targets[:, v], alphas)
    found.variance[:] = variance
    n = 20_000
    seeds = np.random.SeedSequence(1).spawn(5)
    drawn = found.at(new).draws(n, slice(None), seeds, shared_numbers()).astype(float)

    def factor(v):
        """Root of the covariance of values of a voxel, from the normal equations."""
        Z = X[np.isfinite(targets[:, v])]
        centre = Z.mean(axis=0)
        covariance = (Z - centre).T @ (Z - centre) + alphas[v] * np.eye(n_features)
        weights = (new - centre) @ root(covariance, -0.5)
        return np.sqrt(variance[v]) * np.column_stack([weights, np.full(3, len(Z) ** -0.5)])

    for v in range(5):
        for u in range(5):
            # Voxel 4 has other images: its own distribution is known, and below, that it shares.
            if v == u or 4 not in (v, u):
                expected = CORRELATION[v, u] * factor(v) @ factor(u).T
                found_here = drawn[..., v].T @ drawn[..., u] / n
                scale = np.sqrt(np.outer((factor(v) ** 2).sum(1), (factor(u) ** 2).sum(1)))
                # Standard error of a covariance of n normal draws, at most sqrt(2 / n); five.
                assert (np.abs(found_here - expected) < 5 * np.sqrt(2 / n) * scale).all()
    with_others = np.corrcoef(drawn[:, 0, 4], drawn[:, 0, 0])[0, 1]
    assert 0.15 < with_others < CORRELATION[4, 0] + 0.05


def test_voxels_of_other_images_share_the_noise_of_the_images_in_common():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    targets = rng.standard_normal((60, 2))
    targets[40:, 0], targets[:20, 1] = np.nan, np.nan  # 20 of 40 images in common
    found = weight_posterior(X, targets, lambda v: targets[:, v], np.full(2, 1e-3))
    half = SharedNumbers.of(np.ones((1, 2)), np.zeros(2), np.random.SeedSequence(0), 50)
    seeds = np.random.SeedSequence(1).spawn(2)
    drawn = found.at(X[:1] * 0).draws(8000, slice(None), seeds, half)[:, 0]
    # Least squares of the same noise: weights of images in common.
    rows = np.isfinite(targets)
    hats = np.zeros((2, 60))
    for v in range(2):
        design = np.column_stack([np.ones(40), X[rows[:, v]]])
        hats[v, rows[:, v]] = np.linalg.pinv(design)[0]
    expected = hats[0] @ hats[1] / np.sqrt((hats[0] @ hats[0]) * (hats[1] @ hats[1]))
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(expected, abs=0.05)


def test_numbers_of_images_have_the_correlation_and_equal_images_are_equal():
    keys = np.array([7, 7, 9], dtype=np.uint64)
    numbers = NumbersOfImages(20_000, keys, shared_numbers())
    drawn = np.stack([numbers.of(v, np.random.default_rng(v)) for v in range(5)])
    np.testing.assert_array_equal(drawn[..., 0], drawn[..., 1])
    np.testing.assert_allclose(np.cov(drawn[..., 2]), CORRELATION, atol=0.05)
    assert abs(np.corrcoef(drawn[0, :, 0], drawn[0, :, 2])[0, 1]) < 0.05


def test_only_the_strongest_directions_are_shared_and_the_variance_stays():
    factors = np.random.default_rng(0).standard_normal((20, 40)) * np.linspace(2, 0.1, 20)[:, None]
    found = SharedNumbers.of(factors, np.ones(40), np.random.SeedSequence(0), 8)
    assert found.loadings.shape == (8, 40)
    total = np.square(found.loadings).sum(axis=0) + np.square(found.private)
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    unknown = SharedNumbers.of(np.full((1, 2), np.nan), np.zeros(2), found.seed, 8)
    np.testing.assert_array_equal(unknown.private, 1)
    np.testing.assert_array_equal(unknown.loadings, 0)


def problem(r, *, seed=0, n_images=150, n_voxels=12, repeats=2):
    """Responses of known weights, with noise of variance 2 and correlation r."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_images, 10))
    W = 0.3 * rng.standard_normal((10, n_voxels))
    shape = (n_images, repeats)
    noise = np.sqrt(r) * rng.standard_normal((*shape, 1))
    noise = noise + np.sqrt(1 - r) * rng.standard_normal((*shape, n_voxels))
    return X, W, (X @ W)[:, None] + np.sqrt(2) * noise


def encoders():
    bands = {"a": 6, "b": 4}
    yield pytest.param(brainenc.RidgeEncoder(), id="ridge")
    yield pytest.param(brainenc.RidgeEncoder(form="kernel"), id="kernel")
    yield pytest.param(brainenc.BandedRidgeEncoder(bands=bands, n_iter=3), id="banded")
    yield pytest.param(brainenc.KernelRidgeEncoder(), id="kernel ridge")
    yield pytest.param(brainenc.CalibratedEncoder(brainenc.RidgeEncoder(), cv=3), id="calibrated")
    yield pytest.param(brainenc.MeanEncoder(), id="mean")
    yield pytest.param("refits", id="refits")
    yield pytest.param("prior", id="prior")


def fitted(encoder, X, Y):
    if encoder == "refits":
        ridge = brainenc.RidgeEncoder(features=None).fit(X, Y)
        return add_refits(ridge, X, Y)
    if encoder == "prior":
        others = problem(0.5, seed=9)
        prior = brainenc.WeightPrior.from_encoders(
            [brainenc.RidgeEncoder(features=None).fit(others[0], others[2])]
        )
        return brainenc.RidgeEncoder(features=None, prior=prior).fit(X, Y)
    return clone(encoder).fit(X, Y)


@pytest.mark.parametrize("encoder", list(encoders()))
def test_errors_of_voxels_are_correlated_as_their_noise(encoder, monkeypatch):
    between = ~np.eye(12, dtype=bool)
    new = np.random.default_rng(1).standard_normal((40, 10))
    for r in (0.6, 0.0):
        X, _, Y = problem(r, n_images=300)
        model = fitted(encoder, X, Y)
        draws = model.sample(new, n=300, noise="weights", random_state=0)
        found = np.corrcoef(draws.mean(axis=1).T)[between].mean()
        if encoder == "refits":
            assert abs(found - r) < 0.3  # 20 refits
        else:
            # The mean response has the variance of the signal too, here of .9 beside 1.
            expected = r * 0.5 if isinstance(encoder, brainenc.MeanEncoder) else r
            assert abs(found - expected) < 0.15
        twice = np.concatenate([new[:3], new[:3]])
        draws = model.sample(twice, n=300, noise="weights", random_state=0)
        np.testing.assert_allclose(draws[:, :3], draws[:, 3:], atol=1e-5)
        monkeypatch.setattr(posterior, "BLOCK_BYTES", 20_000)  # blocks change nothing
        again = model.sample(new[:3], n=300, noise="weights", random_state=0)
        np.testing.assert_allclose(again, draws[:, :3], atol=1e-5)
        monkeypatch.undo()


def test_encoders_without_repeats_have_the_correlation_of_residuals():
    X, _, Y = problem(0.5, n_images=300, repeats=1)
    model = brainenc.RidgeEncoder().fit(X, Y[:, 0])
    draws = model.sample(X[:5], n=1000, noise="weights", random_state=0)
    found = np.corrcoef(draws[:, 0].T)[~np.eye(12, dtype=bool)].mean()
    assert abs(found - 0.5) < 0.1


def test_noise_of_averages_has_the_share_of_trial_noise_that_is_left():
    X, _, Y = problem(0.5, n_images=300, repeats=3)
    Y[:150, 1:] = np.nan  # one trial of half of the images: mean of 1 / n is 2 / 3
    trials = brainenc.RidgeEncoder().fit(X, Y).trials_
    np.testing.assert_allclose(trials.n_averaged, 1.5)
    expected = trials.trial.covariance() / 1.5 + trials.error.covariance()
    np.testing.assert_allclose(trials.of_averages().covariance(), expected, rtol=1e-4)


@pytest.mark.slow
def test_intervals_of_area_means_have_their_coverage():
    inside = []
    for seed in range(100):
        X, W, Y = problem(0.5, seed=seed)
        new = np.random.default_rng(1000 + seed).standard_normal((2, 15, 10))
        conditions = {"a": new[0], "b": new[1]}
        encoder = brainenc.RidgeEncoder().fit(X, Y)
        found = brainenc.experiment(encoder, conditions, n_draws=100, random_state=seed).contrasts
        truth = ((new[0].mean(axis=0) - new[1].mean(axis=0)) @ W).mean()
        inside.append(found["low"].iloc[0] <= truth <= found["high"].iloc[0])
    # Standard error of a share of .95 in 100 simulations: .022; three. Independent draws: .65.
    assert abs(np.mean(inside) - 0.95) < 0.066
