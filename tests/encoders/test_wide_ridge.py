"""RidgeEncoder on features that are not held, against the same features in memory."""

import json
import subprocess
import sys

import numpy as np
import pytest

import brainenc
from brainenc import arrays
from brainenc.encoders import packing
from brainenc.solvers import streamed
from brainenc.solvers.streamed import ScaledFeatures

N, N_NEW, SHAPE = 90, 12, (10, 30)


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((N + N_NEW, *SHAPE)).astype(np.float16)
    flat = tokens.reshape(N + N_NEW, -1).astype(np.float32)
    signal = flat @ rng.standard_normal((flat.shape[1], 6), dtype=np.float32) / 10
    betas = signal[:, None] + rng.standard_normal((N + N_NEW, 2, 6), dtype=np.float32)
    betas[: N // 2, :, 3] = np.nan
    betas[:, :, 5] = np.nan
    return tokens, betas[:N]


@pytest.fixture
def in_memory(problem):
    tokens, betas = problem
    return encoder().fit(tokens[:N], betas)


@pytest.fixture
def all_large(monkeypatch):
    monkeypatch.setattr(arrays, "LARGE_FEATURES", 100)
    monkeypatch.setattr(packing, "LARGE", 100)
    monkeypatch.setattr(streamed, "_BLOCK_BYTES", 4 * N * 40)


def encoder():
    return brainenc.RidgeEncoder(None, alphas=[3.0, 30.0, 300.0], alpha_per_voxel=True)


def saved(array, folder, name="tokens"):
    np.save(folder / f"{name}.npy", array)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


GIVEN = {
    "mapped tokens": saved,
    "mapped, flat": lambda X, folder: saved(X.reshape(len(X), -1), folder),
    "mapped in Fortran order": lambda X, folder: saved(np.asfortranarray(X), folder),
    "mapped and flat in Fortran order": lambda X, folder: saved(
        np.asfortranarray(X.reshape(len(X), -1)), folder
    ),
    "without the first token": lambda X, folder: saved(
        np.concatenate([X[:, :1], X], axis=1), folder
    )[:, 1:],
    "float32": lambda X, folder: saved(X.astype(np.float32), folder),
    "float64": lambda X, folder: saved(X.astype(np.float64), folder),
    "half precision in memory": lambda X, _: X,
}


@pytest.mark.parametrize("kind", GIVEN)
def test_fits_predicts_and_comes_back_as_in_memory(kind, problem, in_memory, all_large, tmp_path):
    tokens, betas = problem
    given = GIVEN[kind](tokens, tmp_path)
    wide = encoder().fit(given[:N], betas)
    assert isinstance(wide.X_fit_, ScaledFeatures)
    assert np.shares_memory(wide.X_fit_.features, given)
    np.testing.assert_allclose(wide.alphas_, in_memory.alphas_, rtol=1e-6)
    expected = in_memory.predict(tokens[N:])
    assert np.isnan(expected[:, 5]).all()
    assert np.isfinite(expected[:, :5]).all()
    np.testing.assert_allclose(wide.predict(given[N:]), expected, atol=2e-4)
    np.testing.assert_allclose(wide.training_marks_, in_memory.training_marks_, atol=1e-5)
    drawn = wide.sample(given[N:], n=3, random_state=0)
    np.testing.assert_allclose(drawn, in_memory.sample(tokens[N:], n=3, random_state=0), atol=1e-3)
    loaded = brainenc.load(wide.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(given[N:]), wide.predict(given[N:]))
    np.testing.assert_array_equal(loaded.X_fit_.features, given[:N])
    assert loaded.X_fit_.features.dtype == given.dtype
    assert arrays.is_mapped(loaded.X_fit_.features)
    again = brainenc.load(loaded.save(tmp_path / "again"))
    np.testing.assert_array_equal(again.predict(given[N:]), wide.predict(given[N:]))


def test_weights_are_drawn_from_the_same_distribution(problem, in_memory, all_large):
    tokens, betas = problem
    wide = encoder().fit(tokens[:N], betas)
    both = [
        each.posterior_.at(each.regression_.scaled(tokens[N:]), each.X_fit_)
        for each in (in_memory, wide)
    ]
    for voxel in (0, 3):  # the second has data for half of the images
        one, other = (found.covariance(voxel) for found in both)
        np.testing.assert_allclose(other, one, rtol=2e-3, atol=1e-3 * np.abs(one).max())
    # With fewer columns than features, variances have a relative s.d. of sqrt(2 / 60) at most.
    vars(wide.X_fit_).pop("short")
    new = wide.regression_.scaled(tokens[N:])
    for each in (new, wide.X_fit_):
        vars(each)["short"] = each.sketch(60)
    sketched = wide.posterior_.at(new, wide.X_fit_).covariance(0)
    one = both[0].covariance(0)
    ratio = np.diag(sketched) / np.diag(one)
    assert 0.02 < np.abs(ratio - 1).mean() < 2 * np.sqrt(2 / 60)


def test_drawn_functions_are_the_same_for_any_images(problem, all_large):
    tokens, betas = problem
    wide = encoder().fit(tokens[:N], betas)
    whole = wide.sample(tokens[N:], n=4, noise="weights", random_state=1)
    some = wide.sample(tokens[N + 5 :], n=4, noise="weights", random_state=1)
    np.testing.assert_allclose(whole[:, 5:], some, atol=1e-3)  # the same functions


def test_features_are_read_once_for_all_blocks_of_draws(problem, all_large, monkeypatch):
    from brainenc.encoders import blocks_of_draws

    tokens, betas = problem
    wide = encoder().fit(tokens[:N], betas)
    monkeypatch.setattr(blocks_of_draws, "BLOCK_IMAGES", 2)
    n_calls = []
    cross = streamed.cross_kernel
    monkeypatch.setattr(streamed, "cross_kernel", lambda *given: n_calls.append(1) or cross(*given))
    wide.sample(tokens[N:], n=2, random_state=0)
    assert len(n_calls) == 1


def test_a_file_that_changed_since_the_fit_is_refused(problem, all_large, tmp_path):
    tokens, betas = problem
    given = saved(tokens[:N], tmp_path)
    wide = encoder().fit(given, betas)
    folder = wide.save(tmp_path / "model")
    expected = wide.predict(tokens[N:])
    writable = np.load(tmp_path / "tokens.npy", mmap_mode="r+")
    writable[:] = tokens[N_NEW:]
    writable.flush()
    with pytest.raises(ValueError, match="have changed"):
        wide.predict(tokens[N:])
    # A saved model has features of its own.
    np.testing.assert_array_equal(brainenc.load(folder).predict(tokens[N:]), expected)


def test_damaged_files_of_features_are_named(problem, all_large, tmp_path):
    tokens, betas = problem
    folder = encoder().fit(saved(tokens[:N], tmp_path), betas).save(tmp_path / "model")
    files = json.loads((folder / "model.json").read_text())["files"]
    file = folder / next(name for key, name in files.items() if key.endswith("X_fit.features"))
    content = file.read_bytes()
    file.write_bytes(content[:-2] + b"\1\2")
    with pytest.raises(ValueError, match=r"X_fit\.features was changed after the encoder"):
        brainenc.load(folder)
    file.write_bytes(content[:-2])
    with pytest.raises(ValueError, match="damaged"):
        brainenc.load(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"npy is missing: it holds .*features"):
        brainenc.load(folder)


def test_names_of_files_lead_nowhere_else(problem, all_large, tmp_path):
    from brainenc.encoders.saving import structure_checksum

    tokens, betas = problem
    folder = encoder().fit(saved(tokens[:N], tmp_path), betas).save(tmp_path / "model")
    structure = json.loads((folder / "model.json").read_text())
    structure["files"] = dict.fromkeys(structure["files"], "../tokens.npy")
    structure["checksum"] = structure_checksum(structure)
    (folder / "model.json").write_text(json.dumps(structure))
    with pytest.raises(ValueError, match="names other files"):
        brainenc.load(folder)


@pytest.mark.parametrize("order", ["C", "F"])
def test_features_that_are_not_finite_are_refused_by_row(problem, all_large, tmp_path, order):
    tokens, betas = problem
    tokens[7, 3, 3] = np.nan
    tokens[9, 9, 29] = np.inf
    given = saved(np.asarray(tokens[:N], order=order), tmp_path)
    with pytest.raises(ValueError, match=r"NaN or infinity for 2 images \(first in row 7\)"):
        encoder().fit(given, betas)


MEMORY = """
import sys, threading, time
import numpy as np
import brainenc
from brainenc import arrays
from brainenc.encoders import packing
from brainenc.solvers import streamed
from pathlib import Path

folder, order = sys.argv[1:]
arrays.LARGE_FEATURES = packing.LARGE = 2**20
streamed._BLOCK_BYTES = 2**24

def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024

X = np.load(folder + "/X.npy", mmap_mode="r")
X = X[:, 1:] if order == "part" else X
Y = np.load(folder + "/Y.npy")
small = X[:, :, :10]
warm = brainenc.RidgeEncoder(None, form="kernel", alpha_per_voxel=False)
warm.fit(np.array(small), Y).sample(np.array(small[:5]), n=2, noise="weights")
peak, before, stop = [0.0], anonymous(), threading.Event()

def watch():
    while not stop.wait(0.002):
        peak[0] = max(peak[0], anonymous())

thread = threading.Thread(target=watch)
thread.start()
encoder = brainenc.RidgeEncoder(None, alpha_per_voxel=False).fit(X, Y)
encoder.predict(X[:5])
encoder.sample(X[:5], n=2, noise="weights")
encoder.save(folder + "/model")
brainenc.load(folder + "/model").predict(X[:5])
stop.set()
thread.join()
print(peak[0] - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is read from /proc")
@pytest.mark.parametrize("order", ["C", "F", "part"])
def test_no_step_copies_a_map(tmp_path, order):
    """Fit, predict, draw, save and load: peak of anonymous memory in a process of its own."""
    rng = np.random.default_rng(0)
    n, n_tokens, width = 64, 128, 8192
    X = np.lib.format.open_memmap(
        tmp_path / "X.npy", "w+", np.float16, (n, n_tokens, width), fortran_order=order == "F"
    )
    for token in range(n_tokens):
        X[:, token] = rng.standard_normal((n, width), dtype=np.float32)
    X.flush()
    size = X.nbytes / 2**20  # 128 MiB: a copy in float32 is of 256 MiB
    np.save(tmp_path / "Y.npy", rng.standard_normal((n, 3)).astype(np.float32))
    command = [sys.executable, "-c", MEMORY, str(tmp_path), order]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Blocks of 16 MiB, and a few vectors of a million numbers.
    assert float(done.stdout.split()[-1]) < 0.7 * size, done.stdout
