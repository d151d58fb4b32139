"""The record in memory and on disk at once: it changes on disk first, or not at all.

The functions below `Ledger` are the rules of blame, and pure: who goes on the bad list, where a rollback leads, when
automatic rollbacks have to stop. A release is found on the bad list by its digest, and also by `name/version`: what was
refused under a name is not fetched again under that name.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.clock import NS_PER_S
from agent.model.journal import MAX_BAD, MAX_HISTORY, Bad, Installed, Record, Transition
from agent.model.transitions import RESTING, advance
from agent.records import Gate, Refusal

if TYPE_CHECKING:
    from agent.clock import Clock
    from agent.config import RolloutLimits
    from agent.model.journal import Journal
    from agent.model.transitions import Event
    from agent.records import Desired

DAY_S: Final = 86_400.0
_log = logging.getLogger(__name__)


class Ledger:
    """Holds the one record of an inspection; every change is durable before it can be seen. One thread writes."""

    def __init__(self, inspection: str, journal: Journal, clock: Clock) -> None:
        """Nothing is read before `load`; the log names `inspection`."""
        self._inspection = inspection
        self._journal = journal
        self._clock = clock
        self.record = Record()

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

    def amend(self, record: Record) -> None:
        """Replace the record, in the same state. Raises StateDirError: then nothing has changed."""
        if record == self.record:
            return
        self._journal.save(record)
        self.record = record

    def move(self, event: Event, record: Record | None = None, *, note: str | None = None) -> None:
        """Let `event` happen, to `record` where given. Raises StateDirError, IllegalTransitionError: no change."""
        base = self.record if record is None else record
        after = advance(self.record.state, event)
        hops = 0 if after in RESTING else base.hops + (after is not self.record.state)
        changed = replace(base, state=after, since_utc_s=self.utc_s(), hops=hops)
        changed = self._noted(changed, event, note)
        self._journal.save(changed)
        about = _about(base)
        said = f"{self.record.state} -> {after} ({event})"
        _log.info(
            "%s: %s%s%s", self._inspection, said, f" {about}" if about else "", "" if note is None else f": {note}"
        )
        self.record = changed

    def remark(self, record: Record, event: str, note: str) -> None:
        """Replace the record in the same state, with a line in the history. Raises StateDirError."""
        self.amend(self._noted(record, event, note))

    def _noted(self, record: Record, event: str, note: str | None) -> Record:
        line = Transition(self.utc_s(), self.record.state, event, record.state, _about(self.record, record), note)
        return replace(record, history=(*record.history, line)[-MAX_HISTORY:])


def _about(*records: Record) -> str | None:
    """Which release a line of the history is about."""
    for record in records:
        if record.candidate is not None:
            return record.candidate.ref.release_id
    newest = records[-1]
    if newest.wanted and newest.desired is not None:
        return newest.desired.release_id
    return None if newest.active is None else newest.active.ref.release_id


# --- wishes -----------------------------------------------------------------------------------------------------------


def is_known(record: Record, wish: Desired) -> bool:
    """Whether the wish repeats one that is being served, or was; a person may ask again for what has ended."""
    known = record.desired
    same = known is not None and replace(known, source=wish.source) == wish
    return same and (record.wanted or wish.source != "control")


def wished(record: Record, wish: Desired) -> Record:
    """Want `wish`, unless the active release already is what it asks for."""
    active = record.active
    reached = wish.mode == "release" and active is not None and active.ref.release_id == wish.release_id
    return replace(record, desired=wish, wanted=not reached)


# --- blame ------------------------------------------------------------------------------------------------------------


def find_bad(record: Record, *, release_id: str, digest: str | None = None) -> Bad | None:
    """Return the entry that speaks of this release."""
    for bad in reversed(record.bad):
        if bad.release_id == release_id or (digest is not None and bad.digest == digest):
            return bad
    return None


def blamed(record: Record, *, release_id: str, digest: str | None, refusal: Refusal, utc_s: float) -> Record:
    """Put a release on the bad list; the oldest entry makes room."""
    others = tuple(bad for bad in record.bad if (bad.release_id, bad.digest) != (release_id, digest))
    return replace(record, bad=(*others, Bad(release_id, digest, refusal, utc_s))[-MAX_BAD:])


def blamed_installed(record: Record, installed: Installed, refusal: Refusal, *, utc_s: float) -> Record:
    """Put an installed release on the bad list, and name it as the one that was refused last."""
    ref = installed.ref
    record = blamed(record, release_id=ref.release_id, digest=ref.digest, refusal=refusal, utc_s=utc_s)
    return replace(record, refusal=refusal, refused=ref)


def way_back(record: Record) -> Installed | None:
    """Return where a rollback of the active release leads: the previous one unless it is bad, else the factory's."""
    previous = record.previous
    if previous is None or any(bad.digest == previous.ref.digest for bad in record.bad):
        return None
    return previous


def retired(record: Record, refusal: Refusal, *, utc_s: float) -> Record:
    """Take the active release out: it is bad, and what a rollback leads to takes its place."""
    active, back = record.active, way_back(record)
    if active is not None:
        record = blamed_installed(record, active, refusal, utc_s=utc_s)
    return replace(record, active=back, previous=active)


def counted(record: Record, *, utc_s: float, limits: RolloutLimits) -> Record:
    """Count an automatic rollback: cool down, and stop for a person when there were too many within a day."""
    # A time in the future was written by a clock that was wrong: it counts as of now, and goes with the day.
    last_day = (min(t, utc_s) for t in record.rollbacks_utc_s if t > utc_s - DAY_S)
    recent = (*last_day, utc_s)[-limits.max_rollbacks_per_day :]
    halted = record.halted or len(recent) >= limits.max_rollbacks_per_day
    return replace(record, rollbacks_utc_s=recent, cool_down_until_utc_s=utc_s + limits.cool_down_s, halted=halted)


def pardoned(record: Record, which: str | None) -> Record:
    """Take `which` (digest, its first characters, or `name/version`) off the bad list, and let rollouts go on.

    A wish that was refused for that entry is open again; one that ended in another way is not.
    """
    bad = record.bad if which is None else tuple(b for b in record.bad if not names(b, which))
    freed = replace(record, bad=bad, halted=False, cool_down_until_utc_s=0.0, rollbacks_utc_s=())
    wish = record.desired
    if wish is None or find_bad(freed, release_id=wish.release_id):
        return freed
    was_refused = find_bad(record, release_id=wish.release_id) is not None
    return replace(freed, wanted=record.wanted or was_refused)


def names(bad: Bad, which: str) -> bool:
    """Whether `which` means this entry."""
    return bad.release_id == which or (bad.digest is not None and len(which) >= 8 and bad.digest.startswith(which))  # noqa: PLR2004  as git does


def refusal_of(gate: Gate, reason: str, text: str, **figures: float) -> Refusal:
    """Make a refusal of the lifecycle's own."""
    return Refusal(gate, reason, text, figures)
