"""requirements/ and pyproject.toml agree: the scripts install what the project declares."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.kits.requirements import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
SETS = sorted(path.stem for path in (ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def lock_text(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    return {str(canonicalize_name(package)): version for package, version in PIN.findall(lock_text(name))}


def declared(extra: str | None) -> list[Requirement]:
    """Direct requirements of the device, or of it and an extra, without torch and without the project itself."""
    lines = [*PROJECT["dependencies"], *(EXTRAS[extra] if extra else [])]
    if extra == "train":
        lines += EXTRAS["pipeline"]
    return [r for r in map(Requirement, lines) if r.name not in {"kensa", "torch"}]


@pytest.mark.parametrize(("name", "extra"), [("device", None), *((extra, extra) for extra in EXTRAS)])
def test_every_declared_dependency_is_locked_in_its_set(name: str, extra: str | None) -> None:
    locked = pins(name)

    for requirement in declared(extra):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in requirements/{name}.txt: run scripts/lock"
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}: run scripts/lock"


@pytest.mark.parametrize("name", SETS)
def test_every_pin_has_hashes_and_no_index_address(name: str) -> None:
    text = lock_text(name)

    entries = [entry for entry in re.split(r"(?m)^(?=[A-Za-z0-9])", text) if PIN.match(entry)]
    assert entries
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert not re.search(r"https?://|--index|--find-links|--extra-index", text)


def test_the_sets_agree_where_they_overlap() -> None:
    seen: dict[str, str] = {}
    for name in SETS:
        for package, version in pins(name).items():
            assert seen.setdefault(package, version) == version, f"{package} differs in requirements/{name}.txt"


def test_a_device_installs_no_part_of_the_simulator_or_the_training() -> None:
    assert not {"amqtt", "boto3", "onnx", "pytest", "rich", "sympy", "torch"} & set(pins("device"))


def test_torch_is_outside_the_lock_and_named_alike_everywhere() -> None:
    (torch,) = [Requirement(line) for line in EXTRAS["train"] if line.startswith("torch")]
    version = str(torch.specifier).removeprefix("==")

    assert not any("torch" in pins(name) for name in SETS)
    assert f"TORCH={version} " in (ROOT / "scripts" / "_env").read_text(encoding="utf-8")
    assert f"torch {version} " in (ROOT / "requirements" / "torch.in").read_text(encoding="utf-8")
