"""Miyawaki et al. (2008): contrast patterns of 10 × 10 squares, one subject, visual cortex."""

import dataclasses
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.brain.volumes import Volume, open_volume, read_volume
from brainenc.data.encoding_data import EncodingData
from brainenc.progress import progress
from brainenc.reading import reading

#: Squares of a pattern along each side.
N_SQUARES = 10

_AREAS = ("V1v", "V1d", "V2v", "V2d", "VP", "V3", "V3A", "V4v")


def load_miyawaki2008(
    data_dir: str | os.PathLike | None = None,
    *,
    part: str = "all",
    lag: int = 2,
    square_size: int = 1,
    verbose: bool = True,
) -> EncodingData:
    """Random patterns and figures, with responses of visual cortex.

    `nilearn.datasets.fetch_miyawaki2008` downloads them (153 MB) if they are missing. Every run is
    detrended and z-scored per voxel, shifted by the delay of the response, and averaged over the
    volumes of each block, as in nilearn's examples; rest is left out.

    Parameters
    ----------
    data_dir : path, optional
        nilearn's data folder.
    part : {"all", "random", "figures"}
        440 random patterns shown once each, or geometric figures and letters shown several times.
    lag : int
        Delay in volumes of 2 s.
    square_size : int
        Pixels per square and side; images are 10 · square_size pixels wide.
    verbose : bool
        Show progress.

    Returns
    -------
    EncodingData
        Images (n_images, H, W) uint8, 0 or 255, in order of first presentation, figures before
        random patterns; betas (n_images, n_repeats, n_voxels) float32. Voxel table: ``i, j, k``,
        ``hemisphere``, and the atlases ``area`` (V1v … V4v) and ``eccentricity`` (bins by the lag
        of a ring's travelling wave, from the centre out); a voxel in several ROIs has the first.
        Trial table: ``run`` (from 1, in the fetcher's order: 12 of figures, 20 random), ``part``.

    Raises
    ------
    ValueError : unknown `part`, negative `lag`, or a run whose numbers of volumes and labels
        differ.

    References
    ----------
    Miyawaki et al. (2008), Neuron 60.
    """
    if part not in ("all", "random", "figures") or lag < 0 or square_size < 1:
        raise ValueError(
            f"part={part!r} must be 'all', 'random' or 'figures', lag={lag} at least 0 and "
            f"square_size={square_size} at least 1"
        )
    from nilearn.datasets import fetch_miyawaki2008

    files = fetch_miyawaki2008(data_dir, verbose=int(verbose))
    blocks, betas = _read_runs(files.func, files.label, files.mask, part, lag, verbose)
    patterns = np.stack(list(blocks["pattern"]))
    images, ids = _unique_in_order(patterns)
    images = (255 * images.reshape(-1, N_SQUARES, N_SQUARES)).astype(np.uint8)
    mask = open_volume(files.mask)
    data = EncodingData.from_trials(
        images.repeat(square_size, axis=1).repeat(square_size, axis=2),
        betas,
        ids,
        run=blocks["run"].to_numpy(),
        voxels=_voxel_table(mask, files.mask_roi),
        name="Miyawaki 2008",
        volume=Volume(mask.shape[:3], mask.affine),
    )
    trials = data.trials.assign(part=blocks["part"].to_numpy()[data.trials["trial"]])
    return dataclasses.replace(data, trials=trials, units="z-scored within run")


# ------------------------------------------------------------------ runs and blocks


def _read_runs(
    func: Sequence[str], label: Sequence[str], mask: str, part: str, lag: int, verbose: bool
) -> tuple[pd.DataFrame, np.ndarray]:
    """Blocks of the chosen runs (pattern, run, part), and the mean response of each."""
    from nilearn.maskers import NiftiMasker

    masker = NiftiMasker(mask, detrend=True, standardize="zscore_sample").fit()
    runs = [
        (number, "random" if "random" in Path(path).name else "figures", path, labels)
        for number, (path, labels) in enumerate(zip(func, label, strict=True), start=1)
    ]
    runs = [run for run in runs if part in ("all", run[1])]
    blocks, responses = [], []
    for number, kind, path, labels in progress(runs, desc="runs", unit="run", verbose=verbose):
        patterns = _read_patterns(labels)
        with reading(path, "a volume (NIfTI or MGH)"):
            series = masker.transform(open_volume(path))
        if len(series) != len(patterns):
            raise ValueError(f"{path} has {len(series)} volumes, but {labels} {len(patterns)} rows")
        for pattern, response in _average_blocks(series, patterns, lag):
            blocks.append({"pattern": pattern, "run": number, "part": kind})
            responses.append(response)
    return pd.DataFrame(blocks), np.stack(responses).astype(np.float32)


def _read_patterns(path: str) -> np.ndarray:
    """Pattern of each volume, (n_volumes, 100), row by row; −1 at rest. Files go by column."""
    with reading(path, "a table of patterns"):
        by_column = np.loadtxt(path, delimiter=",", dtype=int, ndmin=2)
        by_column = by_column.reshape(-1, N_SQUARES**2)
    squares = by_column.reshape(-1, N_SQUARES, N_SQUARES)
    return squares.transpose(0, 2, 1).reshape(len(squares), -1)


def _average_blocks(
    series: np.ndarray, patterns: np.ndarray, lag: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pattern and mean response of each block: volumes in a row that show one pattern.

    A block is cut if the run ends before its delayed response.
    """
    changes = 1 + np.flatnonzero((np.diff(patterns, axis=0) != 0).any(axis=1))
    bounds = [0, *changes.tolist(), len(patterns)]
    return [
        (patterns[start], series[start + lag : stop + lag].mean(axis=0))
        for start, stop in pairwise(bounds)
        if patterns[start, 0] != -1 and start + lag < len(series)
    ]


def _unique_in_order(patterns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unique patterns in order of first appearance, and the index of each row's pattern."""
    numbers: dict[bytes, int] = {}
    ids = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in patterns])
    return patterns[np.unique(ids, return_index=True)[1]], ids


# ------------------------------------------------------------------ voxels


def _voxel_table(mask: Any, roi_files: Sequence[str]) -> pd.DataFrame:
    inside = np.asarray(mask.dataobj) != 0
    table = pd.DataFrame(np.argwhere(inside), columns=["i", "j", "k"])
    columns = {name: np.full(len(table), "", dtype=object) for name in ("area", "eccentricity")}
    hemisphere = np.full(len(table), "", dtype=object)
    for path in sorted(roi_files, key=_roi_order):
        side, name = _roi_name(path)
        here = read_volume(path)[1][inside] != 0
        column = columns["area" if name in _AREAS else "eccentricity"]
        column[here & (column == "")] = name
        hemisphere[here & (hemisphere == "")] = side
    return table.assign(hemisphere=hemisphere, **columns)


def _roi_name(path: str) -> tuple[str, str]:
    """("lh", "V1d") of ``LHV1d.nii.gz``."""
    name = Path(path).name.removesuffix(".nii.gz")
    return name[:2].lower(), name[2:]


def _roi_order(path: str) -> tuple[int, int, str]:
    """Areas from V1 on, then bins from the centre out (lag2to3 before lag10to11)."""
    name = _roi_name(path)[1]
    if name in _AREAS:
        return 0, _AREAS.index(name), ""
    lag = re.search(r"\d+", name)
    return 1, int(lag[0]) if lag else 0, name
