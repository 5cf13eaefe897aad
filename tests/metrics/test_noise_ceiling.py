import numpy as np
import pytest
from references import variance_components as slow_variance_components

from brainenc.metrics import (
    NoiseCeiling,
    correlation,
    ncsnr_from_repeats,
    noise_ceiling_from_ncsnr,
    noise_ceiling_from_repeats,
    noise_ceiling_split_half,
    sums,
    variance_components,
)
from brainenc.repeats import average_repeats


@pytest.fixture(autouse=True, params=[2**23, 1], ids=["as small arrays", "as large arrays"])
def large(request, monkeypatch):
    """Whether arrays are summed by matrix products or by compiled code."""
    monkeypatch.setattr(sums, "_LARGE", request.param)


ESTIMATORS = {
    "repeats": lambda betas, **options: noise_ceiling_from_repeats(betas, **options).to("r2"),
    "split half": lambda betas, **options: noise_ceiling_split_half(
        betas, n_splits=options.pop("n_splits", 10), **options
    ).to("r2"),
}


def simulate(n_images, n_voxels, ncsnr, *, n_repeats=3, missing=0.0, seed=0, mean=5.0):
    """Signal (n_images, n_voxels) of variance ncsnr² and single trials with noise of variance 1."""
    rng = np.random.default_rng(seed)
    signal = ncsnr * rng.standard_normal((n_images, n_voxels))
    betas = mean + signal[:, None] + rng.standard_normal((n_images, n_repeats, n_voxels))
    lost = rng.random((n_images, n_repeats)) < missing  # of all voxels, as in fMRI
    betas[lost] = np.nan
    return signal, betas


def effective_trials(betas):
    n = np.isfinite(betas[:, :, 0]).sum(axis=1)
    return 1 / np.mean(1 / n[n > 0])


# --- ncsnr and the variance components behind it


@pytest.mark.parametrize("missing", [0, 0.3])
def test_ncsnr_is_the_textbook_analysis_of_variance(missing):
    _, betas = simulate(40, 6, 0.8, missing=missing)
    betas[np.random.default_rng(1).random(betas.shape) < missing] = np.nan  # per voxel, too
    wanted = []
    for voxel in np.moveaxis(betas, 2, 0):
        signal, noise = slow_variance_components([row[np.isfinite(row)] for row in voxel])
        wanted.append(np.sqrt(max(signal, 0) / noise))
    # The same sums in another order.
    np.testing.assert_allclose(ncsnr_from_repeats(betas), wanted, rtol=1e-9)


def test_ncsnr_with_even_repeats_is_the_nsd_formula_up_to_its_known_factor():
    _, betas = simulate(50, 6, 1.0)
    n = 50 * 3
    noise = betas.var(axis=1, ddof=1).mean(axis=0)
    total = betas.reshape(n, 6).var(axis=0, ddof=1)
    wanted = np.sqrt((total - noise) * (n - 1) / (n - 3) / noise)
    np.testing.assert_allclose(ncsnr_from_repeats(betas), wanted, rtol=1e-9)


def test_signal_variance_is_unbiased_where_a_third_of_the_trials_is_missing():
    _, betas = simulate(30, 20_000, 0.5, missing=0.35)
    components = variance_components.variance_components(betas, np.ones((1, 30)))
    signal, noise = components.signal[0], components.noise[0]
    for estimate, truth in ((signal, 0.25), (noise, 1.0)):
        assert abs(estimate.mean() - truth) < 4 * estimate.std() / np.sqrt(20_000)


@pytest.mark.parametrize("missing", [0, 0.01, 0.3])
@pytest.mark.parametrize("size", [1e-25, 1, 1e25])
def test_float32_betas_give_the_ncsnr_of_float64(missing, size):
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((700, 1, 6)) + rng.standard_normal((700, 3, 6)) + 5
    betas[rng.random(betas.shape) < missing] = np.nan
    betas[:, :, 2] = np.nan
    betas[0, 0, 3] = 1000
    betas = (size * betas).astype(np.float32)
    wanted = ncsnr_from_repeats(betas.astype(np.float64))
    np.testing.assert_allclose(ncsnr_from_repeats(betas), wanted, rtol=1e-10)


def test_an_odd_number_of_images_and_repeats_beyond_a_block_of_voxels():
    _, betas = simulate(31, 2500, 0.7, missing=0.2)
    betas = np.concatenate([betas, betas[:, :2] + 0.1], axis=1)
    few = ncsnr_from_repeats(betas[..., -3:])
    np.testing.assert_allclose(ncsnr_from_repeats(betas)[-3:], few, rtol=1e-9)


def test_one_infinite_beta_is_refused():
    betas = np.random.default_rng(0).standard_normal((90, 3, 4), dtype=np.float32)
    betas[70, 1, 2] = np.inf
    with pytest.raises(ValueError, match="infinite"):
        noise_ceiling_from_repeats(betas)


def test_float32_betas_far_from_zero_give_the_ncsnr_of_float64():
    _, betas = simulate(200, 5, 0.7, mean=1000.0)
    wanted = ncsnr_from_repeats(betas)
    # float32 holds values near 1000 to 3e-5; the noise s.d. is 1.
    np.testing.assert_allclose(ncsnr_from_repeats(betas.astype(np.float32)), wanted, rtol=1e-4)


def test_undefined_voxels_are_nan_and_the_others_unharmed():
    _, betas = simulate(30, 6, 1.0)
    wanted = ncsnr_from_repeats(betas)
    betas[:, :, 0] = 0.1  # constant
    betas[:, :, 1] = np.nan  # no data
    betas[:, 1:, 2] = np.nan  # no repeats
    betas[1:, :, 3] = np.nan  # one image
    undefined = [True, True, True, True, False, False]
    for found in (
        ncsnr_from_repeats(betas),
        noise_ceiling_from_repeats(betas).values,
        noise_ceiling_split_half(betas, n_splits=3).values,
    ):
        assert np.isnan(found).tolist() == undefined
    np.testing.assert_allclose(ncsnr_from_repeats(betas)[4:], wanted[4:], rtol=1e-12)
    assert np.isnan(ncsnr_from_repeats(betas[:, 0])).all()


def test_trials_without_noise_have_a_ceiling_of_one():
    signal, _ = simulate(30, 4, 1.0)
    betas = np.repeat(signal[:, None], 3, axis=1)
    assert (ncsnr_from_repeats(betas) > 1e10).all()  # or infinite: (a + a + a) / 3 may not be a
    np.testing.assert_allclose(noise_ceiling_from_repeats(betas).values, 1, rtol=1e-12)
    np.testing.assert_allclose(noise_ceiling_split_half(betas, n_splits=3).values, 1, rtol=1e-12)
    assert noise_ceiling_from_ncsnr([np.inf], 1).values == 1


# --- the ceiling is what a perfect model gets


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("n_repeats", "missing"), [(2, 0), (3, 0), (3, 0.3), (7, 0.4)])
def test_a_perfect_model_reaches_the_ceiling(estimator, n_repeats, missing):
    """Faults this would find: Spearman–Brown for equal halves on odd numbers of trials, a
    reliability squared again, 1/mean(n) in place of mean(1/n), single trials counted as averages.
    """
    ncsnr = np.linspace(0.3, 1.2, 40)
    signal, betas = simulate(6000, 40, ncsnr, n_repeats=n_repeats, missing=missing)
    averages = average_repeats(betas)
    ceiling = ESTIMATORS[estimator](betas)
    perfect = correlation(signal, averages) ** 2
    n = effective_trials(betas)
    truth = ncsnr**2 / (ncsnr**2 + 1 / n)
    assert ceiling.n_trials == pytest.approx(n)
    # s.e. of r² of one voxel is 2r(1-r²)/sqrt(6000) <= .010, of the mean of 40 voxels .0016, and
    # no more for a ceiling; allow four of the difference.
    assert abs((ceiling.values - truth).mean()) < 0.0065
    assert abs((ceiling.values - perfect).mean()) < 0.009
    assert np.abs(ceiling.values - truth).max() < 0.05
    # In r space, normalised scores of the perfect model are 1; r / ncsnr is nothing of the kind.
    r = correlation(signal, averages)
    assert abs(ceiling.to("r").normalize(r, space="r").mean() - 1) < 0.009
    assert np.abs(r / ncsnr - 1).max() > 0.2


def test_a_reliability_is_an_r2_and_is_not_squared_again():
    signal, betas = simulate(20_000, 10, 0.5, n_repeats=4)
    reliability = noise_ceiling_split_half(betas, n_splits=5, space="r2").values.mean()
    perfect_r2 = (correlation(signal, average_repeats(betas)) ** 2).mean()
    # s.e. .002 each; its square would be .25 and its root .71.
    assert abs(reliability - perfect_r2) < 0.012
    assert abs(reliability - 0.5) < 0.012


def test_two_repeats_are_spearman_browns_formula():
    r = np.array([0.0, 0.2, 0.9])
    ratio = variance_components._signal_to_noise(r, np.ones(3), np.ones(3))
    found = variance_components.reliability_of_average(ratio, 2.0)
    np.testing.assert_allclose(found, 2 * r / (1 + r), rtol=1e-12)


def test_split_halves_of_voxels_that_miss_other_trials_are_those_of_each_voxel_alone():
    _, betas = simulate(60, 5, 1.0, n_repeats=5)
    betas[np.random.default_rng(2).random(betas.shape) < 0.3] = np.nan
    together = noise_ceiling_split_half(betas, n_splits=4)
    alone = [noise_ceiling_split_half(betas[:, :, [v]], n_splits=4) for v in range(5)]
    np.testing.assert_allclose(together.values, [c.values[0] for c in alone], rtol=1e-12)
    np.testing.assert_allclose(together.n_trials, [c.n_trials for c in alone], rtol=1e-12)


def test_split_halves_are_the_same_in_all_blocks_of_voxels(monkeypatch):
    _, betas = simulate(60, 5, 1.0)
    whole = noise_ceiling_split_half(betas, n_splits=4).values
    monkeypatch.setattr(variance_components, "_SPLIT_ENTRIES", 60 * 3 * 2)
    np.testing.assert_allclose(
        noise_ceiling_split_half(betas, n_splits=4).values, whole, rtol=1e-12
    )


def test_a_half_never_holds_a_trial_of_the_other():
    # Trials of pure noise: halves that shared a trial would correlate.
    _, betas = simulate(4000, 50, 0.0, n_repeats=5, missing=0.2)
    present = np.isfinite(betas)
    betas = np.where(present, betas, 0)
    keys = np.random.default_rng(3).random((4000, 5))
    r = variance_components._half_correlation(
        betas - 5 * present, present, keys, np.ones((1, 4000))
    )
    # s.e. of each r is 1 / sqrt(4000) = .016, of their mean .0022.
    assert abs(r.mean()) < 0.009


# --- faults of public toolboxes


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_voxels_of_pure_noise_never_score_100_percent(estimator):
    _, betas = simulate(100, 200, 0.0)
    ceiling = ESTIMATORS[estimator](betas)
    zero = ceiling.values == 0
    assert 0.3 < zero.mean() < 0.7  # the estimate is above 0 as often as below
    normalized = ceiling.normalize(np.full(200, 0.01), space="r2")
    assert np.isnan(normalized[zero]).all()
    assert np.isfinite(normalized[~zero]).all()


def test_a_ceiling_of_zero_or_nan_normalizes_to_nan_and_nothing_is_clipped():
    ceiling = noise_ceiling_from_ncsnr([0, np.nan, 1.0], n_trials=1)
    assert ceiling.values.tolist()[0] == 0
    found = ceiling.normalize([0.0, 0.3, 0.9], space="r2")
    np.testing.assert_array_equal(found, [np.nan, np.nan, 1.8])
    assert ceiling.normalize([0, 0, -0.5], space="r2")[2] == -1


def test_ncsnr_does_not_pass_for_a_ceiling():
    with pytest.raises(
        ValueError, match=r"values has 1.4, outside 0 … 1.*noise_ceiling_from_ncsnr"
    ):
        NoiseCeiling(np.array([0.3, 1.4]), "r", 3, "ncsnr")


# --- intervals


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_intervals_cover_the_truth_as_often_as_they_say(estimator):
    ncsnr = 0.8
    _, betas = simulate(120, 2000, ncsnr, missing=0.1)
    options = {"n_splits": 4} if estimator == "split half" else {}
    ceiling = ESTIMATORS[estimator](betas, n_bootstraps=200, confidence=0.9, **options)
    low, high = ceiling.interval
    truth = ncsnr**2 / (ncsnr**2 + 1 / effective_trials(betas))
    coverage = np.mean((low <= truth) & (truth <= high))
    # s.e. sqrt(.9 · .1 / 2000) = .0067, allow four; percentile intervals of 120 images fall .01
    # short.
    assert 0.863 < coverage < 0.927
    assert ((low <= ceiling.values) & (ceiling.values <= high)).mean() > 0.98


def test_interval_changes_space_with_the_values():
    _, betas = simulate(50, 8, 0.8)
    # The limits of 41 resamples at 95 % are the second and the last but one: nothing is
    # interpolated, so that it is the same before and after the map.
    ceiling = noise_ceiling_from_repeats(betas, n_bootstraps=41)
    np.testing.assert_allclose(ceiling.to("r").interval, np.sqrt(ceiling.interval), rtol=1e-12)
    single = noise_ceiling_from_repeats(betas, n_bootstraps=41, n_trials=1)
    np.testing.assert_allclose(
        ceiling.with_n_trials(1).interval, single.interval, rtol=1e-9, atol=1e-12
    )
    assert noise_ceiling_from_repeats(betas).interval is None


def test_bootstraps_are_literal_resamples_of_images():
    _, betas = simulate(40, 5, 0.8, missing=0.2)
    counts = np.random.default_rng(4).multinomial(40, np.full(40, 1 / 40), size=3).astype(float)
    found = variance_components.variance_components(betas, counts)
    for i, row in enumerate(counts):
        resampled = np.repeat(betas, row.astype(int), axis=0)
        wanted = variance_components.variance_components(resampled, np.ones((1, 40)))
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours[i], theirs[0], rtol=1e-9)


# --- the typed value


def test_ceiling_from_ncsnr_is_the_formula_also_for_uneven_counts():
    ncsnr = np.array([0.25, 0.5, 2.0])
    found = noise_ceiling_from_ncsnr(ncsnr, n_trials=3, space="percent")
    np.testing.assert_allclose(found.values, 100 * ncsnr**2 / (ncsnr**2 + 1 / 3), rtol=1e-12)
    found = noise_ceiling_from_ncsnr(ncsnr, n_trials=[1, 2, 3, 3])
    mean_inverse = (1 + 1 / 2 + 2 / 3) / 4
    np.testing.assert_allclose(found.values, ncsnr**2 / (ncsnr**2 + mean_inverse), rtol=1e-12)
    assert found.n_trials == pytest.approx(1 / mean_inverse)


@pytest.mark.parametrize("space", ["r", "r2", "percent"])
@pytest.mark.parametrize("other", ["r", "r2", "percent"])
def test_spaces_and_trial_numbers_go_there_and_back(space, other):
    ceiling = noise_ceiling_from_ncsnr([0, 0.3, 2, np.inf, np.nan], 3, space=space)
    back = ceiling.to(other).with_n_trials(1).to(space).with_n_trials(3)
    np.testing.assert_allclose(back.values, ceiling.values, rtol=1e-12)
    assert (back.space, back.n_trials) == (space, 3)
    single = noise_ceiling_from_ncsnr([0, 0.3, 2, np.inf, np.nan], 1, space=other)
    np.testing.assert_allclose(ceiling.with_n_trials(1).to(other).values, single.values, rtol=1e-12)


def test_a_trial_number_per_voxel_only_where_voxels_differ():
    _, betas = simulate(30, 4, 1.0, missing=0.2)
    betas[:, :, 3] = np.nan
    assert isinstance(noise_ceiling_from_repeats(betas).n_trials, float)
    betas[0, :2, 0] = np.nan
    ceiling = noise_ceiling_from_repeats(betas)
    assert ceiling.n_trials.shape == (4,)
    assert np.isnan(ceiling.n_trials[3])
    ceiling.normalize(np.ones(4), space="r2", n_trials=ceiling.n_trials)
    assert ceiling.with_n_trials(3).n_trials == 3
    assert noise_ceiling_from_repeats(betas, n_trials=3).n_trials == 3


def test_scores_of_many_models_are_normalized_at_once():
    ceiling = noise_ceiling_from_ncsnr([1.0, 2.0], 1)
    found = ceiling.normalize([[0.5, 0.8], [0.25, 0.4]], space="r2", n_trials=1)
    np.testing.assert_allclose(found, [[1, 1], [0.5, 0.5]], rtol=1e-12)


CEILING = noise_ceiling_from_ncsnr([0.5, 1.0], 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CEILING.normalize([0, 0], space="r"), r"ceiling in 'r2': convert.*\.to\('r'\)"),
        (lambda: CEILING.normalize([0, 0], space="R2"), "did you mean 'r2'"),
        (
            lambda: CEILING.normalize([0, 0], space="r2", n_trials=1),
            r"averages of 1 trials.*with_n_trials\(1\)",
        ),
        (lambda: CEILING.normalize([0.0], space="r2"), r"score \(1,\) must have 2 voxels"),
        (lambda: CEILING.to("percents"), "did you mean 'percent'"),
        (lambda: CEILING.with_n_trials(0.5), "n_trials=0.5 must be >= 1"),
        (lambda: noise_ceiling_from_ncsnr([-0.1, 1], 3), "negative values.*-0.1"),
        (lambda: noise_ceiling_from_ncsnr([1], 0), "n_trials=0 must be >= 1"),
        (lambda: noise_ceiling_from_ncsnr([1], [3, 0]), "must be >= 1"),
        (lambda: NoiseCeiling(np.array([101.0]), "percent", 1, "x"), "101, outside 0 … 100"),
        (lambda: NoiseCeiling(np.ones((2, 2)), "r", 1, "x"), r"values \(2, 2\)"),
        (lambda: NoiseCeiling(np.ones(2), "r", np.ones(3), "x"), "n_trials"),
        (lambda: NoiseCeiling(np.ones(2), "r", 1, "x", np.ones(2)), r"interval \(2,\) must be"),
        (lambda: noise_ceiling_split_half(np.ones((3, 2, 1)), n_splits=0), "n_splits=0"),
        (lambda: noise_ceiling_from_repeats(np.ones((3, 2, 1)), space="z"), "space='z'"),
        (lambda: noise_ceiling_from_repeats(np.full((3, 2, 1), np.inf)), "betas.*infinite"),
    ],
)
def test_errors_say_how_to_mend_it(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- real data


@pytest.mark.parametrize(
    ("name", "half_r"), [("cowley2023_v4_210325.npz", 0.60), ("miyawaki2008_s1_v1.npz", 0.45)]
)
def test_real_data_have_the_split_half_correlation_found_before(real_data, name, half_r):
    with np.load(real_data(name)) as file:
        betas = file["betas"].astype(np.float64)
    present = np.isfinite(betas)
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        found.append(
            variance_components._half_correlation(
                np.where(present, betas, 0),
                present,
                rng.random(betas.shape[:2]),
                np.ones((1, len(betas))),
            )
        )
    # Known to two digits, from other random splits.
    assert np.mean(found) == pytest.approx(half_r, abs=0.02)


@pytest.mark.parametrize("name", ["cowley2023_v4_210325.npz", "miyawaki2008_s1_v1.npz"])
def test_the_two_estimators_agree_on_real_data(real_data, name):
    with np.load(real_data(name)) as file:
        betas = file["betas"]
    split_half = noise_ceiling_split_half(betas, n_splits=20, space="r2")
    repeats = noise_ceiling_from_repeats(betas)
    assert split_half.n_trials == pytest.approx(repeats.n_trials)
    # They weigh uneven images differently and correlation is biased for Miyawaki's 20 images;
    # a reliability squared by mistake would be off by .19 (V4) and .25.
    assert np.nanmean(split_half.values) == pytest.approx(np.nanmean(repeats.values), abs=0.03)


@pytest.mark.parametrize("voxels", [slice(1, 3), np.array([False, True, True, False]), [1, 2]])
def test_the_ceiling_of_some_voxels_is_that_of_their_betas(voxels):
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((30, 3, 4)) + rng.standard_normal((30, 1, 4))
    betas[:5, 0, 1] = np.nan
    whole = noise_ceiling_from_repeats(betas, n_bootstraps=10, space="r")
    part = noise_ceiling_from_repeats(betas[:, :, 1:3], n_bootstraps=10, space="r")
    found = whole.of_voxels(voxels)
    np.testing.assert_allclose(found.values, part.values)
    np.testing.assert_allclose(found.interval, part.interval)
    np.testing.assert_allclose(found.n_trials, part.n_trials)
    assert (found.space, found.estimator) == ("r", whole.estimator)
    single = noise_ceiling_from_ncsnr([0.5, 0.6, 0.7, 0.8], 3).of_voxels(voxels)
    assert single.n_trials == 3


# --- by ROI


@pytest.mark.parametrize("space", ["r", "r2", "percent"])
def test_table_has_means_over_the_voxels_with_a_ceiling(space):
    r2 = np.array([0.25, 0.81, 0, np.nan, 0.49])
    ceiling = NoiseCeiling(r2, "r2", 3, "given").to(space)
    table = ceiling.table({"V1": [0, 1, 3], "empty": np.array([], int), "V4": [3]})
    assert list(table["roi"]) == ["all", "V1", "empty", "V4"]
    assert list(table["n_voxels"]) == [5, 3, 0, 1]
    assert list(table["without_ceiling"]) == [1, 1, 0, 1]
    nan = np.nan
    np.testing.assert_allclose(table["r"], [(0.5 + 0.9 + 0 + 0.7) / 4, 0.7, nan, nan])
    np.testing.assert_allclose(table["r2"], [(0.25 + 0.81 + 0 + 0.49) / 4, 0.53, nan, nan])
