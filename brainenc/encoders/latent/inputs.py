"""What the parts of LatentEncoder see of one or several feature spaces."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances

from brainenc.devices import resolve_device
from brainenc.encoders.tokens import StandardisedTokens, TokenAdapter, linear_features
from brainenc.model_selection import image_folds
from brainenc.solvers import kernel_ridge_cv
from brainenc.solvers.proposals import random_weights
from brainenc.solvers.voxels import choose_alphas, feature_scaling, flatten_tokens

#: Images that shares of the spaces in the kernel are chosen on: a second for each candidate.
SHARE_IMAGES = 1000
#: Shares of the first of two spaces; of more spaces so many random ones are tried.
SHARES, N_SHARES = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0), 16


def split(features: np.ndarray, shapes: Mapping[str, Sequence[int]]) -> list[np.ndarray]:
    """Features of each space, (n_images, *shape), from all of them side by side."""
    flat = features.reshape(len(features), -1)
    edges = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    parts = np.split(flat, edges, axis=1)
    return [
        part.reshape(len(flat), *shape) for part, shape in zip(parts, shapes.values(), strict=True)
    ]


def coarse_features(
    features: np.ndarray, shapes: Mapping[str, Sequence[int]]
) -> tuple[np.ndarray, dict[str, int]]:
    """Features for linear maps and kernels, and their number in each space.

    Of a single space they are as `linear_features` gives them, tokens included.
    """
    if len(shapes) == 1:
        found = linear_features(features)
        return found, {name: math.prod(found.shape[1:]) for name in shapes}
    parts = [flatten_tokens(linear_features(part)) for part in split(features, shapes)]
    sizes = {name: part.shape[1] for name, part in zip(shapes, parts, strict=True)}
    return np.concatenate(parts, axis=1), sizes


def choose_shares(
    coarse: np.ndarray,
    sizes: Sequence[int],
    targets: np.ndarray,
    *,
    random_state: int,
    device: Any,
) -> np.ndarray:
    """Shares of the spaces in squared distances, with the smallest held-out error of a kernel.

    Parameters
    ----------
    coarse : array, shape (n_images, n_features), spaces side by side
    sizes : sequence of int
        Number of features of each space.
    targets : array, shape (n_images, n_targets); NaN for an image without data
    random_state : int
    device : device of the solver

    Returns
    -------
    array, shape (n_spaces,), which sums to 1

    Notes
    -----
    One choice for all targets, by the error summed over them, on at most `SHARE_IMAGES` images.
    """
    if len(sizes) == 1:
        return np.ones(1)
    known = np.flatnonzero(np.isfinite(targets).all(axis=1))
    rows = np.random.default_rng(random_state).permutation(known)[:SHARE_IMAGES]
    X, Y = coarse[np.sort(rows)], targets[np.sort(rows)]
    folds = image_folds(5, len(X), random_state=random_state)
    alphas = choose_alphas("auto", (len(X), len(X))).astype(Y.dtype)
    mean, sd = feature_scaling(X)
    spaces = np.split((X - mean) / sd, np.cumsum(sizes)[:-1], axis=1)
    squared = [euclidean_distances(z, squared=True).astype(np.float64) / z.shape[1] for z in spaces]
    errors = []
    tried = candidate_shares(len(sizes), random_state)
    for shares in tried:
        distances = np.tensordot(shares, squared, axes=1)
        kernel = np.exp(distances / -(distances.sum() / (len(X) * (len(X) - 1)) or 1.0))
        # With a mean eigenvalue of n_images, as linear features of that number.
        kernel *= len(X) / ((np.trace(kernel) / len(X) - kernel.mean()) or 1.0)
        found = kernel_ridge_cv(kernel, Y, alphas, folds, device=resolve_device(device))
        errors.append(np.square(found.held_out - Y, dtype=np.float64).mean())
    return tried[int(np.argmin(errors))]


def candidate_shares(n_spaces: int, random_state: int) -> np.ndarray:
    """Shares that are tried, (n_candidates, n_spaces): equal ones first, and each space alone."""
    if n_spaces == 2:
        first = np.array(SHARES)
        return np.stack([first, 1 - first], axis=1)
    drawn = random_weights(N_SHARES, n_spaces, np.random.RandomState(random_state))
    return np.concatenate([drawn, np.eye(n_spaces)])


def weights_of(shares: np.ndarray, sizes: Sequence[int]) -> np.ndarray | None:
    """Factor on each z-scored feature, such that spaces have these shares in squared distances."""
    if len(sizes) == 1:
        return None
    return np.repeat(np.sqrt(shares / np.array(sizes)), sizes)


@dataclass(frozen=True)
class SpaceTokens:
    """Tokens of several spaces in one sequence, each space in columns of its own.

    A linear map of such tokens is a map for each space.

    Attributes
    ----------
    adapters : list of TokenAdapter
    shapes : dict of name to shape
        Of the features of an image in each space.
    """

    adapters: list[TokenAdapter]
    shapes: dict[str, list[int]]

    @classmethod
    def fit(cls, features: np.ndarray, shapes: Mapping[str, Sequence[int]]) -> "SpaceTokens":
        """Adapters for features (n_images, n_features) of all spaces side by side."""
        adapters = [TokenAdapter.fit(part) for part in split(features, shapes)]
        return cls(adapters, {name: list(shape) for name, shape in shapes.items()})

    def tokens(self, features: np.ndarray) -> np.ndarray | StandardisedTokens:
        """Tokens of new features, (n_images, n_tokens of all spaces, width of all spaces)."""
        parts = [
            adapter.transform(part)
            for adapter, part in zip(self.adapters, split(features, self.shapes), strict=True)
        ]
        n_tokens, widths = [part.shape[1] for part in parts], [part.shape[2] for part in parts]
        found = np.zeros((len(features), sum(n_tokens), sum(widths)), dtype=np.float32)
        row = column = 0
        for part, height, width in zip(parts, n_tokens, widths, strict=True):
            found[:, row : row + height, column : column + width] = part
            row, column = row + height, column + width
        return found


def fit_tokens(
    features: np.ndarray, shapes: Mapping[str, Sequence[int]]
) -> TokenAdapter | SpaceTokens:
    """Adapter to tokens of one or several spaces."""
    if len(shapes) == 1:
        return TokenAdapter.fit(features)
    return SpaceTokens.fit(features, shapes)
