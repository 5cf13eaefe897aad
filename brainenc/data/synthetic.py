"""Synthetic trials: the column of the trial table that marks them, and where they may not be."""

from typing import Any

import numpy as np
import pandas as pd

#: Column of the trial table: True for a response that an encoder made.
SYNTHETIC = "synthetic"


def synthetic_trials(trials: pd.DataFrame) -> np.ndarray:
    """Whether each trial is synthetic.

    Parameters
    ----------
    trials : DataFrame
        Trial table; without the column ``synthetic`` all trials were measured, and so were those
        with a missing value, as two tables joined by `pandas.concat` have where one of them lacks
        the column.

    Returns
    -------
    array of bool, shape (n_trials,)

    Raises
    ------
    ValueError : values of the column that are neither true, false nor missing.
    """
    found = np.zeros(len(trials), dtype=bool)
    if SYNTHETIC not in trials:
        return found
    values = trials[SYNTHETIC]
    present = values.notna().to_numpy()
    wrong = present & ~values.isin([True, False, 0, 1]).to_numpy(dtype=bool)
    if wrong.any():
        raise ValueError(
            f"the column {SYNTHETIC!r} of the trial table has values other than True and False: "
            f"{values[wrong].iloc[0]!r}"
        )
    found[present] = values[present].astype(bool)
    return found


def synthetic_images(trials: pd.DataFrame) -> np.ndarray:
    """Positions of images with a synthetic trial, in order.

    Parameters
    ----------
    trials : DataFrame
        As for `synthetic_trials`.

    Raises
    ------
    ValueError : as `synthetic_trials`.
    """
    return np.unique(trials["image"].to_numpy()[synthetic_trials(trials)])


def measured_betas(betas: np.ndarray, trials: pd.DataFrame) -> np.ndarray:
    """Betas with NaN for synthetic trials; the same array, not a copy, if there are none.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
    trials : DataFrame
        As for `synthetic_trials`.
    """
    made = synthetic_trials(trials)
    if not made.any():
        return betas
    found = np.array(betas)
    found[trials["image"].to_numpy()[made], trials["repeat"].to_numpy()[made]] = np.nan
    return found


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
