"""Limits the rate of QoS 1 messages: lite holds 10 unacknowledged ones of 15 kB, and refuses more.

A message occupies its slot for about 0.13 s at least (80 a second with 10 slots, as measured; 50 a second had no
errors). So every publisher of the component shares two token buckets: in 0.13 s at most 10 messages and 15 kB leave,
and in any second at most `BURST + PER_S` (38) messages, which the network may still bunch.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from agent.timing.clock import NS_PER_S
from agent.timing.rate import RateLimit

if TYPE_CHECKING:
    from agent.timing.clock import Clock

PER_S: Final = 34
BURST: Final = 4
BYTES_PER_S: Final = 50_000
BURST_BYTES: Final = 6_600  # one message of the largest size
PACKET_BYTES: Final = 64  # approximate size of topic and header, beside the payload


class PublishRateLimiter:
    """Two token buckets that every publisher of one component shares."""

    def __init__(self, *, clock: Clock) -> None:
        """The buckets are full at first."""
        self._clock = clock
        self._lock = threading.Lock()
        self._messages = RateLimit(per_s=PER_S, burst=BURST)
        self._bytes = RateLimit(per_s=BYTES_PER_S, burst=BURST_BYTES)

    def reserve(self, payload_bytes: int) -> float:
        """Reserve a slot for a message of `payload_bytes`; return the seconds to wait before sending it."""
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            messages_ns = self._messages.take_with_delay(now_ns, 1)
            bytes_ns = self._bytes.take_with_delay(now_ns, payload_bytes + PACKET_BYTES)
            return max(messages_ns, bytes_ns) / NS_PER_S

    def wait(self, payload_bytes: int, stop: threading.Event) -> None:
        """Wait for the next slot, at most until `stop`."""
        if (wait_s := self.reserve(payload_bytes)) > 0.0:
            self._clock.wait(stop, wait_s)
