"""Fits, features and benchmark pairs in threads of a process, against the same without threads."""

import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import training_problem
from torch import nn

import brainenc
from brainenc import solvers
from brainenc.benchmarking import pairs
from brainenc.devices import full_precision
from brainenc.encoders import make_encoder
from brainenc.features.torch_module import TorchFeatures
from brainenc.model_selection import image_folds
from brainenc.process_state import pair_lock, state_lock, torch_seeded
from brainenc.training import TrainingError

SEEDS = (0, 1, 2, 3)
#: Of a network that keeps its dropout.
TINY = {"n_channels": 4, "hidden": 16}


def in_threads(function, arguments):
    """Results of a function of each argument, all started at the same moment."""
    arguments = list(arguments)
    all_started = threading.Barrier(len(arguments))

    def start(argument):
        all_started.wait(timeout=30)
        return function(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(start, arguments))


def assert_free(lock):
    """Another thread can take the lock, as the one that holds it always can."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lock.acquire, timeout=10).result()
        pool.submit(lock.release).result()


# ------------------------------------------------------------------ fits


@pytest.mark.slow
def test_the_same_seed_gives_the_same_network_in_threads():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((110, 6, 5)).astype(np.float32)
    betas = rng.standard_normal((110, 2, 7)).astype(np.float32)

    def fitted(seed):
        encoder = make_encoder(
            "mindreader", features=None, sizes=TINY, n_members=2, n_epochs=1, batch_size=8,
            random_state=seed, device="cpu",
        )  # fmt: skip
        encoder.fit(features, betas)
        assert len(encoder.members_) == 2  # networks, not the ridge that few images get
        return encoder.predict(features), encoder.sample(features[:3], n=2, random_state=0)

    serial = [fitted(seed) for seed in SEEDS]
    assert not np.array_equal(serial[0][0], serial[1][0])
    for alone, beside in zip(serial, in_threads(fitted, SEEDS), strict=True):
        np.testing.assert_array_equal(beside[0], alone[0])
        np.testing.assert_array_equal(beside[1], alone[1])


def test_trainings_with_dropout_in_threads_are_those_without():
    def trained(seed):
        return training_problem.run(dropout=0.5, settings={"random_state": seed})["last"]

    torch.manual_seed(11)
    before = torch.get_rng_state(), dict(os.environ), torch.get_num_threads()
    serial = [trained(seed) for seed in SEEDS]
    for alone, beside in zip(serial, in_threads(trained, SEEDS), strict=True):
        assert all(torch.equal(beside[name], value) for name, value in alone.items())
    after = torch.get_rng_state(), dict(os.environ), torch.get_num_threads()
    assert torch.equal(after[0], before[0])
    assert after[1:] == before[1:]


class Pause(nn.Module):
    """Leaves other threads time to interfere, as large layers would."""

    def __init__(self):
        super().__init__()
        time.sleep(0.002)

    def forward(self, x):
        time.sleep(0.002)
        return x


def test_weights_drawn_in_threads_are_those_of_the_seed():
    def weights(seed):
        with torch_seeded(seed):
            return [nn.Sequential(Pause(), nn.Linear(5, 5))[1].weight for _ in range(10)]

    torch.manual_seed(11)
    before = torch.get_rng_state()
    serial = [weights(seed) for seed in SEEDS]
    for alone, beside in zip(serial, in_threads(weights, SEEDS), strict=True):
        assert all(torch.equal(mine, yours) for mine, yours in zip(alone, beside, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_kernel_ridge_in_threads():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((80, 200)), rng.standard_normal((80, 20))
    K, folds, alphas = X @ X.T / 200, image_folds(5, 80), np.logspace(-2, 3, 8)

    def solve(_):
        return solvers.kernel_ridge_cv(K, Y, alphas, folds)

    expected = solve(0)
    for fit in in_threads(solve, range(4)):
        np.testing.assert_array_equal(fit.weights, expected.weights)


def test_blocks_in_full_precision_do_not_end_each_other():
    former = torch.get_float32_matmul_precision()

    def precision_at_the_end(delay):
        time.sleep(delay)
        with full_precision():
            time.sleep(0.1)
            return torch.get_float32_matmul_precision()

    try:
        torch.set_float32_matmul_precision("medium")
        # The second begins within the first, and ends after it.
        assert in_threads(precision_at_the_end, (0, 0.05)) == ["highest"] * 2
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(former)


# ------------------------------------------------------------------ features


def test_features_of_a_shared_network_in_threads():
    """One of the extractors must not leave the other's network in training mode, with dropout."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5), Pause(), nn.BatchNorm2d(4), nn.Dropout(0.5))
    images = np.random.default_rng(0).integers(0, 256, (12, 24, 24, 3), dtype=np.uint8)

    def extracted(_):
        extractor = TorchFeatures(net, "3", preprocess=as_floats, batch_size=2, verbose=False)
        return extractor.transform(images)

    expected = extracted(0)
    for found in in_threads(extracted, range(4)):
        np.testing.assert_array_equal(found, expected)
    assert net.training


def as_floats(image):
    return torch.tensor(np.asarray(image)).permute(2, 0, 1).float() / 255


def test_gabor_features_leave_other_threads_their_number_of_torch_threads(monkeypatch):
    """A thread keeps the number that it finds at its first operation for as long as it lives."""
    inside, beside = [], []
    compute = brainenc.GaborPyramid._features

    def computed(self, batch, device):
        inside.append(torch.get_num_threads())
        with ThreadPoolExecutor(1) as new:
            beside.append(new.submit(torch.get_num_threads).result())
        return compute(self, batch, device)

    monkeypatch.setattr(brainenc.GaborPyramid, "_features", computed)
    images = np.random.default_rng(0).integers(0, 256, (20, 40, 40), dtype=np.uint8)
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        brainenc.GaborPyramid(device="cpu", verbose=False).transform(images)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(n_threads)
    assert inside == [1] * 3  # 20 images in parts of 8
    assert beside == [3] * 3


# ------------------------------------------------------------------ benchmark pairs


class Loud(brainenc.MeanEncoder):
    """The mean, which warns of its name for a while and holds memory meanwhile."""

    def __init__(self, name="", mebibytes=0):
        super().__init__()
        self.name = name
        self.mebibytes = mebibytes

    def _fit(self, features, betas):
        held = np.ones(self.mebibytes * 2**17)
        for _ in range(20):
            warnings.warn(self.name, UserWarning, stacklevel=1)
            time.sleep(0.02)
        del held
        return super()._fit(features, betas)


def test_pairs_in_threads_keep_their_warnings_and_memory_apart(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 8, 8), dtype=np.uint8)
    betas = rng.standard_normal((20, 2, 3)).astype(np.float32)
    rows = np.arange(20)
    sizes = {"small": 0, "large": 100}

    def run(name):
        pair = pairs.Pair(
            Loud(name, sizes[name]), name, 0, rows[:15], rows[15:], tmp_path / name, key=name
        )
        return pairs.run_pair(pair, images, betas).info()

    filters = list(warnings.filters)
    found = dict(zip(sizes, in_threads(run, sizes), strict=True))
    assert {name: info["warnings"] for name, info in found.items()} == {
        "small": ["small"],
        "large": ["large"],
    }
    assert found["large"]["peak_memory_mb"] > 90
    assert found["small"]["peak_memory_mb"] < 50
    assert warnings.filters == filters
    with pytest.warns(UserWarning, match="afterwards"):  # recorded by nobody who is gone
        warnings.warn("afterwards", UserWarning, stacklevel=1)


class FitsInThreads(brainenc.RidgeEncoder):
    """Ridge, which first fits others in threads of its own, as GridSearchCV may."""

    def _fit(self, features, betas):
        def one(_):
            if not state_lock().acquire(timeout=20):
                raise TimeoutError("the lock is held by the thread that waits for this one")
            state_lock().release()
            return brainenc.RidgeEncoder(None).fit(features, betas)

        in_threads(one, range(3))
        return super()._fit(features, betas)


def test_an_encoder_may_fit_others_in_threads_of_its_own(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 4)).astype(np.float32)
    betas = rng.standard_normal((20, 2, 3)).astype(np.float32)
    rows = np.arange(20)
    pair = pairs.Pair(FitsInThreads(None), "a", 0, rows[:15], rows[15:], tmp_path / "a", key="a")
    assert pairs.run_pair(pair, X, betas).info()["error"] is None


# ------------------------------------------------------------------ the locks


def explode(module, batch):
    return {"loss": sum(p.sum() for p in module.parameters()) * float("nan")}


def interrupt(module, batch):
    raise KeyboardInterrupt


def fail(module):
    raise RuntimeError("no metric")


@pytest.mark.parametrize(
    ("options", "error"),
    [({"loss": explode}, TrainingError), ({"evaluate": fail}, RuntimeError)],
    ids=["not finite", "evaluation fails"],
)
def test_the_lock_is_free_after_a_training_that_raised(options, error):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    with pytest.raises(error):
        training_problem.run(**options)
    assert_free(state_lock())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_lock_is_free_after_ctrl_c():
    with pytest.warns(RuntimeWarning, match="training was interrupted"):
        training_problem.run(loss=interrupt)
    assert_free(state_lock())
    with pytest.raises(KeyboardInterrupt), torch_seeded(0):
        raise KeyboardInterrupt
    assert_free(state_lock())


class Interrupted(brainenc.MeanEncoder):
    def _fit(self, features, betas):
        raise KeyboardInterrupt


def test_the_lock_of_pairs_is_free_after_ctrl_c(tmp_path):
    rows = np.arange(20)
    pair = pairs.Pair(Interrupted(), "a", 0, rows[:15], rows[15:], tmp_path / "a", key="a")
    with pytest.raises(KeyboardInterrupt):
        pairs.run_pair(pair, np.zeros((20, 4), np.float32), np.zeros((20, 1, 3), np.float32))
    assert_free(pair_lock())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # since Python 3.12
@pytest.mark.parametrize("lock", [state_lock, pair_lock])
def test_a_forked_process_does_not_wait_for_a_thread_that_it_lacks(lock):
    held, release = threading.Event(), threading.Event()

    def hold():
        with lock():
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        os._exit(0 if lock().acquire(timeout=5) else 1)
    status = os.waitpid(child, 0)[1]
    release.set()
    holder.join()
    assert os.waitstatus_to_exitcode(status) == 0
