"""Kernel ridge to targets that do not fit into memory: they stay in their file.

With one kernel, weights and held-out errors of a target depend on no other target. So penalties are
chosen for blocks of targets, read one after the other, and no weights are kept: a prediction is a
weighted mean of the training images' targets, with weights that only the kernel and the penalty
determine, and the targets are read again when something is predicted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from brainenc.arrays import blocks, release, varies
from brainenc.devices import full_precision, linear_algebra_device, resolve_device
from brainenc.model_selection import Folds
from brainenc.solvers.kernel import (
    Responses,
    block_size,
    kernel_of,
    shared_alphas,
    solve_voxels,
)
from brainenc.solvers.search import choose_search, working_dtype
from brainenc.solvers.smoother import Smoother
from brainenc.solvers.streamed import ScaledFeatures
from brainenc.solvers.voxels import choose_alphas, choose_per_voxel, voxel_groups

#: Deviations that are smaller than so many times the values are none (see `cosine_similarity`).
_ROUND_OFF = 1e-6


@dataclass(frozen=True)
class StreamedRegression:
    """A fitted linear map to targets in a file, which must stay there and must not change.

    Attributes
    ----------
    X_fit : array, shape (n_images, n_features)
        Centred features of the training images.
    kernel : array, shape (n_images, n_images)
        Of these.
    feature_mean : array, shape (n_features,)
    alphas : array, shape (n_targets,)
    targets : ScaledFeatures
        Targets of the training images without their mean.

    Examples
    --------
    >>> import numpy as np
    >>> from brainenc.model_selection import image_folds
    >>> X = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    >>> folds = image_folds(5, 60)
    >>> regression = StreamedRegression.fit(X, (X @ np.ones((5, 3))).astype(np.float16), folds)
    >>> bool(np.abs(regression.predict(X) - X @ np.ones((5, 3))).max() < 0.01)
    True
    """

    X_fit: np.ndarray
    kernel: np.ndarray
    feature_mean: np.ndarray
    alphas: np.ndarray
    targets: ScaledFeatures

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        targets: Any,
        folds: Folds,
        *,
        alphas: Any = "auto",
        alpha_per_target: Any = "auto",
        search: str = "auto",
        device: Any = "auto",
    ) -> "StreamedRegression":
        """Fit with penalties chosen by held-out images, as `RidgeRegression.fit` in kernel form.

        Parameters
        ----------
        features : array, shape (n_images, n_features)
        targets : array, shape (n_images, n_targets) or (n_images, n_tokens, width)
            Such as a memory map.
        folds : list of (train, test)
        alphas, alpha_per_target, search, device
            As for `brainenc.RidgeDecoder`.

        Raises
        ------
        ValueError : targets that are not finite, or constant.
        """
        mean = features.mean(axis=0, dtype=np.float64).astype(features.dtype)
        X = features - mean
        device = resolve_device(device)
        kernel = kernel_of(X, device)
        centred = centred_targets(targets)
        tried = choose_alphas(alphas, X.shape)
        per_target = choose_per_voxel(alpha_per_target, len(X))
        search = choose_search(search, len(X), folds)
        with full_precision():
            on_device = torch.as_tensor(kernel, device=linear_algebra_device(device))
            on_device = on_device.to(working_dtype(on_device.dtype, len(X)))
            penalties = torch.as_tensor(np.asarray(tried)).to(on_device)
            smoother = Smoother.of_kernel(on_device, penalties, folds)
            chosen = _choose(smoother, centred, per_target, search)
        return cls(X, kernel, mean, chosen.astype(X.dtype), centred)

    def smoothing(self, features: np.ndarray) -> dict[float, np.ndarray]:
        """Weights of the training images in predictions, (n_new, n_images), for each penalty."""
        cross = ((features - self.feature_mean) @ self.X_fit.T).astype(np.float64)
        # The training features have mean 0, so the kernel needs no other centring.
        found = {}
        for alpha in np.unique(self.alphas):
            system = self.kernel.astype(np.float64)
            system[np.diag_indices_from(system)] += alpha
            # Symmetric; its transpose has the order in memory in which it is factored in place.
            factor = cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)
            weights = cho_solve(factor, cross.T, check_finite=False).T
            found[float(alpha)] = weights.astype(self.X_fit.dtype)
        return found

    def predicted_blocks(self, features: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Predictions (n_new, n_columns) of blocks of targets, without the mean of the targets."""
        smoothing = self.smoothing(features)
        for columns, block in self._targets_again():
            found = np.empty((len(features), block.shape[1]), block.dtype)
            for alpha, weights in smoothing.items():
                mine = np.flatnonzero(self.alphas[columns] == alpha)
                if len(mine) == block.shape[1]:
                    found = weights @ block
                elif len(mine):
                    found[:, mine] = weights @ block[:, mine]
            yield columns, found

    def _targets_again(self) -> Iterator[tuple[slice, np.ndarray]]:
        try:
            yield from self.targets.blocks(check=True)
        except ValueError as error:
            raise ValueError(
                f"targets {self.targets.features.shape} that the decoder was fitted to have "
                "changed: they are too large for a copy in memory, so their file must stay as it "
                "was. Write new targets to another file, or fit again"
            ) from error

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Targets (n_new, n_targets)."""
        found = np.empty((len(features), len(self.alphas)), self.X_fit.dtype)
        for columns, block in self.predicted_blocks(features):
            found[:, columns] = block + self.targets.mean[columns]
        return found

    def cosines(self, features: np.ndarray, candidates: Any, *, center: bool) -> np.ndarray:
        """Cosine of predictions with candidates, as `brainenc.metrics.cosine_similarity`.

        Parameters
        ----------
        features : array, shape (n_new, n_features)
        candidates : array, shape (n_candidates, n_targets) or (n_candidates, n_tokens, width)
            Read in the blocks of the targets.
        center : bool
            Subtract the mean of the training targets from both.

        Returns
        -------
        array, shape (n_new, n_candidates), float64
        """
        mean = self.targets.mean
        others = self.targets.scaling_of(candidates)
        products = np.zeros((len(features), len(candidates)))
        lengths, sizes = (
            [np.zeros(len(part)) for part in (features, candidates)] for _ in range(2)
        )
        for columns, block in self.predicted_blocks(features):
            both = [block.astype(np.float64), others.columns(columns).astype(np.float64)]
            release(candidates)
            of_block = mean[columns].astype(np.float64)
            for deviations, length, size in zip(both, lengths, sizes, strict=True):
                size += np.square(deviations + of_block).sum(axis=1)
                if not center:
                    deviations += of_block
                length += np.square(deviations).sum(axis=1)
            products += both[0] @ both[1].T
        least = np.linalg.norm(mean) if center else 0.0
        for length, size in zip(lengths, sizes, strict=True):
            np.sqrt(length, out=length)
            length[length <= _ROUND_OFF * (np.sqrt(size) + least)] = np.nan
        return products / lengths[0][:, None] / lengths[1]


def centred_targets(targets: Any) -> ScaledFeatures:
    """Targets without their mean, read in blocks of columns; they are checked once.

    Raises
    ------
    ValueError : targets that are not finite, or constant over images.
    """
    n_targets = int(np.prod(targets.shape[1:]))
    plain = ScaledFeatures(targets, np.zeros(n_targets, np.float32), np.ones(n_targets, np.float32))
    mean = np.empty(n_targets, plain.dtype)
    constant: list[int] = []
    for columns, block in plain.blocks():
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            raise ValueError(
                f"targets {targets.shape} contain NaN or infinity for {bad.size} images (first in "
                f"row {bad[0]}): correct or leave out those images"
            )
        of_block = block.mean(axis=0, dtype=np.float64)
        mean[columns] = of_block
        some = np.flatnonzero(~varies(of_block, block.std(axis=0)))
        constant += (columns.start + some).tolist()
    if constant:
        raise ValueError(
            f"targets {targets.shape} are constant over images in {len(constant)} dimensions "
            f"(first: {constant[0]}), which no response can predict: leave these out"
        )
    return ScaledFeatures(targets, mean, plain.scale)


def _choose(
    smoother: Smoother, targets: ScaledFeatures, per_target: Any, search: str
) -> np.ndarray:
    """Penalty of each target."""
    groups = voxel_groups(per_target, targets.shape[1])
    if groups is not None:
        columns: Any = _Columns(targets)
        at = shared_alphas(smoother, columns, groups, search)[0]
        assert at is not None
        return smoother.alphas[at].numpy(force=True)
    chosen = np.empty(targets.shape[1])
    for columns, block in targets.blocks():
        for part in blocks(block.shape[1], block_size(len(targets))):
            found = solve_voxels(smoother, Responses.of(block[:, part], smoother), search)
            chosen[columns][part] = smoother.alphas[found.at].numpy(force=True)
    return chosen


class _Columns:
    """Targets as an array of which columns that follow each other are read when asked for."""

    def __init__(self, scaled: ScaledFeatures):
        self.scaled, self.shape = scaled, scaled.shape

    def __len__(self) -> int:
        return len(self.scaled)

    def __getitem__(self, index: tuple[slice, np.ndarray]) -> np.ndarray:
        columns = index[1]
        first, last = int(columns[0]), int(columns[-1])
        block = self.scaled.columns(slice(first, last + 1))
        release(self.scaled.features)
        return block if len(columns) == last + 1 - first else block[:, columns - first]
