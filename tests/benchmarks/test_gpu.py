"""The GPU benchmark runs with little installed, and where there is no GPU."""

import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
import torch
from conftest import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "gpu.py"

#: torch, NumPy, scikit-learn and pandas, and what these need to be installed.
INSTALLED = {
    *("torch", "numpy", "scikit-learn", "pandas"),
    *("scipy", "joblib", "threadpoolctl", "narwhals", "python-dateutil", "six", "pytz", "tzdata"),
    *("filelock", "typing_extensions", "typing-extensions", "sympy", "mpmath", "networkx"),
    *("jinja2", "markupsafe", "fsspec", "setuptools", "triton", "pip", "cloudpickle", "loky"),
}

#: Run by the interpreter when it starts, also in processes that a test knows nothing of.
HOOK = """
import sys

class Bare:
    finders = list(sys.meta_path)

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if path is None and name in {blocked!r}:
            return None
        found = (finder.find_spec(name, path, target) for finder in cls.finders)
        return next((spec for spec in found if spec is not None), None)

sys.meta_path[:] = [Bare]
"""


def is_absent(distribution):
    name = distribution.lower()
    return name not in INSTALLED and not name.startswith(("nvidia", "cuda", "brainenc"))


@pytest.fixture
def bare(tmp_path):
    """Environment of an interpreter that finds nothing else, nor an installed brainenc."""
    absent = {
        module
        for module, distributions in packages_distributions().items()
        if all(map(is_absent, distributions))
    }
    assert {"himalaya", "lazy_loader", "lightning_fabric", "tqdm", "nilearn", "typer"} <= absent
    (tmp_path / "sitecustomize.py").write_text(HOOK.format(blocked=absent))
    return {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}


def run(*arguments, **options):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, **options)


@pytest.mark.slow
def test_runs_with_torch_numpy_scikit_learn_and_pandas_alone(bare, tmp_path):
    refused = run("-c", "import tqdm", env=bare)
    assert "No module named 'tqdm'" in refused.stderr
    out = tmp_path / "new"
    done = run(SCRIPT, "--device", "cpu", "--tiny", "--out", out, env=bare, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "gpu.json").read_text())
    assert found["errors"] == {}
    assert not [row for row in found["rows"] if {"error", "other error"} & row.keys()]
    assert found["card"].startswith("CPU")
    rows = {row["work"]: row for row in found["rows"]}
    assert {row["group"] for row in found["rows"]} == {
        *("ridge", "wide", "banded", "synbrain", "sampling")
    }
    # Here both are the CPU.
    assert rows["ridge: solver, other: CPU"]["same alpha"] == 1
    # Over 20 steps of the small nets; bf16 keeps three digits, and the noise of the draws is seen.
    assert rows["synbrain: loss of vae"]["largest deviation"] < 0.05
    assert rows["synbrain: loss of mapper"]["largest deviation"] < 0.01
    assert len((out / "gpu.csv").read_text().splitlines()) == 1 + len(found["rows"])


def test_without_a_gpu_it_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = run(SCRIPT, "--out", tmp_path, cwd=tmp_path)
    assert done.returncode == 0
    assert "no CUDA device" in done.stdout
    assert not list(tmp_path.iterdir())


def test_what_fails_costs_no_other_row(tmp_path, monkeypatch):
    """One measurement fails, then a whole group: the GPU may not be there a second time."""
    monkeypatch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])
    import gpu

    def broken(arguments):
        yield gpu.row("broken", "1", {"s": 1.0, "CPU s": 1.0, "peak GiB": 1.0}, gpu.measure(fail))
        fail()

    def fail():
        raise MemoryError("CUDA out of memory")

    def whole(arguments):
        assert len(json.loads((tmp_path / "out" / "gpu.json").read_text())["rows"]) == 1
        yield gpu.row("whole", "1", {"s": 2.0})

    monkeypatch.setattr(gpu, "SHARES", {"ridge": 60, "sampling": 60})
    monkeypatch.setattr(gpu, "ridge", broken)
    monkeypatch.setattr(gpu.speed, "sampling", whole)
    options = ["gpu.py", "--device", "cpu", "--tiny", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", options)
    assert gpu.main() == 0
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    first, second = found["rows"]
    assert first["s"] == 1
    assert "CUDA out of memory" in first["other error"]
    assert "s ratio" not in first
    assert second["s"] == 2
    assert "CUDA out of memory" in found["errors"]["ridge"]
