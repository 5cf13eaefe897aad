"""Scores of all voxels, assembled from blocks of voxels."""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from brainenc.arrays import array_file, take_columns


class ByVoxel:
    """Arrays (..., n_voxels) by name, assembled from consecutive blocks of voxels.

    Parameters
    ----------
    n_voxels : int
        Total number.
    folder : path, optional
        Folder for files: samples of a thousand bootstraps of all metrics and encoders exceed
        memory. By default arrays stay in memory.
    """

    def __init__(self, n_voxels: int, folder: Path | None = None):
        self.n_voxels, self.folder = n_voxels, folder
        self._blocks: dict[str, list[np.ndarray]] = {}
        self._files: dict[str, tuple[Path, Any]] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._open.close()

    def add(self, block: Mapping[str, np.ndarray]) -> None:
        """Append the arrays of the next voxels, (..., number of voxels)."""
        for name, values in block.items():
            if self.folder is None:
                self._blocks.setdefault(name, []).append(values)
            else:
                self._writer(name, values)(np.moveaxis(values, -1, 0))

    def _writer(self, name: str, values: np.ndarray) -> Any:
        """Writer that appends voxels to the file of that name, one row per voxel."""
        assert self.folder is not None
        if name not in self._files:
            path = self.folder / f"{uuid.uuid4().hex[:12]}.npy"
            shape = (self.n_voxels, *values.shape[:-1])
            write = self._open.enter_context(array_file(path, shape, values.dtype))
            self._files[name] = path, write
        return self._files[name][1]

    def joined(self) -> dict[str, np.ndarray]:
        """The arrays of all voxels; memory-mapped if they are in files."""
        self._open.close()
        joined = {name: np.concatenate(parts, axis=-1) for name, parts in self._blocks.items()}
        return joined | {
            name: np.moveaxis(np.load(path, mmap_mode="r"), 0, -1)
            for name, (path, _) in self._files.items()
        }


def of_voxels(parts: Sequence[np.ndarray], voxels: Any) -> np.ndarray:
    """Some voxels of the arrays (n_test, ..., n_voxels) of all folds, concatenated."""
    return np.concatenate([take_columns(part, voxels) for part in parts])
