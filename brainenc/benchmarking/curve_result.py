"""LearningCurve: the result of `brainenc.learning_curve`, as tidy tables."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from brainenc.csv_files import read_csv, write_csv
from brainenc.locks import exclusive
from brainenc.reading import reading
from brainenc.storage import (
    atomic_path,
    check_file,
    check_writable,
    file_record,
    read_signed_json,
    write_signed_json,
)

FORMAT_VERSION, DESCRIPTION = 1, "curve.json"
TABLES = ("scores", "summary", "pairs", "worth")
_TEXTS = ("subject", "encoder", "roi", "error", "encoder_a", "encoder_b", "reference", "beyond")


@dataclass(frozen=True, repr=False)
class LearningCurve:
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

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the tables as CSV and the manifest as JSON into a folder.

        Raises
        ------
        FileExistsError : the folder holds something else.
        """
        folder = check_curve_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder / ".lock", what=f"{folder}", way_out="try again", wait=-1):
            records = {}
            for table in TABLES:
                write_csv(folder / f"{table}.csv", getattr(self, table))
                records[f"{table}.csv"] = file_record(folder / f"{table}.csv")
            content = {
                "format": "brainenc.curve",
                "format_version": FORMAT_VERSION,
                "files": records,
                "manifest": self.manifest,
                "warnings": self.warnings,
            }
            write_signed_json(folder / DESCRIPTION, content)
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "LearningCurve":
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError : no learning curve was saved there, or a table is missing.
        ValueError : of a newer version, damaged, or changed.
        """
        folder = Path(folder)
        path = folder / DESCRIPTION
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; is {folder} a saved LearningCurve?")
        content = read_signed_json(path)
        with reading(path, "the manifest of a learning curve"):
            newer = content["format_version"] > FORMAT_VERSION
            records, manifest = dict(content["files"]), dict(content["manifest"])
            warnings = list(content["warnings"])
        if newer:
            raise ValueError(f"{folder} was written by a newer brainenc; upgrade brainenc")
        tables = {}
        for table in TABLES:
            file = folder / f"{table}.csv"
            check_file(file, records.get(file.name))
            with reading(file, "a table"):
                tables[table] = read_csv(file, texts=_TEXTS)
        return cls(**tables, manifest=manifest, warnings=warnings)

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
    folder = Path(folder)
    held = {"manifest.json": "a benchmark", "group.json": "a group", "meta.json": "a data set"}
    for name, content in (held | {"model.json": "a saved encoder"}).items():
        if (folder / name).exists():
            raise FileExistsError(f"{folder} holds {content}; choose another folder")
    taken = [name for name in TABLES if (folder / f"{name}.csv").exists()]
    if taken and not (folder / DESCRIPTION).exists():
        raise FileExistsError(
            f"{folder} holds {taken[0]}.csv of something else, which would be replaced; choose "
            "another folder"
        )
    return check_writable(folder)
