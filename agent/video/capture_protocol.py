"""The messages between the inspecting process and a capture process, and their shared memory.

One message is one packet of JSON on a socket pair; nothing else uses it, and the address with its password is sent
this way only: neither the command line nor the environment shows it. Pixels are in anonymous files that both processes
have mapped and that cannot be shrunk, so that a child which was compromised by its input cannot crash its parent.

Parent to child: first the request to open a camera; `FrameSlot` with a file descriptor; `FrameRequest`: the newest
image, into that slot. The end of the socket: release the camera and end.
Child to parent: `CameraOpened`; `SlotTooSmall`: no slot is that large; `FrameReady`; `DecodeFailed`; `CameraFailed`,
always the last message.
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
    """Memory for an image: its file descriptor comes with the message."""

    slot: int
    bytes: int


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """Put the newest image into this slot."""

    slot: int


@dataclass(frozen=True, slots=True)
class CameraOpened:
    """The camera is open."""


@dataclass(frozen=True, slots=True)
class SlotTooSmall:
    """An image has so many bytes; no slot was large enough."""

    bytes: int


@dataclass(frozen=True, slots=True)
class FrameReady:
    """An image is in the slot."""

    slot: int
    shape: tuple[int, ...]  # [H, W] or [H, W, 3]
    arrived_ns: int  # monotonic
    skipped: int  # exposures that were skipped before it


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
    """The other process sent an invalid message."""


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
    """Send a message. Raises OSError when the other process is gone."""
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
