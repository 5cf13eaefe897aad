import tracemalloc

import numba
import numpy as np
import pytest
from references import resample
from scipy.stats import pearsonr
from sklearn.metrics import mean_squared_error as sklearn_mse
from sklearn.metrics import r2_score

from brainenc.machine_code import compiled
from brainenc.metrics import (
    _compiled,
    correlation,
    mean_squared_error,
    mean_squared_error_to_trials,
    r_squared,
    sums,
)
from brainenc.metrics.voxelwise import Correlations


@pytest.fixture(autouse=True, params=[2**23, 1], ids=["as small arrays", "as large arrays"])
def large(request, monkeypatch):
    """Whether arrays are summed by matrix products or by compiled code."""
    monkeypatch.setattr(sums, "_LARGE", request.param)


METRICS = {"r": correlation, "r2": r_squared, "mse": mean_squared_error}


def responses(n_images=60, n_voxels=7, *, seed=0, dtype=np.float64, missing=0.2):
    """Predictions and targets that agree in part, with missing targets and unlike voxel means."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(0, 3, n_voxels)
    predictions = mean + rng.standard_normal((n_images, n_voxels))
    targets = 0.5 * predictions + rng.standard_normal((n_images, n_voxels))
    targets[rng.random(targets.shape) < missing] = np.nan
    return predictions.astype(dtype), targets.astype(dtype)


def per_voxel(function, predictions, targets):
    """`function(target, prediction)` of each voxel, images without a target left out."""
    present = np.isfinite(targets)
    return [function(targets[p, v], predictions[p, v]) for v, p in enumerate(present.T)]


# Same formulas on the same float64 numbers: only the order of summation differs.
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def test_correlation_is_scipys():
    predictions, targets = responses()
    wanted = per_voxel(lambda t, p: pearsonr(t, p).statistic, predictions, targets)
    np.testing.assert_allclose(correlation(predictions, targets), wanted, **EXACT)


def test_r_squared_and_mse_are_scikit_learns():
    predictions, targets = responses()
    np.testing.assert_allclose(
        r_squared(predictions, targets), per_voxel(r2_score, predictions, targets), **EXACT
    )
    np.testing.assert_allclose(
        mean_squared_error(predictions, targets),
        per_voxel(sklearn_mse, predictions, targets),
        **EXACT,
    )


def test_r_squared_of_a_wrong_mean_is_negative_and_not_clipped():
    _, targets = responses(missing=0)
    # Off by c everywhere, SS_res / SS_tot is 1 + c² / variance.
    off = np.broadcast_to(targets.mean(0) + 10, targets.shape)
    np.testing.assert_allclose(r_squared(off, targets), -100 / targets.var(0), **EXACT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_ten_thousand_times_the_spread_costs_no_digits(dtype):
    predictions, targets = responses(400, dtype=dtype)
    predictions, targets = predictions + dtype(1e4), targets + dtype(3e4)
    # What float32 holds is compared with, so its quantisation is in both.
    doubles = predictions.astype(np.float64), targets.astype(np.float64)
    wanted = per_voxel(lambda t, p: pearsonr(t, p).statistic, *doubles)
    np.testing.assert_allclose(correlation(predictions, targets), wanted, rtol=1e-9)
    wanted = per_voxel(r2_score, *doubles)
    np.testing.assert_allclose(r_squared(predictions, targets), wanted, rtol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("missing", [0, 0.01, 0.2])
@pytest.mark.parametrize("size", [1e-25, 1, 1e25])
def test_float32_gives_what_float64_does(metric, missing, size):
    predictions, targets = responses(300, missing=missing)
    scaled = [((values + 5) * size).astype(np.float32) for values in (predictions, targets)]
    # A voxel without data, one that starts with an outlier, and one that misses one prediction.
    scaled[1][:, 0] = np.nan
    scaled[1][0, 1] = 1000 * size
    scaled[0][7, 2], scaled[1][7, 2] = np.nan, size
    wanted = METRICS[metric](*(values.astype(np.float64) for values in scaled))
    assert np.isnan(wanted[[0, 2]]).all()
    np.testing.assert_allclose(METRICS[metric](*scaled), wanted, rtol=1e-10, atol=1e-12)


def test_correlation_of_float32_multiples_is_one_and_no_more():
    _, targets = responses(1000, missing=0, dtype=np.float32)
    for gain in np.linspace(0.1, 3, 20, dtype=np.float32):
        r = correlation(gain * targets, targets)
        # The products are rounded to 6e-8, in all directions: r lacks the square of that.
        np.testing.assert_allclose(r, 1, rtol=1e-13)
        assert (r <= 1).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "arrange",
    [
        np.asfortranarray,
        lambda values: np.repeat(values, 2, axis=1)[:, ::2],
        lambda values: (100 * np.nan_to_num(values)).astype(np.int16),
        lambda values: values.astype(np.float16),
        lambda values: values.astype(">f4"),
    ],
)
def test_any_order_of_memory_and_any_type_of_number(metric, arrange):
    predictions, targets = map(arrange, responses(50))
    plain = (np.ascontiguousarray(values, dtype=np.float64) for values in (predictions, targets))
    found = METRICS[metric](predictions, targets)
    np.testing.assert_allclose(found, METRICS[metric](*plain), **EXACT)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("missing", [0, 0.2])
def test_weights_are_counts_of_a_resample(metric, missing):
    predictions, targets = responses(missing=missing)
    rng = np.random.default_rng(1)
    counts = rng.multinomial(60, np.full(60, 1 / 60), size=5)
    wanted = [METRICS[metric](resample(predictions, row), resample(targets, row)) for row in counts]
    found = METRICS[metric](predictions, targets, weights=counts)
    np.testing.assert_allclose(found, wanted, **EXACT)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("weights", [None, np.random.default_rng(2).random((3, 60))])
def test_blocks_give_what_one_block_gives(metric, weights, monkeypatch):
    predictions, targets = responses()
    whole = METRICS[metric](predictions, targets, weights=weights)
    monkeypatch.setattr(_compiled, "_ENTRIES", 7 * 4)
    monkeypatch.setattr(sums, "_PRODUCT_IMAGES", 11)
    monkeypatch.setattr(sums, "_PRODUCT_VOXELS", 3)
    np.testing.assert_allclose(
        METRICS[metric](predictions, targets, weights=weights), whole, **EXACT
    )


@pytest.mark.parametrize("metric", METRICS)
def test_voxels_beyond_a_block(metric):
    predictions, targets = responses(9, 2500)
    few = METRICS[metric](predictions[:, -3:], targets[:, -3:])
    np.testing.assert_allclose(METRICS[metric](predictions, targets)[-3:], few, **EXACT)


# 0.1 is no binary fraction: summed up and divided, it does not come back exactly.
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("first", [0.1, np.nan])
def test_constant_voxels_are_undefined_and_not_zero(dtype, first):
    predictions, targets = responses(30_000, 3, dtype=dtype, missing=0.1)
    constant = np.where(np.isnan(targets), np.nan, 0.1).astype(dtype)
    constant[:100] = first  # nothing to take the sums about, for nan
    assert np.isnan(correlation(predictions, constant)).all()
    assert np.isnan(r_squared(predictions, constant)).all()
    flat = np.full_like(predictions, 0.1)
    assert np.isnan(correlation(flat, targets)).all()
    # Predicting a constant is defined for R², and no better than predicting the mean.
    assert (r_squared(flat, targets) <= 1e-12).all()


def test_a_voxel_constant_up_to_the_round_off_of_float32_is_undefined():
    _, targets = responses(missing=0, dtype=np.float32)
    ulp = np.spacing(np.float32(3.0))
    rng = np.random.default_rng(3)
    jitter = np.float32(3.0) + ulp * rng.integers(-1, 2, targets.shape).astype(np.float32)
    assert np.isnan(correlation(jitter, targets)).all()
    # The same numbers in float64 are data.
    assert np.isfinite(correlation(jitter.astype(np.float64), targets)).all()


def test_resamples_in_which_a_voxel_is_constant_are_undefined():
    predictions, targets = responses(missing=0)
    targets[5:8] = targets[5]  # not the first image, which the sums are taken about
    one_image, equal_targets, none = np.zeros((3, 60))
    one_image[4] = 60
    equal_targets[5:8] = 7, 10, 13
    sets = np.stack([one_image, equal_targets, none])
    assert np.isnan(correlation(predictions, targets, weights=sets)).all()
    assert np.isnan(r_squared(predictions, targets, weights=sets)).all()
    error = mean_squared_error(predictions, targets, weights=sets)
    np.testing.assert_allclose(error[0], (predictions[4] - targets[4]) ** 2, **EXACT)
    assert np.isnan(error[2]).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_prediction_undoes_its_voxel_only(metric, bad):
    predictions, targets = responses(missing=0)
    good = METRICS[metric](predictions, targets)
    predictions[5, 2] = bad
    for weights in (None, np.ones((2, 60))):
        score = np.atleast_2d(METRICS[metric](predictions, targets, weights=weights))
        assert np.isnan(score[:, 2]).all()
        np.testing.assert_allclose(np.delete(score[0], 2), np.delete(good, 2), **EXACT)


def test_a_bad_prediction_of_a_missing_target_does_no_harm():
    predictions, targets = responses()
    wanted = correlation(predictions, targets)
    predictions[np.isnan(targets)] = np.nan
    np.testing.assert_allclose(correlation(predictions, targets), wanted, **EXACT)


def test_an_infinite_target_is_not_taken_for_a_missing_one():
    predictions, targets = responses()
    targets[0, 1] = np.inf
    assert np.isnan(correlation(predictions, targets)[1])


def test_scale_gives_z_units():
    predictions, targets = responses(missing=0)
    scale = targets.std(0)
    wanted = per_voxel(sklearn_mse, predictions / scale, targets / scale)
    found = mean_squared_error(predictions, targets, scale=scale)
    np.testing.assert_allclose(found, wanted, **EXACT)
    scale[2] = 0  # a constant voxel has no z units
    assert np.isnan(mean_squared_error(predictions, targets, scale=scale)).tolist() == [
        v == 2 for v in range(7)
    ]


@pytest.mark.parametrize("n_sets", [None, 4])
def test_error_to_trials_counts_each_trial_once(n_sets):
    rng = np.random.default_rng(4)
    predictions = rng.standard_normal((20, 5))
    betas = rng.standard_normal((20, 3, 5))
    betas[rng.random(betas.shape) < 0.3] = np.nan
    betas[:, :, 4] = np.nan
    weights = None if n_sets is None else rng.integers(0, 3, (n_sets, 20))
    found = np.atleast_2d(mean_squared_error_to_trials(predictions, betas, weights=weights))
    for row, counts in zip(found, [np.ones(20)] if weights is None else weights, strict=True):
        squares = resample((betas - predictions[:, None]) ** 2, counts)
        wanted = [np.mean(v[np.isfinite(v)]) for v in np.moveaxis(squares, 2, 0)[:4]]
        np.testing.assert_allclose(row[:4], wanted, **EXACT)
        assert np.isnan(row[4])


def test_error_of_a_perfect_model_to_trials_is_the_noise_variance():
    rng = np.random.default_rng(5)
    signal = rng.standard_normal((4000, 2))
    betas = signal[:, None] + [1.0, 2.0] * rng.standard_normal((4000, 3, 2))
    found = mean_squared_error_to_trials(signal, betas, scale=[1.0, 2.0])
    # s.e. of a variance of 12000 draws is sqrt(2 / 12000) = .013; allow four.
    np.testing.assert_allclose(found, 1, atol=0.052)


def test_code_that_cannot_be_kept_on_disk_is_compiled_all_the_same(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    assert compiled(lambda x: x + 1)(2) == 3


def test_memory_stays_far_below_the_size_of_the_input(tmp_path):
    rng = np.random.default_rng(6)
    values = rng.standard_normal((2000, 2000), dtype=np.float32)
    np.save(tmp_path / "betas.npy", values)
    mapped = np.load(tmp_path / "betas.npy", mmap_mode="r")
    tracemalloc.start()
    score = correlation(mapped, mapped)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(score, 1)
    # A chunk is .5 MiB in each of about ten temporary arrays; the input is 16 MB twice.
    assert peak < values.nbytes / 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"targets": np.ones((3, 4))}, ValueError, "predictions.*4, 3.*targets.*3, 4.*transposed"),
        ({"targets": np.ones((5, 3))}, ValueError, r"predictions \(4, 3\) and targets \(5, 3\)"),
        ({"targets": np.ones((4, 2, 3))}, ValueError, r"targets \(4, 2, 3\).*average the repeats"),
        ({"targets": np.ones(4)}, ValueError, r"targets \(4,\) must be \(n_images, n_voxels\)"),
        ({"targets": np.full((4, 3), "a")}, TypeError, "targets must be numeric"),
        ({"weights": np.ones(4)}, ValueError, r"weights \(4,\).*n_images = 4.*weights\[None\]"),
        ({"weights": -np.ones((1, 4))}, ValueError, "weights must be finite and not negative"),
        ({"scale": np.ones(2)}, ValueError, r"scale \(2,\).*\(3,\)"),
        ({"scale": -np.ones(3)}, ValueError, "scale must not be negative"),
    ],
)
def test_errors_name_the_argument(arguments, error, message):
    arguments = {"predictions": np.ones((4, 3)), "targets": np.ones((4, 3))} | arguments
    with pytest.raises(error, match=message):
        mean_squared_error(**arguments)


def test_trials_need_a_repeat_axis():
    with pytest.raises(ValueError, match=r"betas \(4, 3\) must be.*betas\[:, None\]"):
        mean_squared_error_to_trials(np.ones((4, 3)), np.ones((4, 3)))


def test_correlations_with_the_same_targets_are_those_of_each_pair():
    rng = np.random.default_rng(0)
    targets, a, b = rng.standard_normal((3, 300, 40))
    targets[rng.random(targets.shape) < 0.1] = np.nan
    targets[:, 4] = 1
    a[:, 2], b[7, 3] = 5, np.inf
    counts = rng.multinomial(300, np.full(300, 1 / 300), size=30)
    with_targets = Correlations(targets, counts)
    for predictions in (a, b, np.zeros_like(a)):
        wanted = correlation(predictions, targets, weights=counts)
        np.testing.assert_array_equal(with_targets(predictions), wanted)
