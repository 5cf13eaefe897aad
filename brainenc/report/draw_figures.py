"""Figures of draws and single trials: tables in, `matplotlib.figure.Figure` out.

Each function takes a table of a `BenchmarkResult` and raises `NothingToDraw` if it has no finite
value to show. `encoders` chooses the encoders, in that order; without it all are drawn. `ax` are
Axes to draw on, one per panel. Figures have the user's ``rcParams``; in
``with brainenc.report.styled():`` they look as in the report.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from brainenc.report.panels import Names, Panels, chosen_rows, make_panels
from brainenc.report.style import (
    FAINT,
    FULL_WIDTH,
    INK,
    MUTED,
    NothingToDraw,
    encoder_colors,
    short,
)

NO_DRAWS = "No encoder has draws that could be scored."

#: Largest number of panels in a row.
MAX_COLUMNS = 4

#: Height at which bars of a histogram are cut and labelled with their height.
HIGHEST_DENSITY = 2.5
WRITTEN_ON_BAR: dict[str, Any] = {
    "rotation": 90,
    "ha": "center",
    "va": "top",
    "fontsize": "xx-small",
    "color": "white",
}

#: Scatters with more points are rasterised.
MAX_VECTOR_POINTS = 3000

Colors = Mapping[str, str] | None


# -------------------------------------------------------------------- calibration


def calibration_curves(
    calibration: pd.DataFrame, *, encoders: Names = None, colors: Colors = None, ax: Any = None
) -> Figure:
    """Share of trials inside central intervals of draws, one panel per encoder.

    Parameters
    ----------
    calibration : DataFrame
        ``BenchmarkResult.calibration``.
    encoders : sequence of str, optional
    colors : dict of encoder to colour, optional
    ax : Axes or sequence of Axes, optional
        One per panel.

    Returns
    -------
    Figure
        All voxels in colour, each ROI in grey; the dashed line is perfect calibration.

    Raises
    ------
    NothingToDraw : no encoder has a coverage.
    """
    table = chosen_rows(_of_quantity(calibration, "coverage"), encoders, "value", NO_DRAWS)
    panels, drawn = _panels(ax, table, colors, height=2.35)
    for axes, rows, color in drawn:
        axes.axline((0, 0), slope=1, color=MUTED, lw=0.8, ls="--", zorder=1)
        whole = rows["atlas"] == "all"
        for _, roi in rows[~whole].groupby(["atlas", "roi"], sort=False):
            axes.plot(roi["position"], roi["value"], color=FAINT, lw=0.8, zorder=2)
        levels, covered = rows.loc[whole, ["position", "value"]].to_numpy().T
        axes.plot(levels, covered, color=color, lw=1.6, marker="o", ms=3)
        at = dict(zip(np.round(levels, 3), covered, strict=True))
        said = [f"{100 * at[k]:.1f} % in {100 * k:.0f} %" for k in (0.5, 0.9) if k in at]
        axes.text(
            1, 0.02, "\n".join(said), ha="right", va="bottom", fontsize="x-small", color=MUTED
        )
        axes.set_aspect("equal")
    for axes in panels.scaled:
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    _outer_labels(panels, "central interval of draws", "trials inside")
    return panels.finished()


def pit_histograms(
    calibration: pd.DataFrame, *, encoders: Names = None, colors: Colors = None, ax: Any = None
) -> Figure:
    """PIT histograms of trials among draws, one per encoder, over all voxels.

    Parameters
    ----------
    calibration : DataFrame
        ``BenchmarkResult.calibration``.
    encoders : sequence of str, optional
    colors : dict of encoder to colour, optional
    ax : Axes or sequence of Axes, optional
        One per panel.

    Returns
    -------
    Figure
        The dashed line, density 1, is perfect calibration. Bars above 2.5 are cut and labelled.

    Raises
    ------
    NothingToDraw : no encoder has ranks.
    """
    table = _of_quantity(calibration, "pit")
    table = chosen_rows(table[table["atlas"] == "all"], encoders, "value", NO_DRAWS)
    panels, drawn = _panels(ax, table, colors, height=1.75)
    for axes, rows, color in drawn:
        _bars(axes, rows, color)
    _density_axes(panels)
    _outer_labels(panels, "rank of the trial / number of draws", "density")
    return panels.finished()


def rank_histograms(
    calibration: pd.DataFrame, *, encoders: Names = None, colors: Colors = None, ax: Any = None
) -> Figure:
    """Ranks of trials among draws, of whole patterns and of single voxels, per encoder.

    Parameters
    ----------
    calibration : DataFrame
        ``BenchmarkResult.calibration``.
    encoders : sequence of str, optional
    colors : dict of encoder to colour, optional
    ax : Axes or sequence of Axes, optional
        One per panel.

    Returns
    -------
    Figure
        Bars: ranks of whole patterns by their distance from all others, the most central on the
        left. Line: ranks of single voxels. The dashed line, density 1, is perfect calibration. Bars
        above 2.5 are cut and labelled.

    Raises
    ------
    NothingToDraw : no encoder has ranks of patterns.
    """
    patterns = _of_quantity(calibration, "pattern_rank")
    if patterns.empty:
        raise NothingToDraw("Ranks of whole patterns were not kept.")
    patterns = chosen_rows(patterns, encoders, "value", NO_DRAWS)
    voxels = _of_quantity(calibration, "rank")
    by_name = dict(list(voxels[voxels["atlas"] == "all"].groupby("encoder")))
    colors = colors or encoder_colors(calibration["encoder"])
    panels, drawn = _panels(ax, patterns, colors, height=1.75)
    for axes, rows, color in drawn:
        _bars(axes, rows, color, alpha=0.55)
        of_voxels = by_name.get(rows["encoder"].iloc[0])
        if of_voxels is not None:
            edges = np.linspace(0, 1, len(of_voxels) + 1)
            axes.stairs(of_voxels["value"], edges, baseline=None, color=INK, lw=1.1)
    _density_axes(panels)
    _outer_labels(panels, "rank of the trial / number of draws", "density")
    handles = [
        Patch(color=MUTED, alpha=0.55, label="whole patterns, from central to outlying"),
        Line2D([], [], color=INK, lw=1.1, label="voxel by voxel, from low to high"),
    ]
    panels.legend(handles, "outside upper left", ncols=2)
    return panels.finished()


def _bars(axes: Axes, rows: pd.DataFrame, color: str, alpha: float = 1) -> None:
    """Densities as bars; cut bars are labelled with their height."""
    centres = (np.arange(len(rows)) + 0.5) / len(rows)
    axes.bar(centres, rows["value"], 0.92 / len(rows), color=color, alpha=alpha)
    axes.axhline(1, color=INK, lw=0.8, ls="--")
    for x, density in zip(centres, rows["value"], strict=True):
        if density > HIGHEST_DENSITY:
            axes.text(x, HIGHEST_DENSITY - 0.05, f"{density:.1f}", **WRITTEN_ON_BAR)


def _density_axes(panels: Panels) -> None:
    """Shared limits and ticks of a density for all panels."""
    highest = max(axes.dataLim.y1 for axes in panels.flat)
    for axes in panels.scaled:
        axes.set(xlim=(0, 1), xticks=(0, 0.5, 1), xticklabels=("0", "½", "1"), yticks=(0, 1, 2))
        axes.set_ylim(0, min(max(1.1 * highest, 1.5), HIGHEST_DENSITY))


# -------------------------------------------------------------------- draws and trials


def draw_fan(
    shown_draws: pd.DataFrame,
    *,
    voxels: Mapping[int, str] | None = None,
    encoders: Names = None,
    colors: Colors = None,
    ax: Any = None,
) -> Figure:
    """Intervals of draws and single trials, per image: a row per encoder, a column per voxel.

    Parameters
    ----------
    shown_draws : DataFrame
        ``BenchmarkResult.shown_draws``.
    voxels : dict of voxel to title, optional
        Voxels to draw; by default the first three of the table.
    encoders : sequence of str, optional
    colors : dict of encoder to colour, optional
    ax : Axes or sequence of Axes, optional
        One per panel.

    Returns
    -------
    Figure
        Images are sorted by the median of the draws in each panel.

    Raises
    ------
    NothingToDraw : no encoder has draws of one of the voxels.
    """
    if shown_draws.empty:
        raise NothingToDraw(NO_DRAWS)
    if voxels is None:
        voxels = {voxel: f"voxel {voxel}" for voxel in pd.unique(shown_draws["voxel"])[:3]}
    table = chosen_rows(
        shown_draws[shown_draws["voxel"].isin(list(voxels))], encoders, "q50", NO_DRAWS
    )
    colors = colors or encoder_colors(shown_draws["encoder"])
    drawn = list(dict.fromkeys(table["encoder"]))
    n, size = len(drawn) * len(voxels), (FULL_WIDTH, 1.75 * len(drawn) + 0.7)
    panels = make_panels(ax, n, len(voxels), size=size, sharex=True, sharey="col")
    for name, row in zip(drawn, panels.axes, strict=True):
        of_encoder = table[table["encoder"] == name]
        for axes, voxel in zip(row, voxels, strict=True):
            _fan(axes, of_encoder[of_encoder["voxel"] == voxel], colors.get(str(name), INK))
        row[0].set_ylabel(f"{short(name, 24)}\nresponse")
    for axes, title in zip(panels.axes[0], voxels.values(), strict=True):
        axes.set_title(short(title, 34))
    for axes in panels.lowest:
        axes.set_xlabel("held-out images, by median of draws")
    panels.legend(_fan_legend(), "outside upper left", ncols=4)
    return panels.finished()


def _fan(axes: Axes, rows: pd.DataFrame, color: str) -> None:
    rows = rows.sort_values("q50", kind="stable")
    x = np.arange(len(rows))
    axes.fill_between(x, rows["q05"], rows["q95"], color=color, alpha=0.2, lw=0, step="mid")
    axes.fill_between(x, rows["q25"], rows["q75"], color=color, alpha=0.35, lw=0, step="mid")
    axes.step(x, rows["q50"], color=color, lw=1.2, where="mid")
    trials = rows.filter(regex=r"^trial_\d+$").to_numpy(dtype=float)
    outside = (trials < rows[["q05"]].to_numpy()) | (trials > rows[["q95"]].to_numpy())
    image = np.broadcast_to(x[:, None], trials.shape)
    axes.plot(image[~outside], trials[~outside], ".", color=MUTED, ms=3, mew=0, zorder=3)
    axes.plot(image[outside], trials[outside], "o", mfc="white", mec=INK, ms=3.2, mew=0.8, zorder=3)
    axes.set(xticks=[], xlim=(-1, len(rows)))


def _fan_legend() -> list[Any]:
    return [
        Patch(color=MUTED, alpha=0.55, label="50 % of draws, median"),
        Patch(color=MUTED, alpha=0.2, label="90 % of draws"),
        Line2D([], [], marker=".", ms=5, mew=0, label="trial", ls="", color=MUTED),
        Line2D([], [], marker="o", ms=4, mfc="white", mec=INK, label="trial outside 90 %", ls=""),
    ]


def variance_scatter(
    maps: pd.DataFrame,
    *,
    slopes: Mapping[str, float] | None = None,
    encoders: Names = None,
    colors: Colors = None,
    ax: Any = None,
) -> Figure:
    """Variance of draws against that of trials around their mean, per voxel, a panel per encoder.

    Parameters
    ----------
    maps : DataFrame
        ``BenchmarkResult.maps``. Voxels for which either is NaN or not above 0 are left out.
    slopes : dict of encoder to slope, optional
        Slopes written into the panels.
    encoders : sequence of str, optional
    colors : dict of encoder to colour, optional
    ax : Axes or sequence of Axes, optional
        One per panel.

    Returns
    -------
    Figure
        Both scales logarithmic; the dashed line is equality. Rasterised above 3000 points.

    Raises
    ------
    NothingToDraw : no voxel has both.
    """
    columns = ["trial_variance", "draw_variance"]
    if not set(columns) <= set(maps):
        raise NothingToDraw("Variances of draws were not kept.")
    above_zero = (maps[columns] > 0).all(axis=1)
    known = maps.assign(draw_variance=maps["draw_variance"].where(above_zero))
    table = chosen_rows(known, encoders, "draw_variance", NO_DRAWS).dropna(subset=["draw_variance"])
    panels, drawn = _panels(ax, table, colors, height=2.5)
    low, high = table[columns].min().min() / 1.3, table[columns].max().max() * 1.3
    for axes in panels.scaled:
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    for axes, voxels, color in drawn:
        size = float(np.clip(5000 / len(voxels), 3, 14))
        x, y = voxels[columns].to_numpy().T
        axes.scatter(
            x,
            y,
            s=size,
            color=color,
            alpha=0.6,
            linewidths=0,
            rasterized=len(table) > MAX_VECTOR_POINTS,
        )
        axes.axline((low, low), (high, high), color=MUTED, lw=0.8, ls="--", zorder=0)
        slope = (slopes or {}).get(str(voxels["encoder"].iloc[0]), np.nan)
        if np.isfinite(slope):
            said = f"slope {slope:.2f}"
            axes.text(0.97, 0.04, said, transform=axes.transAxes, ha="right", fontsize="small")
        axes.set_aspect("equal")
    for axes in panels.scaled:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator(_round_numbers(low, high)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _outer_labels(panels, "variance of trials around the draws", "variance of draws")
    return panels.finished()


def _round_numbers(low: float, high: float) -> list[float]:
    """Powers of ten between the ends, or 1, 2 and 5 times these if there are few."""
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    inside = [power for power in powers if low <= power <= high]
    if len(inside) > 2:
        return inside
    return [k * power for power in powers for k in (1, 2, 5) if low <= k * power <= high]


# -------------------------------------------------------------------- panels


def _of_quantity(calibration: pd.DataFrame, quantity: str) -> pd.DataFrame:
    if calibration.empty:
        raise NothingToDraw(NO_DRAWS)
    return calibration[calibration["quantity"] == quantity]


def _panels(
    ax: Any, table: pd.DataFrame, colors: Colors, height: float
) -> tuple[Panels, list[tuple[Axes, pd.DataFrame, str]]]:
    """One panel per encoder with its rows and colour, black if not in `colors`."""
    groups = dict(list(table.groupby("encoder", sort=False)))
    colors = colors or encoder_colors(table["encoder"])
    panels = panel_grid(ax, len(groups), height, share=True)
    for axes, name in zip(panels.flat, groups, strict=True):
        axes.set_title(short(name, 24))
    rows = [(groups[name], colors.get(str(name), INK)) for name in groups]
    return panels, [(axes, *found) for axes, found in zip(panels.flat, rows, strict=True)]


def panel_grid(ax: Any, n: int, height: float, share: bool = False) -> Panels:
    """`n` panels, new ones in rows of nearly equal length."""
    n_rows = -(-n // MAX_COLUMNS)
    n_columns = -(-n // n_rows)
    width = min(FULL_WIDTH, (height + 0.65) * n_columns + 0.5) if height > 2 else 2.6 * n_columns
    size = (min(width, FULL_WIDTH), height * n_rows + 0.35)
    return make_panels(ax, n, n_columns, size=size, sharex=share, sharey=share)


def _outer_labels(panels: Panels, x: str, y: str) -> None:
    """Labels on the left column, and on the lowest panel of every column."""
    for axes in panels.left:
        axes.set_ylabel(y)
    for axes in panels.lowest:
        axes.set_xlabel(x)
        axes.tick_params(labelbottom=True)
