"""Noise and its removal, against Bayes' rule for normal distributions."""

import numpy as np
import pytest
import torch

from brainenc.nets.diffusion import (
    add_noise,
    cosine_schedule,
    denoise,
    gaussian_gain,
    sampling_steps,
    step_moments,
)

N_CHAINS = 10_000


def never():
    raise AssertionError("a step without randomness asked for noise")


def gaussian_chain(n_steps, mean, variance, *, eta=1.0, n_taken=None, seed=0):
    """Samples from the chain whose predictor is exact for a latent N(mean, variance)."""
    generator = torch.Generator().manual_seed(seed)
    kept = cosine_schedule(n_steps)

    def normal():
        return torch.randn((N_CHAINS, 2), generator=generator, dtype=torch.float64)

    def predict_x0(x, step):
        k = kept[step]
        gain = np.sqrt(k) * variance / (k * variance + 1 - k)  # regression of x0 on x
        return mean + gain * (x - np.sqrt(k) * mean)

    steps = sampling_steps(n_steps, n_taken)
    return denoise(predict_x0, normal(), kept, steps, normal if eta else never, eta)


def test_schedule_falls_from_no_noise_to_almost_nothing_else():
    kept = cosine_schedule(100)
    assert kept.shape == (101,)
    assert kept[0] == 1
    assert (np.diff(kept) < 0).all()
    assert 0 < kept[-1] < 1e-4
    # Half-way the cosine has lost half of the variance; the offset s = .008 moves that a little.
    assert kept[50] == pytest.approx(0.5, abs=0.02)
    # A step adds at most .999.
    assert (kept[1:] / kept[:-1]).min() == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="n_steps=0"):
        cosine_schedule(0)


@pytest.mark.parametrize(("step", "following"), [(100, 99), (60, 59), (60, 20), (2, 1), (1, 0)])
def test_a_step_is_the_posterior_by_bayes_rule(step, following):
    kept = cosine_schedule(100)
    k, k_next = kept[step], kept[following]
    rng = np.random.default_rng(step)
    x, x0 = torch.from_numpy(rng.standard_normal((2, 50)))
    mean, sd = step_moments(x, x0, k, k_next)
    # Prior of the less noisy latent given x0, times the likelihood of the noisier one given it.
    if k_next == 1:
        assert sd == 0
        torch.testing.assert_close(mean, x0)
        return
    ratio = k / k_next
    prior, likelihood = 1 / (1 - k_next), ratio / (1 - ratio)
    variance = 1 / (prior + likelihood)
    expected = variance * (prior * np.sqrt(k_next) * x0 + likelihood * x / np.sqrt(ratio))
    assert sd**2 == pytest.approx(variance, rel=1e-9)
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-9)


def test_a_step_without_randomness_keeps_the_noise_it_has():
    rng = np.random.default_rng(0)
    x0, noise = torch.from_numpy(rng.standard_normal((2, 50)))
    mean, sd = step_moments(add_noise(x0, noise, 0.3), x0, 0.3, 0.7, eta=0.0)
    assert sd == 0
    torch.testing.assert_close(mean, add_noise(x0, noise, 0.7))


@pytest.mark.parametrize(("eta", "n_taken"), [(1.0, None), (0.0, None), (0.0, 100), (0.5, None)])
def test_a_chain_with_the_exact_predictor_gives_the_moments_of_a_gaussian(eta, n_taken):
    mean, variance = torch.tensor([1.5, -0.5]).double(), torch.tensor([0.3, 2.0]).double()
    found = gaussian_chain(200, mean, variance, eta=eta, n_taken=n_taken)
    # 10 000 chains: the s.e. of a mean is .014 or less, of a variance 1.4 %.
    torch.testing.assert_close(found.mean(0), mean, rtol=0, atol=0.06)
    # A random step leaves out that x0 is uncertain, which costs variance in proportion to 1 / T:
    # some per cent at T = 200.
    torch.testing.assert_close(found.var(0), variance, rtol=0.08, atol=0)


def test_all_steps_of_ddim_with_full_randomness_are_ddpm():
    mean, variance = torch.tensor([1.5, -0.5]).double(), torch.tensor([0.3, 2.0]).double()
    ddpm = gaussian_chain(30, mean, variance)
    ddim = gaussian_chain(30, mean, variance, eta=1.0, n_taken=30)
    torch.testing.assert_close(ddim, ddpm)


def test_gain_is_the_regression_on_the_noisy_latent():
    rng = np.random.default_rng(0)
    x0 = np.sqrt(0.4) * rng.standard_normal(200_000)
    x = add_noise(x0, rng.standard_normal(200_000), 0.6)
    # s.e. of the slope: sqrt(residual variance / variance of x / n) = .0015.
    assert gaussian_gain(0.6, 0.4) == pytest.approx(np.polyfit(x, x0, 1)[0], abs=0.006)
    assert gaussian_gain(0.6, 0.0) == 0


def test_steps_go_from_the_start_to_zero():
    assert sampling_steps(5) == [5, 4, 3, 2, 1, 0]
    assert sampling_steps(100, 4) == [100, 75, 50, 25, 0]
    assert sampling_steps(100, 4, share=0.5) == [50, 25, 0]
    assert sampling_steps(3, 50) == [3, 2, 1, 0]
    assert sampling_steps(100, 1, share=0.001) == [1, 0]
