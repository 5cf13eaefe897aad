"""Ranks, coverage, variances and noise correlations of draws whose distribution is known."""

import numpy as np
import pytest
from scipy import stats

from brainenc import metrics

RNG = np.random.default_rng


def test_ranks_count_the_draws_below():
    rng = RNG(0)
    draws, trials = rng.standard_normal((12, 4, 3)), rng.standard_normal((4, 2, 3))
    trials[1, 1, 2] = np.nan
    draws[5, 3, 0] = np.nan
    ranks = metrics.trial_ranks(draws, trials)
    for i, r, v in np.ndindex(ranks.shape):
        undefined = np.isnan(trials[i, r, v]) or np.isnan(draws[:, i, v]).any()
        assert ranks[i, r, v] == (-1 if undefined else (draws[:, i, v] < trials[i, r, v]).sum())


def test_ranks_and_pit_of_the_true_distribution_are_uniform():
    rng = RNG(1)
    draws, trials = rng.gamma(2, size=(9, 20_000, 1)), rng.gamma(2, size=(20_000, 1, 1))
    ranks = metrics.trial_ranks(draws, trials)
    counts = metrics.rank_histogram(ranks, 9)[:, 0]
    assert counts.sum() == 20_000
    assert stats.chisquare(counts).pvalue > 0.001
    # 10 ranks over 4 bins: ranks 2 and 7 straddle an edge.
    pit = metrics.pit_histogram(ranks, 9, n_bins=4)[:, 0]
    assert pit.sum() == pytest.approx(20_000)
    np.testing.assert_allclose(pit, 5000, atol=4 * np.sqrt(20_000 * 3 / 16))
    assert pit[0] == pytest.approx(counts[0] + counts[1] + counts[2] / 2)


@pytest.mark.parametrize(("spread", "shape"), [(0.5, "u"), (2.0, "hump")])
def test_pit_shows_draws_too_narrow_and_too_wide(spread, shape):
    rng = RNG(2)
    draws, trials = spread * rng.standard_normal((50, 2000, 1)), rng.standard_normal((2000, 1, 1))
    pit = metrics.pit_histogram(metrics.trial_ranks(draws, trials), 50, n_bins=5)[:, 0]
    assert (pit[0] > 1.5 * pit[2]) == (shape == "u")
    assert (pit[2] > 1.5 * pit[0]) == (shape == "hump")


@pytest.mark.parametrize("n", [2, 7, 20, 200])
@pytest.mark.parametrize("level", [0.5, 0.9, 1.0])
def test_exchangeable_draws_cover_exactly_the_level(n, level):
    # Every rank is equally likely: the mean over ranks is the coverage in expectation.
    each = metrics.interval_coverage(np.arange(n + 1)[:, None], n, level)
    assert each.mean() == pytest.approx(level, abs=1e-12)
    np.testing.assert_allclose(each, each[::-1], atol=1e-12)  # central
    assert ((each >= 0) & (each <= 1 + 1e-12)).all()


def test_coverage_of_gaussian_draws_that_are_too_narrow():
    rng = RNG(3)
    draws, trials = rng.standard_normal((400, 5000, 1)), 2 * rng.standard_normal((5000, 1, 1))
    covered = metrics.interval_coverage(metrics.trial_ranks(draws, trials), 400, 0.9)
    expected = 2 * stats.norm.cdf(stats.norm.ppf(0.95) / 2) - 1
    # s.e. of a share of 5000, four of it; 400 draws move the interval by less than that.
    assert covered.mean() == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 5000))


def test_missing_trials_are_neither_covered_nor_counted():
    ranks = np.array([[[-1, 3]], [[2, 4]]])
    covered = metrics.interval_coverage(ranks, 4, 1.0)
    assert np.isnan(covered[0, 0, 0])
    assert np.isfinite(covered).sum() == 3
    assert metrics.rank_histogram(ranks, 4).tolist() == [[0, 0], [0, 0], [1, 0], [0, 1], [0, 1]]
    with pytest.raises(ValueError, match="level=90"):
        metrics.interval_coverage(ranks, 4, 90)


def test_variances_are_unbiased_for_few_draws():
    rng = RNG(4)
    sd, error = np.array([1.0, 3.0]), np.array([0.5, 2.0])
    n_images = 20_000
    truth = rng.standard_normal((n_images, 2))
    expected = truth + error * rng.standard_normal((n_images, 2))
    trials = truth[:, None] + sd * rng.standard_normal((n_images, 2, 2))
    trials[::3, 1] = np.nan
    total = np.sqrt(sd**2 + error**2)
    draws = expected + total * rng.standard_normal((3, n_images, 2))
    of_draws, of_trials = metrics.variances(draws, trials)
    # Relative s.e. of a variance of 20 000 images is 1 %; with 3 draws an uncorrected mean
    # would make the trials' 33 % too large.
    np.testing.assert_allclose(of_draws, total**2, rtol=0.04)
    np.testing.assert_allclose(of_trials, total**2, rtol=0.04)


def test_variance_agreement_of_a_line():
    trial = np.array([1.0, 2, 4, 8, np.nan])
    slope, r, ratio = metrics.variance_agreement(0.5 * trial + 1, trial)
    assert (slope, r) == (pytest.approx(0.5), pytest.approx(1))
    assert ratio == pytest.approx(np.mean([1.5, 1, 0.75, 0.625]))
    assert np.isnan(metrics.variance_agreement([1, 1], [1, 2])).all()
    assert np.isnan(metrics.variance_agreement([1, 1, 1], [1, 2, 3]).r)


def known_noise(n_images=4000, n_repeats=3):
    rng = RNG(5)
    loadings = rng.standard_normal((2, 8))
    covariance = loadings.T @ loadings + np.eye(8)
    signal = 5 * rng.standard_normal((n_images, 1, 1)) * np.ones(8)
    noise = rng.multivariate_normal(np.zeros(8), covariance, size=(n_images, n_repeats))
    sd = np.sqrt(np.diag(covariance))
    return signal + noise, covariance / sd / sd[:, None]


def test_noise_correlation_leaves_the_signal_out():
    betas, truth = known_noise()
    betas[::5, 2] = np.nan
    found = metrics.noise_correlation(betas)
    # 7200 degrees of freedom: s.e. .012. With the signal, all correlations would be near 1.
    np.testing.assert_allclose(found, truth, atol=0.05)
    assert metrics.noise_correlation_agreement(found, truth) > 0.99


def test_agreement_is_of_the_off_diagonals():
    rng = RNG(6)
    a, b = (np.corrcoef(rng.standard_normal((6, 9))) for _ in range(2))
    above = np.triu_indices(6, 1)
    wanted = np.corrcoef(a[above], b[above])[0, 1]
    assert metrics.noise_correlation_agreement(a, b) == pytest.approx(wanted)
    assert metrics.noise_correlation_agreement(a, a) == pytest.approx(1)
    assert np.isnan(metrics.noise_correlation_agreement(a, np.eye(6)))
    with pytest.raises(ValueError, match="square"):
        metrics.noise_correlation_agreement(a, b[:4])


@pytest.mark.parametrize("n_draws", [1, 4, 50])
def test_ceiling_of_draws_is_the_r_of_true_draws(n_draws):
    rng = RNG(7)
    n_images, n_trials, noise_sd = 60_000, 3, 1.5
    signal = rng.standard_normal(n_images)

    def mean_of(n):
        return signal + noise_sd * rng.standard_normal(n_images) / np.sqrt(n)

    r = np.corrcoef(mean_of(n_draws), mean_of(n_trials))[0, 1]
    ceiling = metrics.noise_ceiling_from_ncsnr([1 / noise_sd], n_trials=n_trials)
    of_draws = metrics.ceiling_of_draws(ceiling, n_draws)
    # s.e. of r is below 1 / √60 000 = .004.
    assert of_draws.values[0] == pytest.approx(r, abs=0.016)
    assert of_draws.space == "r"
    assert of_draws.values[0] < ceiling.to("r").values[0]
    with pytest.raises(ValueError, match="n_draws=0"):
        metrics.ceiling_of_draws(ceiling, 0)
