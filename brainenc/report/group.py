"""Render a group of subjects as one self-contained HTML page, in the look of a run's report."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from brainenc.brain.surfaces import FSAVERAGE, HEMISPHERES
from brainenc.group_tables import GROUP_NAMES, GROUP_TABLES, GroupTables
from brainenc.report import differences, figures, group_figures, style, surface, text
from brainenc.report.pages import render_page
from brainenc.report.parts import Column, Picture, picture, table_of
from brainenc.report.render import manifest_text

#: Name of each test in a sentence, and of its statistic.
TESTS = {
    "t": ("Student’s t test over subjects", "t"),
    "signflip": ("sign flips of subjects", "mean"),
    "hierarchical": ("bootstrap of images within subjects", "t"),
}

COLUMNS = (
    Column("r", "Pearson r"),
    Column("noise_ceiling", "noise ceiling", ""),
    Column("r_normalized", "r / ceiling"),
    Column("r2", "R²"),
    Column("mse_z", "MSE, z units", "lower"),
    Column("n_subjects", "subjects", "", text.count),
    Column("n_voxels", "voxels of all", "", text.count),
)

#: With more pairs of encoders, tables and maps by ROI show only those with the best encoder.
MAX_ROI_PAIRS = 15


def render_group(result: GroupTables) -> str:
    """Report of a group of subjects as one self-contained HTML page.

    Parameters
    ----------
    result : GroupResult, or other GroupTables

    Returns
    -------
    str
        HTML with inline style and figures, without external resources.
    """
    return render_page("group.html.j2", _context(result))


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The table with names as text."""
    names = [name for name in GROUP_NAMES if name in table]
    return table.assign(**{name: table[name].fillna("").map(str).astype(object) for name in names})


def _context(result: GroupTables) -> dict[str, Any]:
    tables = {name: _named(getattr(result, name)) for name in GROUP_TABLES}
    encoders = tables["encoders"]
    order = text.ranking(encoders)
    controls = text.controls_of(encoders)
    colors = style.encoder_colors(encoders["encoder"], controls)
    pairs = _oriented(tables["pairs"], order)
    overall = pairs[(pairs["atlas"] == "all") & (pairs["roi"] == "all")]
    own = text.oriented(tables["subject_pairs"], order)
    own_overall = own[(own["atlas"] == "all") & (own["roi"] == "all")]
    ranked = encoders.set_index("encoder").loc[order].reset_index()
    test = result.manifest.get("test", "t")
    names = list(result.manifest.get("subjects", tables["subjects"]["subject"].unique()))
    main = [name for name in order if name not in controls]
    forest = overall[~overall["encoder_a"].isin(controls) & ~overall["encoder_b"].isin(controls)]
    return {
        "subjects": names,
        "test": TESTS.get(test, (test, "statistic")),
        "findings": _findings(ranked, overall, main, len(names), test),
        "warnings": result.warnings,
        "colors": colors,
        "controls": controls,
        "table": table_of(ranked, COLUMNS),
        "subject_table": _subject_rows(tables["subjects"], order),
        "order": order,
        "pair_rows": list(overall.dropna(subset=["difference"]).itertuples()),
        "lines": picture(
            partial(group_figures.subject_lines, tables["subjects"], ranked, colors=colors),
            "lines",
            "r of each encoder in each subject, with means",
        ),
        "forest": picture(
            partial(group_figures.group_forest, forest, own_overall, colors=colors),
            "forest",
            "Differences between encoders over subjects",
        ),
        "groups": [
            _atlas(tables["rois"], pairs, order, main, atlas, colors, i)
            for i, atlas in enumerate(dict.fromkeys(tables["rois"]["atlas"]))
        ],
        "surface": _surface(tables["maps"], main),
        "manifest": result.manifest,
        "manifest_text": manifest_text(result.manifest),
        "labels": style.LABELS,
        "text": text,
    }


def _oriented(pairs: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """Pairs with the better encoder first; the statistic has the sign of the difference."""
    turned = text.oriented(pairs, order)
    return turned.assign(statistic=turned["statistic"].abs() * np.sign(turned["difference"]))


def _findings(
    encoders: pd.DataFrame, pairs: pd.DataFrame, order: list[str], n: int, test: str
) -> list[Markup]:
    rows = encoders.set_index("encoder")
    defined = [name for name in order if text.is_finite(rows.loc[name, "r"])]
    if not defined:
        return [Markup("No encoder has a defined r: their predictions do not vary over images.")]
    best = rows.loc[defined[0]]
    r = f"{text.number(best['r'])} {text.interval(best['r_low'], best['r_high'])}".strip()
    found = Markup(
        "<strong>{}</strong> predicts best over {}, with a mean voxelwise r of <strong>{}</strong>"
    ).format(defined[0], text.plural(n, "subject"), r)
    if text.is_finite(best["noise_ceiling"]):
        found += Markup(", against a mean noise ceiling of {}").format(
            text.number(best["noise_ceiling"])
        )
    sentences = [found + "."]
    for rival in defined[1:2]:
        pair = text.find_pair(pairs, defined[0], rival, "r")
        if pair is not None and text.is_finite(pair.difference):
            sentences.append(_lead(pair, rival, test))
    return sentences


def _lead(pair: Any, rival: str, test: str) -> Markup:
    certain = pair.p < 0.05
    verdict = "a difference to expect in other subjects, too" if certain else "which may be chance"
    size = f"{text.number(pair.difference)} {text.interval(pair.low, pair.high)}".strip()
    found = Markup("Its lead over <strong>{}</strong> is {} ({}, p {}), {}; ").format(
        rival, size, TESTS.get(test, (test, ""))[0], text.p_value(pair.p), verdict
    )
    found += Markup("it is credible on its own in {} subjects.").format(pair.prevalence)
    if pair.p_min > 0.05:
        found += Markup(" With {} this test cannot give a p below {}.").format(
            text.plural(pair.n_subjects, "subject"), f"{pair.p_min:.3g}"
        )
    return found


def _subject_rows(subjects: pd.DataFrame, order: list[str]) -> list[tuple[str, Any, list[Any]]]:
    """Subject, its noise ceiling, and the r of every encoder with its interval."""
    rows = []
    for name, of_subject in subjects.groupby("subject", sort=False):
        known = of_subject.set_index("encoder").reindex(order)
        cells = [
            (text.number(row.r), text.interval(row.r_low, row.r_high)) for row in known.itertuples()
        ]
        ceiling = known["noise_ceiling"].mean() if "noise_ceiling" in known else np.nan
        rows.append((str(name), text.number(ceiling), cells))
    return rows


def _atlas(
    rois: pd.DataFrame,
    pairs: pd.DataFrame,
    order: list[str],
    main: list[str],
    atlas: str,
    colors: dict[str, str],
    position: int,
) -> dict[str, Any]:
    """Figures and numbers of one atlas."""
    here = rois[rois["atlas"] == atlas]
    shown = pairs[pairs["atlas"] == atlas]
    if len(order) * (len(order) - 1) // 2 > MAX_ROI_PAIRS:
        shown = shown[shown["encoder_a"] == order[0]]
    # The map marks what its interval leaves zero out: here the false discovery rate counts.
    found = shown["q"] < 0.05
    marked = shown.assign(
        low=np.where(found, shown["difference"], -np.inf),
        high=np.where(found, shown["difference"], np.inf),
    )
    first = shown[(shown["metric"] == "r") & shown["difference"].notna()]
    first = first[first["encoder_a"].isin(main) & first["encoder_b"].isin(main)]
    if len(first):
        best = first.iloc[0]
        same = (first["encoder_a"] == best.encoder_a) & (first["encoder_b"] == best.encoder_b)
        first = first[same]
    return {
        "atlas": atlas,
        "bars": picture(
            partial(figures.roi_bars, here, colors=colors),
            f"bars{position}",
            f"Mean r per ROI of {atlas} and encoder over subjects",
        ),
        "differences": picture(
            partial(differences.roi_difference_map, marked, metric="r"),
            f"differences{position}",
            f"Differences between encoders per ROI of {atlas} over subjects",
        ),
        "rows": list(first.itertuples()),
    }


def _surface(maps: pd.DataFrame, order: list[str]) -> dict[str, Any] | None:
    """Mean r on fsaverage5 of the best encoders; None without vertices."""
    shown: dict[str, dict[str, np.ndarray]] = {}
    for name in order:
        rows = maps[(maps["encoder"] == name) & maps["r"].notna()]
        if len(rows) and len(shown) < surface.N_SHOWN:
            values = {side: np.full(FSAVERAGE, np.nan, np.float32) for side in HEMISPHERES}
            for side in HEMISPHERES:
                of_side = rows[rows["hemisphere"] == side]
                values[side][of_side["vertex"].to_numpy(int)] = of_side["r"]
            shown[name] = surface.on_template(values)
    try:
        limits = surface.shown_range(list(shown.values())) if shown else None
    except style.NothingToDraw:
        return None
    if limits is None:
        return None
    alt = f"Mean r over subjects on the cortex: {text.joined(list(shown))}"
    figure = surface.surface_figure(shown, cmap="inferno", limits=limits)
    image = surface.figure_to_img(figure, alt)
    return {"names": list(shown), "picture": Picture("surface", image, alt)}
