"""The command line: outputs, real data, bad input; in processes of their own where that matters."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import brainenc
from brainenc.cli import _make_encoders, app, main

FEW = ["--n-bootstraps", "50", "--n-permutations", "19", "--n-draws", "20", "--quiet"]


def run(*arguments, check=True, cwd=None):
    command = [sys.executable, "-m", "brainenc.cli", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    if check:
        assert result.returncode == 0, result.stderr
    return result


def run_here(*arguments):
    """A command in this process, which spares it the imports of one of its own (`run`)."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs a command here, which spares a process its imports, and gives what it says of input."""

    def run_here(*arguments):
        monkeypatch.setattr(sys, "argv", ["brainenc", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run_here


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small subject as .npz and .brain, and its images as files."""
    folder = tmp_path_factory.mktemp("cli")
    data = brainenc.datasets.simulate_subject(40, 12, random_state=0)
    data.save(folder / "subject.brain")
    arrays = {"images": data.images, "betas": data.betas, "roi": data.voxels["roi"].to_numpy(str)}
    np.savez(folder / "subject.npz", **arrays)
    np.save(folder / "images.npy", data.images[:6])
    (folder / "pictures").mkdir()
    for i, image in enumerate(data.images[:6]):
        Image.fromarray(image).save(folder / "pictures" / f"{i}.png")
    return folder


def test_help_and_import_are_light():
    code = "import sys, brainenc; print(sorted({'torch', 'sklearn', 'pandas'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert loaded.strip() == "[]"
    code = "import sys; sys.argv = ['brainenc', '--help']\nfrom brainenc.cli import app\n"
    code += "try: app()\nexcept SystemExit: pass\nprint({'torch', 'pandas'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "benchmark" in shown
    assert shown.strip().endswith("set()")


@pytest.mark.slow
def test_benchmark_writes_tables_and_a_report_and_prints_its_path_last(folder, tmp_path):
    out = tmp_path / "run"
    result = run(
        "benchmark", folder / "subject.npz", "--encoders", "mean,ridge,banded", "--features",
        "pixels, gabor", "--cv", "4", "--out", out, *FEW,
    )  # fmt: skip
    assert result.stdout.strip().splitlines()[-1] == str(out / "report.html")
    table = pd.read_csv(out / "encoders.csv")
    names = ["ridge (for banded)", "mean", "ridge (pixels)", "ridge (gabor)", "banded"]
    assert list(table["encoder"])[: len(names)] == names
    assert list(table["control"].fillna("")) == [""] * len(names) + ["permuted"] * 3
    for name in names:
        assert name in result.stdout
    content = json.loads((out / "manifest.json").read_text())
    assert content["manifest"]["settings"]["n_draws"] == 20
    assert "<html" in (out / "report.html").read_text()
    # The same from Python: the command line adds nothing of its own.
    data = brainenc.load_npz(folder / "subject.npz")
    encoders = {"ridge": brainenc.RidgeEncoder(brainenc.GaborPyramid(verbose=False))}
    again = brainenc.benchmark(
        data, encoders, cv=4, n_bootstraps=50, n_permutations=19, verbose=False
    )
    r = again.encoders.set_index("encoder").loc["ridge", "r"]
    assert table.set_index("encoder").loc["ridge (gabor)", "r"] == pytest.approx(r, abs=1e-6)
    rewritten = run_here("report", out, "--out", tmp_path / "again.html").stdout.strip()
    assert Path(rewritten).read_text() == (out / "report.html").read_text()


def test_encoders_of_several_feature_spaces_get_all_of_them():
    made = _make_encoders("ridge,banded,latent", "pixels, gabor", store=None, device="cpu")
    assert list(made) == ["ridge (pixels)", "ridge (gabor)", "banded", "latent"]
    for name in ("banded", "latent"):
        assert list(made[name].features) == ["pixels", "gabor"]
    pictures = np.random.default_rng(0).integers(0, 256, (110, 16, 16, 3), dtype=np.uint8)
    betas = np.random.default_rng(1).standard_normal((110, 3)).astype(np.float32)
    fitted = made["latent"].set_params(n_members=0).fit(pictures, betas)
    assert list(fitted.band_shapes_) == ["pixels", "gabor"]
    alone = _make_encoders("banded,latent", "gabor", store=None, device="cpu")
    assert list(alone["banded"].features) == ["gabor"]
    assert isinstance(alone["latent"].features, brainenc.GaborPyramid)


def test_ctrl_c_says_how_to_go_on(folder, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(brainenc, "benchmark", interrupted)
    monkeypatch.setattr(brainenc.datasets, "convert_nsd", interrupted)
    for arguments, what in (
        (["benchmark", folder / "subject.npz"], "fits"),
        (["convert", "nsd", tmp_path], "sessions"),
    ):
        command = [*map(str, arguments), "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 130
        assert f"the same command goes on after the {what} that are finished" in result.stderr


def test_rows_of_predictions_and_draws_are_named(folder, tmp_path, refused):
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(1, 13):
        picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"img{i}.png")
    images = brainenc.ImageFiles([tmp_path / "pictures" / f"img{i}.png" for i in range(1, 13)])
    pixels = brainenc.PixelFeatures(size=8, verbose=False)
    encoder = brainenc.RidgeEncoder(pixels).fit(images, rng.standard_normal((12, 4)))
    model = encoder.save(tmp_path / "model")
    for command in ("predict", "sample"):
        for source in (tmp_path / "pictures", tmp_path / "pictures" / "*.png"):
            out = tmp_path / f"{command}.npy"
            shown = run_here(command, model, source, "--out", out)
            rows = pd.read_csv(tmp_path / f"{command}.rows.csv")
            assert rows["row"].tolist() == list(range(12))
            assert rows["file"].tolist() == [str(path) for path in images.paths]
            assert f"{command}.rows.csv" in shown.stdout
    np.testing.assert_allclose(
        np.load(tmp_path / "predict.npy"), encoder.predict(images), atol=1e-5
    )
    np.save(tmp_path / "images.npy", np.asarray(images))
    run_here("predict", model, tmp_path / "images.npy", "--out", tmp_path / "array.npy")
    assert not (tmp_path / "array.rows.csv").exists()  # rows of an array have no other name
    Image.new("RGBA", (8, 8)).save(tmp_path / "clear.png")
    command = ["predict", model, tmp_path / "clear.png", "--out", tmp_path / "clear.npy"]
    assert "background" in refused(*command)
    run_here(*command, "--background", "white")
    white = np.full((1, 8, 8, 3), 255, np.uint8)
    np.testing.assert_allclose(np.load(tmp_path / "clear.npy"), encoder.predict(white), atol=1e-5)


@pytest.mark.slow
def test_fit_predict_sample_agree_with_python(folder, tmp_path):
    model = tmp_path / "model"
    run("fit", "ridge", folder / "subject.brain", "--features", "pixels", "--out", model)
    run("predict", model, folder / "images.npy", "--out", tmp_path / "array.npy")
    one = tmp_path / "a [1].png"  # which is no pattern
    shutil.copy(folder / "pictures" / "0.png", one)
    pictures = {"files": folder / "pictures", "glob": f"{folder}/pictures/*.png", "one": one}
    for name, images in pictures.items():
        command = ["predict", model, images, "--out", tmp_path / f"{name}.npy"]
        assert run_here(*command).exit_code == 0
    data = brainenc.EncodingData.load(folder / "subject.brain")
    encoder = brainenc.RidgeEncoder(brainenc.PixelFeatures(verbose=False))
    encoder.fit(data.images, data.betas)
    expected = encoder.predict(data.images[:6])
    for name in ("array", "files", "glob"):
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "one.npy"), expected[:1], atol=1e-6)
    out = tmp_path / "draws.npy"
    command = ["sample", model, folder / "images.npy", "-n", "3", "--random-state", "1"]
    assert run_here(*command, "--out", out).exit_code == 0
    draws = encoder.sample(data.images[:6], n=3, random_state=1)
    np.testing.assert_allclose(np.load(out), draws, atol=1e-6)


def test_noise_ceiling_and_info(folder, tmp_path):
    out = tmp_path / "ceiling.csv"
    shown = run_here("noise-ceiling", folder / "subject.brain", "--out", out).stdout
    data = brainenc.EncodingData.load(folder / "subject.brain")
    table = pd.read_csv(out)
    ceiling = data.noise_ceiling(n_bootstraps=1000)
    np.testing.assert_allclose(table["r2"], ceiling.values)
    np.testing.assert_allclose(table[["r2_low", "r2_high"]].T, ceiling.interval)
    np.testing.assert_allclose(table["r_high"] ** 2, table["r2_high"])
    assert f"{table['r'].mean():.3f}" in shown
    assert "FFA" in shown
    assert f"From {ceiling.estimator}, for averages of {ceiling.n_trials:.3g} trials" in shown
    # One trial per image has no ceiling, which is said and not left to an empty table.
    np.savez(tmp_path / "single.npz", images=data.images, betas=data.betas[:, 0])
    shown = run_here("noise-ceiling", tmp_path / "single.npz").stdout
    assert "No voxel has a noise ceiling: that takes images with repeats" in shown
    shown = run_here("info").stdout
    assert brainenc.__version__ in shown
    assert "mean, ridge, banded, kernelridge, pls, latent, synbrain" in shown


@pytest.mark.slow
def test_check_tells_by_its_exit_status_whether_images_and_betas_match(tmp_path):
    data = brainenc.datasets.simulate_subject(240, 100, image_size=48)
    arrays = {"images": data.images, "betas": data.betas}
    np.savez(tmp_path / "good.npz", **arrays)
    np.savez(tmp_path / "bad.npz", **{**arrays, "images": np.roll(data.images, 1, axis=0)})
    good = run_here("check", tmp_path / "good.npz")
    assert good.exit_code == 0
    assert good.stdout.startswith("aligned: ")
    bad = run_here("check", tmp_path / "bad.npz")
    assert bad.exit_code == 1
    assert "with the betas of the previous row" in " ".join(bad.stdout.split())
    fit = ["fit", "ridge", tmp_path / "bad.npz", "--features", "pixels"]
    assert "do not seem to belong together" in run(*fit, "--out", tmp_path / "a").stderr
    assert run(*fit, "--no-check", "--out", tmp_path / "b").stderr == ""


@pytest.mark.slow
def test_demo_runs_every_encoder(tmp_path):
    result = run_here(
        "demo", "--n-images", "60", "--n-voxels", "30", "--out", tmp_path / "demo", "-q"
    )
    table = pd.read_csv(tmp_path / "demo" / "encoders.csv")
    assert table["error"].isna().all()
    assert len(table) == 15  # with the trained network, whose weights are installed for tests
    labels = table["encoder"].str.lower().str.replace(" ", "")
    for name in set(brainenc.encoders.ENCODERS) - {"incontext"}:  # it learns from other subjects
        assert labels.str.startswith(name).any()
    assert result.stdout.strip().endswith("report.html")
    assert "ridge encoder as decoder" in result.stdout
    assert (tmp_path / "demo" / "decoding" / "decoding.html").exists()


# -------------------------------------------------------------------- real data


def test_decoding_v4(real_data, tmp_path):
    data = brainenc.load_npz(real_data("cowley2023_v4_210325.npz"))
    found = brainenc.decoding_benchmark(
        data,
        {},
        targets=brainenc.PixelFeatures(8, verbose=False),
        test=0.3,
        out=tmp_path / "decoding",
        n_permutations=20,
        n_bootstraps=50,
        check=False,
        verbose=False,
    )
    table = found.decoders.set_index(["decoder", "responses"])["image_retrieval"]
    chance = 1 / 192
    assert table["ridge encoder as decoder", "average"] > 8 * chance
    assert table["repeat against repeat", "one trial"] > 40 * chance
    assert table["training images permuted", "average"] < 5 * chance
    assert (found.permuted["p"] < 0.05).all()


@pytest.mark.slow
def test_miyawaki(real_data, tmp_path):
    data = real_data("miyawaki2008_s1_v1.npz")
    run_here(
        "benchmark", data, "--encoders", "mean,ridge", "--features", "pixels", "--out",
        tmp_path / "run", *FEW,
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "run" / "encoders.csv").set_index("encoder")
    # The floor measured with a plain ridge on this file: .43 for unseen figures.
    assert table.loc["ridge", "r"] >= 0.43
    assert np.isnan(table.loc["mean", "r"])
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())["manifest"]
    assert manifest["data"]["n_trials"] == 120


@pytest.mark.slow
def test_macaque_v4(real_data, tmp_path):
    data = real_data("cowley2023_v4_210325.npz")
    run_here(
        "benchmark", data, "--encoders", "mean,ridge", "--features", "gabor", "--out",
        tmp_path / "run", *FEW,
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "run" / "encoders.csv").set_index("encoder")
    # The floor measured with a small Gabor bank and ridge on an 80/20 split of this file: .52.
    assert table.loc["ridge", "r"] >= 0.52
    assert table.loc["ridge", "r"] < table.loc["ridge", "noise_ceiling"]


# -------------------------------------------------------------------- wiring


class Reached(Exception):
    """The function behind a command was called."""


def reached(monkeypatch, owner, name, *arguments):
    """What a command calls a function with, which then stops."""
    seen = {}

    def function(*given, **options):
        seen.update(options, given=given)
        raise Reached

    monkeypatch.setattr(owner, name, function)
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert isinstance(result.exception, Reached), result.output
    return seen


def test_every_option_of_benchmark_reaches_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        brainenc.EncodingData,
        "zscore_by_session",
        lambda data: dataclasses.replace(data, units="z-scored"),
    )
    seen = reached(
        monkeypatch, brainenc, "benchmark", "benchmark", folder / "subject.brain",
        "--encoders", "mean", "--cv", 4, "--groups", "run", "--n-bootstraps", 11,
        "--n-permutations", 12, "--n-draws", 13, "--n-jobs", 2,
        "--scheduler", "tcp://10.0.0.1:8786", "--zscore", "--protocol", "brain-score",
        "--random-state", 9, "--no-check",
        "--no-controls", "--no-check-memory", "--quiet", "--out", tmp_path / "run",
    )  # fmt: skip
    data, encoders = seen.pop("given")
    assert data.units == "z-scored"
    assert list(encoders) == ["mean"]
    assert seen == {
        "cv": 4, "groups": "run", "n_bootstraps": 11, "n_permutations": 12, "n_draws": 13,
        "n_jobs": 2, "scheduler": "tcp://10.0.0.1:8786", "random_state": 9, "check": False,
        "verbose": False, "controls": False, "check_memory": False, "test": None,
        "protocol": "brain-score",
        "out": tmp_path / "run",
    }  # fmt: skip
    seen = reached(
        monkeypatch, brainenc, "benchmark", "benchmark", folder / "subject.brain", "--cv", "similar"
    )
    assert (seen["cv"], seen["groups"]) == ("similar", None)


def test_every_option_of_the_conversion_reaches_it(tmp_path, monkeypatch):
    seen = reached(
        monkeypatch, brainenc.datasets, "convert_nsd", "convert", "nsd", tmp_path / "nsd",
        "--out", tmp_path / "s.brain", "--subject", 5, "--units", "zscore", "--space", "fsaverage",
        "--betas", "betas_fithrf", "--file-format", "nifti", "--mask", "streams:ventral",
        "--sessions", "3,7-9", "--one-hour", "images", "--image-size", 64, "--copy-images",
        "--quiet",
    )  # fmt: skip
    assert seen == {
        "given": (tmp_path / "nsd", tmp_path / "s.brain", 5), "units": "zscore",
        "space": "fsaverage", "betas": "betas_fithrf", "file_format": "nifti",
        "mask": "streams:ventral", "sessions": [3, 7, 8, 9], "one_hour": "images",
        "image_size": 64, "copy_images": True, "verbose": False,
    }  # fmt: skip


def test_a_report_has_the_cortex_that_was_asked_for(tmp_path, monkeypatch):
    from brainenc.benchmarking import BenchmarkResult

    monkeypatch.setattr(BenchmarkResult, "load", lambda folder: BenchmarkResult)
    seen = reached(monkeypatch, BenchmarkResult, "to_html", "report", tmp_path, "--surface", "none")
    assert seen == {"given": (tmp_path / "report.html",), "surface": "none"}


# -------------------------------------------------------------------- bad input


@pytest.fixture
def broken(folder, tmp_path):
    """Paths of input that must be refused, by name."""
    data = brainenc.load_npz(folder / "subject.npz")
    np.savez(tmp_path / "rows.npz", images=data.images[:-1], betas=data.betas)
    np.savez(tmp_path / "infinite.npz", images=data.images, betas=data.betas + np.inf)
    np.savez(tmp_path / "dtype.npz", images=data.images / 255, betas=data.betas)
    np.savez(tmp_path / "one.npz", images=data.images[:1], betas=data.betas[:1])
    content = (folder / "subject.npz").read_bytes()
    (tmp_path / "truncated.npz").write_bytes(content[: len(content) // 2])
    data.save(tmp_path / "missing.brain")
    (tmp_path / "missing.brain" / "betas.npy").unlink()
    (tmp_path / "sizes").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "sizes" / "a.png")
    Image.new("RGB", (8, 9)).save(tmp_path / "sizes" / "b.png")
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / "bad.png").write_bytes(b"no image")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["benchmark", "{tmp}/rows.npz"], "one row per image"),
        (["benchmark", "{tmp}/infinite.npz"], "infinite"),
        (["benchmark", "{tmp}/dtype.npz"], "uint8"),
        (["benchmark", "{tmp}/one.npz"], "5 folds need at least 5 images, but there are 1"),
        (["benchmark", "{tmp}/truncated.npz"], "truncated"),
        (["benchmark", "{tmp}/missing.brain"], "betas.npy"),
        (["benchmark", "{tmp}/nowhere.npz"], "nowhere.npz"),
        (["benchmark", "{data}", "--cv", "100"], "100 folds need at least 100 images"),
        (["benchmark", "{data}", "--cv", "similr"], "cv='similr' must be a number of folds"),
        (["benchmark", "{data}", "--encoders", "ridge,magic"], "'magic' is unknown; there are"),
        (["benchmark", "{data}", "--features", "magic"], "'magic' are unknown; there are"),
        (["benchmark", "{data}", "--encoders", ","], "encoders=',' names none"),
        (["fit", "ridge", "{data}", "--features", ""], "features='' names none"),
        (["convert", "nsd", "{tmp}", "--sessions", "3-1"], "3-1 in '3-1' ends before it begins"),
        (["benchmark", "{data}", "--zscore", "--device", "cpu"], "session"),
        (["benchmark", "{data}", "--device", "cuda:99"], "cuda"),
        (["benchmark", "{data}", "--n-bootstraps", "0"], "n_bootstraps=0"),
        (["fit", "ridge", "{tmp}/one.npz", "--features", "pixels"], "at least 2"),
        (["predict", "{tmp}/missing.brain", "{folder}/images.npy"], "saved encoder"),
        (["predict", "{model}", "{tmp}/sizes"], "one size"),
        (["predict", "{model}", "{tmp}/corrupt"], "bad.png"),
        (["predict", "{model}", "{tmp}/no*.png"], "matches no image files"),
    ],
)
def test_bad_input_is_one_line_status_2_and_nothing_written(
    folder, broken, tmp_path, refused, arguments, message
):
    model = tmp_path / "model"
    if "{model}" in arguments:
        data = brainenc.load_npz(folder / "subject.npz")
        brainenc.MeanEncoder().fit(data.images, data.betas).save(model)
    places = {"tmp": tmp_path, "data": folder / "subject.npz", "folder": folder, "model": model}
    out = tmp_path / "out"
    said = refused(*[a.format(**places) for a in arguments], "--out", out)
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not out.exists()


def test_a_process_ends_with_status_2_and_no_traceback(tmp_path):
    result = run("benchmark", tmp_path / "nowhere.npz", "--out", tmp_path / "out", check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(r"brainenc: .*nowhere\.npz.*\n", result.stderr)


def test_a_folder_in_place_of_an_output_file_is_refused_before_any_work(refused, tmp_path):
    (tmp_path / "notes.txt").write_text("thesis")
    # Neither the model nor the data is there: the output is looked at first.
    for command in (["predict", "no", "no"], ["sample", "no", "no"], ["noise-ceiling", "no"]):
        said = refused(*command, "--out", tmp_path)
        assert f"{tmp_path} is a folder, but a file is to be written" in said
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_output_folder_that_cannot_be_made(folder, refused, tmp_path):
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "run"
    said = refused("benchmark", folder / "subject.npz", "--features", "pixels", "--out", out, *FEW)
    assert str(tmp_path / "file") in said
    assert (tmp_path / "file").read_text() == "in the way"


def test_decode_writes_tables_and_a_page_and_goes_on(folder, tmp_path):
    out = tmp_path / "decoding"
    options = ["--n-bootstraps", "20", "--n-permutations", "5", "--cv", "2", "--no-check"]
    command = ["decode", folder / "subject.brain", "--targets", "pixels", "--out", out, "--quiet"]
    printed = run_here(*command, *options, "--encoders", "kernelridge").stdout
    assert str(out / "decoding.html") in printed
    loaded = brainenc.DecodingResult.load(out)
    names = set(loaded.decoders["decoder"])
    assert {"kernelridge as decoder", "ridge decoder", "ridge encoder as decoder"} <= names
    assert (loaded.decoders["error"] == "").all()
    written = {path: path.stat().st_mtime_ns for path in out.glob("fits/*/*/arrays.npz")}
    run_here(*command, *options, "--encoders", "kernelridge")
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_decode_holds_out_clusters_and_refuses_what_has_two_meanings(folder, tmp_path, refused):
    out = tmp_path / "decoding"
    command = ["decode", folder / "subject.brain", "--targets", "pixels", "--out", out, "--quiet"]
    few = ["--n-bootstraps", "20", "--n-permutations", "5", "--no-check"]
    run_here(*command, *few, "--clusters", "2")
    assert brainenc.DecodingResult.load(out).manifest["split"]["n_folds"] == 2
    assert "--clusters" in refused(*command, "--clusters", "2", "--cv", "3")
    assert "sees no features" in refused(*command, "--encoders", "mean")
    assert "unknown" in refused(*command[:2], "--targets", "nothing")
    assert "no column" in refused(*command, "--category", "kind")
