"""Render a layer map as one self-contained HTML page."""

from functools import partial
from typing import Any

from brainenc.report import text
from brainenc.report.layer_figures import layer_profiles
from brainenc.report.pages import render_page
from brainenc.report.parts import picture
from brainenc.report.render import manifest_text

#: Headings of the hierarchy table.
_ROWS = {
    "trained": "layers",
    "untrained": "random weights",
    "permuted": "permuted images",
}


def render_layers(found: Any) -> str:
    """Report of a `brainenc.LayerMap`.

    Parameters
    ----------
    found : LayerMap

    Returns
    -------
    str
        HTML with inline style and figure, without external resources.
    """
    controls = [name for name in ("untrained", "permuted") if f"r_{name}" in found.rois]
    context = {
        "name": found.manifest["data"]["name"] or "data",
        "settings": found.manifest["settings"],
        "n_layers": len(found.names),
        "n_voxels": int(found.rois["n_voxels"].iloc[0]),
        "controls": [(name, _ROWS[name]) for name in controls],
        "rois": found.rois.to_dict("records"),
        "table": found.table(),
        "hierarchy": [(_ROWS[name], score) for name, score in found.hierarchy.items()],
        "warnings": found.warnings,
        "manifest_text": manifest_text(found.manifest),
        "text": text,
        "profiles": picture(
            partial(layer_profiles, found.layers), "profiles", "Mean r of every layer in every ROI"
        ),
    }
    return render_page("layers.html.j2", context)
