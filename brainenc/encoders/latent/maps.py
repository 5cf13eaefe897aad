"""Maps from image tokens to the latent, and the weights of several predictions."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from brainenc.encoders.ensemble import Ensemble, Recipe, ensemble_folds, fit_ensemble, seeded
from brainenc.model_selection import Folds
from brainenc.nets.latent_mapper import LatentMapper
from brainenc.nets.losses import masked_squared_error
from brainenc.solvers.simplex import measure_errors
from brainenc.training import OneCycle, TrainingRun, TrainingSettings

#: Weight, in images, of the average latent or voxel beside its own errors.
POOLING = 100


def fit_mappers(
    tokens: Any,
    latents: np.ndarray,
    folds: Folds,
    run: TrainingRun,
    *,
    sizes: dict[str, Any],
    n_epochs: int,
    goes_on: Callable[[np.ndarray, np.ndarray], bool] | None = None,
) -> Ensemble:
    """Train one mapper per fold, with early stopping on the held-out images.

    Parameters
    ----------
    tokens : array, shape (n_images, n_tokens, width)
    latents : array, shape (n_images, n_latents)
        Mean square 1; NaN where an image has no data.
    folds : list of (train, test)
    run : TrainingRun
    sizes : dict
        Arguments of `LatentMapper` except input and output sizes.
    n_epochs : int
    goes_on : function, optional
        As for `fit_ensemble`.
    """
    shape = (*tokens.shape[1:], latents.shape[1])
    recipe = Recipe(
        make_net=lambda seed: seeded(seed, lambda: LatentMapper(*shape, **sizes)),
        settings=lambda n_images, run: _settings(n_images, n_epochs, run),
        loss=masked_squared_error,
        evaluate=lambda *pair: {"held_out_mse": float(masked_squared_error(*pair))},
    )
    return fit_ensemble(tokens, latents, folds, recipe, run, goes_on=goes_on)


def _settings(n_images: int, n_epochs: int, run: TrainingRun) -> TrainingSettings:
    epoch = n_images // run.batch_size
    n_steps = max(50, n_epochs * n_images // run.batch_size)
    return run.settings(
        n_steps=n_steps,
        schedule=OneCycle(),
        # About twenty evaluations, but at most about two per epoch: evaluation is slow.
        report_every=max(1, n_steps // 20, epoch // 2),
        monitor="held_out_mse",
        mode="min",
        patience=6,
    )


def convex_weights(
    parts: Sequence[np.ndarray], targets: np.ndarray, mean: np.ndarray
) -> np.ndarray:
    """Weights of predictions per column that minimise the held-out squared error.

    Weights are >= 0 and sum to at most 1; the mean has the rest. Predictions are therefore shrunk
    towards the mean, and fully if they are no better than it.

    Parameters
    ----------
    parts : k arrays, shape (n_images, n_columns)
        Held-out predictions of latents or voxels.
    targets : array, shape (n_images, n_columns); NaN for an image without data
    mean : array, shape (n_columns,)
        Mean of the targets.

    Returns
    -------
    array, shape (k, n_columns), float32
    """
    constant = np.broadcast_to(mean, targets.shape)
    weights = measure_errors([*parts, constant], targets).weights(POOLING)[:-1]
    return weights.astype(np.float32)


def gain(
    parts: Sequence[np.ndarray], more: np.ndarray, targets: np.ndarray, scale: np.ndarray
) -> float:
    """Fall of the held-out squared error by one more prediction in a blend.

    Parameters
    ----------
    parts : arrays, shape (n_images, n_voxels)
        Held-out predictions of the blend, less the mean.
    more : array of the same shape
        Held-out predictions that are added to it.
    targets : array of the same shape; NaN where an image has no data
        Less the mean.
    scale : array, shape (n_voxels,)
        s.d. of the targets.

    Returns
    -------
    float
        Of z-scored targets, mean over images and voxels. Weights are those of all voxels together,
        so that few images are enough; 0 or more.
    """
    y = (targets / scale).reshape(-1, 1)
    z = [(part / scale).reshape(-1, 1) for part in (*parts, more)]
    errors = []
    for some in (z[:-1], z):
        weights = convex_weights(some, y, np.zeros(1, np.float32))
        blended = sum(w * part for w, part in zip(weights, some, strict=True))
        errors.append(float(np.nanmean(np.square(blended - y))))
    return max(errors[0] - errors[1], 0.0)


def mapper_folds(n_images: int, n_members: int, random_state: int) -> Folds:
    """Training and held-out images of each mapper; no folds without mappers."""
    return ensemble_folds(n_images, n_members, random_state) if n_members else []
