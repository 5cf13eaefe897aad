"""Ranks, coverage, variances and noise correlations of draws whose distribution is known."""

import numpy as np
import pytest
from scipy import stats

from brainenc import metrics
from brainenc.metrics.noise_correlations import correlation_of

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
    trials[1] = np.nan
    total = np.sqrt(sd**2 + error**2)
    draws = expected + total * rng.standard_normal((3, n_images, 2))
    of_draws, of_trials = metrics.variances(draws, trials)
    # Relative s.e. of a variance of 20 000 images is 1 %; with 3 draws an uncorrected mean
    # would make the trials' 33 % too large.
    np.testing.assert_allclose(of_draws, total**2, rtol=0.04)
    assert of_trials.shape == (n_images, 2)
    assert np.isnan(of_trials[1]).all()
    np.testing.assert_allclose(np.nanmean(of_trials, axis=0), total**2, rtol=0.04)
    centre, without = draws.mean(axis=0), of_draws / 3
    wanted = np.square(trials[2] - centre[2]).mean(axis=0) - without
    np.testing.assert_allclose(of_trials[2], wanted)
    np.testing.assert_allclose(of_trials[0], np.square(trials[0, 0] - centre[0]) - without)


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


@pytest.mark.parametrize("n_images", [12, 130])
def test_agreement_with_repeats_without_each_image_or_group(n_images):
    betas, truth = known_noise(n_images)
    betas[::5, 2] = np.nan
    betas[3, 1:] = np.nan  # has no repeats, and is no image of the jackknife
    found = metrics.agreement_with_repeats(truth, betas)
    whole = metrics.noise_correlation_agreement(truth, metrics.noise_correlation(betas))
    assert found.value == pytest.approx(whole)
    rows = np.delete(np.arange(n_images), 3)
    n = min(100, n_images - 1)
    group = np.arange(len(rows)) % n
    without = [metrics.noise_correlation(betas[rows[group != g]]) for g in range(n)]
    left = np.array([metrics.noise_correlation_agreement(truth, w) for w in without])
    assert found.se == pytest.approx(np.sqrt((n - 1) * left.var()))
    # The same image tested twice is one image.
    twice = metrics.agreement_with_repeats(
        truth, np.concatenate([betas, betas]), images=np.tile(np.arange(n_images), 2)
    )
    assert twice == pytest.approx(found)
    assert np.isnan(metrics.agreement_with_repeats(truth, betas[:, :1])).all()


def test_intervals_of_agreement_hold_what_other_images_give():
    rng = RNG(8)
    loadings = 0.6 * rng.standard_normal((3, 25))
    covariance = loadings.T @ loadings + np.eye(25)
    truth = correlation_of(covariance)
    factor = np.linalg.cholesky(covariance).T
    found = [
        metrics.agreement_with_repeats(truth, rng.standard_normal((20, 3, 25)) @ factor)
        for _ in range(200)
    ]
    expected = np.mean([f.value for f in found])
    assert expected < 0.95  # few repeats
    # s.e. of a coverage of 200: 1.5 points. That of a percentile bootstrap is below 50 %.
    assert 0.91 <= np.mean([f.low < expected < f.high for f in found]) <= 0.99


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
