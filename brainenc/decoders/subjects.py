"""Training rows of several subjects: scaled, padded to one number of voxels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainenc.decoders.responses import VoxelScaling


@dataclass(frozen=True)
class SubjectData:
    """Scaled betas (n_images, n_repeats, n_voxels) of a subject, and targets, flattened."""

    betas: np.ndarray
    targets: np.ndarray
    scaling: VoxelScaling


class PaddedBetas:
    """Betas of all subjects' images, with zeros where a trial, a repeat or a voxel is missing.

    An array of shape (n_images, n_repeats, n_voxels) with the largest numbers of repeats and
    voxels, of which rows are read.
    """

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = parts
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        n_repeats, n_voxels = (max(part.shape[axis] for part in parts) for axis in (1, 2))
        self.shape = (int(self.starts[-1]), n_repeats, n_voxels)
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = index[0] if isinstance(index, tuple) else index
        found = np.zeros((len(rows), *self.shape[1:]), self.dtype)
        for part, start, end in zip(self.parts, self.starts, self.starts[1:], strict=False):
            mine = np.flatnonzero((rows >= start) & (rows < end))
            if mine.size:
                some = np.nan_to_num(part[rows[mine] - start])
                found[mine, : some.shape[1], : some.shape[2]] = some
        return found


def present_repeats(parts: Sequence[np.ndarray], n_repeats: int) -> np.ndarray:
    """Whether each image has each repeat, (n_images, n_repeats), of all subjects."""
    rows = []
    for part in parts:
        there = np.isfinite(part).any(axis=2)
        rows.append(np.pad(there, [(0, 0), (0, n_repeats - there.shape[1])]))
    return np.concatenate(rows)


def same_targets(targets: np.ndarray) -> np.ndarray:
    """Group of each row: rows of equal targets, which are of one image, share it."""
    groups: dict[bytes, int] = {}
    return np.array([groups.setdefault(row.tobytes(), len(groups)) for row in targets])


def are_pairs(X: Any) -> bool:
    """Whether X is a list of pairs (betas, targets), one for each subject."""
    return isinstance(X, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and np.ndim(pair[0]) in (2, 3)
        for pair in X
    )
