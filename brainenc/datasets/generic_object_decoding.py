"""Generic Object Decoding (Horikawa and Kamitani, 2017): photographs of ImageNet, five subjects."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.data.encoding_data import EncodingData
from brainenc.datasets.bdata import BData, read_bdata
from brainenc.datasets.published_files import (
    chosen_voxels,
    empty_betas,
    find_pictures,
    first_existing,
    make_data,
    open_pictures,
    pictures_of,
    require_files,
    trials_by_image,
)
from brainenc.datasets.published_split import SPLIT

#: Parts of the experiment by the number in the column DataType.
_PARTS = {1: "train", 2: "test", 3: "imagery"}

_SOURCE = (
    "Responses (Subject1.h5 …): figshare.com/articles/dataset/Generic_Object_Decoding/7387130. "
    "Pictures: the authors send them on request (github.com/KamitaniLab/GenericObjectDecoding)."
)


def load_generic_object_decoding(
    root: str | os.PathLike,
    subject: int = 1,
    *,
    part: str = "perception",
    rois: Any = None,
    images: str | os.PathLike | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> EncodingData:
    """A subject of Generic Object Decoding: 1 200 pictures shown once, 50 shown 35 times.

    Parameters
    ----------
    root : path
        The folder with ``Subject1.h5`` (or ``.mat``) …, files of bdata.
    subject : int, 1 … 5
    part : {"perception", "train", "test", "imagery"}
        "perception": the training and the test pictures. "imagery": trials in which the subject
        imagined the object of a test picture; the picture was not on the screen.
    rois : str or sequence of str, optional
        ROIs to load, such as "V1,V2"; all voxels (visual cortex, "VC") by default.
    images : path, optional
        The folder with the pictures, in subfolders or not; ``root/images`` by default. Their names
        are those of ImageNet, such as ``n01443537_22563.JPEG``.
    image_size : int or (height, width), optional
        As for `load_nsd`; needed if the pictures differ in size.

    Returns
    -------
    EncodingData
        Betas (n_images, n_repeats, n_voxels) float32, responses as published, normalised within
        runs by the authors; images in the order of their names. Voxel table: ``x, y, z`` in
        millimetres and one column of bool per ROI; ROIs overlap (VC holds all others). Trial table:
        ``run``, ``split`` ("train", "test" or "imagery"), ``stimulus``, ``category`` (ImageNet's
        synset), and ``session`` where the file has it. `published_test_mask` gives the test images.

    Raises
    ------
    FileNotFoundError : the message lists all missing files.
    ValueError : a file is not laid out as published, or a picture shown is missing.

    References
    ----------
    Horikawa and Kamitani (2017), Nature Communications 8:15037. The layout is that of the authors'
    scripts convertdata_BrainData.m and analysis_FeaturePrediction.py (KamitaniLab/
    GenericObjectDecoding); it was not checked against the real files.

    Examples
    --------
    >>> load_generic_object_decoding("god", subject=7)
    Traceback (most recent call last):
    ...
    ValueError: subject=7 must be one of 1 … 5
    """
    if subject not in range(1, 6):
        raise ValueError(f"subject={subject!r} must be one of 1 … 5")
    parts = {"perception": ("train", "test"), **{name: (name,) for name in _PARTS.values()}}
    if part not in parts:
        raise ValueError(f"part={part!r} must be one of {', '.join(parts)}")
    root = Path(root)
    path = first_existing([root / f"Subject{subject}{ending}" for ending in (".h5", ".mat")])
    folder = root / "images" if images is None else Path(images)
    require_files([path, folder], "Generic Object Decoding", _SOURCE)
    content = read_bdata(path)
    samples = _samples(content)
    samples = samples[samples[SPLIT].isin(parts[part])]
    if not len(samples):
        raise ValueError(f"{path} has no trials of part={part!r}")
    voxels, columns = _voxel_table(content, rois)
    names, trials = trials_by_image(samples["stimulus"].to_numpy())
    pictures = open_pictures(pictures_of(names, find_pictures(folder), folder), image_size)
    betas = empty_betas(
        len(names), trials["repeat"].max() + 1, len(columns), "choose rois=, such as rois='V1'"
    )
    responses = content.dataset[np.ix_(samples.index.to_numpy(), columns)]
    betas[trials["image"], trials["repeat"]] = responses
    trials = trials.assign(**samples.reset_index(drop=True), trial=samples.index.to_numpy())
    return make_data(
        pictures,
        betas,
        voxels,
        trials,
        name=f"Generic Object Decoding subject {subject}, {part}",
        units="normalised within run by the authors",
    )


def _samples(content: BData) -> pd.DataFrame:
    """Split, picture and run of each row of the table."""
    kinds = content.one_column("DataType")
    if unknown := set(kinds.tolist()) - set(_PARTS):
        raise ValueError(f"{content.path} has DataType {sorted(unknown)[:3]}, not 1, 2 or 3")
    ids = _image_ids(content)
    numbers = np.floor(ids).astype(np.int64)
    pictures = np.rint((ids - numbers) * 1_000_000).astype(np.int64)
    synsets = [f"n{number:08d}" for number in numbers.tolist()]
    samples = pd.DataFrame({SPLIT: [_PARTS[int(kind)] for kind in kinds]})
    samples["stimulus"] = [f"{s}_{p}" for s, p in zip(synsets, pictures.tolist(), strict=True)]
    samples["category"] = synsets
    for column, name in {"run": "Run", "session": "Session"}.items():
        if name in content.metadata:
            samples[column] = content.one_column(name)
    return samples


def _image_ids(content: BData) -> np.ndarray:
    """Id of the picture of each row: the synset's number, and after the point the picture's."""
    name = "stimulus_id" if "stimulus_id" in content.metadata else "Label"
    columns = content.select(name)
    if columns.shape[1] > 1:  # further columns of labels are numbers of categories, thus whole
        columns = columns[:, (columns % 1 != 0).any(axis=0)]
    if columns.shape[1] != 1:
        raise ValueError(f"{content.path} has {columns.shape[1]} columns of picture ids in {name}")
    ids = columns[:, 0]
    if not (np.isfinite(ids) & (ids > 0) & (ids < 1e8)).all():
        raise ValueError(f"{content.path} has rows without the id of a picture in {name}")
    return ids


def _voxel_table(content: BData, rois: Any) -> tuple[pd.DataFrame, np.ndarray]:
    """Voxel table and columns of the voxels."""
    columns = np.flatnonzero(content.is_column("VoxelData"))
    table = pd.DataFrame(
        {
            axis: content.metadata[f"voxel_{axis}"][columns]
            for axis in "xyz"
            if f"voxel_{axis}" in content.metadata
        },
        index=range(len(columns)),
    )
    inside = {
        name.removeprefix("ROI_"): content.is_column(name)[columns]
        for name in content.metadata
        if name.startswith("ROI_")
    }
    table = table.assign(**inside)
    if rois is None:
        return table, columns
    mask = chosen_voxels(inside, rois, "rois")
    return table[mask].reset_index(drop=True), columns[mask]
