"""What happens to a release before it may see the line: fetched, taken into the store, compared, examined in a child.

Every step does one thing and says how long to wait; each may raise StateDirError, and then nothing has changed.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.errors import FetchError, IntegrityError, ReleaseError
from agent.lifecycle import version_floor
from agent.lifecycle.lifecycle_context import candidate_of, refusal_from
from agent.lifecycle.revocation_poll import retire_revoked
from agent.lifecycle.state.record_store import make_refusal
from agent.lifecycle.state.transitions import LifecycleEvent
from agent.ports import FetchJob, SelfTestJob
from agent.release import rollout_policy as policies
from agent.release.installed_release import InstalledRelease
from agent.release_records import FailedAttempt, FetchedRelease, Gate, Refusal, distinct_name

if TYPE_CHECKING:
    from agent.lifecycle.lifecycle_context import LifecycleContext
    from agent.lifecycle.revocation_poll import RevocationPoller
    from agent.lifecycle.rollout_outcome import RolloutFinaliser
    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.release_records import ReleaseRef

MAX_ATTEMPTS: Final = 3  # at one candidate; each is counted on disk before it begins
_TRIES_BEFORE_ALARM: Final = 5
_log = logging.getLogger(__name__)


class Admission:
    """FETCHING, STAGED, VERIFIED and SELFTEST."""

    def __init__(self, parts: LifecycleContext, ending: RolloutFinaliser, lookout: RevocationPoller) -> None:
        """`parts` are shared with all steps; `ending` takes what fails, `lookout` looks between two tries."""
        self._context = parts
        self._revocation_poller = lookout
        self._finaliser = ending

    def fetch(self, record: LifecycleRecord) -> float:
        """FETCHING: bring the bytes here, or what is missing of them."""
        parts, desired = self._context, record.desired
        if (wait_s := parts.backoff.wait_s()) > 0.0:
            return self._revocation_poller.poll_if_due(record, wait_s)
        if desired is None:
            raise RuntimeError("a fetch without a wish")
        into = parts.store.staging_dir(desired.release_id)
        try:
            fetched = parts.fetcher.fetch(
                FetchJob(
                    release_id=desired.release_id,
                    into=into,
                    trusted_utc_s=parts.record_store.trusted_utc_s(),
                    on_progress=self._report_progress,
                    stop=parts.stop,
                )
            )
        except FetchError as error:
            return self._back_off(error)
        except ReleaseError as error:
            return self._finaliser.refuse(refusal_from(error))
        self._clear_failures()
        return self._accept_fetched(record, fetched)

    def adopt(self, record: LifecycleRecord) -> float:
        """STAGED: into the store, compared."""
        parts, candidate = self._context, candidate_of(record)
        staging = parts.store.staging_dir(candidate.ref.release_id)
        try:
            parts.store.adopt(FetchedRelease(candidate.ref, staging, record.signed_utc_s))
            parts.policy(candidate)
        except IntegrityError as error:
            return self._fetch_again(record, error)
        except ReleaseError as error:
            return self._finaliser.refuse(make_refusal(Gate.CONTRACT, "manifest_refused", str(error)))
        parts.record_store.transition(LifecycleEvent.ADOPTED)
        return 0.0

    def verify(self, record: LifecycleRecord) -> float:
        """VERIFIED: compare once more, count the attempt, then take the risk."""
        parts, candidate = self._context, candidate_of(record)
        if record.attempts >= MAX_ATTEMPTS:
            text = (
                f"{candidate.ref.release_id} was tried {record.attempts} times, and each time the process ended before "
                "the test did. Look for the cause in the log; `kensa model retry` tries it again."
            )
            refusal = make_refusal(Gate.SELF_TEST, "attempts_exhausted", text, attempts=record.attempts)
            return self._finaliser.refuse(refusal, automatic=True)
        try:
            parts.store.verified_dir(candidate.ref)
        except IntegrityError as error:
            return self._fetch_again(record, error)
        except ReleaseError as error:
            return self._finaliser.refuse(make_refusal(Gate.CONTRACT, "manifest_refused", str(error)))
        parts.record_store.transition(LifecycleEvent.BEGUN, replace(record, attempts=record.attempts + 1, step=0))
        parts.backoff.reset()
        return 0.0

    def self_test(self, record: LifecycleRecord) -> float:
        """SELFTEST: in a child process, apart from the line."""
        parts, candidate = self._context, candidate_of(record)
        if (wait_s := parts.backoff.wait_s()) > 0.0:
            return wait_s
        acceptance = parts.acceptance_dir
        try:
            examined = parts.self_tester.run_self_test(
                SelfTestJob(
                    candidate=parts.store.verified_dir(candidate.ref),
                    champion=parts.active_release.folder(record.active),
                    acceptance=acceptance if acceptance is not None and acceptance.is_dir() else None,
                    limits=policies.self_test_limits(parts.policy(candidate), parts.limits),
                    stop=parts.stop,
                )
            )
        except FetchError as error:
            return self._back_off(error)
        except ReleaseError as error:
            return self._finaliser.refuse(refusal_from(error))
        self._clear_failures()
        parts.progress = dict(examined.figures)
        record = replace(record, candidate=parts.store.add_optimised(candidate.ref, examined))
        if parts.active_release.has_no_model:
            return self._commit_without_comparison(record)
        parts.record_store.transition(LifecycleEvent.PASSED, record)
        return 0.0

    def _commit_without_comparison(self, record: LifecycleRecord) -> float:
        """No model judges, so there is none that this one could be compared with on the line."""
        try:
            lease = self._context.active_release.load(record.candidate)
        except ReleaseError as error:
            return self._finaliser.refuse(refusal_from(error))
        return self._finaliser.commit(record, lease)

    def _accept_fetched(self, record: LifecycleRecord, fetched: FetchedRelease) -> float:
        """Compare what was fetched with what is known: revoked, bad, active already, or too old."""
        parts, ref = self._context, fetched.ref
        parts.alarms.pop("look", None)
        signed_utc_s = max(record.signed_utc_s, fetched.signed_utc_s)
        kept = retire_revoked(parts, replace(record, signed_utc_s=signed_utc_s), fetched.revoked)
        if kept is None:
            return 0.0
        record, active = kept, kept.active
        wanted = None if record.desired is None else record.desired.release_id
        if objection := version_floor.check_release(record, fetched, release_id=wanted):
            if record.desired is not None and ref.release_id == record.desired.release_id:
                # so that its digest is blamed
                parts.record_store.update(replace(record, candidate=InstalledRelease(ref)))
            return self._finaliser.refuse(objection)
        if active is not None and active.ref.digest == ref.digest:
            parts.alarms.pop("fallback", None)  # what is wanted judges
            self._finaliser.abort(replace(record, wanted=False), LifecycleEvent.SETTLED)
            return 0.0
        if (refusal := version_floor.check_counter_floor(record, ref)) is not None:
            return self._refuse_below_floor(record, ref, refusal)
        parts.record_store.transition(
            LifecycleEvent.FETCHED, replace(record, candidate=InstalledRelease(ref)), note=_same_name_note(record, ref)
        )
        return 0.0

    def _refuse_below_floor(self, record: LifecycleRecord, ref: ReleaseRef, refusal: Refusal) -> float:
        """Refuse without blame: what is older than the floor may be the release to go back to."""
        changed = replace(record, refusal=refusal, refused=ref, wanted=False, candidate=None)
        self._context.record_store.transition(LifecycleEvent.REFUSED, changed, note=f"{refusal.gate}: {refusal.reason}")
        self._finaliser.clear_progress()
        return 0.0

    def _fetch_again(self, record: LifecycleRecord, error: IntegrityError) -> float:
        _log.warning("%s", error)
        candidate = candidate_of(record)
        self._context.store.discard_staging(candidate.ref.release_id)
        self._context.record_store.transition(LifecycleEvent.DAMAGED, replace(record, candidate=None), note=str(error))
        return self._context.backoff.failed()

    def _report_progress(self, done: int, total: int) -> None:
        self._context.progress = {"bytes": float(done), "bytes_total": float(total)}
        self._context.on_progress()

    def _back_off(self, error: FetchError) -> float:
        parts = self._context
        if parts.stop.is_set():
            return 0.0
        delay_s = parts.backoff.failed()
        _log.warning("try %d: %s: %s", parts.backoff.tries, error.reason, error)
        parts.last_failed_attempt = FailedAttempt(error.reason, str(error))
        if parts.backoff.tries >= _TRIES_BEFORE_ALARM:
            parts.alarms["fetch"] = str(error)
        parts.progress = {**parts.progress, "tries": float(parts.backoff.tries)}
        return delay_s

    def _clear_failures(self) -> None:
        self._context.backoff.reset()
        self._context.alarms.pop("fetch", None)
        self._context.last_failed_attempt = None


def _same_name_note(record: LifecycleRecord, ref: ReleaseRef) -> str | None:
    """Say that a release known here has the same name and version and other bytes; None where none has."""
    for role, known in (("active", record.active), ("previous", record.previous)):
        if known is not None and distinct_name(ref, known.ref) != ref.release_id:
            model = "the same model" if known.ref.model_sha256 == ref.model_sha256 else "another model"
            text = (
                f"{distinct_name(ref, known.ref)} has the name of the {role} release, {distinct_name(known.ref, ref)}"
            )
            _log.warning("%s, and %s", text, model)
            return f"{text}, and {model}"
    return None
