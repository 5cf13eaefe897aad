"""Arrays larger than memory: blocks, rows and columns, files.

Also the rule for constant columns.
"""

import math
import mmap
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

#: Largest size in bytes of rows that `take_rows` takes of a memory map into memory.
TAKEN_IN_MEMORY = 2**30

#: Features that take more as float32, in bytes, are not copied as a whole: they are read in blocks.
LARGE_FEATURES = 2**30

#: An s.d. of at most this share of the mean is round-off of equal float32 values.
CONSTANT = 1e-6


@contextmanager
def array_file(
    path: str | os.PathLike, shape: tuple[int, ...], dtype: DTypeLike
) -> Iterator[Callable[[np.ndarray], Any]]:
    """A ``.npy`` file written in blocks of rows, which may be larger than memory.

    It is written without a memory map, with which a full disk would kill the process.

    Parameters
    ----------
    path : path
    shape : tuple of int
        Shape of the whole array.
    dtype : dtype

    Yields
    ------
    function that appends rows, given in order
    """
    dtype = np.dtype(dtype)
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": tuple(shape),
    }
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda rows: file.write(np.ascontiguousarray(rows, dtype=dtype).data)


def write_array(path: str | os.PathLike, array: Any) -> None:
    """Write a ``.npy`` file in blocks of rows; see `array_file`.

    Parameters
    ----------
    path : path
    array : array or lazy sequence with ``shape``, ``dtype`` and slicing
    """
    with array_file(path, array.shape, array.dtype) as write:
        for block in row_blocks(array):
            write(block)


def take_rows(array: Any, rows: np.ndarray, scratch: Path, n_bytes: int = TAKEN_IN_MEMORY) -> Any:
    """``array[rows]``; large rows of a memory-mapped array are written to disk.

    Parameters
    ----------
    array : array or lazy sequence
    rows : array of int
    scratch : path
        Folder for the file, which must exist as long as the rows are used.
    n_bytes : int
        Largest size in memory.

    Returns
    -------
    array, in memory or memory-mapped; for a lazy sequence, the result of its indexing
    """
    too_large = isinstance(array, np.ndarray) and len(rows) * array[:1].nbytes > n_bytes
    if not too_large or _map_of(array) is None:
        return array[rows]
    path = scratch / f"{uuid.uuid4().hex[:12]}.npy"
    write_array(path, Rows(array, rows))
    return np.load(path, mmap_mode="r")


def take_columns(array: np.ndarray, columns: Any, rows: Any = None) -> np.ndarray:
    """``array[rows][..., columns]`` in memory, without loading more of a memory map.

    Parameters
    ----------
    array : array, shape (n_rows, ..., n_columns)
    columns : slice, array of int or of bool
    rows : array of int, optional
        All by default.

    Returns
    -------
    array, shape (len(rows), ..., number of columns), a copy
    """
    plain = np.asarray(array)  # indexing single rows of a memory map is slow
    rows = np.arange(len(plain)) if rows is None else rows
    found = np.empty((len(rows), *plain[:0][..., columns].shape[1:]), plain.dtype)
    at_once = max(1, 2**26 // max(1, plain[:1].nbytes))
    for i, row in enumerate(rows):
        found[i] = plain[row][..., columns]
        if i % at_once == at_once - 1:
            release(plain)
    release(plain)
    return found


class Rows:
    """Rows of an array as a lazy array, read on indexing.

    Parameters
    ----------
    array : array
        May be memory-mapped; its pages are released after each reading.
    rows : array of int
    """

    def __init__(self, array: np.ndarray, rows: np.ndarray):
        self.array, self.rows = array, rows
        self.shape, self.dtype = (len(rows), *array.shape[1:]), array.dtype
        self.ndim, self.size = len(self.shape), math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, some: Any) -> np.ndarray:
        found = self.array[self.rows[some]]
        release(self.array)
        return found


def _map_of(array: Any) -> Any:
    """The memory map that an array is a view of, or None."""
    while array is not None and getattr(array, "_mmap", None) is None:
        array = getattr(array, "base", None)
    return array


def is_large(features: Any) -> bool:
    """Whether features are too large for copies in memory: more than 1 GiB as float32.

    Parameters
    ----------
    features : array or lazy sequence with ``shape``
    """
    return 4 * math.prod(features.shape) > LARGE_FEATURES


def is_mapped(array: Any) -> bool:
    """Whether an array is a memory map, or a view of one."""
    return isinstance(array, np.ndarray) and _map_of(array) is not None


def by_columns(array: np.ndarray) -> bool:
    """Whether rows are side by side in memory, as in Fortran order, and in rows of such an array.

    Blocks of rows of a file are then gathered from all over it.
    """
    return array.ndim > 1 and abs(array.strides[0]) < abs(array.strides[-1])


def release(array: Any) -> None:
    """Release the resident pages of a memory-mapped array; do nothing for other arrays.

    Pages stay in the system's cache and can be read again at low cost, but no longer count as
    memory of this process: a pass over a file needs only the memory of a block.

    Parameters
    ----------
    array : array, or a view of one
    """
    mapped = _map_of(array)
    # A copy-on-write map would lose its changes.
    if mapped is not None and mapped.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        mapped._mmap.madvise(mmap.MADV_DONTNEED)


def read_ahead(array: Any, columns: slice) -> None:
    """Ask the system to read columns of a memory-mapped array that will be used soon.

    It reads them into its cache while the process goes on. Without it, pieces of rows are read when
    they are touched, page by page, which is several times slower. Nothing is done for other arrays,
    nor where the numbers of a row are not side by side.

    Parameters
    ----------
    array : array, shape (n_rows, ...)
    columns : slice
        Of the numbers of a row, with start and stop.
    """
    mapped = _map_of(array)
    if mapped is None or not len(array) or not hasattr(mmap, "MADV_WILLNEED"):
        return
    if not array[0].flags.c_contiguous or array.strides[0] < array[0].nbytes:
        return
    start = np.frombuffer(mapped._mmap, dtype=np.uint8).ctypes.data
    offset, size = array.ctypes.data - start, array.dtype.itemsize
    first, last = offset + columns.start * size, offset + columns.stop * size
    for row in range(len(array)):
        begin = (first + row * array.strides[0]) // mmap.PAGESIZE * mmap.PAGESIZE
        mapped._mmap.madvise(mmap.MADV_WILLNEED, begin, last + row * array.strides[0] - begin)


def row_blocks(array: Any, n_bytes: int = 16 * 2**20) -> Iterator[Any]:
    """Consecutive slices of rows of about `n_bytes` each; none of an empty array.

    Pages of a memory-mapped array are released after each block; see `release`.

    Parameters
    ----------
    array : array or lazy sequence with ``shape``, ``dtype`` and slicing
    n_bytes : int
        A block has at least one row.
    """
    if not tuple(array.shape):
        yield array.reshape(1)
    else:
        for rows in row_slices(array, n_bytes // np.dtype(array.dtype).itemsize):
            yield array[rows]


def row_slices(array: Any, n_values: int = 2**20) -> Iterator[slice]:
    """`row_blocks` as slices, of about `n_values` values: by default, they fit a core's cache."""
    row_values = math.prod(array.shape[1:])
    n_rows = max(1, n_values // max(1, row_values))
    for start in range(0, array.shape[0] if row_values else 0, n_rows):
        yield slice(start, start + n_rows)
        release(array)


def blocks(n: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` (and at least 1) that cover ``range(n)``."""
    size = max(1, size)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def varies(mean: np.ndarray, sd: np.ndarray, *, constant: float = CONSTANT) -> np.ndarray:
    """Whether values with this mean and s.d. vary by more than round-off.

    Parameters
    ----------
    mean, sd : arrays of one shape
    constant : float
        Largest ratio of s.d. to mean that round-off explains; smaller for sums in float64.

    Returns
    -------
    array of bool; False where the s.d. or the mean is NaN

    Examples
    --------
    >>> varies(np.array([0.1, 0.1, 0.0]), np.array([1e-9, 0.5, 0.0])).tolist()
    [False, True, False]
    """
    return sd > constant * np.abs(mean)
