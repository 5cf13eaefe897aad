"""LearningCurve: the result of `brainenc.learning_curve`, as tidy tables."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from brainenc.benchmarking.table_folders import TableResult, check_table_folder
from brainenc.storage import (
    atomic_path,
)

DESCRIPTION = "curve.json"
TABLES = ("scores", "summary", "pairs", "worth")
_TEXTS = ("subject", "encoder", "roi", "error", "encoder_a", "encoder_b", "reference", "beyond")


@dataclass(frozen=True, repr=False)
class LearningCurve(TableResult):
    """Scores of encoders over the number of images of a new subject.

    Attributes
    ----------
    scores : DataFrame, one row per (subject, encoder, size, draw, roi)
        ``r`` and ``noise_ceiling`` (means over voxels; "all" is every voxel), ``n_voxels`` with a
        defined r, ``n_images`` of the fit, ``seconds`` of it (without learning from the sources),
        ``error`` of a fit that failed.
    summary : DataFrame, one row per (encoder, size)
        Mean ``r`` over draws and subjects, over all voxels: ``low``, ``high`` is its 95 % interval
        over test images, ``low_subjects``, ``high_subjects`` that over subjects by Student's t
        (NaN for one subject).
    pairs : DataFrame, one row per (encoder_a, size)
        Difference with the reference, paired over images, draws and subjects, with both intervals
        and p; ``n_positive`` of ``n_subjects`` are above zero.
    worth : DataFrame, one row per (encoder, size)
        Images from scratch that an encoder with `size` images is ``worth``: where the curve of the
        reference has the same r, with the interval over test images. NaN outside the sizes
        measured; ``beyond`` says on which side.
    manifest : dict
        Subjects, sources, encoders, sizes, seeds, versions; `alikeness` of simulated subjects.
    warnings : list of str
        Images that were left out of sources.
    """

    _description = DESCRIPTION
    _tables = TABLES
    _texts = _TEXTS

    scores: pd.DataFrame
    summary: pd.DataFrame
    pairs: pd.DataFrame
    worth: pd.DataFrame
    manifest: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """Mean r, one row per encoder and one column per size."""
        return self.summary.pivot_table(
            index="encoder", columns="size", values="r", sort=False, dropna=False
        ).round(4)

    def __repr__(self) -> str:
        unit = self.manifest.get("unit", "images")
        return f"LearningCurve, mean r over {unit}:\n{self.table().to_string()}"

    def _repr_html_(self) -> str:
        return self.table().to_html()

    def to_html(self, path: str | os.PathLike) -> Path:
        """Write the report: one self-contained HTML file.

        Returns
        -------
        pathlib.Path : `path`
        """
        from brainenc.report.curve import render_curve

        with atomic_path(path) as temporary:
            temporary.write_bytes(render_curve(self).encode("utf-8", errors="replace"))
        return Path(path)


def check_curve_folder(folder: str | os.PathLike) -> Path:
    """Folder for a learning curve, which need not exist yet.

    Raises
    ------
    FileExistsError : it holds a run, a data set, a saved encoder, or tables of something else.
    """
    return check_table_folder(folder, DESCRIPTION, TABLES)
