"""How a rollout ends: refused, aborted or committed; and how the slot follows the journal afterwards.

The order is persist, then act: the journal records what is about to happen, then it happens, and a start from any
journal makes it happen again. Two acts go first, because they only lead back to a verified model that was active
before: a refusal ends the trial before it is written, and a person's rollback reverts the slot before it is written. A
kill in between costs the note, never the line.

COMMIT. The candidate is loaded and verified in this process. (1) The journal says COMMITTED: active is the candidate,
previous is the old active, the counter floor rises. (2) The slot switches. (3) The journal says IDLE. Killed before 1:
the old model is active, the candidate starts again from VERIFIED with one attempt less. Killed between 1 and 3: the
start loads the new active, whose bytes are compared again; if they do not match, the previous one is loaded. So the
slot never holds what was not compared with signed metadata, the floor rises only together with a commit and never
falls, and the old release is `previous`, which is never swept, before it stops being `active`. Switching first would
leave verdicts of a model that the journal after a power cut does not know, and a floor that accepts an older release.

On the way from fetch to slot, the next module is `agent.lifecycle.active_release`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent.errors import IntegrityError, ReleaseError, StateDirError
from agent.lifecycle.state.deny_list import deny, deny_installed
from agent.lifecycle.state.record_changes import candidate_of, count_rollback, retire_active
from agent.lifecycle.state.refusals import refusal_from
from agent.lifecycle.state.transitions import RISKY_STATES, LifecycleEvent, LifecycleState

if TYPE_CHECKING:
    from agent.lifecycle.lifecycle_dependencies import StepDependencies
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
    """Ends rollouts. Every method may raise StateDirError: then nothing has changed on disk, and it is tried again."""

    def __init__(self, deps: StepDependencies) -> None:
        """Start without a pending refusal."""
        self._deps = deps
        self._pending: _PendingRefusal | None = None

    @property
    def has_pending_refusal(self) -> bool:
        """Whether a refusal is not on disk yet."""
        return self._pending is not None

    def refuse(self, refusal: Refusal, *, automatic: bool = False) -> float:
        """Take the candidate off the line at once, then write the refusal."""
        self._deps.trial_runner.close()
        self._pending = _PendingRefusal(refusal, automatic)
        return self.persist_refusal()

    def persist_refusal(self) -> float:
        """Write the pending refusal, if there is one."""
        pending = self._pending
        if pending is None:
            return 0.0
        deps, refusal = self._deps, pending.refusal
        record, utc_s = deps.record_store.record, deps.record_store.utc_s()
        automatic = pending.automatic and record.state in RISKY_STATES | {LifecycleState.VERIFIED}
        if record.candidate is not None:
            record = deny_installed(record, record.candidate, refusal, utc_s=utc_s)
        elif record.desired is not None:
            record = deny(record, release_id=record.desired.release_id, digest=None, refusal=refusal, utc_s=utc_s)
            record = replace(record, refusal=refusal, refused=None)
        if automatic:
            record = count_rollback(record, utc_s=utc_s, limits=deps.limits.current)
        deps.record_store.transition(
            LifecycleEvent.REFUSED, replace(record, wanted=False), note=f"{refusal.gate}: {refusal.reason}"
        )
        about = record.refused.release_id if record.refused is not None else "the desired release"
        _log.warning("%s is refused by the gate %s (%s): %s", about, refusal.gate, refusal.reason, refusal.text)
        self._pending = None
        return 0.0

    def abort(self, record: LifecycleRecord, event: LifecycleEvent = LifecycleEvent.SUPERSEDED) -> None:
        """End the rollout without blame; `record` is the base of the new one."""
        self._deps.trial_runner.close()
        self._deps.record_store.transition(event, replace(record, candidate=None, step=0, attempts=0))
        self.clear_progress()

    def commit(self, record: LifecycleRecord, lease: Lease) -> float:
        """Make the candidate the active release, in the order that the module's docstring describes."""
        deps, candidate = self._deps, candidate_of(record)
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
        deps.record_store.transition(LifecycleEvent.COMMIT, changed)
        deps.active_release.activate(candidate, lease)
        deps.trial_runner.close()
        deps.alarms.clear("fallback")
        return 0.0

    def finish_commit(self, record: LifecycleRecord) -> float:
        """COMMITTED: put the new model into the slot, unless it is there."""
        if not self._deps.active_release.is_active(record.active):
            self.activate_best(record)
        self._deps.record_store.transition(LifecycleEvent.SETTLED)
        self.clear_progress()
        return 0.0

    def roll_back(self, record: LifecycleRecord) -> float:
        """ROLLING_BACK: put into the slot what the journal names active."""
        deps = self._deps
        deps.trial_runner.close()
        if not deps.active_release.revert_to(record.active):
            self.activate_best(record)
        changed = replace(deps.record_store.record, candidate=None, step=0, attempts=0)
        deps.record_store.transition(
            LifecycleEvent.MODEL_LOST if deps.active_release.has_no_model else LifecycleEvent.ROLLED_BACK, changed
        )
        self.clear_progress()
        return 0.0

    def clear_progress(self) -> None:
        """End the figures, alarms and back-off of the rollout; its leftovers in the store may be swept."""
        self._deps.progress.clear()
        self._deps.alarms.clear("drift", "held", "fetch")
        self._deps.sweeper.request()
        self._deps.backoff.reset()

    def retry_activation(self) -> None:
        """NO_MODEL: try once more to load what is left; the alarms begin anew."""
        self._deps.alarms.clear("fallback", "boots")
        self.activate_best(self._deps.record_store.record)

    def activate_best(self, record: LifecycleRecord) -> None:
        """Put the best model that loads into the slot: active, previous, factory, none; the journal follows first.

        A journal that cannot be written does not keep the line from its model.
        """
        deps = self._deps
        while True:
            try:
                lease = deps.active_release.load(record.active)
            except ReleaseError as error:
                record, is_last = self._retire_unusable(record, error)
                if is_last:
                    break
                continue
            self._update_if_possible(record)
            deps.active_release.activate(record.active, lease)
            return
        self._update_if_possible(record)
        deps.active_release.clear()

    def _retire_unusable(self, record: LifecycleRecord, error: ReleaseError) -> tuple[LifecycleRecord, bool]:
        """Retire the active release, which does not load; True when nothing is left to load."""
        deps, active = self._deps, record.active
        _log.error("%s", error)
        if active is None:
            deps.alarms.raise_alarm("fallback", f"The factory release cannot be loaded: {error}")
            return record, True
        text = f"{active.ref.release_id} cannot be loaded, an earlier model is active: {error}"
        deps.alarms.raise_alarm("fallback", text)
        changed = retire_active(record, refusal_from(error), utc_s=deps.record_store.utc_s())
        if isinstance(error, IntegrityError):  # the disk's fault: the same bytes may be fetched again
            was_desired = record.desired is not None and record.desired.release_id == active.ref.release_id
            changed = replace(changed, deny_list=record.deny_list, wanted=record.wanted or was_desired)
        return changed, False

    def _update_if_possible(self, record: LifecycleRecord) -> None:
        try:
            if record != self._deps.record_store.record:
                self._deps.record_store.annotate(record, "fallback", self._deps.alarms.text("fallback") or "")
        except StateDirError as error:
            self._deps.alarms.raise_alarm("disk", str(error))
