"""The documents name commands, reasons, tests and files; what they name exists."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from agent.children.fetch_protocol import FetchReason
from agent.cli import main
from agent.lifecycle.remedies import _REMEDY_AT_GATE, _REMEDY_BY_REASON, remedy
from agent.release_records import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[3]
OPERATIONS: Final = ROOT / "docs" / "operations.md"
THREATS: Final = ROOT / "docs" / "threat-model.md"
ANALYTICS: Final = ROOT / "docs" / "analytics.md"
PAGES: Final = (ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "docs" / "datasets.md", ANALYTICS, OPERATIONS, THREATS)
REFUSERS: Final = {
    "FetchError",
    "Refusal",
    "ReleaseRefusedError",
    "SelfTestRefused",
    "_refusal_from",
    "_refuse",
    "make_refusal",
    "sequential_test_refusal",
}
PACKAGES: Final = (
    "agent/app",
    "agent/children",
    "agent/evidence",
    "agent/fetch",
    "agent/lifecycle",
    "agent/release",
    "agent/selftest",
)


# --- commands ---------------------------------------------------------------------------------------------------------


def commands() -> list[str]:
    """Every `kensa ...` of the pages, up to a comment, a bracket or the end of its code."""
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
        for line in [line for block in blocks for line in block.splitlines()] + spans:
            if match := re.match(r"\s*kensa ([a-z].*?)\s*(?:#|$| {2,}|->)", line):
                found.add(match[1])
    return sorted(found)


def split(command: str) -> tuple[list[str], list[str]]:
    """Its words before the first argument, and its options."""
    words = command.split()
    depth = next((i for i, word in enumerate(words) if not re.fullmatch(r"[a-z][a-z-]*", word)), len(words))
    return words[:depth], [word for word in words if word.startswith("--")]


@cache
def help_of(names: tuple[str, ...]) -> str:
    """What `--help` prints of a command that exists."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*names, "--help"])
    assert code == 0, f"kensa {' '.join(names)}: {err.getvalue()}"
    return out.getvalue()


@pytest.mark.parametrize("command", commands())
def test_every_command_that_a_page_names_exists_with_its_options(command: str) -> None:
    names, options = split(command)
    text = help_of(tuple(names))
    assert [option for option in options if option not in text and option != "--help"] == []


# --- reasons ----------------------------------------------------------------------------------------------------------


def texts(node: ast.expr, names: dict[str, set[str]]) -> Iterator[str]:
    """The strings that an expression can be."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=body, orelse=orelse):
            yield from texts(body, names)
            yield from texts(orelse, names)
        case ast.JoinedStr(values=[ast.FormattedValue(), ast.Constant(value=str(end))]) if end == "_not_passed":
            yield from ("shadow" + end, "trial" + end)
        case ast.Name(id=name):
            yield from names.get(name, set())


def named(tree: ast.Module) -> dict[str, set[str]]:
    """What the variable `reason` is given in loops over tuples and in assignments."""
    found: dict[str, set[str]] = {"reason": set()}
    for node in ast.walk(tree):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            pairs = [(node.target, item) for item in node.iter.elts]
        elif isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        for target, value in pairs:
            several = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                several = list(zip(target.elts, value.elts, strict=False))
            for name, item in several:
                if isinstance(name, ast.Name) and name.id == "reason":
                    found["reason"].update(texts(item, {}))
    return found


def reasons_in_code() -> set[str]:
    """Every reason code that a refusal or a failed fetch can have."""
    found = {str(reason) for reason in FetchReason}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = named(tree)
            for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
                name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
                if name not in REFUSERS:
                    continue
                position = 0 if name == "FetchError" else 1
                given = [k.value for k in call.keywords if k.arg == "reason"] + call.args[position : position + 1]
                found.update(text for node in given for text in texts(node, names))
    return found


def rows(page: Path, head: str) -> list[list[str]]:
    """The cells of the tables whose head row begins with `head`."""
    found, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            inside = False
        elif line.startswith(f"| {head} |"):
            inside = True
        elif inside and not line.startswith("|---"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_operations_explain_every_reason_and_no_other() -> None:
    told = {code for row in rows(OPERATIONS, "reason") for code in re.findall(r"`([a-z_]+)`", row[0])}

    assert told - reasons_in_code() == set()
    assert reasons_in_code() - told == set()


def test_every_reason_in_the_code_has_a_remedy_and_no_remedy_is_for_nothing() -> None:
    told = set(_REMEDY_BY_REASON) | {reason for reason, _ in _REMEDY_AT_GATE}

    assert reasons_in_code() - told == set()
    assert told - reasons_in_code() == set()


def test_a_remedy_goes_by_the_reason_and_not_by_the_gate() -> None:
    golden = [row for row in rows(OPERATIONS, "reason") if len(row) == 4 and "golden" in row[1]]
    reasons = [code for row in golden for code in re.findall(r"`([a-z_]+)`", row[0])]

    other_cpu = {reason for reason in reasons if "--target-cpu" in (remedy(Gate.GOLDEN, reason) or "")}

    assert len(reasons) > 5
    assert other_cpu == {"scores_differ", "outcomes_differ"}
    assert remedy(Gate.GOLDEN, "misses_defects") != remedy(Gate.ACCEPTANCE, "misses_defects")
    assert remedy("gate_of_another_version", "of_another_version") is None


def test_operations_name_every_gate_and_no_other() -> None:
    told = {gate for row in rows(OPERATIONS, "reason") if len(row) == 4 for gate in row[1].split(", ")}

    assert told == {str(gate) for gate in Gate}


# --- threats ----------------------------------------------------------------------------------------------------------


def functions(path: Path) -> set[str]:
    """Names of all functions in a file of tests."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_threat_model_names_exists() -> None:
    told = re.findall(r"`(tests/[a-z_/]+\.py)::(test_\w+)`", THREATS.read_text(encoding="utf-8"))

    assert len(told) > 40
    assert [f"{path}::{name}" for path, name in told if name not in functions(ROOT / path)] == []


def test_every_attack_on_the_repository_is_a_row_and_every_row_an_attack() -> None:
    from tests.fault.test_repository_attacks import ATTACKS  # noqa: PLC0415 - loads tuf

    told = {
        (case, code)
        for row in rows(THREATS, "attack")
        for code in re.findall(r"`(\w+)`", row[2])
        for case in re.findall(r"`(\w+)`", row[3])
    }
    assert told == {(attack.__name__, str(reason)) for attack, reason in ATTACKS}


def test_the_threat_model_uses_no_reason_that_does_not_exist() -> None:
    told = {code for row in rows(THREATS, "threat") if len(row) == 4 for code in re.findall(r"`([a-z_]+)`", row[2])}

    assert told - reasons_in_code() - {"init"} == set()


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted({*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")}), ids=str)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


# --- architecture -----------------------------------------------------------------------------------------------------


def test_the_picture_of_the_layers_is_that_of_the_import_contracts() -> None:
    checked = subprocess.run([ROOT / "scripts" / "layers", "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_every_path_of_the_architecture_page_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = [path for path in re.findall(r"`([a-z_0-9./]+)`", text) if "/" in path]
    assert paths, "the page names no path any more"
    assert [path for path in paths if not (ROOT / path).exists() and not (ROOT / "agent" / path).exists()] == []
