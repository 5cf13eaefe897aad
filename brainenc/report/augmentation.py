"""Render an augmentation study as one self-contained HTML page."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from brainenc.report import text
from brainenc.report.augmentation_figures import dose_lines, gain_dots
from brainenc.report.pages import render_page
from brainenc.report.parts import picture
from brainenc.report.render import manifest_text

DIRECTIONS = ("image_retrieval", "brain_retrieval")
CENTRED = "centred"


def render_augmentation(result: Any) -> str:
    """Report of a `brainenc.augmentation.AugmentationResult`, for its largest ratio.

    Its first sentence is the share of the gain of real trials that synthetic ones recovered.

    Parameters
    ----------
    result : AugmentationResult

    Returns
    -------
    str
        HTML with inline style and figures, without external resources.
    """
    settings = result.settings
    ratios = settings["ratios"]
    table = result.table()
    labels = list(dict.fromkeys(table["similarity"]))
    first, *others = result.findings()
    context = {
        "settings": settings,
        "name": settings.get("data") or "data",
        "n_added": settings["n_real"] * ratios[-1],
        "first": first,
        "findings": [sentence for sentence in others if not sentence.startswith("- ")],
        "kinds": [sentence.removeprefix("- ") for sentence in others if sentence.startswith("- ")],
        "tables": {label: _rows(table[table["similarity"] == label]) for label in labels},
        "labels": sorted(labels, key=lambda label: label != CENTRED),
        "manifest_text": manifest_text(settings),
        "text": text,
        "gains_picture": picture(
            partial(gain_dots, table),
            "gains",
            "Gain of each condition over nothing added, in both directions",
        ),
        "doses": picture(
            partial(dose_lines, pd.concat([result.table(r).assign(ratio=r) for r in ratios])),
            "doses",
            "Gain over the number of added rows per real row",
        ),
    }
    return render_page("augmentation.html.j2", context)


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "condition": row["condition"],
            "cells": [_cells(row, direction) for direction in DIRECTIONS],
            "relative_mse": text.number(row.get("relative_mse", np.nan)),
            "weight": text.number(row.get("weight", np.nan), digits=2),
            "gain": "yes" if row["gain"] else "no",
        }
        for row in table.to_dict("records")
    ]


def _cells(row: dict[Any, Any], direction: str) -> dict[str, str]:
    low, high = row[f"{direction}_low"], row[f"{direction}_high"]
    return {
        "score": text.percent(row[direction]),
        "gain": text.percent(row[f"{direction}_gain"]),
        "interval": text.interval(low, high, text.percent),
        "share": text.percent(row[f"{direction}_share"]),
    }
