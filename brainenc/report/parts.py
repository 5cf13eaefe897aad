"""Parts of the page: tables with one row per encoder, and pictures."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from brainenc.garbage import collected_at_end
from brainenc.report import text
from brainenc.report.style import NothingToDraw, figure_to_svg, styled


class Column(NamedTuple):
    """A column of a table of encoders: metric, heading, better direction, and format."""

    metric: str
    heading: str
    better: str = "higher"
    form: Callable[[Any], str] = text.number


@dataclass(frozen=True)
class Picture:
    """A figure of the page; `svg` is None if nothing was drawn, and `note` gives the reason."""

    name: str
    svg: Markup | None
    alt: str
    note: str = ""


def table_of(
    encoders: pd.DataFrame, columns: tuple[Column, ...], controls: Collection[str] = ()
) -> dict[str, Any]:
    """Headings and, per encoder, its name and cells for the template; no control is the best."""
    compared = encoders[~encoders["encoder"].isin(list(controls))]
    best = {column.metric: _best(compared[column.metric], column.better) for column in columns}
    rows = [
        (
            row["encoder"],
            [
                _cell(row, column, np.nan if row["encoder"] in controls else best[column.metric])
                for column in columns
            ],
        )
        for _, row in encoders.iterrows()
    ]
    return {"columns": columns, "rows": rows}


def _cell(row: pd.Series, column: Column, best: float) -> dict[str, Any]:
    value = row[column.metric]
    low, high = row.get(f"{column.metric}_low"), row.get(f"{column.metric}_high")
    return {
        "metric": column.metric,
        "text": column.form(value),
        "interval": text.interval(low, high, column.form),
        "best": bool(value == best),
    }


def _best(values: pd.Series, better: str) -> float:
    """The best value; NaN if there is nothing to compare."""
    if not better or values.count() < 2:
        return np.nan
    return values.max() if better == "higher" else values.min()


def with_all_columns(table: pd.DataFrame, columns: tuple[Column, ...]) -> pd.DataFrame:
    """Table with every column and its interval; missing ones are NaN."""
    wanted = [column.metric + end for column in columns for end in ("", "_low", "_high")]
    return table.assign(**dict.fromkeys([name for name in wanted if name not in table], np.nan))


def picture(draw: Callable[[], Figure], name: str, alt: str) -> Picture:
    """The figure that `draw` makes, as SVG; ids in it begin with `name`."""
    try:
        with styled(), collected_at_end():
            return Picture(name, Markup(figure_to_svg(draw(), name)), alt)
    except NothingToDraw as nothing:
        return Picture(name, None, alt, str(nothing))
