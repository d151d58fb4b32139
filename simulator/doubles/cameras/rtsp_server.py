"""An RTSP camera on the loopback in plain Python.

Enough of RTSP (RFC 2326) and RTP/JPEG (RFC 2435) for a real client.

Interleaved over TCP only: a client that asks for UDP gets 461, as behind many firewalls. Images are baseline JPEGs
with the standard Huffman tables (what OpenCV and libjpeg write by default), sides multiples of 8 and at most 2040 px;
colour with 4:2:0 or 4:2:2 sampling; or, with `codec` h264, access units of a byte stream (RFC 6184). Their size may
change from one to the next. `RtspFault` says how such a camera can be dead.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import struct
import threading
import time
from base64 import b64encode
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal

from simulator.doubles.cameras.simulated_cameras import CameraServer

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Iterator

_PAYLOAD_BYTES: Final = 1_400
_CLOCK_HZ: Final = 90_000  # RTP's clock for video
_H264: Final = 96  # the payload type that the description gives to it
_SSRC: Final = 0x4B454E53
_METHODS: Final = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"


class RtspFault(StrEnum):
    """How a camera can be dead although its address answers."""

    SILENT = "silent"  # accepts and says nothing
    HANGS_UP = "hangs up"  # accepts and closes
    HALF_AN_ANSWER = "half an answer"  # stops in the middle of its headers, and keeps the connection
    CUT_ANSWER = "cut answer"  # closes in the middle of its headers
    NOT_RTSP = "not rtsp"  # a web server
    ENDLESS = "endless"  # headers that do not end
    NOT_FOUND = "404"
    FORBIDDEN = "403"
    FULL = "453"  # no bandwidth for another client
    NO_VIDEO = "no video"  # audio only
    MOVED = "301"
    SETUP_HANGS = "setup hangs"  # all is well up to SETUP, which is never answered
    PLAY_HANGS = "play hangs"
    NO_PICTURES = "no pictures"  # PLAY is answered and nothing follows


_ANSWERS: Final[dict[RtspFault | None, str]] = {
    RtspFault.NOT_FOUND: "404 Not Found",
    RtspFault.FORBIDDEN: "403 Forbidden",
    RtspFault.FULL: "453 Not Enough Bandwidth",
    RtspFault.MOVED: "301 Moved Permanently",
}
_BYTES: Final[dict[RtspFault | None, bytes]] = {
    RtspFault.HALF_AN_ANSWER: b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nPub",
    RtspFault.CUT_ANSWER: b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nPub",
    RtspFault.NOT_RTSP: b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    RtspFault.ENDLESS: b"RTSP/1.0 200 OK\r\n" + b"X-Pad: 0123456789\r\n" * 5_000,
}
_HANGING: Final[dict[RtspFault | None, str]] = {RtspFault.SETUP_HANGS: "SETUP", RtspFault.PLAY_HANGS: "PLAY"}
_CLOSING: Final = frozenset({RtspFault.HANGS_UP, RtspFault.CUT_ANSWER, RtspFault.NOT_RTSP})
_POLL_S: Final = 0.05
_HASHES: Final = {"digest": hashlib.md5, "digest-sha256": hashlib.sha256}


class RtspServer(CameraServer):
    """See the module. With `user` (name:password) every request but OPTIONS must carry it, as `scheme` says.

    A digest's nonce is good for `nonce_uses` requests; then the next challenge has a new one.
    """

    def __init__(
        self,
        *,
        picture: Callable[[int], bytes],
        fps: float = 25.0,
        user: str | None = None,
        scheme: Literal["basic", "digest", "digest-sha256"] = "basic",
        nonce_uses: int = 1_000_000,
        fault: RtspFault | None = None,
        codec: Literal["jpeg", "h264"] = "jpeg",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Serve from the entry of the `with` block on.

        Args:
            picture: Makes the JPEG of frame number n.
            fps: Frames a second.
            user: `name:password` that is required; None: none.
            scheme: Of the authentication.
            nonce_uses: Requests after which a nonce is stale.
            fault: How the server fails; None: not at all.
            codec: Of the stream.
            tls: Serves RTSPS with it.

        """
        super().__init__(picture=picture, fps=fps)
        self._codec = codec
        self._tls = tls
        self._fps = fps
        self._user = user
        self._scheme = scheme
        self._nonce_uses = nonce_uses
        self._nonces: dict[str, int] = {}  # nonce -> uses
        self._fault = fault
        self.requests: list[str] = []  # first lines and authorisations, for who must see no password in them

    @property
    def url(self) -> str:
        """The stream's address, without a user."""
        return f"{'rtsp' if self._tls is None else 'rtsps'}://127.0.0.1:{self._port}/line"

    def _handle_connection(self, connection: socket.socket) -> None:
        if self._tls is None:
            self._serve_requests(connection)
            return
        with self._tls.wrap_socket(connection, server_side=True) as secured:
            self._serve_requests(secured)

    def _serve_requests(self, connection: socket.socket) -> None:
        if self._fault is RtspFault.SILENT:
            self._wait_for_close()
            return
        sending = threading.Lock()  # an answer must not land inside a packet
        for method, uri, fields in _requests(connection):
            self.requests.append(f"{method} {uri} {fields.get('authorization', '')}")
            if self._fault in _BYTES or self._fault in _CLOSING:
                connection.sendall(_BYTES.get(self._fault, b""))
                if self._fault not in _CLOSING:
                    self._wait_for_close()
                return
            if _HANGING.get(self._fault) == method:
                self._wait_for_close()
                return
            status, answer, body = self._answer(method, uri, fields)
            lines = [f"RTSP/1.0 {status}", f"CSeq: {fields.get('cseq', '0')}", *answer]
            if body:
                lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
            with sending:
                connection.sendall("\r\n".join([*lines, "", body]).encode())
            plays = method == "PLAY" and status == "200 OK" and self._fault is not RtspFault.NO_PICTURES
            if plays and self._tls is not None:  # OpenSSL's connections are for one thread: what follows goes unheard
                self._play(connection, sending)
                return
            if plays:
                threading.Thread(
                    target=self._play, args=(connection, sending), name=f"rtsp {self._port}", daemon=True
                ).start()
            if method == "TEARDOWN":
                return

    def _wait_for_close(self) -> None:
        while self._listener is not None:
            time.sleep(_POLL_S)

    def _answer(self, method: str, uri: str, fields: dict[str, str]) -> tuple[str, list[str], str]:
        """Return status, header lines and body."""
        if method != "OPTIONS" and not self._is_authorised(method, uri, fields.get("authorization", "")):
            return "401 Unauthorized", [f"WWW-Authenticate: {self._challenge()}"], ""
        tcp = "TCP" in fields.get("transport", "")
        granted = ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1;timeout=60"]
        answers = {
            "OPTIONS": ("200 OK", [f"Public: {_METHODS}"], ""),
            "DESCRIBE": ("200 OK", [f"Content-Base: {self.url}/"], self._description()),
            "SETUP": ("200 OK", granted, "") if tcp else ("461 Unsupported Transport", [], ""),
            "PLAY": ("200 OK", ["Session: 1"], ""),
            "GET_PARAMETER": ("200 OK", ["Session: 1"], ""),
            "TEARDOWN": ("200 OK", ["Session: 1"], ""),
        }
        if method == "DESCRIBE" and self._fault in _ANSWERS:
            return _ANSWERS[self._fault], [], ""
        return answers.get(method, ("405 Method Not Allowed", [f"Allow: {_METHODS}"], ""))

    def _description(self) -> str:
        kind = ["m=video 0 RTP/AVP 26"]
        if self._codec == "h264":
            kind = [f"m=video 0 RTP/AVP {_H264}", f"a=rtpmap:{_H264} H264/{_CLOCK_HZ}"]
            kind.append(f"a=fmtp:{_H264} packetization-mode=1")
        media = [*kind, "a=control:track0", f"a=framerate:{self._fps:g}"]
        if self._fault is RtspFault.NO_VIDEO:
            media = ["m=audio 0 RTP/AVP 0", "a=control:track1"]
        sdp = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=line", "c=IN IP4 0.0.0.0", "t=0 0", *media]
        return "\r\n".join([*sdp, ""])

    def _challenge(self) -> str:
        if self._scheme == "basic":
            return 'Basic realm="camera"'
        nonce = secrets.token_hex(8)
        self._nonces[nonce] = 0
        modern = ', algorithm=SHA-256, qop="auth"' if self._scheme == "digest-sha256" else ""
        return f'Digest realm="camera", nonce="{nonce}"{modern}'

    def _is_authorised(self, method: str, uri: str, authorisation: str) -> bool:
        if self._user is None:
            return True
        if self._scheme == "basic":
            return authorisation == f"Basic {b64encode(self._user.encode()).decode()}"
        given = dict(re.findall(r'(\w+)="?([^",]*)', authorisation.removeprefix("Digest ")))
        name, _, password = self._user.partition(":")
        nonce = given.get("nonce", "")
        self._nonces[nonce] = self._nonces.get(nonce, self._nonce_uses) + 1

        def hashed(*parts: str) -> str:
            return _HASHES[self._scheme](":".join(parts).encode()).hexdigest()

        middle = [nonce, given.get("nc", ""), given.get("cnonce", ""), "auth"] if "nc" in given else [nonce]
        expected = hashed(hashed(name, "camera", password), *middle, hashed(method, uri))
        return given.get("uri") == uri and given.get("response") == expected and self._nonces[nonce] <= self._nonce_uses

    def _play(self, connection: socket.socket, sending: threading.Lock) -> None:
        sequence, is_h264 = 0, self._codec == "h264"
        kind, payloads = (_H264, _h264_payloads) if is_h264 else (26, _jpeg_payloads)
        try:
            for number, jpeg in enumerate(self._paced_pictures()):
                stamp = round(number * _CLOCK_HZ / self._fps)
                for last, payload in payloads(jpeg):
                    header = struct.pack(
                        ">BBHII", 0x80, kind | (0x80 if last else 0), sequence, stamp & 0xFFFFFFFF, _SSRC
                    )
                    packet = header + payload
                    with sending:
                        connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                    sequence = (sequence + 1) & 0xFFFF
        except OSError:
            return  # the client went away, or `kill` cut it off


def _requests(connection: socket.socket) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield method, URI and fields (names in lower case) of each request; the client's RTCP packets are skipped."""
    with connection.makefile("rb") as stream:
        while first := stream.read(1):
            if first == b"$":
                _, length = struct.unpack(">BH", stream.read(3))
                stream.read(length)
                continue
            method, _, rest = (first + stream.readline()).decode("latin-1").partition(" ")
            fields: dict[str, str] = {}
            while line := stream.readline().strip():
                name, _, value = line.decode("latin-1").partition(":")
                fields[name.strip().lower()] = value.strip()
            yield method, rest.partition(" ")[0], fields


def _jpeg_payloads(jpeg: bytes) -> Iterator[tuple[bool, bytes]]:
    """Yield the RTP payloads of one image (RFC 2435, section 3.1), each with whether it is the last."""
    tables, kind, height, width, scan = b"", 0, 0, 0, b""
    at = 2
    while not scan:
        marker, length = struct.unpack_from(">xBH", jpeg, at)
        body = jpeg[at + 4 : at + 2 + length]
        if marker == 0xDB:  # noqa: PLR2004  # DQT: each table has a byte with its number, then 64
            tables += b"".join(body[i + 1 : i + 65] for i in range(0, len(body), 65))
        elif marker == 0xC0:  # noqa: PLR2004  # SOF0
            height, width = struct.unpack_from(">HH", body, 1)
            kind = 1 if body[7] == 0x22 else 0  # noqa: PLR2004  # sampling of the luma: 2x2 is 4:2:0
        elif marker == 0xDA:  # noqa: PLR2004  # SOS
            scan = jpeg[at + 2 + length : -2]
        at += 2 + length
    for offset in range(0, len(scan), _PAYLOAD_BYTES):
        header = struct.pack(">I", offset) + bytes((kind, 255, width // 8, height // 8))  # 255: tables come along
        if offset == 0:
            header += struct.pack(">BBH", 0, 0, len(tables)) + tables
        last = offset + _PAYLOAD_BYTES >= len(scan)
        yield last, header + scan[offset : offset + _PAYLOAD_BYTES]


def _h264_payloads(unit: bytes) -> Iterator[tuple[bool, bytes]]:
    """Yield the RTP payloads of one access unit (RFC 6184): single NAL units and, for long ones, fragments (FU-A)."""
    nals = [nal for nal in re.split(rb"\x00\x00\x00?\x01", unit) if nal]
    for index, nal in enumerate(nals):
        is_last = index == len(nals) - 1
        if len(nal) <= _PAYLOAD_BYTES:
            yield is_last, nal
            continue
        head = nal[0] & 0xE0 | 28
        for at in range(1, len(nal), _PAYLOAD_BYTES):
            end = at + _PAYLOAD_BYTES >= len(nal)
            flags = nal[0] & 0x1F | (0x80 if at == 1 else 0) | (0x40 if end else 0)
            yield is_last and end, bytes((head, flags)) + nal[at : at + _PAYLOAD_BYTES]
