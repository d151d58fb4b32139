"""A clock that stands still until it is advanced."""

from __future__ import annotations

import threading  # noqa: TC003  part of the port's signature
from dataclasses import dataclass

from agent.timing.clock import NS_PER_S


@dataclass(slots=True)
class ManualClock:
    """An `agent.timing.clock.Clock`; waiting for an event that is not set moves the clock instead of sleeping."""

    now_ns: int = NS_PER_S  # monotonic
    utc_offset_ns: int = 1_800_000_000 * NS_PER_S

    def monotonic_ns(self) -> int:
        """See `Clock.monotonic_ns`."""
        return self.now_ns

    def utc_ns(self) -> int:
        """See `Clock.utc_ns`."""
        return self.now_ns + self.utc_offset_ns

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """See `Clock.wait`."""
        if not event.is_set():
            self.advance(timeout_s)
        return event.is_set()

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now_ns += int(seconds * NS_PER_S)
