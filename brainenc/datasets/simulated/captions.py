"""Captions of simulated scenes, from their tables of objects."""

import re

import numpy as np
import pandas as pd

from brainenc.datasets.simulated.scenes import CATEGORIES

#: Names of hues, at equal distances on their circle.
COLOURS = ("red", "green", "cyan", "purple")

#: Sizes in degrees from which an object is called large, and up to which small.
_LARGE, _SMALL = 4.5, 2.2
#: Distance from the centre, in degrees, from which an object is called left or right.
_ASIDE = 1.5


def colour_of(hue: np.ndarray) -> np.ndarray:
    """Names of the nearest of `COLOURS`, for hues 0 … 1 on a circle."""
    number = np.round(np.asarray(hue, float) * len(COLOURS)).astype(int) % len(COLOURS)
    return np.array(COLOURS)[number]


def make_captions(objects: pd.DataFrame, n_images: int) -> list[str]:
    """A sentence per image: its objects with size, colour and side, the place last.

    Parameters
    ----------
    objects : pandas.DataFrame
        As `make_scenes` returns it.
    n_images : int

    Returns
    -------
    list of str, length n_images
    """
    found = [""] * n_images
    numbers = objects["image"].to_numpy()
    for image in np.unique(numbers).tolist():
        rows = objects[numbers == image]
        behind = rows[rows["category"] == "place"]
        things = [_thing(row) for row in rows[rows["category"] != "place"].to_dict("records")]
        places = [f"a {colour_of(hue)} place" for hue in behind["hue"]]
        text = " and ".join(things)
        if places:
            text = f"{text} in {' and '.join(places)}" if text else f"view of {places[0]}"
        found[image] = text
    return found


def _thing(row: dict) -> str:
    size = "large " if row["size"] >= _LARGE else "small " if row["size"] <= _SMALL else ""
    side = ""
    if abs(row["x"]) >= _ASIDE:
        side = f" on the {'left' if row['x'] < 0 else 'right'}"
    return f"a {size}{colour_of(row['hue'])} {row['category']}{side}"


def mentioned(text: str) -> list[tuple[str, str]]:
    """Categories that a text names, each with the colour before it, "" without one.

    A colour without a category after it is ("", colour).

    Examples
    --------
    >>> mentioned("a photo of a large red vehicle and a face")
    [('vehicle', 'red'), ('face', '')]
    """
    found: list[tuple[str, str]] = []
    colour = ""
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in COLOURS:
            found += [("", colour)] if colour else []
            colour = word
        elif (category := word.removesuffix("s")) in CATEGORIES or word in CATEGORIES:
            found.append((word if word in CATEGORIES else category, colour))
            colour = ""
    return found + ([("", colour)] if colour else [])
