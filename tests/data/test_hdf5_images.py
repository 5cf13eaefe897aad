"""Images of an HDF5 file: lazy, in other processes too, and in .brain folders."""

import os
import pickle

import h5py
import numpy as np
import pytest
from joblib import Parallel, delayed

from brainenc.data.encoding_data import EncodingData
from brainenc.data.hdf5_images import HDF5Images
from brainenc.data.images import ImageSubset, as_images, take_images
from brainenc.features import PixelFeatures


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (9, 8, 6, 3), dtype=np.uint8)


@pytest.fixture
def path(pixels, tmp_path):
    with h5py.File(tmp_path / "stimuli.hdf5", "w") as file:
        file["imgBrick"] = pixels
    return tmp_path / "stimuli.hdf5"


@pytest.fixture
def rows(path):
    return take_images(HDF5Images(path), np.array([7, 0, 3]))


def row_sum(images, i):
    return int(np.asarray(images[i]).astype(int).sum()), os.getpid()


def test_rows_slices_and_subsets(pixels, path):
    images = as_images(HDF5Images(path))
    assert images.shape == (9, 8, 6, 3)
    np.testing.assert_array_equal(images, pixels)
    np.testing.assert_array_equal(images[2:5], pixels[2:5])
    subset = take_images(take_images(images, np.array([7, 0, 3])), np.array([2, 0]))
    assert isinstance(subset, ImageSubset)
    np.testing.assert_array_equal(subset, pixels[[3, 7]])


@pytest.mark.slow
def test_workers_open_the_file_themselves(pixels, rows):
    row_sum(rows, 0)  # opened here
    assert len(pickle.dumps(rows)) < 2000
    sums, processes = zip(*Parallel(2)(delayed(row_sum)(rows, i) for i in range(3)), strict=True)
    assert os.getpid() not in processes
    assert list(sums) == [int(pixels[i].astype(int).sum()) for i in (7, 0, 3)]


def test_another_process_does_not_use_the_handle_of_this_one(rows, monkeypatch):
    before = rows.parent._rows()
    assert rows.parent._rows() is before
    monkeypatch.setattr(os, "getpid", lambda: -2)  # as after a fork
    assert rows.parent._rows() is not before
    copy = pickle.loads(pickle.dumps(rows))  # an h5py object could not be sent
    np.testing.assert_array_equal(copy[1], rows[1])


def test_features_of_them(pixels, rows):
    expected = PixelFeatures(size=4).fit_transform(pixels[[7, 0, 3]])
    np.testing.assert_array_equal(PixelFeatures(size=4).fit_transform(rows), expected)


def test_a_brain_folder_refers_to_them(pixels, path, rows, tmp_path):
    data = EncodingData(rows, np.arange(6.0).reshape(3, 2), units="z")
    data.save(tmp_path / "data.brain")
    assert not (tmp_path / "data.brain/images.npy").exists()
    loaded = EncodingData.load(tmp_path / "data.brain")
    assert loaded.units == "z"
    np.testing.assert_array_equal(loaded.images, pixels[[7, 0, 3]])
    # Saved again, and a part of it.
    loaded.select(images=[2, 0]).save(tmp_path / "part.brain")
    part = EncodingData.load(tmp_path / "part.brain")
    np.testing.assert_array_equal(part.images, pixels[[3, 7]])

    path.rename(tmp_path / "moved.hdf5")
    moved = EncodingData.load(tmp_path / "data.brain")  # betas are there without the images
    np.testing.assert_array_equal(moved.betas, data.betas)
    with pytest.raises(FileNotFoundError, match=r"stimuli.hdf5 is missing, .*meta.json"):
        np.asarray(moved.images)


def test_a_resized_reference_stays_resized(path, tmp_path):
    small = HDF5Images(path, size=(4, 2))
    EncodingData(small, np.ones((9, 1))).save(tmp_path / "small.brain")
    loaded = EncodingData.load(tmp_path / "small.brain")
    assert loaded.images.shape == (9, 4, 2, 3)
    np.testing.assert_array_equal(loaded.images, small)


def test_copied_images_need_no_file(pixels, path, rows, tmp_path):
    EncodingData(rows, np.ones((3, 1))).save(tmp_path / "copy.brain", copy_images=True)
    path.unlink()
    loaded = EncodingData.load(tmp_path / "copy.brain")
    np.testing.assert_array_equal(loaded.images, pixels[[7, 0, 3]])


def test_files_that_will_not_do_are_named(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.hdf5 is missing"):
        HDF5Images(tmp_path / "nothing.hdf5")
    with pytest.raises(ValueError, match=r"no data set 'images', but \['imgBrick'\]"):
        HDF5Images(path, "images")
    with pytest.raises(ValueError, match=r"is \(9, 8, 6, 3\), not \(8, 8, 6, 3\)"):
        HDF5Images(path, shape=(8, 8, 6, 3))[0]
    (tmp_path / "text.hdf5").write_text("no HDF5")
    with pytest.raises(ValueError, match="cannot be read as HDF5"):
        HDF5Images(tmp_path / "text.hdf5")
    with h5py.File(tmp_path / "float.hdf5", "w") as file:
        file["imgBrick"] = np.zeros((2, 3, 3))
    with pytest.raises(TypeError, match="must be uint8, got float64"):
        HDF5Images(tmp_path / "float.hdf5")
