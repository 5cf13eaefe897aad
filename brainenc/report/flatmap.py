"""Values on the flattened cortex of fsaverage5, with outlines of ROIs."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from brainenc.brain.surfaces import FSAVERAGE5, HEMISPHERES
from brainenc.report.panels import make_panels
from brainenc.report.style import INK, short

#: Millimetres between the hemispheres.
GAP = 15.0

#: Smallest number of vertices of a ROI with a name on the map.
MIN_NAMED = 12


def flat_figure(
    maps: Mapping[str, dict[str, np.ndarray]],
    meshes: Mapping[str, Mapping[str, Any]],
    *,
    cmap: str,
    limits: tuple[float, float],
    outlines: Mapping[str, np.ndarray] | None = None,
    ax: Any = None,
) -> Figure:
    """One flat map per title, both hemispheres side by side, with the same colours.

    Parameters
    ----------
    maps : dict of title to maps
        Each a dict of "lh" and "rh" to values per vertex of fsaverage5; NaN is not drawn.
    meshes : dict of "lh" and "rh" to meshes
        With ``flat`` (coordinates, faces) and ``sulc``, as of nilearn.
    cmap : str
    limits : (low, high)
    outlines : dict of "lh" and "rh" to array of str, optional
        ROI of each vertex, "" for none.
    ax : Axes or sequence of Axes, optional
        One per title.

    Returns
    -------
    Figure
    """
    panels = make_panels(ax, len(maps), 1, size=(10.6, 4.4 * len(maps) + 0.2))
    norm = Normalize(*limits)
    for axes, (title, hemispheres) in zip(panels.flat, maps.items(), strict=True):
        for name in HEMISPHERES:
            flat = _flat(meshes[name], name)
            _colour(axes, flat, hemispheres[name], meshes[name]["sulc"], cmap, norm)
            if outlines is not None:
                _outline(axes, flat, np.asarray(outlines[name]))
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.set_title(short(title, 60))
    panels.figure.colorbar(
        ScalarMappable(norm, cmap), ax=panels.flat, shrink=0.5, fraction=0.02, pad=0.01
    )
    return panels.finished()


def _flat(mesh: Mapping[str, Any], name: str) -> Triangulation:
    """The flat patch, moved beside that of the other hemisphere."""
    coordinates, faces = mesh["flat"]
    used = np.unique(faces)
    x, y = coordinates[:, 0].copy(), coordinates[:, 1]
    x += -x[used].max() - GAP / 2 if name == "lh" else -x[used].min() + GAP / 2
    return Triangulation(x, y, faces)


def _colour(
    axes: Axes, flat: Triangulation, values: np.ndarray, depth: np.ndarray, cmap: str, norm: Any
) -> None:
    faces = flat.triangles
    # Sulci are dark, as on the inflated surface.
    shade = np.where(depth[faces].mean(axis=1) > 0, 0.35, 0.75)
    axes.tripcolor(flat, facecolors=shade, cmap="gray", vmin=0, vmax=1, rasterized=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        of_faces = np.nanmean(values[faces], axis=1)
    shown = np.isfinite(of_faces)
    if shown.any():
        some = Triangulation(flat.x, flat.y, faces[shown])
        axes.tripcolor(some, facecolors=of_faces[shown], cmap=cmap, norm=norm, rasterized=True)


def _outline(axes: Axes, flat: Triangulation, labels: np.ndarray) -> None:
    """Lines half-way between vertices of a ROI and their neighbours, and its name."""
    on_map = np.zeros(FSAVERAGE5, bool)
    on_map[np.unique(flat.triangles)] = True
    for roi in dict.fromkeys(label for label in labels if label):
        inside = labels == roi
        seen = inside & on_map
        if not seen.any():
            continue
        axes.tricontour(flat, inside.astype(float), levels=[0.5], colors="white", linewidths=1.0)
        if seen.sum() >= MIN_NAMED:
            # The vertex nearest to the middle, since a bent ROI does not contain its middle.
            x, y = flat.x[seen], flat.y[seen]
            k = np.argmin((x - x.mean()) ** 2 + (y - y.mean()) ** 2)
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.8}
            look: dict[str, Any] = {"ha": "center", "va": "center", "color": INK, "bbox": box}
            axes.text(x[k], y[k], short(roi, 12), fontsize="xx-small", **look)
