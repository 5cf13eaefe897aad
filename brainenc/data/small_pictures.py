"""Small grey pictures, mean colours and repeats of images, from one pass through them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from brainenc.data.images import LUMA, area_weights, image_batches
from brainenc.storage import fingerprint

#: Height and width of the small pictures.
SIDE = 32

#: Bytes of images read at once.
BATCH_BYTES = 2**26

#: Smallest height and width of images, in pixels, whose detail is compared.
MIN_PIXELS = 8

#: Root mean square of the detail, in grey levels of 0 … 255, below which a picture is blank.
MIN_DETAIL = 0.5

#: S.d. in small pixels of the blur that detail is relative to, and of the neighbourhood whose
#: contrast it is divided by.
BLUR, NEIGHBOURHOOD = 2.0, 3.0

#: Lowest local contrast that detail is divided by, as a share of the picture's contrast.
CONTRAST_FLOOR = 0.3


@dataclass(frozen=True, eq=False)
class SmallPictures:
    """Every different picture once, small.

    Attributes
    ----------
    luminance : array of float32, shape (n_pictures, SIDE, SIDE), in 0 … 1
    colour : array of float32, shape (n_pictures, 3)
        Mean of two opponent colours (red − green, blue − yellow), and root mean square of both.
    picture : array of int, shape (n_images,)
        Picture that each image is.
    first : array of int, shape (n_pictures,)
        First image of each picture.
    aspect : float
        Height / width of the images.
    """

    luminance: np.ndarray
    colour: np.ndarray
    picture: np.ndarray
    first: np.ndarray
    aspect: float


def small_pictures(images: Any) -> SmallPictures:
    """Read all images once, in batches.

    Parameters
    ----------
    images : array or lazy sequence, shape (n_images, H, W[, 3]), uint8
    """
    height, width = images.shape[1:3]
    numbers: dict[str, int] = {}
    picture, first, luminance, colour = [], [], [], []
    for i, image in enumerate(_one_by_one(images)):
        key = fingerprint(image)
        if key not in numbers:
            numbers[key] = len(numbers)
            first.append(i)
            small, mean_colour = _small(image)
            luminance.append(small)
            colour.append(mean_colour)
        picture.append(numbers[key])
    return SmallPictures(
        np.stack(luminance), np.stack(colour), np.array(picture), np.array(first), height / width
    )


def _one_by_one(images: Any) -> Iterator[np.ndarray]:
    size = int(np.prod(images.shape[1:]))
    for batch in image_batches(images, min(64, max(1, BATCH_BYTES // size))):
        yield from batch


def _small(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance (SIDE, SIDE), and mean opponent colours with their root mean square."""
    height, width = image.shape[:2]
    # PIL averages whole pixels of large images many times faster than a matrix product.
    factor = max(1, width // (2 * SIDE)), max(1, height // (2 * SIDE))
    if factor != (1, 1):
        image = np.asarray(Image.fromarray(image).reduce(factor))
    enlarged = [-(-SIDE // min(n, SIDE)) for n in image.shape[:2]]  # fewer pixels than SIDE
    pixels = np.repeat(np.repeat(image, enlarged[0], axis=0), enlarged[1], axis=1)
    pixels = pixels.astype(np.float32) / 255
    colour = np.zeros(3, np.float32)
    if pixels.ndim == 3:
        red, green, blue = np.moveaxis(pixels, -1, 0)
        opponents = red - green, blue - (red + green) / 2
        rms = np.sqrt(sum(np.square(opponent).mean() for opponent in opponents))
        colour = np.array([*(opponent.mean() for opponent in opponents), rms], np.float32)
        pixels = pixels @ LUMA
    rows, columns = map(_weights, pixels.shape)
    return rows @ pixels @ columns.T, colour


@lru_cache(maxsize=8)
def _weights(n: int) -> np.ndarray:
    return area_weights(n, SIDE)


def blur_matrix(sd: float, size: int = SIDE) -> np.ndarray:
    """Matrix (size, size) that blurs one axis of pictures by a Gaussian of s.d. `sd` pixels."""
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(np.eye(size), sd, axis=0, mode="nearest").astype(np.float32)


def detail(luminance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance without its coarse part, divided by the local contrast.

    The coarse part, such as light above and dark below, is alike in many photographs of different
    things. Division by the local contrast makes all parts of a picture count alike, and takes out
    changes of brightness and contrast.

    Parameters
    ----------
    luminance : array of float32, shape (n, SIDE, SIDE), in 0 … 1

    Returns
    -------
    detail : array of float32, shape (n, SIDE, SIDE)
    contrast : array of float32, shape (n,)
        Root mean square before the division, in grey levels.
    """
    coarse, around = blur_matrix(BLUR), blur_matrix(NEIGHBOURHOOD)
    fine = luminance - coarse @ luminance @ coarse.T
    contrast = np.sqrt(np.square(fine).mean(axis=(1, 2), keepdims=True))
    local = np.sqrt(np.maximum(around @ np.square(fine) @ around.T, 0))
    # The last term keeps rounding to grey levels from becoming detail.
    fine /= local + CONTRAST_FLOOR * contrast + np.float32(MIN_DETAIL / 255)
    return fine, 255 * contrast[:, 0, 0]
