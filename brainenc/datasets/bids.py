"""Betas of trials in a derivative folder of BIDS.

Two layouts are read:

* **NiBetaSeries**: ``sub-01[_ses-…]_task-…[_run-…][_space-…]_desc-<trial type>_betaseries.nii.gz``,
  one volume for each event of the trial type, in the order of the rows of ``events.tsv``
  (``LSSBetaSeries`` and ``LSABetaSeries`` in ``nibetaseries/interfaces/nistats.py`` of
  https://github.com/HBClab/NiBetaSeries).
* **nilearn**: ``…_contrast-<trial>_stat-effect_statmap.nii.gz`` of
  ``nilearn.glm.save_glm_to_bids``, one file for each trial, where trials are called as in nilearn's
  example of beta series: the trial type and a number, ``face__003``, which is ``face003`` in the
  name of a file. That events are numbered in the order of the rows is a convention of that example;
  nilearn itself does not fix the names of trials. It leaves the run out of these names unless the
  prefix has it.

Other programs' layouts are not known to be the same: use `EncodingData.from_volumes` for them.
"""

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.data import from_volumes
from brainenc.data.encoding_data import EncodingData
from brainenc.data.image_files import natural_order
from brainenc.data.open_betas import open_betas
from brainenc.data.stimuli import read_table
from brainenc.data.volume_images import open_pictures
from brainenc.datasets.trial_tables import entities
from brainenc.documentation import see


@dataclass(frozen=True)
class _Series:
    """One file, and the trials that it has."""

    path: Path
    session: str
    task: str
    run: str
    space: str
    #: Trial type, in small letters and digits; of nilearn's files with the number behind.
    trial_type: str
    single: bool

    @property
    def group(self) -> tuple[str, str, str]:
        """Session, task and run."""
        return self.session, self.task, self.run


def load_bids(
    root: str | os.PathLike,
    subject: str,
    images: Any,
    mask: Any,
    *,
    events: str | os.PathLike | None = None,
    task: str | None = None,
    session: str | None = None,
    in_space: str | None = None,
    image_column: str = "stim_file",
    atlases: Any = None,
    labels: Any = None,
    stimuli: Any = None,
    units: str = "",
    name: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    space: str = "native",
    without_image: str = "refuse",
) -> EncodingData:
    """Trial-wise betas of a subject in a derivative folder of BIDS (NiBetaSeries, nilearn).

    Parameters
    ----------
    root : path
        The derivative folder, which holds ``sub-<subject>``.
    subject : str
        Label, with or without "sub-".
    images : folder, dict, list or array of images, or None
        As of `EncodingData.from_volumes`; None without `stimuli` is the folder ``stimuli`` of the
        data set.
    mask : path, image or array (X, Y, Z)
    events : path, optional
        The folder with ``sub-…/func/…_events.tsv``; by default `root`, or the data set that `root`
        is a derivative of (``<events>/derivatives/<root>``).
    task, session, in_space : str, optional
        Take files of this task, session or space only; needed if there are several tasks or spaces.
    image_column : str
        Column of ``events.tsv`` with the picture.
    atlases, labels, stimuli, units, name, image_size, space, without_image
        As of `EncodingData.from_volumes`. The units depend on how the GLM scaled its data.

    Returns
    -------
    EncodingData
        The trial table has ``session``, ``run``, and the columns of ``events.tsv``.

    Raises
    ------
    FileNotFoundError : no betas of the subject, or no events of a run.
    ValueError : several tasks or spaces; another number of volumes than events of the trial type;
        and as `EncodingData.from_volumes`.

    Warns
    -----
    UserWarning : events that have no betas.

    Notes
    -----
    The layouts are those of the programs' own code: ``nibetaseries/interfaces/nistats.py`` for
    ``*_desc-<trial type>_betaseries.nii.gz``, whose volumes are in the order of the events of the
    type, and ``nilearn.glm.save_glm_to_bids`` for
    ``*_contrast-<trial>_stat-effect_statmap.nii.gz``, one file per trial.
    The names of nilearn's trials, type and number, are those of its example of beta series and
    could not be verified for other scripts.
    """
    root = Path(root)
    subject = f"sub-{str(subject).removeprefix('sub-')}"
    series = _series(root, subject, task, session, in_space)
    folders = [Path(events)] if events is not None else [root, *root.absolute().parents[:2]]
    if images is None and stimuli is None:
        images = next((one / "stimuli" for one in folders if (one / "stimuli").is_dir()), None)
    paths: list[str] = []
    tables: list[pd.DataFrame] = []
    for group in dict.fromkeys(one.group for one in series):
        of_group = [one for one in series if one.group == group]
        path = _events_file(folders, subject, group)
        table = _trials(read_table(path, "events"), of_group, path, image_column)
        # Runs one after the other, and within a run the rows of events.tsv.
        table["presented"] += sum(int(one["presented"].max()) + 1 for one in tables[-1:])
        paths += table["path"].drop_duplicates().tolist()
        tables.append(table)
    trials = pd.concat(tables, ignore_index=True)
    grid, source = open_betas(paths, mask, space=space)
    expected: list[int] = trials.groupby("path", sort=False).size().reindex(paths).tolist()
    for one, n_events in zip(source.sources, expected, strict=True):
        if one.n_trials != n_events:
            raise ValueError(
                f"{one.name} has {one.n_trials} volumes, but its events.tsv has {n_events} events "
                "of the trial type"
            )
    session_of, run_of = (
        trials[key].to_numpy() if (trials[key] != "").any() else None for key in ("session", "run")
    )
    others = trials.drop(columns=["path", "picture", "session", "run", "presented"])
    plan = from_volumes.plan_trials(
        grid,
        source,
        trials["picture"].to_numpy(),
        open_pictures(images, stimuli, image_size=image_size),
        atlases=atlases,
        labels=labels,
        units=units,
        name=name or subject,
        without_image=without_image,
        others=others,
        presented=trials["presented"].to_numpy(),
        session=session_of,
        run=np.ones(len(trials), dtype=int) if run_of is None else run_of,
    )
    return EncodingData(**from_volumes.load(plan))


def _series(
    root: Path, subject: str, task: str | None, session: str | None, space: str | None
) -> list[_Series]:
    """Files with betas, by session, task and run."""
    folder = root / subject
    files = natural_order(folder.rglob("*.nii*")) if folder.is_dir() else []
    found = []
    for path in files:
        parts = entities(path.name)
        single = parts["suffix"] == "statmap" and parts.get("stat") == "effect"
        if parts["suffix"] != "betaseries" and not single:
            continue
        found.append(
            _Series(
                path,
                parts.get("ses", ""),
                parts.get("task", ""),
                parts.get("run", ""),
                parts.get("space", ""),
                _plain(parts.get("contrast" if single else "desc", "")),
                single,
            )
        )
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no betas of trials: neither *_betaseries.nii.gz (NiBetaSeries) nor "
            "*_stat-effect_statmap.nii.gz (nilearn)" + see("howto_own_data")
        )
    for key, wanted in (("session", session), ("task", task), ("space", space)):
        there = list(dict.fromkeys(getattr(one, key) for one in found))
        if wanted is not None:
            found = [one for one in found if getattr(one, key) == wanted]
            if not found:
                raise ValueError(f"{folder} has no betas of {key} {wanted!r}, but of {there}")
        elif key != "session" and len(there) > 1:
            argument = "in_space" if key == "space" else key
            raise ValueError(f"{folder} has betas of the {key}s {there}: name one, {argument}=")
    return sorted(found, key=lambda one: (_number(one.session), _number(one.run)))


def _plain(text: str) -> str:
    """Small letters and digits, which is what names of files keep of a trial type."""
    return re.sub("[^a-z0-9]", "", text.lower())


def _number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() else (-1, text)


def _events_file(folders: list[Path], subject: str, group: tuple[str, str, str]) -> Path:
    """Events of a run; betas without a number of a run need a session of one run."""
    session, task, run = group
    for folder in folders:
        found = []
        for path in natural_order((folder / subject).rglob("*_events.tsv")):
            parts = entities(path.name)
            same_run = not run or _number(parts.get("run", "")) == _number(run)
            if parts.get("ses", "") == session and same_run and parts.get("task", task) == task:
                found.append(path)
        if len(found) > 1:
            raise ValueError(
                f"the names of the betas of {subject} do not say their run, and there are the "
                f"events of {len(found)} runs, such as {found[0].name}: put run- into the names, "
                "or use EncodingData.from_volumes"
            )
        if found:
            return found[0]
    entity = [f"{k}-{v}" for k, v in zip(("ses", "task", "run"), group, strict=True) if v]
    raise FileNotFoundError(
        f"there is no {'_'.join([subject, *entity])}_events.tsv in "
        f"{', '.join(map(str, folders))}: name the folder of the data set with events="
        + see("howto_own_data")
    )


def _trials(
    events: pd.DataFrame, series: list[_Series], path: Path, image_column: str
) -> pd.DataFrame:
    """Event of each volume of some files, in the order of the files."""
    if image_column not in events:
        raise ValueError(
            f"{path} has no column {image_column!r}; it has {list(events)}: name the one with the "
            "picture with image_column="
        )
    types = events.get("trial_type", pd.Series([""] * len(events))).map(
        lambda value: _plain(str(value))
    )
    number = types.groupby(types).cumcount()
    found = []
    for one in series:
        rows = np.flatnonzero(types == one.trial_type)
        if one.single:
            rows = _single(one, types, number, series)
        if not len(rows):
            raise ValueError(
                f"{one.path.name} is of the trial type {one.trial_type!r}, but {path} has "
                f"{sorted(set(types))}"
            )
        found.append(events.iloc[rows].assign(path=str(one.path), presented=rows))
    table = pd.concat(found, ignore_index=True)
    used = set(table["presented"])
    if n_without := len(events) - len(used):
        kinds = sorted({types[i] for i in range(len(events)) if i not in used})
        warnings.warn(
            f"{n_without} of {len(events)} events in {path} have no betas (trial types {kinds})",
            stacklevel=3,
        )
    session, _, run = series[0].group
    table = table.rename(columns={image_column: "picture"})
    return table.assign(session=_label(session), run=_label(run))


def _single(one: _Series, types: pd.Series, number: pd.Series, series: list[_Series]) -> np.ndarray:
    """Row of the event of a file of one trial: its type, and its number from 0 or from 1."""
    match = re.fullmatch(r"(.*?)([0-9]+)", one.trial_type)
    if match is None:
        raise ValueError(
            f"{one.path} is of the contrast {one.trial_type!r}, which is no trial: trials are "
            "called by their type and number, such as face003" + see("howto_own_data")
        )
    for digits in range(1, len(match[2]) + 1):  # a type may end in a digit itself
        kind = one.trial_type[: len(one.trial_type) - digits]
        if not (types == kind).any():
            continue
        of_kind = [
            int(other.trial_type[len(kind) :])
            for other in series
            if other.trial_type.startswith(kind) and other.trial_type[len(kind) :].isdecimal()
        ]
        first = 0 if min(of_kind) == 0 else 1
        position = int(one.trial_type[len(kind) :]) - first
        return np.flatnonzero((types == kind) & (number == position))
    return np.array([], dtype=int)


def _label(text: str) -> Any:
    return int(text) if text.isdecimal() else text
