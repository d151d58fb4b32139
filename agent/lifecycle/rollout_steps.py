"""One step of the lifecycle: which state does what, and the states on the line.

A step does at most one thing, the order is persist, then act (see `agent.lifecycle.rollout_outcome`), and a step that
raises StateDirError has changed nothing: the lifecycle stays in its state and the line continues.

On the way from fetch to slot, the next module is `agent.lifecycle.admission`.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.errors import ReleaseError
from agent.evidence.rollout_gates import RolloutAction
from agent.lifecycle.admission import Admission
from agent.lifecycle.revocation_poll import RevocationPoller
from agent.lifecycle.rollout_outcome import RolloutFinaliser
from agent.lifecycle.state.deny_list import find_denied
from agent.lifecycle.state.record_changes import candidate_of
from agent.lifecycle.state.refusals import make_refusal, refusal_from
from agent.lifecycle.state.transitions import (
    MAX_TRANSITIONS,
    RISKY_STATES,
    ROLLOUT_STATES,
    LifecycleEvent,
    LifecycleState,
)
from agent.release_records import Gate
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.evidence.rollout_gates import RolloutDecision
    from agent.lifecycle.lifecycle_dependencies import StepDependencies
    from agent.lifecycle.state.journal import LifecycleRecord

LIVE_POLL_S: Final = 0.25  # between two evaluations of the evidence
IDLE_POLL_S: Final = 60.0  # between two steps when nothing is due
_log = logging.getLogger(__name__)


class RolloutSteps:
    """Maps every state to its step. The lifecycle's thread uses it."""

    def __init__(self, deps: StepDependencies) -> None:
        """Compose the steps."""
        self._deps = deps
        self.finaliser = RolloutFinaliser(deps)
        self._poller = RevocationPoller(deps)
        admission = Admission(deps, self.finaliser, self._poller)
        self._steps: Mapping[LifecycleState, Callable[[LifecycleRecord], float]] = {
            LifecycleState.IDLE: self._idle,
            LifecycleState.NO_MODEL: self._idle,
            LifecycleState.FETCHING: admission.fetch,
            LifecycleState.STAGED: admission.adopt,
            LifecycleState.VERIFIED: admission.verify,
            LifecycleState.SELFTEST: admission.self_test,
            LifecycleState.SHADOW: self._evaluate_live,
            LifecycleState.TRIAL: self._evaluate_live,
            LifecycleState.AB: self._evaluate_live,
            LifecycleState.COMMITTED: self.finaliser.finish_commit,
            LifecycleState.ROLLING_BACK: self.finaliser.roll_back,
        }
        self._interrupted = False
        self._cool_down_end: tuple[float, int] | None = None  # the cool-down's end in UTC, and by the monotonic clock

    def step(self) -> float:
        """Do one thing; return the seconds until the next. Raises StateDirError: nothing has changed then."""
        record = self._deps.record_store.record
        if self.finaliser.has_pending_refusal:
            return self.finaliser.persist_refusal()
        if self._interrupted:
            self.restart_interrupted()
            return 0.0
        if record.state in ROLLOUT_STATES and record.hops >= MAX_TRANSITIONS:
            text = f"The rollout changed its state {record.hops} times and did not end. It is aborted."
            refusal = make_refusal(Gate.SELF_TEST, "too_many_transitions", text, transitions=record.hops)
            return self.finaliser.refuse(refusal)
        return self._steps[record.state](record)

    def interrupt(self) -> None:
        """End what is under way on the line; `restart_interrupted` starts it again."""
        self._deps.trial_runner.close()
        self._interrupted = True

    def restart_interrupted(self) -> None:
        """Restart what was interrupted from the verified release. Raises StateDirError: the next step tries again."""
        if self._deps.record_store.record.state in RISKY_STATES:
            self._deps.record_store.transition(LifecycleEvent.INTERRUPTED)
        self._interrupted = False

    # --- at rest ------------------------------------------------------------------------------------------------------

    def _idle(self, record: LifecycleRecord) -> float:
        deps = self._deps
        has_no_model = deps.active_release.has_no_model
        if has_no_model is not (record.state is LifecycleState.NO_MODEL):
            deps.record_store.transition(LifecycleEvent.MODEL_LOST if has_no_model else LifecycleEvent.RECOVERED)
            return 0.0
        if deps.sweeper.is_due:
            deps.sweeper.sweep(record)
            return 0.0
        if not record.wanted or record.desired is None or record.halted:
            return self._poller.poll_if_due(record, IDLE_POLL_S)
        if (wait_s := self._cool_down_s(record)) > 0.0:
            return self._poller.poll_if_due(record, min(wait_s, IDLE_POLL_S))
        if entry := find_denied(record, release_id=record.desired.release_id):
            changed = replace(record, wanted=False, refusal=entry.refusal)
            deps.record_store.annotate(changed, "refused_again", f"{entry.refusal.gate}: {entry.refusal.reason}")
            return 0.0
        deps.record_store.transition(LifecycleEvent.DESIRED, replace(record, candidate=None, step=0, attempts=0))
        deps.backoff.reset()
        return 0.0

    def _cool_down_s(self, record: LifecycleRecord) -> float:
        """Return what is left of the cool-down, by the monotonic clock: a clock that is set back lengthens nothing."""
        deps, until_utc_s = self._deps, record.cool_down_until_utc_s
        now_ns = deps.clock.monotonic_ns()
        if self._cool_down_end is None or self._cool_down_end[0] != until_utc_s:
            left_s = min(max(0.0, until_utc_s - deps.record_store.utc_s()), deps.limits.current.cool_down_s)
            self._cool_down_end = (until_utc_s, now_ns + round(left_s * NS_PER_S))
        return (self._cool_down_end[1] - now_ns) / NS_PER_S

    # --- on the line --------------------------------------------------------------------------------------------------

    def _evaluate_live(self, record: LifecycleRecord) -> float:
        deps = self._deps
        if not deps.trial_runner.is_in_phase(record.state, record.step):
            return self._begin_phase(record)
        hours = float("inf") if record.state is LifecycleState.AB else deps.limits.current.max_hours
        decision = deps.trial_runner.evaluate(max_hours=hours)
        deps.progress.set_figures(deps.trial_runner.progress())
        self._set_alarms(decision)
        if decision.refusal is not None:
            return self.finaliser.refuse(decision.refusal, automatic=True)
        if self._is_held_by_line_fault() or decision.action is not RolloutAction.PASS:
            return LIVE_POLL_S
        return self._pass_phase(record)

    def _pass_phase(self, record: LifecycleRecord) -> float:
        """Go to the next phase or step of the trial, or commit."""
        deps = self._deps
        if record.state is LifecycleState.SHADOW:
            compared = record.desired is not None and record.desired.mode == "ab"
            event = LifecycleEvent.COMPARED if compared else LifecycleEvent.PASSED
            deps.record_store.transition(event, replace(record, step=0))
            return 0.0
        if record.state is LifecycleState.TRIAL and record.step + 1 < len(deps.policy(candidate_of(record)).trial):
            deps.record_store.transition(LifecycleEvent.PASSED, replace(record, step=record.step + 1))
            return 0.0
        lease = deps.trial_runner.lease
        return LIVE_POLL_S if lease is None else self.finaliser.commit(record, lease)

    def _is_held_by_line_fault(self) -> bool:
        """Whether a fault of the line holds the rollout: its verdicts then prove nothing about the candidate."""
        deps, reason = self._deps, self._deps.line_fault()
        if reason is None:
            deps.trial_runner.resume()
            if deps.alarms.clear("line"):
                _log.info("the line is healthy again: the rollout continues")
            return False
        deps.trial_runner.pause()
        if deps.alarms.text("line") is None:
            _log.warning("the rollout is held: the line is not healthy: %s", reason)
        deps.alarms.raise_alarm(
            "line",
            f"The rollout is held, because the line is not healthy: {reason}. It continues by itself once the line is; "
            "`kensa model rollback` ends it.",
        )
        return True

    def _set_alarms(self, decision: RolloutDecision) -> None:
        """Set the alarms of the evidence; the reason of a hold is set once, when it begins."""
        alarms = self._deps.alarms
        if decision.alarm is None:
            alarms.clear("drift")
        else:
            alarms.raise_alarm("drift", decision.alarm)
        if decision.held is None:
            if alarms.clear("held"):
                _log.info("the candidate is not held any more")
        elif alarms.text("held") is None:
            alarms.raise_alarm("held", decision.held)
            _log.warning("%s", decision.held)

    def _begin_phase(self, record: LifecycleRecord) -> float:
        """Begin the phase that the journal names."""
        deps, candidate = self._deps, candidate_of(record)
        try:
            policy = deps.policy(candidate)
            if record.state is LifecycleState.SHADOW:
                deps.trial_runner.begin_shadow_deployment(deps.active_release.load(candidate), policy)
            elif record.state is LifecycleState.TRIAL:
                deps.trial_runner.begin_trial(policy, step=record.step, salt=candidate.ref.digest)
            else:
                share = 0.5 if record.desired is None else record.desired.share
                deps.trial_runner.begin_ab(share=share, salt=candidate.ref.digest)
        except ReleaseError as error:
            return self.finaliser.refuse(refusal_from(error), automatic=True)
        return 0.0
