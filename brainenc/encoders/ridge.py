"""RidgeEncoder: ridge regression from features to voxels, the reference of all benchmarks."""

from typing import Any

import numpy as np

from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.blocks_of_draws import Blocks
from brainenc.encoders.draws import part_of
from brainenc.encoders.function_draws import (
    Functions,
    Streams,
    error_of_expected,
    fitted_posterior,
)
from brainenc.model_selection import image_folds
from brainenc.repeats import average_repeats
from brainenc.solvers.posterior import WeightPosterior, weight_posterior
from brainenc.solvers.regression import RidgeRegression
from brainenc.solvers.search import choose_search
from brainenc.solvers.streamed import ScaledFeatures


class RidgeEncoder(BaseEncoder):
    """Ridge regression with a penalty per voxel, chosen by cross-validation over images.

    Features are z-scored (token features flattened first), repeats averaged, and each voxel gets
    the alpha with the smallest mean squared error on held-out images.

    Parameters
    ----------
    features : "auto", None or transformer
        "auto" takes float arrays as features and computes OpenCLIP ViT-B/32 features of images;
        None takes features only; a transformer such as `GaborPyramid()` is applied to images.
    alphas : "auto" or array-like
        Penalties tried. "auto" is 15 values from 1e-4 to 1e3 times max(n_images, n_features),
        the mean non-zero eigenvalue of XᵀX for z-scored features.
    alpha_per_voxel : "auto" or bool
        Choose alpha per voxel, or one alpha for all voxels. "auto" is per voxel from 100 images on;
        with fewer, the held-out error of a single voxel is too noisy to choose alpha.
    cv : int, splitter or iterable of (train, test)
        Folds over images for the choice of alpha; an int means shuffled folds.
    form : "auto", "primal" or "kernel"
        Both give the same answers; "auto" is primal when there are fewer features than images.
    search : "auto", "guided" or "exact"
        "exact" predicts held-out images at every penalty; "guided" at those that may be the best
        one, which gives the same penalty in 99 % of voxels or more and is several times faster.
        "auto" is exact up to 1000 images.
    standardize : bool
        Divide each feature by its standard deviation over the training images. Features are
        centred in any case.
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
        Device of the solver.
    random_state : int
        Seed of the shuffled folds.

    Attributes
    ----------
    regression_ : RidgeRegression
        The fitted map; the next attributes are its parts.
    alphas_ : array, shape (n_voxels,)
        Chosen penalty; NaN for a voxel without data.
    intercept_ : array, shape (n_voxels,)
    form_ : "primal" or "kernel"
    search_ : "guided" or "exact"
    coef_ : array, shape (n_features, n_voxels), or (n_images, n_voxels) in kernel form
        Weights of the z-scored features, or of the training images' kernel.
    X_fit_ : array, shape (n_images, n_features), ScaledFeatures, or None in primal form
        z-scored features of the training images. Features over 1 GiB (as float32) are not copied:
        it refers to the array that was given, which must stay as it is; see :doc:`/large_data`.
    feature_mean_, feature_scale_ : arrays, shape (n_features,)
    posterior_ : WeightPosterior
        Posterior of the weights in closed form, which ``sample(noise="weights")`` draws from.

    References
    ----------
    Dupré la Tour et al. (2022), NeuroImage 264; their himalaya package gives the same answers.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((120, 8))
    >>> betas = features[:, None, :5] + rng.standard_normal((120, 2, 5))  # 2 repeats, 5 voxels
    >>> encoder = brainenc.RidgeEncoder().fit(features[:100], betas[:100])
    >>> encoder.predict(features[100:]).shape
    (20, 5)
    >>> encoder.sample(features[100:], n=3).shape
    (3, 20, 5)
    >>> encoder.score(features[100:], betas[100:]) > 0.5
    True
    """

    saved_parts = (*BaseEncoder.saved_parts, RidgeRegression, ScaledFeatures, WeightPosterior)

    alphas_ = part_of("regression_", "alphas")
    intercept_ = part_of("regression_", "intercept")
    form_ = part_of("regression_", "form")
    coef_ = part_of("regression_", "coef")
    X_fit_ = part_of("regression_", "X_fit")
    feature_mean_ = part_of("regression_", "feature_mean")
    feature_scale_ = part_of("regression_", "feature_scale")

    def __init__(
        self,
        features: Any = "auto",
        *,
        alphas: Any = "auto",
        alpha_per_voxel: Any = "auto",
        cv: Any = 5,
        form: str = "auto",
        search: str = "auto",
        standardize: bool = True,
        device: str = "auto",
        random_state: int | None = 0,
    ):
        self.features = features
        self.alphas = alphas
        self.alpha_per_voxel = alpha_per_voxel
        self.cv = cv
        self.form = form
        self.search = search
        self.standardize = standardize
        self.device = device
        self.random_state = random_state

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        averages = average_repeats(betas)
        folds = image_folds(self.cv, len(averages), random_state=self.random_state)
        self.search_ = choose_search(self.search, len(averages), folds)
        self.regression_, held_out = RidgeRegression.fit(
            features,
            averages,
            alphas=self.alphas,
            alpha_per_voxel=self.alpha_per_voxel,
            cv=self.cv,
            form=self.form,
            search=self.search_,
            standardize=self.standardize,
            device=self.device,
            random_state=self.random_state,
        )
        self.posterior_ = self._posterior(features, averages)
        return held_out

    def _posterior(self, features: np.ndarray, averages: np.ndarray) -> WeightPosterior:
        fit = self.regression_
        if fit.X_fit is not None:
            # Residuals of kernel ridge are its dual weights times the penalty.
            return weight_posterior(
                fit.X_fit,
                averages,
                lambda voxels: fit.alphas[voxels] * fit.coef[:, voxels],
                fit.alphas,
                keep=False,
            )
        X = fit.scaled(features)
        return weight_posterior(
            X,
            averages,
            lambda voxels: averages[:, voxels] - fit.intercept[voxels] - X @ fit.coef[:, voxels],
            fit.alphas,
        )

    def _predict(self, features: np.ndarray) -> np.ndarray:
        return self.regression_.predict(features)

    def _draw_blocks(
        self, features: np.ndarray, n: int, random_state: Any, part: str | None, **how: Any
    ) -> Blocks:
        seen = self.regression_.seen(features)
        return super()._draw_blocks(seen, n, random_state, part, **how)

    def _functions(self, features: np.ndarray, n: int, streams: Streams) -> Functions:
        fit = self.regression_
        drawn = fitted_posterior(self).at(
            fit.scaled(features), fit.X_fit, error=error_of_expected(self)
        )
        expected = fit.predict(features)
        return lambda voxels: expected[:, voxels] + drawn.draws(n, voxels, streams.voxels[voxels])
