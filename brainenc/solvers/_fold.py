"""A fold of ridge in primal form: the error on its test images for all penalties."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: Linear combinations ("mixtures") of a fold's test images that are predicted at all penalties.
_N_MIXTURES = 16
#: Power iterations for the strongest mixtures.
_N_ITERATIONS = 3
#: Mixtures with random signs that check the diagonal approximation.
N_CHECKS = 16
#: Products with random signs for the estimate of a norm.
_N_PROBES = 64


class Axes(NamedTuple):
    """Principal axes of some images' features: XᵀX = axes · diag(values) · axesᵀ once centred."""

    mean: Tensor
    values: Tensor
    axes: Tensor

    def project(self, products: Tensor) -> Tensor:
        """Centred YᵀX in these axes, (n_voxels, n_features), from Yᵀ[X, 1]."""
        return torch.addr(products[:, :-1], products[:, -1], self.mean, alpha=-1) @ self.axes


def principal_axes(gram: Tensor) -> Axes:
    """From [X, 1]ᵀ[X, 1]."""
    mean = gram[-1, :-1] / gram[-1, -1]
    values, axes = torch.linalg.eigh(torch.addr(gram[:-1, :-1], gram[-1, :-1], mean, alpha=-1))
    return Axes(mean, values.clamp_(min=0), axes)  # round-off makes some negative


class Changes(NamedTuple):
    """Change of a fold's squared test error from one penalty to all penalties.

    Means over images, each (n_voxels, n_alphas).
    """

    error: Tensor
    deviation: Tensor  # s.d. of the unknown part of the change
    diagonal: Tensor  # the part of the change from the diagonal approximation
    checked: Tensor  # that part from random mixtures: unbiased, but noisy


class Fold(NamedTuple):
    """A fold: the axes of its training images, and its test images in them."""

    train: Axes
    n_train: int
    test: slice | Tensor  # rows of the design
    features: Tensor  # (n_test, n_features)
    low: Tensor  # the same, in low precision
    mixtures: Tensor  # strongest mixtures, and random ones of the rest, (…, n_features)
    diagonal: Tensor  # of the Gram matrix of the rest
    coupling: Tensor  # Frobenius norm of its off-diagonal part, as a share of the trace

    def predict(self, projected: Tensor, mean: Tensor, alphas: Tensor) -> Tensor:
        """Test images at one penalty per voxel, (n_test, n_voxels)."""
        weights = projected / (self.train.values + alphas[:, None])
        return torch.addmm(mean, self.features, weights.T)

    def summed_changes(self, linear: Tensor, outer: Tensor, alphas: Tensor) -> Tensor:
        """Change of the mean squared error, over voxels, from zero weights to all penalties.

        Parameters
        ----------
        linear : (n_features,)
            Sum over voxels of c ∘ Pᵀy, with c their projections and y their centred responses.
        outer : (n_features, n_features)
            Sum of ccᵀ.
        alphas : (n_alphas,)

        Returns
        -------
        changes : (n_alphas,)
        """
        shrinkage = 1 / (self.train.values + alphas[:, None]).double()
        both = (self.features.T @ self.features).double() * outer
        quadratic = (shrinkage @ both).mul_(shrinkage).sum(1)
        return (quadratic - 2 * shrinkage @ linear) / len(self.features)

    def changes(self, projected: Tensor, residuals: Tensor, alphas: Tensor, at: Tensor) -> Changes:
        """Change of the mean squared error from one penalty to all.

        A step d of the weights changes the squared error by −2 dᵀPᵀr + dᵀPᵀPd, with test images P
        in the axes of training and residuals r. Test images vary along nearly the same axes, so PᵀP
        is nearly diagonal, except for components common to many test images or specific to one.
        Their strongest mixtures are therefore predicted; the rest is approximated by its diagonal.
        Mixtures with random signs check, per voxel, that the neglected off-diagonal part is within
        chance.

        Parameters
        ----------
        projected : (n_voxels, n_features)
        residuals : (n_test, n_voxels), at the penalties `alphas[at]`
        alphas : (n_alphas,)
        at : (n_voxels,) of int
        """
        shrinkage = 1 / (self.train.values + alphas[:, None])
        gradient = (residuals.T.to(self.low.dtype) @ self.low).to(projected).mul_(projected)
        sizes = projected.square().mul_(self.diagonal)
        linear, diagonal, common, checked = projected.new_empty(4, len(at), len(alphas))
        for position in at.unique():
            voxels = at == position
            steps = shrinkage - shrinkage[position]
            linear[voxels] = gradient[voxels] @ steps.T
            diagonal[voxels] = sizes[voxels] @ steps.square().T
            mixed = (self.mixtures[:, None] * steps).flatten(0, 1)
            squares = (projected[voxels] @ mixed.T).square_().unflatten(1, (-1, len(alphas)))
            common[voxels] = squares[:, :-N_CHECKS].sum(1)
            checked[voxels] = squares[:, -N_CHECKS:].mean(1)
        error = common + diagonal - 2 * linear
        # Each product has a random error, which averages out over images.
        squares = residuals.square().mean(0)[:, None]
        rounded = torch.finfo(self.low.dtype).eps * (squares * (common + diagonal)).sqrt()
        # Elements beside the diagonal are about `coupling` times the geometric mean of their two
        # diagonal ones: √(1 / n_test), were test images drawn like those of training.
        deviation = math.sqrt(2) * self.coupling * diagonal + rounded
        return Changes(*(each / len(residuals) for each in (error, deviation, diagonal, checked)))


def make_fold(gram: Tensor, n_train: int, test: slice | Tensor, features: Tensor) -> Fold:
    """A fold, from [X, 1]ᵀ[X, 1] of its training images and the features of its test images."""
    axes = principal_axes(gram)
    features = (features - axes.mean) @ axes.axes
    low = features.to(_low_dtype(features))
    mixing = _strongest(features)
    strongest = mixing.T @ features
    rest = features - mixing @ strongest
    diagonal = rest.square().sum(0)
    coupling = _coupling(rest, diagonal)
    mixtures = torch.cat([strongest, _signs(rest.T, N_CHECKS).T @ rest])
    return Fold(axes, n_train, test, features, low, mixtures, diagonal, coupling)


def _strongest(features: Tensor) -> Tensor:
    """Strongest mixtures of images, in units in which all axes have equal variance.

    An orthonormal matrix, (n_images, n_mixtures), from power iterations (Halko et al. 2011, SIAM
    Review 53); these need not converge: the answer is right with any mixtures.
    """
    scaled = features / torch.linalg.norm(features, dim=0).clamp(min=_tiny(features))
    mixing = torch.linalg.qr(scaled @ _signs(features, _N_MIXTURES))[0]
    for _ in range(_N_ITERATIONS):
        mixing = torch.linalg.qr(scaled @ (scaled.T @ mixing))[0]
    return mixing


def _coupling(features: Tensor, diagonal: Tensor) -> Tensor:
    """Frobenius norm of PᵀP without its diagonal, as a share of its trace.

    Estimated from products with random signs (Hutchinson 1990, Communications in Statistics 19),
    without forming PᵀP; accurate to a few percent, or about 20 % if one direction dominates.
    """
    signs = _signs(features, _N_PROBES)
    rest = features.T @ (features @ signs) - diagonal[:, None] * signs
    trace = diagonal.sum().clamp(min=_tiny(features))  # for test images without variance
    return torch.linalg.norm(rest) / math.sqrt(_N_PROBES) / trace


def _signs(features: Tensor, n: int) -> Tensor:
    """Random signs (n_features, n), the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2, (features.shape[1], n), generator=generator).to(features) * 2 - 1


def _tiny(features: Tensor) -> float:
    return torch.finfo(features.dtype).tiny


def _low_dtype(features: Tensor) -> torch.dtype:
    """A lower precision than that of the features, if the device computes faster with it."""
    if features.dtype == torch.float64:
        return torch.float32
    if features.is_cuda:
        fast = torch.cuda.get_device_capability(features.device) >= (8, 0)
    else:
        known: dict = getattr(torch.cpu, "get_capabilities", dict)()
        fast = bool(known.get("amx_bf16") or known.get("avx512_bf16"))
    return torch.bfloat16 if fast else features.dtype
