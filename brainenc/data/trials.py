"""The trial table, which gives the image and repeat of each trial, and functions of it.

A trial table has one row per trial present, with ``image`` and ``repeat``: positions in the first
two axes of betas (n_images, n_repeats, n_voxels). It may have ``session``, ``run`` and others.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainenc.arrays import row_blocks, varies
from brainenc.conversion import check_row_order, column
from brainenc.data.image_ids import image_positions
from brainenc.data.tables import plain_table
from brainenc.documentation import see
from brainenc.validation import check_betas, check_same_length

#: `brainenc.arrays.CONSTANT` of sums in float64.
CONSTANT = 1e-12


def trials_present(betas: np.ndarray) -> pd.DataFrame:
    """Trial table of the trials that have data in at least one voxel, in one pass through betas.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels), NaN where a repeat is missing

    Returns
    -------
    pandas.DataFrame with columns ``image`` and ``repeat``, ordered by both
    """
    present = [~np.isnan(np.fmax.reduce(block, axis=-1)) for block in row_blocks(betas)]
    image, repeat = np.nonzero(np.concatenate(present))
    return pd.DataFrame({"image": image, "repeat": repeat})


def check_trials(trials: pd.DataFrame, shape: tuple[int, ...]) -> None:
    """Check that a trial table fits betas of this shape.

    Raises
    ------
    ValueError : ``image`` or ``repeat`` missing or outside the axis, or a trial listed twice.
    TypeError : positions that are not integers.
    """
    for key, n in (("image", shape[0]), ("repeat", shape[1])):
        if key not in trials:
            raise ValueError(f"trials has columns {list(trials.columns)}; it needs {key!r}")
        values = trials[key]
        if not pd.api.types.is_integer_dtype(values):
            raise TypeError(f"trials[{key!r}] must be integer positions, got {values.dtype}")
        if len(values) and (values.min() < 0 or values.max() >= n):
            raise ValueError(f"trials[{key!r}] has positions outside 0 … {n - 1}")
    if trials.duplicated(["image", "repeat"]).any():
        raise ValueError("trials lists the same image and repeat twice")


def check_complete(trials: pd.DataFrame, present: pd.DataFrame) -> None:
    """Check that a trial table lists all trials with data, as `trials_present` does.

    Functions that use the trial table would leave out an unlisted trial.

    Raises
    ------
    ValueError
    """
    keys = ["image", "repeat"]
    unlisted = pd.MultiIndex.from_frame(present).difference(pd.MultiIndex.from_frame(trials[keys]))
    if len(unlisted):
        image, repeat = unlisted[0]
        raise ValueError(
            f"betas has data for {len(unlisted)} trials that trials does not list, the first being "
            f"repeat {repeat} of image {image}"
        )


def as_trials(trials: Any, betas: np.ndarray) -> pd.DataFrame:
    """A trial table given by a user, or None, as a plain table of all trials of betas.

    Whole floats, as MATLAB saves positions, become integers. Trials without data are left out.

    Raises
    ------
    ValueError, TypeError : as `check_trials`, `check_complete` and
        `brainenc.data.tables.plain_table`.
    """
    present = trials_present(betas)
    if trials is None:
        return present
    table = plain_table(trials, "trials")
    for key in ("image", "repeat"):
        values = table.get(key)
        if values is not None and values.dtype.kind == "f" and (values % 1 == 0).all():
            table[key] = values.astype(np.int64)
    check_trials(table, betas.shape)
    check_complete(table, present)
    return without_missing(table, present)


def group_by_image(
    betas: Any,
    image_ids: Sequence | np.ndarray,
    *,
    n_images: int,
    names: list[str] | dict[Any, int] | None = None,
    session: Sequence | np.ndarray | None = None,
    run: Sequence | np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Trial-wise betas with one row per image.

    Parameters
    ----------
    betas : array, shape (n_trials, n_voxels)
        One row per trial, in the order of presentation. A row of NaN alone, a censored trial, is
        left out, as are images that only such trials showed.
    image_ids : array, shape (n_trials,)
        Number of the image that each trial showed, in 0 … `n_images` − 1, or its name.
    n_images : int
    names : list of paths or dict of key to row, optional
        Names of the images, as `brainenc.data.image_ids.names_of` gives them.
    session, run : array, shape (n_trials,), optional
        Columns of the trial table.

    Returns
    -------
    grouped : array, shape (n_shown, n_repeats, n_voxels)
        Images in increasing order of id, repeats in order of presentation, NaN where an image has
        fewer repeats than another.
    shown : array of int, shape (n_shown,)
        Ids of the rows of `grouped`.
    trials : pandas.DataFrame
        ``image`` and ``repeat`` (positions in `grouped`), ``trial`` (row of `betas`), and
        ``session`` and ``run`` where they are given.

    Raises
    ------
    ValueError : lengths differ, ids are outside the images (counted from 1, for example) or name
        no image, or `check_betas` rejects the betas.
    TypeError : ids that are neither numbers nor text.
    """
    check_row_order(betas=betas, image_ids=image_ids, session=session, run=run)
    flat = check_betas(betas)
    if flat.shape[1] != 1:
        raise ValueError(
            f"betas {np.shape(betas)} must be (n_trials, n_voxels), trial by trial"
            + see("guide/data")
        )
    flat = flat[:, 0]
    given = {"session": session, "run": run}
    labels = {
        key: column(value, key, "n_trials") for key, value in given.items() if value is not None
    }
    check_same_length(betas=flat, image_ids=column(image_ids, "image_ids", "n_trials"), **labels)
    ids = image_positions(image_ids, n_images, names)
    present = trials_present(flat[:, None])["image"].to_numpy()
    labels = {key: value[present] for key, value in labels.items()}
    shown, row = np.unique(ids[present], return_inverse=True)
    trials = pd.DataFrame({"image": row, "trial": present, **labels})
    trials.insert(1, "repeat", trials.groupby("image").cumcount())
    shape = (len(shown), trials["repeat"].max() + 1, flat.shape[1])
    grouped = np.full(shape, np.nan, flat.dtype)
    grouped[trials["image"], trials["repeat"]] = flat[present]
    return grouped, shown, trials.sort_values(["image", "repeat"])


def zscore_by_session(
    betas: np.ndarray, trials: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each voxel z-scored within each session, over all trials of the session.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
    trials : pandas.DataFrame
        Trial table with ``session``.

    Returns
    -------
    zscored : array of the shape and dtype of `betas`
        Units of the standard deviation (ddof 0); NaN where the voxel has no data or is constant in
        the session.
    mean, sd : array of float64, shape (n_sessions, n_voxels)
        By session, in sorted order. Both are NaN without data; the s.d. of a constant voxel is NaN.

    Raises
    ------
    ValueError : no ``session`` column, or trials without a session.
    """
    if "session" not in trials:
        raise ValueError(
            f"the trial table has columns {list(trials.columns)} but no 'session'; "
            "pass session= to EncodingData.from_trials" + see("guide/data")
        )
    if n_without := int(trials["session"].isna().sum()):
        raise ValueError(f"{n_without} of {len(trials)} trials have no session")
    zscored = np.full(betas.shape, np.nan, dtype=betas.dtype)
    means, sds = [], []
    for _, rows in trials.groupby("session"):
        where = (rows["image"].to_numpy(), rows["repeat"].to_numpy())
        # float64, since a float32 sum of hundreds of large values is inaccurate.
        deviation = betas[where].astype(np.float64)
        with warnings.catch_warnings():
            # A voxel without data in this session is NaN before and after.
            warnings.filterwarnings("ignore", "Mean of empty slice")
            mean = np.nanmean(deviation, axis=0)
            deviation -= mean
            sd = np.sqrt(np.nanmean(deviation**2, axis=0))
        # Round-off gives a constant voxel a tiny s.d., which would be scaled to 1.
        sd = np.where(varies(mean, sd, constant=CONSTANT), sd, np.nan)
        zscored[where] = deviation / sd
        means.append(mean)
        sds.append(sd)
    return zscored, np.array(means), np.array(sds)


def averaged_trials(n_averaged: np.ndarray) -> pd.DataFrame:
    """Trial table of averages over repeats: one row per image with data.

    Parameters
    ----------
    n_averaged : array of int, shape (n_images, 1) or (n_images, n_voxels)
        Trials in the average of each image and voxel; 0 without data.

    Returns
    -------
    pandas.DataFrame with ``image`` and ``repeat`` (0)
    """
    return pd.DataFrame({"image": np.flatnonzero(n_averaged.any(axis=1)), "repeat": 0})


def without_missing(trials: pd.DataFrame, present: pd.DataFrame) -> pd.DataFrame:
    """Trial table without the trials that have no data in any voxel, which are no trials.

    Parameters
    ----------
    trials : pandas.DataFrame
        Checked by `check_trials` and `check_complete`.
    present : pandas.DataFrame
        As `trials_present` gives it.
    """
    if len(trials) == len(present):
        return trials
    keys = ["image", "repeat"]
    kept = pd.MultiIndex.from_frame(trials[keys]).isin(pd.MultiIndex.from_frame(present))
    return trials[kept].reset_index(drop=True)


def trials_of_images(trials: pd.DataFrame, index: np.ndarray, n_images: int) -> pd.DataFrame:
    """Trial table of some images, whose positions become those in `index`.

    Parameters
    ----------
    trials : pandas.DataFrame
    index : array of int
        Images to keep, each once, in the new order.
    n_images : int
        Number of images in `trials`.
    """
    position = np.full(n_images, -1)
    position[index] = np.arange(len(index))
    kept = trials.assign(image=position[trials["image"]])
    return kept[kept["image"] >= 0].sort_values(["image", "repeat"], ignore_index=True)
