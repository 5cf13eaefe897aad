"""Speed on one GPU, where torch, NumPy, scikit-learn and pandas are all that is installed.

    python benchmarks/gpu.py --out docs/results
    python benchmarks/gpu.py ridge banded --out docs/results     # some groups; other rows are kept

Ridge with fewer and with more features than images, and banded ridge, against himalaya on the same
card where it is installed, and against brainenc on the CPU of the same machine; training steps of
SynBrain against the published step; and sampling: the groups of `speed.py`. Prints one table,
writes gpu.json with the name of the card, and gpu.csv, and ends in less than 8 minutes: what a
group has no time left for is not measured. That, and whatever fails, has its error in place of
numbers, in its row or under "errors"; all other rows are measured, and written as they come.
"""

import argparse
import ast
import importlib
import importlib.machinery
import importlib.util
import json
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: Seconds for each group; the processes that start and end besides make up the rest of 8 minutes.
SHARES = {"ridge": 80, "wide": 130, "banded": 70, "synbrain": 130, "sampling": 50}
#: What a row holds in place of numbers: not to be shown in a table.
ERRORS = ("error", "other error")


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
    """A kind of image that no array is: what is asked of features. No picture is opened here."""
    stand_in("PIL.Image", Image=type("Image", (), {}))
    stand_in("PIL", Image=sys.modules["PIL.Image"])
    for name in ("ImageColor", "ImageOps"):
        stand_in(f"PIL.{name}")
        setattr(sys.modules["PIL"], name, sys.modules[f"PIL.{name}"])


def stand_in_for_psutil() -> None:
    """The free memory of the machine, which a fit looks at before it begins."""

    def virtual_memory() -> types.SimpleNamespace:
        page = os.sysconf("SC_PAGE_SIZE")
        total, available = (page * os.sysconf(f"SC_{kind}PHYS_PAGES") for kind in ("", "AV"))
        return types.SimpleNamespace(total=total, available=available)

    stand_in("psutil", virtual_memory=virtual_memory)


def stand_in_for_tqdm() -> None:
    """Bars of progress, none of which is shown here."""
    stand_in("tqdm")
    stand_in("tqdm.auto", tqdm=lambda iterable, **_: iterable)


def stand_in(name: str, **content: Any) -> None:
    sys.modules[name] = module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(
        name, None
    )  # some ask for it before they import
    vars(module).update(content)


# Above all that imports brainenc, also in the processes that measure: they import this file.
sys.path[:0] = [str(HERE.parent), str(HERE)]
STAND_INS = {
    "lazy_loader": stand_in_for_lazy_loader,
    "PIL": stand_in_for_pil,
    "psutil": stand_in_for_psutil,
    "tqdm": stand_in_for_tqdm,
}
for package, replace in STAND_INS.items():
    try:
        importlib.import_module(package)
    except ImportError:
        replace()

import speed  # noqa: E402
import speed_banded  # noqa: E402
import torch  # noqa: E402
from measuring import deadline, measure, row  # noqa: E402


def main() -> int:
    arguments = parse_arguments()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no CUDA device here: nothing was measured")
        return 0
    content = kept(arguments)
    for name in arguments.groups:
        with deadline(SHARES[name], processes=not arguments.tiny):
            run_group(name, arguments, content)
    print(f"\n{content['card']}\n{speed.table_of(without_errors(content)).to_string(index=False)}")
    return 0


def kept(arguments: argparse.Namespace) -> dict[str, Any]:
    """What gpu.json holds of other groups, if it is of this card; with nothing of those to run."""
    content: dict[str, Any] = {"card": card(arguments.device), "run": speed.conditions()}
    content |= {"rows": [], "errors": {}}
    path = arguments.out / "gpu.json" if arguments.out else None
    if path is not None and path.exists():
        former = json.loads(path.read_text())
        if former["card"] == content["card"]:
            others = set(SHARES) - set(arguments.groups)
            content["rows"] = [found for found in former["rows"] if found["group"] in others]
            content["errors"] = {k: v for k, v in former["errors"].items() if k in others}
    return content


def run_group(name: str, arguments: argparse.Namespace, content: dict[str, Any]) -> None:
    """Add a group's rows to the content of gpu.json, and write it after each."""
    groups = {"ridge": ridge, "wide": wide, "banded": banded}
    groups |= {"synbrain": speed.synbrain, "sampling": speed.sampling}
    try:
        for found in groups[name](arguments):
            errors = [value for key, value in found.items() if key in ERRORS]
            print(f"{found['work']}, {found['size']}: {'; '.join(errors) or 'done'}", flush=True)
            measured = {key: value for key, value in found.items() if value == value}  # no NaN
            content["rows"].append({"group": name, **measured})
            write(content, arguments.out)
    except Exception:  # the other groups are still to be measured
        content["errors"][name] = traceback.format_exc()
        print(f"{name}: {content['errors'][name]}", flush=True)
        write(content, arguments.out)


def write(content: dict[str, Any], folder: Path | None) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        speed.write_text(folder / "gpu.json", json.dumps(content, indent=1) + "\n")
        speed.write_text(folder / "gpu.csv", speed.short_table_of(without_errors(content)))


def without_errors(content: dict[str, Any]) -> list[dict]:
    """Rows that were measured, for a table; gpu.json has the others with their errors."""
    return [
        {key: value for key, value in found.items() if key not in ERRORS}
        for found in content["rows"]
        if "error" not in found
    ]


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(SHARES)}; all by default")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try it out")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: the code, not its speed")
    parser.add_argument("--folder", type=Path, help="for arrays; a temporary one by default")
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.csv")
    arguments = parser.parse_args(given)
    arguments.groups = arguments.groups or list(SHARES)
    if unknown := set(arguments.groups) - set(SHARES):
        parser.error(f"no group {', '.join(unknown)}: give some of {', '.join(SHARES)}")
    arguments.quick = arguments.tiny
    return arguments


def ridge(arguments: argparse.Namespace) -> Iterator[dict]:
    """Fewer features than images."""
    for n_voxels in speed.VOXELS:
        yield from _ridge(arguments, "ridge", speed.N_IMAGES, speed.N_FEATURES, n_voxels)


def wide(arguments: argparse.Namespace) -> Iterator[dict]:
    """More features than images; the CPU at the first size only."""
    for i, size in enumerate(speed.WIDE):
        yield from _ridge(arguments, "wide ridge", *size, on_cpu=i == 0)


def _ridge(
    arguments: argparse.Namespace, name: str, *sizes: int, on_cpu: bool = True
) -> Iterator[dict]:
    n_images, n_features, n_voxels = speed.scaled(arguments, *sizes)
    size = f"{n_images} × {n_features} → {n_voxels}"
    with speed.working_folder(arguments) as folder:
        measure(speed.make_problem, folder, n_images, n_features, n_voxels)
        ours = measure(speed.run_solver, folder, arguments.device)
        if has_himalaya():
            theirs = measure(speed.run_himalaya, folder, backend_of(arguments.device))
            yield row(f"{name}: solver, other: himalaya", size, ours, theirs, **agreement(folder))
        found = measure(speed.fit_encoder, folder, arguments.device)
        yield row(f"{name}: RidgeEncoder.fit", size, found)
        if on_cpu:
            theirs = measure(speed.run_solver, folder, "cpu", "theirs")
            yield row(f"{name}: solver, other: CPU", size, ours, theirs, **agreement(folder))


def agreement(folder: Path) -> dict:
    written = {path.name for path in folder.glob("*_alphas.npy")}
    return speed.compare_fits(folder) if {"ours_alphas.npy", "theirs_alphas.npy"} <= written else {}


def banded(arguments: argparse.Namespace) -> Iterator[dict]:
    """Candidates as himalaya's, and brainenc's own; himalaya at the first size only."""
    for i, (n_images, widths, n_voxels) in enumerate(speed_banded.SIZES):
        n_images, n_voxels, *each = speed.scaled(arguments, n_images, n_voxels, *widths)
        size = f"{n_images} × ({' + '.join(map(str, each))}) → {n_voxels}"
        with speed.working_folder(arguments) as folder:
            measure(speed_banded.make_bands, folder, n_images, tuple(each), n_voxels)
            compared, name, theirs = has_himalaya() and i == 0, "banded ridge", None
            of_theirs: dict[str, float] = {}
            if compared:
                backend = backend_of(arguments.device)
                theirs = measure(speed_banded.run_random_search, folder, backend)
                of_theirs = {
                    f"other {key}": v for key, v in score(theirs, folder, "theirs").items()
                }
                name = "banded ridge, other: himalaya"
            for candidates in ("random", "chosen"):
                ours = measure(speed_banded.run_banded, folder, arguments.device, candidates)
                found = score(ours, folder, candidates)
                yield row(f"{name}, {candidates}", size, ours, theirs, **found, **of_theirs)


def score(found: dict, folder: Path, name: str) -> dict[str, float]:
    return {} if "error" in found else speed_banded.score_of(folder, name)


def has_himalaya() -> bool:
    return importlib.util.find_spec("himalaya") is not None


def backend_of(device: str) -> str:
    """Backend of himalaya for a device."""
    return "torch_cuda" if device.startswith("cuda") else "torch"


def card(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return "CPU: no GPU was measured"


if __name__ == "__main__":
    sys.exit(main())
