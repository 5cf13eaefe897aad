"""DecodingResult: the result of `brainenc.decoding_benchmark`, as tidy tables."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from brainenc.benchmarking.table_folders import TableResult, check_table_folder
from brainenc.storage import atomic_path

DESCRIPTION = "decoding.json"
TABLES = (
    *("decoders", "scores", "pairs", "pool_sizes", "rois", "permuted", "choices"),
    *("pictures",),
)
_TEXTS = (
    *("decoder", "kind", "responses", "similarity", "pools", "error", "decoder_a", "decoder_b"),
    *("direction", "roi", "permuted", "name", "wrong_name", "png"),
)


@dataclass(frozen=True, repr=False)
class DecodingResult(TableResult):
    """Scores of decoders on held-out images, with the rows that say what a score means.

    ``image_retrieval`` is the share of responses whose image is chosen, ``brain_retrieval`` that of
    images whose response is chosen, top-1 in random pools; both with ``_low``, ``_high`` (95 %,
    bootstrap over images), ``_chance`` and ``_median_rank``.

    Attributes
    ----------
    decoders : DataFrame, one row per (decoder, responses)
        Retrieval by the main ``similarity`` (centred, or the ratio of likelihoods of an encoder);
        ``two_way_image``, ``two_way_brain``; ``r``, mean over dimensions of targets;
        ``relative_mse``, squared error over that of the mean training target, with interval;
        ``output_dimension``; ``n_undefined`` of ``n_images``; ``kind``, "reference" for rows that
        are always there; ``seconds`` of the fits; ``error`` of a decoder that failed.
    scores : DataFrame, one row per (decoder, responses, similarity, pools)
        Retrieval by every similarity: centred, uncentred, CSLS; and by the main one in hard pools.
    pairs : DataFrame, one row per (decoder_a, decoder_b, responses, similarity, direction)
        Differences, paired over images, with interval and p.
    pool_sizes : DataFrame, one row per (decoder, responses, pool_size)
        Retrieval by the main similarity, expected over all pools of that size.
    rois : DataFrame, one row per ROI
        Ridge decoder from the voxels of one ROI alone.
    permuted : DataFrame, one row per (permuted, direction)
        ``observed`` retrieval of ridge with one penalty, and ``mean``, ``low``, ``high`` and ``p``
        of permuted training images, among all, and within categories: p of "no more than the
        category".
    choices : DataFrame, one row per (decoder, direction, image, place)
        The most similar wrong images, and the ``rank`` of the right one among all of a fold.
    pictures : DataFrame
        Small pictures of the images that the report shows, as base64 of PNG.
    manifest : dict
        Data, folds, targets, decoders, seeds, versions.
    warnings : list of str
    """

    _description = DESCRIPTION
    _tables = TABLES
    _texts = _TEXTS

    decoders: pd.DataFrame
    scores: pd.DataFrame
    pairs: pd.DataFrame
    pool_sizes: pd.DataFrame
    rois: pd.DataFrame
    permuted: pd.DataFrame
    choices: pd.DataFrame
    pictures: pd.DataFrame
    manifest: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """Main scores in percent, one row per decoder and kind of responses."""
        shown = self.decoders.set_index(["decoder", "responses"])
        percent = ["image_retrieval", "brain_retrieval", "image_retrieval_chance", "two_way_image"]
        table = (100 * shown[percent]).round(1)
        table.columns = ["image %", "brain %", "chance %", "2-way %"]
        return table.assign(
            r=shown["r"].round(3),
            relative_mse=shown["relative_mse"].round(3),
            dimension=shown["output_dimension"].round(2),
        )

    def __repr__(self) -> str:
        size = self.manifest.get("settings", {}).get("pool_size")
        return f"DecodingResult, top-1 of {size}:\n{self.table().to_string(na_rep='–')}"

    def _repr_html_(self) -> str:
        return self.table().to_html(na_rep="–")

    def to_html(self, path: str | os.PathLike) -> Path:
        """Write the report: one self-contained HTML file.

        Returns
        -------
        pathlib.Path : `path`
        """
        from brainenc.report.decoding import render_decoding

        with atomic_path(path) as temporary:
            temporary.write_bytes(render_decoding(self).encode("utf-8", errors="replace"))
        return Path(path)


def check_decoding_folder(folder: str | os.PathLike) -> Path:
    """Folder for a decoding benchmark, which need not exist yet.

    Raises
    ------
    FileExistsError : it holds a run, a data set, a saved model, or tables of something else.
    """
    return check_table_folder(folder, DESCRIPTION, TABLES)
