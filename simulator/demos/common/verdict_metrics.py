"""Verdicts as they arrive at the subscriber, against the truth that only the simulated line knows.

Pure bookkeeping: no clock, no threads, no pixels. What a verdict means is decided in `grade`, once.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from agent.records import Outcome
from simulator.demos.common.release_accuracy import ReleaseAccuracy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.records import Verdict
    from simulator.line import PartTruth, SimulatedLine

_RECENT: Final = 64  # findings that the live view can show
_MAX_NOTABLE: Final = 2_000  # findings for the contact sheet
_TREND_S: Final = 60  # seconds of latency that the live view can show


class Grade(StrEnum):
    """What a verdict is worth, given the truth."""

    PASSED = "passed"  # good, and said to be good
    CAUGHT = "caught"  # defective, and said to be
    ESCAPE = "escape"  # defective, and said to be good
    FALSE_REJECT = "false reject"  # good, and said to be defective
    REVIEW = "to a person"  # unsure: nobody decided
    NOT_INSPECTED = "not inspected"  # unknown: nothing could be said


@dataclass(frozen=True, slots=True)
class GradedVerdict:
    """A verdict with its truth."""

    verdict: Verdict
    truth: PartTruth
    grade: Grade


class HasDefect(Protocol):
    """As much of the truth as grading needs."""

    @property
    def is_defective(self) -> bool:
        """Whether the part must be rejected."""


def grade_verdict(outcome: Outcome, truth: HasDefect) -> Grade:
    """Return what `outcome` is worth for a part with this truth."""
    match outcome:
        case Outcome.OK:
            return Grade.ESCAPE if truth.is_defective else Grade.PASSED
        case Outcome.DEFECT:
            return Grade.CAUGHT if truth.is_defective else Grade.FALSE_REJECT
        case Outcome.UNSURE:
            return Grade.REVIEW
        case Outcome.UNKNOWN:
            return Grade.NOT_INSPECTED


class VerdictMetrics:
    """Counts and remembers; used from one thread."""

    def __init__(self, lines: Mapping[str, SimulatedLine]) -> None:
        """Verdicts of camera `name` are compared with the parts of `lines[name]`."""
        self._lines = lines
        self.outcomes: Counter[Outcome] = Counter()
        self.grades: Counter[Grade] = Counter()
        self.by_difficulty: Counter[tuple[str, Grade]] = Counter()  # defective parts only
        self.by_kind: Counter[tuple[str, Grade]] = Counter()  # defective parts only
        self.by_release = ReleaseAccuracy()
        self.recent: deque[GradedVerdict] = deque(maxlen=_RECENT)  # everything but PASSED, newest last
        self.notable: deque[GradedVerdict] = deque(maxlen=_MAX_NOTABLE)
        self.latencies_us: list[int] = []
        self.times_ns: dict[str, list[int]] = {}  # capture (UTC) of each verdict, by inspection
        self.inspection_us: dict[str, list[int]] = {}  # its latency
        self._seconds: deque[tuple[int, list[int]]] = deque(maxlen=_TREND_S)

    @property
    def delivered(self) -> int:
        """Verdicts that arrived, each once."""
        return len(self.latencies_us)

    def add(self, verdict: Verdict) -> GradedVerdict:
        """Count one verdict. Raises KeyError for a camera and ValueError for a part that is not on the line."""
        line = self._lines[verdict.origin.camera]
        truth = line.truth(verdict.part_id if verdict.part_id is not None else verdict.seq)
        graded = GradedVerdict(verdict, truth, grade_verdict(verdict.judgement.outcome, truth))
        self.outcomes[verdict.judgement.outcome] += 1
        self.grades[graded.grade] += 1
        if truth.is_defective:
            self.by_difficulty[truth.difficulty, graded.grade] += 1
            self.by_kind[truth.kind, graded.grade] += 1
        if graded.grade is not Grade.PASSED:
            self.recent.append(graded)
            self.notable.append(graded)
        self.by_release.add(verdict, truth, line.config)
        self._time(verdict)
        return graded

    def _time(self, verdict: Verdict) -> None:
        self.latencies_us.append(verdict.latency_us)
        self.times_ns.setdefault(verdict.origin.inspection, []).append(verdict.captured_utc_ns)
        self.inspection_us.setdefault(verdict.origin.inspection, []).append(verdict.latency_us)
        second = verdict.captured_utc_ns // 1_000_000_000
        for known, latencies in reversed(self._seconds):
            if known == second:
                latencies.append(verdict.latency_us)
                return
            if known < second:
                break
        if not self._seconds or second > self._seconds[-1][0]:
            self._seconds.append((second, [verdict.latency_us]))

    def latency_ms(self, share: float) -> float | None:
        """Return the latency (due time to decision, ms) that `share` (0..1) of all verdicts keep to."""
        if not self.latencies_us:
            return None
        return float(np.quantile(np.asarray(self.latencies_us), share)) / 1_000.0

    def trend_ms(self) -> list[float]:
        """Return the p99 latency (ms) of each of the last seconds, oldest first."""
        return [float(np.quantile(latencies, 0.99)) / 1_000.0 for _, latencies in self._seconds]

    def detection_counts(self, difficulty: str | None = None) -> tuple[int, int]:
        """Return (found or set aside, all) defective parts that were inspected, of one difficulty or of all."""
        counts: Counter[Grade] = Counter()
        for (of, finding), number in self.by_difficulty.items():
            if difficulty in {None, of}:
                counts[finding] += number
        found = counts[Grade.CAUGHT] + counts[Grade.REVIEW]
        return found, found + counts[Grade.ESCAPE]
