"""A write-through record: every change is on disk before it becomes visible.

See `deny_list`, `record_changes` and `version_floor`, which are pure functions of the record.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.lifecycle.state.journal import MAX_HISTORY, HistoryEntry, LifecycleRecord
from agent.lifecycle.state.transitions import RESTING_STATES, advance
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from agent.lifecycle.state.journal import Journal
    from agent.lifecycle.state.transitions import LifecycleEvent
    from agent.timing.clock import Clock

_log = logging.getLogger(__name__)


class RecordStore:
    """Holds the one record of an inspection. The lifecycle's thread writes; any thread may read `record`."""

    def __init__(self, inspection: str, journal: Journal, clock: Clock) -> None:
        """Nothing is read before `load`; log lines name `inspection`."""
        self._inspection = inspection
        self._journal = journal
        self._clock = clock
        self._record = LifecycleRecord()

    @property
    def record(self) -> LifecycleRecord:
        """The newest record."""
        return self._record

    def load(self) -> str | None:
        """Read the journal; return an alarm when it is not the one that was written last."""
        self._record, alarm = self._journal.load()
        return alarm

    def utc_s(self) -> float:
        """Return the time of the system clock."""
        return self._clock.utc_ns() / NS_PER_S

    def trusted_utc_s(self) -> float:
        """Return the time, but never before the newest signing time seen: a clock set back revives no old metadata."""
        return max(self.utc_s(), self._record.signed_utc_s)

    def update(self, record: LifecycleRecord) -> None:
        """Replace the record, in the same state. Raises StateDirError: then nothing has changed."""
        if record == self._record:
            return
        self._journal.save(record)
        self._record = record

    def update_in_memory(self, record: LifecycleRecord) -> None:
        """Replace the record without the disk, which did not take it: the line must go on with it."""
        self._record = record

    def transition(
        self, event: LifecycleEvent, record: LifecycleRecord | None = None, *, note: str | None = None
    ) -> None:
        """Apply `event`, to `record` where given. Raises StateDirError, IllegalTransitionError: no change."""
        base = self._record if record is None else record
        before = self._record.state
        after = advance(before, event)
        hops = 0 if after in RESTING_STATES else base.hops + (after is not before)
        changed = replace(base, state=after, since_utc_s=self.utc_s(), hops=hops)
        changed = self._with_history(changed, event, note)
        self._journal.save(changed)
        subject = "" if (release_id := _subject_of(base)) is None else f" {release_id}"
        reason = "" if note is None else f": {note}"
        _log.info("%s: %s -> %s (%s)%s%s", self._inspection, before, after, event, subject, reason)
        self._record = changed

    def annotate(self, record: LifecycleRecord, event: str, note: str) -> None:
        """Replace the record in the same state, with an entry in the history. Raises StateDirError."""
        self.update(self._with_history(record, event, note))

    def _with_history(self, record: LifecycleRecord, event: str, note: str | None) -> LifecycleRecord:
        subject = _subject_of(self._record, record)
        entry = HistoryEntry(self.utc_s(), self._record.state, event, record.state, subject, note)
        return replace(record, history=(*record.history, entry)[-MAX_HISTORY:])


def _subject_of(*records: LifecycleRecord) -> str | None:
    """Return the release that an entry of the history is about: a candidate, else the desired one, else the active."""
    for record in records:
        if record.candidate is not None:
            return record.candidate.ref.release_id
    newest = records[-1]
    if newest.wanted and newest.desired is not None:
        return newest.desired.release_id
    return None if newest.active is None else newest.active.ref.release_id
