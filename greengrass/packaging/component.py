"""Installs and starts a component on a device: `component.py install|start ARTIFACTS WORK [MODULE]`.

It is a separate artifact beside the archives, so that it works where the nucleus did not unpack them. It uses only the
standard library and runs on any Python from 3.7 on: it names an unsuitable interpreter in its refusal.

Promise: `install` makes WORK/VERSION complete or exits 1 with a sentence on standard error; it uses no network and
needs no rights beyond WORK. The running version is left unchanged: a nucleus installs the next one beside it; versions
before that are removed. `start` becomes `python -m MODULE`, keeping its process id.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ARCHIVE = re.compile(r"kensa-([a-z0-9_]+)-cp(\d)(\d+)\.zip")
MARKER = ".installed"  # in WORK/VERSION: the archive that was installed, and its size
ARGUMENT_COUNTS = {"install": 2, "start": 3}
CANDIDATES = ("python3", "python3.13", "python3.12", "python3.11")
PROBE = (
    "import sys, sysconfig; print(sys.implementation.name, '%d.%d' % sys.version_info[:2], "
    "'free-threaded' if sysconfig.get_config_var('Py_GIL_DISABLED') else '')"
)


class UnsupportedError(Exception):
    """The component cannot be installed or started here; the text gives the reason and the remedy."""


def archives(folder: Path) -> dict[str, Path]:
    """Return the archives for this machine's architecture, by version of CPython ("3.11"). Raises UnsupportedError."""
    machine = platform.machine()
    found = {}
    others = set()
    for path in sorted(folder.glob("*.zip")):
        match = ARCHIVE.fullmatch(path.name)
        if match and match.group(1) == machine:
            found[f"{match.group(2)}.{match.group(3)}"] = path
        elif match:
            others.add(match.group(1))
    if not found:
        raise UnsupportedError(f"this machine is {machine}; the component is for {', '.join(sorted(others)) or 'none'}")
    return found


def probe_interpreter(program: str) -> str | None:
    """Return what a program is, such as "cpython 3.11"; None where it is absent or no Python."""
    try:
        answer = subprocess.run(
            [program, "-I", "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.decode(errors="replace").strip()


def choose_interpreter(folder: Path, candidates: tuple[str, ...] = CANDIDATES) -> tuple[str, Path]:
    """Return the first interpreter that has an archive, and that archive.

    Raises UnsupportedError with the interpreters found.
    """
    found = archives(folder)
    seen = []
    for candidate in candidates:
        program = shutil.which(candidate)
        identity = program and probe_interpreter(program)
        if not program or not identity:
            continue
        name, _, version = identity.partition(" ")
        if name == "cpython" and version in found:
            return program, found[version]
        seen.append(f"{program} is {identity}")
    fit = next(iter(found))
    raise UnsupportedError(
        f"the component is for CPython {', '.join(found)}, and {'; '.join(seen) or 'no python3 is on PATH'}. "
        f"Install one of them with its venv module, such as: apt-get install python{fit} python{fit}-venv"
    )


def archive_signature(archive: Path) -> str:
    """Return the marker's text for an installed archive."""
    return f"{archive.name} {archive.stat().st_size}\n"


def run(command: list[str], why: str) -> None:
    """Run a step of the installation. Raises UnsupportedError with `why` and its last lines of output."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON", "VIRTUAL_ENV"))}
    clean["PIP_CONFIG_FILE"] = os.devnull
    clean["ORT_DISABLE_TELEMETRY"] = "1"  # as agent/__init__.py: the last step imports onnxruntime alone
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=clean, check=False)
    if ended.returncode:
        lines = ended.stdout.decode(errors="replace").strip().splitlines()
        raise UnsupportedError(f"{why}: {' | '.join(lines[-3:])}")


def install(folder: Path, work: Path) -> None:
    """Make WORK/VERSION with its virtual environment.

    Raises UnsupportedError; then the version's folder has no marker.
    """
    program, archive = choose_interpreter(folder)
    home = work / folder.name
    marker = home / MARKER
    if marker.is_file() and marker.read_text() == archive_signature(archive):
        return
    shutil.rmtree(str(home), ignore_errors=True)
    home.mkdir(parents=True)
    with zipfile.ZipFile(str(archive)) as zipped:
        zipped.extractall(str(home))
    environment = home / "venv"
    run(
        [program, "-I", "-m", "venv", str(environment)],
        f"no virtual environment could be made; apt-get install {Path(program).name}-venv may help",
    )
    python = str(environment / "bin" / "python")
    wheels = home / "wheels"
    # The list is complete and has every digest: nothing is resolved, and a damaged file is refused.
    pip = [python, "-I", "-m", "pip", "install", "--no-index", "--find-links", str(wheels), "--no-deps"]
    pip += ["--require-hashes", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    run([*pip, "-r", str(home / "requirements.txt")], "the packages could not be installed")
    shutil.rmtree(str(wheels))
    imports = (home / "imports.txt").read_text().split()
    run(
        [python, "-I", "-c", "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"]
        + imports,
        "the packages do not run on this machine",
    )
    marker.write_text(archive_signature(archive))
    remove_old_versions(home)


def remove_old_versions(home: Path) -> None:
    """Remove all versions but this one and the one that was started last, which runs now.

    This belongs to the installation: deleting thousands of files would delay a start by seconds.
    """
    others = [path for path in home.parent.iterdir() if path != home and (path / MARKER).is_file()]
    others.sort(key=lambda path: (path / MARKER).stat().st_mtime)
    for path in others[:-1]:
        shutil.rmtree(str(path), ignore_errors=True)


def start(folder: Path, work: Path, module: str) -> None:
    """Become `python -m MODULE` of the installed version. Raises UnsupportedError where it is not installed."""
    home = work / folder.name
    python = str(home / "venv" / "bin" / "python")
    if not (home / MARKER).is_file():
        install(folder, work)  # the work folder was cleared
    os.utime(str(home / MARKER))  # started last: see `remove_old_versions`
    environment = dict(
        os.environ,
        KENSA_COMPONENT_DIR=str(home),
        KENSA_WORK_DIR=str(work),
        KENSA_COMPONENT_VERSION=folder.name,
        ORT_DISABLE_TELEMETRY="1",
    )
    os.chdir(str(home))
    os.execve(python, [python, "-P", "-s", "-m", module], environment)  # noqa: S606 - replaces this process, without a shell


def main(arguments: list[str]) -> int:
    """Return 0 when done, 1 when refused, with the reason in one line on standard error."""
    command, *rest = arguments or [""]
    if ARGUMENT_COUNTS.get(command) != len(rest):
        sys.stderr.write("usage: component.py install ARTIFACTS WORK | component.py start ARTIFACTS WORK MODULE\n")
        return 64
    folder, work = Path(rest[0]).absolute(), Path(rest[1]).absolute()
    try:
        if command == "install":
            install(folder, work)
        else:
            start(folder, work, rest[2])
    except (UnsupportedError, OSError, zipfile.BadZipFile) as error:
        sys.stderr.write(f"kensa: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
