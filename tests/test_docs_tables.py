"""The page of tables lists every column of every table."""

import re

import pandas as pd
import pytest
from conftest import REPOSITORY

import brainenc

PAGE = (REPOSITORY / "docs" / "tables.rst").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def result():
    data = brainenc.datasets.simulate_subject(n_images=60, n_voxels=40, random_state=0)
    ridge = brainenc.RidgeEncoder(brainenc.PixelFeatures(verbose=False))
    small = {"n_bootstraps": 20, "n_permutations": 20, "n_draws": 20, "check": False}
    return brainenc.benchmark(data, {"ridge": ridge}, cv=3, verbose=False, **small)


def sections():
    """Literals of each section, by the name of its table."""
    parts = re.split(r"^``result\.(\w+)``\n-+\n", PAGE, flags=re.MULTILINE)
    return {
        name: set(re.findall(r"``([^`]+)``", text))
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_every_column_is_on_the_page(result):
    listed = sections()
    atlases = {"roi"}  # of the simulated subject
    for name, table in vars(result).items():
        if not isinstance(table, pd.DataFrame):
            continue
        columns = {re.sub(r"_(low|high)$", "", column) for column in table}
        if name == "maps":
            columns -= atlases
        columns -= {column for column in columns if re.fullmatch(r"trial_\d+", column)}
        assert columns <= listed[name], f"{name}: {sorted(columns - listed[name])}"


def test_every_table_has_a_section(result):
    tables = {name for name, table in vars(result).items() if isinstance(table, pd.DataFrame)}
    assert set(sections()) == tables
