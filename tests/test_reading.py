"""Files that say too much of themselves, and errors of libraries: named, and without the memory."""

import errno
import gzip
import io
import json
import resource
import subprocess
import sys
import zipfile

import nibabel as nib
import numpy as np
import pytest

from brainenc.brain.volumes import open_volume, read_volume
from brainenc.reading import (
    check_archive,
    check_claim,
    read_array,
    read_arrays,
    read_whole,
    reading,
)
from brainenc.storage import read_json


def header(shape, descr="<f4"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "error",
    [
        *(KeyError("a"), RuntimeError("size mismatch"), EOFError(), RecursionError("deep")),
        *(MemoryError(), OverflowError("int"), IndexError("3"), ValueError("no magic")),
        *(OSError("file signature not found"), TypeError("no dtype"), zipfile.BadZipFile("x")),
        *(AttributeError("dataobj"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "start byte")),
        OSError(errno.EINVAL, "Invalid argument"),  # seek to before the start of a file
    ],
)
def test_an_error_of_a_library_names_the_file(error):
    named = pytest.raises(ValueError, match=r"a/b\.mat cannot be read as a MATLAB file")
    with named as caught, reading("a/b.mat", "a MATLAB file"):
        raise error
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        *(FileNotFoundError("a is missing"), PermissionError("no"), ImportError("h5py")),
        *(
            ValueError("a/b.mat holds text"),
            TypeError("a/b.mat must be uint8"),
            KeyboardInterrupt(),
        ),
        OSError(errno.ENOSPC, "no space", "a/c"),
    ],
)
def test_an_error_that_says_enough_is_kept(error):
    with pytest.raises(type(error)) as caught, reading("a/b.mat"):
        raise error
    assert caught.value is error


def test_an_error_of_the_disk_says_where():
    with pytest.raises(OSError, match=r"a/b\.mat") as caught, reading("a/b.mat"):
        raise OSError(errno.EIO, "input/output error")
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "a/b.mat")


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    "content",
    [
        header((10**12,)),
        header((10**9, 10**9)) + bytes(400),
        header((101,)) + bytes(400),
        header((2**63, 2**63)),
        header((10**9,), "<U1000"),
        header((-1,)) + bytes(100),
        header((3,), "|O") + bytes(24),
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00" + bytes(100),
        b"\x93NUMPY\x01\x00\xff\xff{'descr'",
        b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118,
        b"PK\x03\x04" + bytes(50),
    ],
)
@pytest.mark.parametrize("mapped", [True, False])
def test_arrays_that_are_not_what_they_say(tmp_path, content, mapped):
    (tmp_path / "mask.npy").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"mask\.npy (cannot be read as a \.npy file|is truncated)"
    ):
        read_array(tmp_path / "mask.npy", mapped=mapped)


@pytest.mark.parametrize("mapped", [True, False])
def test_arrays_that_are(tmp_path, mapped):
    for array in (np.arange(12.0).reshape(3, 4).T, np.array(True), np.array(["a", "größer"])):
        np.save(tmp_path / "a.npy", array)
        np.testing.assert_array_equal(read_array(tmp_path / "a.npy", mapped=mapped), array)
    with pytest.raises(FileNotFoundError):
        read_array(tmp_path / "none.npy")


def bomb(path, n_bytes, compression=zipfile.ZIP_DEFLATED, shape=None):
    """An .npz whose one array has that many zeros."""
    with zipfile.ZipFile(path, "w", compression) as archive, archive.open("a.npy", "w") as entry:
        entry.write(header(shape or (n_bytes,), "|u1"))
        for _ in range(n_bytes // 2**20):
            entry.write(bytes(2**20))
    return path


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path):
    path = bomb(tmp_path / "bomb.npz", 1200 * 2**20)
    assert path.stat().st_size < 2**21
    with pytest.raises(ValueError, match=r"bomb\.npz has .* bytes, and its header says 1,258,29"):
        read_arrays(path)


def test_arrays_of_zeros_are_no_bomb(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros((500, 1000)), b=np.arange(3))
    found = read_arrays(tmp_path / "a.npz")
    assert found["a"].shape == (500, 1000)
    assert found["b"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("shape", [(10**15,), (3 * 2**20,), (5,)])
def test_an_entry_of_another_size_than_it_says(tmp_path, shape):
    path = bomb(tmp_path / "a.npz", 2**20, shape=shape)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read .*its entry a\.npy says"):
        read_arrays(path)


def test_odd_entries_of_an_archive(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(4))
    content = bytearray(path.read_bytes())
    central = content.rindex(b"PK\x01\x02")
    content[central + 8] |= 1  # encrypted, it says
    (tmp_path / "encrypted.npz").write_bytes(content)
    with pytest.raises(ValueError, match="encrypted"):
        read_arrays(tmp_path / "encrypted.npz")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.npy", header((1,)) + bytes(4))
    with pytest.raises(ValueError, match="two entries of one name"):
        read_arrays(path)
    with zipfile.ZipFile(tmp_path / "notes.npz", "w") as archive:
        archive.writestr("notes.txt", "thesis")
        archive.writestr("a.npy", header((1,)) + bytes(4))
    assert read_arrays(tmp_path / "notes.npz")["a"].tolist() == [0]


def test_a_damaged_name_in_the_table_of_an_archive_is_found(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, betas=np.arange(4), roi=np.arange(3))
    content = path.read_bytes()
    for damaged in (b"\0oi.npy", b"roi.npz", b"rois.np"):
        start, end = content[: (at := content.rindex(b"roi.npy"))], content[at + 7 :]
        path.write_bytes(start + damaged + end)
        with pytest.raises(ValueError, match=r"a\.npz cannot be read"):
            read_arrays(path)


def test_a_flipped_byte_of_an_archive_is_found(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(1000), b=np.array(["x"]))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    truth = {name: array.tolist() for name, array in read_arrays(path).items()}
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = read_arrays(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:  # dates, attributes and versions of the entries
            assert {name: array.tolist() for name, array in found.items()} == truth


def test_claims(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(1000))
    check_claim(path, 1000)
    check_claim(path, 2**30, compressed=True)
    for n_bytes, compressed in [(1001, False), (2**30 + 1, True), (-1, True)]:
        with pytest.raises(ValueError, match=str(path)):
            check_claim(path, n_bytes, compressed=compressed)


# ------------------------------------------------------------------ volumes


def nifti(path, shape, *, claimed=None, dtype=np.int16):
    image = nib.Nifti1Image(np.ones(shape, dtype), np.eye(4))
    content = bytearray(image.to_bytes())
    if claimed is not None:
        content[42 : 42 + 2 * len(claimed)] = np.array(claimed, "<i2").tobytes()
        content[40:42] = np.array([len(claimed)], "<i2").tobytes()
    content = bytes(content)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def mgh(path, shape, claimed=None):
    nib.MGHImage(np.ones(shape, np.float32), np.eye(4)).to_filename(path)
    if claimed is not None:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".mgz" else path.read_bytes()
        content = content[:4] + np.array(claimed, ">i4").tobytes() + content[20:]
        path.write_bytes(gzip.compress(content) if path.suffix == ".mgz" else content)
    return path


HUGE = [(32767, 32767, 32767), (32767, 32767, 32767, 32767), (4, 4, 4, 32000), (4, 5, 5)]


#: nibabel leaves files of MGH open, for the garbage collector to close.
LEFT_OPEN = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.mark.parametrize("claimed", HUGE)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_nifti_that_is_larger_than_its_file(tmp_path, name, claimed):
    path = nifti(tmp_path / name, (4, 4, 4), claimed=claimed)
    with pytest.raises(ValueError, match=rf"{name}"):
        read_volume(path)


@LEFT_OPEN
@pytest.mark.parametrize("claimed", [(2**31 - 1,) * 4, (10**6, 10**6, 1, 1), (14, 1, 1, 1)])
@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
def test_an_mgh_that_is_larger_than_its_file(tmp_path, name, claimed):
    path = mgh(tmp_path / name, (8, 1, 1), claimed)
    with pytest.raises(ValueError, match=rf"{name}"):
        read_volume(path)


def test_a_flipped_byte_of_a_compressed_volume_is_found(tmp_path):
    noise = np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16)
    path = tmp_path / "a.nii.gz"
    nib.Nifti1Image(noise, np.eye(4)).to_filename(path)
    whole = path.read_bytes()
    for place in range(20, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        try:
            found = read_volume(path)[1]
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:  # bits between two blocks mean nothing
            assert gzip.decompress(damaged) == gzip.decompress(whole)
            np.testing.assert_array_equal(found, noise)


@LEFT_OPEN
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgh", "a.mgz"])
def test_volumes_cut_short_anywhere(tmp_path, name):
    path = (mgh if "mg" in name else nifti)(tmp_path / name, (6, 5, 4))
    image, values = read_volume(path)
    assert values.shape == (6, 5, 4)
    assert (values == 1).all()
    assert open_volume(path).shape == image.shape
    whole = path.read_bytes()
    n_needed = len(whole) - 20 * name.endswith("mgh")  # of times of scanning, at its end
    for length in range(0, n_needed, max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=str(path)):
            read_volume(path)


def test_what_is_no_volume(tmp_path):
    (tmp_path / "a.nii").write_text("notes")
    (tmp_path / "b.txt").write_text("notes")
    rgb = np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.Nifti1Image(rgb, np.eye(4)).to_filename(tmp_path / "c.nii")
    for name in ("a.nii", "b.txt", "c.nii"):
        with pytest.raises(ValueError, match=name):
            read_volume(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_volume(tmp_path / "none.nii")


# ------------------------------------------------------------------ memory

HOGS = """
import resource, sys
from brainenc.brain.volumes import read_volume
from brainenc.reading import read_array, read_arrays
read_volume(sys.argv.pop(1))  # imports nibabel
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    read = read_volume if path.endswith(("gz", "nii")) else read_arrays
    read = read_array if path.endswith("npy") else read
    try:
        read(path)
    except ValueError:
        pass
    else:
        raise SystemExit(f"{path} was accepted")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_no_memory_is_taken_for_what_is_only_claimed(tmp_path):
    paths = [
        nifti(tmp_path / "a.nii", (4, 4, 4), claimed=HUGE[0]),
        nifti(tmp_path / "a.nii.gz", (4, 4, 4), claimed=HUGE[0]),
        nifti(tmp_path / "b.nii.gz", (4, 4, 4), claimed=(512, 512, 512)),
        mgh(tmp_path / "a.mgz", (8, 1, 1), (10**6, 10**6, 1, 1)),
        bomb(tmp_path / "a.npz", 1200 * 2**20),
        bomb(tmp_path / "b.npz", 2**20, shape=(10**15,)),
    ]
    (tmp_path / "a.npy").write_bytes(header((10**12,)))
    small = nifti(tmp_path / "small.nii.gz", (4, 4, 4))
    command = [sys.executable, "-c", HOGS, *map(str, [small, *paths, tmp_path / "a.npy"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    assert int(done.stdout) < 100 * 1024  # KiB; the largest file has 1.2 MB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0


# ------------------------------------------------------------------ JSON and archives


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ('{"b": {"a": 1, "a": 1}}', "'a' is there twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ('{"\\udfff\\ud800": 1}', "surrogates not allowed"),
        ("1" * 5000, "integer string conversion"),
        ("", "Expecting value"),
        ("{", "Expecting property name"),
    ],
)
def test_json_that_means_nothing_or_two_things(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json is not valid JSON.*{reason}"):
        read_json(tmp_path / "a.json")


def test_json_that_means_one(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a": "\xef\xbb"}')
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
    # Infinity and NaN are written by `write_json`; "\\udcff" is a byte of a file name.
    content = {"a": [float("inf"), -1.5], "b": "name\udcff", "c": "😀", "d": "\\ud800"}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "a.json") == content


def test_records_of_an_archive(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", b"weights" * 100)
    check_archive(path)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checksum of its record data is wrong"):
        check_archive(path)
    path.write_text("no archive")
    with pytest.raises(ValueError, match="not the zip archive"):
        check_archive(path)


# ------------------------------------------------------------------ folders that change


def test_a_folder_that_is_replaced_while_it_is_read_is_read_again(tmp_path):
    folder, calls = tmp_path / "a", []
    folder.mkdir()

    def read():
        calls.append(folder.stat().st_ino)
        if len(calls) < 4:  # replaced in the middle, with an error or without
            folder.rename(tmp_path / f"old{len(calls)}")
            folder.mkdir()
        if len(calls) == 2:
            raise ValueError("of two versions")
        return calls[-1]

    assert read_whole(folder, read) == folder.stat().st_ino
    assert len(calls) == 4


def test_an_error_of_a_folder_that_stays_is_raised_at_once(tmp_path):
    calls = []

    def read():
        calls.append(1)
        raise FileNotFoundError("a is missing")

    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="a is missing"):
            read_whole(folder, read)
    assert len(calls) == 2


def test_a_folder_that_never_stays_is_named(tmp_path):
    def read():
        (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path / "a").mkdir()
        (tmp_path / "b").rmdir()
        (tmp_path / "a" / "file").touch()
        (tmp_path / "a" / "file").unlink()

    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="a is being replaced"):
        read_whole(tmp_path / "a", read)
