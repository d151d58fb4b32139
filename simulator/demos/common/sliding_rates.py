"""Rates of counters over the last few seconds."""

from __future__ import annotations

from collections import deque
from typing import Final

_WINDOW_S: Final = 3.0


class SlidingRates:
    """Increase a second of some totals, over the last 3 s."""

    def __init__(self) -> None:
        """Nothing was counted yet."""
        self._samples: deque[tuple[float, tuple[float, ...]]] = deque()

    def update(self, at_s: float, *totals: float) -> tuple[float, ...]:
        """Add the totals at a time; return their rates, 0 while there is one sample only."""
        self._samples.append((at_s, totals))
        while len(self._samples) > 2 and at_s - self._samples[0][0] > _WINDOW_S:  # noqa: PLR2004 - a rate needs two
            self._samples.popleft()
        first_s, first = self._samples[0]
        span = at_s - first_s
        return tuple((now - then) / span if span > 0.0 else 0.0 for now, then in zip(totals, first, strict=True))
