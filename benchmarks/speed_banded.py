"""Speed of banded ridge against himalaya's random search, at as many candidates. See `speed.py`."""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import device_of, in_turn, measure, row, timed

#: Images, features of each band, voxels; himalaya is measured at the first size only.
SIZES = ((3000, (1000, 2500, 5000), 4000), (9000, (3200, 1664, 4096), 15724))
N_CANDIDATES, N_ALPHAS = 20, 13


def banded(arguments: argparse.Namespace) -> Iterator[dict]:
    """All with 20 candidates, the same penalties and folds."""
    tenth = 10 if arguments.quick else 1
    for i, (n_images, widths, n_voxels) in enumerate(SIZES):
        n_images, n_voxels = n_images // tenth, n_voxels // tenth
        widths = tuple(width // tenth for width in widths)
        size = f"{n_images} × ({' + '.join(map(str, widths))}) → {n_voxels}"
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            measure(make_bands, folder, n_images, widths, n_voxels)
            ours: list[tuple] = [
                (run_banded, folder, arguments.device, candidates)
                for candidates in ("random", "chosen")
            ]
            if i:
                found = measure(*ours[0])
                yield row("banded ridge", size, found, **measure(score_of, folder, "random"))
                continue
            *found, numpy, torch = in_turn(
                arguments.rounds,
                *ours,
                *((run_random_search, folder, backend) for backend in ("numpy", "torch")),
            )
            theirs = min(numpy, torch, key=lambda each: each["s"])
            scores = measure(score_of, folder, "theirs")
            of_theirs = {f"other {name}": value for name, value in scores.items()}
            for candidates, each in zip(("random", "chosen"), found, strict=True):
                of_ours = measure(score_of, folder, candidates)
                yield row(f"banded ridge, {candidates}", size, each, theirs, **of_ours, **of_theirs)


def make_bands(folder: Path, n_images: int, widths: tuple[int, ...], n_voxels: int) -> dict:
    """Bands of power-law spectra; voxels mix them, with R² from 0 to 0.5."""
    rng = np.random.default_rng(0)
    n_new = n_images // 3
    mixing = rng.dirichlet([0.5] * len(widths), size=n_voxels).astype(np.float32)
    signal = np.zeros((n_images + n_new, n_voxels), np.float32)
    for b, width in enumerate(widths):
        spectrum = np.arange(1, width + 1, dtype=np.float32) ** -0.8
        X = rng.standard_normal((n_images + n_new, width), dtype=np.float32) * spectrum
        X -= X[:n_images].mean(0)
        X /= np.sqrt(np.square(X[:n_images]).sum(1).mean())
        weights = rng.standard_normal((width, n_voxels), dtype=np.float32)
        signal += X @ weights * np.sqrt(mixing[:, b])
        np.save(folder / f"band{b}.npy", X)
    signal *= np.sqrt(rng.uniform(0, 0.5, n_voxels).astype(np.float32)) / signal.std(0)
    noise = np.sqrt(1 - np.square(signal[:n_images].std(0)))
    responses = signal[:n_images] + noise * rng.standard_normal(
        (n_images, n_voxels), dtype=np.float32
    )
    np.save(folder / "Y.npy", responses)
    np.save(folder / "signal.npy", signal[n_images:])
    return {}


def load_bands(folder: Path) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, list]:
    from brainenc.model_selection import image_folds

    Y = np.load(folder / "Y.npy")
    paths = sorted(folder.glob("band*.npy"))
    Xs = [np.load(path) for path in paths]
    alphas = (len(Y) * np.logspace(-4, 2, N_ALPHAS)).astype(np.float32)
    return Xs, Y, alphas, image_folds(5, len(Y))


def run_banded(folder: Path, device: str, candidates: str) -> dict:
    from brainenc import solvers

    Xs, Y, alphas, folds = load_bands(folder)
    wake(device)
    with timed(device) as found:
        Ks = [solvers.kernel_of(X[: len(Y)], device) for X in Xs]
        options = {"n_iter": N_CANDIDATES, "candidates": candidates, "device": device}
        fit = solvers.banded_ridge_cv(Ks, Y, alphas, folds, **options)
    _save(folder, candidates, Xs, Y, fit.weights, fit.band_weights, fit.intercept)
    np.save(folder / f"{candidates}_cv.npy", _held_out_error(fit.held_out, Y, folds))
    return found


def run_random_search(folder: Path, backend: str) -> dict:
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import solve_multiple_kernel_ridge_random_search

    Xs, Y, alphas, folds = load_bands(folder)
    used = set_backend(backend)
    wake(device_of(backend))
    with timed(device_of(backend)) as found:
        Ks = np.stack([X[: len(Y)] @ X[: len(Y)].T for X in Xs])
        deltas, weights, scores, intercept = solve_multiple_kernel_ridge_random_search(
            used.asarray(Ks),
            used.asarray(Y),
            n_iter=N_CANDIDATES,
            alphas=used.asarray(alphas),
            cv=folds,
            fit_intercept=True,
            return_weights="dual",
            random_state=0,
            progress_bar=False,
            n_targets_batch=2000,
            n_alphas_batch=5,
        )
    deltas, weights, scores, intercept = map(used.to_numpy, (deltas, weights, scores, intercept))
    _save(folder, "theirs", Xs, Y, weights, np.exp(deltas), intercept)
    np.save(folder / "theirs_cv.npy", -scores.max(0))
    return found


def wake(device: str) -> None:
    """A device's first product and decomposition load its libraries, which is not the work."""
    import torch

    torch.linalg.eigh(torch.eye(40, device=device) @ torch.eye(40, device=device))


def _save(
    folder: Path,
    name: str,
    Xs: list[np.ndarray],
    Y: np.ndarray,
    weights: Any,
    of_bands: Any,
    intercept: Any,
) -> None:
    predicted = np.zeros((len(Xs[0]) - len(Y), Y.shape[1]), np.float32) + intercept
    for X, of_band in zip(Xs, of_bands, strict=True):
        predicted += X[len(Y) :] @ (X[: len(Y)].T @ (weights * of_band))
    np.save(folder / f"{name}.npy", predicted)


def _held_out_error(held_out: np.ndarray, Y: np.ndarray, folds: list) -> np.ndarray:
    return np.mean([np.square(held_out[test] - Y[test]).mean(0) for _, test in folds], axis=0)


def score_of(folder: Path, name: str) -> dict:
    """Held-out error of the fit, and r with the noise-free responses to new images; means."""
    predicted, signal = np.load(folder / f"{name}.npy"), np.load(folder / "signal.npy")
    r = [np.corrcoef(*pair)[0, 1] for pair in zip(predicted.T, signal.T, strict=True)]
    return {
        "held-out error": float(np.load(folder / f"{name}_cv.npy").mean()),
        "r with signal": float(np.mean(r)),
    }
