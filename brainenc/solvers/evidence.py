"""Ridge with priors whose penalties and mixture have the largest marginal likelihood."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from brainenc.arrays import blocks
from brainenc.devices import full_precision, linear_algebra_device
from brainenc.model_selection import Folds
from brainenc.solvers.bands import KernelBands
from brainenc.solvers.forms import EigenForm
from brainenc.solvers.kernel import BLOCK_NUMBERS, Responses
from brainenc.solvers.priors import POOLING, PriorBands, band_kernels
from brainenc.solvers.result import RidgeFit
from brainenc.solvers.smoother import FullKernel, Smoother


def log_evidence(values: Tensor, squares: Tensor, alphas: Tensor) -> Tensor:
    """Logarithm of the marginal likelihood, up to a constant of the voxel, (n_alphas, n_voxels).

    Of Gaussian responses with the covariance σ²(I + K/α), any mean, and the likeliest σ².

    Parameters
    ----------
    values : (n_axes,)
        Eigenvalues of K on what has mean 0, zeros included.
    squares : (n_axes, n_voxels)
        Squares of the responses along its eigenvectors.
    alphas : (n_alphas,)

    References
    ----------
    MacKay (1992), Neural Computation 4.

    Examples
    --------
    >>> import torch
    >>> squares = torch.tensor([[9.0], [1.0]])  # the first axis has signal
    >>> found = log_evidence(torch.tensor([8.0, 0.0]), squares, torch.tensor([0.1, 1.0, 1e4]))
    >>> int(found[:, 0].argmax())
    1
    """
    total = values[None, :] + alphas[:, None]
    likely = (1 / total) @ squares
    tiny = torch.finfo(squares.dtype).tiny
    return -total.log().sum(1)[:, None] / 2 - len(values) / 2 * likely.clamp(min=tiny).log()


def prior_ridge_evidence(
    bands: PriorBands,
    X: np.ndarray,
    Y: np.ndarray,
    alphas: np.ndarray,
    folds: Folds,
    candidates: np.ndarray,
    *,
    pooling: float = POOLING,
    per_voxel: bool = True,
    device: Any = "cpu",
) -> RidgeFit:
    """As `prior_ridge_cv`, with a Bayesian average over candidates and penalties.

    Each (candidate, penalty) has the probability that the voxel's marginal likelihood gives it,
    multiplied by that of the average voxel, which counts as much as `pooling` images. One
    eigendecomposition for each candidate serves all voxels and penalties, in closed form.

    Parameters
    ----------
    bands, X, Y, alphas, candidates, pooling
        As for `prior_ridge_cv`.
    folds
        Only for held-out predictions, at the likeliest penalty of each candidate.
    per_voxel : bool
        Otherwise only the average voxel counts.
    device : str or torch.device

    Returns
    -------
    RidgeFit, in primal form
        ``band_weights`` are the probabilities of the candidates, (n_candidates, n_voxels).

    Examples
    --------
    >>> import numpy as np
    >>> from brainenc.model_selection import image_folds
    >>> from brainenc.solvers.priors import prior_candidates, prior_factor
    >>> rng = np.random.default_rng(0)
    >>> X, W = rng.standard_normal((40, 200)), rng.standard_normal((200, 3))
    >>> Y = X @ W @ rng.standard_normal((3, 6)) + rng.standard_normal((40, 6))
    >>> bands = PriorBands.of(X, [prior_factor(W)])
    >>> alphas, folds = 200 * np.logspace(-3, 3, 7), image_folds(5, 40)
    >>> fit = prior_ridge_evidence(bands, X, Y, alphas, folds, prior_candidates(1, [0]))
    >>> bool(fit.band_weights[0].max() < 0.1)  # of the isotropic prior alone
    True
    """
    n_images, n_voxels = Y.shape
    parts = list(blocks(n_voxels, max(1, BLOCK_NUMBERS // n_images)))
    with full_precision():
        fits = [_Candidate(bands, X, alphas, folds, c, device) for c in candidates]
        logs = torch.cat([torch.stack([f.evidence(Y[:, v]) for f in fits]) for v in parts], 2)
        # A constant voxel has no likeliest penalty, and has no part in the average one.
        varies = torch.as_tensor(np.ptp(Y, axis=0) > 0, device=logs.device)
        logs[..., ~varies] = 0
        some = logs[..., varies] if bool(varies.any()) else logs
        average = some.mean(2, keepdim=True) * (pooling / n_images if per_voxel else 1 + pooling)
        logs = (logs + average) if per_voxel else average.expand_as(logs)
        shares = torch.softmax(logs.reshape(-1, n_voxels), 0).reshape(logs.shape)
        duals = np.zeros((candidates.shape[1], *Y.shape), Y.dtype)
        intercept, held_out = np.zeros(n_voxels, Y.dtype), np.zeros(Y.shape, Y.dtype)
        for voxels in parts:
            for i, (fit, candidate) in enumerate(zip(fits, candidates, strict=True)):
                dual, offset, predicted = fit.solve(Y[:, voxels], shares[i][:, voxels])
                for band in np.flatnonzero(candidate):
                    duals[band][:, voxels] += candidate[band] * dual
                intercept[voxels] += offset
                held_out[:, voxels] += predicted
        probable = shares.sum(1).numpy(force=True)
        likeliest = logs.argmax(1).numpy(force=True)
        del fits, logs, shares
    at = likeliest[probable.argmax(axis=0), np.arange(n_voxels)]
    return RidgeFit(
        bands.weights(X, duals),
        intercept,
        np.asarray(alphas, Y.dtype)[at],
        held_out,
        band_weights=probable.astype(Y.dtype),
    )


class _Candidate:
    """A weighted sum of the bands' kernels, decomposed."""

    def __init__(
        self,
        bands: PriorBands,
        X: np.ndarray,
        alphas: np.ndarray,
        folds: Folds,
        candidate: np.ndarray,
        device: Any,
    ):
        used = np.flatnonzero(candidate)
        kernels = KernelBands(band_kernels(bands, X, used.tolist()), linear_algebra_device(device))
        shares, tried = (torch.as_tensor(a).to(kernels.like) for a in (candidate[used], alphas))
        K = kernels.kernel(shares)
        # Of eigenvectors: the likelihood asks for the determinant at every penalty.
        self.form = EigenForm.of_kernel(K)
        self.smoother = Smoother(self.form, FullKernel(K), tried, folds)

    def evidence(self, Y: np.ndarray) -> Tensor:
        """Logarithm of the marginal likelihood, (n_alphas, n_voxels)."""
        smoother = self.smoother
        squares = Responses.of(Y, smoother).projected.square()
        return log_evidence(self.form.values, squares, smoother.alphas)

    def solve(self, Y: np.ndarray, shares: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Dual weights, intercepts and held-out predictions, times the probabilities.

        `shares` (n_alphas, n_voxels) are those of the penalties.
        """
        smoother, order = self.smoother, self.smoother.order
        # Voxels whose likeliest penalty is the same follow each other.
        at, by_penalty = shares.argmax(0).sort(stable=True)
        responses = Responses.of(Y, smoother).of_voxels(by_penalty)
        total = shares.sum(0)
        inverse = 1 / (self.form.values[:, None] + smoother.alphas)
        rows = smoother.axes @ ((inverse @ shares[:, by_penalty]) * responses.projected)
        offset = responses.mean * total[by_penalty] - smoother.kernel_mean @ rows
        residuals = smoother.residuals(responses.Y, responses.projected, at)
        predicted = torch.full_like(responses.Y, torch.nan)
        left_out = smoother.held_out(responses.Y, residuals, at)
        for fold, left in zip(smoother.folds, left_out, strict=True):
            predicted[fold.test] = (responses.Y[fold.test] - left).add_(responses.mean)
        dual, held_out = torch.empty_like(rows), torch.empty_like(rows)
        back = by_penalty.argsort()
        dual[order], held_out[order] = rows[:, back], predicted[:, back] * total
        found = (dual, offset[back], held_out)
        return tuple(part.numpy(force=True) for part in found)  # type: ignore[return-value]
