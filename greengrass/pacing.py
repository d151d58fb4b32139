"""How fast QoS 1 messages may go to the nucleus: lite refuses beyond 10 unacknowledged and errs from 100 a second on.

Promise: in any second at most `BURST + PER_S` (40) messages leave, whoever sends them; 50 a second were clean on lite.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from agent.clock import NS_PER_S

if TYPE_CHECKING:
    from agent.clock import Clock

PER_S: Final = 32
BURST: Final = 8


class Pace:
    """A token bucket that every sender of one component shares."""

    def __init__(self, *, clock: Clock, per_s: float = PER_S, burst: int = BURST) -> None:
        """The bucket is full at first."""
        self._clock = clock
        self._step_ns = round(NS_PER_S / per_s)
        self._depth_ns = burst * self._step_ns
        self._lock = threading.Lock()
        self._free_ns = clock.monotonic_ns() - self._depth_ns  # when the bucket would have been empty

    def reserve(self) -> float:
        """Take the next place; return the seconds to wait until it may be used."""
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            self._free_ns = max(self._free_ns, now_ns - self._depth_ns) + self._step_ns
            return max(0.0, (self._free_ns - now_ns) / NS_PER_S)

    def take(self, stop: threading.Event) -> None:
        """Wait for the next place, at most until `stop`."""
        if (wait_s := self.reserve()) > 0.0:
            self._clock.wait(stop, wait_s)
