"""Keeps the signing folder in object storage as numbered immutable snapshots, and publishes from it.

    PUBLISHER/00000012.tar    the folder as signed, written before the first byte reaches the repository
    PUBLISHER/00000012.done   the folder afterwards, written once the repository is complete

Promise: of two concurrent publishers one gets PublisherBusyError, because each number is created only once. The next
publisher completes what an interrupted one signed, because it finds it staged. Metadata never return to an earlier
version. The newest snapshots are kept as the folder's backup. Root keys stay with a person: `push` leaves them out.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import tarfile
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from agent.errors import IntegrityError, KensaError, OperatorError
from agent.release.manifest import GOLDEN_NAME, MANIFEST_NAME, MAX_MANIFEST_BYTES, MODEL_NAME, parse_manifest
from pipeline.cloud import aws_clients
from pipeline.repository.repository_store import open_repository_store
from pipeline.repository.signing_keys import KeyRing
from pipeline.repository.tuf_repository import UTC_FORMAT, Repository, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tuf.api.metadata import TargetFile

    from pipeline.cloud.storage import Storage
    from pipeline.repository.repository_store import RepositoryStore

_MAX_STATE_BYTES: Final = 256 * 1024**2
_STALE_AFTER_S: Final = 20 * 60.0  # a Lambda function runs for 15 minutes at most
_KEPT_SNAPSHOTS: Final = 20
_STAMP: Final = "signed_utc"
_ROOT_KEYS: Final = "root"


class PublisherBusyError(KensaError):
    """Another publication is in progress; try again in a minute."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class PublishedRelease:
    """A release as the repository currently lists it."""

    release_id: str
    counter: int
    digest: str  # of its manifest: the release's identity on devices
    model_sha256: str

    def to_json(self) -> dict[str, Any]:
        """For the execution's state."""
        return {
            "release_id": self.release_id,
            "counter": self.counter,
            "digest": self.digest,
            "model_sha256": self.model_sha256,
        }


class _AnnouncingStore:
    """A `RepositoryStore` that calls `first` before the first byte is written."""

    def __init__(self, store: RepositoryStore, first: Callable[[], None]) -> None:
        self._store = store
        self._first = first
        self._begun = False

    def put(self, path: str, data: bytes) -> None:
        if not self._begun:
            self._first()
            self._begun = True
        self._store.put(path, data)

    def has(self, path: str, length_bytes: int) -> bool:
        return self._store.has(path, length_bytes)


class Publisher:
    """Changes one repository. Methods raise PublisherBusyError, StorageError, OperatorError, ReleaseError."""

    def __init__(self, storage: Storage, *, now: Callable[[], dt.datetime] = utc_now) -> None:
        """`storage` holds only the private folder."""
        self._storage = storage
        self._now = now

    def push(self, folder: Path) -> list[str]:
        """Upload a private folder of `kensa release init` without its root keys; returns the uploaded names."""
        KeyRing.load(folder)
        number = self._newest_number() + 1
        names = sorted(str(path.relative_to(folder)) for path in _files(folder))
        if not self._storage.create(_key(number, "tar"), self._pack(folder)):
            raise PublisherBusyError("another publication has just begun; check it, and push again")
        self._storage.create(_key(number, "done"), self._pack(folder))
        return names

    def published(self, site: str) -> dict[str, PublishedRelease]:
        """Release id -> release published for a site, without the revoked ones."""
        with self._open_repository() as repository:
            return _unrevoked(repository, site)

    def publish(self, release: Path, site: str) -> PublishedRelease:
        """Sign and publish a release folder; does nothing if it is already published with the same model."""
        with self._open_repository() as repository:
            staged = {f"{s.manifest.name}/{s.manifest.version}" for s in repository.staging.all() if s.site == site}
            manifest = parse_manifest((release / MANIFEST_NAME).read_bytes(), source=str(release / MANIFEST_NAME))
            release_id = f"{manifest.name}/{manifest.version}"
            known = _unrevoked(repository, site).get(release_id)
            if known is not None and known.model_sha256 == manifest.files[MODEL_NAME].sha256 and not staged:
                return known
            if release_id not in staged:
                repository.add(release, site)
            repository.publish()
            return _unrevoked(repository, site)[release_id]

    def republish(self, release_id: str, site: str) -> PublishedRelease:
        """Publish a release under a new counter, so that devices with a newer release accept it again."""
        with self._open_repository() as repository, tempfile.TemporaryDirectory(prefix="kensa-release-") as temporary:
            known = repository.published(site).get(release_id)
            if known is None:
                there = ", ".join(repository.published(site)) or "none"
                raise OperatorError(f"{release_id} is not published for {site}; there are {there}")
            if all(staged.release_id != release_id for staged in repository.staging.all()):
                folder = Path(temporary)
                _download_release(aws_clients.storage(repository.keys.file.repository), site, release_id, known, folder)
                repository.add(folder, site)
            repository.publish()
            return _unrevoked(repository, site)[release_id]

    def fetch(self, release_id: str, site: str, into: Path) -> None:
        """Download a published release to the folder `into`, verified against the signed metadata. Needs no keys."""
        with self._open_repository() as repository:
            known = repository.published(site).get(release_id)
            if known is None:
                raise OperatorError(f"{release_id} is not published for {site}")
            _download_release(aws_clients.storage(repository.keys.file.repository), site, release_id, known, into)

    def refresh(self) -> None:
        """Renew timestamp, snapshot and all signatures that expire soon; complete an interrupted publication."""
        with self._open_repository() as repository:
            repository.publish()

    def revoke(self, release_id: str, site: str, why: str) -> None:
        """Revoke a release: devices leave it at their next poll. Revoking it twice changes nothing."""
        with self._open_repository() as repository:
            if release_id in _unrevoked(repository, site):
                repository.revoke(release_id, site, why)

    # --- snapshots of the folder --------------------------------------------------------------------------------------

    @contextmanager
    def _open_repository(self) -> Iterator[Repository]:
        """The repository on a temporary copy of the folder. Each change is a publication of its own."""
        number = self._newest_number()
        if not number:
            raise OperatorError(
                f"{self._storage.uri} holds no publisher's folder: make one with `kensa release init` and upload it "
                "with `kensa cloud cycle publisher --push FOLDER`"
            )
        with tempfile.TemporaryDirectory(prefix="kensa-publisher-") as temporary:
            folder = Path(temporary)
            self._unpack(number, folder)
            ring = KeyRing.load(folder)
            begun: list[int] = []

            def announce() -> None:
                if not self._storage.create(_key(number + 1, "tar"), self._pack(folder)):
                    raise PublisherBusyError("another publication has just begun; try again")
                begun.append(number + 1)

            yield Repository(
                ring, now=self._now, store=_AnnouncingStore(open_repository_store(ring.file.repository), announce)
            )
            for mine in begun:
                self._storage.create(_key(mine, "done"), self._pack(folder))
                for end in ("tar", "done") if mine > _KEPT_SNAPSHOTS else ():
                    self._storage.delete(_key(mine - _KEPT_SNAPSHOTS, end))

    def _newest_number(self) -> int:
        numbers = [stored.key.partition(".")[0] for stored in self._storage.list() if stored.key.endswith(".tar")]
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    def _unpack(self, number: int, folder: Path) -> None:
        done = self._storage.exists(_key(number, "done"))
        data = self._storage.read(_key(number, "done" if done else "tar"), limit=_MAX_STATE_BYTES)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(folder, filter="data")
        stamp = folder / _STAMP
        signed = dt.datetime.strptime(stamp.read_text(encoding="ascii"), UTC_FORMAT).replace(tzinfo=dt.UTC)
        stamp.unlink()
        if not done and (self._now() - signed).total_seconds() < _STALE_AFTER_S:
            raise PublisherBusyError(f"the publication {number} began at {signed:{UTC_FORMAT}} and is not done")

    def _pack(self, folder: Path) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path in _files(folder):
                archive.add(path, arcname=path.relative_to(folder).as_posix())
            stamp = self._now().strftime(UTC_FORMAT).encode()
            entry = tarfile.TarInfo(_STAMP)
            entry.size = len(stamp)
            archive.addfile(entry, io.BytesIO(stamp))
        return buffer.getvalue()


def _files(folder: Path) -> list[Path]:
    """The files of the private folder without the root keys."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in found if PurePosixPath(path.relative_to(folder)).parts[0] != _ROOT_KEYS]


def _key(number: int, end: str) -> str:
    return f"{number:08d}.{end}"


def _unrevoked(repository: Repository, site: str) -> dict[str, PublishedRelease]:
    revoked = {entry["digest"] for entry in repository.revoked(site)}
    found = {}
    for release_id, target in repository.published(site).items():
        custom = target.custom or {}
        digest = target.hashes["sha256"]
        if digest not in revoked:
            found[release_id] = PublishedRelease(
                release_id, int(custom["counter"]), digest, str(custom["model_sha256"])
            )
    return found


def _download_release(store: Storage, site: str, release_id: str, target: TargetFile, into: Path) -> None:
    """Download a release from the repository and verify each file against the signed metadata."""
    digest = target.hashes["sha256"]
    manifest = _read_verified(
        store, f"targets/{site}/{release_id}/{digest}.{MANIFEST_NAME}", digest, MAX_MANIFEST_BYTES
    )
    parsed = parse_manifest(manifest, source=release_id)
    into.mkdir(parents=True, exist_ok=True)
    for name in (MODEL_NAME, GOLDEN_NAME):
        entry = parsed.files[name]
        (into / name).write_bytes(_read_verified(store, f"files/{entry.sha256}", entry.sha256, entry.length_bytes))
    (into / MANIFEST_NAME).write_bytes(manifest)


def _read_verified(store: Storage, key: str, sha256: str, limit: int) -> bytes:
    data = store.read(key, limit=limit)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise IntegrityError(f"{store.uri}/{key} differs from the signed file: the repository was changed")
    return data
