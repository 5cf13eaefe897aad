"""Figures of a group of subjects: tables in, `matplotlib.figure.Figure` out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from brainenc.report.differences import pair_label
from brainenc.report.style import (
    FULL_WIDTH,
    GREY,
    INK,
    LABELS,
    LOWER_IS_BETTER,
    MUTED,
    NothingToDraw,
    encoder_colors,
    rotate_if_crowded,
    short,
    styled,
)


@styled()
def subject_lines(
    subjects: pd.DataFrame,
    encoders: pd.DataFrame,
    *,
    metric: str = "r",
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Score of each encoder in each subject, one line per subject, and the means.

    Parameters
    ----------
    subjects : DataFrame
        ``GroupResult.subjects``.
    encoders : DataFrame
        ``GroupResult.encoders``, in the order in which encoders are shown; those without a value
        are left out.
    metric : str
    colors : dict of encoder to colour, optional

    Returns
    -------
    Figure
        Points are means over subjects, bars their 95 % intervals.

    Raises
    ------
    NothingToDraw : no encoder has a value.
    """
    shown = encoders.dropna(subset=[metric])
    if shown.empty:
        raise NothingToDraw(f"{LABELS.get(metric, metric)} is undefined for every encoder.")
    colors = colors or encoder_colors(encoders["encoder"])
    names = list(map(str, shown["encoder"]))
    figure = Figure(figsize=(min(FULL_WIDTH, 2.4 + 1.1 * len(names)), 3.4))
    axes = figure.subplots()
    x = np.arange(len(names))
    for _, of_subject in subjects.groupby("subject", sort=False):
        values = of_subject.set_index("encoder")[metric].reindex(names)
        axes.plot(x, values, color=GREY, lw=1, marker="o", ms=3, zorder=1)
    axes.vlines(x, shown[f"{metric}_low"], shown[f"{metric}_high"], color=INK, lw=1.6, zorder=2)
    axes.scatter(x, shown[metric], s=46, color=[colors[name] for name in names], zorder=3)
    labels = [short(name, 22) for name in names]
    axes.set_xticks(x, labels)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylabel=LABELS.get(metric, metric))
    axes.grid(True, axis="y")
    axes.margins(y=0.08)
    rotate_if_crowded(axes, labels, figure.get_figwidth() / (len(names) + 1))
    handles = [
        Line2D([], [], color=GREY, marker="o", ms=3, lw=1, label="a subject"),
        Line2D([], [], color=INK, marker="o", ms=6, lw=1.6, label="mean, 95 % interval"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


@styled()
def group_forest(
    pairs: pd.DataFrame, subject_pairs: pd.DataFrame, *, colors: Mapping[str, str] | None = None
) -> Figure:
    """Difference of every two encoders over subjects, with the subjects' own, per metric.

    Parameters
    ----------
    pairs, subject_pairs : DataFrame
        Tables of a `GroupResult`, rows of one place (all voxels, or one ROI).
    colors : dict of encoder to colour, optional
        A row has the colour of the first encoder of its pair.

    Returns
    -------
    Figure
        Small points are subjects. Filled where p < .05, open otherwise.

    Raises
    ------
    NothingToDraw : no difference is defined.
    """
    defined = pairs.dropna(subset=["difference"])
    if defined.empty:
        raise NothingToDraw("There are no two encoders whose difference is defined.")
    colors = colors or encoder_colors(pairs[["encoder_a", "encoder_b"]].to_numpy().ravel())
    labels = list(dict.fromkeys(map(pair_label, defined["encoder_a"], defined["encoder_b"])))
    metrics = list(dict.fromkeys(defined["metric"]))
    figure = Figure(figsize=(min(FULL_WIDTH, 2.6 + 3.5 * len(metrics)), 1 + 0.3 * len(labels)))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    row: Any
    for axes, metric in zip(panels, metrics, strict=True):
        axes.axvline(0, color=MUTED, lw=0.8)
        here = subject_pairs[subject_pairs["metric"] == metric]
        names = map(pair_label, here["encoder_a"], here["encoder_b"])
        places = {label: i for i, label in enumerate(labels)}
        y_subjects = np.array([places.get(name, np.nan) for name in names], dtype=float)
        axes.plot(here["difference"], y_subjects + 0.2, "o", ms=3, color=GREY, zorder=1)
        for row in defined[defined["metric"] == metric].itertuples():
            y = places[pair_label(row.encoder_a, row.encoder_b)]
            color = colors[str(row.encoder_a)]
            axes.hlines(y, row.low, row.high, color=color, lw=1.8)
            face = color if row.p < 0.05 else "white"
            axes.plot(row.difference, y, "o", ms=6, mec=color, mfc=face, mew=1.4)
        better = "left of 0" if metric.startswith(LOWER_IS_BETTER) else "right of 0"
        axes.set_title(f"difference in {LABELS.get(metric, metric)}")
        axes.set_xlabel(f"{better}: the first is better")
        axes.grid(True, axis="x")
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    return figure
