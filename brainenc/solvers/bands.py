"""Kernels that are weighted sums over bands of features, decomposed for given weights."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from brainenc.model_selection import Folds
from brainenc.solvers.forms import EigenForm
from brainenc.solvers.search import working_dtype
from brainenc.solvers.smoother import ProductKernel, Smoother


class Bands(Protocol):
    """Several bands of features of the same images."""

    n_bands: int
    like: Tensor  # of the dtype and device of the computation

    def smoother(self, weights: Tensor, alphas: Tensor, folds: Folds) -> Smoother:
        """Ridge with the kernel Σ_b weights[b] K_b."""
        ...


class KernelBands:
    """Bands given by their kernels, each (n_images, n_images)."""

    def __init__(self, Ks: Sequence[np.ndarray], device: torch.device):
        self.Ks = [_in_working_dtype(K, device) for K in Ks]
        if not all(torch.isfinite(K).all() for K in self.Ks):
            raise ValueError("kernels must be finite: features have NaN or infinity")
        self.n_bands, self.like = len(Ks), self.Ks[0].new_empty(0)

    def smoother(self, weights: Tensor, alphas: Tensor, folds: Folds) -> Smoother:
        """Ridge with the kernel Σ_b weights[b] K_b."""
        return Smoother.of_kernel(self.kernel(weights), alphas, folds)

    def kernel(self, weights: Tensor) -> Tensor:
        """Σ_b weights[b] K_b."""
        K = self.Ks[0] * weights[0]
        for weight, other in zip(weights[1:].tolist(), self.Ks[1:], strict=True):
            K.add_(other, alpha=weight)
        return K


class FeatureBands:
    """Bands given by features side by side, fewer than images: (n_images, n_features).

    Their Gram matrix is computed once, in double precision, since the square of the smallest
    singular value would be lost in single precision.
    """

    def __init__(self, X: np.ndarray, sizes: Sequence[int], device: torch.device):
        features = _in_working_dtype(X, device)
        self.X = features - features.mean(0)
        self.mean = features.mean(0)
        self.sizes = torch.as_tensor(list(sizes), device=device)
        self.n_bands, self.like = len(sizes), features.new_empty(0)
        doubles = self.X.double()
        self.gram = doubles.T @ doubles

    def smoother(self, weights: Tensor, alphas: Tensor, folds: Folds) -> Smoother:
        """Ridge with the kernel Σ_b weights[b] K_b."""
        scales = weights.double().sqrt().repeat_interleave(self.sizes)
        values, axes = torch.linalg.eigh(self.gram * scales * scales[:, None])
        kept = values > torch.finfo(values.dtype).eps * len(self.X) * values[-1]
        values, axes = values[kept], axes[:, kept]
        axes = scales[:, None] * axes / values.sqrt()
        X = self.X + self.mean
        form = EigenForm(values.to(X), self.X @ axes.to(X))
        return Smoother(form, ProductKernel(X * scales.to(X)), alphas, folds)


def _in_working_dtype(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.as_tensor(array, device=device)
    return tensor.to(working_dtype(tensor.dtype, len(tensor)))
