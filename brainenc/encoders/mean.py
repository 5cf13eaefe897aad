"""MeanEncoder: the mean response, the baseline of every comparison."""

from typing import Any

import numpy as np

from brainenc.data.images import as_images, looks_like_images
from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.function_draws import Functions, Streams
from brainenc.repeats import average_repeats


class MeanEncoder(BaseEncoder):
    """Predict each voxel's mean response over the training images, for any image.

    This is the null model of every comparison. Voxelwise r of a constant is undefined (NaN); its
    MSE is the variance of the responses, and on uncentred betas its pattern r is far from zero.

    Attributes
    ----------
    mean_, standard_error_ : arrays, shape (n_voxels,)
        Mean over images, and its standard error, by which ``sample(noise="weights")`` varies it.

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
            squares = np.where(present, averages - self.mean_, 0)
            variance = np.square(squares).sum(axis=0, dtype=np.float64) / (n_images - 1)
            self.standard_error_ = np.where(n_images > 1, np.sqrt(variance / n_images), np.nan)
        return others.astype(betas.dtype)

    def _predict(self, features: np.ndarray) -> np.ndarray:
        return np.tile(self.mean_, (len(features), 1))

    def _functions(self, features: np.ndarray, n: int, streams: Streams) -> Functions:
        error = getattr(self, "standard_error_", np.full(self.n_voxels_, np.nan))

        def draws(voxels: slice) -> np.ndarray:
            rngs = [np.random.default_rng(seed) for seed in streams.voxels[voxels]]
            z = np.stack([rng.standard_normal(n) for rng in rngs], axis=1)
            if (shared := streams.noise) is not None:
                loadings = shared.loadings[:, voxels]
                common = shared.rng(0).standard_normal((n, len(loadings)))
                z = shared.private[voxels] * z + common @ loadings
            drawn = self.mean_[voxels] + error[voxels] * z
            return np.repeat(drawn[:, None], len(features), axis=1).astype(np.float32)

        return draws

    def _features_of(self, X: Any, *, reset: bool = False) -> np.ndarray:
        if looks_like_images(X):  # only their number is used
            return np.empty((len(as_images(X)), 0), dtype=np.float32)
        return super()._features_of(X, reset=reset)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags
