"""BandedRidgeEncoder: ridge on several feature spaces, each with its own penalty."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from brainenc.devices import resolve_device
from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.function_draws import (
    Functions,
    Streams,
    drawn_of_posterior,
    error_of_expected,
    fitted_posterior,
)
from brainenc.encoders.inputs import adapting
from brainenc.encoders.prior_fit import by_evidence, with_prior_of
from brainenc.encoders.spaces import FeatureSpaces
from brainenc.encoders.weight_prior import LinearMap, WeightPrior, check_prior
from brainenc.model_selection import Folds
from brainenc.process_state import own_settings
from brainenc.repeats import average_repeats
from brainenc.solvers import RidgeFit, banded_ridge_cv, feature_bands, kernel_of
from brainenc.solvers.banded_evidence import banded_ridge_evidence, candidates_with_priors
from brainenc.solvers.posterior import WeightPosterior, weight_posterior
from brainenc.solvers.search import choose_search
from brainenc.solvers.voxels import (
    EXACT_IMAGES,
    check_voxel_labels,
    choose_alphas,
    choose_per_voxel,
    feature_scaling,
    fit_voxels,
    flatten_tokens,
    folds_of_rows,
)


class BandedRidgeEncoder(FeatureSpaces, BaseEncoder):
    """Ridge regression on several feature spaces (bands), with band weights per voxel.

    Cross-validation over images chooses band weights, from candidates that all voxels share, and
    alpha, both per voxel. Features are z-scored, and each band is divided by the square root of its
    number of features, so that the penalty does not favour large bands.

    Parameters
    ----------
    features : dict of name to transformer, "auto", None or transformer
        A dict makes one band per entry from images. Otherwise as for `RidgeEncoder`.
    bands : dict of name to int, optional
        Number of features of each band, in the order of the columns; for features that are passed
        in or come from one transformer. By default all features are one band.
    alphas : "auto" or array-like
        Penalties tried; "auto" as for `RidgeEncoder`, in units of the scaled features.
    alpha_per_voxel : "auto", bool or labels, shape (n_voxels,)
        As for `RidgeEncoder`.
    n_iter : int
        Number of candidate band weights, which time grows with.
    candidates : "random", "chosen" or array, shape (n_candidates, n_bands)
        "random" weights are drawn from Dirichlet distributions. "chosen" draws a third so, and
        chooses the others where the errors so far promise the largest fall of the error over all
        voxels: better for as many candidates, but what a voxel gets then depends on the other
        voxels of the fit. An array gives the weights themselves.
    cv, search, device, random_state
        As for `RidgeEncoder`; `random_state` also seeds the candidates.
    verbose : bool
        Show a progress bar over candidates.
    prior : WeightPrior, optional
        What the weights of other subjects' voxels are like, on all features: each component is a
        band more, "prior: all", beside those of the features. Unlike `RidgeEncoder` the encoder
        chooses one candidate per voxel.
    selection : "auto", "cross-validation" or "evidence"
        With a prior: how candidates and penalties are chosen. "cross-validation": as without one.
        "evidence": the largest marginal likelihood, in which the average voxel counts as 200
        images; folds are for held-out predictions alone. Its "random" candidates are the `n_iter`
        that are tried without a prior, and half as many mixtures with a component of the prior; of
        one band, whose weight needs no search, three for one component. "auto" is evidence, unless
        `cv` is a splitter or has folds of its own, `alpha_per_voxel` has labels, or candidates are
        "chosen", which is by held-out errors.

    Attributes
    ----------
    band_weights_ : array, shape (n_bands, n_voxels)
        Share of each band in each voxel's kernel; sums to 1 over bands.
    band_names_ : list of str
    search_ : "guided" or "exact"
    alphas_, intercept_ : arrays, shape (n_voxels,)
    dual_coef_ : array, shape (n_images, n_voxels)
    X_fit_ : array, shape (n_images, n_features)
    posterior_ : WeightPosterior
        Posterior of the weights in closed form, given the band weights; see `RidgeEncoder`.

    References
    ----------
    Dupré la Tour et al. (2022), NeuroImage 264; their himalaya package gives the same answers for
    the same candidates.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((120, 8))
    >>> betas = features[:, None, :5] + rng.standard_normal((120, 2, 5))  # 2 repeats, 5 voxels
    >>> encoder = brainenc.BandedRidgeEncoder(bands={"signal": 5, "other": 3}, n_iter=10)
    >>> encoder.fit(features, betas).band_weights_.shape
    (2, 5)
    >>> bool(encoder.band_weights_[0].mean() > 0.5)  # the first band explains the betas
    True
    """

    saved_parts = (*BaseEncoder.saved_parts, WeightPosterior, WeightPrior)

    def __init__(
        self,
        features: Any = "auto",
        *,
        bands: dict[str, int] | None = None,
        alphas: Any = "auto",
        alpha_per_voxel: Any = "auto",
        n_iter: int = 20,
        candidates: Any = "random",
        cv: Any = 5,
        search: str = "auto",
        verbose: bool = False,
        device: str = "auto",
        random_state: int | None = 0,
        prior: WeightPrior | None = None,
        selection: str = "auto",
    ):
        self.features = features
        self.bands = bands
        self.alphas = alphas
        self.alpha_per_voxel = alpha_per_voxel
        self.n_iter = n_iter
        self.candidates = candidates
        self.cv = cv
        self.search = search
        self.verbose = verbose
        self.device = device
        self.random_state = random_state
        self.prior = prior
        self.selection = selection

    def _check_parameters(self) -> None:
        check_prior(self.prior)
        self._by_evidence()

    def _by_evidence(self) -> bool:
        """Whether a fit with a prior is chosen by evidence."""
        found = by_evidence(self.selection, self.cv, self.alpha_per_voxel)
        if isinstance(self.candidates, str) and self.candidates == "chosen":
            if self.selection == "evidence":
                raise ValueError(
                    'selection="evidence" has no candidates="chosen", which are chosen by held-out '
                    'errors: give candidates="random" or an array, or selection="cross-validation"'
                )
            return False
        return found

    def linear_map(self, noise: np.ndarray | None = None) -> LinearMap:
        """Weights of features as they are, (n_features, n_voxels), of which priors are made.

        `noise` is the s.d. of each voxel's residuals, if it is known.
        """
        sizes = list(self.band_sizes_.values())
        scale = self.feature_scale_ * np.sqrt(np.repeat(sizes, sizes)).astype(self.X_fit_.dtype)
        weights = (self.X_fit_.T @ self.dual_coef_) * np.repeat(self.band_weights_, sizes, axis=0)
        weights /= scale[:, None]
        found = weights[: self.n_features_]
        start = self.n_features_
        for factor in self.prior_factors_:
            found = found + factor @ weights[start : start + factor.shape[1]]
            start += factor.shape[1]
        own = slice(self.n_features_)
        if noise is None:
            noise = np.sqrt(np.maximum(fitted_posterior(self).variance, 0))
        return LinearMap(found, noise, self.feature_mean_[own], self.feature_scale_[own])

    def adapt(self, X: Any, y: Any) -> "BandedRidgeEncoder":
        """Fit to a new subject with this subject's weights as a band more; this one is unchanged.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject
            The number of voxels may differ; features must be the same.

        Returns
        -------
        BandedRidgeEncoder
            Its `prior` is `WeightPrior.from_encoders` of this encoder.
        """
        found: BandedRidgeEncoder = super().adapt(X, y)
        return found

    def _adapting(self) -> tuple[BaseEncoder, dict[str, Any]]:
        return with_prior_of(adapting(self), self), {}

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        averages = average_repeats(betas)
        held_out = self.fit_weights(features, averages)
        self.posterior_ = weight_posterior(
            self.X_fit_,
            averages.astype(self.X_fit_.dtype, copy=False),
            # Residuals of kernel ridge are its dual weights times the penalty.
            lambda voxels: self.alphas_[voxels] * self.dual_coef_[:, voxels],
            self.alphas_,
            band_weights=self.band_weights_,
            band_sizes=list(self.band_sizes_.values()),
            keep=False,
        )
        return held_out

    def fit_weights(self, features: np.ndarray, averages: np.ndarray) -> np.ndarray:
        """Fit the weights alone, for encoders that have a banded ridge inside.

        Parameters
        ----------
        features : array, shape (n_images, n_features), with the bands side by side
        averages : array, shape (n_images, n_voxels); NaN where an image has no data

        Returns
        -------
        array, shape (n_images, n_voxels)
            Predictions of each image by the folds that held it out.
        """
        X = flatten_tokens(features)
        if not isinstance(self.features, Mapping):
            shapes = self._band_shapes_of(X)
            self.band_sizes_ = {name: math.prod(shape) for name, shape in shapes.items()}
        self.n_features_, self.prior_factors_ = X.shape[1], []
        if self.prior is not None:
            self.prior.check(features, getattr(self, "features_", None))
            self.prior_factors_ = [factor.astype(X.dtype) for factor in self.prior.factors]
            names = [f"prior: {name}" for name in self.prior.names]
            ranks = [factor.shape[1] for factor in self.prior_factors_]
            self.band_sizes_ = self.band_sizes_ | dict(zip(names, ranks, strict=True))
        X = self._with_prior(X)
        self.band_names_ = list(self.band_sizes_)
        self.feature_mean_, self.feature_scale_ = feature_scaling(X)
        start = self.n_features_
        for factor in self.prior_factors_:
            # One scale for all directions of a component: their variances are the prior.
            columns = slice(start, start := start + factor.shape[1])
            self.feature_scale_[columns] = np.sqrt(X[:, columns].var(axis=0).mean()) or 1
        self.X_fit_ = self._scaled(X)
        folds = self._folds(np.arange(len(X)), len(X))
        self.search_ = choose_search(self.search, len(X), folds)
        bands_of = self._bands(self.X_fit_)
        check_voxel_labels(self.alpha_per_voxel, averages.shape[1])
        fitted = fit_voxels(
            averages.astype(X.dtype, copy=False),
            lambda rows, Y, voxels: self._solve(
                bands_of(rows), Y, voxels, self._folds(rows, len(X))
            ),
            n_weights=len(X),
            dual=True,
            n_bands=len(self.band_sizes_),
            min_images=self.cv if isinstance(self.cv, int) else 2,
        )
        self.dual_coef_, self.intercept_ = fitted.weights, fitted.intercept
        self.alphas_, self.band_weights_ = fitted.alphas, np.asarray(fitted.band_weights)
        return fitted.held_out

    def _functions(self, features: np.ndarray, n: int, streams: Streams) -> Functions:
        X = self._scaled(self._with_prior(flatten_tokens(features)))
        drawn = fitted_posterior(self).at(X, self.X_fit_, error=error_of_expected(self))
        expected = self._predict(features)
        return lambda voxels: expected[:, voxels] + drawn_of_posterior(drawn, n, streams, voxels)

    def _folds(self, rows: np.ndarray, n_images: int) -> Folds:
        return folds_of_rows(self.cv, rows, n_images, random_state=self.random_state)

    def _bands(self, X: np.ndarray) -> Callable[[np.ndarray], Any]:
        """Bands of the images in given rows: their features where these are few, else kernels."""
        if len(X) <= EXACT_IMAGES:
            X = X.astype(np.float64)
        device = resolve_device(self.device)
        if 2 * X.shape[1] <= len(X):
            sizes = list(self.band_sizes_.values())
            return lambda rows: feature_bands(X[rows], sizes, device=device)
        Ks = [kernel_of(part, device) for part in self._split(X)]
        return lambda rows: [K if len(rows) == len(X) else K[np.ix_(rows, rows)] for K in Ks]

    def _solve(self, bands: Any, Y: np.ndarray, voxels: Any, folds: Folds) -> RidgeFit:
        # Scaled bands have kernels of trace n_images each, so features count as one in the grid.
        alphas = choose_alphas(self.alphas, (len(Y), 1)).astype(Y.dtype)
        per_voxel = choose_per_voxel(self.alpha_per_voxel, len(Y), voxels)
        if self.prior is not None and self._by_evidence():
            return banded_ridge_evidence(
                bands,
                Y,
                alphas,
                folds,
                self._candidates_with_priors(),
                per_voxel=per_voxel,
                device=resolve_device(self.device),
            )
        return banded_ridge_cv(
            bands,
            Y,
            alphas,
            folds,
            n_iter=self.n_iter if len(self.band_sizes_) > 1 else 1,
            candidates=self.candidates if len(self.band_sizes_) > 1 else "random",
            per_voxel=per_voxel,
            search=self.search_,
            random_state=self.random_state,
            device=resolve_device(self.device),
            verbose=self.verbose,
        )

    def _candidates_with_priors(self) -> Any:
        if not isinstance(self.candidates, str):
            return self.candidates
        n_components = len(self.prior_factors_)
        n_bands = len(self.band_sizes_) - n_components
        return candidates_with_priors(self.n_iter, n_bands, n_components, self.random_state)

    def predict(self, X: Any, split: bool = False) -> np.ndarray:
        """Expected responses, or what each band adds to them.

        Parameters
        ----------
        X : images or features, as for `fit`
        split : bool
            Give the part of each band, in the order of ``band_names_``. The parts add up to the
            prediction: each holds an equal share of the intercept, ``intercept_ / n_bands``. The
            components of a prior are bands of their own.

        Returns
        -------
        array, shape (n_images, n_voxels) or, with `split`, (n_bands, n_images, n_voxels), float32
            In the units of the betas given to `fit`; without the last axis if those were
            one-dimensional.

        Examples
        --------
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> features, betas = rng.standard_normal((60, 8)), rng.standard_normal((60, 3))
        >>> encoder = BandedRidgeEncoder(bands={"a": 5, "b": 3}, n_iter=5).fit(features, betas)
        >>> parts = encoder.predict(features, split=True)
        >>> parts.shape, np.allclose(parts.sum(axis=0), encoder.predict(features), atol=1e-6)
        ((2, 60, 3), True)
        """
        if not split:
            return super().predict(X)
        check_is_fitted(self)
        features = self._features_of(X)
        with own_settings():
            added = np.stack(list(self._added_by_bands(features)))
            # The sum over bands is then the prediction.
            parts = (added + self.intercept_ / len(added)).astype(np.float32, copy=False)
        return parts[..., 0] if self.betas_ndim_ == 1 else parts

    def _predict(self, features: np.ndarray) -> np.ndarray:
        prediction = np.tile(self.intercept_, (len(features), 1))
        for added in self._added_by_bands(features):
            prediction += added
        return prediction

    def _added_by_bands(self, features: np.ndarray) -> Iterator[np.ndarray]:
        """Prediction of each band without the intercept, (n_images, n_voxels)."""
        X = self._scaled(self._with_prior(flatten_tokens(features)))
        for part, fitted, weights in zip(
            self._split(X), self._split(self.X_fit_), self.band_weights_, strict=True
        ):
            yield (part @ fitted.T) @ (self.dual_coef_ * weights)

    def _with_prior(self, X: np.ndarray) -> np.ndarray:
        """Features, and beside them those of the prior's components."""
        factors = getattr(self, "prior_factors_", [])  # none in what earlier versions saved
        return np.concatenate([X, *(X @ F for F in factors)], axis=1) if factors else X

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        sizes = list(self.band_sizes_.values())
        size_of_feature = np.repeat(sizes, sizes).astype(X.dtype)
        return (X - self.feature_mean_) / (self.feature_scale_ * np.sqrt(size_of_feature))

    def _split(self, X: np.ndarray) -> list[np.ndarray]:
        return np.split(X, np.cumsum(list(self.band_sizes_.values()))[:-1], axis=1)
