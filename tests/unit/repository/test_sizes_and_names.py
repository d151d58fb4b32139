"""Limits of size, unique names, and first sentences of module docstrings."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[3]
PACKAGES: Final = ("agent", "greengrass", "pipeline", "simulator")
MODULE_LINES: Final = 400
FUNCTION_LINES: Final = 50  # without the docstring
FOLDER_MODULES: Final = 15  # without __init__.py and __main__.py
SENTENCE_CHARACTERS: Final = 100
ENTRY_FILES: Final = ("__init__.py", "__main__.py")

# Public classes that share a name inside one package, each with its reason.
SHARED_CLASS_NAMES: Final[dict[tuple[str, str], str]] = {}


@cache
def modules(package: str) -> tuple[Path, ...]:
    """Return every Python file of a top-level package."""
    return tuple(sorted((ROOT / package).rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function's body without its docstring."""
    first, *rest = function.body
    has_docstring = ast.get_docstring(function, clean=False) is not None
    if has_docstring and not rest:
        return 0
    start = rest[0].lineno if has_docstring else first.lineno
    return (function.end_lineno or start) - start + 1


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_longer_than_the_limit(package: str) -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules(package)}
    assert {path: lines for path, lines in lengths.items() if lines > MODULE_LINES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_function_is_longer_than_the_limit(package: str) -> None:
    too_long = {
        f"{relative(path)}:{node.lineno} {node.name}": body_lines(node)
        for path in modules(package)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > FUNCTION_LINES
    }
    assert too_long == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_holds_more_modules_than_a_reader_takes_in(package: str) -> None:
    counts = Counter(relative(path.parent) for path in modules(package) if path.name not in ENTRY_FILES)
    assert {folder: count for folder, count in counts.items() if count > FOLDER_MODULES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_name_stands_once_in_a_package(package: str) -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in modules(package):
        if path.name not in ENTRY_FILES:
            places[path.stem].append(relative(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_public_class_name_stands_once_in_a_package(package: str) -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in modules(package):
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(relative(path))
    repeated = {
        name: found for name, found in places.items() if len(found) > 1 and (package, name) not in SHARED_CLASS_NAMES
    }
    assert repeated == {}


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_a_module_says_in_one_short_sentence_what_it_is(package: str) -> None:
    wrong = {}
    for path in modules(package):
        docstring = ast.get_docstring(tree(path))
        if docstring is None:
            if path.stat().st_size and not path.name.startswith(("test_", "conftest")):
                wrong[relative(path)] = "no docstring"
            continue
        first = docstring.splitlines()[0]
        if len(first) >= SENTENCE_CHARACTERS or not first.endswith((".", "?")):
            wrong[relative(path)] = first
    assert wrong == {}
