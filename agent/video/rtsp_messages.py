"""Parses a byte stream of RTSP 1.0 (RFC 2326) into messages and interleaved packets; no I/O.

Promise: memory is bounded whatever arrives. Within an established session, bytes between messages that are neither are
skipped, as FFmpeg does; before the first message they are an error, because then the peer uses another protocol.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_HEADER_BYTES: Final = 16 * 1024
MAX_BODY_BYTES: Final = 256 * 1024  # an SDP has a few kB
_PACKET_HEADER: Final = 4  # bytes: $, channel, length of two bytes (RFC 2326, 10.12)
_END_OF_HEADERS: Final = re.compile(rb"\r?\n\r?\n")
_START: Final = re.compile(rb"\$|RTSP/1\.|[A-Z_]{3,20} [!-~]+ RTSP/1\.")
_LINE_BEGUN: Final = re.compile(rb"[A-Z_]{1,20}[ -~]{0,2048}\Z")
_STATUS_LINE: Final = re.compile(r"RTSP/1\.\d (\d{3}) ?(.*)")
_REQUEST_LINE: Final = re.compile(r"([A-Z_]{3,20}) (\S+) RTSP/1\.\d")
_LONGEST_START: Final = 2_048  # bytes of a request line, after which no message can begin at that place


class NotRtspError(ValueError):
    """The peer does not speak RTSP, or exceeds a bound; the text shows what arrived."""


@dataclass(frozen=True, slots=True)
class RtspMessage:
    """A request or a response. `fields` are (name, value) in their order, as they came."""

    start: str
    fields: tuple[tuple[str, str], ...]
    body: bytes = b""

    @property
    def status(self) -> int | None:
        """The status code; None for a request."""
        found = _STATUS_LINE.fullmatch(self.start)
        return None if found is None else int(found[1])

    @property
    def reason(self) -> str:
        """The text after the status code, at most 60 printable characters, because it is untrusted."""
        found = _STATUS_LINE.fullmatch(self.start)
        return "" if found is None else re.sub(r"[^ -~]", "?", found[2])[:60]

    @property
    def request(self) -> tuple[str, str] | None:
        """Method and URI; None for a response."""
        found = _REQUEST_LINE.fullmatch(self.start)
        return None if found is None else (found[1], found[2])

    def get_all(self, name: str) -> list[str]:
        """Return the values of all fields of that name, in any case."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """Return the first value, or None."""
        return next(iter(self.get_all(name)), None)

    def replaced(self, *, start: str | None = None, **fields: str | None) -> RtspMessage:
        """Return a copy with another first line and other fields (`cseq="3"`; None removes a field)."""
        kept = tuple((name, value) for name, value in self.fields if name.lower() not in fields)
        new = tuple((name.title(), value) for name, value in fields.items() if value is not None)
        return RtspMessage(self.start if start is None else start, new + kept, self.body)

    def encode(self) -> bytes:
        """Return the bytes of the message."""
        lines = [self.start, *(f"{name}: {value}" for name, value in self.fields), "", ""]
        return "\r\n".join(lines).encode("latin-1", "replace") + self.body


@dataclass(frozen=True, slots=True)
class InterleavedPacket:
    """An RTP or RTCP packet; `data` includes the four bytes before it."""

    channel: int
    data: bytes

    @property
    def payload(self) -> memoryview:
        """The packet itself."""
        return memoryview(self.data)[_PACKET_HEADER:]


class RtspParser:
    """Takes bytes, returns complete messages and packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._strict = True  # no message was parsed yet

    def feed(self, data: bytes) -> list[RtspMessage | InterleavedPacket]:
        """Take the bytes that arrived; return the items that are complete. Raises NotRtspError."""
        self._buffer += data
        items: list[RtspMessage | InterleavedPacket] = []
        at = 0
        while (found := self._next(at)) is not None:
            item, at = found
            self._strict = False
            items.append(item)
        del self._buffer[:at]
        self._skip_noise()
        return items

    def _next(self, at: int) -> tuple[RtspMessage | InterleavedPacket, int] | None:
        """Return the item that begins at `at` and its end; None when it is incomplete."""
        buffer = self._buffer
        if at >= len(buffer):
            return None
        if buffer[at] == ord("$"):
            if len(buffer) - at < _PACKET_HEADER:
                return None
            end = at + _PACKET_HEADER + int.from_bytes(buffer[at + 2 : at + 4], "big")
            return None if end > len(buffer) else (InterleavedPacket(buffer[at + 1], bytes(buffer[at:end])), end)
        return self._next_message(at)

    def _next_message(self, at: int) -> tuple[RtspMessage, int] | None:
        if not self._can_start(at):
            return None
        end = _END_OF_HEADERS.search(self._buffer, at, at + MAX_HEADER_BYTES)
        if end is None:
            if len(self._buffer) - at > MAX_HEADER_BYTES:
                raise NotRtspError(f"headers of a message do not end within {MAX_HEADER_BYTES:,} bytes")
            return None
        first, *lines = re.split(r"\r?\n", self._buffer[at : end.start()].decode("latin-1"))
        fields = tuple(
            (name.strip(), value.strip()) for name, colon, value in (line.partition(":") for line in lines) if colon
        )
        message = RtspMessage(first.strip(), fields)
        length = message.get("content-length") or "0"
        if not re.fullmatch(r"[0-9]{1,9}", length) or int(length) > MAX_BODY_BYTES:
            raise NotRtspError(f"a message of {length[:20]} bytes is announced; at most {MAX_BODY_BYTES:,} are taken")
        stop = end.end() + int(length)
        if stop > len(self._buffer):
            return None
        return RtspMessage(message.start, fields, bytes(self._buffer[end.end() : stop])), stop

    def _can_start(self, at: int) -> bool:
        """Whether a message begins here. Raises NotRtspError when the peer's first bytes are something else."""
        begun = bytes(self._buffer[at : at + _LONGEST_START])
        if _START.match(begun):
            return True
        line_is_whole = b"\n" in begun or len(begun) == _LONGEST_START
        if self._strict and (line_is_whole or not re.match(rb"[A-Z_]", begun)):
            shown = re.sub(r"[^ -~]", "?", begun[:40].split(b"\r")[0].split(b"\n")[0].decode("latin-1"))
            raise NotRtspError(f"it says {shown!r}")
        return False

    def _skip_noise(self) -> None:
        """Drop bytes that begin neither a message nor a packet, once the session has begun."""
        if self._strict or not self._buffer or self._buffer[0] == ord("$"):
            return
        if re.match(rb"[A-Z_]", self._buffer) and b"\n" not in self._buffer and len(self._buffer) < _LONGEST_START:
            return  # an incomplete line
        found = _START.search(self._buffer) or _LINE_BEGUN.search(self._buffer)
        del self._buffer[: len(self._buffer) if found is None else found.start()]
