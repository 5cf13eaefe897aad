"""Figures of analyses: perturbed ROIs, masked voxels, consistency of maps, categories."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from brainenc.report.panels import make_panels
from brainenc.report.style import FULL_WIDTH, GREY, INK, MUTED, PALETTE, NothingToDraw, short


def perturbation_bars(
    tables: Mapping[str, pd.DataFrame], *, level: str, ax: object = None
) -> Figure:
    """Change of each measure when an ROI is set to a level, with the range of random voxels.

    Parameters
    ----------
    tables : dict of ROI to DataFrame
        ``Perturbation.table`` of each.
    level : str
        Such as "quantile 0.95".
    ax : Axes or sequence of Axes, optional
        One per ROI.
    """
    parts = {
        roi: table[(table["level"] == level) & (table["measure"] != "embedding")]
        for roi, table in tables.items()
    }
    if not parts or all(part.empty for part in parts.values()):
        raise NothingToDraw(f"No perturbation has the level {level!r} and a prototype.")
    panels = make_panels(ax, len(parts), len(parts), size=(FULL_WIDTH, 2.9), sharey=True)
    for axes, (roi, part), color in zip(
        panels.flat, parts.items(), _cycle(len(parts)), strict=True
    ):
        place = np.arange(len(part))
        axes.bar(place, part["change"], color=color, width=0.6)
        middle = part["random_mean"].to_numpy()
        around = [middle - part["random_low"], part["random_high"] - middle]
        axes.errorbar(place, middle, around, fmt="_", color=INK, lw=1.2, capsize=4)
        axes.axhline(0, color=MUTED, lw=0.8)
        axes.set_xticks(
            place, [short(name, 14) for name in part["measure"]], rotation=40, ha="right"
        )
        axes.set_title(f"{roi} at {level}")
    panels.flat[0].set_ylabel("change of cosine")
    return panels.finished()


def masking_lines(
    curves: Mapping[str, pd.DataFrame], *, score: str = "image_retrieval", ax: object = None
) -> Figure:
    """Score over the share of masked voxels: of the decoder as it is, and of one fitted anew.

    Parameters
    ----------
    curves : dict of order to DataFrame
        What `brainenc.masking_curve` gave for each order of voxels.
    score : str
        "image_retrieval", "brain_retrieval" or "category_auc".
    ax : Axes, optional
    """
    if not curves or all(table[score].isna().all() for table in curves.values()):
        raise NothingToDraw(f"No curve has a defined {score}.")
    panels = make_panels(ax, 1, 1, size=(0.9 * FULL_WIDTH, 3.3))
    axes = panels.flat[0]
    factor = 1 if score == "category_auc" else 100
    for (name, table), color in zip(curves.items(), _cycle(len(curves)), strict=True):
        for refit, own in table.groupby("refit"):
            mean = factor * own.groupby("share")[score].mean()
            label = f"{name}, {'fitted anew' if refit else 'as it is'}"
            axes.plot(mean.index, mean, "o-" if refit else "o--", color=color, ms=4, label=label)
    first = next(iter(curves.values()))
    chance = 0.5 if score == "category_auc" else 100 * first["chance"].iloc[0]
    axes.axhline(chance, color=GREY, lw=1, ls=":", label="chance")
    unit = "" if factor == 1 else ", percent"
    axes.set(xlabel="share of voxels masked", ylabel=score.replace("_", " ") + unit)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=3)
    return panels.finished()


def consistency_bars(
    table: pd.DataFrame, *, comparisons: Sequence[str] | None = None, ax: object = None
) -> Figure:
    """The r of contrast maps by category, with the ceiling and both nulls.

    Parameters
    ----------
    table : DataFrame
        Of `brainenc.consistency`.
    comparisons : sequence of str, optional
        Those to draw, a panel each; all by default.
    ax : Axes or sequence of Axes, optional
        One per comparison.
    """
    names = list(dict.fromkeys(table["comparison"])) if comparisons is None else list(comparisons)
    parts = {name: table[table["comparison"] == name] for name in names}
    if not parts or any(part.empty for part in parts.values()):
        raise NothingToDraw(f"The table lacks a comparison of {names}.")
    panels = make_panels(ax, len(parts), len(parts), size=(FULL_WIDTH, 3.2), sharey=True)
    for axes, (name, part), color in zip(
        panels.flat, parts.items(), _cycle(len(parts)), strict=True
    ):
        place = np.arange(len(part))
        axes.bar(place, part["r"], color=color, alpha=0.45, width=0.6, label="same category")
        axes.hlines(part["ceiling"], place - 0.4, place + 0.4, color=INK, lw=1.5, label="ceiling")
        axes.plot(place, part["other_categories"], "x", color=INK, label="other categories")
        axes.plot(place, part["labels_permuted"], "_", color=INK, ms=14, label="labels permuted")
        axes.plot(
            place, part["activation_other"], "^", color=GREY, label="raw maps, other categories"
        )
        axes.set_xticks(place, [short(c, 14) for c in part["category"]], rotation=40, ha="right")
        axes.axhline(0, color=MUTED, lw=0.8)
        axes.set_title(short(name, 28))
    panels.flat[0].set_ylabel("r over voxels")
    panels.flat[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return panels.finished()


def category_bars(table: pd.DataFrame, *, ax: object = None) -> Figure:
    """Area under the ROC curve of each category, by source, with intervals and the null.

    Parameters
    ----------
    table : DataFrame
        Of `brainenc.analysis.category_information`.
    ax : Axes, optional
    """
    if not table["auc"].notna().any():
        raise NothingToDraw("No category has a defined area.")
    sources = list(dict.fromkeys(table["source"]))
    categories = list(dict.fromkeys(table["category"]))
    panels = make_panels(ax, 1, 1, size=(FULL_WIDTH, 3.2))
    axes = panels.flat[0]
    width = 0.8 / len(sources)
    for i, (source, color) in enumerate(zip(sources, _cycle(len(sources)), strict=True)):
        part = table[table["source"] == source].set_index("category").loc[categories]
        place = np.arange(len(part)) + (i - (len(sources) - 1) / 2) * width
        around = [part["auc"] - part["low"], part["high"] - part["auc"]]
        axes.errorbar(place, part["auc"], around, fmt="o", color=color, ms=5, label=source)
        for x, low, high in zip(place, part["permuted_low"], part["permuted_high"], strict=True):
            axes.vlines(x, low, high, color=GREY, lw=4, alpha=0.5)
    axes.axhline(0.5, color=MUTED, lw=1, ls="--")
    axes.set_xticks(range(len(categories)), [short(name, 16) for name in categories])
    axes.set_ylabel("area under the ROC curve")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return panels.finished()


def _cycle(n: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(n)]
