"""Smoother: ridge with one kernel, fitted at any penalty and cross-validated without refits.

Ridge with an unpenalised intercept is linear in the responses, ŷ = Hy. With the eigenvectors U and
eigenvalues s of the kernel once the constant is projected out, I − H = U diag(α / (s + α)) Uᵀ.
Left-out images o have the held-out residuals ((I − H)ₒₒ)⁻¹ ((I − H) y)ₒ, exactly those of a fit to
the other images. One eigendecomposition therefore serves all folds and penalties, and the residuals
of the fit to all images, divided by α, are its dual weights.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from brainenc.model_selection import Folds


class Kernel(Protocol):
    """A kernel of which parts can be had."""

    mean: Tensor  # of each column

    def part(self, rows: Tensor, columns: Tensor) -> Tensor:
        """K[rows][:, columns]."""
        ...


class FullKernel:
    """A kernel in memory."""

    def __init__(self, K: Tensor):
        self.K, self.mean = K, K.mean(0)

    def part(self, rows: Tensor, columns: Tensor) -> Tensor:
        """K[rows][:, columns]."""
        return self.K[rows][:, columns]


class ProductKernel:
    """XXᵀ, of features in memory."""

    def __init__(self, X: Tensor):
        self.X, self.mean = X, X @ X.mean(0)

    def part(self, rows: Tensor, columns: Tensor) -> Tensor:
        """K[rows][:, columns]."""
        return self.X[rows] @ self.X[columns].T


#: Voxels that follow each other and have one penalty: its position, and their columns.
Runs = list[tuple[int, slice]]
#: Rows by their positions, or as a slice, which is not copied.
Rows = slice | Tensor
#: Blocks of rows of a symmetric product, of which only the lower half is computed.
_GRAM_BLOCKS = 4


class Smoother:
    """Ridge for one kernel, several penalties and folds.

    Parameters
    ----------
    values : (n_axes,)
        Eigenvalues of the kernel on what has mean 0.
    axes : (n_images, n_axes)
        Their eigenvectors. Those with eigenvalue 0 may be left out.
    K : Kernel
    alphas : (n_alphas,)
        Penalties, which other arguments name by their positions.
    folds : list of (train, test) positions

    Attributes
    ----------
    order : (n_images,) of int
        The image of each row of `axes`. If each image is in one fold, rows are in the order of
        folds, so that those of a fold are a slice. Responses and residuals have the same rows.
    """

    def __init__(
        self, values: Tensor, axes: Tensor, K: Kernel, alphas: Tensor, folds: Folds | None = None
    ):
        self.values, self.alphas = values, alphas
        self.is_complete = axes.shape[1] >= len(axes) - 1
        order = _order_of_folds(folds or [], len(axes))
        self.order = torch.as_tensor(order, device=axes.device)
        self.axes, self.kernel_mean = axes[self.order], K.mean[self.order]
        row_of = order.argsort()
        self.folds = [_make_fold(self, K, train, test, row_of) for train, test in folds or []]

    @classmethod
    def of_kernel(cls, K: Tensor, alphas: Tensor, folds: Folds | None = None) -> "Smoother":
        """From the kernel, (n_images, n_images)."""
        return cls(*centred_axes(K), FullKernel(K), alphas, folds)

    def residuals(self, Y: Tensor, projected: Tensor, at: Tensor) -> Tensor:
        """(I − H) y of centred responses y at one penalty per voxel, (n_images, n_voxels)."""
        alphas = self.alphas[at]
        shares = self.values[:, None] + alphas
        if self.is_complete:
            return self.axes @ torch.div(alphas, shares, out=shares).mul_(projected)
        torch.div(self.values[:, None], shares, out=shares)
        return torch.addmm(Y, self.axes, shares.mul_(projected), alpha=-1)

    def left_gram(self, rows: Rows, position: int) -> Tensor:
        """(I − H) of some images, of which only the lower triangle is complete."""
        alpha = self.alphas[position]
        if self.is_complete:
            return lower_gram(self.axes[rows] * (alpha / (self.values + alpha)).sqrt())
        gram = lower_gram(self.axes[rows] * (self.values / (self.values + alpha)).sqrt())
        gram.add_(1 / len(self.axes)).neg_()
        gram.diagonal().add_(1)
        return gram

    def held_out(self, Y: Tensor, residuals: Tensor, at: Tensor) -> list[Tensor]:
        """Residuals of each fold's test images when they are held out, (n_test, n_voxels).

        Fast if voxels of one penalty follow each other.
        """
        positions, lengths = at.unique_consecutive(return_counts=True)
        ends = lengths.cumsum(0).tolist()
        runs = [
            (position, slice(end - length, end))
            for position, length, end in zip(
                positions.tolist(), lengths.tolist(), ends, strict=True
            )
        ]
        return [fold.held_out(Y, residuals, runs) for fold in self.folds]

    def guess_scores(self, Y: Tensor, projected: Tensor) -> Tensor:
        """Generalised cross-validation for each voxel and penalty, (n_voxels, n_alphas)."""
        shares = (self.alphas[:, None] / (self.values + self.alphas[:, None])).square()
        squares = projected.square()
        left = squares.T @ shares.T
        if not self.is_complete:
            left += (Y.square().sum(0) - squares.sum(0)).clamp_(min=0)[:, None]
        return gcv_scores(left, self.values, self.alphas, len(self.axes))

    def dual(self, Y_mean: Tensor, residuals: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Dual weights and intercepts of the fit to all images, from its residuals."""
        weights = residuals / self.alphas[at]
        # They sum to 0 over images, so the intercept is the mean over fitted images.
        return weights, Y_mean - self.kernel_mean @ weights

    @property
    def largest(self) -> float:
        """The largest eigenvalue; 0 if there is none."""
        return float(self.values[-1]) if len(self.values) else 0.0


class _LeftOut:
    """A fold trained on all images but some: solved by the identity above."""

    def __init__(self, smoother: Smoother, left_out: Rows, test: Rows, within: Tensor | None):
        self.smoother, self.left_out, self.test = smoother, left_out, test
        #: Positions of `test` in `left_out`; None if they are the same.
        self.within = within
        self.inverses: dict[int, Tensor] = {}

    def held_out(self, Y: Tensor, residuals: Tensor, runs: Runs) -> Tensor:
        left = residuals[self.left_out]
        found = torch.empty_like(left)
        for position, voxels in runs:
            if position not in self.inverses:
                self.inverses[position] = self._inverse(position)
            torch.matmul(self.inverses[position], left[:, voxels], out=found[:, voxels])
        return found if self.within is None else found[self.within]

    def _inverse(self, position: int) -> Tensor:
        """((I − H)ₒₒ)⁻¹."""
        return torch.cholesky_inverse(factor(self.smoother.left_gram(self.left_out, position)))


class _Refitted:
    """A fold whose training images are few, repeated or tested too: fitted for itself.

    `trained` and `tested` are images, `train` and `test` their rows.
    """

    def __init__(
        self, alphas: Tensor, K: Kernel, trained: Tensor, tested: Tensor, train: Rows, test: Rows
    ):
        self.train, self.test = train, test
        self.smoother = Smoother.of_kernel(K.part(trained, trained), alphas)
        self.cross = K.part(tested, trained)

    def held_out(self, Y: Tensor, residuals: Tensor, runs: Runs) -> Tensor:
        responses, tested = Y[self.train], Y[self.test]
        mean = responses.mean(0)
        projected = self.smoother.axes.T @ (responses - mean)
        at = torch.cat([Y.new_full((v.stop - v.start,), p, dtype=torch.long) for p, v in runs])
        left = self.smoother.residuals(responses - mean, projected, at)
        weights, intercept = self.smoother.dual(mean, left, at)
        return tested - self.cross @ weights - intercept


def _order_of_folds(folds: Folds, n_images: int) -> np.ndarray:
    """Images in the order of the folds that leave them out; as given if not each is in one."""
    tested = np.concatenate([np.arange(0), *(test for _, test in folds)])
    if len(tested) != n_images or len(np.unique(tested)) != n_images:
        return np.arange(n_images)
    return tested


def _make_fold(
    smoother: Smoother, K: Kernel, train: np.ndarray, test: np.ndarray, row_of: np.ndarray
) -> _LeftOut | _Refitted:
    n_images, device = len(smoother.axes), smoother.axes.device
    left_out = np.setdiff1d(np.arange(n_images), train)
    known = len(train) == n_images - len(left_out)  # no image is repeated
    if known and len(train) >= len(left_out) and np.isin(test, left_out).all():
        tested = _rows(row_of[test], device)
        if np.array_equal(np.sort(test), left_out):  # most often
            return _LeftOut(smoother, tested, tested, None)
        within = torch.as_tensor(np.searchsorted(left_out, test), device=device)
        return _LeftOut(smoother, _rows(row_of[left_out], device), tested, within)
    parts = (torch.as_tensor(part, device=device) for part in (train, test))
    rows = (_rows(row_of[part], device) for part in (train, test))
    return _Refitted(smoother.alphas, K, *parts, *rows)


def _rows(positions: np.ndarray, device: torch.device) -> Rows:
    if len(positions) and (np.diff(positions) == 1).all():
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return torch.as_tensor(positions, device=device)


def centred_axes(K: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (n − 1,) and eigenvectors (n, n − 1) of a kernel on what has mean 0.

    A reflection takes the constant vector to the first axis, which is left out: the others are
    orthogonal to the constant at the level of round-off, whatever the penalty.
    """
    n = len(K)
    mirror = K.new_full((n,), n**-0.5)
    mirror[0] += 1
    mirror /= torch.linalg.norm(mirror)
    row = mirror @ K
    reflected = torch.addr(K, mirror, row, alpha=-2)
    reflected.addr_(row - 2 * (row @ mirror) * mirror, mirror, alpha=-2)
    values, within = torch.linalg.eigh(reflected[1:, 1:])
    del reflected
    axes = torch.cat([within.new_zeros(1, n - 1), within])
    return values.clamp_(min=0), axes.addr_(mirror, mirror @ axes, alpha=-2)


def gcv_scores(left: Tensor, values: Tensor, alphas: Tensor, n_images: int) -> Tensor:
    """Mean squared error by generalised cross-validation, (n_voxels, n_alphas).

    Infinite where it is undefined: the fit has no degrees of freedom left.

    Parameters
    ----------
    left : (n_voxels, n_alphas)
        Squared error of the fit to all images, summed over images.
    values : (n_axes,)
        Eigenvalues of the centred kernel, or of the centred XᵀX.
    alphas : (n_alphas,)
    n_images : int

    Notes
    -----
    Folds have fewer images, but that hardly changes the best penalty, which is the ratio of the
    variances of noise and weights.
    """
    alphas = alphas[:, None]
    freedom = n_images - 1 - (values / (values + alphas)).sum(1)
    return (n_images * left / freedom**2).nan_to_num(torch.inf, torch.inf)


def lower_gram(X: Tensor) -> Tensor:
    """XXᵀ, of which only the lower triangle is complete."""
    gram = X.new_zeros(len(X), len(X))
    for rows in torch.arange(len(X), device=X.device).tensor_split(_GRAM_BLOCKS):
        if len(rows):
            start, end = int(rows[0]), int(rows[-1]) + 1
            gram[start:end, :end] = X[start:end] @ X[:end].T
    return gram


def factor(gram: Tensor) -> Tensor:
    """Cholesky factor of a matrix given by its lower triangle.

    A matrix that is not positive definite at the level of round-off gets as much on its diagonal as
    makes it so.
    """
    found, info = torch.linalg.cholesky_ex(gram)
    jitter = torch.finfo(gram.dtype).eps * gram.diagonal().amax()
    while info:
        gram.diagonal().add_(jitter)
        found, info = torch.linalg.cholesky_ex(gram)
        jitter *= 10
    return found
