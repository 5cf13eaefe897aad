"""The default SynBrain: maps from tokens to a latent of the response, and what they count for.

The published net pools and interpolates over the order of voxels, decodes single trials and is
judged by pattern scores; voxel by voxel it does badly. This one keeps its idea (a latent of the
response given the image, a mapper from tokens to it, a decoder to voxels) with a latent and a
decoder in closed form (`_synbrain_latents`), and counts for as much as it adds to ridge.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from brainenc.encoders import ensemble
from brainenc.encoders.ensemble import Members, Recipe, seeded
from brainenc.model_selection import Folds
from brainenc.nets.latent_mapper import LatentMapper
from brainenc.nets.losses import masked_squared_error
from brainenc.solvers.simplex import measure_errors
from brainenc.training import OneCycle, TrainingSettings

#: Images by which the average latent or voxel counts in weights beside the one itself.
POOLING = 100

#: Images that are predicted at a time.
BLOCK = 1024


def fit_members(
    tokens: Any,
    latents: np.ndarray,
    folds: Folds,
    options: dict[str, Any],
) -> Members:
    """Train one mapper per fold, stopped on the images it holds out.

    Parameters
    ----------
    tokens : array, shape (n_images, n_tokens, width)
    latents : array, shape (n_images, n_latents)
        Of mean square 1; NaN where an image has no data.
    folds : list of (train, test)
    options : dict
        hidden, dropout, n_epochs, batch_size, learning_rate, weight_decay, device, precision,
        checkpoint_dir, resume, random_state, verbose.
    """
    sizes = (*tokens.shape[1:], latents.shape[1])
    kwargs = {"hidden": options["hidden"], "dropout": options["dropout"]}
    recipe = Recipe(
        make_net=lambda seed: seeded(seed, lambda: LatentMapper(*sizes, **kwargs)),
        settings=lambda n_images, seed: _settings(n_images, options, seed),
        loss=masked_squared_error,
        evaluate=lambda *pair: {"held_out_mse": float(masked_squared_error(*pair))},
    )
    return ensemble.fit_members(tokens, latents, folds, recipe, options)


def _settings(n_images: int, options: dict[str, Any], random_state: int) -> TrainingSettings:
    epoch = n_images // options["batch_size"]
    n_steps = max(50, options["n_epochs"] * n_images // options["batch_size"])
    return TrainingSettings(
        n_steps=n_steps,
        batch_size=options["batch_size"],
        learning_rate=options["learning_rate"],
        weight_decay=options["weight_decay"],
        schedule=OneCycle(),
        # Some twenty times; not much oftener than twice an epoch, where looking takes longest.
        report_every=max(1, n_steps // 20, epoch // 2),
        monitor="held_out_mse",
        mode="min",
        patience=6,
        precision=options["precision"],
        random_state=random_state,
    )


def convex_weights(
    parts: Sequence[np.ndarray], targets: np.ndarray, mean: np.ndarray
) -> np.ndarray:
    """Weights of predictions, column by column, with the smallest held-out squared error.

    They are not negative and add up to 1 at most, what is missing being the mean's: predictions
    are shrunk as they should be already, and one that does no better than the mean gives way to
    it.

    Parameters
    ----------
    parts : k arrays, shape (n_images, n_columns)
        Held-out predictions of latents or voxels.
    targets : array, shape (n_images, n_columns); NaN for an image without data
    mean : array, shape (n_columns,)
        Of the targets.

    Returns
    -------
    array, shape (k, n_columns), float32
    """
    constant = np.broadcast_to(mean, targets.shape)
    weights = measure_errors([*parts, constant], targets).weights(POOLING)[:-1]
    return weights.astype(np.float32)


def member_folds(n_images: int, n_members: int, random_state: int) -> Folds:
    """Held-out images of each member."""
    if n_members == 0:
        return []
    return ensemble.member_folds(n_images, n_members, random_state)
