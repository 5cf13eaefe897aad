"""Features of any shape as standardised tokens, and as inputs of linear maps."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.extmath import randomized_svd

from brainenc.arrays import release, row_blocks, varies

#: Principal components kept of pooled features.
N_COMPONENTS = 128
#: Largest number of features per image in linear maps; neighbouring tokens are averaged to reach
#: it. 256 tokens of width 1664 would need 425 984 weights per voxel.
MAX_LINEAR = 16_384
#: Largest size in bytes of standardised tokens in memory; larger ones are standardised by batch.
TOKENS_IN_MEMORY = 2**30


@dataclass(frozen=True)
class TokenAdapter:
    """Features of any shape to standardised tokens (n_images, n_tokens, width), float32.

    Tokens are z-scored feature by feature over images and positions. Pooled features become one
    token: their leading principal components, half whitened, which balances large and small
    components.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray | None = None

    @classmethod
    def fit(cls, features: np.ndarray) -> "TokenAdapter":
        """Adapter for features (n_images, n_features) or (n_images, n_tokens, width)."""
        mean, sd = _moments(features)
        scale = np.where(varies(mean, sd), sd, 1).astype(np.float32)
        adapter = cls(mean.astype(np.float32), scale)
        if features.ndim == 3:
            return adapter
        sd, directions = principal_components(adapter.transform(features)[:, 0], N_COMPONENTS)
        half_whitened = directions.T / np.sqrt(sd)
        return cls(adapter.mean, scale, half_whitened / np.sqrt(sd.mean()))

    def tokens(self, features: np.ndarray) -> "np.ndarray | StandardisedTokens":
        """Tokens of new features; a lazy array if they would fill the memory."""
        if features.ndim == 3 and 4 * features.size > TOKENS_IN_MEMORY:
            return StandardisedTokens(features, self)
        return self.transform(features)

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Tokens of new features, in memory."""
        tokens = np.subtract(features, self.mean, dtype=np.float32)
        tokens /= self.scale
        if self.components is not None:
            tokens = tokens @ self.components
        return tokens if tokens.ndim == 3 else tokens[:, None]


class StandardisedTokens:
    """Lazy array that standardises tokens when rows are read; see `TokenAdapter.tokens`."""

    dtype, ndim = np.dtype(np.float32), 3

    def __init__(self, features: np.ndarray, adapter: TokenAdapter):
        self.features, self.adapter, self.shape = features, adapter, features.shape

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: Any) -> np.ndarray:
        tokens = self.adapter.transform(self.features[rows])
        release(self.features)
        return tokens


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and s.d. of the last axis over all others, float64."""
    axes = tuple(range(features.ndim - 1))
    mean = np.zeros(features.shape[-1])
    for block in row_blocks(features):
        mean += block.sum(axes, dtype=np.float64)
    mean /= np.prod(features.shape[:-1])
    square = np.zeros_like(mean)
    for block in row_blocks(features):
        square += np.square(block - mean).sum(axes)
    return mean, np.sqrt(square / np.prod(features.shape[:-1]))


def linear_features(features: np.ndarray) -> np.ndarray:
    """Features for linear maps; large token features are averaged over neighbouring tokens.

    Parameters
    ----------
    features : array, shape (n_images, n_features) or (n_images, n_tokens, width)

    Returns
    -------
    array of the same kind, with at most `MAX_LINEAR` numbers per image where averaging helps
        A square number of tokens is taken as a grid and averaged in squares, any other number in
        runs of consecutive tokens.
    """
    if features.ndim == 2 or math.prod(features.shape[1:]) <= MAX_LINEAR:
        return features
    n_tokens, width = features.shape[1:]
    n_kept = max(1, MAX_LINEAR // width)
    side = math.isqrt(n_tokens)
    if side**2 == n_tokens:
        kept_side = max(n for n in range(1, math.isqrt(n_kept) + 1) if side % n == 0)
        step = side // kept_side
        grid = (kept_side, step, kept_side, step, width)
        return _averaged(features, lambda block: block.reshape(-1, *grid).mean((2, 4)))
    parts = np.array_split(np.arange(n_tokens), min(n_kept, n_tokens))
    return _averaged(
        features, lambda block: np.stack([block[:, part].mean(1) for part in parts], axis=1)
    )


def _averaged(features: np.ndarray, average: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    averaged = [average(block.astype(np.float32)) for block in row_blocks(features)]
    return np.concatenate(averaged).reshape(len(features), -1)


def principal_components(centred: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations (k,) and directions (k, n_columns) of the k <= n leading components.

    Components a thousand times smaller than the first are left out.
    """
    n = min(n, *centred.shape)
    # Computes only the leading components of a large matrix.
    _, singular, directions = randomized_svd(centred, n, n_iter=7, random_state=0)
    keep = singular > 1e-3 * singular[0]
    keep[0] = True
    sd = singular[keep] / np.sqrt(len(centred)) if singular[0] > 0 else np.ones(1)
    return sd.astype(np.float32), directions[keep].astype(np.float32)
