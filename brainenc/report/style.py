"""Style of all figures: colours, labels, and SVG for a page with several figures."""

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.backends.backend_svg import FigureCanvasSVG, RendererSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

#: Okabe and Ito's colours, then some of Paul Tol's; distinguishable with any colour vision.
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#999933",
    "#332288",
    "#777777",
    "#7F3C00",
    "#44AA99",
)

#: Colours of text, lines and background elements.
INK, MUTED, FAINT = "#1f2933", "#52606d", "#c3cad2"

#: Colour of null controls.
GREY = "#a3acb5"

#: Axis labels of metrics.
LABELS = {
    "r": "Pearson r",
    "r_normalized": "r / noise ceiling",
    "r2": "R²",
    "mse_z": "MSE (z units)",
    "mse": "MSE (betas²)",
    "crps_z": "CRPS (z units)",
    "crps": "CRPS (betas)",
    "energy": "energy score",
    "variogram": "variogram score",
    "log_score": "log score (nats)",
}

#: Prefixes of metrics for which smaller is better.
LOWER_IS_BETTER = ("mse", "crps", "energy", "variogram", "log_score")

#: Largest number of ROIs in a figure; the largest ROIs are shown.
MAX_ROIS = 40

#: Inches; 1 inch is 96 pixels on a page.
FULL_WIDTH = 10.6

STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # otherwise it is sought, again and again, above ticks that are not there
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a name is a "$"
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "legend.handlelength": 1.0,
    "legend.columnspacing": 1.4,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "savefig.dpi": 160,  # of rasterised parts
    "svg.fonttype": "none",
}


class NothingToDraw(ValueError):
    """The data of a figure have no finite value; the message gives the reason."""


def styled() -> Any:
    """Context (or decorator) with the style of figures, independent of the user's style."""
    return style.context([STYLE], after_reset=True)


def encoder_colors(encoders: Iterable[Any], controls: Iterable[Any] = ()) -> dict[str, str]:
    """Colour of each encoder, by order of appearance; `PALETTE` repeats after its last colour.

    Parameters
    ----------
    encoders : iterable of str
        Names, possibly repeated, such as a column of a table.
    controls : iterable of str, optional
        Names among them of null controls, which are grey.

    Returns
    -------
    dict of name to "#rrggbb"
    """
    names = dict.fromkeys(map(str, encoders))
    grey = dict.fromkeys(map(str, controls), GREY)
    colored = [name for name in names if name not in grey]
    found = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(colored)}
    return {name: grey.get(name) or found[name] for name in names}


def ordered_colors(n: int) -> list[str]:
    """`n` colours from dark to light for ordered categories, such as ROIs."""
    return [to_hex(color) for color in matplotlib.colormaps["viridis"](np.linspace(0, 0.93, n))]


def short(name: Any, width: int = 26) -> str:
    """A name as a label, without control characters; the middle of a long name is cut.

    Those of the direction of writing are control characters, too: a label stands alone, and they
    would turn what is beside it. Characters that are none in a file are "�".
    """
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", " ", str(name))
    text = re.sub(r"[\ud800-\udfff\ufffe\uffff]", "\ufffd", text)
    if len(text) > width:
        text = f"{text[: width // 2]}…{text[len(text) - width // 2 + 1 :]}"
    # Matplotlib leaves labels with a leading underscore out of legends.
    return f"\u200b{text}" if text.startswith("_") else text


def largest(sizes: pd.Series, n: int = MAX_ROIS) -> list[str]:
    """The `n` largest entries, in their order in `sizes`."""
    kept = sizes.nlargest(n).index
    return [str(label) for label in sizes.index if label in kept]


def rotate_if_crowded(axes: Any, labels: Sequence[str], slot: float) -> None:
    """Rotate the x tick labels if the longest is wider than its slot (inches)."""
    if max(map(len, labels), default=0) * 0.075 > slot:
        axes.tick_params(axis="x", rotation=35)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")


def figure_to_svg(figure: Figure, name: str) -> str:
    """Figure as an ``<svg>`` element for a page with several figures.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    name : str
        Prefix of every id in the element, which keeps clip paths and markers of figures apart;
        letters, digits and "-".

    Returns
    -------
    str
        The same figure gives the same text. Labels are text, not outlines; there is no style sheet
        and no metadata with a date.
    """
    buffer = io.StringIO()
    with styled(), matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # The browser has fonts for characters that Matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        with _laid_out(figure) as box:
            figure.savefig(buffer, format="svg", bbox_inches=box, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", lambda tag: _prefix_ids(tag[0], name), text)


@contextmanager
def _laid_out(figure: Figure) -> Iterator[Bbox]:
    """Lay a figure out for SVG, and give the box around all of it, in inches.

    ``savefig(bbox_inches="tight")`` draws a figure twice, first into nothing, to know where things
    are. Laying it out and asking what it covers gives the same positions without that draw.
    """
    engine, canvas, dpi = figure.get_layout_engine(), figure.canvas, figure.dpi
    try:
        _MeasuringCanvas(figure)
        figure.dpi = FigureCanvasSVG.fixed_dpi
        if engine is not None:
            engine.execute(figure)
            with matplotlib.rc_context({"figure.constrained_layout.use": False}):
                figure.set_layout_engine(None)
        yield figure.get_tightbbox().padded(0.05)
    finally:
        figure.set_canvas(canvas)
        figure.dpi = dpi
        if engine is not None:
            figure.set_layout_engine(engine)


class _MeasuringCanvas(FigureCanvasSVG):
    """Canvas on which figures are laid out; by default each question makes a new renderer."""

    def get_renderer(self) -> RendererSVG:
        return _measuring_renderer()


@cache
def _measuring_renderer() -> RendererSVG:
    """Renderer that measures texts: it remembers those that it has measured, and draws nothing."""
    return RendererSVG(1, 1, io.StringIO(), image_dpi=FigureCanvasSVG.fixed_dpi)


def _prefix_ids(tag: str, name: str) -> str:
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    return re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", tag)
