"""Recovery at the start: from whatever the disk holds to a model in the slot, before the first frame.

Promise: `recover` never raises for what it finds on disk. A start is counted before a model is loaded, and the count
falls to zero once the agent has lived for a while: a release that ends the process again and again is retired (active,
then previous, then factory, then none). A start that finds a candidate in a risky state does not count: the candidate
is suspected first, by its attempts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.errors import StateDirError
from agent.lifecycle.state.record_changes import count_rollback, retire_active
from agent.lifecycle.state.refusals import make_refusal
from agent.lifecycle.state.transitions import RISKY_STATES, LifecycleEvent, LifecycleState
from agent.release_records import Gate

if TYPE_CHECKING:
    from agent.lifecycle.lifecycle_dependencies import StepDependencies
    from agent.lifecycle.rollout_steps import RolloutSteps
    from agent.lifecycle.state.journal import LifecycleRecord

MAX_UNFINISHED_BOOTS: Final = 3  # starts in a row that never became healthy


def recover(deps: StepDependencies, rollout: RolloutSteps) -> None:
    """Read the journal and put the right model, or none, into the slot; the next steps finish what was under way."""
    if alarm := deps.record_store.load():
        deps.alarms.raise_alarm("journal", alarm)
    was_risky = deps.record_store.record.state in RISKY_STATES
    try:
        if was_risky:
            rollout.interrupt()
            rollout.restart_interrupted()
        if deps.record_store.record.unfinished_boots >= MAX_UNFINISHED_BOOTS and _retire_failing_release(deps):
            deps.active_release.clear()
            return
        record = deps.record_store.record
        if not was_risky:
            deps.record_store.update(replace(record, unfinished_boots=record.unfinished_boots + 1))
    except StateDirError as error:
        deps.alarms.raise_alarm("disk", str(error))
    rollout.finaliser.activate_best(deps.record_store.record)


def mark_start_healthy(deps: StepDependencies) -> None:
    """Reset the count of unfinished starts. Raises StateDirError."""
    deps.record_store.update(replace(deps.record_store.record, unfinished_boots=0))


def _retire_failing_release(deps: StepDependencies) -> bool:
    """Retire the release that the starts failed with; True when that was the factory's: nothing is left to load."""
    record = deps.record_store.record
    boots = record.unfinished_boots
    name = "The factory release" if record.active is None else record.active.ref.release_id
    text = f"{name} was active when the agent ended within its first minute, {boots} times in a row; it is retired."
    deps.alarms.raise_alarm("boots", f"{text} See the log for the cause.")
    if record.active is None:
        _save_if_possible(deps, record, "boot_loop", text)
        return True
    refusal = make_refusal(Gate.SELF_TEST, "boot_loop", text, unfinished_boots=boots)
    utc_s = deps.record_store.utc_s()
    record = count_rollback(retire_active(record, refusal, utc_s=utc_s), utc_s=utc_s, limits=deps.limits.current)
    _save_if_possible(deps, replace(record, unfinished_boots=0), "boot_loop", f"{refusal.gate}: {refusal.reason}")
    return False


def _save_if_possible(deps: StepDependencies, record: LifecycleRecord, event: str, note: str) -> None:
    """Write the record if the disk takes it; the line does not wait for it."""
    before = deps.record_store.record
    try:
        if before.state is LifecycleState.IDLE and record.active != before.active:
            deps.record_store.transition(LifecycleEvent.ROLLBACK, record, note=note)
        else:
            deps.record_store.annotate(record, event, note)
    except StateDirError as error:
        deps.alarms.raise_alarm("disk", str(error))
        deps.record_store.update_in_memory(record)
