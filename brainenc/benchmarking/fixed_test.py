"""A fixed test set: images by mask, position or name of file, from Python or a text file."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from brainenc.benchmarking.image_names import image_names
from brainenc.conversion import column
from brainenc.data.encoding_data import EncodingData
from brainenc.data.image_ids import image_positions
from brainenc.data.splits import held_out_images
from brainenc.documentation import see
from brainenc.reading import read_array, reading

#: The default of ``cv``, which a fixed test set takes the place of.
DEFAULT_CV = 5


def fixed_split(
    data: EncodingData, test: Any, cv: Any = DEFAULT_CV, *, random_state: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """One fold: the test images, and all others to train on.

    Parameters
    ----------
    data : EncodingData
    test : mask of shape (n_images,), positions, names of image files, or a share in (0, 1)
        As for `EncodingData.train_test`; names with or without folder and ending.
    cv : Any
        That of the benchmark, which must be its default.
    random_state : int
        Seed of a share.

    Returns
    -------
    list of one (train, test), masks of bool

    Raises
    ------
    ValueError : `cv` is given too, one side would be empty, an image is there twice, or a name is
        that of no image, or of several.
    TypeError : one text in place of a list of names.
    """
    if not (isinstance(cv, int) and cv == DEFAULT_CV):
        raise ValueError(
            f"test= is a fixed test set and cv={cv!r} makes folds: give one of the two"
            + see("howto_fixed_test")
        )
    if isinstance(test, (str, os.PathLike)):
        raise TypeError(
            f"test={str(test)!r} must be a mask, positions or a list of names of images; for those "
            "in a file, test=Path(file).read_text().split()" + see("howto_fixed_test")
        )
    if not isinstance(test, (float, np.floating)) and np.ndim(test) > 0:
        ids = column(test, "test", "n_test")
        if len(ids) and all(isinstance(name, str) for name in ids):
            test = _named(data, ids)
    held_out = held_out_images(test, data.n_images, random_state=random_state)
    return [(~held_out, held_out)]


def _named(data: EncodingData, ids: np.ndarray) -> np.ndarray:
    try:
        return image_positions(ids, data.n_images, image_names(data))
    except ValueError as error:  # of ids of trials, which have the same rules
        raise ValueError(str(error).replace("image_ids", "test")) from None


def read_test_set(path: str | os.PathLike, data: EncodingData) -> Any:
    """Test images from a file.

    Parameters
    ----------
    path : path
        A ``.npy`` file with a mask, positions or names; or a text file with a name of an image
        file, or a position counted from 0, in each line.
    data : EncodingData

    Returns
    -------
    array, for `fixed_split`

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : an empty file, or numbers that are names of some images and positions of others.
    """
    path = Path(path)
    if path.suffix == ".npy":
        return read_array(path)
    with reading(path, "a list of test images"):
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError(f"{path} is empty: give a name or a position of a test image in each line")
    if not all(line.isdecimal() for line in lines):
        return np.array(lines, dtype=object)
    positions = np.array([int(line) for line in lines])
    try:
        named = image_positions(np.array(lines, dtype=object), data.n_images, image_names(data))
    except ValueError:  # numbers are no names here
        return positions
    if positions.max() < data.n_images and not np.array_equal(named, positions):
        raise ValueError(
            f"the numbers in {path} are names of image files, and positions of other images: give "
            f"names with their ending, such as {image_names(data)[named[0]]!r}, or positions "  # type: ignore[index]
            "in a .npy file" + see("howto_fixed_test")
        )
    return named
