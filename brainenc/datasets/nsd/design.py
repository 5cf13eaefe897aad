"""The image of every NSD trial. All ids here count from 0; those of the design file from 1."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from brainenc.datasets.mat_file import read_numbers
from brainenc.datasets.nsd.files import N_TRIALS

#: Presentations of an image over the whole experiment.
N_REPEATS = 3

#: Images in the "1 hour" of few-shot papers: 250 × 3 repeats are 750 trials, as in one session.
N_HOUR_IMAGES = 250


@dataclass(frozen=True, eq=False)
class Design:
    """The experiment's design.

    Attributes
    ----------
    order : array of int, shape (30000,)
        Index of each trial's image among the subject's 10 000; the same for all subjects.
    images : array of int, shape (8, 10000)
        nsd_id (row in the file of 73 000 images) of each subject's images.
    shared : array of int, shape (1000,)
        nsd_id of the images that all subjects saw.
    """

    order: np.ndarray
    images: np.ndarray
    shared: np.ndarray


def read_design(path: Path) -> Design:
    """The design in ``nsd_expdesign.mat``, with ids counted from 0.

    Raises
    ------
    ValueError : arrays missing or of other shapes, or ids that do not count from 1.
    """
    shapes = {"masterordering": (1, 30_000), "subjectim": (8, 10_000), "sharedix": (1, 1000)}
    stored = read_numbers(path, list(shapes))
    found = {name: np.shape(stored[name]) for name in shapes if name in stored}
    if found != shapes:
        raise ValueError(f"{path} holds the numbers {found}, but NSD's design has {shapes}")
    if wrong := [name for name in shapes if not (stored[name] % 1 == 0).all()]:
        raise ValueError(f"{wrong[0]} in {path} holds ids that are no whole numbers")
    order, images, shared = (stored[name].astype(np.int64) for name in shapes)
    for name, ids, largest in [
        ("masterordering", order, 10_000),
        ("subjectim", images, 73_000),
        ("sharedix", shared, 73_000),
    ]:
        if ids.min() < 1 or ids.max() > largest:
            raise ValueError(
                f"{name} in {path} runs from {ids.min()} to {ids.max()}, but NSD's ids count from "
                f"1 to {largest}"
            )
    return Design(order[0] - 1, images - 1, shared[0] - 1)


def make_trials(
    design: Design, subject: int, sessions: list[int], one_hour: str | None
) -> pd.DataFrame:
    """Trials of some sessions, in the order of presentation.

    Returns
    -------
    pandas.DataFrame
        ``image`` (position among the images shown, in increasing order of nsd_id), ``repeat``
        (which presentation of the image in the whole experiment, from 0), ``session`` (from 1),
        ``trial`` (position in the session, from 0), ``nsd_id`` (from 0), ``shared``.
    """
    position = np.arange(len(design.order))
    trials = pd.DataFrame({"nsd_id": design.images[subject - 1][design.order]})
    trials["session"] = 1 + position // N_TRIALS
    trials["trial"] = position % N_TRIALS
    trials["repeat"] = trials.groupby("nsd_id").cumcount()
    trials["shared"] = trials["nsd_id"].isin(design.shared)
    trials = trials[trials["session"].isin(sessions)]
    if one_hour is not None:
        trials = trials[trials["shared"] | _ONE_HOUR[one_hour](trials)]
    trials["image"] = np.unique(trials["nsd_id"], return_inverse=True)[1]
    return trials[["image", "repeat", "session", "trial", "nsd_id", "shared"]]


def _of_first_images(trials: pd.DataFrame) -> pd.Series:
    """Trials of the first 250 unshared images with all three repeats."""
    own = trials.loc[~trials["shared"], "nsd_id"]
    n_shown = own.value_counts()
    complete = own[own.map(n_shown) == N_REPEATS].drop_duplicates()
    if len(complete) < N_HOUR_IMAGES:
        raise ValueError(
            f"one_hour='images' takes {N_HOUR_IMAGES} images shown {N_REPEATS} times, but these "
            f"sessions have {len(complete)}; read more sessions"
        )
    return trials["nsd_id"].isin(complete[:N_HOUR_IMAGES])


def _of_first_session(trials: pd.DataFrame) -> pd.Series:
    return trials["session"] == trials["session"].min()


_ONE_HOUR = {"images": _of_first_images, "session": _of_first_session}
ONE_HOUR = tuple(_ONE_HOUR)
