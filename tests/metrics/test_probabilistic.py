"""Proper scores against closed forms, and against scoringrules' own slow estimators."""

import numpy as np
import pytest
import scoringrules
from scipy import stats

from brainenc import metrics

RNG = np.random.default_rng


def gaps():
    """Few draws and trials, one repeat missing, one image without trials."""
    rng = RNG(0)
    draws = rng.standard_normal((21, 7, 5))
    trials = rng.standard_normal((7, 3, 5)) + 0.5
    trials[0, 1] = np.nan
    trials[4] = np.nan
    return draws, trials


def mean_over_trials(score, trials):
    each = np.ma.masked_invalid([score(trials[:, r]) for r in range(trials.shape[1])])
    return each.mean(axis=0).filled(np.nan)


@pytest.mark.parametrize("name", ["crps", "energy", "variogram"])
def test_scores_are_the_fair_ones_of_scoringrules(name):
    draws, trials = gaps()
    images_first = np.moveaxis(draws, 0, 1)
    pairs = metrics.random_pairs(np.arange(5), 100)
    ours, library = {
        "crps": (
            metrics.crps(draws, trials),
            lambda y: scoringrules.crps_ensemble(y, images_first, m_axis=1, estimator="fair"),
        ),
        "energy": (
            metrics.energy_score(draws, trials),
            lambda y: scoringrules.es_ensemble(y, images_first, estimator="fair"),
        ),
        "variogram": (
            metrics.variogram_score(draws, trials, pairs),
            # The library sums over ordered pairs: 20 of 5 voxels.
            lambda y: scoringrules.vs_ensemble(y, images_first, estimator="fair") / 20,
        ),
    }[name]
    np.testing.assert_allclose(ours, mean_over_trials(library, trials), rtol=1e-10)
    assert np.isnan(ours[4]).all()
    assert np.isfinite(np.delete(ours, 4, axis=0)).all()


def test_crps_of_few_draws_is_that_of_the_gaussian_they_come_from():
    rng = RNG(1)
    mean, sd = 0.3, 1.7
    trials = rng.standard_normal((40_000, 1, 1))
    draws = mean + sd * rng.standard_normal((2, 40_000, 1))
    closed = scoringrules.crps_normal(trials[:, 0, 0], mean, sd)
    difference = metrics.crps(draws, trials)[:, 0] - closed
    # Four standard errors; without the correction for two draws it would be off by sd / √π / 2.
    assert abs(difference.mean()) < 4 * difference.std() / 200
    assert 4 * difference.std() / 200 < 0.1 * sd / np.sqrt(np.pi) / 2


def test_expected_crps_of_two_gaussians():
    rng = RNG(2)
    draws, trials = rng.standard_normal((50, 20_000, 1)), rng.standard_normal((20_000, 1, 1))
    # E|x − y| − E|x − x'| / 2 = 2/√π − 1/√π for a standard normal on both sides.
    score = metrics.crps(draws, trials)
    assert score.mean() == pytest.approx(1 / np.sqrt(np.pi), abs=4 * score.std() / np.sqrt(20_000))


def test_energy_score_of_one_voxel_is_crps():
    draws, trials = gaps()
    np.testing.assert_allclose(
        metrics.energy_score(draws[..., :1], trials[..., :1]),
        metrics.crps(draws[..., :1], trials[..., :1])[:, 0],
        rtol=1e-10,
    )


def test_energy_score_of_many_independent_gaussians():
    rng = RNG(3)
    n_voxels = 400
    draws = (5 + rng.standard_normal((30, 200, n_voxels))).astype(np.float32)
    trials = (5 + rng.standard_normal((200, 2, n_voxels))).astype(np.float32)
    score = metrics.energy_score(draws, trials)
    # ‖x − y‖ is √2 times a chi variable: E‖x − y‖ / 2 is left.
    expected = stats.chi(n_voxels).mean() / np.sqrt(2)
    assert score.mean() == pytest.approx(expected, abs=4 * score.std() / np.sqrt(200))


def test_large_means_cost_no_digits():
    draws, trials = gaps()
    far = metrics.energy_score((draws + 1e4).astype(np.float32), (trials + 1e4).astype(np.float32))
    # float32 keeps steps of .001 at 1e4; squares of 1e4 would leave steps of 8.
    np.testing.assert_allclose(far, metrics.energy_score(draws, trials), atol=2e-3)


def test_energy_and_variogram_see_correlations_that_crps_does_not():
    rng = RNG(4)
    shared = 2 * rng.standard_normal((300, 2, 1))
    trials = shared + rng.standard_normal((300, 2, 10))
    right = 2 * rng.standard_normal((100, 300, 1)) + rng.standard_normal((100, 300, 10))
    wrong = np.sqrt(5) * rng.standard_normal((100, 300, 10))  # same variances, independent
    gap = metrics.crps(wrong, trials).mean(1) - metrics.crps(right, trials).mean(1)
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(300)
    pairs = metrics.random_pairs(np.arange(10))
    for score, arguments in ((metrics.energy_score, ()), (metrics.variogram_score, (pairs,))):
        gap = score(wrong, trials, *arguments) - score(right, trials, *arguments)
        assert gap.mean() > 6 * gap.std() / np.sqrt(300), score.__name__


def test_pattern_ranks_by_their_definition():
    draws, trials = gaps()
    ranks = metrics.pattern_ranks(draws, trials)
    for i, of_image in enumerate(trials):
        for j, trial in enumerate(of_image):
            if np.isnan(trial).any():
                assert ranks[i, j] == -1
                continue
            everyone = np.concatenate([[trial], draws[:, i]])
            apart = np.linalg.norm(everyone[:, None] - everyone, axis=2).sum(axis=1)
            assert ranks[i, j] == (apart[1:] < apart[0]).sum()


@pytest.mark.parametrize("wrong", ["nothing", "narrow", "wide", "independent"])
def test_pattern_ranks_tell_what_is_wrong(wrong):
    rng = RNG(11)

    def responses(n, spread=1.0, shared=True):
        common = rng.standard_normal((n, 500, 1 if shared else 20))
        return spread * (common + rng.standard_normal((n, 500, 20)))

    changed = {
        "narrow": {"spread": 0.8},
        "wide": {"spread": 1.25},
        "independent": {"shared": False},
    }
    draws = responses(19, **changed.get(wrong, {}))
    ranks = metrics.pattern_ranks(draws, np.moveaxis(responses(2), 0, 1))
    low, middle, high = np.histogram(ranks, bins=[0, 5, 15, 20])[0] / 1000
    # s.e. of a share of .25 among 1000: .014; allow four. Trials of an image count as one
    # another's equals here, for nothing but noise is in them.
    if wrong == "nothing":
        np.testing.assert_allclose([low, middle, high], [0.25, 0.5, 0.25], atol=0.06)
    assert (high > 0.35) == (wrong == "narrow")
    assert (low > 0.35) == (wrong in ("wide", "independent"))
    if wrong == "independent":  # which ranks voxel by voxel do not see
        assert middle < 0.3
        rank = metrics.trial_ranks(draws, np.moveaxis(responses(2), 0, 1))
        counts = np.histogram(rank, bins=[0, 5, 15, 20])[0] / rank.size
        np.testing.assert_allclose(counts, [0.25, 0.5, 0.25], atol=0.03)


def test_random_pairs_are_different_voxels_each_once():
    pairs = metrics.random_pairs([3, 5, 8, 9], 100)
    assert sorted(map(tuple, np.sort(pairs, axis=1))) == [
        (3, 5), (3, 8), (3, 9), (5, 8), (5, 9), (8, 9)
    ]  # fmt: skip
    many = metrics.random_pairs(np.arange(1000), 400, random_state=1)
    assert len({tuple(sorted(pair)) for pair in many}) == 400
    assert (many[:, 0] != many[:, 1]).all()
    np.testing.assert_array_equal(many, metrics.random_pairs(np.arange(1000), 400, random_state=1))
    # Mean position of 800 uniform positions: s.e. 289 / √800 = 10.
    assert many.mean() == pytest.approx(499.5, abs=40)


@pytest.mark.parametrize("n_factors", [0, 3, 9])
def test_log_score_is_that_of_scipy(n_factors):
    rng = RNG(5)
    mean, factors = rng.standard_normal((7, 5)), rng.standard_normal((n_factors, 5))
    sd = rng.uniform(0.5, 2, 5)
    _, trials = gaps()
    covariance = factors.T @ factors + np.diag(sd**2)
    each = -np.array(
        [[stats.multivariate_normal(m, covariance).logpdf(y) for y in row]
         for m, row in zip(mean, np.nan_to_num(trials), strict=True)]
    )  # fmt: skip
    wanted = np.where(np.isfinite(trials[..., 0]), each, np.nan)
    wanted = np.ma.masked_invalid(wanted).mean(axis=1).filled(np.nan)
    density = metrics.gaussian_log_density(trials - mean[:, None], factors, sd)
    np.testing.assert_allclose(metrics.log_score(density), wanted)


def test_without_private_noise_there_is_no_density():
    _, trials = gaps()
    sd = np.array([1.0, 1, 0, 1, 1])
    density = metrics.gaussian_log_density(trials, np.ones((1, 5)), sd)
    assert np.isnan(density).all()
    assert np.isnan(metrics.log_score(density)).all()


def test_nan_draws_score_nan_in_their_voxel():
    draws, trials = gaps()
    draws[3, 1, 2] = np.nan
    score = metrics.crps(draws, trials)
    assert np.isnan(score[1, 2])
    assert np.isfinite(score[1, [0, 1, 3, 4]]).all()
    assert np.isnan(metrics.energy_score(draws, trials)[1])


def test_blocks_do_not_change_scores(monkeypatch):
    draws, trials = gaps()
    whole = metrics.crps(draws, trials), metrics.trial_ranks(draws, trials)
    monkeypatch.setattr("brainenc.metrics.probabilistic._BLOCK_VALUES", 2 * 21 * 5)
    monkeypatch.setattr("brainenc.metrics.probabilistic._CACHED_VALUES", 3 * 21)
    np.testing.assert_array_equal(metrics.crps(draws, trials), whole[0])
    np.testing.assert_array_equal(metrics.trial_ranks(draws, trials), whole[1])


def test_errors_name_shapes():
    draws, trials = gaps()
    with pytest.raises(ValueError, match=r"draws \(1, 7, 5\)"):
        metrics.crps(draws[:1], trials)
    with pytest.raises(ValueError, match=r"trials \(7, 5\) .* betas\[:, None\]"):
        metrics.energy_score(draws, trials[:, 0])
    with pytest.raises(ValueError, match=r"trials \(7, 3, 4\)"):
        metrics.variogram_score(draws, trials[..., :4], [[0, 1]])
