"""The device wheel: its content, its dependencies, its answers without simulator and pipeline."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

import agent
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENTRY_POINTS = [
    EntryPoint(name, value, group)
    for group, entries in PROJECT["entry-points"].items()
    for name, value in entries.items()
]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from this checkout, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files, as an installer would lay them out."""
    folder = tmp_path_factory.mktemp("device")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def on_device(device: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run Python code with the wheel's files and without the checkout on the path."""
    prelude = f"import sys; sys.path[:] = [{str(device)!r}] + [p for p in sys.path if p not in ('', {str(ROOT)!r})]; "
    return subprocess.run(
        [sys.executable, "-I", "-c", prelude + program],
        cwd=device,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_wheel_holds_the_agent_and_greengrass_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()

    info = f"kensa-{agent.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"agent", "greengrass", info}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".orig", ".rej"))]
    assert f"{info}/licenses/LICENSE" in names


def test_the_wheel_holds_every_module_of_its_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    modules = {
        str(path.relative_to(ROOT)) for package in ("agent", "greengrass") for path in (ROOT / package).rglob("*.py")
    }
    not_for_devices = {module for module in modules if module.startswith("greengrass/packaging/")}
    assert modules - names == not_for_devices
    assert not [name for name in names if name.startswith("greengrass/com.")]


def test_the_wheel_is_pure_and_carries_the_version_of_the_code(wheel: Path) -> None:
    assert wheel.name == f"kensa-{agent.__version__}-py3-none-any.whl"


def test_a_device_needs_neither_training_nor_simulator_nor_cloud_sdk(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"kensa-{agent.__version__}.dist-info/METADATA").decode()
    needed = [Requirement(line) for line in HeaderParser().parsestr(text).get_all("Requires-Dist", [])]

    on_a_device = {r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})}
    assert on_a_device == {Requirement(line).name for line in PROJECT["dependencies"]}
    assert not on_a_device & {"amqtt", "awsiotsdk", "boto3", "onnx", "rich", "torch"}


def test_the_wheel_declares_one_console_script_and_the_entry_points(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"kensa-{agent.__version__}.dist-info/entry_points.txt").decode()

    assert "[console_scripts]\nkensa = agent.cli:main\n" in text
    for entry in ENTRY_POINTS:
        assert f"{entry.name} = {entry.value}" in text


@pytest.mark.parametrize("entry", ENTRY_POINTS, ids=lambda entry: f"{entry.group}:{entry.name}")
def test_in_a_checkout_every_entry_point_loads(entry: EntryPoint) -> None:
    assert callable(entry.load())


def test_the_console_script_loads() -> None:
    assert callable(EntryPoint("kensa", PROJECT["scripts"]["kensa"], "console_scripts").load())


def test_the_installed_agent_runs_without_the_checkout(device: Path) -> None:
    result = on_device(device, "from agent.cli import main; sys.exit(main(['--help']))")

    assert result.returncode == 0, result.stderr
    assert "demo" in result.stdout
    assert "train" in result.stdout


@pytest.mark.parametrize("command", PROJECT["entry-points"]["kensa.commands"])
def test_a_device_is_told_where_a_command_of_the_checkout_runs(device: Path, command: str) -> None:
    result = on_device(device, f"from agent.cli import main; sys.exit(main([{command!r}]))")

    assert result.returncode == 2, result.stdout + result.stderr
    assert "checkout" in result.stderr
    assert "Traceback" not in result.stderr
