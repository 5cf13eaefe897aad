"""bdata files as the authors' tools write them, and Generic Object Decoding made of them."""

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from brainenc.data.encoding_data import EncodingData
from brainenc.datasets import load_generic_object_decoding, published_test_mask, read_bdata

#: Two training pictures shown once, two test pictures shown twice, and imagined twice.
TRAIN = ["n01518878_14910", "n01443537_22563"]
TEST = ["n01443537_7", "n02274259_24319"]
SHOWN = [*TRAIN, *TEST, *TEST[::-1], *TEST, *TEST]
DATA_TYPE = [1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
RUN = [1, 1, 1, 1, 2, 2, 1, 1, 2, 2]
N_VOXELS = 5
ROIS = {"V1": [0, 1], "FFA": [3], "VC": [0, 1, 3, 4]}
XYZ = np.array([[-20.0, -90, 0], [-17, -90, 3], [14, -80, 0], [40, -50, -12], [17, -88, 0]])


def image_id(name):
    """As makedata_features.py of the authors makes it: the text of both numbers, read as one."""
    synset, picture = name[1:].split("_")
    return float(f"{int(synset)}.{int(picture):06d}")


def responses():
    sample, voxel = np.mgrid[: len(SHOWN), :N_VOXELS]
    return sample + 1 + voxel / 10


def contents(*, label="stimulus_id"):
    """Table, names and values of the metadata; voxels are not the first columns."""
    columns = {"DataType": DATA_TYPE, "Run": RUN, label: [image_id(name) for name in SHOWN]}
    table = np.column_stack([*columns.values(), responses()])
    n_before = len(columns)
    keys = [*columns, "VoxelData", *(f"voxel_{axis}" for axis in "xyz")]
    values = np.full((len(keys) + len(ROIS), table.shape[1]), np.nan)
    for i in range(n_before):
        values[i, i] = 1
    values[n_before, n_before:] = 1
    values[n_before + 1 : n_before + 4, n_before:] = XYZ.T
    for row, (roi, inside) in enumerate(ROIS.items(), start=n_before + 4):
        keys.append(f"ROI_{roi}")
        values[row, n_before + np.array(inside)] = 1
    return table, keys, values


def write_h5(path, table, keys, values, *, old_names=False):
    data, metadata = ("dataSet", "metaData") if old_names else ("dataset", "metadata")
    with h5py.File(path, "w") as file:
        file.create_dataset(data, data=table)
        file.create_dataset(f"{metadata}/key", data=keys)
        file.create_dataset(f"{metadata}/description", data=["..."] * len(keys))
        file.create_dataset(f"{metadata}/value", data=values)


def write_mat(path, table, keys, values):
    cells = np.empty((1, len(keys)), dtype=object)
    cells[0] = keys
    metadata = {"key": cells, "description": cells, "value": values}
    savemat(path, {"dataSet": table, "metaData": metadata, "subject": "Subject1"})


def pixels(name):
    array = np.zeros((6, 6, 3), np.uint8)
    array[:] = [[*TRAIN, *TEST].index(name) * 50 + 10, 20, 200]
    return array


@pytest.fixture
def root(tmp_path):
    write_h5(tmp_path / "Subject2.h5", *contents())
    for folder, names in {"image_training": TRAIN, "image_test": TEST}.items():
        (tmp_path / "images" / folder).mkdir(parents=True)
        for name in names:
            # Pillow goes by the ending; a PNG inside keeps pixels as they are.
            path = tmp_path / "images" / folder / f"{name}.JPEG"
            Image.fromarray(pixels(name)).save(path, format="PNG")
    return tmp_path


def betas_of(data, name):
    """Betas of a picture, by the name in the trial table."""
    of_name = data.trials[data.trials["stimulus"] == name]
    return data.betas[of_name["image"], of_name["repeat"]]


def test_perception_has_training_and_test_pictures_with_their_responses(root):
    data = load_generic_object_decoding(root, 2)
    assert data.betas.shape == (4, 2, N_VOXELS)
    expected = responses().astype(np.float32)
    np.testing.assert_array_equal(betas_of(data, TRAIN[0]), expected[[0]])
    np.testing.assert_array_equal(betas_of(data, TRAIN[1]), expected[[1]])
    np.testing.assert_array_equal(betas_of(data, TEST[0]), expected[[2, 5]])
    np.testing.assert_array_equal(betas_of(data, TEST[1]), expected[[3, 4]])
    assert np.isnan(data.betas).sum() == 2 * N_VOXELS
    for image, name in zip(data.trials["image"], data.trials["stimulus"], strict=True):
        np.testing.assert_array_equal(data.images[image], pixels(name))
    assert set(data.trials.loc[data.trials["stimulus"] == TEST[0], "run"]) == {1, 2}
    assert set(data.trials["category"]) == {"n01518878", "n01443537", "n02274259"}


def test_the_split_is_that_of_the_authors(root):
    data = load_generic_object_decoding(root, 2)
    tested = published_test_mask(data)
    train, test = data.train_test(tested)
    assert set(train.trials["stimulus"]) == set(TRAIN)
    assert set(test.trials["stimulus"]) == set(TEST)
    only = load_generic_object_decoding(root, 2, part="test")
    np.testing.assert_array_equal(only.betas, test.betas)
    with pytest.raises(ValueError, match="no trial has split 'test', but"):
        published_test_mask(load_generic_object_decoding(root, 2, part="train"))


def test_imagery_has_the_trials_in_which_a_test_picture_was_imagined(root):
    data = load_generic_object_decoding(root, 2, part="imagery")
    expected = responses().astype(np.float32)
    np.testing.assert_array_equal(betas_of(data, TEST[0]), expected[[6, 8]])
    assert set(data.trials["split"]) == {"imagery"}


def test_voxels_have_positions_and_overlapping_rois(root):
    data = load_generic_object_decoding(root, 2)
    np.testing.assert_array_equal(data.voxels[["x", "y", "z"]], XYZ)
    assert data.atlases == list(ROIS)
    for roi, inside in ROIS.items():
        np.testing.assert_array_equal(np.flatnonzero(data.voxels[roi]), inside)
    some = load_generic_object_decoding(root, 2, rois="FFA, V1")
    np.testing.assert_array_equal(some.betas, data.betas[:, :, [0, 1, 3]])
    np.testing.assert_array_equal(some.voxels["x"], XYZ[[0, 1, 3], 0])


def test_matlab_files_and_old_names_are_the_same_data(root):
    expected = load_generic_object_decoding(root, 2)
    (root / "Subject2.h5").unlink()
    write_mat(root / "Subject2.mat", *contents(label="Label"))
    write_h5(root / "Subject3.h5", *contents(label="Label"), old_names=True)
    for subject in (2, 3):
        data = load_generic_object_decoding(root, subject)
        np.testing.assert_array_equal(data.betas, expected.betas)
        assert data.trials.equals(expected.trials)
        assert data.voxels.equals(expected.voxels)


def test_a_saved_folder_is_the_same(root, tmp_path):
    data = load_generic_object_decoding(root, 2)
    loaded = EncodingData.load(data.save(tmp_path / "s2.brain"))
    np.testing.assert_array_equal(loaded.betas, data.betas)
    np.testing.assert_array_equal(loaded.images, data.images)
    np.testing.assert_array_equal(published_test_mask(loaded), published_test_mask(data))
    assert loaded.trials.equals(data.trials)


def test_what_is_missing_is_named(root):
    with pytest.raises(FileNotFoundError, match=r"Subject4\.h5\n.*figshare.*7387130"):
        load_generic_object_decoding(root, 4)
    (root / "images/image_test" / f"{TEST[0]}.JPEG").unlink()
    with pytest.raises(ValueError, match=rf"1 of 4 pictures shown are not under .*{TEST[0]}"):
        load_generic_object_decoding(root, 2)
    load_generic_object_decoding(root, 2, part="train")  # which does not need it
    for folder in ("image_training", "elsewhere"):
        (root / "images" / folder).mkdir(exist_ok=True)
        Image.fromarray(pixels(TEST[0])).save(root / "images" / folder / f"{TEST[0]}.png")
    with pytest.raises(ValueError, match=f"{TEST[0]} is there several times"):
        load_generic_object_decoding(root, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subject": 6}, "subject=6 must be one of 1 … 5"),
        ({"part": "sleep"}, "part='sleep' must be one of perception"),
        ({"rois": "V9"}, r"no ROI \['V9'\] here; there are \['V1', 'FFA', 'VC'\]"),
        ({"image_size": 0}, "image_size=0"),
    ],
)
def test_arguments_that_are_refused(root, options, message):
    with pytest.raises(ValueError, match=message):
        load_generic_object_decoding(root, **{"subject": 2, **options})


def test_pictures_of_two_sizes_take_a_size(root):
    path = root / "images/image_test" / f"{TEST[0]}.JPEG"
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(path, format="PNG")
    with pytest.raises(ValueError, match=r"one size, but .* give image_size="):
        load_generic_object_decoding(root, 2)
    assert load_generic_object_decoding(root, 2, image_size=4).images.shape == (4, 4, 4, 3)


# ------------------------------------------------------------------ bdata


def test_bdata_selects_columns_by_name(tmp_path):
    table, keys, values = contents()
    write_h5(tmp_path / "a.h5", table, keys, values)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.create_dataset("vmap/DataType/1.0", data="training")
        file.create_dataset("vmap/DataType/2.0", data="seen")
        file.create_dataset("vmap/DataType/3.0", data="imagined")
    data = read_bdata(tmp_path / "a.h5")
    np.testing.assert_array_equal(data.select("ROI_V1"), responses()[:, :2])
    np.testing.assert_array_equal(data.one_column("Run"), RUN)
    assert data.text("DataType").tolist() == ["training"] * 2 + ["seen"] * 4 + ["imagined"] * 4
    with pytest.raises(ValueError, match=r"a\.h5 has no 'ROI_V9', but \['DataType'"):
        data.select("ROI_V9")
    with pytest.raises(ValueError, match="5 columns 'VoxelData', not one"):
        data.one_column("VoxelData")
    with pytest.raises(ValueError, match=r"no text for \[1\.0, 2\.0\] of 'Run'"):
        data.text("Run")


def test_files_that_are_no_bdata_are_refused(tmp_path):
    table, keys, values = contents()
    cases = {
        "transposed": (table, keys, values.T),
        "short": (table, keys[:-1], values),
        "twice": (table, [*keys[:-1], keys[0]], values),
    }
    for name, parts in cases.items():
        write_h5(tmp_path / f"{name}.h5", *parts)
        with pytest.raises(ValueError, match=rf"{name}\.h5 has"):
            read_bdata(tmp_path / f"{name}.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["betas"] = table
    with pytest.raises(ValueError, match=r"other\.h5 has no dataset or dataSet, but \['betas'\]"):
        read_bdata(tmp_path / "other.h5")
    savemat(tmp_path / "other.mat", {"dataSet": table, "metaData": 3.0})
    with pytest.raises(ValueError, match=r"other\.mat has metadata without key"):
        read_bdata(tmp_path / "other.mat")
    whole = (tmp_path / "short.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.h5 cannot be read as bdata"):
        read_bdata(tmp_path / "cut.h5")
    with pytest.raises(ValueError, match=r"a\.npy must end in \.h5 or \.mat"):
        read_bdata(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError, match=r"none\.h5 does not exist"):
        read_bdata(tmp_path / "none.h5")


@pytest.mark.parametrize(("row", "value"), [(0, np.nan), (1, -1.0), (2, 0.0)])
def test_rows_without_a_picture_id_are_refused(root, row, value):
    table, keys, values = contents()
    table[row, 2] = value
    write_h5(root / "Subject2.h5", table, keys, values)
    with pytest.raises(ValueError, match="rows without the id of a picture in stimulus_id"):
        load_generic_object_decoding(root, 2)
