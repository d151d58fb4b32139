"""A bound on how often something may happen: a token bucket in one number (ITU-T I.371, generic cell rate algorithm).

Pure but for the numbers that it keeps; the caller brings the time and, where threads share it, the lock.
"""

from __future__ import annotations

from agent.timing.clock import NS_PER_S


class RateLimit:
    """Allows `per_s` a second, sustained, and `burst` at once."""

    def __init__(self, *, per_s: float, burst: float) -> None:
        """Start full; `per_s` is at least 1e-6, `burst` at least the largest amount that is taken."""
        self._next_ns = -(1 << 62)  # when what was taken is paid for, in time of its own; long ago at first
        self.set_limit(per_s=per_s, burst=burst)

    def set_limit(self, *, per_s: float, burst: float) -> None:
        """Set other bounds; what was taken stays taken."""
        self._interval_ns = NS_PER_S / per_s
        self._slack_ns = (burst - 1) * self._interval_ns

    def try_take(self, now_ns: int) -> bool:
        """Take one, if that is allowed at `now_ns` (monotonic)."""
        earliest = max(self._next_ns, now_ns - round(self._slack_ns))
        if earliest > now_ns:
            return False
        self._next_ns = earliest + round(self._interval_ns)
        return True

    def take_with_delay(self, now_ns: int, amount: float) -> int:
        """Take `amount` in any case; return for how long (ns) to wait until it is paid for within the burst."""
        earliest = max(self._next_ns, now_ns - round(self._slack_ns))
        self._next_ns = earliest + round(amount * self._interval_ns)
        return max(0, self._next_ns - now_ns)
