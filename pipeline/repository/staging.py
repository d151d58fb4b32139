"""Staged releases: checked as a device checks them, numbered, and kept until `publish`."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.errors import IntegrityError, ManifestError, OperatorError
from agent.release import golden_set, graph_policy
from agent.release.manifest import (
    GOLDEN_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    MODEL_NAME,
    Manifest,
    parse_manifest,
    read_manifest,
)
from pipeline.repository.repository_store import write_private

if TYPE_CHECKING:
    from pathlib import Path

FILES: Final = (MODEL_NAME, GOLDEN_NAME)


@dataclass(frozen=True, slots=True)
class StagedRelease:
    """A release with its counter, in the private folder."""

    site: str
    folder: Path
    manifest: Manifest
    data: bytes  # of the manifest, in the form to be signed

    @property
    def release_id(self) -> str:
        """`name/version`."""
        return f"{self.manifest.name}/{self.manifest.version}"

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest: the release's identity on devices."""
        return hashlib.sha256(self.data).hexdigest()


def check_release(folder: Path) -> Manifest:
    """Check a release folder as a device does, except for running the model. Raises ReleaseError."""
    manifest = read_manifest(folder)
    found: dict[str, bytes] = {}
    for name in FILES:
        entry = manifest.files[name]
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise ManifestError(f"{folder / name}: {error.strerror}") from error
        if len(data) != entry.length_bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise IntegrityError(
                f"{folder / name} is not the file listed in {MANIFEST_NAME} (length or sha256 differ); export the "
                "release again"
            )
        found[name] = data
    graph_policy.check_graph(found[MODEL_NAME], source=str(folder / MODEL_NAME))
    golden_set.read_golden_set(found[GOLDEN_NAME], manifest, source=str(folder / GOLDEN_NAME))
    return manifest


class Staging:
    """The staged releases in `KEYS/staged`."""

    def __init__(self, folder: Path) -> None:
        """`folder` is created with the first staged release."""
        self._folder = folder

    def add(self, source: Path, manifest: Manifest, *, site: str, counter: int) -> StagedRelease:
        """Copy a checked release and set the counter in its manifest. Raises OperatorError, ManifestError."""
        numbered = manifest.model_copy(update={"counter": counter})
        data = numbered.to_json()
        if len(data) > MAX_MANIFEST_BYTES:
            raise ManifestError(f"the manifest has {len(data):,} bytes, at most {MAX_MANIFEST_BYTES:,} are allowed")
        folder = self._folder / site / manifest.name / manifest.version
        if folder.exists():
            raise OperatorError(
                f"{manifest.name}/{manifest.version} is already staged for {site}: publish it, or remove {folder}"
            )
        for name in FILES:
            write_private(folder / name, (source / name).read_bytes())
        write_private(folder / MANIFEST_NAME, data)  # last: a folder with a manifest is complete
        return StagedRelease(site, folder, numbered, data)

    def all(self) -> list[StagedRelease]:
        """All staged releases, ordered by site and counter."""
        found = []
        for path in sorted(self._folder.glob(f"*/*/*/{MANIFEST_NAME}")):
            data = path.read_bytes()
            site = path.parent.parent.parent.name
            found.append(StagedRelease(site, path.parent, parse_manifest(data, source=str(path)), data))
        return sorted(found, key=lambda staged: (staged.site, staged.manifest.counter))

    def remove(self, staged: StagedRelease) -> None:
        """Delete a staged release after its publication."""
        shutil.rmtree(staged.folder)
