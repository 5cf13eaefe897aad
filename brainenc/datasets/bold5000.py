"""BOLD5000, release 2: 4 916 photographs, four subjects, single-trial betas of GLMsingle."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.brain.volumes import Volume, read_volume
from brainenc.data.encoding_data import EncodingData
from brainenc.datasets.published_files import (
    chosen_names,
    chosen_voxels,
    empty_betas,
    find_pictures,
    first_existing,
    make_data,
    n_volumes,
    open_pictures,
    pictures_of,
    read_names,
    read_trial_volumes,
    require_files,
    trials_by_image,
)
from brainenc.datasets.published_split import SPLIT
from brainenc.reading import read_array

#: Sessions of subjects CSI1 … CSI4.
N_SESSIONS = {1: 15, 2: 15, 3: 15, 4: 9}

#: Trials of a run.
N_RUN = 37

#: ROIs, and the other names that masks of some subjects have.
ROIS = {"EarlyVis": (), "LOC": ("LO",), "OPA": (), "PPA": (), "RSC": ("RRSC",)}

_SIDES = {"LH": "lh", "RH": "rh"}

_SOURCE = (
    "Betas, brain masks and CSI1_imgnames.txt: figshare.com/articles/dataset/BOLD5000_Release_2_0/"
    "14456124. Pictures (BOLD5000_Stimuli): bold5000-dataset.github.io/website. Masks of ROIs: "
    "s3://openneuro.org/ds001499/derivatives/spm."
)


def load_bold5000(
    root: str | os.PathLike,
    subject: int = 1,
    *,
    form: str = "volumes",
    betas: str = "TYPED-FITHRF-GLMDENOISE-RR",
    rois: Any = None,
    images: str | os.PathLike | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> EncodingData:
    """A subject of BOLD5000, all sessions.

    Parameters
    ----------
    root : path
        The folder with the files below.
    subject : int, 1 … 4
        CSI1 … CSI4. CSI4 has 9 of the 15 sessions.
    form : {"volumes", "rois"}
        "volumes": the whole brain, ``CSI1_GLMbetas-<betas>_ses-01.nii.gz`` …, with
        ``CSI1_brainmask.nii.gz``. "rois": the arrays of ROIs,
        ``BOLD5000_GLMsingle_ROI_betas/py/CSI1_GLMbetas-<betas>_allses_LHPPA.npy`` …
    betas : str
        Beta version; also "TYPEA-ASSUMEHRF", "TYBEB-FITHRF" (spelt so) and
        "TYPEC-FITHRF-GLMDENOISE".
    rois : str or sequence of str, optional
        ROIs to load, such as "PPA,LOC"; all voxels of the brain mask, or all ROIs, by default. For
        volumes their masks are ``sub-CSI1/sub-CSI1_mask-LHPPA.nii.gz`` …, in `root`,
        ``root/spm`` or ``root/derivatives/spm``.
    images : path, optional
        The folder with the pictures; ``root/BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli`` by
        default.
    image_size : int or (height, width), optional
        Resize images on reading (bicubic).

    Returns
    -------
    EncodingData
        Betas (n_images, n_repeats, n_voxels) float32 in percent signal change; the authors
        recommend ``data.zscore_by_session()``. Images in the order of their names, NaN where one
        has fewer repeats. Voxel table: ``i, j, k`` (volumes), ``hemisphere``, and a column of bool
        per ROI. Trial table: ``session``, ``run`` (both from 1), ``trial`` (in the session, from
        0), ``stimulus``, ``category`` ("COCO", "ImageNet" or "Scene") and ``split``: "test" for the
        113 pictures that the authors repeated, if ``repeated_stimuli_113_list.txt`` is there.

    Raises
    ------
    FileNotFoundError : the message lists all missing files.
    ValueError : files that do not belong together, or a picture shown is missing.

    References
    ----------
    Chang et al. (2019), Scientific Data 6:49; Prince et al. (2022), eLife 11:e77599. The layout is
    that of the authors' description of the release (BOLD5000-dataset/BOLD5000) and of public code
    that reads it; it was not checked against the real files. The affine of the beta volumes is
    said to be wrong there, so that of the brain mask is taken.

    Examples
    --------
    >>> load_bold5000("bold5000", subject=5)
    Traceback (most recent call last):
    ...
    ValueError: subject=5 must be one of 1 … 4
    """
    if subject not in N_SESSIONS:
        raise ValueError(f"subject={subject!r} must be one of 1 … 4")
    if form not in ("volumes", "rois"):
        raise ValueError(f"form={form!r} must be 'volumes' or 'rois'")
    root, name = Path(root), f"CSI{subject}"
    stimuli = root / "BOLD5000_Stimuli"
    folder = stimuli / "Scene_Stimuli/Presented_Stimuli" if images is None else Path(images)
    sessions = range(1, N_SESSIONS[subject] + 1)
    volumes = [root / f"{name}_GLMbetas-{betas}_ses-{session:02d}.nii.gz" for session in sessions]
    brain = root / f"{name}_brainmask.nii.gz"
    needed = [folder, *([brain, *volumes] if form == "volumes" else [])]
    lists = stimuli / "Stimuli_Presentation_Lists" / name
    named = first_existing([root / f"{name}_imgnames.txt", lists / f"{name}_imgnames.txt"])
    if not lists.is_dir():
        needed.append(named)
    require_files(needed, f"BOLD5000 {name}", _SOURCE)

    shown = _presented(lists) if lists.is_dir() else _listed(named, volumes, form)
    _check_same_order(shown, named)
    if form == "volumes":
        voxels, inside, grid = _volume_voxels(root, name, brain, rois)
    else:
        arrays = _roi_arrays(root, name, betas, rois)
        voxels, grid = _roi_voxels(arrays), None
    names, trials = trials_by_image(shown["stimulus"].to_numpy())
    stems = [Path(picture).stem for picture in names]
    pictures = open_pictures(pictures_of(stems, find_pictures(folder), folder), image_size)
    grouped = empty_betas(
        len(names), trials["repeat"].max() + 1, len(voxels), "choose rois=, such as rois='PPA'"
    )
    if form == "volumes":
        for session, path in zip(sessions, volumes, strict=True):
            here = (shown["session"] == session).to_numpy()
            responses = read_trial_volumes(path, inside, int(here.sum()))
            grouped[trials.loc[here, "image"], trials.loc[here, "repeat"]] = responses
    else:
        _fill(grouped, arrays, trials)
    tested = stimuli / "Scene_Stimuli/repeated_stimuli_113_list.txt"
    trials = trials.drop(columns="trial").assign(**_described(shown, tested))
    options: Any = {"volume": grid, "units": "percent signal change"}
    return make_data(pictures, grouped, voxels, trials, name=f"BOLD5000 {name}", **options)


# ------------------------------------------------------------------ trials


def _presented(lists: Path) -> pd.DataFrame:
    """Stimulus, session and run of each trial, from the lists of each run."""
    rows = []
    for session, folder in _numbered(lists, r".*sess(\d+)"):
        for run, path in _numbered(folder, r".*run(\d+)\.txt"):
            rows += [(name, session, run) for name in read_names(path)]
    if not rows:
        raise ValueError(f"{lists} has no lists CSI1_sess01/CSI_sess01_run01.txt …")
    shown = pd.DataFrame(rows, columns=["stimulus", "session", "run"])
    # Pictures shown before are marked in these lists.
    shown["stimulus"] = shown["stimulus"].str.removeprefix("rep_")
    return shown


def _numbered(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """Entries of a folder whose name matches, in the order of their number."""
    matches = [(re.fullmatch(pattern, path.name), path) for path in folder.iterdir()]
    return sorted((int(match[1]), path) for match, path in matches if match)


def _listed(named: Path, volumes: list[Path], form: str) -> pd.DataFrame:
    """Stimulus, session and run of each trial, from one list and the lengths of the sessions."""
    names = [name.removeprefix("rep_") for name in read_names(named)]
    if form == "rois":
        raise FileNotFoundError(
            f"form='rois' needs the folder Stimuli_Presentation_Lists beside {named}, since the "
            f"arrays of ROIs do not say where sessions begin. {_SOURCE}"
        )
    lengths = [n_volumes(path) for path in volumes]
    if sum(lengths) != len(names):
        raise ValueError(
            f"{named} lists {len(names)} trials, but the {len(volumes)} sessions have "
            f"{sum(lengths)} volumes"
        )
    session = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    trial = np.concatenate([np.arange(n) for n in lengths])
    return pd.DataFrame({"stimulus": names, "session": session, "run": 1 + trial // N_RUN})


def _check_same_order(shown: pd.DataFrame, named: Path) -> None:
    """Compare the lists of the runs with the list of all trials, if there are both."""
    if not named.exists():
        return
    names = [name.removeprefix("rep_") for name in read_names(named)]
    if names != shown["stimulus"].tolist():
        differ = sum(a != b for a, b in zip(names, shown["stimulus"], strict=False))
        raise ValueError(
            f"{named} lists {len(names)} trials and the lists of the runs {len(shown)}, and "
            f"{differ} trials differ: remove the one that is not of these betas"
        )


def _described(shown: pd.DataFrame, tested: Path) -> dict[str, Any]:
    """Further columns of the trial table."""
    stimulus = shown["stimulus"]
    synset = stimulus.str.match(r"n\d+_")
    sets = [synset, stimulus.str.startswith("COCO_")]
    columns: dict[str, Any] = {
        "session": shown["session"],
        "run": shown["run"],
        "trial": shown.groupby("session").cumcount(),
        "stimulus": stimulus,
        "category": np.select(sets, ["ImageNet", "COCO"], default="Scene"),
    }
    if tested.exists():
        is_test = stimulus.isin(read_names(tested))
        if not is_test.any():
            raise ValueError(f"{tested} names no picture that was shown")
        columns[SPLIT] = np.where(is_test, "test", "train")
    return columns


# ------------------------------------------------------------------ volumes


def _volume_voxels(
    root: Path, name: str, brain: Path, rois: Any
) -> tuple[pd.DataFrame, np.ndarray, Volume]:
    """Voxel table, mask on the grid, and grid."""
    image, values = read_volume(brain)
    inside = values > 0
    if inside.ndim != 3 or not inside.any():
        raise ValueError(f"{brain} of shape {inside.shape} is no mask of a brain")
    masks = _roi_masks(root, name, inside.shape)
    if rois is not None:
        if not masks:
            raise FileNotFoundError(
                f"rois={rois!r}: no {_mask_folders(root, name)[0]}/sub-{name}_mask-LHPPA.nii.gz "
                f"…. {_SOURCE}"
            )
        both = {roi: np.any(list(sides.values()), axis=0) for roi, sides in masks.items()}
        inside &= chosen_voxels(both, rois, "rois")
    table = pd.DataFrame(np.argwhere(inside), columns=["i", "j", "k"])
    sides = {
        side: np.any([of_roi[side][inside] for of_roi in masks.values() if side in of_roi], axis=0)
        for side in _SIDES.values()
    }
    if masks:
        left, right = (np.broadcast_to(sides[side], len(table)) for side in ("lh", "rh"))
        table["hemisphere"] = np.select([left & ~right, right & ~left], ["lh", "rh"], default="")
    for roi, of_roi in masks.items():
        table[roi] = np.any(list(of_roi.values()), axis=0)[inside]
    return table, inside, Volume(inside.shape, image.affine)


def _mask_folders(root: Path, name: str) -> list[Path]:
    return [root / folder / f"sub-{name}" for folder in ("", "spm", "derivatives/spm")]


def _roi_masks(root: Path, name: str, shape: tuple[int, ...]) -> dict[str, dict[str, np.ndarray]]:
    """Masks by ROI and hemisphere, of those that are there."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for roi, others in ROIS.items():
        for letters, side in _SIDES.items():
            names = [f"sub-{name}_mask-{letters}{spelt}.nii.gz" for spelt in (roi, *others)]
            folders = _mask_folders(root, name)
            path = first_existing([folder / file for folder in folders for file in names])
            if not path.exists():
                continue
            mask = read_volume(path)[1] > 0
            if mask.shape != shape:
                raise ValueError(f"{path} is {mask.shape}, but the brain mask is {shape}")
            found.setdefault(roi, {})[side] = mask
    return found


# ------------------------------------------------------------------ arrays of ROIs


def _roi_arrays(root: Path, name: str, betas: str, rois: Any) -> dict[tuple[str, str], np.ndarray]:
    """Memory-mapped arrays by hemisphere and ROI."""
    folder = first_existing([root / "BOLD5000_GLMsingle_ROI_betas" / inner for inner in ("py", "")])
    paths = {
        (side, roi): folder / f"{name}_GLMbetas-{betas}_allses_{letters}{roi}.npy"
        for roi in ROIS
        for letters, side in _SIDES.items()
    }
    found = {place: path for place, path in paths.items() if path.exists()}
    if not found:
        require_files(paths.values(), f"BOLD5000 {name}", _SOURCE)
    if rois is not None:
        wanted = chosen_names(rois, dict.fromkeys(roi for _, roi in found), "rois")
        found = {place: path for place, path in found.items() if place[1] in wanted}
    arrays = {place: read_array(path, mapped=True) for place, path in found.items()}
    shapes = {str(found[place]): array.shape for place, array in arrays.items()}
    if (
        any(len(shape) != 2 for shape in shapes.values())
        or len({s[0] for s in shapes.values()}) > 1
    ):
        raise ValueError(f"arrays of ROIs must be (n_trials, n_voxels) of one length: {shapes}")
    return arrays


def _roi_voxels(arrays: dict[tuple[str, str], np.ndarray]) -> pd.DataFrame:
    """Voxel table; a voxel of two ROIs is there twice, since arrays do not say which it is."""
    tables = [
        pd.DataFrame({"hemisphere": side, "roi": roi}, index=range(array.shape[1]))
        for (side, roi), array in arrays.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _fill(
    grouped: np.ndarray, arrays: dict[tuple[str, str], np.ndarray], trials: pd.DataFrame
) -> None:
    done = 0
    for (side, roi), array in arrays.items():
        if len(array) != len(trials):
            raise ValueError(
                f"the array of {side} {roi} has {len(array)} trials, but {len(trials)} are listed"
            )
        columns = slice(done, done + array.shape[1])
        grouped[trials["image"], trials["repeat"], columns] = array
        done = columns.stop
