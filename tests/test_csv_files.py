import csv

import numpy as np
import pandas as pd
import pytest

from brainenc.csv_files import read_csv, write_csv

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
