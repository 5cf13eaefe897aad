"""BenchmarkResult: the tidy tables of one run."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.benchmarking.former_tables import with_kinds
from brainenc.result_tables import DRAW_TABLES, NAMES, TABLES, TEXTS, ResultTables
from brainenc.storage import atomic_path, check_writable, read_json, write_json

#: Version of the folder layout that `BenchmarkResult.save` writes.
FORMAT_VERSION = 1


def _in_doubles(table: pd.DataFrame) -> pd.DataFrame:
    """Table in double precision: printed singles would not be read back exactly."""
    return table.astype(dict.fromkeys(table.select_dtypes(np.float32), np.float64))


@dataclass(frozen=True, repr=False)
class BenchmarkResult(ResultTables):
    """Scores of encoders on the same images and folds.

    The held-out images of all folds are scored together, predictions and responses each centred
    within their fold first where means matter (r, R²). Columns ending in ``_low`` and ``_high`` are
    the bootstrap interval over images of the column before: the variation of the score of these
    fitted encoders over other test images.

    Attributes
    ----------
    encoders : DataFrame, one row per encoder
        ``r`` (mean over voxels of Pearson's r across images, against repeat-averaged betas),
        ``noise_ceiling`` (of that r, same voxels), ``r_normalized`` (mean of r / ceiling, over
        ``n_voxels_normalized`` voxels with enough signal, unclipped; see the note), ``r2``, ``mse``
        (squared units of the betas) and ``mse_z`` (units of the s.d. of the training trials), both
        against averages and, with ``_trials``, against single trials; ``pattern_r``,
        ``pattern_mse``, ``pattern_cosine`` (across voxels per image, the SynBrain paper's
        protocol), ``identification`` (two-way, chance .5), ``rdm_correlation``, ``cka``;
        ``r_within_session`` (r of averages and predictions without the means of sessions; if the
        trial table has two sessions); ``n_voxels``, ``n_undefined`` (voxels whose r is undefined),
        ``n_significant`` (q < .05);
        ``fit_seconds`` and ``peak_memory_mb`` per fold, ``predict_images_per_second``; ``error``,
        "" if none; and the columns of `draws`, NaN for an encoder without draws.
    rois : DataFrame, one row per (encoder, atlas, roi)
        The voxel metrics above, of predictions and of draws, and ``r_within_session``.
    pairs : DataFrame, one row per (encoder_a, encoder_b, metric, roi)
        ``difference`` a − b over voxels defined in both, its interval and two-sided p from a
        paired bootstrap over images; roi "all" is every voxel.
    maps : DataFrame, one row per (encoder, voxel)
        Voxel metrics, ``noise_ceiling``, permutation ``p``, FDR ``q``, the voxel table of the
        data, and ``r_within_session``.
    voxels : DataFrame, one row per (encoder, fold, voxel)
        Voxel metrics within each fold; noisy for small test sets.
    draws : DataFrame, one row per (encoder, atlas, roi), roi "all" being every voxel
        Scores of draws against single trials, of encoders and of reference rows (``reference``): "…
        + independent Gaussian residuals", "… + resampled residuals" (of whole held-out trials)
        around a ridge whose own draws have a low-rank covariance, and on simulated data "true
        distribution"; ``reference_kind`` is "independent", "resampled" or "truth", "" for encoders,
        and ``reference_of`` the ridge. ``draws_from``; ``crps`` (units of the betas), ``crps_z``
        (units of the s.d. of the training trials), ``coverage_50`` and ``coverage_90`` (share of
        trials in central intervals) of voxels; ``energy`` (z units, all voxels that no trial
        lacks), ``variogram`` and ``log_score`` (nats; z units and the betas' own; of at most 200 of
        these voxels) per image; ``variance_slope``, ``variance_r``, ``variance_ratio`` and
        ``variance_reliability`` of draws on trials across voxels
        (`brainenc.metrics.variance_agreement`); ``noise_correlation_r`` with the repeats
        (`brainenc.metrics.agreement_with_repeats`) and ``noise_correlation_truth_r`` with the
        truth, of those 200 voxels; ``n_voxels``. Intervals of slope and both r (not that with the
        truth) are a jackknife over images, all others a bootstrap.
    draw_pairs : DataFrame, one row per (encoder_a, encoder_b, metric, roi)
        As `pairs`, of ``crps_z``, and over all voxels of ``energy``, ``variogram``, ``log_score``;
        reference rows included. Smaller is better.
    calibration : DataFrame, one row per (encoder, atlas, roi, quantity, position)
        ``quantity`` "pit": ``position`` is the middle of one of 20 bins, ``value`` the density, 1
        if calibrated; "rank": the same of 10 bins of whole ranks among the draws; "pattern_rank":
        of ranks of whole patterns, of all voxels that no trial lacks (`metrics.pattern_ranks`),
        for roi "all"; "coverage": ``position`` is the nominal level, ``value`` the coverage.
    k_fairness : DataFrame, one row per (encoder, average)
        "one draw", "mean of K draws" and "prediction" (``average_kind``: "one draw", "mean of
        draws", "prediction"), all scored against averages: ``r`` with its ``noise_ceiling``
        (`brainenc.metrics.ceiling_of_draws`), ``mse_z`` with ``mse_z_floor``, the error from noise
        alone; ``n_averaged`` is K.
    noise_correlations : DataFrame, one row per (encoder, voxel_a, voxel_b)
        Correlation within images of at most 80 voxels, in the order of their ROIs, in ``draws``
        and ``repeats``, and on simulated data the ``truth``.
    shown_draws : DataFrame, one row per (encoder, image, voxel)
        For the voxel of highest ncsnr of each ROI and at most 60 images: quantiles of the draws
        (``q05`` … ``q95``), their ``mean``, ``one_draw``, and the trials, ``trial_1`` ….
    manifest : dict
        Data and split hashes, settings, versions, hardware.
    warnings : list of str
        Warnings about data and scores.

    Notes
    -----
    ``r_normalized`` divides by an *estimated* ceiling, over voxels chosen by it: with weak signal,
    voxels whose estimated ceiling is high by chance pass ``min_ceiling``, so that even a perfect
    model scores below 1 (about .7 at an ncsnr of .15 with 100 images). Use it to compare encoders,
    not to compare an encoder with 1.
    """

    def summary(self) -> pd.DataFrame:
        """The main columns of `encoders`, indexed by encoder, rounded."""
        columns = ["r", "r_low", "r_high", "noise_ceiling", "r_normalized", "mse_z", "pattern_r"]
        columns += ["identification", "fit_seconds"]
        # If every encoder failed, these columns are missing.
        return self.encoders.set_index("encoder").reindex(columns=columns).round(3)

    def __repr__(self) -> str:
        name = self.manifest.get("data", {}).get("name", "data")
        return f"BenchmarkResult on {name}\n{self.summary().to_string()}"

    def _repr_html_(self) -> str:
        return self.summary().to_html()

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the tables as CSV and the manifest as JSON into a folder.

        Parameters
        ----------
        folder : path
            Existing files of the same names are replaced, each atomically.

        Returns
        -------
        pathlib.Path : `folder`

        Raises
        ------
        FileExistsError : `folder` contains a data set, a saved encoder or a file that is not of a
            run.
        """
        folder = check_run_folder(folder)
        for table in TABLES + DRAW_TABLES:
            with atomic_path(folder / f"{table}.csv") as temporary:
                _in_doubles(getattr(self, table)).to_csv(temporary, index=False)
        content = {
            "format_version": FORMAT_VERSION,
            "manifest": self.manifest,
            "warnings": self.warnings,
            "n_rows": {table: len(getattr(self, table)) for table in TABLES + DRAW_TABLES},
        }
        write_json(folder / "manifest.json", content)
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "BenchmarkResult":
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError : a table is missing; the message names it.
        ValueError : the folder is from a newer version, or a file is damaged.
        """
        folder = Path(folder)
        _check_exists(folder / "manifest.json")
        content = read_json(folder / "manifest.json")
        if content["format_version"] > FORMAT_VERSION:
            raise ValueError(f"{folder} was written by a newer brainenc; upgrade brainenc")
        tables = {
            table: _read_table(_check_exists(folder / f"{table}.csv"), n_rows)
            for table, n_rows in content["n_rows"].items()
        }
        tables = with_kinds(tables)
        return cls(**tables, manifest=content["manifest"], warnings=content["warnings"])

    def to_html(
        self,
        path: str | os.PathLike,
        *,
        surface: str = "static",
        attention: tuple[Any, Any, Any] | None = None,
    ) -> Path:
        """Write the report: one self-contained HTML file.

        Parameters
        ----------
        path : path
        surface : "static", "interactive" or "none"
            Maps on the cortex, for voxels with a ``vertex`` of fsaverage or in an MNI152 volume;
            "interactive" adds a rotatable brain (3 MB; needs plotly).
        attention : tuple (images, maps, rois), optional
            Attention of ROIs: a few images, and for them ``encoder.attention_maps(...)`` and
            ``encoder.rois_`` of a fitted `ROITransformerEncoder`.

        Returns
        -------
        pathlib.Path : `path`
        """
        from brainenc.report import render_report

        with atomic_path(path) as temporary:
            page = render_report(self, surface=surface, attention=attention)
            temporary.write_text(page, encoding="utf-8")
        return Path(path)


def check_run_folder(folder: str | os.PathLike) -> Path:
    """Folder for the tables of a run, which need not exist yet.

    Raises
    ------
    FileExistsError : it contains a data set, a saved encoder, or other files that a run would
        replace.
    NotADirectoryError, PermissionError : it cannot be created or written to.
    """
    folder = Path(folder)
    for name, content in {"meta.json": "a data set", "model.json": "a saved encoder"}.items():
        if (folder / name).exists():
            raise FileExistsError(f"{folder} holds {content}; choose another folder for the run")
    if not any((folder / name).exists() for name in ("manifest.json", "pairs")):
        files = [*(f"{table}.csv" for table in TABLES + DRAW_TABLES), "report.html"]
        if taken := [name for name in files if (folder / name).exists()]:
            raise FileExistsError(
                f"{folder} is of no run and holds {taken[0]}, which a run would replace; choose "
                "another folder for the run"
            )
    return check_writable(folder)


def _check_exists(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; did the benchmark finish?")
    return path


def _read_table(path: Path, n_rows: int) -> pd.DataFrame:
    try:
        columns = pd.read_csv(path, nrows=0).columns
        names = [column for column in columns if column in NAMES + TEXTS]
        missing = {column: [""] for column in columns if column not in names}
        table = pd.read_csv(
            path, dtype=dict.fromkeys(names, str), keep_default_na=False, na_values=missing
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if len(table) != n_rows:
        raise ValueError(f"{path} has {len(table)} rows, but {n_rows} were written: truncated?")
    return table
