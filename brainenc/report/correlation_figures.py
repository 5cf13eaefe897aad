"""Matrices of noise correlations: tables in, `matplotlib.figure.Figure` out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainenc.report.draw_figures import NO_DRAWS, panel_grid
from brainenc.report.panels import Names, chosen_rows
from brainenc.report.style import MUTED, short


def noise_correlation_matrices(
    noise_correlations: pd.DataFrame,
    *,
    rois: Mapping[int, str] | None = None,
    agreement: Mapping[str, float] | None = None,
    encoders: Names = None,
    ax: Any = None,
) -> Figure:
    """Correlations within images of pairs of voxels: of repeats, true ones, and of draws.

    Parameters
    ----------
    noise_correlations : DataFrame
        ``BenchmarkResult.noise_correlations``.
    rois : dict of voxel to ROI, optional
        Voxels are ordered by ROI as in this dict, with lines between ROIs.
    agreement : dict of encoder to r, optional
        Agreement with the repeats, written under the matrices.
    encoders : sequence of str, optional
    ax : sequence of Axes, optional
        One per matrix: of the repeats, of the truth if it is known, and of each encoder.

    Returns
    -------
    Figure
        One colour scale for all matrices; the diagonal is left out.

    Raises
    ------
    NothingToDraw : no draws of two voxels have a correlation.
    """
    table = chosen_rows(noise_correlations, encoders, "draws", NO_DRAWS)
    groups = dict(list(table.groupby("encoder", sort=False)))
    first = next(iter(groups.values()))
    rois = rois or {}
    place = {roi: i for i, roi in enumerate(dict.fromkeys(rois.values()))}
    voxels: list[int] = list(dict.fromkeys([*first["voxel_a"], *first["voxel_b"]]))
    voxels.sort(key=lambda voxel: place.get(rois.get(voxel, ""), len(place)))
    matrices = {"repeats": _matrix(first, "repeats", voxels)}
    matrices["truth"] = _matrix(first, "truth", voxels)
    matrices |= {
        f"draws: {name!s}": _matrix(rows, "draws", voxels) for name, rows in groups.items()
    }
    drawn = {name: matrix for name, matrix in matrices.items() if np.isfinite(matrix).any()}
    said = {f"draws: {name}": r for name, r in (agreement or {}).items() if np.isfinite(r)}
    limit = float(np.nanquantile(np.abs(np.stack(list(drawn.values()))), 0.99)) or 1.0
    panels = panel_grid(ax, len(drawn), 2.75)
    labels = [rois.get(voxel, "") for voxel in voxels]
    image: Any = None
    for axes, (name, matrix) in zip(panels.flat, drawn.items(), strict=True):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="none")
        axes.set_title(short(name, 24))
        axes.set_xlabel(f"r with repeats {said[name]:.2f}" if name in said else "")
        _mark_rois(axes, labels)
    bar = panels.figure.colorbar(image, ax=panels.flat, fraction=0.025, pad=0.015, aspect=25)
    bar.ax.spines[:].set_visible(False)
    bar.set_label("noise correlation")
    return panels.finished()


def _matrix(rows: pd.DataFrame, column: str, voxels: list[int]) -> np.ndarray:
    place = {voxel: i for i, voxel in enumerate(voxels)}
    a, b = rows["voxel_a"].map(place), rows["voxel_b"].map(place)
    matrix = np.full((len(voxels), len(voxels)), np.nan)
    matrix[a, b] = matrix[b, a] = rows[column]
    return matrix


def _mark_rois(axes: Axes, labels: list[str]) -> None:
    """Lines between ROIs, with names of large enough ROIs."""
    starts = [i for i, label in enumerate(labels) if i == 0 or label != labels[i - 1]]
    ends = [*starts[1:], len(labels)]
    for start in starts[1:]:
        axes.axhline(start - 0.5, color=MUTED, lw=0.4)
        axes.axvline(start - 0.5, color=MUTED, lw=0.4)
    tall = [(s, e) for s, e in zip(starts, ends, strict=True) if e - s > 0.035 * len(labels)]
    axes.set_xticks([])
    axes.set_yticks(
        [(start + end - 1) / 2 for start, end in tall],
        [short(labels[start], 10) for start, _ in tall],
        fontsize="x-small",
    )
    axes.tick_params(length=0)
