"""Splits, bootstrap, permutation and FDR against closed forms and scipy."""

import numpy as np
import pytest
from scipy import stats
from sklearn.model_selection import GroupKFold, KFold

from brainenc import model_selection as ms


def test_folds_cover_every_image_once_and_repeat_for_a_seed():
    folds = ms.image_folds(4, 22, random_state=3)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(22))
    again = ms.image_folds(4, 22, random_state=3)
    assert all((a[1] == b[1]).all() for a, b in zip(folds, again, strict=True))
    assert any((a[1] != b[1]).any() for a, b in zip(folds, ms.image_folds(4, 22), strict=True))


def test_splitters_and_lists_pass_through():
    expected = list(KFold(3).split(np.empty(9)))
    for cv in (KFold(3), expected):
        for (_, test), (_, wanted) in zip(ms.image_folds(cv, 9), expected, strict=True):
            assert (test == wanted).all()


@pytest.mark.parametrize(
    ("cv", "n", "message"),
    [
        (5, 4, "5 folds need at least 5 images, but there are 4"),
        (1, 9, "at least 2 folds"),
        ([([0, 1, 2], [2, 3])], 4, r"images \[2\] in both train and test"),
        ([([0, 1, 2], [])], 4, "3 train and 0 test"),
    ],
)
def test_folds_that_cannot_be_trusted_are_refused(cv, n, message):
    with pytest.raises(ValueError, match=message):
        ms.image_folds(cv, n)


def test_a_splitter_that_needs_groups_says_so():
    with pytest.raises(ValueError, match=r"groups, which are not known here; .* groups=groups"):
        ms.image_folds(GroupKFold(2), 6)
    splits = GroupKFold(2).split(np.empty(6), groups=[0, 0, 1, 1, 2, 2])
    assert sorted(len(test) for _, test in ms.image_folds(splits, 6)) == [2, 4]


@pytest.mark.parametrize("kind", [int, str, object])
def test_folds_of_groups_are_whole_balanced_and_shuffled(kind):
    rng = np.random.default_rng(0)
    sizes = [30, 20, *rng.integers(1, 6, size=50)]
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    given = groups.astype(str) if kind is str else groups.astype(kind)
    tests = {}
    for seed in (0, 0, 1):
        folds = ms.image_folds(5, len(groups), groups=given, random_state=seed)
        assert np.unique(np.concatenate([test for _, test in folds])).tolist() == list(
            range(len(groups))
        )
        for train, test in folds:
            assert not set(groups[train]) & set(groups[test])
            assert len(train) + len(test) == len(groups)
        lengths = [len(test) for _, test in folds]
        # Largest first leaves folds within the smallest group of one another, here 1 or 2.
        assert max(lengths) - min(lengths) <= 2
        found = sorted(tuple(test.tolist()) for _, test in folds)
        assert tests.setdefault(seed, found) == found
    assert tests[0] != tests[1]


def test_a_splitter_gets_the_groups():
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    expected = list(GroupKFold(2).split(np.empty(8), groups=groups))
    for (train, test), wanted in zip(
        ms.image_folds(GroupKFold(2), 8, groups=groups), expected, strict=True
    ):
        np.testing.assert_array_equal(train, wanted[0])
        np.testing.assert_array_equal(test, wanted[1])


@pytest.mark.parametrize(
    ("cv", "groups", "message"),
    [
        (KFold(4), [0, 0, 0, 1, 1, 1, 2, 2], r"fold 0 .* groups \[0\] in both train and test"),
        (4, [0, 0, 0, 1, 1, 1, 2, 2], "3 groups of images are too few for 4 folds"),
        (2, [0, 0, 0, 1, 1, 1, 2], r"groups \(7,\) must have one value for each of the 8 images"),
        (2, [0, 0, 0, 1, 1, 1, 2, None], "no value for 1 of 8 images"),
    ],
)
def test_groups_that_cannot_be_kept_whole_are_refused(cv, groups, message):
    with pytest.raises(ValueError, match=message):
        ms.image_folds(cv, 8, groups=groups)


def test_bootstrap_of_a_mean_has_its_standard_error():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(400)
    weights = ms.bootstrap_weights(400, 4000, random_state=1)
    assert (weights.sum(axis=1) == 400).all()
    means = weights @ values / 400
    # The s.d. of 4000 samples is known to 1/sqrt(8000) = 1.1 %; allow four times that.
    assert means.std() == pytest.approx(values.std() / 20, rel=0.045)
    low, high = ms.bootstrap_interval(means)
    wanted = stats.norm.interval(0.95, values.mean(), values.std() / 20)
    np.testing.assert_allclose([low, high], wanted, atol=0.01)


def test_interval_leaves_out_undefined_samples():
    samples = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    low, high = ms.bootstrap_interval(samples, confidence=1.0)
    np.testing.assert_array_equal(low, [1, np.nan])
    np.testing.assert_array_equal(high, [3, np.nan])


def test_bootstrap_p_is_never_zero_and_one_without_difference():
    assert ms.bootstrap_p_value(np.ones(99)) == pytest.approx(2 / 100)
    assert ms.bootstrap_p_value(np.array([-1.0, 1.0])) == 1
    assert np.isnan(ms.bootstrap_p_value(np.array([np.nan])))


def test_permutation_p_agrees_with_scipy_and_is_uniform_under_the_null():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 30, 200))
    y[:, 0] += x[:, 0]

    def r(rows):
        return np.array([np.corrcoef(x[:, v], y[rows, v])[0, 1] for v in range(y.shape[1])])

    p = ms.permutation_p_values(r, [np.arange(30)], n_permutations=199, random_state=1)
    expected = [stats.pearsonr(x[:, v], y[:, v], alternative="greater").pvalue for v in range(200)]
    # A p estimated from 199 shuffles has s.e. sqrt(p(1-p)/199) <= .036.
    assert np.abs(p - expected).max() < 4 * 0.036
    assert p[0] < 0.02
    assert stats.kstest(p[1:], "uniform").pvalue > 0.01


def test_permutation_stays_within_strata():
    strata = [np.arange(4), np.arange(4, 10)]
    seen = []

    def record(rows):
        seen.append(rows.copy())
        return np.zeros(1)

    ms.permutation_p_values(record, strata, n_permutations=20, random_state=0)
    for rows in seen:
        assert set(rows[:4]) == set(range(4))
    assert len({tuple(rows) for rows in seen}) > 10


def test_fdr_agrees_with_the_definition_and_skips_nan():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.5])
    # Benjamini & Hochberg by hand: sorted .01 .03 .04 .5 times 4/rank, minima from the right.
    np.testing.assert_allclose(ms.fdr(p), [0.04, np.nan, 0.16 / 3, 0.16 / 3, 0.5])


def test_intervals_are_those_of_each_column_alone():
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((101, 6))
    samples[:30, 2], samples[:, 4] = np.nan, np.nan
    low, high = ms.bootstrap_interval(samples)
    full = np.delete(samples, [2, 4], axis=1)
    np.testing.assert_array_equal(np.delete(low, [2, 4]), ms.bootstrap_interval(full)[0])
    wanted = np.percentile(samples[30:, 2], [2.5, 97.5])
    np.testing.assert_allclose([low[2], high[2]], wanted, rtol=1e-12)
    assert np.isnan([low[4], high[4]]).all()


@pytest.mark.parametrize(("n_folds", "n_images"), [(5, 600), (3, 11), (7, 7)])
def test_folds_of_an_int_are_those_of_scikit_learn(n_folds, n_images):
    wanted = KFold(n_folds, shuffle=True, random_state=3).split(np.empty(n_images))
    found = ms.image_folds(n_folds, n_images, random_state=3)
    for one, other in zip(found, wanted, strict=True):
        for side, wanted_side in zip(one, other, strict=True):
            np.testing.assert_array_equal(side, wanted_side)
            assert side.dtype == wanted_side.dtype
