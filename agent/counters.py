"""Counters by camera: accounting of every frame, and latency.

Invariant: captured = inspected + dropped (by reason) + pending, at every moment. Counters only grow. One lock a camera
keeps a snapshot consistent; it is held for well under a microsecond.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.records import DroppedFrames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.records import DropReason, Outcome

_STEPS: Final = 8  # buckets an octave: a quantile is read to within 2**(1/8), 9 %
_OCTAVES: Final = 26  # 1 us to 67 s


@dataclass(frozen=True, slots=True)
class Accounting:
    """A consistent snapshot of one camera's counters."""

    captured: int
    inspected: int  # verdicts of every outcome, including `unknown`
    dropped: dict[str, int]  # by DropReason value, only reasons that occurred
    outcomes: dict[str, int]  # by Outcome value, only outcomes that occurred

    @property
    def dropped_total(self) -> int:
        """Dropped frames of all reasons."""
        return sum(self.dropped.values())

    @property
    def pending(self) -> int:
        """Captured and neither inspected nor dropped yet; 0 after a drain."""
        return self.captured - self.inspected - self.dropped_total


class LatencyHistogram:
    """Latencies in logarithmic buckets; constant memory, quantiles to within 9 %."""

    def __init__(self) -> None:
        """Start empty."""
        self._counts = [0] * (_STEPS * _OCTAVES + 1)
        self._total_us = 0
        self._lock = threading.Lock()

    def record(self, latency_us: int) -> None:
        """Count one latency, microseconds; negative counts as 0."""
        value = max(latency_us, 1)
        octave = value.bit_length() - 1
        step = ((value << 3) >> octave) - _STEPS  # linear within an octave: integer arithmetic only
        index = min(octave * _STEPS + step, len(self._counts) - 1)
        with self._lock:
            self._counts[index] += 1
            self._total_us += value

    def buckets(self) -> list[tuple[int, int]]:
        """Return (upper edge in microseconds, count) of every bucket that is not empty, ascending."""
        with self._lock:
            counts = self._counts.copy()
        return [(self.upper_us(i), n) for i, n in enumerate(counts) if n]

    def total_us(self) -> int:
        """Return the sum of all recorded latencies."""
        return self._total_us

    @staticmethod
    def upper_us(index: int) -> int:
        """Return the exclusive upper edge of bucket `index`, microseconds."""
        octave, step = divmod(index, _STEPS)
        return ((_STEPS + step + 1) << octave) // _STEPS + 1


def quantile_us(buckets: Sequence[tuple[int, int]], share: float) -> int | None:
    """Return the upper edge (us) of the bucket of quantile `share` (0..1); None without data."""
    total = sum(n for _, n in buckets)
    if not total:
        return None
    rank, seen = share * total, 0
    for upper, count in buckets:
        seen += count
        if seen >= rank:
            return upper
    return buckets[-1][0]


class LossCounters:
    """Counts dropped or refused items that are no frames or verdicts, by a snake_case name; from any thread."""

    def __init__(self) -> None:
        """Start at zero."""
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def count(self, name: str, count: int = 1) -> None:
        """Count a loss under `name`."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + count

    def snapshot(self) -> dict[str, int]:
        """Return all counts of one moment; only names that occurred, in their order."""
        with self._lock:
            return dict(sorted(self._counts.items()))


class CameraCounters:
    """One camera's counters; methods may be called from any thread."""

    def __init__(self, *, camera: str = "", on_drop: Callable[[DroppedFrames], None] | None = None) -> None:
        """Start at zero. `on_drop` is called with every frame without a verdict, in the thread that drops it."""
        self._camera = camera
        self._on_drop = on_drop
        self._lock = threading.Lock()
        self._captured = 0
        self._dropped: dict[DropReason, int] = {}
        self._outcomes: dict[Outcome, int] = {}
        self.latency = LatencyHistogram()

    def count_captured(self, count: int = 1) -> None:
        """Count exposures, usable or not."""
        with self._lock:
            self._captured += count

    def count_dropped(
        self,
        reason: DropReason,
        count: int = 1,
        *,
        seq: int | None = None,
        detail: str | None = None,
        name: str | None = None,
    ) -> None:
        """Count frames that will get no verdict; see `records.DroppedFrames`."""
        with self._lock:
            self._dropped[reason] = self._dropped.get(reason, 0) + count
        if self._on_drop is not None:
            self._on_drop(DroppedFrames(self._camera, reason, seq, count, detail, name))

    def count_inspected(self, outcome: Outcome, latency_us: int) -> None:
        """Count one verdict."""
        with self._lock:
            self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        self.latency.record(latency_us)

    def snapshot(self) -> Accounting:
        """Return all counters of one moment."""
        with self._lock:
            return Accounting(
                captured=self._captured,
                inspected=sum(self._outcomes.values()),
                dropped={str(k): v for k, v in self._dropped.items()},
                outcomes={str(k): v for k, v in self._outcomes.items()},
            )
