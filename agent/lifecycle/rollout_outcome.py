"""How a rollout ends: refused, given up, committed; and how the slot follows the journal afterwards.

The order is persist, then act: the journal says what is about to be, then it is made so, and a start from any journal
makes it so again. Two acts go first, because they only lead back to a verified model that judged before: a refusal ends
the trial before it is written down, and a person's rollback reverts the slot before it is. A kill in between costs the
note, never the line.

COMMIT. The candidate is loaded and verified in this process. (1) The journal says COMMITTED: active is the candidate,
previous is the old active, the counter floor rises. (2) The slot switches. (3) The journal says IDLE. Killed before 1:
the old model is active, the candidate starts again from VERIFIED with one attempt less. Killed between 1 and 3: the
start loads the new active, whose bytes are compared again; where they do not fit, the previous one is loaded. So the
slot never holds what was not compared with signed metadata, the floor rises only together with a commit and never
falls, and the old release is `previous`, which is never swept, before it stops being `active`. Switching first would
leave verdicts of a model that the journal after a power cut does not know, and a floor that lets an older release pass.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent.errors import IntegrityError, ReleaseError, StateDirError
from agent.lifecycle.lifecycle_context import candidate_of, refusal_from
from agent.lifecycle.state.record_store import count_rollback, deny, deny_installed, retire_active
from agent.lifecycle.state.transitions import RISKY_STATES, LifecycleEvent, LifecycleState

if TYPE_CHECKING:
    from agent.lifecycle.lifecycle_context import LifecycleContext
    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.release_records import Refusal
    from agent.slot import Lease

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _PendingRefusal:
    """A refusal that is not on disk yet; the candidate is already off the line."""

    refusal: Refusal
    automatic: bool  # counts towards the rollbacks of the day


class RolloutFinaliser:
    """Every method may raise StateDirError: then nothing has changed on disk, and it is tried again."""

    def __init__(self, parts: LifecycleContext) -> None:
        """`parts` are shared with all steps."""
        self._context = parts
        self._pending: _PendingRefusal | None = None
        self.is_swept = False  # the store holds nothing that is not needed

    @property
    def has_pending_refusal(self) -> bool:
        """Whether a refusal still has to be written down."""
        return self._pending is not None

    def refuse(self, refusal: Refusal, *, automatic: bool = False) -> float:
        """Take the candidate off the line at once, then write down why."""
        self._context.trial_runner.close()
        self._pending = _PendingRefusal(refusal, automatic)
        return self.persist_refusal()

    def persist_refusal(self) -> float:
        """Write down the refusal that is waiting, if one is."""
        verdict = self._pending
        if verdict is None:
            return 0.0
        parts, refusal = self._context, verdict.refusal
        record, utc_s = parts.record_store.record, parts.record_store.utc_s()
        automatic = verdict.automatic and record.state in RISKY_STATES | {LifecycleState.VERIFIED}
        if record.candidate is not None:
            record = deny_installed(record, record.candidate, refusal, utc_s=utc_s)
        elif record.desired is not None:
            record = deny(record, release_id=record.desired.release_id, digest=None, refusal=refusal, utc_s=utc_s)
            record = replace(record, refusal=refusal, refused=None)
        if automatic:
            record = count_rollback(record, utc_s=utc_s, limits=parts.limits)
        parts.record_store.transition(
            LifecycleEvent.REFUSED, replace(record, wanted=False), note=f"{refusal.gate}: {refusal.reason}"
        )
        about = record.refused.release_id if record.refused is not None else "the desired release"
        _log.warning("%s is refused by the gate %s (%s): %s", about, refusal.gate, refusal.reason, refusal.text)
        self._pending = None
        return 0.0

    def abort(self, record: LifecycleRecord, event: LifecycleEvent = LifecycleEvent.SUPERSEDED) -> None:
        """End the rollout without blame, with `record` as what is wanted from now on."""
        self._context.trial_runner.close()
        self._context.record_store.transition(event, replace(record, candidate=None, step=0, attempts=0))
        self.clear_progress()

    def commit(self, record: LifecycleRecord, lease: Lease) -> float:
        """Make the candidate the active release; see the order at the top of this file."""
        parts, candidate = self._context, candidate_of(record)
        floor = max(record.counter_floor, candidate.ref.counter)
        changed = replace(
            record,
            active=candidate,
            previous=record.active,
            candidate=None,
            wanted=False,
            counter_floor=floor,
            floor_digest=candidate.ref.digest if floor == candidate.ref.counter else record.floor_digest,
            attempts=0,
            step=0,
            refusal=None,
            refused=None,
        )
        parts.record_store.transition(LifecycleEvent.COMMIT, changed)
        parts.active_release.activate(candidate, lease)
        parts.trial_runner.close()
        parts.alarms.pop("fallback", None)
        return 0.0

    def finish_commit(self, record: LifecycleRecord) -> float:
        """COMMITTED: the slot holds the new model, or is made to."""
        if not self._context.active_release.is_active(record.active):
            self.activate_best(record)
        self._context.record_store.transition(LifecycleEvent.SETTLED)
        self.clear_progress()
        return 0.0

    def roll_back(self, record: LifecycleRecord) -> float:
        """ROLLING_BACK: the slot goes to what the journal names active."""
        parts = self._context
        parts.trial_runner.close()
        if not parts.active_release.revert_to(record.active):
            self.activate_best(record)
        changed = replace(parts.record_store.record, candidate=None, step=0, attempts=0)
        parts.record_store.transition(
            LifecycleEvent.MODEL_LOST if parts.active_release.has_no_model else LifecycleEvent.ROLLED_BACK, changed
        )
        self.clear_progress()
        return 0.0

    def clear_progress(self) -> None:
        """Whatever the rollout was, nothing of it is under way any more."""
        parts = self._context
        parts.progress = {}
        parts.alarms.pop("drift", None)
        parts.alarms.pop("held", None)
        parts.alarms.pop("fetch", None)
        parts.last_failed_attempt = None
        self.is_swept = False
        parts.backoff.reset()

    def retry_activation(self) -> None:
        """NO_MODEL: try once more what is left, and say nothing any more of what was wrong before if that works."""
        parts = self._context
        for cause in ("fallback", "boots"):
            parts.alarms.pop(cause, None)
        self.activate_best(parts.record_store.record)

    def activate_best(self, record: LifecycleRecord) -> None:
        """Put the best model that loads into the slot: active, previous, factory, none; the journal follows first.

        A journal that cannot be written does not keep the line from its model.
        """
        parts = self._context
        while True:
            try:
                lease = parts.active_release.load(record.active)
            except ReleaseError as error:
                record, ended = self._mark_unusable(record, error)
                if ended:
                    break
                continue
            self._update_if_possible(record)
            parts.active_release.activate(record.active, lease)
            return
        self._update_if_possible(record)
        parts.active_release.clear()

    def _mark_unusable(self, record: LifecycleRecord, error: ReleaseError) -> tuple[LifecycleRecord, bool]:
        """Note that the active release does not load, and what takes its place; True when nothing is left."""
        parts, active = self._context, record.active
        _log.error("%s", error)
        if active is None:
            parts.alarms["fallback"] = f"The factory release cannot be loaded: {error}"
            return record, True
        parts.alarms["fallback"] = f"{active.ref.release_id} cannot be loaded, an earlier model judges: {error}"
        changed = retire_active(record, refusal_from(error), utc_s=parts.record_store.utc_s())
        if isinstance(error, IntegrityError):  # the disk's fault: the same bytes may be fetched again
            wished = record.desired is not None and record.desired.release_id == active.ref.release_id
            changed = replace(changed, deny_list=record.deny_list, wanted=record.wanted or wished)
        return changed, False

    def _update_if_possible(self, record: LifecycleRecord) -> None:
        try:
            if record != self._context.record_store.record:
                self._context.record_store.annotate(record, "fallback", self._context.alarms.get("fallback", ""))
        except StateDirError as error:
            self._context.alarms["disk"] = str(error)
