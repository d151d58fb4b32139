"""How fast QoS 1 messages may go to the nucleus: lite keeps 10 unacknowledged ones of 15 kB together, and refuses more.

A message takes its place for about 0.13 s at least (80 a second with 10 places, as measured; 50 a second were clean).
So two token buckets are kept by everything in the component that publishes: in 0.13 s at most 10 messages and 15 kB
leave, and in any second at most `BURST + PER_S` (38) messages, which the network may still bunch.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from agent.timing.clock import Clock

PER_S: Final = 34
BURST: Final = 4
BYTES_PER_S: Final = 50_000
BURST_BYTES: Final = 6_600  # one message of the largest size
PACKET_BYTES: Final = 64  # of a message beside its payload: topic and header, about


class _TokenBucket:
    """Tokens as time: `free_ns` is when the bucket is full again, less its depth."""

    def __init__(self, *, per_s: int, burst: int, now_ns: int) -> None:
        self._per_s = per_s
        self._depth_ns = burst * NS_PER_S // per_s
        self._free_ns = now_ns - self._depth_ns

    def take(self, amount: int, now_ns: int) -> int:
        """Return how many ns to wait."""
        self._free_ns = max(self._free_ns, now_ns - self._depth_ns) + amount * NS_PER_S // self._per_s
        return max(0, self._free_ns - now_ns)


class PublishRateLimiter:
    """Two token buckets that every sender of one component shares."""

    def __init__(self, *, clock: Clock) -> None:
        """The buckets are full at first."""
        self._clock = clock
        self._lock = threading.Lock()
        now_ns = clock.monotonic_ns()
        self._messages = _TokenBucket(per_s=PER_S, burst=BURST, now_ns=now_ns)
        self._bytes = _TokenBucket(per_s=BYTES_PER_S, burst=BURST_BYTES, now_ns=now_ns)

    def reserve(self, payload_bytes: int) -> float:
        """Take the next place for a message of `payload_bytes`; return the seconds to wait until it may be used."""
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            wait_ns = max(self._messages.take(1, now_ns), self._bytes.take(payload_bytes + PACKET_BYTES, now_ns))
            return wait_ns / NS_PER_S

    def wait(self, payload_bytes: int, stop: threading.Event) -> None:
        """Wait for the next place, at most until `stop`."""
        if (wait_s := self.reserve(payload_bytes)) > 0.0:
            self._clock.wait(stop, wait_s)
