"""Figure of the attention of ROIs over images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainenc.data.images import as_images
from brainenc.report.style import FULL_WIDTH, MUTED, NothingToDraw, short

#: Side of a panel in inches; smaller maps are not readable.
LEAST_SIDE = 0.85


def attention_figure(
    images: Any,
    maps: np.ndarray,
    rois: Sequence[str],
    *,
    shown: Sequence[str] | None = None,
) -> Figure:
    """Attention of each ROI over each image: a row per image, a column per ROI.

    Parameters
    ----------
    images : array or sequence, shape (n_images, H, W[, 3]), uint8
        Also paths or PIL images. Each is a row of the figure.
    maps : array, shape (n_images, n_rois, grid_h, grid_w)
        From `ROITransformerEncoder.attention_maps`; NaN is not drawn.
    rois : sequence of str, length n_rois
        Names of the ROIs, `ROITransformerEncoder.rois_`.
    shown : sequence of str, optional
        ROIs to draw, in this order; by default as many as fit, those with the least even attention.

    Returns
    -------
    Figure
        Grey images under attention relative to even attention, 1 / (grid_h · grid_w): transparent
        up to 1, with one scale for all panels.

    Raises
    ------
    NothingToDraw : no images, no finite map, or a grid of a single token.
    ValueError : numbers of images or ROIs do not match, or `shown` has an unknown ROI.
    """
    pictures = [np.asarray(image) for image in as_images(images)]
    maps = np.asarray(maps)
    _check(len(pictures), maps, rois, shown)
    relative = maps * maps[0, 0].size
    columns = _columns(relative, list(rois), shown)
    side = min(1.3, FULL_WIDTH / (len(columns) + 1))
    n_rows = len(pictures)
    figure = Figure(
        figsize=(side * (len(columns) + 1) + 0.5, side * n_rows + 0.35), layout="constrained"
    )
    panels = figure.subplots(n_rows, len(columns) + 1, squeeze=False)
    highest = max(float(np.nanmax(relative[:, columns])), 1.01)
    drawn: Any = None
    for i, row in enumerate(panels):
        _draw_image(row[0], pictures[i], color=True)
        for axes, k in zip(row[1:], columns, strict=True):
            _draw_image(axes, pictures[i], color=False)
            drawn = _draw_map(axes, relative[i, k], pictures[i].shape, highest)
    for axes, k in zip(panels[0, 1:], columns, strict=True):
        axes.set_title(short(rois[k], 12), fontsize="small")
    panels[0, 0].set_title("image", fontsize="small", fontweight="normal")
    bar = figure.colorbar(drawn, ax=panels[:, 1:], shrink=min(1.0, 1.6 / n_rows), pad=0.01)
    bar.set_label("attention / even", fontsize="small", color=MUTED)
    return figure


def _check(n_images: int, maps: np.ndarray, rois: Sequence[str], shown: Any) -> None:
    if maps.ndim != 4 or maps.shape[:2] != (n_images, len(rois)):
        raise ValueError(
            f"maps {maps.shape} must be (n_images, n_rois, grid_h, grid_w), and there are "
            f"{n_images} images and {len(rois)} rois"
        )
    if unknown := [roi for roi in shown or () if roi not in rois]:
        raise ValueError(f"shown names {unknown}, but rois are {list(rois)}")
    if maps[0, 0].size == 1:
        raise NothingToDraw("Features of one token have no place in the image to attend to.")
    if not np.isfinite(maps).any():
        raise NothingToDraw("No attention map has a finite value.")


def _columns(relative: np.ndarray, rois: list[str], shown: Sequence[str] | None) -> list[int]:
    if shown is not None:
        return [rois.index(roi) for roi in shown]
    room = int(FULL_WIDTH / LEAST_SIDE) - 1
    spread = np.nan_to_num(np.abs(relative - 1)).mean(axis=(0, 2, 3))
    return sorted(np.argsort(-spread, kind="stable")[:room].tolist())


def _draw_image(axes: Axes, picture: np.ndarray, color: bool) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if picture.ndim == 3 and not color:
        picture = picture.mean(axis=2)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255)


def _draw_map(axes: Axes, relative: np.ndarray, shape: tuple[int, ...], highest: float) -> Any:
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
    opacity = np.clip(np.nan_to_num((relative - 1) / (highest - 1)), 0, 1) ** 0.5
    return axes.imshow(
        relative, cmap="inferno", vmin=1, vmax=highest, alpha=0.85 * opacity, extent=extent
    )
