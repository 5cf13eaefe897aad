"""Small HTML tables for notebooks; all text in them is escaped."""

from collections.abc import Mapping
from html import escape
from typing import Any


def html_table(caption: str, rows: Mapping[str, Any], *, note: str = "") -> str:
    """A table of two columns.

    Parameters
    ----------
    caption : str
    rows : dict of name to value
        Values are shown as text.
    note : str
        A line below the table.

    Returns
    -------
    str : HTML

    Examples
    --------
    >>> html_table("data", {"<voxels>": 3})
    '<table><caption>data</caption><tr><th>&lt;voxels&gt;</th><td>3</td></tr></table>'
    """
    lines = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    below = f"<p>{escape(note)}</p>" if note else ""
    return f"<table><caption>{escape(caption)}</caption>{lines}</table>{below}"
