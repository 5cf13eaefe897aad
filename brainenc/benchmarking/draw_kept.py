"""Arrays kept of the draws of a pair, in memory or in memory-mapped files."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from brainenc.arrays import array_file
from brainenc.reading import read_array, read_arrays

Arrays = dict[str, np.ndarray]

#: Version of the kept arrays; a continued run draws again if it differs.
VERSION = 3

#: Arrays with values for every image and voxel; the others are small.
LARGE = ("crps", "ranks", "one_draw", "mean_draw")


class Kept:
    """Arrays by name, assembled from consecutive blocks of images.

    Parameters
    ----------
    n_images : int
        Total number.
    folder : path, optional
        Folder for the files, created. By default arrays stay in memory.
    """

    def __init__(self, n_images: int, folder: Path | None = None):
        self.n_images, self.folder = n_images, folder
        self._blocks: dict[str, list[np.ndarray]] = {}
        self._writers: dict[str, Any] = {}
        self._open = ExitStack()
        if folder is not None:
            folder.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._open.close()

    def add(self, block: Mapping[str, np.ndarray]) -> None:
        """Append the rows of the next images."""
        for name, rows in block.items():
            if self.folder is None or name not in LARGE:
                self._blocks.setdefault(name, []).append(rows)
            else:
                self._writer(name, rows)(rows)

    def _writer(self, name: str, rows: np.ndarray) -> Any:
        assert self.folder is not None
        if name not in self._writers:
            file = array_file(
                self.folder / f"{name}.npy", (self.n_images, *rows.shape[1:]), rows.dtype
            )
            self._writers[name] = self._open.enter_context(file)
        return self._writers[name]

    def joined(self, **more: Any) -> Arrays:
        """The arrays of all images, and `more`; those in files are complete and memory-mapped."""
        self._open.close()
        joined = {name: np.concatenate(rows) for name, rows in self._blocks.items()} | more
        if self.folder is None:
            return joined
        np.savez(self.folder / "rest.npz", **joined)
        return read_kept(self.folder)


def read_kept(folder: Path) -> Arrays:
    """Arrays of a folder written by `Kept`; large ones are memory-mapped."""
    small = read_arrays(folder / "rest.npz")
    return small | {name: read_array(folder / f"{name}.npy", mapped=True) for name in LARGE}
