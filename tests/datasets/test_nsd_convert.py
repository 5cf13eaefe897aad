"""NSD to .brain folders: the same data, after kills too, and little memory."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from nsd_tree import NSDTree
from typer.testing import CliRunner

from brainenc.cli import app
from brainenc.data.encoding_data import EncodingData
from brainenc.data.hdf5_images import HDF5Images
from brainenc.datasets import convert_nsd, load_nsd, shared_test_mask
from brainenc.datasets import streaming as module
from brainenc.datasets.nsd import load as nsd
from brainenc.datasets.nsd import plan

SESSIONS = [1, 2, 4]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return NSDTree(tmp_path_factory.mktemp("nsd"), sessions=SESSIONS).write().root


@pytest.fixture(scope="module")
def converted(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "subj01.brain"
    return convert_nsd(root, out, units="zscore", sessions=SESSIONS, verbose=False)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_converted_subject_is_the_loaded_one(root, converted):
    data = EncodingData.load(converted)
    loaded = load_nsd(root, units="zscore", sessions=SESSIONS, verbose=False)
    np.testing.assert_array_equal(data.betas, loaded.betas)
    assert np.isnan(data.betas[data.trials.query("session == 4")["image"]]).any()
    pd.testing.assert_frame_equal(data.trials, loaded.trials)
    # In a CSV file an empty label is a missing one.
    pd.testing.assert_frame_equal(data.voxels.fillna(""), loaded.voxels.fillna(""))
    assert data.units == loaded.units == "z-scored within session"
    assert json.loads((converted / "meta.json").read_text())["units"] == data.units
    np.testing.assert_array_equal(data.images[17], loaded.images[17])
    np.testing.assert_array_equal(data.volume.affine, loaded.volume.affine)
    np.testing.assert_array_equal(shared_test_mask(data), shared_test_mask(loaded))
    assert data.rois().keys() == loaded.rois().keys()
    # Saved the ordinary way it is the same folder.
    again = loaded.save(converted.parent / "again.brain")
    assert contents(again) == contents(converted)


KILLED = """
import os, signal, sys
from brainenc.datasets import convert_nsd, streaming
write, n_rows = streaming._write_row, 0
def dying(*arguments):
    global n_rows
    write(*arguments)
    n_rows += 1
    if n_rows == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
streaming._write_row = dying
convert_nsd(sys.argv[1], sys.argv[2], units="zscore", sessions=[1, 2, 4])
"""


def test_a_killed_conversion_goes_on_and_ends_the_same_to_the_bit(
    root, converted, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "subj01.brain"
    # First while missing repeats are filled in, then in the second session.
    n_missing = 3 * EncodingData.load(converted).n_images - 3 * 750
    for n_rows in (5, n_missing + 750 + 300):
        command = [sys.executable, "-c", KILLED, str(root), str(out), str(n_rows)]
        killed = subprocess.run(command, capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not out.exists()
    read = []
    betas = plan.Plan.read

    def counted(plan, session):
        read.append(session)
        return betas(plan, session)

    monkeypatch.setattr(plan.Plan, "read", counted)
    convert_nsd(root, out, units="zscore", sessions=SESSIONS)
    assert read == [2, 4]
    assert "where 1 sessions are finished" in capsys.readouterr().out
    assert contents(out) == contents(converted)
    assert [path.name for path in tmp_path.iterdir()] == ["subj01.brain"]


def test_other_settings_or_files_start_over(root, converted, tmp_path, monkeypatch, capsys):
    def stop(plan, session):
        raise KeyboardInterrupt

    out = tmp_path / "subj01.brain"
    with monkeypatch.context() as patch:
        patch.setattr(plan.Plan, "read", stop)
        with pytest.raises(KeyboardInterrupt):
            convert_nsd(root, out, units="percent", sessions=SESSIONS)
    convert_nsd(root, out, units="zscore", sessions=SESSIONS)
    assert "starting over" in capsys.readouterr().out
    assert contents(out) == contents(converted)


def a_plan(root, **arguments):
    settings = {
        "units": "percent", "space": "func1pt8mm", "betas": "betas_fithrf_GLMdenoise_RR",
        "file_format": "auto", "mask": "nsdgeneral", "sessions": 1, "one_hour": None,
        "image_size": None,
    }  # fmt: skip
    return plan.make_plan(root, 1, **(settings | arguments))


def other_trials(plan):
    """The same images and as many trials, as of a design that was mended."""
    return plan.trials.assign(trial=plan.trials["trial"].to_numpy()[::-1])


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: {"mask": plan.mask[::-1]},
        lambda plan: {"trials": other_trials(plan)},
        lambda plan: {"images": HDF5Images(plan.files.stimuli, size=(9, 9))[plan.images.index]},
        lambda plan: {"sessions": [2]},
        lambda plan: {"units": "zscore"},
        lambda plan: {"files": dataclasses.replace(plan.files, subject=2)},
    ],
    ids=["mask", "trials", "images", "sessions", "units", "subject"],
)
def test_only_the_same_plan_is_gone_on_with(root, tmp_path, monkeypatch, change):
    plan, again, partial = a_plan(root), a_plan(root), tmp_path / "partial"
    # Those of another subject, too.
    monkeypatch.setattr("brainenc.datasets.nsd.plan.existing", lambda files: [])
    assert module._start(plan, partial) == []
    record = partial / "session_01.npy"
    np.save(record, np.ones(len(plan.voxels), dtype=bool))
    assert "1 sessions are finished" in module._start(again, partial)[0]
    assert record.exists()
    assert "starting over" in module._start(dataclasses.replace(plan, **change(plan)), partial)[0]
    assert not record.exists()


def test_betas_that_were_fetched_again_are_read_again(tmp_path):
    tree = NSDTree(tmp_path / "nsd", sessions=[1]).write()
    module._start(a_plan(tree.root), tmp_path / "partial")
    path = tree.beta_folder() / "betas_session01.hdf5"
    os.utime(path, (0, 0))
    assert "starting over" in module._start(a_plan(tree.root), tmp_path / "partial")[0]


def test_a_session_counts_as_finished_when_its_betas_are_on_disk(root, tmp_path, monkeypatch):
    """A power cut takes what the system has not written yet, but not what was renamed before."""
    plan, events = a_plan(root), []
    fsync, atomic_path = os.fsync, module.atomic_path

    def synced(descriptor):
        fsync(descriptor)
        events.append(os.fstat(descriptor).st_ino)

    @contextmanager
    def recorded(path):
        with atomic_path(path) as temporary:
            yield temporary
        events.append(path.name)

    module._start(plan, tmp_path)
    monkeypatch.setattr(module.os, "fsync", synced)
    monkeypatch.setattr(module, "atomic_path", recorded)
    module._write_parts(plan, tmp_path, verbose=False)
    betas, record = tmp_path / "brain" / "betas.npy", tmp_path / "session_01.npy"
    assert events == [betas.stat().st_ino, record.stat().st_ino, record.name]


def test_what_is_there_is_not_written_over(root, converted, tmp_path):
    with pytest.raises(FileExistsError, match="delete it or choose another name"):
        convert_nsd(root, converted, units="zscore", sessions=SESSIONS)
    with (
        FileLock(tmp_path / ".other.brain.partial.lock"),
        pytest.raises(FileExistsError, match="another process is writing"),
    ):
        convert_nsd(root, tmp_path / "other.brain", units="zscore", sessions=1, verbose=False)


def test_what_another_process_finished_meanwhile_is_left_alone(
    root, converted, tmp_path, monkeypatch
):
    """It is written while this one reads tables and masks, and is not converted again."""
    out = tmp_path / "subj01.brain"
    make_plan = plan.make_plan

    def slow(*arguments, **options):
        shutil.copytree(converted, out)
        return make_plan(*arguments, **options)

    def read(plan, session):
        raise AssertionError("the sessions are read again")

    monkeypatch.setattr(nsd, "make_plan", slow)
    monkeypatch.setattr(plan.Plan, "read", read)
    with pytest.raises(FileExistsError, match="delete it or choose another name"):
        convert_nsd(root, out, units="zscore", sessions=SESSIONS, verbose=False)
    assert contents(out) == contents(converted)
    assert [path.name for path in tmp_path.iterdir()] == ["subj01.brain"]  # no lock stays


def test_a_lock_that_cannot_be_removed_while_it_is_held_does_no_harm(root, tmp_path, monkeypatch):
    """As on Windows, where an open file cannot be deleted."""
    unlink = module.Path.unlink

    def of_windows(path, missing_ok=False):
        if path.name.endswith(".lock"):
            raise PermissionError(13, "used by another process", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(module.Path, "unlink", of_windows)
    out = convert_nsd(root, tmp_path / "s.brain", units="percent", sessions=1, verbose=False)
    assert EncodingData.load(out).betas.shape[1] == 3


def test_a_full_disk_is_seen_before_the_first_session(root, tmp_path, monkeypatch):
    usage = dataclasses.make_dataclass("Usage", ["free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000))
    with pytest.raises(OSError, match="bytes, but 1,000 are free"):
        convert_nsd(root, tmp_path / "subj01.brain", units="percent", sessions=1, verbose=False)


def test_copied_and_resized_images_need_no_stimuli(root, tmp_path):
    out = convert_nsd(
        root, tmp_path / "s.brain", units="percent", sessions=1, one_hour="session",
        image_size=16, copy_images=True, verbose=False,
    )  # fmt: skip
    images = np.load(out / "images.npy")
    data = load_nsd(root, units="percent", sessions=1, image_size=16, verbose=False)
    np.testing.assert_array_equal(images, data.images)


def run(*arguments):
    return CliRunner().invoke(app, ["convert", "nsd", *map(str, arguments)])


def test_command_line(root, tmp_path):
    out = tmp_path / "subj01.brain"
    result = run(root, "--subject", "1", "--out", out, "--sessions", "1-2,4")
    assert result.exit_code == 0, result.output
    assert "not z-scored" in result.stdout
    assert "lack data in some of the 3 sessions" in result.stdout
    assert result.stdout.splitlines()[-1] == str(out)
    data = EncodingData.load(out)
    assert data.units == "percent signal change"
    loaded = load_nsd(root, units="percent", sessions=SESSIONS, verbose=False)
    np.testing.assert_array_equal(data.betas, loaded.betas)


def test_command_line_lists_missing_files(root, tmp_path):
    result = run(root, "--out", tmp_path / "subj01.brain")
    assert result.exit_code == 2
    folder = root / "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    lines = [line.strip() for line in result.stderr.splitlines()]
    assert lines[1:-1] == [
        f"{folder}/betas_session{s:02d}.hdf5 or {folder}/betas_session{s:02d}.nii.gz"
        for s in range(1, 41)
        if s not in SESSIONS
    ]
    result = run(tmp_path / "nds", "--out", tmp_path / "subj01.brain")
    assert f"missing under {tmp_path}/nds, which is no folder." in result.stderr
    for sessions in ("1-x", "2-"):
        with pytest.raises(ValueError, match=f"'{sessions}' must be numbers or ranges"):
            raise run(root, "--out", tmp_path / "s.brain", "--sessions", sessions).exception


# The peak of this process; ru_maxrss would be at least that of the process that starts it.
PEAK = """
import re, sys
from brainenc.datasets import convert_nsd
sessions = range(1, int(sys.argv[3]) + 1)
convert_nsd(*sys.argv[1:3], units="zscore", sessions=sessions, verbose=False)
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_only_a_session_is_in_memory(tmp_path):
    tree = NSDTree(tmp_path, sessions=[1], shape=(16, 16, 10))
    tree.nsdgeneral[:] = 1
    tree.write()
    folder = tree.beta_folder()
    for session in range(2, 13):
        (folder / f"betas_session{session:02d}.hdf5").hardlink_to(folder / "betas_session01.hdf5")
    n_bytes, peak = [], []
    for n_sessions in (2, 12):
        out = tmp_path / f"{n_sessions}.brain"
        command = [sys.executable, "-c", PEAK, str(tmp_path), str(out), str(n_sessions)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        n_bytes.append((out / "betas.npy").stat().st_size)
        peak.append(1024 * int(said))
    assert n_bytes[1] == 128 + 4 * 3000 * 3 * 2560
    # Tables of trials grow a little with the sessions; betas must not.
    assert peak[1] - peak[0] < (n_bytes[1] - n_bytes[0]) / 4
