"""Variables of MATLAB files of version 5 to 7: numbers, text, cells and structures.

SciPy's reader ends the whole process on some damaged files; here every size is compared with the
bytes that are there. The format is described in MathWorks' "MAT-File Format".
"""

import itertools
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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
#: Classes of others.
_CELLS, _STRUCTURES, _TEXT = 1, 2, 4
#: Cells within cells.
_DEEPEST = 20
#: A compressed array of more bytes is refused; NSD's largest takes a hundredth of that.
_LARGEST = 2**28


def read_numbers(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of real numbers by name; others in the file are skipped.

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
    found = read_variables(path, names)
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, np.ndarray) and value.dtype != object
    }


def read_variables(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Variables by name; others in the file are skipped.

    Parameters
    ----------
    path : Path
    names : sequence of str
        Those that are missing are left out.

    Returns
    -------
    dict of str to value
        Real numbers as an array; text as str, or a list of str for several rows; cells as an array
        of object; a structure as a dict of its fields, several as an array of dicts. Complex and
        sparse numbers, functions and objects are None.

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
    found: dict[str, Any] = {}
    try:
        for kind, body in _elements(memoryview(content)[_HEADER:], order):
            if kind == _COMPRESSED:
                ((kind, body),) = _elements(memoryview(_decompressed(body)), order)
            if kind != _MATRIX:
                raise ValueError(f"an element is of the unknown type {kind}")
            if (named := _variable(body, order, names)) is not None:
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


def _variable(
    body: memoryview, order: str, names: Sequence[str] | None, depth: int = 0
) -> tuple[str, Any] | None:
    """Name and value; None of a variable that is not among `names`."""
    if depth > _DEEPEST:
        raise ValueError(f"cells and structures are more than {_DEEPEST} deep")
    elements = _elements(body, order)
    parts = list(itertools.islice(elements, 3))  # the values of others stay unread
    if depth and not parts:  # how MATLAB stores an empty cell within a cell
        return "", np.empty((0, 0))
    if len(parts) < 3 or parts[0][0] != 6 or parts[1][0] != 5 or parts[2][0] != 1:
        raise ValueError("an array lacks its class, shape or name")
    flags = struct.unpack_from(f"{order}I", parts[0][1])[0]
    shape = tuple(np.frombuffer(parts[1][1], f"{order}i4").tolist())
    name = bytes(parts[2][1]).decode("ascii", "replace")
    if names is not None and name not in names:
        return None
    if min(shape, default=-1) < 0:
        raise ValueError(f"{name} has the shape {shape}")
    kind, is_complex = flags & 0xFF, bool(flags & 0x800)
    if kind in _NUMBERS and not is_complex:
        return name, _numbers(elements, order, kind, name, shape)
    if kind == _TEXT:
        return name, _text(elements, order, name, shape)
    if kind == _CELLS:
        return name, _several(list(elements), order, name, shape, depth)
    if kind == _STRUCTURES:
        return name, _structures(elements, order, name, shape, depth)
    return name, None


_Elements = Iterator[tuple[int, memoryview]]


def _numbers(
    elements: _Elements, order: str, of_class: int, name: str, shape: tuple[int, ...]
) -> np.ndarray:
    kind, values = next(elements, (0, memoryview(b"")))
    if kind not in _TYPES:
        raise ValueError(f"{name} has values of the unknown type {kind}")
    stored = np.dtype(f"{order}{_TYPES[kind]}")
    if math.prod(shape) * stored.itemsize != len(values):
        raise ValueError(f"{name} of shape {shape} has {len(values)} bytes of {stored}")
    # MATLAB stores numbers in a smaller type where they fit.
    numbers = np.frombuffer(values, stored).astype(_NUMBERS[of_class])
    return numbers.reshape(shape, order="F")


def _text(elements: _Elements, order: str, name: str, shape: tuple[int, ...]) -> str | list[str]:
    """A row of characters as str; several rows, which MATLAB pads with blanks, as a list."""
    kind, values = next(elements, (16, memoryview(b"")))
    encodings = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
    if kind not in encodings:
        raise ValueError(f"{name} has characters of the unknown type {kind}")
    ending = {"<": "-le", ">": "-be"}[order] if kind in (4, 17, 18) else ""
    characters = bytes(values).decode(encodings[kind] + ending, "replace")
    if len(shape) != 2 or math.prod(shape) != len(characters):
        raise ValueError(f"{name} of shape {shape} has {len(characters)} characters")
    rows = [characters[row :: shape[0]] for row in range(shape[0])]
    return rows[0] if len(rows) == 1 else rows if rows else ""


def _several(
    elements: list[tuple[int, memoryview]],
    order: str,
    name: str,
    shape: tuple[int, ...],
    depth: int,
) -> np.ndarray:
    """Cells of one array."""
    if len(elements) != math.prod(shape) or any(kind != _MATRIX for kind, _ in elements):
        raise ValueError(f"{name} of shape {shape} has {len(elements)} cells")
    cells = np.empty(len(elements), dtype=object)
    for i, (_, body) in enumerate(elements):
        inner = _variable(body, order, None, depth + 1)
        cells[i] = inner[1] if inner is not None else None
    return cells.reshape(shape, order="F")


def _structures(
    elements: _Elements, order: str, name: str, shape: tuple[int, ...], depth: int
) -> Any:
    (_, length), (_, names) = itertools.islice(elements, 2)
    n_letters = struct.unpack_from(f"{order}i", length)[0]
    if n_letters < 1 or len(names) % n_letters:
        raise ValueError(f"{name} has names of fields of {n_letters} letters")
    text = [bytes(names[i : i + n_letters]) for i in range(0, len(names), n_letters)]
    fields = [field.split(b"\0")[0].decode("ascii", "replace") for field in text]
    if not fields:
        return {}
    values = _several(list(elements), order, name, (len(fields), math.prod(shape)), depth)
    found = np.empty(math.prod(shape), dtype=object)
    for i in range(len(found)):
        found[i] = dict(zip(fields, values[:, i], strict=True))
    return found[0] if len(found) == 1 else found.reshape(shape, order="F")
