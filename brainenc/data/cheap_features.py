"""Luminance, colour and contrast energy of images on coarse grids: features for checks of data."""

from typing import Any

import numpy as np

from brainenc.data.images import LUMA, area_weights, image_batches


def cheap_features(images: Any, *, batch_size: int = 64) -> np.ndarray:
    """Luminance, colour and contrast energy on coarse grids.

    Parameters
    ----------
    images : array or lazy sequence, shape (n_images, H, W[, 3]), uint8
    batch_size : int

    Returns
    -------
    array of float32, shape (n_images, n_features)
        Centred over the images. Each of the three kinds, unless constant, has the same total
        variance, and the mean squared norm of a row is 1; no columns if all are constant.
    """
    batches = [_feature_maps(batch) for batch in image_batches(images, batch_size)]
    kinds = [np.concatenate(kind) for kind in zip(*batches, strict=True)]
    kinds = [kind - kind.mean(axis=0) for kind in kinds]
    sizes = [np.sqrt(np.square(kind).sum(axis=1).mean()) for kind in kinds]
    varying = [kind / size for kind, size in zip(kinds, sizes, strict=True) if size > 1e-4]
    if not varying:
        return np.empty((len(images), 0), np.float32)
    return np.hstack(varying) / np.sqrt(np.float32(len(varying)))


def _feature_maps(batch: np.ndarray) -> list[np.ndarray]:
    """Luminance, two opponent colours, energy along x, y and the diagonals at two scales."""
    pixels = batch.astype(np.float32) / 255
    colours = []
    if pixels.ndim == 4:
        red, green, blue = np.moveaxis(pixels, -1, 0)
        colours = [red - green, blue - (red + green) / 2]
        pixels = pixels @ LUMA
    energy = []
    for size in (64, 32):
        shrunk = _shrink(pixels, size)
        y, x = np.gradient(shrunk, axis=(1, 2))
        # Square root of the sum: contrast instead of energy, which a few edges would dominate.
        energy += [np.sqrt(_shrink(part**2, 8)) for part in (x, y, x + y, x - y)]
    maps = [[_shrink(pixels, 16)], [_shrink(colour, 8) for colour in colours], energy]
    flat = [[part.reshape(len(batch), -1) for part in kind] for kind in maps]
    return [np.hstack(kind) if kind else np.zeros((len(batch), 1), np.float32) for kind in flat]


def _shrink(maps: np.ndarray, size: int) -> np.ndarray:
    rows, columns = (area_weights(n, min(n, size)) for n in maps.shape[1:])
    return rows @ maps @ columns.T
