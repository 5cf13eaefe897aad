"""Description: words of voxels, as tidy tables."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from brainenc.benchmarking.table_folders import TableResult
from brainenc.storage import atomic_path


@dataclass(frozen=True, repr=False)
class Description(TableResult):
    """Result of `brainenc.describe`: words of voxels, and tests of them.

    Attributes
    ----------
    voxels : DataFrame, one row per voxel
        ``voxel`` (position); columns of the voxel table, with ``_of_voxel`` behind a name that
        follows; ``word``, the first one, empty without
        any; ``purity``, the share of the top images that have it; ``lift``, that share divided by
        the share among all images; ``z``, weighted log-odds; ``r_word``, correlation of the word
        with measured betas, its ``p`` against permuted images and ``q`` over voxels; ``named``,
        whether q is at most ``alpha``; ``r_model``, correlation of predictions with measured betas;
        ``agreement``, correlation over words of the log-odds of two encoders fitted to halves;
        ``sentence`` of the composer. What was not computed is missing or NaN.
    words : DataFrame, one row per (voxel, rank)
        All words of a voxel, with the same columns; here ``q`` is over all rows.
    top : DataFrame, one row per (voxel, rank)
        Top images, as `brainenc.top_images` gives them.
    manifest : dict
        Settings; ``null_median_purity`` and ``null_share_above_half``, of an encoder fitted to
        permuted images: the median purity of its first words, and the share of its voxels in which
        more than half of the top images have one word in common.
    warnings : list of str
    """

    _description = "selectivity.json"
    _tables = ("voxels", "words", "top")
    _texts = ("word", "sentence", "roi", "hemisphere")

    voxels: pd.DataFrame
    words: pd.DataFrame
    top: pd.DataFrame
    manifest: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def rois(self, atlas: str = "roi") -> pd.DataFrame:
        """Named voxels and their commonest words, one row per ROI.

        Parameters
        ----------
        atlas : str
            Column of the voxel table.

        Returns
        -------
        DataFrame, indexed by ROI
            ``n_voxels``; ``named``, share of the voxels; ``words``, the three commonest first words
            of named voxels.

        Raises
        ------
        KeyError : there is no such column.
        """
        if atlas not in self.voxels:
            raise KeyError(
                f"there is no column {atlas!r}: give describe(voxels=...), the voxel table"
            )
        rows = {}
        for roi, part in self.voxels.groupby(atlas, sort=False):
            named = part[part["named"]]
            counts = named["word"].value_counts()
            rows[roi] = {
                "n_voxels": len(part),
                "named": len(named) / len(part),
                "words": ", ".join(counts.index[:3]),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(atlas)

    def __repr__(self) -> str:
        named = self.voxels[self.voxels["named"]]
        commonest = ", ".join(f"{w} ({n})" for w, n in named["word"].value_counts()[:8].items())
        head = f"Description: {len(named)} of {len(self.voxels)} voxels are named"
        return f"{head}: {commonest}" if commonest else head

    def to_html(self, path: str | os.PathLike, images: Any = None) -> Path:
        """Write the report: one self-contained HTML file.

        Parameters
        ----------
        path : path
        images : images, optional
            The images described, whose pictures are shown.

        Returns
        -------
        pathlib.Path : `path`
        """
        from brainenc.report.selectivity import render_selectivity

        with atomic_path(path) as temporary:
            page = render_selectivity(self, images)
            temporary.write_bytes(page.encode("utf-8", errors="replace"))
        return Path(path)
