"""Chooses the source of a repository's files by its address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agent.cameras.camera_url import redact
from agent.children.fetch_protocol import FetchReason
from agent.errors import FetchError
from agent.fetch.repository_sources import FolderRepository, HttpRepository
from agent.fetch.s3_repository import S3Repository

if TYPE_CHECKING:
    from agent.fetch.repository_sources import RepositorySource


def open_repository(repository: str, *, timeout_s: float) -> RepositorySource:
    """Return the source for a folder, an http(s):// or an s3:// address. Raises FetchError."""
    parts = urlsplit(repository)
    if parts.scheme in {"http", "https"} and parts.hostname:
        if "@" in repository or parts.query or parts.fragment:  # and none of it is quoted: it may be a password
            raise FetchError(
                FetchReason.REQUEST, "updates.repository must be a plain address: no user name, no query, no fragment"
            )
        return HttpRepository(repository, timeout_s=timeout_s)
    if parts.scheme == "s3" and parts.netloc:
        return S3Repository(parts.netloc, parts.path.strip("/"), timeout_s=timeout_s)
    if "://" in repository:
        raise FetchError(
            FetchReason.REQUEST,
            f"updates.repository is {redact(repository)}; it can be a folder, http://..., https://... or "
            "s3://bucket/prefix",
        )
    return FolderRepository(Path(repository))
