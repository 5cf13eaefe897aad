"""Kernel and banded ridge with himalaya, whose global backend is restored afterwards."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from himalaya.backend import get_backend, set_backend
from himalaya.kernel_ridge import (
    solve_kernel_ridge_cv_eigenvalues,
    solve_multiple_kernel_ridge_random_search,
)

from brainenc.model_selection import Folds
from brainenc.process_state import state_lock
from brainenc.solvers.result import RidgeFit

#: Largest size in bytes of the predictions of all alphas for a batch of voxels.
SEARCH_BYTES = 2**29


@contextmanager
def himalaya_backend(device: Any = "cpu") -> Iterator[Any]:
    """Set himalaya's backend in a context, and restore the former one even after an error.

    The backend is the whole process's: one thread at a time.

    Parameters
    ----------
    device : str or torch.device
        "cpu" uses NumPy; a CUDA device uses torch on that device, in full precision.

    Yields
    ------
    module : the backend
    """
    name = "numpy"
    with state_lock(), ExitStack() as stack:
        former = get_backend().name
        if str(device) != "cpu":
            import torch

            from brainenc.devices import full_precision

            stack.enter_context(full_precision())
            name = "torch_mps" if str(device).startswith("mps") else "torch_cuda"
            if name == "torch_cuda":
                stack.enter_context(torch.cuda.device(torch.device(device)))
        stack.callback(set_backend, former)
        yield set_backend(name)


def kernel_ridge_cv(
    K: np.ndarray,
    Y: np.ndarray,
    alphas: np.ndarray,
    folds: Folds,
    *,
    per_voxel: bool = True,
    device: Any = "cpu",
) -> RidgeFit:
    """Ridge regression in kernel form: the same answers as `ridge_cv`, from K = XXᵀ.

    Use it with more features than images.

    Parameters
    ----------
    K : array, shape (n_images, n_images)
    Y, alphas, folds, per_voxel, device
        As for `ridge_cv`.

    Returns
    -------
    RidgeFit, with weights in dual form: predictions are K(new, fitted) @ weights + intercept.

    References
    ----------
    Dupré la Tour et al. (2022), NeuroImage 264; the himalaya package.
    """
    with himalaya_backend(device) as backend:
        K, Y, alphas = backend.check_arrays(K, Y, alphas)
        best, weights, _, intercept = solve_kernel_ridge_cv_eigenvalues(
            K, Y, alphas, cv=folds, fit_intercept=True, **_search(folds, Y, alphas, per_voxel)
        )
        held_out = backend.full_like(Y, np.nan)
        for train, test in folds:
            held_out[test] = _kernel_fold(K, Y, best, train, test)
        return RidgeFit(*map(backend.to_numpy, (weights, intercept, best, held_out)))


def banded_ridge_cv(
    Ks: Sequence[np.ndarray],
    Y: np.ndarray,
    alphas: np.ndarray,
    folds: Folds,
    *,
    n_iter: int = 20,
    per_voxel: bool = True,
    random_state: int | None = 0,
    device: Any = "cpu",
) -> RidgeFit:
    """Ridge regression with one penalty per band and voxel, by random search.

    Parameters
    ----------
    Ks : sequence of arrays, shape (n_bands, n_images, n_images)
        Kernel of each band.
    Y, alphas, folds, per_voxel, device
        As for `ridge_cv`.
    n_iter : int
        Number of candidate band weights, drawn from Dirichlet distributions; the first are equal.
    random_state : int

    Returns
    -------
    RidgeFit
        Weights in dual form: predictions are Σ_b band_weights[b] K_b(new, fitted) @ weights +
        intercept.

    References
    ----------
    Dupré la Tour et al. (2022), NeuroImage 264, "Feature-space selection with banded ridge
    regression".
    """
    with himalaya_backend(device) as backend:
        stacked = backend.stack([backend.asarray(K) for K in Ks])
        stacked, Y, alphas = backend.check_arrays(stacked, Y, alphas)
        deltas, weights, _, best, intercept = solve_multiple_kernel_ridge_random_search(
            stacked,
            Y,
            n_iter=n_iter,
            alphas=alphas,
            cv=folds,
            fit_intercept=True,
            return_weights="dual",
            return_alphas=True,
            random_state=random_state,
            progress_bar=False,
            n_alphas_batch=min(len(alphas), 5),
            **_search(folds, Y, alphas, per_voxel),
        )
        deltas, weights, intercept, best = (
            backend.to_numpy(a) for a in (deltas, weights, intercept, best)
        )
        # himalaya folds alpha into the kernel weights: exp(delta) = gamma / alpha.
        gammas = np.exp(deltas) * best
        held_out = np.full(Y.shape, np.nan, dtype=weights.dtype)
        # Voxels that chose the same candidate share one kernel.
        candidates, member = np.unique(gammas.round(6), axis=1, return_inverse=True)
        for c in range(candidates.shape[1]):
            voxels = np.flatnonzero(member == c)
            K = sum(g * k for g, k in zip(gammas[:, voxels[0]], stacked, strict=True))
            chosen = backend.asarray(best[voxels], dtype=Y.dtype)
            for train, test in folds:
                fold = _kernel_fold(K, Y[:, voxels], chosen, train, test)
                held_out[np.ix_(test, voxels)] = backend.to_numpy(fold)
        return RidgeFit(weights / best, intercept, best, held_out, gammas)


# himalaya's solvers for given alphas contract three arrays at once if alphas differ between voxels,
# which is slow; these use two matrix products.


def _kernel_ridge(K: Any, Y: Any, alphas: Any) -> tuple[Any, Any]:
    """Dual weights and intercept of kernel ridge, at one given alpha per voxel."""
    K_mean, Y_mean = K.mean(0), Y.mean(0)
    eigenvalues, U = get_backend().eigh(K - K_mean - K_mean[:, None] + K_mean.mean())
    eigenvalues = (eigenvalues * (eigenvalues > 0))[:, None]  # round-off makes some negative
    dual = U @ ((U.T @ (Y - Y_mean)) / (eigenvalues + alphas))
    # Dual weights of centred targets sum to 0, so the intercept is the mean over fitted images.
    return dual, Y_mean - K_mean @ dual


def _kernel_fold(K: Any, Y: Any, alphas: Any, train: np.ndarray, test: np.ndarray) -> Any:
    """Predictions of the test images from the train images, at given alphas."""
    dual, intercept = _kernel_ridge(K[train][:, train], Y[train], alphas)
    return K[test][:, train] @ dual + intercept


def _search(folds: Folds, Y: Any, alphas: Any, per_voxel: bool) -> dict[str, Any]:
    n_test = max(len(test) for _, test in folds)
    n_voxels = int(SEARCH_BYTES / (8 * len(alphas) * n_test))
    return {"local_alpha": per_voxel, "n_targets_batch": min(max(1, n_voxels), Y.shape[1])}
