"""From whatever the disk holds to a model in the slot, before the first frame.

Promise: `recover` never raises for what it finds on disk. A start is counted before a model is loaded, and the count
falls to zero once the agent has lived for a while: a release that ends the process again and again is taken out
(active, then previous, then factory, then none). A start that finds a candidate in a risky state does not count: the
candidate is to blame first, by its attempts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.errors import StateDirError
from agent.lifecycle.state.record_store import count_rollback, make_refusal, retire_active
from agent.lifecycle.state.transitions import RISKY_STATES, LifecycleEvent, LifecycleState
from agent.release_records import Gate

if TYPE_CHECKING:
    from agent.lifecycle.lifecycle_context import LifecycleContext
    from agent.lifecycle.rollout_steps import RolloutSteps
    from agent.lifecycle.state.journal import LifecycleRecord

MAX_UNFINISHED_BOOTS: Final = 3  # that did not live long, in a row


def recover(parts: LifecycleContext, rollout: RolloutSteps) -> None:
    """Read the journal and put the right model, or none, into the slot. What is left to do, the next steps do."""
    if alarm := parts.record_store.load():
        parts.alarms["journal"] = alarm
    was_risky = parts.record_store.record.state in RISKY_STATES
    try:
        if was_risky:
            rollout.interrupt()
            rollout.restart_interrupted()
        if parts.record_store.record.unfinished_boots >= MAX_UNFINISHED_BOOTS and _retire_failing_release(parts):
            parts.active_release.clear()
            return
        record = parts.record_store.record
        if not was_risky:
            parts.record_store.update(replace(record, unfinished_boots=record.unfinished_boots + 1))
    except StateDirError as error:
        parts.alarms["disk"] = str(error)
    rollout.finaliser.activate_best(parts.record_store.record)


def mark_start_healthy(parts: LifecycleContext) -> None:
    """Call this start a good one. Raises StateDirError."""
    parts.record_store.update(replace(parts.record_store.record, unfinished_boots=0))


def _retire_failing_release(parts: LifecycleContext) -> bool:
    """Take out the release that the starts failed with; True when that was the factory's: nothing is left to try."""
    record = parts.record_store.record
    boots = record.unfinished_boots
    name = "The factory release" if record.active is None else record.active.ref.release_id
    text = f"{name} was judging when the agent ended within its first minute, {boots} times in a row; it is taken out."
    parts.alarms["boots"] = f"{text} See the log for the cause."
    if record.active is None:
        _save_if_possible(parts, record, "boot_loop", text)
        return True
    refusal = make_refusal(Gate.SELF_TEST, "boot_loop", text, unfinished_boots=boots)
    utc_s = parts.record_store.utc_s()
    record = count_rollback(retire_active(record, refusal, utc_s=utc_s), utc_s=utc_s, limits=parts.limits)
    _save_if_possible(parts, replace(record, unfinished_boots=0), "boot_loop", f"{refusal.gate}: {refusal.reason}")
    return False


def _save_if_possible(parts: LifecycleContext, record: LifecycleRecord, event: str, note: str) -> None:
    """Keep the note where the disk takes it; the line does not wait for it."""
    try:
        if parts.record_store.record.state is LifecycleState.IDLE and record.active != parts.record_store.record.active:
            parts.record_store.transition(LifecycleEvent.ROLLBACK, record, note=note)
        else:
            parts.record_store.annotate(record, event, note)
    except StateDirError as error:
        parts.alarms["disk"] = str(error)
        parts.record_store.record = record
