"""Parses a camera's HTTP answer: its head, and its body without the chunk framing.

Promise: accepts what cameras send, even against the standard: bare line feeds, ICY status lines, header lines without a
colon, folded lines, chunks in answer to HTTP/1.0 (RFC 9112, section 7.1). Anything that is not HTTP is a CameraError
that never quotes the answer at length: a server may echo the request, and with it a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agent.errors import CameraError

MAX_HEAD_BYTES: Final = 16 * 1024  # of the answer's head, and of each multipart section's headers

_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_STATUS: Final = re.compile(r"(?:HTTP/\d(?:\.\d)?|ICY)[ \t]+(\d{3})(?!\d)")
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9.+*-]{1,40}/[a-z0-9.+*-]{1,60}")
_MAX_CHUNK_LINE_BYTES: Final = 256
_STARTS: Final = ("HTTP/", "ICY ")
_OTHER_PROTOCOLS: Final = {
    "SSH-": "it is an SSH server",
    "RTSP/": "it speaks RTSP: use `kind: rtsp` and an address like rtsp://camera/stream",
    "220": "it is an FTP or mail server",
    "\x15\x03": "it speaks TLS: write its address with https://",
}


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of an answer: `fields` by lower-case name, of repeated ones the first; `challenges` are all of them."""

    status: int
    fields: dict[str, str]
    challenges: tuple[str, ...] = ()  # values of WWW-Authenticate

    @property
    def media_type(self) -> str:
        """Type and subtype of Content-Type in lower case; empty where there is none that may be shown."""
        return media_type(self.fields.get("content-type", ""))


def media_type(value: str) -> str:
    """Return type and subtype of a Content-Type in lower case; empty where there is none that may be shown."""
    found = _MEDIA_TYPE.match(value.strip().lower())
    return found[0] if found else ""


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a Content-Type announces, without the dashes before it; empty when there is none.

    Cameras put blanks around the `=`, quotes on either side or on one, and the leading dashes into it or not.
    """
    found = re.search(r"""boundary\s*=\s*["']?([^\s"';,]+(?: [^\s"';,]+)*)""", content_type, re.IGNORECASE)
    return found[1].strip().lstrip("-").encode("latin-1") if found else b""


def find_head(buffer: bytearray, start: int, end: int) -> tuple[int, int] | None:
    """Return where the head that begins at `start` ends and where the body begins; None when more must come.

    Raises CameraError for a head without end.
    """
    found = _HEAD_END.search(buffer, start, end)
    if found is None:
        if end - start > MAX_HEAD_BYTES:
            raise CameraError(f"the answer's headers do not end within {MAX_HEAD_BYTES:,} bytes")
        return None
    return found.start(), found.end()


def check_start(data: bytes) -> None:
    """Raise CameraError when `data`, the first bytes of an answer, cannot become a head of HTTP."""
    text = data.decode("latin-1")
    if not text.startswith(_STARTS) and not any(start.startswith(text) for start in _STARTS):
        raise _not_http_error(text)


def _not_http_error(start: str) -> CameraError:
    known = next((said for begin, said in _OTHER_PROTOCOLS.items() if start.startswith(begin)), None)
    return CameraError(f"it does not answer in HTTP: {known or 'check address and port'}")


def parse_head(data: bytes) -> ResponseHead:
    """Parse a head, without the empty line that ends it. Raises CameraError for what is no HTTP."""
    first, *lines = re.split(r"\r?\n", data.decode("latin-1"))
    status = _STATUS.match(first)
    if status is None:
        raise _not_http_error(first)
    fields: dict[str, str] = {}
    challenges = []
    for line in _unfold(lines):
        name, colon, value = line.partition(":")
        key, value = name.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "www-authenticate":
            challenges.append(value)
        elif key == "content-type" and value.lower().startswith("multipart/"):
            fields[key] = value  # without a boundary the headers of the first multipart section are here as well
        else:
            fields.setdefault(key, value)
    return ResponseHead(int(status[1]), fields, tuple(challenges))


def _unfold(lines: list[str]) -> list[str]:
    """Join each line that begins with a blank to the one before it (obs-fold of RFC 9112, section 5.2)."""
    joined: list[str] = []
    for line in lines:
        if line[:1] in {" ", "\t"} and joined:
            joined[-1] += " " + line.strip()
        else:
            joined.append(line)
    return joined


class ChunkDecoder:
    """Removes the chunk framing from a body, in place, however the bytes are split on arrival.

    A server that announces chunks and sends none is believed by what it sends.
    """

    def __init__(self) -> None:
        self._left = 0  # of the current chunk's data
        self._line = b""  # incomplete
        self._first = True
        self._plain = False
        self.is_ended = False  # the last chunk came

    def compact(self, buffer: bytearray, start: int, end: int) -> int:
        """Move the data in buffer[start:end] to `start`; return its new end. Raises CameraError."""
        kept = at = start
        while at < end and not self.is_ended:
            if self._left == 0:
                at = self._take_line(buffer, at, end)
                continue
            count = min(self._left, end - at)
            if kept != at:
                buffer[kept : kept + count] = buffer[at : at + count]
            kept, at, self._left = kept + count, at + count, self._left - count
        return kept

    def _take_line(self, buffer: bytearray, at: int, end: int) -> int:
        """Take the line with the next chunk's size, as far as it arrived; return where to continue."""
        if self._plain:
            self._left = end - at
            return at
        stop = buffer.find(b"\n", at, end)
        taken = end if stop < 0 else stop + 1
        if taken - at + len(self._line) > _MAX_CHUNK_LINE_BYTES:
            return self._refuse_line(buffer, at, bytes(buffer[at : at + 8]))
        self._line += buffer[at:taken]
        if stop < 0:
            return taken
        line, self._line = self._line.strip(), b""
        if not line:  # which ends the data of the chunk before
            return taken
        size = re.match(rb"[0-9A-Fa-f]{1,15}(?=$|[ \t;])", line)
        if size is None:
            return self._refuse_line(buffer, at, line)
        self._first = False
        self._left = int(size[0], 16)
        self.is_ended = self._left == 0
        return taken

    def _refuse_line(self, buffer: bytearray, at: int, line: bytes) -> int:
        if self._first and not self._line and line[:2] in {b"--", b"\xff\xd8"}:
            self._plain = True
            return at
        raise CameraError("it announces chunks, but does not send them: check for a proxy between")
