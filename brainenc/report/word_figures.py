"""Figures of words: on the cortex, per ROI, and as pictures of the top images."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from brainenc.data.images import as_images, take_images
from brainenc.report.panels import Names, make_panels, shown_rois
from brainenc.report.style import FAINT, FULL_WIDTH, MUTED, PALETTE, NothingToDraw, short

#: Words with a colour of their own; voxels with other words are dark grey, without a name pale.
_MAX_WORDS = 10
_MAX_SLICES = 12
#: Largest side of a picture in pixels.
_PICTURE = 128


def word_colors(voxels: pd.DataFrame, n: int = _MAX_WORDS) -> dict[str, str]:
    """Colours of the commonest words of named voxels, the commonest first.

    Parameters
    ----------
    voxels : DataFrame
        ``Description.voxels``.
    n : int

    Returns
    -------
    dict of word to "#rrggbb"

    Raises
    ------
    NothingToDraw : no voxel is named.
    """
    counts = voxels.loc[voxels["named"], "word"].value_counts()
    if counts.empty:
        raise NothingToDraw("No voxel is named: no word is significant, or none was tested.")
    # Equal counts are in the order of the alphabet, whatever the order of voxels.
    words = sorted(counts.index, key=lambda word: (-counts[word], word))[:n]
    return dict(zip(words, PALETTE, strict=False))


def word_map(voxels: pd.DataFrame, *, ax: Any = None) -> Figure:
    """The cortex of words: each named voxel in the colour of its word, unnamed ones grey.

    Parameters
    ----------
    voxels : DataFrame
        ``Description.voxels``, with the columns ``i``, ``j`` and ``k`` of the voxel table.
    ax : Axes or sequence of Axes, optional
        One per slice, at most 12.

    Returns
    -------
    Figure
        Seen along k if no voxels lie behind one another, else slices along k.

    Raises
    ------
    NothingToDraw : no voxel is named, or the table has no positions.
    """
    colors = word_colors(voxels)
    if not {"i", "j", "k"} <= set(voxels):
        raise NothingToDraw("The voxel table has no positions i, j, k.")
    slices = _slices(voxels)
    panels = make_panels(ax, len(slices), min(4, len(slices)), size=_map_size(len(slices)))
    low = voxels[["i", "j"]].min().to_numpy()
    shape = voxels[["i", "j"]].max().to_numpy() - low + 1
    for axes, (title, rows) in zip(panels.flat, slices, strict=True):
        of_rows = rows["word"].map(colors).fillna(MUTED).where(rows["named"], FAINT)
        drawn = np.zeros((*shape, 4))  # transparent where there is no voxel
        drawn[rows["i"] - low[0], rows["j"] - low[1]] = to_rgba_array(of_rows.tolist())
        axes.imshow(drawn.transpose(1, 0, 2), origin="lower", interpolation="none")
        axes.set_axis_off()
        axes.set_title(title)
    panels.legend(_handles(voxels, colors), "outside right upper", 1)
    return panels.finished()


def _map_size(n: int) -> tuple[float, float]:
    return (FULL_WIDTH, 4.6) if n == 1 else (FULL_WIDTH, 2.4 * -(-n // 4) + 0.3)


def _slices(voxels: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if not voxels.duplicated(["i", "j"]).any():
        return [("", voxels)]
    named = voxels.groupby("k")["named"].sum()
    shown = named.sort_values(ascending=False, kind="stable").index[:_MAX_SLICES].sort_values()
    return [(f"k = {k}", voxels[voxels["k"] == k]) for k in shown]


def _handles(voxels: pd.DataFrame, colors: dict[str, str]) -> list[Line2D]:
    named = voxels["named"]
    other = int((named & ~voxels["word"].isin(list(colors))).sum())
    labels = [
        (f"{short(word, 18)} ({int((named & (voxels['word'] == word)).sum())})", color)
        for word, color in colors.items()
    ]
    labels += [(f"other words ({other})", MUTED)] if other else []
    labels += [(f"not named ({int((~named).sum())})", FAINT)]
    look: dict[str, Any] = {"marker": "s", "ls": "", "ms": 6, "mew": 0}
    return [Line2D([], [], color=color, label=label, **look) for label, color in labels]


def word_bars(
    voxels: pd.DataFrame, *, atlas: str = "roi", order: Names = None, ax: Any = None
) -> Figure:
    """Shares of the voxels of each ROI by their words, unnamed ones grey.

    Parameters
    ----------
    voxels : DataFrame
        ``Description.voxels``.
    atlas : str
        Column with the labels of ROIs.
    order : sequence of str, optional
        ROIs to draw; by default the 16 largest, as they come in the table.
    ax : Axes, optional

    Returns
    -------
    Figure

    Raises
    ------
    NothingToDraw : no voxel is named, or there is no such column.
    """
    colors = word_colors(voxels)
    if atlas not in voxels:
        raise NothingToDraw(f"The voxel table has no column {atlas!r}.")
    labels = voxels[atlas].replace("", np.nan)
    sizes = labels.value_counts()[labels.dropna().unique()]
    rois = shown_rois(sizes, order, 16)
    panels = make_panels(ax, 1, 1, size=(FULL_WIDTH, 0.28 * len(rois) + 0.8))
    axes = panels.flat[0]
    named = voxels["named"]
    left = np.zeros(len(rois))
    known = voxels["word"].isin(list(colors))
    parts = [(named & (voxels["word"] == word), color) for word, color in colors.items()]
    parts += [(named & ~known, MUTED), (~named, FAINT)]
    for mask, color in parts:
        share = np.array([(mask & (labels == roi)).sum() / sizes[roi] for roi in rois])
        axes.barh(range(len(rois)), share, left=left, color=color, height=0.75)
        left += share
    axes.set_yticks(range(len(rois)), [short(roi) for roi in rois])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of voxels")
    panels.legend(_handles(voxels, colors), "outside right upper", 1)
    return panels.finished()


def word_pictures(
    voxels: pd.DataFrame,
    top: pd.DataFrame,
    images: Any,
    *,
    n_words: int = 6,
    n_pictures: int = 10,
    ax: Any = None,
) -> Figure:
    """Top images as pictures: a row for each of the commonest words, of the voxel it fits best.

    Parameters
    ----------
    voxels, top : DataFrame
        Of a `Description`.
    images : images
        Those that were described.
    n_words, n_pictures : int
        Rows and pictures per row, at most.
    ax : sequence of Axes, optional
        One per picture, row by row.

    Returns
    -------
    Figure
        A row is headed by word, voxel, its ROI if known, and the correlation of the word with
        measured betas.

    Raises
    ------
    NothingToDraw : no voxel is named.
    ValueError : fewer images than were described.
    """
    pictures = as_images(images)
    if len(top) and top["image"].max() >= len(pictures):
        raise ValueError(
            f"images has {len(pictures)} pictures, but image {top['image'].max()} is a top image: "
            "give the images that were described"
        )
    words = list(word_colors(voxels, n_words))
    n_columns = min(n_pictures, int(top["rank"].max()))
    size = (FULL_WIDTH, len(words) * (FULL_WIDTH / n_columns + 0.3))
    panels = make_panels(ax, len(words) * n_columns, n_columns, size=size)
    rows = panels.flat
    for row, word in enumerate(words):
        named = voxels[voxels["named"] & (voxels["word"] == word)]
        best = named.iloc[int(named["r_word"].to_numpy().argmax())]
        shown = top[top["voxel"] == best["voxel"]].sort_values("rank")["image"][:n_columns]
        found = np.asarray(take_images(pictures, shown.to_numpy()))
        for column, picture in enumerate(found):
            axes = rows[row * n_columns + column]
            small = Image.fromarray(picture)
            small.thumbnail((_PICTURE, _PICTURE))
            axes.imshow(np.asarray(small), cmap="gray", vmin=0, vmax=255, interpolation="none")
            axes.set_axis_off()
        where = f", {best['roi']}" if isinstance(best.get("roi"), str) and best["roi"] else ""
        title = f"{short(word, 24)}: voxel {best['voxel']}{where}, r {best['r_word']:.2f}"
        # Beyond its picture, and not to push others aside.
        rows[row * n_columns].set_title(title).set_in_layout(False)
    return panels.finished()
