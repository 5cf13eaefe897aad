"""Peak memory of fits to a subject of NSD's size that lies on disk, memory-mapped.

    python benchmarks/memory.py --out docs/results --scratch /folder/with/12/GB

Every row is a process of its own; its memory is the largest resident size that the system has
noted, the interpreter and torch included. Files hold made-up numbers with a
signal in them: 9 000 images × 3 repeats × 15 724 voxels, tokens of 256 × 1664 in half precision.
Networks are trained for fewer epochs and with fewer members than by default, which takes time and
no memory: members are trained one after the other.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from synbrain_common import show, write

import brainenc
from brainenc.benchmarking.manifest import hardware, versions
from brainenc.data.brain_folder import write_beside_betas
from brainenc.progress import progress

#: NSD subject 1 without its shared images, and the tokens of OpenCLIP ViT-bigG/14.
SHAPE = {"images": 9000, "repeats": 3, "voxels": 15_724, "tokens": 256, "width": 1664}
BLOCK = 100
#: Test images of the benchmark, and ROIs.
N_TEST, N_ROIS = 1000, 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--scratch", type=Path, help="where the files go; 12 GB at full size")
    parser.add_argument("--only", nargs="+", choices=list(CHILDREN), default=list(CHILDREN))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    for name, size in SHAPE.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(CHILDREN[arguments.child](arguments.scratch)))
        return
    shape = {name: getattr(arguments, name) for name in SHAPE}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        if set(arguments.only) - {"draws"}:
            make_files(Path(folder), **shape)
        sizes = {path.name: path.stat().st_size / 2**30 for path in Path(folder).glob("*.npy")}
        manifest = {
            "command": f"python benchmarks/memory.py --only {' '.join(arguments.only)}",
            "date": time.strftime("%Y-%m-%d"),
            "shape": shape,
            "files, GiB": {name: round(size, 2) for name, size in sizes.items()},
            "versions": versions(),
            "hardware": hardware(),
        }
        rows: list[dict] = []
        for name in arguments.only:
            rows.append(measured(name, Path(folder)))
            # After every row: at full size some take an hour, and the next may not end.
            table = pd.DataFrame(rows)
            show({"peak memory": table})
            write(arguments.out, "memory", {"peak": table}, manifest)


def make_files(
    folder: Path, *, images: int, repeats: int, voxels: int, tokens: int, width: int
) -> None:
    """Tokens, their averages, and betas that are linear in the averages, plus noise."""
    rng = np.random.default_rng(0)
    shapes = {
        "tokens": ((images, tokens, width), np.float16),
        "pooled": ((images, width), np.float16),
        "betas": ((images, repeats, voxels), np.float32),
    }
    maps = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        for name, (shape, dtype) in shapes.items()
    }
    # One block of texture, shifted from image to image: made quickly, and never twice the same.
    texture = rng.standard_normal((BLOCK, tokens, width), dtype=np.float32)
    weights = rng.standard_normal((width, voxels), dtype=np.float32) / np.sqrt(width)
    for start in progress(range(0, images, BLOCK), desc="files", verbose=True):
        rows = slice(start, min(start + BLOCK, images))
        n = rows.stop - rows.start
        level = rng.standard_normal((n, 1, width), dtype=np.float32)
        block = texture[:n] + level
        maps["tokens"][rows], pooled = block, block.mean(1)
        maps["pooled"][rows] = pooled
        signal = pooled @ weights
        noise = 2 * rng.standard_normal((n, repeats, voxels), dtype=np.float32)
        maps["betas"][rows] = signal[:, None] + noise
        for array in maps.values():
            array.flush()


def fit(encoder: brainenc.encoders.BaseEncoder, features: str, folder: Path) -> dict:
    X = np.load(folder / f"{features}.npy", mmap_mode="r")
    betas = np.load(folder / "betas.npy", mmap_mode="r")
    start = time.perf_counter()
    encoder.fit(X, betas)
    seconds = time.perf_counter() - start
    encoder.predict(X[:BLOCK])
    return {
        "fit": f"{type(encoder).__name__} on {features}",
        "peak memory, GiB": peak_memory(),
        "minutes": seconds / 60,
    }


def latent(folder: Path) -> dict:
    return fit(brainenc.LatentEncoder(None, n_members=2, n_epochs=1), "tokens", folder)


def roi_transformer(folder: Path) -> dict:
    encoder = brainenc.ROITransformerEncoder(None, n_members=1, n_epochs=1)
    return fit(encoder, "tokens", folder)


def mind_simulator(folder: Path) -> dict:
    encoder = brainenc.MindSimulatorEncoder(None, autoencoder_epochs=1, prior_epochs=1)
    return fit(encoder, "tokens", folder)


def mind_reader(folder: Path) -> dict:
    return fit(brainenc.MindReaderEncoder(None, n_members=1, n_epochs=1), "tokens", folder)


def ridge(folder: Path) -> dict:
    return fit(brainenc.RidgeEncoder(None), "pooled", folder)


def ridge_decoder(folder: Path) -> dict:
    """Tokens as targets, which stay in their file; a hundred responses are decoded and compared."""
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    betas = np.load(folder / "betas.npy", mmap_mode="r")
    decoder = brainenc.RidgeDecoder(None, train_on="averages")
    start = time.perf_counter()
    decoder.fit(betas, tokens)
    seconds = time.perf_counter() - start
    decoder.similarity(betas[:BLOCK], tokens[:BLOCK])
    return {
        "fit": "RidgeDecoder to tokens",
        "peak memory, GiB": peak_memory(),
        "minutes": seconds / 60,
    }


def draws(folder: Path) -> dict:
    """100 draws for 1 000 images × 16 000 voxels, 6.4 GB, of a ridge fitted to 300 images."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1300, 64), dtype=np.float32)
    weights = rng.standard_normal((64, 16_000), dtype=np.float32) / 8
    noise = rng.standard_normal((300, 3, 16_000), dtype=np.float32)
    encoder = brainenc.RidgeEncoder(None).fit(X[:300], (X[:300] @ weights)[:, None] + noise)
    del noise
    start = time.perf_counter()
    drawn = encoder.sample(X[300:], n=100, random_state=0, out=folder / "draws.npy")
    return {
        "fit": f"draws {drawn.shape} to a file",
        "peak memory, GiB": peak_memory(),
        "minutes": (time.perf_counter() - start) / 60,
    }


def report(folder: Path) -> dict:
    """A benchmark as the NSD papers split: some 1 000 images are held out, once."""
    n_images = len(np.load(folder / "pooled.npy", mmap_mode="r"))
    images = np.random.default_rng(0).permutation(n_images)
    n_test = min(N_TEST, n_images // 5)
    return benchmarked(folder, [(images[n_test:], images[:n_test])], n_draws=100)


def folds(folder: Path) -> dict:
    """Every image is held out once, so that all are scored together; fewer draws, to save time."""
    return benchmarked(folder, 5, n_draws=5, n_bootstraps=100, n_permutations=100)


def benchmarked(folder: Path, cv: Any, **settings: Any) -> dict:
    """A whole benchmark of ridge on a ``.brain`` folder, and its report."""
    start = time.perf_counter()
    data = brainenc.EncodingData.load(make_subject(folder))
    X = np.load(folder / "pooled.npy", mmap_mode="r")
    encoders = {"ridge": brainenc.RidgeEncoder(None)}
    with tempfile.TemporaryDirectory(dir=folder) as out:
        result = brainenc.benchmark(
            data, encoders, features=X, cv=cv, out=out, verbose=False, **settings
        )
        result.to_html(Path(out) / "report.html")
    n_test = data.n_images if isinstance(cv, int) else len(cv[0][1])
    n_folds = result.manifest["split"]["n_folds"]
    split = f"{n_test} test images in {n_folds} folds" if n_folds > 1 else f"{n_test} test images"
    return {
        "fit": f"benchmark of ridge on pooled: {split}, {settings['n_draws']} draws; its report",
        "peak memory, GiB": peak_memory(),
        "minutes": (time.perf_counter() - start) / 60,
    }


def make_subject(folder: Path) -> Path:
    """The betas as a ``.brain`` folder, with images and ROIs made up."""
    subject = folder / "subject.brain"
    if subject.exists():
        return subject
    subject.mkdir()
    rng = np.random.default_rng(0)
    betas = np.load(folder / "betas.npy", mmap_mode="r")
    (subject / "betas.npy").hardlink_to(folder / "betas.npy")
    image, repeat = (axis.ravel() for axis in np.indices(betas.shape[:2]))
    names = np.sort(rng.integers(N_ROIS, size=betas.shape[2]))
    write_beside_betas(
        subject,
        images=rng.integers(256, size=(len(betas), 64, 64, 3), dtype=np.uint8),
        betas_shape=betas.shape,
        voxels=pd.DataFrame({"roi": [f"ROI {name}" for name in names]}),
        trials=pd.DataFrame({"image": image, "repeat": repeat}),
        name="made-up subject",
        volume=None,
        units="",
        copy_images=True,
    )
    return subject


def peak_memory() -> float:
    """In GiB. Not ``ru_maxrss``, which a process inherits from the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


CHILDREN = {
    "ridge": ridge,
    "latent": latent,
    "roi_transformer": roi_transformer,
    "mind_simulator": mind_simulator,
    "mind_reader": mind_reader,
    "ridge_decoder": ridge_decoder,
    "draws": draws,
    "report": report,
    "folds": folds,
}


def measured(name: str, folder: Path) -> dict:
    """One fit in a process of its own."""
    command = [sys.executable, __file__, "--child", name, "--scratch", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
