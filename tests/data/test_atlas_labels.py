"""Label tables, and codes that they name or do not."""

import numpy as np
import pandas as pd
import pytest

from brainenc.data.atlas_labels import labelled, read_labels
from brainenc.data.atlases import atlas_name

TABLE = {0: "Unknown", 1: "V1", 2: "V2", 12: "hV4"}


def test_tables_of_every_kind_give_the_same_names(tmp_path):
    lut = "#$Id: a comment\n#No. Label Name:  R G B A\n\n0   Unknown  0 0 0 0\n1\tV1 1 2 3 0\n"
    (tmp_path / "lut.txt").write_text(lut + "  2  V2 9 9 9 0  # note\n12 hV4 0 0 0 0\n")
    bids = pd.DataFrame({"index": list(TABLE), "name": list(TABLE.values()), "color": "#fff"})
    bids.to_csv(tmp_path / "labels.tsv", sep="\t", index=False)
    bids.rename(columns={"name": "Label", "index": "Value"}).to_csv(
        tmp_path / "labels.csv", index=False
    )
    files = [tmp_path / "lut.txt", tmp_path / "labels.tsv", str(tmp_path / "labels.csv")]
    for source in (TABLE, {str(code): name for code, name in TABLE.items()}, bids, *files):
        assert read_labels(source) == TABLE


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ({1.5: "V1"}, "has the code 1.5: codes of labels are whole numbers"),
        ({"V1": 1}, "has the code 'V1'"),
        (pd.DataFrame({"index": [1, 1], "name": ["V1", "V2"]}), "the code 1 two names, 'V1' and"),
        (pd.DataFrame({"number": [1], "name": ["V1"]}), "has the columns .*'number'"),
    ],
)
def test_tables_with_two_meanings_are_refused(source, match):
    with pytest.raises(ValueError, match=match):
        read_labels(source)


def test_files_that_are_no_tables_are_named(tmp_path):
    (tmp_path / "a.ctab").write_text("1\n2 V2\n")
    with pytest.raises(ValueError, match=r"a\.ctab has a line without a name: '1'"):
        read_labels(tmp_path / "a.ctab")
    (tmp_path / "b.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"b\.txt has no labels"):
        read_labels(tmp_path / "b.txt")
    (tmp_path / "c.tsv").write_text("index\tname\tname\n1\tV1\tV1\n")
    with pytest.raises(ValueError, match=r"c\.tsv has two columns of the name 'name'"):
        read_labels(tmp_path / "c.tsv")
    with pytest.raises(FileNotFoundError):
        read_labels(tmp_path / "absent.ctab")
    with pytest.raises(TypeError, match="must be a dict of code to name"):
        read_labels(3)


CODES = np.array([0, 1, 1, 12, -1, 2])
NAMED = [None, "V1", "V1", "hV4", None, "V2"]


@pytest.mark.parametrize("dtype", [np.int16, np.float32, ">i4"])
def test_codes_are_named_or_keep_their_digits(dtype):
    labels, named = labelled(CODES.astype(dtype), TABLE, "a")
    assert (labels.tolist(), named) == (NAMED, True)
    labels, named = labelled(CODES.astype(dtype), None, "a")
    assert (labels.tolist(), named) == ([None, "1", "1", "12", None, "2"], False)


def test_other_values_are_labels_as_they_are():
    assert labelled(np.array(["V1", "", "V2"]), None, "a")[0].tolist() == ["V1", None, "V2"]
    assert labelled(np.array([True, False]), None, "V1")[0].tolist() == ["V1", None]
    assert labelled(np.array([np.nan, 1]), TABLE, "a")[0].tolist() == [None, "V1"]
    # A code of 0 is outside, unless the table gives it a name of its own.
    assert labelled(np.array([0, 1]), {0: "V1", 1: "V2"}, "a")[0].tolist() == ["V1", "V2"]
    assert labelled(np.array([0, 1]), {0: "???", 1: "V2"}, "a")[0].tolist() == [None, "V2"]


def test_what_a_table_lacks_or_names_twice_is_said():
    with pytest.raises(ValueError, match=r"atlas 'a' has no name for the codes \[2, 12\] of 2 vox"):
        labelled(CODES, {1: "V1"}, "a")
    with pytest.raises(ValueError, match=r"gives the name 'V1' to the codes \[1, 2\]: give each"):
        labelled(CODES, {1: "V1", 2: "V1", 12: "hV4"}, "a")
    # A name given twice harms none if only one of its codes is there.
    assert labelled(np.array([1]), {1: "V1", 2: "V1"}, "a")[0].tolist() == ["V1"]
    with pytest.raises(ValueError, match=r"values such as 0.5 between whole numbers"):
        labelled(np.array([0.5, 1]), TABLE, "a")


def test_names_of_files_name_atlases():
    names = {
        "lh.Wang2015.annot": "lh.Wang2015",
        "sub-01_space-T1w_atlas-Glasser_dseg.nii.gz": "Glasser",
        "sub-01_seg-aparc_dseg.nii": "aparc",
        "streams.nii.gz": "streams",
        "Schaefer.dlabel.nii": "Schaefer",
        "my_rois.nii.gz": "my_rois",
    }
    assert {path: atlas_name(f"folder/{path}") for path in names} == names
