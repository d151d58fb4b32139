"""Runs a candidate on live parts: shadow deployment and trial, and collects the evidence.

Observations come on the workers' threads and are evaluated there (`agent.lifecycle.thread_safe_evaluator`), so that a
refusal ends a trial for the next batch; the lifecycle's thread asks for decisions.

On the way from fetch to slot, the next module is `agent.lifecycle.rollout_outcome`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from agent.evidence.rollout_gates import RolloutEvaluator
from agent.lifecycle.state.transitions import LifecycleState
from agent.lifecycle.thread_safe_evaluator import ThreadSafeEvaluator
from agent.slot import FrameTap, Trial
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.evidence.paired_test import ABReport
    from agent.evidence.rollout_gates import RolloutDecision
    from agent.records import Observation
    from agent.release.rollout_policy import RolloutPolicy
    from agent.slot import Lease, ModelSlot
    from agent.timing.clock import Clock


class ClosableFrameTap(FrameTap, Protocol):
    """What `open_shadow_deployment` returns."""

    def close(self) -> object:
        """Release all frames and refuse later offers."""


class TrialRunner:
    """At most one candidate at a time. The lifecycle's thread uses it."""

    def __init__(
        self,
        *,
        slot: ModelSlot,
        open_shadow_deployment: Callable[[Lease, Callable[[Observation], None]], ClosableFrameTap],
        clock: Clock,
        on_refusal: Callable[[], None] = lambda: None,
    ) -> None:
        """`open_shadow_deployment(challenger, observe)` makes the tap that the loop offers its frames to.

        `on_refusal` is called from any thread when a test has refused, to have `evaluate` called soon; must not block.
        """
        self._slot = slot
        self._open_shadow_deployment = open_shadow_deployment
        self._clock = clock
        self._on_refusal = on_refusal
        self._lease: Lease | None = None
        self._evaluator: ThreadSafeEvaluator | None = None
        self._tap: ClosableFrameTap | None = None
        self._progress: dict[str, float] = {}
        self._phase: tuple[LifecycleState, int] | None = None
        self._began_ns = 0
        self._paused_ns: int | None = None  # since when observations are ignored
        self.share = 0.0
        self.report: ABReport | None = None  # of the candidate on live parts, or of the last one

    @property
    def lease(self) -> Lease | None:
        """The loaded candidate, or None."""
        return self._lease

    def is_in_phase(self, state: LifecycleState, step: int) -> bool:
        """Whether this phase of the rollout is open."""
        return self._phase == (state, step)

    def _elapsed_hours(self) -> float:
        """Return the hours since the shadow deployment began, without pauses."""
        now_ns = self._clock.monotonic_ns() if self._paused_ns is None else self._paused_ns
        return (now_ns - self._began_ns) / NS_PER_S / 3_600

    def pause(self) -> None:
        """Ignore observations and the candidate's outcomes until `resume`, and stop the time: the line is faulty."""
        if self._paused_ns is None:
            self._paused_ns = self._clock.monotonic_ns()
            if self._evaluator is not None:
                self._evaluator.set_paused(is_paused=True)

    def resume(self) -> None:
        """End the pause; safe to call without one."""
        if self._paused_ns is not None:
            self._began_ns += self._clock.monotonic_ns() - self._paused_ns
            self._paused_ns = None
            if self._evaluator is not None:
                self._evaluator.set_paused(is_paused=False)

    def _unless_paused(self, observe: Callable[[Observation], None]) -> Callable[[Observation], None]:
        def observe_unless_paused(observation: Observation) -> None:
            if self._paused_ns is None:
                observe(observation)

        return observe_unless_paused

    def begin_shadow_deployment(self, lease: Lease, policy: RolloutPolicy) -> None:
        """Run a candidate that was just loaded on copies of live frames."""
        self.close()
        evaluator = ThreadSafeEvaluator(RolloutEvaluator(policy), on_refusal=self._on_refusal)
        self._lease, self._evaluator = lease, evaluator
        self._began_ns = self._clock.monotonic_ns()
        observe = evaluator.begin_phase(lambda gates: gates.begin_phase("shadow", parts=policy.shadow_parts))
        self._set_phase(LifecycleState.SHADOW, 0, share=0.0)
        self._tap = self._open_shadow_deployment(lease, self._unless_paused(observe))
        self._slot.begin_shadow_deployment(self._tap)

    def begin_trial(self, policy: RolloutPolicy, *, step: int, salt: str) -> None:
        """Assign this step's share of the parts to the candidate as well."""
        trial_step = policy.trial[step]
        evaluator, lease = self._require_candidate()
        observe = evaluator.begin_phase(
            lambda gates: gates.begin_phase("trial", parts=trial_step.parts, share=trial_step.share)
        )
        self._set_phase(LifecycleState.TRIAL, step, share=trial_step.share)
        self._slot.begin_trial(Trial(lease, trial_step.share, salt, self._unless_paused(observe), evaluator.control))
        self._close_tap()

    def begin_ab(self, *, share: float, salt: str) -> None:
        """Assign a fixed share of the parts to the candidate as well."""
        evaluator, lease = self._require_candidate()
        observe = evaluator.begin_phase(lambda gates: gates.begin_phase("ab", parts=0))
        self._set_phase(LifecycleState.AB, 0, share=share)
        self._slot.begin_trial(Trial(lease, share, salt, self._unless_paused(observe), evaluator.control))
        self._close_tap()

    def evaluate(self, *, max_hours: float) -> RolloutDecision:
        """Return the decision now; shadow deployment and trial together may take `max_hours`."""
        evaluator, _ = self._require_candidate()
        decision, self._progress, self.report = evaluator.decide(overdue=self._elapsed_hours() >= max_hours)
        return decision

    def reset_evidence(self) -> None:
        """Let a held candidate continue; its tests begin anew."""
        self._require_candidate()[0].reset_evidence()

    def progress(self) -> dict[str, float]:
        """Return counts and statistics of the open phase, as of the last evaluation."""
        return self._progress

    def close(self) -> None:
        """Use the champion alone from the next batch on, and release the candidate; safe to call at any time."""
        if self._evaluator is not None:
            self._evaluator.stop()
        if self._phase is not None:
            self._slot.end_trial()
        self._close_tap()
        self._lease = self._evaluator = self._phase = self._paused_ns = None
        self._progress = {}
        self.share = 0.0

    def _require_candidate(self) -> tuple[ThreadSafeEvaluator, Lease]:
        if self._evaluator is None or self._lease is None:
            raise RuntimeError("no candidate is open")
        return self._evaluator, self._lease

    def _set_phase(self, state: LifecycleState, step: int, *, share: float) -> None:
        self._phase = (state, step)
        self.share = share

    def _close_tap(self) -> None:
        if self._tap is not None:
            self._tap.close()
            self._tap = None
