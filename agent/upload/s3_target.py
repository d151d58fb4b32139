"""Uploads collected frames to S3, with boto3.

Credentials, region and endpoint come from the environment. Every object is written with `If-None-Match: *` and its
SHA-256, which S3 compares with the bytes that arrived. An existing object is compared by that checksum: the same one is
from an earlier attempt. An image of more than `PART_BYTES` is uploaded in chunks; the spool records the upload and its
chunks, so an interruption costs one chunk at most.

Permissions: s3:PutObject on the prefix, s3:GetObject for the comparison. Without s3:ListBucket, S3 answers 403 where
nothing is there; `If-None-Match` makes it safe to send again an object that cannot be compared. The bucket's life-cycle
rule AbortIncompleteMultipartUpload removes multipart uploads that are never finished (the device was destroyed).
"""

from __future__ import annotations

import base64
import hashlib
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

from agent.children.collect_protocol import TargetCheckResult
from agent.collection.spool_items import UploadedChunk
from agent.errors import UploadError
from agent.upload.throttle import ThrottledFile
from agent.upload.upload_targets import ConflictError, checked_digest
from agent.wire.collected_frame import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.collection.spool import Spool
    from agent.collection.spool_items import SpoolItem
    from agent.upload.throttle import Throttle

PART_BYTES: Final = 8 * 1024**2  # S3 wants at least 5 MiB for all but the last
_CONNECT_S: Final = 10.0
_READ_S: Final = 30.0
_TYPES: Final = {".jpg": "image/jpeg", ".png": "image/png"}
_EXISTS: Final = frozenset({"PreconditionFailed", "412"})
_UPLOAD_GONE: Final = frozenset({"NoSuchUpload", "InvalidPart", "InvalidPartOrder"})
_REFUSALS: Final = frozenset(
    {"EntityTooLarge", "EntityTooSmall", "InvalidArgument", "InvalidRequest", "KeyTooLongError", "MethodNotAllowed"}
)
_MISSING: Final = frozenset({"NoSuchKey", "NotFound", "404"})
_FORBIDDEN: Final = "403"  # of a HEAD request, whose answer has no body
_CREDENTIALS: Final = frozenset(
    {
        "AccessDenied",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        _FORBIDDEN,
    }
)

T = TypeVar("T")


class S3Target:
    """A prefix of a bucket; see `upload_targets.UploadTarget`."""

    def __init__(self, bucket: str, prefix: str, *, throttle: Throttle) -> None:
        """Make a session of its own: it reads credentials anew. Raises UploadError where boto3 is not installed."""
        try:
            import boto3  # noqa: PLC0415 - optional, and 0.4 s
            import botocore.config  # noqa: PLC0415
            import botocore.exceptions  # noqa: PLC0415
            import urllib3.exceptions  # noqa: PLC0415 - botocore's transport, whose errors it lets through
        except ModuleNotFoundError as error:
            raise UploadError(
                "missing_package",
                f"collect.target is on S3, and the package {error.name!r} is missing: pip install 'kensa[aws]'",
            ) from error
        self._client_error: Any = botocore.exceptions.ClientError
        self._errors: tuple[type[Exception], ...] = (
            OSError,
            botocore.exceptions.BotoCoreError,
            urllib3.exceptions.HTTPError,
        )
        self._no_credentials: tuple[type[Exception], ...] = (
            botocore.exceptions.NoCredentialsError,
            botocore.exceptions.PartialCredentialsError,
            botocore.exceptions.CredentialRetrievalError,
        )
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self._throttle = throttle
        try:
            self._client: Any = boto3.session.Session().client(
                "s3",
                config=botocore.config.Config(
                    connect_timeout=_CONNECT_S, read_timeout=_READ_S, retries={"total_max_attempts": 1}
                ),
            )
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise UploadError("unreachable", f"S3 cannot be used: {error}") from error
        self._client.meta.events.register("before-send.s3", _arm_throttle)

    def put_image(self, item: SpoolItem, spool: Spool) -> None:
        """See `UploadTarget.put_image`."""
        sha256 = bytes.fromhex(checked_digest(item))
        with item.path.open("rb") as file:
            if item.size > PART_BYTES:
                self._put_parts(item, file, spool)
                return
            body = ThrottledFile(file, start=0, length=item.size, throttle=self._throttle)
            self._put(item.key, body, sha256, _TYPES[item.path.suffix])

    def put_sidecar(self, item: SpoolItem) -> None:
        """See `UploadTarget.put_sidecar`."""
        self._put(item.stem + ".json", item.sidecar, hashlib.sha256(item.sidecar).digest(), "application/json")

    def check(self, site: str, thing: str) -> TargetCheckResult:
        """See `UploadTarget.check`. Without s3:ListBucket, S3 answers 403 for an absent key: then it is uncertain."""
        key = self._key(f"{ROOT}/site={site}/thing={thing}/none")
        where = f"s3://{self._bucket}/{key}"
        try:
            self._client.head_object(Bucket=self._bucket, Key=key)
        except self._client_error as error:
            code = _code(error)
            if code in _MISSING:
                return TargetCheckResult(usable=True, text=f"{where} can be reached")
            text = f"{where} answers {code}"
            return TargetCheckResult(usable=code == "403", certain=False, text=text)
        except self._errors as error:
            raise self._unreachable(error) from error
        return TargetCheckResult(usable=True, text=f"{where} can be read")

    def _key(self, key: str) -> str:
        return self._prefix + key

    def _put(self, key: str, body: ThrottledFile | bytes, sha256: bytes, content_type: str) -> None:
        """Write one object, unless it is there already."""
        try:
            self._call(
                lambda: self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._key(key),
                    Body=body,
                    IfNoneMatch="*",
                    ChecksumSHA256=_text(sha256),
                    ContentType=content_type,
                    Metadata={"sha256": sha256.hex()},
                )
            )
        except _ObjectExistsError:
            self._compare_existing(key, sha256, {_text(sha256)})

    def _put_parts(self, item: SpoolItem, file: IO[bytes], spool: Spool) -> None:
        """Continue the upload that the spool remembers, or begin one."""
        parts, upload_id = list(item.chunks), item.upload_id
        if upload_id is None:
            parts, upload_id = [], self._begin_multipart(item, spool)
        count = -(-item.size // PART_BYTES)
        names = {"Bucket": self._bucket, "Key": self._key(item.key), "UploadId": upload_id}
        try:
            for number in range(len(parts) + 1, count + 1):
                parts.append(self._put_part(item, file, number, names))
                spool.record_chunk(item, parts[-1])
            self._call(
                lambda: self._client.complete_multipart_upload(
                    **names,
                    IfNoneMatch="*",
                    MultipartUpload={
                        "Parts": [{"PartNumber": p.number, "ETag": p.etag, "ChecksumSHA256": p.sha256} for p in parts]
                    },
                )
            )
        except (_ObjectExistsError, _NoSuchUploadError) as error:
            # Finished by an attempt that could not record it, or gone: S3 cleans up uploads that take too long.
            try:
                self._compare_existing(item.key, bytes.fromhex(item.sha256), _composites(parts))
            except (_ObjectMissingError, _ForbiddenError) as unseen:
                if isinstance(unseen, _ForbiddenError) and isinstance(error, _ObjectExistsError):
                    raise  # it is there, and must not be read
                spool.begin_multipart(item, None)
                raise UploadError("restarted", f"the upload of {item.key} begins again: {error}") from error

    def _begin_multipart(self, item: SpoolItem, spool: Spool) -> str:
        answer = self._call(
            lambda: self._client.create_multipart_upload(
                Bucket=self._bucket,
                Key=self._key(item.key),
                ChecksumAlgorithm="SHA256",
                ContentType=_TYPES[item.path.suffix],
                Metadata={"sha256": item.sha256},
            )
        )
        upload_id = str(answer["UploadId"])
        spool.begin_multipart(item, upload_id)
        return upload_id

    def _put_part(self, item: SpoolItem, file: IO[bytes], number: int, names: dict[str, str]) -> UploadedChunk:
        start = (number - 1) * PART_BYTES
        length = min(PART_BYTES, item.size - start)
        file.seek(start)
        sha256 = _text(hashlib.sha256(file.read(length)).digest())
        body = ThrottledFile(file, start=start, length=length, throttle=self._throttle)
        answer = self._call(
            lambda: self._client.upload_part(**names, PartNumber=number, Body=body, ChecksumSHA256=sha256)
        )
        return UploadedChunk(number, str(answer["ETag"]), sha256)

    def _compare_existing(self, key: str, sha256: bytes, checksums: set[str]) -> None:
        """Return when the object is the one that should be there.

        Raises ConflictError, _ObjectMissingError, _ForbiddenError.
        """
        found = self._call(
            lambda: self._client.head_object(Bucket=self._bucket, Key=self._key(key), ChecksumMode="ENABLED")
        )
        checksum = found.get("ChecksumSHA256")
        if checksum is None:  # a store that keeps no checksums
            is_same = found.get("Metadata", {}).get("sha256") == sha256.hex()
        else:
            is_same = checksum.partition("-")[0] in checksums
        if not is_same:
            raise ConflictError(key)

    def _call(self, request: Callable[[], T]) -> T:
        try:
            return request()
        except self._client_error as error:
            code = _code(error)
            if code in _EXISTS:
                raise _ObjectExistsError("there", f"s3://{self._bucket} has the key already") from error
            if code in _UPLOAD_GONE:
                raise _NoSuchUploadError("no_upload", f"s3://{self._bucket} knows no such upload") from error
            if code in _MISSING:
                raise _ObjectMissingError("missing", f"s3://{self._bucket} answered {code}") from error
            if code in _CREDENTIALS:
                kind = _ForbiddenError if code == _FORBIDDEN else UploadError
                raise kind(
                    "credentials",
                    f"s3://{self._bucket} answered {code}: renew the credentials, or allow s3:PutObject and "
                    f"s3:GetObject on {self._prefix}{ROOT}. It is tried again",
                ) from error
            reason = "refused" if code in _REFUSALS else "unreachable"
            raise UploadError(reason, f"s3://{self._bucket} answered {code}. It is tried again") from error
        except self._errors as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> UploadError:
        if isinstance(error, self._no_credentials):
            return UploadError("credentials", f"there are no credentials for s3://{self._bucket}: {error}")
        return UploadError("unreachable", f"s3://{self._bucket} cannot be reached: {error}")


class _ObjectExistsError(UploadError):
    """An object has the key."""


class _ObjectMissingError(UploadError):
    """No object has the key."""


class _ForbiddenError(UploadError):
    """S3 does not say whether an object has the key."""


class _NoSuchUploadError(UploadError):
    """The upload in parts is finished, was given up, or lacks parts."""


def _arm_throttle(request: Any, **_: Any) -> None:
    """Botocore is about to send: from here on reading the body is sending it."""
    if isinstance(request.body, ThrottledFile):
        request.body.arm()


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code"))


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _composites(parts: list[UploadedChunk]) -> set[str]:
    """The checksum of checksums that S3 shows for an object that went up in these parts."""
    return {_text(hashlib.sha256(b"".join(base64.b64decode(part.sha256) for part in parts)).digest())}
