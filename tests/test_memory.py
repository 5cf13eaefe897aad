"""Limits of memory: control groups of both versions, ulimit; estimates against what is measured."""

import json
import resource
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

import brainenc
from brainenc.benchmarking.inputs import Entry
from brainenc.benchmarking.preflight import check_resources
from brainenc.encoders.memory import WITHIN, fit_memory
from brainenc.memory import Limit, free_disk, free_memory

GIB = 2**30


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


@pytest.fixture(autouse=True)
def large_machine(monkeypatch):
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB, total=64 * GIB)
    )


@pytest.fixture
def system(tmp_path):
    (tmp_path / "proc").mkdir()
    return tmp_path / "proc", tmp_path / "groups"


def test_a_control_group_of_version_2_and_those_around_it(system):
    proc, groups = system
    (proc / "cgroup").write_text("0::/slurm/job_7/step_0\n")
    group(groups / "slurm", memory__max=40 * GIB, memory__current=GIB)
    group(groups / "slurm/job_7", memory__max=8 * GIB, memory__current=5 * GIB,
          memory__stat=f"anon 5\ninactive_file {2 * GIB}")  # fmt: skip
    group(groups / "slurm/job_7/step_0", memory__max="max", memory__current=GIB)
    found = free_memory(proc, groups)
    assert found.n_bytes == 5 * GIB  # 8 less 5, of which 2 are files that were read
    assert found.source == "memory.max of the control group (8.0 GiB)"


def test_a_control_group_of_version_1_and_one_mounted_at_the_top(system):
    proc, groups = system
    (proc / "cgroup").write_text("5:cpu:/a\n4:hugetlb,memory:/docker/abc\n")
    group(groups / "memory", memory__limit_in_bytes=4 * GIB, memory__usage_in_bytes=GIB)
    found = free_memory(proc, groups)
    assert found.n_bytes == 3 * GIB
    assert "memory.limit_in_bytes" in found.source
    group(groups / "memory", memory__limit_in_bytes=9223372036854771712)  # no limit
    assert free_memory(proc, groups).n_bytes == 64 * GIB


def test_no_groups_at_all(system):
    assert free_memory(*system) == Limit(64 * GIB, "free memory of this machine")


def test_ulimit():
    code = "from brainenc.memory import free_memory; f = free_memory(); print(f.n_bytes, f.source)"
    most = 3 * GIB

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=limited, capture_output=True, text=True, check=True
    )
    n_bytes, source = done.stdout.split(" ", 1)
    assert source.strip() == "ulimit -v (3.0 GiB)"
    assert 0 < int(n_bytes) < most


def test_free_disk_of_a_folder_to_be(tmp_path):
    assert free_disk(tmp_path / "new" / "folder") == pytest.approx(free_disk(tmp_path), rel=0.01)


# ---------------------------------------------------------------- the preflight


def entries(**encoders):
    X = np.broadcast_to(np.float32(0), (10_000, 500))
    return {name: Entry(encoder, X, "key", {}) for name, encoder in encoders.items()}


BETAS = np.broadcast_to(np.float32(0), (10_000, 3, 20_000))
FOLDS = [(np.arange(2000, 10_000), np.arange(2000)), (np.arange(8000), np.arange(8000, 10_000))]
OPTIONS = {"n_jobs": 1, "n_draws": 0, "out": None, "disk": 10**15}


def test_too_little_memory_is_refused_and_close_is_a_warning():
    ridge = entries(it=brainenc.RidgeEncoder(None))
    need = fit_memory(ridge["it"].encoder, (8000, 500), (8000, 3, 20_000)).n_bytes
    rows = 4 * 8000 * (500 + 60_000) + 2000 * (4 * 500 + 8 * 20_000)
    whole = need + rows
    assert check_resources(ridge, BETAS, FOLDS, limit=Limit(2 * whole, "x"), **OPTIONS) == []
    (said,) = check_resources(ridge, BETAS, FOLDS, limit=Limit(whole, "ulimit -v"), **OPTIONS)
    assert "a fit of it takes about" in said
    assert "(ulimit -v): select fewer voxels" in said
    with pytest.raises(ValueError, match=r"a fit of it .* select fewer voxels.*check_memory=False"):
        check_resources(ridge, BETAS, FOLDS, limit=Limit(whole / 1.6, "x"), **OPTIONS)


def test_several_fits_at_once_are_counted_together():
    ridge = entries(it=brainenc.RidgeEncoder(None), other=brainenc.RidgeEncoder(None))
    one = fit_memory(ridge["it"].encoder, (8000, 500), (8000, 3, 20_000)).n_bytes
    one += 4 * 8000 * 60_500 + 2000 * 162_000 + 650 * 2**20
    for n_jobs, ok in ((1, True), (2, True), (4, False)):
        options = OPTIONS | {"n_jobs": n_jobs, "limit": Limit(int(2.3 * one), "x")}
        if ok:
            assert check_resources(ridge, BETAS, FOLDS, **options) == []
            continue
        with pytest.raises(ValueError, match=r"4 fits at once .* use n_jobs=2"):
            check_resources(ridge, BETAS, FOLDS, **options)


def test_the_disk_counts_too(tmp_path):
    ridge = entries(it=brainenc.RidgeEncoder(None))
    options = OPTIONS | {"limit": Limit(10**15, "x"), "out": tmp_path}
    predictions = 4000 * 20_000 * 4
    assert check_resources(ridge, BETAS, FOLDS, **(options | {"disk": 2 * predictions})) == []
    with pytest.raises(ValueError, match=r"the run writes about .* choose another disk"):
        check_resources(ridge, BETAS, FOLDS, **(options | {"disk": predictions // 2}))


def test_a_benchmark_under_a_small_limit_stops_before_it_fits(tmp_path, monkeypatch):
    from brainenc.benchmarking import preflight

    data = brainenc.datasets.simulate_subject(60, 12, random_state=0)
    few = {"n_bootstraps": 10, "n_permutations": 9, "n_draws": 0, "verbose": False, "cv": 3}
    monkeypatch.setattr(preflight, "free_memory", lambda: Limit(2**20, "ulimit -v (0.0 GiB)"))
    encoders = {"ridge": brainenc.RidgeEncoder()}
    run = {"features": data.truth.tokens, "out": tmp_path / "run", **few}
    with pytest.raises(ValueError, match=r"ulimit -v .*check_memory=False"):
        brainenc.benchmark(data, encoders, **run)
    assert not list((tmp_path / "run").glob("pairs/*"))
    brainenc.benchmark(data, encoders, check_memory=False, **run)


def test_a_fit_warns_of_itself(monkeypatch):
    from brainenc.encoders import memory

    monkeypatch.setattr(memory, "_TOO_SMALL", 0)
    monkeypatch.setattr(memory, "free_memory", lambda: Limit(2**20, "memory.max"))
    X, betas = np.zeros((20, 3)), np.random.default_rng(0).standard_normal((20, 4))
    with pytest.warns(UserWarning, match=r"the fit of RidgeEncoder takes about .*memory\.max"):
        brainenc.RidgeEncoder(None).fit(X, betas)


MEASURE = """
import gc, json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, torch, brainenc
from brainenc.encoders.memory import fit_memory
def resident(what):
    return 1024 * int(open("/proc/self/status").read().split(what + ":")[1].split()[0])
n, d, k, v = map(int, sys.argv[2:])
rng = np.random.default_rng(0)
X, betas = np.empty((n, d), np.float32), np.empty((n, k, v), np.float32)
for array in (X, betas):
    rng.standard_normal(out=array, dtype=np.float32)
encoder = {"ridge": brainenc.RidgeEncoder(None), "mean": brainenc.MeanEncoder()}[sys.argv[1]]
estimate = fit_memory(encoder, X.shape, betas.shape).n_bytes
gc.collect()
before = resident("VmRSS")
encoder.fit(X, betas).fit_noise()
print(json.dumps([estimate, resident("VmHWM") - before]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "case",
    [("ridge", 1000, 300, 3, 12_000), ("ridge", 400, 9000, 1, 8000), ("mean", 900, 9, 3, 15_000)],
)
def test_estimates_are_right_within_half(case):
    command = [sys.executable, "-c", MEASURE, *map(str, case)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    estimate, measured = json.loads(done.stdout.splitlines()[-1])
    assert 1 / WITHIN < estimate / measured < WITHIN
