"""Figures of paired differences between encoders: tables in, `matplotlib.figure.Figure` out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brainenc.report.style import (
    FULL_WIDTH,
    INK,
    LABELS,
    LOWER_IS_BETTER,
    MUTED,
    NothingToDraw,
    encoder_colors,
    largest,
    rotate_if_crowded,
    short,
    styled,
)


@styled()
def difference_forest(pairs: pd.DataFrame, *, colors: Mapping[str, str] | None = None) -> Figure:
    """Difference of every two encoders with its interval, one panel per metric.

    Parameters
    ----------
    pairs : DataFrame
        Rows of ``BenchmarkResult.pairs`` or ``draw_pairs``, one per pair and metric (all voxels,
        or one ROI).
    colors : dict of encoder to colour, optional
        A row has the colour of the first encoder of its pair.

    Returns
    -------
    Figure
        Filled where the interval leaves zero out, open otherwise.

    Raises
    ------
    NothingToDraw : there is no pair, or no difference is defined.
    """
    defined = pairs.dropna(subset=["difference"])
    if defined.empty:
        raise NothingToDraw("There are no two encoders whose difference is defined.")
    colors = colors or encoder_colors(pairs[["encoder_a", "encoder_b"]].to_numpy().ravel())
    labels = list(dict.fromkeys(map(pair_label, pairs["encoder_a"], pairs["encoder_b"])))
    metrics = [metric for metric in pairs["metric"].unique() if metric in set(defined["metric"])]
    figure = Figure(figsize=(min(FULL_WIDTH, 2.6 + 3.5 * len(metrics)), 1 + 0.25 * len(labels)))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    row: Any
    for axes, metric in zip(panels, metrics, strict=True):
        axes.axvline(0, color=MUTED, lw=0.8)
        for row in defined[defined["metric"] == metric].itertuples():
            y = labels.index(pair_label(row.encoder_a, row.encoder_b))
            _whisker(axes, y, row, colors[str(row.encoder_a)])
        axes.set_title(f"difference in {LABELS.get(metric, metric)}")
        axes.set_xlabel(f"{_better(metric)}: the first is better")
        axes.grid(True, axis="x")
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    return figure


def _whisker(axes: Axes, y: float, row: Any, color: str) -> None:
    face = color if row.low > 0 or row.high < 0 else "white"
    axes.hlines(y, row.low, row.high, color=color, lw=1.8)
    axes.plot(row.difference, y, "o", ms=6, mec=color, mfc=face, mew=1.4)


def _better(metric: str) -> str:
    return "left of 0" if metric.startswith(LOWER_IS_BETTER) else "right of 0"


def pair_label(a: Any, b: Any) -> str:
    """Name of a difference."""
    return f"{short(a, 22)} − {short(b, 22)}"


@styled()
def roi_difference_map(pairs: pd.DataFrame, *, metric: str = "r") -> Figure:
    """Difference of encoders in each ROI as a table of colours.

    Parameters
    ----------
    pairs : DataFrame
        ``BenchmarkResult.pairs`` or ``draw_pairs``, one atlas of it.
    metric : str
        "r", "mse_z" or "crps_z".

    Returns
    -------
    Figure
        Rows are pairs with a defined difference, columns are ROIs. Bold where the interval
        leaves zero out.

    Raises
    ------
    NothingToDraw : no pair has a defined difference in a ROI.
    """
    rows = pairs[pairs["metric"] == metric].dropna(subset=["difference"])
    if rows.empty:
        raise NothingToDraw("No ROI has two encoders whose difference is defined.")
    rows = rows[rows["roi"].isin(largest(rows.groupby("roi", sort=False)["n_voxels"].max()))]
    labels = list(dict.fromkeys(map(pair_label, rows["encoder_a"], rows["encoder_b"])))
    rois = list(rows["roi"].unique())
    values = np.full((len(labels), len(rois)), np.nan)
    slot = min(0.62, (FULL_WIDTH - 3) / len(rois))
    figure = Figure(figsize=(max(3.4 + slot * len(rois), 4.5), 1.2 + 0.3 * len(labels)))
    axes = figure.subplots()
    limit = float(np.abs(rows["difference"]).max()) or 1.0
    row: Any
    for row in rows.itertuples():
        y, x = labels.index(pair_label(row.encoder_a, row.encoder_b)), rois.index(row.roi)
        values[y, x] = row.difference
        if slot > 0.35:
            _cell_text(axes, x, y, row, dark=abs(row.difference) > 0.6 * limit)
    image = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    texts = [short(roi, 14) for roi in rois]
    axes.set_xticks(range(len(rois)), texts)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    rotate_if_crowded(axes, texts, slot)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, aspect=12)
    bar.ax.spines[:].set_visible(False)
    bar.set_label(f"Δ {LABELS.get(metric, metric)}")
    return figure


def _cell_text(axes: Axes, x: int, y: int, row: Any, *, dark: bool) -> None:
    certain = row.low > 0 or row.high < 0
    text = f"{row.difference:+.3f}".replace("-", "−").replace("+0.", "+.").replace("−0.", "−.")
    axes.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize=7.5,
        color="white" if dark else INK,
        weight="bold" if certain else "normal",
        alpha=1 if certain else 0.75,
    )
