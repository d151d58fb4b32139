"""Messages of the event-stream protocol between components and nucleus. Bytes in, bytes out, no I/O.

A frame is: total length and length of the headers (u32, big endian), CRC-32 of these eight bytes, headers, payload,
CRC-32 of everything before. A header is its name (u8 length), its type and its value; the protocol uses i32 and string.
After https://docs.aws.amazon.com/greengrass/v2/developerguide/interprocess-communication.html and the frames of
aws-c-event-stream. `decode(encode(frame)) == frame` for every frame, and a changed bit is refused.
"""

from __future__ import annotations

import enum
import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

Header = int | str

MESSAGE_TYPE: Final = ":message-type"
MESSAGE_FLAGS: Final = ":message-flags"
STREAM_ID: Final = ":stream-id"
CONTENT_TYPE: Final = ":content-type"
OPERATION: Final = "operation"
SERVICE_MODEL_TYPE: Final = "service-model-type"

_PRELUDE: Final = struct.Struct(">III")  # total length, length of headers, CRC of the two
_CRC: Final = struct.Struct(">I")
_I32: Final = struct.Struct(">i")
_U16: Final = struct.Struct(">H")
_TYPE_I32: Final = 4
_TYPE_STRING: Final = 7
_MIN_MESSAGE_BYTES: Final = _PRELUDE.size + _CRC.size
MAX_MESSAGE_BYTES: Final = 16 * 1024**2  # of the protocol; a nucleus may take less


class EventStreamError(Exception):
    """The bytes are no frame of the protocol; the connection cannot go on."""


class MessageType(enum.IntEnum):
    """Value of `:message-type`."""

    APPLICATION = 0
    APPLICATION_ERROR = 1
    PING = 2
    PING_RESPONSE = 3
    CONNECT = 4
    CONNECT_ACK = 5


class MessageFlags(enum.IntFlag):
    """Value of `:message-flags`."""

    NONE = 0
    CONNECTION_ACCEPTED = 1
    TERMINATE_STREAM = 2


@dataclass(frozen=True, slots=True)
class EventStreamMessage:
    """One message: headers by name, and a payload, which is JSON in UTF-8 or empty."""

    headers: Mapping[str, Header] = field(default_factory=dict)
    payload: bytes = b""

    @classmethod
    def of(
        cls,
        kind: MessageType,
        *,
        stream: int,
        flags: MessageFlags = MessageFlags.NONE,
        model: str | None = None,
        content: Mapping[str, Any] | None = None,
    ) -> EventStreamMessage:
        """Return the frame of one message; `model` names the shape of `content`: `aws.greengrass#ServiceError`."""
        headers: dict[str, Header] = {MESSAGE_TYPE: int(kind), MESSAGE_FLAGS: int(flags), STREAM_ID: stream}
        if model is not None:
            headers |= {CONTENT_TYPE: "application/json", SERVICE_MODEL_TYPE: model}
        payload = b"" if content is None else json.dumps(content, separators=(",", ":")).encode()
        return cls(headers, payload)

    def number(self, name: str) -> int:
        """Return the i32 header `name`. Raises EventStreamError when it is not there or a string."""
        value = self.headers.get(name)
        if not isinstance(value, int):
            raise EventStreamError(f"header {name} is {value!r} and not a number")
        return value

    def text(self, name: str) -> str:
        """Return the string header `name`. Raises EventStreamError when it is not there or a number."""
        value = self.headers.get(name)
        if not isinstance(value, str):
            raise EventStreamError(f"header {name} is {value!r} and not a string")
        return value

    def json(self) -> dict[str, Any]:
        """Return the payload as the JSON object that it is. Raises EventStreamError when it is not."""
        try:
            content = json.loads(self.payload or b"{}")
        except (ValueError, RecursionError) as error:
            raise EventStreamError(f"the payload is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise EventStreamError("the payload is not a JSON object")
        return content


def encode_message(frame: EventStreamMessage) -> bytes:
    """Return the bytes of `frame`. Raises ValueError for a header that does not fit its length field."""
    headers = b"".join(_header(name, value) for name, value in frame.headers.items())
    lengths = struct.pack(">II", _MIN_MESSAGE_BYTES + len(headers) + len(frame.payload), len(headers))
    body = lengths + _CRC.pack(zlib.crc32(lengths)) + headers + frame.payload
    return body + _CRC.pack(zlib.crc32(body))


def _header(name: str, value: Header) -> bytes:
    raw = name.encode()
    if not 0 < len(raw) <= 0xFF:  # noqa: PLR2004 - a u8
        raise ValueError(f"a header's name has 1 to 255 bytes: {name!r}")
    start = bytes([len(raw)]) + raw
    if isinstance(value, int):
        return start + bytes([_TYPE_I32]) + _I32.pack(value)
    text = value.encode()
    if len(text) > 0x7FFF:  # noqa: PLR2004 - aws-c-event-stream takes no more
        raise ValueError(f"the header {name} has {len(text)} bytes: at most 32767")
    return start + bytes([_TYPE_STRING]) + _U16.pack(len(text)) + text


class EventStreamDecoder:
    """Cuts a stream of bytes into frames. Bounded: a frame that announces more than the limit is refused at once."""

    def __init__(self, *, max_frame_bytes: int = MAX_MESSAGE_BYTES) -> None:
        """`max_frame_bytes` is the largest whole frame that is taken."""
        self._max_bytes = max_frame_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[EventStreamMessage]:
        """Return the frames that are complete with `data`.

        Raises EventStreamError; nothing more can be read after that.
        """
        self._buffer += data
        frames = []
        while len(self._buffer) >= _PRELUDE.size:
            total, headers, checksum = _PRELUDE.unpack_from(self._buffer)
            if checksum != zlib.crc32(self._buffer[:8]):
                raise EventStreamError("the checksum of a frame's lengths is wrong")
            if not _MIN_MESSAGE_BYTES + headers <= total:
                raise EventStreamError(f"a frame of {total} bytes cannot hold {headers} bytes of headers")
            if total > self._max_bytes:
                raise EventStreamError(f"a frame of {total} bytes is longer than {self._max_bytes}")
            if len(self._buffer) < total:
                break
            frames.append(_decoded(bytes(self._buffer[:total]), headers))
            del self._buffer[:total]
        return frames


def _decoded(raw: bytes, headers_bytes: int) -> EventStreamMessage:
    end = len(raw) - _CRC.size
    if _CRC.unpack_from(raw, end)[0] != zlib.crc32(raw[:end]):
        raise EventStreamError("the checksum of a frame is wrong")
    start = _PRELUDE.size + headers_bytes
    return EventStreamMessage(_headers(raw[_PRELUDE.size : start]), raw[start:end])


def _headers(raw: bytes) -> dict[str, Header]:
    headers: dict[str, Header] = {}
    at = 0
    try:
        while at < len(raw):
            name_end = at + 1 + raw[at]
            name, kind, at = raw[at + 1 : name_end].decode(), raw[name_end], name_end + 1
            if kind == _TYPE_I32:
                headers[name], at = _I32.unpack_from(raw, at)[0], at + _I32.size
            elif kind == _TYPE_STRING:
                end = at + _U16.size + _U16.unpack_from(raw, at)[0]
                if end > len(raw):
                    raise EventStreamError(f"the header {name} is cut off")
                headers[name], at = raw[at + _U16.size : end].decode(), end
            else:
                raise EventStreamError(f"the header {name} has type {kind}: 4 (i32) and 7 (string) are known")
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise EventStreamError(f"a frame's headers cannot be read: {error}") from error
    return headers
