"""Tests of a mean over subjects: t, sign flips, and a bootstrap of images within subjects.

Each takes one value per subject, such as the difference of two encoders, and returns a `GroupTest`.
Subjects without a value (NaN) are left out. All tests are two-sided, of a mean of zero.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from brainenc.documentation import see

#: Largest number of subjects for which all sign flips are tried; above it some are drawn.
MAX_EXACT = 16

#: Sign flips that are drawn with more subjects; bootstrap samples of subjects and images.
N_FLIPS, N_SAMPLES = 2**16, 10_000

#: Relative difference of two sums that rounding explains.
_ROUNDING = 1e-12


class GroupTest(NamedTuple):
    """A test of a mean over subjects.

    Attributes
    ----------
    mean : float
        Mean over the subjects; NaN if there are none.
    low, high : float
        95 % confidence interval. NaN where the test gives none: with fewer than two subjects, or,
        with sign flips, fewer than six.
    statistic : float
        "t" and "hierarchical": mean over its standard error. "signflip": the mean.
    p : float
        Two-sided; NaN with fewer than two subjects.
    p_min : float
        Smallest p that the test can give with this number of subjects.
    n_subjects : int
    """

    mean: float
    low: float
    high: float
    statistic: float
    p: float
    p_min: float
    n_subjects: int


def t_test(values: np.ndarray) -> GroupTest:
    """Student's t test of the mean over subjects, and its interval.

    Parameters
    ----------
    values : array, shape (n_subjects,)

    Returns
    -------
    GroupTest

    Examples
    --------
    >>> found = t_test(np.array([0.02, 0.03, 0.01, 0.03]))
    >>> round(found.statistic, 2), round(found.p, 3)
    (4.7, 0.018)
    """
    values = _present(values)
    if len(values) < 2:
        return _too_few(values)
    error = values.std(ddof=1) / np.sqrt(len(values))
    return _by_t(values, error)


def _by_t(values: np.ndarray, error: float) -> GroupTest:
    """Test and interval by the t distribution of a mean with this standard error."""
    n, mean = len(values), float(values.mean())
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = float(np.float64(mean) / error)
    p = float(2 * stats.t.sf(abs(statistic), n - 1))
    reach = float(stats.t.ppf(0.975, n - 1) * error)
    return GroupTest(mean, mean - reach, mean + reach, statistic, p, 0.0, n)


def sign_flip_test(values: np.ndarray, *, random_state: Any = 0) -> GroupTest:
    """Exact test of the mean by flipping the signs of subjects; it assumes symmetry alone.

    Up to 16 subjects all 2ⁿ flips are tried, and p cannot be below 2 / 2ⁿ: .125 with four subjects.
    With more, 65 536 flips are drawn, and the observed values are added.

    Parameters
    ----------
    values : array, shape (n_subjects,)
    random_state : int, Generator or None
        Seed of flips that are drawn.

    Returns
    -------
    GroupTest
        The interval has the means that the test does not reject, which lie between means of
        subsets of subjects.

    References
    ----------
    Hartigan (1969), Journal of the American Statistical Association 64, "Using subsample values as
    typical values".

    Examples
    --------
    >>> found = sign_flip_test(np.array([0.02, 0.03, 0.01, 0.03]))
    >>> found.p, found.p_min
    (0.125, 0.125)
    """
    values = _present(values)
    n = len(values)
    if n < 2:
        return _too_few(values)
    flipped = _subsets(n, random_state)  # one row per flip, True where a sign is changed
    total = values.sum()
    sums = total - 2 * (flipped @ values)
    limit = abs(total) - _ROUNDING * np.abs(values).sum()
    exact = n <= MAX_EXACT
    count = int((np.abs(sums) >= limit).sum())
    p = count / len(sums) if exact else (count + 1) / (len(sums) + 1)
    p_min = 2 / 2**n if exact else 1 / (len(sums) + 1)
    chosen = flipped[flipped.any(axis=1)]
    means = np.sort(chosen @ values / chosen.sum(axis=1))
    rank = int(0.025 * (len(means) + 1) + _ROUNDING)
    low, high = (means[rank - 1], means[-rank]) if rank else (np.nan, np.nan)
    mean = float(total / n)
    return GroupTest(mean, float(low), float(high), mean, float(p), p_min, n)


def _subsets(n: int, random_state: Any) -> np.ndarray:
    """All subsets of n subjects as masks (n_subsets, n), or random ones if there are too many."""
    if n > MAX_EXACT:
        return np.random.default_rng(random_state).random((N_FLIPS, n)) < 0.5
    return (np.arange(2**n)[:, None] >> np.arange(n)) % 2 == 1


def hierarchical_test(
    values: np.ndarray, samples: np.ndarray, *, random_state: Any = 0
) -> GroupTest:
    """Bootstrap of subjects, and of images within each subject.

    Values of subjects vary for two reasons: subjects differ, and each is measured with few images.
    Subjects are drawn with replacement, and each with one of its bootstrap samples over images. The
    differences of subjects are shrunk before, since they contain the noise of images, which would
    count twice. The standard deviation of the mean over these samples is its standard error, and
    has at least the size that images alone explain: a few subjects that agree by chance do not make
    a small p. The t distribution with n − 1 degrees of freedom gives p and interval, since
    percentiles are too narrow with few subjects (with four, 14 % false positives at 5 %).

    Parameters
    ----------
    values : array, shape (n_subjects,)
    samples : array, shape (n_subjects, n_bootstraps)
        Value of each subject in bootstrap samples of its images; NaN is left out.
    random_state : int, Generator or None

    Returns
    -------
    GroupTest

    References
    ----------
    Davison & Hinkley (1997), Bootstrap Methods and their Application, section 3.8 (shrinkage).
    Saravanan, Berman & Sober (2020), Neurons, Behavior, Data analysis, and Theory 3.
    """
    values, samples = np.asarray(values, float), np.asarray(samples, float)
    kept = np.isfinite(values)
    values, n = values[kept], int(kept.sum())
    if n < 2:
        return _too_few(values)
    rng = np.random.default_rng(random_state)
    noise = [_deviations(of_subject) for of_subject in samples[kept]]
    within = float(np.mean([deviations.var() for deviations in noise]))
    variance = float(values.var(ddof=1))
    # s.d. of subjects themselves: less the noise of images, and as of a population of n.
    between = max(0.0, variance - within)
    shrunk = (values - values.mean()) * np.sqrt(between / variance * n / (n - 1)) if between else 0
    drawn = rng.integers(n, size=(N_SAMPLES, n))
    means = np.zeros(N_SAMPLES)
    for subject in drawn.T:
        means += np.broadcast_to(shrunk, n)[subject]
        for i in range(n):
            of_subject = subject == i
            means[of_subject] += rng.choice(noise[i], int(of_subject.sum()))
    return _by_t(values, float((means / n).std()))


def _deviations(samples: np.ndarray) -> np.ndarray:
    """Bootstrap samples of a subject about their mean."""
    finite = samples[np.isfinite(samples)]
    return finite - finite.mean() if len(finite) else np.zeros(1)


def _present(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    return values[np.isfinite(values)]


def _too_few(values: np.ndarray) -> GroupTest:
    mean = float(values.mean()) if len(values) else np.nan
    return GroupTest(mean, np.nan, np.nan, np.nan, np.nan, np.nan, len(values))


#: Tests by name; each takes the values, the bootstrap samples over images, and a seed.
TESTS: dict[str, Callable[[np.ndarray, Any, Any], GroupTest]] = {
    "t": lambda values, samples, seed: t_test(values),
    "signflip": lambda values, samples, seed: sign_flip_test(values, random_state=seed),
    "hierarchical": lambda values, samples, seed: hierarchical_test(
        values, samples, random_state=seed
    ),
}


def check_test(test: Any) -> str:
    """Name of a test.

    Raises
    ------
    ValueError : there is no such test.
    """
    if test not in TESTS:
        raise ValueError(
            f"test={test!r} must be one of {', '.join(map(repr, TESTS))}" + see("howto_group")
        )
    return test
