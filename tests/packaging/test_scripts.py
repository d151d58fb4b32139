"""The scripts' set-up names what is missing, and never writes to standard output."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
ENTRY = [path for path in SCRIPTS if path.name != "_env"]
TOOLS = ("bash", "cat", "chmod", "cut", "dirname", "env", "flock", "mkdir", "readlink", "sed", "sha256sum")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A checkout's scripts in a folder with spaces, and a PATH that holds a few tools and no Python."""
    checkout = tmp_path / "a line's PC"
    for folder in ("scripts", "requirements"):
        shutil.copytree(ROOT / folder, checkout / folder)
    for file in ("pyproject.toml", "agent/__init__.py"):
        (checkout / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, checkout / file)
    path = tmp_path / "bin"
    path.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, f"{tool} is part of every Debian"
        (path / tool).symlink_to(found)
    return checkout


def give(machine: Path, name: str, body: str) -> None:
    """Put an executable on the machine's PATH."""
    program = machine.parent / "bin" / name
    program.unlink(missing_ok=True)  # a link to the machine's own program must not be written through
    program.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    program.chmod(0o755)


def set_up(machine: Path, *, uid: int = 1000, **environment: str) -> subprocess.CompletedProcess[str]:
    """Source _env as user `uid` with the machine's PATH only, and set up the device's requirements."""
    env = (machine / "scripts" / "_env").read_text(encoding="utf-8")
    path = machine.parent / "bin"
    env = env.replace("$EUID", str(uid)).replace("PATH=$PATH:/usr/sbin:/sbin", f"PATH={path}")
    (machine / "scripts" / "_env").write_text(env, encoding="utf-8")
    return subprocess.run(
        [str(path / "bash"), "-c", 'set -euo pipefail; source "$0"; setup device', f"{machine}/scripts/_env"],
        cwd=machine.parent,
        env={"PATH": str(path), "HOME": os.environ.get("HOME", "/"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


WITHOUT_ENSUREPIP = f'[[ "$*" == *ensurepip* ]] && exit 1\nexec {sys.executable!r} "$@"'
OLD_PYTHON = "exit 1"


@pytest.mark.parametrize("script", ENTRY, ids=lambda script: script.name)
def test_every_script_is_executable_and_parses(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--seconds", "5", "--help"]], ids=" ".join)
@pytest.mark.parametrize("script", ENTRY, ids=lambda script: script.name)
def test_help_of_a_script_installs_and_writes_nothing(machine: Path, script: Path, arguments: list[str]) -> None:
    give(machine, "uv", "echo uv was called >&2; exit 1")
    checkout = {path.relative_to(machine): path.stat().st_mtime_ns for path in machine.rglob("*")}
    result = subprocess.run(
        [str(machine / "scripts" / script.name), *arguments],
        cwd=machine.parent,
        env={"PATH": str(machine.parent / "bin"), "HOME": str(machine.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert f"scripts/{script.name}" in result.stdout
    assert result.stderr == ""
    assert {path.relative_to(machine): path.stat().st_mtime_ns for path in machine.rglob("*")} == checkout


@pytest.mark.parametrize(("script", "option"), [("demo", "--outage SECONDS"), ("bench", "--paced-seconds")])
def test_help_lists_the_options_with_a_bare_python_and_no_packages(script: str, option: str, tmp_path: Path) -> None:
    checkout = tmp_path / "fresh"
    for folder in ("scripts", "simulator", "agent"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/bash\nexec {sys.executable!r} -S "$@"\n', encoding="utf-8")  # -S: no site-packages
    python.chmod(0o755)
    result = subprocess.run(
        [str(checkout / "scripts" / script), "--help"],
        env={"PATH": f"{python.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert option in result.stdout
    assert not (checkout / ".venv").exists()
    assert not list(checkout.rglob("__pycache__"))


def test_without_python_the_remedy_is_printed_with_sudo(machine: Path) -> None:
    result = set_up(machine)

    assert result.returncode == 2
    assert "Python 3.11, 3.12 or 3.13 is needed" in result.stderr
    assert "sudo apt-get install python3 python3-venv" in result.stderr
    assert result.stdout == ""


def test_an_old_python_is_not_taken(machine: Path) -> None:
    give(machine, "python3", OLD_PYTHON)

    assert "Python 3.11, 3.12 or 3.13 is needed" in set_up(machine).stderr


def test_without_the_venv_module_its_debian_package_is_named(machine: Path) -> None:
    give(machine, "python3", WITHOUT_ENSUREPIP)

    result = set_up(machine)

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert result.returncode == 2
    assert f"sudo apt-get install python{version}-venv" in result.stderr
    assert not (machine / ".venv").exists()


def test_root_needs_no_sudo(machine: Path) -> None:
    result = set_up(machine, uid=0)

    assert result.returncode == 2
    assert "Type: apt-get install python3 python3-venv" in result.stderr


@pytest.mark.parametrize(("uid", "ci", "called"), [(0, "true", True), (0, "", False), (1000, "true", False)])
def test_apt_is_called_only_as_root_in_ci(machine: Path, uid: int, ci: str, *, called: bool) -> None:
    calls = machine.parent / "apt-calls"
    give(machine, "apt-get", f'echo "$@" >>{str(calls)!r}')

    set_up(machine, uid=uid, CI=ci)

    assert calls.exists() == called
    if called:
        assert "install -y" in calls.read_text(encoding="utf-8")
        assert "python3-venv" in calls.read_text(encoding="utf-8")


@pytest.fixture
def uv_calls(machine: Path) -> Path:
    """The calls of a stand-in for uv, which makes a .venv with an idle python and talks on standard output."""
    calls = machine.parent / "uv-calls"
    python = f"{machine}/.venv/bin/python"
    give(machine, "python3", f'exec {sys.executable!r} "$@"')
    give(
        machine,
        "uv",
        f'echo noise; echo "$@" >>"{calls}"\n'
        f'[[ $1 == venv ]] || exit 0\nmkdir -p "{machine}/.venv/bin"\n'
        f'echo "#!/bin/bash" >"{python}"; chmod +x "{python}"',
    )
    return calls


def test_a_set_is_installed_once_and_again_when_its_lock_changed(machine: Path, uv_calls: Path) -> None:
    first = set_up(machine)
    assert first.returncode == 0, first.stderr
    made, device, project = uv_calls.read_text(encoding="utf-8").splitlines()
    assert made.startswith("venv")
    assert "--require-hashes" in device
    assert "requirements/build.txt" in device
    assert "requirements/device.txt" in device
    assert f"--editable {machine}" in project

    uv_calls.write_text("", encoding="utf-8")
    assert set_up(machine).returncode == 0
    assert uv_calls.read_text(encoding="utf-8") == ""

    with (machine / "requirements" / "device.txt").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert set_up(machine).returncode == 0
    (again,) = uv_calls.read_text(encoding="utf-8").splitlines()
    assert "requirements/device.txt" in again
    assert "requirements/build.txt" not in again


def test_the_set_up_never_speaks_on_standard_output(machine: Path, uv_calls: Path) -> None:
    result = set_up(machine)

    assert uv_calls.exists()
    assert result.stdout == ""
    assert "noise" in result.stderr


def test_a_moved_checkout_gets_a_new_environment(machine: Path, uv_calls: Path) -> None:
    set_up(machine)
    (machine / ".venv" / ".kensa" / "root").write_text("/elsewhere", encoding="utf-8")
    uv_calls.write_text("", encoding="utf-8")

    result = set_up(machine)

    assert "the checkout was moved" in result.stderr
    assert uv_calls.read_text(encoding="utf-8").startswith("venv")


def test_an_install_that_fails_is_tried_again_next_time(machine: Path, uv_calls: Path) -> None:
    give(machine, "uv", "exit 1")
    assert set_up(machine).returncode != 0
    assert not (machine / ".venv" / ".kensa" / "device").exists()
    assert not uv_calls.exists()
