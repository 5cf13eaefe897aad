"""The benchmark of augmentation, on a small subject."""

import sys

import pandas as pd
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import augmentation


def test_it_writes_its_table_and_report(tmp_path, monkeypatch):
    small = ["--images", "160", "--voxels", "30", "--real", "20", "--test", "10"]
    more = ["--ratio", "1", "--replicates", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["augmentation.py", *small, *more])
    augmentation.main()
    table = pd.read_csv(tmp_path / "augmentation_gains.csv")
    assert "real trials of the new images" in set(table["condition"])
    assert (tmp_path / "augmentation_report.txt").read_text().startswith("20 synthetic trials")
