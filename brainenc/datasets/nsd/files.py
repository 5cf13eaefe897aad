"""Files of the Natural Scenes Dataset: their paths, and their values per voxel.

Maps and betas of the volume spaces have the grid (X, Y, Z) of the NIfTI files; those of fsaverage
have the grid (vertices,), the left hemisphere before the right.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.openers import ImageOpener

from brainenc.arrays import blocks
from brainenc.brain.surfaces import HEMISPHERES
from brainenc.brain.volumes import Volume, open_volume, read_volume
from brainenc.documentation import see
from brainenc.reading import check_claim, n_bytes_of, reading

#: Bucket with the files, under the same names.
BUCKET = "s3://natural-scenes-dataset"

#: Scanning sessions of each subject.
N_SESSIONS = {1: 40, 2: 40, 3: 32, 4: 30, 5: 40, 6: 32, 7: 40, 8: 30}

#: Trials of a session of the main experiment.
N_TRIALS = 750

#: Atlases to look for; `EncodingData.rois` uses the first.
ATLASES = (
    "prf-visualrois", "floc-bodies", "floc-faces", "floc-places", "floc-words", "streams",
)  # fmt: skip

#: Trials of a session read at a time.
_TRIALS_AT_ONCE = 25


@dataclass(frozen=True)
class Experiment:
    """An experiment of NSD: how many betas a session has, and how their files are called.

    Attributes
    ----------
    name : str
        Shown in messages and names of data.
    n_trials : int
        Betas of a session.
    prefix : str
        What the name of a beta version's folder begins with.
    stem : str
        Name of the files of betas without hemisphere and ending; ``{}`` is the session.
    """

    name: str
    n_trials: int
    prefix: str
    stem: str


CORE = Experiment("NSD", N_TRIALS, "", "betas_session{:02d}")
SYNTHETIC = Experiment("NSD-synthetic", 744, "nsdsynthetic", "betas_nsdsynthetic")
IMAGERY = Experiment("NSD-imagery", 720, "nsdimagery", "betas_nsdimagery")

#: A file, or alternatives of which one is enough.
Alternatives = tuple[Path, ...]


@dataclass(frozen=True)
class NSDFiles(ABC):
    """Files of one subject in one space.

    Parameters
    ----------
    root : Path
        The folder that holds ``nsddata``, ``nsddata_betas`` and ``nsddata_stimuli``.
    subject : int, 1 … 8
    betas : str
        Beta version: a folder's name.
    file_format : {"auto", "hdf5", "nifti"}
        Volume spaces only; "auto" takes the existing file.
    experiment : Experiment
    """

    root: Path
    subject: int
    betas: str = "betas_fithrf_GLMdenoise_RR"
    file_format: str = "auto"
    # Not shown, since a conversion of the main experiment goes by what is shown.
    experiment: Experiment = field(default=CORE, repr=False)

    space: ClassVar[str]
    #: Factor on the numbers in the files; 1 for percent signal change.
    scale: ClassVar[int]

    @property
    def design(self) -> Path:
        """File with the image of each trial."""
        return self.root / "nsddata/experiments/nsd/nsd_expdesign.mat"

    @property
    def stimuli(self) -> Path:
        """All 73 000 images."""
        return self.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"

    @property
    def beta_folder(self) -> Path:
        """Betas of the experiment."""
        return self.ncsnr_folder.with_name(self.experiment.prefix + self.betas)

    @property
    def ncsnr_folder(self) -> Path:
        """Betas and ncsnr of the main experiment."""
        ppdata = self.root / f"nsddata_betas/ppdata/subj{self.subject:02d}"
        return ppdata / self.space / self.betas

    def label_files(self, atlas: str) -> Alternatives:
        """Names of an atlas's labels."""
        folders = (f"subj{self.subject:02d}", "fsaverage")
        freesurfer = self.root / "nsddata/freesurfer"
        return tuple(freesurfer / folder / "label" / f"{atlas}.mgz.ctab" for folder in folders)

    @abstractmethod
    def sessions(self, session: int) -> list[Alternatives]:
        """Files of a session's betas."""

    @abstractmethod
    def roi_files(self, name: str) -> list[Alternatives]:
        """Files of an ROI map."""

    @abstractmethod
    def ncsnr_files(self) -> list[Alternatives]:
        """Files of the published ncsnr."""

    @abstractmethod
    def read_map(self, files: Sequence[Path]) -> np.ndarray:
        """One value per voxel of the grid."""

    @abstractmethod
    def voxel_table(self, mask: np.ndarray) -> pd.DataFrame:
        """Positions of the voxels of a mask, in the order of ``grid[mask]``."""

    def volume(self, mask_file: Path | None) -> Volume | None:
        """Grid and affine of a volume space."""
        return None

    @abstractmethod
    def read_betas(self, session: int, mask: np.ndarray) -> np.ndarray:
        """Betas of a session, (n_trials, n_voxels), in the numbers of the file."""


class NSDVolumeFiles(NSDFiles):
    """Files in the 1.8 mm volume of the subject."""

    space = "func1pt8mm"
    scale = 300

    @property
    def roi_folder(self) -> Path:
        """ROI volumes."""
        return self.root / f"nsddata/ppdata/subj{self.subject:02d}" / self.space / "roi"

    def sessions(self, session: int) -> list[Alternatives]:
        """As in `NSDFiles.sessions`."""
        endings = {"hdf5": [".hdf5"], "nifti": [".nii.gz"], "auto": [".hdf5", ".nii.gz"]}
        stem = self.experiment.stem.format(session)
        return [tuple(self.beta_folder / (stem + end) for end in endings[self.file_format])]

    def roi_files(self, name: str) -> list[Alternatives]:
        """As in `NSDFiles.roi_files`."""
        return [(self.roi_folder / f"{name}.nii.gz",)]

    def ncsnr_files(self) -> list[Alternatives]:
        """As in `NSDFiles.ncsnr_files`."""
        return [(self.ncsnr_folder / "ncsnr.nii.gz",)]

    def read_map(self, files: Sequence[Path]) -> np.ndarray:
        """As in `NSDFiles.read_map`."""
        return read_volume(files[0])[1]

    def voxel_table(self, mask: np.ndarray) -> pd.DataFrame:
        """As in `NSDFiles.voxel_table`."""
        table = pd.DataFrame(np.argwhere(mask), columns=["i", "j", "k"])
        if hemisphere := self._hemispheres(mask):
            table["hemisphere"] = hemisphere
        return table

    def _hemispheres(self, mask: np.ndarray) -> list[str]:
        """Hemisphere whose ROI files label a voxel; "" if none or both do."""
        labelled = {side: np.zeros(int(mask.sum()), dtype=bool) for side in HEMISPHERES}
        for side in HEMISPHERES:
            for name in ("nsdgeneral", *ATLASES):
                path = self.roi_folder / f"{side}.{name}.nii.gz"
                if path.exists():
                    values = self.read_map([path])
                    _check_shape(path, values.shape, mask.shape)
                    labelled[side] |= values[mask] > 0
        left, right = labelled.values()
        sides = np.select([left & ~right, right & ~left], HEMISPHERES, default="")
        return sides.tolist() if (left | right).any() else []

    def volume(self, mask_file: Path | None) -> Volume | None:
        """As in `NSDFiles.volume`."""
        candidates = [self.roi_folder / "nsdgeneral.nii.gz", *self.ncsnr_files()[0]]
        if mask_file is not None and mask_file.name.endswith((".nii", ".nii.gz")):
            candidates.insert(0, mask_file)
        for path in candidates:
            if path.exists():
                image = open_volume(path)
                with reading(path, "a volume (NIfTI or MGH)"):
                    return Volume(image.shape[:3], image.affine)
        return None

    def read_betas(self, session: int, mask: np.ndarray) -> np.ndarray:
        """As in `NSDFiles.read_betas`."""
        (path,) = existing(self.sessions(session))
        read = _read_hdf5 if path.suffix == ".hdf5" else _read_nifti
        return read(path, mask, self.experiment.n_trials)


class NSDSurfaceFiles(NSDFiles):
    """Files on the surface of fsaverage."""

    space = "fsaverage"
    scale = 1

    def sessions(self, session: int) -> list[Alternatives]:
        """As in `NSDFiles.sessions`."""
        stem = self.experiment.stem.format(session) + ".mgh"
        return [(self.beta_folder / f"{side}.{stem}",) for side in HEMISPHERES]

    def roi_files(self, name: str) -> list[Alternatives]:
        """As in `NSDFiles.roi_files`."""
        folder = self.root / "nsddata/freesurfer/fsaverage/label"
        return [(folder / f"{side}.{name}.mgz",) for side in HEMISPHERES]

    def ncsnr_files(self) -> list[Alternatives]:
        """As in `NSDFiles.ncsnr_files`."""
        return [(self.ncsnr_folder / f"{side}.ncsnr.mgh",) for side in HEMISPHERES]

    def read_map(self, files: Sequence[Path]) -> np.ndarray:
        """As in `NSDFiles.read_map`."""
        return np.concatenate([frame for path in files for frame in _mgh_frames(path)])

    def n_vertices(self, session: int) -> int:
        """Vertices of a hemisphere."""
        return next(_mgh_frames(existing(self.sessions(session))[0])).size

    def voxel_table(self, mask: np.ndarray) -> pd.DataFrame:
        """As in `NSDFiles.voxel_table`."""
        right, vertex = np.divmod(np.flatnonzero(mask), len(mask) // 2)
        return pd.DataFrame({"vertex": vertex, "hemisphere": np.take(HEMISPHERES, right)})

    def read_betas(self, session: int, mask: np.ndarray) -> np.ndarray:
        """As in `NSDFiles.read_betas`."""
        n_trials = self.experiment.n_trials
        betas = np.empty((n_trials, int(mask.sum())), dtype=np.float32)
        done = 0
        files = existing(self.sessions(session))
        for path, inside in zip(files, np.split(mask, 2), strict=True):
            columns = slice(done, done + int(inside.sum()))
            frames = _mgh_frames(path, (len(inside), 1, 1, n_trials))
            for trial, frame in enumerate(frames):
                betas[trial, columns] = frame[inside]
            done = columns.stop
        return betas


SPACES = {files.space: files for files in (NSDVolumeFiles, NSDSurfaceFiles)}


def _read_hdf5(path: Path, mask: np.ndarray, n_trials: int) -> np.ndarray:
    """Read by slices: chunks hold all trials of a voxel, so that reading by trials reads it all."""
    i, j, k = np.nonzero(mask)
    betas = np.empty((n_trials, len(i)), dtype=np.int16)
    with h5py.File(path, "r") as file:
        stored = file["betas"]
        _check_shape(path, stored.shape, (n_trials, *mask.shape[::-1]))
        _check_integers(path, stored.dtype)
        for z in np.unique(k):
            inside = np.flatnonzero(k == z)
            x, y = i[inside], j[inside]
            box = stored[:, z, y.min() : y.max() + 1, x.min() : x.max() + 1]
            betas[:, inside] = box[:, y - y.min(), x - x.min()]
    return betas


def _read_nifti(path: Path, mask: np.ndarray, n_trials: int) -> np.ndarray:
    betas = np.empty((n_trials, int(mask.sum())), dtype=np.int16)
    # Kept open, since a reopened compressed file is read from its start for each block.
    check_claim(path, 2 * n_trials * mask.size, compressed=path.suffix == ".gz")
    image: Any = nib.load(path, keep_file_open=True)
    _check_shape(path, image.shape, (*mask.shape, n_trials))
    _check_integers(path, image.get_data_dtype())
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    if (slope, intercept) != (1, 0):
        raise ValueError(
            f"{path} says that its numbers are {slope} · stored + {intercept}, but NSD's betas are "
            "plain int16, 300 × percent signal change: was the file written by another program?"
        )
    for trials in blocks(n_trials, _TRIALS_AT_ONCE):
        betas[trials] = np.asarray(image.dataobj[..., trials])[mask].T
    return betas


def _mgh_frames(path: Path, shape: tuple[int, ...] | None = None) -> Iterator[np.ndarray]:
    """Values of all vertices, one time point after the other; nib.load leaves the file open."""
    with reading(path, "an MGH file"), ImageOpener(str(path)) as file:
        header = MGHHeader.from_fileobj(file)
        stored, dtype = header.get_data_shape(), header.get_data_dtype()
        _check_shape(path, stored, shape or stored)
        check_claim(path, n_bytes_of(stored, dtype), compressed=path.suffix == ".mgz")
        n_bytes = math.prod(stored[:3]) * dtype.itemsize
        file.seek(header.get_data_offset())
        for _ in range(math.prod(stored[3:])):
            if len(frame := file.read(n_bytes)) < n_bytes:
                raise EOFError("it ends early")
            yield np.frombuffer(frame, dtype)


def _check_shape(path: Path, shape: Sequence[int], wanted: Sequence[int]) -> None:
    if tuple(shape) != tuple(wanted):
        raise ValueError(
            f"{path} has shape {tuple(shape)}, but with this mask it should be {tuple(wanted)}: "
            "is the mask of another subject or space, or are its axes in another order?"
        )


def _check_integers(path: Path, dtype: np.dtype) -> None:
    if dtype != np.int16:
        raise ValueError(
            f"{path} holds {dtype}, but NSD's betas in volumes are int16, 300 × percent signal "
            "change: with other numbers the scale would be wrong"
        )


def read_labels(path: Path) -> dict[int, str]:
    """Labels of a FreeSurfer colour table, by number; 0 means no label and is left out."""
    with reading(path, "a colour table"):
        rows = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
        labels = [(int(row[0]), row[1]) for row in rows if len(row) > 1 and int(row[0]) > 0]
        if len(dict(labels)) < len(labels):
            raise ValueError("it has a number twice")
    return dict(labels)


# ------------------------------------------------------------------ existing files


def existing(files: Iterable[Alternatives]) -> list[Path]:
    """One existing file of each set of alternatives; [] if any set has none."""
    found = [next((path for path in paths if path.exists()), None) for paths in files]
    return [] if None in found else found  # type: ignore[return-value]


def require(files: Iterable[Alternatives], root: Path, *, sessions: bool = True) -> None:
    """Check that all files exist.

    Parameters
    ----------
    files : iterable of alternatives
    root : Path
    sessions : bool
        Whether fewer sessions could be read, which the message then says.

    Raises
    ------
    FileNotFoundError : the message names every missing file and its folder.
    """
    missing = [paths for paths in files if not any(path.exists() for path in paths)]
    if missing:
        lines = [" or ".join(str(path) for path in paths) for paths in missing]
        raise FileNotFoundError(
            f"{len(missing)} files of NSD are missing under {root}"
            + ("" if root.is_dir() else ", which is no folder")
            + ". They belong here:\n  "
            + "\n  ".join(lines)
            + f"\nand can be had from {BUCKET}, where their names after {root}/ are the same. "
            "`brainenc download nsd` lists them."
            + (
                " To read those sessions only that are there, name them: sessions= or --sessions."
                if sessions
                else ""
            )
            + see("nsd").removeprefix(".")
        )
