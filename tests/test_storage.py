import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from brainenc import storage
from brainenc.arrays import array_file, release, row_blocks, take_columns, take_rows, write_array
from brainenc.storage import atomic_path, fingerprint, read_json, write_json


def write_text(path, text, as_folder):
    if as_folder:
        path.mkdir()
        path = path / "content"
    path.write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def read_only_folder():
    """A folder that this process cannot write to, root or not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        if not hasattr(os, "setresuid"):
            pytest.skip("no POSIX users here to be denied anything")
        is_root = os.geteuid() == 0
        if is_root:
            try:
                os.setresuid(65534, 65534, 0)  # nobody, with the way back kept open
            except OSError:
                pytest.skip("root here cannot become another user, and root may write everywhere")
        yield Path(folder)
        if is_root:
            os.setresuid(0, 0, 0)
        os.chmod(folder, 0o755)


# ------------------------------------------------------------------ atomic_path


def test_a_file_appears_only_at_the_end_of_the_block(tmp_path):
    final = tmp_path / "new" / "deep" / "scores.csv"
    with atomic_path(final) as temporary:
        temporary.write_text("r")
        assert not final.exists()
        assert temporary.parent == final.parent  # a rename is atomic on one file system only
    assert final.read_text() == "r"
    assert names(final.parent) == ["scores.csv"]


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path):
    write_text(tmp_path / "scores", "old", True)
    with (
        pytest.raises(IsADirectoryError, match="scores is a folder, but a file is to be written"),
        atomic_path(tmp_path / "scores") as temporary,
    ):
        temporary.write_text("new")
    assert (tmp_path / "scores" / "content").read_text() == "old"
    assert names(tmp_path) == ["scores"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_an_error_leaves_the_old_and_no_litter(tmp_path, is_folder):
    final = tmp_path / "model"
    write_text(final, "old", is_folder)

    def write_and_fail():
        with atomic_path(final) as temporary:
            write_text(temporary, "half", is_folder)
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_and_fail()
    assert (final / "content" if is_folder else final).read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_folder_replaces_a_folder_with_all_it_held(tmp_path):
    final = tmp_path / "model"
    final.mkdir()
    (final / "stale").write_text("old")
    with atomic_path(final) as temporary:
        temporary.mkdir()
        (temporary / "fresh").write_text("new")
    assert names(final) == ["fresh"]
    assert names(tmp_path) == ["model"]


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    final, rename = tmp_path / "model", Path.rename
    write_text(final, "old", True)

    def failing(path, target):
        if path.suffix == ".tmp":
            raise OSError("the disk is gone")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    monkeypatch.setattr(storage, "_exchange", lambda one, other: False)
    with pytest.raises(OSError, match="disk is gone"), atomic_path(final) as temporary:
        write_text(temporary, "new", True)
    assert (final / "content").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_folder_cannot_replace_a_file_and_the_file_stays(tmp_path):
    final = tmp_path / "model"
    final.write_text("precious")
    with pytest.raises(NotADirectoryError), atomic_path(final) as temporary:
        temporary.mkdir()
    assert final.read_text() == "precious"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_link_stays_a_link_to_the_new_content(tmp_path, is_folder):
    target, link = tmp_path / "big_disk", tmp_path / "subj01"
    write_text(target, "old", is_folder)
    link.symlink_to(target)
    with atomic_path(link) as temporary:
        write_text(temporary, "new", is_folder)
    assert link.is_symlink()
    assert (target / "content" if is_folder else target).read_text() == "new"
    assert names(tmp_path) == ["big_disk", "subj01"]


def test_a_read_only_folder_is_refused_before_the_work_starts(read_only_folder):
    for path in (read_only_folder / "scores.csv", read_only_folder / "deep" / "scores.csv"):
        error = pytest.raises(PermissionError, match=f"{read_only_folder}.*another folder")
        with error, atomic_path(path):
            pytest.fail("the block was entered")
    assert names(read_only_folder) == []


@pytest.mark.parametrize("path", ["file/out", "file/deep/out"])
def test_a_file_in_the_way_of_the_parent_is_named(tmp_path, path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(NotADirectoryError, match="file of that name"), atomic_path(tmp_path / path):
        pytest.fail("the block was entered")
    assert (tmp_path / "file").read_text() == "precious"


KILLED_WRITER = """
import sys, time
from brainenc.storage import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.mkdir()
    (temporary / "weights").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_the_old_folder(tmp_path):
    final = tmp_path / "model"
    final.mkdir()
    (final / "weights").write_text("old")
    command = [sys.executable, "-c", KILLED_WRITER, str(final)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "writing\n"
        writer.send_signal(signal.SIGKILL)
    assert (final / "weights").read_text() == "old"
    # What is left over is hidden, so that no glob for models finds it.
    assert all(name.startswith(".") for name in names(tmp_path) if name != "model")


# ------------------------------------------------------------------ JSON


def test_json_round_trip_turns_numpy_into_plain_values(tmp_path):
    path = tmp_path / "meta.json"
    write_json(
        path,
        {
            "n": np.int64(3),
            "r": np.float32(0.5),
            "ok": np.bool_(True),
            "a": np.arange(3),
            "p": Path("x"),
            "s": "größer",
        },
    )
    expected = {"n": 3, "r": 0.5, "ok": True, "a": [0, 1, 2], "p": "x", "s": "größer"}
    assert json.loads(path.read_text(encoding="utf-8")) == expected
    assert read_json(path) == expected


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "meta.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError, match="type set"):
        write_json(path, {"new": {1, 2}})
    assert read_json(path) == {"old": 1}
    assert names(tmp_path) == ["meta.json"]


@pytest.mark.parametrize("content", [b"", b'{"n": ', b"\xff\xfe\x00"])
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "meta.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"meta\.json is not valid JSON"):
        read_json(path)


def test_missing_json_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"meta\.json"):
        read_json(tmp_path / "meta.json")


# ------------------------------------------------------------------ arrays


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(4, 3, 2),
        np.asfortranarray(np.arange(24.0).reshape(4, 6)),
        np.arange(20, dtype=np.uint8)[::-2],
        np.zeros((0, 3)),
    ],
    ids=["float32", "fortran", "strided", "empty"],
)
def test_written_arrays_are_read_by_numpy(tmp_path, array):
    path = tmp_path / "betas.npy"
    write_array(path, array)
    for loaded in (np.load(path), np.load(path, mmap_mode="r")):
        assert loaded.dtype == array.dtype
        np.testing.assert_array_equal(loaded, array)


def test_write_array_writes_every_block(tmp_path):
    array = np.random.default_rng(0).standard_normal((3, 3 * 2**20), dtype=np.float32)
    assert len(list(row_blocks(array))) == 3  # 12 MiB a row: one row a block of 16 MiB
    write_array(tmp_path / "betas.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "betas.npy"), array)


def test_a_full_disk_is_an_error_and_not_a_crash(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(OSError), atomic_path(tmp_path / "betas.npy") as temporary:
            write_array(temporary, np.ones(2**16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == []


@pytest.mark.parametrize("n_bytes", [1, 100, 10**6])
def test_row_blocks_put_together_are_the_array(n_bytes):
    array = np.arange(90).reshape(10, 9)
    blocks = list(row_blocks(array, n_bytes))
    np.testing.assert_array_equal(np.concatenate(blocks), array)
    assert all(len(block) == 1 or block.nbytes <= n_bytes for block in blocks)


# ------------------------------------------------------------------ fingerprint


def test_fingerprint_is_the_same_in_another_process():
    # PYTHONHASHSEED differs: hash() would not do.
    code = (
        "import numpy as np; from brainenc.storage import fingerprint;"
        "print(fingerprint(np.arange(5, dtype='f4'), {'b': 1, 'a': [2, 'x']}))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert other == fingerprint(np.arange(5, dtype="f4"), {"a": [2, "x"], "b": 1})
    assert len(other) == 32


def test_fingerprint_is_blake2b_of_dtype_shape_and_bytes():
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    digest = hashlib.blake2b(b"<f4(2, 3)" + array.tobytes() + b"\0", digest_size=16)
    assert fingerprint(array) == digest.hexdigest()


def test_fingerprint_sees_content_not_layout(tmp_path):
    array = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    same = [
        array.copy(),
        np.asfortranarray(array),
        np.repeat(array, 2, axis=1)[:, ::2],
        np.load(tmp_path / "a.npy", mmap_mode="r"),
    ]
    assert {fingerprint(a) for a in same} == {fingerprint(array)}


def test_fingerprint_tells_apart_what_differs():
    array = np.arange(6, dtype=np.float32)
    changed = array.copy()
    changed[-1] += 1
    parts = [
        (array,),
        (changed,),
        (array.reshape(2, 3),),
        (array.astype(np.float64),),
        (array[:0],),
        (array[:0].reshape(0, 3),),
        (np.float32(0).reshape(()),),
        (array, array),
        (np.array(["V1", "V2"]),),
        (list(range(6)),),
        (1, 2),
        (12,),
        ("12",),
        (None,),
        (),
    ]
    assert len({fingerprint(*part) for part in parts}) == len(parts)


def test_fingerprint_reads_past_the_first_block():
    array = np.zeros((25, 2**20), dtype=np.uint8)  # 25 MiB: two blocks
    changed = array.copy()
    changed[-1, -1] = 1
    assert fingerprint(array) != fingerprint(changed)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_walking_through_a_memory_map_keeps_no_more_than_a_block(tmp_path):
    n_bytes = 200 * 2**20
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (200, n_bytes // 800))
    array[:] = 1
    del array
    array = np.load(tmp_path / "x.npy", mmap_mode="r")
    page = os.sysconf("SC_PAGE_SIZE")

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    before, most = resident(), 0
    for block in row_blocks(np.asarray(array), 2**20):
        assert block.sum() == block.size
        most = max(most, resident() - before)
    # One block of 1 MB, and what the system maps around it; the file has 200 MB.
    assert most < 40 * 2**20


def test_a_map_that_keeps_its_changes_is_not_let_go(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(4))
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[0] = 5
    release(private)
    release(np.arange(3))
    assert private[0] == 5


def test_rows_of_a_large_memory_map_go_to_disk(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(60.0).reshape(20, 3))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = np.array([7, 3, 19])
    on_disk = take_rows(np.asarray(mapped), rows, tmp_path, n_bytes=10)
    assert isinstance(on_disk, np.memmap)
    np.testing.assert_array_equal(on_disk, mapped[rows])
    for small in (take_rows(mapped, rows, tmp_path), take_rows(mapped[:] + 0, rows, tmp_path, 10)):
        assert len(list(tmp_path.iterdir())) == 2  # nothing new
        np.testing.assert_array_equal(small, mapped[rows])


# ------------------------------------------------------------------ array_file, take_columns


def test_rows_written_one_after_the_other_are_the_array(tmp_path):
    array = np.arange(60, dtype=np.float32).reshape(10, 3, 2)
    with array_file(tmp_path / "array.npy", array.shape, np.float32) as write:
        for rows in (slice(0, 4), slice(4, 5), slice(5, 10)):
            write(array[rows].astype(np.float64))
    np.testing.assert_array_equal(np.load(tmp_path / "array.npy", mmap_mode="r"), array)


@pytest.mark.parametrize("columns", [slice(1, 3), np.array([3, 0]), np.arange(4) > 1])
def test_columns_are_taken_of_rows_in_any_order(tmp_path, columns):
    array = np.random.default_rng(0).standard_normal((7, 2, 4))
    np.save(tmp_path / "array.npy", array)
    mapped, rows = np.load(tmp_path / "array.npy", mmap_mode="r"), np.array([5, 0, 5])
    np.testing.assert_array_equal(take_columns(mapped, columns, rows), array[rows][..., columns])
    found = take_columns(array, columns)
    np.testing.assert_array_equal(found, array[..., columns])
    assert not np.shares_memory(found, array)
