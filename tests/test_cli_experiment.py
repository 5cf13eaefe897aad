"""The command ``experiment``, and the page of an experiment."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import brainenc
from brainenc.cli import app
from brainenc.cli_experiment import chosen_rois, named_conditions, weights_of
from brainenc.insilico import gratings


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A saved model and its data, and three folders of images, one name with a "-"."""
    folder = tmp_path_factory.mktemp("experiment")
    data = brainenc.datasets.simulate_subject(90, 24, 2, random_state=0)
    data.save(folder / "s.brain")
    gabor = brainenc.GaborPyramid(n_scales=2, verbose=False)
    encoder = brainenc.RidgeEncoder(gabor).fit(data.images, data.betas)
    encoder.save(folder / "model", voxels=data.voxels)
    for i, name in enumerate(["night-time", "day", "noon"]):
        (folder / name).mkdir()
        for j in range(2 + i):
            Image.fromarray(data.images[3 * i + j]).save(folder / name / f"{j}.png")
    return folder, data, encoder


def run(folder, *arguments):
    names = ["night-time", "day", "noon"]
    conditions = [part for name in names for part in ("--condition", f"{name}={folder / name}")]
    return CliRunner().invoke(
        app, ["experiment", str(folder / "model"), *conditions, *arguments, "--quiet"]
    )


def test_it_writes_what_the_function_gives(place, tmp_path):
    folder, data, encoder = place
    result = run(
        folder, "--contrast", "night-time-day+noon", "--contrast", "day-noon", "--draws", "30",
        "--data", str(folder / "s.brain"), "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    found = brainenc.Experiment.load(tmp_path / "out")
    images = {"night-time": [0, 1], "day": [3, 4, 5], "noon": [6, 7, 8, 9]}
    contrasts = {
        "night-time > day+noon": {"night-time": 1, "day": -0.5, "noon": -0.5},
        "day > noon": {"day": 1, "noon": -1},
    }
    expected = brainenc.experiment(
        encoder, {name: data.images[rows] for name, rows in images.items()},
        rois=data.voxels, contrasts=contrasts, n_draws=30,
    )  # fmt: skip
    for name in ("rois", "contrasts", "voxel_contrasts"):
        pd.testing.assert_frame_equal(
            getattr(found, name), getattr(expected, name), check_dtype=False, rtol=1e-4, atol=1e-6
        )
    page = (tmp_path / "out" / "experiment.html").read_text(encoding="utf-8")
    assert page.lstrip().startswith("<!DOCTYPE html>")
    # The numbers of an area stand in its row.
    row = expected.contrasts.query("contrast == 'day > noon' and roi == 'V1v'").iloc[0]
    (shown,) = re.findall(r"<tr><th scope=\"row\">V1v</th>.*q [=<].*</tr>", page)
    assert f"{row.effect:.3f}".replace("-", "−") in shown
    assert 'id="figure-maps"' in page
    assert 'id="figure-bars-0"' in page
    assert "Tuning" not in page


def test_areas_are_chosen_and_those_of_the_model_are_the_default(place, tmp_path):
    folder, data, _ = place
    result = run(folder, "--rois", "V1v, FFA", "--n-draws", "0", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.exception
    found = brainenc.Experiment.load(tmp_path / "out")
    assert found.contrasts["roi"].drop_duplicates().tolist() == ["all", "V1v", "FFA"]
    assert found.contrasts["contrast"].nunique() == 3  # each minus the mean of the others
    sizes = found.rois.set_index("roi")["n_voxels"]
    assert sizes["FFA"].iloc[0] == (data.voxels["roi"] == "FFA").sum()


def test_a_page_has_tuning_curves_and_a_map_shows_each_voxel_at_its_place(place, tmp_path):
    from brainenc.report.experiment_figures import grid_maps

    _, data, encoder = place
    stimuli = gratings([0, 45, 90, 135], cycles=[4], phases=1)
    found = brainenc.experiment(encoder, stimuli, n_draws=20)
    page = found.to_html(tmp_path / "page.html", data).read_text(encoding="utf-8")
    assert "Mean response at every value of orientation" in page
    assert "figure-maps" not in found.to_html(tmp_path / "none.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="data has 23 voxels, but the encoder was fitted to 24"):
        found.to_html(tmp_path / "page.html", data.voxels.iloc[:23])
    with pytest.raises(TypeError, match="voxels"):
        found.to_html(tmp_path / "page.html", "roi")
    unplaced = found.to_html(tmp_path / "page.html", data.voxels[["roi"]])
    assert "No map of the cortex: the voxels have no vertex" in unplaced.read_text(encoding="utf-8")
    voxels = pd.DataFrame({"i": [5, 6, 5], "j": [2, 4, 3], "k": [0, 0, 1]})
    look = {"cmap": "RdBu_r", "limits": (-1, 1), "label": "z"}
    figure = grid_maps({"a": np.array([0.1, np.nan, 0.3])}, voxels, **look)
    drawn = figure.axes[0].images[0].get_array().filled(np.nan)  # j by i
    np.testing.assert_array_equal(drawn, [[0.1, np.nan], [0.3, np.nan], [np.nan, np.nan]])
    behind = grid_maps({"a": np.arange(3.0)}, voxels.assign(i=5, j=2), **look)
    assert [axes.get_title() for axes in behind.axes[:2]] == ["a, k = 0", "a, k = 1"]
    assert behind.axes[1].images[0].get_array().tolist() == [[2.0]]


@pytest.mark.parametrize(
    ("text", "name", "weights"),
    [
        ("a-b", "a > b", {"a": 1, "b": -1}),
        ("a-b-c", "a-b > c", {"a-b": 1, "c": -1}),  # a > b-c names no condition
        ("a+c-b", "a+c > b", {"a": 0.5, "c": 0.5, "b": -1}),
        ("c-a-b", "c > a-b", {"c": 1, "a-b": -1}),
    ],
)
def test_contrasts_are_read(text, name, weights):
    assert weights_of(text, ["a", "b", "c", "a-b"]) == (name, weights)


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("a-x", ["a", "b"], "conditions are a, b"),
        ("a", ["a", "b"], "must be A-B"),
        ("a-a+b", ["a", "b"], "a on both sides"),
        ("a-b-c", ["a", "b-c", "a-b", "c"], "2 ways"),
        ("a+b-c", ["a", "b", "a+b", "c"], "2 ways"),
    ],
)
def test_contrasts_without_a_meaning_or_with_two_are_refused(text, names, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        weights_of(text, names)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a=x"], "two or more conditions"),
        (["a=x", "x"], "'x' must be NAME=FOLDER"),
        (["a=x", "=y"], "must be NAME=FOLDER"),
        (["a=x", "a=y"], "a is given twice, x and y"),
    ],
)
def test_wrong_conditions(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        named_conditions(given)


def test_unknown_areas_and_folders_are_refused(place, tmp_path):
    table = pd.DataFrame({"roi": ["A", "B", None], "face": [True, False, True]})
    with pytest.raises(ValueError, match=r"'C'; areas are A, B, face"):
        chosen_rois(table, "A,C")
    with pytest.raises(ValueError, match="without a voxel table"):
        chosen_rois(None, "A")
    kept = chosen_rois(table, "face,B")
    assert kept["roi"].tolist() == ["", "B", ""]
    assert kept["face"].tolist() == ["face", "", "face"]
    (tmp_path / "rois.csv").write_text("x\n")
    result = run(place[0], "--out", str(tmp_path))
    assert "would be replaced" in str(result.exception)
