"""Render an experiment on an encoder as one self-contained HTML page."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from brainenc.brain.volumes import Volume, to_nifti
from brainenc.garbage import collected_at_end
from brainenc.report import style, surface, text
from brainenc.report.experiment_figures import condition_bars, grid_maps, tuning_curves
from brainenc.report.pages import render_page
from brainenc.report.parts import Picture, picture
from brainenc.report.render import manifest_text
from brainenc.report.slices import slice_figure
from brainenc.report.style import NothingToDraw, figure_to_svg

#: Contrasts with a map, and atlases with bars.
_MOST = 3


def render_experiment(
    found: Any, voxels: pd.DataFrame | None = None, volume: Volume | None = None
) -> str:
    """Report of a `brainenc.Experiment`.

    Parameters
    ----------
    found : Experiment
    voxels : DataFrame, n_voxels rows, optional
        Voxel table with ``vertex`` and ``hemisphere``, or ``i, j, k`` in `volume`: contrasts are
        then shown as maps.
    volume : Volume, optional

    Returns
    -------
    str
        HTML with inline style and figures, without external resources.
    """
    rois, settings = found.rois, found.manifest["settings"]
    atlases = [name for name in rois["atlas"].unique() if name][:_MOST] or [None]
    bars = [
        picture(
            partial(condition_bars, rois, atlas=atlas),
            f"bars-{i}",
            f"Mean response to every condition in the areas{f' of {atlas}' if atlas else ''}",
        )
        for i, atlas in enumerate(atlases)
    ]
    tuning = [
        picture(
            partial(tuning_curves, found.tuning, parameter),
            f"tuning-{i}",
            f"Mean response at every value of {parameter}",
        )
        for i, parameter in enumerate(found.tuning["parameter"].unique())
    ]
    conditions, contrasts = list(settings["conditions"]), list(settings["contrasts"])
    context = {
        "encoder": found.manifest["encoder"],
        "n_voxels": found.manifest["n_voxels"],
        "settings": settings,
        "percent": f"{100 * settings['confidence']:g} %",
        "conditions": conditions,
        "responses": _by_area(rois, "condition", conditions),
        "bars": bars,
        "several_atlases": len(atlases) > 1,
        "contrasts": contrasts,
        "effects": _by_area(found.contrasts, "contrast", contrasts),
        "maps": None if voxels is None else _maps(found, contrasts[:_MOST], voxels, volume),
        "tuning": tuning,
        "preferences": _preferences(found.preferences),
        "warnings": found.warnings,
        "manifest_text": manifest_text(found.manifest),
        "text": text,
    }
    return render_page("experiment.html.j2", context)


def _by_area(table: pd.DataFrame, column: str, names: list[str]) -> list[tuple[Any, list[Any]]]:
    """Of each area its row, and its rows of every condition or contrast, in order."""
    found = []
    for _, rows in table.groupby(["atlas", "roi"], sort=False):
        of_name = rows.set_index(column).loc[names].to_dict("records")
        found.append((of_name[0], of_name))
    return found


def _preferences(preferences: pd.DataFrame) -> list[tuple[str, int, int]]:
    """Of each parameter the voxels with a q up to .05, and all that were tested."""
    return [
        (str(parameter), int((rows["q"] <= 0.05).sum()), int(rows["q"].notna().sum()))
        for parameter, rows in preferences.groupby("parameter", sort=False)
    ]


def _maps(found: Any, contrasts: list[str], voxels: pd.DataFrame, volume: Volume | None) -> Picture:
    """Contrasts on the cortex, in slices of the volume, or on the grid of the voxels."""
    kind = "z" if found.manifest["settings"]["n_draws"] else "effect"
    label = {"z": "effect / model s.d.", "effect": "effect"}[kind]
    values = {name: found.localizer(name, value=kind) for name in contrasts}
    known = np.concatenate([of_voxels[np.isfinite(of_voxels)] for of_voxels in values.values()])
    alt = f"Maps of contrasts, {label}: {text.joined(contrasts)}"
    if not known.size:
        return Picture("maps", None, alt, "No map: no voxel has a value.")
    # A few extreme voxels would leave the others without colour.
    limit = float(np.quantile(np.abs(known), 0.99)) or 1.0
    look: dict[str, Any] = {"cmap": "RdBu_r", "limits": (-limit, limit)}
    try:
        with style.styled(), collected_at_end():
            return Picture("maps", _drawn(values, voxels, volume, label, look, alt), alt)
    except NothingToDraw as nothing:
        return Picture("maps", None, alt, str(nothing))
    except ValueError as error:  # such as vertices of another mesh
        return Picture("maps", None, alt, f"No map: {error}.")


def _drawn(
    values: Mapping[str, np.ndarray],
    voxels: pd.DataFrame,
    volume: Volume | None,
    label: str,
    look: Mapping[str, Any],
    alt: str,
) -> Markup:
    """The maps as a raster image, or as SVG on the grid."""
    on_grid = {"i", "j", "k"} <= set(voxels)
    try:
        maps = {
            f"{name}: {label}": surface.on_fsaverage5(each, voxels, volume)
            for name, each in values.items()
        }
        return surface.figure_to_img(surface.surface_figure(maps, **look), alt)
    except NothingToDraw:
        if not on_grid:
            raise
    if volume is None:
        figure = grid_maps(values, voxels, label=label, **look)
        return Markup(figure_to_svg(figure, "maps"))
    first = next(iter(values))
    image = to_nifti(values[first], voxels, shape=volume.shape, affine=volume.affine)
    drawn = slice_figure(image, title=f"{first}: {label}", **look)
    return surface.figure_to_img(drawn, alt)
