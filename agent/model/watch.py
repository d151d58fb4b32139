"""A candidate on live parts: what opens and closes the shadow and the trial, and brings the evidence to the judge.

Observations come on the workers' threads; they go into a bounded deque without ever blocking, and the lifecycle's
thread takes them out. Each phase has a deque of its own, so that what a worker still says about the phase before, or
about another candidate, reaches nobody.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from agent.clock import NS_PER_S
from agent.model.live import LiveJudge
from agent.model.transitions import State
from agent.slot import ShadowTap, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Clock
    from agent.model.live import Decision
    from agent.model.paired import ABReport
    from agent.model.policy import RolloutPolicy
    from agent.records import Observation
    from agent.slot import Lease, ModelSlot

_INBOX: Final = 4_096  # observations between two looks; the oldest give way, statistics can spare them


class ClosableTap(ShadowTap, Protocol):
    """What `open_shadow` returns."""

    def close(self) -> object:
        """Let go of all frames; offers are refused from now on."""


class Watch:
    """At most one candidate at a time. The lifecycle's thread uses it."""

    def __init__(
        self,
        *,
        slot: ModelSlot,
        open_shadow: Callable[[Lease, Callable[[Observation], None]], ClosableTap],
        clock: Clock,
    ) -> None:
        """`open_shadow(challenger, observe)` makes the tap that the loop offers its frames to."""
        self._slot = slot
        self._open_shadow = open_shadow
        self._clock = clock
        self._lease: Lease | None = None
        self._judge: LiveJudge | None = None
        self._tap: ClosableTap | None = None
        self._inbox: deque[Observation] = deque(maxlen=_INBOX)
        self._phase: tuple[State, int] | None = None
        self._began_ns = 0
        self.share = 0.0
        self.report: ABReport | None = None  # of the last A/B test, also after its end

    @property
    def lease(self) -> Lease | None:
        """The candidate, loaded."""
        return self._lease

    def is_at(self, state: State, step: int) -> bool:
        """Whether this phase is open."""
        return self._phase == (state, step)

    def _hours(self) -> float:
        """Since the shadow began."""
        return (self._clock.monotonic_ns() - self._began_ns) / NS_PER_S / 3_600

    def begin_shadow(self, lease: Lease, policy: RolloutPolicy) -> None:
        """Show live parts to a candidate that was just loaded."""
        self.close()
        self._lease, self._judge = lease, LiveJudge(policy)
        self._began_ns = self._clock.monotonic_ns()
        self._judge.begin("shadow", parts=policy.shadow_parts)
        observe = self._open_phase(State.SHADOW, 0, share=0.0)
        self._tap = self._open_shadow(lease, observe)
        self._slot.begin_shadow(self._tap)

    def begin_trial(self, policy: RolloutPolicy, *, step: int, salt: str) -> None:
        """Give the candidate the share of this step."""
        wanted = policy.trial[step]
        judge, lease = self._ready()
        judge.begin("trial", parts=wanted.parts, share=wanted.share)
        observe = self._open_phase(State.TRIAL, step, share=wanted.share)
        self._slot.begin_trial(Trial(lease, wanted.share, salt, observe))
        self._close_tap()

    def begin_ab(self, *, share: float, salt: str) -> None:
        """Give the candidate a share that stays."""
        judge, lease = self._ready()
        judge.begin("ab", parts=0)
        observe = self._open_phase(State.AB, 0, share=share)
        self._slot.begin_trial(Trial(lease, share, salt, observe))
        self._close_tap()

    def look(self, *, max_hours: float) -> Decision:
        """Take in what was observed since, and let the judge speak; shadow and trial together may take `max_hours`."""
        judge, _ = self._ready()
        inbox = self._inbox
        for _ in range(len(inbox)):
            judge.observe(inbox.popleft())
        if self._phase is not None and self._phase[0] is State.AB:
            self.report = judge.report()
        return judge.decision(overdue=self._hours() >= max_hours)

    def progress(self) -> dict[str, float]:
        """Counts and statistics of the open phase."""
        return {} if self._judge is None else self._judge.progress()

    def close(self) -> None:
        """The champion judges alone from the next batch on, and the candidate is let go; safe to call at any time."""
        if self._phase is not None:
            self._slot.end_trial()
        self._close_tap()
        self._lease = self._judge = self._phase = None
        self._inbox = deque(maxlen=_INBOX)
        self.share = 0.0

    def _ready(self) -> tuple[LiveJudge, Lease]:
        if self._judge is None or self._lease is None:
            raise RuntimeError("no candidate is open")
        return self._judge, self._lease

    def _open_phase(self, state: State, step: int, *, share: float) -> Callable[[Observation], None]:
        self._inbox = deque(maxlen=_INBOX)
        self._phase = (state, step)
        self.share = share
        return self._inbox.append

    def _close_tap(self) -> None:
        if self._tap is not None:
            self._tap.close()
            self._tap = None
