"""Comparison of representational geometries: dissimilarity matrices (RDMs) and linear CKA.

Two sets of responses to the same images, with any numbers of voxels or units, are compared by
*pairs* of images. Bootstrap counts over images are `weights`. An image drawn twice would form a
pair with itself, at distance 0 in both geometries, and inflate the agreement, so pairs of an image
with itself are left out of RDM comparisons and of debiased CKA.
"""

from difflib import get_close_matches
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from brainenc.arrays import blocks
from brainenc.metrics._patterns import finite_voxels, unit_patterns
from brainenc.metrics.sums import check_matrix, check_weights, pearson, round_off
from brainenc.numeric import as_doubles


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
    pairs = np.triu(np.isfinite(a) & np.isfinite(b), k=1)
    x, y = a[pairs], b[pairs]
    if method == "kendall":
        if weights is not None:
            raise ValueError('weights are not supported with method="kendall"; use "spearman"')
        return float(stats.kendalltau(x, y).statistic) if x.size > 1 else np.nan
    if method == "spearman":
        x, y = stats.rankdata(x), stats.rankdata(y)
    if x.size:
        # Centred, which reduces cancellation; see `brainenc.metrics.sums.variance`.
        x, y = x - x.mean(), y - y.mean()

    def quadratic_form(values: NDArray[np.float64]) -> NDArray[np.float64]:
        matrix = np.zeros(a.shape)
        matrix[pairs] = values
        return _inner(sets, sets @ matrix)

    terms = (np.ones_like(x), x, y, x * x, y * y, x * y)
    r = pearson([quadratic_form(term) for term in terms])
    return r if weights is not None else float(r[0])


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
    hsic = _hsic_unbiased if debiased else _hsic
    ab, aa, bb = (hsic(k, m, sets) for k, m in ((gram_a, gram_b), (gram_a,) * 2, (gram_b,) * 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        cka = ab / np.sqrt(np.where((aa > 0) & (bb > 0), aa * bb, np.nan))
    return cka if weights is not None else float(cka[0])


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


def _hsic_unbiased(k: np.ndarray, m: np.ndarray, sets: np.ndarray) -> NDArray[np.float64]:
    """HSIC₁, the mean of k_ij (m_ij + m_qr − 2 m_iq) over quadruples of different images.

    A quadruple has weight w_i w_j w_q w_r. With unit weights this is the closed form of Song et al.
    (2012), equation 5. The sums over *different* i, j, q, r follow from the free sums by
    subtracting tuples that share an image. (Separately weighted means over pairs, triples and
    quadruples would agree only for equal weights: otherwise they depend on the origin of the
    responses.)
    """
    w, w2, w3 = sets, sets**2, sets**3
    p1, p2, p3, p4 = (power.sum(axis=1) for power in (w, w2, w3, sets**4))
    same = m is k
    k = k - np.diag(np.diagonal(k))
    kw, kw2 = w @ k, w2 @ k
    if same:
        m, mw, mw2 = k, kw, kw2
    else:
        m = m - np.diag(np.diagonal(m))
        mw, mw2 = w @ m, w2 @ m
    product = k * m
    around, around2, around3 = w @ product, w2 @ product, w3 @ product
    pairs = (
        (p1**2 - p2) * _inner(w, around)
        - 4 * p1 * _inner(w2, around)
        + 4 * _inner(w3, around)
        + 2 * _inner(w2, around2)
    )
    # Σ w_i w_j w_q k_ij m_iq with the image i, j or q squared, over different i, j, q.
    squared_i = _inner(w2, kw * mw - around2)
    squared_j = _inner(w, kw2 * mw - around3)
    squared_q = _inner(w, kw * mw2 - around3)
    triples = p1 * _inner(w, kw * mw - around2) - squared_i - squared_j - squared_q
    quadruples = _inner(w, kw) * _inner(w, mw) - 4 * squared_i - 2 * _inner(w2, around2)
    total = p1**4 - 6 * p1**2 * p2 + 3 * p2**2 + 8 * p1 * p3 - 6 * p4
    enough = (sets > 0).sum(axis=1) >= 4
    return (pairs + quadruples - 2 * triples) / np.where(enough, total, np.nan)


def _inner(a: np.ndarray, b: np.ndarray) -> NDArray[np.float64]:
    return np.einsum("si,si->s", a, b)


def _check_choice(value: str, choices: tuple[str, ...], name: str) -> None:
    if value not in choices:
        close = get_close_matches(str(value).lower(), choices, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}{hint}")
