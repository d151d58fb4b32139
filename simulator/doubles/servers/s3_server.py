"""An S3 server on the loopback: enough of the protocol for boto3 to get, put, head and list.

    with S3Server(folder) as server:                      # folder/BUCKET/KEY
        os.environ |= server.environment()                # endpoint, region, credentials that mean nothing
        boto3.client("s3").put_object(Bucket="b", Key="k", Body=b"...")
        server.accepted = frozenset({"NEW"})              # any other access key: ExpiredToken, 403
        server.unanswered("*.jpg", times=1)               # stored, and then the connection ends without an answer
        server.stored                                     # how often each path was written: nothing twice

It takes any bucket and any signature, and has all switches of `ReleaseServer`; paths are /BUCKET/KEY. Writing is as
strict as S3: `If-None-Match: *`, SHA-256 of objects and parts, uploads in parts; `truncated` cuts a body on its way in.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from simulator.doubles.servers.release_server import ReleaseRequestHandler, ReleaseServer, ResponseFault, ServedRequest

if TYPE_CHECKING:
    from pathlib import Path

_MAX_OBJECT_BYTES: Final = 256 * 1024**2
_MAX_KEYS: Final = 1_000
_XML: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
_BAD_REQUEST: Final = 400
_CHECKSUM: Final = "x-amz-checksum-sha256"
_CREDENTIAL: Final = re.compile(r"Credential=([^/]+)/")
_PART: Final = re.compile(r"<PartNumber>(\d+)</PartNumber>")


@dataclass(frozen=True, slots=True)
class _ObjectMetadata:
    """What S3 knows of an object beside its bytes."""

    checksum: str | None
    metadata: dict[str, str]


@dataclass(slots=True)
class _Upload:
    """An upload in parts that is not finished."""

    path: str
    metadata: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


class S3Server(ReleaseServer):
    """See the module."""

    def __init__(self, folder: Path) -> None:
        """Keep objects in `folder`."""
        super().__init__(folder)
        self.accepted: frozenset[str] | None = None  # access keys; None: every one
        self.shows_missing = True  # False: 403 instead of 404, as for a role without s3:ListBucket
        self.stored = Counter[str]()  # path -> times it was written
        self.parts_received = Counter[tuple[str, int]]()  # (path, part)
        self.object_metadata: dict[str, _ObjectMetadata] = {}
        self.uploads: dict[str, _Upload] = {}
        self.writing = threading.Lock()
        self.numbers = itertools.count(1)

    def unanswered(self, pattern: str, *, times: int | None = None, skip: int = 0) -> None:
        """Do what is asked, then close the connection without an answer; the first `skip` requests pass."""
        self.add_fault(ResponseFault(pattern, "unanswered", 0.0, times, skip))

    def refusing(self, pattern: str) -> None:
        """Answer `InvalidRequest`, 400: whatever is tried, this object will never be taken."""
        self.add_fault(ResponseFault(pattern, "failing", 400))

    def _handler(self) -> type[ReleaseRequestHandler]:
        return _S3Handler

    def environment(self, access_key: str = "simulator") -> dict[str, str]:
        """What boto3 needs to find this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": "simulator",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class _S3Handler(ReleaseRequestHandler):
    """One connection."""

    @property
    def _owner(self) -> S3Server:
        owner = self.server.owner
        if not isinstance(owner, S3Server):
            raise TypeError("this handler belongs to an S3Server")
        return owner

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        """GetObject or ListObjectsV2."""
        path, query = self._query()
        if not self._is_accepted(path):
            return
        if "list-type" in query:
            self._list(path.strip("/"), query)
        else:
            super().do_GET()

    def do_HEAD(self) -> None:  # noqa: N802 - http.server's name
        """HeadObject."""
        path, _ = self._query()
        if not self._is_accepted(path):
            return
        content, facts = self._owner.content(path), self._owner.object_metadata.get(path)
        missing = 404 if self._owner.shows_missing else 403
        self.send_response(missing if content is None else 200)
        self.send_header("Content-Length", "0" if content is None else str(len(content)))
        if content is not None and facts is not None:
            if facts.checksum is not None and self.headers.get("x-amz-checksum-mode") == "ENABLED":
                self.send_header(_CHECKSUM, facts.checksum)
            for name, value in facts.metadata.items():
                self.send_header(name, value)
        self.end_headers()
        self._owner.record_request(ServedRequest(path, 0, 0))

    def do_PUT(self) -> None:  # noqa: N802 - http.server's name
        """PutObject or UploadPart."""
        path, query = self._query()
        body = self._body(path)
        if body is None or not self._is_accepted(path):
            return
        if not 0 <= len(body) <= _MAX_OBJECT_BYTES:
            self.refuse(400, "EntityTooLarge", path)
            return
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if self.headers.get(_CHECKSUM, digest) != digest:
            self.refuse(400, "BadDigest", path)
        elif "uploadId" in query:
            self._keep_part(path, query, body)
        else:
            self._store(path, body, self.headers.get(_CHECKSUM), self._metadata())

    def do_POST(self) -> None:  # noqa: N802 - http.server's name
        """CreateMultipartUpload or CompleteMultipartUpload."""
        path, query = self._query()
        body = self._body(path)
        if body is None or not self._is_accepted(path):
            return
        owner = self._owner
        if "uploads" in query:
            name = f"upload-{next(owner.numbers)}"
            owner.uploads[name] = _Upload(path, self._metadata())
            bucket, _, key = path.strip("/").partition("/")
            self._answer_xml(
                path,
                f"<InitiateMultipartUploadResult><Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key>"
                f"<UploadId>{name}</UploadId></InitiateMultipartUploadResult>",
            )
            return
        upload = owner.uploads.get(query.get("uploadId", [""])[0])
        numbers = [int(number) for number in _PART.findall(body.decode())]
        if upload is None or upload.path != path:
            self.refuse(404, "NoSuchUpload", path)
        elif not numbers or any(number not in upload.parts for number in numbers):
            self.refuse(400, "InvalidPart", path)
        else:
            chosen = [upload.parts[number] for number in numbers]
            inner = b"".join(hashlib.sha256(part).digest() for part in chosen)
            checksum = f"{base64.b64encode(hashlib.sha256(inner).digest()).decode()}-{len(chosen)}"
            if self._store(path, b"".join(chosen), checksum, upload.metadata):
                del owner.uploads[query["uploadId"][0]]

    def refuse(self, status: int, code: str, path: str) -> None:
        """An error as S3 writes it."""
        self.server.owner.record_request(ServedRequest(path, 0, 0))
        self._send_xml(status, f"<Error><Code>{escape(code)}</Code><Resource>{escape(path)}</Resource></Error>")
        self.close_connection = True

    def _query(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path), parse_qs(parts.query, keep_blank_values=True)

    def _is_accepted(self, path: str) -> bool:
        accepted = self._owner.accepted
        found = _CREDENTIAL.search(self.headers.get("Authorization", ""))
        if accepted is None or (found is not None and found[1] in accepted):
            return True
        self.refuse(403, "ExpiredToken", path)
        return False

    def _metadata(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}

    def _body(self, path: str) -> bytes | None:
        """Read the body as the switches say; None when there will be no answer, or one was given."""
        length = int(self.headers.get("Content-Length", "-1"))
        if length < 0 or "aws-chunked" in self.headers.get("Content-Encoding", ""):
            self.refuse(501, "NotImplemented", path)
            return None
        switch = self._owner.take_fault(path)
        kind = None if switch is None else switch.kind
        if switch is not None and kind == "failing":
            status = int(switch.amount)
            self.refuse(status, "InvalidRequest" if status == _BAD_REQUEST else "InternalError", path)
            return None
        if switch is not None and kind == "truncated":
            self.rfile.read(min(length, int(switch.amount)))
            self.close_connection = True
            return None
        if kind == "silent":
            self._owner.closing.wait()
            return None
        self._is_unanswered = kind == "unanswered"
        return self.rfile.read(length)

    _is_unanswered = False

    def _store(self, path: str, body: bytes, checksum: str | None, metadata: dict[str, str]) -> bool:
        owner = self._owner
        with owner.writing:
            file = self._file(path)
            if self.headers.get("If-None-Match") == "*" and file.exists():
                self.refuse(412, "PreconditionFailed", path)
                return False
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
            owner.stored[path] += 1
            owner.object_metadata[path] = _ObjectMetadata(checksum, metadata)
        if self._is_multipart_end():
            self._answer_xml(path, "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
        else:
            self._answer_etag(path)
        return True

    def _is_multipart_end(self) -> bool:
        return self.command == "POST"

    def _keep_part(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        upload = self._owner.uploads.get(query["uploadId"][0])
        number = int(query["partNumber"][0])
        if upload is None:
            self.refuse(404, "NoSuchUpload", path)
            return
        upload.parts[number] = body
        self._owner.parts_received[path, number] += 1
        self._answer_etag(path)

    def _answer_etag(self, path: str) -> None:
        self._owner.record_request(ServedRequest(path, 0, 0))
        if self._is_unanswered:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("ETag", '"simulator"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer_xml(self, path: str, text: str) -> None:
        self._owner.record_request(ServedRequest(path, 0, 0))
        if self._is_unanswered:
            self.close_connection = True
            return
        self._send_xml(200, text)

    def _file(self, path: str) -> Path:
        folder = self.server.owner.folder.resolve()
        file = (folder / path.lstrip("/")).resolve()
        if not file.is_relative_to(folder):
            raise PermissionError(f"{path} leads out of the stand-in's folder")
        return file

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        folder, prefix = self._file(bucket), query.get("prefix", [""])[0]
        keys = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        found = [key for key in keys if key.startswith(prefix)][:_MAX_KEYS]
        sizes = {key: (folder / key).stat().st_size for key in found}
        entries = [f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size></Contents>" for key, size in sizes.items()]
        self._send_xml(
            200,
            f"<ListBucketResult><Name>{escape(bucket)}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(found)}</KeyCount><IsTruncated>false</IsTruncated>{''.join(entries)}</ListBucketResult>",
        )

    def _send_xml(self, status: int, text: str) -> None:
        body = (_XML + text).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
