"""The benchmark of synthetic responses through a decoder, on a small subject."""

import sys

import pandas as pd
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import through_decoder

from brainenc.analysis.through_decoder import MEASURED, PSEUDO_INVERSE, RANDOM


def test_it_writes_its_tables(tmp_path, monkeypatch):
    small = ["--images", "120", "--train", "80", "--voxels", "30", "--pool", "40"]
    monkeypatch.setattr(sys, "argv", ["through_decoder.py", *small, "--out", str(tmp_path)])
    ridge = {"ridge encoder": through_decoder.ENCODERS["ridge encoder"]}
    monkeypatch.setattr(through_decoder, "ENCODERS", ridge)
    through_decoder.main()
    table = pd.read_csv(tmp_path / "through_decoder_table.csv")
    assert "SynBrain, four subjects, 40 h: syn (published)" in set(table["responses"])
    scores = pd.read_csv(tmp_path / "through_decoder_scores.csv")
    assert {MEASURED, PSEUDO_INVERSE, RANDOM, "ridge encoder, one draw"} <= set(scores["responses"])


def test_the_table_in_the_documentation_has_what_its_page_says():
    table = pd.read_csv(REPOSITORY / "docs" / "results" / "through_decoder_scores.csv")
    rows = table[table["similarity"] == "centred"].set_index("responses")
    for name in (PSEUDO_INVERSE, RANDOM):
        assert rows.loc[name, ["image_retrieval", "brain_retrieval"]].min() > 0.99
        assert abs(rows.loc[name, "voxel_r"]) < 0.05
    assert rows.loc["ridge encoder", "image_retrieval_above_measured"] > 0.3
