"""Files that a release needs: citation, container, version."""

import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from conftest import REPOSITORY
from typer.testing import CliRunner

import brainenc
from brainenc.cli import app

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONTAINER = REPOSITORY / "docs" / "Containerfile"


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    # What version 1.2.0 of the format requires.
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert str(citation["version"]) == brainenc.__version__
    assert citation["license"] == PROJECT["license"]
    assert PROJECT["version"] == brainenc.__version__


def test_the_command_line_says_its_version():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout.strip()) == (0, brainenc.__version__)


def test_the_container_has_a_supported_python_and_what_the_package_needs():
    recipe = CONTAINER.read_text(encoding="utf-8")
    found = re.search(r"^FROM .*python:(\d+)\.(\d+)", recipe, re.MULTILINE)
    least = re.search(r"(\d+)\.(\d+)", PROJECT["requires-python"])
    assert tuple(map(int, found.groups())) >= tuple(map(int, least.groups()))
    for line in re.findall(r"^COPY (.*) \S+$", recipe, re.MULTILINE):
        assert all((REPOSITORY / name).exists() for name in line.split())


@pytest.mark.slow
def test_the_container_is_built_and_runs():
    builder = next(filter(None, map(shutil.which, ("podman", "docker"))), None)
    if builder is None:
        pytest.skip("neither podman nor docker is installed")
    if subprocess.run([builder, "info"], capture_output=True).returncode:
        pytest.skip(f"{builder} does not run here")
    build = [builder, "build", "-f", str(CONTAINER), "-t", "brainenc-test", str(REPOSITORY)]
    subprocess.run(build, check=True, timeout=1800)
    run = [builder, "run", "--rm", "brainenc-test", "--version"]
    done = subprocess.run(run, check=True, capture_output=True, text=True, timeout=300)
    assert brainenc.__version__ in done.stdout
