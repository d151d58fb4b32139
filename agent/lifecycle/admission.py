"""Admission of a release: fetch, store, verification and self-test, before it sees a part.

Every step does one thing and returns the seconds to wait; each may raise StateDirError, and then nothing has changed.

On the way from fetch to slot, the next module is `agent.children.fetch_client`, behind `agent.ports.ReleaseFetcher`.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.errors import FetchError, IntegrityError, ReleaseError
from agent.lifecycle.revocation_poll import retire_revoked
from agent.lifecycle.state import version_floor
from agent.lifecycle.state.record_changes import candidate_of
from agent.lifecycle.state.refusals import make_refusal, refusal_from
from agent.lifecycle.state.transitions import LifecycleEvent
from agent.ports import FetchJob, SelfTestJob
from agent.release.installed_release import InstalledRelease
from agent.release.rollout_policy import self_test_limits
from agent.release_records import FetchedRelease, Gate, Refusal, distinct_name

if TYPE_CHECKING:
    from agent.lifecycle.lifecycle_dependencies import StepDependencies
    from agent.lifecycle.revocation_poll import RevocationPoller
    from agent.lifecycle.rollout_outcome import RolloutFinaliser
    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.release_records import ReleaseRef

MAX_ATTEMPTS: Final = 3  # at one candidate; each is counted on disk before it begins
_TRIES_BEFORE_ALARM: Final = 5
_log = logging.getLogger(__name__)


class Admission:
    """The steps of FETCHING, STAGED, VERIFIED and SELFTEST."""

    def __init__(self, deps: StepDependencies, finaliser: RolloutFinaliser, poller: RevocationPoller) -> None:
        """`finaliser` ends the rollout of a release that fails, `poller` polls between two attempts of a fetch."""
        self._deps = deps
        self._poller = poller
        self._finaliser = finaliser

    def fetch(self, record: LifecycleRecord) -> float:
        """FETCHING: fetch the bytes, or those that are missing."""
        deps, desired = self._deps, record.desired
        if (wait_s := deps.backoff.wait_s()) > 0.0:
            return self._poller.poll_if_due(record, wait_s)
        if desired is None:
            raise RuntimeError("a fetch without a desired release")
        into = deps.store.staging_dir(desired.release_id)
        try:
            fetched = deps.fetcher.fetch(
                FetchJob(
                    release_id=desired.release_id,
                    into=into,
                    trusted_utc_s=deps.record_store.trusted_utc_s(),
                    on_progress=deps.progress.set_bytes,
                    stop=deps.stop,
                )
            )
        except FetchError as error:
            return self._back_off(error)
        except ReleaseError as error:
            return self._finaliser.refuse(refusal_from(error))
        self._clear_failures()
        return self._accept_fetched(record, fetched)

    def adopt(self, record: LifecycleRecord) -> float:
        """STAGED: move it into the store, comparing every byte."""
        deps, candidate = self._deps, candidate_of(record)
        staging = deps.store.staging_dir(candidate.ref.release_id)
        try:
            deps.store.adopt(FetchedRelease(candidate.ref, staging, record.signed_utc_s))
            deps.policy(candidate)
        except IntegrityError as error:
            return self._fetch_again(record, error)
        except ReleaseError as error:
            return self._finaliser.refuse(make_refusal(Gate.CONTRACT, "manifest_refused", str(error)))
        deps.record_store.transition(LifecycleEvent.ADOPTED)
        return 0.0

    def verify(self, record: LifecycleRecord) -> float:
        """VERIFIED: compare once more, count the attempt, then take the risk."""
        deps, candidate = self._deps, candidate_of(record)
        if record.attempts >= MAX_ATTEMPTS:
            text = (
                f"{candidate.ref.release_id} was tried {record.attempts} times, and each time the process ended before "
                "the test did. Look for the cause in the log; `kensa model retry` tries it again."
            )
            refusal = make_refusal(Gate.SELF_TEST, "attempts_exhausted", text, attempts=record.attempts)
            return self._finaliser.refuse(refusal, automatic=True)
        try:
            deps.store.verified_dir(candidate.ref)
        except IntegrityError as error:
            return self._fetch_again(record, error)
        except ReleaseError as error:
            return self._finaliser.refuse(make_refusal(Gate.CONTRACT, "manifest_refused", str(error)))
        deps.record_store.transition(LifecycleEvent.BEGUN, replace(record, attempts=record.attempts + 1, step=0))
        deps.backoff.reset()
        return 0.0

    def self_test(self, record: LifecycleRecord) -> float:
        """SELFTEST: test it in a child process, apart from the line."""
        deps, candidate = self._deps, candidate_of(record)
        if (wait_s := deps.backoff.wait_s()) > 0.0:
            return wait_s
        acceptance = deps.acceptance_dir
        try:
            result = deps.self_tester.run_self_test(
                SelfTestJob(
                    candidate=deps.store.verified_dir(candidate.ref),
                    champion=deps.active_release.folder(record.active),
                    acceptance=acceptance if acceptance is not None and acceptance.is_dir() else None,
                    limits=self_test_limits(deps.policy(candidate), deps.limits.current),
                    stop=deps.stop,
                )
            )
        except FetchError as error:
            return self._back_off(error)
        except ReleaseError as error:
            return self._finaliser.refuse(refusal_from(error))
        self._clear_failures()
        deps.progress.set_figures(result.figures)
        record = replace(record, candidate=deps.store.add_optimised(candidate.ref, result))
        if deps.active_release.has_no_model:
            return self._commit_without_comparison(record)
        deps.record_store.transition(LifecycleEvent.PASSED, record)
        return 0.0

    def _commit_without_comparison(self, record: LifecycleRecord) -> float:
        """Commit at once: no model is active, so there is none to compare with on the line."""
        try:
            lease = self._deps.active_release.load(record.candidate)
        except ReleaseError as error:
            return self._finaliser.refuse(refusal_from(error))
        return self._finaliser.commit(record, lease)

    def _accept_fetched(self, record: LifecycleRecord, fetched: FetchedRelease) -> float:
        """Compare what was fetched with the record: revoked, denied, active already, or too old."""
        deps, ref = self._deps, fetched.ref
        deps.alarms.clear("refresh")
        signed_utc_s = max(record.signed_utc_s, fetched.signed_utc_s)
        remaining = retire_revoked(deps, replace(record, signed_utc_s=signed_utc_s), fetched.revoked)
        if remaining is None:
            return 0.0
        record, active = remaining, remaining.active
        desired_id = None if record.desired is None else record.desired.release_id
        if refusal := version_floor.check_release(record, fetched, release_id=desired_id):
            if record.desired is not None and ref.release_id == record.desired.release_id:
                # so that its digest is denied, too
                deps.record_store.update(replace(record, candidate=InstalledRelease(ref)))
            return self._finaliser.refuse(refusal)
        if active is not None and active.ref.digest == ref.digest:
            deps.alarms.clear("fallback")  # the desired release is active
            self._finaliser.abort(replace(record, wanted=False), LifecycleEvent.SETTLED)
            return 0.0
        if (refusal := version_floor.check_counter_floor(record, ref)) is not None:
            return self._refuse_below_floor(record, ref, refusal)
        deps.record_store.transition(
            LifecycleEvent.FETCHED, replace(record, candidate=InstalledRelease(ref)), note=_same_name_note(record, ref)
        )
        return 0.0

    def _refuse_below_floor(self, record: LifecycleRecord, ref: ReleaseRef, refusal: Refusal) -> float:
        """Refuse without denying: a release below the floor may be the one to roll back to."""
        changed = replace(record, refusal=refusal, refused=ref, wanted=False, candidate=None)
        self._deps.record_store.transition(LifecycleEvent.REFUSED, changed, note=f"{refusal.gate}: {refusal.reason}")
        self._finaliser.clear_progress()
        return 0.0

    def _fetch_again(self, record: LifecycleRecord, error: IntegrityError) -> float:
        _log.warning("%s", error)
        candidate = candidate_of(record)
        self._deps.store.discard_staging(candidate.ref.release_id)
        self._deps.record_store.transition(LifecycleEvent.DAMAGED, replace(record, candidate=None), note=str(error))
        return self._deps.backoff.failed()

    def _back_off(self, error: FetchError) -> float:
        deps = self._deps
        if deps.stop.is_set():
            return 0.0
        delay_s = deps.backoff.failed()
        tries = deps.backoff.tries
        _log.warning("try %d: %s: %s", tries, error.reason, error)
        if tries >= _TRIES_BEFORE_ALARM:
            deps.alarms.raise_alarm("fetch", str(error))
        deps.progress.add_failure(error.reason, str(error), tries=tries)
        return delay_s

    def _clear_failures(self) -> None:
        self._deps.backoff.reset()
        self._deps.alarms.clear("fetch")
        self._deps.progress.clear_failure()


def _same_name_note(record: LifecycleRecord, ref: ReleaseRef) -> str | None:
    """Return a note when a known release has the same name and version but other bytes, else None."""
    for role, known in (("active", record.active), ("previous", record.previous)):
        if known is not None and distinct_name(ref, known.ref) != ref.release_id:
            model = "the same model" if known.ref.model_sha256 == ref.model_sha256 else "another model"
            text = (
                f"{distinct_name(ref, known.ref)} has the name of the {role} release, {distinct_name(known.ref, ref)}"
            )
            _log.warning("%s, and %s", text, model)
            return f"{text}, and {model}"
    return None
