"""Axes of figures: new ones, or those that the caller gives; and the rows that are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import ScalarFormatter

from brainenc.report.style import FULL_WIDTH, MAX_ROIS, NothingToDraw, largest

Names = Sequence[str] | None


@dataclass(frozen=True, eq=False)
class Panels:
    """Axes of a figure.

    Attributes
    ----------
    figure : Figure
    axes : array of Axes, shape (n_rows, n_columns)
        Without those that are not used.
    is_new : bool
        False if the caller gave the axes; the rest of the figure is the caller's then.
    share : bool
        Whether all axes share both scales.
    """

    figure: Figure
    axes: np.ndarray
    is_new: bool
    share: bool = False

    @property
    def flat(self) -> list[Axes]:
        """All axes, row by row."""
        return [axes for axes in self.axes.flat if axes is not None]

    @property
    def scaled(self) -> list[Axes]:
        """Axes whose limits, scales and ticks are set: the first of new ones, if they share them.

        Axes that share a scale pass on what is set to all of them, each time.
        """
        return self.flat[:1] if self.share else self.flat

    @property
    def left(self) -> list[Axes]:
        """First axes of each row, which have the label of y."""
        return [row[0] for row in self.axes]

    @property
    def lowest(self) -> list[Axes]:
        """Lowest axes of each column, which have the label of x."""
        used = [[axes for axes in column if axes is not None] for column in self.axes.T]
        return [column[-1] for column in used if column]

    def finished(self) -> Figure:
        """The figure; a "$" in a name is a "$" in all texts of its axes, and begins no formula."""
        if self.is_new:
            for axes in self.flat:
                for axis in (axes.xaxis, axes.yaxis):
                    if not axis.get_label_text():
                        axis.set_label_coords(0, 0)  # need not be sought beyond the tick labels
        if self.is_new and not matplotlib.rcParams["text.parse_math"]:
            return self.figure  # all of its texts were made so: see `brainenc.report.style.STYLE`
        numbers = {
            id(label)
            for axes in self.flat
            for axis in (axes.xaxis, axes.yaxis)
            if isinstance(axis.get_major_formatter(), ScalarFormatter)
            for label in axis.get_ticklabels(which="both")
        }
        for artist in [self.figure] if self.is_new else self.flat:
            for text in artist.findobj(Text):
                if id(text) not in numbers:
                    text.set_parse_math(False)
        return self.figure

    def legend(self, handles: list[Any], place: Any, ncols: int | None = None) -> None:
        """Legend outside of new axes, inside the first of given ones."""
        if not handles:
            return
        if not self.is_new:
            self.flat[0].legend(handles=handles)
            return
        if ncols is None:
            widest = 0.5 + 0.075 * max(len(handle.get_label()) for handle in handles)
            ncols = int(np.clip(self.figure.get_figwidth() / widest, 1, len(handles)))
        self.figure.legend(handles=handles, loc=place, ncols=ncols)


def make_panels(
    ax: Any,
    n: int,
    n_columns: int,
    *,
    size: tuple[float, float],
    layout: Any = "constrained",
    sharex: Any = False,
    sharey: Any = False,
) -> Panels:
    """`n` axes in rows of `n_columns`.

    Parameters
    ----------
    ax : Axes, sequence or array of Axes, or None
        Axes to draw on. None makes a figure of `size` inches.
    n, n_columns : int
    size : (width, height)
        In inches.
    layout, sharex, sharey
        As of Matplotlib, for new axes.

    Raises
    ------
    TypeError : `ax` holds something else than Axes.
    ValueError : `ax` holds another number of Axes than `n`.
    """
    n_rows = -(-n // n_columns)
    if ax is None:
        figure = Figure(figsize=size, layout=layout)
        made = figure.subplots(n_rows, n_columns, sharex=sharex, sharey=sharey, squeeze=False)
        for axes in made.flat[n:]:
            axes.remove()
        made.flat[n:] = None
        return Panels(figure, made, True, sharex is True and sharey is True)
    given = [ax] if isinstance(ax, Axes) else list(np.asarray(ax, dtype=object).ravel())
    if wrong := [type(axes).__name__ for axes in given if not isinstance(axes, Axes)]:
        raise TypeError(f"ax must be Axes of Matplotlib or a sequence of them, not {wrong[0]}")
    if len(given) != n:
        raise ValueError(
            f"ax has {len(given)} Axes, and this figure has {n} panels: pass {n}, such as those of "
            f"plt.subplots({n_rows}, {n_columns}), or choose what is drawn (encoders=[...])"
        )
    grid = np.full(n_rows * n_columns, None, dtype=object)
    grid[:n] = given
    return Panels(given[0].figure, grid.reshape(n_rows, n_columns), False)  # type: ignore[arg-type]


def chosen_rows(
    table: pd.DataFrame, encoders: Names, column: str, nothing: str, name: str = "encoder"
) -> pd.DataFrame:
    """Rows of the chosen encoders, in order, without encoders that have no finite value.

    Parameters
    ----------
    table : DataFrame
    encoders : sequence of str or None
        None: all, as they appear.
    column : str
        The values.
    nothing : str
        Message if nothing is left.
    name : str
        Column of names.

    Raises
    ------
    NothingToDraw : no row is left.
    ValueError : an encoder is not in the table.
    """
    if table.empty:
        raise NothingToDraw(nothing)
    known = list(dict.fromkeys(table[name]))
    wanted = known if encoders is None else as_list(encoders, "encoders")
    check_known(wanted, known, "encoders")
    finite = table.groupby(name, sort=False)[column].transform("count") > 0
    table = table[finite.astype(bool)]
    if encoders is not None:
        parts = [table[table[name] == each] for each in dict.fromkeys(wanted)]
        table = pd.concat(parts) if parts else table.iloc[:0]
    if table.empty:
        raise NothingToDraw(nothing)
    return table


def roi_panels(ax: Any, n: int, height: float, **options: Any) -> Panels:
    """As `make_panels`, for one panel per ROI: up to four side by side, rows of `height` inches."""
    n_columns = min(4, n)
    width = FULL_WIDTH if n_columns > 2 else 3.6 * n_columns
    size = (width, height * -(-n // n_columns) + 0.6)
    return make_panels(ax, n, n_columns, size=size, **options)


def rows_of_atlas(table: pd.DataFrame, atlas: str | None, value: str) -> pd.DataFrame:
    """Rows of one atlas, the first by default, in which `value` is defined; of all voxels if none.

    Raises
    ------
    NothingToDraw : no such row.
    ValueError : an atlas that is not in the table.
    """
    atlases = [name for name in table["atlas"].unique() if name]
    if atlas is not None and atlas not in atlases:
        raise ValueError(f"atlas={atlas!r} is not in the table, which has {atlases}")
    atlas = atlas if atlas is not None else (atlases[0] if atlases else "")
    table = table[(table["atlas"] == atlas) & np.isfinite(table[value].astype(float))]
    if table.empty:
        raise NothingToDraw(f"No {value} is defined.")
    return table


def shown_rois(sizes: pd.Series, order: Names, most: int = MAX_ROIS) -> list[str]:
    """ROIs to draw: those of `order`, or the largest as they come.

    Parameters
    ----------
    sizes : Series
        Number of voxels by ROI.
    order : sequence of str or None
    most : int
        Largest number without `order`.

    Raises
    ------
    ValueError : a name of `order` is not in `sizes`.
    """
    if order is None:
        return largest(sizes, most)
    check_known(as_list(order, "order"), [str(roi) for roi in sizes.index], "order")
    return list(dict.fromkeys(order))


def as_list(names: Any, argument: str) -> list[str]:
    """A sequence of names as a list.

    Raises
    ------
    TypeError : `names` is a single text.
    """
    if isinstance(names, str):
        raise TypeError(f"{argument}={names!r} is text; pass a list: [{names!r}]")
    return list(names)


def check_known(names: Sequence[str], known: Sequence[str], argument: str) -> None:
    """Raise ValueError if a name is not among the known ones."""
    if unknown := [each for each in names if each not in set(known)]:
        raise ValueError(f"{argument} has {unknown}, and the table has {list(known)}")
