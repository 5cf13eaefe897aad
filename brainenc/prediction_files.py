"""Files of predictions and draws: arrays, and beside them the image file of each row."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.arrays import write_array
from brainenc.csv_files import write_csv
from brainenc.storage import atomic_path


def save_predictions(out: Path, predictions: np.ndarray, images: Any) -> str:
    """Write predictions as a ``.npy`` file, atomically, and `save_rows` beside it.

    Returns
    -------
    str : lines that describe the files
    """
    with atomic_path(out) as temporary:
        write_array(temporary, predictions)
    return save_rows(out, predictions, images)


def save_rows(out: Path, array: np.ndarray, images: Any) -> str:
    """Write the image file of each row of an array as a table beside the array's file.

    Parameters
    ----------
    out : path
        File of the array, ``p.npy``; the table is ``p.rows.csv``, with columns ``row`` and
        ``file``.
    array : array
    images : ImageFiles, or other images, whose rows have no other name: no table is written

    Returns
    -------
    str : lines that describe the files
    """
    lines = [f"{out}: {array.shape} {array.dtype}"]
    if hasattr(images, "paths"):
        path = out.with_name(f"{out.name.removesuffix('.npy')}.rows.csv")
        table = pd.DataFrame({"file": [str(file) for file in images.paths]})
        write_csv(path, table, index=True, index_label="row")
        lines.append(f"{path}: the image file of each row")
    return "\n".join(lines)
