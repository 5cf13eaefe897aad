"""Figure of a variance partition: areas of what bands explain, one panel per ROI."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from brainenc.report.panels import Names, as_list, check_known, roi_panels, shown_rois
from brainenc.report.style import (
    GREY,
    INK,
    MUTED,
    NothingToDraw,
    encoder_colors,
    short,
)

#: Panels without `order`.
_MAX_PANELS = 12
#: Areas are means over one of so many parts of an ROI's voxels, around each voxel.
_WINDOWS = 12


def partition_areas(
    voxels: pd.DataFrame,
    *,
    bands: Names = None,
    atlas: str | None = None,
    order: Names = None,
    colors: Mapping[str, str] | None = None,
    ax: object = None,
) -> Figure:
    """Areas of what each band explains uniquely and what they share, one panel per ROI.

    Voxels of an ROI are in the order of the R² of all bands, and areas are running means over a
    twelfth of them. Areas above zero are stacked upwards and areas below zero downwards; the line
    is their sum, the R² of all bands.

    Parameters
    ----------
    voxels : DataFrame
        ``VariancePartition.voxels``. Voxels without a finite total are left out.
    bands : sequence of str, optional
        All bands of the table, in the order of the stack.
    atlas : str, optional
        Column of ROI labels; by default ``roi`` if there is one, else one panel of all voxels.
    order : sequence of str, optional
        ROIs to draw; by default the 12 largest, as they come in the table.
    colors : dict of band to colour, optional
        May have the key "shared".
    ax : Axes or sequence of Axes, optional
        One per ROI.

    Returns
    -------
    Figure

    Raises
    ------
    NothingToDraw : no voxel has a finite total.
    ValueError : `bands`, `atlas` or `order` has a name that is not in the table, or `ax` another
        number of Axes.
    """
    known = bands_of(voxels)
    names = known if bands is None else as_list(bands, "bands")
    check_known(names, known, "bands")
    if missing := [name for name in known if name not in names]:
        raise ValueError(f"bands leaves out {missing}: without them areas do not add up to R²")
    finite = voxels[np.isfinite(voxels["total"])]
    if finite.empty:
        raise NothingToDraw("No voxel has a defined R².")
    labels = _labels(finite, atlas)
    shown = shown_rois(labels[labels != ""].value_counts(sort=False), order, _MAX_PANELS)
    if not shown:
        raise NothingToDraw("No voxel with a defined R² is in an ROI.")
    colors = {**encoder_colors(names), "shared": GREY, **(colors or {})}
    panels = roi_panels(ax, len(shown), 2.1, sharey=True)
    for axes, roi in zip(panels.flat, shown, strict=True):
        rows = finite[labels == roi].sort_values("total", ascending=False, kind="stable")
        x = np.arange(1, len(rows) + 1)
        parts = [f"unique_{name}" for name in names]
        parts.insert((len(parts) + 1) // 2, "shared")  # between the bands that share it
        above, below = np.zeros((2, len(rows)))
        for part in parts:
            area = running_mean(rows[part].to_numpy(float))
            color = colors[part.removeprefix("unique_") if part != "shared" else part]
            for level, height in ((above, area.clip(min=0)), (below, area.clip(max=0))):
                axes.fill_between(x, level, level + height, color=color, lw=0)
                level += height
        axes.plot(x, running_mean(rows["total"].to_numpy(float)), color=INK, lw=1.2)
        ceiling = running_mean(rows["noise_ceiling"].to_numpy(float))
        axes.plot(x, ceiling, color=MUTED, lw=1, ls="--")
        axes.axhline(0, color=MUTED, lw=0.6)
        axes.set_title(short(roi))
        axes.set_xlim(1, max(2, len(rows)))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    # Given axes may be arranged in another way.
    for axes in panels.left if panels.is_new else panels.flat:
        axes.set_ylabel("R²")
    for axes in panels.lowest if panels.is_new else panels.flat:
        axes.set_xlabel("voxels, by R²")
    handles = [Patch(color=colors[name], label=f"unique: {short(name)}") for name in names]
    handles.append(Patch(color=colors["shared"], label="shared"))
    handles.append(Line2D([], [], color=INK, lw=1.2, label="all bands"))  # type: ignore[arg-type]
    handles.append(
        Line2D([], [], color=MUTED, lw=1, ls="--", label="noise ceiling")  # type: ignore[arg-type]
    )
    panels.legend(handles, "outside upper left")
    return panels.finished()


def bands_of(voxels: pd.DataFrame) -> list[str]:
    """Bands of a table of voxels: those that have a unique part and its null."""
    columns = [str(column) for column in voxels]
    return [
        column.removeprefix("unique_")
        for column in columns
        if column.startswith("unique_") and f"{column}_null" in columns
    ]


def running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the finite values around each, over a window of a twelfth of them.

    Windows are shorter at the ends. NaN where none is finite.

    Examples
    --------
    >>> running_mean(np.array([1.0, np.nan, 3.0]))  # few values: each is its own mean
    array([ 1., nan,  3.])
    """
    half = len(values) // (2 * _WINDOWS)
    finite = np.isfinite(values)
    sums, counts = (
        np.concatenate([[0], np.cumsum(part)]) for part in (np.where(finite, values, 0), finite)
    )
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    with np.errstate(invalid="ignore"):
        return (sums[high] - sums[low]) / (counts[high] - counts[low])


def _labels(voxels: pd.DataFrame, atlas: str | None) -> pd.Series:
    if atlas is None and "roi" not in voxels:
        return pd.Series("all", index=voxels.index)
    atlas = "roi" if atlas is None else atlas
    if atlas not in voxels:
        raise ValueError(f"atlas={atlas!r} is no column of the table, which has {list(voxels)}")
    values = voxels[atlas]
    return values.astype(object).astype(str).where(values.notna(), "")
