"""MJPEG over HTTP: the network camera that needs no vendor and no codec.

Promise: a read returns within its time-out, whatever the server does; what arrives is bounded (headers, part,
preamble); each part is checked before it is decoded, so a cut picture is a counted drop and the stream goes on at the
next boundary. A broken conversation is a CameraError; the capture thread reconnects. The reader speaks HTTP/1.0, so
that no server answers in chunks, and follows no redirects: the configured address is the camera. It is our own and not
OpenCV's because that one neither sees a cut picture nor lets a read be bounded.
"""

from __future__ import annotations

import re
import socket
import ssl
from base64 import b64encode
from enum import Enum
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from agent.clock import NS_PER_S
from agent.errors import CameraError
from agent.images import MAX_IMAGE_BYTES, ImageDecoder
from agent.inspection.camera_url import redact
from agent.records import Grab

if TYPE_CHECKING:
    from agent.clock import Clock
    from agent.records import Pixels

_MAX_HEADER_BYTES: Final = 16 * 1024  # of the response and of each part
_FIRST_BUFFER_BYTES: Final = 256 * 1024
_CONNECT_S: Final = 0.8  # a camera is on the local network; stopping must not wait longer than a second


class _Expect(Enum):
    RESPONSE = "the response's headers"
    BOUNDARY = "a boundary"
    HEADERS = "a part's headers"
    BODY = "a part's body"


class MultipartReader:
    """Takes bytes, gives parts; does no I/O. The returned view is valid until the next call of `space`.

    A part with Content-Length is given out as soon as it is whole, one without at the next boundary.
    """

    def __init__(self, *, max_part_bytes: int) -> None:
        self._max_part_bytes = max_part_bytes
        self._buffer = bytearray(_FIRST_BUFFER_BYTES)
        self._start = self._end = 0  # of what is in the buffer and not used up
        self._searched = 0  # no boundary ends before this
        self._expect = _Expect.RESPONSE
        self._boundary = b""
        self._length: int | None = None

    def space(self) -> memoryview:
        """Return where the next bytes go; tell `received` how many came."""
        if self._start and self._end == len(self._buffer):
            kept = self._end - self._start
            self._buffer[:kept] = self._buffer[self._start : self._end]
            self._searched = max(0, self._searched - self._start)
            self._start, self._end = 0, kept
        if self._end == len(self._buffer):
            # A new array, not a longer one: a part's view may still be alive in some error's traceback.
            self._buffer = self._buffer + bytes(len(self._buffer))
        return memoryview(self._buffer)[self._end :]

    def received(self, count: int) -> None:
        """Take `count` bytes that were put into `space`."""
        self._end += count

    def next_part(self) -> memoryview | None:
        """Return the next whole part's body, or None when more bytes are needed. Raises CameraError."""
        while True:
            done = False
            match self._expect:
                case _Expect.RESPONSE:
                    done = self._take_response()
                case _Expect.BOUNDARY:
                    done = self._take_boundary()
                case _Expect.HEADERS:
                    done = self._take_part_headers()
                case _Expect.BODY:
                    return self._take_body()
            if not done:
                return None

    def _take_headers(self) -> tuple[str, dict[str, str]] | None:
        """Return the first line and the fields (names in lower case) up to the empty line."""
        end = self._buffer.find(b"\r\n\r\n", self._start, self._end)
        if end < 0:
            if self._end - self._start > _MAX_HEADER_BYTES:
                raise CameraError(f"{self._expect.value} do not end within {_MAX_HEADER_BYTES:,} bytes")
            return None
        first, *lines = bytes(self._buffer[self._start : end]).decode("latin-1").split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._start = end + 4
        return first, fields

    def _take_response(self) -> bool:
        taken = self._take_headers()
        if taken is None:
            return False
        first, fields = taken
        status = re.match(r"HTTP/1\.[01] (\d{3})", first)
        if status is None:
            raise CameraError(f"it does not answer in HTTP: {first[:40]!r}")
        _check_status(int(status[1]), fields)
        kind = fields.get("content-type", "")
        boundary = re.search(r'boundary\s*=\s*(?:"([^"]+)"|([^\s;]+))', kind, re.IGNORECASE)
        if not kind.lower().startswith("multipart/") or boundary is None:
            raise CameraError(f"it answers with {kind[:60]!r}, not a stream: give the address of its MJPEG stream")
        if fields.get("transfer-encoding", "identity").lower() != "identity":
            raise CameraError("it answers an HTTP/1.0 request in chunks, which the standard forbids: check for a proxy")
        self._boundary = b"--" + (boundary[1] or boundary[2]).lstrip("-").encode("latin-1")  # some servers count the --
        self._searched = self._start
        self._expect = _Expect.BOUNDARY
        return True

    def _find_boundary(self) -> int:
        """Return where the next boundary starts, or -1."""
        at = self._buffer.find(self._boundary, max(self._start, self._searched), self._end)
        if at < 0:
            self._searched = max(self._start, self._end - len(self._boundary))
            if self._end - self._start > self._max_part_bytes + _MAX_HEADER_BYTES:
                raise CameraError(f"no boundary within {self._max_part_bytes:,} bytes: the stream is damaged")
        return at

    def _take_boundary(self) -> bool:
        at = self._find_boundary()
        after = at + len(self._boundary)
        if at < 0 or self._end - after < 2:  # noqa: PLR2004  # the two characters that tell the last one
            return False
        if self._buffer[after : after + 2] == b"--":
            raise CameraError("it ended the stream")
        self._start = after
        self._expect = _Expect.HEADERS
        return True

    def _take_part_headers(self) -> bool:
        taken = self._take_headers()
        if taken is None:
            return False
        length = taken[1].get("content-length")
        self._length = None
        if length is not None:
            self._length = int(length) if re.fullmatch(r"[0-9]{1,12}", length) else self._max_part_bytes + 1
            if self._length > self._max_part_bytes:
                raise CameraError(f"a part of {length[:20]} bytes comes; at most {self._max_part_bytes:,} are taken")
        self._searched = self._start
        self._expect = _Expect.BODY
        return True

    def _take_body(self) -> memoryview | None:
        if self._length is not None:
            end = after = self._start + self._length
            if end > self._end:
                return None
        else:
            after = end = self._find_boundary()
            if end < 0:
                return None
            end -= 2 if self._buffer[end - 2 : end] == b"\r\n" else 0
        body = memoryview(self._buffer)[self._start : end]
        self._start = self._searched = after
        self._expect = _Expect.BOUNDARY
        return body


def _check_status(status: int, fields: dict[str, str]) -> None:
    match status:
        case 200:
            return
        case 401 | 403:
            raise CameraError(f"it refuses the user (HTTP {status}): put user and password into its address")
        case 301 | 302 | 303 | 307 | 308:
            raise CameraError(f"it moved to {redact(fields.get('location', ''))}: give that address")
        case _:
            raise CameraError(f"it answers HTTP {status}: check the path in its address")


class MjpegSource:
    """The MJPEG stream at `url` (http or https; user and password in it are sent as Basic authorisation)."""

    def __init__(self, *, url: str, clock: Clock, max_part_bytes: int = MAX_IMAGE_BYTES) -> None:
        self._url = url
        self._name = redact(url)
        self._clock = clock
        self._max_part_bytes = max_part_bytes
        self._decoder = ImageDecoder()
        self._socket: socket.socket | None = None
        self._parts = MultipartReader(max_part_bytes=max_part_bytes)

    def open(self) -> None:
        """See `FrameSource.open`; connects and asks, the answer is read by `read`."""
        self.close()
        self._parts = MultipartReader(max_part_bytes=self._max_part_bytes)
        try:
            self._socket = self._connect()
        except OSError as error:
            raise CameraError(
                f"{self._name} cannot be reached ({_reason(error)}): check address, cable, power"
            ) from error
        except ValueError as error:  # which may quote the address with its password
            raise CameraError(f"{self._name} is malformed: an address like http://camera/stream is needed") from error

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`."""
        deadline_ns = self._clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        try:
            while (part := self._parts.next_part()) is None:
                left_ns = deadline_ns - self._clock.monotonic_ns()
                if left_ns <= 0 or not self._receive(left_ns / NS_PER_S):
                    return None
        except CameraError as error:
            raise CameraError(f"{self._name}: {error}") from error
        due_ns = self._clock.monotonic_ns()
        return Grab(pixels=self._decoder.decode(part, buffer), due_ns=due_ns)

    def close(self) -> None:
        """See `FrameSource.close`."""
        self._decoder.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        url = urlsplit(self._url)
        secure = url.scheme == "https"
        if url.hostname is None or url.scheme not in {"http", "https"}:
            raise ValueError("no http address")
        plain = socket.create_connection((url.hostname, url.port or (443 if secure else 80)), _CONNECT_S)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = plain
            if secure:
                connection = ssl.create_default_context().wrap_socket(plain, server_hostname=url.hostname)
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            lines = [f"GET {target} HTTP/1.0", f"Host: {url.netloc.rpartition('@')[2]}", "Accept: */*"]
            if url.username is not None:
                secret = f"{unquote(url.username)}:{unquote(url.password or '')}"
                lines.append(f"Authorization: Basic {b64encode(secret.encode()).decode()}")
            connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        except BaseException:
            plain.close()
            raise
        return connection

    def _receive(self, timeout_s: float) -> bool:
        """Take what is there, waiting for it up to `timeout_s` seconds; False when nothing came."""
        if self._socket is None:
            raise CameraError("it is not open")
        self._socket.settimeout(timeout_s)
        try:
            count = self._socket.recv_into(self._parts.space())
        except TimeoutError:
            return False
        except OSError as error:
            raise CameraError(f"the connection broke ({_reason(error)})") from error
        if count == 0:
            raise CameraError("it closed the connection")
        self._parts.received(count)
        return True


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
