"""Software bill of materials: what a component's archives carry, as CycloneDX 1.6 JSON.

Promise: the same wheels make the same document: its serial number is derived from their digests, and it has no time.
"""

from __future__ import annotations

import json
import uuid
import zipfile
from email.parser import HeaderParser
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from greengrass.packaging.wheels import Wheel

_NAMESPACE: Final = uuid.UUID("6f1c1f0e-3f0b-5c52-9a53-6b656e736121")  # of Kensa's bills of materials
_MAX_LICENSE: Final = 100  # some packages put the whole text into the field


def render(*, component: str, version: str, wheels: Mapping[str, Iterable[Wheel]], files: Mapping[str, str]) -> str:
    """The document as text. `wheels`: archive -> what it carries; `files`: other content, name -> SHA-256 (hex)."""
    archives: dict[str, set[str]] = {}
    distinct: dict[str, Wheel] = {}
    for archive, carried in wheels.items():
        for wheel in carried:
            distinct[wheel.sha256] = wheel
            archives.setdefault(wheel.sha256, set()).add(archive)
    ordered = sorted(distinct.values(), key=lambda wheel: (wheel.name, wheel.path.name))
    components = [_package(wheel, sorted(archives[wheel.sha256])) for wheel in ordered]
    components += [_file(name, digest) for name, digest in sorted(files.items())]
    root = f"pkg:generic/{component}@{version}"
    digests = "".join(sorted([*distinct, *files.values()]))
    tree = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, root + digests)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": component,
                "version": version,
                "purl": root,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
            "tools": {"components": [{"type": "application", "name": "scripts/build-component"}]},
        },
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [part["bom-ref"] for part in components]}],
    }
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def _package(wheel: Wheel, archives: list[str]) -> dict[str, Any]:
    purl = f"pkg:pypi/{wheel.name}@{wheel.version}"
    described: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"{purl}?file_name={wheel.path.name}",
        "name": wheel.name,
        "version": wheel.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": wheel.sha256}],
        "properties": [
            {"name": "kensa:wheel", "value": wheel.path.name},
            *({"name": "kensa:archive", "value": archive} for archive in archives),
        ],
    }
    if license_text := _license(wheel):
        described["licenses"] = [{"license": {"name": license_text}}]
    return described


def _file(name: str, digest: str) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def _license(wheel: Wheel) -> str | None:
    """What the package says of its licence: the expression, else the field, else the classifiers."""
    with zipfile.ZipFile(wheel.path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1)
        metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8", errors="replace"))
    expression = metadata.get("License-Expression") or metadata.get("License")
    if expression and "\n" not in expression and len(expression) <= _MAX_LICENSE:
        return str(expression)
    classified = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    return ", ".join(classified) or None
