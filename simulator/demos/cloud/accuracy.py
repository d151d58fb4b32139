"""Share of parts classified correctly over time, at the independent subscriber. Pure.

A part counts as right when a good one passes and a defective one is rejected; what is unsure or not inspected does not.
Times are seconds of the story, of the exposure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simulator.demos.common.verdict_metrics import Grade, grade_verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.records import Verdict
    from simulator.line import SimulatedLine

WINDOW: Final = 120  # parts of the sliding window
_CORRECT_GRADES: Final = frozenset({Grade.PASSED, Grade.CAUGHT})
_NS: Final = 1e9


@dataclass(frozen=True, slots=True)
class EvaluatedPart:
    """One part."""

    at_s: float
    grade: Grade
    version: str  # of the champion

    @property
    def is_correct(self) -> bool:
        """See the module."""
        return self.grade in _CORRECT_GRADES


@dataclass(frozen=True, slots=True)
class AccuracyShare:
    """So many of so many."""

    correct: int
    parts: int

    @property
    def value(self) -> float:
        """In [0, 1]; 0 of nothing."""
        return self.correct / self.parts if self.parts else 0.0


class Accuracy:
    """Takes verdicts; one thread adds, any may ask."""

    def __init__(self, lines: Mapping[str, SimulatedLine], *, began_utc_s: float) -> None:
        """`lines` by camera."""
        self._lines = lines
        self._began_s = began_utc_s
        self.evaluated: list[EvaluatedPart] = []

    def add(self, verdict: Verdict) -> EvaluatedPart:
        """Count one verdict."""
        truth = self._lines[verdict.origin.camera].truth(str(verdict.part_id))
        model = verdict.origin.model
        one = EvaluatedPart(
            verdict.captured_utc_ns / _NS - self._began_s,
            grade_verdict(verdict.judgement.outcome, truth),
            "" if model is None else model.version,
        )
        self.evaluated.append(one)
        return one

    def between(self, from_s: float, to_s: float) -> AccuracyShare:
        """Of the parts that were taken in [from_s, to_s)."""
        found = [one.is_correct for one in self.evaluated[:] if from_s <= one.at_s < to_s]
        return AccuracyShare(sum(found), len(found))

    def recent(self) -> AccuracyShare:
        """Of the last WINDOW parts that arrived."""
        found = [one.is_correct for one in self.evaluated[-WINDOW:]]
        return AccuracyShare(sum(found), len(found))

    def curve(self, *, step_s: float = 1.0) -> list[tuple[float, float]]:
        """(time, accuracy of the WINDOW parts before it), every `step_s`, from the first whole window on."""
        inspected = sorted(self.evaluated[:], key=lambda one: one.at_s)
        points: list[tuple[float, float]] = []
        right = sum(one.is_correct for one in inspected[:WINDOW])
        for last in range(WINDOW, len(inspected) + 1):
            if not points or inspected[last - 1].at_s >= points[-1][0] + step_s:
                points.append((inspected[last - 1].at_s, right / WINDOW))
            if last < len(inspected):
                right += inspected[last].is_correct - inspected[last - WINDOW].is_correct
        return points
