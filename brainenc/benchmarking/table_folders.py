"""Folders of tables: results as CSV files beside a signed manifest, whole or refused."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd

from brainenc.csv_files import column_types, read_csv, read_typed_csv, write_csv
from brainenc.locks import exclusive
from brainenc.reading import reading
from brainenc.storage import (
    check_file,
    check_writable,
    file_record,
    read_json,
    read_signed_json,
    write_signed_json,
)

FORMAT_VERSION = 1

#: What a folder is, by the file that describes it.
CONTENTS = {
    "manifest.json": "a run of one subject",
    "pairs": "a run of one subject",
    "meta.json": "a data set",
    "model.json": "a saved encoder",
    "group.json": "a group",
    "curve.json": "a learning curve",
    "partition.json": "a variance partition",
    "layers.json": "a layer map",
    "decoding.json": "a decoding benchmark",
    "experiment.json": "an experiment",
    "selectivity.json": "a description of voxels",
}


def check_no_other(folder: Path, own: Sequence[str]) -> None:
    """Raise FileExistsError if a folder holds something that other files than these describe."""
    for name, content in CONTENTS.items():
        if name not in own and (folder / name).exists():
            raise FileExistsError(f"{folder} holds {content}; choose another folder")


def check_table_folder(folder: str | os.PathLike, description: str, tables: Sequence[str]) -> Path:
    """Folder for the tables of a result, which need not exist yet.

    Parameters
    ----------
    folder : path
    description : str
        Name of the file that describes them, a key of `CONTENTS`.
    tables : sequence of str
        Their names.

    Raises
    ------
    FileExistsError : it holds something else, or tables of something else.
    NotADirectoryError, PermissionError : it cannot be created or written to.
    """
    folder = Path(folder)
    check_no_other(folder, [description])
    taken = [name for name in tables if (folder / f"{name}.csv").exists()]
    if taken and not (folder / description).exists():
        raise FileExistsError(
            f"{folder} is not of {CONTENTS[description]} and holds {taken[0]}.csv, which would be "
            "replaced; choose another folder"
        )
    return check_writable(folder)


def save_tables(
    folder: str | os.PathLike,
    description: str,
    tables: Mapping[str, pd.DataFrame],
    manifest: Mapping[str, Any],
    warnings: Sequence[str],
) -> Path:
    """Write tables as CSV, each whole or not at all, and the file that describes them.

    Raises
    ------
    FileExistsError : the folder holds something else.
    """
    folder = check_table_folder(folder, description, list(tables))
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / ".lock", what=f"{folder}", way_out="try again", wait=-1):
        records = {}
        for name, table in tables.items():
            write_csv(folder / f"{name}.csv", table)
            records[f"{name}.csv"] = file_record(folder / f"{name}.csv")
        content = {
            "format": f"brainenc.{Path(description).stem}",
            "format_version": FORMAT_VERSION,
            "files": records,
            "columns": {name: column_types(table) for name, table in tables.items()},
            "manifest": manifest,
            "warnings": list(warnings),
        }
        write_signed_json(folder / description, content)
    return folder


def load_tables(
    folder: str | os.PathLike,
    description: str,
    tables: Sequence[str],
    texts: Sequence[str],
    *,
    verify: bool = True,
) -> dict[str, Any]:
    """Read what `save_tables` wrote: tables by name, ``manifest`` and ``warnings``.

    Columns have the types with which they were written; in folders from before these were kept,
    `texts` are the columns of text. `verify` compares the files with their checksums; without it
    tables may have been changed by hand, and are read by `texts` too.

    Raises
    ------
    FileNotFoundError : nothing of this kind was saved there, or a table is missing.
    ValueError : of a newer version, damaged, or changed.
    """
    folder, what = Path(folder), CONTENTS[description]
    path = folder / description
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; is {folder} the folder of {what}?")
    content = read_signed_json(path) if verify else read_json(path)
    with reading(path, f"the manifest of {what}"):
        newer = content["format_version"] > FORMAT_VERSION
        records, manifest = dict(content["files"]), dict(content["manifest"])
        warnings = list(content["warnings"])
        types = dict(content.get("columns", {})) if verify else {}
    if newer:
        raise ValueError(f"{folder} was written by a newer brainenc; upgrade brainenc")
    found: dict[str, Any] = {"manifest": manifest, "warnings": warnings}
    for table in tables:
        file = folder / f"{table}.csv"
        if verify:
            check_file(file, records.get(file.name))
        with reading(file, "a table"):
            found[table] = (
                read_typed_csv(file, types[table])
                if table in types
                else read_csv(file, texts=texts)
            )
    return found


class TableResult:
    """A result that is kept as a folder of tables: a dataclass of them, a manifest and warnings."""

    #: Name of the file that describes the folder, a key of `CONTENTS`; tables; columns of text.
    _description: ClassVar[str]
    _tables: ClassVar[tuple[str, ...]]
    _texts: ClassVar[tuple[str, ...]]

    manifest: dict[str, Any]
    warnings: list[str]

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the tables as CSV and the manifest as JSON into a folder.

        Raises
        ------
        FileExistsError : the folder holds something else.
        """
        tables = {name: getattr(self, name) for name in self._tables}
        return save_tables(folder, self._description, tables, self.manifest, self.warnings)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError : no result of this kind was saved there, or a table is missing.
        ValueError : of a newer version, damaged, or changed.
        """
        return cls(**load_tables(folder, cls._description, cls._tables, cls._texts))
