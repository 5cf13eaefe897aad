"""Figures of an experiment on an encoder: means of conditions, and tuning curves."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from brainenc.report.panels import Names, make_panels, roi_panels, rows_of_atlas, shown_rois
from brainenc.report.style import FULL_WIDTH, GREY, INK, NothingToDraw, encoder_colors, short

#: Panels without `order`.
_MAX_PANELS = 12
_MAX_SLICES = 8


def condition_bars(
    rois: pd.DataFrame, *, atlas: str | None = None, order: Names = None, ax: Any = None
) -> Figure:
    """Mean response to every condition, one panel per area.

    Dark lines are intervals of model uncertainty; light ones the s.d. of single trials of the mean
    of the area, which an experiment would average.

    Parameters
    ----------
    rois : DataFrame
        ``Experiment.rois``.
    atlas : str, optional
        By default the first of the table; all voxels if it has none.
    order : sequence of str, optional
        Areas to draw; by default the 12 largest, as they come in the table.
    ax : Axes or sequence of Axes, optional
        One per area.

    Returns
    -------
    Figure

    Raises
    ------
    NothingToDraw : no response is defined.
    ValueError : `atlas` or `order` has a name that is not in the table, or `ax` another number of
        Axes.
    """
    table = rows_of_atlas(rois, atlas, "response")
    shown = _shown(table, order)
    names = list(dict.fromkeys(rois["condition"]))
    panels = roi_panels(ax, len(shown), 2.4)
    color = encoder_colors(["response"])["response"]
    for axes, roi in zip(panels.flat, shown, strict=True):
        rows = table[table["roi"] == roi].set_index("condition").reindex(names)
        x = np.arange(len(names))
        axes.bar(x, rows["response"], color=color, alpha=0.55, width=0.7)
        trial = np.stack([rows["response"] - rows["trial_sd"], rows["response"] + rows["trial_sd"]])
        axes.vlines(x, *trial, color=GREY, lw=0.8)
        axes.vlines(x, rows["low"], rows["high"], color=INK, lw=1.8)
        axes.axhline(0, color=INK, lw=0.6)
        axes.set_title(short(roi))
        axes.set_xticks(x, [short(name, 16) for name in names], rotation=60, ha="right")
    return _finished(panels)


def tuning_curves(
    tuning: pd.DataFrame,
    parameter: str | None = None,
    *,
    atlas: str | None = None,
    order: Names = None,
    ax: Any = None,
) -> Figure:
    """Mean response at every value of a parameter, with the interval, one panel per area.

    Parameters
    ----------
    tuning : DataFrame
        ``Experiment.tuning``.
    parameter : str, optional
        By default the first.
    atlas, order, ax : as for `condition_bars`

    Returns
    -------
    Figure

    Raises
    ------
    NothingToDraw : no response is defined, or the conditions have no parameter.
    ValueError : as `condition_bars`, or an unknown parameter.
    """
    known = list(tuning["parameter"].unique())
    if not known:
        raise NothingToDraw("The conditions have no parameter with two values.")
    if parameter is not None and parameter not in known:
        raise ValueError(f"parameter={parameter!r} is not in the table, which has {known}")
    parameter = known[0] if parameter is None else parameter
    table = rows_of_atlas(tuning[tuning["parameter"] == parameter], atlas, "response")
    shown = _shown(table, order)
    panels = roi_panels(ax, len(shown), 2.4)
    color = encoder_colors(["response"])["response"]
    for axes, roi in zip(panels.flat, shown, strict=True):
        rows = table[table["roi"] == roi]
        numbers = pd.to_numeric(rows["value"], errors="coerce").to_numpy(float)
        as_numbers = np.isfinite(numbers).all()
        x = numbers if as_numbers else np.arange(len(rows))
        y, low, high = (rows[name].to_numpy(float) for name in ("response", "low", "high"))
        axes.fill_between(x, low, high, color=color, alpha=0.2)
        axes.plot(x, y, color=color, lw=1.4, marker="o", ms=3)
        if not as_numbers:
            axes.set_xticks(x, [short(value, 12) for value in rows["value"]], rotation=60)
        axes.set_title(short(roi))
    for axes in panels.lowest if panels.is_new else panels.flat:
        axes.set_xlabel(short(parameter))
    return _finished(panels)


def grid_maps(
    maps: Mapping[str, np.ndarray],
    voxels: pd.DataFrame,
    *,
    cmap: str,
    limits: tuple[float, float],
    label: str,
) -> Figure:
    """Values per voxel on the grid of ``i, j, k``, seen along k: for voxels without a volume.

    Parameters
    ----------
    maps : dict of title to array, shape (n_voxels,)
        Of the first one slices are drawn if voxels lie behind one another.
    voxels : DataFrame, n_voxels rows
    cmap, limits, label
        Of the colours.

    Returns
    -------
    Figure
    """
    place = voxels[["i", "j"]].to_numpy(int)
    place = place - place.min(axis=0)
    k = voxels["k"].to_numpy(int)
    everywhere = np.ones(len(k), dtype=bool)
    if voxels.duplicated(["i", "j"]).any():
        title, values = next(iter(maps.items()))
        levels, counts = np.unique(k[np.isfinite(values)], return_counts=True)
        largest = np.sort(levels[np.argsort(-counts, kind="stable")[:_MAX_SLICES]])
        shown = [(f"{short(title)}, k = {level}", values, k == level) for level in largest]
    else:
        shown = [(short(title), values, everywhere) for title, values in maps.items()]
    n_columns = min(3, len(shown))
    height = 2.6 * -(-len(shown) // n_columns) + 0.2
    panels = make_panels(None, len(shown), n_columns, size=(FULL_WIDTH, height))
    for axes, (title, values, rows) in zip(panels.flat, shown, strict=True):
        drawn = np.full(place.max(axis=0) + 1, np.nan)
        drawn[tuple(place[rows].T)] = values[rows]
        axes.imshow(
            drawn.T, origin="lower", interpolation="none", cmap=cmap, vmin=limits[0], vmax=limits[1]
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set(title=title, xlabel="i", ylabel="j")
    bar = ScalarMappable(Normalize(*limits), cmap)
    panels.figure.colorbar(bar, ax=panels.flat, label=label, shrink=0.8)
    return panels.finished()


def _shown(table: pd.DataFrame, order: Names) -> list[str]:
    sizes = table.drop_duplicates("roi").set_index("roi")["n_voxels"]
    return list(shown_rois(sizes, order, _MAX_PANELS))


def _finished(panels: Any) -> Figure:
    for axes in panels.left if panels.is_new else panels.flat[:1]:
        axes.set_ylabel("response (betas)")
    return panels.finished()
