"""Examples in docstrings run, and the main public names have one."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Sections of the API page whose classes and functions have an Examples section.
SECTIONS = ("Data", "Encoders", "Noise ceilings")

#: Names in these sections without one.
WITHOUT_EXAMPLE = {
    "SimulatedTruth": "made by simulate_subject; its method log_density has an example",
    "SessionDrift": "a part of SimulatedTruth",
    "AlignmentCheck": "made by check_alignment, which has one",
    "SessionEffect": "a part of AlignmentCheck",
    "FeatureCheck": "made by check_features, which has one",
    "read_vae": "reads a file of the official code",
    "read_s2n": "reads a file of the official code",
    "write_vae": "writes a file of the official code",
    "write_s2n": "writes a file of the official code",
}


def module_names(root: Path) -> list[str]:
    """Modules with examples, by dotted name."""
    paths = (path for path in sorted(root.rglob("*.py")) if ">>>" in path.read_text("utf-8"))
    names = (".".join(path.relative_to(root.parent).with_suffix("").parts) for path in paths)
    return [name.removesuffix(".__init__") for name in names]


def page_names(text: str) -> list[str]:
    """Names listed on the API page in the sections of `SECTIONS`."""
    titles = [*re.finditer(r"^(\S.*)\n-+\n", text, flags=re.MULTILINE)]
    ends = [*(title.start() for title in titles[1:]), len(text)]
    sections = {title[1]: text[title.end() : end] for title, end in zip(titles, ends, strict=True)}
    return [
        name
        for section in SECTIONS
        for name in re.findall(r"^   ([A-Za-z]\S*)$", sections[section], flags=re.MULTILINE)
    ]


def public_object(name: str):
    *packages, last = name.split(".")
    return getattr(importlib.import_module(".".join(["brainenc", *packages])), last)


@pytest.mark.parametrize("name", module_names(ROOT / "brainenc"))
def test_examples_run(name):
    module = importlib.import_module(name)
    failed, attempted = doctest.testmod(module, verbose=False)
    assert attempted > 0 or "+SKIP" in inspect.getsource(module)
    assert failed == 0  # doctest prints what differs


def test_main_names_have_examples():
    names = page_names((ROOT / "docs" / "api" / "index.rst").read_text("utf-8"))
    assert {"EncodingData", "RidgeEncoder", "metrics.NoiseCeiling"} <= set(names)
    without = {
        name.rpartition(".")[2]
        for name in names
        if "Examples\n--------" not in inspect.cleandoc(public_object(name).__doc__ or "")
    }
    assert without == set(WITHOUT_EXAMPLE)


def test_names_are_read_by_section():
    page = "Data\n----\n\n.. autosummary::\n   :toctree: generated\n\n   A\n\n"
    page += "Other\n-----\n\n   B\n\nEncoders\n--------\n\n   encoders.C\n\nNoise ceilings\n---\n"
    assert page_names(page) == ["A", "encoders.C"]
