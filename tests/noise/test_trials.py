"""Distributions of single trials against scipy, closed forms and trials that were not fitted."""

import numpy as np
import pytest
from scipy import integrate, stats

from brainenc.noise.gaussian import ResidualNoise
from brainenc.noise.shape import NODES, ResidualShape
from brainenc.noise.trials import PARTS, TrialDistribution

N_VOXELS = 5


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((2, N_VOXELS)).astype(np.float32)
    return ResidualNoise(factors, rng.uniform(0.5, 1.5, N_VOXELS).astype(np.float32))


#: Of four images: of the two factors, then of the private part.
SCALE = np.array([[1, 1, 1], [0.5, 2, 1.5], [2, 1, 0.3], [0, 0, 1]], dtype=np.float32)
EXPECTED = np.random.default_rng(9).standard_normal((4, N_VOXELS)).astype(np.float32)


def covariances(noise, scale):
    """By hand, of each image: Σ over factors of scale² f fᵀ, and the private part."""
    private = np.diag(noise.private_sd.astype(float) ** 2)
    return [
        sum(
            s**2 * np.outer(f, f)
            for s, f in zip(own[:-1], noise.factors.astype(float), strict=True)
        )
        + own[-1] ** 2 * private
        for own in np.asarray(scale, dtype=float)
    ]


@pytest.mark.parametrize("scale", [None, SCALE])
def test_sd_and_density_are_those_of_scipys_normal(noise, scale):
    trials = TrialDistribution(noise)
    truth = covariances(noise, np.ones((4, 3)) if scale is None else scale)
    sd = trials.sd(EXPECTED, scale)
    assert sd.shape == EXPECTED.shape
    np.testing.assert_allclose(sd, [np.sqrt(np.diag(c)) for c in truth], rtol=1e-5)
    betas = EXPECTED[:, None] + 2 * np.random.default_rng(1).standard_normal((4, 3, N_VOXELS))
    betas[2, 1, 3] = np.nan
    for voxels in (np.arange(N_VOXELS), np.array([3, 1])):
        found = trials.logpdf(betas[..., voxels], EXPECTED[:, voxels], voxels, scale)
        assert found.shape == (4, 3)
        for i, covariance in enumerate(truth):
            law = stats.multivariate_normal(EXPECTED[i, voxels], covariance[np.ix_(voxels, voxels)])
            for repeat in range(3):
                if (i, repeat) == (2, 1):
                    assert np.isnan(found[i, repeat])
                    continue
                expected = law.logpdf(betas[i, repeat, voxels])
                assert found[i, repeat] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", [None, SCALE])
@pytest.mark.parametrize("part", ["full", "latent"])
def test_draws_have_the_covariance_of_the_closed_form(noise, scale, part):
    draws = TrialDistribution(noise).sample(EXPECTED, 40_000, 0, part=part, scale=scale)
    assert draws.shape == (40_000, 4, N_VOXELS)
    each = np.ones((4, 3)) if scale is None else scale.copy()
    truth = covariances(noise if part == "full" else noise.shared(), each)
    for i, covariance in enumerate(truth):
        # 40 000 draws: s.e. of a covariance .7 % of the product of both s.d., of a mean .5 %.
        size = np.diag(covariance).max()
        np.testing.assert_allclose(np.cov(draws[:, i].T), covariance, atol=0.03 * size + 1e-12)
        np.testing.assert_allclose(
            draws[:, i].mean(axis=0, dtype=float), EXPECTED[i], atol=0.025 * np.sqrt(size) + 1e-6
        )


def test_a_seed_decides_and_expected_responses_stay(noise):
    trials, before = TrialDistribution(noise), EXPECTED.copy()
    first = trials.sample(EXPECTED, 2, 3)
    np.testing.assert_array_equal(first, trials.sample(EXPECTED, 2, np.random.default_rng(3)))
    assert (first != trials.sample(EXPECTED, 2, 4)).all()
    np.testing.assert_array_equal(EXPECTED, before)


@pytest.mark.parametrize("scale", [None, SCALE])
def test_intervals_cover_draws(noise, scale):
    trials = TrialDistribution(noise)
    z = stats.norm.ppf([0.1, 0.7])
    ends = np.repeat(z[:, None], N_VOXELS, axis=1)
    sd = trials.sd(EXPECTED, scale)
    low, high = trials.interval(EXPECTED, sd, ends)
    np.testing.assert_allclose(low, EXPECTED + z[0] * sd, rtol=1e-5, atol=1e-6)
    draws = trials.sample(EXPECTED, 20_000, 5, scale=scale)
    # 20 000 draws: s.e. of a share .003.
    np.testing.assert_allclose((draws < low).mean(axis=0), 0.1, atol=0.015)
    np.testing.assert_allclose((draws > high).mean(axis=0), 0.3, atol=0.015)


@pytest.mark.parametrize("scale", [None, SCALE])
def test_a_variance_that_grows_with_the_expected_response(noise, scale):
    """Normal quantiles: the trial of one voxel is normal, its log-variance e / 2 - .3 larger."""
    ones = np.ones(N_VOXELS)
    nodes = np.repeat(NODES[:, None], N_VOXELS, axis=1)
    shape = ResidualShape(nodes, 0.5 * ones, 0.3 * ones, -9 * ones, 9 * ones)
    trials, plain = TrialDistribution(noise, shape), TrialDistribution(noise)
    sd = plain.sd(EXPECTED, scale) * np.exp((0.5 * EXPECTED - 0.3) / 2)
    np.testing.assert_allclose(trials.sd(EXPECTED, scale), sd, rtol=1e-5)
    draws = trials.sample(EXPECTED, 20_000, 0, scale=scale)
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.03)  # s.e. .005
    betas = EXPECTED[:, None] + np.random.default_rng(1).standard_normal((4, 3, N_VOXELS))
    for v in range(N_VOXELS):
        voxel = np.array([v])
        found = trials.logpdf(betas[..., voxel], EXPECTED[:, voxel], voxel, scale)
        theirs = stats.norm(EXPECTED[:, [v]], sd[:, [v]]).logpdf(betas[..., v])
        np.testing.assert_allclose(found, theirs, rtol=1e-3, atol=1e-3)


# -------------------------------------------------------------------- estimated from trials


def simulate(n_images, rng, n_voxels=30):
    """Trials, predictions that err, and the covariances of noise and of error."""
    noise_factor, error_factor = np.linspace(1, 2, n_voxels), np.cos(np.arange(n_voxels))
    noise = rng.standard_normal((n_images, 3, n_voxels))
    noise += rng.standard_normal((n_images, 3, 1)) * noise_factor
    error = rng.standard_normal((n_images, 1)) * error_factor
    held_out = 3 * rng.standard_normal((n_images, n_voxels))
    of_noise = np.outer(noise_factor, noise_factor) + np.eye(n_voxels)
    return (held_out + error)[:, None] + noise, held_out, of_noise, np.outer(*[error_factor] * 2)


def covariance_of(trials, part):
    expected = np.zeros((1, len(trials.noise.private_sd)))
    return np.cov(trials.sample(expected, 40_000, 0, part=part)[:, 0].T)


def test_the_parts_are_found_and_add_up():
    rng = np.random.default_rng(0)
    betas, held_out, of_noise, of_error = simulate(3000, rng)
    betas[rng.random((3000, 3)) < 0.1] = np.nan
    trials = TrialDistribution.fit(betas, held_out)
    assert trials.shape is None
    full, trial, signal = (covariance_of(trials, part) for part in ("full", "trial", "signal"))
    # 3000 images, 8100 trials: s.e. of a variance of 5 below .15; private parts of factors that do
    # not stand out cost some covariance.
    np.testing.assert_allclose(trial, of_noise, atol=0.4)
    np.testing.assert_allclose(signal, of_error, atol=0.4)
    np.testing.assert_allclose(full, of_noise + of_error, atol=0.5)
    np.testing.assert_allclose(trial + signal, full, atol=0.5)
    # Variances add up to those of residuals: noise is subtracted from these.
    np.testing.assert_allclose(
        trials.trial.variance + trials.error.variance, trials.noise.variance, rtol=1e-3
    )


def test_what_is_known_is_taken_as_it_is():
    betas, held_out, *_ = simulate(300, np.random.default_rng(1))
    whole = TrialDistribution.fit(betas, held_out)
    given = TrialDistribution.fit(betas, held_out, noise=whole.noise.times(2), trial=whole.trial)
    np.testing.assert_array_equal(given.noise.private_sd, 2 * whole.noise.private_sd)
    assert given.trial is whole.trial
    np.testing.assert_array_equal(given.error.factors, whole.error.factors)


def test_without_repeats_there_are_no_parts():
    betas, held_out, *_ = simulate(300, np.random.default_rng(2))
    trials = TrialDistribution.fit(betas[:, :1], held_out)
    assert trials.trial is None
    assert trials.error is None
    for part in ("trial", "signal"):
        with pytest.raises(ValueError, match=f"noise='{part}' needs repeats"):
            trials.sample(held_out, 2, part=part)
    residuals = betas[:, 0] - held_out
    np.testing.assert_allclose(trials.noise.variance, np.square(residuals).mean(0), rtol=1e-4)


@pytest.mark.parametrize("scaled", [False, True])
def test_shaped_trials_have_the_skew_and_the_density_of_new_ones(scaled):
    rng = np.random.default_rng(3)
    held_out = 3 * rng.standard_normal((1500, N_VOXELS))
    strength = np.exp(0.4 * rng.standard_normal((1500, 1))) if scaled else np.ones((1500, 1))
    strength /= np.sqrt(np.mean(strength**2))
    skewed = rng.standard_exponential((1500, 3, N_VOXELS)) - 1
    betas = held_out[:, None] + strength[:, None] * skewed
    noise = ResidualNoise(np.zeros((0, N_VOXELS)), np.ones(N_VOXELS))  # as it is simulated
    scale = strength if scaled else None
    trials = TrialDistribution.fit(betas, held_out, scale=scale, noise=noise)
    assert trials.shape is not None
    assert TrialDistribution.fit(betas, held_out, noise=noise, shaped=False).shape is None

    expected, some = np.zeros((2, N_VOXELS)), np.array([[0.5], [2.0]]) if scaled else None
    sd = trials.sd(expected, some)
    np.testing.assert_allclose(sd, [[0.5] * 5, [2] * 5] if scaled else 1, rtol=0.1)
    draws = trials.sample(expected, 20_000, 0, scale=some)
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.03)
    # Quantiles of an exponential less its mean. The s.e. of one is .03 s.d. with 4500 trials.
    for level in (0.05, 0.5, 0.95):
        quantile = (stats.expon.ppf(level) - 1) * sd
        found = np.quantile(draws, level, axis=0)
        np.testing.assert_allclose(found / sd, quantile / sd, atol=0.15)
    ends = np.repeat(stats.norm.ppf([0.05, 0.95])[:, None], N_VOXELS, axis=1)
    low, high = trials.interval(expected, sd, ends)
    # Shares of the truth below and above.
    np.testing.assert_allclose(stats.expon.cdf(low / sd + 1), 0.05, atol=0.04)
    np.testing.assert_allclose(stats.expon.sf(high / sd + 1), 0.05, atol=0.02)
    grid = np.linspace(-12, 40, 52_001)
    for image in range(2):
        of_image = None if some is None else some[[image]]
        density = np.exp(
            trials.logpdf(grid[None, :, None], expected[[image]][:, [1]], np.array([1]), of_image)
        )[0]
        assert integrate.trapezoid(density, grid) == pytest.approx(1, abs=2e-3)
        above = integrate.trapezoid(density[grid > 1], grid[grid > 1])
        # 20 000 draws: s.e. .003.
        assert above == pytest.approx((draws[:, image, 1] > 1).mean(), abs=0.015)


def test_nothing_is_known_of_trials_that_were_not_held_out():
    trials = TrialDistribution.unknown(3)
    expected = np.ones((2, 3), dtype=np.float32)
    assert np.isnan(trials.sd(expected)).all()
    assert trials.sd(expected).shape == (2, 3)
    assert np.isnan(trials.sample(expected, 4, 0)).all()
    assert trials.sample(expected, 4, 0).shape == (4, 2, 3)
    assert np.isnan(trials.interval(expected, trials.sd(expected), np.ones((2, 3)))).all()
    assert (trials.shape, trials.trial, trials.error) == (None, None, None)
    with pytest.raises(ValueError, match="needs repeats"):
        trials.sample(expected, 1, part="trial")
    assert PARTS == ("full", "latent", "trial", "signal")
