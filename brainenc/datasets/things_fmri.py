"""THINGS-fMRI (Hebart et al., 2023): 8 740 photographs of 720 objects, three subjects."""

import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from brainenc.arrays import blocks
from brainenc.brain.volumes import Volume, open_volume
from brainenc.data.encoding_data import EncodingData
from brainenc.datasets.published_files import (
    atlas_of,
    chosen_voxels,
    empty_betas,
    first_existing,
    make_data,
    open_pictures,
    read_text_table,
    require_files,
    trials_by_image,
)
from brainenc.datasets.published_split import SPLIT
from brainenc.reading import check_claim, n_bytes_of, reading

#: Columns of the published voxel table that are no ROI.
_MEASURES = (
    "nc_singletrial", "nc_testset", "splithalf_uncorrected", "splithalf_corrected",
    "prf-eccentricity", "prf-polarangle", "prf-rsquared", "prf-size",
)  # fmt: skip
_POSITION = {"voxel_x": "i", "voxel_y": "j", "voxel_z": "k"}

#: Retinotopic areas, which do not overlap.
_AREAS = (
    "V1", "V2", "V3", "hV4", "VO1", "VO2", "LO1 (prf)", "LO2 (prf)", "TO1", "TO2", "V3b", "V3a",
)  # fmt: skip
_GLASSER = "glasser-"

#: Bytes of responses read at a time.
_BYTES_AT_ONCE = 2**27

_SOURCE = (
    "Responses (betas_csv.zip): doi.org/10.25452/figshare.plus.20492835. Pictures: "
    "things-initiative.org (osf.io/jum2f)."
)


def load_things_fmri(
    root: str | os.PathLike,
    subject: int = 1,
    *,
    split: str = "all",
    rois: Any = None,
    images: str | os.PathLike | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> EncodingData:
    """A subject of THINGS-fMRI, from the tables of single-trial responses.

    Parameters
    ----------
    root : path
        The folder with ``betas_csv``, that with ``sub-01_ResponseData.h5``,
        ``sub-01_StimulusMetadata.csv`` and ``sub-01_VoxelMetadata.csv``.
    subject : int, 1 … 3
    split : {"all", "train", "test"}
        8 640 pictures shown once, 100 shown in each of 12 sessions, or both. Both in one array take
        a place per repeat for every picture, 12 times the memory of "train".
    rois : str or sequence of str, optional
        Columns of the voxel table, such as "V1,lFFA,rFFA,glasser-FFC"; all 200 000 voxels by
        default.
    images : path, optional
        The folder of THINGS's pictures, ``<concept>/<stimulus>``; ``root/images`` by default.
    image_size : int or (height, width), optional
        As for `load_nsd`; needed, as the pictures of THINGS differ in size.

    Returns
    -------
    EncodingData
        Betas (n_images, n_repeats, n_voxels) float32 in the published units; images in the order of
        their names. Voxel table: ``i, j, k``; the atlases ``prf`` (retinotopic areas) and
        ``glasser``, a column of bool for every other ROI; and the authors' measures under their
        names, among them the noise ceilings ``nc_singletrial`` and ``nc_testset`` in percent of
        variance. These are not taken for the noise ceiling of `EncodingData`. Trial table:
        ``session``, ``run``, ``trial`` (column of the responses), ``stimulus``, ``concept`` and
        ``split`` ("train", "test"); `published_test_mask` gives the test images.

    Raises
    ------
    FileNotFoundError : the message lists all missing files.
    ValueError : files that do not belong together, or more betas than memory.

    References
    ----------
    Hebart et al. (2023), eLife 12:e82580. Names and columns are those of the authors' notebooks
    (ViCCo-Group/THINGS-data, fmri_usage.ipynb); the responses are a table of pandas in HDF5, read
    here without PyTables. It was not checked against the real files.

    Examples
    --------
    >>> load_things_fmri("things", subject=4)
    Traceback (most recent call last):
    ...
    ValueError: subject=4 must be one of 1 … 3
    """
    if subject not in range(1, 4):
        raise ValueError(f"subject={subject!r} must be one of 1 … 3")
    if split not in ("all", "train", "test"):
        raise ValueError(f"split={split!r} must be 'all', 'train' or 'test'")
    root, name = Path(root), f"sub-{subject:02d}"
    tables = root / "betas_csv"
    folder = root / "images" if images is None else Path(images)
    responses = tables / f"{name}_ResponseData.h5"
    stimuli, voxel_file = (tables / f"{name}_{kind}Metadata.csv" for kind in ("Stimulus", "Voxel"))
    require_files([responses, stimuli, voxel_file, folder], "THINGS-fMRI", _SOURCE)

    shown = read_text_table(stimuli, ["trial_type", "session", "run", "stimulus", "concept"])
    published = read_text_table(voxel_file, [*_POSITION])
    ids = published.get("voxel_id", pd.Series(range(len(published))))
    if not (ids == np.arange(len(published))).all():
        raise ValueError(f"voxel_id in {voxel_file} does not run from 0 to {len(published) - 1}")
    voxels, rows = _voxel_table(published, rois)
    chosen = shown[shown["trial_type"].isin(["train", "test"] if split == "all" else [split])]
    if not len(chosen):
        raise ValueError(f"{stimuli} has no trials of split={split!r}")
    concept = chosen["concept"].astype(str)
    names, trials = trials_by_image((concept + "/" + chosen["stimulus"].astype(str)).to_numpy())
    pictures = open_pictures(_picture_files(names, folder), image_size)
    betas = empty_betas(
        len(names),
        trials["repeat"].max() + 1,
        len(rows),
        "choose rois=, such as rois='V1', or split='train' or 'test'",
    )
    columns = chosen.index.to_numpy()
    _read_responses(responses, (len(published), len(shown)), rows, columns, betas, trials)
    described = chosen.reset_index(drop=True)
    trials = trials.assign(
        session=described["session"],
        run=described["run"],
        trial=columns,
        stimulus=described["stimulus"],
        concept=described["concept"],
        **{SPLIT: described["trial_type"]},
    )
    options: Any = {"volume": _grid(root, name, voxels), "units": "as published"}
    return make_data(pictures, betas, voxels, trials, name=f"THINGS-fMRI {name}", **options)


def _picture_files(names: list[str], folder: Path) -> list[Path]:
    paths = [folder / name for name in names]
    if missing := [path for path in paths if not path.exists()]:
        raise ValueError(
            f"{len(missing)} of {len(paths)} pictures shown are missing, {missing[0]} for example: "
            f"images= must be the folder that holds one folder per concept. {_SOURCE}"
        )
    return paths


def _voxel_table(published: pd.DataFrame, rois: Any) -> tuple[pd.DataFrame, np.ndarray]:
    """Voxel table and rows of the voxels."""
    rest = [*_POSITION, *_MEASURES, "voxel_id", "subject_id"]
    names = [str(name) for name in published if name not in rest]
    members = published[names]
    if unclear := [name for name in names if not members[name].isin([0, 1]).all()]:
        raise ValueError(f"columns {unclear} of the voxel table have other values than 0 and 1")
    if rois is None:
        rows = np.arange(len(published))
    else:
        inside = {name: members[name].to_numpy() == 1 for name in names}
        rows = np.flatnonzero(chosen_voxels(inside, rois, "rois"))
    table = published[[*_POSITION]].rename(columns=_POSITION)
    areas = members[[name for name in _AREAS if name in names]]
    glasser = members[[name for name in names if name.startswith(_GLASSER)]]
    glasser = glasser.rename(columns=lambda name: name.removeprefix(_GLASSER))
    joined = {}
    for atlas, of_atlas in {"prf": areas, "glasser": glasser}.items():
        labels = atlas_of(of_atlas) if of_atlas.shape[1] else None
        if labels is not None:
            joined[atlas] = labels
    alone = [
        name
        for name in names
        if not (name in areas and "prf" in joined)
        and not (name.startswith(_GLASSER) and "glasser" in joined)
    ]
    table = table.assign(**joined, **{name: members[name] == 1 for name in alone})
    measures = {name: published[name].astype(float) for name in _MEASURES if name in published}
    return table.assign(**measures).iloc[rows].reset_index(drop=True), rows


def _read_responses(
    path: Path,
    shape: tuple[int, int],
    rows: np.ndarray,
    columns: np.ndarray,
    betas: np.ndarray,
    trials: pd.DataFrame,
) -> None:
    """Fill betas from the table of voxels by trials that `pandas` wrote.

    Its values of one type are an array, ``block0_values``; another array has the numbers of the
    voxels. The labels of the columns are pickled there, and stay unread.
    """
    image, repeat = trials["image"].to_numpy(), trials["repeat"].to_numpy()
    with reading(path, "responses"), h5py.File(path, "r") as file:
        stored = _block_of_floats(file, path)
        check_claim(path, n_bytes_of(stored.shape, stored.dtype), compressed=True)
        if stored.shape != shape:
            raise ValueError(
                f"{path} has responses of shape {stored.shape}, but the tables beside it list "
                f"{shape[0]} voxels and {shape[1]} trials"
            )
        _check_order(file, path, shape[0])
        step = max(1, _BYTES_AT_ONCE // (stored.dtype.itemsize * shape[1]))
        for some in blocks(len(rows), step):
            wanted = rows[some]
            first, last = int(wanted.min()), int(wanted.max()) + 1
            # Few separate rows are read one by one, many at once.
            if last - first <= 4 * step:
                block = stored[first:last][wanted - first]
            else:
                block = np.stack([stored[int(row)] for row in wanted])
            betas[image, repeat, some] = block[:, columns].T


def _block_of_floats(file: Any, path: Path) -> Any:
    found = _blocks(file, "f")
    if len(found) != 1:
        raise ValueError(f"{path} has {len(found)} blocks of responses, not one: {list(file)}")
    return found[0]


def _blocks(file: Any, kind: str) -> list[Any]:
    """Arrays of the values of one kind."""
    groups = [group for group in file.values() if isinstance(group, h5py.Group)]
    return [
        values
        for group in groups
        for name, values in group.items()
        if re.fullmatch(r"block\d+_values", name) and values.dtype.kind == kind
    ]


def _check_order(file: Any, path: Path, n_voxels: int) -> None:
    """Check the numbers of the voxels, if the file has them: 0 … n − 1."""
    for ids in _blocks(file, "i"):
        if ids.shape != (n_voxels, 1) or not (ids[:, 0] == np.arange(n_voxels)).all():
            raise ValueError(f"{path} does not list its voxels in the order of the voxel table")


def _grid(root: Path, name: str, voxels: pd.DataFrame) -> Volume | None:
    """Grid of the voxels, if the brain mask is there."""
    file = f"{name}_space-T1w_brainmask.nii.gz"
    path = first_existing([root / "brainmasks" / file, root / "betas_csv" / file])
    if not path.exists():
        return None
    image = open_volume(path)
    with reading(path, "a volume (NIfTI)"):
        grid = Volume(image.shape[:3], image.affine)
    if (voxels[["i", "j", "k"]].max().to_numpy() >= grid.shape).any():
        raise ValueError(f"{path} is {grid.shape}, which has no room for voxels of {name}")
    return grid
