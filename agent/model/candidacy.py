"""What happens to a release before it may see the line: fetched, taken into the store, compared, examined in a child.

Every step does one thing and says how long to wait; each may raise StateDirError, and then nothing has changed.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.errors import FetchError, IntegrityError, ReleaseError
from agent.model import floor
from agent.model import policy as policies
from agent.model.journal import Installed
from agent.model.ledger import refusal_of
from agent.model.looking import leave_revoked
from agent.model.parts import candidate_of, refusal_from
from agent.model.transitions import Event
from agent.records import FailedTry, Fetched, Gate, Refusal, named_apart

if TYPE_CHECKING:
    from agent.model.ending import Ending
    from agent.model.journal import Record
    from agent.model.looking import Lookout
    from agent.model.parts import Parts
    from agent.records import ReleaseRef

MAX_ATTEMPTS: Final = 3  # at one candidate; each is counted on disk before it begins
_TRIES_TO_ALARM: Final = 5
_log = logging.getLogger(__name__)


class Candidacy:
    """FETCHING, STAGED, VERIFIED and SELFTEST."""

    def __init__(self, parts: Parts, ending: Ending, lookout: Lookout) -> None:
        """`parts` are shared with all steps; `ending` takes what fails, `lookout` looks between two tries."""
        self._parts = parts
        self._lookout = lookout
        self._ending = ending

    def fetch(self, record: Record) -> float:
        """FETCHING: bring the bytes here, or what is missing of them."""
        parts, desired = self._parts, record.desired
        if (wait_s := parts.back_off.wait_s()) > 0.0:
            return self._lookout.step(record, wait_s)
        if desired is None:
            raise RuntimeError("a fetch without a wish")
        into = parts.store.staging(desired.release_id)
        try:
            fetched = parts.fetcher.fetch(
                desired.release_id,
                into=into,
                trusted_utc_s=parts.ledger.trusted_utc_s(),
                on_progress=self._show_bytes,
                stop=parts.stop,
            )
        except FetchError as error:
            return self._back_off(error)
        except ReleaseError as error:
            return self._ending.refuse(refusal_from(error))
        self._worked()
        return self._take(record, fetched)

    def adopt(self, record: Record) -> float:
        """STAGED: into the store, compared."""
        parts, candidate = self._parts, candidate_of(record)
        staging = parts.store.staging(candidate.ref.release_id)
        try:
            parts.store.adopt(Fetched(candidate.ref, staging, record.signed_utc_s))
            parts.policy(candidate)
        except IntegrityError as error:
            return self._fetch_again(record, error)
        except ReleaseError as error:
            return self._ending.refuse(refusal_of(Gate.CONTRACT, "manifest_refused", str(error)))
        parts.ledger.move(Event.ADOPTED)
        return 0.0

    def verify(self, record: Record) -> float:
        """VERIFIED: compare once more, count the attempt, then take the risk."""
        parts, candidate = self._parts, candidate_of(record)
        if record.attempts >= MAX_ATTEMPTS:
            text = (
                f"{candidate.ref.release_id} was tried {record.attempts} times, and each time the process ended before "
                "the test did. Look for the cause in the log; `kensa model retry` tries it again."
            )
            refusal = refusal_of(Gate.SELF_TEST, "attempts_exhausted", text, attempts=record.attempts)
            return self._ending.refuse(refusal, automatic=True)
        try:
            parts.store.verified(candidate.ref)
        except IntegrityError as error:
            return self._fetch_again(record, error)
        except ReleaseError as error:
            return self._ending.refuse(refusal_of(Gate.CONTRACT, "manifest_refused", str(error)))
        parts.ledger.move(Event.BEGUN, replace(record, attempts=record.attempts + 1, step=0))
        parts.back_off.reset()
        return 0.0

    def examine(self, record: Record) -> float:
        """SELFTEST: in a child process, apart from the line."""
        parts, candidate = self._parts, candidate_of(record)
        if (wait_s := parts.back_off.wait_s()) > 0.0:
            return wait_s
        acceptance = parts.acceptance
        try:
            examined = parts.examiner.examine(
                parts.store.verified(candidate.ref),
                champion=parts.serving.folder(record.active),
                acceptance=acceptance if acceptance is not None and acceptance.is_dir() else None,
                limits=policies.self_test_limits(parts.policy(candidate), parts.limits),
                stop=parts.stop,
            )
        except FetchError as error:
            return self._back_off(error)
        except ReleaseError as error:
            return self._ending.refuse(refusal_from(error))
        self._worked()
        parts.progress = dict(examined.figures)
        record = replace(record, candidate=parts.store.keep_optimised(candidate.ref, examined))
        if parts.serving.is_safe:
            return self._commit_unopposed(record)
        parts.ledger.move(Event.PASSED, record)
        return 0.0

    def _commit_unopposed(self, record: Record) -> float:
        """No model judges, so there is none that this one could be compared with on the line."""
        try:
            lease = self._parts.serving.load(record.candidate)
        except ReleaseError as error:
            return self._ending.refuse(refusal_from(error))
        return self._ending.commit(record, lease)

    def _take(self, record: Record, fetched: Fetched) -> float:
        """Compare what was fetched with what is known: revoked, bad, active already, or too old."""
        parts, ref = self._parts, fetched.ref
        parts.alarms.pop("look", None)
        signed_utc_s = max(record.signed_utc_s, fetched.signed_utc_s)
        kept = leave_revoked(parts, replace(record, signed_utc_s=signed_utc_s), fetched.revoked)
        if kept is None:
            return 0.0
        record, active = kept, kept.active
        wanted = None if record.desired is None else record.desired.release_id
        if objection := floor.objection(record, fetched, release_id=wanted):
            if record.desired is not None and ref.release_id == record.desired.release_id:
                parts.ledger.amend(replace(record, candidate=Installed(ref)))  # so that its digest is blamed
            return self._ending.refuse(objection)
        if active is not None and active.ref.digest == ref.digest:
            parts.alarms.pop("fallback", None)  # what is wanted judges
            self._ending.give_up(replace(record, wanted=False), Event.SETTLED)
            return 0.0
        if (refusal := floor.below_floor(record, ref)) is not None:
            return self._too_old(record, ref, refusal)
        parts.ledger.move(Event.FETCHED, replace(record, candidate=Installed(ref)), note=_alike(record, ref))
        return 0.0

    def _too_old(self, record: Record, ref: ReleaseRef, refusal: Refusal) -> float:
        """Refuse without blame: what is older than the floor may be the release to go back to."""
        changed = replace(record, refusal=refusal, refused=ref, wanted=False, candidate=None)
        self._parts.ledger.move(Event.REFUSED, changed, note=f"{refusal.gate}: {refusal.reason}")
        self._ending.ended()
        return 0.0

    def _fetch_again(self, record: Record, error: IntegrityError) -> float:
        _log.warning("%s", error)
        candidate = candidate_of(record)
        self._parts.store.discard_staging(candidate.ref.release_id)
        self._parts.ledger.move(Event.DAMAGED, replace(record, candidate=None), note=str(error))
        return self._parts.back_off.failed()

    def _show_bytes(self, done: int, total: int) -> None:
        self._parts.progress = {"bytes": float(done), "bytes_total": float(total)}
        self._parts.on_progress()

    def _back_off(self, error: FetchError) -> float:
        parts = self._parts
        if parts.stop.is_set():
            return 0.0
        delay_s = parts.back_off.failed()
        _log.warning("try %d: %s: %s", parts.back_off.tries, error.reason, error)
        parts.last_try = FailedTry(error.reason, str(error))
        if parts.back_off.tries >= _TRIES_TO_ALARM:
            parts.alarms["fetch"] = str(error)
        parts.progress = {**parts.progress, "tries": float(parts.back_off.tries)}
        return delay_s

    def _worked(self) -> None:
        self._parts.back_off.reset()
        self._parts.alarms.pop("fetch", None)
        self._parts.last_try = None


def _alike(record: Record, ref: ReleaseRef) -> str | None:
    """Say that a release known here has the same name and version and other bytes; None where none has."""
    for role, known in (("active", record.active), ("previous", record.previous)):
        if known is not None and named_apart(ref, known.ref) != ref.release_id:
            model = "the same model" if known.ref.model_sha256 == ref.model_sha256 else "another model"
            text = f"{named_apart(ref, known.ref)} has the name of the {role} release, {named_apart(known.ref, ref)}"
            _log.warning("%s, and %s", text, model)
            return f"{text}, and {model}"
    return None
