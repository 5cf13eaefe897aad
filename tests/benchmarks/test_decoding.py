"""The benchmark of decoding, on a small subject."""

import sys

import pandas as pd
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import decoding


def test_the_table_has_every_null(tmp_path, monkeypatch):
    small = ["--images", "160", "--train", "110", "--voxels", "60", "--pool-size", "30"]
    monkeypatch.setattr(sys, "argv", ["decoding.py", *small, "--out", str(tmp_path)])
    decoding.main()
    table = pd.read_csv(tmp_path / "decoding_retrieval.csv", na_values="–")
    scores = table[table["responses"] == decoding.AVERAGE].set_index(["decoder", "similarity"])
    chance = 100 / 30
    by_ratio = scores.loc[("ridge encoder, ratio", "ratio")]
    for column in ("image retrieval %", "brain retrieval %"):
        assert scores.loc[("ridge decoder", decoding.CENTRED), column] > 3 * chance
        assert by_ratio[column] > 3 * chance
        assert pd.isna(scores.loc[("training mean", decoding.CENTRED), column])
    permuted = scores.loc[("training images permuted, mean of 5", decoding.CENTRED)]
    low, high = permuted[["image retrieval % low", "image retrieval % high"]]
    assert low < chance < high
    nulls = {"training mean", "mean of all voxels", "ROI means", "category known"}
    assert nulls | {"repeats 1 and 2 against repeat 3"} <= set(table["decoder"])


def test_its_table_in_the_documentation_is_above_the_floors():
    table = pd.read_csv(REPOSITORY / "docs" / "results" / "decoding_retrieval.csv", na_values="–")
    scores = table[table["responses"] == decoding.AVERAGE].set_index(["decoder", "similarity"])
    scores = scores[["image retrieval %", "brain retrieval %"]]
    for row, floor in (
        (("ridge decoder", decoding.CENTRED), (57, 62)),
        (("ridge decoder", decoding.CSLS), (71, 73)),
        (("ridge encoder, ratio", "ratio"), (92, 60)),
        (("MindEyeDecoder, retrieval head", decoding.CENTRED), (76, 72)),
        (("MindEyeDecoder, retrieval head", decoding.CSLS), (84, 82)),
    ):
        assert (scores.loc[row].to_numpy() >= floor).all()
