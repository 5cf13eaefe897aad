import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from brainenc.features import FeatureExtractor, FeatureStore, GaborPyramid, PixelFeatures

# Run as a program by other processes, and imported here: one extractor that counts and can be slow.
PROGRAM = """
import sys, time
import numpy as np
from brainenc.features import FeatureExtractor

class Slow(FeatureExtractor):
    def __init__(self, power=1, *, pause=0.0, batch_size=4, store=None, verbose=False):
        self.power = power
        self.pause = pause
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose
        self.n_computed = 0

    def key(self):
        return {k: v for k, v in super().key().items() if k != "pause"}

    def _extract(self, batch):
        self.n_computed += len(batch)
        time.sleep(self.pause)
        return (batch.reshape(len(batch), -1) / 255.0) ** self.power

def images():
    return np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)

if __name__ == "__main__":
    extractor = Slow(pause=float(sys.argv[2]), store=sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()  # imports take seconds on a busy machine: start when told
    features = extractor.transform(images())
    np.testing.assert_array_equal(features, Slow().transform(images()))
    print(extractor.n_computed)
"""
namespace: dict = {"__name__": "__main__.slow"}
exec(PROGRAM, namespace)
Slow, images = namespace["Slow"], namespace["images"]
# The program's class lives in __main__; so that both sides have one key, say the same here.
Slow.__module__, Slow.__qualname__ = "__main__", "Slow"


@contextmanager
def running(folder, pause, n):
    """`n` processes at work on a store, told to start together and never left behind."""
    command = [sys.executable, "-c", PROGRAM, str(folder), str(pause)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(n)]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def stored(folder):
    return list(folder.rglob("[!.]*.npy"))


def test_second_time_nothing_is_computed(tmp_path):
    first, second = Slow(store=tmp_path), Slow(store=FeatureStore(tmp_path))
    np.testing.assert_array_equal(first.transform(images()), second.transform(images()))
    assert (first.n_computed, second.n_computed) == (40, 0)


def test_images_are_found_by_content_at_any_position(tmp_path):
    Slow(store=tmp_path).transform(images()[:20])
    mixed = images()[[25, 3, 19, 0, 30, 3]]
    extractor = Slow(store=tmp_path)
    np.testing.assert_array_equal(extractor.transform(mixed), Slow().transform(mixed))
    assert extractor.n_computed == 2


def test_a_file_and_its_array_are_one_image(tmp_path):
    photographs = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for i, image in enumerate(photographs):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    Slow(store=tmp_path / "store").transform(photographs)
    extractor = Slow(store=tmp_path / "store")
    extractor.transform([tmp_path / f"{i}.png" for i in range(3)])
    assert extractor.n_computed == 0


def test_one_pixel_or_another_shape_is_another_image(tmp_path):
    pixels = images()[:1]
    Slow(store=tmp_path).transform(pixels)
    changed = pixels.copy()
    changed[0, 15, 15] ^= 1
    for other in (changed, pixels.reshape(1, 8, 32)):
        extractor = Slow(store=tmp_path)
        extractor.transform(other)
        assert extractor.n_computed == 1


def test_other_parameters_never_share_features(tmp_path):
    for power in (1, 2, 1):
        features = Slow(power, store=tmp_path).transform(images())
        np.testing.assert_array_equal(features, Slow(power).transform(images()))

    class Newer(Slow):
        version = 2

    Newer.__module__, Newer.__qualname__ = "__main__", "Slow"
    newer = Newer(store=tmp_path)
    newer.transform(images())
    assert newer.n_computed == 40


def test_a_person_can_read_what_a_folder_holds(tmp_path):
    extractor = GaborPyramid(1, 2, pool=2, size=16, store=tmp_path, verbose=False)
    extractor.transform(images()[:2])
    (key,) = tmp_path.glob("*/key.json")
    assert json.loads(key.read_text()) == extractor.key()
    assert len(stored(key.parent)) == 2


def test_two_processes_at_once(tmp_path):
    with running(tmp_path, pause=0.1, n=2) as both:
        counts = []
        for process in both:
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err  # each compared its features with the truth
            counts.append(int(out))
    # Ten pauses of 0.1 s from a common start: both were at work before either had finished.
    assert min(counts) > 0
    assert sum(counts) >= 40
    assert len(stored(tmp_path)) == 40
    extractor = Slow(store=tmp_path)
    np.testing.assert_array_equal(extractor.transform(images()), Slow().transform(images()))
    assert extractor.n_computed == 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_is_taken_up_where_it_was(tmp_path):
    with running(tmp_path, pause=0.2, n=1) as (process,):
        deadline = time.monotonic() + 60
        while len(stored(tmp_path)) < 12 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    n_done = len(stored(tmp_path))
    assert 12 <= n_done < 40
    extractor = Slow(store=tmp_path)
    np.testing.assert_array_equal(extractor.transform(images()), Slow().transform(images()))
    assert extractor.n_computed == 40 - n_done


@pytest.mark.parametrize("keep", [0, 5, 60, -4])
def test_a_damaged_file_is_computed_again(tmp_path, keep):
    Slow(store=tmp_path).transform(images())
    damaged = stored(tmp_path)[7]
    damaged.write_bytes(damaged.read_bytes()[:keep])
    extractor = Slow(store=tmp_path)
    with pytest.warns(RuntimeWarning, match=f"{damaged.name} is damaged"):
        features = extractor.transform(images())
    np.testing.assert_array_equal(features, Slow().transform(images()))
    assert extractor.n_computed == 1
    again = Slow(store=tmp_path)
    again.transform(images())  # mended: no warning now
    assert again.n_computed == 0


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_read_only_store_serves_what_it_has(tmp_path, monkeypatch):
    Slow(store=tmp_path).transform(images()[:10])
    denied = os.access

    def read_only(path, mode):  # root may write anywhere, so permissions alone prove nothing
        return False if mode & os.W_OK else denied(path, mode)

    monkeypatch.setattr(os, "access", read_only)
    extractor = Slow(store=tmp_path)
    extractor.transform(images()[:10])
    assert extractor.n_computed == 0
    with pytest.raises(PermissionError, match="read-only"):
        extractor.transform(images()[10:])
    with pytest.raises(PermissionError, match="read-only"):
        PixelFeatures(store=tmp_path, verbose=False).transform(images())


def test_extractors_of_other_modules_with_one_name_differ():
    class Slow(FeatureExtractor):
        def __init__(self, *, batch_size=1, store=None, verbose=False):
            self.batch_size, self.store, self.verbose = batch_size, store, verbose

        def _extract(self, batch):
            return batch[:, 0]

    assert Slow().key()["extractor"] != namespace["Slow"]().key()["extractor"]
