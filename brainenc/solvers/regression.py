"""RidgeRegression: ridge with scaled features, chosen penalties and missing images left out."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainenc.arrays import is_large
from brainenc.devices import resolve_device
from brainenc.model_selection import Folds
from brainenc.solvers.kernel import kernel_of, kernel_ridge_cv
from brainenc.solvers.posterior import WeightPosterior, weight_posterior
from brainenc.solvers.primal import ridge_cv
from brainenc.solvers.result import RidgeFit
from brainenc.solvers.streamed import (
    KernelRows,
    ScaledFeatures,
    SeenImages,
    linear_kernel,
)
from brainenc.solvers.voxels import (
    check_voxel_labels,
    choose_alphas,
    choose_per_voxel,
    feature_scaling,
    fit_voxels,
    flatten_tokens,
    folds_of_rows,
)

#: Penalties below so many times the round-off of the kernel are solved in double precision; at 20
#: times held-out errors were wrong by 1 %.
_PRECISE = 64


@dataclass(frozen=True)
class RidgeRegression:
    """A fitted linear map from features to targets: voxels, latents, log-variances.

    Attributes
    ----------
    coef : array, shape (n_features, n_targets), or (n_images, n_targets) in kernel form
        Weights of the z-scored features, or of the training images' kernel.
    intercept, alphas : arrays, shape (n_targets,)
        NaN for a target without data.
    feature_mean, feature_scale : arrays, shape (n_features,)
    X_fit : array, shape (n_images, n_features), ScaledFeatures, or None in primal form
        z-scored features of the training images. Of features over 1 GiB (as float32) it is the
        features as they were given, such as a memory map, which are scaled when they are read.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 4)).astype(np.float32)
    >>> Y = X @ rng.standard_normal((4, 3)).astype(np.float32)
    >>> regression, held_out = RidgeRegression.fit(X, Y)
    >>> bool(np.abs(regression.predict(X) - Y).max() < 0.01)
    True
    """

    coef: np.ndarray
    intercept: np.ndarray
    alphas: np.ndarray
    feature_mean: np.ndarray
    feature_scale: np.ndarray
    X_fit: np.ndarray | ScaledFeatures | None = None

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        targets: np.ndarray,
        *,
        alphas: Any = "auto",
        alpha_per_voxel: Any = "auto",
        cv: Any = 5,
        form: str = "auto",
        search: str = "auto",
        standardize: bool = True,
        device: Any = "auto",
        random_state: int | None = 0,
    ) -> tuple["RidgeRegression", np.ndarray]:
        """Fit, and predict every image from the folds that held it out.

        Parameters
        ----------
        features : array, shape (n_images, n_features) or (n_images, n_tokens, width)
        targets : array, shape (n_images, n_targets); NaN where an image has no data
        alphas, alpha_per_voxel, cv, form, search, standardize, device, random_state
            As for `brainenc.RidgeEncoder`.

        Returns
        -------
        regression : RidgeRegression
        held_out : array, shape (n_images, n_targets)
            NaN where a target has no data for an image.
        """
        device = resolve_device(device)
        shape = (len(features), math.prod(features.shape[1:]))
        kernel = choose_form(form, shape) == "kernel"
        X: Any
        if streamed := kernel and is_large(features):
            K, mean, scale = linear_kernel(features, standardize=standardize, device=device)
            X = ScaledFeatures(features, mean, scale)
        else:
            X = flatten_tokens(features)
            mean, scale = feature_scaling(X, standardize)
            X = X - mean
            X /= scale

        def solve(rows: np.ndarray, Y: np.ndarray, voxels: Any) -> RidgeFit:
            folds = folds_of_rows(cv, rows, len(X), random_state=random_state)
            options: dict[str, Any] = {
                "per_voxel": choose_per_voxel(alpha_per_voxel, len(Y), voxels),
                "search": search,
                "device": device,
            }
            tried = choose_alphas(alphas, (len(rows), X.shape[1])).astype(X.dtype)
            if streamed:
                of_rows = K if len(rows) == len(K) else K[np.ix_(rows, rows)]
                return kernel_ridge_cv(of_rows, Y, tried, folds, **options)
            return _solve(X[rows], Y, tried, folds, kernel, options)

        check_voxel_labels(alpha_per_voxel, targets.shape[1])
        fitted = fit_voxels(
            targets.astype(X.dtype, copy=False),
            solve,
            n_weights=len(X) if kernel else X.shape[1],
            dual=kernel,
            min_images=cv if isinstance(cv, int) else 2,
        )
        regression = cls(
            fitted.weights, fitted.intercept, fitted.alphas, mean, scale, X if kernel else None
        )
        return regression, fitted.held_out

    @property
    def form(self) -> str:
        """Either "primal" or "kernel"."""
        return "primal" if self.X_fit is None else "kernel"

    def weights(self) -> np.ndarray:
        """Weights of the z-scored features, (n_features, n_targets), in either form."""
        if self.X_fit is None:
            return self.coef
        if not isinstance(self.X_fit, ScaledFeatures):
            return self.X_fit.T @ self.coef
        found = np.empty((self.X_fit.shape[1], self.coef.shape[1]), self.coef.dtype)
        for columns, block in self.X_fit.blocks(check=True):
            found[columns] = block.T @ self.coef
        return found

    def posterior(self, features: np.ndarray, averages: np.ndarray) -> WeightPosterior:
        """Posterior of the weights in closed form, from what was fitted."""
        if self.X_fit is not None:
            # Residuals of kernel ridge are its dual weights times the penalty.
            return weight_posterior(
                self.X_fit,
                averages,
                lambda voxels: self.alphas[voxels] * self.coef[:, voxels],
                self.alphas,
                keep=False,
            )
        X: Any = self.scaled(features)
        return weight_posterior(
            X,
            averages,
            lambda v: averages[:, v] - self.intercept[v] - X @ self.coef[:, v],
            self.alphas,
        )

    def scaled(self, features: np.ndarray) -> np.ndarray | ScaledFeatures:
        """Scaled features (n_images, n_features) of features, which may be tokens.

        If the training features are not held (`X_fit` is a `ScaledFeatures`), neither are these.
        """
        if isinstance(self.X_fit, ScaledFeatures):
            return self.X_fit.scaling_of(features)
        return (flatten_tokens(features) - self.feature_mean) / self.feature_scale

    def seen(self, features: Any) -> Any:
        """Features for several calls of `predict` on blocks of rows.

        If the training features are not held, each call of `predict` reads them; with what this
        gives, only some do. Otherwise it gives the features.
        """
        if isinstance(self.X_fit, ScaledFeatures):
            return SeenImages(features, self.X_fit)
        return features

    def predict(self, features: Any) -> np.ndarray:
        """Targets (n_images, n_targets) of features, which may be tokens, or rows of `seen`."""
        if isinstance(features, KernelRows):
            return features.rows @ self.coef + self.intercept
        if isinstance(self.X_fit, ScaledFeatures):
            found = np.empty((len(features), self.coef.shape[1]), self.coef.dtype)
            for images, rows in SeenImages(features, self.X_fit).blocks():
                found[images] = self.predict(rows)
            return found
        X = self.scaled(features)
        if self.X_fit is not None:
            X = X @ self.X_fit.T
        return X @ self.coef + self.intercept


def _solve(
    X: np.ndarray,
    Y: np.ndarray,
    alphas: np.ndarray,
    folds: Folds,
    kernel: bool,
    options: dict[str, Any],
) -> RidgeFit:
    if not kernel:
        return ridge_cv(X, Y, alphas, folds, **options)
    fit = kernel_ridge_cv(kernel_of(X, options["device"]), Y, alphas, folds, **options)
    lost = np.flatnonzero(fit.alphas < _PRECISE * fit.round_off)
    if len(lost) and X.dtype == np.float32:
        doubles, shared = X.astype(np.float64), options["per_voxel"]
        if np.ndim(shared):
            options = options | {"per_voxel": shared[lost]}
        K = kernel_of(doubles, options["device"])
        again = kernel_ridge_cv(K, Y[:, lost], alphas, folds, **options)
        for name in ("weights", "intercept", "alphas", "held_out"):
            getattr(fit, name)[..., lost] = getattr(again, name)
    return fit


def choose_form(form: str, shape: tuple[int, ...]) -> str:
    """Form of the solver; "auto" is the smaller one for features (n_images, n_features).

    Raises
    ------
    ValueError : unknown form.
    """
    if form == "auto":
        return "kernel" if shape[1] >= shape[0] else "primal"
    if form not in ("primal", "kernel"):
        raise ValueError(f"form={form!r} must be 'auto', 'primal' or 'kernel'")
    return form
