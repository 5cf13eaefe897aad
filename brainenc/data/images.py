"""Images as arrays, files, PIL images and lazy sequences, and how they are read.

Inside the package images are always objects with ``shape`` (n_images, H, W[, 3]), ``dtype`` uint8
and array-like indexing; `as_images` converts user input to them.
"""

import copy
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from brainenc.arrays import blocks

#: File name endings of images in a folder.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

#: Weights of R, G and B in the grey of an RGB image (ITU-R BT.601, as PIL's mode "L").
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def looks_like_images(obj: Any) -> bool:
    """Whether `obj` is images: a uint8 array of 3 or 4 axes, paths or PIL images."""
    obj = _paths_listed(obj)
    if hasattr(obj, "shape") and hasattr(obj, "dtype"):
        return obj.dtype == np.uint8 and len(obj.shape) in (3, 4)
    if isinstance(obj, (list, tuple)) and len(obj):
        first = obj[0]
        return isinstance(first, (str, os.PathLike, Image.Image)) or (
            isinstance(first, np.ndarray) and looks_like_images(first[None])
        )
    return False


def as_images(images: Any) -> Any:
    """Images as an array or lazy sequence of shape (n_images, H, W[, 3]), uint8.

    Parameters
    ----------
    images : array, or sequence of paths, PIL images or arrays, or lazy sequence
        Paths may also be an array or a Series; their files are read lazily, as RGB. PIL images
        become grey if all are grey, else RGB. Arrays are (n_images, H, W) or (n_images, H, W, 3),
        uint8; a lazy sequence is any object with such a ``shape``, a ``dtype`` and array indexing
        (`ImageFiles`, an h5py dataset, a memmap) and is returned unread.

    Returns
    -------
    array or lazy sequence

    Raises
    ------
    TypeError : `images` is not uint8, or cannot be read as images.
    ValueError : wrong number of axes or channels, no images, different sizes, or more than 8 bits.
    """
    images = _paths_listed(images)
    if hasattr(images, "shape") and hasattr(images, "dtype"):
        return _checked(images)
    if not isinstance(images, Sequence) or isinstance(images, (str, bytes)):
        raise TypeError(
            "images must be a uint8 array (n_images, H, W[, 3]), or a list of paths or PIL images, "
            f"got {type(images).__name__}. For a folder pass ImageFiles.from_folder(folder)."
        )
    if len(images) == 0:
        raise ValueError("images is empty")
    if all(isinstance(image, (str, os.PathLike)) for image in images):
        return ImageFiles(images)
    mode = "L" if all(getattr(image, "mode", "") == "L" for image in images) else "RGB"
    arrays = [_one_array(image, i, mode) for i, image in enumerate(images)]
    _check_sizes([array.shape for array in arrays], [f"images[{i}]" for i in range(len(arrays))])
    return _checked(np.stack(arrays))


def _paths_listed(images: Any) -> Any:
    """A one-dimensional array or Series of paths as a list; other objects unchanged."""
    is_text = getattr(getattr(images, "dtype", None), "kind", None) in ("O", "U", "T")
    return list(images) if is_text and len(images.shape) == 1 else images


def _one_array(image: Any, i: int, mode: str) -> np.ndarray:
    if isinstance(image, Image.Image):
        return np.asarray(_converted(image, mode, f"images[{i}]"))
    if isinstance(image, np.ndarray):
        return image
    raise TypeError(
        f"images[{i}] is a {type(image).__name__}: a list of images holds paths, PIL images or "
        "uint8 arrays, all of one kind"
    )


def _converted(image: Image.Image, mode: str, name: str) -> Image.Image:
    # PIL would clip these to 0 … 255 silently.
    if image.mode == "F" or image.mode.startswith("I"):
        raise ValueError(
            f"{name} has more than 8 bits (mode {image.mode}): scale it to 0 … 255 and save it as "
            "uint8, since only you know its range"
        )
    return image.convert(mode)


def _checked(images: Any) -> Any:
    shape = tuple(images.shape)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
        raise ValueError(
            f"images {shape} must be (n_images, H, W) or (n_images, H, W, 3): grey "
            "without a channel axis, or RGB with channels last"
        )
    if images.dtype != np.uint8:
        raise TypeError(
            f"images must be uint8 in 0 … 255, got {images.dtype}. For values in 0 … 1 use (255 * "
            "images).round().astype('uint8'); for features pass features=None to the encoder."
        )
    if 0 in shape:
        raise ValueError(f"images {shape} is empty")
    return images


def _check_sizes(sizes: Sequence[tuple], names: Sequence[str]) -> None:
    for size, name in zip(sizes, names, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"images must have one size, but {names[0]} is {sizes[0]} and {name} is {size}; "
                "resize them, or give paths as ImageFiles(paths, size=(height, width))"
            )


class ImageFiles:
    """Image files, read lazily as RGB.

    Parameters
    ----------
    paths : sequence of paths
    size : (height, width), optional
        Resize every image on reading (bicubic). Without it all files must have one size, which is
        checked by opening each once.

    Attributes
    ----------
    paths : list of pathlib.Path
    shape : (n_images, H, W, 3)
    dtype : uint8

    Raises
    ------
    FileNotFoundError, ValueError : a file is missing, is not an image, has more than 8 bits or
        another size; the message names it. Damage after the header is found on reading.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 6)).save(f"{folder}/first.png")
    ...     images = ImageFiles.from_folder(folder)
    ...     images.shape, images[0].shape
    ((1, 6, 8, 3), (6, 8, 3))
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, paths: Sequence[str | os.PathLike], size: tuple[int, int] | None = None):
        self.paths = [Path(path) for path in paths]
        self.size = size
        if not self.paths:
            raise ValueError("paths is empty: there are no image files")
        if size is None:
            sizes = [_file_size(path) for path in self.paths]
            _check_sizes(sizes, [str(path) for path in self.paths])
            size = sizes[0]
        self.shape = (len(self.paths), *size, 3)

    @classmethod
    def of_size(cls, paths: Sequence[str | os.PathLike], size: tuple[int, int]) -> "ImageFiles":
        """Files known to be of one (height, width): opened only when read, and checked then."""
        files = cls(paths, size)
        files.size = None
        return files

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike, size: tuple[int, int] | None = None
    ) -> "ImageFiles":
        """All image files of a folder, in the order of their names."""
        folder = Path(folder)
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise ValueError(f"{folder} holds no image files ({', '.join(IMAGE_SUFFIXES)})")
        return cls(paths, size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, (int, np.integer)):
            return self._read(self.paths[key])
        subset = copy.copy(self)  # sizes were checked once, not again per subset
        subset.paths = [self.paths[i] for i in np.arange(len(self))[key]]
        subset.shape = (len(subset.paths), *self.shape[1:])
        return subset

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        pixels = np.empty(self.shape, dtype or np.uint8)
        for i, path in enumerate(self.paths):
            pixels[i] = self._read(path)
        return pixels

    def __repr__(self) -> str:
        return f"ImageFiles({self.shape}, {self.paths[:1]} …)"

    def _read(self, path: Path) -> np.ndarray:
        try:
            with Image.open(path) as image:
                rgb = _converted(image, "RGB", "it")
                if self.size is not None:
                    rgb = rgb.resize((self.size[1], self.size[0]), Image.Resampling.BICUBIC)
                pixels = np.asarray(rgb)
        except Exception as error:  # the error for damaged data depends on the decoder
            raise _unreadable(path, error) from None
        if pixels.shape != self.shape[1:]:
            raise ValueError(
                f"image file {path} is {pixels.shape[:2]}, but {self.shape[1:3]} is expected: "
                "it was replaced after its size was noted"
            )
        return pixels


def open_images(source: str | os.PathLike) -> Any:
    """Images on disk, read when they are needed.

    Parameters
    ----------
    source : path or pattern
        A folder of image files, one image file, an ``.npy`` file of uint8 images (memory-mapped),
        or a glob pattern of image files.

    Returns
    -------
    ImageFiles or memory map, shape (n_images, H, W[, 3]), uint8

    Raises
    ------
    FileNotFoundError : there is nothing of that name or pattern.
    TypeError, ValueError : no images, or images of different sizes.
    """
    path = Path(source)
    if path.is_dir():
        return ImageFiles.from_folder(path)
    if path.suffix == ".npy":
        return as_images(np.load(path, mmap_mode="r"))
    paths = [path] if path.is_file() else sorted(glob.glob(str(source)))  # a name may have brackets
    if not paths:
        raise FileNotFoundError(f"{source} is no folder, no .npy file and matches no image files")
    return ImageFiles(paths)


def _file_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> Exception:
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"image file {path} does not exist")
    return ValueError(f"image file {path} cannot be read: {error}")


class ImageSubset:
    """Rows of a lazy image sequence, read lazily.

    Parameters
    ----------
    parent : lazy sequence of shape (n, H, W[, 3])
    index : array of int, shape (n_images,)
        Rows of `parent`, in any order.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, parent: Any, index: np.ndarray):
        self.parent = parent
        self.index = np.asarray(index)
        self.shape = (len(self.index), *parent.shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, (int, np.integer)):
            return np.asarray(self.parent[int(self.index[key])])
        return ImageSubset(self.parent, self.index[key])

    def __repr__(self) -> str:
        return f"ImageSubset({self.shape} of {type(self.parent).__name__})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        pixels = np.empty(self.shape, dtype or np.uint8)
        # Row by row, since h5py is a hundred times slower with a list of rows.
        for i, row in enumerate(self.index.tolist()):
            pixels[i] = self.parent[row]
        return pixels


def take_images(images: Any, index: np.ndarray) -> Any:
    """Rows `index` (int positions) of images, without reading images on disk."""
    if isinstance(images, (ImageFiles, ImageSubset)):
        return images[index]
    if type(images) is np.ndarray:
        return images[index]
    return ImageSubset(images, index)


def image_batches(images: Any, batch_size: int) -> Iterator[np.ndarray]:
    """Images as uint8 arrays of at most `batch_size` rows, in order."""
    for rows in blocks(len(images), batch_size):
        yield np.asarray(images[rows])


def area_weights(n_in: int, n_out: int) -> np.ndarray:
    """Matrix that averages `n_in` pixels in `n_out` equal stretches.

    Parameters
    ----------
    n_in, n_out : int
        n_out <= n_in; n_in need not be a multiple. A pixel on the border of two stretches is
        divided between them in proportion.

    Returns
    -------
    array of float32, shape (n_out, n_in); rows sum to 1.
    """
    edges = np.linspace(0, n_in, n_out + 1)
    pixels = np.arange(n_in)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(overlap, 0) * (n_out / n_in)).astype(np.float32)
