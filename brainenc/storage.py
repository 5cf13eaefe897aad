"""Files that appear whole or not at all, and fingerprints of what is in them."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Temporary path that takes the final name only if the block ends well.

    What is written to the temporary path (a file or a folder) replaces `path` at the end
    of the block. If the block raises, the temporary is removed and `path` stays as it was;
    if the process is killed, `path` stays as it was and a hidden temporary is left beside it.

    Parameters
    ----------
    path : path
        Final name. Its parent folders are made.

    Yields
    ------
    pathlib.Path : where to write; on the same file system, not yet existing.

    Raises
    ------
    PermissionError : the parent folder cannot be written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(f"{path.parent} is a file, so {path} cannot be made in it") from None
    # Tested here so that hours of work are not done before the first write fails.
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(
            f"{path.parent} is read-only, so {path.name} cannot be written; choose another folder"
        )
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
            shutil.rmtree(aside)
        else:
            temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write `content` as indented JSON, atomically; NumPy scalars and arrays become plain values."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=_plain) + "\n")


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
        return json.loads(Path(path).read_text())
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
            for block in _blocks(part):
                digest.update(np.ascontiguousarray(block).view(np.uint8).data)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=_plain).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _blocks(array: np.ndarray, n_bytes: int = 64 * 2**20) -> Iterator[np.ndarray]:
    if array.size == 0:
        return
    if array.ndim == 0:
        yield array.reshape(1)
        return
    rows = max(1, n_bytes // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
