"""Write-only stores of a repository: a folder or a prefix of an S3 bucket.

They differ from `pipeline.cloud.storage`: objects get a Cache-Control header, files mode 0644 for a web server, and S3
needs no s3:ListBucket.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from agent.errors import MissingExtraError, OperatorError

_NEVER_CACHED: Final = "timestamp.json"


class RepositoryStore(Protocol):
    """The files of a repository, by path relative to its base."""

    def put(self, path: str, data: bytes) -> None:
        """Write the whole file; a reader sees the old or the new one. Raises OperatorError."""

    def has(self, path: str, length_bytes: int) -> bool:
        """Whether a file of that length exists; for files named by their digest. Raises OperatorError."""


class FolderRepositoryStore:
    """A folder, for a web server or a removable disk."""

    def __init__(self, folder: Path) -> None:
        """The folder is created with the first file."""
        self._folder = folder

    def put(self, path: str, data: bytes) -> None:
        """See `RepositoryStore.put`: a temporary file, synced, then renamed."""
        target = self._folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".writing-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).chmod(0o644)
                Path(name).replace(target)
            finally:
                Path(name).unlink(missing_ok=True)
        except OSError as error:
            raise OperatorError(f"the repository cannot be written: {target}: {error.strerror}") from error

    def has(self, path: str, length_bytes: int) -> bool:
        """See `RepositoryStore.has`."""
        target = self._folder / path
        return target.is_file() and target.stat().st_size == length_bytes


class S3RepositoryStore:
    """A prefix of a bucket; needs s3:PutObject and s3:GetObject there."""

    def __init__(self, bucket: str, prefix: str) -> None:
        """Credentials, region and endpoint come from the environment, as for all AWS tools."""
        try:
            import boto3  # noqa: PLC0415 - optional
            import botocore.exceptions  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"the repository is on S3, and the package {error.name!r} is missing: pip install 'kensa[aws]'"
            ) from error
        self._errors = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        try:
            self._client: Any = boto3.client("s3")
        except self._errors as error:
            raise OperatorError(f"S3 cannot be used: {error}") from error

    def put(self, path: str, data: bytes) -> None:
        """See `RepositoryStore.put`; S3 replaces objects whole."""
        cache = "no-cache" if path.endswith(_NEVER_CACHED) else "public, max-age=31536000, immutable"
        try:
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=data, CacheControl=cache)
        except self._errors as error:
            raise OperatorError(
                f"the repository cannot be written: s3://{self._bucket}/{self._prefix}{path}: {error}"
            ) from error

    def has(self, path: str, length_bytes: int) -> bool:
        """See `RepositoryStore.has`."""
        try:
            answer = self._client.head_object(Bucket=self._bucket, Key=self._prefix + path)
        except self._errors as error:
            response: dict[str, Any] = getattr(error, "response", {})
            if response.get("Error", {}).get("Code") in {"404", "403", "NoSuchKey"}:
                return False
            raise OperatorError(f"s3://{self._bucket}/{self._prefix}{path}: {error}") from error
        return bool(answer["ContentLength"] == length_bytes)


def open_repository_store(repository: str) -> RepositoryStore:
    """The store for a folder or s3://bucket/prefix. Raises OperatorError."""
    parts = urlsplit(repository)
    if parts.scheme == "s3" and parts.netloc:
        return S3RepositoryStore(parts.netloc, parts.path.strip("/"))
    if "://" in repository:
        raise OperatorError(
            f"a repository is written to a folder or to s3://bucket/prefix, not to {repository!r}. Devices may read it "
            "over HTTP from any server that serves such a folder"
        )
    return FolderRepositoryStore(Path(repository))


def write_private(path: Path, data: bytes) -> None:
    """Write a file atomically, readable by its owner only. Raises OperatorError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from error
