"""Pairs on a Dask cluster of two workers, one of which is killed."""

import os
import signal
import threading
import time

import numpy as np
import pandas as pd
import pytest
from waiting_encoder import JobsEncoder, MeetingEncoder, WaitingEncoder

import brainenc
from brainenc.benchmarking import cluster

distributed = pytest.importorskip("distributed")

FEW = {
    "cv": 4, "n_bootstraps": 20, "n_permutations": 10, "n_draws": 0, "references": False,
    "check": False, "verbose": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(40, 12, image_size=48)


def local_workers(n):
    # Any port for the dashboard: the usual one may be taken, which Dask warns of.
    return distributed.LocalCluster(
        n_workers=n, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    )


@pytest.fixture(scope="module")
def local_cluster():
    with local_workers(2) as workers:
        yield workers


@pytest.fixture
def positions(data):
    return np.arange(float(data.n_images))[:, None]


def kill_when_the_others_are_done(log, out):
    """SIGKILL the worker that waits, once the three other folds are finished."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        waiting = list(log.glob("waited-*"))
        if (
            waiting
            and waiting[0].read_text()
            and len(list(out.glob("pairs/*/fold*/info.json"))) == 3
        ):
            os.kill(int(waiting[0].read_text()), signal.SIGKILL)
            return
        time.sleep(0.05)


@pytest.mark.slow
def test_a_worker_killed_midway_costs_its_own_fit_only(data, positions, local_cluster, tmp_path):
    log, out = tmp_path / "log", tmp_path / "run"
    log.mkdir()
    encoder = WaitingEncoder(log=str(log), wait_without=0)
    killer = threading.Thread(target=kill_when_the_others_are_done, args=(log, out))
    killer.start()
    result = brainenc.benchmark(
        data, {"waiting": encoder}, features=positions, out=out,
        scheduler=local_cluster.scheduler_address, **FEW,
    )  # fmt: skip
    killer.join()
    here = brainenc.benchmark(data, {"waiting": brainenc.MeanEncoder()}, **FEW)
    scores = ["mse", "mse_z_trials", "pattern_r"]
    np.testing.assert_array_equal(result.encoders[scores], here.encoders[scores])
    fits = [path.name.split("-")[0] for path in log.iterdir()]
    assert sorted(map(fits.count, set(fits))) == [1, 1, 1, 2]
    assert fits.count("waited") == 2
    assert len({path.read_text() for path in log.glob("waited-*")}) == 2  # another process
    assert os.getpid() not in {int(path.read_text()) for path in log.iterdir()}
    assert not list(out.glob(".inputs-*"))  # what was sent is gone
    # Taken up again, nothing is fitted.
    again = brainenc.benchmark(
        data, {"waiting": encoder}, features=positions, out=out,
        scheduler=local_cluster.scheduler_address, **FEW,
    )  # fmt: skip
    assert len(list(log.iterdir())) == 5
    np.testing.assert_array_equal(again.encoders[scores], here.encoders[scores])


def grow_when_the_first_fits(log, workers, n):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(log.iterdir()):
        time.sleep(0.05)
    workers.scale(n)


@pytest.mark.slow
def test_workers_that_come_later_are_used_too(data, positions, tmp_path):
    # A queue of jobs hands out workers one after the other, and a run starts with the first.
    log = tmp_path / "log"
    log.mkdir()
    with local_workers(1) as workers:
        growing = threading.Thread(target=grow_when_the_first_fits, args=(log, workers, 3))
        growing.start()
        result = brainenc.benchmark(
            data, {"meeting": MeetingEncoder(log=str(log), n=3)}, features=positions,
            out=tmp_path / "run", scheduler=workers.scheduler_address, **FEW,
        )  # fmt: skip
        growing.join()
    assert result.encoders["error"].tolist() == [""]
    assert str(os.getpid()) not in {path.name for path in log.iterdir()}


@pytest.fixture(scope="module")
def threads_of_one_process():
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=3, processes=False, dashboard_address="127.0.0.1:0"
    ) as workers:
        yield workers


def in_threads(workers, out, *arguments, **run):
    with pytest.warns(UserWarning, match="1 of 1 workers .* 3 tasks at once.*--nthreads 1"):
        return brainenc.benchmark(
            *arguments, out=out, scheduler=workers.scheduler_address, **{**FEW, **run}
        )


@pytest.mark.slow
def test_threads_of_a_worker_fit_the_networks_of_a_run_without(threads_of_one_process, tmp_path):
    data = brainenc.datasets.simulate_subject(120, 12, image_size=48)
    images = np.arange(data.n_images)
    folds = [(np.delete(images, test), test) for test in images.reshape(12, 10)[:3]]
    network = brainenc.encoders.make_encoder(
        "mindreader", sizes={"n_channels": 4, "hidden": 16}, n_members=1, n_epochs=1, device="cpu"
    )
    problem = data, {"network": network}
    how = {"features": data.truth.tokens, "cv": folds, "references": True}
    serial = brainenc.benchmark(*problem, **{**FEW, **how})
    # As with ridge, which the network is with fewer than 100 images to learn from.
    assert not any("made the same predictions" in warning for warning in serial.warnings)
    found = in_threads(threads_of_one_process, tmp_path / "run", *problem, **how)
    pd.testing.assert_frame_equal(found.maps, serial.maps, check_exact=True)


@pytest.mark.slow
def test_an_encoder_that_uses_joblib_itself_does_not_wait_for_ever(
    data, positions, threads_of_one_process, tmp_path
):
    """Its jobs would come after other pairs, which would wait for it on the worker's threads."""
    encoders = {"jobs": JobsEncoder()}
    found = in_threads(threads_of_one_process, tmp_path / "run", data, encoders, features=positions)
    here = brainenc.benchmark(data, encoders, features=positions, **FEW)
    assert found.encoders["error"].tolist() == [""]
    pd.testing.assert_frame_equal(found.maps, here.maps)


@pytest.mark.slow
def test_workers_that_do_not_see_the_folder_are_named(data, local_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.os.path, "isdir", blind)
    with pytest.raises(ValueError, match=r"of \d workers .* do not see .*run"):
        brainenc.benchmark(
            data, {"mean": brainenc.MeanEncoder()}, out=tmp_path / "run",
            scheduler=local_cluster.scheduler_address, **FEW,
        )  # fmt: skip


def blind(path):
    return False


def test_a_cluster_needs_a_shared_folder_and_a_scheduler(data, tmp_path):
    mean = {"mean": brainenc.MeanEncoder()}
    with pytest.raises(ValueError, match="scheduler needs out="):
        brainenc.benchmark(data, mean, scheduler="tcp://127.0.0.1:9", **FEW)


# ------------------------------------------------------------------ what is sent


def test_arrays_are_sent_as_files(tmp_path):
    array = np.random.default_rng(0).standard_normal((7, 3, 2)).astype(np.float32)
    np.save(tmp_path / "betas.npy", array)
    mapped = np.load(tmp_path / "betas.npy", mmap_mode="r")
    (tmp_path / "inputs").mkdir()
    send = cluster._Sender(tmp_path / "inputs")
    whole = send(mapped)
    assert whole.path == tmp_path / "betas.npy"  # no copy of what is on disk
    np.testing.assert_array_equal(whole.open(), array)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(array))
    fortran = np.load(tmp_path / "fortran.npy", mmap_mode="r")
    # Parts, other orders of axes and arrays in memory are written, each once.
    for given in (mapped[2:5], mapped[:, ::2], array, np.asfortranarray(array), fortran):
        sent = send(given)
        assert sent.path.parent == tmp_path / "inputs"
        assert send(given) is sent
        np.testing.assert_array_equal(sent.open(), given)
    assert len(list((tmp_path / "inputs").iterdir())) == 5


def test_changes_that_a_map_keeps_to_itself_are_sent(tmp_path):
    np.save(tmp_path / "betas.npy", np.zeros((4, 1, 2), dtype=np.float32))
    mapped = np.load(tmp_path / "betas.npy", mmap_mode="c")
    mapped[2] = 5  # not in the file
    (tmp_path / "inputs").mkdir()
    sent = cluster._Sender(tmp_path / "inputs")(mapped)
    np.testing.assert_array_equal(sent.open(), mapped)


def test_without_a_scheduler_nothing_is_sent():
    array = np.ones(3)
    with cluster.connected(None, None) as send:
        assert send(array) is array


def test_a_learning_curve_is_fitted_by_the_workers(local_cluster, tmp_path):
    one, two = brainenc.datasets.simulate_subjects(2, 60, 12, shared_images=0, image_size=48)
    tokens = {d.name: d.truth.tokens for d in (one, two)}
    methods = {"adapted": brainenc.Transfer(brainenc.RidgeEncoder(), "adapt")}
    given = {"sizes": [10, 20], "n_draws": 1, "n_bootstraps": 10, "verbose": False}
    given |= {"sources": [two], "features": tokens}
    here = brainenc.learning_curve(one, methods, **given)
    there = brainenc.learning_curve(
        one, methods, scheduler=local_cluster.scheduler_address, out=tmp_path / "curve", **given
    )
    assert here.table().drop(index="mean").notna().all(axis=None)  # r of a constant is undefined
    np.testing.assert_allclose(there.scores["r"], here.scores["r"], atol=1e-6)
    assert len(list((tmp_path / "curve" / "fits").glob("*.npy"))) == len(here.table()) * 2
