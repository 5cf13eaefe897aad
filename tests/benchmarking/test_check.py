"""The alignment check that a benchmark starts with."""

import dataclasses
import warnings

import numpy as np
import pytest

import brainenc

FEW = {"n_bootstraps": 20, "n_permutations": 10, "cv": 2, "verbose": False}


@pytest.fixture(scope="module")
def shifted():
    data = brainenc.datasets.simulate_subject(160, 60, image_size=48)
    return dataclasses.replace(data, images=np.roll(data.images, 1, axis=0))


def test_a_shift_is_warned_of_before_the_fits_and_in_the_report(shifted, tmp_path):
    with pytest.warns(UserWarning, match="do not seem to belong together"):
        result = brainenc.benchmark(shifted, {"mean": brainenc.MeanEncoder()}, **FEW, out=tmp_path)
    assert "with the betas of the previous row" in result.warnings[0]
    loaded = brainenc.BenchmarkResult.load(tmp_path)
    assert loaded.warnings == result.warnings
    page = loaded.to_html(tmp_path / "report.html").read_text()
    assert "do not seem to belong together" in page


def test_it_can_be_switched_off(shifted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = brainenc.benchmark(shifted, {"mean": brainenc.MeanEncoder()}, **FEW, check=False)
    assert not any("belong together" in warning for warning in result.warnings)
