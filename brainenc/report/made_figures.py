"""Figures of made images: the pictures beside the best natural ones, and their values."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from brainenc.report.panels import make_panels
from brainenc.report.style import FULL_WIDTH, GREY, NothingToDraw, encoder_colors

#: Pictures that are drawn, at most, in rows of so many.
_MAX_PICTURES = 24
_N_COLUMNS = 6
#: Largest side of a picture in pixels.
_PICTURE = 160


def made_pictures(
    images: np.ndarray,
    scores: pd.DataFrame,
    natural: tuple[np.ndarray, pd.DataFrame] | None = None,
    *,
    ax: Any = None,
) -> Figure:
    """Made images as pictures with their values, then the best natural ones.

    Parameters
    ----------
    images : array, shape (n, H, W, 3), uint8
        ``MadeImages.images``; the first 24 are drawn.
    scores : DataFrame, n rows
        With ``objective``, and ``judge`` if there is one.
    natural : (array (n_natural, H, W, 3), DataFrame), optional
        Natural images with their scores: the best by each score is drawn.
    ax : sequence of Axes, optional
        One per picture.

    Returns
    -------
    Figure
        Titles hold the encoder's value, and the judge's below it.
    """
    shown = [
        (f"made {i}", images[i], scores.iloc[i]) for i in range(min(len(images), _MAX_PICTURES))
    ]
    if natural is not None:
        pictures, table = natural
        for name, by in (("objective", "encoder"), ("judge", "judge")):
            if name in table:
                best = int(table[name].to_numpy().argmax())
                shown.append((f"natural {best},\nbest by {by}", pictures[best], table.iloc[best]))
    n_columns = min(_N_COLUMNS, len(shown))
    side = FULL_WIDTH / _N_COLUMNS
    size = (side * max(n_columns, 2), (side + 0.75) * -(-len(shown) // n_columns))
    panels = make_panels(ax, len(shown), n_columns, size=size)
    for axes, (title, picture, row) in zip(panels.flat, shown, strict=True):
        small = Image.fromarray(picture)
        small.thumbnail((_PICTURE, _PICTURE))
        axes.imshow(np.asarray(small), interpolation="none")
        axes.set_axis_off()
        values = [f"encoder {row['objective']:.3f}"]
        values += [f"judge {row['judge']:.3f}"] if "judge" in row else []
        axes.set_title("\n".join([title, *values]))
    return panels.finished()


def made_values(scores: pd.DataFrame, natural: pd.DataFrame | None, *, ax: Any = None) -> Figure:
    """Judge's values against the encoder's, of made and of natural images.

    Parameters
    ----------
    scores : DataFrame
        ``MadeImages.scores``.
    natural : DataFrame or None
        ``MadeImages.natural``.
    ax : Axes, optional

    Returns
    -------
    Figure
        The line is the best natural value by the judge.

    Raises
    ------
    NothingToDraw : there was no judge.
    """
    if "judge" not in scores:
        raise NothingToDraw("No judge was given: the encoder's value of its own images is no test.")
    panels = make_panels(ax, 1, 1, size=(4.6, 3.2))
    (axes,) = panels.flat
    if natural is not None:
        axes.scatter(natural["objective"], natural["judge"], s=8, color=GREY, label="natural")
        axes.axhline(natural["judge"].max(), color=GREY, lw=0.8, ls="--")
    color = encoder_colors(["made"])["made"]
    axes.scatter(scores["objective"], scores["judge"], s=18, color=color, label="made")
    axes.set(xlabel="encoder, which was climbed", ylabel="judge")
    if natural is not None:
        axes.legend()
    return panels.finished()
