"""Figures of draws and single trials: tables in, `matplotlib.figure.Figure` out.

Each function takes a table of a `BenchmarkResult` and raises `NothingToDraw` if it has no finite
value to show. `names` chooses the encoders, in that order; without it all are drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from brainenc.report.style import (
    FAINT,
    FULL_WIDTH,
    INK,
    MUTED,
    NothingToDraw,
    encoder_colors,
    short,
    styled,
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
    "fontsize": 6.5,
    "color": "white",
}

#: Scatters with more points are rasterised.
MAX_VECTOR_POINTS = 3000

Names = Sequence[str] | None
Colors = Mapping[str, str] | None


# -------------------------------------------------------------------- calibration


@styled()
def calibration_curves(
    calibration: pd.DataFrame, *, names: Names = None, colors: Colors = None
) -> Figure:
    """Share of trials inside central intervals of draws, one panel per encoder.

    Parameters
    ----------
    calibration : DataFrame
        ``BenchmarkResult.calibration``.
    names : sequence of str, optional
    colors : dict of encoder to colour, optional

    Returns
    -------
    Figure
        All voxels in colour, each ROI in grey; the dashed line is perfect calibration.

    Raises
    ------
    NothingToDraw : no encoder has a coverage.
    """
    table = chosen_rows(_of_quantity(calibration, "coverage"), names, "value")
    figure, panels = _panels(table, colors, height=2.35)
    for axes, rows, color in panels:
        axes.axline((0, 0), slope=1, color=MUTED, lw=0.8, ls="--", zorder=1)
        whole = rows["atlas"] == "all"
        for _, roi in rows[~whole].groupby(["atlas", "roi"], sort=False):
            axes.plot(roi["position"], roi["value"], color=FAINT, lw=0.8, zorder=2)
        levels, covered = rows.loc[whole, ["position", "value"]].to_numpy().T
        axes.plot(levels, covered, color=color, lw=1.6, marker="o", ms=3)
        at = dict(zip(np.round(levels, 3), covered, strict=True))
        said = [f"{100 * at[k]:.1f} % in {100 * k:.0f} %" for k in (0.5, 0.9) if k in at]
        axes.text(1, 0.02, "\n".join(said), ha="right", va="bottom", fontsize=7.5, color=MUTED)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.set_aspect("equal")
    _outer_labels(figure, "central interval of draws", "trials inside")
    return figure


@styled()
def pit_histograms(
    calibration: pd.DataFrame, *, names: Names = None, colors: Colors = None
) -> Figure:
    """PIT histograms of trials among draws, one per encoder, over all voxels.

    Parameters
    ----------
    calibration : DataFrame
        ``BenchmarkResult.calibration``.
    names : sequence of str, optional
    colors : dict of encoder to colour, optional

    Returns
    -------
    Figure
        The dashed line, density 1, is perfect calibration. Bars above 2.5 are cut and labelled.

    Raises
    ------
    NothingToDraw : no encoder has ranks.
    """
    table = _of_quantity(calibration, "pit")
    table = chosen_rows(table[table["atlas"] == "all"], names, "value")
    figure, panels = _panels(table, colors, height=1.75)
    for axes, rows, color in panels:
        _bars(axes, rows, color)
    _density_axes(panels[0][0], [axes for axes, _, _ in panels])
    _outer_labels(figure, "rank of the trial / number of draws", "density")
    return figure


@styled()
def rank_histograms(
    calibration: pd.DataFrame, *, names: Names = None, colors: Colors = None
) -> Figure:
    """Ranks of trials among draws, of whole patterns and of single voxels, per encoder.

    Parameters
    ----------
    calibration : DataFrame
        ``BenchmarkResult.calibration``.
    names : sequence of str, optional
    colors : dict of encoder to colour, optional

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
    patterns = chosen_rows(patterns, names, "value")
    voxels = _of_quantity(calibration, "rank")
    by_name = dict(list(voxels[voxels["atlas"] == "all"].groupby("encoder")))
    figure, panels = _panels(patterns, colors or encoder_colors(calibration["encoder"]), 1.75)
    for axes, rows, color in panels:
        _bars(axes, rows, color, alpha=0.55)
        of_voxels = by_name.get(rows["encoder"].iloc[0])
        if of_voxels is not None:
            edges = np.linspace(0, 1, len(of_voxels) + 1)
            axes.stairs(of_voxels["value"], edges, baseline=None, color=INK, lw=1.1)
    _density_axes(panels[0][0], [axes for axes, _, _ in panels])
    _outer_labels(figure, "rank of the trial / number of draws", "density")
    handles = [
        Patch(color=MUTED, alpha=0.55, label="whole patterns, from central to outlying"),
        Line2D([], [], color=INK, lw=1.1, label="voxel by voxel, from low to high"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


def _bars(axes: Axes, rows: pd.DataFrame, color: str, alpha: float = 1) -> None:
    """Densities as bars; cut bars are labelled with their height."""
    centres = (np.arange(len(rows)) + 0.5) / len(rows)
    axes.bar(centres, rows["value"], 0.92 / len(rows), color=color, alpha=alpha)
    axes.axhline(1, color=INK, lw=0.8, ls="--")
    for x, density in zip(centres, rows["value"], strict=True):
        if density > HIGHEST_DENSITY:
            axes.text(x, HIGHEST_DENSITY - 0.05, f"{density:.1f}", **WRITTEN_ON_BAR)
    axes.set(xlim=(0, 1), xticks=(0, 0.5, 1), xticklabels=("0", "½", "1"), yticks=(0, 1, 2))


def _density_axes(shared: Axes, panels: Sequence[Axes]) -> None:
    """Shared limits of a density for all panels."""
    highest = max(axes.dataLim.y1 for axes in panels)
    shared.set_ylim(0, min(max(1.1 * highest, 1.5), HIGHEST_DENSITY))


# -------------------------------------------------------------------- draws and trials


@styled()
def draw_fan(
    shown_draws: pd.DataFrame,
    *,
    voxels: Mapping[int, str] | None = None,
    names: Names = None,
    colors: Colors = None,
) -> Figure:
    """Intervals of draws and single trials, per image: a row per encoder, a column per voxel.

    Parameters
    ----------
    shown_draws : DataFrame
        ``BenchmarkResult.shown_draws``.
    voxels : dict of voxel to title, optional
        Voxels to draw; by default the first three of the table.
    names : sequence of str, optional
    colors : dict of encoder to colour, optional

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
    table = chosen_rows(shown_draws[shown_draws["voxel"].isin(list(voxels))], names, "q50")
    colors = colors or encoder_colors(shown_draws["encoder"])
    drawn = list(dict.fromkeys(table["encoder"]))
    figure = Figure(figsize=(FULL_WIDTH, 1.75 * len(drawn) + 0.7))
    rows = figure.subplots(len(drawn), len(voxels), sharex=True, sharey="col", squeeze=False)
    for name, panels in zip(drawn, rows, strict=True):
        of_encoder = table[table["encoder"] == name]
        for axes, voxel in zip(panels, voxels, strict=True):
            _fan(axes, of_encoder[of_encoder["voxel"] == voxel], colors.get(str(name), INK))
        panels[0].set_ylabel(f"{short(name, 24)}\nresponse")
    for axes, title in zip(rows[0], voxels.values(), strict=True):
        axes.set_title(short(title, 34))
    for axes in rows[-1]:
        axes.set_xlabel("held-out images, by median of draws")
    figure.legend(handles=_fan_legend(), loc="outside upper left", ncols=4)
    return figure


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


@styled()
def variance_scatter(
    maps: pd.DataFrame,
    *,
    slopes: Mapping[str, float] | None = None,
    names: Names = None,
    colors: Colors = None,
) -> Figure:
    """Variance of draws against that of trials around their mean, per voxel, a panel per encoder.

    Parameters
    ----------
    maps : DataFrame
        ``BenchmarkResult.maps``. Voxels for which either is NaN or not above 0 are left out.
    slopes : dict of encoder to slope, optional
        Slopes written into the panels.
    names : sequence of str, optional
    colors : dict of encoder to colour, optional

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
    table = chosen_rows(maps[above_zero], names, "draw_variance")
    figure, panels = _panels(table, colors, height=2.5)
    low, high = table[columns].min().min() / 1.3, table[columns].max().max() * 1.3
    for axes, voxels, color in panels:
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
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        axes.axline((low, low), (high, high), color=MUTED, lw=0.8, ls="--", zorder=0)
        slope = (slopes or {}).get(str(voxels["encoder"].iloc[0]), np.nan)
        if np.isfinite(slope):
            said = f"slope {slope:.2f}"
            axes.text(0.97, 0.04, said, transform=axes.transAxes, ha="right", fontsize=8)
        axes.set_aspect("equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator(_round_numbers(low, high)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _outer_labels(figure, "variance of trials around the draws", "variance of draws")
    return figure


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


def chosen_rows(table: pd.DataFrame, names: Names, column: str) -> pd.DataFrame:
    """Rows of the chosen encoders, in order, without encoders that have no finite value."""
    if table.empty:
        raise NothingToDraw(NO_DRAWS)
    finite = table.groupby("encoder", sort=False)[column].transform("count") > 0
    table = table[finite.astype(bool)]
    names = list(dict.fromkeys(table["encoder"])) if names is None else names
    parts = [table[table["encoder"] == name] for name in names]
    chosen = pd.concat(parts) if parts else table.iloc[:0]
    if chosen.empty:
        raise NothingToDraw(NO_DRAWS)
    return chosen


def _panels(
    table: pd.DataFrame, colors: Colors, height: float
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame, str]]]:
    """One panel per encoder with its rows and colour, black if not in `colors`."""
    groups = dict(list(table.groupby("encoder", sort=False)))
    colors = colors or encoder_colors(table["encoder"])
    figure, axes = panel_grid(len(groups), height, share=True)
    for panel, name in zip(axes, groups, strict=True):
        panel.set_title(short(name, 24))
    rows = [(groups[name], colors.get(str(name), INK)) for name in groups]
    return figure, [(panel, *found) for panel, found in zip(axes, rows, strict=True)]


def panel_grid(n: int, height: float, share: bool = False) -> tuple[Figure, list[Axes]]:
    """Figure with `n` panels in rows of nearly equal length."""
    n_rows = -(-n // MAX_COLUMNS)
    n_columns = -(-n // n_rows)
    width = min(FULL_WIDTH, (height + 0.65) * n_columns + 0.5) if height > 2 else 2.6 * n_columns
    figure = Figure(figsize=(min(width, FULL_WIDTH), height * n_rows + 0.35))
    panels = figure.subplots(n_rows, n_columns, sharex=share, sharey=share, squeeze=False)
    for axes in panels.flat[n:]:
        axes.remove()
    return figure, list(panels.flat[:n])


def _outer_labels(figure: Figure, x: str, y: str) -> None:
    """Labels on the left column, and on the lowest panel of every column."""
    tops = [round(axes.get_position().y1, 6) for axes in figure.axes]
    n_columns = tops.count(tops[0])
    for i, axes in enumerate(figure.axes):
        if i % n_columns == 0:
            axes.set_ylabel(y)
        if i + n_columns >= len(figure.axes):
            axes.set_xlabel(x)
            axes.tick_params(labelbottom=True)
