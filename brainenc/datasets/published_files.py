"""What loaders of published data sets share: missing files, tables, pictures, trials by image."""

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from brainenc.arrays import blocks
from brainenc.brain.volumes import open_volume
from brainenc.data.encoding_data import EncodingData
from brainenc.data.image_files import IMAGE_SUFFIXES, ImageFiles
from brainenc.documentation import see
from brainenc.memory import free_memory, size
from brainenc.reading import reading

#: Volumes read at a time.
_TRIALS_AT_ONCE = 25

#: Message of `brainenc.data.voxels.as_voxels` about numbers that may be codes of ROIs.
_NO_ROI = "columns .* of voxels name no ROI"


def require_files(paths: Iterable[Path], data_set: str, source: str = "") -> None:
    """Check that files and folders exist.

    Parameters
    ----------
    paths : iterable of pathlib.Path
    data_set : str
        Its name, for the message.
    source : str
        Where the files can be had, as the end of a sentence.

    Raises
    ------
    FileNotFoundError : the message lists all that are missing.
    """
    if missing := [str(path) for path in paths if not path.exists()]:
        raise FileNotFoundError(
            f"{len(missing)} files of {data_set} are missing:\n  "
            + "\n  ".join(missing)
            + (f"\n{source}" if source else "")
            + see("public_data").replace(". ", "\n")
        )


def first_existing(candidates: Sequence[Path]) -> Path:
    """The first of several places of a file that exists; the first of all if none does."""
    return next((path for path in candidates if path.exists()), candidates[0])


def read_text_table(path: Path, columns: Sequence[str], separator: str = ",") -> pd.DataFrame:
    """A table in a text file; "NA" and "nan" are text in columns of text.

    Parameters
    ----------
    path : pathlib.Path
    columns : sequence of str
        Columns that it must have.
    separator : str

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : no such table, or columns are missing; the message names the file.
    """
    with reading(path, "a table"):
        table = pd.read_csv(path, sep=separator, keep_default_na=False, na_values=[""])
    if missing := [name for name in columns if name not in table]:
        raise ValueError(f"{path} has no column {missing}, but {list(table)[:20]}")
    return table


def read_names(path: Path) -> list[str]:
    """Names in a text file, one a line; empty lines are left out."""
    with reading(path, "a list of names"):
        lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


# ------------------------------------------------------------------ pictures


def as_size(image_size: Any) -> tuple[int, int] | None:
    """(height, width) of the argument `image_size`; None for None.

    Raises
    ------
    ValueError : not one or two whole numbers of 1 or more.
    """
    if image_size is None:
        return None
    given = np.ravel(image_size).tolist()
    pixels = given * 2 if np.ndim(image_size) == 0 else given
    if len(pixels) != 2 or not all(type(n) is int and n >= 1 for n in pixels):
        raise ValueError(f"image_size={image_size} must be 1 or more pixels, or None")
    return pixels[0], pixels[1]


def open_pictures(paths: Sequence[Path], image_size: Any) -> ImageFiles:
    """Image files of a data set, read lazily.

    Raises
    ------
    ValueError : without `image_size` if they differ in size, and as `ImageFiles`.
    """
    try:
        return ImageFiles(paths, as_size(image_size))
    except ValueError as error:
        if image_size is None and "images must have one size" in str(error):
            reason = str(error).split(";")[0]
            raise ValueError(f"{reason}: give image_size=, such as image_size=425") from None
        raise


def find_pictures(folder: Path) -> dict[str, list[Path]]:
    """Image files anywhere under a folder, by their name without folder and ending.

    Raises
    ------
    FileNotFoundError : there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}, the folder with the pictures, does not exist")
    found: dict[str, list[Path]] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending.lower() in IMAGE_SUFFIXES:
                found.setdefault(stem, []).append(Path(parent, name))
    return found


def pictures_of(names: Sequence[str], found: dict[str, list[Path]], folder: Path) -> list[Path]:
    """The file of each name.

    Parameters
    ----------
    names : sequence of str
        Names without folder and ending.
    found : dict
        Of `find_pictures`.
    folder : pathlib.Path
        Where they were looked for.

    Raises
    ------
    ValueError : a name without a picture, or with several.
    """
    if missing := [name for name in names if name not in found]:
        raise ValueError(
            f"{len(missing)} of {len(names)} pictures shown are not under {folder}, "
            f"{missing[0]} for example" + see("public_data")
        )
    if several := [name for name in names if len(found[name]) > 1]:
        raise ValueError(
            f"{several[0]} is there several times under {folder}: "
            + ", ".join(str(path) for path in found[several[0]][:5])
        )
    return [found[name][0] for name in names]


# ------------------------------------------------------------------ volumes


def n_volumes(path: Path) -> int:
    """Volumes of a 4-D file, (X, Y, Z, n_trials).

    Raises
    ------
    ValueError : no such file, or not of four dimensions.
    """
    shape = open_volume(path).shape
    if len(shape) != 4:
        raise ValueError(f"{path} is {shape}, but betas are (X, Y, Z, n_trials)")
    return shape[3]


def read_trial_volumes(path: Path, inside: np.ndarray, n_trials: int) -> np.ndarray:
    """Betas of the voxels of a mask, from a file of one volume per trial.

    Parameters
    ----------
    path : pathlib.Path
        NIfTI, (X, Y, Z, n_trials).
    inside : array of bool, shape (X, Y, Z)
    n_trials : int
        Trials that are listed elsewhere.

    Returns
    -------
    array of float32, shape (n_trials, n_voxels)

    Raises
    ------
    ValueError : another number of trials or another grid; the message names the file.
    """
    if (found := n_volumes(path)) != n_trials:
        raise ValueError(f"{path} has {found} volumes, but {n_trials} trials are listed")
    betas = np.empty((n_trials, int(inside.sum())), dtype=np.float32)
    with reading(path, "a volume (NIfTI)"):
        image: Any = nib.load(path, keep_file_open=True)  # else read from its start for each block
        if image.shape[:3] != inside.shape:
            raise ValueError(f"{path} is {image.shape[:3]}, but the mask is {inside.shape}")
        for trials in blocks(n_trials, _TRIALS_AT_ONCE):
            betas[trials] = np.asarray(image.dataobj[..., trials])[inside].T
    return betas


# ------------------------------------------------------------------ trials and data


def trials_by_image(shown: Sequence[Any] | np.ndarray) -> tuple[list[Any], pd.DataFrame]:
    """Place of each trial among images and repeats.

    Parameters
    ----------
    shown : sequence, one per trial
        Name or number of the image of each trial, in the order of presentation.

    Returns
    -------
    names : list
        Of the images, sorted.
    trials : pandas.DataFrame
        ``image`` (position in `names`), ``repeat`` (counted from 0), ``trial`` (position in
        `shown`), in the order of presentation.
    """
    names, image = np.unique(np.asarray(shown), return_inverse=True)
    trials = pd.DataFrame({"image": image})
    trials["repeat"] = trials.groupby("image").cumcount()
    trials["trial"] = np.arange(len(trials))
    return names.tolist(), trials


def empty_betas(n_images: int, n_repeats: int, n_voxels: int, ways_out: str) -> np.ndarray:
    """Betas of NaN, float32, if they fit into memory.

    Parameters
    ----------
    n_images, n_repeats, n_voxels : int
    ways_out : str
        What makes them smaller, for the message.

    Raises
    ------
    ValueError : they need more memory than is free.
    """
    shape = (int(n_images), int(n_repeats), int(n_voxels))
    needed, free = 4 * math.prod(shape), free_memory()
    if needed > free.n_bytes:
        raise ValueError(
            f"betas {shape} take {size(needed)}, and {size(free.n_bytes)} are left "
            f"({free.source}): {ways_out}"
        )
    return np.full(shape, np.nan, dtype=np.float32)


def make_data(
    images: Any, betas: np.ndarray, voxels: pd.DataFrame, trials: pd.DataFrame, **options: Any
) -> EncodingData:
    """EncodingData of a published voxel table, whose numbers are known to be measures."""
    trials = trials.sort_values(["image", "repeat"], ignore_index=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _NO_ROI, UserWarning)
        return EncodingData(images, betas, voxels, trials, **options)


def atlas_of(members: pd.DataFrame) -> pd.Series | None:
    """One column of labels from a column of 0 and 1 per ROI; None if ROIs overlap."""
    inside = members.to_numpy() == 1
    if (inside.sum(axis=1) > 1).any():
        return None
    names = np.array([*members.columns, ""], dtype=object)
    return pd.Series(names[np.where(inside.any(axis=1), inside.argmax(axis=1), -1)], dtype="str")


def chosen_names(chosen: Sequence[str] | str, known: Iterable[str], argument: str) -> list[str]:
    """Names of ROIs, each one of those that are there.

    Parameters
    ----------
    chosen : str or sequence of str
        A str may have several, with commas.
    known : iterable of str
    argument : str
        Its name, for the message.

    Raises
    ------
    ValueError : unknown names, or none.
    """
    names = [name.strip() for name in chosen.split(",")] if isinstance(chosen, str) else [*chosen]
    known = list(known)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{argument}: no ROI {unknown} here; there are {known}")
    if not names:
        raise ValueError(f"{argument} is empty: name ROIs, or leave it out for all voxels")
    return names


def chosen_voxels(
    inside: dict[str, np.ndarray], chosen: Sequence[str] | str, argument: str
) -> np.ndarray:
    """Mask of the voxels in any of several ROIs.

    Parameters
    ----------
    inside : dict of name to array of bool
    chosen : str or sequence of str
        As for `chosen_names`.
    argument : str
        Its name, for the message.

    Raises
    ------
    ValueError : unknown names, or no voxels.
    """
    names = chosen_names(chosen, inside, argument)
    mask = np.any([inside[name] for name in names], axis=0)
    if not mask.any():
        raise ValueError(f"{argument}: the ROIs {names} have no voxels")
    return mask
