"""Ids of images, as numbers of rows or as names, matched to images."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainenc.conversion import column
from brainenc.data.image_files import ImageFiles
from brainenc.documentation import see


def names_of(images: Any) -> list[str] | dict[Any, int] | None:
    """Names that ids of images may use: keys of a dict, or paths; None of other images.

    Parameters
    ----------
    images : images, as for `brainenc.data.images.as_images`, or a dict of name to image

    Returns
    -------
    list of paths, dict of key to row, or None
    """
    if isinstance(images, Mapping):
        return {key: row for row, key in enumerate(images)}
    if isinstance(images, ImageFiles):
        return [str(path) for path in images.paths]
    if hasattr(images, "shape") and len(images.shape) != 1:
        return None
    if hasattr(images, "__len__") and not isinstance(images, (str, bytes)):
        listed = list(images)
        if all(isinstance(image, (str, os.PathLike)) for image in listed):
            return [os.fspath(image) for image in listed]
    return None


def image_positions(
    image_ids: Any, n_images: int, names: list[str] | dict[Any, int] | None = None
) -> NDArray[np.int64]:
    """Row of the image that each trial showed.

    Parameters
    ----------
    image_ids : array-like, shape (n_trials,), (n_trials, 1) or (1, n_trials)
        Rows of images, counted from 0, as integers or whole floats; or names (numbers, too, if
        they can be no rows): of files, with or
        without folder and ending, or the ends of their paths; or the keys of a dict of images.
    n_images : int
    names : list of paths or dict of key to row, optional
        As `names_of` gives them. Ids are keys of the dict, numbers too.

    Returns
    -------
    array of int, shape (n_trials,)

    Raises
    ------
    ValueError : ids outside the images (counted from 1, for example) or missing; names without an
        image, of two images, or of images that have no names.
    TypeError : ids that are neither numbers nor text.

    Examples
    --------
    >>> image_positions(["dog", "cat", "dog"], 2, ["animals/cat.jpg", "animals/dog.jpg"]).tolist()
    [1, 0, 1]
    """
    ids = column(image_ids, "image_ids", "n_trials")
    missing = pd.isna(ids)
    if missing.any():
        raise ValueError(
            f"image_ids has no id for {int(missing.sum())} trials (first in row "
            f"{int(np.argmax(missing))}): leave these trials out, also of betas" + see("guide/data")
        )
    if isinstance(names, dict):
        return _look_up(ids, {key: [row] for key, row in names.items()}, "a key of images")
    if ids.dtype.kind in "OUT" and len(ids):
        return _named(ids, names)
    if ids.dtype.kind == "f" and (ids % 1 == 0).all():  # whole numbers, as MATLAB saves them
        ids = ids.astype(np.int64)
    if ids.dtype.kind not in "iu":
        raise TypeError(
            f"image_ids must be integers (rows of images) or names of images, got {ids.dtype}"
        )
    if names is not None and (found := _numbered(ids, names, n_images)) is not None:
        return found
    if ids.size and (ids.min() < 0 or ids.max() >= n_images):
        raise ValueError(
            f"image_ids run from {ids.min()} to {ids.max()}, but images has rows 0 … "
            f"{n_images - 1}; are the ids counted from 1?" + see("guide/data")
        )
    return ids.astype(np.int64)


def _numbered(ids: np.ndarray, names: list[str], n_images: int) -> NDArray[np.int64] | None:
    """Rows of files whose names are the numbers; None if the numbers are rows.

    Raises
    ------
    ValueError : they may be either, of different images.
    """
    stems = [os.path.splitext(os.path.basename(name))[0] for name in names]
    rows: dict[int, list[int]] = {}
    for row, stem in enumerate(stems):
        if stem.isascii() and stem.isdecimal():
            rows.setdefault(int(stem), []).append(row)
    wanted = np.unique(ids).tolist()
    if not wanted or not all(len(rows.get(number, [])) == 1 for number in wanted):
        return None
    found = np.array([rows[number][0] for number in ids.tolist()], dtype=np.int64)
    if ids.min() >= 0 and ids.max() < n_images and (found != ids).any():
        number = ids[np.argmax(found != ids)]
        raise ValueError(
            f"image_ids are whole numbers, and {number} may be row {number} of images, which is "
            f"{os.path.basename(names[number])!r}, or the name of "
            f"{os.path.basename(names[rows[number][0]])!r}: give the names of files as text"
            + see("guide/data")
        )
    return found


def _named(ids: np.ndarray, names: list[str] | None) -> NDArray[np.int64]:
    """Rows of text ids: matched to paths, to names of files, or to these without their ending."""
    if not all(isinstance(name, str) for name in ids):
        raise TypeError("image_ids mixes text with other kinds: give numbers of rows, or names")
    if names is None:
        raise ValueError(
            f"image_ids are text ({str(ids[0])!r} …), but images is an array without names: give "
            "images as paths or as a dict of name to image; or, if images are in the sorted order "
            "of their names, image_ids = np.unique(names, return_inverse=True)[1]"
            + see("guide/data")
        )
    found = []
    errors = []
    ways = [
        ("the path of an image", names),
        ("the name of an image file", [os.path.basename(name) for name in names]),
        (
            "the name of an image file without its ending",
            [os.path.splitext(os.path.basename(name))[0] for name in names],
        ),
    ]
    depths = {name.count("/") for name in ids}
    if len(depths) == 1 and 0 not in depths:  # such as "faces/1.png" of "/data/faces/1.png"
        depth = -1 - depths.pop()
        ends = ["/".join(name.replace(os.sep, "/").split("/")[depth:]) for name in names]
        ways.append(("the end of the path of an image", ends))
    for what, known in ways:
        rows: dict[Any, list[int]] = {}
        for i, name in enumerate(known):
            rows.setdefault(name, []).append(i)
        try:
            found.append(_look_up(ids, rows, what))
        except ValueError as error:
            errors.append((int(np.isin(ids, known).sum()), error))
    if not found:
        raise max(errors, key=lambda counted: counted[0])[1]
    if any(not np.array_equal(found[0], other) for other in found[1:]):
        raise ValueError(
            "image_ids match images both by the names of their files and by the names without "
            "ending, with different results: give the names of files, with their folder"
        )
    return found[0]


def _look_up(ids: np.ndarray, rows: dict[Any, list[int]], what: str) -> NDArray[np.int64]:
    labels, inverse = np.unique(ids, return_inverse=True)
    keys = labels.tolist()
    if unknown := [key for key in keys if key not in rows]:
        raise ValueError(
            f"{len(unknown)} of {len(keys)} image_ids are not {what}, {unknown[0]!r} for example; "
            f"images has {list(rows)[:3]} …" + see("guide/data")
        )
    if several := [key for key in keys if len(rows[key]) > 1]:
        raise ValueError(
            f"image_ids has {several[0]!r}, which is {what} for rows {rows[several[0]][:5]} of "
            "images: give names that differ, such as paths" + see("guide/data")
        )
    return np.array([rows[key][0] for key in keys], dtype=np.int64)[inverse]
