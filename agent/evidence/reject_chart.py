"""A control chart of one model's reject rate: too many, too few, or nothing but rejects. Pure.

Three cumulative sums (CUSUM) of log-likelihood ratios, one reject or pass at a time. For Bernoulli data the CUSUM finds
a given shift sooner than any other chart with as few false alarms (G. V. Moustakides, Ann. Statist. 14 (1986)); its
design for a reject rate is that of M. R. Reynolds and Z. G. Stoumbos, A CUSUM chart for monitoring a proportion when
inspecting continuously, J. Quality Technology 31 (1999).

| chart | sees | built for | needs a learned rate |
|---|---|---|---|
| `high` | starts of runs of rejects | the rate has doubled | yes |
| `low` | likewise | the rate has fallen to a fifth, or to nothing | yes |
| `flood` | every part | three of five parts are rejected, not one of five | no: it counts from the first part on |

Rejects that come in runs (a smear, glare, a part that is seen by several frames) are not independent, and would alarm
a chart of single parts. So `high` and `low` count runs: a part whose predecessor on the same camera was rejected
belongs to its run and is left out, which changes nothing for independent rejects. Runs that grow longer without coming
more often are therefore seen by `flood` only.

The rate is learned from the line itself, from the model's first part on. Its uncertainty does not cause alarms:
`high` is compared with an upper, `low` with a lower confidence limit, which close in as parts pass. A learned rate is
kept for good (`CUSUM_CAP`), so that a slow drift adds up instead of becoming normal.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.records import ModelIdentity

SHIFT_S: Final = 8 * 3_600.0
SHIFTS: Final = 30  # in which at most one false alarm is expected
PARTS_PER_SHIFT: Final = 28_800  # one part a second for 8 h; a faster line passes its own rate
LEARNING_PARTS: Final = 1_000  # and `LEARNING_RUNS`, or many more parts: before `high` and `low` begin
LEARNING_RUNS: Final = 10
LEARNING_MAX_PARTS: Final = 20_000
CUSUM_CAP: Final = 100_000  # parts that the rate is learned from
RECENT_PARTS: Final = 500  # parts behind the figures of an alarm: the last RECENT to 2 RECENT

_RATIO_HIGH: Final = 2.0
_RATIO_LOW: Final = 0.2
_FLOOR: Final = 0.0005  # a rate below is taken for this one: ten in 20,000 parts are no alarm
_CEILING: Final = 0.4  # of the rate that `high` compares with: above, `flood` is in charge
_FLOOD: Final = (0.2, 0.6)
_FLOOD_LIMIT: Final = 33.0  # 30 rejects in a row reach it
_FALSE_ALARM_SHARES: Final = (
    1.2,
    0.3,
)  # of the false alarms, by the approximation below, which overstates them: `high`, `low`
_Z: Final = 0.5  # standard errors of the limits that the charts compare with


class ChartState(StrEnum):
    """State of the chart."""

    LEARNING = "learning"  # the usual rate is not known yet; a flood is seen all the same
    STEADY = "steady"
    HIGH = "high"
    LOW = "low"
    FLOOD = "flood"  # most parts are rejected


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """Outcomes of one model since the agent's start, whether or not they counted."""

    identity: ModelIdentity
    outcomes: Mapping[str, int]  # Outcome value -> parts
    classes: Mapping[str, int]  # class of its `defect` and `unsure` parts -> parts


@dataclass(frozen=True, slots=True)
class RejectRate:
    """The active model's rejects (`defect` and `unsure`), and the state of their chart."""

    state: ChartState
    parts: int  # the last 500 to 1,000
    rejects: int  # among them
    baseline: float | None = None  # share of parts that begin a run of rejects, as learned; None while learning


@dataclass(slots=True)
class _Cusum:
    """One sum; it is capped at `limit`, so that it can fall again as fast as it rose."""

    value: float = 0.0
    is_out: bool = False

    def add(self, step: float, limit: float) -> None:
        """Add one part's log-likelihood ratio; out from `limit` on, in again at 0."""
        self.value = min(max(0.0, self.value + step), limit)
        if self.value >= limit:
            self.is_out = True
        elif self.value <= 0.0:
            self.is_out = False


def cusum_limit(*, good: float, bad: float, parts: float) -> float:
    """Return the limit of a Bernoulli CUSUM of rate `bad` against `good` with one false alarm in `parts` parts.

    Solves e^h - h - 1 = parts * |mean step at `good`|: Siegmund's approximation (Sequential Analysis, 1985, 2.6)
    without the overshoot, which makes false alarms rarer.
    """
    mean = good * math.log(bad / good) + (1.0 - good) * math.log((1.0 - bad) / (1.0 - good))
    target = max(parts * abs(mean), 1.0)
    h = math.log(target + 1.0)
    for _ in range(8):
        h = math.log(target + 1.0 + h)
    return h


@dataclass(slots=True)
class _Design:
    """Steps and limit of a chart of `bad` against `good`."""

    hit: float
    miss: float
    limit: float

    @classmethod
    def of(cls, good: float, bad: float, parts: float) -> _Design:
        """Make it for one false alarm in `parts` parts."""
        return cls(
            math.log(bad / good), math.log((1.0 - bad) / (1.0 - good)), cusum_limit(good=good, bad=bad, parts=parts)
        )


_FLOOD_DESIGN: Final = _Design(
    math.log(_FLOOD[1] / _FLOOD[0]), math.log((1.0 - _FLOOD[1]) / (1.0 - _FLOOD[0])), _FLOOD_LIMIT
)


@dataclass(slots=True)
class RejectChart:
    """The chart of one model under one set of thresholds, for all cameras of an inspection. Not safe for threads."""

    parts_per_shift: float = PARTS_PER_SHIFT
    parts: int = 0  # inspected since the chart began
    rejects: int = 0  # among them
    trials: int = 0  # parts that did not belong to a run, as far as they were learned from
    runs: int = 0  # of rejects among them
    high: _Cusum = field(default_factory=_Cusum)
    low: _Cusum = field(default_factory=_Cusum)
    flood: _Cusum = field(default_factory=_Cusum)
    _in_run: set[str] = field(default_factory=set)  # cameras whose last part was rejected
    _recent: deque[tuple[int, int]] = field(default_factory=lambda: deque(((0, 0),), maxlen=2))  # (parts, rejects)
    _next_redesign: int = LEARNING_PARTS  # trials
    _designs: tuple[_Design, _Design | None] | None = None  # None while learning

    def add(self, camera: str, *, rejected: bool) -> None:
        """Add one part, in the order in which they were inspected."""
        self._count(1, rejects=int(rejected))
        design = _FLOOD_DESIGN
        self.flood.add(design.hit if rejected else design.miss, design.limit)
        in_run = camera in self._in_run
        if rejected:
            self._in_run.add(camera)
        elif in_run:
            self._in_run.discard(camera)
        if not in_run:
            self._add_start(starts=rejected)

    def add_passes(self, camera: str, count: int) -> None:
        """Add `count` parts in a row that were not rejected, as `count` calls of `add` would."""
        while count > 0:
            steps = min(count, self._passes_without_effect()) if camera not in self._in_run else 0
            if steps < 2:  # noqa: PLR2004 - nothing to be won
                self.add(camera, rejected=False)
                count -= 1
                continue
            self._count(steps, rejects=0)
            self.flood.add(steps * _FLOOD_DESIGN.miss, _FLOOD_LIMIT)
            if self._designs is not None:
                high, low = self._designs
                self.high.add(steps * high.miss, high.limit)
                if low is not None:
                    self.low.add(steps * low.miss, low.limit)
            if self.trials < CUSUM_CAP:
                self.trials += steps
            count -= steps

    def _passes_without_effect(self) -> int:
        """Return how many passes are certain to change nothing but sums and counts."""
        if self.is_out:
            return 0
        steps = 1_000_000_000 if self.trials >= CUSUM_CAP else min(self._next_redesign, CUSUM_CAP) - self.trials
        low = None if self._designs is None else self._designs[1]
        if low is not None:
            steps = min(steps, int((low.limit - self.low.value) / low.miss) - 1)
        return steps

    def _add_start(self, *, starts: bool) -> None:
        if self.trials >= self._next_redesign:
            self._design()
        if self._designs is not None:
            high, low = self._designs
            self.high.add(high.hit if starts else high.miss, high.limit)
            if low is not None:
                self.low.add(low.hit if starts else low.miss, low.limit)
        if self.trials < CUSUM_CAP and not self.is_out:
            self.trials += 1
            self.runs += starts

    def _design(self) -> None:
        """Recompute the designs from the rate learned so far."""
        self._next_redesign = self.trials + max(100, self.trials // 50)
        if (self.trials < LEARNING_PARTS or self.runs < LEARNING_RUNS) and self.trials < LEARNING_MAX_PARTS:
            return
        parts = SHIFTS * self.parts_per_shift
        error = _Z * math.sqrt(self.runs + 1.0)
        good = min(max((self.runs + error) / self.trials, _FLOOR), _CEILING)
        high = _Design.of(good, min(_RATIO_HIGH * good, 0.5 * (1.0 + good)), parts / _FALSE_ALARM_SHARES[0])
        usual = (self.runs - error) / self.trials
        low = None
        if self.runs >= LEARNING_RUNS and usual > _FLOOR:
            low = _Design.of(usual, _RATIO_LOW * usual, parts / _FALSE_ALARM_SHARES[1])
        self._designs = (high, low)

    def _count(self, parts: int, *, rejects: int) -> None:
        self.parts += parts
        self.rejects += rejects
        known, rejected = self._recent[-1]
        while (room := RECENT_PARTS - known) < parts:
            self._recent[-1] = (known + room, rejected)
            parts -= room
            known, rejected = 0, 0
            self._recent.append((known, rejected))
        self._recent[-1] = (known + parts, rejected + rejects)

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> ChartState:
        """The state now; a flood takes precedence."""
        if self.flood.is_out:
            return ChartState.FLOOD
        if self.high.is_out:
            return ChartState.HIGH
        if self.low.is_out:
            return ChartState.LOW
        return ChartState.LEARNING if self._designs is None else ChartState.STEADY

    @property
    def is_out(self) -> bool:
        """Whether there is an alarm."""
        return self.flood.is_out or self.high.is_out or self.low.is_out

    @property
    def recent(self) -> tuple[int, int]:
        """(parts, rejects) of the last RECENT to 2 RECENT parts."""
        return sum(p for p, _ in self._recent), sum(r for _, r in self._recent)

    @property
    def baseline(self) -> float | None:
        """Share of parts that begin a run of rejects, as learned; None while learning."""
        return None if self._designs is None else self.runs / self.trials

    def alarm(self) -> str | None:
        """Return an alarm text; None while the rate is as usual or not known."""
        parts, rejects = self.recent
        seen = f"{rejects} of the last {parts} parts ({rejects / parts:.1%}) are rejected" if parts else ""
        match self.state:
            case ChartState.FLOOD:
                return f"{seen}: check the image, the roi, the thresholds and the model before the parts"
            case ChartState.HIGH:
                return f"{seen}, usual are runs of rejects on {self.baseline or 0.0:.2%}: check the rejected parts"
            case ChartState.LOW:
                return (
                    f"{seen}, usual are runs of rejects on {self.baseline or 0.0:.2%}: let a known defective part "
                    "pass, and check focus, light and the model"
                )
            case _:
                return None

    # --- over restarts ------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return what must survive a restart: the learned rate, and the sums."""
        return {
            "parts": self.parts,
            "rejects": self.rejects,
            "trials": self.trials,
            "runs": self.runs,
            "high": asdict(self.high),
            "low": asdict(self.low),
            "flood": asdict(self.flood),
            "recent": list(self._recent),
        }

    @classmethod
    def from_json(cls, kept: dict[str, Any], *, parts_per_shift: float = PARTS_PER_SHIFT) -> RejectChart:
        """Restore a chart from what `to_json` returned. Raises ValueError for anything else."""
        try:
            counts = [int(kept[name]) for name in ("parts", "rejects", "trials", "runs")]
            sums = [_Cusum(float(kept[n]["value"]), bool(kept[n]["is_out"])) for n in ("high", "low", "flood")]
            recent = [(int(parts), int(rejects)) for parts, rejects in kept["recent"]][-2:]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no chart: {error}") from error
        parts, rejects, trials, runs = counts
        plausible = 0 <= runs <= trials <= parts and runs <= rejects <= parts
        if not plausible or not recent or not all(math.isfinite(s.value) for s in sums):
            raise ValueError("no chart: its counts contradict each other")
        high, low, flood = sums
        chart = cls(parts_per_shift, parts, rejects, trials, runs, high, low, flood)
        chart._recent = deque(recent, maxlen=2)
        chart._design()
        return chart
