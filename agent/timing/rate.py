"""Rate limit: a token bucket in one number (ITU-T I.371, generic cell rate algorithm).

Does no I/O and reads no clock: the caller passes the time and, where threads share it, holds a lock.
"""

from __future__ import annotations

from agent.timing.clock import NS_PER_S


class RateLimit:
    """Allows `per_s` a second, sustained, and `burst` at once."""

    def __init__(self, *, per_s: float, burst: float) -> None:
        """Start full. `per_s` is at least 1e-6, `burst` at least the largest amount that is taken at once."""
        # Theoretical arrival time of the next one; starts in the past so that the first burst passes.
        self._next_ns = -(1 << 62)
        self.set_limit(per_s=per_s, burst=burst)

    def set_limit(self, *, per_s: float, burst: float) -> None:
        """Set other bounds; amounts taken so far still count."""
        self._interval_ns = NS_PER_S / per_s
        self._slack_ns = (burst - 1) * self._interval_ns

    def try_take(self, now_ns: int) -> bool:
        """Take one if that is allowed at `now_ns` (monotonic); return whether it was."""
        earliest = max(self._next_ns, now_ns - int(self._slack_ns))
        if earliest > now_ns:
            return False
        self._next_ns = earliest + int(self._interval_ns)
        return True

    def take_with_delay(self, now_ns: int, amount: float) -> int:
        """Take `amount` in any case; return the wait in ns after which rate and burst allow it, 0 for at once."""
        earliest = max(self._next_ns, now_ns - int(self._slack_ns))
        self._next_ns = earliest + int(amount * self._interval_ns)
        return max(0, self._next_ns - int(self._interval_ns) - now_ns)
