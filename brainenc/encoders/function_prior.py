"""FunctionPrior: what the functions of a fitted subject's voxels are like, for kernel ridge."""

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from brainenc.solvers.families import KernelFamily
from brainenc.solvers.voxels import EXACT_IMAGES, flatten_tokens

#: Shares of the prior in the kernel that are tried; 0 is a fit from scratch.
SHARES = (0.0, 0.5, 0.9)
#: Largest number of functions, and random combinations of voxels that they are found in.
_MAX_RANK, _N_COMBINED = 512, 1024
#: Functions of which the variance is so small a part of the largest are left out.
_SMALLEST = 1e-8


@dataclass(frozen=True)
class FunctionPrior:
    """Functions of the features whose products are the covariance of a subject's functions.

    A voxel's function is a weighted sum of kernels at the subject's images. The second moment of
    all voxels' functions, in units of their noise, is the kernel φ(x)·φ(y) of the functions here:
    what a covariance of weights is to ridge.

    Attributes
    ----------
    X : array, shape (n_images, n_features)
        Scaled features of the subject's images, as `KernelRidgeEncoder.X_fit_`.
    mean, scale : arrays, shape (n_features,)
    family : KernelFamily
    factors : list of arrays, shape (n_images, rank)
        Weights of the kernels at the images, for each width or degree.
    former : FunctionPrior or None
        Prior that the subject itself was adapted with.
    former_factor : array, shape (former rank, rank), or None
        Weights of the functions of that prior.
    """

    X: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    family: KernelFamily
    factors: list[np.ndarray]
    former: Optional["FunctionPrior"]
    former_factor: np.ndarray | None

    @classmethod
    def of(cls, encoder: Any) -> "FunctionPrior":
        """Of a fitted `KernelRidgeEncoder`.

        Raises
        ------
        ValueError : no voxel has a function, or all are constant.
        """
        known = np.flatnonzero(np.isfinite(encoder.alphas_))
        expected = encoder._fitted_values()[:, known].astype(np.float64)
        noise = np.maximum(encoder.posterior_.variance[known], 0)
        size = np.sqrt(noise + expected.var(axis=0))
        used, size = known[size > 0], size[size > 0]
        if not len(used) or not expected.any():
            raise ValueError("this encoder predicts the mean only: it has no functions to adapt")
        combined = np.eye(len(used))
        if len(used) > _N_COMBINED:  # the second moment stays the same in expectation
            rng = np.random.default_rng(0)
            combined = rng.standard_normal((len(used), _N_COMBINED)) / np.sqrt(_N_COMBINED)
        combined = combined / (size[:, None] * np.sqrt(len(used)))
        duals = encoder.dual_coef_[:, used].astype(np.float64)
        widths, shares = encoder.chosen_[used], encoder.prior_shares_[used]
        family, former = encoder.family_, encoder.prior_
        weights = []
        for number in family.candidates:
            of_width = (1 - shares) * (widths == number)
            weights.append((duals * of_width) @ combined)
        of_former = None
        if former is not None:
            of_former = ((encoder.prior_values_.T @ duals) * shares) @ combined
        X = encoder.X_fit_.astype(np.float64)
        values = sum(family.kernel(i, X, X) @ W for i, W in enumerate(weights) if W.any())
        values = values + 0 * (X[:, :1])  # of functions of the former prior alone
        if of_former is not None:
            values = values + encoder.prior_values_ @ of_former
        values -= values.mean(axis=0)
        variances, axes = np.linalg.eigh(values.T @ values)
        kept = np.flatnonzero(variances > _SMALLEST * variances[-1])[::-1][:_MAX_RANK]
        single, axes = encoder.X_fit_.dtype, axes[:, kept]
        return cls(
            encoder.X_fit_,
            encoder.feature_mean_,
            encoder.feature_scale_,
            family,
            [(W @ axes).astype(single) for W in weights],
            former,
            # Functions of the former prior, in the units that the fit had them in.
            None if of_former is None else encoder.prior_scale_ * (of_former @ axes).astype(single),
        )

    def functions(self, features: np.ndarray) -> np.ndarray:
        """Values (n_images, rank) at images with these features."""
        X = flatten_tokens(features)
        # Values of a wide kernel differ little, and weights are large then.
        dtype = np.float64 if len(self.X) <= EXACT_IMAGES else X.dtype
        fitted = self.X.astype(dtype)
        scaled = ((X - self.mean) / (self.scale * np.sqrt(X.shape[1]))).astype(dtype)
        found = np.zeros((len(X), self.factors[0].shape[1]), dtype)
        for i, factor in enumerate(self.factors):
            if factor.any():
                found += self.family.kernel(i, scaled, fitted) @ factor
        if self.former is not None and self.former_factor is not None:
            found += self.former.functions(features) @ self.former_factor
        return found.astype(np.float32)
