"""Load data from an ``.npz`` file or a ``.brain`` folder."""

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
        n_voxels) float; optionally ``roi`` (labels) and ``ncsnr``, both (n_voxels,),
        ``session`` and ``run``, both (n_images, n_repeats), and ``n_averaged``, as in
        `EncodingData`.
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
        raise ValueError(f"{path} holds {list(arrays)}, but {' and '.join(missing)} is missing")
    counts = arrays.get("n_averaged")
    data = EncodingData(
        arrays["images"], arrays["betas"], name=name or path.stem, n_averaged=counts
    )
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
        # Checked by the first bytes, since NumPy's error for other files is about pickles.
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
        raise ValueError(f"{path}: {name} has shape {array.shape}, but betas need {shape}")
    return array
