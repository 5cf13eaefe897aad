"""KernelRidgeEncoder: regression with a kernel of the features, such as the Gaussian one."""

from collections.abc import Callable
from typing import Any

import numpy as np

from brainenc.devices import resolve_device
from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.draws import part_of
from brainenc.encoders.function_draws import (
    Functions,
    Streams,
    drawn_of_posterior,
    error_of_expected,
    fitted_posterior,
)
from brainenc.encoders.function_prior import SHARES, FunctionPrior
from brainenc.encoders.inputs import adapting
from brainenc.encoders.trunk import check_same_features
from brainenc.encoders.weight_prior import check_scale
from brainenc.model_selection import image_folds
from brainenc.repeats import average_repeats
from brainenc.solvers import RidgeFit, banded_ridge_cv
from brainenc.solvers.choices import KernelChoices
from brainenc.solvers.families import KernelFamily, check_kernel, products_of, squares_of
from brainenc.solvers.kernel_posterior import KernelFunctions, KernelPoints
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


class KernelRidgeEncoder(BaseEncoder):
    """Kernel ridge regression, with kernel and penalty per voxel chosen by cross-validation.

    The response is any smooth function of the features, not a linear one: the baseline that other
    nonlinear models have to beat. Features are z-scored (token features flattened first), repeats
    averaged, and each voxel gets the width (or degree) and the alpha with the smallest mean squared
    error on held-out images. The intercept is not penalised.

    Parameters
    ----------
    features : "auto", None or transformer
        As for `RidgeEncoder`.
    kernel : "gaussian", "polynomial" or "linear"
        With features z-scored, d² the squared distance of two images and m its mean over pairs of
        training images: exp(−d² / (width² m)); (1 + x·y / n_features)^degree; x·y / n_features.
        Each is divided by a number, such that training images have, once they are centred, a mean
        product of 1 with themselves.
    candidates : "auto", number or array-like
        Widths of the Gaussian kernel, or degrees of the polynomial one, that are tried; "auto" is
        .5, .7, 1, 1.4, 2 and 4, or 1, 2 and 3. Time grows with their number.
    alphas : "auto" or array-like
        Penalties tried, in units of the scaled kernel. "auto" is 15 values from 1e-4 to 1e3 times
        n_images.
    alpha_per_voxel : "auto", bool or labels, shape (n_voxels,)
        Choose candidate and alpha per voxel, or one of each for all voxels; "auto" as for
        `RidgeEncoder`.
    cv, search, device, random_state
        As for `RidgeEncoder`.
    standardize : bool
        Divide each feature by its standard deviation over the training images. Features are centred
        in any case.

    Attributes
    ----------
    chosen_ : array, shape (n_voxels,)
        Width or degree of each voxel; NaN for a voxel without data.
    alphas_, intercept_ : arrays, shape (n_voxels,)
    dual_coef_ : array, shape (n_images, n_voxels)
        Weights of the training images' kernel.
    X_fit_ : array, shape (n_images, n_features)
        Scaled features of the training images, divided by the square root of n_features.
    feature_mean_, feature_scale_ : arrays, shape (n_features,)
    family_ : KernelFamily
        The kernels; `candidates_` are their widths or degrees.
    prior_ : FunctionPrior or None
        Of an adapted encoder: functions of the subject that it starts from.
    prior_shares_ : array, shape (n_voxels,)
        Share of these functions' kernel, beside the chosen one: 0, .5 or .9; 0 from scratch.
    search_ : "guided" or "exact"
    posterior_ : WeightPosterior
        Posterior of the function in closed form, that of a Gaussian process, which
        ``sample(noise="weights")`` draws from.

    References
    ----------
    Saunders, Gammerman & Vovk (1998), ICML 15; Rasmussen & Williams (2006), Gaussian Processes for
    Machine Learning, chapter 2. ``sklearn.kernel_ridge.KernelRidge`` gives the same answers where
    kernel and responses are centred.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((220, 3))
    >>> signal = np.abs(features)  # which no linear function of the features is
    >>> betas = signal[:, None] + 0.5 * rng.standard_normal((220, 2, 3))  # 2 repeats, 3 voxels
    >>> encoder = brainenc.KernelRidgeEncoder().fit(features[:200], betas[:200])
    >>> encoder.chosen_.shape
    (3,)
    >>> ridge = brainenc.RidgeEncoder().fit(features[:200], betas[:200])
    >>> encoder.score(features[200:], betas[200:]) > ridge.score(features[200:], betas[200:]) + 0.3
    True
    """

    saved_parts = (*BaseEncoder.saved_parts, KernelFamily, WeightPosterior, FunctionPrior)

    candidates_ = part_of("family_", "candidates")

    def __init__(
        self,
        features: Any = "auto",
        *,
        kernel: str = "gaussian",
        candidates: Any = "auto",
        alphas: Any = "auto",
        alpha_per_voxel: Any = "auto",
        cv: Any = 5,
        search: str = "auto",
        standardize: bool = True,
        device: str = "auto",
        random_state: int | None = 0,
    ):
        self.features = features
        self.kernel = kernel
        self.candidates = candidates
        self.alphas = alphas
        self.alpha_per_voxel = alpha_per_voxel
        self.cv = cv
        self.search = search
        self.standardize = standardize
        self.device = device
        self.random_state = random_state

    def _check_parameters(self) -> None:
        check_kernel(self.kernel, self.candidates)

    def adapt(self, X: Any, y: Any) -> "KernelRidgeEncoder":
        """Fit to a new subject with this subject's functions as a prior; this one is unchanged.

        The covariance of the functions of this subject's voxels is a kernel, half or nine tenths
        of which is tried beside each width (or degree), and none of it as from scratch.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject
            The number of voxels may differ; features must be the same.

        Returns
        -------
        KernelRidgeEncoder
            It holds the features of this subject's images.
        """
        found: KernelRidgeEncoder = super().adapt(X, y)
        return found

    def _adapting(self) -> tuple[BaseEncoder, dict[str, Any]]:
        return adapting(self), {"source": self}

    def _fit(self, features: np.ndarray, betas: np.ndarray, *, source: Any = None) -> np.ndarray:
        X = flatten_tokens(features)
        self.prior_, self.prior_scale_ = None, 1.0
        self.prior_values_ = np.zeros((len(X), 0), X.dtype)
        if source is not None:
            check_same_features(self, source)
            check_scale(X, source.feature_mean_, source.feature_scale_)
            self.prior_ = FunctionPrior.of(source)
            values = self.prior_.functions(features)
            size = np.sqrt(values.var(axis=0, dtype=np.float64).sum())
            # Fitted images have a mean product of 1 with themselves, as with the other kernels.
            self.prior_scale_ = float(1 / size) if size > 0 else 1.0
            self.prior_values_ = self._prior_values(features)
        self.feature_mean_, self.feature_scale_ = feature_scaling(X, self.standardize)
        self.X_fit_ = self._scaled(features)
        folds = image_folds(self.cv, len(X), random_state=self.random_state)
        self.search_ = choose_search(self.search, len(X), folds)
        self.family_, kernels = self._kernels()
        averages = average_repeats(betas).astype(X.dtype, copy=False)
        check_voxel_labels(self.alpha_per_voxel, averages.shape[1])
        fitted = fit_voxels(
            averages,
            lambda rows, Y, voxels: self._solve(kernels(rows), rows, Y, voxels),
            n_weights=len(X),
            dual=True,
            n_bands=len(self._tried),
            min_images=self.cv if isinstance(self.cv, int) else 2,
        )
        self.dual_coef_, self.intercept_ = fitted.weights, fitted.intercept
        self.alphas_, which = fitted.alphas, np.asarray(fitted.band_weights)
        known = np.isfinite(self.alphas_)
        widths, shares = np.array(self._tried).T[:, np.nan_to_num(which).argmax(axis=0)]
        self.chosen_ = np.where(known, self.candidates_[widths.astype(int)], np.nan)
        self.prior_shares_ = np.where(known, shares, np.nan)
        self.posterior_ = weight_posterior(
            np.empty((len(X), len(which)), self.X_fit_.dtype),
            averages,
            # Residuals of kernel ridge are its dual weights times the penalty.
            lambda voxels: self.alphas_[voxels] * self.dual_coef_[:, voxels],
            self.alphas_,
            band_weights=which,
            band_sizes=[1] * len(which),
            keep=False,
        )
        return fitted.held_out

    @property
    def _tried(self) -> list[tuple[int, float]]:
        """Position of the width or degree, and share of the prior, of each kernel that is tried."""
        shares = SHARES if getattr(self, "prior_", None) is not None else SHARES[:1]
        return [(i, share) for share in shares for i in range(len(self.candidates_))]

    def _prior_values(self, features: np.ndarray) -> np.ndarray:
        """Functions of the prior, (n_images, rank); none from scratch."""
        if (prior := getattr(self, "prior_", None)) is None:
            return np.zeros((len(features), 0), np.float32)
        return prior.functions(features) * np.float32(self.prior_scale_)

    def _fitted_values(self) -> np.ndarray:
        """Expected responses to the training images, (n_images, n_voxels)."""
        X = self.X_fit_.astype(np.float64)
        inner, norms = products_of(X, X), squares_of(X)
        return self._expected(inner, norms, norms, self._own_values)

    @property
    def _own_values(self) -> np.ndarray:
        """Functions of the prior at the training images; not in what earlier versions saved."""
        return getattr(self, "prior_values_", np.zeros((len(self.X_fit_), 0), np.float32))

    def _kernels(self) -> tuple[KernelFamily, Callable[[np.ndarray], KernelChoices]]:
        """Kernels of the training images, and those of the images in given rows."""
        X, device = self.X_fit_, resolve_device(self.device)
        if len(X) <= EXACT_IMAGES:
            X = X.astype(np.float64)
        family = KernelFamily.fit(self.kernel, check_kernel(self.kernel, self.candidates), X)
        products, norms = products_of(X, X), squares_of(X)
        self.family_, values = family, self.prior_values_.astype(X.dtype)

        def of_rows(rows: np.ndarray) -> KernelChoices:
            inner = products if len(rows) == len(X) else products[np.ix_(rows, rows)]

            def make(k: int) -> np.ndarray:
                return self._kernel(k, inner, norms[rows], norms[rows], values[rows], values[rows])

            return KernelChoices(len(self._tried), make, inner, len(rows), device)

        return family, of_rows

    def _kernel(self, k: int, products: np.ndarray, *of_images: np.ndarray) -> np.ndarray:
        """Kernel that is tried, of new images (rows) and fitted ones (columns).

        `of_images` are the products of new and of fitted images with themselves, and the prior's
        functions at both.
        """
        (i, share), (new, fitted, values, own) = self._tried[k], of_images
        K = self.family_.of_products(i, products, new, fitted)
        if share:
            K *= 1 - share
            K += share * (values @ own.T)
        return K

    def _solve(
        self, kernels: KernelChoices, rows: np.ndarray, Y: np.ndarray, voxels: Any
    ) -> RidgeFit:
        # Scaled kernels have a centred trace of n_images, so features count as one in the grid.
        alphas = choose_alphas(self.alphas, (len(Y), 1)).astype(Y.dtype)
        return banded_ridge_cv(
            kernels,
            Y,
            alphas,
            folds_of_rows(self.cv, rows, len(self.X_fit_), random_state=self.random_state),
            candidates=np.eye(kernels.n_bands),
            per_voxel=choose_per_voxel(self.alpha_per_voxel, len(Y), voxels),
            search=self.search_,
            device=resolve_device(self.device),
        )

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        X = flatten_tokens(features)
        X = X - self.feature_mean_
        X /= self.feature_scale_ * np.sqrt(X.shape[1]).astype(X.dtype)
        return X

    def _predict(self, features: np.ndarray) -> np.ndarray:
        products, new, fitted = self._products(features)
        values = self._prior_values(features)
        return self._expected(products, new, fitted, values)

    def _expected(
        self, products: np.ndarray, new: np.ndarray, fitted: np.ndarray, values: np.ndarray
    ) -> np.ndarray:
        """Expected responses, from products of images and the prior's functions at new ones."""
        dtype = self.dual_coef_.dtype
        prediction = np.full((len(products), len(self.chosen_)), np.nan, dtype)
        shares = getattr(self, "prior_shares_", np.zeros(len(self.chosen_)))
        own = self._own_values.astype(products.dtype)
        values = values.astype(products.dtype)
        for k, (i, share) in enumerate(self._tried):
            voxels = np.flatnonzero((self.chosen_ == self.candidates_[i]) & (shares == share))
            if len(voxels):
                K = self._kernel(k, products, new, fitted, values, own)
                found = K @ self.dual_coef_[:, voxels] + self.intercept_[voxels]
                prediction[:, voxels] = found
        return prediction

    def _products(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scalar products of images with the training images, and of both with themselves."""
        X, fitted = self._scaled(features), self.X_fit_
        if len(fitted) <= EXACT_IMAGES:
            # As in the fit: values of a wide kernel differ little, and weights are large then.
            X, fitted = X.astype(np.float64), fitted.astype(np.float64)
        return products_of(X, fitted), squares_of(X), squares_of(fitted)

    def _functions(self, features: np.ndarray, n: int, streams: Streams) -> Functions:
        drawn = self._posterior_at(features, error_of_expected(self))
        expected = self._predict(features)
        return lambda voxels: expected[:, voxels] + drawn_of_posterior(drawn, n, streams, voxels)

    def _posterior_at(
        self, features: np.ndarray, error: np.ndarray | None = None
    ) -> KernelFunctions:
        """Posterior of the function at some images; `error` as for `WeightPosterior.at`."""
        X, family = self._scaled(features), self.family_
        values, of_fitted = self._prior_values(features), self._own_values

        def points(k: int) -> KernelPoints:
            i, share = self._tried[k]
            found = KernelPoints(
                cross=family.kernel(i, X, self.X_fit_),
                own=family.diagonal(i, X),
                short=family.sketch(i, X),
                kernel=family.kernel(i, self.X_fit_, self.X_fit_),
                fitted_short=family.sketch(i, self.X_fit_),
            )
            return found.mixed(values, of_fitted, share) if share else found

        # Images are recognised by z-scored features, as for ridge.
        root = np.sqrt(X.shape[1]).astype(X.dtype)
        return KernelFunctions(fitted_posterior(self), root * X, points, error)
