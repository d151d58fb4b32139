"""A publisher with keys and a repository, a device, and a thief with stolen keys."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tuf.api.metadata import Metadata

from agent.children.fetch_client import FetchClient
from agent.children.fetch_protocol import FetchLimits
from agent.ports import FetchJob
from agent.timing.clock import SystemClock
from pipeline.repository.signing_keys import Expiry, KeyRing
from pipeline.repository.tuf_repository import Repository
from tests.kits.releases import golden_arrays, spot_images, write_release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from securesystemslib.signer import Signer

    from agent.release_records import FetchedRelease, RepositoryStatus

SITE = "plant-a"
OTHER_SITE = "plant-b"
RELEASE = "spots/1.0.0"
PATIENT = FetchLimits(stall_s=20.0, attempts=3, backoff_s=0.05, reserve_bytes=1024)
HASTY = FetchLimits(stall_s=0.5, attempts=2, backoff_s=0.05, reserve_bytes=1024)


@dataclass(frozen=True, slots=True)
class Publisher:
    """Keys and repository below `base`."""

    base: Path

    @classmethod
    def start(cls, base: Path, *, where: str | None = None) -> Publisher:
        """A repository of two sites, at `where` or in the folder `repository`."""
        publisher = cls(base)
        ring = KeyRing.create(publisher.keys, repository=where or str(publisher.repository), expiry=Expiry())
        Repository(ring).create([SITE, OTHER_SITE], {})
        return publisher

    @property
    def keys(self) -> Path:
        return self.base / "keys"

    @property
    def repository(self) -> Path:
        return self.base / "repository"

    @property
    def root(self) -> Path:
        """The trust anchor that devices get."""
        return self.keys / "metadata" / "1.root.json"

    def open(self) -> Repository:
        return Repository(KeyRing.load(self.keys))

    def release(self, version: str = "1.0.0", *, site: str = SITE, images: int = 8, **changes: Any) -> str:
        """Publish a release of `spots`; returns the manifest's digest."""
        folder = self.base / "made" / version
        golden = folder / "golden.npz"
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(golden, **golden_arrays(*spot_images(images)))
        write_release(folder, golden=golden.read_bytes(), version=version, **changes)
        repository = self.open()
        digest = repository.add(folder, site).digest
        repository.publish()
        return digest

    def version(self, role: str) -> int:
        version: int = self.open().role(role).signed.version
        return version

    def file(self, pattern: str) -> Path:
        """The one file of the repository that matches."""
        (found,) = self.repository.glob(pattern)
        return found

    def forged(self, role: str, change: Callable[[Any], None], *, signers: Iterable[Signer] | None = None) -> bytes:
        """The role's metadata, changed and signed by whoever holds its keys (or by `signers`)."""
        metadata: Metadata[Any] = Metadata.from_bytes((self.keys / "metadata" / f"{role}.json").read_bytes())
        change(metadata.signed)
        metadata.signatures.clear()
        for signer in KeyRing.load(self.keys).signers(role) if signers is None else signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()


@dataclass(slots=True)
class Device:
    """A device's folders, and how it fetches."""

    base: Path
    root: Path
    repository: str
    site: str = SITE
    limits: FetchLimits = PATIENT
    max_release_bytes: int = 64 * 1024**2
    timeout_s: float = 60.0
    progress: list[tuple[int, int]] = field(default_factory=list)

    @property
    def into(self) -> Path:
        return self.base / "into"

    @property
    def trust(self) -> Path:
        return self.base / "trust"

    def fetcher(self) -> FetchClient:
        return FetchClient(
            repository=self.repository,
            root=self.root,
            site=self.site,
            trust_dir=self.trust,
            max_release_bytes=self.max_release_bytes,
            timeout_s=self.timeout_s,
            clock=SystemClock(),
            limits=self.limits,
        )

    def refresh(self, *, trusted_utc_s: float = 0.0, stop: threading.Event | None = None) -> RepositoryStatus:
        """Look what was taken back."""
        return self.fetcher().refresh(trusted_utc_s=trusted_utc_s, stop=stop or threading.Event())

    def fetch(
        self, release: str = RELEASE, *, trusted_utc_s: float = 0.0, stop: threading.Event | None = None
    ) -> FetchedRelease:
        """Fetch into `into`."""
        return self.fetcher().fetch(
            FetchJob(
                release_id=release,
                into=self.into,
                trusted_utc_s=trusted_utc_s,
                on_progress=lambda done, total: self.progress.append((done, total)),
                stop=stop or threading.Event(),
            )
        )
