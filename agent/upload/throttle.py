"""Limits the speed of uploads, so that they leave the line's uplink to the verdicts."""

from __future__ import annotations

import threading
import time
from typing import IO, TYPE_CHECKING, Final

from agent.timing.clock import NS_PER_S
from agent.timing.rate import RateLimit

if TYPE_CHECKING:
    from collections.abc import Callable

_BURST_BYTES: Final = 64 * 1024
_CHUNK_BYTES: Final = 16 * 1024


class Throttle:
    """A bound on bytes per second; None is no bound. Used by one thread at a time."""

    def __init__(self, bytes_per_s: int | None, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._rate = None if bytes_per_s is None else RateLimit(per_s=bytes_per_s, burst=_BURST_BYTES)
        self._pause = pause

    def spend(self, size: int) -> None:
        """Wait until `size` more bytes may go out."""
        if self._rate is not None:
            self._pause(self._rate.take_with_delay(time.monotonic_ns(), size) / NS_PER_S)


class ThrottledFile:
    """Part of a file as an HTTP client reads it: `length` bytes from `start` on.

    A client reads a body more than once when it signs it; only reads after `arm` are sent, and throttled.
    """

    def __init__(self, file: IO[bytes], *, start: int, length: int, throttle: Throttle) -> None:
        """`file` stays open for as long as this is read."""
        self._file = file
        self._start = start
        self._length = length
        self._at = 0
        self._throttle = throttle
        self._armed = threading.Event()

    def arm(self) -> None:
        """Throttle from now on: the bytes read are sent."""
        self._armed.set()

    def read(self, size: int = -1) -> bytes:
        """See `io.RawIOBase.read`."""
        left = self._length - self._at
        size = left if size < 0 else min(size, left)
        if self._armed.is_set():
            size = min(size, _CHUNK_BYTES)
            self._throttle.spend(size)
        self._file.seek(self._start + self._at)
        data = self._file.read(size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """See `io.IOBase.seek`."""
        base = {0: 0, 1: self._at, 2: self._length}[whence]
        self._at = max(0, min(self._length, base + offset))
        return self._at

    def tell(self) -> int:
        """See `io.IOBase.tell`."""
        return self._at

    def __len__(self) -> int:
        return self._length
