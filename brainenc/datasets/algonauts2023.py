"""The Algonauts Project 2023 challenge: its folders, its score and its submission files."""

import io
import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from pickletools import genops
from typing import Any

import numpy as np
import pandas as pd

from brainenc.arrays import row_blocks, write_array
from brainenc.brain.surfaces import HEMISPHERES
from brainenc.data.encoding_data import EncodingData
from brainenc.data.images import ImageFiles
from brainenc.datasets.nsd.files import ATLASES
from brainenc.datasets.published_files import require_files
from brainenc.metrics import NoiseCeiling, correlation
from brainenc.reading import read_array, reading
from brainenc.storage import atomic_path

_IMAGE_NAME = re.compile(r"(?:train|test)-(\d+)_nsd-(\d+)\.png")


def load_algonauts2023(root: str | os.PathLike, subject: int = 1) -> EncodingData:
    """Training images and responses of a subject.

    Parameters
    ----------
    root : path
        The folder that holds ``subj01`` … ``subj08``.
    subject : int, 1 … 8

    Returns
    -------
    EncodingData
        Betas (n_images, 1, n_vertices) float32, averaged over repeats by the challenge; vertices of
        the left hemisphere come first. Voxel table: ``hemisphere``, ``vertex`` (of fsaverage, from
        0), one column of ROI labels per atlas. Trial table: ``nsd_id`` (row among NSD's 73 000
        images, from 0). Images are read lazily.

    Raises
    ------
    FileNotFoundError : lists all files that are missing.
    ValueError : image files are not numbered 1 … n, or arrays do not match.

    References
    ----------
    Gifford et al. (2023), arXiv 2301.03198.
    """
    folder = _subject_folder(root, subject)
    responses = {
        side: folder / f"training_split/training_fmri/{side}_training_fmri.npy"
        for side in HEMISPHERES
    }
    places = {
        side: folder / f"roi_masks/{side}.all-vertices_fsaverage_space.npy" for side in HEMISPHERES
    }
    require_files([*responses.values(), *places.values()], "Algonauts 2023")
    images, nsd_id = _numbered_images(folder / "training_split/training_images")
    betas = _side_by_side(responses)
    if len(betas) != len(images):
        raise ValueError(
            f"{folder} has {len(images)} training images, but responses to {len(betas)}"
        )
    voxels = _voxel_table(folder, places)
    if len(voxels) != betas.shape[2]:
        raise ValueError(
            f"{places['lh'].parent} has masks of {len(voxels)} vertices, but the responses in "
            f"{folder} are of {betas.shape[2]}: are the masks of another subject?"
        )
    trials = pd.DataFrame({"image": np.arange(len(images)), "repeat": 0, "nsd_id": nsd_id})
    return EncodingData(
        images,
        betas,
        voxels,
        trials,
        f"Algonauts 2023 subj{subject:02d}",
        units="z-scored within session, averaged over repeats",
    )


def algonauts2023_test_images(root: str | os.PathLike, subject: int = 1) -> ImageFiles:
    """Test images of a subject, in the order of a submission; read lazily.

    Raises
    ------
    FileNotFoundError, ValueError : no such folder, or files that are not numbered 1 … n.
    """
    return _numbered_images(_subject_folder(root, subject) / "test_split/test_images")[0]


# ------------------------------------------------------------------ score and submission


@dataclass(frozen=True, eq=False)
class Algonauts2023Score:
    """The challenge's score.

    Attributes
    ----------
    vertices : array, shape (n_vertices,)
        Percent of the noise ceiling reached. NaN where the ceiling is 0 or unknown, and where the
        correlation is undefined (a constant prediction).
    median, mean : float
        Median and mean over the vertices that are not NaN; entrants used the median, later
        summaries the mean.
    n_masked, n_undefined : int
        Numbers of vertices without a ceiling, and of others with an undefined correlation.
    """

    vertices: np.ndarray
    median: float
    mean: float
    n_masked: int
    n_undefined: int


def algonauts2023_score(
    predictions: np.ndarray, betas: np.ndarray, noise_ceiling: Any, *, clip: bool = False
) -> Algonauts2023Score:
    """Noise-normalised squared correlation per vertex, in percent, its median and mean.

    A correlation below 0 counts as 0; it is squared and divided by the noise ceiling.

    Parameters
    ----------
    predictions, betas : array, shape (n_images, n_vertices)
        `betas` may have a repeat axis of length 1.
    noise_ceiling : NoiseCeiling, or array, shape (n_vertices,)
        An array is the share of signal in the variance of the averages `betas`, 0 … 1.
    clip : bool
        Set vertices above 100 % to 100 %, as the challenge's code does. That code also gives
        vertices without a ceiling up to 100 %, since it replaces 0 by a tiny number; here they are
        always left out.

    Returns
    -------
    Algonauts2023Score

    Raises
    ------
    ValueError : shapes that do not match, or a ceiling outside 0 … 1.

    References
    ----------
    Gifford et al. (2023), arXiv 2301.03198.
    """
    betas = np.asarray(betas)
    if betas.ndim == 3 and betas.shape[1] == 1:
        betas = betas[:, 0]
    if not isinstance(noise_ceiling, NoiseCeiling):
        noise_ceiling = NoiseCeiling(noise_ceiling, "r2", n_trials=1, estimator="given")
    ceiling = noise_ceiling.to("r2")
    r = correlation(predictions, betas)
    percent = 100 * ceiling.normalize(np.maximum(r, 0) ** 2, space="r2")
    if clip:
        percent = np.minimum(percent, 100)
    masked = ~(ceiling.values > 0)
    scored = percent[~np.isnan(percent)]
    return Algonauts2023Score(
        vertices=percent,
        median=float(np.median(scored)) if len(scored) else np.nan,
        mean=float(np.mean(scored)) if len(scored) else np.nan,
        n_masked=int(masked.sum()),
        n_undefined=int((np.isnan(r) & ~masked).sum()),
    )


def write_algonauts2023_submission(
    folder: str | os.PathLike, subject: int, predictions: np.ndarray, voxels: pd.DataFrame
) -> list[Path]:
    """Write ``subj01/lh_pred_test.npy`` and ``rh_pred_test.npy``, float32, for a submission.

    Parameters
    ----------
    folder : path
        Created if missing; zip it when all subjects are in it.
    subject : int, 1 … 8
    predictions : array, shape (n_test_images, n_vertices)
        For `algonauts2023_test_images`, in that order.
    voxels : pandas.DataFrame
        Voxel table of `load_algonauts2023`; its ``hemisphere`` assigns columns to files.

    Returns
    -------
    list of pathlib.Path : the two files

    Raises
    ------
    ValueError : the number of columns differs from that of vertices, there is no hemisphere column,
        or predictions are not finite.
    """
    predictions = np.asarray(predictions)
    if predictions.ndim != 2 or predictions.shape[1] != len(voxels):
        raise ValueError(
            f"predictions {predictions.shape} must be (n_test_images, {len(voxels)}): one column "
            "per row of voxels"
        )
    if "hemisphere" not in voxels or not set(voxels["hemisphere"]) <= set(HEMISPHERES):
        raise ValueError("voxels needs a column 'hemisphere' of 'lh' and 'rh'")
    if not all(np.isfinite(block).all() for block in row_blocks(predictions)):
        raise ValueError("predictions are not finite: a submission cannot hold NaN or infinity")
    paths = []
    for side in HEMISPHERES:
        path = _subject_folder(folder, subject) / f"{side}_pred_test.npy"
        columns = np.flatnonzero(voxels["hemisphere"] == side)
        with atomic_path(path) as temporary:
            write_array(temporary, predictions[:, columns].astype(np.float32))
        paths.append(path)
    return paths


# ------------------------------------------------------------------ reading


def _subject_folder(root: str | os.PathLike, subject: int) -> Path:
    if subject not in range(1, 9):
        raise ValueError(f"subject={subject!r} must be one of 1 … 8")
    return Path(root) / f"subj{subject:02d}"


def _numbered_images(folder: Path) -> tuple[ImageFiles, np.ndarray]:
    """Images in the order of their numbers, and NSD's ids, which count from 0 here."""
    require_files([folder], "Algonauts 2023")
    matches = [_IMAGE_NAME.fullmatch(name) for name in os.listdir(folder)]
    names = sorted((int(m[1]), int(m[2]), m[0]) for m in matches if m)
    if not names or [number for number, _, _ in names] != list(range(1, len(names) + 1)):
        raise ValueError(
            f"{folder} has {len(names)} images train-0001_nsd-00013.png or test-…, and they must "
            "be numbered 1 … n without a gap"
        )
    paths = [folder / name for _, _, name in names]
    # All have one size; opening thousands is slow.
    height, width = ImageFiles(paths[:1]).shape[1:3]
    return ImageFiles.of_size(paths, (height, width)), np.array([nsd_id for _, nsd_id, _ in names])


def _side_by_side(paths: dict[str, Path]) -> np.ndarray:
    responses = [read_array(path, mapped=True) for path in paths.values()]
    left, right = (array.shape for array in responses)
    if len(left) != 2 or len(right) != 2 or left[0] != right[0]:
        raise ValueError(
            f"the hemispheres' responses in {' and '.join(map(str, paths.values()))} are {left} "
            f"and {right}: rows must be images"
        )
    for path, array in zip(paths.values(), responses, strict=True):
        if array.dtype.kind not in "iuf":
            raise TypeError(f"{path} holds {array.dtype}, but responses are numbers")
    betas = np.empty((left[0], 1, left[1] + right[1]), dtype=np.float32)
    betas[:, 0, : left[1]], betas[:, 0, left[1] :] = responses
    return betas


def _voxel_table(folder: Path, places: dict[str, Path]) -> pd.DataFrame:
    sides = []
    for side, path in places.items():
        vertex = np.flatnonzero(read_array(path))
        table = pd.DataFrame({"hemisphere": side, "vertex": vertex})
        for atlas in ATLASES:
            numbers = folder / f"roi_masks/{side}.{atlas}_challenge_space.npy"
            mapping = folder / f"roi_masks/mapping_{atlas}.npy"
            if numbers.exists() and mapping.exists():
                table[atlas] = _labels(numbers, mapping, len(table))
        sides.append(table)
    table = pd.concat(sides, ignore_index=True)
    atlases = [atlas for atlas in ATLASES if atlas in table]
    return table.fillna(dict.fromkeys(atlases, ""))  # an atlas of one hemisphere only


def _labels(path: Path, mapping_path: Path, n_vertices: int) -> pd.Series:
    numbers = read_array(path)
    if numbers.shape != (n_vertices,):
        raise ValueError(f"{path} is {numbers.shape}, but its hemisphere has {n_vertices} vertices")
    if numbers.dtype.kind not in "iuf" or not np.all(numbers % 1 == 0):
        raise ValueError(f"{path} holds {numbers.dtype}, but labels are whole numbers")
    with reading(mapping_path, "a saved dict of ROI labels"):
        mapping = {int(number): str(label) for number, label in _read_mapping(mapping_path).items()}
    if unknown := set(np.unique(numbers).astype(int).tolist()) - {0, *mapping}:
        raise ValueError(f"{mapping_path} has no names for the labels {sorted(unknown)} of {path}")
    return pd.Series([mapping[n] if n > 0 else "" for n in numbers.astype(int).tolist()], dtype=str)


#: Functions in a pickled array of plain values; the modules have other names in NumPy 1.
_ARRAY_PARTS = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "scalar": np.float64(0).__reduce__()[0],
}


class _ArrayUnpickler(pickle.Unpickler):
    """Loads only arrays of plain values: a pickle could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in _ARRAY_PARTS:
            return _ARRAY_PARTS[name]
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a table of labels")


def _read_mapping(path: Path) -> dict:
    """Dict of number to label, which the challenge saved as an array of one object."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read_header = np.lib.format.read_array_header_2_0
        read_header(file)
        content = file.read()
        try:
            # Places beyond the length of the file: memory is taken for all before them.
            places = [arg for code, arg, _ in genops(content) if "PUT" in code.name]
            if any(place is not None and int(place) > len(content) for place in places):
                raise ValueError("it is damaged")
            return _ArrayUnpickler(io.BytesIO(content)).load().item()
        except (pickle.UnpicklingError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is no saved dict of ROI labels: {error}") from None
