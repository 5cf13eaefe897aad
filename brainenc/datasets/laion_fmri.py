"""LAION-fMRI: 25 052 images, 6 204 of them per subject, five subjects at 7 T, and its splits."""

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from PIL import Image

from brainenc.brain.volumes import Volume, read_volume
from brainenc.data.encoding_data import EncodingData
from brainenc.data.images import ImageSubset, take_images
from brainenc.data.pictures import pixels_of
from brainenc.datasets.published_files import (
    as_size,
    chosen_voxels,
    empty_betas,
    make_data,
    read_text_table,
    read_trial_volumes,
    require_files,
    trials_by_image,
)
from brainenc.reading import reading
from brainenc.storage import read_json

#: Subjects of the release.
SUBJECTS = (1, 3, 5, 6, 7)

#: Maps of the whole subject that become columns of the voxel table, by their names.
_MAPS = ("Noiseceiling4rep", "Noiseceiling12rep", "NoiseceilingAllrep")

#: Grey behind transparent pixels during the experiment.
_BACKGROUND = (128, 128, 128)

_SOURCE = "The data are in s3://laion-fmri; the pictures on request: laion-fmri.hebartlab.com."


def load_laion_fmri(
    root: str | os.PathLike,
    subject: int = 1,
    *,
    sessions: int | Sequence[int] | None = None,
    rois: Any = None,
    image_size: int | tuple[int, int] | None = None,
) -> EncodingData:
    """A subject of LAION-fMRI, from single-trial betas of GLMsingle.

    Parameters
    ----------
    root : path
        The folder that holds ``derivatives`` and ``stimuli``.
    subject : {1, 3, 5, 6, 7}
    sessions : int or sequence of int, optional
        Counted from 1; all that are there by default.
    rois : str or sequence of str, optional
        ROIs to load, such as "V1v,V1d,FFA1"; all voxels with a fitted model by default. Their masks
        are ``derivatives/rois/sub-01/*/sub-01_space-T1w_res-1pt8_label-FFA1_mask.nii.gz``.
    image_size : int or (height, width), optional
        Resize images on reading (bicubic); 1000 × 1000 otherwise.

    Returns
    -------
    EncodingData
        Betas (n_images, n_repeats, n_voxels) float32, images in the order of their names, NaN where
        one has fewer repeats. Voxel table: ``i, j, k``, a column of bool per ROI, and the authors'
        noise ceilings in percent under their names (``Noiseceiling12rep`` …), which are not taken
        for the noise ceiling of `EncodingData`. Trial table: ``session``, ``run``, ``trial`` (in
        the session, from 0), ``stimulus``, ``dataset`` and ``unique_or_shared``. Images are decoded
        when they are read, laid over the grey of the experiment where they are transparent.
        `laion_fmri_split` gives the published splits.

    Raises
    ------
    FileNotFoundError : the message lists all missing files.
    ValueError : files that do not belong together, or a picture shown is missing.

    References
    ----------
    laion-fmri.hebartlab.com (the paper is in preparation). The layout is that of the authors'
    package (ViCCo-Group/LAION-fMRI, _paths.py and stimuli.py) and its documentation; it was not
    checked against the real files.

    Examples
    --------
    >>> load_laion_fmri("laion", subject=2)
    Traceback (most recent call last):
    ...
    ValueError: subject=2 must be one of 1, 3, 5, 6, 7
    """
    if subject not in SUBJECTS:
        raise ValueError(f"subject={subject!r} must be one of {', '.join(map(str, SUBJECTS))}")
    root, name = Path(root), f"sub-{subject:02d}"
    folder = root / "derivatives/glmsingle-tedana" / name
    packed, metadata = (root / "stimuli" / f"task-images_{end}" for end in _STIMULI)
    fitted = folder / f"{name}_task-images_space-T1w_stat-rsquare_desc-R2mean_statmap.nii.gz"
    numbers = _session_numbers(folder, sessions)
    stems = [folder / f"ses-{n:02d}/func/{name}_ses-{n:02d}_task-images_" for n in numbers]
    volumes = [Path(f"{stem}{_BETAS}") for stem in stems]
    lists = [Path(f"{stem}desc-SingletrialBetas_trials.tsv") for stem in stems]
    require_files([packed, metadata, fitted, *volumes, *lists], f"LAION-fMRI {name}", _SOURCE)

    described = read_text_table(metadata, ["image_name", "dataset", "unique_or_shared"])
    shown = pd.concat([_trials(path, n) for path, n in zip(lists, numbers, strict=True)])
    shown = shown.reset_index(drop=True)
    names, trials = trials_by_image(shown["stimulus"].to_numpy())
    row = {image: i for i, image in enumerate(described["image_name"].astype(str))}
    if missing := [image for image in names if image not in row]:
        raise ValueError(
            f"{len(missing)} images shown are not in {metadata}, {missing[0]} for example"
        )
    rows = np.array([row[image] for image in names])
    pictures = take_images(PackedPictures(packed, as_size(image_size), len(described)), rows)
    voxels, inside, grid = _voxels(root, name, folder, fitted, rois)
    betas = empty_betas(
        len(names), trials["repeat"].max() + 1, len(voxels), "choose rois= or fewer sessions="
    )
    for path, number in zip(volumes, numbers, strict=True):
        here = (shown["session"] == number).to_numpy()
        responses = read_trial_volumes(path, inside, int(here.sum()))
        betas[trials.loc[here, "image"], trials.loc[here, "repeat"]] = responses
    of_trial = rows[trials["image"]]
    trials = trials.drop(columns="trial").assign(
        **shown,
        dataset=described["dataset"].to_numpy()[of_trial],
        unique_or_shared=described["unique_or_shared"].to_numpy()[of_trial],
    )
    options: Any = {"volume": grid, "units": "betas of GLMsingle, as published"}
    return make_data(pictures, betas, voxels, trials, name=f"LAION-fMRI {name}", **options)


def laion_fmri_split(path: str | os.PathLike, data: EncodingData) -> tuple[np.ndarray, np.ndarray]:
    """Training and test images of a published split.

    Parameters
    ----------
    path : path
        A file of the authors' package, such as ``laion_fmri/splits/data/sub-01/tau.json``: a folder
        per pool of images ("shared", "sub-01" …), and in it "tau", "ood", "cluster_k5_0" … "_4" and
        "random_0" … "_4".
    data : EncodingData
        Of `load_laion_fmri`.

    Returns
    -------
    train, test : array of bool, shape (n_images,)
        An image that the split leaves out is in neither: ``data.select(images=train)``.

    Raises
    ------
    ValueError : no such file, an image on both sides, or data without images of one side.

    References
    ----------
    ViCCo-Group/LAION-fMRI, docs/source/train_test_splits.rst.

    Examples
    --------
    >>> import json
    >>> from tempfile import TemporaryDirectory
    >>> trials = pd.DataFrame({"image": [0, 1], "repeat": 0, "stimulus": ["a.jpg", "b.jpg"]})
    >>> data = EncodingData(np.zeros((2, 8, 8), np.uint8), np.ones((2, 1, 3)), trials=trials)
    >>> split = {"variants": [{"train_ids": ["b.jpg"], "test_ids": ["a.jpg", "c.jpg"]}]}
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "tau.json").write_text(json.dumps(split))
    ...     train, test = laion_fmri_split(f"{folder}/tau.json", data)
    >>> train.tolist(), test.tolist()
    ([False, True], [True, False])
    """
    with reading(path, "a split of LAION-fMRI"):
        variants = read_json(Path(path))["variants"]
        if len(variants) != 1:
            raise ValueError(f"it has {len(variants)} variants, not one")
        sides = [set(variants[0][f"{side}_ids"]) for side in ("train", "test")]
    if both := sides[0] & sides[1]:
        raise ValueError(f"{path} has {min(both)} among the training and the test images")
    if "stimulus" not in data.trials:
        raise ValueError("the trial table has no column 'stimulus': it is not of load_laion_fmri")
    names = np.full(data.n_images, "", dtype=object)
    names[data.trials["image"]] = data.trials["stimulus"]
    masks = [np.array([name in side for name in names], dtype=bool) for side in sides]
    for which, mask in zip(("training", "test"), masks, strict=True):
        if not mask.any():
            raise ValueError(
                f"data has none of the {which} images of {path}: is it of another subject, or of "
                "few sessions?"
            )
    return masks[0], masks[1]


# ------------------------------------------------------------------ files

_STIMULI = ("stimuli.h5", "metadata.csv")
_BETAS = "space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz"


def _session_numbers(folder: Path, sessions: Any) -> list[int]:
    """Sessions to read: those given, or those that are there."""
    require_files([folder], "LAION-fMRI", _SOURCE)
    there = [re.fullmatch(r"ses-(\d+)", path.name) for path in folder.iterdir()]
    found = sorted(int(match[1]) for match in there if match)
    if sessions is None:
        if not found:
            raise FileNotFoundError(f"{folder} has no sessions ses-01 …. {_SOURCE}")
        return found
    given = np.ravel(sessions).tolist()
    if not given or len(set(given)) < len(given) or not all(type(n) is int for n in given):
        raise ValueError(f"sessions={sessions} must be whole numbers, each once")
    if missing := [number for number in given if number not in found]:
        raise ValueError(f"sessions={sessions}: {missing} are not in {folder}, which has {found}")
    return sorted(given)


def _trials(path: Path, session: int) -> pd.DataFrame:
    """Trials of a session, in the order of its volumes."""
    table = read_text_table(path, ["run", "beta_index", "label"], separator="\t")
    table = table.sort_values("beta_index")
    if table["beta_index"].tolist() != list(range(len(table))):
        raise ValueError(f"beta_index in {path} must be 0 … {len(table) - 1}, each once")
    return pd.DataFrame(
        {
            "session": session,
            "run": table["run"].to_numpy(),
            "trial": table["beta_index"].to_numpy(),
            "stimulus": table["label"].astype(str).to_numpy(),
        }
    )


def _voxels(
    root: Path, name: str, folder: Path, fitted: Path, rois: Any
) -> tuple[pd.DataFrame, np.ndarray, Volume]:
    """Voxel table, mask on the grid, and grid."""
    image, r2 = read_volume(fitted)
    inside = r2 > 0  # 0 outside the brain
    if inside.ndim != 3 or not inside.any():
        raise ValueError(f"{fitted} of shape {inside.shape} has no voxels above 0")
    head, tail = f"{name}_space-T1w_res-1pt8_label-", "_mask.nii.gz"
    masks = {}
    for path in sorted((root / "derivatives/rois" / name).glob(f"*/{head}*{tail}")):
        masks[path.name.removeprefix(head).removesuffix(tail)] = _on_grid(path, inside.shape) > 0
    if rois is not None:
        inside = inside & chosen_voxels(masks, rois, "rois")
        if not inside.any():
            raise ValueError(f"rois={rois!r} have no voxels where a model was fitted")
    table = pd.DataFrame(np.argwhere(inside), columns=["i", "j", "k"])
    table = table.assign(**{roi: mask[inside] for roi, mask in masks.items()})
    for measure in _MAPS:
        path = folder / f"{name}_task-images_space-T1w_desc-{measure}_statmap.nii.gz"
        if path.exists():
            table[measure] = _on_grid(path, inside.shape)[inside].astype(np.float32)
    return table, inside, Volume(inside.shape, image.affine)


def _on_grid(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    values = read_volume(path)[1]
    if values.shape != shape:
        raise ValueError(f"{path} is {values.shape}, but the map of R² is {shape}")
    return values


class PackedPictures:
    """Image files in one HDF5 data set, decoded when they are read, in any process.

    Parameters
    ----------
    path : pathlib.Path
        HDF5 file with ``images``: the bytes of one image file per row.
    size : (height, width), optional
        Resize every image on reading (bicubic).
    n_images : int
        Rows that are described elsewhere.

    Raises
    ------
    ValueError : another number of rows, or one that is no image.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, path: Path, size: tuple[int, int] | None, n_images: int):
        self.path, self.size = path.absolute(), size
        self._opened: tuple[int, Any] = (-1, None)
        n_rows = len(self._rows())
        if n_rows != n_images:
            raise ValueError(f"{path} has {n_rows} images, but {n_images} are described")
        self.shape = (n_rows, *self._decoded(0).shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, (int, np.integer)):
            return ImageSubset(self, np.arange(len(self))[key])
        pixels = self._decoded(int(key))
        if pixels.shape != self.shape[1:]:
            raise ValueError(
                f"image {int(key)} in {self.path} is {pixels.shape[:2]}, but the first is "
                f"{self.shape[1:3]}: give image_size="
            )
        return pixels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": (-1, None)}

    def _decoded(self, row: int) -> np.ndarray:
        with reading(self.path, "packed images"):
            content = np.asarray(self._rows()[row]).tobytes()
            with Image.open(io.BytesIO(content)) as image:
                pixels = pixels_of(image, "RGB", f"image {row}", _BACKGROUND)
        if self.size is None:
            return pixels
        resized = Image.fromarray(pixels).resize(self.size[::-1], Image.Resampling.BICUBIC)
        return np.asarray(resized)

    def _rows(self) -> Any:
        """The open data set; a forked process needs a new handle."""
        if self._opened[0] != os.getpid():
            with reading(self.path, "HDF5"):
                file = h5py.File(self.path, "r")
                if "images" not in file or file["images"].ndim != 1:
                    raise ValueError(f"{self.path} has no data set images of one axis")
                self._opened = (os.getpid(), file["images"])
        return self._opened[1]
