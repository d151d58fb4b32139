"""Escapes and false rejects of each release, by lamp state, with confidence intervals.

Promise: every figure is of one release by itself, in one light. A part that a trial showed to two models counts for the
challenger, whose own answer the verdict carries; what the champion said of it cannot be told from the verdict (the
stricter outcome became it), so it does not count for the champion. Which parts a trial takes is drawn by their keys, so
leaving them out favours nobody. Pure bookkeeping.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from agent.records import Outcome
from agent.sequential_tests import wilson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agent.records import Verdict
    from simulator.line import LineConfig, PartTruth

_STEADY: Final = 0.01  # of the lamp's level: less than the exposure differs from part to part


class LampState(StrEnum):
    """The lamp over a part."""

    GOOD = "good light"
    FADING = "fading lamp"
    FADED = "faded lamp"


def lamp_state(truth: PartTruth, config: LineConfig) -> LampState:
    """Return the lamp's state when the part was exposed; a lamp that swings about its level counts as good light."""
    if config.drift_shape != "ramp" or truth.light.drift >= 1.0 - _STEADY:
        return LampState.GOOD
    return LampState.FADED if truth.light.drift <= 1.0 - config.drift_amplitude + _STEADY else LampState.FADING


@dataclass(slots=True)
class ErrorCounts:
    """Counts of one release in one light; parts that were `unsure` or `unknown` count as neither mistake."""

    defective: int = 0
    escapes: int = 0
    good: int = 0
    false_rejects: int = 0

    def add(self, outcome: Outcome, *, defective: bool) -> None:
        """Count one answer."""
        if defective:
            self.defective += 1
            self.escapes += outcome is Outcome.OK
        else:
            self.good += 1
            self.false_rejects += outcome is Outcome.DEFECT


@dataclass(frozen=True, slots=True)
class ReleaseAccuracyRow:
    """One line of the table."""

    inspection: str
    version: str
    lamp: LampState
    errors: ErrorCounts


class ReleaseAccuracy:
    """Counts; used from one thread."""

    def __init__(self) -> None:
        """Start empty."""
        self._versions: dict[str, str] = {}  # by digest
        self._worth: defaultdict[tuple[str, str, LampState], ErrorCounts] = defaultdict(ErrorCounts)

    def add(self, verdict: Verdict, truth: PartTruth, config: LineConfig) -> None:
        """Count one verdict of a line with this configuration."""
        model, outcome = verdict.origin.model, verdict.judgement.outcome
        if model is None:
            return
        self._versions[model.sha256] = model.version
        digest = model.sha256
        if verdict.challenger_outcome is not None and verdict.challenger_sha256 is not None:
            digest, outcome = verdict.challenger_sha256, verdict.challenger_outcome
        self._worth[verdict.origin.inspection, digest, lamp_state(truth, config)].add(
            outcome, defective=truth.is_defective
        )

    def rows(self, versions: Mapping[str, str] | None = None) -> list[ReleaseAccuracyRow]:
        """Return a row for each, by inspection, light and version; `versions` by digest, of releases that never led."""
        known = {**(versions or {}), **self._versions}
        order = list(LampState)
        rows = [
            ReleaseAccuracyRow(where, known.get(sha, sha[:12]), light, worth)
            for (where, sha, light), worth in self._worth.items()
        ]
        return sorted(rows, key=lambda row: (row.inspection, order.index(row.lamp), row.version))


def share_text(events: int, trials: int, *, decimals: int = 1) -> str:
    """Return a share with its 95 % interval, and the numbers that it is made of."""
    if not trials:
        return "none seen"
    low, high = wilson(events, trials)
    share, least, most = (f"{value * 100.0:.{decimals}f}" for value in (events / trials, low, high))
    return f"{events} of {trials:,}: {share}% ({least} to {most})"


def to_json(rows: Iterable[ReleaseAccuracyRow]) -> list[dict[str, Any]]:
    """Return the rows as plain values; intervals are Wilson's at 95 %."""
    return [
        {
            "inspection": row.inspection,
            "version": row.version,
            "light": str(row.lamp),
            "defective": row.errors.defective,
            "escapes": row.errors.escapes,
            "escape_interval": _interval(row.errors.escapes, row.errors.defective),
            "good": row.errors.good,
            "false_rejects": row.errors.false_rejects,
            "false_reject_interval": _interval(row.errors.false_rejects, row.errors.good),
        }
        for row in rows
    ]


def _interval(events: int, trials: int) -> list[float] | None:
    return [round(bound, 5) for bound in wilson(events, trials)] if trials else None
