"""Short forms of the campaigns; ``make torture`` runs the long ones."""

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="campaigns fork processes"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="campaigns read /proc"),
]


def campaign(folder, *arguments):
    """A campaign in a process of its own, which ends with an error if it finds a fault."""
    path = os.pathsep.join(str(REPOSITORY / name) for name in ("", "benchmarks", "tests"))
    command = [sys.executable, "-m", "torture", *map(str, arguments), "--strict", "--jobs", "1"]
    done = subprocess.run(
        [*command, "--state", folder / "state", "--out", folder / "out"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    (table,) = (folder / "out").glob("torture_*.csv")
    return table.read_text()


@pytest.mark.slow
def test_no_mutated_input_is_taken_for_another_or_does_harm(tmp_path):
    table = campaign(tmp_path, "mutations", "--n", 300, "--chunk", 10)
    assert table.splitlines()[-1].startswith("all,")


@pytest.mark.slow
def test_killed_commands_go_on(tmp_path):
    names = ("fit-synbrain", "benchmark-1", "convert", "save", "store", "sample")
    table = campaign(tmp_path, "kills", "--n", 7, "--only", *names)
    assert "benchmark" in table


@pytest.mark.slow
def test_two_runs_on_one_folder(tmp_path):
    names = ("fit-synbrain", "benchmark-1", "convert", "save-model")
    campaign(tmp_path, "concurrency", "--n", 4, "--only", *names)


@pytest.mark.slow
def test_names_with_markup_and_formulas_stay_text(tmp_path):
    campaign(tmp_path, "injection", "--n", 2)
