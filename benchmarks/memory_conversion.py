"""Peak memory of ``brainenc convert volumes`` and ``convert glmsingle``, at several sizes.

    python benchmarks/memory_conversion.py --out docs/results --scratch /folder/with/8/GB

Every row is a process of its own; its memory is the largest resident size that the system has
noted, the interpreter included. Files hold made-up numbers: 15 000 voxels in a volume of 32 000,
float32, trials of 10 000 images. To make the pickled file takes 8 GB of memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
from memory import peak_memory
from synbrain_common import show, write

from brainenc.benchmarking.manifest import hardware, versions
from brainenc.datasets import convert_glmsingle, convert_volumes

GRID = (40, 40, 20)
N_VOXELS, N_TRIALS, N_IMAGES = 15_000, 30_000, 10_000
BLOCK = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--scratch", type=Path, help="where the files go; 8 GB at full size")
    parser.add_argument("--only", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--trials", nargs="+", type=int, default=[N_TRIALS // 8, N_TRIALS])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(FORMATS[arguments.child][1](arguments.scratch)))
        return
    rows = []
    for name in arguments.only:
        for n_trials in arguments.trials:
            with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
                rows.append(measured(name, n_trials, Path(folder)))
            table = pd.DataFrame(rows)
            show({"peak memory of conversions": table})
            manifest = {
                "command": f"python {' '.join(sys.argv)}",
                "date": time.strftime("%Y-%m-%d"),
                "versions": versions(),
                "hardware": hardware(),
            }
            write(arguments.out, "memory_conversion", {"peak": table}, manifest)


def make_files(folder: Path, n_trials: int, write_betas) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros(GRID, dtype=bool)
    mask.ravel()[rng.choice(mask.size, N_VOXELS, replace=False)] = True
    nib.save(nib.Nifti1Image(mask.astype(np.int16), np.eye(4)), folder / "mask.nii")
    np.save(folder / "images.npy", rng.integers(0, 256, (N_IMAGES, 8, 8, 3), dtype=np.uint8))
    ids = rng.integers(0, N_IMAGES, n_trials)
    pd.DataFrame({"image": ids}).to_csv(folder / "trials.tsv", sep="\t", index=False)
    write_betas(folder, n_trials, rng)


def planes(n_trials: int, rng):
    """Volumes of all trials, plane by plane of the slowest axis; trials last."""
    texture = rng.standard_normal((*GRID[1:], n_trials), dtype=np.float32)
    for plane in range(GRID[0]):
        yield plane, texture + np.float32(plane)


def hdf5(folder: Path, n_trials: int, rng) -> None:
    """As GLMsingle writes it: trials last and contiguous, not chunked."""
    with h5py.File(folder / "TYPED_FITHRF_GLMDENOISE_RR.hdf5", "w") as file:
        stored = file.create_dataset("betasmd", (*GRID, n_trials), np.float32)
        for plane, values in planes(n_trials, rng):
            stored[plane] = values


def pickled(folder: Path, n_trials: int, rng) -> None:
    """GLMsingle's default file, a pickled dict."""
    betas = np.empty((*GRID, n_trials), np.float32)
    for plane, values in planes(n_trials, rng):
        betas[plane] = values
    np.save(folder / "TYPED_FITHRF_GLMDENOISE_RR.npy", {"betasmd": betas})


def nifti(folder: Path, n_trials: int, rng) -> None:
    """One file, not compressed: trials last, and slowest."""
    header = nib.Nifti2Header()
    header.set_data_shape((*GRID, n_trials))
    header.set_data_dtype(np.float32)
    header.set_sform(np.eye(4), 1)
    with (folder / "betas.nii").open("wb") as file:
        header["vox_offset"] = 544
        header["magic"] = b"n+2"
        header.write_to(file)
        file.write(b"\0" * (544 - file.tell()))
        texture = rng.standard_normal((*GRID, BLOCK), dtype=np.float32)
        for start in range(0, n_trials, BLOCK):
            block = texture[..., : n_trials - start] + np.float32(start)
            file.write(block.tobytes(order="F"))


def of_glmsingle(folder: Path) -> dict:
    return timed(
        convert_glmsingle, folder, folder / "out.brain", *others(folder, "mask.nii"), verbose=False
    )


def of_nifti(folder: Path) -> dict:
    ids = pd.read_csv(folder / "trials.tsv", sep="\t")["image"]
    images = folder / "images.npy"
    mask = folder / "mask.nii"
    out = folder / "out.brain"
    return timed(convert_volumes, folder / "betas.nii", out, mask, ids, images, verbose=False)


def others(folder: Path, mask: str) -> tuple:
    return folder / "trials.tsv", folder / "images.npy", folder / mask


def timed(function, *arguments, **options) -> dict:
    start = time.perf_counter()
    function(*arguments, **options)
    return {"peak memory, GiB": peak_memory(), "minutes": (time.perf_counter() - start) / 60}


FORMATS = {
    "GLMsingle, HDF5": (hdf5, of_glmsingle),
    "GLMsingle, .npy": (pickled, of_glmsingle),
    "NIfTI": (nifti, of_nifti),
}


def measured(name: str, n_trials: int, folder: Path) -> dict:
    """One conversion in a process of its own."""
    make_files(folder, n_trials, FORMATS[name][0])
    command = [sys.executable, __file__, "--child", name, "--scratch", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    betas = n_trials * np.prod(GRID) * 4 / 2**30
    return {"format": name, "trials": n_trials, "voxels": N_VOXELS, "betas, GiB": betas, **found}


if __name__ == "__main__":
    main()
