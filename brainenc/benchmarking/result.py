"""BenchmarkResult: the tidy tables of one run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.arrays import write_array
from brainenc.benchmarking.former_tables import with_kinds
from brainenc.benchmarking.held_out import KeptPredictions, as_fold_table
from brainenc.benchmarking.table_folders import check_no_other
from brainenc.csv_files import read_csv, write_csv
from brainenc.locks import exclusive
from brainenc.reading import read_array, reading
from brainenc.result_tables import DRAW_TABLES, NAMES, STIMULI, TABLES, TEXTS, ResultTables
from brainenc.storage import (
    atomic_path,
    check_file,
    check_writable,
    file_record,
    read_json,
    read_signed_json,
    write_signed_json,
)

#: Version of the folder layout that `BenchmarkResult.save` writes.
FORMAT_VERSION = 2

#: File of the bootstrap samples of differences.
PAIR_SAMPLES = "pair_samples.npy"

#: How the warning begins that a run could not write its tables.
NOT_SAVED = "The tables are not written"


def _in_doubles(table: pd.DataFrame) -> pd.DataFrame:
    """Table in double precision: printed singles would not be read back exactly."""
    return table.astype(dict.fromkeys(table.select_dtypes(np.float32), np.float64))


def texts_of(table: pd.DataFrame) -> list[str]:
    """Columns that hold no numbers."""
    return [str(name) for name in table if not pd.api.types.is_numeric_dtype(table[name].dtype)]


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
        "" if none; and the columns of `draws`, NaN for an encoder without draws. With
        ``protocol="brain-score"`` also ``brain_score`` (the square of ``brain_score_median_r``,
        with its sign, divided by ``brain_score_reliability``), ``brain_score_sd`` (s.d. over
        splits), ``brain_score_median_r`` (median over voxels of the mean over splits of r),
        ``brain_score_reliability`` (median over voxels, of split halves with the Spearman–Brown
        correction). All other columns are of all splits together, as they are of folds.
    rois : DataFrame, one row per (encoder, atlas, roi)
        The voxel metrics above, of predictions and of draws, ``r_within_session``, and the columns
        ``brain_score…``.
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
    stimuli : DataFrame, one row per image
        The table of stimuli of the data, whose index is the ``image`` of the tables:
        ``result.shown_draws.join(result.stimuli, on="image")``. Empty if the data have none.
    manifest : dict
        Data and split hashes, settings, versions, hardware.
    folds : DataFrame, one row per image and fold that tests it
        ``image`` (its position in the data), ``name`` (of its file, if images are files), ``fold``;
        missing for an image that no fold tests, as the training images of a fixed test set.
    pair_samples : array, shape (n_rows of `pairs`, n_bootstraps), float32, or None
        Differences in the bootstrap samples over images; a group needs them for its hierarchical
        test.
    warnings : list of str
        Warnings about data and scores.

    Notes
    -----
    ``r_normalized`` divides by an *estimated* ceiling, over voxels chosen by it: with weak signal,
    voxels whose estimated ceiling is high by chance pass ``min_ceiling``, so that even a perfect
    model scores below 1 (about .7 at an ncsnr of .15 with 100 images). Use it to compare encoders,
    not to compare an encoder with 1.
    """

    pair_samples: np.ndarray | None = None
    kept: KeptPredictions = field(default_factory=KeptPredictions)

    def predictions(self, name: str, fold: int | None = None) -> np.ndarray:
        """Held-out predictions of an encoder, one row per image of the data.

        Parameters
        ----------
        name : str
            Of the encoder.
        fold : int, optional
            Predictions of the test images of this fold alone; all folds by default.

        Returns
        -------
        array, shape (n_images, n_voxels), float32
            In the units of the betas; each image by the fit that had not seen it. NaN for images
            that no fold tests.

        Raises
        ------
        ValueError : no encoder of that name with predictions, no such fold, or several folds test
            an image and `fold` is not given.
        FileNotFoundError : the result was loaded from a folder without predictions, or they are
            larger than 1 GiB and the run had no folder (`out`).

        Examples
        --------
        >>> import numpy as np
        >>> import brainenc
        >>> data = brainenc.datasets.simulate_subject(60, 10, random_state=0)
        >>> few = {"n_bootstraps": 20, "n_permutations": 20, "n_draws": 0, "verbose": False}
        >>> result = brainenc.benchmark(data, {}, test=np.arange(40, 60), check=False, **few)
        >>> predicted = result.predictions("mean")
        >>> predicted.shape, np.isfinite(predicted).all(axis=1).sum().item()
        ((60, 10), 20)
        """
        tested = self.folds.dropna(subset=["fold"]) if "fold" in self.folds else self.folds
        if fold is not None:
            tested = tested[tested["fold"] == fold]
            if tested.empty:
                raise ValueError(f"fold={fold} is no fold of this run, which has {self._folds()}")
        elif tested["image"].duplicated().any():
            raise ValueError(
                "several folds test an image, so that it has several predictions: give fold=, one "
                f"of {self._folds()}"
            )
        found: np.ndarray | None = None
        for number, images in tested.groupby("fold")["image"]:
            part = self.kept.of_fold(str(name), int(str(number)))
            if found is None:
                shape = (self.manifest["data"]["n_images"], part.shape[1])
                found = np.full(shape, np.nan, dtype=np.float32)
            found[images.to_numpy()] = part
        if found is None:
            raise ValueError(f"there are no predictions of {name!r}: this run has no folds")
        return found

    def _folds(self) -> list[int]:
        return sorted(self.folds["fold"].dropna().unique().tolist())

    def summary(self) -> pd.DataFrame:
        """The main columns of `encoders`, indexed by encoder, rounded.

        If an encoder failed, with a last column ``failed``: its error, "" for the others.
        """
        columns = ["r", "r_low", "r_high", "noise_ceiling", "r_normalized", "mse_z", "pattern_r"]
        columns += ["identification", "fit_seconds"]
        # If every encoder failed, these columns are missing.
        table = self.encoders.set_index("encoder")
        columns += [name for name in ("brain_score", "brain_score_sd") if name in table]
        found = table.reindex(columns=columns).round(3)
        errors = table["error"].fillna("") if "error" in table else pd.Series("", table.index)
        return found.assign(failed=errors) if (errors != "").any() else found

    def __repr__(self) -> str:
        name = self.manifest.get("data", {}).get("name", "data")
        return f"BenchmarkResult on {name}\n{self.summary().to_string()}"

    def _repr_html_(self) -> str:
        more = ""
        if self.warnings:
            lines = "".join(f"<li>{escape(warning)}</li>" for warning in self.warnings)
            n = len(self.warnings)
            more = f"<details><summary>warnings: {n}</summary><ul>{lines}</ul></details>"
        return self.summary().to_html() + more

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
        OSError : some tables could not be written, for example because the disk is full; those
            that could are there.
        """
        folder = check_run_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Tables of two runs that end at the same time must not be mixed.
        with exclusive(folder / ".lock", what=f"{folder}", way_out="try again", wait=-1):
            return self._save(folder)

    def _save(self, folder: Path) -> Path:
        failed: dict[str, OSError] = {}
        # Of data without a table of stimuli there is no file.
        names_of_tables = TABLES + DRAW_TABLES + (STIMULI if self.stimuli.shape[1] else ())
        for table in names_of_tables:
            try:
                write_csv(folder / f"{table}.csv", _in_doubles(getattr(self, table)))
            except OSError as error:
                failed[table] = error
        if self.pair_samples is not None:
            with atomic_path(folder / PAIR_SAMPLES) as temporary:
                write_array(temporary, self.pair_samples)
        self.kept.write(folder)
        if failed:
            names = ", ".join(f"{table}.csv" for table in failed)
            raise OSError(f"{names} could not be written: {next(iter(failed.values()))}")
        files = [f"{table}.csv" for table in names_of_tables]
        files += [PAIR_SAMPLES] if self.pair_samples is not None else []
        content = {
            "format_version": FORMAT_VERSION,
            "files": {name: file_record(folder / name) for name in files},
            "manifest": self.manifest,
            "warnings": self.warnings,
            "n_rows": {table: len(getattr(self, table)) for table in names_of_tables},
            "stimuli_texts": texts_of(self.stimuli),
        }
        write_signed_json(folder / "manifest.json", content)
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike, *, verify: bool = True) -> "BenchmarkResult":
        """Read what `save` wrote.

        Parameters
        ----------
        folder : path
        verify : bool
            Compare the tables with their checksums in ``manifest.json``; False for tables that were
            changed by hand.

        Raises
        ------
        FileNotFoundError : a table is missing; the message names it.
        ValueError : the folder is from a newer version, or a file is damaged, was changed, or is of
            another run than the others.
        """
        folder = Path(folder)
        path = _check_exists(folder / "manifest.json")
        content = read_signed_json(path) if verify else read_json(path)
        with reading(path, "the manifest of a run"):
            version, n_rows, records = (
                content["format_version"],
                dict(content["n_rows"]),
                dict(content.get("files", {})),  # none before 0.2
            )
            manifest, warnings = content["manifest"], content["warnings"]
            newer = version > FORMAT_VERSION
            stimuli_texts = [str(name) for name in content.get("stimuli_texts", [])]
            if unknown := set(n_rows) - set(TABLES + DRAW_TABLES + STIMULI):
                raise ValueError(f"it names the table {min(unknown)!r}, which no run has")
            if not isinstance(manifest, dict) or not isinstance(warnings, list):
                raise ValueError("its manifest is no table or its warnings no list")
        if newer:
            raise ValueError(f"{folder} was written by a newer brainenc; upgrade brainenc")
        for table in n_rows:
            _check_exists(folder / f"{table}.csv")
            if verify and f"{table}.csv" in records:
                _check_table(folder / f"{table}.csv", records[f"{table}.csv"])
        tables = {
            table: _read_table(
                folder / f"{table}.csv", n, stimuli_texts if table in STIMULI else NAMES + TEXTS
            )
            for table, n in n_rows.items()
        }
        tables = with_kinds(tables)
        if "folds" in tables:  # none before 0.2
            tables["folds"] = as_fold_table(tables["folds"])
        samples = None
        if PAIR_SAMPLES in records:
            if verify:
                _check_table(_check_exists(folder / PAIR_SAMPLES), records[PAIR_SAMPLES])
            samples = read_array(folder / PAIR_SAMPLES)
        with reading(path, "the manifest of a run"):
            kept = KeptPredictions(dict(manifest.get("predictions", {})), folder)
            return cls(
                **tables, manifest=manifest, warnings=warnings, pair_samples=samples, kept=kept
            )

    def to_html(
        self,
        path: str | os.PathLike,
        *,
        surface: str = "static",
        attention: tuple[Any, Any, Any] | None = None,
        net_shares: pd.DataFrame | None = None,
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
        net_shares : DataFrame, optional
            What networks add to ridge, per ROI: the table of `brainenc.encoders.net_shares`.

        Returns
        -------
        pathlib.Path : `path`
        """
        from brainenc.report import render_report

        with atomic_path(path) as temporary:
            page = render_report(self, surface=surface, attention=attention, net_shares=net_shares)
            # Paths that are no text in this locale have characters that are none in a file.
            temporary.write_bytes(page.encode("utf-8", errors="replace"))
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
    check_no_other(folder, ["manifest.json", "pairs"])
    if not any((folder / name).exists() for name in ("manifest.json", "pairs")):
        files = [f"{table}.csv" for table in TABLES + DRAW_TABLES + STIMULI]
        files += [PAIR_SAMPLES, "report.html"]
        if taken := [name for name in files if (folder / name).exists()]:
            raise FileExistsError(
                f"{folder} is of no run and holds {taken[0]}, which a run would replace; choose "
                "another folder for the run"
            )
    return check_writable(folder)


def is_finished_run(folder: str | os.PathLike) -> bool:
    """Whether a folder holds the tables of a run, and all of them."""
    try:
        content = read_json(Path(folder) / "manifest.json")
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "unfinished" not in content.get("manifest", {})


def _check_exists(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; did the benchmark finish?")
    return path


def _check_table(path: Path, record: Any) -> None:
    try:
        check_file(path, record)
    except ValueError as error:
        raise ValueError(
            f"{error}. It was changed, or the run that replaced it was stopped: run the same "
            "benchmark again, which does not fit again. If you changed it on purpose: "
            "BenchmarkResult.load(folder, verify=False)"
        ) from None


def _read_table(path: Path, n_rows: int, texts: Sequence[str]) -> pd.DataFrame:
    with reading(path, "a table"):
        table = read_csv(path, texts=texts)
    if len(table) != n_rows:
        raise ValueError(f"{path} has {len(table)} rows, but {n_rows} were written: truncated?")
    return table
