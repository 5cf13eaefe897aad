"""Data from one file of arrays, and from whatever a path leads to."""

import dataclasses
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from brainenc.data.encoding_data import EncodingData


def load_npz(path: str | os.PathLike, *, name: str | None = None) -> EncodingData:
    """EncodingData from one ``.npz`` file of arrays.

    Parameters
    ----------
    path : path
        File with ``images`` (n_images, H, W[, 3]) uint8 and ``betas`` (n_images, n_repeats,
        n_voxels) float; optionally ``roi`` (labels) and ``ncsnr``, both (n_voxels,), and
        ``session`` and ``run``, both (n_images, n_repeats).
    name : str, optional
        The file's name without its ending by default.

    Returns
    -------
    EncodingData

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : not an ``.npz`` file, truncated, arrays missing or of shapes that do not fit.
    TypeError : images that are not uint8, betas that are not numeric.
    """
    path = Path(path)
    arrays = _read_npz(path)
    if missing := [key for key in ("images", "betas") if key not in arrays]:
        raise ValueError(f"{path} holds {list(arrays)}, but {' and '.join(missing)} is missing")
    data = EncodingData(arrays["images"], arrays["betas"], name=name or path.stem)
    of_voxels = {
        key: _of_shape(arrays[key], data.betas.shape[2:], key, path)
        for key in ("roi", "ncsnr")
        if key in arrays
    }
    if "roi" in of_voxels:
        of_voxels["roi"] = of_voxels["roi"].astype(str)
    at = (data.trials["image"], data.trials["repeat"])
    of_trials = {
        key: _of_shape(arrays[key], data.betas.shape[:2], key, path)[at]
        for key in ("session", "run")
        if key in arrays
    }
    return dataclasses.replace(
        data,
        voxels=data.voxels.assign(**of_voxels),
        trials=data.trials.assign(**of_trials),
        checked=True,
    )


def load_data(path: str | os.PathLike) -> EncodingData:
    """EncodingData from a ``.brain`` folder or an ``.npz`` file."""
    path = Path(path)
    return EncodingData.load(path) if path.is_dir() else load_npz(path)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    # Opened here, since np.load leaves a damaged file open.
    with path.open("rb") as file:
        # Other files are told by their first bytes: what NumPy says of them is about pickles.
        if file.read(2) not in (b"PK", b""):
            raise ValueError(
                f"{path} is neither a .brain folder nor an .npz file, as numpy.savez(path, "
                "images=images, betas=betas) writes"
            )
        file.seek(0)
        try:
            with np.load(file) as arrays:
                return dict(arrays)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            if "allow_pickle" in str(error):
                raise ValueError(
                    f"{path} holds Python objects (an array of dtype object): save numbers, and "
                    "labels as text"
                ) from None
            raise ValueError(f"{path} is not a readable .npz file (truncated?): {error}") from None


def _of_shape(array: np.ndarray, shape: tuple[int, ...], name: str, path: Path) -> np.ndarray:
    if array.shape != shape:
        raise ValueError(f"{path}: {name} has shape {array.shape}, but betas asks for {shape}")
    return array
