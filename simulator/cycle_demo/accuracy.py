"""How many parts are judged right, over time, at the independent subscriber. Pure bookkeeping.

A part counts as right when a good one passes and a defective one is rejected; what is unsure or not judged does not.
Times are seconds of the story, of the exposure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simulator.demo.tally import Finding, grade

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.records import Verdict
    from simulator.line import SimulatedLine

WINDOW: Final = 120  # parts of the sliding window
_RIGHT: Final = frozenset({Finding.PASSED, Finding.CAUGHT})
_NS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Judged:
    """One part."""

    at_s: float
    finding: Finding
    version: str  # of the champion

    @property
    def right(self) -> bool:
        """See the module."""
        return self.finding in _RIGHT


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many."""

    right: int
    parts: int

    @property
    def value(self) -> float:
        """In [0, 1]; 0 of nothing."""
        return self.right / self.parts if self.parts else 0.0


class Accuracy:
    """Takes verdicts; one thread adds, any may ask."""

    def __init__(self, lines: Mapping[str, SimulatedLine], *, began_utc_s: float) -> None:
        """`lines` by camera."""
        self._lines = lines
        self._began_s = began_utc_s
        self.judged: list[Judged] = []

    def take(self, verdict: Verdict) -> Judged:
        """Count one verdict."""
        truth = self._lines[verdict.origin.camera].truth(str(verdict.part_id))
        model = verdict.origin.model
        one = Judged(
            verdict.captured_utc_ns / _NS - self._began_s,
            grade(verdict.judgement.outcome, truth),
            "" if model is None else model.version,
        )
        self.judged.append(one)
        return one

    def between(self, from_s: float, to_s: float) -> Share:
        """Of the parts that were taken in [from_s, to_s)."""
        found = [one.right for one in self.judged[:] if from_s <= one.at_s < to_s]
        return Share(sum(found), len(found))

    def now(self) -> Share:
        """Of the last WINDOW parts that arrived."""
        found = [one.right for one in self.judged[-WINDOW:]]
        return Share(sum(found), len(found))

    def curve(self, *, step_s: float = 1.0) -> list[tuple[float, float]]:
        """(time, accuracy of the WINDOW parts before it), every `step_s`, from the first whole window on."""
        judged = sorted(self.judged[:], key=lambda one: one.at_s)
        points: list[tuple[float, float]] = []
        right = sum(one.right for one in judged[:WINDOW])
        for last in range(WINDOW, len(judged) + 1):
            if not points or judged[last - 1].at_s >= points[-1][0] + step_s:
                points.append((judged[last - 1].at_s, right / WINDOW))
            if last < len(judged):
                right += judged[last].right - judged[last - WINDOW].right
        return points
