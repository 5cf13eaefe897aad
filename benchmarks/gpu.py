"""Speed on one GPU, where torch, NumPy, scikit-learn and pandas are all that is installed.

    python benchmarks/gpu.py --out docs/results

Ridge against the same code on the CPU of the same machine, training steps of SynBrain against the
published step, and sampling: the groups of `speed.py`. Prints one table, writes gpu.json with the
name of the card, and gpu.csv, and ends in less than 8 minutes: a group that takes longer than its
share is cut short, and says so.
"""

import argparse
import ast
import importlib
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: Seconds for each group; the processes that start and end besides make up the rest of 8 minutes.
SHARES = {"ridge": 150, "synbrain": 150, "sampling": 150}


def stand_in_for_lazy_loader() -> None:
    """The one function of lazy_loader that brainenc calls to be imported."""

    def attach_stub(package: str, filename: str) -> tuple[Callable, Callable, list[str]]:
        tree = ast.parse(Path(filename).with_suffix(".pyi").read_text())
        origins = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

        def load(name: str) -> Any:
            if name not in origins:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            module, attribute = origins[name]
            if module is None:
                return importlib.import_module(f"{package}.{attribute}")
            return getattr(importlib.import_module(f"{package}.{module}"), attribute)

        return load, lambda: sorted(origins), sorted(origins)

    stand_in("lazy_loader", attach_stub=attach_stub)


def stand_in_for_pil() -> None:
    """A kind of image that no array is: what is asked of features."""
    stand_in("PIL.Image", Image=type("Image", (), {}))
    stand_in("PIL", Image=sys.modules["PIL.Image"])


def stand_in(name: str, **content: Any) -> None:
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content)


# Above all that imports brainenc, also in the processes that measure: they import this file.
sys.path[:0] = [str(HERE.parent), str(HERE)]
for package, replace in {"lazy_loader": stand_in_for_lazy_loader, "PIL": stand_in_for_pil}.items():
    try:
        importlib.import_module(package)
    except ImportError:
        replace()

import speed  # noqa: E402
import torch  # noqa: E402
from measuring import deadline, measure, row  # noqa: E402


def main() -> int:
    arguments = parse_arguments()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no CUDA device here: nothing was measured")
        return 0
    rows: list[dict] = []
    for name, seconds in SHARES.items():
        with deadline(seconds, processes=not arguments.tiny):
            rows += within_time(name, arguments)
    print(f"\n{card(arguments.device)}\n{speed.table_of(rows).to_string(index=False)}")
    if arguments.out is not None:
        content = {"card": card(arguments.device), "run": speed.conditions(), "rows": rows}
        speed.write_text(arguments.out / "gpu.json", json.dumps(content, indent=1) + "\n")
        speed.write_text(arguments.out / "gpu.csv", speed.short_table_of(rows))
    return 0


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try it out")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: the code, not its speed")
    parser.add_argument("--folder", type=Path, help="for arrays; a temporary one by default")
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.csv")
    arguments = parser.parse_args(given)
    arguments.quick = arguments.tiny
    return arguments


def within_time(name: str, arguments: argparse.Namespace) -> Iterator[dict]:
    """Rows of a group, as many as there is time for."""
    groups = {"ridge": ridge, "synbrain": speed.synbrain, "sampling": speed.sampling}
    try:
        for found in groups[name](arguments):
            print(f"{found['work']}, {found['size']}: done", flush=True)
            yield {"group": name, **found}
    except TimeoutError as error:
        print(f"{name} was cut short: {error}", flush=True)


def ridge(arguments: argparse.Namespace) -> Iterator[dict]:
    """The solver and the whole fit, against the same on the CPU ("other")."""
    n_images, n_features, *sizes = speed.scaled(
        arguments, speed.N_IMAGES, speed.N_FEATURES, *speed.VOXELS
    )
    for n_voxels in sizes:
        size = f"{n_images} × {n_features} → {n_voxels}"
        with speed.working_folder(arguments) as folder:
            measure(speed.make_problem, folder, n_images, n_features, n_voxels)
            ours = measure(speed.run_solver, folder, arguments.device)
            theirs = measure(speed.run_solver, folder, "cpu", "theirs")
            yield row("ridge: solver, other: CPU", size, ours, theirs, **speed.compare_fits(folder))
            ours, theirs = (
                measure(speed.fit_encoder, folder, device) for device in (arguments.device, "cpu")
            )
            yield row("ridge: RidgeEncoder.fit, other: CPU", size, ours, theirs)


def card(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return "CPU: no GPU was measured"


if __name__ == "__main__":
    sys.exit(main())
