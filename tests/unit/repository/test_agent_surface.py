"""The other packages import only the named surface of `agent`, and no private name."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from typing import TYPE_CHECKING, Final

import pytest

from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

IMPORTERS: Final = ("greengrass", "pipeline", "simulator")


@cache
def surface() -> dict[str, list[str]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = settings["tool"]["kensa"]["agent_surface"]
    return found


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports_of_agent(package: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield file, module of `agent` and imported name (None for a module) of each import."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.partition(".")[0] == "agent":
                        yield path.name, alias.name, None
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "agent":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    yield (path.name, whole, None) if is_module(whole) else (path.name, str(node.module), alias.name)


@pytest.mark.parametrize("package", IMPORTERS)
def test_a_package_imports_the_named_surface_of_agent_and_all_of_it(package: str) -> None:
    assert surface()[package] == sorted({module for _, module, _ in imports_of_agent(package)})


@pytest.mark.parametrize("package", IMPORTERS)
def test_nobody_imports_a_private_name_of_agent(package: str) -> None:
    private = [
        (file, module, name)
        for file, module, name in imports_of_agent(package)
        if any(part.startswith("_") and not part.endswith("__") for part in [*module.split("."), name or ""])
    ]
    assert private == []
