"""Tables of trials: which picture each trial showed, in which session and run.

A table of the experiment or the ``events.tsv`` files of BIDS, one per run.
"""

import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.conversion import column
from brainenc.data.stimuli import read_table
from brainenc.documentation import see

#: Columns that may name the picture of a trial, in the order in which they are tried.
IMAGE_COLUMNS = (
    "image", "stim_file", "image_id", "image_name", "stimulus", "stim", "picture", "file",
    "filename", "name", "condition", "trial_type",
)  # fmt: skip

#: Other names of columns of the trial table.
_ALIKE = {"ses": "session", "session_id": "session", "run_id": "run"}


def read_trials(trials: Any, n_trials: int | None, image_column: str | None = None) -> pd.DataFrame:
    """One row per trial that has betas, in the order of the trials.

    Parameters
    ----------
    trials : pandas.DataFrame, path, list of these (one per run), or array of images
        A table with a column that names the picture: `IMAGE_COLUMNS`. Tables of a list are runs,
        numbered from 1, or as in the names of their files: ``ses-01``, ``run-2``.
    n_trials : int, optional
        Trials with betas. Rows without a picture (n/a) are no trials if those with one are as many.
    image_column : str, optional

    Returns
    -------
    pandas.DataFrame
        ``picture`` and the other columns of the table; ``session`` and ``run`` if they are known.

    Raises
    ------
    ValueError : no such column, or another number of trials.

    Warns
    -----
    UserWarning : rows that are no trials.
    """
    if _is_table(trials):
        table = _one_table(trials)
    elif isinstance(trials, (list, tuple)) and trials and all(_is_table(one) for one in trials):
        table = _of_runs([_one_table(one) for one in trials])
    else:
        table = pd.DataFrame({"picture": column(trials, "trials", "n_trials")})
        image_column = "picture"
    name = _image_column(table, image_column)
    table = table.rename(columns={name: "picture"})
    has_picture = table["picture"].notna().to_numpy()
    if n_trials is not None and len(table) != n_trials:
        if int(has_picture.sum()) != n_trials:
            raise ValueError(
                f"trials has {len(table)} rows, {int(has_picture.sum())} of them with a picture in "
                f"the column {name!r}, but there are betas of {n_trials} trials: give one row per "
                "trial, in the order of the betas" + see("howto_own_data")
            )
        warnings.warn(
            f"{len(table) - n_trials} of {len(table)} rows of trials have no picture (n/a) and no "
            "betas: they are no trials",
            stacklevel=3,
        )
        table = table[has_picture].reset_index(drop=True)
    return table


def _is_table(value: Any) -> bool:
    return isinstance(value, (pd.DataFrame, dict, os.PathLike)) or (
        isinstance(value, str) and value.endswith((".tsv", ".csv", ".txt"))
    )


def _one_table(source: Any) -> pd.DataFrame:
    table = read_table(source, "trials").rename(columns=_ALIKE)
    if isinstance(source, (str, os.PathLike)):
        found = entities(Path(source).name)
        for key, name in (("ses", "session"), ("run", "run")):
            if key in found and name not in table:
                table[name] = _number(found[key])
    return table


def _of_runs(tables: list[pd.DataFrame]) -> pd.DataFrame:
    numbered = [
        table if "run" in table else table.assign(run=i + 1) for i, table in enumerate(tables)
    ]
    return pd.concat(numbered, ignore_index=True)


def entities(name: str) -> dict[str, str]:
    """Entities of a file name of BIDS, and its ``suffix``.

    Examples
    --------
    >>> entities("sub-01_task-view_run-2_events.tsv")
    {'sub': '01', 'task': 'view', 'run': '2', 'suffix': 'events'}
    """
    *parts, suffix = name.split(".")[0].split("_")
    found = dict(part.split("-", 1) for part in parts if "-" in part)
    return {**found, "suffix": suffix}


def _number(text: str) -> int | str:
    return int(text) if re.fullmatch(r"[0-9]+", text) else text


def _image_column(table: pd.DataFrame, name: str | None) -> str:
    if name is not None:
        if name not in table:
            raise ValueError(f"trials has no column {name!r}; it has {list(table)}")
        return name
    found = [one for one in IMAGE_COLUMNS if one in table]
    if not found:
        raise ValueError(
            f"trials has the columns {list(table)}, and none that names the picture of a trial "
            f"({', '.join(IMAGE_COLUMNS[:4])} …): name it with image_column="
            + see("howto_own_data")
        )
    return found[0]


def check_conditions(pictures: Any, conditions: np.ndarray, name: str) -> None:
    """Compare the pictures of trials with the conditions that a GLM was fitted with.

    Pictures may share a condition, such as a category, but no picture has two.

    Warns
    -----
    UserWarning : a picture that is of several conditions.
    """
    table = pd.DataFrame({"picture": pd.Series(pictures).astype(str), "condition": conditions})
    several = table.groupby("picture")["condition"].nunique()
    if n_wrong := int((several > 1).sum()):
        example = several.idxmax()
        found = sorted(table.loc[table["picture"] == example, "condition"].unique().tolist())
        warnings.warn(
            f"{n_wrong} of {len(several)} pictures are of several conditions in {name}, "
            f"{example!r} of {found[:4]} for example: are the trials in the order of the betas?",
            stacklevel=4,
        )
