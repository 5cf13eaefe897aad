"""Arrays in ``.npy`` files with a checksum at the end, which is compared when they are read.

NumPy reads such a file as any other. For files of our own that a later run reads back: stored
features, what a stopped training or conversion goes on with.
"""

import io
import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from brainenc.reading import array_header, n_bytes_of, read_array, reading

#: Before the checksum. The end has 27 bytes: an odd number, which no longer array would fill.
_MARK = b"\nbrainenc checksum "
_LENGTH = len(_MARK) + 8
_BLOCK = 2**20


def seal(path: str | os.PathLike, identity: str = "") -> None:
    """Append the checksum to a complete ``.npy`` file.

    Parameters
    ----------
    path : path
    identity : str
        What the array is of: a file that was put in the place of another is found.
    """
    checksum = _checksum(path, os.path.getsize(path), identity)
    with open(path, "ab") as file:
        file.write(_MARK + _as_text(checksum))


def save_sealed(path: str | os.PathLike, array: np.ndarray, identity: str = "") -> None:
    """Write an array in memory with its checksum."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    end = _MARK + _as_text(zlib.crc32(content, zlib.crc32(identity.encode())))
    Path(path).write_bytes(content + end)


def read_sealed(
    path: str | os.PathLike,
    identity: str = "",
    *,
    dtype: DTypeLike,
    mapped: bool = False,
    unsealed: bool = False,
) -> np.ndarray:
    """Array of a file that `save_sealed` wrote, or `seal` completed.

    Parameters
    ----------
    path : path
    identity : str
        As when it was written.
    dtype : dtype
        Of the array.
    mapped : bool
        Memory-map it, read-only; it is read once for the checksum.
    unsealed : bool
        Accept a file without a checksum, of a version before there were any.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : damaged, of another array, or of another dtype; the message names the file.
    """
    with reading(path, "a .npy file"):
        if mapped:
            with open(path, "rb") as file:
                file.seek(max(0, os.path.getsize(path) - _LENGTH))
                end = file.read()
            if sealed := end.startswith(_MARK):
                found = _checksum(path, os.path.getsize(path) - _LENGTH, identity)
        else:
            whole = Path(path).read_bytes()
            end = whole[-_LENGTH:]
            if sealed := end.startswith(_MARK):
                found = zlib.crc32(memoryview(whole)[:-_LENGTH], zlib.crc32(identity.encode()))
        if sealed and end[len(_MARK) :] != _as_text(found):
            raise ValueError("its checksum is wrong")
        if not (sealed or unsealed):
            raise ValueError("it has no checksum at its end")
        if mapped:
            array = read_array(path, mapped=True)
            size = os.path.getsize(path) - array.offset if isinstance(array, np.memmap) else 0
        else:
            content = io.BytesIO(whole)
            shape, stored = array_header(content)
            size = len(whole) - content.tell()
            if n_bytes_of(shape, stored) > size:
                raise ValueError("it ends early")
            content.seek(0)
            array = np.lib.format.read_array(content, allow_pickle=False)
        if size != array.nbytes + _LENGTH * sealed:
            raise ValueError("its header does not fit its size")
        if array.dtype != np.dtype(dtype):
            raise ValueError(f"it holds {array.dtype}, and {np.dtype(dtype)} is wanted")
    return array


def _checksum(path: str | os.PathLike, n_bytes: int, identity: str) -> int:
    checksum = zlib.crc32(identity.encode())
    with open(path, "rb") as file:
        while n_bytes > 0 and (block := file.read(min(_BLOCK, n_bytes))):
            checksum = zlib.crc32(block, checksum)
            n_bytes -= len(block)
    return checksum


def _as_text(checksum: int) -> bytes:
    return f"{checksum:08x}".encode()
