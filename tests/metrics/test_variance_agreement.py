"""Slope of the variance of draws on that of trials: pair by pair, and where the truth is known."""

import numpy as np
import pytest
from scipy import stats

from brainenc import metrics
from brainenc.metrics import _variance_sums
from brainenc.metrics._jackknife import jackknife
from brainenc.metrics.variances import mean_square_deviations

RNG = np.random.default_rng


def pair_by_pair(drawn, trials, folds):
    """Mean over pairs of rows of one fold: covariance with draws, and with each other."""
    rows = range(len(trials))
    pairs = [(i, j) for i in rows for j in rows if i != j and folds[i] == folds[j]]
    return np.mean(
        [
            (np.cov(drawn[folds[i]], trials[i])[0, 1], np.cov(trials[i], trials[j])[0, 1])
            for i, j in pairs
        ],
        axis=0,
    )


@pytest.mark.parametrize("repeated", [False, True])
def test_against_a_loop_over_pairs_of_images(repeated, monkeypatch):
    rng = RNG(0)
    true = rng.gamma(2, size=30)
    trials = true * rng.gamma(3, size=(7, 30))
    drawn = true + 0.5 * rng.standard_normal((2, 30))
    folds = np.array([0, 0, 1, 1, 1, 0, 1])
    images = np.array([4, 1, 1, 0, 3, 2, 2]) if repeated else np.arange(7)
    monkeypatch.setattr(_variance_sums, "_BLOCK_VALUES", 7 * 4)  # blocks of 4 voxels, and a rest
    found = metrics.variance_agreement(drawn, trials, folds=folds, images=images)

    num, den = pair_by_pair(drawn, trials, folds)
    kept = [images != image for image in np.unique(images)]
    without = np.array([pair_by_pair(drawn, trials[k], folds[k]) for k in kept]).T
    n = len(kept)
    covariance = (n - 1) * np.cov(without, ddof=0)
    slope = num / den * (1 + covariance[0, 1] / num / den) / (1 + covariance[1, 1] / den**2)
    assert found.slope.value == pytest.approx(slope)
    se = np.sqrt((n - 1) * np.var(without[0] / without[1]))
    assert found.slope.se == pytest.approx(se)
    assert found.slope.high - slope == pytest.approx(stats.t.ppf(0.975, n - 1) * se)

    weights = np.array([3 * 2, 4 * 3]) / 18  # pairs of a fold
    assert found.r.value == pytest.approx(num / np.sqrt(weights @ drawn.var(1, ddof=1) * den))
    measured = [trials[folds == fold].mean(axis=0).var(ddof=1) for fold in (0, 1)]
    assert found.reliability == pytest.approx(den / (weights @ measured))
    assert found.ratio == pytest.approx(np.mean(drawn[folds].mean(axis=0) / trials.mean(axis=0)))


def known_variances(rng, cv, n_voxels=200):
    """True variances, and how to measure them on images: correlated over voxels and repeats."""
    variance = np.exp(cv * rng.standard_normal(n_voxels))
    loadings = rng.standard_normal((2, 5, n_voxels))
    loadings *= np.sqrt(0.4 / np.square(loadings).sum(axis=1, keepdims=True))

    def correlated(shape, of_part):
        shared = rng.standard_normal((*shape, 5)) @ of_part
        return shared + np.sqrt(0.6) * rng.standard_normal((*shape, n_voxels))

    def measure(n_images, n_repeats=3, missing=0.0):
        error = np.sqrt(0.4 * variance) * correlated((n_images, 1), loadings[0])
        residuals = error + np.sqrt(0.6 * variance) * correlated((n_images, n_repeats), loadings[1])
        residuals[:, 1:][rng.random((n_images, n_repeats - 1)) < missing] = np.nan
        centre = np.zeros((n_images, n_voxels))
        return mean_square_deviations(centre, residuals)

    return variance, measure


# 400 test sets each. The s.e. of a mean slope is below .01 (s.d. .08 and .13) and of a coverage of
# 95 % 1.1 points. A jackknife of products of pairs counts their scatter twice: it may cover more.
@pytest.mark.parametrize(
    ("cv", "missing", "attenuated"), [(0.6, 0.0, 0.9), (0.6, 0.4, 0.9), (0.25, 0.0, 0.62)]
)
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_few_images_give_the_true_slope_and_intervals_that_cover_it(cv, missing, attenuated, gain):
    rng = RNG(1)
    variance, measure = known_variances(rng, cv)
    drawn = gain * variance + 0.3 * variance.std() * rng.standard_normal(len(variance))
    slope, r = stats.linregress(variance, drawn)[:3:2]
    measured = [measure(20, missing=missing) for _ in range(400)]
    found = [metrics.variance_agreement(drawn, trials) for trials in measured]
    assert np.mean([f.slope.value for f in found]) == pytest.approx(slope, abs=0.03 * gain)
    assert np.mean([f.r.value for f in found]) == pytest.approx(r, abs=0.02)
    covered = np.mean([f.slope.low < slope < f.slope.high for f in found])
    assert 0.93 <= covered <= 1  # found: .95 to .99
    assert 0.93 <= np.mean([f.r.low < r < f.r.high for f in found]) <= 1
    # What they are there for: the slope on what was measured is too low.
    plain = [stats.linregress(trials.mean(axis=0), drawn).slope for trials in measured]
    assert np.mean(plain) < attenuated * slope
    reliability = np.mean([f.reliability for f in found])
    assert np.mean(plain) / slope == pytest.approx(reliability, abs=0.05)


def test_a_few_draws_of_a_perfect_model_have_slope_one():
    rng = RNG(9)
    sd = np.exp(0.3 * rng.standard_normal(100))
    slopes = []
    for _ in range(100):
        draws, error = sd * rng.standard_normal((10, 20, 100)), sd * rng.standard_normal((20, 100))
        trials = 0.6 * error[:, None] + 0.8 * sd * rng.standard_normal((20, 2, 100))
        slopes.append(metrics.variance_agreement(*metrics.variances(draws, trials)).slope.value)
    # s.e. .01. Were the scatter of the mean of 10 draws left in, it would be 1 / 1.1.
    assert np.mean(slopes) == pytest.approx(1, abs=0.04)


def test_with_many_images_nothing_is_left_to_correct():
    rng = RNG(2)
    variance, measure = known_variances(rng, 0.6)
    trials = measure(2000)
    found = metrics.variance_agreement(variance, trials)
    plain = stats.linregress(trials.mean(axis=0), variance)
    assert found.slope.value == pytest.approx(plain.slope, abs=0.005)
    assert found.r.value == pytest.approx(plain.rvalue, abs=0.002)
    assert found.reliability > 0.99
    assert found.slope.high - found.slope.low < 0.05


def test_draws_and_fits_learnt_from_other_folds_gain_nothing_by_it():
    rng = RNG(3)
    variance, measure = known_variances(rng, 0.4)
    folds = np.arange(30) % 3
    own, pooled = [], []
    for _ in range(200):
        trials = measure(30)
        drawn = np.stack([trials[folds != fold].mean(axis=0) for fold in range(3)])
        own.append(metrics.variance_agreement(drawn, trials, folds=folds).slope.value)
        pooled.append(metrics.variance_agreement(drawn.mean(axis=0), trials).slope.value)
    # What was learnt on other images is right on average; s.e. .01.
    assert np.mean(own) == pytest.approx(1, abs=0.04)
    assert np.mean(pooled) > 1.15

    # Residuals around the mean of the images of the other folds: that of an image is in those of
    # other folds, which agree with it for that reason. True variances are known, so slope 1.
    sd, slopes = np.sqrt(variance), []
    for _ in range(200):
        y = sd * rng.standard_normal((12, len(sd)))
        means = np.stack([y[folds[:12] != fold].mean(axis=0) for fold in range(3)])
        error = np.square(means)  # of the fit: what is expected is 0
        trials, known = np.square(y - means[folds[:12]]), variance + error
        slopes.append(metrics.variance_agreement(known, trials, folds=folds[:12]).slope.value)
    assert np.nanmean(slopes) == pytest.approx(1, abs=0.06)


def test_where_images_do_not_agree_the_data_cannot_tell():
    trials = np.array([[1.0, 2, 3], [3, 2, 1], [2, 3, 1]])
    found = metrics.variance_agreement([1.0, 2, 3], trials)
    assert found.reliability < 0
    assert np.isnan([*found.slope, *found.r]).all()
    assert found.ratio == pytest.approx(np.mean([1, 2, 3] / trials.mean(axis=0)))
    # Variances that are all the same: half of the test sets say that there is nothing to know.
    rng = RNG(4)
    _, measure = known_variances(rng, 0.0)
    drawn = rng.gamma(2, size=200)
    found = [metrics.variance_agreement(drawn, measure(20)) for _ in range(100)]
    unknown = np.mean([np.isnan(f.slope.value) for f in found])
    assert 0.3 < unknown < 0.8
    known = [f.slope for f in found if np.isfinite(f.slope.value)]
    # The true slope is infinite or none: an interval that leaves 0 out would be chance.
    assert np.mean([s.low > 0 or s.high < 0 for s in known]) < 0.15


def test_voxels_and_images_without_trials_are_left_out():
    rng = RNG(5)
    variance, measure = known_variances(rng, 0.6, n_voxels=40)
    trials = measure(30)
    wanted = metrics.variance_agreement(variance[4:], trials[:, 4:])
    trials[:, 0], trials[:, 1] = np.nan, 0
    drawn = variance.copy()
    drawn[2:4] = np.nan
    found = metrics.variance_agreement(drawn, trials)
    np.testing.assert_allclose(np.hstack(found[:2]), np.hstack(wanted[:2]), rtol=1e-10)
    # An image that is there in no voxel changes next to nothing.
    more = np.concatenate([trials, np.full((1, 40), np.nan)])
    again = metrics.variance_agreement(drawn, more)
    np.testing.assert_allclose(again.slope, found.slope, rtol=0.02)
    assert again.ratio == pytest.approx(found.ratio)


def test_constant_draws_and_too_few_voxels_or_images():
    rng = RNG(6)
    variance, measure = known_variances(rng, 0.6, n_voxels=40)
    trials = measure(20)
    constant = metrics.variance_agreement(np.ones(40), trials)
    assert constant.slope.value == pytest.approx(0, abs=1e-12)
    assert np.isnan(constant.r).all()
    for few in (trials[:, :2], trials[:2]):
        found = metrics.variance_agreement(variance[: few.shape[1]], few)
        assert np.isnan([*found.slope, *found.r]).all()
    alone = metrics.variance_agreement(np.tile(variance, (20, 1)), trials, folds=np.arange(20))
    assert np.isnan([*alone.slope, *alone.r, alone.reliability]).all()
    none = metrics.variance_agreement(np.full(40, np.nan), trials)
    assert np.isnan([*none.slope, *none.r, none.ratio, none.reliability]).all()


def test_a_memory_map_is_read_some_voxels_at_a_time(tmp_path, monkeypatch):
    rng = RNG(7)
    variance, measure = known_variances(rng, 0.6)
    trials = measure(20).astype(np.float32)
    np.save(tmp_path / "trials.npy", trials)
    wanted = metrics.variance_agreement(variance, trials)
    sizes = []
    defined = _variance_sums._defined
    monkeypatch.setattr(_variance_sums, "_BLOCK_VALUES", 20 * 16)
    monkeypatch.setattr(
        _variance_sums, "_defined", lambda d, t: sizes.append(t.shape) or defined(d, t)
    )
    mapped = np.load(tmp_path / "trials.npy", mmap_mode="r")
    found = metrics.variance_agreement(variance, mapped)
    assert set(sizes) == {(20, 16), (20, 8)}
    np.testing.assert_allclose(found.slope, wanted.slope, rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(3), np.ones((4, 5))), r"draw_variance \(1, 3\) and trial_variance \(4, 5\)"),
        ((np.ones(5), np.ones(5)), r"trial_variance \(5,\)"),
        ((np.ones((2, 5)), np.ones((4, 5))), "2 rows: give folds"),
    ],
)
def test_shapes_that_do_not_match(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.variance_agreement(*arguments)
    with pytest.raises(ValueError, match=r"folds \(3,\) must have one number per image, 4"):
        metrics.variance_agreement(np.ones((2, 5)), np.ones((4, 5)), folds=[0, 1, 1])


# ---------------------------------------------------------------- jackknife


def test_jackknife_of_a_mean_is_the_t_interval():
    x = RNG(8).gamma(1, size=15)
    found = jackknife(x.mean(), (x.sum() - x) / 14)
    assert found.se == pytest.approx(stats.sem(x))
    assert found[2:] == pytest.approx(stats.t.interval(0.95, 14, x.mean(), stats.sem(x)))
    assert np.isnan(jackknife(1.0, np.array([1.0, 2]))[1:]).all()
    assert np.isnan(jackknife(np.nan, x)).all()
