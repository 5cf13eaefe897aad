"""Ridge as the start of a decoding network: principal components of targets, and read-ins."""

from typing import Any

import numpy as np
import torch

from brainenc.decoders.responses import single_trials
from brainenc.decoders.rows import Rows, beside, fit_rows
from brainenc.model_selection import image_folds
from brainenc.repeats import average_repeats
from brainenc.solvers.search import choose_search

#: Folds of the choice of penalties; with fewer images, as many as there are images.
N_FOLDS = 5


def target_basis(targets: np.ndarray, width: int) -> np.ndarray:
    """Directions of the largest variance of targets.

    Parameters
    ----------
    targets : array, shape (n_images, n_dimensions)
        Centred.
    width : int
        Largest number of directions.

    Returns
    -------
    array, shape (n_dimensions, k), float32
        Orthonormal columns, k ≤ `width`.
    """
    _, sizes, directions = np.linalg.svd(targets.astype(np.float64), full_matrices=False)
    rank = int((sizes > 1e-6 * max(sizes[0], 1e-30)).sum())
    return np.ascontiguousarray(directions[: max(1, min(width, rank))].T, dtype=np.float32)


@torch.no_grad()
def start_read_in(
    layer: Any,
    betas: np.ndarray,
    latents: np.ndarray,
    *,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    device: Any = "auto",
    random_state: int = 0,
) -> np.ndarray:
    """Set a linear layer to ridge from trials to latents, with penalties for averages.

    Outputs of the layer beyond the latents are set to 0.

    Parameters
    ----------
    layer : torch.nn.Linear, of at least n_latents outputs
    betas : array, shape (n_images, n_repeats, n_voxels)
    latents : array, shape (n_images, n_latents)
    validation : (averages, latents) of other images, optional
        They choose the penalties, in place of folds of the images.

    Returns
    -------
    array, shape (n_images, n_latents) : held-out latents
    """
    n = len(betas)
    held, targets = Rows(average_repeats(betas), np.arange(n)), latents
    folds = image_folds(min(N_FOLDS, n), n, random_state=random_state)
    if validation is not None:
        held, targets, folds = beside(n, *validation, latents)
    regression, held_out = fit_rows(
        Rows(*single_trials(betas)),
        held,
        targets,
        folds,
        search=choose_search("auto", n, folds),
        device=device,
        random_state=random_state,
    )
    n_latents = latents.shape[1]
    weights = regression.weights()
    offset = regression.predict(np.zeros((1, betas.shape[2]), np.float32))[0]
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    layer.weight[:n_latents] = torch.from_numpy(np.ascontiguousarray(weights.T, np.float32))
    layer.bias[:n_latents] = torch.from_numpy(np.asarray(offset, np.float32))
    return held_out[:n]
