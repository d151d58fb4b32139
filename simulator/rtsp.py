"""An RTSP camera on loopback in plain Python: enough of RTSP (RFC 2326) and RTP/JPEG (RFC 2435) for a real client.

Interleaved over TCP only: a client that asks for UDP gets 461, as behind many firewalls. Pictures are baseline JPEGs
with the standard Huffman tables (what OpenCV and libjpeg write by default), sides multiples of 8 and at most 2040 px;
colour with 4:2:0 or 4:2:2 sampling.
"""

from __future__ import annotations

import struct
import threading
from base64 import b64encode
from typing import TYPE_CHECKING, Final

from simulator.cameras import CameraServer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

_PAYLOAD_BYTES: Final = 1_400
_CLOCK_HZ: Final = 90_000  # RTP's clock for video
_SSRC: Final = 0x4B454E53
_METHODS: Final = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"


class RtspServer(CameraServer):
    """See the module. With `user` (name:password) every request must carry it as Basic authorisation."""

    def __init__(self, *, picture: Callable[[int], bytes], fps: float = 25.0, user: str | None = None) -> None:
        super().__init__(picture=picture, fps=fps)
        self._fps = fps
        self._secret = None if user is None else f"Basic {b64encode(user.encode()).decode()}"

    @property
    def url(self) -> str:
        """The stream's address, without a user."""
        return f"rtsp://127.0.0.1:{self._port}/line"

    def _converse(self, connection: socket.socket) -> None:
        sending = threading.Lock()  # an answer must not land inside a packet
        for method, fields in _requests(connection):
            status, answer, body = self._answer(method, fields)
            lines = [f"RTSP/1.0 {status}", f"CSeq: {fields.get('cseq', '0')}", *answer]
            if body:
                lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
            with sending:
                connection.sendall("\r\n".join([*lines, "", body]).encode())
            if method == "PLAY" and status == "200 OK":
                threading.Thread(
                    target=self._play, args=(connection, sending), name=f"rtsp {self._port}", daemon=True
                ).start()
            if method == "TEARDOWN":
                return

    def _answer(self, method: str, fields: dict[str, str]) -> tuple[str, list[str], str]:
        """Return status, header lines and body."""
        if self._secret is not None and method != "OPTIONS" and fields.get("authorization") != self._secret:
            return "401 Unauthorized", ['WWW-Authenticate: Basic realm="camera"'], ""
        match method:
            case "OPTIONS":
                return "200 OK", [f"Public: {_METHODS}"], ""
            case "DESCRIBE":
                media = ["m=video 0 RTP/AVP 26", "a=control:track0", f"a=framerate:{self._fps:g}"]
                sdp = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=line", "c=IN IP4 0.0.0.0", "t=0 0", *media]
                return "200 OK", [f"Content-Base: {self.url}/"], "\r\n".join([*sdp, ""])
            case "SETUP":
                tcp = "TCP" in fields.get("transport", "")
                granted = ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1;timeout=60"]
                return ("200 OK", granted, "") if tcp else ("461 Unsupported Transport", [], "")
            case "PLAY" | "GET_PARAMETER" | "TEARDOWN":
                return "200 OK", ["Session: 1"], ""
            case _:
                return "405 Method Not Allowed", [f"Allow: {_METHODS}"], ""

    def _play(self, connection: socket.socket, sending: threading.Lock) -> None:
        sequence = 0
        try:
            for number, jpeg in enumerate(self._paced_pictures()):
                stamp = round(number * _CLOCK_HZ / self._fps)
                for last, payload in _payloads(jpeg):
                    header = struct.pack(
                        ">BBHII", 0x80, 26 | (0x80 if last else 0), sequence, stamp & 0xFFFFFFFF, _SSRC
                    )
                    packet = header + payload
                    with sending:
                        connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                    sequence = (sequence + 1) & 0xFFFF
        except OSError:
            return  # the client went away, or `kill` cut it off


def _requests(connection: socket.socket) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield method and fields (names in lower case) of each request; the client's RTCP packets are skipped."""
    with connection.makefile("rb") as stream:
        while first := stream.read(1):
            if first == b"$":
                _, length = struct.unpack(">BH", stream.read(3))
                stream.read(length)
                continue
            method = (first + stream.readline()).split(b" ", 1)[0].decode("latin-1")
            fields: dict[str, str] = {}
            while line := stream.readline().strip():
                name, _, value = line.decode("latin-1").partition(":")
                fields[name.strip().lower()] = value.strip()
            yield method, fields


def _payloads(jpeg: bytes) -> Iterator[tuple[bool, bytes]]:
    """Yield the RTP payloads of one picture (RFC 2435, section 3.1), each with whether it is the last."""
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
