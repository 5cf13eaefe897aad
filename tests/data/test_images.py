import pickle
import re
import struct
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.model_selection import KFold, cross_val_score
from sklearn.utils import _safe_indexing

from brainenc.data.images import (
    ImageFiles,
    ImageSubset,
    as_images,
    image_batches,
    looks_like_images,
    open_images,
    take_images,
)

N = 12


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (N, 7, 5, 3), dtype=np.uint8)


@pytest.fixture
def paths(pixels, tmp_path):
    paths = [tmp_path / f"{i:02d}.png" for i in range(N)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


@pytest.fixture(params=["array", "memmap", "paths", "ImageFiles", "subset of memmap", "h5py"])
def images(request, pixels, paths, tmp_path):
    """The same images as everything that images may be."""
    if request.param == "array":
        yield pixels
    elif request.param == "paths":
        yield paths
    elif request.param == "ImageFiles":
        yield ImageFiles(paths)
    elif request.param == "h5py":
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "stimuli.hdf5", "w") as file:
            yield file.create_dataset("imgBrick", data=pixels)
    else:
        order = np.random.default_rng(1).permutation(N)
        np.save(tmp_path / "images.npy", pixels[order])
        mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
        if request.param == "memmap":
            np.save(tmp_path / "images.npy", pixels)
            yield np.load(tmp_path / "images.npy", mmap_mode="r")
        else:
            yield ImageSubset(mapped, np.argsort(order))


# ------------------------------------------------------------------ one behaviour for all kinds


def test_every_kind_reads_as_the_same_array(images, pixels):
    assert looks_like_images(images)
    images = as_images(images)
    assert images.shape == pixels.shape
    assert images.dtype == np.uint8
    assert len(images) == N
    np.testing.assert_array_equal(np.asarray(images), pixels)
    np.testing.assert_array_equal(np.asarray(images[3]), pixels[3])
    np.testing.assert_array_equal(np.asarray(images[-1]), pixels[-1])


@pytest.mark.parametrize("index", [[5], [7, 2, 9], [3, 3, 0], list(range(N))], ids=str)
def test_take_images_takes_rows_in_any_order(images, pixels, index):
    taken = take_images(as_images(images), np.array(index))
    assert taken.shape == (len(index), 7, 5, 3)
    np.testing.assert_array_equal(np.asarray(taken), pixels[index])
    again = take_images(taken, np.array([len(index) - 1, 0]))
    np.testing.assert_array_equal(np.asarray(again), pixels[index][[-1, 0]])


def test_batches_are_the_images_in_order(images, pixels):
    batches = list(image_batches(as_images(images), 5))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert all(type(batch) in (np.ndarray, np.memmap) for batch in batches)
    np.testing.assert_array_equal(np.concatenate(batches), pixels)


@pytest.mark.parametrize("shuffle", [False, True])
def test_scikit_learn_splits_index_every_kind(images, pixels, shuffle):
    folds = KFold(3, shuffle=shuffle, random_state=0 if shuffle else None)
    for train, test in folds.split(images):
        np.testing.assert_array_equal(as_array(_safe_indexing(images, test)), pixels[test])
        np.testing.assert_array_equal(as_array(_safe_indexing(images, train)), pixels[train])


def test_scikit_learn_indexes_by_mask_and_slice(images, pixels):
    mask = np.arange(N) % 3 == 1
    np.testing.assert_array_equal(as_array(_safe_indexing(images, mask)), pixels[mask])
    np.testing.assert_array_equal(as_array(_safe_indexing(images, slice(2, 9))), pixels[2:9])


class BrightnessModel(BaseEstimator):
    """Least squares on each image's mean: a smallest estimator that takes images."""

    def fit(self, X, y):
        self.line_ = np.polyfit(brightness(X), y, 1)
        return self

    def score(self, X, y):
        return -np.mean((np.polyval(self.line_, brightness(X)) - y) ** 2)


def brightness(images):
    return as_array(images).mean(axis=(1, 2, 3))


def as_array(images):
    return np.asarray(as_images(images))


def test_cross_val_score_is_the_same_for_every_kind(images, pixels):
    y = np.random.default_rng(2).standard_normal(N)
    scores = cross_val_score(BrightnessModel(), images, y, cv=KFold(3))
    expected = []
    for train, test in KFold(3).split(pixels):
        slope = np.polyfit(pixels[train].mean((1, 2, 3)), y[train], 1)
        error = np.polyval(slope, pixels[test].mean((1, 2, 3))) - y[test]
        expected.append(-np.mean(error**2))
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("kind", ["ImageFiles", "subset"])
def test_lazy_images_go_to_worker_processes(kind, paths, pixels):
    images = ImageFiles(paths) if kind == "ImageFiles" else ImageSubset(pixels, np.arange(N))
    copy = pickle.loads(pickle.dumps(images[[4, 2]]))
    np.testing.assert_array_equal(np.asarray(copy), pixels[[4, 2]])


# ------------------------------------------------------------------ what is read lazily


class CountingImages:
    """A lazy sequence that remembers which rows were read."""

    dtype = np.dtype(np.uint8)

    def __init__(self, pixels):
        self.pixels, self.shape, self.rows_read = pixels, pixels.shape, []

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, key):
        rows = np.arange(len(self))[key]
        self.rows_read.extend(np.atleast_1d(rows).tolist())
        return self.pixels[key]


def test_lazy_images_are_read_when_a_batch_is_and_only_then(pixels):
    lazy = CountingImages(pixels)
    taken = take_images(as_images(lazy), np.array([9, 1, 5, 1]))
    assert lazy.rows_read == []
    first = next(image_batches(taken, 2))
    assert sorted(lazy.rows_read) == [1, 9]
    np.testing.assert_array_equal(first, pixels[[9, 1]])


def test_image_files_are_not_opened_again_for_a_subset(paths):
    images = ImageFiles(paths)
    paths[0].unlink()
    assert len(images[1:]) == N - 1  # a check of sizes would miss the file
    with pytest.raises(FileNotFoundError, match=r"00\.png does not exist"):
        np.asarray(images)


# ------------------------------------------------------------------ conversions


@pytest.mark.parametrize("container", [np.array, pd.Series, tuple, lambda p: np.array(p, object)])
@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_paths_come_in_arrays_and_series_too(paths, pixels, container, kind):
    listed = container([kind(path) for path in paths])
    assert looks_like_images(listed)
    np.testing.assert_array_equal(as_array(listed), pixels)


def test_pil_images_and_arrays_in_lists(pixels):
    pil = [Image.fromarray(image) for image in pixels]
    assert looks_like_images(pil)
    assert looks_like_images(list(pixels))
    np.testing.assert_array_equal(as_images(pil), pixels)
    np.testing.assert_array_equal(as_images(list(pixels)), pixels)


def test_grey_pil_images_stay_grey_unless_some_are_colour(pixels):
    grey = [Image.fromarray(image[..., 0]) for image in pixels]
    np.testing.assert_array_equal(as_images(grey), pixels[..., 0])
    mixed = as_images([grey[0], Image.fromarray(pixels[1])])
    np.testing.assert_array_equal(mixed[0], np.repeat(pixels[0, ..., :1], 3, axis=-1))
    np.testing.assert_array_equal(mixed[1], pixels[1])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "LA"])
def test_files_of_any_8_bit_mode_become_rgb(tmp_path, pixels, mode):
    path = tmp_path / "image.tif"
    converted = Image.fromarray(pixels[0]).convert(mode)
    converted.save(path)
    np.testing.assert_array_equal(ImageFiles([path])[0], np.asarray(converted.convert("RGB")))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_8_bits_are_refused_and_not_clipped(tmp_path, dtype):
    image = Image.fromarray(np.arange(0, 4000, 100).astype(dtype).reshape(8, 5))
    path = tmp_path / "deep.tif"
    image.save(path)
    with pytest.raises(ValueError, match=r"deep\.tif.*more than 8 bits"):
        ImageFiles([path])[0]
    with pytest.raises(ValueError, match=r"images\[0\] has more than 8 bits"):
        as_images([image])


def test_size_resizes_files_of_different_sizes(tmp_path, pixels):
    for name, image in [("a.png", pixels[0]), ("b.png", pixels[1, :4])]:
        Image.fromarray(image).save(tmp_path / name)
    images = ImageFiles.from_folder(tmp_path, size=(6, 8))
    assert images.shape == (2, 6, 8, 3)
    expected = Image.fromarray(pixels[1, :4]).resize((8, 6), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(images[1], np.asarray(expected))
    assert images[1:].size == (6, 8)
    np.testing.assert_array_equal(np.asarray(images[1:])[0], np.asarray(expected))


def test_from_folder_takes_image_files_by_name(paths, pixels):
    (paths[0].parent / "notes.txt").write_text("no image")
    paths[3].rename(paths[3].with_suffix(".PNG"))
    np.testing.assert_array_equal(np.asarray(ImageFiles.from_folder(paths[0].parent)), pixels)


def test_float_arrays_are_features():
    assert not looks_like_images(np.zeros((4, 8, 8)))
    assert not looks_like_images(np.zeros((4, 8), dtype=np.uint8))
    assert not looks_like_images([[1.0, 2.0]])
    assert not looks_like_images([])


# ------------------------------------------------------------------ bad input


def test_files_of_different_sizes_are_both_named(paths, pixels):
    Image.fromarray(pixels[4, :3]).save(paths[4])
    with pytest.raises(ValueError, match=r"00\.png is \(7, 5\).*04\.png is \(3, 5\).*size="):
        as_images(paths)


def test_arrays_of_different_sizes_are_both_named(pixels):
    with pytest.raises(ValueError, match=r"images\[0\] is \(7, 5, 3\) and images\[1\] is \(6, 5"):
        as_images([pixels[0], pixels[1, :6]])


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_a_truncated_file_is_named_whether_opened_or_read(tmp_path, pixels, suffix):
    path = tmp_path / f"stimulus.{suffix}"
    large = Image.fromarray(np.tile(pixels[0], (20, 20, 1)))
    large.save(path)
    whole = path.read_bytes()
    # Within the header, and past it, where Pillow opens the file but cannot read it.
    for n_bytes in (0, 10, len(whole) // 2, len(whole) * 3 // 4):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(ValueError, match=rf"stimulus\.{suffix} cannot be read"):
            np.asarray(ImageFiles([path]))


def test_a_text_file_is_no_image(tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(ValueError, match=r"notes\.png cannot be read"):
        as_images([tmp_path / "notes.png"])


def test_a_missing_file_is_named(paths):
    paths[5].unlink()
    with pytest.raises(FileNotFoundError, match=r"05\.png does not exist"):
        as_images(paths)


def test_files_of_known_size_are_checked_when_read(paths, pixels):
    images = ImageFiles.of_size(paths, (7, 5))
    np.testing.assert_array_equal(np.asarray(images), pixels)
    Image.fromarray(pixels[4, :3]).save(paths[4])
    np.testing.assert_array_equal(np.asarray(images[:4]), pixels[:4])
    with pytest.raises(ValueError, match=r"04\.png is \(3, 5\), but \(7, 5\) is expected"):
        np.asarray(images)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((2, 4, 4, 3)), TypeError, r"uint8.*float64.*\(255 \* images\)"),
        (np.zeros((2, 4, 4), dtype=np.int64), TypeError, "int64"),
        (np.zeros((2, 3, 8, 8), dtype=np.uint8), ValueError, "channels last"),
        (np.zeros((2, 8, 8, 1), dtype=np.uint8), ValueError, "without a channel axis"),
        (np.zeros((8, 8), dtype=np.uint8), ValueError, r"\(8, 8\) must be"),
        (np.zeros((0, 8, 8), dtype=np.uint8), ValueError, "is empty"),
        (np.zeros((2, 0, 8), dtype=np.uint8), ValueError, "is empty"),
        ([], ValueError, "images is empty"),
        ("folder", TypeError, "got str.*from_folder"),
        (None, TypeError, "got NoneType"),
        ({1, 2}, TypeError, "got set"),
        (["a.png", np.zeros((4, 4), dtype=np.uint8)], TypeError, r"images\[0\] is a str"),
        ([1.0, 2.0], TypeError, r"images\[0\] is a float"),
    ],
)
def test_what_is_no_images_is_refused(images, error, message):
    with pytest.raises(error, match=message):
        as_images(images)


def test_empty_file_lists_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no image files"):
        ImageFiles([])
    with pytest.raises(ValueError, match=r"holds no image files \(\.png"):
        ImageFiles.from_folder(tmp_path)


def test_repr_says_how_many_and_does_not_read(paths):
    images = ImageFiles(paths)
    assert "(12, 7, 5, 3)" in repr(images)
    lazy = CountingImages(np.zeros((3, 4, 4), dtype=np.uint8))
    assert repr(ImageSubset(lazy, [0, 2])) == "ImageSubset((2, 4, 4) of CountingImages)"
    assert lazy.rows_read == []


def test_open_images_takes_a_folder_a_file_a_pattern_and_an_array(tmp_path, pixels):
    folder = tmp_path / "with [brackets]"  # which are part of the name here, and no pattern
    folder.mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    np.save(tmp_path / "images.npy", pixels)
    for source in (folder, str(folder), tmp_path / "images.npy", str(tmp_path / "*" / "*.png")):
        np.testing.assert_array_equal(np.asarray(open_images(source)), pixels)
    assert isinstance(open_images(tmp_path / "images.npy"), np.memmap)
    np.testing.assert_array_equal(np.asarray(open_images(folder / "01.png")), pixels[1:2])


def test_open_images_names_what_it_did_not_find(tmp_path):
    for source in (tmp_path / "no", tmp_path / "*.png"):
        with pytest.raises(FileNotFoundError, match=re.escape(f"{source} is no folder")):
            open_images(source)
    np.save(tmp_path / "features.npy", np.zeros((3, 4, 4)))
    with pytest.raises(TypeError, match="images must be uint8"):
        open_images(tmp_path / "features.npy")


@pytest.mark.parametrize("content", [b"", b"notes", b"\x93NUMPY\x01\0v\0{'descr': '|u1'", None])
def test_open_images_names_a_damaged_array(tmp_path, pixels, content):
    path = tmp_path / "images.npy"
    np.save(path, pixels)
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    with pytest.raises(ValueError, match=r"images\.npy"):
        open_images(path)


def test_a_png_whose_pixels_were_damaged_is_not_shown(tmp_path, pixels):
    # Pillow compares no checksum once it has enough pixels.
    path = tmp_path / "a.png"
    Image.fromarray(pixels[0]).save(path)
    content = path.read_bytes()
    start = content.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", content[start - 8 : start - 4])
    for at in range(start, start + length + 4):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        with pytest.raises(ValueError, match=r"a\.png cannot be read"):
            np.asarray(ImageFiles([path]))


def test_a_picture_without_pixels_is_named(tmp_path):
    (tmp_path / "a.bmp").write_bytes(b"")
    Image.new("RGB", (3, 2)).save(tmp_path / "b.bmp")
    content = bytearray((tmp_path / "b.bmp").read_bytes())
    content[18:22] = bytes(4)  # its width
    (tmp_path / "b.bmp").write_bytes(content)
    for name in ("a.bmp", "b.bmp"):
        with pytest.raises(ValueError, match=f"{name[0]}\\.bmp cannot be read"):
            ImageFiles([tmp_path / name])


@pytest.mark.parametrize("claimed", [2**31 - 1, 2**32 - 1])
def test_a_png_takes_no_memory_for_a_length_that_is_only_claimed(tmp_path, pixels, claimed):
    path = tmp_path / "a.png"
    Image.fromarray(pixels[0]).save(path)
    content = path.read_bytes()
    start = content.index(b"IDAT") - 4
    path.write_bytes(content[:start] + struct.pack(">I", claimed) + content[start + 4 :])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"a\.png cannot be read"):
            ImageFiles([path])
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
