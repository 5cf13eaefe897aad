"""NSD-synthetic: 284 synthetic images shown to the subjects of NSD in one more session."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.data.encoding_data import EncodingData
from brainenc.data.hdf5_images import HDF5Images
from brainenc.data.images import ImageSubset, take_images
from brainenc.datasets.mat_file import read_numbers
from brainenc.datasets.nsd.files import SYNTHETIC, NSDFiles
from brainenc.datasets.nsd.load import load_plan
from brainenc.datasets.nsd.plan import choose_files, plan_of_trials, require_inputs
from brainenc.datasets.published_files import as_size, read_text_table

#: Images; the first of them are the same for all subjects.
N_IMAGES, N_SAME = 284, 220

#: Trials of a run. Runs alternate between two tasks, this one first.
N_RUN, TASKS = 93, ("fixation", "one-back")


def load_nsd_synthetic(
    root: str | os.PathLike,
    subject: int = 1,
    *,
    units: str,
    space: str = "func1pt8mm",
    betas: str = "betas_fithrf_GLMdenoise_RR",
    file_format: str = "auto",
    mask: Any = "nsdgeneral",
    image_size: int | tuple[int, int] | None = None,
    verbose: bool = True,
) -> EncodingData:
    """A subject of NSD-synthetic: 744 trials of 284 images, for tests outside natural scenes.

    Parameters
    ----------
    root : path
        The folder that holds ``nsddata``, ``nsddata_betas`` and ``nsddata_stimuli``, as for
        `load_nsd`.
    subject : int, 1 … 8
    units, space, betas, file_format, mask, verbose
        As for `load_nsd`; z-scores are over the 744 trials of the session. Betas are in
        ``nsdsynthetic<betas>/betas_nsdsynthetic.hdf5``, ``….nii.gz`` or ``{lh,rh}.….mgh``.
    image_size : int or (height, width), optional
        As for `load_nsd`; 714 × 1360 pixels by default.

    Returns
    -------
    EncodingData
        Betas (284, n_repeats, n_voxels) float32, images in the order of their numbers; NaN where an
        image has fewer trials. Voxel table: as of `load_nsd`, but the ncsnr of the main experiment
        is ``nsd_ncsnr``: noise ceilings here come from the repeats. Trial table: ``session``,
        ``run`` (from 1), ``trial`` (in the session, from 0), ``synthetic_id`` (number of the image,
        from 0), ``task`` ("fixation" or "one-back"), ``one_back`` (the same image as in the
        trial before), and ``stimulus``, ``category`` and ``subcategory`` if
        ``nsdsyntheticimageinformation.csv`` is there. Images are read lazily, as they are stored;
        the authors' own analyses brighten the first 220 by a square root.

    Raises
    ------
    FileNotFoundError : the message lists all missing files and their folders.
    ValueError : an argument is not among the choices, or a file differs from the layout.

    References
    ----------
    Gifford et al. (2025), arXiv 2503.06286. The layout is that of the NSD data manual, "Functional
    data (nsdsynthetic)", and of public code that reads it; it was not checked against the real
    files.

    Examples
    --------
    >>> load_nsd_synthetic("nsd", subject=9, units="zscore")
    Traceback (most recent call last):
    ...
    ValueError: subject=9 must be one of 1, 2, 3, 4, 5, 6, 7, 8
    """
    size = as_size(image_size)
    files = choose_files(root, subject, units, space, betas, file_format, SYNTHETIC)
    design = files.root / "nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat"
    stimuli = stimulus_files(files)
    require_inputs(files, [1], mask, [(design,), *((path,) for path in stimuli)])
    trials = _trials(design)
    described = _described(design.with_name("nsdsyntheticimageinformation.csv"), trials)
    images = take_images(_open_images(stimuli, size), np.unique(trials["synthetic_id"]))
    plan = plan_of_trials(files, units, [1], trials.assign(**described), mask, images)
    return load_plan(plan, int(trials["repeat"].max()) + 1, verbose)


def stimulus_files(files: NSDFiles) -> list[Path]:
    """Files with the images that all subjects saw, and with the coloured ones of this subject."""
    folder = files.root / "nsddata_stimuli/stimuli/nsdsynthetic"
    own = f"nsdsynthetic_colorstimuli_subj{files.subject:02d}.hdf5"
    return [folder / "nsdsynthetic_stimuli.hdf5", folder / own]


def _trials(design: Path) -> pd.DataFrame:
    stored = read_numbers(design, ["masterordering"]).get("masterordering")
    n_trials = SYNTHETIC.n_trials
    if stored is None or stored.shape != (1, n_trials):
        raise ValueError(
            f"{design} holds masterordering {None if stored is None else stored.shape}, but "
            f"NSD-synthetic's is (1, {n_trials})"
        )
    if (stored % 1 != 0).any() or stored.min() < 1 or stored.max() > N_IMAGES:
        raise ValueError(f"masterordering in {design} must be whole numbers of 1 … {N_IMAGES}")
    shown = stored[0].astype(np.int64) - 1
    trial = np.arange(n_trials)
    trials = pd.DataFrame({"image": np.unique(shown, return_inverse=True)[1]})
    trials["repeat"] = trials.groupby("image").cumcount()
    trials["session"], trials["run"], trials["trial"] = 1, 1 + trial // N_RUN, trial
    trials["synthetic_id"] = shown
    trials["task"] = np.take(TASKS, trial // N_RUN % 2)
    trials["one_back"] = np.r_[False, shown[1:] == shown[:-1]] & (trial % N_RUN > 0)
    return trials


def _described(path: Path, trials: pd.DataFrame) -> dict[str, Any]:
    """Names and classes of the images of the trials; {} without the file."""
    if not path.exists():
        return {}
    columns = {"stimulus": "Image", "category": "Image class", "subcategory": "Image subclass"}
    table = read_text_table(path, list(columns.values()))
    if len(table) != N_IMAGES:
        raise ValueError(f"{path} has {len(table)} rows, but there are {N_IMAGES} images")
    rows = trials["synthetic_id"].to_numpy()
    return {name: table[theirs].to_numpy()[rows] for name, theirs in columns.items()}


def _open_images(stimuli: list[Path], size: tuple[int, int] | None) -> "JoinedImages":
    parts = [HDF5Images(path, size=size) for path in stimuli]
    for part, n_images in zip(parts, (N_SAME, N_IMAGES - N_SAME), strict=True):
        if len(part) != n_images or part.shape[1:] != parts[0].shape[1:]:
            raise ValueError(
                f"{part.path} has images {part.shape}, but ({n_images}, "
                f"{', '.join(map(str, parts[0].shape[1:]))}) are expected"
            )
    return JoinedImages(parts)


class JoinedImages:
    """Lazy images of several files, one after the other.

    Parameters
    ----------
    parts : list of lazy sequences of shape (n, H, W[, 3]), alike but for n
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, parts: list[Any]):
        self.parts = parts
        self.shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, (int, np.integer)):
            return ImageSubset(self, np.arange(len(self))[key])
        row = range(len(self))[key]
        for part in self.parts:
            if row < len(part):
                return np.asarray(part[row])
            row -= len(part)
        raise IndexError(key)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)
