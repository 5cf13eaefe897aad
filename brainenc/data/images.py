"""Images as arrays, files, PIL images and lazy sequences.

Inside the package images are always objects with ``shape`` (n_images, H, W[, 3]), ``dtype`` uint8
and array-like indexing; `as_images` converts user input to them.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from brainenc.arrays import blocks, row_slices
from brainenc.conversion import plain_array
from brainenc.data.image_files import ImageFiles, check_sizes, natural_order
from brainenc.data.pictures import Colour, over_background, pixels_of, rgb_of
from brainenc.documentation import see
from brainenc.reading import read_array

#: Weights of R, G and B in the grey of an RGB image (ITU-R BT.601, as PIL's mode "L").
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def looks_like_images(obj: Any) -> bool:
    """Whether `obj` is images: a uint8 array or tensor of 3 or 4 axes, paths or PIL images."""
    obj = _paths_listed(obj)
    if hasattr(obj, "shape") and hasattr(obj, "dtype"):
        return _is_uint8(obj) and len(obj.shape) in (3, 4)
    if isinstance(obj, (list, tuple)) and len(obj):
        first = obj[0]
        return isinstance(first, (str, os.PathLike, Image.Image)) or (
            _is_uint8(first) and len(first.shape) in (2, 3)
        )
    return False


def _is_uint8(array: Any) -> bool:
    return hasattr(array, "shape") and str(getattr(array, "dtype", "")) in ("uint8", "torch.uint8")


def as_images(images: Any, *, background: Colour | None = None) -> Any:
    """Images as an array or lazy sequence of shape (n_images, H, W[, 3]), uint8.

    Parameters
    ----------
    images : array, or sequence of paths, PIL images or arrays, or lazy sequence
        Paths may also be an array or a Series; their files are read lazily, as RGB. PIL images
        become grey if all are grey, else RGB; both are read upright (`ImageFiles`). Arrays and
        tensors are (n_images, H, W) or (n_images, H, W, 3), uint8; a lazy sequence is any object
        with such a ``shape``, a ``dtype`` and array indexing (`ImageFiles`, an h5py dataset, a
        memmap) and is returned unread. A fourth channel is alpha.
    background : str, int or (red, green, blue), optional
        Colour behind transparent pixels, as of `ImageFiles`.

    Returns
    -------
    array or lazy sequence

    Raises
    ------
    TypeError : `images` is not uint8, or cannot be read as images.
    ValueError : wrong number of axes or channels, one image in place of several, masked pixels, no
        images, different sizes, more than 8 bits, or transparent pixels without a background.

    Examples
    --------
    >>> as_images(np.zeros((8, 6, 3), np.uint8))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: images (8, 6, 3) may be one RGB image or 8 grey images of 6 x 3 pixels: for one ...
    >>> as_images(np.zeros((1, 8, 6, 3), np.uint8)).shape
    (1, 8, 6, 3)
    """
    images = _paths_listed(images)
    if hasattr(images, "shape") and hasattr(images, "dtype"):
        return _checked(images, background)
    if not isinstance(images, Sequence) or isinstance(images, (str, bytes)):
        raise TypeError(
            "images must be a uint8 array (n_images, H, W[, 3]), or a list of paths or PIL images, "
            f"got {type(images).__name__}. For one image pass [image], for a folder "
            "ImageFiles.from_folder(folder)" + see("guide/data")
        )
    if len(images) == 0:
        raise ValueError("images is empty")
    if all(isinstance(image, (str, os.PathLike)) for image in images):
        return ImageFiles(images, background=background)
    mode = "L" if all(getattr(image, "mode", "") == "L" for image in images) else "RGB"
    arrays = [_one_array(image, i, mode, background) for i, image in enumerate(images)]
    check_sizes([array.shape for array in arrays], [f"images[{i}]" for i in range(len(arrays))])
    return _checked(np.stack(arrays), background)


def _paths_listed(images: Any) -> Any:
    """A one-dimensional array or Series of paths as a list; other objects unchanged."""
    is_text = getattr(getattr(images, "dtype", None), "kind", None) in ("O", "U", "T")
    return list(images) if is_text and len(images.shape) == 1 else images


def _one_array(image: Any, i: int, mode: str, background: Colour | None) -> np.ndarray:
    if isinstance(image, Image.Image):
        return pixels_of(image, mode, f"images[{i}]", background)
    if _is_uint8(image) or isinstance(image, np.ndarray):
        image = _unmasked(image, f"images[{i}]") if isinstance(image, np.ndarray) else image
        image = plain_array(image, f"images[{i}]")
        if image.ndim not in (2, 3):
            raise ValueError(f"images[{i}] {image.shape} must be (H, W) or (H, W, 3)")
        return image
    raise TypeError(
        f"images[{i}] is a {type(image).__name__}: a list of images holds paths, PIL images or "
        "uint8 arrays, all of one kind"
    )


def _checked(images: Any, background: Colour | None = None) -> Any:
    is_tensor = str(images.dtype).startswith("torch.")
    shape = tuple(images.shape)
    if is_tensor and len(shape) == 3 and 3 in (shape[0], shape[2]):
        raise ValueError(
            f"images {shape} may be the channels of one image or grey images: for one image pass "
            "images[None].permute(0, 2, 3, 1), for grey images images.numpy()" + see("guide/data")
        )
    if is_tensor:
        images = plain_array(images, "images")
    images = _unmasked(images, "images")
    if images.dtype != np.uint8:
        whole = getattr(images.dtype, "kind", "f") in "iu"
        way = "images.astype('uint8') if all are in that range"
        if not whole:
            way = "(255 * images).round().astype('uint8') for values in 0 … 1"
        raise TypeError(
            f"images must be uint8 in 0 … 255, got {images.dtype}: pass {way}. For features pass "
            "features=None to the encoder" + see("guide/data")
        )
    if 0 in shape:
        raise ValueError(f"images {shape} is empty")
    _check_shape(shape)
    if len(shape) == 4 and shape[3] == 4:
        return _without_alpha(images, background)
    return images


def _check_shape(shape: tuple[int, ...]) -> None:
    """Raise ValueError for shapes of other things, and of one image in place of several."""
    # No picture is smaller than 8 pixels, but grey images of tests may be 4 pixels wide.
    if len(shape) == 3 and (shape[2] == 3 or (shape[2] == 4 and min(shape[:2]) >= 8)):
        n, height, width = shape
        raise ValueError(
            f"images {shape} may be one {'RGB' if width == 3 else 'RGBA'} image or {n} grey images "
            f"of {height} x {width} pixels: for one image pass images[None]; grey images so narrow "
            "are given as RGB" + see("guide/data")
        )
    if len(shape) in (3, 4) and (len(shape) == 3 or shape[3] in (3, 4)):
        return
    found = f"images {shape} must be (n_images, H, W) or (n_images, H, W, 3): grey "
    found += "without a channel axis, or RGB with channels last"
    if len(shape) == 4 and shape[1] in (3, 4):
        found += "; these have channels first: pass np.moveaxis(images, 1, -1)"
    elif len(shape) == 4 and 1 in (shape[1], shape[3]):
        found += f": pass images{'[..., 0]' if shape[3] == 1 else '[:, 0]'}"
    elif len(shape) == 2:
        found += "; for one grey image pass images[None]"
    raise ValueError(found)


def _unmasked(images: Any, name: str) -> Any:
    if not isinstance(images, np.ma.MaskedArray):
        return images
    if np.ma.is_masked(images):
        raise ValueError(
            f"{name} is a masked array with {int(images.mask.sum())} masked values: fill them "
            "with what was shown there, images.filled(value)"
        )
    return images.data


def _without_alpha(images: Any, background: Colour | None) -> Any:
    """RGB of RGBA images: at once of an array in memory, else on reading."""
    if not isinstance(images, np.ndarray):
        if background is None:
            raise ValueError(
                f"images {tuple(images.shape)} have an alpha channel: name the colour behind "
                'transparent pixels with as_images(images, background="white")'
            )
        return OnBackground(images, background)
    if isinstance(images, np.memmap) and background is not None:
        return OnBackground(images, background)
    on_disk = isinstance(images, np.memmap)
    rgb = images[..., :3] if on_disk else np.empty((*images.shape[:3], 3), np.uint8)
    for rows in row_slices(images):  # without a background, transparent pixels are refused here
        block = over_background(np.asarray(images[rows]), "images", background)
        if not on_disk:
            rgb[rows] = block
    return rgb


class OnBackground:
    """Lazy images with alpha, laid over a background of one colour when they are read.

    Parameters
    ----------
    parent : lazy sequence of shape (n_images, H, W, 4)
    background : colour
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, parent: Any, background: Colour):
        self.parent, self.background = parent, rgb_of(background)
        self.shape = (*parent.shape[:3], 3)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, (int, np.integer)):
            return over_background(np.asarray(self.parent[int(key)]), "images", self.background)
        return ImageSubset(self, np.arange(len(self))[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def open_images(source: str | os.PathLike, *, background: Colour | None = None) -> Any:
    """Images on disk, read when they are needed.

    Files of a folder or pattern come in the order of their names, with numbers in names compared
    as numbers (`brainenc.images.natural_order`).

    Parameters
    ----------
    source : path or pattern
        A folder of image files, one image file, an ``.npy`` file of uint8 images (memory-mapped),
        or a glob pattern of image files.
    background : str, int or (red, green, blue), optional
        Colour behind transparent pixels, as of `ImageFiles`.

    Returns
    -------
    ImageFiles or memory map, shape (n_images, H, W[, 3]), uint8

    Raises
    ------
    FileNotFoundError : there is nothing of that name or pattern.
    TypeError, ValueError : no images, or images of different sizes.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("img10.png", "img2.png"):
    ...         Image.new("RGB", (8, 6)).save(f"{folder}/{name}")
    ...     [path.name for path in open_images(folder).paths]
    ['img2.png', 'img10.png']
    """
    path = Path(source)
    if path.is_dir():
        return ImageFiles.from_folder(path, background=background)
    if path.suffix == ".npy":
        return as_images(read_array(path, mapped=True), background=background)
    # A name may have brackets.
    paths = [path] if path.is_file() else natural_order(glob.glob(str(source)))
    if not paths:
        raise FileNotFoundError(f"{source} is no folder, no .npy file and matches no image files")
    return ImageFiles(paths, background=background)


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
