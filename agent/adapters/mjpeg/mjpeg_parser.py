"""Parses the bytes of an HTTP answer into images; does no I/O.

Promise: the same bytes give the same images however they are split on arrival; memory is bounded. An image ends where
its JPEG structure ends, and is returned with its last byte. Boundary and Content-Length, which cameras get wrong in
every way, are used only to find where an image begins, where a damaged one ends, and how long a section is that is no
JPEG. A truncated image is returned as it came, for the decoder to refuse and the line to count, and the stream
continues at the next one.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from agent.adapters.mjpeg import http_response, jpeg_end
from agent.errors import CameraError

_FIRST_BUFFER_BYTES: Final = 256 * 1024
_MAX_LINE_BYTES: Final = 300  # of a delimiter; RFC 2046 allows 70 characters
_MIN_DELIMITER_BYTES: Final = 6  # a shorter delimiter and its line break occur by chance once in some thousand images
_NOT_BLANK: Final = re.compile(rb"[^\r\n \t\x00]")
# A line that starts with two dashes: a delimiter, outside of an image.
_DASHES: Final = re.compile(rb"--[^\r\n\xff]{0,%d}\r?\n" % _MAX_LINE_BYTES)
_DASHES_IN_NEW_LINE: Final = re.compile(rb"(?<=[\r\n\x00])" + _DASHES.pattern)
_AFTER_DELIMITER: Final = re.compile(rb"(--)?[ \t]*\r?\n|(?=[Cc]ontent-)")
_PICTURE_START: Final = re.compile(rb"\xff\xd8\xff")
_PICTURE_TYPES: Final = frozenset({"", "application/octet-stream"})


class _Expect(Enum):
    HEAD = "the answer's head"
    KIND = "what kind of stream it is"
    PART = "a boundary or a picture"
    HEADERS = "a part's headers"
    BODY = "a part's body"
    NOTHING = "nothing: it is no answer with pictures"


class MjpegParser:
    """Cuts one answer into images. The view that `next_image` returns is valid until the next `get_buffer`."""

    def __init__(self, *, max_picture_bytes: int) -> None:
        self._max_bytes = max_picture_bytes
        self._buffer = bytearray(_FIRST_BUFFER_BYTES)
        self._start = self._end = 0  # of the unprocessed bytes in the buffer
        self._searched = 0  # no match begins before this
        self._expect = _Expect.HEAD
        self._chunks: http_response.ChunkDecoder | None = None
        self._type = ""  # media type of the answer
        self._name = b""  # of the announced boundary, without dashes
        self._delimiter = b""  # as it came last, with its dashes
        self._closed = False  # by the delimiter that ends a multipart body
        self._length: int | None = None  # of the section, as announced
        self._trusts_length = False  # that of the last image was right
        self._part_type = ""
        self._has_headers = False
        self._jpeg: jpeg_end.JpegEndFinder | None = None  # of the section, once it has begun as a JPEG
        self._held = False  # the first image, until another proves a stream
        self._given: memoryview | None = None
        self.head: http_response.ResponseHead | None = None  # of the answer, once it arrived

    # --- bytes in -----------------------------------------------------------------------------------------------------

    def get_buffer(self) -> memoryview:
        """Return the buffer for the next bytes; `buffer_updated` takes their number."""
        if self._start and self._end == len(self._buffer):
            kept = self._end - self._start
            self._buffer[:kept] = self._buffer[self._start : self._end]
            self._searched = max(0, self._searched - self._start)
            self._start, self._end = 0, kept
        if self._end == len(self._buffer):
            # A new array, not a longer one: an image's view may still be alive in an error's traceback.
            self._buffer = self._buffer + bytes(len(self._buffer))
        return memoryview(self._buffer)[self._end :]

    def buffer_updated(self, count: int) -> None:
        """Take `count` bytes that were put into the buffer. Raises CameraError for a body whose chunks are damaged."""
        end = self._end + count
        self._end = end if self._chunks is None else self._chunks.compact(self._buffer, self._end, end)

    def end_error(self) -> CameraError:
        """Return the error for a closed connection, or the last chunk."""
        if self._expect is _Expect.HEAD and self._end == self._start:
            return CameraError("it closed the connection without an answer")
        if self._held or self._expect is _Expect.KIND:
            return self._no_stream()
        if self._closed or (self._chunks is not None and self._chunks.is_ended):
            return CameraError("it ended the stream")
        return CameraError("it closed the connection")

    @property
    def is_ended(self) -> bool:
        """Whether the body's last chunk came: nothing will follow on this connection."""
        return self._chunks is not None and self._chunks.is_ended

    # --- images out ---------------------------------------------------------------------------------------------------

    def next_image(self) -> memoryview | None:
        """Return the next image; None when more bytes are needed, and always after an answer other than 200.

        Raises CameraError for what is no stream of pictures.
        """
        while self._step():
            if self._given is not None:
                given, self._given = self._given, None
                return given
        return None

    def _step(self) -> bool:
        """Take the next element; False when more bytes are needed for it."""
        match self._expect:
            case _Expect.HEAD:
                return self._take_head()
            case _Expect.KIND:
                return self._take_kind()
            case _Expect.PART:
                return self._take_delimiter()
            case _Expect.HEADERS:
                return self._take_part_headers()
            case _Expect.BODY:
                return self._take_body()
            case _Expect.NOTHING:
                return False

    def _advance(self, at: int, expect: _Expect) -> None:
        self._start = self._searched = at
        self._expect = expect

    def _no_stream(self) -> CameraError:
        kind = self._type or "something without a type"
        return CameraError(f"it answers with {kind!r}, not a stream: give the address of its MJPEG stream")

    # --- the answer's head --------------------------------------------------------------------------------------------

    def _take_head(self) -> bool:
        begun = bytes(self._buffer[self._start : min(self._end, self._start + 2)])
        if len(begun) < 2:  # noqa: PLR2004
            return False
        if begun in {b"--", jpeg_end.START}:  # no head at all, as from HTTP/0.9
            self.head = http_response.ResponseHead(200, {})
            self._expect = _Expect.KIND
            return True
        found = http_response.find_head(self._buffer, self._start, self._end)
        if found is None:
            http_response.check_start(bytes(self._buffer[self._start : min(self._end, self._start + 16)]))
            return False
        head = http_response.parse_head(bytes(self._buffer[self._start : found[0]]))
        self._start = self._searched = found[1]
        if 100 <= head.status < 200:  # noqa: PLR2004  # provisional: the answer comes after it
            return True
        self.head = head
        self._check_head(head)
        if "chunked" in head.fields.get("transfer-encoding", "").lower():
            self._chunks = http_response.ChunkDecoder()
            self._end = self._chunks.compact(self._buffer, self._start, self._end)
        return True

    def _check_head(self, head: http_response.ResponseHead) -> None:
        if head.status != 200:  # noqa: PLR2004
            self._expect = _Expect.NOTHING
            return
        encoding = head.fields.get("content-encoding", "identity").lower()
        if encoding not in {"", "identity", "none", "binary", "8bit"}:
            raise CameraError("it sends its stream compressed (Content-Encoding): switch that off in camera or proxy")
        self._type = head.media_type
        self._name = http_response.boundary_of(head.fields.get("content-type", ""))
        length = head.fields.get("content-length", "")
        if self._type.startswith("image/") and length.isdecimal() and 0 < int(length) <= self._max_bytes:
            raise self._no_stream()  # a snapshot, and nothing after it
        self._expect = _Expect.PART if self._type.startswith("multipart/") else _Expect.KIND
        self._held = self._type.startswith("image/")

    def _take_kind(self) -> bool:
        """Check whether images come, whatever type was announced."""
        found = _NOT_BLANK.search(self._buffer, self._start, self._end)
        if found is None or found.start() + 2 > self._end:
            if self._end - self._start > http_response.MAX_HEAD_BYTES:
                raise self._no_stream()
            return False
        if bytes(self._buffer[found.start() : found.start() + 2]) not in {b"--", jpeg_end.START}:
            raise self._no_stream()
        self._advance(found.start(), _Expect.PART)
        return True

    # --- between images -----------------------------------------------------------------------------------------------

    def _take_delimiter(self) -> bool:
        """Advance to the next section's headers; or to the next image, as long as no delimiter came."""
        found = self._find_delimiter()
        if not self._delimiter:
            stop = self._end if found is None else found[0]
            picture = _PICTURE_START.search(self._buffer, self._searched, stop)
            if picture is not None:
                self._begin_body(picture.start(), length=None)
                return True
        if found is None:
            self._searched = max(self._searched, self._end - _MAX_LINE_BYTES)
            if self._end - self._start > self._max_bytes + http_response.MAX_HEAD_BYTES:
                raise CameraError(f"no boundary within {self._max_bytes:,} bytes: the stream is damaged")
            return False
        at, name_end = found
        after = _AFTER_DELIMITER.match(self._buffer, name_end, self._end)
        self._delimiter = bytes(self._buffer[at:name_end])
        self._closed = after is not None and after[1] is not None
        self._held = False
        self._advance(name_end if after is None else after.end(), _Expect.HEADERS)
        return True

    def _find_delimiter(self) -> tuple[int, int] | None:
        """Return where the next delimiter begins and where its name ends: the announced one, or any such line."""
        announced = self._find_announced()
        any_line = _DASHES.match(self._buffer, self._start, self._end) or _DASHES_IN_NEW_LINE.search(
            self._buffer, self._searched, self._end
        )
        if any_line is None or (announced is not None and announced[0] <= any_line.start()):
            return announced
        name = any_line[0].rstrip()
        closing = 2 if len(name) > 4 and name.endswith(b"--") else 0  # noqa: PLR2004
        return any_line.start(), any_line.start() + len(name) - closing

    def _find_announced(self) -> tuple[int, int] | None:
        """Find the announced boundary after any number of dashes; without dashes, on a line of its own."""
        at = self._searched
        while self._name and (at := self._buffer.find(self._name, at, self._end)) >= 0:
            first = at
            while first > self._start and self._buffer[first - 1 : first] == b"-":
                first -= 1
            alone = first == self._start or bytes(self._buffer[first - 1 : first]) in {b"\r", b"\n"}
            end = at + len(self._name)
            if (at - first >= 2 or alone) and _AFTER_DELIMITER.match(self._buffer, end, self._end):  # noqa: PLR2004
                return first, end
            at += 1
        return None

    def _take_part_headers(self) -> bool:
        fields: dict[str, str] = {}
        at = self._start
        while True:
            if self._buffer[at : at + 2] == jpeg_end.START and at + 2 <= self._end:  # no empty line before it
                break
            line_end = self._buffer.find(b"\n", at, self._end)
            if line_end < 0 or line_end - self._start > http_response.MAX_HEAD_BYTES:
                if self._end - self._start > http_response.MAX_HEAD_BYTES:
                    raise CameraError(f"a part's headers do not end within {http_response.MAX_HEAD_BYTES:,} bytes")
                return False
            line, at = bytes(self._buffer[at:line_end]).strip(), line_end + 1
            if not line:
                break
            name, _, value = line.decode("latin-1").partition(":")
            fields[name.strip().lower()] = value.strip()
        self._closed = self._closed and not fields
        self._has_headers = bool(fields)
        self._part_type = http_response.media_type(fields.get("content-type", ""))
        self._begin_body(at, length=self._announced_length(fields))
        return True

    def _announced_length(self, fields: dict[str, str]) -> int | None:
        """Return Content-Length; None when it is no number. Raises CameraError for an impossible one."""
        found = re.match(r"-?[0-9]+", fields.get("content-length", ""))
        if found is None:
            return None
        text = found[0]
        if text.startswith("-") or len(text) > 12 or int(text) > self._max_bytes:  # noqa: PLR2004
            raise CameraError(f"a part of {text[:20]} bytes comes; at most {self._max_bytes:,} are taken")
        return int(text)

    # --- an image -----------------------------------------------------------------------------------------------------

    def _begin_body(self, at: int, *, length: int | None) -> None:
        self._length = length
        self._jpeg = None
        self._advance(at, _Expect.BODY)

    def _take_body(self) -> bool:
        if self._jpeg is None and not self._find_content():
            return False
        if self._jpeg is None:
            return self._take_other()
        if self._trusts_length and self._length is not None:
            return self._take_announced(self._start + self._length)
        return self._take_jpeg(self._jpeg)

    def _take_jpeg(self, jpeg_end: jpeg_end.JpegEndFinder) -> bool:
        """Take a JPEG to the end of its structure, or to the next delimiter if that comes first (truncated)."""
        end = jpeg_end.find(self._buffer, self._start, self._end)
        cut = self._find_truncation(self._end if end is None else end)
        if cut is not None:
            return self._emit(self._without_newline(cut), go_on_at=cut)
        if end is None:
            return self._take_damaged() if jpeg_end.is_damaged else self._need_more()
        if self._held and _PICTURE_START.search(self._buffer, end, self._end) is None:
            return self._need_more()
        self._held = False
        self._trusts_length = end - self._start == self._length
        return self._emit(end, go_on_at=end)

    def _take_announced(self, end: int) -> bool:
        """Take a JPEG of the announced length, after one whose length was right, without reading each byte.

        `agent.images.decode.validate_encoded` reads them anyway. Where there is no end marker, the length is wrong or
        the image truncated.
        """
        if end > self._end:
            return self._need_more()
        if self._buffer[end - len(jpeg_end.END) : end] == jpeg_end.END:
            return self._emit(end, go_on_at=end)
        self._trusts_length = False
        return True

    def _find_content(self) -> bool:
        """Skip blanks before a JPEG, and follow it from there."""
        found = _NOT_BLANK.search(self._buffer, self._start, self._end)
        if found is None or found.start() + 2 > self._end:
            return self._need_more()
        if self._buffer[found.start() : found.start() + 2] == jpeg_end.START:
            self._jpeg = jpeg_end.JpegEndFinder()
            self._start = self._searched = found.start()
        return True

    def _take_other(self) -> bool:
        """Take a body that is no JPEG: of the announced length, or up to the next delimiter."""
        if self._part_type.startswith("video/"):
            raise CameraError(f"it sends {self._part_type!r}, not JPEG pictures: choose MJPEG in its settings")
        announced = None if self._length is None else self._start + self._length
        cut = self._find_truncation(self._end if announced is None else min(self._end, announced))
        go_on_at = announced if cut is None else cut
        if go_on_at is None or go_on_at > self._end:
            return self._need_more()
        # Text and audio between images are skipped, and so are two delimiters with nothing between them.
        if self._has_headers and (self._part_type in _PICTURE_TYPES or self._part_type.startswith("image/")):
            return self._emit(go_on_at if cut is None else self._without_newline(cut), go_on_at=go_on_at)
        self._advance(go_on_at, _Expect.PART)
        return True

    def _take_damaged(self) -> bool:
        """Take a JPEG whose structure is broken, once its end is known otherwise."""
        if self._delimiter:
            if self._length is None or self._start + self._length > self._end:
                return self._need_more()
            return self._emit(self._start + self._length, go_on_at=self._start + self._length)
        found = _PICTURE_START.search(self._buffer, self._start + 2, self._end)
        return self._need_more() if found is None else self._emit(found.start(), go_on_at=found.start())

    def _find_truncation(self, end: int) -> int | None:
        """Return where the last known delimiter occurs before `end`: the section ends there, complete or not."""
        at = self._searched
        while self._delimiter and (at := self._buffer.find(self._delimiter, at, end)) >= 0:
            after = at + len(self._delimiter)
            is_long = len(self._delimiter) >= _MIN_DELIMITER_BYTES or self._buffer[at - 1 : at] == b"\n"
            if is_long and _AFTER_DELIMITER.match(self._buffer, after, self._end):
                return at
            if after + _MAX_LINE_BYTES > self._end:  # its line may be incomplete
                self._searched = at
                return None
            at += 1
        self._searched = max(self._searched, min(end, self._end) - len(self._delimiter))
        return None

    def _without_newline(self, end: int) -> int:
        """Return where the content before a delimiter ends: the line break belongs to the delimiter (RFC 2046)."""
        before = bytes(self._buffer[max(self._start, end - 2) : end])
        return end - (2 if before == b"\r\n" else 1 if before.endswith(b"\n") else 0)

    def _need_more(self) -> bool:
        """Return False: more bytes are needed. Raises CameraError when there are too many already."""
        if self._end - self._start > self._max_bytes + http_response.MAX_HEAD_BYTES:
            raise CameraError(f"a picture of more than {self._max_bytes:,} bytes comes: the stream is damaged")
        return False

    def _emit(self, end: int, *, go_on_at: int) -> bool:
        self._given = memoryview(self._buffer)[self._start : end]
        self._jpeg = None
        self._advance(go_on_at, _Expect.PART)
        return True
