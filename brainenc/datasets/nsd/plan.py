"""Plan of reading NSD, checked before large files are read."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.arrays import blocks
from brainenc.brain.volumes import Volume, read_volume
from brainenc.conversion import plain_array
from brainenc.data.hdf5_images import HDF5Images
from brainenc.data.images import take_images
from brainenc.datasets.nsd.design import N_REPEATS, ONE_HOUR, make_trials, read_design
from brainenc.datasets.nsd.files import (
    ATLASES,
    CORE,
    N_SESSIONS,
    SPACES,
    Alternatives,
    Experiment,
    NSDFiles,
    NSDSurfaceFiles,
    existing,
    read_labels,
    require,
)
from brainenc.datasets.published_files import as_size
from brainenc.documentation import see
from brainenc.reading import read_array
from brainenc.storage import fingerprint

#: Units of betas, and their names in the data.
UNITS = {"percent": "percent signal change", "zscore": "z-scored within session"}

MASK_ENDINGS = (".nii", ".nii.gz", ".mgh", ".mgz", ".npy")


@dataclass(frozen=True, eq=False)
class Plan:
    """What to read of a subject of NSD.

    Attributes
    ----------
    files : NSDFiles
    units : str
        A key of `UNITS`.
    sessions : list of int
    trials : pandas.DataFrame
        See `make_trials`.
    mask : array of bool, on the grid of the files
    voxels : pandas.DataFrame
        Voxel table, in the order of ``grid[mask]``.
    volume : Volume or None
    images : lazy sequence
    lines : list of str
        Report for the user of what is read and what is missing.
    """

    files: NSDFiles
    units: str
    sessions: list[int]
    trials: pd.DataFrame
    mask: np.ndarray
    voxels: pd.DataFrame
    volume: Volume | None
    images: Any
    lines: list[str]

    @property
    def name(self) -> str:
        """Name of the data."""
        return f"{self.files.experiment.name} subj{self.files.subject:02d}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, repeats and voxels."""
        return len(self.images), N_REPEATS, len(self.voxels)

    @property
    def parts(self) -> list[int]:
        """What is read at a time: the sessions."""
        return self.sessions

    @property
    def part_name(self) -> str:
        """In one word."""
        return "session"

    @property
    def unit_name(self) -> str:
        """Units of the betas."""
        return UNITS[self.units]

    @property
    def stimuli(self) -> None:
        """No table of stimuli."""
        return None

    def fingerprint(self) -> str:
        """Of settings and files, by which a stopped conversion goes on or starts over."""
        settings = [str(self.files), self.files.space, self.units, self.sessions, self.images.shape]
        files = [path for s in self.sessions for path in existing(self.files.sessions(s))]
        stats = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        return fingerprint(settings, stats, self.trials.to_numpy(dtype=np.int64), self.mask)

    def read(self, session: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        """One session.

        Returns
        -------
        trials : pandas.DataFrame
            The chosen trials.
        betas : array, shape (n_trials, n_voxels), float32
            All trials, in the chosen units; NaN in voxels without data.
        has_data : array of bool, shape (n_voxels,)

        Raises
        ------
        ValueError : a file is truncated or differs from NSD's layout; the message names it.
        """
        files = existing(self.files.sessions(session))
        try:
            raw = self.files.read_betas(session, self.mask)
        except Exception as error:  # each format has its own
            of_the_system = isinstance(error, OSError) and error.errno is not None
            named = isinstance(error, ValueError) and "truncated or damaged" not in str(error)
            if of_the_system or (named and any(str(path) in str(error) for path in files)):
                raise
            paths = ", ".join(map(str, files))
            raise ValueError(
                f"{paths} cannot be read ({error}): truncated? Fetch it again; a conversion then "
                "goes on where it was"
            ) from None
        betas, has_data = in_units(raw, self.units, self.files.scale)
        return self.trials[self.trials["session"] == session], betas, has_data

    def tables(self, has_data: Iterable[np.ndarray]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Voxel and trial tables, given which voxels have data in each session."""
        n_sessions = np.sum(list(has_data), axis=0, dtype=np.int64)
        trials = self.trials.sort_values(["image", "repeat"], ignore_index=True)
        return self.voxels.assign(n_sessions=n_sessions), trials


def make_plan(
    root: Any,
    subject: int,
    *,
    units: str,
    space: str,
    betas: str,
    file_format: str,
    mask: Any,
    sessions: Any,
    one_hour: str | None,
    image_size: Any,
) -> Plan:
    """Check arguments and files, and read small files. For the arguments see `load_nsd`."""
    check_choice("one_hour", one_hour, (None, *ONE_HOUR))
    files = choose_files(root, subject, units, space, betas, file_format)
    numbers = session_numbers(sessions, subject)
    require_inputs(files, numbers, mask, [(files.design,), (files.stimuli,)])

    trials = make_trials(read_design(files.design), subject, numbers, one_hour)
    stored = HDF5Images(files.stimuli, size=as_size(image_size))
    images = take_images(stored, np.unique(trials["nsd_id"]))
    return plan_of_trials(files, units, numbers, trials, mask, images)


def choose_files(
    root: Any,
    subject: int,
    units: str,
    space: str,
    betas: str,
    file_format: str,
    experiment: Experiment = CORE,
) -> NSDFiles:
    """Files of a subject in a space, of arguments that are checked."""
    check_choice("subject", subject, N_SESSIONS)
    check_choice("units", units, UNITS)
    check_choice("space", space, SPACES)
    check_choice("file_format", file_format, ("auto", "hdf5", "nifti"))
    return SPACES[space](Path(root).absolute(), subject, betas, file_format, experiment)


def require_inputs(
    files: NSDFiles, numbers: list[int], mask: Any, others: list[Alternatives]
) -> None:
    """Check that all files that must be there are: the others, betas, and those of the mask."""
    betas = [paths for number in numbers for paths in files.sessions(number)]
    needed = [*others, *betas, *mask_files(files, mask)]
    require(needed, files.root, sessions=files.experiment is CORE)


def plan_of_trials(
    files: NSDFiles, units: str, numbers: list[int], trials: pd.DataFrame, mask: Any, images: Any
) -> Plan:
    """Plan of reading some trials, of which the files are there."""
    inside = _read_mask(files, mask, numbers[0])
    volume = files.volume(Path(mask) if _is_file_name(mask) else None)
    if volume is not None and volume.shape != inside.shape:
        raise ValueError(f"mask is {inside.shape}, but the volume of the subject is {volume.shape}")
    voxels, notes = _voxel_table(files, inside)
    if files.experiment is not CORE:  # whose ncsnr is of its images, and no ceiling for others
        voxels = voxels.rename(columns={"ncsnr": "nsd_ncsnr"})
    described = mask if isinstance(mask, (str, Path)) else "mask given as an array"
    lines = [
        f"{files.experiment.name} subject {files.subject}, {files.space}, {files.betas}: "
        f"{len(trials)} trials of {len(images)} images in "
        f"{len(numbers)} sessions, {len(voxels)} voxels ({described})",
        _describe_units(units, files.scale),
        *notes,
    ]
    return Plan(files, units, numbers, trials, inside, voxels, volume, images, lines)


def in_units(raw: np.ndarray, units: str, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Betas of a session in percent signal change, or z-scored over its trials.

    Parameters
    ----------
    raw : array, shape (n_trials, n_voxels), int16 or float32
        Numbers of the file. float32 is overwritten, since a session of fsaverage is a gigabyte.
    units : {"percent", "zscore"}
    scale : int
        Factor on the numbers of the file.

    Returns
    -------
    betas : array, shape (n_trials, n_voxels), float32
        NaN in voxels without data. z-scores have mean 0 and s.d. 1 (ddof 0) over the trials.
    has_data : array of bool, shape (n_voxels,)
        Whether the voxel varies over the session's trials. Voxels outside the scanned volume are
        always 0.
    """
    betas = raw if raw.dtype == np.float32 else np.empty(raw.shape, dtype=np.float32)
    has_data = np.empty(raw.shape[1], dtype=bool)
    for columns in blocks(raw.shape[1], 1024):
        block = raw[:, columns].astype(np.float64) / scale
        varies = np.fmin.reduce(block, axis=0) < np.fmax.reduce(block, axis=0)
        block[:, ~varies] = np.nan
        if units == "zscore":
            block[:, varies] = _zscored(block[:, varies])
        betas[:, columns], has_data[columns] = block, varies
    return betas, has_data


def _zscored(values: np.ndarray) -> np.ndarray:
    return (values - np.nanmean(values, axis=0)) / np.nanstd(values, axis=0)


def coverage_line(n_sessions: np.ndarray, n_read: int) -> str:
    """Sentence about voxels that lack data."""
    n_partial = int(((n_sessions > 0) & (n_sessions < n_read)).sum())
    n_without = int((n_sessions == 0).sum())
    if not n_partial and not n_without:
        return f"all {len(n_sessions)} voxels have data in all {n_read} sessions"
    return (
        f"of {len(n_sessions)} voxels {n_partial} lack data in some of the {n_read} sessions and "
        f"{n_without} in all (edge of the volume): NaN there. "
        f'data.select(voxels=data.voxels["n_sessions"] == {n_read}) leaves them out'
    )


# ------------------------------------------------------------------ arguments


def check_choice(name: str, value: Any, choices: Iterable) -> None:
    """Raise ValueError if an argument is not among its choices."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")


def _describe_units(units: str, scale: int) -> str:
    if units == "zscore":
        return "betas z-scored per voxel within each session, over all its trials"
    stored = f"stored integers / {scale}" if scale != 1 else "as stored"
    return f"betas in percent signal change ({stored}), not z-scored"


def session_numbers(sessions: Any, subject: int) -> list[int]:
    """Sessions in increasing order, counted from 1; all of None."""
    last = N_SESSIONS[subject]
    if sessions is None:
        return list(range(1, last + 1))
    given = np.atleast_1d(np.asarray(sessions))
    numbers = np.unique(given).tolist()
    whole = given.dtype.kind in "iu"
    if not whole or numbers[0] < 1 or numbers[-1] > last or len(numbers) < given.size:
        raise ValueError(f"sessions={sessions} must be of 1 … {last} for subject {subject}, once")
    return numbers


# ------------------------------------------------------------------ voxels


def _is_file_name(mask: Any) -> bool:
    return isinstance(mask, Path) or (isinstance(mask, str) and mask.endswith(MASK_ENDINGS))


def mask_files(files: NSDFiles, mask: Any) -> list[Alternatives]:
    """Files that the argument `mask` names."""
    if _is_file_name(mask):
        return [(Path(mask),)]
    if not isinstance(mask, str) or mask == "all":
        return []
    atlas, _, labels = mask.partition(":")
    return files.roi_files(atlas) + ([files.label_files(atlas)] if labels else [])


def _read_mask(files: NSDFiles, mask: Any, session: int) -> np.ndarray:
    """The mask on the grid of the files."""
    if isinstance(mask, str) and mask == "all":
        inside = _all_vertices(files, session)
    elif _is_file_name(mask):
        inside = _above_zero(_read_mask_file(Path(mask)), str(mask))
    elif isinstance(mask, str):
        inside = _read_roi(files, mask)
    else:
        inside = _above_zero(plain_array(mask, "mask"), "an array")
    if files.space == "fsaverage":
        inside = inside.reshape(-1)
    if inside.ndim != (1 if files.space == "fsaverage" else 3) or not inside.any():
        raise ValueError(
            f"mask {mask if isinstance(mask, str) else ''} of shape {inside.shape} has "
            f"{int(inside.sum())} voxels, but it must be on the grid of {files.space} and not empty"
            + see("nsd")
        )
    return inside


def _above_zero(values: np.ndarray, source: str) -> np.ndarray:
    """Where a mask is above 0: a bool, a label or NSD's -1, 0, 1, but no probability."""
    if values.dtype.kind == "f" and (np.isfinite(values) & (values % 1 != 0)).any():
        raise ValueError(
            f"mask ({source}) has values such as {values[values % 1 > 0].flat[0]:g} between whole "
            "numbers, as maps of probabilities have: choose a threshold, mask > 0.5 for example"
        )
    return values > 0


def _read_roi(files: NSDFiles, mask: str) -> np.ndarray:
    atlas, _, names = mask.partition(":")
    values = files.read_map(existing(files.roi_files(atlas)))
    if not names:
        # Not "!= -1": 0 is cortex that the ROI leaves out.
        return values == 1 if atlas == "nsdgeneral" else values > 0
    (path,) = existing([files.label_files(atlas)])
    numbers = {label: number for number, label in read_labels(path).items()}
    if unknown := [name for name in names.split(",") if name not in numbers]:
        raise ValueError(f"mask={mask!r}: {atlas} has no {unknown}, but {list(numbers)}")
    return np.isin(values, [numbers[name] for name in names.split(",")])


def _read_mask_file(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return read_array(path)
    return read_volume(path)[1]


def _all_vertices(files: NSDFiles, session: int) -> np.ndarray:
    if not isinstance(files, NSDSurfaceFiles):
        raise ValueError(
            "mask='all' is for fsaverage; most of a volume is no brain: give a mask" + see("nsd")
        )
    return np.ones(2 * files.n_vertices(session), dtype=bool)


def _voxel_table(files: NSDFiles, inside: np.ndarray) -> tuple[pd.DataFrame, list[str]]:
    """Positions, ROI labels and ncsnr of the voxels, and lines about missing files."""
    table, notes = files.voxel_table(inside), []
    for atlas in ATLASES:
        needed = [*files.roi_files(atlas), files.label_files(atlas)]
        if paths := existing(needed):
            values = _on_mask(files, paths[:-1], inside)
            table[atlas] = _labelled(values, read_labels(paths[-1]), paths[-1])
        else:
            notes.append(f"no atlas {atlas}: {_first_missing(needed)} is missing")
    if paths := existing(files.ncsnr_files()):
        table["ncsnr"] = _on_mask(files, paths, inside).astype(np.float32)
    else:
        notes.append(f"no ncsnr: {_first_missing(files.ncsnr_files())} is missing")
    return table, notes


def _on_mask(files: NSDFiles, paths: list[Path], inside: np.ndarray) -> np.ndarray:
    values = files.read_map(paths)
    if values.shape != inside.shape:
        raise ValueError(f"{paths[0]} is {values.shape}, but the mask is {inside.shape}")
    return values[inside]


def _labelled(values: np.ndarray, labels: dict[int, str], path: Path) -> pd.Series:
    if not (np.isfinite(values) & (values % 1 == 0)).all():
        raise ValueError(f"the volume that {path} names the labels of holds no whole numbers")
    numbers = values.astype(np.int64)
    if unknown := set(numbers[numbers > 0].tolist()) - set(labels):
        raise ValueError(f"{path} has no names for the labels {sorted(unknown)} of its atlas")
    return pd.Series([labels.get(number, "") for number in numbers.tolist()], dtype="str")


def _first_missing(files: Iterable[Alternatives]) -> Path:
    return next(paths[0] for paths in files if not any(path.exists() for path in paths))
