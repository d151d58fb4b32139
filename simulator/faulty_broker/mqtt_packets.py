"""The MQTT packets that a broker reads and writes (OASIS MQTT 3.1.1 and 5.0, chapter 3).

Promise: `read_packet` returns one whole packet or None at the end of the connection; what a client must not send raises
ProtocolError. Properties of MQTT 5 are skipped, not understood.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket

CONNECT: Final = 1
CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
PUBREC: Final = 5
PUBCOMP: Final = 7
SUBSCRIBE: Final = 8
SUBACK: Final = 9
PINGREQ: Final = 12
PINGRESP: Final = 13
DISCONNECT: Final = 14

MQTT_5: Final = 5  # the protocol level of MQTT 5
SUCCESS: Final = 0x00
NOT_AUTHORISED: Final = 0x87
SESSION_TAKEN_OVER: Final = 0x8E
RECEIVE_MAXIMUM_EXCEEDED: Final = 0x93
QUOTA_EXCEEDED: Final = 0x97
SUBSCRIPTION_FAILED: Final = 0x80
_RECEIVE_MAXIMUM: Final = 0x21  # identifier of the property
_RETAIN_AVAILABLE: Final = 0x25
_LENGTH_BYTES: Final = 4


class ProtocolError(Exception):
    """What arrived is no packet of a client."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet: its type (4 bits), its flags (4 bits), and what follows the length."""

    type: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Will:
    """The last will of a CONNECT."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(frozen=True, slots=True)
class Connect:
    """What a CONNECT asks for."""

    level: int  # 4 for 3.1.1, 5 for 5
    client_id: str
    clean: bool
    will: Will | None


@dataclass(frozen=True, slots=True)
class Publish:
    """A PUBLISH of a client; `packet_id` is 0 at QoS 0."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    duplicate: bool
    retain: bool


class _Reader:
    """Takes fields off the front of a packet."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise ProtocolError(f"a packet of {len(self._data)} bytes ends within a field")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self) -> int:
        value: int = struct.unpack(">H", self.take(2))[0]
        return value

    def blob(self) -> bytes:
        return self.take(self.number())

    def text(self) -> str:
        return self.blob().decode("utf-8", "replace")

    def skip_properties(self) -> None:
        length = shift = 0
        for _ in range(_LENGTH_BYTES):
            byte = self.take(1)[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        self.take(length)

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._data)


def _receive(connection: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            return None
        data += chunk
    return data


def read_packet(connection: socket.socket) -> Packet | None:
    """Return the next packet, or None when the client closed the connection. Raises OSError and ProtocolError."""
    head = _receive(connection, 1)
    if head is None:
        return None
    length = 0
    for index in range(_LENGTH_BYTES):
        byte = _receive(connection, 1)
        if byte is None:
            return None
        length |= (byte[0] & 0x7F) << (7 * index)
        if not byte[0] & 0x80:
            break
    else:
        raise ProtocolError("a packet's length has more than four bytes")
    body = _receive(connection, length) if length else b""
    return None if body is None else Packet(head[0] >> 4, head[0] & 0x0F, body)


def parse_connect(packet: Packet) -> Connect:
    """Read a CONNECT. Raises ProtocolError."""
    if packet.type != CONNECT:
        raise ProtocolError(f"the first packet is of type {packet.type}, not CONNECT")
    reader = _Reader(packet.body)
    reader.blob()  # "MQTT"
    level, flags = reader.take(2)
    reader.number()  # keep-alive
    if level == MQTT_5:
        reader.skip_properties()
    client_id, will = reader.text(), None
    if flags & 0x04:
        if level == MQTT_5:
            reader.skip_properties()
        will = Will(reader.text(), reader.blob(), bool(flags & 0x20))
    return Connect(level, client_id, bool(flags & 0x02), will)


def parse_publish(packet: Packet, *, level: int) -> Publish:
    """Read a PUBLISH. Raises ProtocolError."""
    reader = _Reader(packet.body)
    topic, qos = reader.text(), (packet.flags >> 1) & 0x03
    packet_id = reader.number() if qos else 0
    if level == MQTT_5:
        reader.skip_properties()
    return Publish(topic, reader.rest(), qos, packet_id, bool(packet.flags & 0x08), bool(packet.flags & 0x01))


def parse_subscribe(packet: Packet, *, level: int) -> tuple[int, tuple[str, ...]]:
    """Read a SUBSCRIBE: its packet id and its filters. Raises ProtocolError."""
    reader = _Reader(packet.body)
    packet_id = reader.number()
    if level == MQTT_5:
        reader.skip_properties()
    filters = []
    while not reader.at_end:
        filters.append(reader.text())
        reader.take(1)
    return packet_id, tuple(filters)


def _packet(kind: int, body: bytes, flags: int = 0) -> bytes:
    length, size = b"", len(body)
    while True:
        byte, size = size & 0x7F, size >> 7
        length += bytes([byte | (0x80 if size else 0)])
        if not size:
            return bytes([kind << 4 | flags]) + length + body


def connack(
    *, level: int, reason: int = 0, session_present: bool = False, receive_maximum: int | None = None,
    retains: bool = True,
) -> bytes:  # fmt: skip
    """A CONNACK; `receive_maximum` and `retains` are told to clients of MQTT 5 only."""
    body = bytes([session_present, reason])
    if level == MQTT_5:
        properties = b""
        if receive_maximum is not None:
            properties += struct.pack(">BH", _RECEIVE_MAXIMUM, receive_maximum)
        if not retains:
            properties += bytes([_RETAIN_AVAILABLE, 0])
        body += bytes([len(properties)]) + properties
    return _packet(CONNACK, body)


def publish_packet(topic: str, payload: bytes, *, level: int) -> bytes:
    """A PUBLISH to the client at QoS 0."""
    name = topic.encode()
    return _packet(PUBLISH, struct.pack(">H", len(name)) + name + (b"\0" if level == MQTT_5 else b"") + payload)


def ack_packet(kind: int, packet_id: int, *, level: int, reason: int = SUCCESS) -> bytes:
    """A PUBACK, PUBREC or PUBCOMP; the reason exists in MQTT 5 only."""
    body = struct.pack(">H", packet_id)
    return _packet(kind, body + bytes([reason, 0]) if level == MQTT_5 and reason else body)


def suback(packet_id: int, reasons: bytes, *, level: int) -> bytes:
    """A SUBACK with one reason for each filter."""
    return _packet(SUBACK, struct.pack(">H", packet_id) + (b"\0" if level == MQTT_5 else b"") + reasons)


def pingresp() -> bytes:
    """A PINGRESP."""
    return _packet(PINGRESP, b"")


def disconnect(reason: int) -> bytes:
    """A DISCONNECT of the broker, which MQTT 5 alone has."""
    return _packet(DISCONNECT, bytes([reason, 0]))
