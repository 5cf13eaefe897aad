import dataclasses
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainenc.brain.volumes import Volume
from brainenc.data import brain_folder
from brainenc.data.encoding_data import EncodingData
from brainenc.data.hdf5_images import HDF5Images
from brainenc.data.images import ImageFiles

N = 6


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (N, 5, 4, 3), dtype=np.uint8)


@pytest.fixture
def betas():
    betas = np.random.default_rng(1).standard_normal((N, 2, 4)).astype(np.float32)
    betas[[0, 3], 1] = np.nan
    betas[:, :, 2] = np.nan
    return betas


@pytest.fixture
def voxels():
    return pd.DataFrame(
        {
            "prf": ["V1v", None, "V1v", "V2d"],
            "numbered": ["1", "2", "", "01"],
            "awkward": ["NA", 'a,"b"', "None", "größer"],
            "ncsnr": np.array([0.1, np.nan, 1 / 3, 2], dtype=np.float32),
            "x": [0.1, np.nan, 1 / 3, 1e-300],
            "vertex": np.array([3, 1, 2, 4], dtype=np.int32),
            "hemisphere": list("LRLR"),
            "in_nsdgeneral": [True, False, True, True],
        }
    )


@pytest.fixture
def data(pixels, betas, voxels):
    trials = pd.DataFrame(np.argwhere(np.isfinite(betas[:, :, 0])), columns=["image", "repeat"])
    trials["session"] = np.arange(len(trials)) // 5
    trials["run"] = [f"run{i}" for i in range(len(trials))]
    return EncodingData(pixels, betas, voxels, trials, name="subj01")


@pytest.fixture
def folder(data, tmp_path):
    return data.save(tmp_path / "subj01.brain")


@pytest.fixture
def with_files(data, pixels, tmp_path):
    """The same data with its images in files."""
    (tmp_path / "stimuli").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "stimuli" / f"{i}.png")
    files = ImageFiles.from_folder(tmp_path / "stimuli")
    return EncodingData(files, data.betas, data.voxels, data.trials, data.name)


def assert_same(loaded, data):
    np.testing.assert_array_equal(np.asarray(loaded.images), np.asarray(data.images))
    np.testing.assert_array_equal(loaded.betas, data.betas)  # NaN where NaN was
    assert loaded.betas.dtype == data.betas.dtype
    pd.testing.assert_frame_equal(loaded.trials, data.trials)
    assert loaded.name == data.name
    assert loaded.atlases == data.atlases
    for atlas in data.atlases:
        rois, expected = loaded.rois(atlas), data.rois(atlas)
        assert {k: v.tolist() for k, v in rois.items()} == {
            k: v.tolist() for k, v in expected.items()
        }
    numbers = data.voxels.select_dtypes(["number", "bool"]).columns
    # Exact: pandas writes the shortest decimal that reads back as the same number.
    for column in numbers:
        pd.testing.assert_series_equal(loaded.voxels[column], data.voxels[column], check_exact=True)


# ------------------------------------------------------------------ there and back


def test_what_is_loaded_is_what_was_saved(folder, data):
    loaded = EncodingData.load(folder)
    assert_same(loaded, data)
    assert loaded.voxels["hemisphere"].tolist() == list("LRLR")
    assert loaded.voxels["awkward"].tolist() == ["NA", 'a,"b"', "None", "größer"]
    assert sorted(p.name for p in folder.iterdir()) == [
        "betas.npy",
        "images.npy",
        "meta.json",
        "trials.csv",
        "voxels.csv",
    ]


def test_the_grid_of_the_volume_comes_back(data, tmp_path):
    affine = np.array([[-1.8, 0, 0, 90.1], [0, 1.8, 0, -126], [0, 0, 1 / 3, 0], [0, 0, 0, 1]])
    voxels = data.voxels.assign(i=[0, 1, 2, 0], j=[0, 0, 0, 4], k=[5, 0, 0, 0])
    placed = dataclasses.replace(
        data, voxels=voxels, volume=Volume((3, 5, 6), affine, space="MNI152")
    )
    volume = EncodingData.load(placed.save(tmp_path / "a.brain")).select(voxels=[2]).volume
    assert (volume.shape, volume.space) == ((3, 5, 6), "MNI152")
    np.testing.assert_array_equal(volume.affine, affine)


def test_folders_written_before_there_was_a_grid_have_none(folder):
    change_meta(folder, volume=REMOVED)
    assert EncodingData.load(folder).volume is None


def test_missing_labels_stay_missing(folder):
    labels = EncodingData.load(folder).voxels
    assert labels["prf"].isna().tolist() == [False, True, False, False]
    assert labels["numbered"].isna().tolist() == [False, False, True, False]  # "" counts as missing


def test_arrays_are_memory_mapped(folder):
    loaded = EncodingData.load(folder)
    assert isinstance(loaded.betas, np.memmap)
    assert isinstance(loaded.images, np.memmap)


@pytest.mark.parametrize("dtype", ["category", "string", "str", object])
def test_text_of_every_pandas_dtype(data, tmp_path, dtype):
    table = data.voxels.assign(prf=data.voxels["prf"].astype(dtype))
    other = EncodingData(data.images, data.betas, table)
    assert_same(EncodingData.load(other.save(tmp_path / "a.brain")), other)


def test_without_columns(pixels, betas, tmp_path):
    bare = EncodingData(pixels[..., 0], betas.astype(np.float64))
    assert_same(EncodingData.load(bare.save(tmp_path / "a.brain")), bare)


def test_subsets_of_mapped_data(folder, data, tmp_path):
    part = EncodingData.load(folder).select(images=[4, 0, 3], voxels=[3, 0])
    saved = EncodingData.load(part.save(tmp_path / "part.brain"))
    assert_same(saved, data.select(images=[4, 0, 3], voxels=[3, 0]))


def test_averages_and_z_scores(folder, data, tmp_path):
    for changed in (data.average_repeats(), data.zscore_by_session()):
        assert_same(EncodingData.load(changed.save(tmp_path / "new.brain")), changed)


def test_image_files_are_copied_byte_for_byte(with_files, tmp_path):
    folder = with_files.save(tmp_path / "files.brain")
    saved = sorted((folder / "images").iterdir())
    assert [p.name for p in saved] == [f"{i:06d}_{i}.png" for i in range(N)]
    for path, original in zip(saved, with_files.images.paths, strict=True):
        assert path.read_bytes() == original.read_bytes()
    shutil.rmtree(tmp_path / "stimuli")
    loaded = EncodingData.load(folder)
    assert isinstance(loaded.images, ImageFiles)
    # A second time the numbers are not put in front of numbers.
    again = EncodingData.load(loaded.select(images=[5, 1]).save(tmp_path / "again.brain"))
    assert [p.name for p in again.images.paths] == ["000000_5.png", "000001_1.png"]
    assert_same(again, loaded.select(images=[5, 1]))


def test_image_files_of_one_name_stay_apart(with_files, tmp_path):
    paths = []
    for i, path in enumerate(with_files.images.paths):
        paths.append(tmp_path / f"category{i}" / "image.png")
        paths[-1].parent.mkdir()
        path.rename(paths[-1])
    data = EncodingData(paths, with_files.betas)
    assert_same(EncodingData.load(data.save(tmp_path / "a.brain")), data)


def test_resized_image_files_are_saved_as_they_are_seen(with_files, tmp_path):
    resized = ImageFiles(with_files.images.paths, size=(3, 3))
    data = EncodingData(resized, with_files.betas)
    loaded = EncodingData.load(data.save(tmp_path / "a.brain"))
    assert loaded.images.shape == (N, 3, 3, 3)
    assert_same(loaded, data)


@pytest.mark.parametrize("index", [None, [4, 0, 3]])
def test_hdf5_images(pixels, betas, tmp_path, index):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "stimuli.hdf5", "w") as file:
        data = EncodingData(file.create_dataset("imgBrick", data=pixels), betas)
        data = data if index is None else data.select(images=index)
        assert_same(EncodingData.load(data.save(tmp_path / "a.brain")), data)


# ------------------------------------------------------------------ replacing


@pytest.mark.parametrize("change", [lambda d: d, lambda d: d.select(images=[3, 1])])
def test_a_folder_may_be_replaced_by_what_is_mapped_from_it(folder, data, change):
    loaded = EncodingData.load(folder)
    changed = change(loaded)
    changed.save(folder)
    assert_same(EncodingData.load(folder), change(data))
    assert_same(changed, change(data))
    assert_same(loaded, data)  # the mapped files live on until they are let go
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_image_files_in_use_are_not_replaced(with_files, tmp_path):
    folder = with_files.save(tmp_path / "files.brain")
    loaded = EncodingData.load(folder)
    with pytest.raises(FileExistsError, match="would delete; save under another name"):
        loaded.select(images=[1]).save(folder)
    assert_same(EncodingData.load(folder), with_files)
    with_files.select(images=[1]).save(folder)  # its images are elsewhere
    assert EncodingData.load(folder).n_images == 1


@pytest.mark.parametrize("content", [{}, {"notes.txt": "thesis"}, {"meta.json": '{"format": "x"}'}])
def test_other_folders_are_not_replaced(data, tmp_path, content):
    folder = tmp_path / "precious"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    with pytest.raises(FileExistsError, match="precious exists and will not be replaced"):
        data.save(folder)
    assert {p.name: p.read_text() for p in folder.iterdir()} == content


def test_a_file_is_not_replaced(data, tmp_path):
    (tmp_path / "precious").write_text("thesis")
    with pytest.raises(FileExistsError, match="will not be replaced"):
        data.save(tmp_path / "precious")
    assert (tmp_path / "precious").read_text() == "thesis"


KILLED_WRITER = """
import sys, time
import numpy as np
from brainenc.data import EncodingData

class SlowImages:
    shape, dtype = (2, 4, 4), np.dtype(np.uint8)
    def __len__(self):
        return 2
    def __getitem__(self, key):
        print("writing", flush=True)
        time.sleep(60)

EncodingData(SlowImages(), np.ones((2, 3))).save(sys.argv[1])
"""


def test_a_writer_killed_in_the_middle_leaves_the_old_folder(folder, data):
    command = [sys.executable, "-c", KILLED_WRITER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "writing\n"  # betas are written, images are not
        writer.send_signal(signal.SIGKILL)
    assert_same(EncodingData.load(folder), data)
    data.select(images=[0, 1]).save(folder)  # and is no obstacle afterwards
    assert EncodingData.load(folder).n_images == 2


def test_a_full_disk_leaves_the_old_folder(folder, data):
    resource = pytest.importorskip("resource")  # not on Windows
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    large = EncodingData(data.images, np.ones((N, 2**15)))
    try:
        with pytest.raises(OSError, match="too large"):
            large.save(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same(EncodingData.load(folder), data)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_an_image_that_cannot_be_read_leaves_the_old_folder(folder, data, with_files):
    broken = EncodingData(ImageFiles(with_files.images.paths, size=(3, 3)), data.betas)
    with_files.images.paths[2].write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"2\.png cannot be read"):
        broken.save(folder)
    assert_same(EncodingData.load(folder), data)


# ------------------------------------------------------------------ damaged folders

FILES = ["meta.json", "betas.npy", "images.npy", "voxels.csv", "trials.csv"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        EncodingData.load(folder)


def test_another_folder_is_called_that(tmp_path):
    (tmp_path / "notes.txt").write_text("thesis")
    with pytest.raises(FileNotFoundError, match=r"is not a \.brain folder, or only part of one"):
        EncodingData.load(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_truncated_anywhere_is_named(folder, name):
    whole = (folder / name).read_bytes()
    # The last byte of meta.json is white space, which JSON does without.
    lengths = range(len(whole) - (name == "meta.json"))
    for length in lengths[:: max(1, len(whole) // 150)]:
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=name):
            EncodingData.load(folder)


@pytest.mark.parametrize("name", ["voxels.csv", "trials.csv"])
def test_a_table_truncated_between_two_lines_is_named(folder, name):
    lines = (folder / name).read_text().splitlines(keepends=True)
    for n_lines in range(len(lines)):
        (folder / name).write_text("".join(lines[:n_lines]))
        with pytest.raises(ValueError, match=name):
            EncodingData.load(folder)


def test_a_missing_image_file_is_named_at_once(with_files, tmp_path):
    folder = with_files.save(tmp_path / "files.brain")
    (folder / "images" / "000004_4.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"000004_4\.png is missing"):
        EncodingData.load(folder)
    shutil.rmtree(folder / "images")
    with pytest.raises(FileNotFoundError, match="images"):
        EncodingData.load(folder)


def test_a_truncated_image_file_is_named_when_it_is_read(with_files, tmp_path):
    folder = with_files.save(tmp_path / "files.brain")
    path = folder / "images" / "000004_4.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"000004_4\.png is truncated or was changed: it has 60"):
        EncodingData.load(folder)
    loaded = EncodingData.load(folder, verify=False)
    np.testing.assert_array_equal(loaded.images[3], with_files.images[3])
    with pytest.raises(ValueError, match=r"000004_4\.png cannot be read"):
        np.asarray(loaded.images)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*subj01\.brain"):
        EncodingData.load(tmp_path / "subj01.brain")


REMOVED = object()


def change_meta(folder, **changes):
    """Entries of meta.json changed, as in a folder of version 1, which has no checksums."""
    path = folder / "meta.json"
    first = {"format_version": 1, "files": REMOVED, "checksum": REMOVED}
    meta = {**json.loads(path.read_text()), **first, **changes}
    path.write_text(json.dumps({k: v for k, v in meta.items() if v is not REMOVED}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "format 99.*upgrade brainenc"),
        ({"format": "brainenc.RidgeEncoder"}, r"not a \.brain folder"),
        ({"betas_shape": [N, 2, 5]}, r"betas\.npy has shape \(6, 2, 4\).*\(6, 2, 5\)"),
        ({"images_shape": [N, 5, 5, 3]}, r"images\.npy has shape"),
    ],
)
def test_meta_that_does_not_fit_is_refused(folder, changes, message):
    change_meta(folder, **changes)
    with pytest.raises(ValueError, match=message):
        EncodingData.load(folder)


def test_json_that_is_no_table_is_refused(folder):
    (folder / "meta.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"not a \.brain folder"):
        EncodingData.load(folder)


@pytest.mark.parametrize(
    ("name", "dtype"), [("betas.npy", np.int16), ("betas.npy", object), ("images.npy", np.float32)]
)
def test_files_of_another_dtype_are_named(folder, name, dtype):
    np.save(folder / name, np.ones(np.load(folder / name).shape, dtype), allow_pickle=True)
    with pytest.raises(ValueError, match=name):
        EncodingData.load(folder)


def test_files_of_other_data_are_noticed(folder, data, tmp_path):
    other = data.select(images=[0, 1, 2]).save(tmp_path / "other.brain")
    shutil.copy(other / "images.npy", folder / "images.npy")
    with pytest.raises(ValueError, match=r"images\.npy is truncated or was changed"):
        EncodingData.load(folder)
    change_meta(folder, images_shape=[3, 5, 4, 3])
    with pytest.raises(ValueError, match="images has 3, betas has 6"):
        EncodingData.load(folder)


# ------------------------------------------------------------------ tables edited by hand


def test_columns_may_be_added_to_and_taken_from_the_voxel_table(folder):
    table = pd.read_csv(folder / "voxels.csv", dtype=str, keep_default_na=False)
    table = table.drop(columns=["prf", "ncsnr"]).assign(
        kastner=["IPS0", "NA", "", "IPS1"], y=[1, 2, 3, 4]
    )
    table.to_csv(folder / "voxels.csv", index=False)
    with pytest.raises(ValueError, match=r"voxels\.csv .* was changed.*verify=False\)"):
        EncodingData.load(folder)
    loaded = EncodingData.load(folder, verify=False)
    assert list(loaded.rois("kastner")) == ["IPS0", "IPS1"]
    assert loaded.voxels["y"].tolist() == [1, 2, 3, 4]
    assert "ncsnr" not in loaded.voxels
    loaded.save(folder)
    assert list(EncodingData.load(folder, verify=True).rois("kastner")) == ["IPS0", "IPS1"]


# ------------------------------------------------------------------ checksums


def test_a_flipped_byte_is_found_in_every_file(folder):
    """Small files when the folder is opened, large ones on request."""
    rng = np.random.default_rng(0)
    for name in FILES:
        whole = (folder / name).read_bytes()
        for place in rng.integers(len(whole), size=25).tolist():
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            (folder / name).write_bytes(damaged)
            try:
                EncodingData.load(folder, verify=True if name.endswith("npy") else None)
            except ValueError as error:
                assert name in str(error) or "meta.json" in str(error)  # noqa: PT017
            else:
                # White space between the values of JSON, which changes none of them.
                assert json.loads(damaged) == json.loads(whole)
            (folder / name).write_bytes(whole)
    EncodingData.load(folder, verify=True)


def test_betas_of_the_same_size_that_were_swapped_are_found(folder, data, tmp_path, monkeypatch):
    other = dataclasses.replace(data, betas=data.betas + 1).save(tmp_path / "other.brain")
    shutil.copy(other / "betas.npy", folder / "betas.npy")
    found = pytest.raises(
        ValueError, match=r"betas\.npy is damaged or was changed: its checksum is"
    )
    with found:
        EncodingData.load(folder)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.name != "meta.json")
    monkeypatch.setattr(brain_folder, "_SMALL_FOLDER", size)
    with found:
        EncodingData.load(folder)
    monkeypatch.setattr(brain_folder, "_SMALL_FOLDER", size - 1)
    EncodingData.load(folder)  # betas of a large folder are not read
    with found:
        EncodingData.load(folder, verify=True)


def test_image_files_are_compared_on_request(with_files, tmp_path):
    folder = with_files.save(tmp_path / "files.brain")
    path = folder / "images" / "000004_4.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"000004_4\.png is damaged or was changed"):
        EncodingData.load(folder, verify=True)


def test_the_path_of_an_hdf5_file_may_be_corrected(pixels, betas, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "stimuli.hdf5", "w") as file:
        file.create_dataset("imgBrick", data=pixels)
    data = EncodingData(HDF5Images(tmp_path / "stimuli.hdf5"), betas)
    folder = data.save(tmp_path / "a.brain")
    (tmp_path / "stimuli.hdf5").rename(tmp_path / "moved.hdf5")
    meta = json.loads((folder / "meta.json").read_text())
    meta["image_hdf5"]["path"] = str(tmp_path / "moved.hdf5")
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    np.testing.assert_array_equal(np.asarray(EncodingData.load(folder).images), pixels)
    meta["image_hdf5"]["dataset"] = "other"
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    with pytest.raises(ValueError, match=r"meta\.json is damaged: it was changed"):
        EncodingData.load(folder)


def test_a_folder_of_version_1_is_read_and_says_what_it_lacks(folder, data):
    change_meta(folder)
    assert_same(EncodingData.load(folder), data)
    with pytest.warns(UserWarning, match="written by a version without checksums"):
        assert_same(EncodingData.load(folder, verify=True), data)


@pytest.mark.parametrize("change", ["remove", 3, "text", None, [], {}, [1], -1, [10**9] * 3, 1e300])
@pytest.mark.parametrize("signed", [True, False])
# Labels of digits, once they are not said to be text.
@pytest.mark.filterwarnings("ignore:columns .'numbered'. of voxels are whole numbers")
def test_nonsense_in_meta_is_named(folder, change, signed):
    """Every entry replaced; with its checksum as who means harm would write it, and without."""
    meta = json.loads((folder / "meta.json").read_text())
    for name in meta.keys() - {"checksum", "format"}:
        changed = {k: v for k, v in meta.items() if k != "checksum"}
        if change == "remove":
            del changed[name]
        else:
            changed[name] = change
        if changed.get(name, "removed") == meta[name]:
            continue
        if signed:
            changed["checksum"] = brain_folder._checksum(changed)
        (folder / "meta.json").write_text(json.dumps(changed))
        try:
            EncodingData.load(folder)
        except ValueError as error:
            assert str(folder) in str(error)  # noqa: PT017
        else:  # nothing else reads these, or 3 is a number of trials
            assert signed
            assert name in ("name", "units", "volume", "files", "trials_dtypes", "voxels_dtypes")


def test_texts_that_a_spreadsheet_would_run_are_protected_and_come_back(pixels, betas, tmp_path):
    names = ["=1+1", "'=x", "+a"]
    voxels = pd.DataFrame(
        {
            names[0]: ["@SUM(1,1)", None, "-V1", "V1's"],
            "-x": [-1.5, 2, 3, 4],
            "=n": [0.5, 1.5, 2.5, 1e-9],
        }
    )
    trials = pd.DataFrame(np.argwhere(np.isfinite(betas[:, :, 0])), columns=["image", "repeat"])
    trials["run"] = names[1]
    folder = EncodingData(pixels, betas, voxels, trials).save(tmp_path / "a.brain")
    rows = (folder / "voxels.csv").read_text().splitlines()
    assert rows[:3] == ["voxel,'=1+1,'-x,'=n", '0,"\'@SUM(1,1)",-1.5,0.5', "1,,2.0,1.5"]
    loaded = EncodingData.load(folder)
    pd.testing.assert_frame_equal(loaded.voxels, voxels, check_dtype=False)
    assert loaded.voxels["=n"].dtype == voxels["=n"].dtype
    assert set(loaded.trials["run"]) == {names[1]}
