"""RidgeEncoder: linear regression from features to voxels, the baseline that is hard to beat."""

from typing import Any

import numpy as np

from brainenc import solvers
from brainenc.devices import resolve_device
from brainenc.encoders.base import BaseEncoder
from brainenc.model_selection import Folds
from brainenc.repeats import average_repeats
from brainenc.solvers import RidgeFit
from brainenc.solvers.voxels import (
    choose_alphas,
    choose_per_voxel,
    feature_scaling,
    fit_voxels,
    flatten_tokens,
    folds_of_rows,
)


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
        Choose alpha for each voxel by itself, or one for all. "auto" is per voxel from 100 images
        on; with fewer, a single voxel's held-out errors are too noisy to choose by.
    cv : int, splitter or iterable of (train, test)
        Folds over images for the choice of alpha; an int means shuffled folds.
    form : "auto", "primal" or "kernel"
        Same answers; "auto" takes the primal form when there are fewer features than images.
    standardize : bool
        Divide each feature by its standard deviation over the training images. Features are
        centred in any case.
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
        Where to solve.
    random_state : int
        Of the shuffled folds.

    Attributes
    ----------
    alphas_ : array, shape (n_voxels,)
        Chosen penalty; NaN for a voxel without data.
    intercept_ : array, shape (n_voxels,)
    form_ : "primal" or "kernel"
    coef_ : array, shape (n_features, n_voxels), or (n_images, n_voxels) in kernel form
        Weights of the z-scored features, or of the training images' kernel.
    X_fit_ : array, shape (n_images, n_features), or None in primal form
        z-scored features of the training images.
    feature_mean_, feature_scale_ : arrays, shape (n_features,)

    References
    ----------
    Dupré la Tour et al. (2022), NeuroImage 264; their himalaya package solves the kernel form.
    """

    def __init__(
        self,
        features: Any = "auto",
        *,
        alphas: Any = "auto",
        alpha_per_voxel: Any = "auto",
        cv: Any = 5,
        form: str = "auto",
        standardize: bool = True,
        device: str = "auto",
        random_state: int | None = 0,
    ):
        self.features = features
        self.alphas = alphas
        self.alpha_per_voxel = alpha_per_voxel
        self.cv = cv
        self.form = form
        self.standardize = standardize
        self.device = device
        self.random_state = random_state

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        X = flatten_tokens(features)
        self.feature_mean_, self.feature_scale_ = feature_scaling(X, self.standardize)
        X = X - self.feature_mean_
        X /= self.feature_scale_
        self.form_ = choose_form(self.form, X.shape)
        kernel = self.form_ == "kernel"
        fitted = fit_voxels(
            average_repeats(betas).astype(X.dtype, copy=False),
            lambda rows, Y: self._solve(X[rows], Y, self._folds(rows, len(X))),
            n_weights=len(X) if kernel else X.shape[1],
            dual=kernel,
            min_images=self.cv if isinstance(self.cv, int) else 2,
        )
        self.coef_, self.intercept_, self.alphas_ = fitted.weights, fitted.intercept, fitted.alphas
        self.X_fit_: Any = X if kernel else None
        return fitted.held_out

    def _folds(self, rows: np.ndarray, n_images: int) -> Folds:
        return folds_of_rows(self.cv, rows, n_images, random_state=self.random_state)

    def _solve(self, X: np.ndarray, Y: np.ndarray, folds: Folds) -> RidgeFit:
        alphas = choose_alphas(self.alphas, X.shape).astype(X.dtype)
        options: dict[str, Any] = {
            "per_voxel": choose_per_voxel(self.alpha_per_voxel, len(X)),
            "device": resolve_device(self.device),
        }
        if self.form_ == "kernel":
            return solvers.kernel_ridge_cv(X @ X.T, Y, alphas, folds, **options)
        return solvers.ridge_cv(X, Y, alphas, folds, **options)

    def _predict(self, features: np.ndarray) -> np.ndarray:
        X = (flatten_tokens(features) - self.feature_mean_) / self.feature_scale_
        if self.form_ == "kernel":
            X = X @ self.X_fit_.T
        return X @ self.coef_ + self.intercept_


def choose_form(form: str, shape: tuple[int, ...]) -> str:
    """The form asked for, or the smaller of the two for (n_images, n_features) when "auto"."""
    if form == "auto":
        return "kernel" if shape[1] >= shape[0] else "primal"
    if form not in ("primal", "kernel"):
        raise ValueError(f"form={form!r} must be 'auto', 'primal' or 'kernel'")
    return form
