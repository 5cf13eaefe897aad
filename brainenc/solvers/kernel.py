"""Ridge in kernel form: the search over penalties on one form of the kernel."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from brainenc.arrays import blocks
from brainenc.devices import full_precision, linear_algebra_device
from brainenc.model_selection import Folds
from brainenc.solvers.result import RidgeFit
from brainenc.solvers.search import choose_search, search_penalties, working_dtype
from brainenc.solvers.smoother import Smoother
from brainenc.solvers.voxels import voxel_groups

#: Numbers in the matrix of images × voxels that are solved together: 64 MB in single precision.
BLOCK_NUMBERS = 2**24
#: Errors that differ by so many units of round-off are equal.
_TIE = 8


def kernel_ridge_cv(
    K: np.ndarray,
    Y: np.ndarray,
    alphas: np.ndarray,
    folds: Folds,
    *,
    per_voxel: Any = True,
    search: str = "auto",
    device: Any = "cpu",
) -> RidgeFit:
    """Ridge regression in kernel form: the same answers as `ridge_cv`, from K = XXᵀ.

    Use it with more features than images.

    Parameters
    ----------
    K : array, shape (n_images, n_images)
        Penalties below its largest eigenvalue times the precision of its dtype, 1e-7 for float32,
        are lost in round-off: `RidgeFit.round_off`.
    Y, alphas, folds, per_voxel, device
        As for `ridge_cv`.
    search : "auto", "guided" or "exact"
        "exact" computes the held-out error at every penalty. "guided" starts each voxel at the
        penalty of generalised cross-validation and goes to neighbours as long as the error falls:
        the same answer unless a voxel's error has more than one minimum. "auto" is exact up to
        1000 images.

    Returns
    -------
    RidgeFit, in the dtype of Y
        Weights in dual form: predictions are K(new, fitted) @ weights + intercept.

    Raises
    ------
    ValueError : K is not finite.

    Notes
    -----
    See `brainenc.solvers.smoother` for the identity that cross-validates without refits.

    References
    ----------
    Dupré la Tour et al. (2022), NeuroImage 264, whose himalaya package gives the same answers.

    Examples
    --------
    >>> import numpy as np
    >>> from brainenc.model_selection import image_folds
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 200))
    >>> Y = X[:, :2] + 0.1 * rng.standard_normal((60, 2))
    >>> fit = kernel_ridge_cv(X @ X.T, Y, np.array([1e1, 1e6]), image_folds(5, 60))
    >>> fit.alphas
    array([10., 10.])
    """
    n_images, n_voxels = Y.shape
    if not np.isfinite(K).all():
        raise ValueError(f"K of shape {K.shape} must be finite: features have NaN or infinity")
    search = choose_search(search, n_images, folds)
    with full_precision():
        kernel = torch.as_tensor(K, device=linear_algebra_device(device))
        kernel = kernel.to(working_dtype(kernel.dtype, n_images))
        tried = torch.as_tensor(np.asarray(alphas)).to(kernel)
        smoother = Smoother.of_kernel(kernel, tried, folds)
        fit = empty_fit(Y, smoother.form.largest * float(np.finfo(K.dtype).eps))
        shared = shared_alphas(smoother, Y, voxel_groups(per_voxel, n_voxels), search)[0]
        for voxels in blocks(n_voxels, block_size(n_images)):
            responses = Responses.of(Y[:, voxels], smoother)
            found = solve_voxels(
                smoother, responses, search, None if shared is None else shared[voxels]
            )
            store(fit, voxels, smoother, responses, found)
    return fit


def kernel_of(X: np.ndarray, device: Any = "cpu") -> np.ndarray:
    """The kernel XXᵀ, computed on the device.

    Parameters
    ----------
    X : array, shape (n_images, n_features), float32 or float64
    device : str or torch.device

    Returns
    -------
    array, shape (n_images, n_images)

    Examples
    --------
    >>> import numpy as np
    >>> kernel_of(np.array([[1.0, 2.0], [0.0, 3.0]]))
    array([[5., 6.],
           [6., 9.]])
    """
    device = linear_algebra_device(device)
    if device.type == "cpu":
        return X @ X.T  # NumPy sees that the product is symmetric, and computes half of it
    with full_precision():
        features = torch.as_tensor(X, device=device)
        return (features @ features.T).numpy(force=True)


class Responses(NamedTuple):
    """Centred responses of some voxels, and their products with the axes of the kernel.

    Rows are images in the order of the smoother.
    """

    Y: Tensor  # (n_images, n_voxels)
    mean: Tensor
    projected: Tensor  # (n_axes, n_voxels)

    @classmethod
    def of(cls, Y: np.ndarray, smoother: Smoother) -> "Responses":
        """Of Y (n_images, n_voxels)."""
        given = torch.as_tensor(Y).to(smoother.axes)
        mean = given.mean(0)
        centred = given[smoother.order].sub_(mean)
        return cls(centred, mean, smoother.axes.T @ centred)

    def of_voxels(self, voxels: Tensor) -> "Responses":
        """The same for some of the voxels."""
        return Responses(self.Y[:, voxels], self.mean[voxels], self.projected[:, voxels])


class Solution(NamedTuple):
    """The best penalty found for some voxels, with its residuals."""

    at: Tensor  # (n_voxels,) of int
    error: Tensor  # mean over folds of the squared error, (n_voxels,)
    residuals: Tensor  # of the fit to all images, (n_images, n_voxels)
    held_out: list[Tensor]  # of the test images of each fold, (n_test, n_voxels)

    def of_voxels(self, voxels: Tensor) -> "Solution":
        """The same for some of the voxels."""
        return Solution(
            self.at[voxels],
            self.error[voxels],
            self.residuals[:, voxels],
            [part[:, voxels] for part in self.held_out],
        )


def solve_voxels(
    smoother: Smoother, responses: Responses, search: str, shared: Tensor | None = None
) -> Solution:
    """The penalty with the smallest held-out error for each voxel, or that in `shared`."""
    n_voxels, n_alphas = len(responses.mean), len(smoother.alphas)
    if shared is not None:
        order = shared.argsort(stable=True)  # voxels of one penalty are evaluated together
        found = evaluate(smoother, responses.of_voxels(order), shared[order])
        return found.of_voxels(order.argsort())
    everyone = torch.arange(n_voxels, device=smoother.axes.device)
    if search == "exact":
        best = evaluate(smoother, responses, torch.zeros_like(everyone))
        for position in range(1, n_alphas):
            improve(best, evaluate(smoother, responses, torch.full_like(everyone, position)))
        return best
    expected = smoother.guess_scores(responses.Y, responses.projected)
    guess, order = expected.argmin(1).sort(stable=True)
    expected, responses = expected[order], responses.of_voxels(order)
    best = evaluate(smoother, responses, guess)
    errors = responses.Y.new_full((n_voxels, n_alphas), torch.nan)
    errors[everyone, guess] = best.error

    def try_out(voxels: Tensor, positions: Tensor) -> Tensor:
        tried = evaluate(smoother, responses.of_voxels(voxels), positions)
        improve(best, tried, voxels)
        return tried.error

    search_penalties(errors, expected, try_out)
    return best.of_voxels(order.argsort())


def evaluate(smoother: Smoother, responses: Responses, at: Tensor) -> Solution:
    """Residuals and held-out errors at one penalty per voxel."""
    residuals = smoother.residuals(responses.Y, responses.projected, at)
    held_out = smoother.held_out(responses.Y, residuals, at)
    error = torch.stack([part.square().mean(0) for part in held_out]).mean(0)
    return Solution(at.clone(), error, residuals, held_out)


def improve(best: Solution, tried: Solution, voxels: Tensor | None = None) -> None:
    """Put what was tried for some voxels, or all, in place of the best where its error is smaller.

    Smaller by more than round-off, so that ties do not depend on how products were grouped.
    """
    if voxels is None:
        voxels = torch.arange(len(best.at), device=best.at.device)
    tie = _TIE * torch.finfo(best.error.dtype).eps
    better = tried.error < best.error[voxels] * (1 - tie)
    to = voxels[better]
    best.at[to], best.error[to] = tried.at[better], tried.error[better]
    best.residuals[:, to] = tried.residuals[:, better]
    for known, new in zip(best.held_out, tried.held_out, strict=True):
        known[:, to] = new[:, better]


def shared_alphas(
    smoother: Smoother, Y: np.ndarray, groups: list[np.ndarray] | None, search: str
) -> tuple[Tensor | None, Tensor]:
    """Penalties with the smallest error summed over the voxels of a group.

    Returns
    -------
    positions : (n_voxels,) of int; None without groups
    errors : (n_groups,), the sums
    """
    if groups is None:
        return None, smoother.alphas.new_empty(0)
    found = [_shared_alpha(smoother, Y, group, search) for group in groups]
    positions = torch.empty(Y.shape[1], dtype=torch.long, device=smoother.axes.device)
    for group, (position, _) in zip(groups, found, strict=True):
        positions[torch.as_tensor(group)] = position
    return positions, smoother.alphas.new_tensor([error for _, error in found])


def _shared_alpha(
    smoother: Smoother, Y: np.ndarray, group: np.ndarray, search: str
) -> tuple[Tensor, float]:
    """Position of the penalty with the smallest error summed over some voxels, and that error."""
    parts = [group[part] for part in blocks(len(group), block_size(len(Y)))]
    errors = smoother.axes.new_full((1, len(smoother.alphas)), torch.nan)
    scores = 0 * errors
    for voxels in parts:
        responses = Responses.of(Y[:, voxels], smoother)
        scores += smoother.guess_scores(responses.Y, responses.projected).sum(0)

    def summed(_: Tensor, position: Tensor) -> Tensor:
        total = errors.new_zeros(1)
        for voxels in parts:
            responses = Responses.of(Y[:, voxels], smoother)
            total += evaluate(smoother, responses, position.expand(len(responses.mean))).error.sum()
        return total

    guess = scores.argmin(1)
    tried = torch.arange(len(smoother.alphas), device=guess.device) if search == "exact" else guess
    for position in tried.split(1):
        errors[0, position] = summed(guess, position)
    best = search_penalties(errors, scores, summed)
    return best[0], float(errors[0, best])


def block_size(n_images: int) -> int:
    """Voxels that are solved together."""
    return max(1, BLOCK_NUMBERS // n_images)


def empty_fit(Y: np.ndarray, round_off: float = 0.0) -> RidgeFit:
    """Arrays for the results of a fit in dual form, in the dtype of Y."""
    n_voxels = Y.shape[1]
    return RidgeFit(
        weights=np.empty(Y.shape, Y.dtype),
        intercept=np.empty(n_voxels, Y.dtype),
        alphas=np.empty(n_voxels, Y.dtype),
        held_out=np.full(Y.shape, np.nan, Y.dtype),
        round_off=round_off,
    )


def store(
    fit: RidgeFit,
    voxels: slice | np.ndarray,
    smoother: Smoother,
    responses: Responses,
    found: Solution,
) -> None:
    """Write a solution into the arrays of `fit`."""
    weights, intercept = smoother.dual(responses.mean, found.residuals, found.at)
    fit.intercept[voxels] = intercept.numpy(force=True)
    fit.alphas[voxels] = smoother.alphas[found.at].numpy(force=True)
    _put(fit.weights, smoother.order, voxels, weights)
    for fold, residuals in zip(smoother.folds, found.held_out, strict=True):
        predicted = (responses.Y[fold.test] - residuals).add_(responses.mean)
        _put(fit.held_out, smoother.order[fold.test], voxels, predicted)


def _put(whole: np.ndarray, rows: Tensor, columns: slice | np.ndarray, part: Tensor) -> None:
    images = rows.numpy(force=True)
    places = (images, columns) if isinstance(columns, slice) else np.ix_(images, columns)
    whole[places] = part.numpy(force=True)
