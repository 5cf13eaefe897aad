"""Tests of means over subjects: against SciPy, and false positives in a simulated population."""

import numpy as np
import pytest
from scipy import stats

from brainenc.benchmarking.group_tests import (
    check_test,
    hierarchical_test,
    sign_flip_test,
    t_test,
)


@pytest.mark.parametrize("n", [2, 4, 9])
def test_t_is_that_of_scipy(n):
    a, b = np.random.default_rng(n).normal(0.1, 1, (2, n))
    found, expected = t_test(a - b), stats.ttest_rel(a, b)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    one = stats.ttest_1samp(a - b, 0)
    assert found.statistic == pytest.approx(one.statistic)
    assert (found.low, found.high) == pytest.approx(tuple(one.confidence_interval()))


@pytest.mark.parametrize("n", [2, 4, 7, 11])
def test_sign_flips_are_those_of_scipy(n):
    values = np.random.default_rng(n).normal(0.5, 1, n)
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    found = sign_flip_test(values)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.statistic == pytest.approx(expected.statistic)


def test_sign_flips_cannot_give_less_than_their_smallest_p():
    for n in (2, 4, 8):
        found = sign_flip_test(np.arange(1.0, n + 1))
        assert found.p == found.p_min == 2 / 2**n
    many = sign_flip_test(np.arange(1.0, 31))
    assert many.p == many.p_min == pytest.approx(1 / (2**16 + 1))


def test_equal_differences_are_no_evidence_by_rounding():
    # .1 + .2 - .3 is not 0 in floating point: sums that are equal must count as equal.
    values = np.array([0.1, 0.2, -0.3])
    assert sign_flip_test(values).p == 1


def test_interval_of_sign_flips_holds_the_means_that_the_test_does_not_reject():
    values = np.random.default_rng(0).normal(0.5, 1, 8)
    found = sign_flip_test(values)
    for shift in np.linspace(-1.5, 2.5, 81):
        inside = found.low < shift < found.high
        assert inside == (sign_flip_test(values - shift).p > 0.05), shift
    few = sign_flip_test(values[:5])
    assert np.isnan([few.low, few.high]).all()


def test_subjects_without_a_value_are_left_out():
    values, samples = np.array([0.1, np.nan, 0.3, 0.2]), np.zeros((4, 20))
    kept = values[[0, 2, 3]]
    assert t_test(values) == t_test(kept)
    assert sign_flip_test(values) == sign_flip_test(kept)
    assert hierarchical_test(values, samples) == hierarchical_test(kept, samples[:3])
    for alone in (t_test([0.1]), sign_flip_test([0.1]), hierarchical_test([0.1], samples[:1])):
        assert alone.n_subjects == 1
        assert alone.mean == 0.1
        assert np.isnan([alone.p, alone.low, alone.high]).all()


def test_hierarchical_error_is_that_of_its_two_sources():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 12)
    few_images = rng.normal(0, 1, (12, 1)) + rng.normal(0, 0.5, (12, 4000))
    # Subjects vary more than images explain: the error is that of t, noise of images in it.
    assert hierarchical_test(values, few_images).statistic == pytest.approx(
        t_test(values).statistic, rel=0.03
    )
    # With few subjects the spread of a resample is (n - 1) / n of theirs, and is made up for.
    four = hierarchical_test(values[:4], values[:4, None] + rng.normal(0, 0.01, (4, 400)))
    assert four.statistic == pytest.approx(t_test(values[:4]).statistic, rel=0.03)
    # Images explain more than all differences of subjects: theirs is the error.
    noisy = rng.normal(0, 3, (12, 4000))
    error = values.mean() / hierarchical_test(values, noisy).statistic
    assert error == pytest.approx(3 / np.sqrt(12), rel=0.03)


def population(rng, n_subjects, effect, between, within, n_bootstraps=200):
    """Observed differences of subjects, and bootstrap samples of their images."""
    true = effect + between * rng.standard_normal(n_subjects)
    observed = true + within * rng.standard_normal(n_subjects)
    samples = observed[:, None] + within * rng.standard_normal((n_subjects, n_bootstraps))
    return observed, samples


TESTS = {
    "t": lambda values, samples: t_test(values).p,
    "signflip": lambda values, samples: sign_flip_test(values).p,
    "hierarchical": lambda values, samples: hierarchical_test(values, samples).p,
}


@pytest.mark.parametrize("test", list(TESTS))
@pytest.mark.parametrize(("between", "within"), [(1.0, 0.1), (0.3, 1.0), (0.0, 1.0)])
def test_false_positives_are_at_most_five_percent(test, between, within):
    rng = np.random.default_rng(0)
    n_runs, n_subjects = (400, 8) if test == "hierarchical" else (2000, 8)
    runs = [population(rng, n_subjects, 0, between, within) for _ in range(n_runs)]
    n_found = sum(TESTS[test](*run) <= 0.05 for run in runs)
    # One in 10 000 such simulations of a test at 5 % exceeds this.
    assert n_found <= stats.binom.ppf(0.9999, n_runs, 0.05)
    if test != "hierarchical":  # both use all of their 5 % (sign flips: 12 of 256)
        level = 12 / 256 if test == "signflip" else 0.05
        assert n_found >= stats.binom.ppf(0.0001, n_runs, level)


@pytest.mark.parametrize("test", list(TESTS))
def test_true_effects_are_found(test):
    rng = np.random.default_rng(1)
    runs = [population(rng, 8, 1.5, 0.7, 0.7) for _ in range(100)]
    # Mean over s.e. is 1.5 / (.99 / √8) = 4.3: t finds it in 98 % (noncentral t with 7 df).
    assert sum(TESTS[test](*run) <= 0.05 for run in runs) >= 90


def test_an_unknown_test_is_refused():
    with pytest.raises(ValueError, match=r"test='wilcoxon' must be one of 't', 'signflip'"):
        check_test("wilcoxon")
