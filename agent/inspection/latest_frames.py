"""Keeps the newest exposure of a live camera, so that a slow line never gets an old one.

Promise: a reading thread reads the camera all the time, so nothing ages in the queues of driver, kernel and server,
however slow the consumer is. Each exposure has the time of its arrival; exposures that were skipped for a newer one are
counted in the next `Grab.skipped`. The capture thread decodes an exposure when it takes it, so a skipped one costs no
decoding. `read` and `close` return in time whatever the camera does: only the reading thread calls it. Each opening has
its own stream and thread; a thread that hangs is abandoned and closes its stream once the driver returns. A triggered
exposure (with a part id) is never skipped: the camera is held back until it is taken.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from agent.errors import CameraError, FrameError
from agent.records import Grab

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.ports import FrameSource
    from agent.records import Pixels

_RECEIVE_S: Final = 0.2  # how long the reading thread waits for one exposure, and so how late `close` may be
_CLOSE_WAIT_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Exposure:
    """An exposure that arrived and is not decoded yet. `decode(buffer)` is called at most once, by the capture thread.

    It returns [H, W] or [H, W, 3] uint8, in `buffer` where that fits; raises FrameError.
    """

    arrived_ns: int  # monotonic
    decode: Callable[[Pixels | None], Pixels]
    part_id: str | None = None
    incomplete: bool = False
    hardware_ns: int | None = None


class LiveStream(Protocol):
    """One connection to a live camera. `open` is called by the capture thread, the rest by the reading thread."""

    def open(self) -> None:
        """Connect. Raises CameraError."""

    def receive(self, *, timeout_s: float) -> Exposure | None:
        """Return the next exposure, or None when none arrived within `timeout_s` seconds.

        Raises FrameError for an exposure that cannot be used, CameraError when the camera is gone.
        """

    def close(self) -> None:
        """Disconnect; also after a failed `open`."""


class LatestFrameSource:
    """A `FrameSource` over the streams that `connect` makes, one for each opening."""

    live: Final = True

    def __init__(
        self, *, name: str, connect: Callable[[], LiveStream], on_close: Callable[[], None] = lambda: None
    ) -> None:
        """`name` is shown in errors: no credentials. `on_close` releases what decoding needs."""
        self._name = name
        self._connect = connect
        self._on_close = on_close
        self._reader: _Reader | None = None
        self._skipped = 0  # not reported with an image yet

    def open(self) -> None:
        """See `FrameSource.open`."""
        self.close()
        stream = self._connect()
        try:
            stream.open()
            reader = _Reader(name=self._name, stream=stream)
            reader.start()  # may fail: the number of threads is limited
        except BaseException:
            stream.close()
            raise
        self._reader, self._skipped = reader, 0

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`; raises the reading thread's error after the exposures that preceded it."""
        if self._reader is None:
            raise CameraError(f"{self._name} is not open")
        exposure, skipped = self._reader.take(timeout_s)
        if exposure is None:
            return None
        self._skipped += skipped  # kept over an exposure that cannot be decoded
        pixels = exposure.decode(buffer)
        skipped, self._skipped = self._skipped, 0
        return Grab(
            pixels=pixels,
            due_ns=exposure.arrived_ns,
            part_id=exposure.part_id,
            incomplete=exposure.incomplete,
            hardware_ns=exposure.hardware_ns,
            skipped=skipped,
        )

    def close(self) -> None:
        """See `FrameSource.close`."""
        if self._reader is not None:
            self._reader.stop()
            self._reader = None
        self._on_close()


class _Reader(threading.Thread):
    """Reads one stream until it fails or `leave` is called."""

    def __init__(self, *, name: str, stream: LiveStream) -> None:
        super().__init__(name=f"read {name}", daemon=True)
        self._stream = stream
        self._changed = threading.Condition()
        self._stopping = False
        self._newest: Exposure | FrameError | None = None
        self._skipped = 0  # before the newest one
        self._error: Exception | None = None

    def run(self) -> None:
        """Receive everything; the top of the thread, so any exception is kept for `take`."""
        try:
            while not self._stopping:
                self._receive()
        except Exception as error:  # noqa: BLE001 - raised again in the capture thread
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            self._stream.close()

    def _receive(self) -> None:
        arrived: Exposure | FrameError | None
        try:
            arrived = self._stream.receive(timeout_s=_RECEIVE_S)
        except FrameError as error:
            arrived = error
        if arrived is None:
            return
        with self._changed:
            # A part must get its verdict: a triggered exposure waits until it is taken.
            while isinstance(self._newest, Exposure) and self._newest.part_id is not None and not self._stopping:
                self._changed.wait(_RECEIVE_S)
            self._skipped += self._newest is not None
            self._newest = arrived
            self._changed.notify_all()

    def take(self, timeout_s: float) -> tuple[Exposure | None, int]:
        """Return the newest exposure, and how many were skipped since the last one that was returned.

        Raises FrameError for one that cannot be used, and the error that ended the stream.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._error is not None, timeout_s)
            taken, self._newest = self._newest, None
            self._changed.notify_all()
            if isinstance(taken, FrameError):
                raise taken
            if taken is None and self._error is not None:
                raise self._error
            if taken is None:
                return None, 0
            skipped, self._skipped = self._skipped, 0
            return taken, skipped

    def stop(self) -> None:
        """Let the thread end; returns in time even when it hangs."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self.join(_CLOSE_WAIT_S)


def latest_frames_of(make: Callable[[], FrameSource], *, name: str) -> LatestFrameSource:
    """Return a source that reads any live `FrameSource` all the time; `make` is called for each opening.

    Its `read` gets no buffer, so that each exposure has pixels of its own.
    """
    return LatestFrameSource(name=name, connect=lambda: _SourceStream(make()))


class _SourceStream:
    """A `FrameSource` as a `LiveStream`."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source

    def open(self) -> None:
        """See `LiveStream.open`."""
        self._source.open()

    def receive(self, *, timeout_s: float) -> Exposure | None:
        """See `LiveStream.receive`."""
        grab = self._source.read(timeout_s=timeout_s, buffer=None)
        if grab is None:
            return None
        pixels = grab.pixels
        return Exposure(
            arrived_ns=grab.due_ns,
            decode=lambda _buffer: pixels,
            part_id=grab.part_id,
            incomplete=grab.incomplete,
            hardware_ns=grab.hardware_ns,
        )

    def close(self) -> None:
        """See `LiveStream.close`."""
        self._source.close()
