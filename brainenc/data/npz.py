"""Load data from an ``.npz`` file or a ``.brain`` folder."""

import difflib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.conversion import column, plain_array, text_labels
from brainenc.data.encoding_data import EncodingData
from brainenc.documentation import see
from brainenc.reading import read_arrays

#: Arrays that an ``.npz`` file may hold.
KEYS = ("images", "betas", "roi", "ncsnr", "session", "run", "n_averaged")

#: Beginning of the names of arrays that are columns of the table of stimuli.
STIMULI = "stimuli_"


def load_npz(path: str | os.PathLike, *, name: str | None = None) -> EncodingData:
    """EncodingData from one ``.npz`` file of arrays.

    Parameters
    ----------
    path : path
        File with ``images`` (n_images, H, W[, 3]) uint8 and ``betas`` (n_images, n_repeats,
        n_voxels) float; optionally ``roi`` and ``ncsnr``, both (n_voxels,), ``session`` and
        ``run``, both (n_images, n_repeats), and ``n_averaged``, as in `EncodingData`. ``roi`` is
        text, "" or "nan" (as NumPy writes NaN) outside every ROI; or codes, whole numbers, NaN or
        not above 0 outside every ROI. ``stimuli_name``, ``stimuli_category`` and the like, each
        (n_images,), are columns of the table of stimuli.
    name : str, optional
        Name of the data; by default the file's name without its ending.

    Returns
    -------
    EncodingData

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : not an ``.npz`` file, truncated, or arrays are missing or do not match.
    TypeError : images that are not uint8, betas that are not numeric.

    Warns
    -----
    UserWarning : arrays of other names, which are not read; codes of ``roi`` that are not above 0.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> import brainenc
    >>> images = np.zeros((20, 16, 16, 3), dtype=np.uint8)
    >>> betas = np.random.default_rng(0).standard_normal((20, 3, 5))
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/subject.npz", images=images, betas=betas)
    ...     data = brainenc.load_npz(f"{folder}/subject.npz")
    >>> data.name, data.n_images, data.n_repeats, data.n_voxels
    ('subject', 20, 3, 5)
    """
    path = Path(path)
    arrays = _read_npz(path)
    if missing := [key for key in ("images", "betas") if key not in arrays]:
        raise ValueError(
            f"{path} holds {list(arrays)}, but {' and '.join(missing)} is missing"
            + see("guide/data")
        )
    if arrays["images"].dtype.kind in "OSU":
        raise TypeError(
            f"images in {path} is text, but must be uint8: for names of files use "
            "EncodingData(paths, betas)"
        )
    of_images = {
        key.removeprefix(STIMULI): column(arrays[key], f"{key} of {path}")
        for key in arrays
        if key.startswith(STIMULI) and key != STIMULI
    }
    known = (*KEYS, *(STIMULI + key for key in of_images))
    if unknown := [key for key in arrays if key not in known]:
        warnings.warn(
            f"{path} holds arrays that are not read: {', '.join(map(_guessed, unknown))}; the keys "
            f"read are {', '.join(KEYS)} and {STIMULI}…",
            stacklevel=2,
        )
    data = EncodingData(
        arrays["images"],
        arrays["betas"],
        name=name or path.stem,
        n_averaged=arrays.get("n_averaged"),
    )
    of_voxels: dict[str, Any] = {
        key: _of_voxels(arrays[key], data.n_voxels, key, path)
        for key in ("roi", "ncsnr")
        if key in arrays
    }
    at = (data.trials["image"], data.trials["repeat"])
    of_trials = {
        key: plain_array(_of_shape(arrays[key], data.betas.shape[:2], key, path), key)[at]
        for key in ("session", "run")
        if key in arrays
    }
    return EncodingData(
        data.images,
        data.betas,
        pd.DataFrame(of_voxels, index=range(data.n_voxels)),
        data.trials.assign(**of_trials),
        name=data.name,
        n_averaged=data.n_averaged,
        stimuli=_stimuli(of_images, data.n_images, path),
    )


def _stimuli(columns: dict[str, Any], n_images: int, path: Path) -> Any:
    """The table of stimuli, or None."""
    for key, values in columns.items():
        _of_shape(values, (n_images,), STIMULI + key, path)
    return pd.DataFrame(columns) if columns else None


def _guessed(key: str) -> str:
    close = difflib.get_close_matches(key.lower(), KEYS, n=1)
    return f"{key!r} (meant to be {close[0]!r}?)" if close else repr(key)


def _of_voxels(array: np.ndarray, n_voxels: int, key: str, path: Path) -> np.ndarray:
    """Labels or numbers, one per voxel."""
    array = column(array, f"{key} of {path}")
    _of_shape(array, (n_voxels,), key, path)
    if key != "roi":
        return array
    if array.dtype.kind in "iuf":
        if (outside := array <= 0).any():
            warnings.warn(
                f"{path}: roi has the codes {np.unique(array[outside]).tolist()}, which are read "
                "as outside every ROI",
                stacklevel=3,
            )
        array = np.where(outside, np.nan, array)
    labels = text_labels(array, f"roi of {path}")
    # NumPy writes NaN so in an array of text.
    labels[labels == "nan"] = None
    return labels


def load_data(path: str | os.PathLike, *, verify: bool | None = None) -> EncodingData:
    """EncodingData from a ``.brain`` folder or an ``.npz`` file.

    Parameters
    ----------
    path : path
    verify : bool, optional
        As for `EncodingData.load`; an ``.npz`` file is always read and compared.
    """
    path = Path(path)
    return EncodingData.load(path, verify=verify) if path.is_dir() else load_npz(path)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing" + see("guide/data"))
    with path.open("rb") as file:
        # Checked by the first bytes, since the error for other files is about zip archives.
        if file.read(2) not in (b"PK", b""):
            raise ValueError(
                f"{path} is neither a .brain folder nor an .npz file, as numpy.savez(path, "
                "images=images, betas=betas) writes" + see("guide/data")
            )
    return read_arrays(path)


def _of_shape(array: np.ndarray, shape: tuple[int, ...], name: str, path: Path) -> np.ndarray:
    if array.shape != shape:
        raise ValueError(f"{path}: {name} has shape {array.shape}, but betas need {shape}")
    return array
