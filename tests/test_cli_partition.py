"""The command ``partition``."""

import re

import numpy as np
import pytest
from typer.testing import CliRunner

import brainenc
from brainenc.cli import app
from brainenc.cli_partition import named_bands, sizes_of

QUICK = ("--cv", "2", "--n-iter", "2", "--n-bootstraps", "20", "--quiet")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("partition")
    data = brainenc.datasets.simulate_subject(60, 10, 2, random_state=0)
    data.save(folder / "s.brain")
    tokens = data.truth.tokens.mean(axis=1)
    np.save(folder / "tokens.npy", tokens)
    return folder, data, tokens


def run(*arguments):
    return CliRunner().invoke(app, ["partition", *map(str, arguments), *QUICK])


def test_bands_by_name_and_from_a_file(place, tmp_path):
    folder, data, tokens = place
    result = run(
        folder / "s.brain", "--bands", f"small=pixels,tokens={folder / 'tokens.npy'}",
        "--out", tmp_path / "out", "--n-permutations", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    expected = brainenc.variance_partitioning(
        data, features={"small": brainenc.PixelFeatures(verbose=False), "tokens": tokens},
        cv=2, n_iter=2, n_bootstraps=20, n_permutations=2, verbose=False,
    )  # fmt: skip
    found = brainenc.VariancePartition.load(tmp_path / "out")
    for column in ("r2", "null", "p_permuted"):
        np.testing.assert_allclose(found.parts[column], expected.parts[column], atol=1e-5)
    assert (tmp_path / "out" / "partition.html").exists()
    assert "unique_tokens" in result.output


def test_bands_as_columns_of_a_file(place, tmp_path):
    folder, data, tokens = place
    result = run(
        folder / "s.brain", "--features", folder / "tokens.npy", "--bands", "one=40",
        "--bands", "two=24", "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    expected = brainenc.variance_partitioning(
        data, {"one": 40, "two": 24}, features=tokens, cv=2, n_iter=2, n_bootstraps=20,
        verbose=False,
    )  # fmt: skip
    found = brainenc.VariancePartition.load(tmp_path / "out")
    np.testing.assert_allclose(found.parts["r2"], expected.parts["r2"], atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["gabor"], "must be two or more"),
        (["gabor,gabor"], "'gabor' twice"),
        (["a=gabor,", "b=pixels"], "''"),
        (["a=,b=pixels"], "'a='"),
    ],
)
def test_wrong_bands(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        named_bands(given)


def test_bands_of_a_file_are_numbers():
    with pytest.raises(ValueError, match="--bands a=gabor: with --features"):
        sizes_of({"a": "gabor", "b": "3"})
