"""What killed writers leave: found by the next writer, and never taken from a running one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from brainenc import storage, temporaries
from brainenc.storage import NotWrittenError, atomic_path
from brainenc.temporaries import KEPT_DAYS, remove_left_behind, scratch_folder

WRITER = """
import sys, time
from pathlib import Path
from brainenc.storage import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch):
    monkeypatch.setattr(temporaries, "_next_look", {})
    monkeypatch.setattr(temporaries, "_SHARE", np.inf)


@pytest.fixture
def writer(tmp_path):
    """A process in the middle of writing "draws.npy"."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "draws.npy")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path, writer):
    left = names(tmp_path)
    assert len(left) == 1
    writer.kill()
    writer.wait()
    assert names(tmp_path) == left
    with atomic_path(tmp_path / "other") as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == ["other"]


def test_what_a_running_process_writes_stays(tmp_path, writer):
    left = names(tmp_path)
    old = time.time() - 3600
    os.utime(tmp_path / left[0], (old, old))
    with atomic_path(tmp_path / "other") as temporary:
        temporary.write_text("whole")
    with scratch_folder(tmp_path, "rows") as folder:
        assert folder.is_dir()
    assert names(tmp_path) == [*left, "other"]


def test_a_killed_process_that_nobody_has_waited_for_counts_as_ended(tmp_path, writer):
    os.kill(writer.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{writer.pid}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{writer.pid}/stat").read_text().split()[2] == "Z":
            break
    remove_left_behind(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("days", "stays"), [(KEPT_DAYS - 1, True), (KEPT_DAYS + 1, False)])
def test_those_of_another_machine_are_judged_by_their_age(tmp_path, days, stays):
    folder = tmp_path / f".fold2.{'0' * 12}-{os.getpid()}.{'a' * 12}.tmp"
    folder.mkdir()
    (folder / "part").write_text("x")
    long_ago = time.time() - 400 * 24 * 3600
    then = time.time() - days * 24 * 3600
    os.utime(folder / "part", (then, then))  # the newest change in it counts
    os.utime(folder, (long_ago, long_ago))
    remove_left_behind(tmp_path)
    assert folder.exists() == stays


def test_other_hidden_files_are_left_alone(tmp_path):
    others = [".notes.tmp", ".a.0123456789ab.tmp", "model.tmp", ".draws.npy.swp", ".rows-x1y2"]
    for name in others:
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, (0, 0))
    remove_left_behind(tmp_path)
    assert names(tmp_path) == sorted(others)


def test_a_process_finds_its_own_of_a_former_process_with_its_number(tmp_path):
    with atomic_path(tmp_path / "a") as mine:
        former = mine.with_name(mine.name.replace(".a.", ".b."))
        former.write_text("of a container whose only process had number 1, too")
        mine.write_text("whole")
        remove_left_behind(tmp_path)
        assert names(tmp_path) == [mine.name]
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("has_new", [True, False])
def test_a_folder_set_aside_by_a_killed_process_comes_back(tmp_path, has_new):
    """Killed between the two renamings of a replacement: the new folder was complete."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stem = f".model.{temporaries._machine()}-{ended.pid}.{'a' * 12}"
    for kind, content in {"old": "old", "tmp": "new"}.items():
        if kind == "old" or has_new:
            (tmp_path / f"{stem}.{kind}").mkdir()
            (tmp_path / f"{stem}.{kind}" / "content").write_text(content)
    remove_left_behind(tmp_path)
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "content").read_text() == ("new" if has_new else "old")


def test_long_names_fit_into_a_folder(tmp_path):
    for name in ("ä" * 127, "n" * 255):
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_text("x")
        assert (tmp_path / name).read_text() == "x"


def test_a_large_folder_is_not_looked_through_at_every_write(tmp_path, monkeypatch):
    monkeypatch.setattr(temporaries, "_SHARE", 0.01)
    looked = []
    monkeypatch.setattr(os, "scandir", lambda folder: looked.append(folder) or _slow())
    for _ in range(5):
        remove_left_behind(tmp_path)
    assert len(looked) == 1


def _slow():
    time.sleep(0.1)
    raise OSError


@pytest.mark.parametrize("exchange", ["storage._exchange", "lambda one, other: False"])
def test_several_processes_replace_one_folder(tmp_path, exchange):
    """The folder is whole at the end, of one of them, and nothing else is left."""
    code = f"""
import sys
from pathlib import Path
from brainenc import storage
from brainenc.storage import atomic_path
storage._exchange = {exchange}
for i in range(60):
    with atomic_path(Path(sys.argv[1])) as temporary:
        temporary.mkdir()
        for part in ("a", "b"):
            (temporary / part).write_text(sys.argv[2] + f" {{i}}")
"""
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    processes = [
        subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in "xyz"
    ]
    for process in processes:
        assert process.communicate(timeout=120)[1] == ""
        assert process.returncode == 0
    assert names(tmp_path) == ["model"]
    parts = {(tmp_path / "model" / part).read_text() for part in ("a", "b")}
    assert len(parts) == 1
    assert parts.pop().endswith(" 59")


def test_a_folder_that_is_replaced_is_never_missing(tmp_path):
    if not storage._exchange(tmp_path / "a", tmp_path / "b") and sys.platform != "linux":
        pytest.skip("this system cannot exchange two folders")
    code = """
import sys
from pathlib import Path
from brainenc.storage import atomic_path
while True:
    with atomic_path(Path(sys.argv[1])) as temporary:
        temporary.mkdir()
        (temporary / "part").write_text("whole")
"""
    model = tmp_path / "model"
    process = subprocess.Popen([sys.executable, "-c", code, str(model)])
    try:
        while not model.exists():
            time.sleep(0.01)
        assert all(model.exists() for _ in range(50_000))
    finally:
        process.kill()
        process.wait()


def write_with_safetensors(path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(200_000)}, path)


def write_with_torch(path):
    import torch

    torch.save(torch.zeros(200_000), path)


def write_with_hdf5(path):
    import h5py

    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(200_000)


def write_with_numpy(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(200_000))


WRITERS = {
    "safetensors": write_with_safetensors,
    "torch": write_with_torch,
    "hdf5": write_with_hdf5,
    "numpy": write_with_numpy,
    "text": lambda path: path.write_text("x" * 200_000),
}


@pytest.mark.parametrize("library", WRITERS)
def test_a_full_disk_is_one_error_that_names_the_file(tmp_path, library):
    resource = pytest.importorskip("resource", reason="no limits of file sizes on this system")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    final = tmp_path / "model"
    final.write_text("old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with (
            pytest.raises(
                NotWrittenError, match=r"model is not written \((File too large|No space)"
            ),
            atomic_path(final) as temporary,
        ):
            WRITERS[library](temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert final.read_text() == "old"
    assert names(tmp_path) == ["model"]
