"""Code in the README and the user guide runs as printed, and the commands they name exist."""

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

GUIDE = sorted((REPOSITORY / "docs" / "guide").glob("*.rst"))
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


def runnable() -> list:
    pages = [path for path in GUIDE if blocks(path, "python")]
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


def test_every_public_name_is_on_the_api_page():
    import brainenc
    from brainenc import metrics, report

    page = (REPOSITORY / "docs" / "api" / "index.rst").read_text(encoding="utf-8")
    listed = set(re.findall(r"^   ([\w.]+)$", page, re.MULTILINE))
    public = {name for name in brainenc.__all__ if not name.startswith("_")}
    public -= {"datasets", "encoders", "features", "metrics", "report"}
    public |= {f"metrics.{name}" for name in metrics.__all__}
    public |= {f"report.{name}" for name in report.__all__ if name != "NothingToDraw"}
    assert public - listed == set()


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
