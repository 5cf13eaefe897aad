"""An encoder in one file: the example of the documentation."""

import numpy as np
from scipy.special import softmax
from sklearn.metrics import pairwise_distances

import brainenc
from brainenc.repeats import average_repeats
from brainenc.solvers.voxels import flatten_tokens


class SimilarImagesEncoder(brainenc.BaseEncoder):
    """Average the responses to training images, those most like the new image counting most.

    Parameters
    ----------
    features : "auto", None or transformer
        As for `RidgeEncoder`.
    width : float
        Of the Gaussian that turns distances into weights, in units of the root mean square
        distance between training images.

    References
    ----------
    Nadaraya (1964), Theory of Probability & Its Applications 9.
    """

    def __init__(self, features="auto", *, width=0.3):
        self.features = features
        self.width = width

    def _fit(self, features, betas):
        self.X_fit_ = flatten_tokens(features)
        self.betas_fit_ = average_repeats(betas)
        self.scale_ = self.width * float(np.sqrt(2 * self.X_fit_.var(axis=0).sum()))
        distances = self._distances(self.X_fit_)
        np.fill_diagonal(distances, np.inf)  # the prediction of an image must not have seen it
        return self._average(distances)

    def _predict(self, features):
        return self._average(self._distances(flatten_tokens(features)))

    def _distances(self, X):
        return pairwise_distances(X, self.X_fit_).astype(np.float64) / self.scale_

    def _average(self, distances):
        weights = softmax(-(distances**2) / 2, axis=1)
        present = np.isfinite(self.betas_fit_)
        total = weights @ np.where(present, self.betas_fit_, 0)
        with np.errstate(invalid="ignore"):  # no data at all: 0 / 0 is NaN, as it should be
            return total / (weights @ present)
