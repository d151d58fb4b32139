"""Upload targets of collected frames: the interface, and a folder for an air-gapped site.

Promise of every target: once `put_*` returns, the object is complete and durable under its key; a repetition changes
nothing; another object under the same key is never overwritten. Every failure is an UploadError.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final, Protocol

from agent.children.collect_protocol import TargetCheckResult
from agent.durable import sha256_of, sync_directory
from agent.errors import UploadError
from agent.upload.throttle import ThrottledFile

if TYPE_CHECKING:
    from pathlib import Path

    from agent.collection.spool import Spool
    from agent.collection.spool_items import SpoolItem
    from agent.upload.throttle import Throttle

_CHUNK_BYTES: Final = 1024 * 1024


class ConflictError(UploadError):
    """The target holds something else under the key."""

    def __init__(self, key: str) -> None:
        super().__init__(
            "conflict",
            f"the target holds something else under {key}: did another program write there? The frame stays here",
        )


class SpooledImageChangedError(UploadError):
    """The image on this disk is not the one that was spooled."""

    def __init__(self, path: Path) -> None:
        super().__init__("lost", f"{path} was removed or changed by somebody else")


class UploadTarget(Protocol):
    """S3 and folders; for one thread. Every method may raise UploadError."""

    def put_image(self, item: SpoolItem, spool: Spool) -> None:
        """Upload the image; `spool` remembers the progress of a large one.

        Raises ConflictError, SpooledImageChangedError.
        """

    def put_sidecar(self, item: SpoolItem) -> None:
        """Upload the sidecar. Raises ConflictError."""

    def check(self, site: str, thing: str) -> TargetCheckResult:
        """Check whether the target can be used, without changing it."""


def checked_digest(item: SpoolItem) -> str:
    """Return the SHA-256 (hex) of the image on the disk.

    Raises SpooledImageChangedError when it is not the one that was spooled.
    """
    try:
        found = sha256_of(item.path)
    except OSError as error:
        raise SpooledImageChangedError(item.path) from error
    _is_identical(found, item.sha256, item.path)
    return found


def _is_identical(found: str, kept: str, path: Path) -> None:
    if found != kept:
        raise SpooledImageChangedError(path)


class FolderTarget:
    """An existing folder: on a removable disk, or of another machine."""

    def __init__(self, root: Path, *, throttle: Throttle) -> None:
        self._root = root
        self._throttle = throttle
        self._synced: set[Path] = set()  # folders whose own names are durable; one a day and model

    def put_image(self, item: SpoolItem, spool: Spool) -> None:
        """See `UploadTarget.put_image`."""
        try:
            with item.path.open("rb") as file:
                body = ThrottledFile(file, start=0, length=item.size, throttle=self._throttle)
                body.arm()
                self._put(item.key, body, item.sha256)
        except FileNotFoundError as error:
            if not item.path.exists():
                raise SpooledImageChangedError(item.path) from error
            raise self._failed(error) from error
        except OSError as error:
            raise self._failed(error) from error

    def put_sidecar(self, item: SpoolItem) -> None:
        """See `UploadTarget.put_sidecar`."""
        try:
            self._put(item.stem + ".json", _BytesReader(item.sidecar), hashlib.sha256(item.sidecar).hexdigest())
        except OSError as error:
            raise self._failed(error) from error

    def check(self, site: str, thing: str) -> TargetCheckResult:
        """See `UploadTarget.check`."""
        if not self._root.is_dir():
            return TargetCheckResult(
                usable=False, text=f"{self._root} is not there; mount the disk and make the folder"
            )
        if not os.access(self._root, os.W_OK | os.X_OK):
            return TargetCheckResult(usable=False, text=f"{self._root} may not be written by this user")
        free = os.statvfs(self._root)
        return TargetCheckResult(
            usable=True, text=f"{self._root} has {free.f_bavail * free.f_frsize / 1e9:.1f} GB free"
        )

    def _put(self, key: str, body: ThrottledFile | _BytesReader, sha256: str) -> None:
        if not self._root.is_dir():  # never made here: it could be the empty mount point of a disk that is away
            raise UploadError("no_target", f"{self._root} is not there; mount the disk and make the folder")
        path = self._root / key
        if path.exists():
            if sha256_of(path) != sha256:
                raise ConflictError(key)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".part")
        try:
            digest = hashlib.sha256()
            with partial.open("wb") as file:
                while chunk := body.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            _is_identical(digest.hexdigest(), sha256, path)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        self._sync(path.parent)

    def _sync(self, folder: Path) -> None:
        """Make a new name in `folder` durable, and once each folder above it, which may be new as well."""
        sync_directory(folder)
        while folder != self._root and folder not in self._synced:
            self._synced.add(folder)
            folder = folder.parent
            sync_directory(folder)

    def _failed(self, error: OSError) -> UploadError:
        return UploadError("no_target", f"{self._root} cannot be written: {error.strerror}. It is tried again")


class _BytesReader:
    """Bytes as `FolderTarget._put` reads them."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        chunk, self._data = self._data[:size], self._data[size:]
        return chunk
