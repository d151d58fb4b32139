"""What a publisher took back goes, also where nothing is wanted: a look at the repository now and then.

Promise: at the start and every few hours, while nothing is tried on the line, the metadata are brought up to date; an
active release that was taken back makes way for the model before it, or the factory's. A look that fails is only
logged, until the device has heard nothing for days: then somebody may be holding the news back, and a person must know.
A fetch learns the same on its way; between two tries of a fetch that fails there is time for a look.
"""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.errors import FetchError
from agent.lifecycle.lifecycle_context import revocation_refusal
from agent.lifecycle.state.record_store import deny_installed, retire_active
from agent.lifecycle.state.transitions import LifecycleEvent, LifecycleState
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from agent.lifecycle.lifecycle_context import LifecycleContext
    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.release_records import RepositoryStatus

_RETRY_S: Final = 3_600.0  # at the latest, after a look that failed
_ALARM_AFTER_S: Final = 3 * 86_400.0  # until a failing look is an alarm
_DAY_S: Final = 86_400.0
# nothing waits for the look; NO_MODEL has nothing to leave
_POLLING_STATES: Final = frozenset({LifecycleState.IDLE, LifecycleState.FETCHING})
_log = logging.getLogger(__name__)


class RevocationPoller:
    """Looks when it is time. The lifecycle's thread uses it."""

    def __init__(self, parts: LifecycleContext) -> None:
        """`parts` are shared with all steps; the first look is due at once."""
        self._context = parts
        self._random = random.Random()  # noqa: S311 - spreads a plant's devices, guards nothing
        self._due_ns = 0
        self._unsaved: RepositoryStatus | None = None  # what the journal does not have yet
        self._last_refresh_utc_s: float | None = None  # the last look that worked, or the first try

    def poll_if_due(self, record: LifecycleRecord, wait_s: float) -> float:
        """Look, if it is time; return the seconds to wait, at most `wait_s`. Raises StateDirError: tried again."""
        if record.state not in _POLLING_STATES:
            return wait_s
        if self._unsaved is None:
            if (left_s := (self._due_ns - self._context.clock.monotonic_ns()) / NS_PER_S) > 0.0:
                return min(wait_s, left_s)
            self._unsaved = self._poll()
            if self._unsaved is None:
                return 0.0 if self._context.stop.is_set() else wait_s
        signed_utc_s = max(record.signed_utc_s, self._unsaved.signed_utc_s)
        kept = retire_revoked(self._context, replace(record, signed_utc_s=signed_utc_s), self._unsaved.revoked)
        if kept is not None and kept.deny_list != record.deny_list:
            self._context.record_store.annotate(kept, "revoked", "the model before was taken back by its publisher")
        elif kept is not None:
            self._context.record_store.update(kept)
        self._unsaved = None
        return 0.0 if kept is None else wait_s

    def _poll(self) -> RepositoryStatus | None:
        parts = self._context
        utc_s = parts.record_store.utc_s()
        try:
            seen = parts.fetcher.refresh(trusted_utc_s=parts.record_store.trusted_utc_s(), stop=parts.stop)
        except FetchError as error:
            if not parts.stop.is_set():
                self._failed(error, utc_s)
            return None
        self._last_refresh_utc_s = utc_s
        parts.alarms.pop("look", None)
        self._schedule(parts.revocation_poll_s)
        return seen

    def _failed(self, error: FetchError, utc_s: float) -> None:
        parts = self._context
        _log.warning("the repository cannot be looked at: %s: %s", error.reason, error)
        self._schedule(min(parts.revocation_poll_s, _RETRY_S))
        if self._last_refresh_utc_s is None:
            self._last_refresh_utc_s = parts.record_store.record.signed_utc_s or utc_s
        silence_s = utc_s - max(self._last_refresh_utc_s, parts.record_store.record.signed_utc_s)
        if silence_s >= _ALARM_AFTER_S:
            parts.alarms["look"] = (
                f"Nothing was heard of the repository for {silence_s / _DAY_S:.0f} days; a release that was taken back "
                f"goes on judging meanwhile. {error}"
            )

    def _schedule(self, after_s: float) -> None:
        wait_s = after_s * self._random.uniform(0.75, 1.0)
        self._due_ns = self._context.clock.monotonic_ns() + round(wait_s * NS_PER_S)


def retire_revoked(parts: LifecycleContext, record: LifecycleRecord, revoked: frozenset[str]) -> LifecycleRecord | None:
    """Blame what its publisher took back, of previous and active; None when the active release is being left.

    Raises StateDirError: then nothing has changed.
    """
    utc_s = parts.record_store.utc_s()
    previous, active = record.previous, record.active
    if (
        previous is not None
        and previous.ref.digest in revoked
        and all(bad.digest != previous.ref.digest for bad in record.deny_list)
    ):
        record = deny_installed(record, previous, revocation_refusal(previous), utc_s=utc_s)
    if active is None or active.ref.digest not in revoked:
        return record
    refusal = revocation_refusal(active)
    parts.alarms["fallback"] = refusal.text
    retiree = replace(retire_active(record, refusal, utc_s=utc_s), candidate=None)
    parts.record_store.transition(LifecycleEvent.ROLLBACK, retiree, note=f"{refusal.gate}: {refusal.reason}")
    return None
