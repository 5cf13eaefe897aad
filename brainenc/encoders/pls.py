"""PLSEncoder: partial least squares, a few components of the features that voxels share."""

import warnings
from typing import Any

import numpy as np

from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.inputs import adapting
from brainenc.encoders.trunk import check_same_features
from brainenc.encoders.weight_prior import LinearMap, check_scale
from brainenc.model_selection import image_folds
from brainenc.repeats import average_repeats
from brainenc.solvers.pls import Design, PLSFit, pls_cv
from brainenc.solvers.voxels import (
    feature_scaling,
    flatten_tokens,
    folds_of_rows,
    missing_patterns,
)

#: Largest number of components that "auto" tries.
MOST_COMPONENTS = 30
#: Shares of another subject's components that `adapt` tries.
SHARES = (0.1, 0.5, 0.9)


class PLSEncoder(BaseEncoder):
    """Partial least squares: responses are linear in a few components of the features.

    Components are directions of the features of largest covariance with the responses of all
    voxels, as in `sklearn.cross_decomposition.PLSRegression`, which finds them. Their number is
    chosen by cross-validation over training images. Brain-Score maps features to units in this way,
    with 25 components of features and responses that are not scaled:
    ``PLSEncoder(n_components=25, standardize=False)``.

    Token features are flattened first, and repeats averaged. Voxels share components, so a voxel's
    prediction depends on which other voxels are fitted; voxels that lack the same images are fitted
    together, to the images they have.

    Parameters
    ----------
    features : "auto", None or transformer
        As for `RidgeEncoder`.
    n_components : "auto", int or array-like of int
        Number of components, or numbers that are tried; "auto" is 1 to 30, as far as images and
        features allow. The number with the smallest mean squared error on held-out images, over all
        voxels, is chosen.
    cv : int, splitter or iterable of (train, test)
        Folds over images for this choice and for held-out predictions; an int means shuffled folds.
    standardize : bool
        Divide each feature, and each voxel's responses, by its standard deviation over the training
        images: then all count the same in the covariance. Both are centred in any case.
    random_state : int
        Seed of the shuffled folds.

    Attributes
    ----------
    n_components_ : array of int, shape (n_voxels,)
        Components of each voxel's fit, one number for all voxels if no image is missing; fewer than
        asked for if features or responses have none left; 0 for a voxel without data.
    coef_ : array, shape (n_features, n_voxels)
        Weights of the scaled features; NaN for a voxel without data.
    intercept_, error_sd_ : arrays, shape (n_voxels,)
        The latter is the s.d. of errors of held-out averages.
    rotations_ : array, shape (n_features, n_components)
        Of scaled features: components are ``X @ rotations_``. Of the largest set of voxels that
        lack the same images.
    loadings_ : array, shape (n_voxels of this set, n_components)
        Weights of components, for responses divided by their standard deviation.
    feature_mean_, feature_scale_ : arrays, shape (n_features,)
    prior_shares_ : array, shape (n_voxels,)
        Of an adapted encoder: share of the components of the subject that it starts from: .1, .5 or
        .9; 0 from scratch.

    References
    ----------
    Wold, Sjöström & Eriksson (2001), Chemometrics and Intelligent Laboratory Systems 58; Schrimpf
    et al. (2018), bioRxiv 407007 (Brain-Score).

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((120, 20))
    >>> components = features[:, :3] @ rng.standard_normal((3, 6))  # 6 voxels share 3 directions
    >>> betas = components[:, None] + rng.standard_normal((120, 2, 6))  # 2 repeats
    >>> encoder = brainenc.PLSEncoder().fit(features[:100], betas[:100])
    >>> encoder.predict(features[100:]).shape
    (20, 6)
    >>> encoder.score(features[100:], betas[100:]) > 0.5
    True
    """

    def __init__(
        self,
        features: Any = "auto",
        *,
        n_components: Any = "auto",
        cv: Any = 5,
        standardize: bool = True,
        random_state: int | None = 0,
    ):
        self.features = features
        self.n_components = n_components
        self.cv = cv
        self.standardize = standardize
        self.random_state = random_state

    def _check_parameters(self) -> None:
        numbers_tried(self.n_components, most=MOST_COMPONENTS)

    def adapt(self, X: Any, y: Any) -> "PLSEncoder":
        """Fit to a new subject, preferring this subject's components; this encoder is unchanged.

        The second moment of this subject's weights is the covariance of a few functions of the
        features. Beside the features these get a tenth, half or nine tenths of the variance in
        which components are found, whichever predicts held-out images of the new subject best.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject
            The number of voxels may differ; features must be the same.

        Returns
        -------
        PLSEncoder

        Raises
        ------
        ValueError : as `fit`; features of another shape or scale; an encoder without components.
        """
        found: PLSEncoder = super().adapt(X, y)
        return found

    def _adapting(self) -> tuple[BaseEncoder, dict[str, Any]]:
        return adapting(self), {"source": self}

    def linear_map(self) -> LinearMap:
        """Weights of features as they are, (n_features, n_voxels), of which priors are made."""
        weights = self.coef_ / self.feature_scale_[:, None]
        return LinearMap(weights, self.error_sd_, self.feature_mean_, self.feature_scale_)

    def _fit(self, features: np.ndarray, betas: np.ndarray, *, source: Any = None) -> np.ndarray:
        X, Y = flatten_tokens(features), average_repeats(betas)
        self.feature_mean_, self.feature_scale_ = feature_scaling(X, self.standardize)
        scaled = ((X - self.feature_mean_) / self.feature_scale_).astype(np.float64)
        design: Design = Design(scaled)
        shares: tuple[float, ...] = (0.0,)
        if source is not None:
            check_same_features(self, source)
            check_scale(X, source.feature_mean_, source.feature_scale_)
            per_unit = self.feature_scale_ / source.feature_scale_
            design, shares = Design(scaled, per_unit[:, None] * source._factor()), SHARES
        image_folds(self.cv, len(X), random_state=self.random_state)  # an error before any fit
        self._check_enough(X)
        n_voxels, dtype = Y.shape[1], np.result_type(X, np.float32)
        self.coef_ = np.full((X.shape[1], n_voxels), np.nan, dtype)
        self.intercept_, self.error_sd_ = np.full((2, n_voxels), np.nan, dtype)
        self.prior_shares_ = np.full(n_voxels, np.nan)
        self.n_components_ = np.zeros(n_voxels, dtype=np.int32)
        self.rotations_, self.loadings_ = np.zeros((X.shape[1], 0)), np.zeros((0, 0))
        held_out = np.full(Y.shape, np.nan, dtype)
        smallest = min(self.cv if isinstance(self.cv, int) else 2, len(Y))
        n_left_out = 0
        for rows, voxels in missing_patterns(Y):
            if len(rows) < smallest:
                n_left_out += len(voxels)
                continue
            # In units of the images that these voxels have.
            mean, sd = feature_scaling(design.features[rows], self.standardize)
            factor = None if design.factor is None else design.factor * sd[:, None]
            own = Design((design.features[rows] - mean) / sd, factor)
            targets = Y[np.ix_(rows, voxels)].astype(np.float64)
            scale = feature_scaling(targets, self.standardize)[1]
            fit = self._fit_together(own, targets / scale, rows, len(X), shares)
            found = fit.components
            rotations = found.rotations / sd[:, None]
            self.coef_[:, voxels] = rotations @ found.loadings.T * scale
            at_zero = found.constant - (mean + sd * found.mean) @ rotations @ found.loadings.T
            self.intercept_[voxels] = at_zero * scale
            self.n_components_[voxels] = rotations.shape[1]
            self.prior_shares_[voxels] = fit.share
            held_out[np.ix_(rows, voxels)] = fit.held_out * scale
            errors = np.square(fit.held_out * scale - targets)
            self.error_sd_[voxels] = np.sqrt(errors[np.isfinite(errors[:, 0])].mean(axis=0))
            if len(voxels) > len(self.loadings_):
                self.rotations_, self.loadings_ = rotations, found.loadings
        if n_left_out:
            warnings.warn(
                f"{n_left_out} voxels have data for fewer than {smallest} images: not fitted, and "
                "predicted as NaN",
                stacklevel=4,
            )
        return held_out

    def _check_enough(self, X: np.ndarray) -> None:
        """Raise ValueError if images or features are fewer than the components asked for."""
        if isinstance(self.n_components, str):
            return
        most, smallest = min(len(X) - 1, X.shape[1]), int(np.min(self.n_components))
        if smallest > most:
            raise ValueError(
                f"n_components={self.n_components!r}, but {X.shape[0]} images and {X.shape[1]} "
                f"features have at most {most} components; lower it, or give 'auto'"
            )

    def _fit_together(
        self, design: Design, Y: np.ndarray, rows: np.ndarray, n_images: int, shares: Any
    ) -> PLSFit:
        """Fit voxels that have data for the images `rows`."""
        folds = folds_of_rows(self.cv, rows, n_images, random_state=self.random_state)
        most = min(len(Y) - 1, design.features.shape[1])
        if isinstance(self.n_components, str):
            most = min([most, *(len(train) - 1 for train, _ in folds)])
        counts = numbers_tried(self.n_components, max(1, most))
        return pls_cv(design, Y, counts, folds, shares)

    def _factor(self) -> np.ndarray:
        """F (n_features, n_components) of features as scaled here: FFᵀ is that of its weights.

        Raises
        ------
        ValueError : there are no components.
        """
        if not self.rotations_.shape[1]:
            raise ValueError("this encoder predicts the mean only: it has no components to adapt")
        moment = self.loadings_.T @ self.loadings_ / max(1, len(self.loadings_))
        variances, axes = np.linalg.eigh(moment)
        return self.rotations_ @ (axes * np.sqrt(np.maximum(variances, 0)))

    def _predict(self, features: np.ndarray) -> np.ndarray:
        scaled = (flatten_tokens(features) - self.feature_mean_) / self.feature_scale_
        return scaled @ self.coef_ + self.intercept_


def numbers_tried(n_components: Any, most: int) -> list[int]:
    """Numbers of components that are tried, in increasing order.

    Parameters
    ----------
    n_components : "auto", int or array-like of int
    most : int
        Largest number that images and features allow: larger ones are replaced by it.

    Raises
    ------
    ValueError : neither "auto" nor whole numbers from 1 on.
    """
    if isinstance(n_components, str):
        if n_components != "auto":
            raise ValueError(
                f"n_components={n_components!r} must be 'auto', a number or numbers to try"
            )
        return list(range(1, min(most, MOST_COMPONENTS) + 1))
    given = np.asarray(n_components)
    whole = given.dtype.kind in "iu" and given.ndim <= 1 and given.size > 0
    if not whole or (given < 1).any():
        raise ValueError(
            f"n_components={n_components!r} must be 'auto', a whole number from 1 on, or several"
        )
    return sorted({min(number, most) for number in np.atleast_1d(given).tolist()})
