"""GlimpseFeatures: features of windows around fixations, as a sequence of glimpses has them."""

from typing import Any

import numpy as np

from brainenc.conversion import numeric_array
from brainenc.features.base import FeatureExtractor
from brainenc.features.transformed import WrappedFeatures
from brainenc.features.visual_angle import check_degrees, pixels_per_degree

#: Grey around the image, as on the display.
_AROUND = 128


class GlimpseFeatures(WrappedFeatures):
    """Features of square windows around fixations, one token per glimpse.

    Parameters
    ----------
    extractor : FeatureExtractor
        Applied to each window; if it gives tokens, those of all windows follow one another.
    fixations : "centre" or array, shape (n_glimpses, 2)
        Degrees right and up of the centre of the image, the same for every image. "centre" is one
        glimpse at the centre.
    size_deg : float
        Side of the window in degrees.
    image_deg : float
        Width of the image in degrees; 8.4 in the NSD.
    batch_size : int
        Images of which windows are cut at once.
    store : path or FeatureStore, optional
        Store of computed features. By default that of the extractor, if it has one.
    verbose : bool
        Show a progress bar.

    Notes
    -----
    What lies outside of the image is mid-grey, as around it on a display. Window edges are rounded
    to pixels. Fixations that differ between images, as of an eye tracker, are not taken: compute
    their features and give them as `PrecomputedFeatures`.

    References
    ----------
    Glimpse prediction networks take seven windows of 3° (KietzmannLab/GPN).

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 84, 84, 3), dtype=np.uint8)
    >>> pixels = brainenc.PixelFeatures(size=4)
    >>> fixations = [[0, 0], [-2, 0], [2, 1.5]]
    >>> brainenc.GlimpseFeatures(pixels, fixations, verbose=False).transform(images).shape
    (2, 3, 48)
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        fixations: Any = "centre",
        size_deg: float = 3.0,
        *,
        image_deg: float = 8.4,
        batch_size: int = 64,
        store: Any = None,
        verbose: bool = True,
    ):
        self.extractor = extractor
        self.fixations = fixations
        self.size_deg = size_deg
        self.image_deg = image_deg
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose

    def key(self) -> dict[str, Any]:
        """See `FeatureExtractor.key`; fixations by their numbers, "centre" as (0, 0)."""
        return {
            **self._class_key(),
            "extractor": self._inner().key(),
            "fixations": self._fixations().tolist(),
            "size_deg": float(self.size_deg),
            "image_deg": float(self.image_deg),
        }

    def _fixations(self) -> np.ndarray:
        """(n_glimpses, 2), checked, as are the sizes."""
        check_degrees("size_deg", self.size_deg)
        check_degrees("image_deg", self.image_deg)
        if isinstance(self.fixations, str):
            if self.fixations != "centre":
                raise ValueError(
                    f'fixations={self.fixations!r} must be "centre" or an array (n_glimpses, 2)'
                )
            return np.zeros((1, 2))
        found = numeric_array(self.fixations, "fixations").astype(float)
        if found.ndim != 2 or found.shape[1] != 2 or not len(found):
            raise ValueError(
                f"fixations {found.shape} must be (n_glimpses, 2): degrees right and up of the "
                "centre, the same for every image"
            )
        if not np.isfinite(found).all():
            raise ValueError("fixations holds NaN or infinite numbers: leave such glimpses out")
        return found

    def windows(self, images: np.ndarray) -> np.ndarray:
        """The windows of images.

        Parameters
        ----------
        images : array of uint8, shape (n_images, H, W) or (n_images, H, W, 3)

        Returns
        -------
        array of uint8, shape (n_images, n_glimpses, side, side[, 3])

        Raises
        ------
        ValueError : a fixation outside the image, or a window of less than a pixel.
        """
        fixations = self._fixations()
        height, width = images.shape[1:3]
        scale = pixels_per_degree(images[0], self.image_deg)
        side = round(self.size_deg * scale)
        if side < 1:
            raise ValueError(
                f"size_deg={self.size_deg} is {self.size_deg * scale:.2g} pixels of images "
                f"{images.shape[1:3]}, {self.image_deg} degrees wide: give a larger window"
            )
        columns = width / 2 + fixations[:, 0] * scale
        rows = height / 2 - fixations[:, 1] * scale
        outside = (columns < 0) | (columns > width) | (rows < 0) | (rows > height)
        if outside.any():
            raise ValueError(
                f"fixations has {fixations[outside][0].tolist()}, outside of images that are "
                f"{self.image_deg} × {height / scale:.3g} degrees: give degrees right and up of "
                "the centre, or another image_deg"
            )
        around = [(0, 0), (side, side), (side, side)] + [(0, 0)] * (images.ndim - 3)
        padded = np.pad(images, around, constant_values=_AROUND)
        cuts = []
        for row, column in zip(rows, columns, strict=True):
            top, left = (round(place - side / 2) + side for place in (row, column))
            cuts.append(padded[:, top : top + side, left : left + side])
        return np.stack(cuts, axis=1)

    def _extract(self, batch: np.ndarray) -> np.ndarray:
        windows = self.windows(batch)
        found = self._features_of(windows.reshape(-1, *windows.shape[2:]))
        tokens = found if found.ndim == 3 else found[:, None]
        return tokens.reshape(len(batch), -1, tokens.shape[-1])
