"""The paired test of two models on the same parts, for trials and A/B tests. Pure.

A part is a pair when both models classified it. The comparison is "would this part be let through": `ok` or not ok.
`unsure` is not ok, because such a part goes to a person and not to the customer. `unknown` of either model makes no
pair.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.counters import LatencyHistogram, quantile_us
from agent.evidence.run_tests import PERSISTENT_PARTS, RunCounter, expected_run_events
from agent.records import Outcome
from agent.sequential_tests import e_value, mcnemar_p, wilson

if TYPE_CHECKING:
    from agent.records import Observation

_KEPT: Final = 50  # disagreements, the latest
_COMMON_CAUSE: Final = 2.0  # times the disagreements a run that independent parts would have


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """One model's side of a comparison; latencies are None without parts."""

    ok: int
    defect: int
    unsure: int
    unknown: int
    p50_us: int | None  # preprocessing, inference and decision of one part, to within 9 %
    p99_us: int | None


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A part that one model lets through and the other does not."""

    key: str  # of the verdict
    camera: str
    champion: Outcome
    challenger: Outcome
    image: str | None  # reference of the kept frame


@dataclass(frozen=True, slots=True)
class ABReport:
    """The paired comparison so far. `mcnemar_p` is valid once, at the end; `e_value` at any time."""

    pairs: int
    both_ok: int
    both_not_ok: int
    let_through: int  # not ok for the champion only
    rejected: int  # not ok for the challenger only
    disagreement: float  # share of pairs
    disagreement_low: float  # Wilson's 95 % interval
    disagreement_high: float
    mcnemar_p: float
    e_value: float
    champion: ArmFigures
    challenger: ArmFigures
    disagreements: tuple[Disagreement, ...]  # the last 50 at most, oldest first


class _Arm:
    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(Outcome, 0)
        self.latency = LatencyHistogram()

    def figures(self) -> ArmFigures:
        buckets = self.latency.buckets()
        return ArmFigures(
            ok=self.outcomes[Outcome.OK],
            defect=self.outcomes[Outcome.DEFECT],
            unsure=self.outcomes[Outcome.UNSURE],
            unknown=self.outcomes[Outcome.UNKNOWN],
            p50_us=quantile_us(buckets, 0.5),
            p99_us=quantile_us(buckets, 0.99),
        )


class PairedCounts:
    """The 2 x 2 table of let through or not, with figures for people beside it."""

    def __init__(self) -> None:
        """Start empty."""
        self.both_ok = 0
        self.both_not_ok = 0
        self.let_through = 0
        self.rejected = 0
        self._champion, self._challenger = _Arm(), _Arm()
        self._runs = RunCounter()
        self.e_value = (
            1.0  # evidence against "disagreements go either way equally often"; see `agent.sequential_tests.e_value`
        )
        self.e_value_of_runs = 1.0  # likewise, with every run counted once, by the direction that it began with
        self._runs_let_through = 0
        self._runs_rejected = 0
        self._direction_baseline = (0, 0)  # let through and rejected, that count for no direction any more
        self._disagreements: deque[Disagreement] = deque(maxlen=_KEPT)

    @property
    def pairs(self) -> int:
        """Parts for which both models have an outcome."""
        return self.both_ok + self.both_not_ok + self.let_through + self.rejected

    @property
    def disagreeing(self) -> int:
        """Pairs that only one model lets through."""
        return self.let_through + self.rejected

    @property
    def agreeing(self) -> int:
        """Pairs that both models let through, or neither."""
        return self.both_ok + self.both_not_ok

    @property
    def runs(self) -> int:
        """Separate runs of disagreements (`agent.evidence.run_tests`).

        A long one counts again every `PERSISTENT_PARTS`.
        """
        return self._runs_let_through + self._runs_rejected

    @property
    def net_direction(self) -> int:
        """Parts that only the challenger lets through, minus those that it alone rejects."""
        let_through, rejected = self._directions()
        return let_through - rejected

    def _directions(self) -> tuple[int, int]:
        return self.let_through - self._direction_baseline[0], self.rejected - self._direction_baseline[1]

    def reset_directions(self) -> None:
        """Discard the evidence so far about the direction of disagreements."""
        self._direction_baseline = (self.let_through, self.rejected)
        self._runs_let_through = self._runs_rejected = 0
        self.e_value = self.e_value_of_runs = 1.0

    @property
    def is_running(self) -> bool:
        """Whether some camera is in a run of disagreements."""
        return self._runs.is_running

    @property
    def is_clustered(self) -> bool:
        """Whether runs hold at least twice the disagreements that independent parts would have: a common cause."""
        if not self.runs or not self.agreeing:
            return False
        return sum(self._directions()) / self.runs >= _COMMON_CAUSE * expected_run_events(self.disagreeing / self.pairs)

    @property
    def not_let_through(self) -> int:
        """Pairs that at least one model does not let through."""
        return self.pairs - self.both_ok

    def add(self, observation: Observation) -> None:
        """Count an assigned part, pair or not."""
        champion, challenger = observation.champion.outcome, observation.challenger.outcome
        self._champion.outcomes[champion] += 1
        self._challenger.outcomes[challenger] += 1
        if Outcome.UNKNOWN in {champion, challenger}:
            return
        self._champion.latency.record(observation.champion_us)
        self._challenger.latency.record(observation.challenger_us)
        champion_ok, challenger_ok = champion is Outcome.OK, challenger is Outcome.OK
        differ = champion_ok != challenger_ok
        step = self._runs.add(event=differ, unit=observation.camera)
        if differ:
            self.let_through += challenger_ok
            self.rejected += champion_ok
            self.e_value = e_value(*self._directions())
            if step.begins_run or step.run_parts % PERSISTENT_PARTS == 0:
                self._count_run(lets_through=challenger_ok)
            self._disagreements.append(
                Disagreement(observation.key, observation.camera, champion, challenger, observation.image)
            )
        else:
            self.both_ok += champion_ok
            self.both_not_ok += not champion_ok

    def _count_run(self, *, lets_through: bool) -> None:
        """Count one more run. Under the null hypothesis its first direction is a fair coin, however long it gets.

        So `e_value_of_runs` is an e-process even if disagreements come in runs; `e_value` is one only if they do not.
        """
        self._runs_let_through += lets_through
        self._runs_rejected += not lets_through
        self.e_value_of_runs = e_value(self._runs_let_through, self._runs_rejected)

    def report(self) -> ABReport:
        """Return the comparison so far."""
        low, high = wilson(self.disagreeing, self.pairs)
        return ABReport(
            pairs=self.pairs,
            both_ok=self.both_ok,
            both_not_ok=self.both_not_ok,
            let_through=self.let_through,
            rejected=self.rejected,
            disagreement=self.disagreeing / self.pairs if self.pairs else 0.0,
            disagreement_low=low,
            disagreement_high=high,
            mcnemar_p=mcnemar_p(self.let_through, self.rejected),
            e_value=self.e_value,
            champion=self._champion.figures(),
            challenger=self._challenger.figures(),
            disagreements=tuple(self._disagreements),
        )
