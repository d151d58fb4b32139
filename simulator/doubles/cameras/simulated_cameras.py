"""Simulated cameras: images in memory, a real MJPEG server on the loopback, and camera faults.

The servers speak the real protocols on real sockets, so the agent's adapters meet what a camera in a plant would send.
They can be held (connections stay open and nothing comes: what a hung camera does), killed and started again.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from agent.errors import CameraError, FrameError, SourceEndedError
from agent.records import DropReason, Grab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from random import Random

    from agent.ports import FrameSource
    from agent.records import Pixels
    from agent.timing.clock import Clock

# --- images in memory -----------------------------------------------------------------------------------------------


class StillCamera:
    """Delivers the same images over and over, as fast as they are taken; `count` exposures, or without end."""

    def __init__(self, *, pictures: Sequence[Pixels], clock: Clock, count: int | None = None) -> None:
        self._pictures = pictures
        self._clock = clock
        self._count = count
        self._taken = 0

    def open(self) -> None:
        """See `FrameSource.open`."""

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`; copies into `buffer` where it fits."""
        if self._taken == self._count:
            raise SourceEndedError(f"all {self._count} exposures were taken")
        pixels = self._pictures[self._taken % len(self._pictures)]
        self._taken += 1
        if buffer is not None and buffer.shape == pixels.shape:
            np.copyto(buffer, pixels)
            pixels = buffer
        return Grab(pixels=pixels, due_ns=self._clock.monotonic_ns())

    def close(self) -> None:
        """See `FrameSource.close`."""


class FrameFault(StrEnum):
    """What can be wrong with one exposure."""

    CORRUPT = "corrupt"  # cannot be decoded
    INCOMPLETE = "incomplete"  # packets were lost
    CROPPED = "cropped"  # a row is missing
    EMPTY = "empty"  # no pixels at all
    FOUR_CHANNELS = "four channels"
    DEEP = "deep"  # 16 bits a pixel
    SILENT = "silent"  # nothing arrives, and nothing will until the camera is opened again
    LOST = "lost"  # the camera is gone


class FaultyCamera:
    """Another camera with faults: the n-th exposure, counted over all openings, has the n-th fault (None: none)."""

    def __init__(self, *, camera: FrameSource, faults: Iterator[FrameFault | None], clock: Clock) -> None:
        self._camera = camera
        self._faults = faults
        self._clock = clock
        self._never = threading.Event()
        self._silent = False
        self.open_count = 0

    def open(self) -> None:
        """See `FrameSource.open`."""
        self.open_count += 1
        self._silent = False
        self._camera.open()

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`."""
        fault = None if self._silent else next(self._faults, None)
        self._silent |= fault is FrameFault.SILENT
        if self._silent:
            self._clock.wait(self._never, timeout_s)
            return None
        grab = self._camera.read(timeout_s=timeout_s, buffer=buffer)
        return grab if grab is None or fault is None else _with_fault(grab, fault)

    def close(self) -> None:
        """See `FrameSource.close`."""
        self._camera.close()


def _with_fault(grab: Grab, fault: FrameFault) -> Grab:
    match fault:
        case FrameFault.CORRUPT:
            raise FrameError(DropReason.CORRUPT, "the simulated camera damaged it")
        case FrameFault.LOST:
            raise CameraError("the simulated camera was unplugged")
        case FrameFault.INCOMPLETE:
            return replace(grab, incomplete=True)
        case FrameFault.CROPPED:
            return replace(grab, pixels=grab.pixels[:-1])
        case FrameFault.EMPTY:
            return replace(grab, pixels=grab.pixels[:0])
        case FrameFault.FOUR_CHANNELS:
            return replace(grab, pixels=np.zeros((*grab.pixels.shape[:2], 4), np.uint8))
        case FrameFault.DEEP:
            return replace(grab, pixels=grab.pixels.astype(np.uint16))
        case _:
            return grab


# --- damaged files ----------------------------------------------------------------------------------------------------


class JpegDamage(StrEnum):
    """What can happen to an encoded JPEG on its way."""

    CUT = "cut"  # the rest never came
    NO_END = "no end"  # only the end-of-image marker is missing
    GARBAGE = "garbage"  # not an image at all
    NOTHING = "nothing"  # no bytes
    MARKER = "marker"  # a bit flip made a marker inside the coded data
    BOMB = "bomb"  # the header claims 16000 x 16000 pixels


def damage_jpeg(jpeg: bytes, damage: JpegDamage, random: Random) -> bytes:
    """Return the baseline JPEG with that damage."""
    match damage:
        case JpegDamage.CUT:
            return jpeg[: random.randrange(2, len(jpeg) - 2)]
        case JpegDamage.NO_END:
            return jpeg[:-2]
        case JpegDamage.GARBAGE:
            return b"\x00" + random.randbytes(len(jpeg) - 1)
        case JpegDamage.NOTHING:
            return b""
        case JpegDamage.MARKER:
            at = random.randrange(len(jpeg) * 3 // 4, len(jpeg) - 4)
            return jpeg[:at] + b"\xff\xc8" + jpeg[at + 2 :]
        case JpegDamage.BOMB:
            at = jpeg.index(b"\xff\xc0") + 5  # marker, length, bits a sample
            return jpeg[:at] + struct.pack(">HH", 16_000, 16_000) + jpeg[at + 4 :]


# --- servers ----------------------------------------------------------------------------------------------------------

_PAUSED_POLL_S: Final = 0.02


class CameraServer(ABC):
    """A camera on 127.0.0.1, on a free port that it keeps over `kill` and `start`; use it in a `with`.

    `picture(n)` gives the n-th encoded JPEG of a connection.
    """

    def __init__(self, *, picture: Callable[[int], bytes], fps: float = 25.0) -> None:
        self._picture = picture
        self._period_s = 1.0 / fps
        self._paused = threading.Event()
        self._port = 0
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.accepted = 0  # connections since the first start

    @property
    def port(self) -> int:
        """The TCP port; known after the first start."""
        return self._port

    @property
    @abstractmethod
    def url(self) -> str:
        """The stream's address."""

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, args=(self._listener,), name=f"camera {self._port}", daemon=True).start()

    def kill(self) -> None:
        """Vanish: close the port and cut all connections."""
        with self._lock:
            if self._listener is not None:
                self._listener.shutdown(socket.SHUT_RDWR)  # which ends `accept`; closing alone does not
                self._listener.close()
                self._listener = None
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client was faster
                    connection.shutdown(socket.SHUT_RDWR)

    def pause(self) -> None:
        """Hang: keep the connections, accept new ones, send nothing."""
        self._paused.set()

    def resume(self) -> None:
        """End `hold`."""
        self._paused.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @abstractmethod
    def _handle_connection(self, connection: socket.socket) -> None:
        """Talk to one client until it or the server goes; an OSError ends it."""

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the port was closed
            while True:
                connection, _ = listener.accept()
                threading.Thread(
                    target=self._serve, args=(connection,), name=f"client of {self._port}", daemon=True
                ).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            if self._listener is None:
                connection.close()
                return
            self._connections.add(connection)
            self.accepted += 1
        with contextlib.suppress(OSError):  # the client went away, or `kill` cut it off
            self._handle_connection(connection)
        with self._lock:
            self._connections.discard(connection)
        connection.close()

    def _paced_pictures(self) -> Iterator[bytes]:
        """Yield images at the camera's rate, none while it is held; ends when the server is killed."""
        number, due_s = 0, time.monotonic()
        while self._listener is not None:
            time.sleep(max(0.0, due_s - time.monotonic()))
            if self._paused.is_set():
                time.sleep(_PAUSED_POLL_S)
                due_s = time.monotonic()
                continue
            yield self._picture(number)
            number += 1
            due_s += self._period_s


class MjpegServer(CameraServer):
    """MJPEG over HTTP. `announce_length` False leaves out Content-Length, as many simple cameras do."""

    def __init__(
        self, *, picture: Callable[[int], bytes], fps: float = 25.0, announce_length: bool = True, status: int = 200
    ) -> None:
        super().__init__(picture=picture, fps=fps)
        self._announce_length = announce_length
        self._status = status

    @property
    def url(self) -> str:
        """The stream's address."""
        return f"http://127.0.0.1:{self._port}/stream"

    def _handle_connection(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            received = connection.recv(4_096)
            if not received:
                return
            request += received
        head = (
            f"HTTP/1.0 {self._status} As configured\r\nContent-Type: multipart/x-mixed-replace; boundary=kensa\r\n\r\n"
        )
        connection.sendall(head.encode())
        if self._status != 200:  # noqa: PLR2004
            return
        for picture in self._paced_pictures():
            length = f"Content-Length: {len(picture)}\r\n" if self._announce_length else ""
            part = f"--kensa\r\nContent-Type: image/jpeg\r\n{length}\r\n".encode()
            connection.sendall(part + picture + b"\r\n")


class BlackHole:
    """An address that answers nothing, not even a connection: a port whose queue of connections is full."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port = int(self._listener.getsockname()[1])
        self._callers: list[socket.socket] = []

    def __enter__(self) -> Self:
        for _ in range(4):  # the kernel takes one or two more than it was told
            caller = socket.socket()
            caller.setblocking(False)  # noqa: FBT003 - takes no keyword
            caller.connect_ex(("127.0.0.1", self.port))
            self._callers.append(caller)
        return self

    def __exit__(self, *_: object) -> None:
        for end in (*self._callers, self._listener):
            end.close()
