"""Tables, labels and ids as users have them: from MATLAB, FreeSurfer, pandas and HDF5."""

import warnings

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.io import loadmat, savemat

from brainenc import EncodingData, ImageFiles, load_npz
from brainenc.conversion import column, text_labels
from brainenc.data.image_ids import image_positions, names_of
from brainenc.data.tables import plain_table

N, N_VOXELS = 10, 6
LABELS = ["V1", "V1", None, "V2", "V2", None]
ROIS = {"V1": [0, 1], "V2": [3, 4]}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (N, 8, 8), dtype=np.uint8)


@pytest.fixture
def betas():
    return np.random.default_rng(1).standard_normal((N, 3, N_VOXELS))


def rois_of(data, atlas=None):
    return {label: at.tolist() for label, at in data.rois(atlas).items()}


def from_matlab(values, folder):
    savemat(folder / "a.mat", {"a": values})
    return loadmat(folder / "a.mat")["a"]


def cells(values, folder):
    """A cell array (n, 1) of text, with empty cells, as SciPy reads it."""
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = ["" if value is None else value for value in values]
    return from_matlab(array, folder)


def from_hdf5(values, folder):
    with h5py.File(folder / "a.hdf5", "w") as file:
        file["a"] = ["" if value is None else value for value in values]
    with h5py.File(folder / "a.hdf5") as file:
        return file["a"][:]  # bytes in an array of objects


# ------------------------------------------------------------------ labels

LABEL_KINDS = {
    "list": lambda v, f: v,
    "text": lambda v, f: np.array(["" if x is None else x for x in v]),
    "bytes": lambda v, f: np.array([b"" if x is None else x.encode() for x in v]),
    "NaN": lambda v, f: [np.nan if x is None else x for x in v],
    "pd.NA": lambda v, f: pd.array(v, dtype="string"),
    "category": lambda v, f: pd.Categorical(v),
    "cells": lambda v, f: [cell for (cell,) in cells(v, f)],
    "hdf5": from_hdf5,
    "numpy text": lambda v, f: np.array([None if x is None else np.str_(x) for x in v], object),
}


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_labels_of_every_kind_are_the_same_rois(images, betas, tmp_path, kind):
    voxels = pd.DataFrame({"visual": LABEL_KINDS[kind](LABELS, tmp_path)})
    data = EncodingData(images, betas, voxels)
    assert data.atlases == ["visual"]
    assert rois_of(data) == ROIS
    np.testing.assert_array_equal(data.select(roi="V2").betas, betas[:, :, [3, 4]])
    loaded = EncodingData.load(data.save(tmp_path / "data.brain"))
    assert rois_of(loaded) == ROIS


def test_boolean_columns_are_overlapping_rois_behind_the_atlases(images, betas, tmp_path):
    voxels = pd.DataFrame(
        {
            "FFA": np.array([1, 1, 0, 0, 0, 0], bool),
            "faces": pd.array([True, True, True, False, None, False], dtype="boolean"),
            "words": [None, True, False, True, np.nan, False],
            "visual": LABELS,
        }
    )
    data = EncodingData(images, betas, voxels)
    for some in (data, EncodingData.load(data.save(tmp_path / "data.brain"))):
        assert some.atlases == ["visual", "FFA", "faces", "words"]
        assert rois_of(some) == ROIS  # the first atlas, as without columns of bool
        assert rois_of(some, "faces") == {"faces": [0, 1, 2]}
        np.testing.assert_array_equal(some.select(roi="FFA").betas, betas[:, :, [0, 1]])
        several = some.select(roi=["words", "V2", "faces"])
        np.testing.assert_array_equal(several.betas, betas[:, :, [0, 1, 2, 3, 4]])


def test_an_roi_of_several_atlases_is_asked_for(images, betas):
    voxels = pd.DataFrame({"a": LABELS, "b": ["x", "", "", "", "", "x"], "c": ["x"] + [""] * 5})
    data = EncodingData(images, betas, voxels)
    with pytest.raises(ValueError, match=r"'x' is in the atlases \['b', 'c'\].*atlas="):
        data.select(roi="x")
    assert data.select(roi="x", atlas="c").n_voxels == 1


@pytest.mark.parametrize(
    "codes",
    [
        np.array([1, 1, 2, 2, 0, 0]),
        np.array([1, 1, 2, 2, np.nan, np.nan]),
        pd.array([1, 1, 2, 2, None, None], dtype="Int64"),
        np.array([1, 1, 2, 2, None, None], dtype=object),
        np.array([1, 1, 2, 2, 0, 0], dtype=">i2"),
    ],
)
def test_codes_become_labels_of_their_digits_with_a_word(images, betas, codes):
    voxels = pd.DataFrame({"visual": codes})
    with pytest.warns(UserWarning, match=r"columns \['visual'\] of voxels are whole numbers.*map"):
        data = EncodingData(images, betas, voxels)
    assert data.atlases == ["visual"]
    assert rois_of(data) == {"1": [0, 1], "2": [2, 3]}
    assert data.select(roi=1).n_voxels == 2
    # The ways out that the message names.
    named = voxels["visual"].map({1: "V1", 2: "V2"})
    assert rois_of(EncodingData(images, betas, named.to_frame())) == {"V1": [0, 1], "V2": [2, 3]}
    counted = voxels.rename(columns={"visual": "n_visual"})
    assert EncodingData(images, betas, counted).atlases == []


def test_codes_survive_files_and_subsets(images, betas, tmp_path):
    with pytest.warns(UserWarning, match="codes of ROIs"):
        data = EncodingData(images, betas, pd.DataFrame({"glasser": [12, 12, 3, 180, 0, -1]}))
    expected = {"12": [0, 1], "3": [2], "180": [3]}
    assert rois_of(data) == expected
    assert rois_of(EncodingData.load(data.save(tmp_path / "coded.brain"))) == expected
    assert data.select(roi="12").n_voxels == 2


def test_codes_in_a_folder_of_an_older_version_become_labels(images, betas, tmp_path):
    folder = EncodingData(images, betas, pd.DataFrame({"n_a": [1, 1, 12, 0, 0, 12]})).save(
        tmp_path / "a.brain"
    )
    for name in ("voxels.csv", "meta.json"):
        path = folder / name
        path.write_text(path.read_text().replace("n_a", "visual"))
    with pytest.warns(UserWarning, match=r"columns \['visual'\] of voxels are whole numbers"):
        data = EncodingData.load(folder, verify=False)
    assert rois_of(data) == {"1": [0, 1], "12": [2, 5]}


@pytest.mark.parametrize(
    "values",
    [np.arange(6), np.array([-40, -40, 12, 12, 3, 5]), np.array([2.0, 1, 4, 3, 5, np.nan])],
    ids=["running numbers", "millimetres", "all differ"],
)
def test_whole_numbers_that_are_no_codes_are_said(images, betas, values):
    with pytest.warns(UserWarning, match=r"columns \['what'\] of voxels name no ROI.*n_"):
        data = EncodingData(images, betas, pd.DataFrame({"what": values}))
    assert data.atlases == []
    np.testing.assert_array_equal(data.voxels["what"], values)


def test_measures_and_counts_are_no_codes(images, betas):
    measures = pd.DataFrame(
        {
            "r2": np.linspace(0, 1, 6),
            "n_sessions": 4,
            "n_days": [2.0, 2, 2, 3, 3, np.nan],
            "glmsingle_HRFindex": [1, 1, 2, 2, 3, 3],
            "empty": np.nan,
            "ncsnr": 1,
            "vertex": 3,
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert EncodingData(images, betas, measures).atlases == []


def test_the_text_nan_is_a_label_with_a_word(images, betas):
    voxels = pd.DataFrame({"visual": np.array(["V1", "V1", np.nan, "V2", "V2", ""])})
    with pytest.warns(UserWarning, match=r"\['visual'\] of voxels have an ROI of the name 'nan'"):
        data = EncodingData(images, betas, voxels)
    assert list(data.rois()) == ["V1", "nan", "V2"]


def test_dates_and_complex_numbers_are_no_columns_of_voxels(images, betas):
    dates = pd.DataFrame({"visit": pd.date_range("2020", periods=6)})
    with pytest.warns(UserWarning, match="'visit'.*name no ROI"):
        assert EncodingData(images, betas, dates).atlases == []
    with pytest.raises(TypeError, match=r"voxels\['phase'\] has complex numbers"):
        EncodingData(images, betas, pd.DataFrame({"phase": np.ones(6) * 1j}))
    with pytest.raises(TypeError, match=r"voxels\['ncsnr'\] must be numeric"):
        EncodingData(images, betas, pd.DataFrame({"ncsnr": ["high"] * 6}))


# ------------------------------------------------------------------ tables


def test_numbers_as_column_names_become_text(images, betas, tmp_path):
    voxels = pd.DataFrame(np.array([["V1", "lateral"]] * 3 + [["V2", "ventral"]] * 3))
    data = EncodingData(images, betas, voxels)
    assert data.atlases == ["0", "1"]
    assert "0: 2 ROIs, 1: 2 ROIs" in repr(data)
    assert rois_of(data, "1") == {"lateral": [0, 1, 2], "ventral": [3, 4, 5]}
    assert data.select(roi="ventral").n_voxels == 3
    assert EncodingData.load(data.save(tmp_path / "a.brain")).atlases == ["0", "1"]
    twice = pd.DataFrame([["V1", "V1"]] * 6, columns=[1, "1"])
    with pytest.raises(ValueError, match=r"several columns of the name \['1'\]"):
        EncodingData(images, betas, twice)
    levels = pd.DataFrame({("a", "b"): LABELS})
    with pytest.raises(ValueError, match="several levels"):
        EncodingData(images, betas, levels)


def test_the_callers_table_is_as_it_was(images, betas):
    voxels = pd.DataFrame({0: LABELS, "b": np.arange(6).astype(">i4") / 2}, index=range(6))
    before = voxels.copy(deep=True)
    EncodingData(images, betas, voxels)
    pd.testing.assert_frame_equal(voxels, before)


@pytest.mark.parametrize("table", [{"visual": LABELS}, np.zeros((6, 2)), "voxels.csv"])
def test_what_is_no_table_is_refused(images, betas, table):
    with pytest.raises(TypeError, match=r"voxels must be a pandas\.DataFrame"):
        EncodingData(images, betas, table)


def test_columns_of_freesurfer_are_native(images, betas, tmp_path):
    values = np.random.default_rng(0).random((N_VOXELS, 1, 1)).astype("f4")
    nib.save(nib.MGHImage(values, np.eye(4)), tmp_path / "ncsnr.mgz")
    image = nib.load(tmp_path / "ncsnr.mgz")
    ncsnr = np.asarray(image.dataobj).ravel()
    assert not ncsnr.dtype.isnative
    voxels = pd.DataFrame({"ncsnr": ncsnr, "roi": ["V1"] * 4 + ["V2"] * 2})
    voxels["vertex"] = np.arange(6).astype(">i4")
    data = EncodingData(images, betas, voxels).select(roi="V2")
    assert all(dtype.isnative for dtype in data.voxels[["ncsnr", "vertex"]].dtypes)
    np.testing.assert_array_equal(data.voxels["ncsnr"], values.ravel()[4:])
    data.average_repeats().to_csv(ncsnr[4:], tmp_path / "a.csv")


def test_trial_tables_of_matlab_and_of_nullable_columns(images, betas):
    image, repeat = np.indices((N, 3)).reshape(2, -1)
    right = pd.DataFrame({"image": image, "repeat": repeat, "session": image % 2})
    session = pd.array(image % 2, dtype="Int64")
    expected = EncodingData(images, betas, trials=right).zscore_by_session()
    for given in (
        right.astype(float),
        right.astype(">i4"),
        right.convert_dtypes(),
        right.assign(session=session).set_index(np.arange(30)[::-1]),
        right.sample(frac=1, random_state=0),  # rows name their trials: their order is free
    ):
        data = EncodingData(images, betas, trials=given)
        assert data.trials["image"].dtype.kind in "iu"
        np.testing.assert_allclose(data.zscore_by_session().betas, expected.betas)
    with pytest.raises(TypeError, match=r"trials\['image'\] must be integer positions"):
        EncodingData(images, betas, trials=right.assign(image=image + 0.5))
    missing = right.assign(session=pd.array([*session[1:], None], dtype="Int64"))
    with pytest.raises(ValueError, match="1 of 30 trials have no session"):
        EncodingData(images, betas, trials=missing).zscore_by_session()


def test_plain_tables_leave_text_alone():
    table = pd.DataFrame({"a": ["NA", "None", "nan", "", "01"], "b": [1, 2, 3, 4, 5]})
    pd.testing.assert_frame_equal(plain_table(table, "voxels"), table)


# ------------------------------------------------------------------ columns of trials

COLUMN_KINDS = {
    "column": lambda v, f: v[:, None],
    "row": lambda v, f: v[None],
    "matlab": lambda v, f: from_matlab(v[:, None].astype(float), f),
    "float": lambda v, f: v.astype(float),
    "uint8": lambda v, f: v.astype(np.uint8),
    "big-endian": lambda v, f: v.astype(">i2"),
    "nullable": lambda v, f: pd.Series(v, dtype="Int64"),
    "object": lambda v, f: v.astype(object),
    "category": lambda v, f: pd.Categorical(v),
    "tensor": lambda v, f: torch.from_numpy(v),
    "cells": lambda v, f: from_matlab(v[:, None].astype(object), f),
    "DataFrame": lambda v, f: pd.DataFrame({"a": v}),
    "masked": lambda v, f: np.ma.masked_array(v),
}


@pytest.mark.parametrize("kind", COLUMN_KINDS)
def test_ids_sessions_and_runs_of_every_kind(images, tmp_path, kind):
    rng = np.random.default_rng(0)
    ids, session = rng.permutation(np.repeat(np.arange(N), 3)), np.repeat([1, 2, 3], N)
    betas = rng.standard_normal((30, 4))
    right = EncodingData.from_trials(images, betas, ids, session=session, run=session + 7)
    as_kind = COLUMN_KINDS[kind]
    found = EncodingData.from_trials(
        images,
        betas,
        as_kind(ids, tmp_path),
        session=as_kind(session, tmp_path),
        run=as_kind(session + 7, tmp_path),
    )
    np.testing.assert_array_equal(found.betas, right.betas)
    for name in ("image", "repeat", "trial", "session", "run"):
        np.testing.assert_array_equal(found.trials[name], right.trials[name])
    zscored = found.zscore_by_session().betas
    np.testing.assert_array_equal(zscored, right.zscore_by_session().betas)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.arange(10.0) + 0.5, TypeError, "image_ids must be integers"),
        (np.r_[np.arange(9.0), np.nan], ValueError, r"no id for 1 trials \(first in row 9\)"),
        (pd.array([*range(9), None], dtype="Int64"), ValueError, "no id for 1 trials"),
        ([*"abcdefghi", None], ValueError, "no id for 1 trials"),
        (np.ma.masked_equal(np.arange(10), 4), ValueError, r"first in row 4"),
        (np.arange(10) > 4, TypeError, "image_ids must be integers"),
        (np.arange(10).astype("M8[D]"), TypeError, "image_ids must be integers"),
        (np.arange(20).reshape(10, 2), ValueError, r"image_ids \(10, 2\) must be \(n_trials,\)"),
        (np.arange(1, 11), ValueError, "counted from 1"),
        (np.array([*"abcdefghi", 3], object), TypeError, "mixes text"),
    ],
)
def test_ids_that_are_none_are_refused_by_name(images, ids, error, message):
    with pytest.raises(error, match=message):
        EncodingData.from_trials(images, np.zeros((10, 2)), ids)


def test_columns_of_two_are_refused_by_name(images):
    two = np.zeros((10, 2))
    for name in ("session", "run"):
        with pytest.raises(ValueError, match=rf"{name} \(10, 2\) must be \(n_trials,\)"):
            EncodingData.from_trials(images, np.zeros((10, 2)), range(10), **{name: two})


# ------------------------------------------------------------------ names as ids


@pytest.fixture
def files(images, tmp_path):
    from PIL import Image

    paths = [tmp_path / f"aardvark_{i:02d}b.png" for i in range(N)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


@pytest.mark.parametrize("ids", ["stem", "name", "path", "bytes", "cells"])
@pytest.mark.parametrize("given", ["paths", "files", "dict", "Series"])
def test_names_are_matched_to_files_and_keys(images, files, tmp_path, ids, given):
    rng = np.random.default_rng(0)
    rows = rng.permutation(np.repeat(np.arange(N), 2))
    betas = rng.standard_normal((20, 3))
    names = {
        "stem": [path.stem for path in files],
        "name": [path.name for path in files],
        "path": [str(path) for path in files],
        "bytes": [path.stem.encode() for path in files],
        "cells": [path.name for path in files],
    }[ids]
    order = rng.permutation(N)  # the order of images is free
    shown = [files[i] for i in order]
    given_images = {
        "paths": shown,
        "files": ImageFiles(shown),
        "Series": pd.Series([str(path) for path in shown]),
        "dict": {names[i].decode() if ids == "bytes" else names[i]: files[i] for i in order},
    }[given]
    of_trials = np.array(names)[rows]
    of_trials = cells(of_trials, tmp_path) if ids == "cells" else of_trials
    data = EncodingData.from_trials(given_images, betas, of_trials)
    for row, i in enumerate(order):
        np.testing.assert_array_equal(np.asarray(data.images[row])[..., 0], images[i])
        np.testing.assert_array_equal(data.betas[row], betas[rows == i])


def test_keys_of_a_dict_may_be_numbers_and_images_arrays(images):
    betas = np.arange(8.0)[:, None]
    data = EncodingData.from_trials({7: images[0], 3: images[1]}, betas, [3, 7, 3, 7, 7, 3, 3, 7])
    np.testing.assert_array_equal(data.images, images[:2])
    np.testing.assert_array_equal(data.betas[..., 0], [[1, 3, 4, 7], [0, 2, 5, 6]])


@pytest.mark.parametrize(
    ("ids", "names", "message"),
    [
        (["a", "b"], None, r"text.*dict of name to image.*np\.unique\(names"),
        (["a", "x"], ["f/a.png", "f/b.png"], "1 of 2 image_ids are not .*, 'x' for example"),
        (["a", "b"], ["f/a.png", "g/a.png", "f/b.png"], r"'a'.*rows \[0, 1\].*paths"),
        (["a", "b"], ["f/a.png", "f/a.jpg", "f/b.png"], r"'a'.*rows \[0, 1\]"),
        (["a.b", "c"], ["c", "a.b.png", "a.b"], "different results"),
        ([0, 1], {"a": 0, "b": 1}, "a key of images"),
    ],
)
def test_names_with_two_meanings_or_none_are_refused(ids, names, message):
    with pytest.raises(ValueError, match=message):
        image_positions(ids, 3, names)


def test_full_paths_tell_files_of_one_name_apart():
    names = ["f/a.png", "g/a.png"]
    assert image_positions(["g/a.png", "f/a.png"], 2, names).tolist() == [1, 0]
    assert names_of(np.zeros((2, 8, 8), np.uint8)) is None


# ------------------------------------------------------------------ npz


@pytest.fixture
def npz(tmp_path, images, betas):
    def write(**more):
        np.savez(tmp_path / "mine.npz", images=images, betas=betas, **more)
        return tmp_path / "mine.npz"

    return write


@pytest.mark.parametrize(
    "roi",
    [
        np.array(["V1", "V1", "", "V2", "V2", np.nan]),
        np.array([b"V1", b"V1", b"", b"V2", b"V2", b""]),
        np.array([["V1"], ["V1"], ["nan"], ["V2"], ["V2"], [""]]),
    ],
)
def test_labels_of_an_npz(npz, roi, tmp_path):
    data = load_npz(npz(roi=roi))
    assert rois_of(data) == ROIS
    assert rois_of(EncodingData.load(data.save(tmp_path / "a.brain"))) == ROIS


@pytest.mark.parametrize("dtype", [float, ">f4", np.float16])
def test_codes_with_nan_of_an_npz(npz, dtype):
    data = load_npz(npz(roi=np.array([1, 1, np.nan, 2, 2, np.nan]).astype(dtype)))
    assert rois_of(data) == {"1": [0, 1], "2": [3, 4]}


@pytest.mark.parametrize("dtype", [int, np.uint8, ">i2", float])
def test_codes_not_above_zero_of_an_npz_are_outside_with_a_word(npz, dtype):
    codes = np.array([1, 1, 0, 2, 2, 0])
    codes[2] = 0 if dtype is np.uint8 else -1
    with pytest.warns(UserWarning, match=r"roi has the codes \[.*0.*\], .* outside every ROI"):
        data = load_npz(npz(roi=codes.astype(dtype)))
    assert rois_of(data) == {"1": [0, 1], "2": [3, 4]}
    with pytest.raises(ValueError, match=r"roi of .* has the code 0\.5"):
        load_npz(npz(roi=np.arange(6) + 0.5))


def test_columns_of_an_npz(npz, betas):
    session = np.arange(30).reshape(N, 3) // 10
    ncsnr = np.linspace(0, 1, 6)
    data = load_npz(npz(session=session.astype(">i4"), ncsnr=ncsnr[:, None].astype(">f8")))
    np.testing.assert_array_equal(data.voxels["ncsnr"], ncsnr)
    right = load_npz(npz(session=session))
    np.testing.assert_array_equal(data.zscore_by_session().betas, right.zscore_by_session().betas)


@pytest.mark.parametrize(
    ("key", "guess"), [("rois", "roi"), ("sessions", "session"), ("Roi", "roi")]
)
def test_misspelt_keys_of_an_npz_are_named(npz, key, guess):
    with pytest.warns(UserWarning, match=rf"not read: '{key}' \(meant to be '{guess}'\?\)"):
        load_npz(npz(**{key: np.array(["V1"] * 6)}))


# ------------------------------------------------------------------ conversion


def test_columns_and_labels_of_mixed_kinds():
    assert text_labels(["V1", 1, 2.0, None, np.nan, b"x"], "roi").tolist() == [
        "V1", "1", "2", None, None, "x",
    ]  # fmt: skip
    assert column([[1], [2]], "run").tolist() == [1, 2]
    for bad, message in (
        (np.array([b"\xff"]), "no UTF-8"),
        ([np.array(["a", "b"]), np.array(["c"])], "roi"),
        (np.zeros((2, 2)), r"roi \(2, 2\) must be"),
    ):
        with pytest.raises(ValueError, match=message):
            text_labels(bad, "roi")
