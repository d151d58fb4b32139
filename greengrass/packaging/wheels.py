"""Collects wheels for a kind of device, from the folder of an earlier build, else through pip.

pip is used as configured on this machine (index, mirror, proxy, certificates); no address is written here.
Promise: each wheel has a digest of the lock and a tag that fits the target.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from agent.durable import sha256_of
from greengrass.packaging.lock import PackagingError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greengrass.packaging.lock import BuildTarget, Pin

_DOWNLOAD_TIMEOUT_S: Final = 1_800.0


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel file on this disk."""

    name: str  # canonical
    version: str
    path: Path
    sha256: str  # hex


def collect_wheels(pins: Sequence[Pin], target: BuildTarget, store: Path) -> list[Wheel]:
    """Return the best wheel of each pin for `target`; wheels that `store` lacks are downloaded into it.

    Raises PackagingError with the packages that have no such wheel, or with pip's own message.
    """
    store.mkdir(parents=True, exist_ok=True)
    found = _find_wheels(pins, target, store)
    missing = [pin for pin in pins if pin.name not in found]
    if missing:
        _download_wheels(missing, target, store)
        found = _find_wheels(pins, target, store)
    if missing := [pin for pin in pins if pin.name not in found]:
        names = ", ".join(f"{pin.name} {pin.version}" for pin in missing)
        raise PackagingError(f"no wheel of the lock fits CPython {target.python} on {target.machine}: {names}")
    return [found[pin.name] for pin in pins]


def _find_wheels(pins: Sequence[Pin], target: BuildTarget, store: Path) -> Mapping[str, Wheel]:
    tags = target.tags()
    by_version = {(pin.name, pin.version): pin for pin in pins}
    fitting: dict[str, list[tuple[int, str, Path]]] = defaultdict(list)
    for path in store.glob("*.whl"):
        try:
            name, version, _, its_tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        ranks = [tags[tag] for tag in its_tags if tag in tags]
        if ranks and (str(name), str(version)) in by_version:
            fitting[str(name)].append((min(ranks), path.name, path))
    found = {}
    for pin in pins:
        for _, _, path in sorted(fitting[pin.name]):
            digest = sha256_of(path)
            if digest in pin.sha256:
                found[pin.name] = Wheel(pin.name, pin.version, path, digest)
                break
    return found


def _download_wheels(pins: Sequence[Pin], target: BuildTarget, store: Path) -> None:
    """Download wheels with pip, which refuses a file without one of the pin's digests. Raises PackagingError."""
    with tempfile.TemporaryDirectory(dir=store, prefix=".pip-") as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(
            "".join(
                f"{pin.name}=={pin.version} {' '.join(f'--hash=sha256:{digest}' for digest in sorted(pin.sha256))}\n"
                for pin in pins
            ),
            encoding="utf-8",
        )
        fit = [f"--platform={platform}" for platform in target.platforms()]
        fit += [f"--python-version={target.python}", "--implementation=cp"]
        fit += [f"--abi={abi}" for abi in (target.abi, "abi3", "none")]
        command = [*_pip(), "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--require-hashes", f"--requirement={requirements}", f"--dest={folder}", *fit]
        try:
            ended = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=_DOWNLOAD_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise PackagingError(
                f"pip did not finish within {_DOWNLOAD_TIMEOUT_S:.0f} s; is its index there?"
            ) from error
        if ended.returncode:
            lines = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")] or [ended.stderr[-500:]]
            raise PackagingError(
                f"pip could not download wheels for CPython {target.python} on {target.machine}: {lines[-1]}"
            )
        for path in Path(folder).glob("*.whl"):
            path.replace(store / path.name)


def _pip() -> list[str]:
    """Return the command of pip; installs pip into an environment that uv made. Raises PackagingError."""
    if importlib.util.find_spec("pip") is None:
        command = [sys.executable, "-m", "ensurepip", "--default-pip"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            raise PackagingError(f"{sys.executable} has neither pip nor ensurepip: delete .venv and run scripts/test")
    return [sys.executable, "-m", "pip"]
