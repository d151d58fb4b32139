"""What the inspecting process and a capture process say to each other, and the memory that they share.

One message is one packet of JSON on a socket pair; nothing else is on it, and the address with its password goes this
way only: neither the command line nor the environment shows it. Pixels lie in anonymous files that both have mapped and
that cannot be made smaller, so that a child which was taken over by what it decodes cannot crash its parent.

parent -> child: an order first; `Slot` with a file descriptor; `FrameRequest`: the newest picture, into that slot. The
socket's
end: let go of the camera and end.
child -> parent: `Opened`; `SlotTooSmall`: no slot is that large; `Picture`; `DecodeFailed`; `Failed`, the last word.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from typing import Any, Final

MAX_MESSAGE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class OpenRtsp:
    """Open an RTSP stream."""

    scheme: str  # rtsp or rtsps
    host: str
    port: int | None
    path: str  # with the query
    user: str | None
    password: str | None
    transport: str  # tcp or udp


@dataclass(frozen=True, slots=True)
class OpenDevice:
    """Open a V4L2 device."""

    path: str
    width: int | None
    height: int | None
    fps: float | None
    fourcc: str | None


@dataclass(frozen=True, slots=True)
class FrameSlot:
    """Memory for a picture: its file descriptor comes with the message."""

    slot: int
    bytes: int


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """Put the newest picture into this slot."""

    slot: int


@dataclass(frozen=True, slots=True)
class CameraOpened:
    """The camera is open."""


@dataclass(frozen=True, slots=True)
class SlotTooSmall:
    """A picture has so many bytes; no slot was large enough."""

    bytes: int


@dataclass(frozen=True, slots=True)
class FrameReady:
    """A picture lies in the slot."""

    slot: int
    shape: tuple[int, ...]  # [H, W] or [H, W, 3]
    arrived_ns: int  # monotonic
    skipped: int  # exposures that were left out for it


@dataclass(frozen=True, slots=True)
class DecodeFailed:
    """An exposure could not be decoded."""

    text: str


@dataclass(frozen=True, slots=True)
class CameraFailed:
    """The camera cannot be opened, or is lost: why, and what to do. Without the camera's name."""

    text: str


CaptureMessage = (
    OpenRtsp
    | OpenDevice
    | FrameSlot
    | FrameRequest
    | CameraOpened
    | SlotTooSmall
    | FrameReady
    | DecodeFailed
    | CameraFailed
)
_KINDS: Final = {
    kind.__name__: kind
    for kind in (
        OpenRtsp,
        OpenDevice,
        FrameSlot,
        FrameRequest,
        CameraOpened,
        SlotTooSmall,
        FrameReady,
        DecodeFailed,
        CameraFailed,
    )
}


class CaptureProtocolError(ValueError):
    """The other process said something that nobody understands."""


def encode(message: CaptureMessage) -> bytes:
    """Return the packet."""
    return json.dumps({type(message).__name__: asdict(message)}).encode()


def decode(packet: bytes) -> CaptureMessage:
    """Read a packet. Raises CaptureProtocolError."""
    try:
        [(name, fields)] = json.loads(packet).items()
        if "shape" in fields:
            fields["shape"] = tuple(int(side) for side in fields["shape"])
        message: CaptureMessage = _KINDS[name](**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CaptureProtocolError(f"a packet of {len(packet)} bytes") from error
    return message


def send(connection: socket.socket, message: CaptureMessage, *, descriptors: tuple[int, ...] = ()) -> None:
    """Say something. Raises OSError when the other one is gone."""
    socket.send_fds(connection, [encode(message)], list(descriptors))


def receive(connection: socket.socket) -> tuple[CaptureMessage, list[int]] | None:
    """Wait for the next message and the descriptors that came with it; None at the end. Raises CaptureProtocolError."""
    packet, descriptors, _, _ = _received(connection)
    return (decode(packet), descriptors) if packet else None


def _received(connection: socket.socket) -> tuple[bytes, list[int], int, Any]:
    try:
        return socket.recv_fds(connection, MAX_MESSAGE_BYTES, 4)
    except (ConnectionResetError, BrokenPipeError):
        return b"", [], 0, None
