"""The answers that MJPEG servers give, as functions from a request's head and some JPEGs to bytes."""

from __future__ import annotations

import hashlib
import re
import struct
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USER: Final = "op"
PASSWORD: Final = "s3cret/with@signs"  # noqa: S105 - of a simulated camera

HEAD: Final = b"HTTP/1.0 200 OK\r\n"
MULTIPART: Final = b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
STREAM: Final = HEAD + MULTIPART
SEGMENT: Final = b"\xff\xe2"  # a segment that decoders pass over
_NONCE: Final = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
_REALM: Final = "AXIS_00408CE070B9"


@dataclass(frozen=True, slots=True)
class ServerBehaviour:
    """What a server does with a request (its head) and some JPEGs.

    `expected_error` is what the agent reports where it refuses the stream. `transform` changes the bytes of each JPEG
    before it is sent, without changing what it shows.
    """

    reported_by: str
    answer: Callable[[bytes, Sequence[bytes]], bytes]
    expected_error: str | None = None
    user: str = ""  # that the client needs in the address
    transform: Callable[[bytes], bytes] = bytes


def multipart_chunk(
    jpeg: bytes, *, head: bytes | None = None, name: bytes = b"--frame", after: bytes = b"\r\n"
) -> bytes:
    """Return one part: delimiter `name`, its headers, the JPEG, and what comes after it."""
    if head is None:
        head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n" % len(jpeg)
    return name + b"\r\n" + head + b"\r\n" + jpeg + after


def multipart_stream(start: bytes = STREAM, **how: bytes) -> Callable[[bytes, Sequence[bytes]], bytes]:
    """Answer with `start` and the parts as `part` makes them."""
    return lambda _, pictures: start + b"".join(multipart_chunk(jpeg, **how) for jpeg in pictures)


def stream_of(part: Callable[[bytes], bytes], end: bytes = b"") -> Callable[[bytes, Sequence[bytes]], bytes]:
    """Answer with the standard head, what `part` makes of each JPEG, and `end`."""
    return lambda _, pictures: STREAM + b"".join(map(part, pictures)) + end


def concatenated_jpegs(content_type: bytes) -> Callable[[bytes, Sequence[bytes]], bytes]:
    """Answer with that header line and JPEGs one after another."""
    return lambda _, pictures: HEAD + content_type + b"\r\n" + b"".join(pictures)


def fixed_response(answer: bytes) -> Callable[[bytes, Sequence[bytes]], bytes]:
    """Answer always with the same bytes."""
    return lambda _, __: answer


def chunked(size: int | None, extension: bytes = b"") -> Callable[[bytes, Sequence[bytes]], bytes]:
    """Chunks of `size` bytes; None: one for each piece of a part, as ESP-IDF's server sends them."""

    def answer(_: bytes, pictures: Sequence[bytes]) -> bytes:
        pieces = [
            piece for jpeg in pictures for piece in (multipart_chunk(jpeg, after=b"")[: -len(jpeg)], jpeg, b"\r\n")
        ]
        if size is not None:
            body = b"".join(pieces)
            pieces = [body[at : at + size] for at in range(0, len(body), size)]
        head = b"HTTP/1.1 200 OK\r\n" + MULTIPART[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
        return head + b"".join(b"%X%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces) + b"0\r\n\r\n"

    return answer


# --- JPEGs that are more than one image's coded data ----------------------------------------------------------------


def to_png(jpeg: bytes) -> bytes:
    """Encode the image without loss, as some servers of people's own do."""
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return b"" if pixels is None else cv2.imencode(".png", pixels)[1].tobytes()


def with_segment(marker: bytes, content: bytes) -> Callable[[bytes], bytes]:
    """Return what puts a segment after the start marker."""
    return lambda jpeg: jpeg[:2] + marker + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def with_thumbnail(jpeg: bytes) -> bytes:
    """Put the image into itself, as a camera's EXIF segment holds a small one: with start and end markers."""
    return with_segment(b"\xff\xe1", b"Exif\x00\x00" + jpeg[:60_000])(jpeg)


# --- logging in, moving -----------------------------------------------------------------------------------------------


def unauthorized_response(*challenges: bytes) -> bytes:
    """Return a 401 with these challenges."""
    lines = b"".join(b"WWW-Authenticate: " + challenge + b"\r\n" for challenge in challenges)
    return b"HTTP/1.1 401 Unauthorized\r\n" + lines + b"Content-Length: 0\r\n\r\n"


def _sent(request: bytes) -> str:
    found = re.search(rb"\r\nauthorization: *([^\r\n]+)", request, re.IGNORECASE)
    return "" if found is None else found[1].decode()


def basic(request: bytes, pictures: Sequence[bytes]) -> bytes:
    """Ask for Basic."""
    wanted = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    return (
        multipart_stream()(request, pictures)
        if _sent(request) == f"Basic {wanted}"
        else unauthorized_response(b'Basic realm="c"')
    )


def digest(
    algorithm: str, *, qop: bool = True, session: bool = False, also: bytes = b""
) -> Callable[[bytes, Sequence[bytes]], bytes]:
    """Digest as RFC 7616 has it; checks the client's answer."""

    def hashed(text: str) -> str:
        made = hashlib.sha256 if algorithm == "SHA-256" else hashlib.md5
        return made(text.encode()).hexdigest()

    def answer(request: bytes, pictures: Sequence[bytes]) -> bytes:
        given = dict(re.findall(r'(\w+)="?([^",]*)"?', _sent(request)))
        key = hashed(f"{USER}:{_REALM}:{PASSWORD}")
        if session:
            key = hashed(f"{key}:{_NONCE}:{given.get('cnonce')}")
        target = request.split(b" ")[1].decode()
        middle = f"{_NONCE}:{given.get('nc')}:{given.get('cnonce')}:auth" if qop else _NONCE
        wanted = hashed(f"{key}:{middle}:{hashed(f'GET:{target}')}")
        if _sent(request).startswith("Digest ") and given.get("response") == wanted and given.get("uri") == target:
            return multipart_stream()(request, pictures)
        challenge = f'Digest realm="{_REALM}", nonce="{_NONCE}", opaque="5ccc069c", stale=FALSE'
        challenge += ', qop="auth,auth-int"' if qop else ""
        challenge += f", algorithm={algorithm}{'-sess' if session else ''}" if qop else ""
        return unauthorized_response(*filter(None, [also, challenge.encode()]))

    return answer


def stale_digest(request: bytes, pictures: Sequence[bytes]) -> bytes:
    """Take the first answer for one to an old nonce, and the second one."""
    asked = digest("MD5")
    old = _NONCE.replace("d", "e")
    if f'nonce="{old}"' in _sent(request):
        return asked(b"GET / HTTP/1.0\r\n\r\n", pictures).replace(b"stale=FALSE", b"stale=TRUE")
    if not _sent(request):
        return asked(request, pictures).replace(_NONCE.encode(), old.encode())
    return asked(request, pictures)


def silent_basic(status: bytes) -> Callable[[bytes, Sequence[bytes]], bytes]:
    """Take Basic, and refuse everything else without a word about how to log in."""

    def answer(request: bytes, pictures: Sequence[bytes]) -> bytes:
        answered = basic(request, pictures)
        return answered if answered.startswith(HEAD) else b"HTTP/1.0 " + status + b"\r\n\r\n"

    return answer


def redirect(location: bytes) -> Callable[[bytes, Sequence[bytes]], bytes]:
    """Redirect to `location`; what lies below /moved/ is the stream."""

    def answer(request: bytes, pictures: Sequence[bytes]) -> bytes:
        if b"GET /moved/" in request:
            return multipart_stream()(request, pictures)
        return b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"

    return answer


def only_http_1_1(request: bytes, pictures: Sequence[bytes]) -> bytes:
    """Answer HTTP/1.1 only, and then in chunks."""
    if b" HTTP/1.1\r\n" in request:
        return chunked(None)(request, pictures)
    return b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: HTTP/1.1\r\nContent-Length: 0\r\n\r\n"


def first_headers_in_response_head(_: bytes, pictures: Sequence[bytes]) -> bytes:
    """Let the first part's headers stand among the answer's."""
    head = b"HTTP/1.1 200 OK\r\n" + MULTIPART[:-2]
    return head + b"\r\n--frame\r\n".join(
        b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg for jpeg in pictures
    )


def no_first_boundary(_: bytes, pictures: Sequence[bytes]) -> bytes:
    """Send a delimiter after each part, and none before the first."""
    return STREAM + b"".join(
        b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n--frame\r\n"
        for jpeg in pictures
    )
