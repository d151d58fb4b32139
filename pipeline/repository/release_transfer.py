"""Carries releases to an air-gapped site on a disk, with the same trust as over a network.

    export   REPOSITORY -> DISK     what one site's devices read for one release: every root, the newest metadata, the
                                    site's list of revoked releases, the signed manifest and the files
    import   DISK -> MIRROR         a folder at the site that its devices have as updates.repository, or that a web
                                    server serves

Promise: in both directions the device's own fetch child (`agent.fetch`) fetches, so nothing is copied that a device
would refuse, and each refusal has the device's reasons. The disk is a repository of its own: it is verified after
writing, from `1.root.json` on, and `kensa-disk.json` is written last. The mirror remembers what it accepted and refuses
an older disk. An interrupted copy resumes; nobody reads a partial release, because files come before the metadata that
name them, and timestamp.json last.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, ValidationError
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

from agent.children.fetch_client import FetchClient
from agent.children.fetch_protocol import FetchLimits, FetchReason
from agent.durable import replace_durably, sync_file
from agent.errors import FetchError, OperatorError, ReleaseRefusedError
from agent.fetch.repository_sources import SourceDownError, SourceMissingError
from agent.fetch.source_factory import open_repository
from agent.ports import FetchJob
from agent.release.manifest import MANIFEST_NAME, parse_manifest
from agent.strict import Strict
from agent.timing.clock import SystemClock
from agent.wire.model_report import ReleaseId
from pipeline.repository.signing_keys import SITE_ROLE, SiteName
from pipeline.repository.tuf_repository import UTC_FORMAT

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.timing.clock import Clock

INDEX_NAME: Final = "kensa-disk.json"  # on the disk, written last
_STATE: Final = ".kensa-import"  # in the mirror: accepted metadata and partial files
_INCOMING: Final = ".kensa-incoming"  # on the disk: partial files
_MAX_RELEASE_BYTES: Final = 2 * 1024**3
_MAX_EXPORTED: Final = 64  # on one disk
_MAX_SMALL_BYTES: Final = 4 * 1024**2
_TIMEOUT_S: Final = 3_600.0
_SHORT_LIFE_DAYS: Final = 7.0
_LIMITS: Final = FetchLimits(stall_s=30.0)
_REMEDY: Final = {
    FetchReason.METADATA_EXPIRED: (
        "Export again after `kensa release publish`. If a disk travels for longer than the metadata's lifetime, give "
        "them a longer one (`kensa release init --timestamp-days`, `--snapshot-days`)."
    ),
    FetchReason.METADATA_ROLLBACK: "The disk is older than an earlier import: export again.",
    FetchReason.MISSING_FILE: "The disk is incomplete: run `kensa release export` again, which resumes.",
    FetchReason.UNREACHABLE: "The disk is incomplete or unreadable: run `kensa release export` again.",
    FetchReason.NO_SPACE: "Free some space there; the copy then resumes.",
    FetchReason.ROOT_UNUSABLE: "Give the 1.root.json of the site's devices with --root.",
}


class ReleaseTransferError(OperatorError):
    """A transfer is refused; the text names the file and the remedy."""


class ExportedRelease(Strict):
    """One release on the disk. Only a hint: the signed metadata decide."""

    site: SiteName
    release: ReleaseId | None  # None: only the list of revoked releases
    good_until: str  # devices refuse the disk afterwards


class _Index(Strict):
    kind: str = "kensa-releases"
    exported: Annotated[tuple[ExportedRelease, ...], Field(max_length=_MAX_EXPORTED)]


@dataclass(frozen=True, slots=True)
class ImportedRelease:
    """One release in the mirror."""

    site: str
    release: str | None
    digest: str | None  # of the manifest: the release's identity on devices


def _no_progress(done: int, total: int) -> None:
    """Show no progress."""


def export_release(
    repository: str,
    disk: Path,
    site: str,
    release: str | None,
    *,
    root: Path | None = None,
    clock: Clock | None = None,
    progress: Callable[[int, int], None] = _no_progress,
) -> ExportedRelease:
    """Write the files for `release` (None: the revoked releases) to `disk`. Raises ReleaseTransferError.

    `repository` is a folder, http(s):// or s3://; `root` its 1.root.json, by default its own copy.
    """
    clock = clock or SystemClock()
    _make_folder(disk)
    with tempfile.TemporaryDirectory(prefix="kensa-export-") as temporary:
        anchor = root or _fetch_first_root(repository, Path(temporary) / "1.root.json")
        _check_same_repository(disk, anchor)
        copied = _SiteCopy(
            repository, anchor, site, trust=Path(temporary) / "trust", state=disk / _INCOMING, clock=clock
        )
        copied.run(release, disk, progress)
        until = copied.valid_until()
        exported = ExportedRelease(site=site, release=release, good_until=until.strftime(UTC_FORMAT))
        others = [e for e in _previous_exports(disk) if (e.site, e.release) != (site, release)]
        kept = tuple(e for e in others if _refresh_earlier_export(e, repository, anchor, disk, clock))
        _verify_disk(disk, anchor, exported, clock)
    _write_durably(disk, INDEX_NAME, (_Index(exported=(*kept, exported)).model_dump_json(indent=2) + "\n").encode())
    return exported


def _previous_exports(disk: Path) -> tuple[ExportedRelease, ...]:
    return read_index(disk) if (disk / INDEX_NAME).is_file() else ()


def _verify_disk(disk: Path, anchor: Path, exported: ExportedRelease, clock: Clock) -> None:
    """Read the disk like a device that knows only the root."""
    with tempfile.TemporaryDirectory(prefix="kensa-export-") as temporary:
        state = Path(temporary)
        reader = _SiteCopy(str(disk), anchor, exported.site, trust=state / "trust", state=state / "into", clock=clock)
        reader.fetch(exported.release, _no_progress)


def _refresh_earlier_export(exported: ExportedRelease, repository: str, anchor: Path, disk: Path, clock: Clock) -> bool:
    """Update an earlier export with the new metadata; returns False if it has been revoked."""
    with tempfile.TemporaryDirectory(prefix="kensa-export-") as temporary:
        state = Path(temporary)
        copied = _SiteCopy(repository, anchor, exported.site, trust=state / "trust", state=state / "into", clock=clock)
        try:
            copied.run(None, disk, _no_progress)
            _verify_disk(disk, anchor, exported, clock)
        except ReleaseTransferError:
            return False
    return True


def expires_soon(exported: ExportedRelease, clock: Clock) -> bool:
    """Whether the disk must arrive within a week."""
    left = datetime.fromisoformat(exported.good_until).timestamp() - clock.utc_ns() / 1e9
    return left < _SHORT_LIFE_DAYS * 86_400


def import_releases(
    disk: Path,
    mirror: Path,
    root: Path,
    *,
    clock: Clock | None = None,
    progress: Callable[[int, int], None] = _no_progress,
) -> tuple[ImportedRelease, ...]:
    """Copy all releases on `disk` to the folder `mirror`. Raises ReleaseTransferError; the mirror stays usable.

    `root` is the 1.root.json of the site's devices: it must not come from the disk.
    """
    clock = clock or SystemClock()
    if not disk.is_dir():
        raise ReleaseTransferError(f"{disk} is not a folder. Is the disk inserted and mounted?")
    _make_folder(mirror)
    done = []
    for exported in read_index(disk):
        state = mirror / _STATE
        copied = _SiteCopy(str(disk), root, exported.site, trust=state / "trust", state=state / "incoming", clock=clock)
        digest = copied.run(exported.release, mirror, progress)
        done.append(ImportedRelease(exported.site, exported.release, digest))
    return tuple(done)


def read_index(disk: Path) -> tuple[ExportedRelease, ...]:
    """Read the index of the disk. Raises ReleaseTransferError."""
    path = disk / INDEX_NAME
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SMALL_BYTES + 1)
    except OSError as error:
        raise ReleaseTransferError(
            f"{path}: {error.strerror}. Either this is not a disk for releases, or its export is incomplete: run "
            "`kensa release export` again, which resumes."
        ) from error
    try:
        return _Index.model_validate_json(data).exported
    except ValidationError as error:
        raise ReleaseTransferError(
            f"{path} is damaged: {error.errors()[0]['msg']}. Run `kensa release export` again."
        ) from error


class _SiteCopy:
    """Copies one site's files from a repository to a folder, through the device's fetch child."""

    def __init__(self, repository: str, root: Path, site: str, *, trust: Path, state: Path, clock: Clock) -> None:
        """Nothing is read yet.

        Args:
            repository: a folder, http(s):// or s3://.
            root: its trusted 1.root.json.
            site: whose releases are copied.
            trust: folder of the accepted metadata.
            state: folder of partial files.
            clock: for the expiry of metadata.

        """
        self._repository, self._site = repository, site
        self._trust, self._state = trust, state
        self._fetcher = FetchClient(
            repository=repository,
            root=root,
            site=site,
            trust_dir=trust,
            max_release_bytes=_MAX_RELEASE_BYTES,
            timeout_s=_TIMEOUT_S,
            clock=clock,
            limits=_LIMITS,
        )

    def run(self, release: str | None, to: Path, progress: Callable[[int, int], None]) -> str | None:
        """Fetch, then write in an order that hides partial releases; returns the manifest's digest."""
        folder, digest = self.fetch(release, progress)
        revoked = self._revoked()
        if folder is not None:
            self._place_release(folder, str(release), str(digest), to)
        _write_durably(to, f"targets/{self._site}/{hashlib.sha256(revoked).hexdigest()}.revoked.json", revoked)
        for path, data in self._metadata():
            _write_durably(to, path, data)
        shutil.rmtree(self._state / self._name(release), ignore_errors=True)
        return digest

    def fetch(self, release: str | None, progress: Callable[[int, int], None]) -> tuple[Path | None, str | None]:
        """Fetch and verify in the child; returns the folder and digest of the release, if one is requested."""
        stop = threading.Event()
        try:
            if release is None:
                self._fetcher.refresh(trusted_utc_s=0.0, stop=stop)
                return None, None
            into = self._state / self._name(release)
            into.mkdir(parents=True, exist_ok=True)
            job = FetchJob(release_id=release, into=into, trusted_utc_s=0.0, on_progress=progress, stop=stop)
            fetched = self._fetcher.fetch(job)
        except FetchError as error:
            reason = FetchReason(error.reason)
            raise ReleaseTransferError(
                f"{self._repository}: {error}. {_REMEDY.get(reason, '')} ({reason})".strip()
            ) from error
        except ReleaseRefusedError as error:
            raise ReleaseTransferError(f"{self._repository}: {error} ({error.reason})") from error
        except OSError as error:
            raise ReleaseTransferError(
                f"{self._state}: {error.strerror}. Check owner, rights and free space there."
            ) from error
        return fetched.folder, fetched.ref.digest

    def valid_until(self) -> datetime:
        """The earliest expiry of the metadata that devices check."""
        roles = ("root", "timestamp", "snapshot", "targets", SITE_ROLE + self._site)
        return min(self._role(role).signed.expires for role in roles)

    def _name(self, release: str | None) -> str:
        return f"{self._site}-{(release or 'revoked').replace('/', '-')}"

    def _role(self, role: str) -> Metadata[Any]:
        try:
            found: Metadata[Any] = Metadata.from_bytes((self._trust / f"{role}.json").read_bytes())
        except (OSError, RepositoryError) as error:
            raise ReleaseTransferError(
                f"{self._trust / role}.json cannot be read: {error}. Remove that folder's parent."
            ) from error
        return found

    def _metadata(self) -> list[tuple[str, bytes]]:
        """The metadata that the child accepted, by repository path, timestamp.json last."""
        roots = sorted((self._trust / "root_history").glob("*.root.json"))
        found = [(f"metadata/{path.name}", path.read_bytes()) for path in roots]
        for role in (SITE_ROLE + self._site, "targets", "snapshot"):
            version = self._role(role).signed.version
            found.append((f"metadata/{version}.{role}.json", (self._trust / f"{role}.json").read_bytes()))
        return [*found, ("metadata/timestamp.json", (self._trust / "timestamp.json").read_bytes())]

    def _revoked(self) -> bytes:
        """The list of revoked releases; the child has checked it but does not keep it."""
        target = self._role(SITE_ROLE + self._site).signed.targets[f"{self._site}/revoked.json"]
        sha256 = str(target.hashes["sha256"])
        data = _read_small(self._repository, f"targets/{self._site}/{sha256}.revoked.json")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ReleaseTransferError(f"{self._repository} changed during the read: run it again.")
        return data

    def _place_release(self, folder: Path, release: str, digest: str, to: Path) -> None:
        data = (folder / MANIFEST_NAME).read_bytes()
        manifest = parse_manifest(data, source=f"the signed manifest of {release}")
        try:
            (to / "files").mkdir(parents=True, exist_ok=True)
            for name, entry in manifest.files.items():
                (folder / name).replace(to / "files" / entry.sha256)
                sync_file(to / "files" / entry.sha256)
        except OSError as error:
            raise ReleaseTransferError(
                f"{to / 'files'}: {error.strerror}. Check owner, rights and free space there."
            ) from error
        _write_durably(to, f"targets/{self._site}/{release}/{digest}.{MANIFEST_NAME}", data)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReleaseTransferError(
            f"{path}: {error.strerror}. Is the disk mounted, and may this user write there?"
        ) from error


def _write_durably(base: Path, path: str, data: bytes) -> None:
    target = base / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(target, data)
    except OSError as error:
        raise ReleaseTransferError(f"{target}: {error.strerror}. Check owner, rights and free space there.") from error


def _read_small(repository: str, path: str) -> bytes:
    """Read a small file of the repository without verification. Raises ReleaseTransferError."""
    try:
        source = open_repository(repository, timeout_s=_LIMITS.stall_s)
        try:
            with source.open(path) as opened:
                data = bytearray()
                while len(data) <= _MAX_SMALL_BYTES and (chunk := opened.read(64 * 1024)):
                    data.extend(chunk)
        except source.errors as error:
            raise SourceDownError(str(error)) from error
    except (SourceMissingError, SourceDownError, FetchError) as error:
        raise ReleaseTransferError(f"{repository} lacks {path}: {error}. Is this a release repository?") from error
    if len(data) > _MAX_SMALL_BYTES:
        raise ReleaseTransferError(f"{path} of {repository} is longer than {_MAX_SMALL_BYTES:,} bytes.")
    return bytes(data)


def _fetch_first_root(repository: str, to: Path) -> Path:
    to.write_bytes(_read_small(repository, "metadata/1.root.json"))
    return to


def _check_same_repository(disk: Path, anchor: Path) -> None:
    """Refuse a disk with another repository: a disk holds only one."""
    there = disk / "metadata" / "1.root.json"
    try:
        if there.is_file() and there.read_bytes() != anchor.read_bytes():
            raise ReleaseTransferError(f"{disk} holds releases of another repository. Use an empty folder on the disk.")
    except OSError as error:
        raise ReleaseTransferError(
            f"{anchor}: {error.strerror}. Give the repository's 1.root.json with --root."
        ) from error
