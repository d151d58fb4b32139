"""One step of the lifecycle: which state does what, and the states on the line.

A step does at most one thing, the order is persist, then act (see `agent.model.ending`), and a step that raises
StateDirError has changed nothing: the lifecycle stays where it is and the line goes on.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.clock import NS_PER_S
from agent.errors import ReleaseError
from agent.model.candidacy import Candidacy
from agent.model.ending import Ending
from agent.model.ledger import find_bad, refusal_of
from agent.model.live import Call
from agent.model.looking import Lookout
from agent.model.parts import candidate_of, refusal_from
from agent.model.transitions import MAX_TRANSITIONS, RISKY, ROLLOUT, Event, State
from agent.records import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.model.journal import Record
    from agent.model.live import Decision
    from agent.model.parts import Parts

LIVE_S: Final = 0.25  # between two looks at the evidence
REST_S: Final = 60.0  # between two looks when nothing is to be done
_log = logging.getLogger(__name__)


class Rollout:
    """The states one by one. The lifecycle's thread uses it."""

    def __init__(self, parts: Parts) -> None:
        """`parts` are shared with the lifecycle."""
        self._parts = parts
        self.ending = Ending(parts)
        self._lookout = Lookout(parts)
        candidacy = Candidacy(parts, self.ending, self._lookout)
        self._steps: Mapping[State, Callable[[Record], float]] = {
            State.IDLE: self._rest,
            State.SAFE: self._rest,
            State.FETCHING: candidacy.fetch,
            State.STAGED: candidacy.adopt,
            State.VERIFIED: candidacy.verify,
            State.SELFTEST: candidacy.examine,
            State.SHADOW: self._watch,
            State.TRIAL: self._watch,
            State.AB: self._watch,
            State.COMMITTED: self.ending.settle,
            State.ROLLING_BACK: self.ending.roll_back,
        }
        self._interrupted = False
        self._cooling: tuple[float, int] | None = None  # the cool-down's end in UTC, and by the monotonic clock

    def step(self) -> float:
        """Do one thing; return the seconds until the next. Raises StateDirError: nothing has changed then."""
        record = self._parts.ledger.record
        if self.ending.is_refusing:
            return self.ending.write_refusal()
        if self._interrupted:
            self.resume()
            return 0.0
        if record.state in ROLLOUT and record.hops >= MAX_TRANSITIONS:
            text = f"The rollout changed its state {record.hops} times and did not end. It is given up."
            return self.ending.refuse(refusal_of(Gate.SELF_TEST, "goes_in_circles", text, transitions=record.hops))
        return self._steps[record.state](record)

    def interrupt(self) -> None:
        """What was under way on the line is not any more."""
        self._parts.watch.close()
        self._interrupted = True

    def resume(self) -> None:
        """Start what was interrupted again from the verified release. Raises StateDirError: the next step tries."""
        if self._parts.ledger.record.state in RISKY:
            self._parts.ledger.move(Event.INTERRUPTED)
        self._interrupted = False

    def _rest(self, record: Record) -> float:
        parts = self._parts
        if parts.serving.is_safe is not (record.state is State.SAFE):
            parts.ledger.move(Event.NO_MODEL if parts.serving.is_safe else Event.RECOVERED)
            return 0.0
        if not self.ending.is_swept:
            self._sweep(record)
            return 0.0
        if not record.wanted or record.desired is None or record.halted:
            return self._lookout.step(record, REST_S)
        if (wait_s := self._cool_down_s(record)) > 0.0:
            return self._lookout.step(record, min(wait_s, REST_S))
        if bad := find_bad(record, release_id=record.desired.release_id):
            changed = replace(record, wanted=False, refusal=bad.refusal)
            parts.ledger.remark(changed, "refused_again", f"{bad.refusal.gate}: {bad.refusal.reason}")
            return 0.0
        parts.ledger.move(Event.DESIRED, replace(record, candidate=None, step=0, attempts=0))
        parts.back_off.reset()
        return 0.0

    def _cool_down_s(self, record: Record) -> float:
        """Return what is left of the cool-down, by the monotonic clock: one that was set back lengthens nothing."""
        parts, until_utc_s = self._parts, record.cool_down_until_utc_s
        now_ns = parts.clock.monotonic_ns()
        if self._cooling is None or self._cooling[0] != until_utc_s:
            left_s = min(max(0.0, until_utc_s - parts.ledger.utc_s()), parts.limits.cool_down_s)
            self._cooling = (until_utc_s, now_ns + round(left_s * NS_PER_S))
        return (self._cooling[1] - now_ns) / NS_PER_S

    def _sweep(self, record: Record) -> None:
        keep = {i.ref.digest for i in (record.active, record.previous, record.candidate) if i is not None}
        wanted = record.desired.release_id if record.wanted and record.desired is not None else None
        self._parts.store.sweep(keep=keep, staging=wanted)
        self.ending.is_swept = True

    def _watch(self, record: Record) -> float:
        parts = self._parts
        if not parts.watch.is_at(record.state, record.step):
            return self._open(record)
        hours = float("inf") if record.state is State.AB else parts.limits.max_hours
        decision = parts.watch.look(max_hours=hours)
        parts.progress = parts.watch.progress()
        self._note_alarms(decision)
        if decision.refusal is not None:
            return self.ending.refuse(decision.refusal, automatic=True)
        if self._is_held_by_line() or decision.call is not Call.PASS:
            return LIVE_S
        if record.state is State.SHADOW:
            compared = record.desired is not None and record.desired.mode == "ab"
            parts.ledger.move(Event.COMPARED if compared else Event.PASSED, replace(record, step=0))
            return 0.0
        if record.state is State.TRIAL and record.step + 1 < len(parts.policy(candidate_of(record)).trial):
            parts.ledger.move(Event.PASSED, replace(record, step=record.step + 1))
            return 0.0
        lease = parts.watch.lease
        return LIVE_S if lease is None else self.ending.commit(record, lease)

    def _is_held_by_line(self) -> bool:
        """Whether nothing may pass, because the line is not healthy: verdicts that prove nothing judge no candidate."""
        parts, reason = self._parts, self._parts.unhealthy()
        if reason is None:
            parts.watch.resume()
            if parts.alarms.pop("line", None) is not None:
                _log.info("the line is healthy again: the rollout goes on")
            return False
        parts.watch.pause()
        if "line" not in parts.alarms:
            _log.warning("the rollout is held: the line is not healthy: %s", reason)
        parts.alarms["line"] = (
            f"The rollout is held, because the line is not healthy: {reason}. It goes on by itself once the line is; "
            "`kensa model rollback` gives it up."
        )
        return True

    def _note_alarms(self, decision: Decision) -> None:
        """Say what a person must look at; what a candidate is held for is worded once, when it begins."""
        alarms = self._parts.alarms
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

    def _open(self, record: Record) -> float:
        """Begin the phase that the journal names."""
        parts, candidate = self._parts, candidate_of(record)
        try:
            policy = parts.policy(candidate)
            if record.state is State.SHADOW:
                parts.watch.begin_shadow(parts.serving.load(candidate), policy)
            elif record.state is State.TRIAL:
                parts.watch.begin_trial(policy, step=record.step, salt=candidate.ref.digest)
            else:
                share = 0.5 if record.desired is None else record.desired.share
                parts.watch.begin_ab(share=share, salt=candidate.ref.digest)
        except ReleaseError as error:
            return self.ending.refuse(refusal_from(error), automatic=True)
        return 0.0
