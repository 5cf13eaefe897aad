"""Extractors of changed images: blurred, cropped, or whatever a function makes of them."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from brainenc.features.base import FeatureExtractor, learns_from_images
from brainenc.features.behaviour import behaviour
from brainenc.features.store import FeatureStore
from brainenc.identity import identity


class WrappedFeatures(FeatureExtractor):
    """Base of extractors that give another extractor changed images."""

    extractor: FeatureExtractor

    def weights(self) -> dict[str, str] | None:
        """See `FeatureExtractor.weights`: those of the extractor."""
        return self._inner().weights()

    def _inner(self) -> FeatureExtractor:
        """The extractor, checked."""
        if not isinstance(self.extractor, FeatureExtractor):
            raise TypeError(
                f"extractor is a {type(self.extractor).__name__}: give one of brainenc's feature "
                "extractors, or a class derived from brainenc.features.FeatureExtractor"
            )
        if learns_from_images(self.extractor):
            raise TypeError(
                f"extractor={type(self.extractor).__name__} learns from images in fit: put what "
                "learns behind, as in make_pipeline(TransformedFeatures(...), PCA(50))"
            )
        return self.extractor

    def _kept_in(self) -> FeatureStore | str | os.PathLike | None:
        return self._inner().store if self.store is None else self.store

    def _features_of(self, images: np.ndarray) -> np.ndarray:
        """Features of changed images (n, H, W[, 3]), in batches that the extractor asks for."""
        inner = self._inner()
        size = max(1, inner.batch_size)
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        return np.concatenate([np.asarray(inner._extract(part)) for part in parts])


class TransformedFeatures(WrappedFeatures):
    """Features of images after a transformation, such as a blur.

    Parameters
    ----------
    extractor : FeatureExtractor
    image_transform : function
        From an image, uint8 of shape (H, W) or (H, W, 3), to another, which may have another size;
        deterministic: `gaussian_blur`, `foveal_blur`, or one of your own.
    batch_size : int
        Images transformed at once.
    store : path or FeatureStore, optional
        Store of computed features, keyed by the extractor, by `image_transform` with its code and
        parameters, and by what it makes of test images. By default that of the extractor, if it
        has one.
    verbose : bool
        Show a progress bar.

    Notes
    -----
    An encoder with a function of your own as `image_transform` cannot be saved, since a function
    cannot be restored exactly: those of brainenc can.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> from brainenc.features import gaussian_blur
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    >>> pixels = brainenc.PixelFeatures(size=8)
    >>> blurred = brainenc.TransformedFeatures(pixels, gaussian_blur(0.5), verbose=False)
    >>> features = blurred.transform(images)
    >>> features.shape, bool(features.std() < pixels.transform(images).std())
    ((2, 192), True)
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        image_transform: Callable[[np.ndarray], np.ndarray],
        *,
        batch_size: int = 64,
        store: Any = None,
        verbose: bool = True,
    ):
        self.extractor = extractor
        self.image_transform = image_transform
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose

    def key(self) -> dict[str, Any]:
        """See `FeatureExtractor.key`; the transformation by its content and its effect.

        Both, since test images do not show every effect (a narrow blur changes large images only),
        and code does not show all that it depends on.
        """
        return {
            **self._class_key(),
            "extractor": self._inner().key(),
            "image_transform": identity(self.image_transform),
            "effect": self._effect(),
        }

    def _effect(self) -> str:
        found = behaviour(
            lambda image: self._changed(np.asarray(image)), "image_transform", may_be_random=False
        )
        self._found = self.image_transform  # of which it is known that it is not random
        return found

    def _changed(self, image: np.ndarray) -> np.ndarray:
        if not callable(self.image_transform):
            raise TypeError(
                f"image_transform={self.image_transform!r} must be a function from an image to "
                "an image, such as brainenc.features.gaussian_blur(0.5)"
            )
        given = image.copy()  # a function that works in place must not change the user's images
        found = np.asarray(self.image_transform(given))
        colour = found.ndim == 3 and found.shape[2] == 3
        if found.dtype != np.uint8 or not (found.ndim == 2 or colour) or 0 in found.shape:
            raise ValueError(
                f"image_transform gave an array of {found.dtype} of shape {found.shape} for an "
                f"image {image.shape}: it must give uint8 of shape (H, W) or (H, W, 3); round "
                "with np.clip(np.round(image), 0, 255).astype(np.uint8)"
            )
        return found

    def _extract(self, batch: np.ndarray) -> np.ndarray:
        if getattr(self, "_found", None) is not self.image_transform:
            self._effect()
        changed = [self._changed(image) for image in batch]
        if sizes := {image.shape for image in changed[1:]} - {changed[0].shape}:
            raise ValueError(
                f"image_transform gave images of shapes {changed[0].shape} and {sizes.pop()} for "
                "images of one size: it must give one size for them"
            )
        return self._features_of(np.stack(changed))
