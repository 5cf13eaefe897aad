"""Shapes of residuals: recovered where they are known, left alone where they are normal."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, optimize, stats

import brainenc
from brainenc.noise.shape import NODES, _variance_slopes, fit_residual_shape


def counts(n_images=400, n_repeats=3, n_voxels=30, seed=0):
    """Skewed trials whose variance is exp(.8 · expected response) times that of the voxel."""
    rng = np.random.default_rng(seed)
    expected = rng.standard_normal((n_images, n_voxels)).astype(np.float32)
    sd = rng.uniform(0.5, 2, n_voxels)
    skewed = (rng.gamma(4, size=(n_images, n_repeats, n_voxels)) - 4) / 2
    trials = expected[:, None] + sd * np.exp(0.4 * expected[:, None]) * skewed
    average_sd = sd * np.exp(0.16)  # E exp(.8 x) = exp(.32)
    return expected, trials.astype(np.float32), average_sd


def test_skew_and_growing_variance_are_found():
    expected, trials, sd = counts(2000)
    trials[::7, 1] = np.nan
    shape = fit_residual_shape(trials, expected, lambda images: sd[None])
    truth = (stats.gamma(4).ppf(stats.norm.cdf(NODES)) - 4) / 2
    # 500 images of 3 trials per voxel, and 30 voxels pooled: the s.e. of a quantile averaged over
    # voxels is below .01 inside, .05 for the last node, where densities are low.
    np.testing.assert_allclose(shape.quantiles.mean(axis=1), truth, atol=0.08)
    assert np.abs(shape.quantiles.mean(axis=1) - NODES)[[0, -1]].min() > 0.5  # normal they are not
    # The s.e. of one voxel's slope is .04; shrinkage takes most of it.
    np.testing.assert_allclose(shape.slope, 0.8, atol=0.05)
    seen = np.clip(expected, shape.lowest, shape.highest)
    # The s.e. of a slope of .02 counts three times at three standard deviations.
    np.testing.assert_allclose(shape.relative_sd(expected), np.exp(0.4 * seen - 0.16), rtol=0.15)
    # Not extrapolated beyond what was seen.
    far = np.full((1, 30), 50.0)
    np.testing.assert_array_equal(shape.relative_sd(far)[0], shape.relative_sd(shape.highest))


@pytest.mark.parametrize("seed", range(5))
def test_normal_residuals_of_one_size_stay_normal(seed):
    rng = np.random.default_rng(seed)
    expected = rng.standard_normal((300, 40))
    shared = rng.standard_normal((300, 3, 2)) @ rng.standard_normal((2, 40))
    trials = expected[:, None] + shared + rng.standard_normal((300, 3, 40))
    sd = np.sqrt(np.square(trials - expected[:, None]).mean(axis=(0, 1)))
    assert fit_residual_shape(trials, expected, lambda images: sd[None]) is None


def test_few_images_say_nothing_of_the_shape():
    expected, trials, sd = counts(99)
    assert fit_residual_shape(trials, expected, lambda images: sd[None]) is None


def test_responses_that_never_vary_have_no_shape():
    encoder = brainenc.MeanEncoder().fit(np.zeros((120, 1), np.float32), np.ones((120, 2, 3)))
    assert encoder.residual_shape_ is None


def test_the_slope_is_of_maximum_likelihood():
    expected, trials, sd = counts(200, n_voxels=3)
    trials[:20, :, 1] = np.nan
    unit = (trials - expected[:, None]) / sd
    slopes, errors = _variance_slopes(unit, expected)
    for v in range(3):
        known = np.isfinite(unit[..., v])
        x, r = np.broadcast_to(expected[:, None, v], known.shape)[known], unit[..., v][known]

        def minus_log_likelihood(parameters, x=x, r=r):
            log_variance = parameters[0] + parameters[1] * x
            return np.sum(log_variance + r**2 * np.exp(-log_variance))

        best = optimize.minimize(minus_log_likelihood, [0, 0], tol=1e-10).x
        assert slopes[v] == pytest.approx(best[1], abs=1e-4)
    # Its spread over data sets is what it says: 20 × 3 slopes, whose s.d. is known to 9 %.
    many = [_variance_slopes((t - e[:, None]) / s, e)[0] for e, t, s in map(
        lambda seed: counts(200, n_voxels=3, seed=seed), range(20))]  # fmt: skip
    assert np.std(many) == pytest.approx(errors.mean(), rel=0.4)


@pytest.mark.parametrize("n_images", [150, 1000])
def test_slopes_are_shrunk_towards_each_other_as_far_as_they_are_unsure(n_images):
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((n_images, 40))
    truth = np.repeat([0.7, 0.1], 20)
    trials = expected[:, None] + rng.standard_normal((n_images, 1, 40)) * np.exp(
        truth / 2 * expected[:, None]
    )
    sd = (trials - expected[:, None]).std(axis=(0, 1))[None]
    shape = fit_residual_shape(trials, expected, lambda images: sd)
    apart = _variance_slopes((trials - expected[:, None]) / sd, expected)[0]
    together = np.full(40, apart.mean())
    error = {
        name: np.square(slope - truth).mean()
        for name, slope in (("ours", shape.slope), ("apart", apart), ("together", together))
    }
    # The s.e. of a slope is sqrt(2 / n_images), .12 or .045, and slopes differ by .3 from their
    # mean: shrunk as they should be they err by 7 % less of the variance, or by 1 %.
    assert error["ours"] < error["apart"] < error["together"]


def test_density_and_draws_are_of_one_distribution():
    expected, trials, sd = counts()
    shape = fit_residual_shape(trials, expected, lambda images: sd[None])
    grid = np.linspace(-40, 60, 200_001)
    for image, voxel in ((0, 0), (5, 7)):
        one = shape.select([voxel])
        around = expected[[image]][:, [voxel]]
        normal, log_slope = one.normal(grid[None, :, None], sd[[voxel]][None], around)
        density = stats.norm(scale=sd[voxel]).pdf(normal) * np.exp(log_slope)
        assert integrate.trapezoid(density[0, :, 0], grid) == pytest.approx(1, abs=1e-3)
        mean = integrate.trapezoid(density[0, :, 0] * grid, grid)
        variance = integrate.trapezoid(density[0, :, 0] * grid**2, grid) - mean**2
        size = sd[voxel] * one.relative_sd(around)[0, 0]
        # The quantiles are standardised; the lines between them are integrated in 401 steps.
        assert mean == pytest.approx(0, abs=0.01 * size)
        assert variance == pytest.approx(size**2, rel=0.02)
    residuals = trials[:4] - expected[:4, None]
    normal, _ = shape.normal(residuals, sd[None], expected[:4])
    back = shape.shape(np.swapaxes(normal, 0, 1).copy(), sd[None], expected[:4])
    np.testing.assert_allclose(np.swapaxes(back, 0, 1), residuals, rtol=1e-3, atol=1e-4)


def test_draws_of_an_encoder_rank_as_trials_do():
    """Of skewed trials of new images; normal draws of one size fail the same test."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((900, 6)).astype(np.float32)
    signal = X @ rng.standard_normal((6, 20)) / 3
    skewed = (rng.gamma(1, size=(900, 3, 20)) - 1) * np.exp(0.5 * signal[:, None])
    betas = (signal[:, None] + skewed).astype(np.float32)
    train, test = slice(600), slice(600, None)
    encoder = brainenc.RidgeEncoder(None).fit(X[train], betas[train])

    def unevenness():
        draws = encoder.sample(X[test], 200, 0)
        ranks = brainenc.metrics.trial_ranks(draws, betas[test])
        pit = brainenc.metrics.pit_histogram(ranks, 200, n_bins=10).sum(axis=1)
        return np.abs(pit / pit.mean() - 1).max(), draws

    off, draws = unevenness()
    # 1800 trials per bin of independent voxels: s.e. 2.4 %; the rest is the error of 600 images.
    assert off < 0.15
    assert draws.mean() == pytest.approx(encoder.predict(X[test]).mean(), abs=0.01)
    assert draws.var(axis=0).mean() == pytest.approx(
        np.square(encoder.trials_.sd(encoder.predict(X[test]))).mean(), rel=0.05
    )
    lower, upper = encoder.predict_interval(X[test], 0.9)
    inside = (betas[test] > lower[:, None]) & (betas[test] < upper[:, None])
    assert inside.mean() == pytest.approx(0.9, abs=0.02)
    below = (betas[test] < lower[:, None]).mean()
    assert below == pytest.approx(0.05, abs=0.02)  # a normal interval has nothing below
    encoder.trials_ = replace(encoder.trials_, shape=None)
    assert unevenness()[0] > 0.4


def test_it_is_saved_and_loaded(tmp_path):
    expected, trials, _ = counts(200)
    encoder = brainenc.RidgeEncoder(None).fit(expected, trials)
    assert encoder.residual_shape_ is not None
    again = brainenc.load(encoder.save(tmp_path / "ridge"))
    np.testing.assert_array_equal(again.sample(expected, 2, 0), encoder.sample(expected, 2, 0))


def test_voxels_without_data_stay_without():
    expected, trials, _ = counts(200)
    trials[..., 4] = np.nan
    encoder = brainenc.RidgeEncoder(None).fit(expected, trials)
    draws = encoder.sample(expected, 2, 0)
    assert encoder.residual_shape_ is not None
    assert np.isnan(draws[..., 4]).all()
    assert np.isfinite(np.delete(draws, 4, axis=2)).all()


def test_repeats_that_are_mostly_missing_do_not_hide_the_shape():
    expected, trials, sd = counts(400, 3)
    padded = np.full((400, 20, 30), np.nan, np.float32)
    padded[:, [2, 7, 11]] = trials
    whole = fit_residual_shape(trials, expected, lambda images: sd[None])
    shape = fit_residual_shape(padded, expected, lambda images: sd[None])
    np.testing.assert_allclose(shape.quantiles, whole.quantiles, rtol=1e-5)
    # 100 images are taken at least, however many trials these have.
    expected, trials, sd = counts(120, 20)
    assert fit_residual_shape(trials, expected, lambda images: sd[None]) is not None


@pytest.mark.parametrize(("gain", "offset"), [(1, 1000), (10, 1e4), (10, -1e4)])
def test_units_of_the_betas_do_not_matter(gain, offset):
    """Raw signals lie a thousand s.d. from 0, where exponentials of the prediction overflow."""
    expected, trials, sd = counts(400)
    moved = (gain * expected + offset).astype(np.float32)
    shape = fit_residual_shape(trials, expected, lambda images: sd[None])
    other = fit_residual_shape(
        (gain * trials + offset).astype(np.float32), moved, lambda images: gain * sd[None]
    )
    # float32 has seven digits, of which four are the offset.
    np.testing.assert_allclose(other.relative_sd(moved), shape.relative_sd(expected), rtol=5e-3)
    np.testing.assert_allclose(other.quantiles, shape.quantiles, atol=5e-3)


def test_a_voxel_with_a_trial_or_two_harms_no_other():
    expected, trials, sd = counts(3000, 2, n_voxels=800)
    taken = np.sort(np.random.default_rng(0).permutation(3000)[:750])  # 1500 trials, as `fit` does
    missed = np.setdiff1d(np.arange(3000), taken)[:20]
    for voxel, kept in ((1, [(taken[4], 0)]), (3, [(i, 1) for i in missed])):
        some = trials[tuple(np.transpose(kept))][:, voxel]
        trials[..., voxel] = np.nan
        trials[(*np.transpose(kept), voxel)] = some
    shape = fit_residual_shape(trials, expected, lambda images: sd[None])
    np.testing.assert_array_equal(shape.relative_sd(expected)[:, [1, 3]], 1)
    others = np.delete(np.arange(800), [1, 3])
    without = fit_residual_shape(
        trials[..., others], expected[:, others], lambda images: sd[None, others]
    )
    # Two of 800 voxels are missing in what is pooled.
    np.testing.assert_allclose(shape.quantiles[:, others], without.quantiles, atol=2e-3)
    np.testing.assert_allclose(shape.quantiles[:, 3], shape.quantiles.mean(axis=1), atol=0.05)


def test_voxels_count_by_their_trials_in_what_is_pooled():
    expected, trials, sd = counts(400)
    whole = fit_residual_shape(trials, expected, lambda images: sd[None])
    trials[:396, :, :20] = np.nan  # 4 images are left, of which no quantile is known
    shape = fit_residual_shape(trials, expected, lambda images: sd[None])
    # Pooled voxel by voxel, tails would be those of twelve trials for the most part.
    pooled = whole.quantiles.mean(axis=1)
    # Ten voxels are left of thirty: the s.e. of the last node is .08.
    np.testing.assert_allclose(shape.quantiles[:, :20].mean(axis=1), pooled, atol=0.2)


def test_a_voxel_that_never_varies_is_drawn_as_it_is():
    expected, trials, _ = counts(200)
    trials[..., 4] = 3
    encoder = brainenc.RidgeEncoder(None).fit(expected, trials)
    assert encoder.residual_shape_ is not None
    lower, upper = encoder.predict_interval(expected)
    for values in (encoder.sample(expected, 2, 0), lower, upper):
        np.testing.assert_allclose(values[..., 4], 3)
        assert np.isfinite(values).all()
