"""Reads the locked packages that a component carries, for one kind of device, from requirements/.

Promise: a component carries a subset of the lock, with the lock's digests; each package that is left out has a reason
here. Nothing is resolved again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from packaging.markers import InvalidMarker, Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name

from agent.errors import OperatorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PYTHONS: Final = ("3.11", "3.12", "3.13")
# uname's name of an architecture -> Greengrass's.
ARCHITECTURES: Final[Mapping[str, str]] = {"x86_64": "amd64", "aarch64": "aarch64"}
_GLIBC: Final = 28  # 2.28: Debian 10, Ubuntu 20.04, Amazon Linux 2023 and everything since

# Locked because another package requires them, but imported by nothing on a device (a test checks it).
NOT_IMPORTED: Final[Mapping[str, str]] = {
    "flatbuffers": "onnxruntime's tools only",
    "packaging": "onnxruntime's tools only",
    "protobuf": "onnxruntime's tools only",
    "pycparser": "cffi's compiler only",
}
_PIN: Final = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?: *; *(?P<marker>.+?))?$")
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class PackagingError(OperatorError):
    """A component cannot be built from this checkout on this machine; the text names the remedy."""


@dataclass(frozen=True, slots=True)
class BuildTarget:
    """A kind of device: architecture as printed by `uname -m`, and the version of CPython, such as 3.11."""

    machine: str
    python: str

    @property
    def abi(self) -> str:
        """Return the ABI tag, such as cp311."""
        return "cp" + self.python.replace(".", "")

    @property
    def archive(self) -> str:
        """Return the name of its archive, by which component.py finds it."""
        return f"kensa-{self.machine}-{self.abi}.zip"

    def platforms(self) -> list[str]:
        """Return the platform tags of wheels that run there, best first."""
        newer = [f"manylinux_2_{minor}_{self.machine}" for minor in range(_GLIBC, 16, -1)]
        older = ["manylinux2010_x86_64", "manylinux_2_12_x86_64", "manylinux1_x86_64", "manylinux_2_5_x86_64"]
        return [*newer, f"manylinux2014_{self.machine}", *(older if self.machine == "x86_64" else [])]

    def tags(self) -> dict[Tag, int]:
        """Return every tag of a wheel that runs there, with its rank: the lowest fits best."""
        version = tuple(map(int, self.python.split(".")))
        ranked = [*cpython_tags(version, [self.abi], self.platforms())]
        ranked += compatible_tags(version, self.abi, self.platforms())
        return {tag: rank for rank, tag in reversed(list(enumerate(ranked)))}

    def marker_environment(self) -> dict[str, str]:
        """Return the environment in which the lock's markers are evaluated."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


@dataclass(frozen=True, slots=True)
class Pin:
    """A locked package: name in its canonical form, version, SHA-256 (hex) of each of its files."""

    name: str
    version: str
    sha256: frozenset[str]


def read_pins(path: Path, target: BuildTarget) -> list[Pin]:
    """Return the packages of a lock file that a target needs, sorted by name. Raises PackagingError."""
    found = []
    for entry in _entries(path):
        head, _, _ = entry.partition("--hash")
        match = _PIN.fullmatch(head.strip())
        digests = frozenset(_HASH.findall(entry))
        if match is None or not digests:
            raise PackagingError(f"{path}: {head.strip()!r} is no pin with hashes. Run scripts/lock")
        try:
            applies = match["marker"] is None or Marker(match["marker"]).evaluate(target.marker_environment())
        except InvalidMarker as error:
            raise PackagingError(f"{path}: {error}. Run scripts/lock") from error
        if applies:
            found.append(Pin(str(canonicalize_name(match["name"])), match["version"], digests))
    return sorted(found, key=lambda pin: pin.name)


def component_pins(path: Path, target: BuildTarget, only: frozenset[str] | None = None) -> list[Pin]:
    """Return the packages of a lock file that a component for `target` carries; `only`: those that it imports."""
    pins = [pin for pin in read_pins(path, target) if pin.name not in NOT_IMPORTED]
    if only is None:
        return pins
    if missing := only - {pin.name for pin in pins}:
        raise PackagingError(f"{path}: {', '.join(sorted(missing))} is not locked. Run scripts/lock")
    return [pin for pin in pins if pin.name in only]


def _entries(path: Path) -> Iterator[str]:
    """Yield the logical lines of a lock file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PackagingError(f"{path}: {error.strerror}. Run scripts/lock") from error
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()
