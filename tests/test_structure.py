"""Rules about files and imports, checked on the parsed source: nothing is run.

import-linter (see ``pyproject.toml``) holds the layers. Here imports count wherever they stand:
under ``TYPE_CHECKING`` and inside functions too. A name taken from a package, whose
``__init__.pyi`` says where it is from, is an import of the file it is from.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "brainenc"

#: Longest file whose docstring need not say why it is so long.
LINES = 450

#: Begins the paragraph of a module's docstring that says why.
REASON = "Long because"

#: Files that are longer without a reason, until they are split.
TOO_LONG_STILL: set[str] = set()

#: Imports that close a circle of files and are meant, each with its reason.
UPWARDS: dict[tuple[str, str], str] = {}


def modules(root: Path) -> dict[str, Path]:
    """Files by dotted name, packages by the name of the folder."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> list[tuple[int, str, str | None]]:
    """Line, module and name (None of a plain import) of all imports in a file."""
    found: list[tuple[int, str, str | None]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found += [(node.lineno, module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, None) for alias in node.names]
    return found


def attributes(path: Path) -> set[tuple[str, str]]:
    """(name, attribute) of what a file takes as ``name.attribute``."""
    return {
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }


def public_names(init: Path, package: str) -> dict[str, str]:
    """Module that each name of a package's ``__init__.pyi`` is from."""
    stub = init.with_suffix(".pyi")
    if not stub.exists():
        return {}
    return {name or "": f"{package}{module}" for _, module, name in imports(stub)}


def file_of(module: str, name: str | None, known: dict[str, Path]) -> str | None:
    """The file or package that an import is of; None outside the package."""
    if f"{module}.{name}" in known:
        return f"{module}.{name}"
    if module not in known:
        return None
    if name is None or known[module].name != "__init__.py":
        return module
    source = public_names(known[module], module).get(name)
    return file_of(source, name, known) if source else None


def graph(root: Path) -> dict[str, set[str]]:
    """Files that each file imports. Packages have no arrows: their names are looked up."""
    known = modules(root)
    files = {module: path for module, path in known.items() if path.name != "__init__.py"}
    arrows: dict[str, set[str]] = {}
    for module, path in files.items():
        found = {file_of(source, name, known) for _, source, name in imports(path)}
        for package in found - {None} - set(files):
            short = package.rpartition(".")[2]
            found |= {file_of(package, of, known) for name, of in attributes(path) if name == short}
        arrows[module] = (found & set(files)) - {module}
    return arrows


def circles(arrows: dict[str, set[str]]) -> set[frozenset[str]]:
    """Files that reach one another, as sets (strongly connected components of two and more)."""

    @cache
    def reached(start: str) -> frozenset[str]:
        seen, waiting = set(), list(arrows[start])
        while waiting:
            if (module := waiting.pop()) not in seen:
                seen.add(module)
                waiting += arrows[module]
        return frozenset(seen)

    together = (
        frozenset(other for other in reached(module) if module in reached(other))
        for module in arrows
    )
    return {files for files in together if files}


def private_imports(root: Path) -> list[str]:
    """Imports of a private module from outside the package that it is in."""
    known = modules(root)
    found = []
    for module, path in known.items():
        for line, source, name in imports(path):
            target = f"{source}.{name}" if f"{source}.{name}" in known else source
            parts = target.split(".")
            for depth, part in enumerate(parts):
                package = ".".join(parts[:depth])
                inside = module == package or module.startswith(f"{package}.")
                if part.startswith("_") and target.startswith(f"{root.name}.") and not inside:
                    found.append(f"{module}:{line} imports {target}")
    return found


def relative_imports(root: Path) -> list[str]:
    return [
        f"{module}:{line} imports {source}"
        for module, path in modules(root).items()
        for line, source, _ in imports(path)
        if source.startswith(".")
    ]


def long_files(root: Path) -> set[str]:
    """Files over `LINES` lines whose docstring does not say why."""
    found = set()
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(text)) or ""
        if len(text.splitlines()) > LINES and REASON not in docstring:
            found.add(path.relative_to(root).as_posix())
    return found


# ------------------------------------------------------------------ the rules


def test_files_import_one_another_in_no_circle():
    arrows = graph(ROOT)
    whole = circles(arrows)
    for module, target in UPWARDS:
        assert any({module, target} <= files for files in whole), "take it out of UPWARDS"
        arrows[module].remove(target)
    assert circles(arrows) == set(), "break them, or give a reason in UPWARDS"


def test_private_modules_are_imported_within_their_package_only():
    assert private_imports(ROOT) == []


def test_imports_are_absolute():
    assert relative_imports(ROOT) == []


def test_long_files_say_why_they_are_long():
    assert long_files(ROOT) - TOO_LONG_STILL == set(), f"split them, or say {REASON!r}: …"
    assert TOO_LONG_STILL - long_files(ROOT) == set(), "short now: take them out of TOO_LONG_STILL"


# ------------------------------------------------------------------ the rules see what they are for


@pytest.fixture
def package(tmp_path):
    """A package of files with these contents."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / "toy" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            for folder in {path.parent, tmp_path / "toy"}:
                (folder / "__init__.py").touch()
        return tmp_path / "toy"

    return write


LATE = "def f():\n    from toy.low import g\n"
TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from toy.low import g\n"


@pytest.mark.parametrize("text", ["from toy.low import g\n", "from toy import low\n", LATE, TYPES])
def test_a_circle_is_seen_wherever_the_import_stands(package, text):
    root = package(low="from toy.middle import h\n", middle="import toy.high\n", high=text)
    # `import toy.high` is of the file high.
    assert circles(graph(root)) == {frozenset({"toy.low", "toy.middle", "toy.high"})}
    (root / "low.py").write_text("")
    assert circles(graph(root)) == set()


def test_a_name_of_a_package_is_of_the_file_it_is_from(package):
    root = package(parts__one="from toy.user import f\n", user="from toy.parts import g\n")
    assert circles(graph(root)) == set()  # no file is known to have g
    (root / "parts" / "__init__.pyi").write_text("from .one import g as g\n")
    assert circles(graph(root)) == {frozenset({"toy.parts.one", "toy.user"})}
    (root / "user.py").write_text("from toy import parts\nparts.g()\n")
    assert circles(graph(root)) == {frozenset({"toy.parts.one", "toy.user"})}


def test_a_private_module_is_private_to_its_package(package):
    root = package(
        a___inner="", a__b__user="from toy.a import _inner\n", other="from toy.a._inner import x\n"
    )
    assert private_imports(root) == ["toy.other:1 imports toy.a._inner"]


def test_relative_imports_and_long_files_are_found(package):
    long = "x = 1\n" * (LINES + 1)
    root = package(a="from . import b\n", b=long, c=f'"""{REASON}: a table."""\n{long}')
    assert relative_imports(root) == ["toy.a:1 imports ."]
    assert long_files(root) == {"b.py"}
