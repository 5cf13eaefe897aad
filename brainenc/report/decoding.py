"""Render a decoding benchmark as one self-contained HTML page."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from brainenc.metrics.retrieval_scores import DIRECTIONS
from brainenc.report import text
from brainenc.report.decoding_figures import pool_size_lines, retrieval_bars, roi_retrieval
from brainenc.report.pages import render_page
from brainenc.report.parts import picture
from brainenc.report.render import manifest_text
from brainenc.report.style import encoder_colors

#: Kind of responses that figures show.
_AVERAGE = "average"

#: Columns of the main table: heading, columns of value and interval, and format.
COLUMNS = (
    ("image %", "image_retrieval", text.percent),
    ("brain %", "brain_retrieval", text.percent),
    ("rank, image", "image_retrieval_median_rank", partial(text.number, digits=1)),
    ("rank, brain", "brain_retrieval_median_rank", partial(text.number, digits=1)),
    ("2-way %, image", "two_way_image", text.percent),
    ("2-way %, brain", "two_way_brain", text.percent),
    ("r", "r", text.number),
    ("relative MSE", "relative_mse", text.number),
    ("output dimension", "output_dimension", partial(text.number, digits=2)),
)


def render_decoding(result: Any) -> str:
    """Report of a `brainenc.DecodingResult`.

    Parameters
    ----------
    result : DecodingResult

    Returns
    -------
    str
        HTML with inline style, figures and pictures, without external resources.
    """
    decoders, settings = result.decoders, result.manifest["settings"]
    references = decoders.loc[decoders["kind"] == "reference", "decoder"].unique()
    colors = encoder_colors(decoders["decoder"], references)
    lines = _drawn(decoders)
    line_colors = encoder_colors(lines)
    context = {
        "name": result.manifest["data"]["name"] or "data",
        "settings": settings,
        "n_folds": result.manifest["split"]["n_folds"],
        "findings": findings(result),
        "headings": [heading for heading, _, _ in COLUMNS],
        "rows": [_row(row) for row in decoders.to_dict("records")],
        "hard": _hard_rows(result.scores),
        "permuted": result.permuted.to_dict("records"),
        "pairs": _shown_pairs(result),
        "rois": result.rois.to_dict("records"),
        "confusions": confusions(result),
        "warnings": result.warnings,
        "manifest_text": manifest_text(result.manifest),
        "text": text,
        "bars": picture(
            partial(retrieval_bars, decoders, colors=colors, responses=_AVERAGE),
            "bars",
            "Retrieval of each decoder in both directions",
        ),
        "lines": picture(
            partial(
                pool_size_lines,
                result.pool_sizes,
                decoders=lines,
                colors=line_colors,
                responses=_AVERAGE,
            ),
            "lines",
            "Retrieval over the number of images in the pool",
        ),
        "roi_figure": picture(
            partial(roi_retrieval, result.rois), "rois", "Retrieval from the voxels of one ROI"
        ),
    }
    return render_page("decoding.html.j2", context)


def _drawn(decoders: pd.DataFrame) -> list[str]:
    """At most eight decoders to draw over pool size: best first, and the nulls."""
    some = decoders[decoders["image_retrieval"].notna() & (decoders["decoder"] != "chance")]
    some = some[(some["responses"] == _AVERAGE) | (some["decoder"] == "repeat against repeat")]
    score = some["image_retrieval"] + some["brain_retrieval"]
    order = some.loc[score.sort_values(ascending=False).index, "decoder"]
    return list(dict.fromkeys(order))[:8]


def findings(result: Any) -> list[Markup]:
    """Sentences: the best decoder in both directions, and what nulls reach."""
    decoders = result.decoders
    some = decoders[(decoders["responses"] == _AVERAGE) & decoders["image_retrieval"].notna()]
    if some.empty:
        return [Markup("No decoder could be scored.")]
    best = some.loc[(some["image_retrieval"] + some["brain_retrieval"]).idxmax()]
    sentences = [
        Markup(
            "<strong>{}</strong> is ahead: of {} images it chooses the right one for {} % of "
            "responses, and the right response for {} % of images. Chance is {} %."
        ).format(
            best["decoder"],
            text.count(best["pool_size"]),
            f"{text.percent(best['image_retrieval'])} "
            f"{_interval(best, 'image_retrieval', text.percent)}".strip(),
            f"{text.percent(best['brain_retrieval'])} "
            f"{_interval(best, 'brain_retrieval', text.percent)}".strip(),
            text.number(100 * best["image_retrieval_chance"], digits=2),
        )
    ]
    nulls = some[some["decoder"].isin(["ROI means", "category known", "mean of all voxels"])]
    if len(nulls):
        parts = [
            "{decoder} {} / {} %, 2-way {} %".format(
                *(text.percent(row[name]) for name in (*DIRECTIONS, "two_way_image")),
                decoder=row["decoder"],
            )
            for row in nulls.to_dict("records")
        ]
        sentences.append(Markup("Without patterns of voxels: {}.").format("; ".join(parts)))
    repeats = decoders[decoders["decoder"] == "repeat against repeat"]
    if len(repeats):
        found = [text.percent(repeats.iloc[0][name]) for name in DIRECTIONS]
        sentence = "Without a model, the mean of the other trials finds a trial in {} / {} %."
        sentences.append(Markup(sentence).format(*found))
    return sentences


def _interval(row: Any, name: str, form: Any) -> str:
    return text.interval(row.get(f"{name}_low"), row.get(f"{name}_high"), form)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    cells = [(form(row.get(name, np.nan)), _interval(row, name, form)) for _, name, form in COLUMNS]
    known = text.is_finite(row.get("image_retrieval_chance"))
    return {
        "decoder": row["decoder"],
        "kind": row["kind"],
        "responses": row.get("responses") if isinstance(row.get("responses"), str) else "",
        "similarity": row.get("similarity") if isinstance(row.get("similarity"), str) else "",
        "chance": text.number(100 * row["image_retrieval_chance"], digits=2) if known else "–",
        "n": text.count(row.get("n_images")),
        "undefined": text.count(row.get("n_undefined")),
        "cells": cells,
        "error": row["error"] if isinstance(row["error"], str) else "",
    }


def _hard_rows(scores: pd.DataFrame) -> list[dict[Any, Any]]:
    """Retrieval of average responses by every similarity and kind of pools."""
    some = scores[scores["responses"] == _AVERAGE] if len(scores) else scores
    return some.to_dict("records")


def _shown_pairs(result: Any) -> list[dict[Any, Any]]:
    """Differences of the best decoder with all others, by main similarity, average responses."""
    pairs = result.pairs
    order = _drawn(result.decoders)
    if not order or pairs.empty:
        return []
    some = pairs[(pairs["responses"] == _AVERAGE) & (pairs["similarity"] == "main")]
    found: list[dict[Any, Any]] = []
    for row in some.to_dict("records"):
        if order[0] == row["decoder_a"]:
            found.append(row)
        elif order[0] == row["decoder_b"]:
            turned = {"decoder_a": row["decoder_b"], "decoder_b": row["decoder_a"]}
            signs = {"difference": -row["difference"], "low": -row["high"], "high": -row["low"]}
            found.append({**row, **turned, **signs})
    return found


def confusions(result: Any) -> list[dict[str, Any]]:
    """Shown choices by decoder and direction: the right image and the nearest wrong ones."""
    choices = result.choices
    if choices.empty or "shown" not in choices:
        return []
    png = dict(zip(result.pictures["image"], result.pictures["png"], strict=True))
    shown = choices[choices["shown"].astype(bool)]
    found = []
    for (decoder, direction), part in shown.groupby(["decoder", "direction"], sort=False):
        rows = []
        for image, of_image in part.groupby("image", sort=False):
            first = of_image.iloc[0]
            wrong = [
                {"png": png.get(row["wrong_image"], ""), "name": row["wrong_name"]}
                for row in of_image.sort_values("place").to_dict("records")
            ]
            rows.append(
                {
                    "png": png.get(image, ""),
                    "name": first["name"],
                    "rank": text.number(first["rank"], digits=0),
                    "wrong": wrong,
                }
            )
        found.append({"decoder": decoder, "direction": direction, "rows": rows})
    return found
