"""LayerMap: the result of `brainenc.layer_map`, as tidy tables."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from brainenc.benchmarking.table_folders import TableResult, check_table_folder
from brainenc.storage import atomic_path

DESCRIPTION = "layers.json"
TABLES = ("voxels", "layers", "rois")
_TEXTS = ("atlas", "roi", "layer", "control")


@dataclass(frozen=True, repr=False)
class LayerMap(TableResult):
    """Which layer of a network predicts which voxels and areas.

    The best layer is chosen on held-out images within the training images of each fold, and its r
    is that of test images that had no part in the choice.

    Attributes
    ----------
    voxels : DataFrame, one row per voxel
        ``layer``, chosen in most folds; ``depth``, the place of the chosen layers from 0 (first) to
        1 (last), mean over folds; ``agreement``, the share of folds that chose ``layer``; ``r`` of
        the chosen layers; ``r_untrained`` and ``r_permuted``, the same for the controls;
        ``noise_ceiling`` of r; and the columns of the voxel table.
    layers : DataFrame, one row per (atlas, roi, layer, control)
        ``depth``; mean ``r`` over the voxels on test images, with its 95 % interval over images.
        ``control`` is empty, "untrained" or "permuted".
    rois : DataFrame, one row per ROI, and the first one, "all", of all voxels
        ``layer`` with the largest r within the training images; ``depth``, mean over voxels with a
        ceiling of at least ``min_ceiling`` (``n_voxels_depth``); ``r`` of the layers chosen per
        voxel, with interval, and of the controls; ``noise_ceiling``, mean over voxels.
    manifest : dict
        Layers, folds, seeds, versions; ``hierarchy``: see `hierarchy`.
    warnings : list of str
        Near copies of images on both sides of folds; controls that could not be had.
    """

    _description = DESCRIPTION
    _tables = TABLES
    _texts = _TEXTS

    voxels: pd.DataFrame
    layers: pd.DataFrame
    rois: pd.DataFrame
    manifest: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of the layers, from the first to the last."""
        return list(self.manifest["settings"]["layers"])

    @property
    def hierarchy(self) -> dict[str, dict[str, float]]:
        """`hierarchy_score` of the areas in the given order, for the layers and each control.

        Keys are "trained", "untrained" and "permuted"; empty without an order.
        """
        return dict(self.manifest["hierarchy"])

    def table(self) -> pd.DataFrame:
        """Mean r of every layer, one row per ROI."""
        given = self.layers[self.layers["control"] == ""]
        wide = given.pivot(index=["atlas", "roi"], columns="layer", values="r")
        index = pd.MultiIndex.from_frame(self.rois[["atlas", "roi"]])
        return wide.loc[index, self.names].droplevel("atlas").round(3)

    def __repr__(self) -> str:
        return f"LayerMap, mean r on test images:\n{self.table().to_string()}"

    def _repr_html_(self) -> str:
        return self.table().to_html()

    def to_html(self, path: str | os.PathLike) -> Path:
        """Write the report: one self-contained HTML file.

        Returns
        -------
        pathlib.Path : `path`
        """
        from brainenc.report.layers import render_layers

        with atomic_path(path) as temporary:
            temporary.write_bytes(render_layers(self).encode("utf-8", errors="replace"))
        return Path(path)


def check_layers_folder(folder: str | os.PathLike) -> Path:
    """Folder for a layer map, which need not exist yet.

    Raises
    ------
    FileExistsError : it holds something else.
    """
    return check_table_folder(folder, DESCRIPTION, TABLES)
