"""The record in memory and on disk at once: it changes on disk first, or not at all.

The functions below `RecordStore` are pure: which release goes on the deny list, where a rollback leads, when automatic
rollbacks have to stop. A release is found on the deny list by its digest, and also by `name/version`: what was refused
under a name is not fetched again under that name.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.lifecycle.state.journal import (
    MAX_DENY_LIST,
    MAX_HISTORY,
    DenyListEntry,
    HistoryEntry,
    LifecycleRecord,
)
from agent.lifecycle.state.transitions import RESTING_STATES, advance
from agent.release_records import Gate, Refusal
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from agent.config import RolloutLimits
    from agent.lifecycle.state.journal import Journal
    from agent.lifecycle.state.transitions import LifecycleEvent
    from agent.release.installed_release import InstalledRelease
    from agent.release_records import DesiredRelease
    from agent.timing.clock import Clock

DAY_S: Final = 86_400.0
_log = logging.getLogger(__name__)


class RecordStore:
    """Holds the one record of an inspection; every change is durable before it can be seen. One thread writes."""

    def __init__(self, inspection: str, journal: Journal, clock: Clock) -> None:
        """Nothing is read before `load`; the log names `inspection`."""
        self._inspection = inspection
        self._journal = journal
        self._clock = clock
        self.record = LifecycleRecord()

    def load(self) -> str | None:
        """Read the journal; an alarm when it is not what was written last."""
        self.record, alarm = self._journal.load()
        return alarm

    def utc_s(self) -> float:
        """Now."""
        return self._clock.utc_ns() / NS_PER_S

    def trusted_utc_s(self) -> float:
        """Now, but never before the newest signing time that was seen: a clock set back revives nothing."""
        return max(self.utc_s(), self.record.signed_utc_s)

    def update(self, record: LifecycleRecord) -> None:
        """Replace the record, in the same state. Raises StateDirError: then nothing has changed."""
        if record == self.record:
            return
        self._journal.save(record)
        self.record = record

    def transition(
        self, event: LifecycleEvent, record: LifecycleRecord | None = None, *, note: str | None = None
    ) -> None:
        """Let `event` happen, to `record` where given. Raises StateDirError, IllegalTransitionError: no change."""
        base = self.record if record is None else record
        after = advance(self.record.state, event)
        hops = 0 if after in RESTING_STATES else base.hops + (after is not self.record.state)
        changed = replace(base, state=after, since_utc_s=self.utc_s(), hops=hops)
        changed = self._with_history(changed, event, note)
        self._journal.save(changed)
        about = _subject_of(base)
        said = f"{self.record.state} -> {after} ({event})"
        _log.info(
            "%s: %s%s%s", self._inspection, said, f" {about}" if about else "", "" if note is None else f": {note}"
        )
        self.record = changed

    def annotate(self, record: LifecycleRecord, event: str, note: str) -> None:
        """Replace the record in the same state, with a line in the history. Raises StateDirError."""
        self.update(self._with_history(record, event, note))

    def _with_history(self, record: LifecycleRecord, event: str, note: str | None) -> LifecycleRecord:
        line = HistoryEntry(
            self.utc_s(), self.record.state, event, record.state, _subject_of(self.record, record), note
        )
        return replace(record, history=(*record.history, line)[-MAX_HISTORY:])


def _subject_of(*records: LifecycleRecord) -> str | None:
    """Which release a line of the history is about."""
    for record in records:
        if record.candidate is not None:
            return record.candidate.ref.release_id
    newest = records[-1]
    if newest.wanted and newest.desired is not None:
        return newest.desired.release_id
    return None if newest.active is None else newest.active.ref.release_id


# --- wishes -----------------------------------------------------------------------------------------------------------


def is_known(record: LifecycleRecord, wish: DesiredRelease) -> bool:
    """Whether the wish repeats one that is being served, or was; a person may ask again for what has ended."""
    known = record.desired
    same = known is not None and replace(known, source=wish.source) == wish
    return same and (record.wanted or wish.source != "control")


def with_desired(record: LifecycleRecord, wish: DesiredRelease) -> LifecycleRecord:
    """Want `wish`, unless the active release already is what it asks for."""
    active = record.active
    reached = wish.mode == "release" and active is not None and active.ref.release_id == wish.release_id
    return replace(record, desired=wish, wanted=not reached)


# --- blame ------------------------------------------------------------------------------------------------------------


def find_denied(record: LifecycleRecord, *, release_id: str, digest: str | None = None) -> DenyListEntry | None:
    """Return the entry that speaks of this release."""
    for bad in reversed(record.deny_list):
        if bad.release_id == release_id or (digest is not None and bad.digest == digest):
            return bad
    return None


def deny(
    record: LifecycleRecord, *, release_id: str, digest: str | None, refusal: Refusal, utc_s: float
) -> LifecycleRecord:
    """Put a release on the deny list; the oldest entry makes room."""
    others = tuple(bad for bad in record.deny_list if (bad.release_id, bad.digest) != (release_id, digest))
    return replace(record, deny_list=(*others, DenyListEntry(release_id, digest, refusal, utc_s))[-MAX_DENY_LIST:])


def deny_installed(
    record: LifecycleRecord, installed: InstalledRelease, refusal: Refusal, *, utc_s: float
) -> LifecycleRecord:
    """Put an installed release on the deny list, and name it as the one that was refused last."""
    ref = installed.ref
    record = deny(record, release_id=ref.release_id, digest=ref.digest, refusal=refusal, utc_s=utc_s)
    return replace(record, refusal=refusal, refused=ref)


def rollback_target(record: LifecycleRecord) -> InstalledRelease | None:
    """Return where a rollback of the active release leads: the previous one unless it is bad, else the factory's."""
    previous = record.previous
    if previous is None or any(bad.digest == previous.ref.digest for bad in record.deny_list):
        return None
    return previous


def retire_active(record: LifecycleRecord, refusal: Refusal, *, utc_s: float) -> LifecycleRecord:
    """Take the active release out: it is bad, and what a rollback leads to takes its place."""
    active, back = record.active, rollback_target(record)
    if active is not None:
        record = deny_installed(record, active, refusal, utc_s=utc_s)
    return replace(record, active=back, previous=active)


def count_rollback(record: LifecycleRecord, *, utc_s: float, limits: RolloutLimits) -> LifecycleRecord:
    """Count an automatic rollback: cool down, and stop for a person when there were too many within a day."""
    # A time in the future was written by a clock that was wrong: it counts as of now, and goes with the day.
    last_day = (min(t, utc_s) for t in record.rollbacks_utc_s if t > utc_s - DAY_S)
    recent = (*last_day, utc_s)[-limits.max_rollbacks_per_day :]
    halted = record.halted or len(recent) >= limits.max_rollbacks_per_day
    return replace(record, rollbacks_utc_s=recent, cool_down_until_utc_s=utc_s + limits.cool_down_s, halted=halted)


def allow_again(record: LifecycleRecord, which: str | None) -> LifecycleRecord:
    """Take `which` (digest, its first characters, or `name/version`) off the deny list, and let rollouts go on.

    A wish that was refused for that entry is open again; one that ended in another way is not.
    """
    denied = tuple(entry for entry in record.deny_list if which is None or not matches_entry(entry, which))
    freed = replace(record, deny_list=denied, halted=False, cool_down_until_utc_s=0.0, rollbacks_utc_s=())
    wish = record.desired
    if wish is None or find_denied(freed, release_id=wish.release_id):
        return freed
    was_refused = find_denied(record, release_id=wish.release_id) is not None
    return replace(freed, wanted=record.wanted or was_refused)


def matches_entry(bad: DenyListEntry, which: str) -> bool:
    """Whether `which` means this entry."""
    return bad.release_id == which or (bad.digest is not None and len(which) >= 8 and bad.digest.startswith(which))  # noqa: PLR2004  as git does


def make_refusal(gate: Gate, reason: str, text: str, **figures: float) -> Refusal:
    """Make a refusal of the lifecycle's own."""
    return Refusal(gate, reason, text, figures)
