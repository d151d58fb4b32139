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
from agent.model.ledger import counted, refusal_of, retired
from agent.model.transitions import RISKY, Event, State
from agent.records import Gate

if TYPE_CHECKING:
    from agent.model.journal import Record
    from agent.model.parts import Parts
    from agent.model.rollout import Rollout

MAX_BOOTS: Final = 3  # that did not live long, in a row


def recover(parts: Parts, rollout: Rollout) -> None:
    """Read the journal and put the right model, or none, into the slot. What is left to do, the next steps do."""
    if alarm := parts.ledger.load():
        parts.alarms["journal"] = alarm
    was_risky = parts.ledger.record.state in RISKY
    try:
        if was_risky:
            rollout.interrupt()
            rollout.resume()
        if parts.ledger.record.unfinished_boots >= MAX_BOOTS and _is_last_resort(parts):
            parts.serving.empty()
            return
        record = parts.ledger.record
        if not was_risky:
            parts.ledger.amend(replace(record, unfinished_boots=record.unfinished_boots + 1))
    except StateDirError as error:
        parts.alarms["disk"] = str(error)
    rollout.ending.serve_best(parts.ledger.record)


def is_healthy(parts: Parts) -> None:
    """Call this start a good one. Raises StateDirError."""
    parts.ledger.amend(replace(parts.ledger.record, unfinished_boots=0))


def _is_last_resort(parts: Parts) -> bool:
    """Take out the release that the starts failed with; True when that was the factory's: nothing is left to try."""
    record = parts.ledger.record
    boots = record.unfinished_boots
    name = "The factory release" if record.active is None else record.active.ref.release_id
    text = f"{name} was judging when the agent ended within its first minute, {boots} times in a row; it is taken out."
    parts.alarms["boots"] = f"{text} See the log for the cause."
    if record.active is None:
        _write(parts, record, "boot_loop", text)
        return True
    refusal = refusal_of(Gate.SELF_TEST, "boot_loop", text, unfinished_boots=boots)
    utc_s = parts.ledger.utc_s()
    record = counted(retired(record, refusal, utc_s=utc_s), utc_s=utc_s, limits=parts.limits)
    _write(parts, replace(record, unfinished_boots=0), "boot_loop", f"{refusal.gate}: {refusal.reason}")
    return False


def _write(parts: Parts, record: Record, event: str, note: str) -> None:
    """Keep the note where the disk takes it; the line does not wait for it."""
    try:
        if parts.ledger.record.state is State.IDLE and record.active != parts.ledger.record.active:
            parts.ledger.move(Event.ROLLBACK, record, note=note)
        else:
            parts.ledger.remark(record, event, note)
    except StateDirError as error:
        parts.alarms["disk"] = str(error)
        parts.ledger.record = record
