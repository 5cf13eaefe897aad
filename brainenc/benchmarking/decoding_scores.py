"""Scores of a decoding benchmark: outcomes of folds as tidy tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainenc.benchmarking.decoding_pools import expected_top, pool_sizes
from brainenc.benchmarking.decoding_rows import Outcome
from brainenc.metrics import csls, retrieval
from brainenc.metrics.choices import compare
from brainenc.metrics.retrieval_scores import DIRECTIONS, Direction, Retrieval
from brainenc.metrics.similarity import CSLS
from brainenc.model_selection import bootstrap_interval, bootstrap_weights

#: Label of the pools of a table, by kind.
RANDOM, NEAREST, SAME = "random", "nearest", "same category"

#: Images in a hard pool.
HARD_POOL = 50

#: Wrong images that are kept of each choice.
N_WRONG = 3

PAIR_COLUMNS = [
    *("decoder_a", "decoder_b", "responses", "similarity", "direction"),
    *("difference", "low", "high", "p"),
]


@dataclass(frozen=True)
class Protocol:
    """What all rows share: folds, labels, sizes of pools, seeds.

    Attributes
    ----------
    targets : list of array (n_test, n_features), one per fold
    categories : list of array (n_test,), one per fold; empty without labels
    pool_size, n_pools, n_bootstraps, random_state : int
    """

    targets: Sequence[np.ndarray]
    categories: Sequence[np.ndarray]
    pool_size: int
    n_pools: int
    n_bootstraps: int
    random_state: int

    def options(self) -> dict[str, int]:
        """Arguments of `retrieval` that all rows share."""
        return {
            "n_pools": self.n_pools,
            "n_bootstraps": self.n_bootstraps,
            "random_state": self.random_state,
        }


@dataclass(frozen=True)
class Row:
    """Scores of a decoder with one kind of responses.

    Attributes
    ----------
    decoder, responses : str
    folds : list of Outcome, one per fold
    retrievals : dict of (label of the similarity, kind of pools) to Retrieval
    main : str
        Label of the main similarity.
    """

    decoder: str
    responses: str
    folds: Sequence[Outcome]
    retrievals: Mapping[tuple[str, str], Retrieval]
    main: str


def score_row(folds: Sequence[Outcome], protocol: Protocol, *, hard: bool = True) -> Row:
    """Retrieval of outcomes of the same row in all folds.

    Parameters
    ----------
    folds : sequence of Outcome
    protocol : Protocol
    hard : bool
        Score hard pools as well, if all test images of the folds are in the outcomes.
    """
    labels = list(folds[0].similarities)
    found: dict[tuple[str, str], Retrieval] = {}
    size = min(protocol.pool_size, min(len(part.images) for part in folds))

    def scored(matrices: Sequence[np.ndarray], pool_size: int, **options: Any) -> Retrieval:
        parts = [
            retrieval(
                values,
                query_ids=part.images,
                candidate_ids=part.images,
                pool_size=pool_size,
                **protocol.options(),
                **{name: given[i] for name, given in options.items() if name != "pools"},
                pools=options.get("pools", RANDOM),
            )
            for i, (values, part) in enumerate(zip(matrices, folds, strict=True))
        ]
        return joined(parts)

    for label in labels:
        matrices = [part.similarities[label] for part in folds]
        found[label, RANDOM] = scored(matrices, size)
    main = [part.similarities[labels[0]] for part in folds]
    found[CSLS, RANDOM] = scored([csls(m, min(10, *m.shape)) for m in main], size)
    whole = all(
        len(part.images) == len(targets)
        for part, targets in zip(folds, protocol.targets, strict=True)
    )
    if hard and whole:
        n = min(HARD_POOL, size)
        found[labels[0], NEAREST] = scored(main, n, pools=NEAREST, targets=protocol.targets)
        if protocol.categories and (n := same_category_size(protocol.categories)):
            found[labels[0], SAME] = scored(main, n, pools=SAME, categories=protocol.categories)
    return Row(folds[0].row, folds[0].responses, folds, found, labels[0])


def same_category_size(categories: Sequence[np.ndarray]) -> int:
    """Images in a pool of one category: `HARD_POOL`, or the third largest category of a fold.

    0 if that has fewer than five.
    """
    counts = [np.sort(np.unique(part, return_counts=True)[1])[::-1] for part in categories]
    size = min(HARD_POOL, *(int(part[min(2, len(part) - 1)]) for part in counts))
    return size if size >= 5 else 0


def joined(parts: Sequence[Retrieval]) -> Retrieval:
    """Retrieval in several folds as one, over all images tested."""
    if len(parts) == 1:
        return parts[0]
    every = np.concatenate([part.ids for part in parts])
    ids, place = np.unique(every, return_inverse=True)

    def added(name: str) -> Direction:
        of_folds: list[Direction] = [getattr(part, name) for part in parts]

        def total(values: list[np.ndarray]) -> NDArray[np.float64]:
            return np.bincount(place, np.concatenate(values).astype(float), len(ids)).astype(float)

        hits, tries = (total([getattr(d, key) for d in of_folds]) for key in ("hits", "tries"))
        ranks = total([np.where(d.tries > 0, d.ranks, 0) * d.tries for d in of_folds])
        with np.errstate(invalid="ignore", divide="ignore"):
            ranks = ranks / tries
        sizes = [len(part.ids) for part in parts]
        chance = float(np.average([d.chance for d in of_folds], weights=sizes))
        return Direction(hits, tries, ranks, chance, np.concatenate([d.pools for d in of_folds]))

    return replace(
        parts[0],
        image=added("image"),
        brain=added("brain"),
        ids=ids,
        n_undefined=sum(part.n_undefined for part in parts),
        _members=tuple(member for part in parts for member in part._members),
    )


# -------------------------------------------------------------------- tables


def score_table(rows: Sequence[Row]) -> pd.DataFrame:
    """One row per (decoder, responses, similarity, pools)."""
    found = [
        {
            "decoder": row.decoder,
            "responses": row.responses,
            "similarity": label,
            "pools": pools,
            "pool_size": scores.pool_size,
            "n_images": len(scores.ids),
            **scores.row(),
        }
        for row in rows
        for (label, pools), scores in row.retrievals.items()
    ]
    return pd.DataFrame(found)


def decoder_row(row: Row, protocol: Protocol) -> dict[str, Any]:
    """Main scores of a row: retrieval, two-way identification, errors of targets."""
    scores = row.retrievals[row.main, RANDOM]
    found = {
        "decoder": row.decoder,
        "responses": row.responses,
        "similarity": row.main,
        "pool_size": scores.pool_size,
        "n_images": len(scores.ids),
        **scores.row(),
    }
    for name, values in zip(("two_way_image", "two_way_brain"), two_way(row), strict=True):
        found[name] = float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
    sizes = [len(part.images) for part in row.folds]
    found["r"] = _mean([part.r for part in row.folds], sizes)
    errors = np.concatenate([part.errors for part in row.folds])
    null = np.concatenate([part.null_errors for part in row.folds])
    known = np.isfinite(errors)
    if known.any():
        found["relative_mse"] = float(errors[known].sum() / null[known].sum())
        weights = bootstrap_weights(
            int(known.sum()), protocol.n_bootstraps, random_state=protocol.random_state
        )
        low, high = bootstrap_interval((weights @ errors[known]) / (weights @ null[known]))
        found["relative_mse_low"], found["relative_mse_high"] = float(low), float(high)
    found["output_dimension"] = _mean([part.dimension for part in row.folds], sizes)
    return found


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    known = np.isfinite(values)
    return (
        float(np.average(np.array(values)[known], weights=np.array(weights)[known]))
        if (known.any())
        else float("nan")
    )


def places(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row of a square similarity: better candidates, equal ones, whether it is defined."""
    finite = values[np.isfinite(values)]
    near = (1e-6 if values.dtype == np.float32 else 1e-12) * np.abs(finite).max(initial=1e-30)
    with np.errstate(invalid="ignore"):
        better, ties = compare(values, np.diagonal(values), near)
    return better, ties, np.isfinite(values).all(axis=1)


def two_way(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Share of other candidates that are less similar, per image and direction; chance is .5."""
    found: tuple[list, list] = ([], [])
    for part in row.folds:
        values = part.similarities[row.main]
        for of_direction, turned in zip(found, (values, values.T), strict=True):
            better, ties, defined = places(turned)
            share = 1 - (better + ties / 2) / (len(turned) - 1)
            of_direction.append(np.where(defined, share, np.nan))
    return np.concatenate(found[0]), np.concatenate(found[1])


def pool_size_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Expected top-1 over all pools of a size, one row per (decoder, responses, pool size)."""
    found = []
    for row in rows:
        n = min(len(part.images) for part in row.folds)
        sizes = pool_sizes(n)
        of_directions = []
        for direction in range(2):
            parts = []
            for part in row.folds:
                values = part.similarities[row.main]
                better, ties, defined = places(values.T if direction else values)
                parts.append(expected_top(better[defined], ties[defined], len(values), sizes))
            expected = np.concatenate(parts)
            nothing = np.full(len(sizes), np.nan)
            of_directions.append(expected.mean(axis=0) if len(expected) else nothing)
        found += [
            {
                "decoder": row.decoder,
                "responses": row.responses,
                "pool_size": size,
                "image_retrieval": of_directions[0][i],
                "brain_retrieval": of_directions[1][i],
                "chance": 1 / size,
            }
            for i, size in enumerate(sizes)
        ]
    return pd.DataFrame(found)


def pair_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Paired differences of every two decoders tested on the same images, by main similarity."""
    found = []
    for a, b in combinations(rows, 2):
        if a.responses != b.responses:
            continue
        for label, keys in (
            ("main", ((a.main, RANDOM), (b.main, RANDOM))),
            (CSLS, ((CSLS, RANDOM), (CSLS, RANDOM))),
        ):
            first, second = a.retrievals[keys[0]], b.retrievals[keys[1]]
            if not np.array_equal(first.ids, second.ids):
                continue
            table = first.difference(second)
            for direction in DIRECTIONS:
                found.append(
                    {
                        "decoder_a": a.decoder,
                        "decoder_b": b.decoder,
                        "responses": a.responses,
                        "similarity": label,
                        "direction": direction,
                        **table.loc[direction].to_dict(),
                    }
                )
    return pd.DataFrame(found, columns=PAIR_COLUMNS)


def roi_table(rows: Sequence[tuple[str, Row]], n_voxels: Mapping[str, int]) -> pd.DataFrame:
    """Ridge from the voxels of one ROI alone, one row per ROI."""
    found = []
    for roi, row in rows:
        scores = row.retrievals[row.main, RANDOM].row()
        sizes = [len(part.images) for part in row.folds]
        r = _mean([part.r for part in row.folds], sizes)
        found.append({"roi": roi, "n_voxels": n_voxels[roi], **scores, "r": r})
    return pd.DataFrame(found or None, columns=None if found else ["roi", "n_voxels"])


def choice_table(rows: Sequence[Row], names: Sequence[str]) -> pd.DataFrame:
    """What was confused with what: the most similar wrong images of every choice.

    One row per (decoder, direction, image, place among the wrong ones).
    """
    found = []
    for row in rows:
        for part in row.folds:
            for direction, values in zip(
                DIRECTIONS,
                (part.similarities[row.main], part.similarities[row.main].T),
                strict=True,
            ):
                better, ties, defined = places(values)
                wrong = np.where(np.eye(len(values), dtype=bool), -np.inf, values)
                n = min(N_WRONG, len(values) - 1)
                order = np.argsort(-np.nan_to_num(wrong, nan=-np.inf), axis=1, kind="stable")
                for i in np.flatnonzero(defined):
                    for place in range(n):
                        other = part.images[order[i, place]]
                        found.append(
                            (
                                *(row.decoder, row.responses, direction, int(part.images[i])),
                                names[part.images[i]],
                                1 + better[i] + ties[i] / 2,
                                place + 1,
                                int(other),
                                names[other],
                            )
                        )
    columns = ["decoder", "responses", "direction", "image", "name", "rank", "place"]
    return pd.DataFrame(found, columns=[*columns, "wrong_image", "wrong_name"])
