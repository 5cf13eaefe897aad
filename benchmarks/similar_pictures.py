"""Share of changed copies of pictures that are found as near copies, false alarms, and time.

Copies of some pictures are added to all of a set, with one change each, and looked for. Run as

    python benchmarks/similar_pictures.py

for the scenes of the simulated subject; ``--images FOLDER_OR_NPY`` adds photographs of your own,
``--out FOLDER`` writes the tables as CSV.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator
from PIL import Image, ImageEnhance
from PIL.Image import Resampling, Transpose

import brainenc
from brainenc.data import similar_images
from brainenc.data.images import open_images

Change = Callable[[Image.Image, Generator], Image.Image]


def jpeg(picture: Image.Image, rng: Generator) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=30)
    return Image.open(file).convert(picture.mode)


def halved(picture: Image.Image, rng: Generator) -> Image.Image:
    small = picture.resize((picture.width // 2, picture.height // 2), Resampling.BICUBIC)
    return small.resize(picture.size, Resampling.BICUBIC)


def crop(share: float) -> Change:
    """A random part of that share of width and height, at the size of the whole."""

    def change(picture: Image.Image, rng: Generator) -> Image.Image:
        width, height = (round(share * size) for size in picture.size)
        left = int(rng.integers(picture.width - width + 1))
        top = int(rng.integers(picture.height - height + 1))
        part = picture.crop((left, top, left + width, top + height))
        return part.resize(picture.size, Resampling.BICUBIC)

    return change


def mirror(picture: Image.Image, rng: Generator) -> Image.Image:
    return picture.transpose(Transpose.FLIP_LEFT_RIGHT)


def brightness(factor: float) -> Change:
    return lambda picture, rng: ImageEnhance.Brightness(picture).enhance(factor)


def shift(picture: Image.Image, rng: Generator) -> Image.Image:
    """By 5 % of the width along x, y or both; pixels at the border are repeated."""
    pixels = np.asarray(picture)
    step = round(0.05 * picture.width)
    # Any of nine places but the middle one.
    top, left = step * np.array(divmod((5 + rng.integers(8)) % 9, 3))
    padded = np.pad(pixels, [(step, step)] * 2 + [(0, 0)] * (pixels.ndim - 2), mode="edge")
    height, width = pixels.shape[:2]
    return Image.fromarray(padded[top : top + height, left : left + width])


def rotation(picture: Image.Image, rng: Generator) -> Image.Image:
    grey = 128 if picture.mode == "L" else (128, 128, 128)
    return picture.rotate(rng.choice([-5, 5]), Resampling.BICUBIC, fillcolor=grey)


def jitter(picture: Image.Image, rng: Generator) -> Image.Image:
    pixels = np.asarray(picture).astype(int)
    noisy = pixels + rng.integers(-2, 3, pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def half_crop(picture: Image.Image, rng: Generator) -> Image.Image:
    return crop(0.5)(picture, rng)


CHANGES: dict[str, Change] = {
    "JPEG, quality 30": jpeg,
    "half the resolution": halved,
    "crop 90 %": crop(0.9),
    "crop 80 %": crop(0.8),
    "mirrored": mirror,
    "mirrored crop 90 %": lambda picture, rng: mirror(crop(0.9)(picture, rng), rng),
    "brightness + 10 %": brightness(1.1),
    "brightness - 10 %": brightness(0.9),
    "shift 5 %": shift,
    "rotation 5°": rotation,
    "jitter of 2 grey levels": jitter,
    "crop 50 %": half_crop,
}


def changed(images: np.ndarray, change: Change, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([np.asarray(change(Image.fromarray(image), rng)) for image in images])


def detection(images: np.ndarray, n_copies: int) -> pd.DataFrame:
    """One row per change: share of copies paired with their original, and other pairs."""
    n = len(images)
    originals = np.linspace(0, n - 1, min(n_copies, n)).astype(int)
    wanted = set(zip(originals.tolist(), range(n, n + len(originals)), strict=True))
    known = set(zip(*pairs_of(similar_images(images)), strict=True))
    rows = []
    for name, change in CHANGES.items():
        # In random order: an image and the next are compared with more leniency.
        copies = changed(images[originals], change)
        order = np.random.default_rng(1).permutation(n + len(copies))
        found = similar_images(np.concatenate([images, copies])[order])
        a, b = (order[part] for part in pairs_of(found))
        pairs = set(zip(np.minimum(a, b).tolist(), np.maximum(a, b).tolist(), strict=True))
        others = {pair for pair in pairs - wanted - known if pair[1] < n}
        rows.append(
            {
                "change": name,
                "copies": len(originals),
                "found": len(pairs & wanted) / len(wanted),
                "other pairs": len(others),
            }
        )
    return pd.DataFrame(rows).assign(**{"pairs without copies": len(known)})


def pairs_of(found: brainenc.data.SimilarImages) -> tuple[np.ndarray, np.ndarray]:
    return found.pairs["image_a"].to_numpy(int), found.pairs["image_b"].to_numpy(int)


def timing(n_images: int, sizes: list[int]) -> pd.DataFrame:
    """Seconds of random blurred pictures on disk, read through a memory map."""
    rows = []
    rng = np.random.default_rng(0)
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            shape = (n_images, size, size, 3)
            path = Path(folder) / "images.npy"
            images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
            for i in range(n_images):
                coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
                images[i] = coarse.resize((size, size), Resampling.BICUBIC)
            images.flush()
            del images
            start, cpu = time.perf_counter(), time.process_time()
            similar_images(np.load(path, mmap_mode="r"))
            rows.append(
                {
                    "images": n_images,
                    "pixels": size,
                    "s": time.perf_counter() - start,
                    "CPU s": time.process_time() - cpu,
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", action="append", default=[], help="A folder or .npy file.")
    parser.add_argument("--n-scenes", type=int, default=1000)
    parser.add_argument("--n-copies", type=int, default=200)
    parser.add_argument("--n-timed", type=int, default=10_000)
    parser.add_argument("--sizes", default="64,425")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    scenes = brainenc.datasets.simulate_subject(arguments.n_scenes, 10).images
    sets = {"simulated": np.asarray(scenes)}
    sets |= {Path(name).name: np.asarray(open_images(name)[:]) for name in arguments.images}
    detected = [
        detection(images, arguments.n_copies).assign(images=f"{len(images)} of {name}")
        for name, images in sets.items()
    ]
    sizes = [int(size) for size in arguments.sizes.split(",") if size]
    tables = {
        "detection": pd.concat(detected, ignore_index=True),
        "time": timing(arguments.n_timed, sizes),
    }
    for name, table in tables.items():
        print(table.round(3).to_string(index=False), "\n")
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            table.to_csv(arguments.out / f"similar_pictures_{name}.csv", index=False)


if __name__ == "__main__":
    main()
