"""Reads a repository below a prefix of an S3 bucket, with boto3.

Credentials and endpoint come from the environment.
"""

from __future__ import annotations

from typing import Any, Final

from agent.children.fetch_protocol import FetchReason
from agent.errors import FetchError
from agent.fetch.repository_sources import (
    RemoteFile,
    SourceDownError,
    SourceMissingError,
    checked_path,
    first_byte_offset,
)

_MISSING: Final = frozenset({"NoSuchKey", "404", "403", "AccessDenied"})  # without ListBucket S3 answers 403
_NO_SUCH_RANGE: Final = "InvalidRange"


class S3Repository:
    """Reads with GetObject, ranges included; needs the permission s3:GetObject on the prefix and nothing else."""

    def __init__(self, bucket: str, prefix: str, *, timeout_s: float) -> None:
        """`timeout_s` is for each network operation. Raises FetchError where boto3 is not installed."""
        try:
            import boto3  # noqa: PLC0415 - optional, and 0.4 s
            import botocore.config  # noqa: PLC0415
            import botocore.exceptions  # noqa: PLC0415
            import urllib3.exceptions  # noqa: PLC0415 - botocore's transport, whose errors a body's read lets through
        except ModuleNotFoundError as error:
            raise FetchError(
                FetchReason.MISSING_PACKAGE,
                f"updates.repository is on S3, and the package {error.name!r} is missing: pip install 'kensa[aws]'",
            ) from error
        self._exceptions = botocore.exceptions
        self.errors: tuple[type[Exception], ...] = (
            OSError,
            botocore.exceptions.BotoCoreError,
            urllib3.exceptions.HTTPError,
        )
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        try:
            self._client: Any = boto3.client(
                "s3",
                config=botocore.config.Config(
                    connect_timeout=timeout_s, read_timeout=timeout_s, retries={"total_max_attempts": 1}
                ),
            )
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise FetchError(FetchReason.UNREACHABLE, f"S3 cannot be used: {error}") from error

    def open(self, path: str, *, start: int = 0) -> RemoteFile:
        """See `RepositorySource.open`."""
        key = self._prefix + checked_path(path)
        where = f"s3://{self._bucket}/{key}"
        arguments = {"Range": f"bytes={start}-"} if start else {}
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **arguments)
        except self._exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            if code in _MISSING:
                raise SourceMissingError(f"{where}: {code}") from error
            if code == _NO_SUCH_RANGE and start:
                return self.open(path)
            raise SourceDownError(f"{where}: {error}") from error
        except self.errors as error:
            raise SourceDownError(f"{where}: {error}") from error
        body = answer["Body"]
        begin = first_byte_offset(answer["ResponseMetadata"]["HTTPStatusCode"], answer.get("ContentRange"))
        if begin != start:
            body.close()
            raise SourceDownError(f"{where}: the answer does not begin at byte {start}")
        return RemoteFile(body.read, body.close, begin)
