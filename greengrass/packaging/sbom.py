"""Software bill of materials: the contents of a component's archives, as CycloneDX 1.6 JSON.

Promise: the same wheels make the same document: its serial number is derived from their digests, and its time stamp is
the fixed build date, because the format's library always writes one.
"""

from __future__ import annotations

import datetime as dt
import uuid
import zipfile
from email.parser import HeaderParser
from typing import TYPE_CHECKING, Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cyclonedx.model.license import License

    from greengrass.packaging.wheels import Wheel

BUILD_DATE: Final = dt.datetime(2020, 2, 2, tzinfo=dt.UTC)  # hatchling's own; also of the files in our wheel
_NAMESPACE: Final = uuid.UUID("6f1c1f0e-3f0b-5c52-9a53-6b656e736121")  # of Kensa's bills of materials
_MAX_LICENSE: Final = 100  # some packages put the whole text into the field
_licenses: Final = LicenseFactory()


def render(*, component: str, version: str, wheels: Mapping[str, Iterable[Wheel]], files: Mapping[str, str]) -> str:
    """Return the document. `wheels`: archive -> what it carries; `files`: other content, name -> SHA-256 (hex)."""
    archives: dict[str, set[str]] = {}
    distinct: dict[str, Wheel] = {}
    for archive, carried in wheels.items():
        for wheel in carried:
            distinct[wheel.sha256] = wheel
            archives.setdefault(wheel.sha256, set()).add(archive)
    components = [_package(wheel, archives[digest]) for digest, wheel in distinct.items()]
    components += [_file(name, digest) for name, digest in files.items()]
    purl = PackageURL(type="generic", name=component, version=version)
    root = Component(
        type=ComponentType.APPLICATION,
        bom_ref=purl.to_string(),
        name=component,
        version=version,
        purl=purl,
        licenses=[_licenses.make_with_id("Apache-2.0")],
    )
    tool = Component(type=ComponentType.APPLICATION, name="scripts/build-component")
    digests = "".join(sorted([*distinct, *files.values()]))
    bom = Bom(
        serial_number=uuid.uuid5(_NAMESPACE, purl.to_string() + digests),
        metadata=BomMetaData(component=root, tools=ToolRepository(components=[tool]), timestamp=BUILD_DATE),
        components=components,
    )
    bom.register_dependency(root, components)
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _package(wheel: Wheel, archives: Iterable[str]) -> Component:
    purl = PackageURL(type="pypi", name=wheel.name, version=wheel.version)
    return Component(
        type=ComponentType.LIBRARY,
        bom_ref=f"{purl.to_string()}?file_name={wheel.path.name}",
        name=wheel.name,
        version=wheel.version,
        purl=purl,
        hashes=[_sha256(wheel.sha256)],
        licenses=_license(wheel),
        properties=[
            Property(name="kensa:wheel", value=wheel.path.name),
            *(Property(name="kensa:archive", value=archive) for archive in archives),
        ],
    )


def _file(name: str, digest: str) -> Component:
    return Component(type=ComponentType.FILE, bom_ref=f"file:{name}", name=name, hashes=[_sha256(digest)])


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _license(wheel: Wheel) -> list[License]:
    """Return the licence that the package declares: the expression, else the field, else the classifiers."""
    with zipfile.ZipFile(wheel.path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1)
        metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8", errors="replace"))
    declared = str(metadata.get("License-Expression") or metadata.get("License") or "")
    if not declared or "\n" in declared or len(declared) > _MAX_LICENSE:
        classifiers = metadata.get_all("Classifier", [])
        declared = ", ".join(c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License ::"))
    return [_licenses.make_from_string(declared)] if declared else []
