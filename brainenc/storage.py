"""Files that appear whole or not at all, and fingerprints of what is in them."""

import hashlib
import json
import math
import mmap
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Temporary path that takes the final name only if the block ends well.

    What is written to the temporary path (a file or a folder) replaces `path` at the end
    of the block. If the block raises, the temporary is removed and `path` stays as it was;
    if the process is killed, `path` stays as it was and a hidden temporary is left beside it.
    (A folder that is replaced is renamed first: for that instant it is beside `path`, hidden.)

    Parameters
    ----------
    path : path
        Final name. Its parent folders are made; a link is followed, so that it stays a link.

    Yields
    ------
    pathlib.Path : where to write; on the same file system, not yet existing.

    Raises
    ------
    PermissionError : the parent folder cannot be written to.
    NotADirectoryError : there is a file where a parent folder should be.
    IsADirectoryError : a file was written, and `path` is a folder.
    """
    path = Path(path).resolve()
    _make_writable_folder(path.parent)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            # A folder cannot be replaced in one call: the old one steps aside first, and
            # comes back if the new one cannot take its place.
            aside = temporary.with_suffix(".old")
            path.rename(aside)
            try:
                temporary.rename(path)
            except OSError:
                aside.rename(path)
                raise
            shutil.rmtree(aside, ignore_errors=True)  # the new one is in place: no reason to fail
        else:
            if temporary.is_file():
                check_file_path(path)
            temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _make_writable_folder(folder: Path) -> None:
    # Tested before the block so that hours of work are not done before the first write fails.
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(
            f"{folder} cannot be a folder: there is a file of that name on the way; "
            "choose another folder"
        ) from None
    except OSError as error:
        raise PermissionError(f"{folder} cannot be made ({error}); choose another folder") from None
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} is read-only; choose another folder")


def check_writable(folder: str | os.PathLike) -> Path:
    """Test that a folder can be made and written to, making nothing yet.

    Asked before hours of work are done for what goes there.

    Raises
    ------
    NotADirectoryError : there is a file of that name, or on the way.
    PermissionError : the folder, or the one it would be made in, is read-only.
    """
    folder = Path(folder)
    nearest = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"{nearest} is a file, so {folder} cannot be a folder")
    if not os.access(nearest, os.W_OK):
        raise PermissionError(f"{nearest} is read-only, so {folder} cannot be written to")
    return folder


def check_file_path(path: str | os.PathLike) -> Path:
    """Test that a file can have this name, which a folder may have already.

    Raises
    ------
    IsADirectoryError : it has.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, but a file is to be written: give its name")
    return path


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write `content` as indented JSON, atomically; NumPy values become plain ones."""
    text = json.dumps(content, indent=1, default=_plain) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be written as JSON")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : the file is not valid JSON (truncated, say); the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON (truncated or damaged?): {error}") from None


def fingerprint(*parts: Any) -> str:
    """Hash of arrays and JSON-like values: 32 hexadecimal digits, the same on every machine.

    Arrays count with dtype, shape and content, read in blocks so that memory-mapped arrays
    are not loaded whole; everything else counts by its JSON text with sorted keys.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            for block in row_blocks(part):
                digest.update(np.ascontiguousarray(block).view(np.uint8).data)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=_plain).encode())
        digest.update(b"\0")
    return digest.hexdigest()


@contextmanager
def array_file(
    path: str | os.PathLike, shape: tuple[int, ...], dtype: DTypeLike
) -> Iterator[Callable[[np.ndarray], Any]]:
    """A ``.npy`` file to be written some rows at a time, so that it may be larger than memory.

    Plain writes and not a memory map: a full disk raises OSError, where a map kills the process.

    Parameters
    ----------
    path : path
    shape : tuple of int
        Of the whole array.
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


def take_rows(array: Any, rows: np.ndarray, scratch: Path, n_bytes: int = 2**30) -> Any:
    """``array[rows]``, which of a memory-mapped array goes to disk where it would fill the memory.

    Parameters
    ----------
    array : array or lazy sequence
    rows : array of int
    scratch : path
        Folder for the file; it is there for as long as the rows are wanted.
    n_bytes : int
        What is larger goes to disk.

    Returns
    -------
    array, in memory or memory-mapped; of a lazy sequence, what its indexing gives
    """
    too_large = isinstance(array, np.ndarray) and len(rows) * array[:1].nbytes > n_bytes
    if not too_large or _map_of(array) is None:
        return array[rows]
    path = scratch / f"{uuid.uuid4().hex[:12]}.npy"
    write_array(path, Rows(array, rows))
    return np.load(path, mmap_mode="r")


def take_columns(array: np.ndarray, columns: Any, rows: Any = None) -> np.ndarray:
    """``array[rows][..., columns]`` in memory, of a memory map no more than that.

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
    plain = np.asarray(array)  # single rows of a memory map are slow to make
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
    """Rows of an array as a lazy array: they are read when some of them are asked for.

    Parameters
    ----------
    array : array
        May be memory-mapped; its pages are let go after each reading.
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


def release(array: Any) -> None:
    """Let go of the pages that have been read of a memory-mapped array; of others, nothing.

    They stay in the system's cache, so reading them again costs little, but they no longer count
    as memory of this process: a pass over a file needs no more than a block of it.

    Parameters
    ----------
    array : array, or a view of one
    """
    mapped = _map_of(array)
    # A map that keeps changes to itself would lose them.
    if mapped is not None and mapped.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        mapped._mmap.madvise(mmap.MADV_DONTNEED)


def row_blocks(array: Any, n_bytes: int = 16 * 2**20) -> Iterator[Any]:
    """Consecutive slices of rows of about `n_bytes` each; nothing of an empty array.

    Pages of a memory-mapped array are let go as it is walked through; see `release`.

    Parameters
    ----------
    array : array or lazy sequence with ``shape``, ``dtype`` and slicing
    n_bytes : int
        A block holds one row at least.
    """
    if not tuple(array.shape):
        yield array.reshape(1)
    else:
        for rows in row_slices(array, n_bytes // np.dtype(array.dtype).itemsize):
            yield array[rows]


def row_slices(array: Any, n_values: int = 2**20) -> Iterator[slice]:
    """`row_blocks` as slices, of about `n_values` numbers: few enough for the cache of a core."""
    row_values = math.prod(array.shape[1:])
    n_rows = max(1, n_values // max(1, row_values))
    for start in range(0, array.shape[0] if row_values else 0, n_rows):
        yield slice(start, start + n_rows)
        release(array)
