"""Speed of brainenc against the best other way on the same machine, in one run: one table.

    python benchmarks/speed.py --out docs/results          # all groups
    python benchmarks/speed.py ridge metrics --quick

Groups, each a function that returns rows of the table:

- ridge: the solver, and the whole of `RidgeEncoder.fit`, against himalaya's `RidgeCV` with the same
  penalties, folds and score, at 9000 images × 1664 features → 4000 and 15 724 voxels;
- wide: more features than images, where both take the kernel form;
- banded: `BandedRidgeEncoder`'s solver against himalaya's random search, each with 20 candidates;
- tokens: the kernel form on all tokens of images, 9000 × 425 984 in half precision, from a file
  that is never held (`speed_tokens.py`);
- metrics: voxelwise r, R² and noise ceiling of 27 000 trials × 15 724 voxels in mapped files,
  against summing up the same files ("other"): the ratio is below 1; from the system's cache, and
  from the disk;
- synbrain: training steps of SynBrain against the published step, and their loss curves;
- sampling: SynBrain's one pass against MindSimulator's chains, and draws of LatentEncoder written
  to a file;
- startup: the first fit of a process, ``brainenc --help``, a report, and what a benchmark does
  besides fits of ridge ("other").

Every measurement has a process of its own, one after the other. "CPU s" is processor time over all
threads: unlike "s", wall-clock time, it does not count waiting for other programs. Memory is the
peak resident set ("peak GiB"); "anonymous GiB" leaves out pages of mapped files, which the system
takes back when it needs the memory, sampled every 20 ms.

Needs torch, numpy, scikit-learn and pandas; himalaya for the rows that compare with it.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import device_of, in_turn, measure, row, timed
from speed_banded import banded
from speed_sampling import sampling
from speed_startup import startup
from speed_tokens import tokens
from speed_training import synbrain

N_IMAGES, N_FEATURES, N_ALPHAS = 9000, 1664, 13
VOXELS = (4000, 15724)
WIDE = ((3000, 10000, 4000), (9000, 20000, 4000), (9000, 20000, 15724))
TRIALS, PAIR = (27000, 15724), ["predictions", "targets"]

#: Columns of speed.json that its tables in the documentation do without.
LEFT_OUT = ("anonymous GiB", "other peak GiB", "other CPU s")


def main() -> None:
    arguments = parse_arguments()
    rows: list[dict] = []
    for name in arguments.groups:
        for found in GROUPS[name](arguments):
            print(f"{found['work']}, {found['size']}: done", flush=True)
            rows.append({"group": name, **found})
            if arguments.out is not None:
                write(rows, arguments)
    print(f"\n{table_of(rows).to_string(index=False)}")


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("groups", nargs="*", help=f"of {', '.join(GROUPS)}; all by default")
    add("--quick", action="store_true", help="a tenth of the images and voxels, and small nets")
    add("--device", default="cpu", help="where brainenc solves, trains and samples")
    add("--folder", type=Path, help="for the arrays of a measurement; a temporary one by default")
    add("--rounds", type=int, default=3, help="of ridge, wide and metrics; medians are shown")
    add("--voxels", type=int, nargs="+", default=VOXELS, help="of the ridge group")
    add("--out", type=Path, help="folder for speed.json, whose other rows are kept, and tables")
    arguments = parser.parse_args(given)
    arguments.groups = arguments.groups or list(GROUPS)
    if unknown := set(arguments.groups) - set(GROUPS):
        parser.error(f"no group {', '.join(unknown)}: give some of {', '.join(GROUPS)}")
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: at least one is needed")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def table_of(rows: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    return table.map(lambda x: f"{x:.4g}" if isinstance(x, float) else x).where(table.notna(), "–")


def write(rows: list[dict], arguments: argparse.Namespace) -> None:
    """Rows into speed.json, in place of earlier ones for the same work and size; tables of all."""
    path = arguments.out / "speed.json"
    former = json.loads(path.read_text())["rows"] if path.exists() else []
    done = {(found["work"], found["size"]) for found in rows}
    kept = [found for found in former if (found["work"], found["size"]) not in done]
    new = [{**found, "run": conditions()} for found in rows]
    write_text(path, json.dumps({"rows": kept + new}, indent=1) + "\n")
    for name in GROUPS:
        of_group = [found for found in kept + new if found.get("group") == name]
        if of_group:
            write_text(arguments.out / f"speed_{name}.csv", short_table_of(of_group))


def conditions() -> dict[str, Any]:
    import sklearn
    import torch

    fast = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": processor(),
        "bf16 instructions": bool(fast.get("amx_bf16") or fast.get("avx512_bf16")),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def short_table_of(rows: list[dict]) -> str:
    """CSV for the documentation: what `row` gives, without the other's own memory."""
    table = table_of(rows).drop(columns=["group", "run"], errors="ignore")
    left_out = [name for name in table if name in LEFT_OUT or (table[name] == "–").all()]
    return table.drop(columns=left_out).to_csv(index=False)


def write_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


@contextmanager
def working_folder(arguments: argparse.Namespace) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        yield Path(folder)


def scaled(arguments: argparse.Namespace, *sizes: int) -> tuple[int, ...]:
    return tuple(size // 10 for size in sizes) if arguments.quick else sizes


# ----------------------------------------------------------------------------------- ridge


def ridge(arguments: argparse.Namespace) -> Iterator[dict]:
    """Primal form, the features fewer than the images."""
    n_images, n_features, *sizes = scaled(arguments, N_IMAGES, N_FEATURES, *arguments.voxels)
    for n_voxels in sizes:
        yield from _against_himalaya(arguments, "ridge", n_images, n_features, n_voxels)


def wide(arguments: argparse.Namespace) -> Iterator[dict]:
    """Kernel form, the features more than the images."""
    for size in WIDE:
        yield from _against_himalaya(arguments, "wide ridge", *scaled(arguments, *size))


def _against_himalaya(
    arguments: argparse.Namespace, name: str, n_images: int, n_features: int, n_voxels: int
) -> list[dict]:
    """Against the faster one of himalaya's backends for a CPU; the largest problem once."""
    size = f"{n_images} × {n_features} → {n_voxels}"
    is_wide = n_features >= n_images
    rounds = 1 if is_wide and n_images * n_voxels > 10**8 else arguments.rounds
    with working_folder(arguments) as folder:
        measure(make_problem, folder, n_images, n_features, n_voxels)
        encoder, solver, *others = in_turn(
            rounds,
            (fit_encoder, folder, arguments.device),
            (run_solver, folder, arguments.device),
            *((run_himalaya, folder, backend) for backend in ("numpy", "torch")),
        )
        agreement = compare_fits(folder)
    theirs = min(others, key=lambda other: other["s"])
    backends = {f"{b} s": other["s"] for b, other in zip(("numpy", "torch"), others, strict=True)}
    return [
        row(f"{name}: solver", size, solver, theirs, **agreement, **backends),
        row(f"{name}: RidgeEncoder.fit", size, encoder, theirs),
    ]


def make_problem(folder: Path, n_images: int, n_features: int, n_voxels: int) -> dict:
    """Features of a power-law spectrum as of image networks, voxels of R² from 0 to 0.6."""
    rng = np.random.default_rng(0)
    n_new = max(10, n_images // 9)
    spectrum = np.arange(1, n_features + 1, dtype=np.float32) ** -0.5
    X = rng.standard_normal((n_images + n_new, n_features), dtype=np.float32) * spectrum
    if n_features < 5000:  # else the axes of the spectrum stay those of the features
        rotation = np.linalg.qr(rng.standard_normal((n_features, n_features)))[0]
        X = X @ rotation.astype(np.float32)
    X = (X - X[:n_images].mean(0)) / X[:n_images].std(0)
    Y = X[:n_images] @ rng.standard_normal((n_features, n_voxels), dtype=np.float32)
    share = rng.uniform(0, 0.6, n_voxels).astype(np.float32)
    Y *= np.sqrt(share) / Y.std(0)
    Y += np.sqrt(1 - share) * rng.standard_normal(Y.shape, dtype=np.float32)
    np.save(folder / "X.npy", X[:n_images])
    np.save(folder / "X_new.npy", X[n_images:])
    np.save(folder / "Y.npy", Y)
    return {}


def alphas_for(X: np.ndarray) -> np.ndarray:
    return (max(X.shape) * np.logspace(-4, 2, N_ALPHAS)).astype(np.float32)


def load_problem(folder: Path) -> tuple[np.ndarray, np.ndarray, list]:
    from brainenc.model_selection import image_folds

    X, Y = np.load(folder / "X.npy"), np.load(folder / "Y.npy")
    return X, Y, image_folds(5, len(X))


def run_solver(folder: Path, device: str, name: str = "ours") -> dict:
    from brainenc import solvers

    X, Y, folds = load_problem(folder)
    is_wide = X.shape[1] >= len(X)
    fit_encoder_to(*toy(is_wide), device)
    with timed(device) as found:
        if is_wide:
            fit = solvers.kernel_ridge_cv(
                solvers.kernel_of(X, device), Y, alphas_for(X), folds, device=device
            )
        else:
            fit = solvers.ridge_cv(X, Y, alphas_for(X), folds, device=device)
    weights = X.T @ fit.weights if is_wide else fit.weights
    save_fit(folder, name, weights, fit.intercept, fit.alphas)
    return found


def fit_encoder(folder: Path, device: str) -> dict:
    """The encoder standardises, averages repeats and estimates its noise besides."""
    X, Y, _ = load_problem(folder)
    fit_encoder_to(*toy(X.shape[1] >= len(X)), device)
    with timed(device) as found:
        fit_encoder_to(X, Y, device)
    return found


def toy(is_wide: bool) -> tuple[np.ndarray, np.ndarray]:
    """Solved first: importing, and waking a device up, has nothing to do with the work."""
    return np.eye(40, 60 if is_wide else 20, dtype=np.float32), np.eye(40, 3, dtype=np.float32)


def fit_encoder_to(X: np.ndarray, betas: np.ndarray, device: str) -> None:
    from brainenc.encoders.ridge import RidgeEncoder

    RidgeEncoder(None, alphas=alphas_for(X), cv=5, device=device).fit(X, betas)


def run_himalaya(folder: Path, backend: str) -> dict:
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import KernelRidgeCV
    from himalaya.ridge import RidgeCV
    from sklearn.base import clone

    X, Y, folds = load_problem(folder)
    used, device = set_backend(backend), device_of(backend)
    is_wide = X.shape[1] >= len(X)
    # In batches of voxels, as its memory would else grow with voxels × penalties.
    batches = {"n_targets_batch": 4000, "n_targets_batch_refit": 4000}
    options = {"alphas": alphas_for(X), "fit_intercept": True, "cv": folds}
    model: Any = (
        KernelRidgeCV(kernel="linear", solver_params=batches, **options)
        if is_wide
        else RidgeCV(solver_params=batches, **options)
    )
    clone(model).set_params(cv=5).fit(*toy(is_wide))
    with timed(device) as found:
        model.fit(X, Y)
    weights = used.to_numpy(model.dual_coef_ if is_wide else model.coef_)
    weights = X.T @ weights if is_wide else weights
    others = map(used.to_numpy, (model.intercept_, model.best_alphas_))
    save_fit(folder, "theirs", weights, *others)
    return found


def save_fit(folder: Path, name: str, weights: Any, intercept: Any, alphas: Any) -> None:
    np.save(folder / f"{name}.npy", np.load(folder / "X_new.npy") @ weights + intercept)
    np.save(folder / f"{name}_alphas.npy", alphas)


def compare_fits(folder: Path) -> dict:
    """Voxels with the same penalty, and the difference of their predictions of new images."""
    ours, theirs = (np.load(folder / f"{name}.npy") for name in ("ours", "theirs"))
    alphas = [np.load(folder / f"{name}_alphas.npy") for name in ("ours", "theirs")]
    same = np.isclose(*alphas, rtol=1e-3)
    difference = np.linalg.norm(ours - theirs, axis=0) / np.linalg.norm(theirs, axis=0)
    return {
        "same alpha": float(same.mean()),
        "relative difference, worst voxel": float(difference[same].max()),
    }


# --------------------------------------------------------------------------------- metrics


def metrics(arguments: argparse.Namespace) -> list[dict]:
    n_trials, n_voxels = scaled(arguments, *TRIALS)
    with working_folder(arguments) as folder:
        measure(make_responses, folder, n_trials, n_voxels)
        size = f"{n_trials} × {n_voxels}"
        rows = []
        for where, cold in (("", False), (", from disk", True)):
            measure(read_files, folder, PAIR, cold)  # what is under the system caches files too
            pair, r, r2, one, nc = in_turn(
                arguments.rounds,
                (read_files, folder, PAIR, cold),
                (score, folder, "correlation", cold),
                (score, folder, "r_squared", cold),
                (read_files, folder, ["targets"], cold),
                (ceiling, folder, cold),
            )
            rows += [
                row(f"correlation{where}", size, r, pair),
                row(f"r_squared{where}", size, r2, pair),
                row(f"noise_ceiling_from_repeats{where}", size, nc, one),
            ]
        return rows


def make_responses(folder: Path, n_trials: int, n_voxels: int) -> dict:
    rng = np.random.default_rng(0)
    shape = (n_trials, n_voxels)
    targets, predictions = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, shape)
        for name in ("targets", "predictions")
    )
    for start in range(0, n_trials, 300):
        rows = slice(start, min(start + 300, n_trials))
        targets[rows] = rng.standard_normal(targets[rows].shape, dtype=np.float32)
        predictions[rows] = targets[rows] + 1
    return {}


def mapped(folder: Path, names: list[str], cold: bool) -> list[np.ndarray]:
    """Files as memory maps; if `cold`, the system's cache of them is emptied first."""
    for name in names if cold and hasattr(os, "posix_fadvise") else ():
        with (folder / f"{name}.npy").open("rb") as file:
            os.fsync(file.fileno())  # pages that are not written yet would stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return [np.load(folder / f"{name}.npy", mmap_mode="r") for name in names]


def read_files(folder: Path, names: list[str], cold: bool) -> dict:
    """A plain read: mapped files, summed row after row, by one thread in float32.

    It runs before the metrics, which find the cache no colder.
    """
    arrays = mapped(folder, names, cold)
    with timed() as found:
        for array in arrays:
            for start in range(0, len(array), 64):
                array[start : start + 64].sum()
    return found


def score(folder: Path, name: str, cold: bool) -> dict:
    import brainenc.metrics

    function = getattr(brainenc.metrics, name)
    first = first_call(function, zeros(), zeros())
    arrays = mapped(folder, PAIR, cold)
    with timed() as found:
        function(*arrays)
    return {**found, **first}


def ceiling(folder: Path, cold: bool) -> dict:
    from brainenc.metrics import noise_ceiling_from_repeats

    first = first_call(noise_ceiling_from_repeats, zeros().reshape(-1, 4, 2048))
    (trials,) = mapped(folder, ["targets"], cold)
    betas = trials.reshape(len(trials) // 3, 3, -1)
    with timed() as found:
        noise_ceiling_from_repeats(betas)
    return {**found, **first}


def zeros() -> np.ndarray:
    """Few, but enough for compiled code to be taken; in the order and type of the files."""
    return np.zeros((4096, 2048), np.float32)


def first_call(function: Callable, *arrays: np.ndarray) -> dict:
    """Seconds of a process's first call, which loads the code that large arrays are summed with."""
    start = time.perf_counter()
    function(*arrays)
    return {"first call, s": time.perf_counter() - start}


GROUPS: dict[str, Callable[[argparse.Namespace], Iterable[dict]]] = {
    "ridge": ridge,
    "wide": wide,
    "banded": banded,
    "tokens": tokens,
    "metrics": metrics,
    "synbrain": synbrain,
    "sampling": sampling,
    "startup": startup,
}

if __name__ == "__main__":
    main()
