"""Experiment: the result of `brainenc.experiment`, as tidy tables."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.benchmarking.table_folders import TableResult, check_table_folder
from brainenc.data.encoding_data import EncodingData
from brainenc.data.voxels import as_voxels
from brainenc.storage import atomic_path

DESCRIPTION = "experiment.json"
TABLES = ("rois", "voxels", "contrasts", "voxel_contrasts", "tuning", "preferences")


@dataclass(frozen=True, repr=False)
class Experiment(TableResult):
    """What an encoder predicts for the conditions of an experiment.

    ``low`` and ``high`` are intervals of model uncertainty, ``model_sd`` its s.d., and ``p`` and
    ``q`` tests by it. They are NaN without draws, and for voxels without data.

    Attributes
    ----------
    rois : DataFrame, one row per (condition, atlas, roi)
        Mean ``response`` over the area's voxels and the condition's ``n_images``, in units of the
        betas; ``image_sd``, the s.d. of images of the condition; ``trial_sd``, the s.d. of single
        trials of the area's mean, whose voxels share noise. The first area, "all", is all voxels.
    voxels : DataFrame, one row per (condition, voxel)
        The same for each voxel.
    contrasts : DataFrame, one row per (contrast, atlas, roi)
        ``effect``, p, and q over the areas of the atlas.
    voxel_contrasts : DataFrame, one row per (contrast, voxel)
        ``effect``, p, and q over voxels.
    tuning : DataFrame, one row per (parameter, value, atlas, roi)
        Tuning curves: mean over the conditions that have the value.
    preferences : DataFrame, one row per (parameter, voxel)
        ``preferred`` value: the largest response; of a circular parameter the direction of the mean
        vector, with ``error``, its circular s.d. over draws. ``agreement``: share of draws that
        prefer the same value (circular: within half a step). ``strength``: largest minus smallest
        response, or the length of the mean vector. ``p`` of equal responses to all values
        (Hotelling's T² with the covariance of the draws), q over voxels.
    manifest : dict
        Conditions, contrasts, seeds, versions.
    warnings : list of str
        Conditions whose images are far from those of the fit.
    """

    _description = DESCRIPTION
    _tables = TABLES
    _texts = ("condition", "contrast", "atlas", "roi", "parameter")

    rois: pd.DataFrame
    voxels: pd.DataFrame
    contrasts: pd.DataFrame
    voxel_contrasts: pd.DataFrame
    tuning: pd.DataFrame
    preferences: pd.DataFrame
    manifest: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """Mean response to every condition, one row per area."""
        wide = self.rois.pivot(index=["atlas", "roi"], columns="condition", values="response")
        order = self.rois[["atlas", "roi"]].drop_duplicates()
        wide = wide.loc[pd.MultiIndex.from_frame(order)]
        return wide[list(self.manifest["settings"]["conditions"])].droplevel("atlas").round(3)

    def localizer(
        self, contrast: str | None = None, *, value: str = "effect", alpha: float | None = None
    ) -> np.ndarray:
        """A contrast as one number per voxel, for `brainenc.plot_surface` or `brain.to_nifti`.

        Parameters
        ----------
        contrast : str, optional
            By default the first.
        value : "effect", "z", "p" or "q"
            "z" is the effect over its model s.d.
        alpha : float, optional
            False discovery rate: voxels with a larger q are NaN.

        Returns
        -------
        array, shape (n_voxels,)

        Raises
        ------
        ValueError : unknown contrast or value.

        Examples
        --------
        >>> import numpy as np
        >>> import brainenc
        >>> rng = np.random.default_rng(0)
        >>> X, Y = rng.standard_normal((60, 4)), rng.standard_normal((60, 2, 3))
        >>> encoder = brainenc.RidgeEncoder().fit(X, Y)
        >>> found = brainenc.experiment(encoder, {"a": X[:9] + 1, "b": X[:9]})
        >>> found.localizer("a > b", alpha=0.05).shape
        (3,)
        """
        names = list(self.manifest["settings"]["contrasts"])
        contrast = names[0] if contrast is None else contrast
        if contrast not in names:
            raise ValueError(f"contrast={contrast!r} must be one of {names}")
        table = self.voxel_contrasts[self.voxel_contrasts["contrast"] == contrast]
        if value == "z":
            with np.errstate(invalid="ignore", divide="ignore"):
                found = (table["effect"] / table["model_sd"]).to_numpy(float)
        elif value in ("effect", "p", "q"):
            found = table[value].to_numpy(float)
        else:
            raise ValueError(f"value={value!r} must be 'effect', 'z', 'p' or 'q'")
        return found if alpha is None else np.where(table["q"] <= alpha, found, np.nan)

    def __repr__(self) -> str:
        return f"Experiment, mean responses:\n{self.table().to_string()}"

    def _repr_html_(self) -> str:
        return self.table().to_html()

    def to_html(self, path: str | os.PathLike, data: Any = None) -> Path:
        """Write the report: one self-contained HTML file.

        Parameters
        ----------
        path : path
        data : EncodingData or voxel table, optional
            With the positions of the voxels that the encoder was fitted to: contrasts are then
            shown as maps. Voxels with ``i, j, k`` take data with a ``volume``.

        Returns
        -------
        pathlib.Path : `path`

        Raises
        ------
        TypeError, ValueError : no voxel table, or one with another number of voxels.
        """
        from brainenc.report.experiment import render_experiment

        volume = data.volume if isinstance(data, EncodingData) else None
        voxels = data.voxels if isinstance(data, EncodingData) else data
        n_voxels = self.manifest["n_voxels"]
        if voxels is not None:
            if isinstance(voxels, pd.DataFrame) and len(voxels) != n_voxels:
                raise ValueError(
                    f"data has {len(voxels)} voxels, but the encoder was fitted to {n_voxels}: "
                    "give the data that it was fitted to, or their voxel table"
                )
            voxels = as_voxels(voxels, n_voxels)
        with atomic_path(path) as temporary:
            page = render_experiment(self, voxels, volume)
            temporary.write_bytes(page.encode("utf-8", errors="replace"))
        return Path(path)


def check_experiment_folder(folder: str | os.PathLike) -> Path:
    """Folder for an experiment, which need not exist yet.

    Raises
    ------
    FileExistsError : it holds something else.
    """
    return check_table_folder(folder, DESCRIPTION, TABLES)
