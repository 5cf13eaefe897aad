"""Figures of an augmentation study: gains over nothing added, and over the number of rows."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from brainenc.report.decoding_figures import TITLES
from brainenc.report.style import FULL_WIDTH, GREY, INK, MUTED, PALETTE, NothingToDraw, short

CENTRED, UNCENTRED = "centred", "uncentred"
NONE, REAL_TRIALS = "none", "real trials of the new images"
#: Marks of centred and uncentred gains.
COLOR, OTHER = PALETTE[0], PALETTE[1]


def gain_dots(table: pd.DataFrame) -> Figure:
    """Gain of each condition over "none" with its interval, one panel per direction.

    Parameters
    ----------
    table : DataFrame
        ``AugmentationResult.table()``.

    Returns
    -------
    Figure
        Centred gains are dots with intervals, filled where a gain is claimed; uncentred ones are
        small diamonds. Dashed: the gain of real trials.

    Raises
    ------
    NothingToDraw : no gain is defined.
    """
    centred = table[(table["similarity"] == CENTRED) & (table["condition"] != NONE)]
    if not centred["image_retrieval_gain"].notna().any():
        raise NothingToDraw("No gain is defined.")
    names = centred["condition"].tolist()
    other = table[table["similarity"] == UNCENTRED].set_index("condition").reindex(names)
    figure = Figure(figsize=(FULL_WIDTH, 1.3 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    place = np.arange(len(names))
    of_real = np.array([name == REAL_TRIALS for name in names])
    claimed = centred["gain"].to_numpy(bool) | of_real
    for ax, (direction, title) in zip(axes, TITLES.items(), strict=True):
        value, low, high = (
            100 * centred[f"{direction}_{part}"].to_numpy(float) for part in ("gain", "low", "high")
        )
        ax.axvline(0, color=MUTED, lw=0.8)
        if of_real.any():
            ax.axvline(value[of_real][0], color=GREY, lw=1, ls="--")
        ax.hlines(place, low, high, color=COLOR, lw=1.4)
        ax.scatter(
            *(100 * other[f"{direction}_gain"], place),
            **{"marker": "D", "s": 14, "facecolors": "none", "edgecolors": OTHER, "lw": 0.9},
            label="uncentred",
        )
        faces = [COLOR if yes else "white" for yes in claimed]
        ax.scatter(value, place, s=30, c=faces, edgecolors=COLOR, zorder=3, label="centred")
        ax.set(title=title, xlabel="gain, points of top-1")
        ax.grid(axis="x")
    axes[0].set_yticks(place, [short(name, 44) for name in names], color=INK)
    axes[0].invert_yaxis()
    axes[1].legend(frameon=False, fontsize=8, loc="best")
    return figure


def dose_lines(table: pd.DataFrame) -> Figure:
    """Centred gains of synthetic and of real trials of new images, over rows added per real row.

    Parameters
    ----------
    table : DataFrame
        Tables of several ratios, with the column ``ratio``.

    Raises
    ------
    NothingToDraw : there is one ratio only.
    """
    ratios = sorted(table["ratio"].unique())
    if len(ratios) < 2:
        raise NothingToDraw("The study has one number of added rows.")
    some = table[(table["similarity"] == CENTRED) & table["condition"].str.endswith("new images")]
    figure = Figure(figsize=(FULL_WIDTH, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, (direction, title) in zip(axes, TITLES.items(), strict=True):
        ax.axhline(0, color=MUTED, lw=0.8)
        for i, (name, part) in enumerate(some.groupby("condition", sort=False)):
            part = part.sort_values("ratio")
            color = INK if name == REAL_TRIALS else PALETTE[i % len(PALETTE)]
            ax.plot(
                *(part["ratio"], 100 * part[f"{direction}_gain"], "o-"),
                **{"color": color, "ms": 4, "lw": 1.4, "label": short(str(name), 44)},
            )
            low, high = (100 * part[f"{direction}_{end}"] for end in ("low", "high"))
            ax.fill_between(part["ratio"], low, high, color=color, alpha=0.12, lw=0)
        ax.set_xticks(ratios, [str(ratio) for ratio in ratios])
        ax.set(title=title, xlabel="added rows per real row", ylabel="gain, points of top-1")
    axes[0].legend(frameon=False, fontsize=8)
    return figure
