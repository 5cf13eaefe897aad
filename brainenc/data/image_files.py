"""Image files, read lazily."""

import copy
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from brainenc.data.pictures import Colour, check_picture, pixels_of, rgb_of, upright_size
from brainenc.documentation import see

#: File name endings of images in a folder.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def natural_order(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """Paths in the order of their names, with numbers in names compared as numbers.

    Parameters
    ----------
    paths : iterable of paths

    Returns
    -------
    list of pathlib.Path
        ``img2.png`` before ``img10.png``; folder by folder. Of names that differ only in leading
        zeros, the longer number comes first.

    Examples
    --------
    >>> [path.name for path in natural_order(["img10.png", "img2.png", "img1.png"])]
    ['img1.png', 'img2.png', 'img10.png']
    """

    def key(path: Path) -> list[Any]:
        # Text and numbers alternate, so that like is compared with like.
        parts = [re.split("([0-9]+)", part) for part in path.parts]
        return [[int(s) if i % 2 else s for i, s in enumerate(part)] for part in parts]

    return sorted(sorted(Path(path) for path in paths), key=key)


class ImageFiles:
    """Image files, read lazily as RGB.

    Photographs that their camera marked as turned (EXIF) are read upright, as viewers show them.
    Colour profiles (ICC) are not applied.

    Parameters
    ----------
    paths : sequence of paths
    size : (height, width), optional
        Resize every image on reading (bicubic). Without it all files must have one size, which is
        checked by opening each once.
    background : str, int or (red, green, blue), optional
        Colour behind transparent pixels: a name ("white") or "#rrggbb", a grey value, or three
        numbers in 0 … 255. Without it images with transparent pixels are refused when they are
        read.

    Attributes
    ----------
    paths : list of pathlib.Path
    shape : (n_images, H, W, 3)
    dtype : uint8

    Raises
    ------
    FileNotFoundError, ValueError : a file is missing, is not an image, has more than 8 bits,
        several frames, transparent pixels without a background, or another size; the message names
        it. Transparent pixels, and damage after the header, are found on reading.

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

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        size: tuple[int, int] | None = None,
        background: Colour | None = None,
    ):
        self.paths = [Path(path) for path in paths]
        self.size = size
        self.background = None if background is None else rgb_of(background)
        if not self.paths:
            raise ValueError("paths is empty: there are no image files")
        if size is None:
            sizes = [_file_size(path) for path in self.paths]
            check_sizes(sizes, [str(path) for path in self.paths])
            size = sizes[0]
        self.shape = (len(self.paths), *size, 3)

    @classmethod
    def of_size(
        cls,
        paths: Sequence[str | os.PathLike],
        size: tuple[int, int],
        background: Colour | None = None,
    ) -> "ImageFiles":
        """Files known to be of one (height, width): opened only when read, and checked then."""
        files = cls(paths, size, background)
        files.size = None
        return files

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike,
        size: tuple[int, int] | None = None,
        background: Colour | None = None,
    ) -> "ImageFiles":
        """All image files of a folder, in the order of their names.

        Numbers in names count as numbers: img2.png comes before img10.png (`natural_order`).
        """
        folder = Path(folder)
        paths = natural_order(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise ValueError(f"{folder} holds no image files ({', '.join(IMAGE_SUFFIXES)})")
        return cls(paths, size, background)

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
            with _opened(path) as image:
                pixels = pixels_of(image, "RGB", "it", self.background)
        except Exception as error:  # the error for damaged data depends on the decoder
            raise _unreadable(path, error) from None
        if self.size is not None:
            resized = Image.fromarray(pixels).resize(self.size[::-1], Image.Resampling.BICUBIC)
            pixels = np.asarray(resized)
        if pixels.shape != self.shape[1:]:
            raise ValueError(
                f"image file {path} is {pixels.shape[:2]}, but {self.shape[1:3]} is expected: "
                "it was replaced after its size was noted"
            )
        return pixels


def check_sizes(sizes: Sequence[tuple], names: Sequence[str]) -> None:
    """Raise ValueError if images differ in size, naming two that do."""
    for size, name in zip(sizes, names, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"images must have one size, but {names[0]} is {sizes[0]} and {name} is {size}; "
                "resize them, or give paths as ImageFiles(paths, size=(height, width))"
                + see("guide/data")
            )


def _file_size(path: Path) -> tuple[int, int]:
    try:
        with _opened(path) as image:
            check_picture(image, "it")
            if 0 in (size := upright_size(image)):
                raise ValueError(f"it has no pixels: {size}")
            return size
    except Exception as error:
        raise _unreadable(path, error) from None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture, its checksums compared if it is a PNG file.

    Pillow passes over some of those of the pixels, and takes memory for lengths that they belie.
    """
    with Image.open(path) as image:
        if image.format == "PNG":
            with Image.open(path) as whole:
                whole.verify()
        yield image


def _unreadable(path: Path, error: Exception) -> Exception:
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"image file {path} does not exist")
    return ValueError(f"image file {path} cannot be read: {str(error) or type(error).__name__}")
