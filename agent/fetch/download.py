"""Downloads one release: metadata, signed manifest, disk space, files, and the manifest last.

Invariant: `into` holds a `manifest.json` only when every file that it lists is there too, verified and durable.

On the way from fetch to slot, the next module is `agent.fetch.tuf_client`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TypeVar

from agent.children.fetch_protocol import (
    FetchDone,
    FetchFailed,
    FetchProgress,
    FetchReason,
    FetchRequest,
    RefreshDone,
    RefreshRequest,
    shorten,
)
from agent.durable import sha256_of, sync_directory
from agent.errors import FetchError, ManifestError
from agent.fetch.repository_sources import SourceMissingError
from agent.fetch.source_factory import open_repository
from agent.fetch.transfer import ReleaseFile, Transfer, storage_error
from agent.fetch.tuf_client import TufClient, target_sha256
from agent.release.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, MODEL_NAME, Manifest, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Literal, NoReturn

_Answer = TypeVar("_Answer", FetchDone, RefreshDone)

FILES_FOLDER: Final = "files"  # of the repository, by SHA-256
_PROGRESS_BYTES: Final = 256 * 1024


class _Refused(Exception):  # noqa: N818 - it carries an answer, not a failure of ours
    """The release itself is refused."""

    def __init__(self, failed: FetchFailed) -> None:
        super().__init__(failed.text)
        self.failed = failed


def fetch_release(request: FetchRequest, emit: Callable[[FetchProgress], None]) -> FetchDone | FetchFailed:
    """Fetch the release; every failure that can be expected is an answer. Call from the main thread."""
    return _catch_failures(lambda: _ReleaseDownload(request, emit).run())


def refresh(request: RefreshRequest) -> RefreshDone | FetchFailed:
    """Refresh the metadata; failures are answers as well."""
    return _catch_failures(lambda: _refresh(request))


def _catch_failures(work: Callable[[], _Answer]) -> _Answer | FetchFailed:
    try:
        return work()
    except _Refused as refused:
        return refused.failed
    except FetchError as error:
        return FetchFailed(reason=FetchReason(error.reason), text=shorten(str(error)))
    except OSError as error:
        storage = storage_error(error)
        return FetchFailed(reason=FetchReason(storage.reason), text=shorten(str(storage)))


def _transfer(request: FetchRequest | RefreshRequest) -> Transfer:
    return Transfer(open_repository(request.repository, timeout_s=request.limits.stall_s), request.limits)


def _tuf_client(request: FetchRequest | RefreshRequest, transfer: Transfer) -> TufClient:
    return TufClient(
        root=request.root,
        trust_dir=request.trust_dir,
        transfer=transfer,
        reference_utc_s=request.reference_utc_s,
    )


def _refresh(request: RefreshRequest) -> RefreshDone:
    with _tuf_client(request, _transfer(request)) as trust:
        if not trust.has_site(request.site):
            raise FetchError(
                FetchReason.TARGET_UNKNOWN,
                f"the repository has no site {request.site}; `kensa release show` lists its sites. Correct "
                "updates.site",
            )
        return RefreshDone(
            revoked=trust.revoked_digests(request.site),
            signed_utc_s=trust.signed_utc_s(),
            root_expires_utc_s=trust.root_expires_utc_s(),
        )


class _ReleaseDownload:
    def __init__(self, request: FetchRequest, emit: Callable[[FetchProgress], None]) -> None:
        self._request = request
        self._emit = emit
        self._transfer = _transfer(request)

    def run(self) -> FetchDone:
        request = self._request
        with _tuf_client(request, self._transfer) as trust:
            revoked = trust.revoked_digests(request.site)
            target = trust.target_info(f"{request.site}/{request.release_id}/{MANIFEST_NAME}")
            if target is None:
                raise FetchError(
                    FetchReason.TARGET_UNKNOWN,
                    f"the publisher of site {request.site} has no release {request.release_id}; `kensa release show` "
                    "lists what is published",
                )
            name = target_sha256(target)
            if name in revoked:
                self._refuse(
                    "revoked", FetchReason.TARGET_REVOKED, name, f"{request.release_id} was revoked by its publisher"
                )
            if target.length > MAX_MANIFEST_BYTES:
                text = f"the manifest has {target.length:,} bytes, at most {MAX_MANIFEST_BYTES:,} are allowed"
                self._refuse("contract", FetchReason.MANIFEST_REFUSED, name, text)
            data = trust.read_target(target, MAX_MANIFEST_BYTES)
            signed_utc_s = trust.signed_utc_s()
        manifest = self._parse_manifest(data, name)
        self._download_files(manifest, data, name)
        return FetchDone(
            name=manifest.name,
            version=manifest.version,
            counter=manifest.counter,
            digest=name,
            model_sha256=manifest.files[MODEL_NAME].sha256,
            signed_utc_s=signed_utc_s,
            revoked=revoked,
        )

    def _parse_manifest(self, data: bytes, name: str) -> Manifest:
        try:
            manifest = parse_manifest(data, source=f"the signed manifest of {self._request.release_id}")
        except ManifestError as error:
            self._refuse("contract", FetchReason.MANIFEST_REFUSED, name, str(error))
        if f"{manifest.name}/{manifest.version}" != self._request.release_id:
            text = f"the signed manifest of {self._request.release_id} is that of {manifest.name}/{manifest.version}"
            self._refuse("contract", FetchReason.NAME_DIFFERS, name, text)
        if manifest.counter < 1:
            text = f"{self._request.release_id} has no release counter; release it with `kensa release add`"
            self._refuse("contract", FetchReason.COUNTER_MISSING, name, text)
        return manifest

    def _download_files(self, manifest: Manifest, data: bytes, name: str) -> None:
        request, into = self._request, self._request.into
        total = sum(entry.length_bytes for entry in manifest.files.values())
        if total > request.max_release_bytes:
            self._refuse(
                "fetch",
                FetchReason.TOO_LARGE,
                name,
                f"{request.release_id} has {total:,} bytes, updates.max_release_bytes is {request.max_release_bytes:,}",
                figures={"release_bytes": total},
                limits={"release_bytes": request.max_release_bytes},
            )
        into.mkdir(parents=True, exist_ok=True)
        (into / MANIFEST_NAME).unlink(missing_ok=True)
        files = [
            ReleaseFile(file, f"{FILES_FOLDER}/{entry.sha256}", entry.sha256, entry.length_bytes)
            for file, entry in manifest.files.items()
        ]
        parts = {file.name: into / f"{file.sha256}.part" for file in files}
        for stale in set(into.glob("*.part")) - set(parts.values()):
            stale.unlink()
        missing = [file for file in files if not _is_complete(into / file.name, file)]
        self._check_space(sum(file.length_bytes - _size(parts[file.name]) for file in missing))
        done = total - sum(file.length_bytes for file in missing)
        for file in missing:
            self._download_file(file, parts[file.name], done, total)
            done += file.length_bytes
        self._emit(FetchProgress(done=total, total=total))
        _write_manifest(into, data)

    def _download_file(self, file: ReleaseFile, part: Path, before: int, total: int) -> None:
        reported = -_PROGRESS_BYTES

        def progress(size: int) -> None:
            nonlocal reported
            if size - reported >= _PROGRESS_BYTES or size < reported:
                reported = size
                self._emit(FetchProgress(done=before + size, total=total))

        try:
            self._transfer.resume_file(file, part, progress)
        except SourceMissingError as error:
            raise FetchError(
                FetchReason.MISSING_FILE,
                f"the repository lacks the {file.name} of {self._request.release_id}: {error}. Publish it again",
            ) from error
        part.replace(part.parent / file.name)

    def _check_space(self, wanted: int) -> None:
        disk = os.statvfs(self._request.into)
        free, reserve = disk.f_bavail * disk.f_frsize, self._request.limits.reserve_bytes
        if free < wanted + reserve:
            raise FetchError(
                FetchReason.NO_SPACE,
                f"{self._request.into} has {free:,} bytes free; the release needs {wanted:,} more and {reserve:,} stay "
                "free for verdicts. Make room in the state directory, or lower outbox limits",
            )

    def _refuse(
        self,
        gate: Literal["fetch", "contract", "revoked"],
        reason: FetchReason,
        digest_: str,
        text: str,
        *,
        figures: dict[str, float] | None = None,
        limits: dict[str, float] | None = None,
    ) -> NoReturn:
        raise _Refused(
            FetchFailed(
                reason=reason, text=shorten(text), gate=gate, digest=digest_, figures=figures or {}, limits=limits or {}
            )
        )


def _is_complete(path: Path, file: ReleaseFile) -> bool:
    return path.is_file() and path.stat().st_size == file.length_bytes and sha256_of(path) == file.sha256


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _write_manifest(into: Path, data: bytes) -> None:
    """Write the manifest last, durable together with the files."""
    part = into / f"{MANIFEST_NAME}.part"
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(into)  # the files' names before the manifest's
    part.replace(into / MANIFEST_NAME)
    sync_directory(into)
