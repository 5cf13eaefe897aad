"""Render a description of voxels as one self-contained HTML page."""

from functools import partial
from typing import Any

import pandas as pd

from brainenc.report import text
from brainenc.report.pages import render_page
from brainenc.report.parts import picture
from brainenc.report.render import manifest_text
from brainenc.report.word_figures import word_bars, word_map, word_pictures

#: Rows of the table of words.
_MOST_WORDS = 30


def render_selectivity(found: Any, images: Any = None) -> str:
    """Report of a `brainenc.Description`.

    Parameters
    ----------
    found : Description
    images : images, optional
        The images described, whose pictures are shown.

    Returns
    -------
    str
        HTML with inline style and figures, without external resources.
    """
    voxels = found.voxels
    figures = [
        (
            picture(partial(word_map, voxels), "map", "Words of voxels on the cortex"),
            "Each named voxel has the colour of its first word; unnamed voxels are grey.",
        ),
        (
            picture(partial(word_bars, voxels), "bars", "Words of the voxels of each ROI"),
            "Shares of the voxels of each ROI.",
        ),
    ]
    if images is not None:
        draw = partial(word_pictures, voxels, found.top, images)
        figures.append(
            (
                picture(draw, "pictures", "Top images of the voxel that each word fits best"),
                "Images with the largest predicted responses, in order, of the voxel whose "
                "measured betas go best with the word.",
            )
        )
    context = {
        "settings": found.manifest["settings"],
        "manifest": found.manifest,
        "n_voxels": len(voxels),
        "n_named": int(voxels["named"].sum()),
        "words": _word_rows(voxels),
        "figures": figures,
        "warnings": found.warnings,
        "manifest_text": manifest_text(found.manifest),
        "text": text,
    }
    return render_page("selectivity.html.j2", context)


def _word_rows(voxels: pd.DataFrame) -> list[dict[str, Any]]:
    """Medians over the named voxels of each word, the commonest first."""
    named = voxels[voxels["named"]]
    rows = []
    for word, part in named.groupby("word"):
        rois = part["roi"].value_counts() if "roi" in part else pd.Series(dtype=int)
        row: dict[str, Any] = {"word": word, "n": len(part), "q": part["q"].max()}
        row["rois"] = ", ".join(f"{roi} ({n})" for roi, n in rois[:3].items())
        for name in ("purity", "lift", "r_word", "r_model", "agreement"):
            row[name] = part[name].median() if name in part else None
        rows.append(row)
    return sorted(rows, key=lambda row: (-row["n"], row["word"]))[:_MOST_WORDS]
