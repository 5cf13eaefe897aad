"""Figure of a layer map: r of every layer, one panel per ROI."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from brainenc.report.panels import Names, roi_panels, rows_of_atlas, shown_rois
from brainenc.report.style import (
    GREY,
    INK,
    MUTED,
    encoder_colors,
    short,
)

#: Panels without `order`.
_MAX_PANELS = 12
#: Layers whose names fit below a panel.
_MAX_NAMES = 8


def layer_profiles(
    layers: pd.DataFrame,
    *,
    atlas: str | None = None,
    order: Names = None,
    ax: object = None,
) -> Figure:
    """Mean r of every layer with its 95 % interval over images, one panel per ROI.

    Parameters
    ----------
    layers : DataFrame
        ``LayerMap.layers``.
    atlas : str, optional
        By default the first of the table; all voxels if it has none.
    order : sequence of str, optional
        ROIs to draw; by default the 12 largest, as they come in the table.
    ax : Axes or sequence of Axes, optional
        One per ROI.

    Returns
    -------
    Figure

    Raises
    ------
    NothingToDraw : no r is defined.
    ValueError : `atlas` or `order` has a name that is not in the table, or `ax` another number of
        Axes.
    """
    table = rows_of_atlas(layers, atlas, "r")
    given = table[table["control"] == ""]
    shown = shown_rois(
        given.drop_duplicates("roi").set_index("roi")["n_voxels"], order, _MAX_PANELS
    )
    names = list(dict.fromkeys(layers["layer"]))
    colors = {"": encoder_colors(["layers"])["layers"], "untrained": MUTED, "permuted": GREY}
    labels = {"": "layers", "untrained": "random weights", "permuted": "permuted images"}
    panels = roi_panels(ax, len(shown), 2.2, sharey=True)
    controls = [control for control in labels if (table["control"] == control).any()]
    for axes, roi in zip(panels.flat, shown, strict=True):
        for control in controls:
            rows = table[(table["roi"] == roi) & (table["control"] == control)]
            x = [names.index(name) for name in rows["layer"]]
            style = "-" if control == "" else "--"
            axes.fill_between(x, rows["r_low"], rows["r_high"], color=colors[control], alpha=0.2)
            axes.plot(x, rows["r"], style, color=colors[control], lw=1.4, marker="o", ms=2.5)
        axes.axhline(0, color=INK, lw=0.6)
        axes.set_title(short(roi))
        if len(names) <= _MAX_NAMES:
            axes.set_xticks(range(len(names)), [short(name) for name in names], rotation=60)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in panels.left if panels.is_new else panels.flat:
        axes.set_ylabel("r")
    if len(names) > _MAX_NAMES:
        for axes in panels.lowest if panels.is_new else panels.flat:
            axes.set_xlabel("layer, first to last")
    handles = [
        Line2D([], [], color=colors[c], lw=1.4, ls="-" if c == "" else "--", label=labels[c])
        for c in controls
    ]
    panels.legend(handles, "outside upper left")
    return panels.finished()
