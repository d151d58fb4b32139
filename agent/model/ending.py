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
from agent.model.ledger import blamed, blamed_installed, counted, retired
from agent.model.parts import candidate_of, refusal_from
from agent.model.transitions import RISKY, Event, State

if TYPE_CHECKING:
    from agent.model.journal import Record
    from agent.model.parts import Parts
    from agent.records import Refusal
    from agent.slot import Lease

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """A refusal that is not on disk yet; the candidate is already off the line."""

    refusal: Refusal
    automatic: bool  # counts towards the rollbacks of the day


class Ending:
    """Every method may raise StateDirError: then nothing has changed on disk, and it is tried again."""

    def __init__(self, parts: Parts) -> None:
        """`parts` are shared with all steps."""
        self._parts = parts
        self._verdict: _Verdict | None = None
        self.is_swept = False  # the store holds nothing that is not needed

    @property
    def is_refusing(self) -> bool:
        """Whether a refusal still has to be written down."""
        return self._verdict is not None

    def refuse(self, refusal: Refusal, *, automatic: bool = False) -> float:
        """Take the candidate off the line at once, then write down why."""
        self._parts.watch.close()
        self._verdict = _Verdict(refusal, automatic)
        return self.write_refusal()

    def write_refusal(self) -> float:
        """Write down the refusal that is waiting, if one is."""
        verdict = self._verdict
        if verdict is None:
            return 0.0
        parts, refusal = self._parts, verdict.refusal
        record, utc_s = parts.ledger.record, parts.ledger.utc_s()
        automatic = verdict.automatic and record.state in RISKY | {State.VERIFIED}
        if record.candidate is not None:
            record = blamed_installed(record, record.candidate, refusal, utc_s=utc_s)
        elif record.desired is not None:
            record = blamed(record, release_id=record.desired.release_id, digest=None, refusal=refusal, utc_s=utc_s)
            record = replace(record, refusal=refusal, refused=None)
        if automatic:
            record = counted(record, utc_s=utc_s, limits=parts.limits)
        parts.ledger.move(Event.REFUSED, replace(record, wanted=False), note=f"{refusal.gate}: {refusal.reason}")
        about = record.refused.release_id if record.refused is not None else "the desired release"
        _log.warning("%s is refused by the gate %s (%s): %s", about, refusal.gate, refusal.reason, refusal.text)
        self._verdict = None
        return 0.0

    def give_up(self, record: Record, event: Event = Event.SUPERSEDED) -> None:
        """End the rollout without blame, with `record` as what is wanted from now on."""
        self._parts.watch.close()
        self._parts.ledger.move(event, replace(record, candidate=None, step=0, attempts=0))
        self.ended()

    def commit(self, record: Record, lease: Lease) -> float:
        """Make the candidate the active release; see the order at the top of this file."""
        parts, candidate = self._parts, candidate_of(record)
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
        parts.ledger.move(Event.COMMIT, changed)
        parts.serving.put(candidate, lease)
        parts.watch.close()
        parts.alarms.pop("fallback", None)
        return 0.0

    def settle(self, record: Record) -> float:
        """COMMITTED: the slot holds the new model, or is made to."""
        if not self._parts.serving.holds(record.active):
            self.serve_best(record)
        self._parts.ledger.move(Event.SETTLED)
        self.ended()
        return 0.0

    def roll_back(self, record: Record) -> float:
        """ROLLING_BACK: the slot goes to what the journal names active."""
        parts = self._parts
        parts.watch.close()
        if not parts.serving.back_to(record.active):
            self.serve_best(record)
        changed = replace(parts.ledger.record, candidate=None, step=0, attempts=0)
        parts.ledger.move(Event.NO_MODEL if parts.serving.is_safe else Event.ROLLED_BACK, changed)
        self.ended()
        return 0.0

    def ended(self) -> None:
        """Whatever the rollout was, nothing of it is under way any more."""
        parts = self._parts
        parts.progress = {}
        parts.alarms.pop("drift", None)
        parts.alarms.pop("held", None)
        parts.alarms.pop("fetch", None)
        parts.last_try = None
        self.is_swept = False
        parts.back_off.reset()

    def serve_again(self) -> None:
        """SAFE: try once more what is left, and say nothing any more of what was wrong before if that works."""
        parts = self._parts
        for cause in ("fallback", "boots"):
            parts.alarms.pop(cause, None)
        self.serve_best(parts.ledger.record)

    def serve_best(self, record: Record) -> None:
        """Put the best model that loads into the slot: active, previous, factory, none; the journal follows first.

        A journal that cannot be written does not keep the line from its model.
        """
        parts = self._parts
        while True:
            try:
                lease = parts.serving.load(record.active)
            except ReleaseError as error:
                record, ended = self._unusable(record, error)
                if ended:
                    break
                continue
            self._amend_if_possible(record)
            parts.serving.put(record.active, lease)
            return
        self._amend_if_possible(record)
        parts.serving.empty()

    def _unusable(self, record: Record, error: ReleaseError) -> tuple[Record, bool]:
        """Note that the active release does not load, and what takes its place; True when nothing is left."""
        parts, active = self._parts, record.active
        _log.error("%s", error)
        if active is None:
            parts.alarms["fallback"] = f"The factory release cannot be loaded: {error}"
            return record, True
        parts.alarms["fallback"] = f"{active.ref.release_id} cannot be loaded, an earlier model judges: {error}"
        changed = retired(record, refusal_from(error), utc_s=parts.ledger.utc_s())
        if isinstance(error, IntegrityError):  # the disk's fault: the same bytes may be fetched again
            wished = record.desired is not None and record.desired.release_id == active.ref.release_id
            changed = replace(changed, bad=record.bad, wanted=record.wanted or wished)
        return changed, False

    def _amend_if_possible(self, record: Record) -> None:
        try:
            if record != self._parts.ledger.record:
                self._parts.ledger.remark(record, "fallback", self._parts.alarms.get("fallback", ""))
        except StateDirError as error:
            self._parts.alarms["disk"] = str(error)
