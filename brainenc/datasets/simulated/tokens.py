"""Simulated tokens, similar to those of a vision transformer, without weights to download."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from brainenc.datasets.simulated import cortex
from brainenc.datasets.simulated.energy import GRID, cell_centres
from brainenc.datasets.simulated.scenes import CATEGORIES, FIELD

_TOKEN_NOISE = 0.3  # s.d. relative to a token entry's own s.d. of about 1


def network_output(
    energy: np.ndarray, objects: pd.DataFrame, n_side: int, width: int
) -> np.ndarray:
    """Local texture and content, and the whole image's content, through a fixed random network.

    Parameters
    ----------
    energy : array, shape (n_images, n_channels, GRID, GRID)
    objects : pandas.DataFrame
        As `make_scenes` returns it.
    n_side : int
        Tokens per side of the square grid, a divisor of GRID.
    width : int

    Returns
    -------
    array, shape (n_images, n_side², width), float32
        Tokens without noise.
    """
    texture = 4 * np.sqrt(_grid_means(energy, n_side))
    content = _content_on_grid(objects, n_side)
    context = np.broadcast_to(content.mean(axis=1, keepdims=True), content.shape)
    inputs = np.concatenate([texture, 2 * content, 4 * context], axis=2)
    return _random_network(inputs, width)


def add_token_noise(tokens: np.ndarray, seeds: Sequence[np.random.SeedSequence]) -> None:
    """Add noise to the tokens of each image, in place; a seed per image."""
    for i, image_seed in enumerate(seeds):
        noise = np.random.default_rng(image_seed).standard_normal(
            tokens.shape[1:], dtype=np.float32
        )
        tokens[i] += _TOKEN_NOISE * noise


def _content_on_grid(objects: pd.DataFrame, n_side: int) -> np.ndarray:
    """Visibility of each category and its attributes in each window of the grid."""
    step = GRID // n_side
    x, y = (c.reshape(n_side, step, n_side, step).mean(axis=(1, 3)).ravel() for c in cell_centres())
    window = np.full(n_side**2, FIELD / n_side / 3)
    visible = cortex.visibility(objects, x, y, window)
    codes = pd.Categorical(objects["category"], CATEGORIES).codes
    attributes = np.column_stack([np.ones(len(objects)), cortex.object_attributes(objects)])
    described = np.eye(len(CATEGORIES))[codes][:, :, None] * attributes[:, None]
    described = described.reshape(len(objects), 1, -1).astype(np.float32)
    return cortex.sum_by_image(visible[:, :, None] * described, objects)


def _random_network(inputs: np.ndarray, width: int) -> np.ndarray:
    """Two layers with fixed random weights, the same for every subject and seed."""
    rng = np.random.default_rng(2025)
    n_inputs, n_hidden = inputs.shape[2], 2 * width
    first = rng.standard_normal((n_inputs, n_hidden), dtype=np.float32) / np.sqrt(n_inputs / 10)
    bias = rng.standard_normal(n_hidden, dtype=np.float32)
    second = rng.standard_normal((n_hidden, width), dtype=np.float32) / np.sqrt(n_hidden / 2)
    return np.tanh(inputs.astype(np.float32) @ first + bias) @ second


def _grid_means(energy: np.ndarray, n_side: int) -> np.ndarray:
    """Energy averaged over n_side × n_side windows, shape (n_images, n_side², n_channels)."""
    n, channels = energy.shape[:2]
    step = GRID // n_side
    means = energy.reshape(n, channels, n_side, step, n_side, step).mean(axis=(3, 5))
    return means.reshape(n, channels, -1).transpose(0, 2, 1)
