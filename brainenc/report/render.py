"""Render a benchmark result as one self-contained HTML page."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from brainenc.brain.volumes import Volume, to_nifti
from brainenc.garbage import collected_at_end, old_objects_set_aside
from brainenc.report import differences, draws, figures, style, surface, text
from brainenc.report.attention import attention_figure
from brainenc.report.pages import render_page
from brainenc.report.parts import Column, Picture, picture, table_of, with_all_columns
from brainenc.report.slices import slice_figure
from brainenc.report.style import NothingToDraw, encoder_colors
from brainenc.result_tables import NAMES, ResultTables

#: Tables of the page, all with columns of names.
NAMED_TABLES = (
    *("encoders", "rois", "pairs", "maps"),
    *("draws", "draw_pairs", "calibration", "k_fairness", "noise_correlations", "shown_draws"),
)

#: With more pairs of encoders, the table by ROI shows only those with the best encoder.
MAX_ROI_PAIRS = 15


VOXEL_COLUMNS = (
    Column("r", "Pearson r"),
    Column("noise_ceiling", "noise ceiling", ""),
    Column("r_normalized", "r / ceiling"),
    Column("n_voxels_normalized", "voxels in r / ceiling", "", text.count),
    Column("r2", "R²"),
    Column("mse_z", "MSE, z units", "lower"),
    Column("mse_z_trials", "MSE to trials, z units", "lower"),
    Column("mse", "MSE, betas²", "lower", text.quantity),
    Column("n_voxels", "voxels", "", text.count),
    Column("n_undefined", "no r", "", text.count),
    Column("n_significant", "q < .05", "", text.count),
)
PATTERN_COLUMNS = (
    Column("pattern_r", "pattern r"),
    Column("pattern_mse", "pattern MSE, betas²", "lower", text.quantity),
    Column("pattern_cosine", "pattern cosine"),
)
SET_COLUMNS = (
    Column("identification", "two-way identification"),
    Column("rdm_correlation", "RDM correlation"),
    Column("cka", "linear CKA"),
)
COST_COLUMNS = (
    Column("fit_seconds", "fit, seconds per fold", "", text.quantity),
    Column("predict_images_per_second", "predict, images per second", "", text.count),
    Column("peak_memory_mb", "peak memory above start, MiB", "", partial(text.number, digits=1)),
)
ALL_COLUMNS = VOXEL_COLUMNS + PATTERN_COLUMNS + SET_COLUMNS + COST_COLUMNS


def render_report(
    result: ResultTables,
    *,
    surface: str = "static",
    attention: tuple[Any, Any, Any] | None = None,
    net_shares: pd.DataFrame | None = None,
) -> str:
    """Report of a benchmark as one self-contained HTML page.

    Parameters
    ----------
    result : BenchmarkResult, or other ResultTables
        Tables may lack ROIs, scores (of encoders that failed) and manifest entries.
    surface : "static", "interactive" or "none"
        Maps on the cortex, if positions of voxels on it are known: pictures, or also a rotatable
        brain (3 MB, needs plotly).
    attention : tuple (images, maps, rois), optional
        Attention of ROIs, drawn by `attention_figure`: a few images, and for them
        ``encoder.attention_maps(...)`` and ``encoder.rois_`` of a `ROITransformerEncoder`.
    net_shares : DataFrame, optional
        What networks add to ridge, per ROI: the table of `brainenc.encoders.net_shares`.

    Returns
    -------
    str
        HTML with inline style and figures, without external resources. The same result gives the
        same text.
    """
    if surface not in ("static", "interactive", "none"):
        raise ValueError(f"surface={surface!r} must be 'static', 'interactive' or 'none'")
    if attention is not None and len(attention) != 3:
        raise ValueError(f"attention has {len(attention)} parts, not 3: (images, maps, rois)")
    with old_objects_set_aside():
        context = _context(_tidied(result), surface) | {
            "attention": _attention(attention),
            "net_shares": _share_table(net_shares),
        }
    context["contents"] = _contents(context)
    return render_page("report.html.j2", context)


def _contents(context: dict[str, Any]) -> list[tuple[str, str]]:
    """Anchors and titles of the sections that the page has."""
    sections = [
        ("encoders", "Encoders", True),
        ("ceiling", "Voxels and their noise ceiling", True),
        ("rois", context["rois_title"], True),
        ("net-shares", "What networks add to ridge", context["net_shares"]),
        ("surface", "On the cortex", context["surface"]),
        ("differences", "Is one encoder better than another?", True),
        ("draws", "Do draws vary as single trials do?", context["draws"]),
        ("attention", "What ROIs look at", context["attention"]),
        ("cost", "Cost", True),
        ("methods", "How the scores are made", True),
        ("manifest", "Manifest", True),
    ]
    return [(anchor, title) for anchor, title, is_there in sections if is_there]


def _tidied(result: ResultTables) -> ResultTables:
    """Tables with names as text; missing columns of the encoder table are NaN."""
    tables: dict[str, Any] = {
        table: _names_as_text(getattr(result, table)) for table in NAMED_TABLES
    }
    encoders = with_all_columns(tables["encoders"], ALL_COLUMNS)
    tables["encoders"] = encoders if "error" in encoders else encoders.assign(error=np.nan)
    return replace(result, **tables)


def _names_as_text(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(
        **{name: table[name].map(str).astype(object) for name in NAMES if name in table}
    )


def _context(result: ResultTables, surface_kind: str) -> dict[str, Any]:
    encoders, kinds = result.encoders, text.classes(result)
    order, controls = text.ranking(encoders), text.controls_of(encoders)
    colors = encoder_colors(encoders["encoder"], controls)
    pairs = text.oriented(result.pairs, order)
    overall = _over_all_voxels(pairs)
    scored = encoders[encoders["encoder"].isin(order)]
    return {
        "name": result.manifest.get("data", {}).get("name", "unnamed data"),
        "manifest": result.manifest,
        "manifest_text": manifest_text(result.manifest),
        "ran": text.what_was_run(result),
        "findings": text.findings(encoders, overall, kinds),
        "warnings": result.warnings,
        "colors": colors,
        "controls": controls,
        "kinds": kinds,
        "voxel_table": table_of(scored, VOXEL_COLUMNS, controls),
        "pattern_table": table_of(scored, PATTERN_COLUMNS + SET_COLUMNS, controls),
        "n_pattern_columns": len(PATTERN_COLUMNS),
        "n_set_columns": len(SET_COLUMNS),
        "cost_table": table_of(encoders, COST_COLUMNS),
        "failed": [
            (row.encoder, row.error)
            for row in encoders.itertuples()
            if isinstance(row.error, str) and row.error
        ],
        "undefined_r": [row.encoder for row in scored.itertuples() if not text.is_finite(row.r)],
        "pair_rows": list(overall.itertuples()),
        "text": text,
        "labels": style.LABELS,
        "ceiling_note": text.ceiling_note(result.manifest),
        "surface": _surface(result, order, surface_kind),
        "draws": draws.draw_panel(result, colors),
        **_pictures(result, pairs, order, colors),
    }


def _over_all_voxels(pairs: pd.DataFrame) -> pd.DataFrame:
    return pairs[(pairs["atlas"] == "all") & (pairs["roi"] == "all")]


def manifest_text(manifest: dict[str, Any]) -> str:
    """Manifest as indented JSON; long arrays are cut to their ends."""
    return json.dumps(_abridged(manifest), indent=2, ensure_ascii=False, default=str)


def _abridged(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _abridged(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        if len(value) > 20:
            return f"[{value[0]}, {value[1]}, … {value[-1]}] ({len(value)} values)"
        return [_abridged(item) for item in value]
    return value


# -------------------------------------------------------------------- tables


def _roi_table(rois: pd.DataFrame) -> dict[str, Any]:
    """Scores r of every encoder in every ROI."""
    names = list(rois["encoder"].unique())
    rows = []
    for roi, of_roi in rois.groupby("roi", sort=False):
        found = {row.encoder: row for row in of_roi.itertuples()}
        cells = [
            (text.number(found[name].r), text.interval(found[name].r_low, found[name].r_high))
            for name in names
        ]
        first = found[names[0]]
        rows.append((roi, text.count(first.n_voxels), text.number(first.noise_ceiling), cells))
    return {"encoders": names, "rows": rows}


def _share_table(shares: pd.DataFrame | None) -> dict[str, Any] | None:
    """Weight of the network of every blended encoder in every ROI."""
    if shares is None or not len(shares):
        return None
    if missing := {"encoder", "roi", "n_voxels", "net_share"} - set(shares):
        raise ValueError(
            f"net_shares lacks {sorted(missing)}: give the table of brainenc.encoders.net_shares"
        )
    names = [str(name) for name in shares["encoder"].unique()]
    rows = []
    for roi, of_roi in shares.groupby("roi", sort=False):
        found = {str(row.encoder): row.net_share for row in of_roi.itertuples()}
        n_voxels = text.count(of_roi["n_voxels"].max())
        rows.append((str(roi), n_voxels, [text.number(found.get(name, np.nan)) for name in names]))
    return {"encoders": names, "rows": rows}


# -------------------------------------------------------------------- figures


def _pictures(
    result: ResultTables, pairs: pd.DataFrame, order: list[str], colors: dict[str, str]
) -> dict[str, Any]:
    overall = _over_all_voxels(pairs)
    atlases = list(result.rois["atlas"].unique()) if len(result.rois) else []
    first = atlases[0] if atlases else None
    scatter = partial(figures.ceiling_scatter, result.maps, atlas=first)
    forest = partial(differences.difference_forest, overall, colors=colors)
    return {
        "scatter": picture(
            scatter, "scatter", "Scatter of voxelwise r against the noise ceiling, per encoder"
        ),
        "forest": picture(
            forest, "forest", "Differences between encoders over all voxels with intervals"
        ),
        "scatter_atlas": first,
        "rois_title": "ROI by ROI" if atlases else "All voxels",
        "groups": [
            _group(result, pairs, order, atlas, colors, i) for i, atlas in enumerate(atlases)
        ]
        or [_ungrouped(result, order, colors)],
    }


def _surface(result: ResultTables, order: list[str], kind: str) -> dict[str, Any] | None:
    """Picture of the cortex and the rotatable one, or why there is none; None if unwanted."""
    if kind == "none":
        return None
    try:
        panel = surface.report_panel(result.maps, result.manifest, order, kind)
    except NothingToDraw as nothing:
        return {"note": str(nothing), "frame": None, "slices": _slices(result, order)}
    alt = f"Maps of voxelwise r on the cortex: {text.joined(panel['names'])}"
    with style.styled(), collected_at_end():
        image = surface.figure_to_img(panel["figure"](), alt)
    return {**panel, "picture": Picture("surface", image, alt), "note": "", "slices": None}


def _slices(result: ResultTables, order: list[str]) -> Picture | None:
    """R of the best encoder in slices of the subject's own volume; None without one."""
    volume = Volume.from_json(result.manifest.get("data", {}).get("volume"))
    rows = result.maps[result.maps["encoder"] == next(iter(order), "")]
    if volume is None or not {"i", "j", "k"} <= set(rows) or rows["r"].isna().all():
        return None
    try:
        image = to_nifti(rows["r"].to_numpy(), rows, shape=volume.shape, affine=volume.affine)
    except ValueError:  # positions that do not fit the volume of a changed table
        return None
    alt = f"Slices of voxelwise r of {order[0]}"
    with style.styled(), collected_at_end():
        return Picture("slices", surface.figure_to_img(slice_figure(image), alt), alt)


def _attention(attention: tuple[Any, Any, Any] | None) -> Picture | None:
    if attention is None:
        return None
    draw = partial(attention_figure, *attention)
    return picture(draw, "attention", "Attention of ROIs over images")


def _group(
    result: ResultTables,
    pairs: pd.DataFrame,
    order: list[str],
    atlas: str,
    colors: dict[str, str],
    position: int,
) -> dict[str, Any]:
    """Figures and numbers of one atlas."""
    rois = result.rois[result.rois["atlas"] == atlas]
    shown, metric, only_best = _roi_pairs(pairs, atlas, order)
    n_rois = rois["roi"].nunique()
    return {
        "atlas": atlas,
        "n_rois": n_rois,
        "n_shown": min(n_rois, style.MAX_ROIS),
        "bars": picture(
            partial(figures.roi_bars, rois, colors=colors),
            f"bars{position}",
            f"Mean r per ROI of {atlas} and encoder, with intervals and noise ceiling",
        ),
        "distribution": picture(
            partial(figures.roi_distributions, result.maps, atlas=atlas, colors=colors),
            f"distribution{position}",
            f"Distribution of voxelwise r per ROI of {atlas} and encoder",
        ),
        "differences": picture(
            partial(differences.roi_difference_map, shown, metric=metric),
            f"differences{position}",
            f"Differences between encoders per ROI of {atlas}",
        ),
        "difference_metric": metric,
        "only_best": only_best,
        "table": _roi_table(rois),
    }


def _roi_pairs(
    pairs: pd.DataFrame, atlas: str, order: list[str]
) -> tuple[pd.DataFrame, str, str | None]:
    """Pairs of an atlas, the metric to show, and the best encoder if only its pairs are kept."""
    pairs = pairs[pairs["atlas"] == atlas] if len(pairs) else pairs
    by_r = pairs[(pairs["metric"] == "r") & pairs["difference"].notna()]
    metric = "r" if len(by_r) else "mse_z"
    n_pairs = len(order) * (len(order) - 1) // 2
    if n_pairs <= MAX_ROI_PAIRS:
        return pairs, metric, None
    return pairs[pairs["encoder_a"] == order[0]], metric, order[0]


def _ungrouped(result: ResultTables, order: list[str], colors: dict[str, str]) -> dict[str, Any]:
    """Figures and numbers without an atlas: all voxels as one group."""
    scored = result.encoders[result.encoders["encoder"].isin(order)]
    rois = scored.assign(roi="all voxels")
    return {
        "atlas": None,
        "n_rois": 0,
        "n_shown": 0,
        "bars": picture(
            partial(figures.roi_bars, rois, colors=colors),
            "bars0",
            "Mean r per encoder, with intervals and noise ceiling",
        ),
        "distribution": picture(
            partial(figures.roi_distributions, result.maps, colors=colors),
            "distribution0",
            "Distribution of voxelwise r per encoder",
        ),
        "differences": None,
        "difference_metric": "r",
        "only_best": None,
        "table": None,
    }
