"""Which files of NSD a conversion needs, how large they are, and how to fetch them.

Nothing is fetched unless asked for, and then with the user's own access to AWS.
"""

import math
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from brainenc.brain.surfaces import HEMISPHERES
from brainenc.datasets.nsd.files import (
    ATLASES,
    BUCKET,
    CORE,
    IMAGERY,
    SYNTHETIC,
    Alternatives,
    NSDFiles,
)
from brainenc.datasets.nsd.imagery import RUNS, log_file
from brainenc.datasets.nsd.plan import check_choice, choose_files, mask_files, session_numbers
from brainenc.datasets.nsd.synthetic import stimulus_files
from brainenc.documentation import see
from brainenc.memory import free_disk, size

#: Experiments by the value of the argument.
EXPERIMENTS = {"nsd": CORE, "nsdsynthetic": SYNTHETIC, "nsdimagery": IMAGERY}

#: Stands for the bucket, under which paths are made.
_ROOT = "bucket of NSD"

#: Region of the bucket.
_REGION = "us-east-2"

#: Voxels of the 1.8 mm volumes along x, y and z, of subjects 1 … 8 (NSD data manual).
_VOLUMES = (
    (81, 104, 83), (82, 106, 84), (81, 106, 82), (85, 99, 80),
    (79, 97, 78), (85, 113, 83), (78, 95, 81), (80, 103, 78),
)  # fmt: skip

#: Vertices of a hemisphere of fsaverage.
_VERTICES = 163_842

#: Bytes per voxel that HDF5 adds for its table of chunks. From the size of one file that was made
#: public, 1 052 494 008 bytes: NSD-imagery of subject 1, 720 trials of 699 192 voxels.
_CHUNK = (1_052_494_008 - 2 * 720 * 699_192) / 699_192

#: Bytes per voxel and trial of a compressed file of betas; one session is said to be 467 MB.
_COMPRESSED = 0.9

#: Sizes of small files, roughly; some were said in public, others are guesses.
_SMALL = {
    "nsd_expdesign.mat": 400_000, ".mat": 5_000, ".ctab": 500, ".csv": 20_000, ".tsv": 10_000,
    ".mgz": 50_000, "/": 10_000_000,
    "ncsnr.nii.gz": 1_100_000, ".nii.gz": 70_000,
}  # fmt: skip


def nsd_files(
    subject: int = 1,
    *,
    experiment: str = "nsd",
    space: str = "func1pt8mm",
    betas: str = "betas_fithrf_GLMdenoise_RR",
    file_format: str = "hdf5",
    mask: Any = "nsdgeneral",
    sessions: int | Sequence[int] | None = None,
) -> pd.DataFrame:
    """Files of NSD's bucket that a conversion reads, with their sizes.

    Parameters
    ----------
    subject : int, 1 … 8
    experiment : {"nsd", "nsdsynthetic", "nsdimagery"}
        For `convert_nsd` and `load_nsd`, for `load_nsd_synthetic`, or for `load_nsd_imagery`.
    space, betas, mask, sessions
        As for `load_nsd`.
    file_format : {"hdf5", "nifti"}
        Of betas in the volume. HDF5 is read faster, NIfTI is about half as large.

    Returns
    -------
    pandas.DataFrame
        ``path``, in the bucket ``s3://natural-scenes-dataset`` and below `root` of `load_nsd`; a
        folder ends in "/". ``n_bytes``; ``size``: "computed" from the format of the file, or
        "estimated". ``needed``: whether reading fails without it; without the others atlases,
        hemispheres, ncsnr or names of images are left out.

    Raises
    ------
    ValueError : an argument is not among the choices.

    Examples
    --------
    >>> files = nsd_files(1, sessions=[1, 2])
    >>> files["path"][2]
    'nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR/betas_session01.hdf5'
    >>> int(files["n_bytes"][2])
    1094445528
    """
    check_choice("experiment", experiment, EXPERIMENTS)
    check_choice("file_format", file_format, ("hdf5", "nifti"))
    of_experiment = EXPERIMENTS[experiment]
    files = choose_files(_ROOT, subject, "percent", space, betas, file_format, of_experiment)
    if of_experiment is not CORE and sessions is not None:
        raise ValueError(f"experiment={experiment!r} has one session: leave out sessions=")
    numbers = session_numbers(sessions, subject) if of_experiment is CORE else [1]
    of_betas = [paths for number in numbers for paths in files.sessions(number)]
    inputs, further = _INPUTS[experiment](files)
    needed = [*inputs, *_one_of(of_betas), *_one_of(_in_bucket(mask_files(files, mask), files))]
    further += [
        *_by_hemisphere(files, "nsdgeneral"),
        *(path for atlas in ATLASES for path in _atlas(files, atlas)),
        *_one_of(files.ncsnr_files()),
    ]
    rows = []
    for path in dict.fromkeys([*needed, *further]):
        n_bytes, computed = _size_of(path, files)
        basis = "computed" if computed else "estimated"
        name = path.relative_to(files.root).as_posix() + ("" if path.suffix else "/")
        rows.append((name, n_bytes, basis, path in needed))
    return pd.DataFrame(rows, columns=["path", "n_bytes", "size", "needed"])


def download_nsd(
    root: str | os.PathLike, files: pd.DataFrame, *, client: str = "auto", verbose: bool = True
) -> list[Path]:
    """Fetch files of NSD with your own access to AWS.

    NSD's terms ask for the Data Access Agreement (naturalscenesdataset.org) before you fetch.
    Existing files are left as they are, and a file appears under its name when it is whole.

    Parameters
    ----------
    root : path
        Folder to fetch into, that for `load_nsd`.
    files : pandas.DataFrame
        Of `nsd_files`, or some of its rows.
    client : {"auto", "boto3", "aws"}
        The library boto3 or the command ``aws``; each uses the credentials and settings that you
        configured for it. "auto" takes boto3 if it is installed.
    verbose : bool
        Print a line per file.

    Returns
    -------
    list of pathlib.Path : the files and folders, in the order of `files`, of those that are there

    Raises
    ------
    OSError : too little room on the disk, or a needed file could not be fetched.
    ImportError : neither boto3 nor ``aws`` is there.

    Examples
    --------
    >>> download_nsd("nsd", nsd_files(1, sessions=1))  # doctest: +SKIP
    """
    root = Path(root)
    fetch = _client(client)
    missing = files[[not (root / path).exists() for path in files["path"]]]
    n_bytes, free = int(missing["n_bytes"].sum()), free_disk(root)
    if n_bytes > free:
        raise OSError(f"{size(n_bytes)} are to be fetched into {root}, and {size(free)} are free")
    there = []
    for row in files.itertuples():
        target = root / str(row.path)
        if not target.exists() and not _fetched(fetch, row, target, verbose):
            continue
        there.append(target)
    return there


# ------------------------------------------------------------------ which files


def _of_core(files: NSDFiles) -> tuple[list[Path], list[Path]]:
    return [files.design, files.stimuli], []


def _of_synthetic(files: NSDFiles) -> tuple[list[Path], list[Path]]:
    folder = files.root / "nsddata/experiments/nsdsynthetic"
    design = folder / "nsdsynthetic_expdesign.mat"
    return [design, *stimulus_files(files)], [folder / "nsdsyntheticimageinformation.csv"]


def _of_imagery(files: NSDFiles) -> tuple[list[Path], list[Path]]:
    folder = files.root / "nsddata/experiments/nsdimagery"
    lists = [folder / f"{letter}_pair_list.mat" for letter in "AB"]
    pictures = [folder / f"rawtargetimages/set{letter}" for letter in "AB"]
    runs = [run.name for run in RUNS if run.task != "attention" and run.targets in "AB"]
    return [*lists, *pictures, *(log_file(files.root, files.subject, run) for run in runs)], []


_INPUTS: dict[str, Callable[[NSDFiles], tuple[list[Path], list[Path]]]] = {
    "nsd": _of_core,
    "nsdsynthetic": _of_synthetic,
    "nsdimagery": _of_imagery,
}


def _one_of(files: Sequence[Alternatives]) -> list[Path]:
    return [paths[0] for paths in files]


def _in_bucket(files: Sequence[Alternatives], given: NSDFiles) -> list[Alternatives]:
    """Without mask files of the user's own."""
    return [paths for paths in files if given.root in paths[0].parents]


def _atlas(files: NSDFiles, atlas: str) -> list[Path]:
    """Maps, in volumes also by hemisphere, and names of the labels."""
    maps = _one_of(files.roi_files(atlas))
    return [*maps, *_by_hemisphere(files, atlas), files.label_files(atlas)[0]]


def _by_hemisphere(files: NSDFiles, atlas: str) -> list[Path]:
    """Maps of one hemisphere in the volume, of which the loader learns the hemispheres."""
    if files.space != "func1pt8mm":
        return []
    (path,) = _one_of(files.roi_files(atlas))
    return [path.with_name(f"{side}.{path.name}") for side in HEMISPHERES]


# ------------------------------------------------------------------ how large


def _size_of(path: Path, files: NSDFiles) -> tuple[int, bool]:
    """Bytes of a file, and whether they are computed from its format."""
    n_trials, name = files.experiment.n_trials, path.name
    n_voxels = math.prod(_VOLUMES[files.subject - 1])
    if name == "nsd_stimuli.hdf5":
        return 73_000 * 425 * 425 * 3, True
    if name.startswith("nsdsynthetic_"):
        if path.suffix == ".hdf5":
            return (220 if name == "nsdsynthetic_stimuli.hdf5" else 64) * 714 * 1360 * 3, False
    elif path.suffix == ".hdf5":
        return round(n_voxels * (2 * n_trials + _CHUNK)), True
    elif name.startswith("betas_"):
        return round(n_voxels * n_trials * _COMPRESSED), False
    elif path.suffix == ".mgh":
        n_frames = 1 if "ncsnr" in name else n_trials
        return 284 + 4 * _VERTICES * n_frames, True
    ending = next((ending for ending in _SMALL if name.endswith(ending)), "/")
    return _SMALL[ending], False


# ------------------------------------------------------------------ fetching


def _client(name: str) -> Callable[[str, Path], None]:
    """Function that fetches a path of the bucket to a file, or a folder."""
    check_choice("client", name, ("auto", "boto3", "aws"))
    if name != "aws":
        with suppress(ImportError):
            return _boto3_client()
    if name != "boto3" and shutil.which("aws"):
        return _fetch_with_aws
    wanted = {"auto": "boto3 or the command aws", "aws": "the command aws"}.get(name, name)
    raise ImportError(
        f"fetching needs {wanted}: pip install boto3 (or awscli), then `aws configure` with your "
        f"own account; or fetch the files from {BUCKET} by hand" + see("nsd")
    )


def _boto3_client() -> Callable[[str, Path], None]:
    import boto3

    client = boto3.client("s3", region_name=_REGION)
    bucket = BUCKET.removeprefix("s3://")

    def fetch(path: str, target: Path) -> None:
        if not path.endswith("/"):
            client.download_file(bucket, path, str(target))
            return
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=path)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        for key in keys:
            if not key.endswith("/"):
                file = target / key.removeprefix(path)
                file.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(bucket, key, str(file))

    return fetch


def _fetch_with_aws(path: str, target: Path) -> None:
    copy = ["cp", "--recursive"] if path.endswith("/") else ["cp"]
    command = ["aws", "s3", *copy, "--only-show-errors", f"{BUCKET}/{path}", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise OSError(lines[-1] if lines else f"aws ended with status {done.returncode}")


def _fetched(fetch: Callable[[str, Path], None], row: Any, target: Path, verbose: bool) -> bool:
    """Fetch a file under another name first; False if it is not needed and cannot be had."""
    part = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    if verbose:
        print(f"{row.path} ({size(row.n_bytes)}, {row.size})", flush=True)
    _remove(part)  # of a run that was stopped
    try:
        fetch(row.path, part)
        if not part.exists():
            raise OSError("nothing was fetched")
        part.rename(target)
    except Exception as error:  # boto3 has its own kinds
        _remove(part)
        if row.needed:
            raise OSError(f"{BUCKET}/{row.path} could not be fetched: {error}") from error
        if verbose:
            print(f"  left out, as it could not be fetched: {error}", flush=True)
        return False
    return True


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part)
    part.unlink(missing_ok=True)
