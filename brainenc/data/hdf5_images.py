"""Images in an HDF5 file, read lazily in any process."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from brainenc.data.images import ImageSubset
from brainenc.reading import reading

#: Values of an image; a damaged file may claim any number.
_MOST_PIXELS = 2**30


class HDF5Images:
    """Images of an HDF5 data set, read lazily.

    The file is opened at the first read, in each process separately; it may be absent until then,
    so that data can be used without their images.

    Parameters
    ----------
    path : path
        The HDF5 file.
    dataset : str
        Name of a data set of shape (n_images, H, W[, 3]), uint8.
    size : (height, width), optional
        Resize every image on reading (bicubic).
    shape : tuple of int, optional
        Shape of the data set, if known; otherwise it is read from the file.

    Attributes
    ----------
    shape : (n_images, H, W[, 3])
        After resizing.
    dtype : uint8

    Raises
    ------
    FileNotFoundError : the file is missing, here (without `shape`) or when images are read.
    ValueError : the data set is missing, or has another shape than `shape`.
    TypeError : the data set is not uint8.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        path: str | os.PathLike,
        dataset: str = "imgBrick",
        size: tuple[int, int] | None = None,
        shape: tuple[int, ...] | None = None,
    ):
        self.path = Path(path).absolute()
        self.dataset = dataset
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self._opened: tuple[int, Any] = (-1, None)
        self.stored_shape = tuple(shape) if shape is not None else tuple(self._rows().shape)
        image_shape = self.stored_shape[1:3] if self.size is None else self.size
        self.shape = (self.stored_shape[0], *image_shape, *self.stored_shape[3:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, (int, np.integer)):
            return self._read(int(key))
        return ImageSubset(self, np.arange(len(self))[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": (-1, None)}

    def __repr__(self) -> str:
        return f"HDF5Images({self.shape} of {self.path})"

    def _read(self, row: int) -> np.ndarray:
        with reading(self.path, "HDF5"):
            pixels = self._rows()[row]
        if self.size is None:
            return pixels
        resized = Image.fromarray(pixels).resize(self.size[::-1], Image.Resampling.BICUBIC)
        return np.asarray(resized)

    def _rows(self) -> Any:
        """The open data set; a forked process needs a new handle."""
        if self._opened[0] != os.getpid():
            self._opened = (os.getpid(), self._open())
        return self._opened[1]

    def _open(self) -> Any:
        import h5py

        if not self.path.exists():
            raise FileNotFoundError(
                f"{self.path} is missing, the file with the images: restore it or, if moved, "
                "correct its path (image_hdf5 in the meta.json of a .brain folder)"
            )
        with reading(self.path, "HDF5"):
            file = h5py.File(self.path, "r")
            if not isinstance(rows := file.get(self.dataset), h5py.Dataset):
                raise ValueError(f"{self.path} has no data set {self.dataset!r}, but {list(file)}")
        if rows.dtype != np.uint8:
            raise TypeError(f"{self.dataset!r} in {self.path} must be uint8, got {rows.dtype}")
        if rows.ndim not in (3, 4) or not 0 < math.prod(rows.shape[1:]) <= _MOST_PIXELS:
            raise ValueError(
                f"{self.dataset!r} in {self.path} has shape {rows.shape}, but images are "
                f"(n_images, H, W[, 3]), each of at most {_MOST_PIXELS} values"
            )
        if (shape := self.__dict__.get("stored_shape", rows.shape)) != rows.shape:
            raise ValueError(
                f"{self.dataset!r} in {self.path} is {rows.shape}, not {shape} as said"
            )
        return rows
