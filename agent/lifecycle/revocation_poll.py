"""Polls the repository for revocations, even when no update is requested.

Promise: at the start and every few hours, while no rollout is on the line, the metadata is refreshed; an active release
that was revoked makes way for the previous one, or the factory's. A failed refresh is only logged, until the repository
has not been reached for days: then somebody may be withholding the revocation, and an alarm is raised. A fetch learns
of revocations as well; between two attempts of a failing fetch there is time for a poll.
"""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.errors import FetchError
from agent.lifecycle.state.record_changes import DAY_S, deny_revoked_previous, retire_active
from agent.lifecycle.state.refusals import revocation_refusal
from agent.lifecycle.state.transitions import LifecycleEvent, LifecycleState
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from agent.lifecycle.lifecycle_dependencies import StepDependencies
    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.release_records import RepositoryStatus

_RETRY_S: Final = 3_600.0  # at the latest, after a failed refresh
_ALARM_AFTER_S: Final = 3 * DAY_S  # without a refresh
# nothing waits for the poll in these; NO_MODEL has no release that could be retired
_POLLING_STATES: Final = frozenset({LifecycleState.IDLE, LifecycleState.FETCHING})
_log = logging.getLogger(__name__)


class RevocationPoller:
    """Refreshes the repository metadata when it is due. The lifecycle's thread uses it."""

    def __init__(self, deps: StepDependencies) -> None:
        """The first poll is due at once."""
        self._deps = deps
        self._random = random.Random()  # noqa: S311 - spreads a plant's devices, guards nothing
        self._due_ns = 0
        self._unsaved: RepositoryStatus | None = None  # not in the journal yet
        self._last_refresh_utc_s: float | None = None  # the last successful refresh, or the first attempt

    def poll_if_due(self, record: LifecycleRecord, wait_s: float) -> float:
        """Refresh if it is due; return the seconds to wait, at most `wait_s`. Raises StateDirError: tried again."""
        if record.state not in _POLLING_STATES:
            return wait_s
        if self._unsaved is None:
            if (left_s := (self._due_ns - self._deps.clock.monotonic_ns()) / NS_PER_S) > 0.0:
                return min(wait_s, left_s)
            self._unsaved = self._refresh()
            if self._unsaved is None:
                return 0.0 if self._deps.stop.is_set() else wait_s
        signed_utc_s = max(record.signed_utc_s, self._unsaved.signed_utc_s)
        remaining = retire_revoked(self._deps, replace(record, signed_utc_s=signed_utc_s), self._unsaved.revoked)
        if remaining is not None and remaining.deny_list != record.deny_list:
            self._deps.record_store.annotate(remaining, "revoked", "the previous release was revoked by its publisher")
        elif remaining is not None:
            self._deps.record_store.update(remaining)
        self._unsaved = None
        return 0.0 if remaining is None else wait_s

    def _refresh(self) -> RepositoryStatus | None:
        deps = self._deps
        utc_s = deps.record_store.utc_s()
        try:
            status = deps.fetcher.refresh(trusted_utc_s=deps.record_store.trusted_utc_s(), stop=deps.stop)
        except FetchError as error:
            if not deps.stop.is_set():
                self._failed(error, utc_s)
            return None
        self._last_refresh_utc_s = utc_s
        deps.alarms.clear("refresh")
        self._schedule(deps.revocation_poll_s)
        return status

    def _failed(self, error: FetchError, utc_s: float) -> None:
        deps = self._deps
        _log.warning("the repository metadata cannot be refreshed: %s: %s", error.reason, error)
        self._schedule(min(deps.revocation_poll_s, _RETRY_S))
        signed_utc_s = deps.record_store.record.signed_utc_s
        if self._last_refresh_utc_s is None:
            self._last_refresh_utc_s = signed_utc_s or utc_s
        silence_s = utc_s - max(self._last_refresh_utc_s, signed_utc_s)
        if silence_s >= _ALARM_AFTER_S:
            deps.alarms.raise_alarm(
                "refresh",
                f"The repository has not been reached for {silence_s / DAY_S:.0f} days; a release that was revoked "
                f"stays active meanwhile. {error}",
            )

    def _schedule(self, after_s: float) -> None:
        wait_s = after_s * self._random.uniform(0.75, 1.0)
        self._due_ns = self._deps.clock.monotonic_ns() + round(wait_s * NS_PER_S)


def retire_revoked(deps: StepDependencies, record: LifecycleRecord, revoked: frozenset[str]) -> LifecycleRecord | None:
    """Deny a revoked previous release, retire a revoked active one; return the record, or None after retiring.

    Raises StateDirError: then nothing has changed.
    """
    utc_s = deps.record_store.utc_s()
    record = deny_revoked_previous(record, revoked, utc_s=utc_s)
    active = record.active
    if active is None or active.ref.digest not in revoked:
        return record
    refusal = revocation_refusal(active)
    deps.alarms.raise_alarm("fallback", refusal.text)
    retired = replace(retire_active(record, refusal, utc_s=utc_s), candidate=None)
    deps.record_store.transition(LifecycleEvent.ROLLBACK, retired, note=f"{refusal.gate}: {refusal.reason}")
    return None
