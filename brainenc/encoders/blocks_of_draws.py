"""Draws in blocks of images: identical in memory and in a file larger than memory."""

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from brainenc.storage import atomic_path

#: Values drawn at once: 128 MiB, and a few temporary arrays of that size.
BLOCK_VALUES = 2**25
#: Images drawn at once, where that is fewer values.
BLOCK_IMAGES = 256

#: Index of images, or of images and voxels, and draws (n, ...) of these.
Blocks = Iterator[tuple[Any, np.ndarray]]


def draw_blocks(
    draw: Callable[[slice, np.random.Generator], np.ndarray],
    shape: tuple[int, int, int],
    random_state: Any,
) -> Blocks:
    """Draws of consecutive images, with a separate random stream for each block.

    Parameters
    ----------
    draw : callable (images, rng) -> array (n, n_images, n_voxels)
    shape : (n, n_images, n_voxels)
        It alone determines the blocks, so that the same call gives the same draws.
    random_state : int, Generator or None

    Yields
    ------
    images : slice
    draws : array, shape (n, n_images of the block, n_voxels), float32
    """
    n, n_images, n_voxels = shape
    size = max(1, min(BLOCK_IMAGES, BLOCK_VALUES // (n * n_voxels)))
    starts = range(0, n_images, size)
    streams = np.random.default_rng(random_state).spawn(len(starts))
    for start, rng in zip(starts, streams, strict=True):
        images = slice(start, min(start + size, n_images))
        yield images, draw(images, rng).astype(np.float32, copy=False)


def collect(blocks: Blocks, shape: tuple[int, ...]) -> np.ndarray:
    """All draws as one float32 array (n, n_images, ...)."""
    draws = np.empty(shape, dtype=np.float32)
    for place, block in blocks:
        draws[(slice(None), *place) if isinstance(place, tuple) else (slice(None), place)] = block
    return draws


def write(blocks: Blocks, shape: tuple[int, ...], path: str | os.PathLike) -> np.memmap:
    """Write draws to a ``.npy`` file, atomically, and memory-map it.

    The file is written without a memory map: a full disk would kill the process instead of raising
    OSError, and pages written to a map count as memory of the process.

    Parameters
    ----------
    blocks : as `draw_blocks` yields them
    shape : (n, n_images, ...)
    path : path

    Returns
    -------
    numpy.memmap of the shape, float32, read-only
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    row_bytes = 4 * math.prod(shape[2:])
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        file.truncate(start + 4 * math.prod(shape))
        for place, block in blocks:
            images, voxels = place if isinstance(place, tuple) else (place, slice(None))
            whole_rows = voxels.indices(math.prod(shape[2:])) == (0, math.prod(shape[2:]), 1)
            for k, draw in enumerate(block):
                first = start + (k * shape[1] + images.start) * row_bytes
                pieces = [draw] if whole_rows else draw
                for i, piece in enumerate(pieces):
                    file.seek(first + i * row_bytes + 4 * (voxels.start or 0))
                    file.write(np.ascontiguousarray(piece, dtype="<f4").data)
    return np.load(path, mmap_mode="r")
