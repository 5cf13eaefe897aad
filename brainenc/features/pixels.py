"""PixelFeatures: the pixels, the baseline of all feature spaces."""

from typing import Any

import numpy as np

from brainenc.data.images import LUMA, area_weights
from brainenc.features.base import FeatureExtractor


class PixelFeatures(FeatureExtractor):
    """Pixels from 0 to 1, flattened.

    Parameters
    ----------
    size : int or (height, width), optional
        Shrink images to this size by averaging areas. By default every pixel is a feature: 100 for
        a 10 × 10 figure, half a million for an NSD photograph.
    color : bool
        Keep R, G and B of colour images; False uses their grey (0.299 R + 0.587 G + 0.114 B).
    batch_size : int
        Images per batch.
    store : path or FeatureStore, optional
        Store of computed features; rarely useful for pixels.
    verbose : bool
        Show a progress bar.

    Notes
    -----
    Features are in the order of ``image.ravel()``: rows, columns, channels.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> images = np.full((3, 32, 32, 3), 255, dtype=np.uint8)
    >>> features = brainenc.PixelFeatures(size=4, color=False).fit_transform(images)
    >>> features.shape, float(features.max().round(3))
    ((3, 16), 1.0)
    """

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        *,
        color: bool = True,
        batch_size: int = 256,
        store: Any = None,
        verbose: bool = True,
    ):
        self.size = size
        self.color = color
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose

    def _extract(self, batch: np.ndarray) -> np.ndarray:
        values = batch.astype(np.float32) / 255
        if values.ndim == 4 and not self.color:
            values = values @ LUMA
        if self.size is not None:
            values = _shrink(values, self.size)
        return values.reshape(len(values), -1)


def _shrink(images: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    height, width = (size, size) if isinstance(size, (int, np.integer)) else size
    if not (1 <= height <= images.shape[1] and 1 <= width <= images.shape[2]):
        raise ValueError(
            f"size={size} must lie between 1 and the size of the images {images.shape[1:3]}; "
            "pixels are only ever shrunk"
        )
    rows, columns = area_weights(images.shape[1], height), area_weights(images.shape[2], width)
    flat = images.reshape(*images.shape[:2], -1)
    fewer_rows = (rows @ flat).reshape(len(images), height, *images.shape[2:])
    if images.ndim == 3:
        return fewer_rows @ columns.T
    return columns @ fewer_rows
