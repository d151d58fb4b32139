"""What the inspecting process and a capture process say to each other, and the memory that they share.

One message is one packet of JSON on a socket pair; nothing else is on it, and the address with its password goes this
way only: neither the command line nor the environment shows it. Pixels lie in anonymous files that both have mapped and
that cannot be made smaller, so that a child which was taken over by what it decodes cannot crash its parent.

parent -> child: an order first; `Slot` with a file descriptor; `Want`: the newest picture, into that slot. The socket's
end: let go of the camera and end.
child -> parent: `Opened`; `Need`: no slot is that large; `Picture`; `Damaged`; `Failed`, the last word.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from typing import Any, Final

MAX_MESSAGE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class RtspOrder:
    """Open an RTSP stream."""

    scheme: str  # rtsp or rtsps
    host: str
    port: int | None
    path: str  # with the query
    user: str | None
    password: str | None
    transport: str  # tcp or udp


@dataclass(frozen=True, slots=True)
class DeviceOrder:
    """Open a V4L2 device."""

    path: str
    width: int | None
    height: int | None
    fps: float | None
    fourcc: str | None


@dataclass(frozen=True, slots=True)
class Slot:
    """Memory for a picture: its file descriptor comes with the message."""

    slot: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Want:
    """Put the newest picture into this slot."""

    slot: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The camera is open."""


@dataclass(frozen=True, slots=True)
class Need:
    """A picture has so many bytes; no slot was large enough."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture lies in the slot."""

    slot: int
    shape: tuple[int, ...]  # [H, W] or [H, W, 3]
    arrived_ns: int  # monotonic
    skipped: int  # exposures that were left out for it


@dataclass(frozen=True, slots=True)
class Damaged:
    """An exposure could not be decoded."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The camera cannot be opened, or is lost: why, and what to do. Without the camera's name."""

    text: str


Spoken = RtspOrder | DeviceOrder | Slot | Want | Opened | Need | Picture | Damaged | Failed
_KINDS: Final = {
    kind.__name__: kind for kind in (RtspOrder, DeviceOrder, Slot, Want, Opened, Need, Picture, Damaged, Failed)
}


class BrokenTalkError(ValueError):
    """The other process said something that nobody understands."""


def encode(message: Spoken) -> bytes:
    """Return the packet."""
    return json.dumps({type(message).__name__: asdict(message)}).encode()


def decode(packet: bytes) -> Spoken:
    """Read a packet. Raises BrokenTalkError."""
    try:
        [(name, fields)] = json.loads(packet).items()
        if "shape" in fields:
            fields["shape"] = tuple(int(side) for side in fields["shape"])
        message: Spoken = _KINDS[name](**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokenTalkError(f"a packet of {len(packet)} bytes") from error
    return message


def send(connection: socket.socket, message: Spoken, *, descriptors: tuple[int, ...] = ()) -> None:
    """Say something. Raises OSError when the other one is gone."""
    socket.send_fds(connection, [encode(message)], list(descriptors))


def receive(connection: socket.socket) -> tuple[Spoken, list[int]] | None:
    """Wait for the next message and the descriptors that came with it; None at the end. Raises BrokenTalkError."""
    packet, descriptors, _, _ = _received(connection)
    return (decode(packet), descriptors) if packet else None


def _received(connection: socket.socket) -> tuple[bytes, list[int], int, Any]:
    try:
        return socket.recv_fds(connection, MAX_MESSAGE_BYTES, 4)
    except (ConnectionResetError, BrokenPipeError):
        return b"", [], 0, None
