"""Figures of voxels and ROIs: tables in, `matplotlib.figure.Figure` out.

This module does not use pyplot, so that figures can be made in threads and leave no state. Each
function takes a table of a `BenchmarkResult` and raises `NothingToDraw` if it has no finite value
to show.

Figures have the user's ``rcParams``; ``with brainenc.report.styled():`` they look as in the report.
Arguments that they share: `encoders` chooses the encoders, in that order; `order` the ROIs; `ax`
are Axes to draw on, one per panel.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator

from brainenc.report.panels import Names, Panels, chosen_rows, make_panels, shown_rois
from brainenc.report.style import (
    FAINT,
    FULL_WIDTH,
    INK,
    LABELS,
    MUTED,
    NothingToDraw,
    encoder_colors,
    ordered_colors,
    rotate_if_crowded,
    short,
)

#: Axes with the ROIs they show.
Slots = list[tuple[Axes, list[str]]]

#: Quantiles of a box: whisker, quartile, median, quartile, whisker.
BOX = np.array([0.05, 0.25, 0.5, 0.75, 0.95])

#: Largest number of distinguishable ROI colours.
MAX_ROI_COLORS = 14

#: Scatters with more points are rasterised, for smaller files.
MAX_VECTOR_POINTS = 3000


# -------------------------------------------------------------------- voxels and their ceiling


def ceiling_scatter(
    maps: pd.DataFrame,
    *,
    atlas: str | None = None,
    order: Names = None,
    encoders: Names = None,
    ax: Any = None,
) -> Figure:
    """Voxelwise r against the noise ceiling of r, one panel per encoder.

    Parameters
    ----------
    maps : DataFrame
        ``BenchmarkResult.maps``; `encoder`, `r`, `noise_ceiling`, and the column of `atlas`.
        Voxels for which either is NaN are left out.
    atlas : str, optional
        Column of ROI labels that colours the voxels.
    order : sequence of str, optional
        ROIs that have a colour, from dark to light; by default the 14 largest.
    encoders : sequence of str, optional
    ax : Axes or sequence of Axes, optional
        One per encoder.

    Returns
    -------
    Figure
        The line is r = ceiling. Rasterised above 3000 points.

    Raises
    ------
    NothingToDraw : no voxel has both.
    ValueError : `encoders` or `order` has a name that is not in the table, or `ax` another number
        of Axes.
    """
    nothing = "No voxel has both a defined r and a noise ceiling."
    if maps.empty:
        raise NothingToDraw(nothing)
    both = maps.assign(r=maps["r"].where(maps["noise_ceiling"].notna()))
    shown = chosen_rows(both, encoders, "r", nothing).dropna(subset=["r"])
    groups = dict(list(shown.groupby("encoder", sort=False)))
    n_columns = min(len(groups), 4)
    n_rows = -(-len(groups) // n_columns)
    side = {1: 4.4, 2: 3.9}.get(n_columns, FULL_WIDTH / n_columns)
    low, high = _scatter_limits(shown)
    # Tall enough that the width determines the size of the panels, which have equal scales.
    height = n_rows * (side * (high - low) / high + 0.15) + 0.8
    panels = make_panels(
        ax,
        len(groups),
        n_columns,
        size=(side * n_columns, height),
        layout="compressed",
        sharex=True,
        sharey=True,
    )
    colors = _roi_colors(maps, atlas, order)
    for axes, (name, voxels) in zip(panels.flat, groups.items(), strict=True):
        _scatter(axes, voxels, atlas, colors, rasterized=len(shown) > MAX_VECTOR_POINTS)
        axes.set_title(short(name, 42 - 4 * n_columns))
    for axes in panels.scaled:
        axes.set(xlim=(-0.02, high), ylim=(low, high))
    _label_scatter(panels, high)
    handles = [_dot(color, short(roi, 18)) for roi, color in colors.items()]
    panels.legend(handles, "outside lower left")
    return panels.finished()


def _scatter(
    axes: Axes, voxels: pd.DataFrame, atlas: str | None, colors: Any, **kwargs: Any
) -> None:
    # Shuffled, so that no ROI hides earlier ones of the table.
    voxels = voxels.iloc[np.random.default_rng(0).permutation(len(voxels))]
    rois = voxels[atlas] if atlas in voxels else pd.Series(index=voxels.index, dtype=object)
    other = colors.get("other voxels", INK)
    color = [colors.get(str(roi), other) for roi in rois] if colors else INK
    size = float(np.clip(5000 / len(voxels), 3, 16))
    axes.axline((0, 0), slope=1, color=MUTED, lw=1, ls="--", zorder=0)
    axes.scatter(
        voxels["noise_ceiling"], voxels["r"], c=color, s=size, alpha=0.65, linewidths=0, **kwargs
    )
    axes.axhline(0, color=FAINT, lw=0.7, zorder=0)


def _scatter_limits(shown: pd.DataFrame) -> tuple[float, float]:
    """Limits of r, in tenths, that include every point and zero."""
    low, high = min(shown["r"].min(), 0), shown[["noise_ceiling", "r"]].max().max()
    return np.floor(low * 10 - 0.2) / 10, max(np.ceil(high * 10 + 0.2) / 10, 0.3)


def _label_scatter(panels: Panels, high: float) -> None:
    for axes in panels.flat:
        axes.set_aspect("equal", adjustable="box")
    for axes in panels.scaled:
        axes.xaxis.set_major_locator(MultipleLocator(0.2))
        axes.yaxis.set_major_locator(MultipleLocator(0.2))
    for axes in panels.lowest:
        axes.set_xlabel("noise ceiling of r")
        axes.tick_params(labelbottom=True)
    for axes in panels.left:
        axes.set_ylabel("Pearson r")
    look: dict[str, Any] = {"color": MUTED, "fontsize": "small", "ha": "right", "va": "bottom"}
    look |= {"rotation": 45, "rotation_mode": "anchor"}
    panels.flat[0].text(high * 0.93, high * 0.93 + 0.01, "r = ceiling", **look)


def _roi_colors(maps: pd.DataFrame, atlas: str | None, order: Names) -> dict[str, str]:
    sizes = _roi_sizes(maps, atlas)
    rois = shown_rois(sizes, order, MAX_ROI_COLORS)
    colors = dict(zip(rois, ordered_colors(len(rois)), strict=True))
    if colors and sizes[rois].sum() < len(maps):
        colors["other voxels"] = FAINT
    return colors


def _dot(color: str, label: str) -> Line2D:
    return Line2D([], [], color=color, marker="o", ms=5, ls="", label=label)


# -------------------------------------------------------------------- ROI by ROI


def roi_bars(
    rois: pd.DataFrame,
    *,
    metric: str = "r",
    order: Names = None,
    encoders: Names = None,
    colors: Mapping[str, str] | None = None,
    ax: Any = None,
) -> Figure:
    """Bars per ROI and encoder with bootstrap intervals; the noise ceiling as a line per ROI.

    Parameters
    ----------
    rois : DataFrame
        ``BenchmarkResult.rois``, one atlas of it; `encoder`, `roi`, `noise_ceiling` and `metric`
        with its ``_low`` and ``_high``. Encoders without a finite value are left out.
    metric : str
        Column to show; the ceiling is drawn only for "r".
    order : sequence of str, optional
        ROIs to draw; by default the 40 largest, as they come in the table.
    encoders : sequence of str, optional
    colors : dict of encoder to colour, optional
    ax : Axes or sequence of Axes, optional
        ROIs are spread over them.

    Returns
    -------
    Figure

    Raises
    ------
    NothingToDraw : `metric` is NaN everywhere.
    ValueError : `encoders` or `order` has a name that is not in the table, or `ax` another number
        of Axes.
    """
    colors = colors or encoder_colors(rois["encoder"])
    shown = shown_rois(rois.groupby("roi", sort=False)["n_voxels"].max(), order)
    drawn = _with_finite(rois[rois["roi"].isin(shown)], encoders, metric)
    names = list(drawn["encoder"].unique())
    panels, slots = _grouped_axes(ax, shown, len(names), metric)
    for axes, labels in slots:
        for i, name in enumerate(names):
            rows = drawn[drawn["encoder"] == name].set_index("roi").reindex(labels)
            x, width = _slots(len(labels), i, len(names))
            axes.bar(x, rows[metric], width, color=colors[str(name)])
            # Lines from low to high: a percentile interval need not contain the value, and error
            # bars cannot have negative length.
            axes.vlines(x, rows[f"{metric}_low"], rows[f"{metric}_high"], color=INK, lw=1)
    handles = [Patch(color=colors[str(name)], label=short(name)) for name in names]
    if metric == "r":
        handles += _draw_ceilings(slots, rois)
    panels.legend(handles, "outside upper left")
    return panels.finished()


def _draw_ceilings(slots: Slots, rois: pd.DataFrame) -> list[Any]:
    ceilings = rois.groupby("roi", sort=False)["noise_ceiling"].first()
    for axes, labels in slots:
        x = np.arange(len(labels))
        axes.hlines(ceilings.reindex(labels), x - 0.44, x + 0.44, color=INK, lw=1.6)
    label = "noise ceiling"
    return [Line2D([], [], color=INK, lw=1.6, label=label)] if ceilings.notna().any() else []


def roi_distributions(
    maps: pd.DataFrame,
    *,
    atlas: str | None = None,
    metric: str = "r",
    order: Names = None,
    encoders: Names = None,
    colors: Mapping[str, str] | None = None,
    ax: Any = None,
) -> Figure:
    """Distribution of a score over the voxels of each ROI, one box per encoder.

    Parameters
    ----------
    maps : DataFrame
        ``BenchmarkResult.maps``. Voxels where `metric` is NaN are left out.
    atlas : str, optional
        Column of ROI labels; without it all voxels are one group.
    metric : str
    order : sequence of str, optional
        ROIs to draw; by default the 40 largest, as they come in the table.
    encoders : sequence of str, optional
    colors : dict of encoder to colour, optional
    ax : Axes or sequence of Axes, optional
        ROIs are spread over them.

    Returns
    -------
    Figure
        Box: quartiles and median. Whiskers: 5th to 95th percentile.

    Raises
    ------
    NothingToDraw : `metric` is NaN everywhere.
    ValueError : `encoders` or `order` has a name that is not in the table, or `ax` another number
        of Axes.
    """
    if maps.empty:
        raise NothingToDraw("No encoder was scored.")
    colors = colors or encoder_colors(maps["encoder"])
    sizes = _roi_sizes(maps, atlas)
    drawn = _with_finite(maps, encoders, metric)
    names = list(drawn["encoder"].unique())
    roi = drawn[atlas].astype(str) if len(sizes) else pd.Series("all voxels", drawn.index)
    boxes = drawn.groupby(["encoder", roi.rename("roi")])[metric].quantile(BOX).unstack()
    shown = shown_rois(sizes, order) or ["all voxels"]
    panels, slots = _grouped_axes(ax, shown, len(names), metric)
    for axes, labels in slots:
        for i, name in enumerate(names):
            x, width = _slots(len(labels), i, len(names))
            _draw_boxes(axes, x, boxes.loc[name].reindex(labels), width, colors[str(name)])
    handles = [Patch(color=colors[str(name)], label=short(name)) for name in names]
    panels.legend(handles, "outside upper left")
    return panels.finished()


def _draw_boxes(axes: Axes, x: np.ndarray, boxes: pd.DataFrame, width: float, color: str) -> None:
    low, q1, median, q3, high = (boxes[level].to_numpy() for level in BOX)
    axes.vlines(x, low, high, color=color, lw=1.2)
    axes.bar(x, q3 - q1, width, bottom=q1, color=color)
    axes.hlines(median, x - width / 2, x + width / 2, color="white", lw=1.6)


def _with_finite(table: pd.DataFrame, encoders: Names, metric: str) -> pd.DataFrame:
    nothing = f"{LABELS.get(metric, metric)} is undefined for every encoder."
    return chosen_rows(table, encoders, metric, nothing)


def _roi_sizes(maps: pd.DataFrame, atlas: str | None) -> pd.Series:
    """Number of rows per ROI in order of appearance; empty without an atlas."""
    if atlas is None or atlas not in maps:
        return pd.Series(dtype=int)
    labels = maps[atlas].dropna().astype(str)
    labels = labels[labels != ""]
    return labels.groupby(labels, sort=False).size()


def _grouped_axes(ax: Any, labels: list[str], n_encoders: int, metric: str) -> tuple[Panels, Slots]:
    """Axes with one slot per label, in as many rows as it takes, each with its labels."""
    given = 1 if ax is None or isinstance(ax, Axes) else len(list(ax))
    n_rows = max(-(-len(labels) * (n_encoders + 1) // 64) if ax is None else given, 1)
    per_row = -(-len(labels) // n_rows)
    width = min(FULL_WIDTH, 2.4 + per_row * max(0.3 * n_encoders, 0.55))
    panels = make_panels(ax, n_rows, 1, size=(width, 2.55 * n_rows + 0.5), sharey=True)
    if not panels.is_new:
        width = panels.flat[0].get_position().width * panels.figure.get_figwidth()
    slots = [(axes, labels[i * per_row : (i + 1) * per_row]) for i, axes in enumerate(panels.flat)]
    for axes, here in slots:
        texts = [short(label, 18) for label in here]
        axes.set_xticks(range(len(here)), texts)
        axes.set(xlim=(-0.6, per_row - 0.4), ylabel=LABELS.get(metric, metric))
        axes.tick_params(axis="x", length=0)
        axes.grid(True, axis="y")
        axes.axhline(0, color=MUTED, lw=0.7)
        rotate_if_crowded(axes, texts, (width - 0.6) / per_row)
    return panels, slots


def _slots(n_labels: int, position: int, n_encoders: int) -> tuple[np.ndarray, float]:
    """Centres of one encoder's bars, one per label, and their width."""
    slot = 0.8 / n_encoders
    return np.arange(n_labels) + (position - (n_encoders - 1) / 2) * slot, 0.9 * slot
