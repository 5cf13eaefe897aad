"""Splits by image, bootstrap weights, permutation p-values and false discovery rates."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from brainenc.conversion import column, numeric_array
from brainenc.documentation import see
from brainenc.validation import check_index

#: Dimensions in which `cluster_folds` looks for clusters.
_CLUSTERED = 50

Folds = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


def image_folds(cv: Any, n_images: int, *, groups: Any = None, random_state: Any = 0) -> Folds:
    """Train and test positions of every fold, split by image.

    Parameters
    ----------
    cv : int, scikit-learn splitter, or iterable of (train, test)
        Train and test images are positions, or masks of bool, shape (n_images,): one fold is
        ``[(train, test)]``. An int is the number of folds of shuffled images: neighbouring rows are
        often similar (figures of one kind, frames of one scene), and unshuffled folds would test on
        other kinds.
    n_images : int
    groups : array, shape (n_images,), optional
        Group of each image. An int makes folds of whole groups, as `group_folds`; a splitter gets
        them; and no fold may have a group on both sides.
    random_state : int, Generator or None
        Seed of the shuffle when `cv` is an int.

    Returns
    -------
    list of (train, test), arrays of int

    Raises
    ------
    ValueError : fewer images than folds, fewer than two folds, an empty side, an image or a group
        on both sides of a fold or an image twice on one, a fold that is no pair, a mask of other
        numbers than bool, or a splitter that needs groups, such as `GroupKFold`, without them.
    TypeError : train or test images that are neither positions nor a mask.

    Examples
    --------
    >>> folds = image_folds(3, 6, groups=["cat", "cat", "dog", "dog", "cow", "cow"])
    >>> sorted(test.tolist() for train, test in folds)
    [[0, 1], [2, 3], [4, 5]]
    """
    if groups is not None:
        groups = check_groups(groups, n_images)
    if isinstance(cv, (int, np.integer)):
        if cv < 2:
            raise ValueError(f"cv={cv}: cross-validation takes at least 2 folds")
        if n_images < cv:
            raise ValueError(
                f"cv={cv} folds need at least {cv} images, but there are {n_images} "
                f"(n_samples={n_images}); lower cv or give more images"
            )
        if groups is not None:
            return group_folds(groups, int(cv), random_state=random_state)
        return _shuffled_folds(int(cv), n_images, _as_seed(random_state))
    if not hasattr(cv, "split") and not isinstance(cv, str) and np.iterable(cv):
        cv = _pairs(cv)
    from sklearn.model_selection import check_cv  # a tenth of a first fit, which needs no splitter

    try:
        with warnings.catch_warnings():
            # Splitters that take no notice of groups; what they make is checked below.
            warnings.filterwarnings("ignore", "The groups parameter is ignored")
            splits = list(check_cv(cv).split(np.empty(n_images), groups=groups))
    except ValueError as error:
        if "groups" not in str(error):
            raise
        raise ValueError(
            f"cv={cv!r} splits by groups, which are not known here; give groups= where there is "
            "such an argument, or the splits it makes: cv=list(splitter.split(images, "
            "groups=groups))" + see("guide/benchmark")
        ) from error
    folds = []
    for i, (train, test) in enumerate(splits):
        if not _n_chosen(train) or not _n_chosen(test):
            raise ValueError(
                f"fold {i} of cv has {_n_chosen(train)} train and {_n_chosen(test)} test images"
            )
        train = check_index(train, n_images, f"train of fold {i} of cv")
        test = check_index(test, n_images, f"test of fold {i} of cv")
        if shared := np.intersect1d(train, test).tolist():
            raise ValueError(
                f"fold {i} of cv has images {shared[:5]} in both train and test: "
                "its test scores would be too high" + see("guide/benchmark")
            )
        if groups is not None and len(both := np.intersect1d(groups[train], groups[test])):
            raise ValueError(
                f"fold {i} of cv has images of groups {both.tolist()[:5]} in both train and test; "
                "give the number of folds (cv=5) or a splitter that keeps groups whole, such as "
                "GroupKFold" + see("guide/benchmark")
            )
        folds.append((train, test))
    return folds


def _shuffled_folds(n_folds: int, n_images: int, seed: Any) -> Folds:
    """Those of scikit-learn's `KFold` with ``shuffle=True``."""
    order = np.arange(n_images)
    check_random_state(seed).shuffle(order)
    fold = np.empty(n_images, dtype=int)
    for i, test in enumerate(np.array_split(order, n_folds)):
        fold[test] = i
    return [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(n_folds)]


def _pairs(cv: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Folds given one by one, each a pair of train and test images."""
    folds = [fold if hasattr(fold, "shape") else list(fold) for fold in _listed(cv)]
    # Two sides of numbers instead of two folds of two sides each.
    if len(folds) == 2 and all(np.ndim(part) == 0 for fold in folds for part in fold):
        raise ValueError(
            "cv=(train, test) is a single pair of train and test images, and cv lists such pairs: "
            "give cv=[(train, test)]"
        )
    for i, fold in enumerate(folds):
        if len(fold) != 2:
            raise ValueError(
                f"fold {i} of cv has {len(fold)} parts, but it must be a pair of train and test "
                "images, positions or masks of bool: cv=[(train, test), …]"
            )
    return [(train, test) for train, test in folds]


def _listed(cv: Iterable[Any]) -> list[Any]:
    folds = list(cv)
    if any(isinstance(fold, (str, bytes)) or not np.iterable(fold) for fold in folds):
        raise ValueError(
            "cv must be a number of folds, a splitter of scikit-learn, or a list of pairs of "
            f"train and test images, cv=[(train, test), …], got {cv!r}"
        )
    return folds


def _n_chosen(side: Any) -> int:
    side = np.asarray(side)
    return int(side.sum()) if side.dtype == bool else side.size


def check_groups(groups: Any, n_images: int) -> NDArray:
    """Groups as an array with one value per image.

    Parameters
    ----------
    groups : array, shape (n_images,)
        Numbers or text.
    n_images : int

    Raises
    ------
    ValueError : another shape, or an image without a group (NaN, None).
    """
    values = column(groups, "groups", "n_images")
    if values.shape != (n_images,):
        raise ValueError(
            f"groups {values.shape} must have one value for each of the {n_images} images"
        )
    if missing := int(pd.isna(values).sum()):
        raise ValueError(
            f"groups has no value for {missing} of {n_images} images; give each a group of its own"
        )
    return values.astype(str) if values.dtype == object else values


def group_folds(groups: Any, n_folds: int, *, random_state: Any = 0) -> Folds:
    """Shuffled folds of whole groups, of nearly equal numbers of images.

    The largest groups are dealt out first, each to the smallest fold so far; the seed decides among
    groups of one size. (`GroupKFold` either balances or shuffles.)

    Parameters
    ----------
    groups : array, shape (n_images,)
        Group of each image.
    n_folds : int
    random_state : int, Generator or None

    Returns
    -------
    list of (train, test), arrays of int in increasing order

    Raises
    ------
    ValueError : fewer groups than folds.

    Examples
    --------
    >>> folds = group_folds([0, 0, 0, 1, 2, 3], 2)
    >>> [test.tolist() for train, test in folds]
    [[0, 1, 2], [3, 4, 5]]
    """
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if n_folds < 2 or len(sizes) < n_folds:
        raise ValueError(
            f"{len(sizes)} groups of images are too few for {n_folds} folds of whole groups: the "
            f"largest has {sizes.max()} of {len(number)} images; give a cv from 2 to the number of "
            "groups, or smaller groups" + see("guide/benchmark")
        )
    order = np.random.default_rng(_as_seed(random_state)).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled, fold = np.zeros(n_folds, dtype=int), np.empty(len(sizes), dtype=int)
    for group in order:
        fold[group] = filled.argmin()
        filled[fold[group]] += sizes[group]
    of_image = fold[number]
    return [(np.flatnonzero(of_image != i), np.flatnonzero(of_image == i)) for i in range(n_folds)]


def cluster_folds(targets: Any, k: int, *, random_state: int = 0) -> Folds:
    """Folds that hold out whole clusters of similar targets, by k-means.

    With random folds, the test images have neighbours among the training images; a decoder that
    finds the nearest of these looks as if it could read new ones. Here no test image has one.

    Parameters
    ----------
    targets : array, shape (n_images, n_dimensions) or (n_images, n_tokens, width)
        Targets or features. With more than 50 dimensions, their first 50 principal components are
        clustered, which takes all of them into memory.
    k : int
        Number of clusters, which is that of folds. Clusters differ in size.
    random_state : int
        Seed of k-means.

    Returns
    -------
    list of (train, test), arrays of int
        For ``cv`` of `brainenc.decoding_benchmark` and `brainenc.benchmark`; the largest cluster is
        the first test set.

    Raises
    ------
    ValueError : fewer than two clusters, targets that are not finite, or a cluster of fewer than
        two images.

    Examples
    --------
    >>> targets = np.repeat([[0.0], [10.0]], 3, axis=0) + np.arange(6)[:, None] / 10
    >>> sorted(test.tolist() for train, test in cluster_folds(targets, 2))
    [[0, 1, 2], [3, 4, 5]]
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    array = numeric_array(targets, "targets")
    flat = array.reshape(len(array), -1)
    if not isinstance(k, int | np.integer) or not 2 <= k <= len(flat) // 2:
        raise ValueError(
            f"k={k!r} must be a whole number between 2 and half the number of images, "
            f"{len(flat) // 2}"
        )
    if not np.isfinite(flat).all():
        raise ValueError(f"targets {array.shape} contain NaN or infinity")
    if flat.shape[1] > _CLUSTERED:
        n = min(_CLUSTERED, len(flat))
        flat = PCA(n, svd_solver="randomized", random_state=random_state).fit_transform(flat)
    found = KMeans(k, n_init=10, random_state=random_state).fit_predict(flat)
    sizes = np.bincount(found, minlength=k)
    if sizes.min() < 2:
        raise ValueError(
            f"k={k} gives a cluster of {sizes.min()} image, and a fold tests at least 2: lower k"
        )
    order = np.argsort(-sizes, kind="stable")
    return [(np.flatnonzero(found != i), np.flatnonzero(found == i)) for i in order]


def fixed_seed(random_state: Any) -> int:
    """Seed of several random sequences: the int, one from a Generator, or of None a new one.

    >>> fixed_seed(3)
    3
    """
    return int(_as_seed(np.random.default_rng() if random_state is None else random_state))


def _as_seed(random_state: Any) -> Any:
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    return random_state


def bootstrap_weights(
    n_images: int, n_bootstraps: int, *, random_state: Any = None
) -> NDArray[np.float32]:
    """Count of each image in each bootstrap sample.

    Parameters
    ----------
    n_images, n_bootstraps : int
    random_state : int, Generator or None

    Returns
    -------
    array, shape (n_bootstraps, n_images)
        Counts; every row sums to `n_images`. The same weights applied to two encoders make a
        paired bootstrap.
    """
    if n_images == 0:
        return np.zeros((n_bootstraps, 0), dtype=np.float32)
    rng = np.random.default_rng(random_state)
    share = np.full(n_images, 1 / n_images)
    return rng.multinomial(n_images, share, size=n_bootstraps).astype(np.float32)


def bootstrap_interval(
    values: np.ndarray, *, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile interval over the first axis.

    Parameters
    ----------
    values : array, shape (n_bootstraps, ...)
        Value in every bootstrap sample; NaN is left out.
    confidence : float

    Returns
    -------
    low, high : arrays of shape (...); NaN where every sample is NaN.
    """
    tail = 50 * (1 - confidence)
    values = np.asarray(values, dtype=np.float64)
    missing = np.isnan(values)
    if not missing.any():  # a tenth of the time
        low, high = np.percentile(values, [tail, 100 - tail], axis=0)
        return low, high
    undefined = missing.all(axis=0)
    safe = np.where(undefined, 0.0, values)
    low, high = np.nanpercentile(safe, [tail, 100 - tail], axis=0)
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def bootstrap_p_value(differences: np.ndarray) -> float:
    """Two-sided p of "no difference" from bootstrap differences.

    Parameters
    ----------
    differences : array, shape (n_bootstraps,)
        Differences in a paired bootstrap; NaN is left out.

    Returns
    -------
    float
        Twice the smaller share of samples on either side of zero, with the observed sample added,
        so at least 2 / (n_bootstraps + 1); NaN without a finite sample.
    """
    finite = np.asarray(differences)[np.isfinite(differences)]
    if finite.size == 0:
        return np.nan
    tail = min((finite <= 0).sum(), (finite >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (finite.size + 1)))


def permutation_p_values(
    statistic: Callable[[np.ndarray], np.ndarray],
    strata: Iterable[np.ndarray],
    *,
    n_permutations: int = 1000,
    random_state: Any = None,
) -> NDArray[np.float64]:
    """One-sided p of a statistic under shuffles of the images.

    Parameters
    ----------
    statistic : callable
        Takes positions (n_images,), the row of the targets that each prediction is compared with,
        and returns one value per voxel, larger is better.
    strata : iterable of int arrays
        Positions that are shuffled with each other (the test images of one fold); together they are
        0 … n_images − 1.
    n_permutations : int
    random_state : int, Generator or None

    Returns
    -------
    array, shape (n_voxels,)
        (1 + number of shuffles at least as good) / (1 + n_permutations); NaN where the statistic
        is NaN.

    References
    ----------
    Phipson & Smyth (2010), Statistical Applications in Genetics and Molecular Biology 9.
    """
    strata = [np.asarray(stratum) for stratum in strata]
    observed = np.asarray(statistic(np.arange(sum(map(len, strata)))))
    at_least = np.zeros(observed.shape, dtype=np.int64)
    for shuffled in shuffles(strata, n_permutations, random_state=random_state):
        at_least += statistic(shuffled) >= observed
    return permutation_p(observed, at_least, n_permutations)


def shuffles(
    strata: Sequence[np.ndarray], n_permutations: int, *, random_state: Any = None
) -> Iterator[NDArray[np.int64]]:
    """Positions 0 … n_images − 1 in random orders, shuffled within each stratum."""
    rng = np.random.default_rng(random_state)
    identity = np.arange(sum(map(len, strata)))
    for _ in range(n_permutations):
        shuffled = identity.copy()
        for stratum in strata:
            shuffled[stratum] = rng.permutation(stratum)
        yield shuffled


def permutation_p(
    observed: np.ndarray, at_least: np.ndarray, n_permutations: int
) -> NDArray[np.float64]:
    """(1 + shuffles at least as good) / (1 + shuffles), NaN where `observed` is NaN."""
    return np.where(np.isnan(observed), np.nan, (1 + at_least) / (1 + n_permutations))


def fdr(p_values: np.ndarray) -> NDArray[np.float64]:
    """Benjamini–Hochberg adjusted p-values; NaN stays NaN and does not count as a test.

    Parameters
    ----------
    p_values : array, shape (n_voxels,)

    Returns
    -------
    array, shape (n_voxels,): the smallest false discovery rate at which each voxel is a discovery.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    order = tested[np.argsort(p_values[tested])]
    m = len(order)
    rates = p_values[order] * (m / np.arange(1, m + 1))
    # Not smaller than that of any smaller p, and at most 1.
    adjusted[order] = np.clip(np.minimum.accumulate(rates[::-1])[::-1], 0, 1)
    return adjusted
