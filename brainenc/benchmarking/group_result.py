"""GroupResult: encoders compared over several subjects, as tidy tables."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from brainenc.benchmarking.result import BenchmarkResult
from brainenc.benchmarking.table_folders import check_table_folder, load_tables, save_tables
from brainenc.group_tables import GROUP_NAMES, GROUP_TABLES, GroupTables
from brainenc.storage import (
    atomic_path,
)

#: Version of the folder layout that `GroupResult.save` writes, and its description.
DESCRIPTION = "group.json"


@dataclass(frozen=True, repr=False)
class GroupResult(GroupTables):
    """Encoders compared over subjects, of the function `brainenc.group`.

    A subject counts once, whatever its number of voxels and images: all intervals and p are about
    other subjects of the same population, unlike those of a `BenchmarkResult`, which are about
    other images in one subject.

    Attributes
    ----------
    pairs : DataFrame, one row per (encoder_a, encoder_b, metric, atlas, roi)
        The columns of `BenchmarkResult.pairs`: ``difference`` a − b, mean over subjects, with the
        95 % interval and two-sided p of the test, ``n_voxels`` of all subjects together; and
        ``n_subjects`` with a difference, ``statistic`` (mean over its standard error; of sign flips
        the mean), ``p_min`` (the smallest p that the test can give with so many subjects; 0 where
        there is none), ``q`` (false discovery rate over the ROIs of an atlas, for each pair and
        metric; over all voxels p), ``n_same_sign`` (subjects whose difference has the sign of the
        mean), ``n_credible`` (those of them whose own interval over images leaves zero out) and
        ``prevalence``, this as text: "4 of 4". Intervals of sign flips are NaN below six subjects.
    subject_pairs : DataFrame, one row per (subject, encoder_a, encoder_b, metric, atlas, roi)
        The subjects' own differences, with the intervals and p of their runs.
    encoders : DataFrame, one row per encoder
        Means over subjects of ``r``, ``r_normalized``, ``r2``, ``mse_z``, each with its 95 %
        interval by t, and of ``noise_ceiling``; ``n_subjects`` with a score, ``n_voxels`` of all.
    rois : DataFrame, one row per (encoder, atlas, roi)
        The same in each ROI that at least two subjects have.
    subjects : DataFrame, one row per (subject, encoder)
        Scores of the subjects' own runs, with intervals over images.
    maps : DataFrame, one row per (encoder, hemisphere, vertex)
        ``r`` and ``noise_ceiling``, means over the ``n_subjects`` subjects with a value there, for
        voxels that are vertices of fsaverage; else empty.
    manifest : dict
        Data, splits and dates of the subjects, test, seed, versions.
    warnings : list of str
        What differs between the runs, and what is left out.
    results : dict of subject to BenchmarkResult
        The subjects' runs; not saved.
    """

    results: dict[str, BenchmarkResult] = field(default_factory=dict)

    def summary(self, metric: str = "r") -> pd.DataFrame:
        """Defined differences over all voxels in one metric, rounded."""
        whole = self.pairs[(self.pairs["roi"] == "all") & (self.pairs["metric"] == metric)]
        columns = ["difference", "low", "high", "statistic", "p", "p_min", "prevalence"]
        defined = whole.dropna(subset=["difference"])
        return defined.set_index(["encoder_a", "encoder_b"])[columns].round(4)

    def __repr__(self) -> str:
        names = ", ".join(self.manifest["subjects"])
        return (
            f"GroupResult of {len(self.manifest['subjects'])} subjects ({names}), "
            f"test={self.manifest['test']!r}; differences of r:\n{self.summary().to_string()}"
        )

    def _repr_html_(self) -> str:
        return self.summary().to_html()

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the tables as CSV and the manifest as JSON into a folder.

        Parameters
        ----------
        folder : path
            Existing files of the same names are replaced, each atomically. The runs of subjects may
            be in folders below.

        Returns
        -------
        pathlib.Path : `folder`

        Raises
        ------
        FileExistsError : `folder` holds a run of one subject, a data set or a saved encoder.
        """
        tables = {name: getattr(self, name) for name in GROUP_TABLES}
        return save_tables(folder, DESCRIPTION, tables, self.manifest, self.warnings)

    @classmethod
    def load(cls, folder: str | os.PathLike, *, verify: bool = True) -> "GroupResult":
        """Read what `save` wrote; `results` is empty.

        Parameters
        ----------
        folder : path
        verify : bool
            Compare the tables with their checksums; False for tables that were changed by hand.

        Raises
        ------
        FileNotFoundError : no group was saved there, or a table is missing.
        ValueError : of a newer version, damaged, or changed.
        """
        return cls(**load_tables(folder, DESCRIPTION, GROUP_TABLES, GROUP_NAMES, verify=verify))

    def to_html(self, path: str | os.PathLike) -> Path:
        """Write the report: one self-contained HTML file.

        Parameters
        ----------
        path : path

        Returns
        -------
        pathlib.Path : `path`
        """
        from brainenc.report.group import render_group

        with atomic_path(path) as temporary:
            page = render_group(self)
            temporary.write_bytes(page.encode("utf-8", errors="replace"))
        return Path(path)


def check_group_folder(folder: str | os.PathLike) -> Path:
    """Folder for the tables of a group, which need not exist yet.

    Raises
    ------
    FileExistsError : it holds a run, a data set, a saved encoder, or tables of something else.
    NotADirectoryError, PermissionError : it cannot be created or written to.
    """
    return check_table_folder(folder, DESCRIPTION, GROUP_TABLES)


def as_result(result: Any, subject: str) -> BenchmarkResult:
    """A result, or the one in a folder.

    Raises
    ------
    TypeError : neither.
    """
    if isinstance(result, (str, os.PathLike)):
        return BenchmarkResult.load(result)
    if not isinstance(result, BenchmarkResult):
        raise TypeError(
            f"the result of subject {subject!r} must be a BenchmarkResult or the folder of a run, "
            f"got {type(result).__name__}"
        )
    return result
