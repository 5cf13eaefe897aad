"""Which files of NSD a conversion needs, and fetching them by a command ``aws`` of this test."""

import builtins
import os
import shutil
import stat
from pathlib import Path

import pytest
from nsd_tree import NSDTree

from brainenc.datasets import convert_nsd, download_nsd, load_nsd, nsd_files
from brainenc.memory import size

#: A command that copies from a folder in place of the bucket, and logs what it was asked for.
AWS = """#!/bin/sh
echo "$@" >> {log}
for word in "$@"; do
  case "$word" in s3://natural-scenes-dataset/*) from="{bucket}/${{word#s3://*/}}";; esac
  to="$word"
done
case "$from" in */) cp -r "$from" "$to" 2>/dev/null; exit $?;; esac
[ -e "$from" ] || {{ echo "fatal error: An error occurred (404): Not Found" >&2; exit 1; }}
cp "$from" "$to"
"""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """Two sessions of subject 1, in both formats and spaces."""
    root = tmp_path_factory.mktemp("bucket")
    NSDTree(root).write(nifti=True, surface=True)
    return root


@pytest.fixture
def aws(tmp_path, monkeypatch, bucket):
    """The log of a command aws, which is the only way to fetch."""
    folder, log = tmp_path / "bin", tmp_path / "aws.log"
    folder.mkdir()
    script = folder / "aws"
    script.write_text(AWS.format(log=log, bucket=bucket))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    without_boto3(monkeypatch)
    return log


def without_boto3(monkeypatch):
    def importing(name, *rest, _real=builtins.__import__):
        if name == "boto3":
            raise ImportError(name)
        return _real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)


def copied(files, bucket, root):
    for path in files["path"]:
        if (bucket / path).exists():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(bucket / path, root / path)


@pytest.mark.parametrize(
    "options",
    [
        {"space": "func1pt8mm", "file_format": "hdf5"},
        {"space": "func1pt8mm", "file_format": "nifti", "mask": "prf-visualrois:V1v"},
        {"space": "fsaverage", "mask": "prf-visualrois"},
        {"space": "fsaverage", "mask": "all"},
    ],
)
def test_the_files_listed_are_those_that_reading_takes(bucket, tmp_path, options):
    files = nsd_files(1, sessions=[2], **options)
    copied(files, bucket, tmp_path / "listed")
    read = {"units": "percent", "sessions": 2, "verbose": False, **options}
    data = load_nsd(tmp_path / "listed", **read)
    whole = load_nsd(bucket, **read)
    assert data.voxels.equals(whole.voxels)  # atlases, hemispheres and ncsnr included
    assert data.betas.tobytes() == whole.betas.tobytes()
    # Without any of the needed ones it cannot be read; without the others it can.
    for path in files.loc[files["needed"], "path"]:
        moved = (tmp_path / "listed" / path).rename(tmp_path / "away")
        with pytest.raises(FileNotFoundError, match=Path(path).name):
            load_nsd(tmp_path / "listed", **read)
        moved.rename(tmp_path / "listed" / path)
    for path in files.loc[~files["needed"], "path"]:
        (tmp_path / "listed" / path).unlink(missing_ok=True)
    assert load_nsd(tmp_path / "listed", **read).n_images == data.n_images


def test_sizes_of_hdf5_files_are_those_that_were_made_public():
    """40 sessions of subject 1 were said to take 40.77 GiB, and NSD-imagery 1,052,494,008 bytes."""
    files = nsd_files(1, betas="betas_fithrf")
    of_betas = files[files["path"].str.contains("betas_session")]
    assert len(of_betas) == 40
    assert round(of_betas["n_bytes"].sum() / 2**30, 2) == 40.77
    assert set(of_betas["size"]) == {"computed"}
    (imagery,) = nsd_files(1, experiment="nsdimagery").query("path.str.endswith('.hdf5')")[
        "n_bytes"
    ]
    assert imagery == 1_052_494_008


@pytest.mark.parametrize(("subject", "n_sessions"), [(1, 40), (3, 32), (4, 30), (8, 30)])
def test_all_sessions_of_a_subject(subject, n_sessions):
    files = nsd_files(subject)
    folder = f"nsddata_betas/ppdata/subj{subject:02d}/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    expected = [f"{folder}/betas_session{n:02d}.hdf5" for n in range(1, n_sessions + 1)]
    found = files.loc[files["path"].str.contains("betas_session"), "path"]
    assert found.tolist() == expected
    assert files["path"].is_unique


def test_other_experiments_name_their_files():
    paths = set(nsd_files(2, experiment="nsdsynthetic", space="fsaverage", mask="all")["path"])
    folder = "nsddata_betas/ppdata/subj02/fsaverage/nsdsyntheticbetas_fithrf_GLMdenoise_RR"
    assert f"{folder}/lh.betas_nsdsynthetic.mgh" in paths
    assert "nsddata_stimuli/stimuli/nsdsynthetic/nsdsynthetic_colorstimuli_subj02.hdf5" in paths
    paths = set(nsd_files(2, experiment="nsdimagery")["path"])
    assert "nsddata/experiments/nsdimagery/rawtargetimages/setA/" in paths
    assert "nsddata/bdata/nsdimagery/nsdimagery_subj02_imgB_2.tsv" in paths
    assert not any("attA" in path for path in paths)


def test_fetched_files_can_be_converted(aws, tmp_path):
    files = nsd_files(1, sessions=[1, 2])
    there = download_nsd(tmp_path / "nsd", files, verbose=False)
    # The miniature bucket lacks some atlases, which are no need.
    assert len(there) < len(files)
    assert set(files.loc[files["needed"], "path"]) <= {
        path.relative_to(tmp_path / "nsd").as_posix() for path in there
    }
    assert not list((tmp_path / "nsd").rglob("*.part"))
    convert_nsd(
        tmp_path / "nsd", tmp_path / "a.brain", units="zscore", sessions=[1, 2], verbose=False
    )
    asked = aws.read_text().splitlines()
    assert len(asked) == len(files)
    download_nsd(tmp_path / "nsd", files[files["needed"]], verbose=False)
    assert aws.read_text().splitlines() == asked  # nothing is fetched twice


def test_folders_are_fetched_whole(aws, bucket, tmp_path):
    folder = bucket / "nsddata/experiments/nsdimagery/rawtargetimages/setA"
    folder.mkdir(parents=True)
    (folder / "bar.png").write_bytes(b"picture")
    files = nsd_files(1, experiment="nsdimagery")
    download_nsd(tmp_path, files[files["path"].str.endswith("setA/")], verbose=False)
    found = tmp_path / "nsddata/experiments/nsdimagery/rawtargetimages/setA/bar.png"
    assert found.read_bytes() == b"picture"
    assert "--recursive" in aws.read_text()


def test_a_needed_file_that_cannot_be_had_ends_it(aws, tmp_path, capsys):
    files = nsd_files(1, sessions=[40])
    with pytest.raises(OSError, match=r"betas_session40\.hdf5 could not be fetched: fatal error"):
        download_nsd(tmp_path, files)
    assert "betas_session40.hdf5 (1.0 GiB, computed)" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*session40*"))


def test_a_full_disk_is_found_before_anything_is_fetched(aws, tmp_path, monkeypatch):
    from brainenc.datasets.nsd import download

    monkeypatch.setattr(download, "free_disk", lambda folder: 10**9)
    files = nsd_files(1)
    wanted = size(files["n_bytes"].sum())
    with pytest.raises(
        OSError, match=rf"{wanted} are to be fetched into .*, and 0\.9 GiB are free"
    ):
        download_nsd(tmp_path, files, verbose=False)
    assert not aws.exists()


def test_without_a_way_to_fetch_the_error_names_both(tmp_path, monkeypatch):
    without_boto3(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    for client, message in {
        "auto": "boto3 or the command aws",
        "boto3": "boto3",
        "aws": "aws",
    }.items():
        with pytest.raises(ImportError, match=f"fetching needs .*{message}.*your own account"):
            download_nsd(tmp_path, nsd_files(1), client=client)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subject": 9}, "subject=9 must be one of"),
        ({"experiment": "floc"}, "experiment='floc' must be one of 'nsd', 'nsdsynthetic'"),
        ({"file_format": "auto"}, "file_format='auto' must be one of 'hdf5', 'nifti'"),
        ({"sessions": 41}, "sessions=41 must be of 1 … 40"),
        ({"experiment": "nsdimagery", "sessions": 1}, "has one session: leave out sessions="),
    ],
)
def test_arguments_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        nsd_files(**{"subject": 1, **options})


def test_a_mask_file_of_ones_own_is_not_in_the_bucket(tmp_path):
    own = set(nsd_files(1, mask=tmp_path / "mask.nii.gz")["path"])
    assert own == set(nsd_files(1)["path"]) - {
        "nsddata/ppdata/subj01/func1pt8mm/roi/nsdgeneral.nii.gz"
    }


def test_command_line_lists_and_fetches(aws, tmp_path, capsys):
    from brainenc.cli import app

    def command(*words):
        app(
            ["download", "nsd", str(tmp_path / "nsd"), "--sessions", "1-2", *words],
            standalone_mode=False,
        )
        return capsys.readouterr().out

    listed = command()
    assert "   1.0 GiB            nsddata_betas/ppdata/subj01/func1pt8mm/" in listed
    assert "  ~68 KiB  optional  nsddata/ppdata/subj01/func1pt8mm/roi/lh.streams.nii.gz" in listed
    assert "Data Access Agreement" in listed
    assert not (tmp_path / "nsd").exists()
    command("--fetch", "--quiet")
    assert "there     nsddata/experiments/nsd/nsd_expdesign.mat" in command()
