"""A stand-in for S3 on the loopback: enough of its protocol for boto3 to get, put, look at and list objects.

    with S3Server(folder) as server:                      # folder/BUCKET/KEY
        os.environ |= server.environment()                # endpoint, region, credentials that mean nothing
        boto3.client("s3").put_object(Bucket="b", Key="k", Body=b"...")

It takes any bucket and any signature, and has all switches of `ReleaseServer`; paths are /BUCKET/KEY.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from simulator.release_server import Handler, ReleaseServer, Request

if TYPE_CHECKING:
    from pathlib import Path

_MAX_OBJECT_BYTES: Final = 256 * 1024**2
_MAX_KEYS: Final = 1_000
_XML: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'


class S3Server(ReleaseServer):
    """See the module."""

    def _handler(self) -> type[Handler]:
        return _S3Handler

    def environment(self) -> dict[str, str]:
        """What boto3 needs to find this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "simulator",
            "AWS_SECRET_ACCESS_KEY": "simulator",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class _S3Handler(Handler):
    """One connection."""

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        """GetObject or ListObjectsV2."""
        parts = urlsplit(self.path)
        if "list-type=2" in parts.query:
            self._list(unquote(parts.path).strip("/"), parse_qs(parts.query))
        else:
            super().do_GET()

    def do_HEAD(self) -> None:  # noqa: N802 - http.server's name
        """HeadObject."""
        path = unquote(urlsplit(self.path).path)
        content = self.server.owner.content(path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", "0" if content is None else str(len(content)))
        self.end_headers()
        self.server.owner.note(Request(path, 0, 0))

    def do_PUT(self) -> None:  # noqa: N802 - http.server's name
        """PutObject."""
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length", "-1"))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            self.refuse(501, "NotImplemented", path)
            return
        if not 0 <= length <= _MAX_OBJECT_BYTES:
            self.refuse(400, "EntityTooLarge", path)
            return
        body = self.rfile.read(length)
        switch = self.server.owner.switch_for(path)
        if switch is not None and switch.kind == "failing":
            self.refuse(int(switch.amount), "InternalError", path)
            return
        file = self._file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
        self.server.owner.note(Request(path, 0, 0))
        self.send_response(200)
        self.send_header("ETag", '"simulator"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def refuse(self, status: int, code: str, path: str) -> None:
        """An error as S3 writes it."""
        self.server.owner.note(Request(path, 0, 0))
        self._send_xml(status, f"<Error><Code>{escape(code)}</Code><Resource>{escape(path)}</Resource></Error>")
        self.close_connection = True

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
        self.wfile.write(body)
