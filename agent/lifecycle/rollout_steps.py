"""One step of the lifecycle: which state does what, and the states on the line.

A step does at most one thing, the order is persist, then act (see `agent.lifecycle.rollout_outcome`), and a step that
raises StateDirError has changed nothing: the lifecycle stays where it is and the line goes on.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.errors import ReleaseError
from agent.evidence.rollout_gates import RolloutAction
from agent.lifecycle.admission import Admission
from agent.lifecycle.lifecycle_context import candidate_of, refusal_from
from agent.lifecycle.revocation_poll import RevocationPoller
from agent.lifecycle.rollout_outcome import RolloutFinaliser
from agent.lifecycle.state.record_store import find_denied, make_refusal
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
    from agent.lifecycle.lifecycle_context import LifecycleContext
    from agent.lifecycle.state.journal import LifecycleRecord

LIVE_POLL_S: Final = 0.25  # between two looks at the evidence
IDLE_POLL_S: Final = 60.0  # between two looks when nothing is to be done
_log = logging.getLogger(__name__)


class RolloutSteps:
    """The states one by one. The lifecycle's thread uses it."""

    def __init__(self, parts: LifecycleContext) -> None:
        """`parts` are shared with the lifecycle."""
        self._context = parts
        self.finaliser = RolloutFinaliser(parts)
        self._revocation_poller = RevocationPoller(parts)
        candidacy = Admission(parts, self.finaliser, self._revocation_poller)
        self._steps: Mapping[LifecycleState, Callable[[LifecycleRecord], float]] = {
            LifecycleState.IDLE: self._idle,
            LifecycleState.NO_MODEL: self._idle,
            LifecycleState.FETCHING: candidacy.fetch,
            LifecycleState.STAGED: candidacy.adopt,
            LifecycleState.VERIFIED: candidacy.verify,
            LifecycleState.SELFTEST: candidacy.self_test,
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
        record = self._context.record_store.record
        if self.finaliser.has_pending_refusal:
            return self.finaliser.persist_refusal()
        if self._interrupted:
            self.restart_interrupted()
            return 0.0
        if record.state in ROLLOUT_STATES and record.hops >= MAX_TRANSITIONS:
            text = f"The rollout changed its state {record.hops} times and did not end. It is given up."
            return self.finaliser.refuse(
                make_refusal(Gate.SELF_TEST, "too_many_transitions", text, transitions=record.hops)
            )
        return self._steps[record.state](record)

    def interrupt(self) -> None:
        """What was under way on the line is not any more."""
        self._context.trial_runner.close()
        self._interrupted = True

    def restart_interrupted(self) -> None:
        """Start what was interrupted again from the verified release. Raises StateDirError: the next step tries."""
        if self._context.record_store.record.state in RISKY_STATES:
            self._context.record_store.transition(LifecycleEvent.INTERRUPTED)
        self._interrupted = False

    def _idle(self, record: LifecycleRecord) -> float:
        parts = self._context
        if parts.active_release.has_no_model is not (record.state is LifecycleState.NO_MODEL):
            parts.record_store.transition(
                LifecycleEvent.MODEL_LOST if parts.active_release.has_no_model else LifecycleEvent.RECOVERED
            )
            return 0.0
        if not self.finaliser.is_swept:
            self._sweep(record)
            return 0.0
        if not record.wanted or record.desired is None or record.halted:
            return self._revocation_poller.poll_if_due(record, IDLE_POLL_S)
        if (wait_s := self._cool_down_s(record)) > 0.0:
            return self._revocation_poller.poll_if_due(record, min(wait_s, IDLE_POLL_S))
        if bad := find_denied(record, release_id=record.desired.release_id):
            changed = replace(record, wanted=False, refusal=bad.refusal)
            parts.record_store.annotate(changed, "refused_again", f"{bad.refusal.gate}: {bad.refusal.reason}")
            return 0.0
        parts.record_store.transition(LifecycleEvent.DESIRED, replace(record, candidate=None, step=0, attempts=0))
        parts.backoff.reset()
        return 0.0

    def _cool_down_s(self, record: LifecycleRecord) -> float:
        """Return what is left of the cool-down, by the monotonic clock: one that was set back lengthens nothing."""
        parts, until_utc_s = self._context, record.cool_down_until_utc_s
        now_ns = parts.clock.monotonic_ns()
        if self._cool_down_end is None or self._cool_down_end[0] != until_utc_s:
            left_s = min(max(0.0, until_utc_s - parts.record_store.utc_s()), parts.limits.cool_down_s)
            self._cool_down_end = (until_utc_s, now_ns + round(left_s * NS_PER_S))
        return (self._cool_down_end[1] - now_ns) / NS_PER_S

    def _sweep(self, record: LifecycleRecord) -> None:
        keep = {i.ref.digest for i in (record.active, record.previous, record.candidate) if i is not None}
        wanted = record.desired.release_id if record.wanted and record.desired is not None else None
        self._context.store.sweep(keep=keep, staging=wanted)
        self.finaliser.is_swept = True

    def _evaluate_live(self, record: LifecycleRecord) -> float:
        parts = self._context
        if not parts.trial_runner.is_in_phase(record.state, record.step):
            return self._begin_phase(record)
        hours = float("inf") if record.state is LifecycleState.AB else parts.limits.max_hours
        decision = parts.trial_runner.evaluate(max_hours=hours)
        parts.progress = parts.trial_runner.progress()
        self._set_alarms(decision)
        if decision.refusal is not None:
            return self.finaliser.refuse(decision.refusal, automatic=True)
        if self._is_held_by_line_fault() or decision.action is not RolloutAction.PASS:
            return LIVE_POLL_S
        if record.state is LifecycleState.SHADOW:
            compared = record.desired is not None and record.desired.mode == "ab"
            parts.record_store.transition(
                LifecycleEvent.COMPARED if compared else LifecycleEvent.PASSED, replace(record, step=0)
            )
            return 0.0
        if record.state is LifecycleState.TRIAL and record.step + 1 < len(parts.policy(candidate_of(record)).trial):
            parts.record_store.transition(LifecycleEvent.PASSED, replace(record, step=record.step + 1))
            return 0.0
        lease = parts.trial_runner.lease
        return LIVE_POLL_S if lease is None else self.finaliser.commit(record, lease)

    def _is_held_by_line_fault(self) -> bool:
        """Whether nothing may pass, because the line is not healthy: verdicts that prove nothing judge no candidate."""
        parts, reason = self._context, self._context.line_fault()
        if reason is None:
            parts.trial_runner.resume()
            if parts.alarms.pop("line", None) is not None:
                _log.info("the line is healthy again: the rollout goes on")
            return False
        parts.trial_runner.pause()
        if "line" not in parts.alarms:
            _log.warning("the rollout is held: the line is not healthy: %s", reason)
        parts.alarms["line"] = (
            f"The rollout is held, because the line is not healthy: {reason}. It goes on by itself once the line is; "
            "`kensa model rollback` gives it up."
        )
        return True

    def _set_alarms(self, decision: RolloutDecision) -> None:
        """Say what a person must look at; what a candidate is held for is worded once, when it begins."""
        alarms = self._context.alarms
        if decision.alarm is None:
            alarms.pop("drift", None)
        else:
            alarms["drift"] = decision.alarm
        if decision.held is None:
            if alarms.pop("held", None) is not None:
                _log.info("the candidate is not held any more")
        elif "held" not in alarms:
            alarms["held"] = decision.held
            _log.warning("%s", decision.held)

    def _begin_phase(self, record: LifecycleRecord) -> float:
        """Begin the phase that the journal names."""
        parts, candidate = self._context, candidate_of(record)
        try:
            policy = parts.policy(candidate)
            if record.state is LifecycleState.SHADOW:
                parts.trial_runner.begin_shadow_deployment(parts.active_release.load(candidate), policy)
            elif record.state is LifecycleState.TRIAL:
                parts.trial_runner.begin_trial(policy, step=record.step, salt=candidate.ref.digest)
            else:
                share = 0.5 if record.desired is None else record.desired.share
                parts.trial_runner.begin_ab(share=share, salt=candidate.ref.digest)
        except ReleaseError as error:
            return self.finaliser.refuse(refusal_from(error), automatic=True)
        return 0.0
