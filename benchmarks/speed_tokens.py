"""Ridge on all tokens of images, from a file in half precision that is never held. See `speed.py`.

Nine thousand images of 256 × 1664 tokens are 7.1 GiB in half precision and 14 GiB as float32. The
kernel reads them once, in blocks of columns. Its speed is that of its matrix products, so they are
timed in the same process on one block in memory: "GEMM" is a product of two matrices, and "SYRK"
that of a matrix with itself, of which one triangle is computed. The shares count the kernel's
operations as the product would do them, reading, conversion and scaling included.
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from measuring import measure, row, timed

from brainenc import arrays
from brainenc.solvers.streamed import ScaledFeatures, cross_kernel, linear_kernel

#: Images, tokens, and the width of a token, of OpenCLIP ViT-bigG/14; with --quick a hundredth.
SHAPE, QUICK = (9000, 256, 1664), (900, 26, 1664)
N_VOXELS = 100
#: Columns of the block whose products are timed: one of 128 MiB, as the kernel has them.
BLOCK_VALUES = 2**25


def tokens(arguments: argparse.Namespace) -> Iterator[dict]:
    shape = QUICK if arguments.quick else SHAPE
    yield from rows_of(shape, arguments.folder)


def rows_of(shape: tuple[int, int, int], where: Path | None = None) -> Iterator[dict]:
    """The rows of one size; the file lies in a temporary folder of `where`."""
    n_images, n_tokens, width = shape
    size, n_new = f"{n_images} × {n_tokens} × {width} in half precision", max(2, n_images // 9)
    with tempfile.TemporaryDirectory(dir=where) as name:
        folder = Path(name)
        measure(make_tokens, folder, shape)
        for kind, cold in (("", False), (", from disk", True)):
            found = measure(time_kernel, folder, cold)
            yield row(f"all tokens: kernel{kind}", size, found)
        found = measure(time_new_images, folder, n_new)
        yield row(f"all tokens: kernel of {n_new} new images", size, found)
        for work, found in measure(time_encoder, folder, n_new).items():
            yield row(f"all tokens: RidgeEncoder, {N_VOXELS} voxels: {work}", size, found)


def make_tokens(folder: Path, shape: tuple[int, int, int]) -> dict:
    """Tokens that share a part that differs between images, and voxels that depend on it."""
    rng = np.random.default_rng(0)
    n_images, n_tokens, width = shape
    X = np.lib.format.open_memmap(folder / "tokens.npy", "w+", np.float16, shape)
    shared = rng.standard_normal((n_images, width), dtype=np.float32)
    texture = rng.standard_normal((50, n_tokens, width), dtype=np.float32)
    for start in range(0, n_images, len(texture)):
        some = shared[start : start + len(texture), None]
        X[start : start + len(some)] = texture[: len(some)] + some
    X.flush()
    weights = rng.standard_normal((width, N_VOXELS), dtype=np.float32) / np.sqrt(width)
    noise = rng.standard_normal((n_images, 2, N_VOXELS), dtype=np.float32)
    np.save(folder / "betas.npy", (shared @ weights)[:, None] + noise)
    return {}


def mapped(folder: Path, cold: bool = False) -> np.ndarray:
    """The tokens as a memory map; if `cold`, the system's cache of them is emptied first."""
    if cold and hasattr(os, "posix_fadvise"):
        with (folder / "tokens.npy").open("rb") as file:
            os.fsync(file.fileno())  # pages that are not written yet would stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return np.load(folder / "tokens.npy", mmap_mode="r")


def time_kernel(folder: Path, cold: bool) -> dict:
    X = mapped(folder, cold)
    n_images, n_features = len(X), math.prod(X.shape[1:])
    linear_kernel(X[:20, :1])  # imports
    with timed() as found:
        linear_kernel(X)
    return found | speeds(found["s"], X.nbytes, n_images, n_images, n_features)


def time_new_images(folder: Path, n_new: int) -> dict:
    X = mapped(folder)
    n_features = math.prod(X.shape[1:])
    fitted = ScaledFeatures(X[n_new:], np.zeros(n_features, "f4"), np.ones(n_features, "f4"))
    for columns, block in ScaledFeatures(X[n_new:], fitted.mean, fitted.scale).blocks():
        fitted.mean[columns] = block.mean(axis=0)
    with timed() as found:
        cross_kernel(X[:n_new], fitted)
    return found | speeds(found["s"], X.nbytes, n_new, len(fitted), n_features)


def speeds(seconds: float, n_bytes: int, n: int, m: int, n_features: int) -> dict[str, float]:
    """Speed of n × m products over all features, and the same for a block in memory."""
    k = min(n_features, max(64, BLOCK_VALUES // m))
    a, b = (np.random.default_rng(0).standard_normal((size, k), dtype="f4") for size in (n, m))
    gemm = 2 * n * m * k / fastest(lambda: a @ b.T) / 1e9
    found = 2 * n * m * n_features / seconds / 1e9
    speeds = {"GB/s": n_bytes / 1e9 / seconds, "GFLOP/s": found, "GEMM GFLOP/s": gemm}
    speeds["share of GEMM"] = found / gemm
    if n == m:
        speeds["SYRK GFLOP/s"] = 2 * n * m * k / fastest(lambda: a @ a.T) / 1e9
        speeds["share of SYRK"] = found / speeds["SYRK GFLOP/s"]
    return speeds


def fastest(work: Callable[[], Any], n: int = 3) -> float:
    work()
    times = []
    for _ in range(n):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def time_encoder(folder: Path, n_new: int) -> dict[str, dict]:
    """The whole encoder; memory is the most anonymous memory, since the file is mapped."""
    from brainenc.encoders.ridge import RidgeEncoder

    X, betas = mapped(folder), np.load(folder / "betas.npy")
    found: dict[str, dict] = {}
    with every_size_is_large():
        encoder = RidgeEncoder(None)
        with timed() as found["fit"]:
            encoder.fit(X[n_new:], betas[n_new:])
        with timed() as found[f"predict {n_new} new images"]:
            predicted = encoder.predict(X[:n_new])
        with timed() as found[f"5 draws for {n_new} new images"]:
            encoder.sample(X[:n_new], n=5, random_state=0)
        with timed() as found["save"]:
            encoder.save(folder / "model")
    truth = betas[:n_new].mean(axis=1)
    r = [np.corrcoef(predicted[:, v], truth[:, v])[0, 1] for v in range(N_VOXELS)]
    found[f"predict {n_new} new images"]["mean r"] = float(np.mean(r))
    return found


@contextmanager
def every_size_is_large() -> Iterator[None]:
    """Small files are then read as large ones are."""
    former = arrays.LARGE_FEATURES
    arrays.LARGE_FEATURES = 0
    try:
        yield
    finally:
        arrays.LARGE_FEATURES = former
