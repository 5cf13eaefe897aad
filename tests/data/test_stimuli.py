"""The table of stimuli goes where the images go."""

import json

import numpy as np
import pandas as pd
import pytest

from brainenc.data.encoding_data import EncodingData
from brainenc.data.npz import load_npz
from brainenc.data.stimuli import stimuli_of_images

N = 6
TABLE = pd.DataFrame(
    {
        "name": ["=a.png", "b.png", "NA", "d.png", "007", "f.png"],
        "category": ["face", "house", "face", None, "tool", "face"],
        "size": np.arange(6.0) / 3,
        "number": np.arange(6),
    }
)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
    betas = rng.standard_normal((N, 3, 4)).astype(np.float32)
    return EncodingData(images, betas, stimuli=TABLE)


def same(found, expected):
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_column_type=False)


def test_it_goes_through_subsets_averages_and_splits(data):
    same(data.stimuli, TABLE)
    order = [4, 0, 3]
    same(data.select(images=order).stimuli, TABLE.iloc[order].reset_index(drop=True))
    same(data.select(voxels=[0, 1]).average_repeats().stimuli, TABLE)
    train, test = data.train_test([1, 5])
    assert test.stimuli["name"].tolist() == ["b.png", "f.png"]
    assert train.stimuli["number"].tolist() == [0, 2, 3, 4]


def test_it_is_saved_and_loaded(data, tmp_path):
    loaded = EncodingData.load(data.save(tmp_path / "a.brain"), verify=True)
    assert loaded.stimuli["name"].tolist() == TABLE["name"].tolist()
    assert loaded.stimuli["category"].isna().tolist() == TABLE["category"].isna().tolist()
    np.testing.assert_array_equal(loaded.stimuli["size"], TABLE["size"])
    assert loaded.stimuli["number"].dtype == TABLE["number"].dtype
    text = (tmp_path / "a.brain" / "stimuli.csv").read_text()
    assert "'=a.png" in text  # a spreadsheet runs nothing
    (tmp_path / "a.brain" / "stimuli.csv").write_text(text.replace("house", "mouse"))
    with pytest.raises(ValueError, match=r"stimuli\.csv is damaged or was changed"):
        EncodingData.load(tmp_path / "a.brain")


def test_folders_without_it_are_those_of_older_versions(data, tmp_path):
    plain = EncodingData(data.images, data.betas)
    assert plain.stimuli.shape == (N, 0)
    folder = plain.save(tmp_path / "a.brain")
    assert not (folder / "stimuli.csv").exists()
    assert json.loads((folder / "meta.json").read_text())["format_version"] == 2
    assert EncodingData.load(folder).stimuli.shape == (N, 0)
    with_table = json.loads((data.save(tmp_path / "b.brain") / "meta.json").read_text())
    assert with_table["format_version"] == 3


def test_npz_files_hold_its_columns(data, tmp_path):
    np.savez(
        tmp_path / "a.npz", images=data.images, betas=data.betas,
        stimuli_name=TABLE["name"].to_numpy(dtype=str), stimuli_size=TABLE["size"],
    )  # fmt: skip
    loaded = load_npz(tmp_path / "a.npz")
    assert loaded.stimuli["name"].tolist() == TABLE["name"].tolist()
    np.testing.assert_array_equal(loaded.stimuli["size"], TABLE["size"])
    np.savez(tmp_path / "b.npz", images=data.images, betas=data.betas, stimuli_name=["a", "b"])
    with pytest.raises(ValueError, match=r"stimuli_name has shape \(2,\)"):
        load_npz(tmp_path / "b.npz")


def test_from_trials_matches_rows_by_name(data):
    names = ["x", "y", "z"]
    images = dict(zip(names, data.images[:3], strict=True))
    ids = ["z", "x", "z", "x"]
    table = pd.DataFrame({"stimulus": ["z", "y", "x"], "category": ["Z", "Y", "X"]})
    made = EncodingData.from_trials(images, data.betas[:4, 0], ids, stimuli=table)
    assert made.stimuli["category"].tolist() == ["X", "Z"]
    assert made.stimuli["name"].tolist() == ["x", "z"]
    plain = EncodingData.from_trials(images, data.betas[:4, 0], ids)
    assert plain.stimuli["name"].tolist() == ["x", "z"]
    by_row = EncodingData.from_trials(data.images[:3], data.betas[:4, 0], [2, 0, 2, 0],
                                      stimuli=table)  # fmt: skip
    assert by_row.stimuli["category"].tolist() == ["Z", "X"]


def test_rows_are_as_many_as_images(data):
    with pytest.raises(ValueError, match="stimuli has 5 rows, but there are 6 images"):
        EncodingData(data.images, data.betas, stimuli=TABLE[:5])
    with pytest.raises(TypeError, match=r"stimuli must be a pandas\.DataFrame"):
        EncodingData(data.images, data.betas, stimuli=["a"] * 6)
    with pytest.raises(ValueError, match="stimuli has an index"):
        EncodingData(data.images, data.betas, stimuli=TABLE[::-1])


def test_files_of_tables_are_read_as_bids_has_them(tmp_path):
    (tmp_path / "a.tsv").write_text("stim_file\tcategory\nb.png\tn/a\na.png\tNA\n")
    table = stimuli_of_images(tmp_path / "a.tsv", 2, ["x/a.png", "x/b.png"])
    assert table["category"].isna().tolist() == [False, True]
    assert table["category"][0] == "NA"
    assert table["name"].tolist() == ["a.png", "b.png"]
    with pytest.warns(UserWarning, match="stimuli has 1 rows of pictures that are not among"):
        assert len(stimuli_of_images(tmp_path / "a.tsv", 1, ["x/a.png"])) == 1


def test_results_carry_it(data, tmp_path):
    import brainenc

    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    table = pd.DataFrame({"name": [f"{i:03d}" for i in range(30)], "size": np.arange(30) / 7})
    data = EncodingData(images, rng.standard_normal((30, 2, 3)), stimuli=table)
    options = {"n_bootstraps": 5, "n_permutations": 5, "n_draws": 0, "controls": False}
    result = brainenc.benchmark(
        data, {"mean": brainenc.MeanEncoder()}, cv=2, check=False, verbose=False, **options
    )
    same(result.stimuli, table)
    loaded = type(result).load(result.save(tmp_path / "run"))
    assert loaded.stimuli["name"].tolist() == table["name"].tolist()
    np.testing.assert_array_equal(loaded.stimuli["size"], table["size"])
    plain = brainenc.benchmark(
        EncodingData(images, data.betas), {"mean": brainenc.MeanEncoder()}, cv=2, check=False,
        verbose=False, **options,
    )  # fmt: skip
    plain.save(tmp_path / "plain")
    assert not (tmp_path / "plain" / "stimuli.csv").exists()
    assert type(plain).load(tmp_path / "plain").stimuli.shape[1] == 0
