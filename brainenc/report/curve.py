"""Render a learning curve as one self-contained HTML page."""

from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from brainenc.report import style, text
from brainenc.report.pages import render_page
from brainenc.report.parts import picture
from brainenc.report.render import manifest_text


def render_curve(curve: Any) -> str:
    """Report of a `brainenc.benchmarking.LearningCurve`.

    Returns
    -------
    str
        HTML with inline style and figure, without external resources.
    """
    summary = curve.summary
    last = summary[summary["size"] == summary["size"].max()]
    order = last.sort_values("r", ascending=False, na_position="last")["encoder"].tolist()
    colors = style.encoder_colors(summary["encoder"].drop_duplicates(), [])
    sizes = sorted(set(summary["size"]))
    values = summary.set_index(["encoder", "size"])["r"]
    worth = curve.worth.set_index(["encoder", "size"]) if len(curve.worth) else None
    rows = [
        (
            name,
            [(text.number(values.get((name, n), np.nan)), _worth(worth, name, n)) for n in sizes],
        )
        for name in order
    ]
    context = {
        "unit": curve.manifest["unit"],
        "targets": curve.manifest["targets"],
        "alikeness": sorted(set(curve.manifest.get("alikeness", {}).values())),
        "sizes": sizes,
        "rows": rows,
        "pairs": list(curve.pairs.itertuples()),
        "colors": colors,
        "reference": curve.manifest["reference"],
        "warnings": curve.warnings,
        "manifest_text": manifest_text(curve.manifest),
        "text": text,
        "curve": picture(
            partial(draw_curve, curve, colors=colors), "curve", "Mean r over the number of images"
        ),
    }
    return render_page("curve.html.j2", context)


def _worth(worth: Any, name: str, size: int) -> str:
    if worth is None or (name, size) not in worth.index:
        return ""
    row = worth.loc[(name, size)]
    if np.isfinite(row["worth"]):
        return f"worth {row['worth']:.0f}"
    return {"above": "worth more than measured", "below": "worth fewer"}.get(row["beyond"], "")


def draw_curve(curve: Any, *, colors: dict[str, str]) -> Figure:
    """Mean r over the number of images with intervals, and the noise ceiling."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    summary = curve.summary
    for name, part in summary.groupby("encoder", sort=False):
        if part["r"].notna().any():
            part = part.sort_values("size")
            axes.plot(part["size"], part["r"], "o-", ms=4, color=colors[name], label=str(name))
            axes.fill_between(
                part["size"], part["low"], part["high"], color=colors[name], alpha=0.15, lw=0
            )
        else:  # r of the mean response is undefined: it explains nothing
            axes.axhline(0, color=colors[name], lw=1, ls=":", label=f"{name} (r undefined)")
    ceiling = summary["noise_ceiling"].mean()
    if np.isfinite(ceiling):
        axes.axhline(ceiling, color="0.5", lw=1, ls="--", label="noise ceiling")
    sizes = sorted(set(summary["size"]))
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    axes.set_xlabel(f"{curve.manifest['unit']} of the new subject")
    axes.set_ylabel("mean r on test images")
    axes.legend(frameon=False, fontsize=8)
    return figure
