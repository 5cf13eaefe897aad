"""Pictures of own data and the table about them: a folder, a dict, a list, or files in a table."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.data.image_files import IMAGE_SUFFIXES, ImageFiles, natural_order
from brainenc.data.image_ids import names_of
from brainenc.data.images import as_images, open_images
from brainenc.data.stimuli import NAME, read_table, stimuli_of_images
from brainenc.documentation import see

#: Columns of a table of stimuli that may hold paths of image files.
FILE_COLUMNS = ("stim_file", "file", "filename", "path", "image", NAME)

#: Names that ids of images may use, as `brainenc.data.image_ids.names_of` gives them.
Names = list[str] | dict[Any, int] | None


def open_pictures(
    images: Any, stimuli: Any, *, image_size: tuple[int, int] | int | None = None
) -> tuple[Any, Names, pd.DataFrame]:
    """Images, their names, and one row of the table of stimuli for each.

    Parameters
    ----------
    images : folder, ``.npy`` file, pattern, dict of name to image, list, array, or None
        Files of a folder are in the order of their names; if it has none, those of its subfolders
        are taken. None: files that a column of `stimuli` names, next to the table.
    stimuli : pandas.DataFrame, ``.tsv`` or ``.csv`` file, or None
    image_size : int or (height, width), optional
        Size that image files are resized to on reading.

    Returns
    -------
    images : array or lazy sequence
    names : list of paths, dict of key to row, or None
    stimuli : pandas.DataFrame, one row per image
    """
    size: Any = image_size
    if isinstance(size, (int, np.integer)):
        size = (int(size), int(size))
    if images is None:
        images = _files_of(stimuli)
    elif isinstance(images, (str, os.PathLike)) and os.path.isdir(images):
        images = _files_in(Path(images))
    elif isinstance(images, (str, os.PathLike)):
        images = open_images(images)
    # A list of paths, before it is made ImageFiles, which would look at the sizes of all.
    names: Names = names_of(images)
    if isinstance(images, Mapping):
        images = list(images.values())
    if size is not None:
        paths = images.paths if isinstance(images, ImageFiles) else images
        if not isinstance(names, list) or not all(
            isinstance(path, (str, os.PathLike)) for path in paths
        ):
            raise ValueError("image_size is for image files, and images are none")
        images = ImageFiles(paths, size=size)
    images = as_images(images)
    if isinstance(stimuli, (str, os.PathLike, pd.DataFrame)) and names is None:
        table = read_table(stimuli, "stimuli")
        named = next((one for one in FILE_COLUMNS if one in table), None)
        if named is not None and len(table) == len(images) and table[named].notna().all():
            # Images without names of their own are called as in the table, row by row.
            keys = table[named].tolist()
            if len(set(keys)) == len(keys) and all(isinstance(key, str) for key in keys):
                return images, keys, stimuli_of_images(table, len(images), None)
    return images, names, stimuli_of_images(stimuli, len(images), names)


def _files_in(folder: Path) -> list[Path]:
    def image_files(paths: Any) -> list[Path]:
        return natural_order(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)

    found = image_files(folder.iterdir()) or image_files(folder.rglob("*"))
    if not found:
        raise ValueError(f"{folder} holds no image files ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _files_of(stimuli: Any) -> list[Path]:
    """Image files that a table names, relative to its folder."""
    if stimuli is None:
        raise ValueError(
            "images is missing: give a folder, a dict, a list or an array of images"
            + see("howto_own_data")
        )
    table = read_table(stimuli, "stimuli")
    folder = Path(stimuli).parent if isinstance(stimuli, (str, os.PathLike)) else Path()
    tried = []
    for name in FILE_COLUMNS:
        if name in table and table[name].map(lambda value: isinstance(value, str)).all():
            files = [folder / path for path in table[name]]
            if all(path.is_file() for path in files):
                return files
            missing = next(path for path in files if not path.is_file())
            tried.append(f"{name!r} ({missing} is missing)")
    raise ValueError(
        f"no column of stimuli names files that are there: tried {', '.join(tried) or 'none'} of "
        f"{list(table)}; give the folder of the images as images=" + see("howto_own_data")
    )
