"""Packs the two components as scripts/build-component does, but without third-party libraries.

A vendored archive takes minutes and a package index; the demo's archives carry the project's own wheel, built from this
checkout, and a wheel of one line that lets the component's virtual environment find the libraries of the one that the
demo runs in. Everything else is the real thing: recipe, installer, lifecycle scripts, pip with digests and no index, a
virtual environment per version, the check that everything imports.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import platform
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from agent.durable import sha256_of
from agent.errors import MissingExtraError, OperatorError
from greengrass.packaging import archive, checks, recipe
from greengrass.packaging.archive import ArchiveEntry
from greengrass.packaging.build import INSTALLER, ComponentKind, build_kensa_wheel
from greengrass.packaging.lock import ARCHITECTURES, BuildTarget
from greengrass.packaging.recipe import RECIPES
from greengrass.packaging.wheels import Wheel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SIMPLIFICATIONS: Final = "the libraries in the archives: borrowed from this checkout's .venv, no wheels are vendored"
_HOST_LIBRARIES: Final = "kensa_demo_libraries"
_VERSION: Final = "1.0"


def check_python() -> None:
    """Raise a KensaError where this Python cannot do what a device's must."""
    if importlib.util.find_spec("awsiot") is None:
        raise MissingExtraError("the demo on Greengrass needs the extra greengrass: pip install 'kensa[greengrass]'")
    if importlib.util.find_spec("ensurepip") is None:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        raise OperatorError(
            f"components are installed into a virtual environment of their own, and {sys.base_prefix} has no "
            f"ensurepip. On Debian: apt-get install {version}-venv"
        )
    if platform.machine() not in ARCHITECTURES:
        raise OperatorError(
            f"the components are for {' and '.join(ARCHITECTURES)}, and this machine is {platform.machine()}"
        )


class ComponentPackager:
    """Writes components of this checkout into a folder that the nucleus deploys from. Use as a context manager."""

    def __init__(self, store: Path) -> None:
        """`store` gets the folders `recipes` and `artifacts`."""
        self._store = store
        self._target = BuildTarget(platform.machine(), f"{sys.version_info.major}.{sys.version_info.minor}")
        self._folder = tempfile.TemporaryDirectory(prefix="kensa-demo-wheels-")
        self._wheels: tuple[Wheel, ...] = ()

    def __enter__(self) -> Self:
        """Build the wheels. Raises a KensaError."""
        folder = Path(self._folder.name)
        self._wheels = build_kensa_wheel(folder), _host_libraries_wheel(folder)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the wheels."""
        self._folder.cleanup()

    def pack(
        self,
        kind: ComponentKind,
        version: str,
        contents: Sequence[ArchiveEntry],
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one version: archive, installer, recipe. Raises a KensaError where the recipe is refused."""
        artifacts = self._store / "artifacts" / kind.name / version
        archive.write(artifacts / self._target.archive, [*self._common(kind), *contents])
        (artifacts / INSTALLER.name).write_bytes(INSTALLER.read_bytes())
        source = RECIPES / f"{kind.name}.yaml"
        inspected = recipe.parse(
            source.read_text(encoding="utf-8"), source=source.name, defaults=checks.DEFAULTS_CHECKS[kind.name]
        )
        made = recipe.render(
            inspected,
            version=version,
            artifacts={ARCHITECTURES[self._target.machine]: [INSTALLER.name, self._target.archive]},
            configuration=configuration or {},
            bucket="demo",
        )
        recipes = self._store / "recipes"
        recipes.mkdir(parents=True, exist_ok=True)
        (recipes / f"{kind.name}-{version}.yaml").write_text(made, encoding="utf-8")

    def _common(self, kind: ComponentKind) -> list[ArchiveEntry]:
        pinned = "".join(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in self._wheels)
        return [
            *(ArchiveEntry(f"wheels/{wheel.path.name}", wheel.path.read_bytes()) for wheel in self._wheels),
            ArchiveEntry("requirements.txt", pinned.encode()),
            ArchiveEntry("imports.txt", "".join(f"{name}\n" for name in kind.imports).encode()),
        ]


def _host_libraries_wheel(folder: Path) -> Wheel:
    """A wheel that adds this interpreter's libraries to whatever environment it is installed in."""
    places = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    info = f"{_HOST_LIBRARIES}-{_VERSION}.dist-info"
    files = {
        f"{_HOST_LIBRARIES}.pth": "".join(f"{place}\n" for place in places),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {_HOST_LIBRARIES}\nVersion: {_VERSION}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: kensa\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={_digest(text)},{len(text.encode())}\n" for name, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    path = folder / f"{_HOST_LIBRARIES}-{_VERSION}-py3-none-any.whl"
    archive.write(path, [ArchiveEntry(name, text.encode()) for name, text in files.items()])
    return Wheel(_HOST_LIBRARIES, _VERSION, path, sha256_of(path))


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
