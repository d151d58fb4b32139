"""The connection to an MJPEG camera: connects, logs in, and reads images within given times.

Promise: a call returns within its time-out (a new connection for a login or a redirect may take 0.8 s more, and its TLS
handshake 3 s, which `live_stream` keeps from the line); arrivals are bounded, see `mjpeg_parser`; each image carries
the time of its last byte and is checked before it is decoded, so a truncated one is a counted drop. A protocol error is
a CameraError; the capture thread reconnects. A redirect is followed on the same host only, and never from https to
http: the password goes to the configured camera alone. The reader is our own and not OpenCV's because that one neither
detects a truncated image nor allows a bounded read.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

from agent.adapters.mjpeg import camera_tls
from agent.adapters.mjpeg.mjpeg_parser import MjpegParser
from agent.cameras.camera_auth import authorization_header, basic_header
from agent.cameras.camera_url import CameraAddress, CameraEndpoint, redact
from agent.errors import CameraError
from agent.images.decode import MAX_IMAGE_BYTES, ImageDecoder
from agent.records import Grab
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from pathlib import Path

    from agent.adapters.mjpeg.http_response import ResponseHead
    from agent.images.decode import Encoded
    from agent.records import Pixels
    from agent.timing.clock import Clock

_CONNECT_S: Final = 0.8  # a camera is on the local network; stopping must not wait longer than a second
_PORTS: Final = {"http": 80, "https": 443}
_STALE: Final = re.compile(r"stale\s*=\s*\"?true", re.IGNORECASE)  # the password was right, the nonce too old
_MAX_REQUESTS: Final = 5  # for one opening: a login and some redirects


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An encoded image; `data` is valid until the next one is read. `arrived_ns` is the time of its last byte."""

    data: Encoded
    arrived_ns: int  # monotonic


@dataclass(frozen=True, slots=True)
class _Request:
    """One request: where, with which authorization, in which version of HTTP."""

    target: CameraEndpoint
    authorization: str | None = None
    version: str = "1.0"  # few servers answer it with chunks


class MjpegSource:
    """The MJPEG stream at `url`.

    Args:
        url: http or https.
        clock: monotonic time.
        username: replaces the user in the address.
        password_file: replaces the password in the address; read at each opening.
        ca: certificates in PEM, of the authority that signed the camera's or the camera's own.
        max_part_bytes: bound of one image.
    """

    def __init__(
        self,
        *,
        url: str,
        clock: Clock,
        username: str | None = None,
        password_file: Path | None = None,
        ca: Path | None = None,
        max_part_bytes: int = MAX_IMAGE_BYTES,
    ) -> None:
        self._address = CameraAddress(url=url, username=username, password_file=password_file)
        self._name = self._address.redacted
        self._ca = ca
        self._clock = clock
        self._max_bytes = max_part_bytes
        self._decoder = ImageDecoder()
        self._socket: socket.socket | None = None
        self._pictures = MjpegParser(max_picture_bytes=max_part_bytes)
        self._pending_request: _Request | None = None
        self._asked = 0  # since the last opening
        self._must_ask = False
        self._received_ns = 0

    @property
    def name(self) -> str:
        """The camera's name in errors."""
        return self._name

    def open(self) -> None:
        """See `FrameSource.open`; connects and sends the request; `read` reads the answer."""
        self.close()
        try:
            target = self._address.resolve()
            self._pending_request = _Request(target)  # without the password: a camera that wants Digest must not get it
            self._asked = 0
            self._send_request(self._pending_request)
        except CameraError as error:
            raise self._named(error) from None

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`."""
        picture = self.next_image(timeout_s=timeout_s)
        return None if picture is None else self.decode(picture, buffer)

    def next_image(self, *, timeout_s: float) -> EncodedImage | None:
        """Return the next encoded image, or None when none was complete within `timeout_s`. Raises CameraError."""
        deadline_ns = self._clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        try:
            if self._must_ask and self._pending_request is not None:
                self._send_request(self._pending_request)
            while (data := self._pictures.next_image()) is None:
                head = self._pictures.head
                if head is not None and head.status != 200:  # noqa: PLR2004
                    self._pending_request = self._next_request(head)
                    self._must_ask = True  # by the next call, which has time for it
                    return None
                left_ns = deadline_ns - self._clock.monotonic_ns()
                if left_ns <= 0 or not self._receive(left_ns / NS_PER_S):
                    return None
        except CameraError as error:
            raise self._named(error) from None
        return EncodedImage(data, self._received_ns)

    def decode(self, picture: EncodedImage, buffer: Pixels | None) -> Grab:
        """Decode into `buffer` where its size fits. Raises FrameError."""
        return Grab(pixels=self._decoder.decode(picture.data, buffer), due_ns=picture.arrived_ns)

    def close(self) -> None:
        """See `FrameSource.close`."""
        self._decoder.close()
        self._disconnect()

    def _named(self, error: CameraError) -> CameraError:
        return CameraError(f"{self._name}: {error}")

    def _disconnect(self) -> None:
        self._must_ask = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send_request(self, request: _Request) -> None:
        """Connect and send the request. Raises CameraError."""
        self._disconnect()
        self._asked += 1
        self._pictures = MjpegParser(max_picture_bytes=self._max_bytes)
        target = request.target
        if target.scheme not in _PORTS:
            raise _malformed()
        try:
            if target.scheme == "https":
                self._socket = camera_tls.connect_tls(lambda: _connect(target), host=target.host, ca=self._ca)
            else:
                self._socket = _connect(target)
            self._socket.sendall(_encode_request(request))
        except OSError as error:
            self._disconnect()
            raise CameraError(f"it cannot be reached ({_reason(error)}): check address, cable, power") from None
        except UnicodeError:  # an invalid host name, or an error that quotes the request with its password
            self._disconnect()
            raise _malformed() from None
        except CameraError:
            self._disconnect()
            raise

    def _next_request(self, head: ResponseHead) -> _Request:
        """Return the next request after an answer other than 200. Raises CameraError where nothing is left to try."""
        request = self._pending_request
        if request is None or self._asked >= _MAX_REQUESTS:
            raise CameraError(f"it answers HTTP {head.status} again and again: check its address")
        login = request.target.credentials
        match head.status:
            case 401:
                return self._with_login(request, head)
            case 403 if (
                login is not None and request.authorization is None
            ):  # it requires a login without requesting one
                return replace(request, authorization=basic_header(login))
            case 301 | 302 | 303 | 307 | 308:
                return self._follow_redirect(request, head.fields.get("location", ""))
            case 426 | 505 if request.version == "1.0":
                return replace(request, version="1.1")
            case 403:
                raise CameraError("it refuses the user (HTTP 403): put user and password into its address")
            case _:
                raise CameraError(f"it answers HTTP {head.status}: check the path in its address")

    def _with_login(self, request: _Request, head: ResponseHead) -> _Request:
        login = request.target.credentials
        if login is None:
            raise CameraError(
                "it asks for a user (HTTP 401): put user and password into its address, or give username and "
                "password_file"
            )
        offered = head.challenges or ("Basic",)  # the meaning of no challenge at all
        answer = authorization_header(offered, login, method="GET", uri=request.target.path)
        if answer is None:
            raise CameraError("it asks for a login that is neither Basic nor Digest with MD5 or SHA-256 (HTTP 401)")
        is_stale = any(_STALE.search(challenge) for challenge in offered)
        if request.authorization is not None and not is_stale:
            raise CameraError("it refuses the user (HTTP 401): check user and password")
        return replace(request, authorization=answer)

    def _follow_redirect(self, request: _Request, location: str) -> _Request:
        old = request.target
        moved = urljoin(f"{old.scheme}://{old.authority}{old.path}", location)
        try:
            new = CameraAddress(url=moved).resolve({})
        except CameraError:
            raise CameraError("it moved to an unknown place: check its address") from None
        if new.host.lower() != old.host.lower() or new.scheme not in ("https", old.scheme):
            raise CameraError(f"it moved to {redact(moved)}: give that address")
        return replace(request, target=replace(new, credentials=old.credentials), authorization=None)

    def _receive(self, timeout_s: float) -> bool:
        """Take the bytes that arrive within `timeout_s` seconds; False when none came."""
        if self._socket is None:
            raise CameraError("it is not open")
        if self._pictures.is_ended:
            raise self._pictures.end_error()
        self._socket.settimeout(timeout_s)
        try:
            count = self._socket.recv_into(self._pictures.get_buffer())
        except TimeoutError:
            return False
        except OSError as error:
            raise CameraError(f"the connection broke ({_reason(error)})") from None
        if count == 0:
            raise self._pictures.end_error()
        self._received_ns = self._clock.monotonic_ns()
        self._pictures.buffer_updated(count)
        return True


def _connect(target: CameraEndpoint) -> socket.socket:
    connection = socket.create_connection((target.host, target.port or _PORTS[target.scheme]), _CONNECT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _encode_request(request: _Request) -> bytes:
    target = request.target
    lines = [
        f"GET {target.path} HTTP/{request.version}",
        f"Host: {target.authority}",
        "Accept: */*",
    ]
    if request.version == "1.1":
        lines.append("Connection: close")
    if request.authorization is not None:
        lines.append(f"Authorization: {request.authorization}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _malformed() -> CameraError:
    return CameraError("its address is malformed: one like http://camera/stream is needed")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
