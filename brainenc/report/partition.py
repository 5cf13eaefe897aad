"""Render a variance partition as one self-contained HTML page."""

from functools import partial
from typing import Any

from brainenc.report import text
from brainenc.report.pages import render_page
from brainenc.report.partition_figures import partition_areas
from brainenc.report.parts import picture
from brainenc.report.render import manifest_text
from brainenc.report.style import GREY, encoder_colors


def render_partition(partition: Any) -> str:
    """Report of a `brainenc.VariancePartition`.

    Parameters
    ----------
    partition : VariancePartition

    Returns
    -------
    str
        HTML with inline style and figure, without external resources.
    """
    bands = partition.bands
    colors = encoder_colors(bands) | {"shared": GREY}
    parts = partition.parts
    everywhere = parts[parts["roi"] == "all"]
    rois = partition.rois
    shown = [*(f"unique_{band}" for band in bands), "shared", "total"]
    context = {
        "name": partition.manifest["data"]["name"] or "data",
        "bands": bands,
        "settings": partition.manifest["settings"],
        "several": partition.manifest["settings"].get("n_permutations", 1) > 1,
        "n_voxels": int(rois["n_voxels"].iloc[0]),
        "parts": [(label(row.part), row) for row in everywhere.itertuples()],
        "shown": [label(part) for part in shown],
        "rois": [
            (
                row["roi"],
                row["n_voxels"],
                [
                    (
                        text.number(row[part]),
                        text.interval(row[f"{part}_low"], row[f"{part}_high"]),
                        text.number(row[f"{part}_null"]),
                    )
                    for part in shown
                ],
                text.number(row["noise_ceiling"]),
                text.number(row["total_normalized"]),
            )
            for _, row in rois.iterrows()
        ],
        "encoders": list(partition.encoders.itertuples()),
        "warnings": partition.warnings,
        "manifest_text": manifest_text(partition.manifest),
        "text": text,
        "areas": picture(
            partial(partition_areas, partition.voxels, colors=colors),
            "areas",
            "R² of voxels, divided into what each band explains uniquely and what they share",
        ),
    }
    return render_page("partition.html.j2", context)


def label(part: str) -> str:
    """A part in words.

    Examples
    --------
    >>> label("unique_one"), label("shared_one+two"), label("alone_one"), label("total")
    ('unique: one', 'shared: one+two', 'alone: one', 'all bands')
    """
    for start in ("unique", "shared", "alone"):
        if part.startswith(f"{start}_"):
            return f"{start}: {part.removeprefix(f'{start}_')}"
    return {"total": "all bands"}.get(part, part)
