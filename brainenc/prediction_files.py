"""Files of predictions and draws: arrays, and beside them the image file of each row."""

from pathlib import Path
from typing import Any

import pandas as pd

from brainenc.arrays import write_array
from brainenc.storage import atomic_path


def save_array(out: Path, array: Any) -> str:
    """Write a ``.npy`` file atomically; return a line that describes it."""
    with atomic_path(out) as temporary:
        write_array(temporary, array)
    return f"{out}: {array.shape} {array.dtype}"


def save_rows(out: Path, images: Any) -> str | None:
    """Write the image file of each row of an array as a table beside it.

    Parameters
    ----------
    out : path
        File of the array, ``p.npy``; the table is ``p.rows.csv``, with columns ``row`` and
        ``file``.
    images : ImageFiles, or other images, whose rows have no other name: nothing is written

    Returns
    -------
    str : a line that describes the table, or None
    """
    if not hasattr(images, "paths"):
        return None
    path = out.with_name(f"{out.name.removesuffix('.npy')}.rows.csv")
    with atomic_path(path) as temporary:
        table = pd.DataFrame({"file": [str(file) for file in images.paths]})
        table.to_csv(temporary, index_label="row")
    return f"{path}: the image file of each row"
