"""VariancePartition: the result of `brainenc.variance_partitioning`, as tidy tables."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from brainenc.benchmarking.table_folders import TableResult, check_table_folder
from brainenc.storage import (
    atomic_path,
)

DESCRIPTION = "partition.json"
#: File of the report in the folder of a run.
PAGE = "partition.html"
TABLES = ("voxels", "rois", "parts", "encoders")
_TEXTS = ("atlas", "roi", "part", "encoder", "control")


@dataclass(frozen=True, repr=False)
class VariancePartition(TableResult):
    """Explained variance divided among bands of features, in R² on held-out images.

    Parts are ``unique_<band>``; ``shared`` of all that more than one band explains, of three or
    four bands also ``shared_<band>+<band>`` of each group, which add up to it; ``total``, the R² of
    all bands; and ``alone_<band>``, the R² of one band, with what it shares. Unique parts and
    ``shared`` add up to ``total``.

    Attributes
    ----------
    voxels : DataFrame, one row per voxel
        The parts; ``noise_ceiling`` of R²; ``<part>_null``; ``<part>_normalized``, divided by the
        ceiling where that of r is at least ``min_ceiling``; and the columns of the voxel table
        whose names are none of these.
    rois : DataFrame, one row per ROI, and the first one, "all", of all voxels
        Means over voxels of every part, with its 95 % interval over images (``<part>_low``,
        ``<part>_high``), of ``<part>_null`` and ``<part>_normalized``.
    parts : DataFrame, one row per (atlas, roi, part)
        The same in long form: ``r2``, ``null`` and ``above_null``, their difference, each with its
        paired 95 % interval; ``p`` of no difference, two-sided, not corrected for the number of
        rows. With several permutations ``null_sd``, the s.d. of the null over them, and
        ``p_permuted``, the share of permutations with as large a value (the measured order is one
        of them); else NaN.
    encoders : DataFrame, one row per fitted model
        Mean ``r2`` over all voxels of every subset of bands, with its interval. Models with a
        permuted band have ``control="permuted"``: the chance level.
    manifest : dict
        Bands, folds, seeds, versions.
    warnings : list of str
        Near copies of images on both sides of folds.

    Notes
    -----
    The null of ``unique_<band>`` and ``alone_<band>`` is the same value with the images of that
    band permuted; that of ``shared`` and ``total`` with all bands permuted together: the mean over
    ``n_permutations``. Intervals and ``p`` are over images; the spread between permutations is
    ``null_sd``.
    """

    _description = DESCRIPTION
    _tables = TABLES
    _texts = _TEXTS

    voxels: pd.DataFrame
    rois: pd.DataFrame
    parts: pd.DataFrame
    encoders: pd.DataFrame
    manifest: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    @property
    def bands(self) -> list[str]:
        """Names of the bands."""
        return list(self.manifest["settings"]["bands"])

    def table(self) -> pd.DataFrame:
        """Mean R² of the unique parts, the shared one and all, one row per ROI."""
        columns = [f"unique_{band}" for band in self.bands]
        return self.rois.set_index("roi")[[*columns, "shared", "total", "noise_ceiling"]].round(4)

    def __repr__(self) -> str:
        return f"VariancePartition, mean R² of held-out images:\n{self.table().to_string()}"

    def _repr_html_(self) -> str:
        return self.table().to_html()

    def to_html(self, path: str | os.PathLike) -> Path:
        """Write the report: one self-contained HTML file.

        Returns
        -------
        pathlib.Path : `path`
        """
        from brainenc.report.partition import render_partition

        with atomic_path(path) as temporary:
            temporary.write_bytes(render_partition(self).encode("utf-8", errors="replace"))
        return Path(path)


def check_partition_folder(folder: str | os.PathLike) -> Path:
    """Folder for a variance partition, which need not exist yet.

    Raises
    ------
    FileExistsError : it holds something else.
    """
    return check_table_folder(folder, DESCRIPTION, TABLES)
