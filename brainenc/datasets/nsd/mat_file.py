"""Arrays of numbers in MATLAB files of version 5 to 7.

SciPy's reader ends the whole process on some damaged files; here every size is compared with the
bytes that are there. The format is described in MathWorks' "MAT-File Format".
"""

import itertools
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

#: Bytes before the first element: text, version, order of bytes.
_HEADER = 128
#: Kinds of elements.
_MATRIX, _COMPRESSED = 14, 15
#: Types of numbers, by their code in the file.
_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
#: Classes of arrays of numbers: double, single, and integers. The others are text, cells, ….
_NUMBERS = dict(
    zip(range(6, 16), ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"], strict=True)
)
#: A compressed array of more bytes is refused; NSD's largest takes a hundredth of that.
_LARGEST = 2**28


def read_numbers(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of real numbers by name; others in the file are passed over.

    Parameters
    ----------
    path : Path
    names : sequence of str
        Those that are missing, or hold something else than numbers, are left out.

    Returns
    -------
    dict of str to array

    Raises
    ------
    ValueError : no MATLAB file of these versions, or a damaged one; the message names it.
    """
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or content[124:126] not in (b"\0\1", b"\1\0"):
        newer = content.startswith(b"MATLAB 7.3")
        what = "of version 7.3: save it with -v7" if newer else "no MATLAB file of version 5 to 7"
        raise ValueError(f"{path} is {what}")
    found: dict[str, np.ndarray] = {}
    try:
        for kind, body in _elements(memoryview(content)[_HEADER:], order):
            if kind == _COMPRESSED:
                ((kind, body),) = _elements(memoryview(_decompressed(body)), order)
            if kind != _MATRIX:
                raise ValueError(f"an element is of the unknown type {kind}")
            if (named := _array(body, order, names)) is not None:
                found.update([named])
    except (ValueError, struct.error, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as a MATLAB file (truncated or damaged?): {error}"
        ) from None
    return found


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each element."""
    at = 0
    while at < len(content):
        kind, n_bytes = struct.unpack_from(f"{order}II", content, at)
        if kind >> 16:  # a small one: its length, its type, and up to four bytes
            kind, n_bytes, at, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if n_bytes > 4:
                raise ValueError(f"a small element has {n_bytes} bytes")
        else:
            at += 8
            # Compressed elements are the only ones that are not filled up to eight bytes.
            after = at + (n_bytes if kind == _COMPRESSED else 8 * math.ceil(n_bytes / 8))
        if at + n_bytes > len(content):
            raise ValueError(f"an element says {n_bytes} bytes, and {len(content) - at} follow")
        yield kind, content[at : at + n_bytes]
        at = after


def _decompressed(body: memoryview) -> bytes:
    stream = zlib.decompressobj()
    content = stream.decompress(body, _LARGEST)
    if not stream.eof:
        raise ValueError(f"a compressed array ends early, or takes more than {_LARGEST:,} bytes")
    return content


def _array(body: memoryview, order: str, names: Sequence[str]) -> tuple[str, np.ndarray] | None:
    """Name and values of an array of numbers; None for other ones."""
    elements = _elements(body, order)
    parts = list(itertools.islice(elements, 3))  # the values of others stay unread
    if len(parts) < 3 or parts[0][0] != 6 or parts[1][0] != 5 or parts[2][0] != 1:
        raise ValueError("an array lacks its class, shape or name")
    flags = struct.unpack_from(f"{order}I", parts[0][1])[0]
    name = bytes(parts[2][1]).decode("ascii", "replace")
    is_complex = bool(flags & 0x800)
    if name not in names or (flags & 0xFF) not in _NUMBERS or is_complex:
        return None
    shape = np.frombuffer(parts[1][1], f"{order}i4").tolist()
    kind, values = next(elements, (0, memoryview(b"")))
    if kind not in _TYPES:
        raise ValueError(f"{name} has values of the unknown type {kind}")
    stored = np.dtype(f"{order}{_TYPES[kind]}")
    if min(shape, default=-1) < 0 or math.prod(shape) * stored.itemsize != len(values):
        raise ValueError(f"{name} of shape {tuple(shape)} has {len(values)} bytes of {stored}")
    # MATLAB stores numbers in a smaller type where they fit.
    numbers = np.frombuffer(values, stored).astype(_NUMBERS[flags & 0xFF])
    return name, numbers.reshape(shape, order="F")
