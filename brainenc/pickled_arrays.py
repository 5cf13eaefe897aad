"""Dictionaries of arrays in ``.npy`` files that NumPy pickled, read without running their code.

``np.save(path, {"betas": array})`` pickles the dict, and ``np.load(path, allow_pickle=True)`` runs
whatever such a file says. Here the few things that a dict of arrays is made of are built by hand,
everything else is refused, and large arrays stay on disk, memory-mapped. The stream is described in
Python's ``pickletools``; the state of an array in NumPy's ``ndarray.__reduce__``.
"""

import math
import os
import pickle
import struct
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from brainenc.reading import reading

#: Bytes of an array from which on it is mapped.
_MAPPED = 2**20

#: Kinds of values of arrays; "O" are lists of others.
_KINDS = "biufcSUO"


class _Span:
    """Bytes that are left in the file."""

    def __init__(self, offset: int, size: int):
        self.offset, self.size = offset, size

    def __len__(self) -> int:
        return self.size


class _Kind:
    """A dtype in the making: its order of bytes comes after it."""

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, (str, bytes)):
            raise pickle.UnpicklingError(f"a dtype is {code!r:.60}")
        self.dtype = np.dtype(code if isinstance(code, str) else code.decode("ascii"))
        if self.dtype.kind not in _KINDS:
            raise pickle.UnpicklingError(f"it holds {self.dtype}, and no plain numbers or text")

    def __setstate__(self, state: tuple) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if state[2] is not None:
            raise pickle.UnpicklingError("it holds arrays of several fields")
        if order in ("<", ">"):
            self.dtype = np.dtype(order + self.dtype.str[1:])


class _Array:
    """An array in the making: shape, dtype and values come after it."""

    def __init__(self, *_: Any):
        self.state: tuple | None = None

    def __setstate__(self, state: tuple) -> None:
        self.state = state


class _Scalar:
    """One number, with the dtype that it has."""

    def __init__(self, kind: Any, value: Any = b""):
        self.kind, self.value = kind, value


def _encoded(text: str, codec: str) -> bytes:
    """Bytes, as protocol 2 writes them."""
    if codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it has bytes in the encoding {codec!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Empty bytes, as protocol 2 writes them."""
    return b""


def _from_buffer(values: Any, kind: Any, shape: Any, order: str) -> _Array:
    """An array, as protocol 5 writes it."""
    array = _Array()
    array.state = (1, shape, kind, order == "F", values)
    return array


_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")

#: What a dict of arrays is made of. `ndarray` is only an argument of `_reconstruct`.
_PARTS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    **{(module, "_reconstruct"): _Array for module in _MODULES},
    **{(module, "scalar"): _Scalar for module in _MODULES},
    **{(module, "_frombuffer"): _from_buffer for module in _NUMERIC},
}


#: The unpickler in Python, whose steps can be replaced; that in C cannot pass over bytes.
_Unpickler: Any = pickle._Unpickler


class _Reader(_Unpickler):
    """Builds the parts of a dict of arrays, and nothing else."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def __init__(self, file: BinaryIO, size: int):
        super().__init__(file, encoding="latin1")
        self._opened, self._file_size = file, size

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PARTS:
            raise pickle.UnpicklingError(
                f"it holds the Python object {module}.{name}, and only dicts, lists, numbers, text "
                "and arrays are read, as other objects may run code"
            )
        return _PARTS[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects elsewhere")

    def _bytes(self, n: int) -> Any:
        """The next bytes; large ones are passed over."""
        if n > self._file_size:
            raise pickle.UnpicklingError(f"it says {n:,} bytes, and has {self._file_size:,}")
        in_frame = self._unframer.current_frame is not None
        if n < _MAPPED or in_frame:
            return self.read(n)
        span = _Span(self._opened.tell(), n)
        if span.offset + n > self._file_size:
            raise pickle.UnpicklingError("it ends within an array")
        self._opened.seek(n, os.SEEK_CUR)
        return span

    def load_binbytes(self) -> None:
        self.append(self._bytes(struct.unpack("<I", self.read(4))[0]))

    def load_binbytes8(self) -> None:
        self.append(self._bytes(struct.unpack("<Q", self.read(8))[0]))

    dispatch[pickle.BINBYTES[0]] = load_binbytes
    dispatch[pickle.BINBYTES8[0]] = load_binbytes8
    dispatch[pickle.BYTEARRAY8[0]] = load_binbytes8


def read_dict(path: str | os.PathLike) -> dict[str, Any]:
    """Dict of a ``.npy`` file that ``np.save(path, dict)`` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict
        Arrays of 1 MiB and more are memory-mapped, read-only. Arrays of objects are so, too.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : no such file of a dict, damaged, or with other Python objects, none of which is
        made; the message names the file.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> with TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/out.npy", {"R2": np.array([1.5, 2.0]), "pcnum": 3})
    ...     read_dict(f"{folder}/out.npy")["R2"].tolist()
    [1.5, 2.0]
    """
    path = Path(path)
    with reading(path, "a .npy file of a dict"), path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"version {version} of the .npy format is not known")
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        if dtype.kind != "O" or shape != ():
            raise ValueError(f"it holds an array {shape} of {dtype}, and no dict")
        built = _built(_Reader(file, os.path.getsize(path)).load(), path)
    # NumPy pickles an array of no dimensions around the dict.
    found = built.item() if isinstance(built, np.ndarray) and built.shape == () else built
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, and no dict")
    return found


def _built(value: Any, path: Path) -> Any:
    """Parts put together, within dicts and lists."""
    if isinstance(value, dict):
        return {key: _built(one, path) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_built(one, path) for one in value)
    if isinstance(value, _Kind):
        return value.dtype
    if isinstance(value, _Scalar):
        dtype = value.kind.dtype
        if dtype.kind == "O":
            return _built(value.value, path)
        return np.frombuffer(value.value, dtype, 1)[0]
    return _array(value, path) if isinstance(value, _Array) else value


def _array(value: _Array, path: Path) -> np.ndarray:
    if value.state is None:
        raise ValueError("an array lacks its values")
    *_, shape, kind, in_columns, values = value.state
    dtype, order = kind.dtype, "F" if in_columns else "C"
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"an array has the shape {shape}")
    n_values = math.prod(shape)
    if dtype.kind == "O":
        if not isinstance(values, list) or len(values) != n_values:
            raise ValueError(f"an array of objects of shape {shape} lacks values")
        objects = np.empty(n_values, dtype=object)
        for i, one in enumerate(values):
            objects[i] = _built(one, path)
        return objects.reshape(shape, order=order)  # type: ignore[call-overload]
    if isinstance(values, str):  # of Python 2
        values = values.encode("latin1")
    if len(values) != n_values * dtype.itemsize:
        raise ValueError(
            f"an array of shape {shape} and {dtype} has {len(values):,} bytes, and not "
            f"{n_values * dtype.itemsize:,}"
        )
    if isinstance(values, _Span):
        return np.memmap(path, dtype, "r", values.offset, shape, order)  # type: ignore[call-overload]
    return np.frombuffer(values, dtype).reshape(shape, order=order)  # type: ignore[call-overload]
