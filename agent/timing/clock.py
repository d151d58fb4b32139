"""The clock interface: monotonic time for durations and deadlines, UTC only on the wire."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import threading

NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """Injected wherever time is read or waited for; the tests' clock is the second implementation."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start; never goes backwards."""

    def utc_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC; may jump when the system clock is set."""

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds for `event`; True when it is set."""


class SystemClock:
    """The machine's own clocks."""

    def monotonic_ns(self) -> int:
        """See `Clock.monotonic_ns`."""
        return time.monotonic_ns()

    def utc_ns(self) -> int:
        """See `Clock.utc_ns`."""
        return time.time_ns()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """See `Clock.wait`."""
        return event.wait(timeout_s)
