"""Scenes of objects that the user chooses, as pictures of the simulated world."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainenc.datasets.simulated.scenes import CATEGORIES, FIELD, draw_scene

#: Columns of a table of objects, with the value of one that is left out and its range.
COLUMNS = {
    "x": (0.0, -FIELD, FIELD),
    "y": (0.0, -FIELD, FIELD),
    "size": (4.5, 0.1, FIELD),
    "contrast": (1.0, 0.0, 1.0),
    "hue": (0.5, 0.0, 1.0),
    "tilt": (0.0, -1.0, 1.0),
    "style": (0.0, -1.0, 1.0),
}


def draw_scenes(
    objects: pd.DataFrame,
    image_size: int = 64,
    *,
    n_images: int | None = None,
    background: str = "texture",
    seeds: Sequence[int] | None = None,
) -> np.ndarray:
    """Pictures of given objects, as `simulate_subject` draws those of its subjects.

    Parameters
    ----------
    objects : pandas.DataFrame
        One row per object: ``image``, from 0; ``category``: "face", "body", "place", "vehicle" or
        "food"; and, if they matter, ``x``, ``y`` (centre, degrees right and up of fixation; 0),
        ``size`` (degrees, 0.1 … 8.4; 4.5), ``contrast`` (0 … 1; 1), ``hue`` (0 … 1; 0.5), ``tilt``
        and ``style`` (−1 … 1; 0). A place fills the scene whatever its position and size.
    image_size : int
        Height and width in pixels, a multiple of 16.
    n_images : int, optional
        By default as many as the table has; images without a row show the background.
    background : "texture" or "grey"
        Coloured 1/f noise with a grating, or mid-grey.
    seeds : sequence of int, length n_images, optional
        Seed of the texture and of details that the table does not have; by default the number of
        the image.

    Returns
    -------
    array, shape (n_images, image_size, image_size, 3), uint8

    Raises
    ------
    ValueError : a column is missing, or a value out of its range.

    Examples
    --------
    >>> import pandas as pd
    >>> from brainenc.datasets import draw_scenes
    >>> objects = pd.DataFrame({"image": [0, 1], "category": ["face", "place"], "size": 6.0})
    >>> draw_scenes(objects, 48, background="grey").shape
    (2, 48, 48, 3)
    """
    objects = check_objects(objects, n_images)
    n = int(objects["image"].max()) + 1 if n_images is None else n_images
    if image_size < 16 or image_size % 16:
        raise ValueError(f"image_size={image_size} must be a multiple of 16")
    if background not in ("texture", "grey"):
        raise ValueError(f'background={background!r} must be "texture" or "grey"')
    if seeds is not None and len(seeds) != n:
        raise ValueError(f"seeds has {len(seeds)} numbers, but there are {n} images")
    by_image = dict(list(objects.groupby("image")))
    plain = np.full((image_size, image_size, 3), 127, np.uint8)
    images = np.empty((n, *plain.shape), np.uint8)
    for i in range(n):
        rng = np.random.default_rng(i if seeds is None else int(seeds[i]))
        rows = by_image[i].to_dict("records") if i in by_image else []
        behind = None if background == "texture" else plain
        images[i] = draw_scene(rng, rows, image_size, behind)
    return images


def check_objects(objects: Any, n_images: int | None = None) -> pd.DataFrame:
    """A table of objects with all columns, in the order of images.

    Raises
    ------
    TypeError : not a table.
    ValueError : a column is missing, or a value out of its range.
    """
    if not isinstance(objects, pd.DataFrame):
        raise TypeError(f"objects must be a pandas.DataFrame, got {type(objects).__name__}")
    if missing := [name for name in ("image", "category") if name not in objects]:
        raise ValueError(f"objects has no column {missing[0]!r}; it has {list(objects.columns)}")
    if n_images is None and not len(objects):
        raise ValueError("objects is empty: give n_images for scenes without objects")
    table = objects.reset_index(drop=True).copy()
    image = table["image"].to_numpy()
    if len(image) and (image.dtype.kind not in "iu" or image.min() < 0):
        raise ValueError("objects['image'] must be whole numbers from 0, the row of the image")
    if n_images is not None and len(image) and image.max() >= n_images:
        raise ValueError(
            f"objects['image'] goes to {image.max()}, but there are {n_images} images, from 0"
        )
    if unknown := sorted(set(table["category"]) - set(CATEGORIES)):
        raise ValueError(f"objects['category'] has {unknown[0]!r}, which is none of {CATEGORIES}")
    for name, (value, low, high) in COLUMNS.items():
        if name not in table or not len(table):
            table[name] = float(value)
        elif not table[name].between(low, high).all():
            raise ValueError(f"objects[{name!r}] must be numbers from {low:g} to {high:g}")
    table["image"] = table["image"].astype(np.int64)
    place = table["category"] == "place"
    table.loc[place, ["x", "y", "size"]] = (0.0, 0.0, FIELD)
    return table.sort_values("image", kind="stable", ignore_index=True)
