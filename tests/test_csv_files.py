import csv
import json

import numpy as np
import pandas as pd
import pytest

from brainenc.csv_files import column_types, read_csv, read_typed_csv, write_csv

#: Names that a spreadsheet would run, and others that are hard to keep.
NAMES = [
    "=1+1", "=cmd|' /C calc'!A0", "+ridge", "-ridge", "@SUM(A1)", "\t=1", "'=1", "''@x",
    "'quoted'", "-", "ridge", "a,b", 'a"b', "a\nb", "a\r\nb", "\r=1", "NA", "nan", "None",
    "01", "1e3", "é模型🧠", "\u202eabc", "</script>", "$x_1$", "'", " =1", "\udcff.npz",
]  # fmt: skip


@pytest.fixture
def written(tmp_path):
    table = pd.DataFrame({"encoder": NAMES, "r": np.linspace(-1, 1, len(NAMES))})
    write_csv(tmp_path / "table.csv", table)
    return tmp_path / "table.csv", table


def test_names_come_back_exactly(written):
    path, table = written
    pd.testing.assert_frame_equal(read_csv(path, texts=["encoder"]), table)


def test_no_cell_of_text_is_a_formula(written):
    path, _ = written
    text = path.read_bytes().decode("utf-8", errors="surrogatepass")
    rows = list(csv.reader(text.splitlines(keepends=True)))[1:]
    cells = [row[0] for row in rows]
    assert [cell for cell in cells if len(cell) > 1 and cell[0] in "=+-@\t\r"] == []
    # Numbers stay numbers, negative ones too.
    np.testing.assert_allclose([float(row[1]) for row in rows], np.linspace(-1, 1, len(NAMES)))


def test_headings_are_protected_too(tmp_path):
    table = pd.DataFrame({"=cmd()": [1.0], "roi": ["V1"], 7: [2]})
    write_csv(tmp_path / "table.csv", table)
    assert (tmp_path / "table.csv").read_text().splitlines()[0] == "'=cmd(),roi,7"
    assert list(read_csv(tmp_path / "table.csv")) == ["=cmd()", "roi", "7"]


def test_a_table_without_such_text_is_written_as_by_pandas(tmp_path):
    table = pd.DataFrame({"encoder": ["mean", "ridge"], "r": [np.nan, -0.25], "n": [3, 4]})
    table["roi"] = pd.Categorical(["V1", None])
    write_csv(tmp_path / "ours.csv", table)
    assert (tmp_path / "ours.csv").read_text() == table.to_csv(index=False)


def test_a_typed_table_comes_back_cell_by_cell(tmp_path):
    cells = [1, 10, "1", "-x", "", None, np.nan, 2.5, np.inf, True, "NA", "nan", np.int64(3)]
    table = pd.DataFrame(
        {
            "mixed": pd.Series(cells, dtype=object),
            "text": pd.Series(["01", "02", None, ""] + ["1"] * 9, dtype=object),
            "=codes": ["01", "2"] + ["3"] * 11,
            "single": np.linspace(0, 1, 13, dtype=np.float32) / 3,
            "double": np.random.default_rng(0).standard_normal(13) / 3,
            "flag": np.arange(13) % 2 == 0,
            "whole": pd.Series([1, None] * 6 + [2], dtype="Int64"),
            "short": np.arange(13, dtype=np.int16),
            "group": pd.Categorical(["a", "b"] * 6 + ["a"]),
        }
    )
    write_csv(tmp_path / "table.csv", table)
    types = json.loads(json.dumps(column_types(table)))
    found = read_typed_csv(tmp_path / "table.csv", types)
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    for name in ("mixed", "text"):
        for ours, theirs in zip(found[name], table[name], strict=True):
            kind = int if isinstance(theirs, np.integer) else type(theirs)
            assert type(ours) is kind
            assert ours == theirs or ours is None or ours != ours
    with pytest.raises(ValueError, match="it has 13 rows, and was written with 12"):
        read_typed_csv(tmp_path / "table.csv", [{**types[0], "cells": [["text", 12]]}, *types[1:]])
    with pytest.raises(ValueError, match="it has the columns"):
        read_typed_csv(tmp_path / "table.csv", types[:3])
