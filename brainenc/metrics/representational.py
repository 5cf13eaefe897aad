"""Comparison of representational geometries: dissimilarity matrices (RDMs) and linear CKA.

Two sets of responses to the same images, with any numbers of voxels or units, are compared by
*pairs* of images. Bootstrap counts over images are `weights`. An image drawn twice would form a
pair with itself, at distance 0 in both geometries, and inflate the agreement, so pairs of an image
with itself are left out of RDM comparisons and of debiased CKA.
"""

from difflib import get_close_matches
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist, squareform

from brainenc.arrays import blocks
from brainenc.metrics._patterns import finite_voxels, unit_patterns
from brainenc.metrics.sums import check_matrix, check_weights, pearson, round_off
from brainenc.numeric import as_doubles, average_ranks


def rdm(responses: ArrayLike, metric: str = "correlation") -> NDArray[np.float64]:
    """Representational dissimilarity matrix: a distance for every pair of images.

    Parameters
    ----------
    responses : array, shape (n_images, n_voxels)
        Voxels that are not finite for every image are left out.
    metric : {"correlation", "euclidean"}
        1 − Pearson r across voxels, or the Euclidean distance in units of the responses.

    Returns
    -------
    array, shape (n_images, n_images), float64
        Symmetric, 0 on the diagonal; correlation distances lie in [0, 2] and are rounded to 12
        decimals, which removes round-off. With "correlation", NaN for pairs of an image whose
        pattern is constant across voxels.

    Raises
    ------
    ValueError : no voxel finite for all images, or an unknown metric.

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), Frontiers in Systems Neuroscience 2:4.
    """
    responses = check_matrix(responses, "responses")
    _check_choice(metric, ("correlation", "euclidean"), "metric")
    voxels = finite_voxels(responses=responses)
    if metric == "euclidean":
        return squareform(pdist(np.asarray(responses, dtype=np.float64)[:, voxels]))
    patterns = unit_patterns(responses, voxels, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # constant patterns are NaN
        distances = 1 - patterns @ patterns.T
    # Without round-off of the product, equal distances are ties instead of a random order.
    np.round(distances, 12, out=distances)
    np.fill_diagonal(distances, 0 * np.diagonal(distances))
    return np.maximum(distances, 0)


@overload
def rdm_correlation(
    rdm_a: ArrayLike, rdm_b: ArrayLike, *, method: str = "spearman", weights: None = None
) -> float: ...
@overload
def rdm_correlation(
    rdm_a: ArrayLike, rdm_b: ArrayLike, *, method: str = "spearman", weights: ArrayLike
) -> NDArray[np.float64]: ...
def rdm_correlation(
    rdm_a: ArrayLike,
    rdm_b: ArrayLike,
    *,
    method: str = "spearman",
    weights: ArrayLike | None = None,
) -> float | NDArray[np.float64]:
    """Correlation of two RDMs over their pairs of different images.

    Parameters
    ----------
    rdm_a, rdm_b : array, shape (n_images, n_images)
        The entries above the diagonal are used. Pairs that are NaN in either are left out.
    method : {"spearman", "pearson", "kendall"}
        "kendall" is tau-b and takes no weights.
    weights : array, shape (n_sets, n_images), optional
        How often each image counts in each set, >= 0. The pair (i, j) then has weight w_i · w_j,
        and an image never pairs with its own copy. For "spearman" the entries are ranked once,
        among all pairs, and the ranks are correlated with these weights.

    Returns
    -------
    float or, with weights, array of shape (n_sets,)
        In [-1, 1]. NaN where either RDM is constant over the pairs that count.

    Raises
    ------
    ValueError : not two square matrices of one shape, an unknown method, weights with "kendall".

    References
    ----------
    Nili et al. (2014), PLoS Computational Biology 10, e1003553.
    """
    _check_choice(method, ("spearman", "pearson", "kendall"), "method")
    a, b = as_doubles(rdm_a, "rdm_a"), as_doubles(rdm_b, "rdm_b")
    if a.ndim != 2 or a.shape[0] != a.shape[1] or a.shape != b.shape:
        raise ValueError(
            f"rdm_a {a.shape} and rdm_b {b.shape} must both be (n_images, n_images) for the same "
            "images; make them with rdm(responses)"
        )
    sets = check_weights(weights, len(a))
    pairs = _pairs(np.isfinite(a) & np.isfinite(b))
    if method == "kendall":
        if weights is not None:
            raise ValueError('weights are not supported with method="kendall"; use "spearman"')
        from scipy.stats import kendalltau

        x, y = a[pairs], b[pairs]
        return float(kendalltau(x, y).statistic) if x.size > 1 else np.nan
    x, y = (_centred(matrix[pairs], method) for matrix in (a, b))
    r = _weighted_pearson(x, y, pairs, sets, _own_sums(y, pairs, sets))
    return r if weights is not None else float(r[0])


def _pairs(finite: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pairs of different images, each once."""
    return np.triu(finite, k=1)


def _centred(entries: NDArray[np.float64], method: str = "spearman") -> NDArray[np.float64]:
    """Entries of an RDM, or their ranks, about their mean.

    This reduces cancellation; see `brainenc.metrics.sums.variance`.
    """
    if method == "spearman":
        entries = average_ranks(entries)
    return entries - entries.mean() if entries.size else entries


def _sum_over_pairs(
    values: NDArray[np.float64], pairs: NDArray[np.bool_], sets: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum of w_i · w_j · value over pairs (i, j), for every set of weights."""
    matrix = np.zeros(pairs.shape)
    matrix[pairs] = values
    return _inner(sets, sets @ matrix)


def _own_sums(
    y: NDArray[np.float64], pairs: NDArray[np.bool_], sets: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Sums over pairs of 1, y and y²."""
    return [_sum_over_pairs(term, pairs, sets) for term in (np.ones_like(y), y, y * y)]


def _weighted_pearson(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    pairs: NDArray[np.bool_],
    sets: NDArray[np.float64],
    sums_of_y: list[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Correlation of values of pairs for every set of weights; `sums_of_y` from `_own_sums`."""
    if not x.any():  # equal distances, as of a prediction that is the same for all images
        return np.full(len(sets), np.nan)
    w, sum_y, sum_yy = sums_of_y
    sum_x, sum_xx, sum_xy = (_sum_over_pairs(term, pairs, sets) for term in (x, x * x, x * y))
    return pearson([w, sum_x, sum_y, sum_xx, sum_yy, sum_xy])


@overload
def linear_cka(
    responses_a: ArrayLike, responses_b: ArrayLike, *, weights: None = None, debiased: bool = True
) -> float: ...
@overload
def linear_cka(
    responses_a: ArrayLike, responses_b: ArrayLike, *, weights: ArrayLike, debiased: bool = True
) -> NDArray[np.float64]: ...
def linear_cka(
    responses_a: ArrayLike,
    responses_b: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    debiased: bool = True,
) -> float | NDArray[np.float64]:
    """Linear centred kernel alignment of two sets of responses to the same images.

    1 for responses equal up to rotation, shift and one gain; 0 for unrelated ones.

    The plain estimate includes products of an image with itself: with more voxels than images it
    tends to 1 even for pure noise. The debiased estimate (the default) leaves these products out
    and is a ratio of unbiased estimates of HSIC (HSIC₁ of Song et al. 2012); for unrelated
    responses it scatters around 0.

    Parameters
    ----------
    responses_a : array, shape (n_images, n_voxels_a)
    responses_b : array, shape (n_images, n_voxels_b)
        Voxels that are not finite for every image are left out. Memory and time grow with
        n_images².
    weights : array, shape (n_sets, n_images), optional
        Count of each image in each set, >= 0, also in the centring. With `debiased`, only tuples of
        *different* images count, so copies of an image in a resample cause no bias; otherwise
        copies count as separate images.
    debiased : bool

    Returns
    -------
    float or, with weights, array of shape (n_sets,)
        At most 1; >= 0 unless debiased. NaN if either set of responses is constant over the images
        or, debiased, if its HSIC is not positive or there are fewer than four different images.

    Raises
    ------
    ValueError : different numbers of images, or no voxel finite for all images.

    References
    ----------
    Kornblith et al. (2019), ICML (CKA); Song et al. (2012), JMLR 13 (HSIC₁); Murphy et al.
    (2024), arXiv 2405.01012 (the bias with many voxels).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> responses = rng.standard_normal((50, 20))
    >>> round(linear_cka(responses, 2 * responses), 3)
    1.0
    >>> abs(linear_cka(responses, rng.standard_normal((50, 30)))) < 0.2  # unrelated responses
    True
    """
    a, b = check_matrix(responses_a, "responses_a"), check_matrix(responses_b, "responses_b")
    if len(a) != len(b):
        raise ValueError(
            f"responses_a {a.shape} and responses_b {b.shape} must have one row per image each, "
            "for the same images"
        )
    sets = check_weights(weights, len(a))
    gram_a, gram_b = _gram(a, "responses_a"), _gram(b, "responses_b")
    if debiased:
        resamples = _Resamples(sets)
        cka = _debiased_cka(_GramSums(gram_a, resamples), _GramSums(gram_b, resamples))
    else:
        pairs = (gram_a, gram_b), (gram_a, gram_a), (gram_b, gram_b)
        cka = _cka(*(_hsic(k, m, sets) for k, m in pairs))
    return cka if weights is not None else float(cka[0])


def _cka(ab: np.ndarray, aa: np.ndarray, bb: np.ndarray) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return ab / np.sqrt(np.where((aa > 0) & (bb > 0), aa * bb, np.nan))


class Geometry:
    """Responses whose geometry several others are compared with, plainly and under weights.

    What depends on these responses and the weights alone is computed once.

    Parameters
    ----------
    responses : array, shape (n_images, n_voxels)
        At least two images.
    weights : array, shape (n_sets, n_images)
        As of `linear_cka`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> measured = rng.standard_normal((30, 20))
    >>> counts = rng.multinomial(30, np.full(30, 1 / 30), size=100)
    >>> r, samples = Geometry(measured, counts).cka(2 * measured)
    >>> round(r, 3), samples.shape
    (1.0, (100,))
    """

    def __init__(self, responses: ArrayLike, weights: ArrayLike):
        self.responses = check_matrix(responses, "responses")
        n_images = len(self.responses)
        self._resamples = [_Resamples(check_weights(w, n_images)) for w in (None, weights)]

    def cka(self, others: ArrayLike) -> tuple[float, NDArray[np.float64]]:
        """`linear_cka` of others with these responses, plain and for every set of weights."""
        gram = _gram(check_matrix(others, "others"), "others")
        plain, weighted = (
            _debiased_cka(_GramSums(gram, own.resamples), own) for own in self._gram_sums
        )
        return float(plain[0]), weighted

    def rdm_correlation(self, others: ArrayLike) -> tuple[float, NDArray[np.float64]]:
        """`rdm_correlation` of the RDMs, plain and for every set of weights."""
        other = rdm(others)
        pairs, y, sums_of_y = self._distances, self._ranks, self._rank_sums
        both = _pairs(np.isfinite(other) & np.isfinite(self._rdm))
        if not np.array_equal(both, pairs):
            pairs, y = both, _centred(self._rdm[both])
            sums_of_y = [_own_sums(y, pairs, some.w) for some in self._resamples]
        x = _centred(other[pairs])
        plain, weighted = (
            _weighted_pearson(x, y, pairs, some.w, sums)
            for some, sums in zip(self._resamples, sums_of_y, strict=True)
        )
        return float(plain[0]), weighted

    @cached_property
    def _gram_sums(self) -> list["_GramSums"]:
        gram = _gram(self.responses, "responses")
        return [_GramSums(gram, some) for some in self._resamples]

    @cached_property
    def _rdm(self) -> NDArray[np.float64]:
        return rdm(self.responses)

    @cached_property
    def _distances(self) -> NDArray[np.bool_]:
        return _pairs(np.isfinite(self._rdm))

    @cached_property
    def _ranks(self) -> NDArray[np.float64]:
        return _centred(self._rdm[self._distances])

    @cached_property
    def _rank_sums(self) -> list[list[NDArray[np.float64]]]:
        return [_own_sums(self._ranks, self._distances, some.w) for some in self._resamples]


def _gram(responses: np.ndarray, name: str) -> NDArray[np.float64]:
    """Inner products of images, voxels centred; exactly 0 if every voxel is constant."""
    voxels = np.flatnonzero(finite_voxels(**{name: responses}))
    gram = np.zeros((len(responses), len(responses)))
    for block in blocks(len(voxels), 2**22 // len(responses)):
        x = np.asarray(responses[:, voxels[block]], dtype=np.float64)
        noise = round_off(responses, x[0])
        x -= x.mean(axis=0)
        x[:, np.einsum("iv,iv->v", x, x) <= noise * len(x)] = 0
        gram += x @ x.T
    return gram


def _hsic(k: np.ndarray, m: np.ndarray, sets: np.ndarray) -> NDArray[np.float64]:
    """Sum of products of two Gram matrices, centred with each set's weights."""
    total = sets.sum(axis=1)
    kw, mw = sets @ k, sets @ m
    pairs = _inner(sets, sets @ (k * m))
    triples = _inner(sets, kw * mw)
    quadruples = _inner(sets, kw) * _inner(sets, mw)
    with np.errstate(divide="ignore", invalid="ignore"):
        return pairs - 2 * triples / total + quadruples / total**2


class _Resamples:
    """Sets of weights, shape (n_sets, n_images), their powers, and sums of these over images."""

    def __init__(self, sets: np.ndarray):
        self.w, self.w2, self.w3 = sets, sets**2, sets**3
        self.p1, self.p2, p3, p4 = (
            power.sum(axis=1) for power in (sets, self.w2, self.w3, sets**4)
        )
        p1, p2 = self.p1, self.p2
        total = p1**4 - 6 * p1**2 * p2 + 3 * p2**2 + 8 * p1 * p3 - 6 * p4
        enough = (sets > 0).sum(axis=1) >= 4
        #: Sum of w_i w_j w_q w_r over different images; NaN with fewer than four.
        self.quadruples = np.where(enough, total, np.nan)


class _GramSums:
    """A Gram matrix without its diagonal, and weighted sums of its rows."""

    def __init__(self, gram: np.ndarray, resamples: _Resamples):
        self.resamples = resamples
        self.k = gram - np.diag(np.diagonal(gram))

    @cached_property
    def kw(self) -> NDArray[np.float64]:
        return self.resamples.w @ self.k

    @cached_property
    def kw2(self) -> NDArray[np.float64]:
        return self.resamples.w2 @ self.k

    @cached_property
    def own_hsic(self) -> NDArray[np.float64]:
        return _hsic_unbiased(self, self)


def _debiased_cka(a: _GramSums, b: _GramSums) -> NDArray[np.float64]:
    if not a.k.any():  # equal responses to all images
        return np.full(len(a.resamples.w), np.nan)
    return _cka(_hsic_unbiased(a, b), a.own_hsic, b.own_hsic)


def _hsic_unbiased(a: _GramSums, b: _GramSums) -> NDArray[np.float64]:
    """HSIC₁, the mean of k_ij (m_ij + m_qr − 2 m_iq) over quadruples of different images.

    A quadruple has weight w_i w_j w_q w_r. With unit weights this is the closed form of Song et al.
    (2012), equation 5. The sums over *different* i, j, q, r follow from the free sums by
    subtracting tuples that share an image. (Separately weighted means over pairs, triples and
    quadruples would agree only for equal weights: otherwise they depend on the origin of the
    responses.)
    """
    sets = a.resamples
    w, w2, w3, p1, p2 = sets.w, sets.w2, sets.w3, sets.p1, sets.p2
    kw, kw2, mw, mw2 = a.kw, a.kw2, b.kw, b.kw2
    product = a.k * b.k
    around, around2, around3 = w @ product, w2 @ product, w3 @ product
    of_squares = _inner(w2, around2)
    pairs = (
        (p1**2 - p2) * _inner(w, around)
        - 4 * p1 * _inner(w2, around)
        + 4 * _inner(w3, around)
        + 2 * of_squares
    )
    # Σ w_i w_j w_q k_ij m_iq with the image i, j or q squared, over different i, j, q.
    both = kw * mw - around2
    squared_i = _inner(w2, both)
    squared_j = _inner(w, kw2 * mw - around3)
    squared_q = _inner(w, kw * mw2 - around3)
    triples = p1 * _inner(w, both) - squared_i - squared_j - squared_q
    quadruples = _inner(w, kw) * _inner(w, mw) - 4 * squared_i - 2 * of_squares
    return (pairs + quadruples - 2 * triples) / sets.quadruples


def _inner(a: np.ndarray, b: np.ndarray) -> NDArray[np.float64]:
    return np.einsum("si,si->s", a, b)


def _check_choice(value: str, choices: tuple[str, ...], name: str) -> None:
    if value not in choices:
        close = get_close_matches(str(value).lower(), choices, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}{hint}")
