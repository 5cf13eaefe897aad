"""The commands ``evaluate`` and ``group``, and ``benchmark --test``."""

import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import brainenc
from brainenc.cli import app, main
from brainenc.cli_scores import named_folders

FEW = ["--n-bootstraps", "30", "--n-permutations", "9", "--n-draws", "0", "--quiet", "--no-check"]


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs a command that refuses its input, and gives what it says."""

    def run_here(*arguments):
        monkeypatch.setattr(sys, "argv", ["brainenc", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        text = capsys.readouterr().err
        assert len(text.strip().splitlines()) == 1
        return text

    return run_here


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two subjects with images in files, and a fitted encoder of the first."""
    folder = tmp_path_factory.mktemp("cli")
    for i in range(2):
        data = brainenc.datasets.simulate_subject(40, 12, random_state=i, verbose=False)
        (folder / f"pictures{i}").mkdir()
        paths = [folder / f"pictures{i}" / f"scene{n:02d}.png" for n in range(40)]
        for path, image in zip(paths, data.images, strict=True):
            Image.fromarray(image).save(path)
        named = brainenc.EncodingData(
            paths, data.betas, data.voxels, data.trials, name=f"subject {i}"
        )
        named.save(folder / f"{i}.brain")
        if i == 0:
            train, test = named.train_test(np.arange(30, 40))
            train.save(folder / "train.brain")
            test.save(folder / "test.brain")
    run("fit", "ridge", folder / "train.brain", "--features", "pixels", "--no-check", "--out",
        folder / "model")  # fmt: skip
    return folder


def test_a_fixed_test_set_from_a_file(folder, tmp_path, refused):
    names = [f"scene{n}" for n in range(30, 40)]
    (tmp_path / "test.txt").write_text("\n".join(names))
    np.save(tmp_path / "test.npy", np.arange(40) >= 30)
    r = []
    for file in ("test.txt", "test.npy"):
        run("benchmark", folder / "0.brain", "--features", "pixels", "--test", tmp_path / file,
            "--out", tmp_path / file[-3:], *FEW)  # fmt: skip
        found = brainenc.BenchmarkResult.load(tmp_path / file[-3:])
        assert found.folds["fold"].notna().sum() == 10
        r.append(found.encoders.set_index("encoder").loc["ridge", "r"])
    assert r[0] == r[1]
    data = folder / "0.brain"
    message = refused("benchmark", data, "--test", tmp_path / "no.txt", "--out", tmp_path / "no")
    assert "no.txt" in message
    (tmp_path / "wrong.txt").write_text("scene31\nscene99\n")
    message = refused("benchmark", data, "--test", tmp_path / "wrong.txt", "--out", tmp_path / "no")
    assert "scene99" in message
    assert not (tmp_path / "no").exists()


def test_a_saved_encoder_is_scored_on_other_data(folder, tmp_path, refused):
    out = tmp_path / "evaluation"
    shown = run("evaluate", folder / "test.brain", folder / "model", f"again={folder / 'model'}",
                "--train", folder / "train.brain", "--out", out, *FEW)  # fmt: skip
    assert shown.stdout.strip().splitlines()[-1] == str(out / "report.html")
    table = pd.read_csv(out / "encoders.csv")
    assert list(table["encoder"]) == ["mean", "model", "again"]
    data = brainenc.EncodingData.load(folder / "test.brain")
    encoder = brainenc.load(folder / "model")
    score = encoder.score(data.images, data.betas)
    assert table.set_index("encoder").loc["model", "r"] == pytest.approx(score, abs=1e-5)
    # The encoder has the table of its voxels from `fit`.
    assert list(encoder.voxels_["roi"]) == list(data.voxels["roi"])
    message = refused("evaluate", folder / "1.brain", folder / "gone", "--out", tmp_path / "x")
    assert "gone" in message
    twice = folder / "model", folder / "model"
    assert "both have the name 'model'" in refused("evaluate", folder / "test.brain", *twice)


def test_predictions_of_a_folder_of_images(folder, tmp_path):
    """The command, and the same folder in Python, give one row per file."""
    out = tmp_path / "predictions.npy"
    run("predict", folder / "model", folder / "pictures1", "--out", out)
    encoder = brainenc.load(folder / "model")
    images = brainenc.ImageFiles.from_folder(folder / "pictures1")
    assert np.array_equal(np.load(out), encoder.predict(images))
    rows = pd.read_csv(tmp_path / "predictions.rows.csv")
    assert rows["file"].str.endswith("scene07.png")[7]


def test_a_group_from_runs(folder, tmp_path, refused):
    runs = [tmp_path / f"run{i}" for i in range(2)]
    for i in range(2):
        run("benchmark", folder / f"{i}.brain", "--features", "pixels", "--cv", "2", "--out",
            runs[i], *FEW)  # fmt: skip
    out = tmp_path / "group"
    shown = run("group", *runs, "--out", out, "--test", "hierarchical")
    assert shown.stdout.strip().splitlines()[-1] == str(out / "group.html")
    assert "subject 0, subject 1" in shown.stdout
    found = brainenc.GroupResult.load(out)
    assert found.manifest["test"] == "hierarchical"
    expected = brainenc.group(runs, test="hierarchical").pairs
    pd.testing.assert_frame_equal(found.pairs, expected, check_dtype=False)
    again = run("group", f"a={runs[0]}", f"b={runs[1]}", "--out", out)
    assert "GroupResult of 2 subjects (a, b), test='t'" in again.stdout
    assert "at least 2 subjects" in refused("group", runs[0], "--out", out)
    assert "both have the name 'subject 0'" in refused("group", runs[0], runs[0], "--out", out)
    assert "test='wilcoxon'" in refused("group", *runs, "--out", out, "--test", "wilcoxon")
    assert "holds a run of one subject" in refused("group", *runs, "--out", runs[0])


def test_names_of_folders(tmp_path):
    (tmp_path / "lr=1").mkdir()
    folder = str(tmp_path / "lr=1")
    assert named_folders([folder, "b=x"], {folder: "own"}) == {"own": folder, "b": "x"}
    with pytest.raises(ValueError, match="empty name"):
        named_folders(["=x"], {})
