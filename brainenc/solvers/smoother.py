"""Smoother: ridge with one kernel, fitted at any penalty and cross-validated without refits.

Ridge with an unpenalised intercept is linear in the responses, ŷ = Hy. Once the constant is
projected out of the kernel K, I − H = α (K + α)⁻¹, which `brainenc.solvers.forms` has for every α.
Left-out images o have the held-out residuals ((I − H)ₒₒ)⁻¹ ((I − H) y)ₒ, exactly those of a fit to
the other images. One form of the kernel therefore serves all folds and penalties, and the residuals
of the fit to all images, divided by α, are its dual weights.
"""

import functools
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from brainenc.model_selection import Folds
from brainenc.solvers.forms import Form, Rows, form_of_kernel


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


class Smoother:
    """Ridge for one kernel, several penalties and folds.

    Parameters
    ----------
    form : Form
        Of the kernel on what has mean 0.
    K : Kernel
    alphas : (n_alphas,)
        Penalties, which other arguments name by their positions.
    folds : list of (train, test) positions

    Attributes
    ----------
    order : (n_images,) of int
        The image of each row of the form. If each image is in one fold, rows are in the order of
        folds, so that those of a fold are a slice. Responses and residuals have the same rows.
    """

    def __init__(self, form: Form, K: Kernel, alphas: Tensor, folds: Folds | None = None):
        n_images, device = len(form.axes), form.axes.device
        self.alphas = alphas
        order = _order_of_folds(folds or [], n_images)
        self.order = torch.as_tensor(order, device=device)
        self.form, self.kernel_mean = form.reordered(self.order), K.mean[self.order]
        row_of = order.argsort()
        self.folds = [_make_fold(self, K, train, test, row_of) for train, test in folds or []]

    @classmethod
    def of_kernel(cls, K: Tensor, alphas: Tensor, folds: Folds | None = None) -> "Smoother":
        """From the kernel, (n_images, n_images)."""
        return cls(form_of_kernel(K), FullKernel(K), alphas, folds)

    @property
    def axes(self) -> Tensor:
        """Axes of the form, (n_images, n_axes)."""
        return self.form.axes

    def residuals(self, Y: Tensor, projected: Tensor, at: Tensor) -> Tensor:
        """(I − H) y of centred responses y at one penalty per voxel, (n_images, n_voxels)."""
        return self.form.residuals(Y, projected, self.alphas[at])

    def left_gram(self, rows: Rows, position: int) -> Tensor:
        """(I − H) of some images, of which only the lower triangle is complete."""
        return self.form.left_gram(rows, float(self.alphas[position]))

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
        left = self.form.squares(Y, projected, self.alphas)
        return gcv_scores(left, self.freedom, len(self.axes))

    @functools.cached_property
    def freedom(self) -> Tensor:
        """Degrees of freedom that each penalty leaves, (n_alphas,)."""
        return self.form.freedom(self.alphas)

    def dual(self, Y_mean: Tensor, residuals: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Dual weights and intercepts of the fit to all images, from its residuals."""
        weights = residuals / self.alphas[at]
        # They sum to 0 over images, so the intercept is the mean over fitted images.
        return weights, Y_mean - self.kernel_mean @ weights


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
        return inverse_of_factor(factor(self.smoother.left_gram(self.left_out, position)))


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


def gcv_scores(left: Tensor, freedom: Tensor, n_images: int) -> Tensor:
    """Mean squared error by generalised cross-validation, (n_voxels, n_alphas).

    Infinite where it is undefined: the fit has no degrees of freedom left.

    Parameters
    ----------
    left : (n_voxels, n_alphas)
        Squared error of the fit to all images, summed over images.
    freedom : (n_alphas,)
        Degrees of freedom that the fit leaves.
    n_images : int

    Notes
    -----
    Folds have fewer images, but that hardly changes the best penalty, which is the ratio of the
    variances of noise and weights.
    """
    return (n_images * left / freedom**2).nan_to_num(torch.inf, torch.inf)


def inverse_of_factor(factor: Tensor) -> Tensor:
    """(LLᵀ)⁻¹ of a Cholesky factor L."""
    if factor.device.type == "cpu":
        return torch.cholesky_inverse(factor)
    # On a GPU one triangular solve and one product take a fraction of cholesky_inverse's time.
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse.T @ inverse


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
