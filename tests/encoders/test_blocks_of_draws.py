"""Draws in parts, in blocks and in files; Gaussian intervals."""

import multiprocessing
import resource
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import brainenc
from brainenc.encoders import blocks_of_draws
from brainenc.noise.gaussian import ResidualNoise


@pytest.fixture(scope="module")
def fitted():
    """Ridge that errs, and betas with shared noise; 3 repeats."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 5)).astype(np.float32)
    missed = rng.standard_normal((300, 1)) * np.linspace(1, 2, 12)  # no feature tells of it
    noise = rng.standard_normal((300, 3, 1)) * np.linspace(2, -2, 12)
    betas = (X @ rng.standard_normal((5, 12)) + missed)[:, None] + noise
    betas += rng.standard_normal(betas.shape)
    return brainenc.RidgeEncoder(None).fit(X, betas), X[:40]


def deviations(fitted, **options):
    encoder, X = fitted
    draws = encoder.sample(X, 200, 0, **options)
    return (draws - encoder.predict(X)).reshape(-1, 12)


def test_trial_noise_and_model_error_are_drawn_apart(fitted):
    error, noise = np.linspace(1, 2, 12), np.linspace(2, -2, 12)
    full, trial, signal = (
        np.cov(deviations(fitted, noise=k).T) for k in ("full", "trial", "signal")
    )
    of_trials = np.outer(noise, noise) + np.eye(12)
    # 300 images: a variance of the error is known to sqrt(2/300) = 8 %, and has noise taken off.
    np.testing.assert_allclose(trial, of_trials, atol=0.6)
    np.testing.assert_allclose(signal, np.outer(error, error), atol=0.9)
    np.testing.assert_allclose(full, np.outer(error, error) + of_trials, atol=1.2)
    assert np.trace(signal) < 0.6 * np.trace(full)


def test_latent_draws_have_what_voxels_share_and_none_repeats_the_prediction(fitted):
    encoder, X = fitted
    latent = deviations(fitted, noise="latent")
    assert np.linalg.matrix_rank(latent, tol=1e-2) == len(encoder.noise_.factors) < 12
    shared = encoder.noise_.factors.T @ encoder.noise_.factors
    np.testing.assert_allclose(np.cov(latent.T), shared, atol=0.5)
    np.testing.assert_array_equal(deviations(fitted, noise=None), 0)
    np.testing.assert_array_equal(encoder.sample(X, 2, 3), encoder.sample(X, 2, 3, noise="full"))
    with pytest.raises(ValueError, match=r"noise='all' must be one of .*'signal', 'weights', None"):
        encoder.sample(X, noise="all")


@pytest.mark.parametrize("noise", ["trial", "signal"])
def test_without_repeats_the_parts_cannot_be_told_apart(noise):
    rng = np.random.default_rng(0)
    encoder = brainenc.MeanEncoder().fit(rng.random((20, 2)), rng.random((20, 3)))
    with pytest.raises(ValueError, match=rf"noise='{noise}' needs repeats, .* betas without"):
        encoder.sample(rng.random((2, 2)), noise=noise)


def test_a_file_holds_the_draws_that_memory_would(fitted, tmp_path, monkeypatch):
    encoder, X = fitted
    monkeypatch.setattr(blocks_of_draws, "BLOCK_IMAGES", 7)  # 40 images: six blocks, the last of 5
    path = tmp_path / "draws.npy"
    written = encoder.sample(X, 3, 5, out=path)
    in_memory = encoder.sample(X, 3, 5)
    assert isinstance(written, np.memmap)
    np.testing.assert_array_equal(written, in_memory)
    np.testing.assert_array_equal(np.load(path), in_memory)
    assert in_memory.dtype == np.load(path).dtype == np.float32
    # Blocks have streams of their own.
    assert np.abs(np.corrcoef(in_memory[:, :7].ravel(), in_memory[:, 7:14].ravel())[0, 1]) < 0.9
    assert len(np.unique(in_memory - encoder.predict(X))) > 0.99 * in_memory.size


def test_a_failed_run_leaves_no_file(tmp_path):
    def blocks():
        yield slice(0, 7), np.zeros((3, 7, 12), np.float32)
        raise MemoryError

    with pytest.raises(MemoryError):
        blocks_of_draws.write(blocks(), (3, 40, 12), tmp_path / "draws.npy")
    assert list(tmp_path.iterdir()) == []


def test_one_dimensional_betas_give_draws_without_voxels(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 3))
    encoder = brainenc.RidgeEncoder(None).fit(X, X @ [1, 2, 3] + rng.standard_normal(30))
    draws = encoder.sample(X, 4, 0, out=tmp_path / "d.npy")
    assert draws.shape == (4, 30)
    np.testing.assert_array_equal(draws, encoder.sample(X, 4, 0))
    lower, upper = encoder.predict_interval(X)
    assert lower.shape == upper.shape == (30,)


def _peak_of_streaming(path, queue):
    noise = ResidualNoise(np.zeros((20, 4000), np.float32), np.ones(4000, np.float32))
    encoder = brainenc.MeanEncoder()
    encoder.fit(np.zeros((4, 1)), np.random.default_rng(0).random((4, 4000)))
    encoder.trials_ = replace(encoder.trials_, noise=noise)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encoder.sample(np.zeros((200, 1)), 50, 0, out=path)
    queue.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


def test_draws_in_a_file_take_less_memory_than_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_of_draws, "BLOCK_VALUES", 2**20)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_peak_of_streaming, args=(tmp_path / "draws.npy", queue))
    process.start()
    grown = queue.get(timeout=60)
    process.join()
    assert (tmp_path / "draws.npy").stat().st_size > 150e6
    assert grown < 50e6  # blocks of 4 MB and a few copies


def test_normal_interval_covers_what_it_says(fitted):
    encoder, X = fitted
    for coverage in (0.5, 0.9):
        lower, upper = encoder.predict_interval(X, coverage)
        draws = encoder.sample(X, 500, 0)
        inside = ((draws >= lower) & (draws <= upper)).mean()
        assert inside == pytest.approx(coverage, abs=0.01)  # 240 000 draws: s.e. .001
    np.testing.assert_allclose((lower + upper) / 2, encoder.predict(X), atol=1e-5)
    with pytest.raises(ValueError, match=r"coverage=90 must lie between 0 and 1"):
        encoder.predict_interval(X, 90)


def test_log_density_is_scipys():
    rng = np.random.default_rng(0)
    noise = ResidualNoise(rng.standard_normal((2, 6)), rng.uniform(0.5, 2, 6))
    rows = rng.standard_normal((3, 4, 6))
    expected = multivariate_normal(np.zeros(6), noise.covariance()).logpdf(rows)
    np.testing.assert_allclose(noise.logpdf(rows), expected, rtol=1e-10)
    none = ResidualNoise(np.zeros((0, 6)), noise.private_sd)
    expected = multivariate_normal(np.zeros(6), none.covariance()).logpdf(rows)
    np.testing.assert_allclose(none.logpdf(rows), expected, rtol=1e-10)


def test_the_sd_of_a_sampler_is_unbiased_as_a_divisor():
    class Sampler(brainenc.RidgeEncoder):
        sample_kind = "own"

        def _draw(self, features, n, rng, part):
            return self._predict(features) + rng.standard_normal((n, len(features), 40))

    rng = np.random.default_rng(0)
    X = rng.standard_normal((800, 8)).astype(np.float32)
    betas = (X @ rng.standard_normal((8, 40)))[:, None] + rng.standard_normal((800, 2, 40))
    encoder = Sampler(None).fit(X[:400], betas[:400])
    scale = brainenc.calibrate(encoder, X[400:], betas[400:]).scale_
    truth = np.mean((betas[400:] - encoder.predict(X[400:])[:, None]) ** 2, axis=(0, 1))
    # E 1 / s² of n normal draws is 1 / σ² with n − 3 as the divisor; with n it would be 3 % more.
    # 400 images × 40 voxels: the s.e. of the mean of 1 / s² over images is .001.
    assert np.mean(scale**2 / truth) == pytest.approx(1, abs=0.01)
