"""component.py installs without network and rights, refuses an unsuitable machine, and starts."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from greengrass.packaging import component
from greengrass.packaging.archive import ArchiveEntry
from greengrass.packaging.build import INSTALLER, build
from tests.kits.greengrass.component_build import HERE, VERSION, inspector_plan, model_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@pytest.fixture
def device() -> Iterator[Path]:
    """A folder with a space in its name that everybody may read; pytest keeps its own folders to itself."""
    with tempfile.TemporaryDirectory(prefix="a device ") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def artifacts_of(out: Path, name: str = "com.kensa.Model") -> Path:
    return out / "artifacts" / name / VERSION


def run(
    arguments: Sequence[object], *, python: str = sys.executable, path: str = os.environ["PATH"], **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run component.py with a PATH and nothing else of this process's environment; no index would answer."""
    return subprocess.run(
        [python, *map(str, arguments)],
        env={"PATH": path, "PIP_INDEX_URL": "http://127.0.0.1:9/simple"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        **options,
    )


def fake_python(folder: Path, name: str, says: str) -> None:
    """A program that claims to be another interpreter."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{says}'\n", encoding="utf-8")
    program.chmod(0o755)


def small_archive(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("requirements.txt", "")


# --- installing -------------------------------------------------------------------------------------------------------


def as_nobody(work: Path) -> dict[str, Any]:
    """Options that make `run` use an unprivileged user where the tests run as root.

    Such a user cannot run an interpreter below root's home: the system's own is taken if it is of the same version.
    """
    work.mkdir()
    if os.getuid() != 0:
        return {}
    system = "/usr/bin/python3"
    if component.probe_interpreter(system) != f"cpython {HERE.python}":
        return {}
    os.chown(work, 65534, 65534)
    return {"user": 65534, "group": 65534, "extra_groups": [], "python": system, "path": "/usr/bin:/bin"}


@pytest.mark.timeout(600)
def test_a_component_installs_offline_as_an_unprivileged_user_and_starts(device: Path) -> None:
    build(model_plan(ArchiveEntry("repository/metadata/timestamp.json", b"{}")), device)
    folder, work = artifacts_of(device), device / "work"
    nobody = as_nobody(work)

    installed = run([folder / "component.py", "install", folder, work], **nobody)

    assert installed.returncode == 0, installed.stderr
    home = work / VERSION
    assert (home / "repository" / "metadata" / "timestamp.json").read_bytes() == b"{}"
    assert not (home / "wheels").exists()
    assert (home / "venv" / "bin" / "kensa").is_file()
    assert home.stat().st_uid == nobody.get("user", os.getuid())

    began = (home / component.MARKER).stat().st_mtime_ns
    assert run([folder / "component.py", "install", folder, work], **nobody).returncode == 0
    assert (home / component.MARKER).stat().st_mtime_ns == began, "an installation that is whole is left alone"

    started = run([folder / "component.py", "start", folder, work, "greengrass.model_component"], **nobody)

    assert started.returncode == 1
    assert "started by the Greengrass nucleus" in started.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_inspector_installs_and_its_command_runs(device: Path) -> None:
    build(inspector_plan(device), device)
    folder, work = artifacts_of(device, "com.kensa.Inspector"), device / "work"

    assert run([folder / "component.py", "install", folder, work]).returncode == 0
    helped = subprocess.run([work / VERSION / "venv" / "bin" / "kensa", "--help"], check=False, capture_output=True)
    assert helped.returncode == 0, helped.stderr


@pytest.mark.timeout(600)
def test_a_damaged_package_is_refused_and_leaves_no_installation(device: Path) -> None:
    built = build(model_plan(), device)
    folder, work = artifacts_of(device), device / "work"
    archive = built.artifacts[1]
    whole = {info.filename: zipfile.ZipFile(archive).read(info) for info in zipfile.ZipFile(archive).infolist()}
    (sdk,) = (name for name in whole if "awsiotsdk" in name)
    with zipfile.ZipFile(archive, "w") as damaged:
        for name, data in whole.items():
            damaged.writestr(name, data + b"\0" if name == sdk else data)

    result = run([folder / "component.py", "install", folder, work])

    assert result.returncode == 1
    assert "the packages could not be installed" in result.stderr
    assert not (work / VERSION / component.MARKER).exists()


def test_an_archive_that_was_cut_off_is_refused(device: Path) -> None:
    folder = device / VERSION
    folder.mkdir()
    (folder / HERE.archive).write_bytes(b"PK\3\4")

    result = run([INSTALLER, "install", folder, device / "work"])

    assert result.returncode == 1
    assert result.stderr.startswith("kensa: ")
    assert "Traceback" not in result.stderr


# --- refusing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("says", ["cpython 3.10 ", "cpython 3.14 ", "pypy 3.11 ", "cpython 3.13 free-threaded"])
def test_an_interpreter_without_packages_is_refused_by_name(device: Path, says: str) -> None:
    for version in ("311", "312", "313"):
        small_archive(device / VERSION, f"kensa-{HERE.machine}-cp{version}.zip")
    fake_python(device / "bin", "python3", says)

    result = run([INSTALLER, "install", device / VERSION, device / "work"], path=str(device / "bin"))

    assert result.returncode == 1
    assert "is for CPython 3.11, 3.12, 3.13" in result.stderr
    assert f"{device / 'bin' / 'python3'} is {says.strip()}" in result.stderr
    assert "apt-get install python3.11 python3.11-venv" in result.stderr
    assert not (device / "work" / VERSION).exists()


def test_a_fitting_interpreter_beside_the_default_one_is_taken(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_archive(device / VERSION, f"kensa-{HERE.machine}-cp312.zip")
    fake_python(device / "bin", "python3", "cpython 3.14")
    fake_python(device / "bin", "python3.12", "cpython 3.12")
    monkeypatch.setenv("PATH", str(device / "bin"))

    program, archive = component.choose_interpreter(device / VERSION)

    assert program == str(device / "bin" / "python3.12")
    assert archive.name == f"kensa-{HERE.machine}-cp312.zip"


def test_a_machine_without_an_archive_is_named(device: Path) -> None:
    small_archive(device / VERSION, "kensa-riscv64-cp311.zip")

    result = run([INSTALLER, "install", device / VERSION, device / "work"])

    assert result.returncode == 1
    assert f"this machine is {HERE.machine}; the component is for riscv64" in result.stderr


def test_without_python_on_the_path_it_says_so(device: Path) -> None:
    small_archive(device / VERSION, HERE.archive)

    result = run([INSTALLER, "install", device / VERSION, device / "work"], path=str(device))

    assert "no python3 is on PATH" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["install"], ["start", "a", "b"], ["update", "a", "b"]])
def test_wrong_usage_is_told(arguments: list[str]) -> None:
    result = run([INSTALLER, *arguments])

    assert result.returncode == 64
    assert result.stderr.startswith("usage: ")


def test_any_python_from_3_7_on_can_read_it() -> None:
    ast.parse(INSTALLER.read_text(encoding="utf-8"), feature_version=(3, 7))


# --- keeping ----------------------------------------------------------------------------------------------------------


def test_this_version_and_the_one_that_was_started_last_are_kept(device: Path) -> None:
    for age, name in enumerate(["1.0.0", "1.1.0", "1.2.0", "2.0.0"]):
        (device / name).mkdir()
        marker = device / name / component.MARKER
        marker.write_text("x", encoding="utf-8")
        os.utime(marker, (age, age))
    (device / "state").mkdir()

    component.remove_old_versions(device / "1.2.0")

    assert sorted(path.name for path in device.iterdir()) == ["1.2.0", "2.0.0", "state"]
    shutil.rmtree(device / "2.0.0")
    component.remove_old_versions(device / "1.2.0")
    assert sorted(path.name for path in device.iterdir()) == ["1.2.0", "state"]


def test_a_start_is_remembered_and_removes_nothing(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("1.0.0", "1.1.0", "1.2.0"):
        (device / "work" / name).mkdir(parents=True)
        (device / "work" / name / component.MARKER).write_text("x", encoding="utf-8")
        os.utime(device / "work" / name / component.MARKER, (1, 1))
    became: list[str] = []
    monkeypatch.setattr(os, "execve", lambda program, *_: became.append(program))
    monkeypatch.chdir(device)

    component.start(device / "artifacts" / "1.0.0", device / "work", "greengrass")

    assert became == [str(device / "work" / "1.0.0" / "venv" / "bin" / "python")]
    assert len(list((device / "work").iterdir())) == 3
    component.remove_old_versions(device / "work" / "1.2.0")
    assert sorted(path.name for path in (device / "work").iterdir()) == ["1.0.0", "1.2.0"]
