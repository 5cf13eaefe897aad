"""MeanEncoder: the mean response, the baseline of every comparison."""

from typing import Any

import numpy as np

from brainenc.data.images import as_images, looks_like_images
from brainenc.encoders.base import BaseEncoder
from brainenc.repeats import average_repeats


class MeanEncoder(BaseEncoder):
    """Predict each voxel's mean response over the training images, for any image.

    This is the null model of every comparison. Voxelwise r of a constant is undefined (NaN); its
    MSE is the variance of the responses, and on uncentred betas its pattern r is far from zero.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> features, betas = np.zeros((4, 1)), np.arange(8.0).reshape(4, 2)
    >>> brainenc.MeanEncoder().fit(features, betas).predict(features[:1])
    array([[3., 4.]], dtype=float32)
    """

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        averages = average_repeats(betas)
        present = np.isfinite(averages)
        n_images = present.sum(axis=0)
        total = np.where(present, averages, 0).sum(axis=0, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            self.mean_ = total / n_images
            others = (total - np.where(present, averages, 0)) / (n_images - present)
        return others.astype(betas.dtype)

    def _predict(self, features: np.ndarray) -> np.ndarray:
        return np.tile(self.mean_, (len(features), 1))

    def _features_of(self, X: Any, *, reset: bool = False) -> np.ndarray:
        if looks_like_images(X):  # only their number is used
            return np.empty((len(as_images(X)), 0), dtype=np.float32)
        return super()._features_of(X, reset=reset)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags
