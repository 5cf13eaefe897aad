"""Reading files of other programs and damaged files: sizes and errors, in one place.

What a file says of itself is not believed: sizes in a header are compared with the file before
memory is taken, and an error of a library becomes a ValueError that names the file.
"""

import errno
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

Result = TypeVar("Result")

#: Contents of a compressed file may fill this many bytes without a further check, …
FREE_BYTES = 2**30
#: … and above that at most so many times the file. Betas and photographs reach 1 to 20.
LARGEST_RATIO = 100
#: So many times smaller than its contents a file of gzip is at most.
GZIP_RATIO = 1032

_OF_THE_SYSTEM = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


@contextmanager
def reading(path: str | os.PathLike, kind: str = "a file") -> Iterator[None]:
    """Errors of a library within the context, as a ValueError that names the file.

    Parameters
    ----------
    path : path
        The file that is read.
    kind : str
        What it should be, with its article, for the message.

    Raises
    ------
    FileNotFoundError, PermissionError and other errors of the system : as they are.
    ValueError : any other error. One that names the file already is kept.

    Examples
    --------
    >>> with reading("labels.json", "JSON"):
    ...     raise KeyError("name")
    Traceback (most recent call last):
    ValueError: labels.json cannot be read as JSON (truncated or damaged?): KeyError: 'name'
    """
    try:
        yield
    except (ImportError, TypeError) as error:
        # A missing library, and values of a wrong kind that the caller has named.
        if isinstance(error, TypeError) and str(path) not in str(error):
            raise unreadable(path, kind, error) from error
        raise
    except OSError as error:
        # Of the system, or of brainenc; HDF5's and gzip's own have neither a kind nor a number, and
        # a position that a damaged file asks for is an invalid argument.
        of_a_library = error.errno is None and type(error) not in _OF_THE_SYSTEM
        if of_a_library or error.errno == errno.EINVAL:
            raise unreadable(path, kind, error) from error
        if error.errno is None or error.filename is not None:
            raise
        # Such as an input/output error of the disk, which does not say where.
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise unreadable(path, kind, error) from error
    except Exception as error:  # libraries raise what they like, MemoryError included
        raise unreadable(path, kind, error) from error


def unreadable(path: str | os.PathLike, kind: str, error: BaseException) -> ValueError:
    """The ValueError that `reading` raises in place of another error."""
    text = " ".join(str(error).split())[:300]
    named = isinstance(error, ValueError | OSError) and text
    reason = text if named else f"{type(error).__name__}: {text}".removesuffix(": ")
    return ValueError(f"{path} cannot be read as {kind} (truncated or damaged?): {reason}")


def check_claim(path: str | os.PathLike, n_bytes: int, *, compressed: bool = False) -> None:
    """Check that a file can hold as many bytes as it says, before memory is taken for them.

    Parameters
    ----------
    path : path
    n_bytes : int
        Size of the contents, from a header.
    compressed : bool
        Whether they are compressed in the file.

    Raises
    ------
    ValueError : the file is too small for the contents; or they are larger than 1 GiB and than 100
        times the file.
    """
    size = os.path.getsize(path)
    if n_bytes < 0:
        raise ValueError(f"{path} is damaged: its header has a negative size")
    if not compressed and n_bytes > size:
        raise ValueError(
            f"{path} is truncated or damaged: its header says {n_bytes:,} bytes of values, and the "
            f"file has {size:,}"
        )
    if compressed and str(path).endswith((".gz", ".mgz")) and n_bytes > GZIP_RATIO * size:
        raise ValueError(
            f"{path} is truncated or damaged: its header says {n_bytes:,} bytes of values, which "
            f"gzip cannot have written as {size:,}"
        )
    if n_bytes > max(FREE_BYTES, LARGEST_RATIO * size):
        raise ValueError(
            f"{path} has {size:,} bytes, and its header says {n_bytes:,} bytes of values, more "
            f"than {LARGEST_RATIO} times as many: damaged? If it is meant, write the file without "
            "compression"
        )


def read_whole(folder: Path, read: Callable[[], Result]) -> Result:
    """What `read` gives of a folder, from one version of it.

    Another process may replace the folder while its files are opened one after the other: then
    they are read again.

    Parameters
    ----------
    folder : pathlib.Path
    read : function
        Opens or reads all files of the folder.

    Raises
    ------
    ValueError : the folder is replaced again and again.
    Exception : what `read` raises, of a folder that stays.
    """
    for _ in range(100):
        before = _version(folder)
        try:
            found = read()
        except (OSError, ValueError):
            if _version(folder) == before:
                raise
        else:
            if _version(folder) == before:
                return found
    raise ValueError(f"{folder} is being replaced by another process all the time")


def _version(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


# ------------------------------------------------------------------ arrays of NumPy


def array_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Header of a ``.npy`` file; the file is then at the first value.

    Returns
    -------
    shape : tuple of int
    fortran_order : bool
    dtype : numpy.dtype

    Raises
    ------
    ValueError : no header of an array of plain values.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the .npy format is not one of arrays of numbers")
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran_order, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects (dtype object): save numbers, or labels as text")
    if any(n < 0 for n in shape) or (dtype.itemsize == 0 and np.dtype(dtype).kind not in "US"):
        raise ValueError(f"its header says shape {shape} and dtype {dtype}")
    return shape, fortran_order, dtype


def n_bytes_of(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Bytes of an array, without overflow."""
    n_values = 1
    for n in shape:
        n_values *= int(n)
    return n_values * max(1, dtype.itemsize)


def read_array(path: str | os.PathLike, *, mapped: bool = False) -> np.ndarray:
    """Array of a ``.npy`` file, its size compared with the file before it is read.

    Parameters
    ----------
    path : path
    mapped : bool
        Memory-map it, read-only.

    Returns
    -------
    array

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : no ``.npy`` file, truncated, or of Python objects; the message names the file.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> with TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/mask.npy", np.array([True, False]))
    ...     read_array(f"{folder}/mask.npy").tolist()
    [True, False]
    """
    with reading(path, "a .npy file"):
        with open(path, "rb") as file:
            shape, _, dtype = array_header(file)
            present = os.path.getsize(path) - file.tell()
        if (wanted := n_bytes_of(shape, dtype)) > present:
            raise ValueError(
                f"{path} is truncated: its header says {shape} of {dtype}, {wanted:,} bytes, and "
                f"{present:,} follow"
            )
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Arrays of an ``.npz`` file by name, in memory; checksums of the archive are verified.

    Parameters
    ----------
    path : path

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : damaged, encrypted, of Python objects, with a name twice, or compressed to less
        than a hundredth of more than 1 GiB; the message names the file.
    """
    with reading(path, "an .npz file"), open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(set(names)) < len(names):
            raise ValueError(f"it has two entries of one name among {names}")
        check_claim(path, sum(entry.file_size for entry in entries), compressed=True)
        for entry in entries:  # of those with another name, too: a name has no checksum
            archive.open(entry).close()
        return {
            entry.filename.removesuffix(".npy"): _member(archive, entry, path)
            for entry in entries
            if entry.filename.endswith(".npy")
        }


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Any) -> np.ndarray:
    if entry.flag_bits & 1:
        raise ValueError(f"its entry {entry.filename} is encrypted")
    if entry.compress_type == zipfile.ZIP_STORED:
        check_claim(path, entry.file_size)
    with archive.open(entry) as member:
        try:
            shape, _, dtype = array_header(member)  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"its entry {entry.filename}: {error}") from None
        header = member.tell()
        wanted, present = n_bytes_of(shape, dtype), entry.file_size - header
        if wanted != present and dtype.itemsize:
            raise ValueError(
                f"its entry {entry.filename} says {shape} of {dtype}, {wanted:,} bytes, and has "
                f"{present:,}"
            )
        member.seek(0)
        # Read to the end, where zipfile compares the checksum.
        return np.lib.format.read_array(member, allow_pickle=False)


def check_archive(path: str | os.PathLike) -> None:
    """Check the checksums of all records of a zip archive as `torch.save` writes it.

    torch does not verify them.

    Raises
    ------
    ValueError : no zip archive, compressed records, or damage; the message does not name the file.
    """
    with open(path, "rb") as file:
        try:
            archive = zipfile.ZipFile(file)
            # A mapped file must not be compressed, and nothing else checks it for lost blocks.
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            damaged = archive.testzip() if stored else None
        except Exception as error:  # for broken headers zipfile raises what comes up
            raise ValueError(
                f"it is not the zip archive that torch.save writes ({error}); truncated, or a "
                "file of another kind?"
            ) from None
    if not stored:
        raise ValueError("its records are compressed, which torch.save does not do")
    if damaged:
        raise ValueError(f"it is damaged: the checksum of its record {damaged} is wrong")
