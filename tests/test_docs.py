"""Code in the README and the user guide runs as printed, and what they name exists."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer.main
from conftest import REPOSITORY

from brainenc.cli import app

DOCS = REPOSITORY / "docs"
GUIDE = sorted(
    [
        *(DOCS / "guide").glob("*.rst"),
        *DOCS.glob("howto_*.rst"),
        DOCS / "decoding.rst",
        DOCS / "augmentation.rst",
        DOCS / "through_a_decoder.rst",
        DOCS / "analyses.rst",
    ]
)
README = REPOSITORY / "README.md"
LONG = REPOSITORY / "docs" / "guide" / "benchmark.rst"
COMMANDS = typer.main.get_command(app).commands


def blocks(path: Path, language: str) -> list[str]:
    """Code blocks of a Markdown or reStructuredText file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    found = re.findall(
        rf"^\.\. code-block:: {language}\n\n((?:(?:   .*)?\n)+)", text + "\n", re.MULTILINE
    )
    return [re.sub("^   ", "", block, flags=re.MULTILINE) for block in found]


#: Its code reads files of a scanner; tests/datasets/test_glmsingle.py makes them and runs it.
READS_FILES = REPOSITORY / "docs" / "howto_own_data.rst"


def runnable() -> list:
    pages = [path for path in GUIDE if blocks(path, "python") and path != READS_FILES]
    assert len(pages) > 4  # else the pattern above finds nothing
    return [
        pytest.param(page, id=page.name, marks=pytest.mark.slow if page == LONG else ())
        for page in pages
    ]


def run_code(code: str, folder: Path) -> str:
    """What a script prints, run in a process of its own where every warning is an error."""
    (folder / "page.py").write_text(code, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-W", "error", "page.py"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


@pytest.mark.slow
def test_code_of_the_readme_runs(tmp_path):
    code = "\n".join(blocks(README, "python"))
    # A subject of the size that a reader sees takes minutes on a core, with the same calls.
    smaller = code.replace("n_images=600, n_voxels=800", "n_images=120, n_voxels=60")
    assert smaller != code
    run_code(smaller, tmp_path)
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", runnable())
def test_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    """In this process, where warnings are errors too: importing everything takes seconds."""
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks(page, "python")), page.name, "exec"), {"__name__": "page"})


def test_numbers_on_the_page_about_draws_are_those_its_code_prints(tmp_path):
    page = REPOSITORY / "docs" / "draws.rst"
    printed = run_code("\n".join(blocks(page, "python")), tmp_path)
    number = re.compile(r"\d+\.\d+")
    shown = "".join(blocks(page, "text"))
    printed, shown = ([line for line in text.split("\n") if line] for text in (printed, shown))
    assert [number.sub("#", line) for line in printed] == [number.sub("#", line) for line in shown]
    values = [[float(x) for x in number.findall(" ".join(lines))] for lines in (printed, shown)]
    # Another processor may round the last digit another way.
    assert values[0] == pytest.approx(values[1], abs=0.002)


def command_lines() -> list:
    found = []
    for page in (README, *GUIDE):
        text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
        lines = [line.partition("#")[0].strip() for line in text.splitlines()]
        found += [pytest.param(line, id=line) for line in lines if line.startswith("brainenc ")]
    assert len(found) > 8
    return found


@pytest.mark.parametrize("line", command_lines())
def test_a_command_that_is_shown_exists_with_its_options(line):
    _, name, *arguments = shlex.split(line)
    assert name in COMMANDS
    # Parses without running: an unknown option, a missing or a surplus argument raise.
    COMMANDS[name].make_context(name, arguments)


def test_every_command_is_in_the_guide():
    text = (REPOSITORY / "docs" / "guide" / "command_line.rst").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"brainenc {name}" not in text] == []


def test_the_readme_shows_the_example_of_the_first_page():
    index = blocks(REPOSITORY / "docs" / "index.rst", "python")[0]
    assert index.strip() in README.read_text(encoding="utf-8")


#: Packages whose public names are all on the API page, except these.
NOT_LISTED = {
    "analysis": set(),
    "brain": set(),
    "data": {"atlas_columns"},
    "datasets": set(),
    "decoders": set(),
    "encoders": {"ENCODERS"},
    "encoders.synbrain": set(),
    "features": {"FEATURES", "make_features"},
    "images": set(),
    "insilico": set(),
    "metrics": set(),
    "nets": set(),
    "noise": set(),
    "report": {"NothingToDraw"},
    "selectivity": set(),
    "solvers": set(),
    "synthesis": set(),
    "training": set(),
}


def listed_names() -> set[str]:
    page = (REPOSITORY / "docs" / "api" / "index.rst").read_text(encoding="utf-8")
    return set(re.findall(r"^   ([\w.]+)$", page, re.MULTILINE))


def test_every_public_name_is_on_the_api_page():
    import brainenc

    top = {name for name in brainenc.__all__ if not name.startswith("_")}
    public = top - NOT_LISTED.keys()
    for package, left_out in NOT_LISTED.items():
        names = set(importlib.import_module(f"brainenc.{package}").__all__)
        assert left_out <= names
        # A name that brainenc itself has is listed without a prefix.
        public |= {f"{package}.{name}" for name in names - left_out - top}
    public.discard("encoders.synbrain.SynBrainEncoder")
    assert public - listed_names() == set()


def find(dotted: str) -> object:
    """What a dotted name stands for; ModuleNotFoundError or AttributeError if there is no such."""
    module, *attributes = dotted.split(".")
    found: object = importlib.import_module(module)
    for attribute in attributes:
        module = f"{module}.{attribute}"
        try:
            found = getattr(found, attribute)
        except AttributeError:
            found = importlib.import_module(module)
    return found


def dotted_names(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w/.-])brainenc(?:\.\w+)+", text))


def names_in_pages() -> dict[str, str]:
    """Names in the documentation, by name, and a page that has each."""
    docs = REPOSITORY / "docs"
    pages = [README, REPOSITORY / "CONTRIBUTING.md"]
    pages += [page for page in docs.rglob("*.rst") if not {"_build", "gallery"} & {*page.parts}]
    pages += (docs / "examples").glob("*.py")
    found = {}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        imported = re.findall(r"from (brainenc[\w.]*) import (\([^)]*\)|[\w, ]+)", text)
        names = dotted_names(text)
        names |= {f"{module}.{name}" for module, of in imported for name in re.findall(r"\w+", of)}
        found |= dict.fromkeys(names, page.name)
    return found


def names_in_messages() -> dict[str, str]:
    """Names in strings of the package that are no docstrings: what errors and warnings say."""
    found = {}
    for path in (REPOSITORY / "brainenc").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {
            id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
        }  # and strings that stand alone, which nothing shows
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            # A single word is no message: the format of saved encoders is "brainenc.encoder".
            if isinstance(text, str) and " " in text and id(node) not in docstrings:
                found |= dict.fromkeys(dotted_names(text), path.name)
    return found


@pytest.mark.parametrize(
    ("names", "example"),
    [
        (names_in_pages, "brainenc.encoders.base.HeldOut"),
        (names_in_messages, "brainenc.GaborPyramid"),
    ],
)
def test_names_in_pages_and_messages_can_be_imported(names, example):
    found = names()
    assert example in found  # else the patterns above find nothing
    wrong = {}
    for name, where in found.items():
        try:
            find(name)
        except (ModuleNotFoundError, AttributeError) as error:
            wrong[name] = f"{where}: {error}"
    assert wrong == {}


def test_names_on_the_api_page_can_be_imported():
    for name in listed_names():
        find(f"brainenc.{name}")


def test_pages_name_the_encoders_of_the_registry():
    from brainenc.encoders import ENCODERS

    for page in ("guide/encoders.rst", "models.rst", "api/index.rst"):
        text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
        assert [kind for kind in ENCODERS.values() if kind not in text] == [], page
    commands = (REPOSITORY / "docs" / "guide" / "command_line.rst").read_text(encoding="utf-8")
    assert [name for name in ENCODERS if f"``{name}``" not in commands] == []


def test_the_encoder_of_this_toolbox_is_not_called_synbrain():
    """Rows of tables and legends of figures: scores of LatentEncoder bear its name."""
    results = REPOSITORY / "docs" / "results"
    latent = pd.read_csv(results / "synbrain_vs_ridge_scores.csv")["encoder"]
    assert set(latent) == {"mean", "ridge", "LatentEncoder"}
    compared = pd.read_csv(results / "compare_encoders_scores.csv")
    at_600 = compared[compared["data"] == "simulated, 600 × 800"].set_index("encoder")
    cell = f"| LatentEncoder | {at_600.loc['LatentEncoder', 'r']} |".replace("0.", ".")
    text = README.read_text(encoding="utf-8")
    assert cell in text
    assert "| SynBrain" not in text


def test_readme_and_makefile_agree():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"make (\w+)", README.read_text(encoding="utf-8")))
    assert {"demo", "test"} <= named
    assert {target for target in named if not re.search(rf"^{target}:", makefile, re.M)} == set()


def test_scores_in_the_readme_are_those_of_the_benchmark():
    results = REPOSITORY / "docs" / "results"
    scores = pd.read_csv(results / "real_input_scores.csv", na_values="–").dropna(subset=["r"])
    text = README.read_text(encoding="utf-8")
    for row in scores.itertuples():
        low, high = scores.loc[row.Index, "95 %"].split(" – ")
        cell = f"{row.r:.3f} [{low}, {high}]".replace("0.", ".")
        assert (
            f"| {cell} | {scores.loc[row.Index, 'ceiling of r']:.3f}".replace("| 0", "| ") in text
        )
    draws = pd.read_csv(results / "real_input_splits.csv").iloc[0]
    assert f"{draws['mean r']:.3f} ± {draws['s.d.']:.3f}".replace("0.", ".") in text
