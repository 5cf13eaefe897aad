"""The Natural Scenes Dataset, from files laid out as in its bucket."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainenc.data.encoding_data import EncodingData
from brainenc.datasets.nsd.convert import convert
from brainenc.datasets.nsd.design import N_REPEATS
from brainenc.datasets.nsd.files import N_SESSIONS
from brainenc.datasets.nsd.plan import UNITS, Plan, coverage_line, make_plan
from brainenc.datasets.streaming import check_new
from brainenc.progress import progress


def load_nsd(
    root: str | os.PathLike,
    subject: int = 1,
    *,
    units: str,
    space: str = "func1pt8mm",
    betas: str = "betas_fithrf_GLMdenoise_RR",
    file_format: str = "auto",
    mask: Any = "nsdgeneral",
    sessions: int | Sequence[int] | None = None,
    one_hour: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    verbose: bool = True,
) -> EncodingData:
    """A subject of NSD in memory; `convert_nsd` writes one that is larger than memory.

    Parameters
    ----------
    root : path
        The folder that holds ``nsddata``, ``nsddata_betas`` and ``nsddata_stimuli``, as in the
        bucket ``s3://natural-scenes-dataset``.
    subject : int, 1 … 8
    units : {"percent", "zscore"}
        Percent signal change (in volumes the files hold 300 times that, as integers), or z-scores
        of each voxel within each session, over all its 750 trials. No default: scores depend on it.
    space : {"func1pt8mm", "fsaverage"}
    betas : str
        Beta version: ``betas_fithrf_GLMdenoise_RR``, ``betas_fithrf`` or ``betas_assumehrf``.
    file_format : {"auto", "hdf5", "nifti"}
        Format of betas in the volume; "auto" prefers the HDF5 file, which is faster.
    mask : str, path or array
        An atlas (all its labels; of ``nsdgeneral`` the voxels that are 1), labels of an atlas as
        ``"prf-visualrois:V1v,V1d"``, a mask file (NIfTI, MGH or ``.npy``; above 0 is inside), an
        array on the grid of the space (fsaverage: left hemisphere, then right), or "all"
        (fsaverage).
    sessions : int or sequence of int, optional
        Counted from 1; all of the subject's by default.
    one_hour : {None, "images", "session"}
        Fewer training trials, as in few-shot experiments; all trials of shared images are kept.
        "images": the first 250 unshared images with all three repeats, 750 trials (papers choose
        different 250). "session": the trials of the first session.
    image_size : int or (height, width), optional
        Resize images on reading (bicubic); 425 × 425 otherwise.
    verbose : bool
        Show a progress bar, and print what was read, the units, and what was missing.

    Returns
    -------
    EncodingData
        Betas (n_images, 3, n_voxels) float32, images in increasing order of id; NaN where a repeat
        lies in another session or a voxel has no data in a session (constant: the volume's edge).
        Voxel table: ``i, j, k`` or ``vertex``, ``hemisphere``, one column of ROI labels per atlas,
        ``ncsnr``, and ``n_sessions``, in how many the voxel has data. Trial table: ``session``
        (from 1), ``trial`` (in the session, from 0), ``nsd_id`` (row among the 73 000 images, from
        0), ``shared`` (one of the 1 000 that all subjects saw). Images stay in
        ``nsd_stimuli.hdf5`` until they are read.

    Raises
    ------
    FileNotFoundError : the message lists all missing files and their folders.
    ValueError : an argument is not among the choices, or a file differs from NSD's layout.

    References
    ----------
    Allen et al. (2022), Nature Neuroscience 25.
    """
    plan = make_plan(
        root,
        subject,
        units=units,
        space=space,
        betas=betas,
        file_format=file_format,
        mask=mask,
        sessions=sessions,
        one_hour=one_hour,
        image_size=image_size,
    )
    return load_plan(plan, N_REPEATS, verbose)


def load_plan(plan: Plan, n_repeats: int, verbose: bool) -> EncodingData:
    """The data of a plan in memory."""
    _print(plan.lines, verbose)
    grouped = np.full((len(plan.images), n_repeats, len(plan.voxels)), np.nan, dtype=np.float32)
    has_data = []
    for session in progress(plan.sessions, desc="sessions", unit="session", verbose=verbose):
        trials, session_betas, varies = plan.read(session)
        grouped[trials["image"], trials["repeat"]] = session_betas[trials["trial"]]
        has_data.append(varies)
    voxels, trials = plan.tables(has_data)
    _print([coverage_line(voxels["n_sessions"].to_numpy(), len(has_data))], verbose)
    return EncodingData(
        plan.images,
        grouped,
        voxels,
        trials,
        plan.name,
        volume=plan.volume,
        units=UNITS[plan.units],
    )


def convert_nsd(
    root: str | os.PathLike,
    out: str | os.PathLike,
    subject: int = 1,
    *,
    units: str,
    space: str = "func1pt8mm",
    betas: str = "betas_fithrf_GLMdenoise_RR",
    file_format: str = "auto",
    mask: Any = "nsdgeneral",
    sessions: int | Sequence[int] | None = None,
    one_hour: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    copy_images: bool = False,
    verbose: bool = True,
) -> Path:
    """Write a subject of NSD as a ``.brain`` folder, one session in memory at a time.

    After an interruption, the same call continues after the last finished session and gives a
    bitwise identical folder. Until the end all files are in a hidden folder beside `out`,
    ``.<name>.partial``.

    Parameters
    ----------
    root, subject, units, space, betas, file_format, mask, sessions, one_hour, image_size, verbose
        As for `load_nsd`.
    out : path
        The ``.brain`` folder, which must not exist.
    copy_images : bool
        Copy the images shown, resized to `image_size`. Otherwise the folder stores the path of
        ``nsd_stimuli.hdf5`` and needs that file when images are read.

    Returns
    -------
    pathlib.Path : `out`

    Raises
    ------
    FileExistsError : `out` exists, or another process is writing it.
    OSError : the disk is too full for the betas.
    FileNotFoundError, ValueError : as for `load_nsd`.
    """
    out = Path(out)
    check_new(out)
    plan = make_plan(
        root,
        subject,
        units=units,
        space=space,
        betas=betas,
        file_format=file_format,
        mask=mask,
        sessions=sessions,
        one_hour=one_hour,
        image_size=image_size,
    )
    _print(plan.lines, verbose)
    _print(convert(plan, out, copy_images=copy_images, verbose=verbose), verbose)
    return out


def shared_test_mask(data: EncodingData, *, all_subjects: bool = False) -> np.ndarray:
    """Mask of NSD's test images: shared by all subjects and shown three times.

    ``data.train_test(shared_test_mask(data))`` is the split that papers use. Shared images shown
    less often stay with the training images.

    Parameters
    ----------
    data : EncodingData
        From `load_nsd` or `convert_nsd`.
    all_subjects : bool
        Only images shown three times to each of the eight subjects, within the 30 sessions that all
        have: 515 instead of 1 000.

    Returns
    -------
    array of bool, shape (n_images,)

    Raises
    ------
    ValueError : the trial table is not from NSD, or no image qualifies.
    """
    if missing := {"shared", "session"}.difference(data.trials):
        raise ValueError(
            f"the trial table has no column {sorted(missing)}: it is not of load_nsd or convert_nsd"
        )
    trials = data.trials[data.trials["shared"]]
    if all_subjects:
        trials = trials[trials["session"] <= min(N_SESSIONS.values())]
    n_shown = np.bincount(trials["image"], minlength=data.n_images)
    if not (n_shown == N_REPEATS).any():
        raise ValueError(
            f"no shared image was shown {N_REPEATS} times in the sessions read; read more sessions"
        )
    return n_shown == N_REPEATS


def _print(lines: list[str], verbose: bool) -> None:
    if verbose:
        print(*lines, sep="\n", flush=True)
