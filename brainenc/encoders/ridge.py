"""RidgeEncoder: ridge regression from features to voxels, the reference of all benchmarks."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.blocks_of_draws import Blocks
from brainenc.encoders.draws import part_of
from brainenc.encoders.function_draws import (
    Functions,
    Streams,
    drawn_of_posterior,
    error_of_expected,
    fitted_posterior,
)
from brainenc.encoders.inputs import adapting
from brainenc.encoders.prior_fit import by_evidence, fit_with_prior, labels_of_table, with_prior_of
from brainenc.encoders.weight_prior import LinearMap, WeightPrior, check_prior
from brainenc.model_selection import image_folds
from brainenc.repeats import average_repeats
from brainenc.solvers.posterior import WeightPosterior
from brainenc.solvers.priors import PriorBands
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
    alpha_per_voxel : "auto", bool or labels, shape (n_voxels,)
        Choose alpha per voxel, one alpha for all voxels, or one for the voxels of each label, such
        as ``data.voxels["roi"]`` (of those with data for the same images). "auto" is per voxel from
        100 images on; with fewer, the held-out error of a voxel is too noisy to choose alpha.
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
    prior : WeightPrior, optional
        What the weights of other subjects' voxels are like. Fits with each component of it and with
        the isotropic prior of plain ridge are averaged, with weights per voxel (`selection`): with
        few images those of the average voxel count, with many its own. Weights are then
        those of features (`form_` is "primal"); `alphas` have the same units.
    rois : array of str, shape (n_voxels,), optional
        ROI labels, for a prior with components of ROIs: a voxel takes that of its own and that of
        all voxels. The benchmark gives them from the voxel table.
    selection : "auto", "cross-validation" or "evidence"
        With a prior: how penalties and the mixture of priors are chosen. "cross-validation": by
        held-out errors. "evidence": averages over all of them, with the probabilities that marginal
        likelihoods give; folds are for held-out predictions alone. "auto" is evidence, which was
        better at 25 to 400 images of simulated subjects and takes a third of the time, unless `cv`
        is a splitter or has folds of its own.

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
        Posterior of the weights in closed form, which ``sample(noise="weights")`` draws from. With
        a prior it is that of the fit with the largest weight in each voxel.
    prior_shares_ : array, shape (n_components + 1, n_voxels)
        With a prior: shares of its components and, last, of the isotropic one; they sum to 1.
    prior_bands_ : PriorBands
        With a prior: features of its components.

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

    saved_parts = (
        *BaseEncoder.saved_parts,
        *(RidgeRegression, ScaledFeatures, WeightPosterior),
        *(WeightPrior, PriorBands),
    )

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
        prior: WeightPrior | None = None,
        rois: Any = None,
        selection: str = "auto",
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
        self.prior = prior
        self.rois = rois
        self.selection = selection

    def _check_parameters(self) -> None:
        check_prior(self.prior)
        by_evidence(self.selection, self.cv, self.alpha_per_voxel)

    def with_voxels(self, voxels: pd.DataFrame) -> "RidgeEncoder":
        """Copy of the encoder with the voxels' ROI labels, if its prior has components of ROIs.

        Raises
        ------
        ValueError : no atlas of the table has an ROI of the prior.
        """
        if self.prior is None or self.rois is not None:
            return self
        labels = labels_of_table(self.prior, voxels)
        return self if labels is None else clone(self).set_params(rois=labels)

    def linear_map(self) -> LinearMap:
        """Weights of features as they are, (n_features, n_voxels), of which priors are made."""
        check_is_fitted(self)
        return LinearMap.of(self.regression_, fitted_posterior(self).variance)

    def adapt(self, X: Any, y: Any) -> "RidgeEncoder":
        """Fit to a new subject with this subject's weights as the prior; this encoder is unchanged.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject
            The number of voxels may differ; features must be the same.

        Returns
        -------
        RidgeEncoder
            Its `prior` is `WeightPrior.from_encoders` of this encoder.

        Raises
        ------
        ValueError : as `fit`; features of another shape or scale.
        """
        found: RidgeEncoder = super().adapt(X, y)
        return found

    def _adapting(self) -> tuple[BaseEncoder, dict[str, Any]]:
        return with_prior_of(adapting(self), self), {}

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        averages = average_repeats(betas)
        folds = image_folds(self.cv, len(averages), random_state=self.random_state)
        self.search_ = choose_search(self.search, len(averages), folds)
        if self.prior is not None:
            found = fit_with_prior(self, features, averages)
            self.regression_, self.posterior_ = found.regression, found.posterior
            self.prior_shares_, self.prior_bands_ = found.shares, found.bands
            return found.held_out
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
        self.posterior_ = self.regression_.posterior(features, averages)
        return held_out

    def _predict(self, features: np.ndarray) -> np.ndarray:
        return self.regression_.predict(features)

    def _draw_blocks(
        self, features: np.ndarray, n: int, random_state: Any, part: str | None, **how: Any
    ) -> Blocks:
        seen = self.regression_.seen(features)
        return super()._draw_blocks(seen, n, random_state, part, **how)

    def _functions(self, features: np.ndarray, n: int, streams: Streams) -> Functions:
        return functions_of_weights(self, features, n, streams)


def functions_of_weights(encoder: Any, features: np.ndarray, n: int, streams: Streams) -> Functions:
    """Draws of an encoder with ridge weights: the prediction, and draws of their posterior around.

    Parameters
    ----------
    encoder : encoder with `regression_`, `posterior_`, and `prior_bands_` with a prior
    features, n, streams
        As for `Draws._functions`.
    """
    fit = encoder.regression_
    X: Any = fit.scaled(features)
    if (bands := getattr(encoder, "prior_bands_", None)) is not None:
        X = bands.features(X)
    drawn = fitted_posterior(encoder).at(X, fit.X_fit, error=error_of_expected(encoder))
    expected = fit.predict(features)
    return lambda voxels: expected[:, voxels] + drawn_of_posterior(drawn, n, streams, voxels)
