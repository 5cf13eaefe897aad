"""Atomic writing of files, and fingerprints of contents."""

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from brainenc.arrays import row_blocks
from brainenc.temporaries import set_aside, temporary_beside


class NotWrittenError(OSError):
    """A file could not be written, for example because the disk is full; the message names it."""


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Temporary path that gets the final name only if the context succeeds.

    A file or folder written to the temporary path replaces `path` at the end of the context. If the
    context raises, the temporary is removed and `path` is unchanged; if the process is killed,
    `path` is unchanged, and the hidden temporary beside it is removed by the next writer in that
    folder. (Where the system cannot exchange two folders, one that is replaced is hidden beside
    `path` for an instant.) Of several processes that write to one path, the last one wins.

    Parameters
    ----------
    path : path
        Final name. Parent folders are created; a link is followed and stays a link.

    Yields
    ------
    pathlib.Path : where to write; on the same file system, not yet existing.

    Raises
    ------
    PermissionError : the parent folder cannot be written to.
    NotADirectoryError : there is a file where a parent folder should be.
    IsADirectoryError : a file was written, and `path` is a folder.
    NotWrittenError : the disk is full, or the system refuses to write for another reason; raised
        for the errors of the libraries that write, too.
    """
    path = Path(path).resolve()
    _make_writable_folder(path.parent)
    with temporary_beside(path) as temporary:
        try:
            yield temporary
            if temporary.is_dir() and not path.is_file():
                _replace_folder(temporary, path)
            else:
                if temporary.is_file():
                    check_file_path(path)
                temporary.replace(path)
        except Exception as error:
            # A file within the temporary folder is named by the folder that was asked for.
            named = isinstance(error, NotWrittenError) and str(temporary) not in str(error)
            if named or (number := _refused_by_system(error)) is None:
                raise
            raise NotWrittenError(
                number,
                f"{path} is not written ({os.strerror(number)}); what was there is unchanged",
            ) from error


#: What the system says when it cannot write, as opposed to a wrong path.
_REFUSALS = {
    number
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "ESTALE", "ENXIO", "ENODEV")
    if (number := getattr(errno, name, None)) is not None
}


def _refused_by_system(error: Exception) -> int | None:
    """Number of the system's error behind an error of writing; None if it is of another kind.

    safetensors, torch and HDF5 have errors of their own, which hold the system's in their text.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _REFUSALS else None
    if isinstance(error, ValueError | TypeError):
        return None
    text = str(error)
    if found := re.search(r"(?:os error|errno =|Errno) (\d+)", text):
        return int(found[1]) if int(found[1]) in _REFUSALS else None
    # torch and NumPy leave the number out.
    without = r"PytorchStreamWriter failed writing|unexpected pos|requested and \d+ written"
    return errno.ENOSPC if re.search(without, text) else None


def _replace_folder(temporary: Path, path: Path) -> None:
    """Rename a folder to `path`, where there may be one.

    Linux can exchange two folders in one call. Elsewhere the old one is renamed first, and put back
    if renaming the new one fails. Another process may do the same at the same time: then it is done
    again.
    """
    if _exchange(temporary, path):  # the old one has the temporary's name, and is removed with it
        return
    aside = set_aside(temporary)
    for _ in range(1000):
        with suppress(FileNotFoundError):  # another process has just set it aside
            path.rename(aside)
        try:
            temporary.rename(path)
        except OSError as error:
            with suppress(OSError):
                aside.rename(path)
            if path.is_dir():  # another process has put its own there
                shutil.rmtree(aside, ignore_errors=True)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            shutil.rmtree(aside, ignore_errors=True)  # the new one is in place: ignore errors
            return
    raise NotWrittenError(errno.EBUSY, f"{path} is being replaced by other processes all the time")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one call; False if one is missing or the system cannot do it."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux, or an old C library
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _make_writable_folder(folder: Path) -> None:
    # Tested at the start, since the first write may come after hours of work.
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
    """Check that a folder can be created and written to, without creating it.

    Called before long computations whose results go there.

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
    """Check that a path is not the name of an existing folder.

    Raises
    ------
    IsADirectoryError : it is a folder.
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
    ValueError : the file is not valid JSON (for example truncated), has a key twice, or text that
        is no Unicode; the message names it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=_without_twins)
        if "\\ud" in text.lower():
            # Half of a pair; names of files that are no UTF-8 are written so, and may be.
            json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except RecursionError:
        raise ValueError(f"{path} is not valid JSON (damaged?): nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON (truncated or damaged?): {error}") from None
    return content


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {max(names, key=names.count)!r} is there twice")
    return found


def file_checksum(path: str | os.PathLike) -> str:
    """CRC-32 of a file's content, 8 hexadecimal digits, as zip archives and PNG files have it.

    It finds damage by chance; a gigabyte takes less than a second.
    """
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


def file_record(path: str | os.PathLike) -> dict[str, Any]:
    """Size and checksum of a file, for `check_file`."""
    return {"bytes": os.path.getsize(path), "crc32": file_checksum(path)}


def check_file(path: str | os.PathLike, record: Any, *, content: bool = True) -> None:
    """Compare a file with its record.

    Parameters
    ----------
    path : path
    record : dict
        What `file_record` gave when the file was written.
    content : bool
        Read the file and compare the checksum; otherwise the size only.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : another size or checksum; the message names both.
    """
    try:
        size, checksum = int(record["bytes"]), str(record["crc32"])
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"the record of {path} is damaged: {record!r:.100}") from None
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} is missing")
    if (found := os.path.getsize(path)) != size:
        raise ValueError(
            f"{path} is truncated or was changed: it has {found:,} bytes, and had {size:,} when it "
            "was written"
        )
    if content and (now := file_checksum(path)) != checksum:
        raise ValueError(
            f"{path} is damaged or was changed: its checksum is {now}, and was {checksum} when it "
            "was written"
        )


def write_signed_json(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """`write_json` of a dict with its checksum, which `read_signed_json` compares."""
    plain = json.loads(json.dumps(content, default=_plain))
    write_json(path, {**plain, "checksum": fingerprint(plain)})


def read_signed_json(path: str | os.PathLike) -> dict[str, Any]:
    """A dict that `write_signed_json` wrote; one without a checksum as it is.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : no valid JSON, no dict, or it was changed after it was written.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(content).__name__} and no table")
    if "checksum" in content and content.pop("checksum") != fingerprint(content):
        raise ValueError(f"{path} is damaged: it was changed after it was written")
    return content


def fingerprint(*parts: Any) -> str:
    """Hash of arrays and JSON-like values: 32 hexadecimal digits, the same on every machine.

    Arrays enter with dtype, shape and content, read in blocks so that memory-mapped arrays are not
    fully loaded; other values enter as JSON text with sorted keys.
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
