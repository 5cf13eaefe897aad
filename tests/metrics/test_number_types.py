"""Scores do not depend on the kind of array or number: each equals that of the float64 values."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch

from brainenc import metrics

N_IMAGES, N_REPEATS, N_VOXELS, N_DRAWS = 14, 3, 9, 12


def counts(*shape, seed):
    """Spike counts from 0 to 40, of rates that differ between images and voxels."""
    rates = np.random.default_rng(1).gamma(4, 3, (N_IMAGES, 1, N_VOXELS))
    if shape[0] == N_DRAWS:
        rates = rates[:, 0]
    found = np.random.default_rng(seed).poisson(np.broadcast_to(rates, shape))
    return np.clip(found, 0, 40)


DRAWS = counts(N_DRAWS, N_IMAGES, N_VOXELS, seed=2)
TRIALS = counts(N_IMAGES, N_REPEATS, N_VOXELS, seed=3)
PREDICTIONS, TARGETS = DRAWS[0], TRIALS[:, 0]
WEIGHTS = np.random.default_rng(4).multinomial(N_IMAGES, np.full(N_IMAGES, 1 / N_IMAGES), size=3)
SCALE = np.arange(1, N_VOXELS + 1)
SQUARES = np.square(PREDICTIONS[:, :, None] - PREDICTIONS.T[None]).sum(1) % 61
PAIRS = metrics.random_pairs(np.arange(N_VOXELS), 10)

#: Every public function: its arguments as whole numbers that are exact in every type below.
CALLS = {
    "correlation": (PREDICTIONS, TARGETS, {"weights": WEIGHTS}),
    "r_squared": (PREDICTIONS, TARGETS, {"weights": WEIGHTS}),
    "mean_squared_error": (PREDICTIONS, TARGETS, {"weights": WEIGHTS, "scale": SCALE}),
    "mean_squared_error_to_trials": (PREDICTIONS, TRIALS, {"weights": WEIGHTS, "scale": SCALE}),
    "split_r2": (DRAWS, TARGETS, {"weights": WEIGHTS}),
    "split_correlation": (DRAWS, TARGETS, {"weights": WEIGHTS}),
    "pattern_correlation": (PREDICTIONS, TARGETS),
    "pattern_mse": (PREDICTIONS, TARGETS),
    "pattern_cosine": (PREDICTIONS, TARGETS),
    "crps": (DRAWS, TRIALS),
    "energy_score": (DRAWS, TRIALS),
    "pattern_ranks": (DRAWS, TRIALS),
    "variogram_score": (DRAWS, TRIALS, PAIRS),
    "random_pairs": (np.arange(N_VOXELS), 10),
    "gaussian_log_density": (TRIALS, DRAWS[:2, 0], SCALE),
    "log_score": (TRIALS[:, :, 0],),
    "trial_ranks": (DRAWS, TRIALS),
    "rank_histogram": (TRIALS % N_DRAWS, N_DRAWS),
    "pit_histogram": (TRIALS % N_DRAWS, N_DRAWS),
    "interval_coverage": (TRIALS % N_DRAWS, N_DRAWS, 0.8),
    "two_way_identification": (PREDICTIONS, TARGETS),
    "top_k_retrieval": (PREDICTIONS, TARGETS, {"pool_size": 5, "n_pools": 4}),
    "retrieval": (
        SQUARES,
        {"query_ids": range(len(SQUARES)), "candidate_ids": range(len(SQUARES)), "pool_size": 3},
    ),
    "cosine_similarity": (PREDICTIONS, TARGETS, {"mean": PREDICTIONS[0]}),
    "csls": (SQUARES, {"k": 2}),
    "similarities": (PREDICTIONS, TARGETS, {"training_mean": TARGETS[0] // 2}),
    "category_auc": (PREDICTIONS, TARGETS % 2, {"min_positives": 1}),
    "output_dimension": (PREDICTIONS, TARGETS),
    "rdm": (PREDICTIONS,),
    "rdm_correlation": (SQUARES, SQUARES.T // 2, {"weights": WEIGHTS}),
    "geotopological": (SQUARES, {"low": 0.2}),
    "geodesic": (SQUARES,),
    "rdm_regression": (SQUARES, {"models": {"half": SQUARES // 2, "transposed": SQUARES.T % 7}}),
    "kernel_analysis": (PREDICTIONS, {"labels": list("ab" * N_IMAGES)[:N_IMAGES]}),
    "linear_cka": (PREDICTIONS, TARGETS, {"weights": WEIGHTS}),
    "variances": (DRAWS, TRIALS),
    "variance_agreement": (TRIALS[:2, 0], TRIALS[:, 1], {"folds": np.arange(N_IMAGES) % 2}),
    "noise_correlation": (TRIALS,),
    "noise_correlation_agreement": (SQUARES, SQUARES // 2),
    "agreement_with_repeats": (SQUARES[:N_VOXELS, :N_VOXELS], TRIALS),
    "ncsnr_from_repeats": (TRIALS,),
    "noise_ceiling_from_repeats": (TRIALS, {"n_trials": np.full(N_IMAGES, 3)}),
    "noise_ceiling_split_half": (TRIALS, {"n_splits": 3}),
    "noise_ceiling_from_ncsnr": (SCALE, {"n_trials": np.full(N_IMAGES, 3)}),
}
#: Functions of a ceiling object, which hold no arrays of their own.
OF_OTHER_TYPES = {"ceiling_of_draws", "roi_scorer", "retrieval_table"}

TYPES = {
    **{name: np.dtype(name).type for name in ("uint8", "int8", "int16", "uint16", "uint32")},
    **{name: np.dtype(name).type for name in ("int32", "int64", "uint64", "float16", "longdouble")},
    "big-endian int16": lambda values: values.astype(">i2"),
    "big-endian float32": lambda values: values.astype(">f4"),
    "big-endian float64": lambda values: values.astype(">f8"),
    "masked without a mask": np.ma.masked_array,
    "list": np.ndarray.tolist,
    "object": lambda values: values.astype(object),
    "torch int64": torch.as_tensor,
    "torch uint8": lambda values: torch.as_tensor(values).to(torch.uint8),
    "torch bfloat16": lambda values: torch.as_tensor(values).to(torch.bfloat16),
    "torch with a gradient": lambda values: torch.as_tensor(values).double().requires_grad_(),
    "list of torch": lambda values: [torch.as_tensor(part).to(torch.bfloat16) for part in values],
    "Fortran order": lambda values: np.asfortranarray(values.astype(np.int32)),
    "pandas": lambda values: pd.DataFrame(values) if values.ndim == 2 else values,
    "pandas Int64": lambda values: (
        pd.DataFrame(values).astype("Int64") if values.ndim == 2 else values
    ),
}


def called(name, convert):
    *arguments, last = CALLS[name]
    options = last if isinstance(last, dict) else {}
    arguments = arguments if options else [*arguments, last]
    score = getattr(metrics, name)
    return score(
        *(convert(a) if isinstance(a, np.ndarray) else a for a in arguments),
        **{key: convert(a) if isinstance(a, np.ndarray) else a for key, a in options.items()},
    )


def numbers(result):
    """All numbers of a result, in order."""
    if isinstance(result, metrics.NoiseCeiling):
        result = (result.values, result.n_trials)
    elif isinstance(result, metrics.RetrievalAccuracy):
        result = (result.forward, result.backward, result.chance)
    elif isinstance(result, metrics.Retrieval):
        result = (result.image.ranks, result.brain.ranks, result.image_retrieval)
    elif isinstance(result, metrics.RDMRegression):
        result = (result.weights, result.r2, result.unique)
    elif isinstance(result, metrics.KernelAnalysis):
        result = (result.curve["precision"], result.auc)
    elif isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, tuple):
        return np.concatenate([numbers(part) for part in result])
    return np.ravel(np.asarray(result, np.float64))


def test_every_public_function_is_tried():
    public = {n for n in metrics.__all__ if inspect.isfunction(getattr(metrics, n))}
    assert public == CALLS.keys() | OF_OTHER_TYPES


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("name", CALLS)
def test_the_score_of_the_float64_values(name, type_name):
    right = numbers(called(name, lambda values: values.astype(np.float64)))
    assert np.isfinite(right).any()
    # Scores of float32 are computed in float32 in part: about 1e-7 of the largest terms.
    rtol, atol = (1e-5, 1e-5) if type_name == "big-endian float32" else (1e-12, 0)
    got = numbers(called(name, TYPES[type_name]))
    np.testing.assert_allclose(got, right, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"random_pairs", "log_score"}))
def test_bool_is_0_and_1(name):
    *arguments, last = CALLS[name]
    options = last if isinstance(last, dict) else {}
    arguments = arguments if options else [*arguments, last]
    score = getattr(metrics, name)
    bits = [a > np.median(a) if np.size(a) > 10 and a is not PAIRS else a for a in arguments]
    if name in ("rank_histogram", "pit_histogram", "interval_coverage"):
        with pytest.raises(TypeError, match="ranks must be whole numbers, got bool"):
            score(*bits, **options)
        return
    floats = [bit.astype(np.float64) if isinstance(bit, np.ndarray) else bit for bit in bits]
    if name == "variogram_score":
        floats[-1] = PAIRS
    got, right = (numbers(score(*found, **options)) for found in (bits, floats))
    np.testing.assert_allclose(got, right, rtol=1e-12)


MASKED = ("correlation", "r_squared", "mean_squared_error", "pattern_mse", "pattern_cosine")
OF_TRIALS = ("crps", "energy_score", "trial_ranks", "pattern_ranks", "variances", "variogram_score")
OF_BETAS = ("noise_correlation", "ncsnr_from_repeats", "noise_ceiling_from_repeats")


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("name", [*MASKED, *OF_TRIALS, *OF_BETAS, "mean_squared_error_to_trials"])
def test_masked_values_are_nan(name, dtype):
    arguments = list(CALLS[name])[: 1 if name in OF_BETAS else 3 if "variogram" in name else 2]
    place = 0 if name in OF_BETAS else 1
    values = arguments[place]
    mask = np.random.default_rng(0).random(values.shape) < 0.05
    assert mask.any()
    hidden = np.where(mask, 99, values)  # what lies below the mask must not count
    score = getattr(metrics, name)
    masked, nan = arguments.copy(), arguments.copy()
    masked[place] = np.ma.masked_array(hidden.astype(dtype), mask)
    nan[place] = np.where(mask, np.nan, values)
    got, right = numbers(score(*masked)), numbers(score(*nan))
    np.testing.assert_allclose(got, right, rtol=1e-12 if dtype != np.float32 else 1e-6)
    rows = arguments.copy()  # NumPy loses the masks of rows in a list
    rows[place] = list(masked[place])
    np.testing.assert_array_equal(numbers(score(*rows)), got)


def test_sums_of_half_precision_do_not_overflow():
    rng = np.random.default_rng(0)
    big = rng.integers(200, 20_000, (300, 4)).astype(np.float16)  # squares exceed float16's 65 504
    others = rng.integers(200, 20_000, (300, 4)).astype(np.float16)
    for score in (metrics.pattern_cosine, metrics.mean_squared_error, metrics.pattern_mse):
        right = score(big.astype(np.float64), others.astype(np.float64))
        np.testing.assert_allclose(score(big, others), right, rtol=1e-12)
    right = metrics.energy_score(big[:, None].astype(float), others[:1, None].astype(float))
    np.testing.assert_allclose(metrics.energy_score(big[:, None], others[:1, None]), right)


def test_large_integers_keep_their_digits():
    # float32 has 24 bits: 2³⁰ + 1 and 2³⁰ are one number there.
    steps = np.random.default_rng(0).integers(0, 5, (50, 3, 2))
    near = noise_free = 2**30 + steps
    np.testing.assert_allclose(
        metrics.ncsnr_from_repeats(near), metrics.ncsnr_from_repeats(steps.astype(float)), rtol=1e-6
    )
    np.testing.assert_allclose(
        metrics.noise_correlation(noise_free), metrics.noise_correlation(steps.astype(float))
    )


def test_float32_and_float64_are_not_copied():
    from brainenc.numeric import as_numbers

    for dtype in (np.float32, np.float64):
        array = np.zeros((3, 4), dtype)
        assert as_numbers(array, "targets") is array


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.array([["1", "2"]]), TypeError, "targets must be numeric, got dtype <U1"),
        (
            np.array([["1", 2.0]], dtype=object),
            TypeError,
            "targets must be numeric, but holds text",
        ),
        (np.zeros((2, 2), "M8[s]"), TypeError, "targets must be numeric"),
        (np.zeros((2, 2), complex), TypeError, "targets must be numeric, got dtype complex128"),
        ([[1.0], [1.0, 2.0]], ValueError, "targets is no array"),
        (None, ValueError, "targets is missing"),
    ],
)
def test_what_is_no_number_is_named(values, error, message):
    with pytest.raises(error, match=message):
        metrics.correlation(np.zeros((2, 2)), values)


def test_sparse_is_named():
    sparse = pytest.importorskip("scipy.sparse").eye(3)
    with pytest.raises(TypeError, match=r"predictions is sparse.*predictions\.toarray\(\)"):
        metrics.correlation(sparse, np.eye(3))


def test_pandas_missing_values_are_nan():
    table = pd.DataFrame(TARGETS).astype("Int64")
    table.iloc[2, 3] = pd.NA
    floats = TARGETS.astype(float)
    floats[2, 3] = np.nan
    np.testing.assert_allclose(
        metrics.correlation(PREDICTIONS, table), metrics.correlation(PREDICTIONS, floats)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.rank_histogram([[13]], 12), "ranks has 13, .*-1 to 12"),
        (lambda: metrics.interval_coverage(np.uint8([[255]]), 12, 0.9), "ranks has 255"),
        (lambda: metrics.rank_histogram([[1.5]], 12), r"ranks has 1\.5"),
        (lambda: metrics.variogram_score(DRAWS, TRIALS, [[0, 9]]), "pairs has 9"),
        (lambda: metrics.variogram_score(DRAWS, TRIALS, [0, 1]), r"pairs \(2,\) must be"),
        (lambda: metrics.random_pairs([0, 1.5]), r"voxels has 1\.5"),
        (
            lambda: metrics.variance_agreement(TRIALS[:2, 0], TRIALS[:, 1], folds=[2] * 14),
            "folds has 2",
        ),
        (lambda: metrics.log_score([1.0, 2.0]), r"log_density \(2,\) must be"),
        (lambda: metrics.noise_correlation(TARGETS), r"betas \(14, 9\) must be"),
        (
            lambda: metrics.agreement_with_repeats(np.eye(9), TRIALS, images=[0, 1]),
            r"images \(2,\) must have one number per image",
        ),
        (
            lambda: metrics.gaussian_log_density(TRIALS, DRAWS[0, :, :4], SCALE),
            r"factors \(14, 4\)",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_mask_is_not_taken_for_positions():
    with pytest.raises(TypeError, match="voxels must be whole numbers, got bool"):
        metrics.random_pairs(np.array([True, False, True]))


def test_missing_ranks_may_be_nan_or_masked():
    ranks = np.array([[0, 3], [-1, 12]])
    right = metrics.interval_coverage(ranks, 12, 0.9)
    np.testing.assert_array_equal(
        metrics.interval_coverage(np.where(ranks < 0, np.nan, ranks), 12, 0.9), right
    )
    masked = np.ma.masked_array(np.abs(ranks), ranks < 0)
    np.testing.assert_array_equal(metrics.interval_coverage(masked, 12, 0.9), right)
    np.testing.assert_array_equal(
        metrics.rank_histogram(masked, 12), metrics.rank_histogram(ranks, 12)
    )
