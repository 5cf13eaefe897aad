"""NSD-imagery: targets seen and imagined by the subjects of NSD in one more session."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from brainenc.data.encoding_data import EncodingData
from brainenc.datasets.mat_file import read_variables
from brainenc.datasets.nsd.files import IMAGERY, Alternatives
from brainenc.datasets.nsd.load import load_plan
from brainenc.datasets.nsd.plan import (
    check_choice,
    choose_files,
    plan_of_trials,
    require_inputs,
)
from brainenc.datasets.published_files import open_pictures, read_text_table, trials_by_image

#: Trials of a run.
N_RUN = 48


class Run(NamedTuple):
    """A run: its name, task, set of targets, and position of its first beta in the session."""

    name: str
    task: str
    targets: str
    first: int


def _runs() -> list[Run]:
    """Runs in the order of the session; a trial of the attention task has two betas."""
    names = [f"{task}{targets}" for targets in "ABC" for task in ("vis", "att", "img")]
    # Each run of imagery was done twice, the second time at the end.
    names = [f"{name}_1" if name.startswith("img") else name for name in names]
    names += ["imgA_2", "imgB_2", "imgC_2"]
    tasks = {"vis": "vision", "att": "attention", "img": "imagery"}
    runs, first = [], 0
    for name in names:
        runs.append(Run(name, tasks[name[:3]], name[3], first))
        first += 2 * N_RUN if name.startswith("att") else N_RUN
    return runs


RUNS = _runs()


def load_nsd_imagery(
    root: str | os.PathLike,
    subject: int = 1,
    *,
    task: str,
    order: str,
    units: str,
    sets: str = "AB",
    space: str = "func1pt8mm",
    betas: str = "betas_fithrf_GLMdenoise_RR",
    file_format: str = "auto",
    mask: Any = "nsdgeneral",
    image_size: int | tuple[int, int] | None = None,
    verbose: bool = True,
) -> EncodingData:
    """A subject of NSD-imagery: responses to targets that were seen, or imagined.

    Parameters
    ----------
    root : path
        The folder that holds ``nsddata`` and ``nsddata_betas``, as for `load_nsd`.
    subject : int, 1 … 8
    task : {"vision", "imagery"}
        Targets on the screen (8 trials each), or imagined at a cue (16 trials each).
    order : {"presented", "condition"}
        Which of a run's 48 betas belongs to which trial: "presented", in the order of presentation,
        or "condition", target by target and in the order of presentation within each. Public
        analyses of the files contradict each other, so there is no default. With the wrong order
        betas of different targets are mixed, and ``data.noise_ceiling()`` of task="vision" is near
        zero: try both.
    units : {"percent", "zscore"}
        As for `load_nsd`; z-scores are over the 720 betas of the session.
    sets : str
        Letters of the sets of targets: A (bars and crosses) and B (photographs and a painting).
        C are words, which have no pictures.
    space, betas, file_format, mask, verbose
        As for `load_nsd`. Betas are in ``nsdimagery<betas>/betas_nsdimagery.hdf5``, ``….nii.gz`` or
        ``{lh,rh}.….mgh``.
    image_size : int or (height, width), optional
        As for `load_nsd`; needed if the targets differ in size.

    Returns
    -------
    EncodingData
        Betas (n_targets, n_repeats, n_voxels) float32, images in the order of set and target.
        Voxel table: as of `load_nsd`, but the ncsnr of the main experiment is ``nsd_ncsnr``. Trial
        table: ``session``, ``run`` (1 … 12), ``trial`` (beta in the session, from 0), ``set``,
        ``target`` (its letter), ``stimulus``.

    Raises
    ------
    FileNotFoundError : the message lists all missing files and their folders.
    ValueError : an argument is not among the choices, or a file differs from the layout.

    References
    ----------
    Kneeland et al. (2025), CVPR. The order of the runs and the two betas of an attention trial are
    those of the NSD data manual, "Functional data (nsdimagery)"; names of files and columns are
    those of public code. It was not checked against the real files.

    Examples
    --------
    >>> load_nsd_imagery("nsd", task="vision", order="as stored", units="zscore")
    Traceback (most recent call last):
    ...
    ValueError: order='as stored' must be one of 'presented', 'condition'
    """
    check_choice("task", task, ("vision", "imagery"))
    check_choice("order", order, ("presented", "condition"))
    if not sets or not set(sets) <= set("ABC"):
        raise ValueError(f"sets={sets!r} must be of the letters A, B and C")
    files = choose_files(root, subject, units, space, betas, file_format, IMAGERY)
    runs = [run for run in RUNS if run.task == task and run.targets in sets]
    experiment = files.root / "nsddata/experiments/nsdimagery"
    lists = {letter: experiment / f"{letter}_pair_list.mat" for letter in sorted(set(sets))}
    logs = {run: log_file(files.root, subject, run.name) for run in runs}
    needed: list[Alternatives] = [(path,) for path in [*lists.values(), *logs.values()]]
    require_inputs(files, [1], mask, needed)

    targets = pd.concat([_targets(path, letter) for letter, path in lists.items()])
    targets = targets.set_index(["set", "target"])
    shown = pd.concat(
        [_trials(run, path, task, order, targets) for run, path in logs.items()], ignore_index=True
    )
    pictures = [
        experiment / f"rawtargetimages/set{letter}/{name}"
        for letter, name in zip(targets.index.get_level_values("set"), targets["name"], strict=True)
    ]
    if missing := [path for path in pictures if not path.exists()]:
        raise ValueError(
            f"{len(missing)} targets have no picture, {missing[0]} for example: the words of set C "
            "have none, so leave it out of sets="
        )
    row = {key: i for i, key in enumerate(targets.index)}
    position = [row[key] for key in zip(shown["set"], shown["target"], strict=True)]
    names, places = trials_by_image(position)
    trials = places.drop(columns="trial").assign(
        session=1,
        run=shown["run"],
        trial=shown["beta"],
        set=shown["set"],
        target=shown["target"],
        stimulus=targets["name"].to_numpy()[position],
    )
    images = open_pictures([pictures[i] for i in names], image_size)
    plan = plan_of_trials(files, units, [1], trials, mask, images)
    return load_plan(plan, int(trials["repeat"].max()) + 1, verbose)


def log_file(root: Path, subject: int, run: str) -> Path:
    """Table of the trials of a run."""
    return root / f"nsddata/bdata/nsdimagery/nsdimagery_subj{subject:02d}_{run}.tsv"


def _targets(path: Path, letter: str) -> pd.DataFrame:
    """The six targets of a set, in the order of their numbers."""
    cells = read_variables(path, ["pair_list"]).get("pair_list")
    if not isinstance(cells, np.ndarray) or cells.shape != (6, 3) or cells.dtype != object:
        raise ValueError(
            f"{path} must hold pair_list, 6 × 3 cells: number, picture and letter of each target"
        )
    rows = [(int(np.ravel(number)[0]), str(name), str(code)) for number, name, code in cells]
    table = pd.DataFrame(rows, columns=["number", "name", "target"]).sort_values("number")
    if table["target"].duplicated().any():
        raise ValueError(f"{path} has a letter for several targets: {table['target'].tolist()}")
    return table.assign(set=letter)


def _trials(run: Run, path: Path, task: str, order: str, targets: pd.DataFrame) -> pd.DataFrame:
    """Trials of a run in the order of presentation, with the beta of each."""
    # CONDITION is what was on the screen, CUE what was to be imagined.
    column = {"vision": "CONDITION", "imagery": "CUE"}[task]
    table = read_text_table(path, ["TRIAL", column], separator="\t").sort_values("TRIAL")
    if table["TRIAL"].tolist() != list(range(1, N_RUN + 1)):
        raise ValueError(f"{path} must list the trials 1 … {N_RUN}, each once")
    letters = table[column].astype(str).str.strip().to_numpy()
    known = targets.loc[run.targets]
    if unknown := sorted(set(letters) - set(known.index)):
        raise ValueError(f"{path} has {unknown} in {column}, but targets are {list(known.index)}")
    beta = np.arange(N_RUN)
    if order == "condition":
        number = known["number"].reindex(letters).to_numpy()
        beta[np.argsort(number, kind="stable")] = np.arange(N_RUN)
    return pd.DataFrame(
        {
            "set": run.targets,
            "target": letters,
            "run": 1 + RUNS.index(run),
            "beta": run.first + beta,
        }
    )
