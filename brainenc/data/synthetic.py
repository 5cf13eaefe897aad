"""Synthetic trials: the column of the trial table that marks them, and where they may not be."""

from typing import Any

import numpy as np
import pandas as pd

#: Column of the trial table: True for a response that an encoder made.
SYNTHETIC = "synthetic"


def synthetic_images(trials: pd.DataFrame) -> np.ndarray:
    """Positions of images with a synthetic trial, in order.

    Parameters
    ----------
    trials : DataFrame
        Trial table; without the column ``synthetic`` all trials were measured.

    Raises
    ------
    ValueError : values of the column that are neither true nor false.
    """
    if SYNTHETIC not in trials:
        return np.array([], dtype=np.int64)
    values = trials[SYNTHETIC]
    if not values.isin([True, False, 0, 1]).all():
        raise ValueError(
            f"the column {SYNTHETIC!r} of the trial table has values other than True and False: "
            f"{values[~values.isin([True, False, 0, 1])].iloc[0]!r}"
        )
    return np.unique(trials["image"][values.astype(bool)])


def check_measured(trials: pd.DataFrame, images: Any, what: str) -> None:
    """Raise ValueError if one of some images has a synthetic trial.

    Parameters
    ----------
    trials : DataFrame
    images : array of int
        Positions, such as those of a test fold.
    what : str
        Names these images in the message.
    """
    wrong = np.intersect1d(synthetic_images(trials), images)
    if wrong.size:
        raise ValueError(
            f"{what}: {wrong.size} images have synthetic trials (first: image {wrong[0]}), which "
            "cannot be tested on: test on measured trials, with folds cv=[(train, test)] whose "
            "test images have no synthetic trial"
        )
