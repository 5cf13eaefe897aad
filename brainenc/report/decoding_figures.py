"""Figures of a decoding benchmark: retrieval in both directions, over pool size, and by ROI."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from brainenc.report.style import (
    FULL_WIDTH,
    GREY,
    INK,
    MUTED,
    NothingToDraw,
    largest,
    rotate_if_crowded,
    short,
)

#: Directions, and what they are called in figures.
TITLES = {
    "image_retrieval": "image retrieval (given a response)",
    "brain_retrieval": "brain retrieval (given an image)",
}


def retrieval_bars(decoders: pd.DataFrame, *, colors: Mapping[str, str], responses: str) -> Figure:
    """Retrieval of each decoder in both directions, with intervals and chance.

    Parameters
    ----------
    decoders : DataFrame
        ``DecodingResult.decoders``.
    colors : dict of decoder to colour
    responses : str
        Kind of responses to show; rows without it show the one they have.
    """
    some = _one_kind(decoders, responses)
    if not some["image_retrieval"].notna().any():
        raise NothingToDraw("No decoder has a defined retrieval.")
    figure = Figure(figsize=(FULL_WIDTH, 0.9 + 0.3 * len(some)))
    axes = figure.subplots(1, 2, sharey=True)
    place = np.arange(len(some))
    for ax, (direction, title) in zip(axes, TITLES.items(), strict=True):
        value = 100 * some[direction].to_numpy(float)
        low, high = (100 * some[f"{direction}_{end}"].to_numpy(float) for end in ("low", "high"))
        ax.barh(place, value, color=[colors[name] for name in some["decoder"]], height=0.7)
        known = np.isfinite(low)
        ax.hlines(place[known], low[known], high[known], color=INK, lw=1)
        chance = 100 * some[f"{direction}_chance"].to_numpy(float)
        ax.axvline(np.nanmedian(chance), color=MUTED, lw=1, ls="--")
        ax.set(title=title, xlabel="top-1, percent", xlim=(0, None))
        ax.grid(axis="x")
    axes[0].set_yticks(place, [short(name, 40) for name in some["decoder"]])
    axes[0].invert_yaxis()
    return figure


def pool_size_lines(
    pool_sizes: pd.DataFrame, *, decoders: Sequence[str], colors: Mapping[str, str], responses: str
) -> Figure:
    """Retrieval over pool size, in both directions, with chance.

    Parameters
    ----------
    pool_sizes : DataFrame
        ``DecodingResult.pool_sizes``.
    decoders : sequence of str
        Those to draw.
    colors : dict of decoder to colour
    responses : str
    """
    some = _one_kind(pool_sizes, responses)
    some = some[some["decoder"].isin(decoders)]
    if some.empty:
        raise NothingToDraw("No decoder has a defined retrieval.")
    figure = Figure(figsize=(FULL_WIDTH, 3.6))
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (direction, title) in zip(axes, TITLES.items(), strict=True):
        for name in decoders:
            part = some[some["decoder"] == name].sort_values("pool_size")
            ax.plot(
                *(part["pool_size"], 100 * part[direction]),
                *("o-",),
                color=colors[name],
                ms=3,
                lw=1.4,
                label=short(name, 32),
            )
        chance = some.drop_duplicates("pool_size").sort_values("pool_size")
        ax.plot(
            *(chance["pool_size"], 100 * chance["chance"]), "--", color=GREY, lw=1.2, label="chance"
        )
        ax.set(title=title, xlabel="images in the pool", xscale="log", ylim=(0, 102))
        sizes = chance["pool_size"].to_numpy()
        last = sizes[-1]  # labels of sizes that are near would overlap
        apart = [size for size in sizes if size in (2, 10, 100, 1000, 10_000) and size < last / 2]
        apart.append(last)
        ax.set_xticks(apart, [str(size) for size in apart])
        ax.minorticks_off()
        ax.grid()
    axes[0].set_ylabel("top-1, percent")
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def roi_retrieval(rois: pd.DataFrame, *, color: str = INK) -> Figure:
    """Ridge from the voxels of one ROI alone: retrieval in both directions, with chance.

    Parameters
    ----------
    rois : DataFrame
        ``DecodingResult.rois``.
    color : str
    """
    if "image_retrieval" not in rois or rois.empty:
        raise NothingToDraw("The voxel table has no ROIs.")
    names = largest(rois.set_index("roi")["n_voxels"])
    some = rois[rois["roi"].isin(names)]
    figure = Figure(figsize=(FULL_WIDTH, 3.2))
    axes = figure.subplots(1, 2, sharey=True)
    place = np.arange(len(some))
    labels = [short(name, 18) for name in some["roi"]]
    for ax, (direction, title) in zip(axes, TITLES.items(), strict=True):
        value = 100 * some[direction].to_numpy(float)
        low, high = (100 * some[f"{direction}_{end}"].to_numpy(float) for end in ("low", "high"))
        ax.vlines(place, low, high, color=color, lw=1.2)
        ax.plot(place, value, "o", color=color, ms=5)
        ax.axhline(
            100 * some[f"{direction}_chance"].median(), color=MUTED, lw=1, ls="--", label="chance"
        )
        ax.set(title=title, ylim=(0, None))
        ax.set_xticks(place, labels)
        rotate_if_crowded(ax, labels, FULL_WIDTH / 2.3 / max(len(labels), 1))
        ax.grid()
    axes[0].set_ylabel("top-1, percent")
    axes[0].legend(fontsize=8)
    return figure


def _one_kind(table: pd.DataFrame, responses: str) -> Any:
    """Rows of one kind of responses, and of decoders that have no such row."""
    with_it = set(table.loc[table["responses"] == responses, "decoder"])
    kept = (table["responses"] == responses) | ~table["decoder"].isin(with_it)
    return table[kept].drop_duplicates(["decoder", *(["pool_size"] if "chance" in table else [])])
