"""bdata: the format of Kamitani Lab's data, a table with a description of every column.

A file holds a table of samples (rows) by columns, among them voxels, labels and numbers of runs.
Each item of its metadata has a name and one value per column: ROI_V1 is 1 for the voxels of V1 and
NaN elsewhere, voxel_x has the x of every voxel. A value map, if there is one, gives the text that a
number stands for.

The format is described by the readers and writers of BdPy and BrainDecoderToolbox2
(github.com/KamitaniLab); this module shares no code with them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from brainenc.datasets.mat_file import read_variables
from brainenc.reading import check_claim, n_bytes_of, reading

#: Names of the table and of its metadata; those with capitals are of older files.
_TABLE, _METADATA = ("dataset", "dataSet"), ("metadata", "metaData")


@dataclass(frozen=True, eq=False)
class BData:
    """Contents of a bdata file.

    Attributes
    ----------
    dataset : array, shape (n_samples, n_columns)
    metadata : dict of str to array, shape (n_columns,)
        NaN where an item has no value for a column.
    labels : dict of str to dict of float to str
        Text of the numbers in some columns, by the name of these columns.
    path : str
        The file, for messages.
    """

    dataset: np.ndarray
    metadata: Mapping[str, np.ndarray]
    labels: Mapping[str, Mapping[float, str]] = field(default_factory=dict)
    path: str = "bdata"

    def is_column(self, name: str) -> np.ndarray:
        """Mask of the columns that a name marks with 1.

        Parameters
        ----------
        name : str
            Such as "VoxelData", "ROI_V1" or "Run".

        Returns
        -------
        array of bool, shape (n_columns,)

        Raises
        ------
        ValueError : no such name.
        """
        if name not in self.metadata:
            raise ValueError(f"{self.path} has no {name!r}, but {list(self.metadata)}")
        return self.metadata[name] == 1

    def select(self, name: str) -> np.ndarray:
        """Columns that a name marks with 1.

        Returns
        -------
        array, shape (n_samples, n_marked)

        Raises
        ------
        ValueError : as `is_column`.
        """
        return self.dataset[:, self.is_column(name)]

    def one_column(self, name: str) -> np.ndarray:
        """The column of a name that marks one.

        Returns
        -------
        array, shape (n_samples,)

        Raises
        ------
        ValueError : as `is_column`, or the name marks none or several.
        """
        columns = self.select(name)
        if columns.shape[1] != 1:
            raise ValueError(f"{self.path} has {columns.shape[1]} columns {name!r}, not one")
        return columns[:, 0]

    def text(self, name: str) -> np.ndarray:
        """The column of a name as text, by its value map.

        Returns
        -------
        array of object, shape (n_samples,): str, or None where the column is NaN

        Raises
        ------
        ValueError : as `one_column`, or numbers without a text.
        """
        known = self.labels.get(name, {})
        numbers = self.one_column(name)
        if unknown := set(numbers[np.isfinite(numbers)].tolist()) - set(known):
            raise ValueError(f"{self.path} has no text for {sorted(unknown)[:3]} of {name!r}")
        found = np.empty(len(numbers), dtype=object)
        found[:] = [known.get(number) for number in numbers.tolist()]
        return found


def read_bdata(path: str | os.PathLike) -> BData:
    """A bdata file; BdPy is not needed.

    Parameters
    ----------
    path : path
        ``.h5`` (HDF5) or ``.mat`` (MATLAB, version 5 to 7), of BdPy or BrainDecoderToolbox2.

    Returns
    -------
    BData

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : another ending, no bdata, or a damaged file; the message names it.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import h5py
    >>> with TemporaryDirectory() as folder:
    ...     with h5py.File(f"{folder}/a.h5", "w") as file:
    ...         file["dataset"] = [[1.0, 0.5], [2.0, 0.7]]
    ...         file["metadata/key"] = ["Run", "ROI_V1"]
    ...         file["metadata/value"] = [[1, np.nan], [np.nan, 1]]
    ...     read_bdata(f"{folder}/a.h5").select("ROI_V1").tolist()
    [[0.5], [0.7]]
    """
    path = Path(path)
    readers = {".h5": _read_hdf5, ".hdf5": _read_hdf5, ".mat": _read_matlab}
    if path.suffix not in readers:
        raise ValueError(f"{path} must end in .h5 or .mat, as files of bdata do")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    with reading(path, "bdata"):
        dataset, keys, values, labels = readers[path.suffix](path)
    if dataset.ndim != 2 or values.shape != (len(keys), dataset.shape[1]):
        raise ValueError(
            f"{path} has a table of shape {dataset.shape}, and metadata of shape {values.shape} "
            f"for {len(keys)} names: it must be (names, columns of the table)"
        )
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise ValueError(f"{path} has the names {sorted(twice)} twice")
    return BData(dataset, dict(zip(keys, values, strict=True)), labels, str(path))


def _read_hdf5(path: Path) -> tuple[np.ndarray, list[str], np.ndarray, dict]:
    import h5py

    with h5py.File(path, "r") as file:
        table, metadata = _named(file, _TABLE, path), _named(file, _METADATA, path)
        if not isinstance(table, h5py.Dataset) or not {"key", "value"} <= set(metadata):
            raise ValueError(f"{path} has no table, or metadata without key and value")
        for stored in (table, metadata["value"]):
            check_claim(path, n_bytes_of(stored.shape, stored.dtype), compressed=True)
        keys = [_decoded(key) for key in np.ravel(metadata["key"][()]).tolist()]
        labels = {
            name: {float(number): _decoded(text[()]) for number, text in of_name.items()}
            for name, of_name in file.get("vmap", {}).items()
        }
        values = np.asarray(metadata["value"][()], dtype=np.float64)
        return np.asarray(table[()], dtype=np.float64), keys, values, labels


def _read_matlab(path: Path) -> tuple[np.ndarray, list[str], np.ndarray, dict]:
    found = read_variables(path, [*_TABLE, *_METADATA])
    table, metadata = _named(found, _TABLE, path), _named(found, _METADATA, path)
    if not isinstance(metadata, dict) or not {"key", "value"} <= set(metadata):
        raise ValueError(f"{path} has metadata without key and value")
    keys, values = metadata["key"], metadata["value"]
    keys = [keys] if isinstance(keys, str) else np.ravel(np.asarray(keys, dtype=object)).tolist()
    for content in (table, values):
        if not isinstance(content, np.ndarray) or content.dtype == object:
            raise ValueError(f"{path} holds no table of numbers")
    return (
        table.astype(np.float64),
        [str(key).strip() for key in keys],
        np.atleast_2d(values).astype(np.float64),
        {},
    )


def _named(contents: Any, names: tuple[str, ...], path: Path) -> Any:
    for name in names:
        if name in contents:
            return contents[name]
    raise ValueError(f"{path} has no {' or '.join(names)}, but {list(contents)}: it is no bdata")


def _decoded(text: Any) -> str:
    return text.decode("utf-8") if isinstance(text, bytes) else str(text)
