"""Figures of paired differences between encoders: tables in, `matplotlib.figure.Figure` out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brainenc.report.panels import Names, as_list, check_known, make_panels, shown_rois
from brainenc.report.style import (
    FULL_WIDTH,
    INK,
    LABELS,
    LOWER_IS_BETTER,
    MUTED,
    NothingToDraw,
    encoder_colors,
    rotate_if_crowded,
    short,
)


def difference_forest(
    pairs: pd.DataFrame,
    *,
    encoders: Names = None,
    colors: Mapping[str, str] | None = None,
    ax: Any = None,
) -> Figure:
    """Difference of every two encoders with its interval, one panel per metric.

    Parameters
    ----------
    pairs : DataFrame
        Rows of ``BenchmarkResult.pairs`` or ``draw_pairs``, one per pair and metric (all voxels,
        or one ROI).
    encoders : sequence of str, optional
        Encoders whose pairs are drawn; pairs keep the order of the table.
    colors : dict of encoder to colour, optional
        A row has the colour of the first encoder of its pair.
    ax : Axes or sequence of Axes, optional
        One per metric.

    Returns
    -------
    Figure
        Filled where the interval leaves zero out, open otherwise.

    Raises
    ------
    NothingToDraw : there is no pair, or no difference is defined.
    ValueError : `encoders` has a name that is not in the table, or `ax` another number of Axes.
    """
    colors = colors or encoder_colors(pairs[["encoder_a", "encoder_b"]].to_numpy().ravel())
    pairs = _pairs_of(pairs, encoders)
    defined = pairs.dropna(subset=["difference"])
    if defined.empty:
        raise NothingToDraw("There are no two encoders whose difference is defined.")
    labels = list(dict.fromkeys(map(pair_label, pairs["encoder_a"], pairs["encoder_b"])))
    metrics = [metric for metric in pairs["metric"].unique() if metric in set(defined["metric"])]
    size = (min(FULL_WIDTH, 2.6 + 3.5 * len(metrics)), 1 + 0.25 * len(labels))
    panels = make_panels(ax, len(metrics), len(metrics), size=size, sharey=True)
    row: Any
    for axes, metric in zip(panels.flat, metrics, strict=True):
        axes.axvline(0, color=MUTED, lw=0.8)
        for row in defined[defined["metric"] == metric].itertuples():
            y = labels.index(pair_label(row.encoder_a, row.encoder_b))
            _whisker(axes, y, row, colors[str(row.encoder_a)])
        axes.set_title(f"difference in {LABELS.get(metric, metric)}")
        axes.set_xlabel(f"{_better(metric)}: the first is better")
        axes.grid(True, axis="x")
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylim(len(labels) - 0.4, -0.6)
    panels.flat[0].set_yticks(range(len(labels)), labels)
    return panels.finished()


def _pairs_of(pairs: pd.DataFrame, encoders: Names) -> pd.DataFrame:
    """Pairs of two of the chosen encoders."""
    if encoders is None:
        return pairs
    sides = ["encoder_a", "encoder_b"]
    chosen = as_list(encoders, "encoders")
    check_known(chosen, list(dict.fromkeys(pairs[sides].to_numpy().ravel())), "encoders")
    return pairs[pairs[sides].isin(chosen).all(axis=1)]


def _whisker(axes: Axes, y: float, row: Any, color: str) -> None:
    face = color if row.low > 0 or row.high < 0 else "white"
    axes.hlines(y, row.low, row.high, color=color, lw=1.8)
    axes.plot(row.difference, y, "o", ms=6, mec=color, mfc=face, mew=1.4)


def _better(metric: str) -> str:
    return "left of 0" if metric.startswith(LOWER_IS_BETTER) else "right of 0"


def pair_label(a: Any, b: Any) -> str:
    """Name of a difference."""
    return f"{short(a, 22)} − {short(b, 22)}"


def roi_difference_map(
    pairs: pd.DataFrame,
    *,
    metric: str = "r",
    order: Names = None,
    encoders: Names = None,
    ax: Any = None,
) -> Figure:
    """Difference of encoders in each ROI as a table of colours.

    Parameters
    ----------
    pairs : DataFrame
        ``BenchmarkResult.pairs`` or ``draw_pairs``, one atlas of it.
    metric : str
        "r", "mse_z" or "crps_z".
    order : sequence of str, optional
        ROIs to draw; by default the 40 largest, as they come in the table.
    encoders : sequence of str, optional
        Encoders whose pairs are drawn; pairs keep the order of the table.
    ax : Axes, optional

    Returns
    -------
    Figure
        Rows are pairs with a defined difference, columns are ROIs. Bold where the interval
        leaves zero out.

    Raises
    ------
    NothingToDraw : no pair has a defined difference in a ROI.
    ValueError : `encoders` or `order` has a name that is not in the table, or `ax` is several Axes.
    """
    pairs = _pairs_of(pairs, encoders)
    rows = pairs[pairs["metric"] == metric].dropna(subset=["difference"])
    if rows.empty:
        raise NothingToDraw("No ROI has two encoders whose difference is defined.")
    rois = shown_rois(rows.groupby("roi", sort=False)["n_voxels"].max(), order)
    rows = rows[rows["roi"].isin(rois)]
    labels = list(dict.fromkeys(map(pair_label, rows["encoder_a"], rows["encoder_b"])))
    values = np.full((len(labels), len(rois)), np.nan)
    slot = min(0.62, (FULL_WIDTH - 3) / len(rois))
    size = (max(3.4 + slot * len(rois), 4.5), 1.2 + 0.3 * len(labels))
    panels = make_panels(ax, 1, 1, size=size)
    axes = panels.flat[0]
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
    bar = panels.figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, aspect=12)
    bar.ax.spines[:].set_visible(False)
    bar.set_label(f"Δ {LABELS.get(metric, metric)}")
    return panels.finished()


def _cell_text(axes: Axes, x: int, y: int, row: Any, *, dark: bool) -> None:
    certain = row.low > 0 or row.high < 0
    text = f"{row.difference:+.3f}".replace("-", "−").replace("+0.", "+.").replace("−0.", "−.")
    axes.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize="x-small",
        color="white" if dark else INK,
        weight="bold" if certain else "normal",
        alpha=1 if certain else 0.75,
    )
