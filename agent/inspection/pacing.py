"""Computes when the next exposure of a paced source is due.

Promise: exposures are due on a fixed grid of 1/fps, so latency counted from `due_ns` includes every delay.
A reader that falls behind by more than a period (it waited for room in the intake) gets a new grid: a file does not
run ahead, and its due times must not fall further and further behind. One instance belongs to one thread.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from agent.timing.clock import Clock


class Pacer:
    """Compute due times at `fps` exposures per second; without `fps` every exposure is due at once."""

    def __init__(self, *, fps: float | None, clock: Clock) -> None:
        self._period_ns = 0 if fps is None else round(NS_PER_S / fps)
        self._clock = clock
        self._next_ns = clock.monotonic_ns()
        self._never = threading.Event()  # the clock waits on an event; a paced source has none

    def restart(self) -> None:
        """Make the next exposure due now."""
        self._next_ns = self._clock.monotonic_ns()

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the next due time and return it (monotonic ns); None when it is more than `timeout_s` s off."""
        now = self._clock.monotonic_ns()
        if now - self._next_ns > self._period_ns:
            self._next_ns = now
        missing_ns = self._next_ns - now
        if missing_ns > timeout_s * NS_PER_S:
            self._clock.wait(self._never, timeout_s)
            return None
        if missing_ns > 0:
            self._clock.wait(self._never, missing_ns / NS_PER_S)
        due_ns = self._next_ns
        self._next_ns += self._period_ns
        return due_ns
