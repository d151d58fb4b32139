"""Simulates the reject-rate chart: false alarms over shifts, and the delay until a change is found.

Every figure comes from the product's own `RejectChart`, learning included: a shift begins with the model's first part.
Seeds of published figures begin at 20,000; the chart's constants were chosen with seeds below 1,000.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.evidence.reject_chart import PARTS_PER_SHIFT, SHIFTS, ChartState, RejectChart

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTS_PER_FAST_SHIFT: Final = 864_000  # parts a shift at 30 parts a second
_SEED: Final = 20_000  # first of the published ones
_MOST: Final = 60_000  # parts until a change counts as not found
_CAMERA: Final = "cam"


@dataclass(frozen=True, slots=True)
class FalseAlarms:
    """Alarms on a line whose rate does not change."""

    rate: float
    run: int  # rejects in a row, each time
    parts_per_shift: int
    shifts: int
    high: int
    low: int
    flood: int

    @property
    def per_30_shifts(self) -> float:
        """False alarms that 30 shifts see on average."""
        return SHIFTS * (self.high + self.low + self.flood) / self.shifts


@dataclass(frozen=True, slots=True)
class DetectionDelay:
    """Parts from a change to its alarm."""

    before: float
    after: float
    run: int
    parts_per_shift: int
    learned: int  # parts before the change
    runs: int
    parts: tuple[int, ...]  # sorted; `_MOST` where it was not found
    states: tuple[str, ...]

    def quantile(self, share: float) -> int:
        """Parts within which this share of the changes was found."""
        return self.parts[min(len(self.parts) - 1, int(share * len(self.parts)))]

    @property
    def mean(self) -> float:
        """Parts on average."""
        return statistics.fmean(self.parts)


def _gaps(rate: float, run: int, rng: np.random.Generator) -> Iterator[int]:
    """Passes between two runs of `run` rejects each, so that the share of rejects is `rate`."""
    start = rate / (run - (run - 1) * rate)
    while True:
        yield from (int(gap) for gap in rng.geometric(start, 512) - 1)


def measure_false_alarms(
    *, rate: float, run: int = 1, parts_per_shift: int = PARTS_PER_SHIFT, repeats: int, seed: int = _SEED
) -> FalseAlarms:
    """Let `repeats` lines of 30 shifts each learn and run at a constant rate; an alarm is counted when it begins."""
    counts = dict.fromkeys((ChartState.HIGH, ChartState.LOW, ChartState.FLOOD), 0)
    for repeat in range(repeats):
        rng = np.random.default_rng((seed, repeat))
        chart, total = RejectChart(parts_per_shift), SHIFTS * parts_per_shift
        state = ChartState.LEARNING
        for gap in _gaps(rate, run, rng):
            if chart.parts >= total:
                break
            chart.add_passes(_CAMERA, min(gap, total))
            state = _count_alarm(chart, state, counts)
            for _ in range(run):
                chart.add(_CAMERA, rejected=True)
            state = _count_alarm(chart, state, counts)
    high, low, flood = counts.values()
    return FalseAlarms(rate, run, parts_per_shift, SHIFTS * repeats, high, low, flood)


@dataclass(frozen=True, slots=True)
class RejectChartFigures:
    """The published figures."""

    false: tuple[FalseAlarms, ...]
    found: tuple[DetectionDelay, ...]

    @property
    def worst(self) -> float:
        """False alarms in 30 shifts, of the line that sees most."""
        return max(line.per_30_shifts for line in self.false)

    @property
    def doubling(self) -> DetectionDelay:
        """From 2 to 4 %, at a part a second."""
        return next(f for f in self.found if (f.before, f.after, f.parts_per_shift) == (0.02, 0.04, PARTS_PER_SHIFT))

    def to_json(self) -> dict[str, Any]:
        """Return plain values: quantiles in the place of every single figure."""
        found = [
            {k: v for k, v in asdict(f).items() if k != "parts"}
            | {"median": f.quantile(0.5), "p90": f.quantile(0.9), "mean": round(f.mean)}
            for f in self.found
        ]
        return {"false": [asdict(f) | {"per_30_shifts": f.per_30_shifts} for f in self.false], "found": found}


def run_reject_chart(*, repeats: int, seed: int) -> RejectChartFigures:
    """Simulate every line of the table, `repeats` times each: 30 shifts without a change, and one change."""
    seed += _SEED
    slow = [
        measure_false_alarms(rate=rate, run=run, repeats=repeats, seed=seed)
        for rate, run in ((0.005, 1), (0.02, 1), (0.05, 1), (0.15, 1), (0.02, 3), (0.02, 5), (0.02, 10))
    ]
    fast = measure_false_alarms(
        rate=0.02, parts_per_shift=PARTS_PER_FAST_SHIFT, repeats=max(1, repeats // 20), seed=seed
    )
    changes = (
        (0.02, 0.04),
        (0.02, 0.1),
        (0.02, 0.0),
        (0.02, 0.004),
        (0.02, 1.0),
        (0.005, 0.01),
        (0.05, 0.1),
        (0.0, 1.0),
    )
    found = [
        measure_detection_delay(before=b, after=a, repeats=repeats, seed=seed, learned=_learned(b)) for b, a in changes
    ]
    found.append(
        measure_detection_delay(
            before=0.02, after=0.04, parts_per_shift=PARTS_PER_FAST_SHIFT, repeats=repeats, seed=seed
        )
    )
    return RejectChartFigures((*slow, fast), tuple(found))


def _learned(before: float) -> int:
    """One shift; nothing where the model rejects everything from its first part on."""
    return PARTS_PER_SHIFT if before else 0


def _count_alarm(chart: RejectChart, before: ChartState, counts: dict[ChartState, int]) -> ChartState:
    if chart.state is not before and chart.state in counts:
        counts[chart.state] += 1
    return chart.state


def measure_detection_delay(
    *,
    before: float,
    after: float,
    learned: int = PARTS_PER_SHIFT,
    run: int = 1,
    parts_per_shift: int = PARTS_PER_SHIFT,
    repeats: int,
    seed: int = _SEED,
) -> DetectionDelay:
    """Let `repeats` lines run `learned` parts at `before`, then change to `after`; parts until the alarm."""
    found, states = [], set()
    for repeat in range(repeats):
        rng = np.random.default_rng((seed, 1_000_000 + repeat))
        chart = RejectChart(parts_per_shift)
        for gap in _gaps(before, run, rng) if learned else ():
            left = learned - chart.parts
            chart.add_passes(_CAMERA, min(gap, left))
            if gap >= left:
                break
            for _ in range(run):
                chart.add(_CAMERA, rejected=True)
        began = chart.parts
        while chart.state in {ChartState.LEARNING, ChartState.STEADY} and chart.parts - began < _MOST:
            rejected = after > 0.0 and rng.random() < after
            chart.add(_CAMERA, rejected=bool(rejected))
        states.add(str(chart.state))
        found.append(chart.parts - began)
    return DetectionDelay(
        before, after, run, parts_per_shift, learned, repeats, tuple(sorted(found)), tuple(sorted(states))
    )
