"""Own volumes and outputs of GLMsingle to .brain folders: the loaded data, after kills too."""

import json
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
from own_data import NAMES, assert_is_own, make_own_data, trial_table
from typer.testing import CliRunner

from brainenc.cli import app
from brainenc.data import from_volumes
from brainenc.data.encoding_data import EncodingData
from brainenc.datasets import convert_glmsingle, convert_volumes, load_glmsingle


@pytest.fixture
def own():
    return make_own_data()


@pytest.fixture
def files(own, tmp_path):
    """What a user has: betas in runs, a mask, an atlas with its table, trials and pictures."""
    folder = tmp_path / "files"
    own.write_pictures(folder / "stimuli")
    own.nifti(own.mask, folder / "mask.nii.gz")
    own.nifti(own.codes, folder / "visual.nii.gz")
    lines = [f"{code} {name} 0 0 0 0" for code, name in NAMES.items()]
    (folder / "visual.ctab").write_text("\n".join(lines))
    for i, run in enumerate(np.split(own.betas, 3, axis=3)):
        own.nifti(run, folder / f"run{i}.nii.gz")
    with h5py.File(folder / "betas.h5", "w") as file:
        file["betasmd"] = own.betas
    np.save(folder / "TYPED_FITHRF_GLMDENOISE_RR.npy", {"betasmd": own.betas})
    trial_table(own, ".png").to_csv(folder / "trials.tsv", sep="\t", index=False)
    table = pd.DataFrame(
        {"name": [f"{name}.png" for name in own.names], "category": list("abcdabcd")}
    )
    table.to_csv(folder / "stimuli.csv", index=False)
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def arguments(own, files):
    """Of `EncodingData.from_volumes`, with two blocks of trials and more."""
    return (
        [files / f"run{i}.nii.gz" for i in range(3)],
        files / "mask.nii.gz",
        own.ids,
        files / "stimuli",
    )


OPTIONS = {"labels": NAMES, "units": "a.u.", "name": "me"}


def options(files):
    return {**OPTIONS, "atlases": {"visual": files / "visual.nii.gz"},
            "stimuli": files / "stimuli.csv"}  # fmt: skip


def test_a_converted_folder_is_the_saved_one(own, files, tmp_path, monkeypatch):
    betas, *others = arguments(own, files)
    data = EncodingData.from_volumes(betas, *others, **options(files))
    saved = data.save(tmp_path / "saved.brain")
    for block in (2**27, 1000):
        monkeypatch.setattr(from_volumes, "BLOCK", block)
        out = tmp_path / f"{block}.brain"
        convert_volumes(betas, out, *others, verbose=False, **options(files))
        assert contents(out) == contents(saved)
        assert not list(tmp_path.glob(".*"))
    loaded = EncodingData.load(out, verify=True)
    assert_is_own(loaded, own)
    assert loaded.stimuli["category"].tolist() == list("abcdabcd")
    assert loaded.rois().keys() == {"V1", "V2", "hV4"}


def test_outputs_of_glmsingle_are_converted_as_loaded(own, files, tmp_path, monkeypatch):
    monkeypatch.setattr(from_volumes, "BLOCK", 1000)
    trials, pictures, mask = files / "trials.tsv", files / "stimuli", files / "mask.nii.gz"
    saved = load_glmsingle(files, trials, pictures, mask).save(tmp_path / "saved.brain")
    convert_glmsingle(files, tmp_path / "a.brain", trials, pictures, mask, verbose=False)
    assert contents(tmp_path / "a.brain") == contents(saved)


KILLED = """
import os, signal, sys
from brainenc.data import from_volumes
from brainenc.datasets import convert_volumes, streaming
from_volumes.BLOCK = 1000
write, n_rows = streaming._write_row, 0
def dying(*arguments):
    global n_rows
    write(*arguments)
    n_rows += 1
    if n_rows == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
streaming._write_row = dying
files, ids = sys.argv[1], sys.argv[4].split(",")
convert_volumes(files + "/betas.h5", sys.argv[3], files + "/mask.nii.gz", ids, files + "/stimuli")
"""


def test_a_killed_conversion_goes_on_and_ends_the_same_to_the_bit(
    own, files, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(from_volumes, "BLOCK", 1000)
    args = (files / "mask.nii.gz", own.ids, files / "stimuli")
    whole = convert_volumes(files / "betas.h5", tmp_path / "whole.brain", *args, verbose=False)
    out = tmp_path / "killed.brain"
    for n_rows in (15, 9):
        command = [sys.executable, "-c", KILLED, files, str(n_rows), out, ",".join(own.ids)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == -signal.SIGKILL, run.stderr
        assert not out.exists()
    done = len(list((tmp_path / ".killed.brain.partial").glob("block_*.npy")))
    assert done > 0
    read = []
    monkeypatch.setattr(
        from_volumes.VolumesPlan, "read", _counting(from_volumes.VolumesPlan.read, read)
    )
    convert_volumes(files / "betas.h5", out, *args)
    assert f"where {done} blocks are finished" in capsys.readouterr().out
    assert len(read) > 0
    assert contents(out) == contents(whole)


def _counting(function, calls):
    def counted(self, part):
        calls.append(part)
        return function(self, part)

    return counted


def test_other_files_start_over(own, files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(from_volumes, "BLOCK", 1000)
    args = (files / "mask.nii.gz", own.ids, files / "stimuli")
    out = tmp_path / "a.brain"
    command = [sys.executable, "-c", KILLED, files, "15", out, ",".join(own.ids)]
    subprocess.run(command, capture_output=True, check=False)
    os.utime(files / "betas.h5", (0, 0))
    convert_volumes(files / "betas.h5", out, *args)
    assert "starting over" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="delete it or choose another name"):
        convert_volumes(files / "betas.h5", out, *args)


def test_arrays_in_memory_are_compared_by_their_content(own, tmp_path, monkeypatch, capsys):
    """A process that was killed comes back with an array that has no file to look at."""
    monkeypatch.setattr(from_volumes, "BLOCK", 1000)
    args = (own.mask, own.ids, own.pictures)

    def plan(betas):
        return from_volumes.make_plan(betas, *args)

    assert plan(own.betas).fingerprint() == plan(own.betas.copy()).fingerprint()
    changed = own.betas.copy()
    i, j, k = np.argwhere(own.mask)[3]
    changed[i, j, k, 17] += 1
    assert plan(own.betas).fingerprint() != plan(changed).fingerprint()


def test_trials_without_data_are_left_out_of_the_table(own, files, tmp_path):
    own.betas[..., 3] = np.nan
    args = (own.mask, own.ids, own.pictures)
    with pytest.warns(UserWarning, match="1 trials have only NaN"):
        out = convert_volumes(own.betas, tmp_path / "a.brain", *args, verbose=False)
    loaded = EncodingData.load(out)
    assert len(loaded.trials) == 23
    assert 3 not in loaded.trials["trial"].tolist()


# ------------------------------------------------------------------ the command line


def run(*words):
    result = CliRunner().invoke(app, ["convert", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_commands_write_the_folders(own, files, tmp_path):
    shared = ["--mask", files / "mask.nii.gz", "--trials", files / "trials.tsv",
              "--images", files / "stimuli", "--atlas", f"visual={files / 'visual.nii.gz'}",
              "--labels", f"visual={files / 'visual.ctab'}", "--stimuli", files / "stimuli.csv",
              "--name", "me", "--quiet"]  # fmt: skip
    out = tmp_path / "volumes.brain"
    printed = run("volumes", files / "betas.h5", "--out", out, "--units", "a.u.", *shared)
    assert str(out) in printed
    data = EncodingData.load(out)
    assert_is_own(data, own)
    assert (data.name, data.units) == ("me", "a.u.")
    assert data.rois().keys() == {"V1", "V2", "hV4"}
    assert data.stimuli["category"].tolist() == list("abcdabcd")
    assert data.trials.sort_values("trial")["run"].tolist() == [1] * 8 + [2] * 8 + [3] * 8
    runs = [files / f"run{i}.nii.gz" for i in range(3)]
    run("volumes", *runs, "--out", tmp_path / "runs.brain", *shared)
    assert_is_own(EncodingData.load(tmp_path / "runs.brain"), own)
    run("volumes", f"{files / 'betas.h5'}:betasmd", "--out", tmp_path / "h5.brain", *shared[:6])
    assert_is_own(EncodingData.load(tmp_path / "h5.brain"), own)
    run("glmsingle", files, "--out", tmp_path / "glm.brain", *shared)
    data = EncodingData.load(tmp_path / "glm.brain")
    assert_is_own(data, own)
    assert data.units == "percent signal change"
    assert json.loads((tmp_path / "glm.brain" / "meta.json").read_text())["name"] == "me"


def test_commands_say_what_is_wrong(own, files, tmp_path):
    words = ["convert", "volumes", str(files / "betas.h5"), "--out", str(tmp_path / "a.brain"),
             "--mask", str(files / "visual.nii.gz"), "--trials", str(files / "trials.tsv"),
             "--images", str(files / "stimuli")]  # fmt: skip
    with pytest.raises(ValueError, match="holds the labels"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    words[6] = str(files / "mask.nii.gz")
    with pytest.raises(ValueError, match="--atlas =x must be NAME=FILE"):
        CliRunner().invoke(app, [*words, "--atlas", "=x"], catch_exceptions=False)
    labels = ["--labels", str(files / "visual.ctab")]
    with pytest.raises(ValueError, match="--labels needs NAME=FILE"):
        CliRunner().invoke(app, [*words, *labels], catch_exceptions=False)
    assert not (tmp_path / "a.brain").exists()
