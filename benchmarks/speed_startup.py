"""Speed of starting, of small work, and of what a benchmark does besides fits. See `speed.py`.

- start-up: import and first fit of ridge in a fresh process, and ``brainenc --help``;
- report: the page of a benchmark of eleven encoders with draws;
- overhead: a benchmark of ridge with its default rows (the mean, ridge, ridge on permuted images),
  intervals and p-values, against the time that the fits of ridge in it took ("other"): the ratio is
  that of fits to all else, so 3 means that all else takes a third.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import in_turn, measure, row, timed

#: Images, voxels and features of the benchmarks whose overhead is measured.
SMALL, LARGE = (600, 800, 1664), (9000, 15724, 1664)
N_ENCODERS = 11

FIRST_FIT = """
import numpy as np
rng = np.random.default_rng(0)
X = rng.standard_normal((300, 50), dtype=np.float32)
betas = rng.standard_normal((300, 1000), dtype=np.float32)
import brainenc
brainenc.RidgeEncoder(features=None).fit(X, betas)
"""
HELP = "import sys; sys.argv = ['brainenc', '--help']; from brainenc.cli import main; main()"


def startup(arguments: argparse.Namespace) -> Iterator[dict]:
    """Rows of all three; of the large benchmark if ``--voxels`` has its 15 724, as by default."""
    found = in_turn(arguments.rounds, (run_python, FIRST_FIT), (run_python, HELP))
    for work, size, seconds in zip(
        ("import and first fit of ridge", "brainenc --help"),
        ("300 × 50 → 1000", "–"),
        found,
        strict=True,
    ):
        yield row(f"start-up: {work}", size, seconds)
    n_images, n_voxels, n_encoders = (60, 40, 2) if arguments.quick else (600, 800, N_ENCODERS)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(make_run, Path(folder), n_images, n_voxels, n_encoders)
        (report,) = in_turn(arguments.rounds, (draw_report, Path(folder)))
    size = f"{n_encoders} encoders, {n_voxels} voxels"
    yield row("report of a benchmark with draws", size, report)
    sizes = [SMALL] + [LARGE] * (LARGE[1] in arguments.voxels)
    for images, voxels, features in sizes:
        if arguments.quick:
            images, voxels, features = images // 10, voxels // 10, features // 10
        rounds = arguments.rounds if images <= SMALL[0] else 1
        (overhead,) = in_turn(rounds, (run_benchmark, images, voxels, features))
        fits = {name: overhead.pop(f"fits, {name}") for name in ("s", "CPU s")}
        theirs = fits | {"peak GiB": float("nan")}
        size = f"{images} × {features} → {voxels}"
        yield row("benchmark: all but fits", size, overhead, theirs)


def run_python(code: str) -> dict:
    """Time and processor time of a fresh interpreter."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"s": seconds, "CPU s": cpu, "peak GiB": float("nan")}


def make_run(folder: Path, n_images: int, n_voxels: int, n_encoders: int) -> None:
    """A saved benchmark of ridge with many penalties, with draws, of a simulated subject."""
    import brainenc

    data = brainenc.datasets.simulate_subject(n_images, n_voxels, verbose=False)
    tokens = data.truth.tokens.reshape(n_images, -1)
    encoders = {
        f"ridge, {10.0**k:g}": brainenc.RidgeEncoder(None, alphas=[10.0**k])
        for k in range(-2, n_encoders - 3)
    }
    few: dict[str, Any] = {"n_bootstraps": 200, "n_permutations": 50, "n_draws": 20, "cv": 3}
    result = brainenc.benchmark(
        data, encoders, features=tokens, controls=False, check=False, verbose=False, **few
    )
    result.save(folder / "run")


def draw_report(folder: Path) -> dict:
    from brainenc.benchmarking import BenchmarkResult
    from brainenc.report import render_report

    result = BenchmarkResult.load(folder / "run")
    with timed() as found:
        render_report(result, surface="none")
    return found


def run_benchmark(n_images: int, n_voxels: int, n_features: int) -> dict:
    """Time of a benchmark with its report, less that of fits of ridge."""
    import brainenc

    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_images, n_features), dtype=np.float32)
    weights = rng.standard_normal((n_features, n_voxels), dtype=np.float32) / n_features**0.5
    betas = (X @ weights)[:, None].repeat(3, axis=1)
    for trial in range(3):
        noise = rng.standard_normal((n_images, n_voxels), dtype=np.float32)
        betas[:, trial] += 1.5 * noise
    images = rng.integers(0, 256, (n_images, 8, 8, 3), dtype=np.uint8)
    data = brainenc.EncodingData(images, betas)
    fits = {"s": 0.0, "CPU s": 0.0}
    fit = brainenc.RidgeEncoder.fit

    def timed_fit(*arguments: Any, **options: Any) -> Any:
        start, cpu = time.perf_counter(), time.process_time()
        fitted = fit(*arguments, **options)
        fits["s"] += time.perf_counter() - start
        fits["CPU s"] += time.process_time() - cpu
        return fitted

    brainenc.RidgeEncoder(None).fit(X[:60], betas[:60, :, :20])  # imports are start-up's
    brainenc.RidgeEncoder.fit = timed_fit  # type: ignore[method-assign]
    with timed() as found:
        # Whether images and betas belong together is checked beforehand, once per subject.
        result = brainenc.benchmark(
            data, {"ridge": brainenc.RidgeEncoder(None)}, features=X, check=False, verbose=False
        )
        with tempfile.TemporaryDirectory() as folder:
            result.to_html(Path(folder) / "report.html")
    return {
        **found,
        **{name: found[name] - fits[name] for name in fits},
        **{f"fits, {name}": fits[name] for name in fits},
    }
