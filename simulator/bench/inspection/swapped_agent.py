"""An agent whose model is switched, shadowed, tried and rolled back while it inspects."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.lifecycle.shadow_deployment import ShadowDeployment
from agent.records import Outcome
from agent.slot import Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.app import Agent
    from agent.records import Observation, Verdict
    from agent.slot import Lease
    from simulator.bench.inspection.staged_releases import StagedRelease

_SHADOW_FPS: Final = 15.0


@dataclass(slots=True)
class SwapObserver:
    """What the observer saw; appended to by the workers, read when they are done."""

    due_ns: list[int] = field(default_factory=list)
    latency_us: list[int] = field(default_factory=list)
    unknown: int = 0
    batches: list[tuple[int, str, bool]] = field(default_factory=list)  # decided, champion's version, challenger asked

    def observe(self, verdicts: Sequence[Verdict]) -> None:
        """Note a batch."""
        for verdict in verdicts:
            self.due_ns.append(verdict.decided_ns - verdict.latency_us * 1_000)
            self.latency_us.append(verdict.latency_us)
            self.unknown += verdict.judgement.outcome is Outcome.UNKNOWN
        model = verdicts[0].origin.model
        version = "" if model is None else model.version
        self.batches.append((verdicts[0].decided_ns, version, verdicts[0].arm == "challenger"))


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """A phase of a run, monotonic ns."""

    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class RollbackLatency:
    """From the decision until the first verdict without the model that was rolled back."""

    batches: int  # verdicts' batches in between that still knew it: those in work at that moment
    ms: float


class SwappedAgent:
    """An agent at one rate, and what is done to its slot."""

    def __init__(self, agent: Agent, log: SwapObserver, staged: Sequence[StagedRelease]) -> None:
        self._agent = agent
        self._log = log
        self._slot = agent.slots["part"]
        self._staged = staged
        self.switches: list[int] = []
        self.load_ms: list[float] = []
        self.spans: list[Observation] = []

    def _lease(self) -> Lease:
        lease = self._slot.lease()
        assert lease is not None  # noqa: S101 - the benchmark never goes to NO_MODEL
        return lease

    def load(self) -> Lease:
        """The other release, loaded and warm."""
        running = self._lease()
        other = next(staged for staged in self._staged if staged.version != running.model.identity.version)
        began = time.perf_counter()
        lease = other.load(running, max_batch=self._agent.config.max_batch)
        self.load_ms.append((time.perf_counter() - began) * 1e3)
        return lease

    def swap(self, cycle_s: float, window_s: float) -> None:
        """In the middle of `cycle_s` seconds: begin to load, switch, settle, half a window from one to the next."""
        begin = time.monotonic()
        _until(begin + cycle_s / 2 - window_s / 2)
        lease = self.load()
        _until(begin + cycle_s / 2)
        self._slot.switch(lease)
        self.switches.append(time.monotonic_ns())
        _until(begin + cycle_s / 2 + window_s / 2)
        self._slot.drop_previous()
        _until(begin + cycle_s)

    def shadow(self, seconds: float) -> TimeSpan:
        """Watch the other release for `seconds`."""
        runner = ShadowDeployment(
            challenger=self.load(),
            observe=self.spans.append,
            max_fps=_SHADOW_FPS,
            clock=self._agent.clock,
        )
        begin = time.monotonic_ns()
        self._slot.begin_shadow_deployment(runner)
        time.sleep(seconds)
        self._slot.end_trial()
        runner.close()
        return TimeSpan(begin, time.monotonic_ns())

    def trial(self, seconds: float, *, share: float) -> TimeSpan:
        """Let the other release inspect `share` of the parts for `seconds`."""
        trial = Trial(challenger=self.load(), share=share, salt="bench", observe=self.spans.append)
        begin = time.monotonic_ns()
        self._slot.begin_trial(trial)
        time.sleep(seconds)
        self._slot.end_trial()
        return TimeSpan(begin, time.monotonic_ns())

    def revert(self) -> RollbackLatency:
        """Switch, let some batches pass, go back; counted is what the new model still says after that."""
        lease = self.load()
        self._slot.switch(lease)
        time.sleep(0.3)
        decided = time.monotonic_ns()
        self._slot.revert()
        time.sleep(0.3)
        version = lease.model.identity.version
        return self._after(decided, lambda batch: batch[1] == version)

    def end_trial(self, challenger: Lease) -> RollbackLatency:
        """Open a trial of all parts, let some batches pass, end it."""
        self._slot.begin_trial(Trial(challenger=challenger, share=1.0, salt="bench", observe=self.spans.append))
        time.sleep(0.3)
        decided = time.monotonic_ns()
        self._slot.end_trial()
        time.sleep(0.3)
        return self._after(decided, lambda batch: batch[2])

    def _after(self, decided_ns: int, is_rolled_back: Callable[[tuple[int, str, bool]], bool]) -> RollbackLatency:
        later = sorted(batch for batch in self._log.batches if batch[0] > decided_ns)
        still = sum(map(is_rolled_back, later))
        first = next((batch[0] for batch in later if not is_rolled_back(batch)), time.monotonic_ns())
        return RollbackLatency(still, (first - decided_ns) / 1e6)


def _until(monotonic_s: float) -> None:
    time.sleep(max(0.0, monotonic_s - time.monotonic()))
