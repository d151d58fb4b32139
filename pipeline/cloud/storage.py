"""Object storage in a folder or below a prefix of an S3 bucket, for all files of the cloud side.

    storage = open_storage("s3://plant-data/kensa")      # or open_storage("/srv/kensa")
    for stored in storage.list("collected/v1/"): data = storage.read(stored.key)

Promise: both kinds behave alike. Keys are relative, with `/`, and never leave the storage; a listing is in the order of
the keys' UTF-8 bytes, page by page; a read is bounded before and during the transfer; a reader sees an object's old or
new content, never a mixture; `create` succeeds for exactly one of several writers. Every expected failure is a
StorageError that names the object and the remedy. Credentials, region and endpoint (AWS_ENDPOINT_URL) come from the
environment, as for all AWS tools; botocore retries throttled and failed calls.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from agent.errors import KensaError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_OBJECT_BYTES: Final = 256 * 1024**2  # of one read, unless the caller sets another limit
MAX_KEY_BYTES: Final = 1_024  # S3's limit
_MAX_PART_BYTES: Final = 255  # a file name's limit
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_WRITING: Final = ".writing-"  # temporary files; never listed
_BODY_ATTEMPTS: Final = 3  # botocore retries only until the headers have arrived
_MISSING: Final = frozenset({"NoSuchKey", "404"})
_KEY_EXISTS_CODES: Final = frozenset({"PreconditionFailed", "412"})
_CONFLICT: Final = frozenset({"ConditionalRequestConflict", "409"})  # concurrent writers: S3 requires a retry
_CONFLICTS: Final = 4
_REMEDIES: Final = {
    "NoSuchBucket": "There is no such bucket: correct the address, or create it (docs/cloud.md)",
    "AccessDenied": "The role lacks the permission: see its policy in pipeline/infra",
    "403": "The role lacks the permission: see its policy in pipeline/infra",
    "ExpiredToken": "The credentials have expired: sign in again",
    "InvalidAccessKeyId": "The access key is unknown: sign in again",
}


class StorageError(KensaError):
    """A folder or bucket cannot be used now; the text names the object and the remedy. A retry may help."""

    exit_code = 4


class ObjectMissingError(StorageError):
    """No object has that key."""


class ObjectTooLargeError(StorageError):
    """The object is longer than the caller's limit; nothing was returned."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One entry of a listing."""

    key: str  # relative to the storage
    length_bytes: int


class Storage(Protocol):
    """A folder or a bucket's prefix. Methods raise StorageError; those with a key raise UsageError for a wrong one."""

    uri: str  # as the user wrote it

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """All objects whose keys start with `prefix`, in the order of the keys' bytes."""

    def read(self, key: str, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """The whole object. Raises ObjectMissingError; ObjectTooLargeError when it has more than `limit` bytes."""

    def write(self, key: str, data: bytes) -> None:
        """Write or replace the whole object."""

    def create(self, key: str, data: bytes) -> bool:
        """Write the object unless the key exists; returns False if it does. One of several writers gets True."""

    def exists(self, key: str) -> bool:
        """Whether an object has exactly that key."""

    def delete(self, key: str) -> None:
        """Delete the object; no error if there is none."""


def validate_key(key: str) -> str:
    """Return `key` if it is relative and stays below the storage. Raises UsageError."""
    parts = key.split("/")
    if (
        not key
        or len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES
        or any(
            part in {"", ".", ".."}
            or len(part.encode("utf-8", "surrogatepass")) > _MAX_PART_BYTES
            or not part.isprintable()
            or part.startswith(_WRITING)
            for part in parts
        )
    ):
        raise UsageError(
            f"{key[:200]!r} is not a key: it must be relative, of printable segments between single slashes, "
            f"without . and .., with at most {MAX_KEY_BYTES} bytes."
        )
    return key


class FolderStorage:
    """Objects as files below a folder, which the first write creates. Links out of it are not followed."""

    def __init__(self, folder: Path) -> None:
        """Nothing is opened yet."""
        self.uri = str(folder)
        self._folder = folder.absolute()

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """See `Storage.list`."""
        if not self._folder.is_dir():
            raise StorageError(f"{self._folder} is not a folder. Correct the address; is the medium inserted?")
        yield from self._below("", prefix)

    def _below(self, at: str, prefix: str) -> Iterator[StoredObject]:
        found: list[tuple[bytes, str, bool, int]] = []
        try:
            with os.scandir(self._folder / at) as entries:
                for entry in entries:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    key = f"{at}{entry.name}/" if is_folder else at + entry.name
                    if entry.name.startswith(_WRITING) or not (key.startswith(prefix) or prefix.startswith(key)):
                        continue
                    if is_folder:
                        found.append((os.fsencode(key), key, True, 0))
                    elif entry.is_file(follow_symlinks=False):
                        found.append((os.fsencode(key), key, False, entry.stat(follow_symlinks=False).st_size))
        except OSError as error:
            raise self._error(at or ".", error) from error
        for _, key, is_folder, length in sorted(found):  # a folder's slash counts in the order, as on S3
            if is_folder:
                yield from self._below(key, prefix)
            elif key.startswith(prefix):
                yield StoredObject(key, length)

    def read(self, key: str, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """See `Storage.read`. Anything but a regular file counts as missing."""
        path = self._path(key)
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise ObjectMissingError(f"{path} is not a regular file.")
                data = file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ObjectMissingError(f"{path} does not exist.") from error
        except OSError as error:
            raise self._error(key, error) from error
        return _bounded(data, limit, str(path))

    def write(self, key: str, data: bytes) -> None:
        """See `Storage.write`: a temporary file, synced, then renamed."""
        path = self._path(key)
        with self._written(key, path, data) as made:
            made.replace(path)

    def create(self, key: str, data: bytes) -> bool:
        """See `Storage.create`: only one writer can link its finished file to the key."""
        path = self._path(key)
        try:
            with self._written(key, path, data) as made:
                try:
                    os.link(made, path)
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    # The file system has no links: one writer creates the name, and readers may see it empty at first.
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
                    made.replace(path)
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                return False
            raise
        return True

    @contextlib.contextmanager
    def _written(self, key: str, path: Path, data: bytes) -> Iterator[Path]:
        """A durable file beside `path`; afterwards the folder's names are made durable. OSError -> StorageError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            made = path.with_name(f"{_WRITING}{secrets.token_hex(8)}")
            try:
                with made.open("xb") as file:  # not mkstemp: not every file system can change its mode 0600
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield made
            finally:
                made.unlink(missing_ok=True)
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._error(key, error) from error

    def exists(self, key: str) -> bool:
        """See `Storage.exists`."""
        path = self._path(key)
        try:
            return stat.S_ISREG(path.lstat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise self._error(key, error) from error

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        try:
            self._path(key).unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise self._error(key, error) from error

    def _path(self, key: str) -> Path:
        path = self._folder / validate_key(key)
        if not path.parent.resolve().is_relative_to(self._folder.resolve()):
            raise StorageError(f"{path} leaves {self._folder} through a link. Remove the link.")
        return path

    def _error(self, key: str, error: OSError) -> StorageError:
        remedy = (
            "Free some space on that disk"
            if error.errno in {errno.ENOSPC, errno.EDQUOT}
            else "Check owner and permissions"
        )
        return StorageError(f"{self._folder / key}: {error.strerror or error}. {remedy}.")


class S3Storage:
    """Objects below a prefix of a bucket; needs s3:ListBucket, GetObject, PutObject and DeleteObject there."""

    def __init__(self, bucket: str, prefix: str, *, client: Any = None) -> None:
        """`client` is a boto3 client of S3; the default comes from the environment."""
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        try:
            import boto3  # noqa: PLC0415 - optional, and 0.4 s
            import botocore.config  # noqa: PLC0415
            import botocore.exceptions  # noqa: PLC0415
            import urllib3.exceptions  # noqa: PLC0415 - botocore's transport, whose errors a body's read lets through
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"{self.uri} is on S3, and the package {error.name!r} is missing: pip install 'kensa[cloud]'"
            ) from error
        self._failed = botocore.exceptions.ClientError
        self._errors = (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, OSError, EOFError)
        config = botocore.config.Config(
            connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 5}
        )
        try:
            self._client = client or boto3.client("s3", config=config)
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise StorageError(f"{self.uri}: S3 cannot be used: {error}") from error

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """See `Storage.list`: one request for each 1,000 objects."""
        with self._translate_errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
        pages = iter(pages)
        while True:
            with self._translate_errors(prefix):
                page = next(pages, None)
            if page is None:
                return
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):  # consoles create these for empty folders
                    yield StoredObject(item["Key"].removeprefix(self._prefix), int(item["Size"]))

    def read(self, key: str, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """See `Storage.read`."""
        for attempt in range(_BODY_ATTEMPTS):
            with self._translate_errors(validate_key(key)):
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            length = int(answer["ContentLength"])
            with contextlib.closing(answer["Body"]) as body:
                _bounded(b"", limit, f"{self.uri}/{key}", length=length)
                with (
                    self._translate_errors(key) if attempt + 1 == _BODY_ATTEMPTS else contextlib.suppress(*self._errors)
                ):
                    data = body.read(limit + 1)
                    if len(data) < length:  # with a limit, botocore does not check
                        raise EOFError(f"the answer ended after {len(data):,} of {length:,} bytes")
                    return _bounded(data, limit, f"{self.uri}/{key}")
        raise AssertionError("the last attempt returns or raises")

    def write(self, key: str, data: bytes) -> None:
        """See `Storage.write`; S3 replaces objects whole."""
        with self._translate_errors(validate_key(key)):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data)

    def create(self, key: str, data: bytes) -> bool:
        """See `Storage.create`: a conditional PutObject."""
        for attempt in range(_CONFLICTS + 1):
            try:
                with self._translate_errors(validate_key(key)):
                    self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data, IfNoneMatch="*")
            except StorageError as error:
                code = _code(error.__cause__)
                if code in _KEY_EXISTS_CODES:
                    return False
                if code not in _CONFLICT or attempt == _CONFLICTS:
                    raise
            else:
                return True
        raise AssertionError("the last attempt returns or raises")

    def exists(self, key: str) -> bool:
        """See `Storage.exists`."""
        try:
            with self._translate_errors(validate_key(key)):
                self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except ObjectMissingError:
            return False
        return True

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        with self._translate_errors(validate_key(key)):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    @contextlib.contextmanager
    def _translate_errors(self, key: str) -> Iterator[None]:
        where = f"{self.uri}/{key}"
        try:
            yield
        except self._failed as error:
            code = _code(error)
            if code in _MISSING:
                raise ObjectMissingError(f"{where} does not exist.") from error
            raise StorageError(f"{where}: {error}. {_REMEDIES.get(code, 'Try again')}.") from error
        except self._errors as error:
            raise StorageError(f"{where}: {error}. Check network, region and credentials.") from error


def _code(error: BaseException | None) -> str:
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code"))


def _bounded(data: bytes, limit: int, where: str, *, length: int = 0) -> bytes:
    if max(len(data), length) > limit:
        raise ObjectTooLargeError(f"{where} has more than {limit:,} bytes, the limit for such an object.")
    return data


def open_storage(uri: str | Path, *, client: Any = None) -> Storage:
    """The storage at a folder or at s3://bucket/prefix. Raises UsageError, MissingExtraError, StorageError."""
    text = str(uri)
    if "://" not in text:
        return FolderStorage(Path(text))
    parts = urlsplit(text)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise UsageError(f"{text!r} is not a storage: give a folder or s3://bucket/prefix.")
    return S3Storage(parts.netloc, parts.path.strip("/"), client=client)
