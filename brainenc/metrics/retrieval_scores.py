"""Retrieval scores: one path from a matrix of similarities to scores in both directions."""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from brainenc.conversion import column
from brainenc.metrics.choices import chance as chance_of
from brainenc.metrics.choices import chosen, compare_several
from brainenc.metrics.pools import make_pools
from brainenc.metrics.sums import check_matrix
from brainenc.model_selection import bootstrap_interval, bootstrap_p_value, bootstrap_weights

#: Directions, named by what is chosen.
DIRECTIONS = ("image_retrieval", "brain_retrieval")


@dataclass(frozen=True)
class Direction:
    """Retrieval in one direction.

    Attributes
    ----------
    hits, tries : arrays, shape (n_images,)
        Of each image, the sum over pools of the share of correct choices, and the number of pools
        in which they are defined.
    ranks : array, shape (n_images,)
        Mean rank of the right one in a pool, from 1; NaN where undefined.
    chance : float
        Expected score of a choice at random, with the duplicates there are.
    pools : array, shape (n_pools,)
        Score of each pool; NaN where it has no defined choice.
    """

    hits: NDArray[np.float64]
    tries: NDArray[np.float64]
    ranks: NDArray[np.float64]
    chance: float
    pools: NDArray[np.float64]

    @property
    def scores(self) -> NDArray[np.float64]:
        """Score of each image; NaN where it is undefined, or the image is in no pool."""
        return np.divide(
            self.hits, self.tries, out=np.full(len(self.hits), np.nan), where=self.tries > 0
        )

    @property
    def score(self) -> float:
        """Share of correct choices, over images and pools; NaN if undefined in all."""
        total = self.tries.sum()
        return float(self.hits.sum() / total) if total else float("nan")

    @property
    def median_rank(self) -> float:
        """Median over images of `ranks`; NaN if undefined for all."""
        known = self.ranks[np.isfinite(self.ranks)]
        return float(np.median(known)) if known.size else float("nan")

    def resampled(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Score in resamples of images (n_resamples, n_images)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ self.hits) / (weights @ self.tries)


@dataclass(frozen=True)
class Retrieval:
    """Retrieval in both directions.

    Attributes
    ----------
    image, brain : Direction
        Which image, given a response; and which response, given an image.
    ids : array, shape (n_images,)
        Different images, in the order of the scores.
    pool_size, k : int
    pools : str
        Kind of the pools.
    n_undefined : int
        Images without a defined score, of those that are in a pool.
    """

    image: Direction
    brain: Direction
    ids: np.ndarray
    pool_size: int
    k: int
    pools: str
    n_undefined: int
    _bootstrap: tuple[int, int] = (1000, 0)
    _members: tuple[int, ...] = ()

    @property
    def image_retrieval(self) -> float:
        """Share of responses whose image is among the k best; between 0 and 1."""
        return self.image.score

    @property
    def brain_retrieval(self) -> float:
        """Share of images whose response is among the k best; between 0 and 1."""
        return self.brain.score

    def interval(self, direction: str, *, confidence: float = 0.95) -> tuple[float, float]:
        """Percentile interval by bootstrap over images.

        Pools are drawn from the same images, so their spread is not the uncertainty, and more pools
        do not make the interval narrower.

        Parameters
        ----------
        direction : "image_retrieval" or "brain_retrieval"
        confidence : float
        """
        low, high = bootstrap_interval(
            self._direction(direction).resampled(self._weights()), confidence=confidence
        )
        return float(low), float(high)

    def difference(self, other: "Retrieval", *, confidence: float = 0.95) -> pd.DataFrame:
        """Scores minus those of another, by paired bootstrap over images.

        Parameters
        ----------
        other : Retrieval
            Of the same images in the same pools: `retrieval` with the same arguments and seed.

        Returns
        -------
        DataFrame, one row per direction
            ``difference``, ``low``, ``high`` (percentile interval) and ``p``.

        Raises
        ------
        ValueError : other images, pools or k.
        """
        ours = (self.ids.tolist(), self.pool_size, self.k, self.pools, self._members)
        theirs = (other.ids.tolist(), other.pool_size, other.k, other.pools, other._members)
        if ours != theirs:
            raise ValueError(
                "the two retrievals are of other images, pools or k: call retrieval for both with "
                "the same ids, pool_size, n_pools, pools, k and random_state"
            )
        rows, weights = {}, self._weights()
        for name in DIRECTIONS:
            a, b = self._direction(name), other._direction(name)
            both = (a.tries > 0) & (b.tries > 0)
            differences = a.resampled(weights * both) - b.resampled(weights * both)
            low, high = bootstrap_interval(differences, confidence=confidence)
            found = (a.resampled(both[None] * 1.0) - b.resampled(both[None] * 1.0))[0]
            rows[name] = {
                "difference": float(found),
                "low": float(low),
                "high": float(high),
                "p": bootstrap_p_value(differences),
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    def row(self) -> dict[str, Any]:
        """Scores as a row of a table, as fractions.

        ``image_retrieval`` and ``brain_retrieval`` with ``_low``, ``_high``, ``_chance`` and
        ``_median_rank``, and ``n_undefined``.
        """
        found: dict[str, Any] = {}
        for name in DIRECTIONS:
            part = self._direction(name)
            found[name] = part.score
            found[f"{name}_low"], found[f"{name}_high"] = self.interval(name)
            found[f"{name}_chance"] = part.chance
            found[f"{name}_median_rank"] = part.median_rank
        return {**found, "n_undefined": self.n_undefined}

    def _direction(self, name: str) -> Direction:
        if name not in DIRECTIONS:
            raise ValueError(f"direction={name!r} must be one of {list(DIRECTIONS)}")
        return self.image if name == "image_retrieval" else self.brain

    def _weights(self) -> NDArray[Any]:
        return _weights(len(self.ids), *self._bootstrap)


@lru_cache(maxsize=4)
def _weights(n_images: int, n_bootstraps: int, seed: int) -> NDArray[Any]:
    """`bootstrap_weights`, which many rows of a table share."""
    weights = bootstrap_weights(n_images, n_bootstraps, random_state=seed)
    weights.flags.writeable = False
    return weights


def retrieval(
    similarity: ArrayLike,
    *,
    query_ids: Any,
    candidate_ids: Any,
    pool_size: int = 300,
    n_pools: int = 30,
    k: int = 1,
    pools: str = "random",
    categories: Any = None,
    targets: Any = None,
    n_bootstraps: int = 1000,
    random_state: int = 0,
) -> Retrieval:
    """Top-k retrieval from similarities of responses and candidate images, matched by ids.

    A pool is a set of different images, with all responses to them and all candidates of them. In a
    pool, each response chooses among the candidates (image retrieval) and each candidate among the
    responses (brain retrieval). The choice is right if one of the k most similar ones is of the
    same image. Ties are broken at random in expectation.

    Parameters
    ----------
    similarity : array, shape (n_responses, n_candidates)
        Larger is more similar: a cosine, a correlation or a log-likelihood.
    query_ids : array, shape (n_responses,)
        Image that each response was measured for; numbers or text. Single trials repeat ids.
    candidate_ids : array, shape (n_candidates,)
        Image of each candidate. Rows and columns are matched by these, never by position.
    pool_size : int
        Different images in a pool. 300 is usual.
    n_pools : int
        Random pools; of each category with ``pools="same category"``; of no effect with "nearest".
    k : int
    pools : "random", "same category" or "nearest"
        Hard pools: images of one category (smaller ones are left out), or each image with those
        that have the most similar targets.
    categories, targets : arrays, shape (n_candidates,) and (n_candidates, n_features), optional
        For the hard pools; candidates must then have different ids.
    n_bootstraps : int
        Resamples of images for intervals.
    random_state : int
        Seed of the pools and of the bootstrap. With the same seed two decoders have the same ones.

    Returns
    -------
    Retrieval
        A choice is NaN if a similarity that it depends on is NaN: it is never counted as right.

    Raises
    ------
    ValueError : ids that do not match or are missing, `pool_size` not between 2 and the number of
        images, or `k` not in 1 … `pool_size`.

    Notes
    -----
    Public code of several papers has the two directions swapped: what its "image retrieval" chooses
    is a response.

    Examples
    --------
    >>> similarity = np.eye(4)[:, [3, 2, 1, 0]]
    >>> found = retrieval(
    ...     similarity, query_ids=list("abcd"), candidate_ids=list("dcba"), pool_size=4, n_pools=1
    ... )
    >>> found.image_retrieval, found.brain_retrieval, found.image.chance
    (1.0, 1.0, 0.25)
    """
    values = check_matrix(similarity, "similarity")
    of_rows, of_columns, ids = _matched(query_ids, candidate_ids, values.shape)
    if not 2 <= pool_size <= len(ids):
        raise ValueError(
            f"pool_size={pool_size} must be between 2 and the number of images, {len(ids)}"
        )
    if n_pools < 1 or not 1 <= k <= pool_size:
        raise ValueError(f"n_pools={n_pools} must be >= 1 and k={k} in 1 … pool_size={pool_size}")
    rng = np.random.default_rng(random_state)
    order = np.argsort(of_columns, kind="stable")
    options = {"categories": categories, "targets": targets}
    for name, value in options.items():
        if value is not None:
            options[name] = _of_images(value, name, order, len(ids))
    counts = [_Counts(len(ids)), _Counts(len(ids))]
    members = []
    tolerance = 1e-6 if values.dtype == np.float32 else 1e-12
    for pool in make_pools(pools, len(ids), pool_size, n_pools, rng, **options):
        members.append(crc32(pool.images.tobytes()))
        inside, looked_for = np.zeros((2, len(ids)), dtype=bool)
        inside[pool.images], looked_for[pool.queries] = True, True
        rows, columns = np.flatnonzero(inside[of_rows]), np.flatnonzero(inside[of_columns])
        block = values[np.ix_(rows, columns)]
        right = of_rows[rows][:, None] == of_columns[columns]
        finite = np.abs(block[np.isfinite(block)])
        near = tolerance * (finite.max() if finite.size else 1.0)
        for count, b, r, of_queries in (
            (counts[0], block, right, of_rows[rows]),
            (counts[1], block.T, right.T, of_columns[columns]),
        ):
            asked = looked_for[of_queries]
            count.add(b[asked], r[asked], of_queries[asked], k, near)
    image, brain = (count.direction() for count in counts)
    tried = (counts[0].asked > 0) | (counts[1].asked > 0)
    undefined = tried & ((image.tries == 0) | (brain.tries == 0))
    return Retrieval(
        *(image, brain, ids, pool_size, k, pools, int(undefined.sum())),
        (n_bootstraps, random_state),
        tuple(members),
    )


def retrieval_table(
    similarities: dict[str, np.ndarray], *, query_ids: Any, candidate_ids: Any, **options: Any
) -> pd.DataFrame:
    """`retrieval` of several labelled similarities, one row each, in the same pools.

    Parameters
    ----------
    similarities : dict of label to array, shape (n_responses, n_candidates)
        As `brainenc.metrics.similarities` gives them.
    query_ids, candidate_ids, **options
        As for `retrieval`.

    Returns
    -------
    DataFrame
        ``similarity`` (the label) and the columns of `Retrieval.row`.

    Examples
    --------
    >>> ids = np.arange(5)
    >>> table = retrieval_table(
    ...     {"centred": np.eye(5)}, query_ids=ids, candidate_ids=ids, pool_size=5, n_pools=1
    ... )
    >>> table[["similarity", "image_retrieval", "brain_retrieval"]].values.tolist()
    [['centred', 1.0, 1.0]]
    """
    rows = [
        {
            "similarity": label,
            **retrieval(values, query_ids=query_ids, candidate_ids=candidate_ids, **options).row(),
        }
        for label, values in similarities.items()
    ]
    return pd.DataFrame(rows)


@dataclass
class _Counts:
    """Sums over pools, per image."""

    n_images: int
    hits: Any = None
    tries: Any = None
    ranks: Any = None
    asked: Any = None
    chances: list = dataclasses.field(default_factory=list)
    pools: list = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.hits, self.tries, self.ranks, self.asked = np.zeros((4, self.n_images))

    def add(
        self,
        values: np.ndarray,
        right: np.ndarray,
        of_queries: np.ndarray,
        k: int,
        tolerance: float,
    ) -> None:
        """Add the choices of some queries (rows) among all candidates (columns)."""
        known = np.isfinite(values).all(axis=1)
        np.add.at(self.asked, of_queries, 1)
        self.chances.extend(chance_of(right.sum(axis=1), values.shape[1], k))
        better, ties, n_best = compare_several(values[known], right[known], tolerance)
        hits = chosen(better, ties, k, n_best)
        self.pools.append(hits.mean() if hits.size else np.nan)
        np.add.at(self.hits, of_queries[known], hits)
        np.add.at(self.tries, of_queries[known], 1)
        np.add.at(self.ranks, of_queries[known], 1 + better + ties / (n_best + 1))

    def direction(self) -> Direction:
        ranks = np.full(self.n_images, np.nan)
        np.divide(self.ranks, self.tries, out=ranks, where=self.tries > 0)
        chance, pools = float(np.mean(self.chances)), np.array(self.pools)
        return Direction(self.hits, self.tries, ranks, chance, pools)


def _matched(
    query_ids: Any, candidate_ids: Any, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of rows' and columns' images among the different ids, and these."""
    found = []
    for name, given, n in zip(
        ("query_ids", "candidate_ids"), (query_ids, candidate_ids), shape, strict=True
    ):
        ids = column(given, name, "n")
        if len(ids) != n:
            raise ValueError(
                f"{name} has {len(ids)} ids, but similarity {shape} has {n} "
                f"{'rows' if name == 'query_ids' else 'columns'}: it must be (n_responses, "
                "n_candidates)"
            )
        if missing := int(pd.isna(ids).sum()):
            raise ValueError(f"{name} has no id for {missing} of {n}: leave these out")
        found.append(ids.astype(str) if ids.dtype == object else ids)
    kinds = ["text" if ids.dtype.kind == "U" else "numbers" for ids in found]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"query_ids are {kinds[0]} and candidate_ids are {kinds[1]}: give the same ids for both"
        )
    for name, lacking, wanted in (
        ("candidate_ids", found[1], found[0]),
        ("query_ids", found[0], found[1]),
    ):
        missing_ids = np.setdiff1d(wanted, lacking)
        if missing_ids.size:
            raise ValueError(
                f"{name} lacks {missing_ids.size} ids that the other side has, such as "
                f"{missing_ids[:3].tolist()}: keep the rows and columns of images that have both "
                "a response and a candidate"
            )
    ids = np.unique(found[0])
    return np.searchsorted(ids, found[0]), np.searchsorted(ids, found[1]), ids


def _of_images(values: Any, name: str, order: np.ndarray, n_images: int) -> np.ndarray:
    """One row per candidate as one row per different image."""
    array = column(values, name) if name == "categories" else check_matrix(values, name)
    if len(array) != len(order):
        raise ValueError(
            f"{name} {array.shape} must have one row for each of {len(order)} candidates"
        )
    if len(order) != n_images:
        raise ValueError("hard pools need candidates of different images: candidate_ids repeat")
    return array[order]
